//! From moments of a layer's sums to its constants per channel: f64, one operation after the other, as every device does it.

use super::{EPS, MOMENTUM, Moments, Normalizer};

/// What one connection of a layer brings to its current.
#[derive(Clone, Copy, Debug)]
pub struct Contribution<'a> {
    /// What a spike of its source is worth; 1 for the real input.
    pub value: f32,
    /// Positions of a pool window.
    pub area: usize,
    /// Power-of-two scale of its fixed-point weights, `[C]`.
    pub weight_scale: Option<&'a [f32]>,
    /// `[C]`.
    pub bias: Option<&'a [f32]>,
}

/// Parameters and running statistics of a batch norm, each `[C]`.
#[derive(Clone, Copy, Debug)]
pub struct Norm<'a> {
    pub gamma: &'a [f32],
    pub beta: &'a [f32],
    pub running_mean: &'a [f32],
    pub running_var: &'a [f32],
}

/// Mean and biased variance of a batch, `[C]`.
#[derive(Clone, Debug)]
pub struct Statistics {
    pub mean: Vec<f64>,
    pub var: Vec<f64>,
}

/// Constants of the connection that has a norm of its own, `[C]`.
#[derive(Clone, Debug)]
pub struct InnerNormalizer {
    /// From the exact sum of the connection to û: `factor·acc + offset`.
    pub factor: Vec<f32>,
    pub offset: Vec<f32>,
    /// `γ / σ`.
    pub scale: Vec<f32>,
    /// `mean(x̂ · û)` over T·B·H·W.
    pub correlation: Vec<f64>,
    /// Of the connection's current.
    pub statistics: Statistics,
}

/// Constants of a layer from the statistics of a batch.
#[derive(Clone, Debug)]
pub struct BatchNormalizer {
    pub normalizer: Normalizer,
    /// Of the layer's current; `None` without batch norm.
    pub statistics: Option<Statistics>,
    pub inner: Option<InnerNormalizer>,
}

/// What all connections contribute before the norm, per channel.
struct Units {
    /// Value of one unit of each connection's sum; zero for an absent second.
    unit: [Vec<f64>; 2],
    /// Summed biases of the connections without a norm of their own.
    constant: Vec<f64>,
    /// Bias of the connection that has one.
    inner_bias: Vec<f64>,
}

fn units(channels: usize, connections: &[Contribution], inner_at: Option<usize>) -> Units {
    let zero = || vec![0.0; channels];
    let mut units = Units { unit: [zero(), zero()], constant: zero(), inner_bias: zero() };
    for (k, connection) in connections.iter().enumerate() {
        units.unit[k].fill(f64::from(connection.value) / connection.area as f64);
        if let Some(scale) = connection.weight_scale {
            units.unit[k].iter_mut().zip(scale).for_each(|(unit, &scale)| *unit *= f64::from(scale));
        }
        if let Some(bias) = connection.bias {
            let into = if inner_at == Some(k) { &mut units.inner_bias } else { &mut units.constant };
            into.iter_mut().zip(bias).for_each(|(sum, &b)| *sum += f64::from(b));
        }
    }
    units
}

/// Constants of evaluation: running statistics. `inner` is the connection with a norm of its own, and that norm.
pub fn running_normalizer(channels: usize, connections: &[Contribution], norm: Option<Norm>, inner: Option<(usize, Norm)>) -> Normalizer {
    let Units { mut unit, mut constant, inner_bias } = units(channels, connections, inner.map(|(k, _)| k));
    if let Some((k, inner)) = inner {
        for c in 0..channels {
            let scale = f64::from(inner.gamma[c]) / (f64::from(inner.running_var[c]) + EPS).sqrt();
            unit[k][c] *= scale;
            constant[c] += f64::from(inner.beta[c]) + scale * (inner_bias[c] - f64::from(inner.running_mean[c]));
        }
    }
    let Some(norm) = norm else { return without_norm(&unit, &constant) };
    let mean: Vec<f64> = norm.running_mean.iter().zip(&constant).map(|(&m, constant)| f64::from(m) - constant).collect();
    let var: Vec<f64> = norm.running_var.iter().map(|&v| f64::from(v)).collect();
    with_norm(&norm, &unit, &mean, &var)
}

