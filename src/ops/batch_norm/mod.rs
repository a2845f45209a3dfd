//! Batch norm over T·B·H·W: exact statistics of integer currents, and the backward without a time axis.
//!
//! In the path of a batch: sums of the connections → **batch_norm** (factors and an offset per channel) → neuron.
//!
//! A layer's current is `x = a₁·acc₁ + a₂·acc₂ + const` with exact integers `acc`; so mean and variance follow from the exact sums
//! `Σacc₁, Σacc₂, Σacc₁², Σacc₁·acc₂, Σacc₂²`, without rounding and in any order of summation. A batch norm on one connection
//! alone (ImageNet's downsample) only changes `a₂` and the constant.

mod cpu;
pub mod cuda;
pub mod cuda_backward;
pub mod cuda_values;
mod device;
mod normalizer;
pub use cpu::{IntegerSums, accumulate, accumulate_products, center, gradient_sums, normalize, subtract_scaled, time_means};
pub use normalizer::{
    BatchNormalizer, Contribution, InnerNormalizer, Norm, Statistics, batch_normalizer, running_normalizer, update_running,
};

/// eps of every batch norm here.
pub const EPS: f64 = 1e-5;
/// Share of a new batch in the running statistics.
pub const MOMENTUM: f64 = 0.1;

/// How a layer's sums become currents, per channel: `x̂ = f₀·acc₀ + f₁·acc₁ + offset`, current = `γ·x̂ + β`.
#[derive(Clone, Debug, Default)]
pub struct Normalizer {
    /// Factor of each connection, padded to a multiple of 32.
    pub factors: [Vec<f32>; 2],
    /// Offset.
    pub offset: Vec<f32>,
    /// γ; 1 without batch norm.
    pub gamma: Vec<f32>,
    /// β; 0 without batch norm.
    pub beta: Vec<f32>,
    /// `γ / σ`, what a gradient is multiplied with; 1 without batch norm.
    pub scale: Vec<f32>,
}

impl Normalizer {
    /// Rounds per-channel constants to f32 and pads them, so that whole vectors can be loaded.
    pub fn new(factors: [&[f64]; 2], offset: &[f64], gamma: &[f32], beta: &[f32], scale: &[f64]) -> Self {
        let pad = |v: Vec<f32>| {
            let mut v = v;
            v.resize(offset.len().next_multiple_of(32), 0.0);
            v
        };
        let narrow = |v: &[f64]| pad(v.iter().map(|&v| v as f32).collect());
        Normalizer {
            factors: factors.map(narrow),
            offset: narrow(offset),
            gamma: pad(gamma.to_vec()),
            beta: pad(beta.to_vec()),
            scale: scale.iter().map(|&v| v as f32).collect(),
        }
    }

    /// Currents of normalised ones, rows of `[C]`.
    pub fn currents(&self, normed: &[f32], channels: usize) -> Vec<f32> {
        normed.iter().enumerate().map(|(at, &normed)| self.gamma[at % channels].mul_add(normed, self.beta[at % channels])).collect()
    }
}

/// Mean and (co)variances of the two sums of a layer, per channel; the second is zero where there is one connection.
#[derive(Clone, Debug)]
pub struct Moments {
    /// Mean of each sum.
    pub mean: [Vec<f64>; 2],
    /// Variances of the first, covariance, variance of the second: biased.
    pub var: [Vec<f64>; 3],
}

impl Moments {
    /// Of a real-valued connection: `sum` and `squares` of `n` values a channel.
    pub fn of_real(sum: &[f64], squares: &[f64], n: f64) -> Self {
        let mean: Vec<f64> = sum.iter().map(|s| s / n).collect();
        let var = squares.iter().zip(&mean).map(|(q, m)| (q / n - m * m).max(0.0)).collect();
        let zero = vec![0.0; sum.len()];
        Moments { mean: [mean, zero.clone()], var: [var, zero.clone(), zero] }
    }

    /// Of two real-valued connections x and y with `n` values a channel: `Σx, Σy` and `Σx², Σxy, Σy²`.
    pub fn of_real_pair(sums: [&[f64]; 2], squares: [&[f64]; 3], n: f64) -> Self {
        let [x, y] = sums.map(|sum| sum.iter().map(|s| s / n).collect::<Vec<f64>>());
        let covariance = |products: &[f64], a: &[f64], b: &[f64]| -> Vec<f64> {
            products.iter().zip(a.iter().zip(b)).map(|(p, (a, b))| p / n - a * b).collect()
        };
        let variance = |products: &[f64], a: &[f64]| covariance(products, a, a).into_iter().map(|v| v.max(0.0)).collect();
        let var = [variance(squares[0], &x), covariance(squares[1], &x, &y), variance(squares[2], &y)];
        Moments { mean: [x, y], var }
    }

    /// Mean and biased variance of `a₁·acc₁ + a₂·acc₂`, per channel.
    pub fn combined(&self, a: [&[f64]; 2]) -> (Vec<f64>, Vec<f64>) {
        let channels = self.mean[0].len();
        let mean = (0..channels).map(|c| a[0][c] * self.mean[0][c] + a[1][c] * self.mean[1][c]).collect();
        let var = (0..channels)
            .map(|c| {
                let (p, q) = (a[0][c], a[1][c]);
                (p * p * self.var[0][c] + 2.0 * p * q * self.var[1][c] + q * q * self.var[2][c]).max(0.0)
            })
            .collect();
        (mean, var)
    }
}
