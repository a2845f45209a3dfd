//! Batch norm over T·B·H·W: statistics in fixed order, and the backward without a time axis.
//!
//! In the path of a batch: current x of the connections → **batch_norm** (a scale and a shift per channel) → neuron.

mod cpu;
pub use cpu::{accumulate, accumulate_product, center, gradient_sums, normalize, scale_shift_add, subtract_scaled, time_means};

/// eps of every batch norm here.
pub const EPS: f64 = 1e-5;
/// Share of a new batch in the running statistics.
pub const MOMENTUM: f64 = 0.1;

/// What normalising needs per channel.
#[derive(Clone, Debug, Default)]
pub struct Normalizer {
    /// Mean.
    pub mean: Vec<f32>,
    /// `1 / sqrt(var + eps)`.
    pub inv_std: Vec<f32>,
    /// From x to the normalised and affine value: `γ / sqrt(var + eps)`.
    pub scale: Vec<f32>,
    /// `β - mean · scale`.
    pub shift: Vec<f32>,
}

impl Normalizer {
    /// From mean and (biased) variance per channel.
    pub fn new(mean: &[f64], var: &[f64], gamma: &[f32], beta: &[f32]) -> Self {
        let inv: Vec<f64> = var.iter().map(|v| 1.0 / (v + EPS).sqrt()).collect();
        let scale: Vec<f64> = inv.iter().zip(gamma).map(|(inv, &g)| inv * f64::from(g)).collect();
        Normalizer {
            mean: mean.iter().map(|&m| m as f32).collect(),
            shift: scale.iter().zip(mean).zip(beta).map(|((s, m), &b)| (f64::from(b) - m * s) as f32).collect(),
            inv_std: inv.iter().map(|&v| v as f32).collect(),
            scale: scale.iter().map(|&v| v as f32).collect(),
        }
    }
}

/// Sums over a batch, per channel.
#[derive(Clone, Debug)]
pub struct Moments {
    /// `Σ x`.
    pub sum: Vec<f64>,
    /// `Σ x²`.
    pub squares: Vec<f64>,
}

impl Moments {
    /// No values yet.
    pub fn zero(channels: usize) -> Self {
        Moments { sum: vec![0.0; channels], squares: vec![0.0; channels] }
    }

    /// Adds the sums of the samples in their order: the same bits for every number of threads.
    pub fn total(samples: &[Moments], channels: usize) -> Self {
        let mut total = Moments::zero(channels);
        for sample in samples {
            for c in 0..channels {
                total.sum[c] += sample.sum[c];
                total.squares[c] += sample.squares[c];
            }
        }
        total
    }

    /// Mean and biased variance of `n` values a channel.
    pub fn mean_var(&self, n: f64) -> (Vec<f64>, Vec<f64>) {
        let mean: Vec<f64> = self.sum.iter().map(|s| s / n).collect();
        let var = self.squares.iter().zip(&mean).map(|(q, m)| (q / n - m * m).max(0.0)).collect();
        (mean, var)
    }
}