/// Constants of training: the moments of this batch.
pub fn batch_normalizer(
    channels: usize,
    connections: &[Contribution],
    moments: &Moments,
    norm: Option<Norm>,
    inner: Option<(usize, Norm)>,
) -> BatchNormalizer {
    let Units { mut unit, mut constant, inner_bias } = units(channels, connections, inner.map(|(k, _)| k));
    let Some(norm) = norm else {
        return BatchNormalizer { normalizer: without_norm(&unit, &constant), statistics: None, inner: None };
    };
    let own = inner.map(|(k, inner)| {
        let mean: Vec<f64> = unit[k].iter().zip(&moments.mean[k]).map(|(unit, mean)| unit * mean).collect();
        let var: Vec<f64> = unit[k].iter().zip(&moments.var[2 * k]).map(|(unit, var)| unit * unit * var).collect();
        let inv: Vec<f64> = var.iter().map(|v| 1.0 / (v + EPS).sqrt()).collect();
        let factor: Vec<f64> = inv.iter().zip(&unit[k]).map(|(inv, unit)| inv * unit).collect();
        let scale: Vec<f64> = inv.iter().zip(inner.gamma).map(|(inv, &g)| inv * f64::from(g)).collect();
        for c in 0..channels {
            unit[k][c] *= scale[c];
            constant[c] += f64::from(inner.beta[c]) - scale[c] * mean[c];
        }
        let offset: Vec<f64> = inv.iter().zip(&mean).map(|(inv, mean)| -inv * mean).collect();
        let mean = mean.iter().zip(&inner_bias).map(|(mean, bias)| mean + bias).collect();
        (k, factor, offset, scale, Statistics { mean, var })
    });
    let (mean, var) = moments.combined([&unit[0], &unit[1]]);
    let inner = own.map(|(k, factor, offset, scale, statistics)| {
        // cov(x, u) / (σ_x σ_u), with cov(acc_j, acc_k) = var[j + k]
        let covariance = |c: usize| factor[c] * (unit[0][c] * moments.var[k][c] + unit[1][c] * moments.var[1 + k][c]);
        let correlation = (0..channels).map(|c| covariance(c) / (var[c] + EPS).sqrt()).collect();
        InnerNormalizer { factor: narrow(&factor), offset: narrow(&offset), scale: narrow(&scale), correlation, statistics }
    });
    let normalizer = with_norm(&norm, &unit, &mean, &var);
    let mean = mean.iter().zip(&constant).map(|(mean, constant)| mean + constant).collect();
    BatchNormalizer { normalizer, statistics: Some(Statistics { mean, var }), inner }
}

/// Blends mean and unbiased variance of `n` values into running statistics, `[C]`.
pub fn update_running(running_mean: &mut [f32], running_var: &mut [f32], of_batch: &Statistics, n: f64) {
    let unbiased = if n > 1.0 { n / (n - 1.0) } else { 1.0 };
    let blend = |old: f32, new: f64| ((1.0 - MOMENTUM) * f64::from(old) + MOMENTUM * new) as f32;
    running_mean.iter_mut().zip(&of_batch.mean).for_each(|(old, &new)| *old = blend(*old, new));
    running_var.iter_mut().zip(&of_batch.var).for_each(|(old, &new)| *old = blend(*old, new * unbiased));
}

fn with_norm(norm: &Norm, unit: &[Vec<f64>; 2], mean: &[f64], var: &[f64]) -> Normalizer {
    let inv: Vec<f64> = var.iter().map(|v| 1.0 / (v + EPS).sqrt()).collect();
    let times = |unit: &[f64]| -> Vec<f64> { inv.iter().zip(unit).map(|(inv, unit)| inv * unit).collect() };
    let offset: Vec<f64> = inv.iter().zip(mean).map(|(inv, mean)| -inv * mean).collect();
    let scale: Vec<f64> = inv.iter().zip(norm.gamma).map(|(inv, &g)| inv * f64::from(g)).collect();
    Normalizer::new([&times(&unit[0]), &times(&unit[1])], &offset, norm.gamma, norm.beta, &scale)
}

/// A layer without batch norm: its current is the sum itself.
fn without_norm(unit: &[Vec<f64>; 2], constant: &[f64]) -> Normalizer {
    let (one, zero) = (vec![1.0; constant.len()], vec![0.0; constant.len()]);
    Normalizer::new([&unit[0], &unit[1]], constant, &one, &zero, &vec![1.0; constant.len()])
}

fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&v| v as f32).collect()
}
