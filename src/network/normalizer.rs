//! From exact sums to currents: batch norm of a layer (and of one connection) as factors and an offset per channel.

use super::kept::InnerKept;
use super::{Kind, Network, Source};
use crate::ops::batch_norm::{EPS, MOMENTUM, Moments, Normalizer};

/// What the connections of a layer contribute before its norm, per channel.
struct Contribution {
    /// Value of one unit of each connection's sum; zero for an absent second.
    unit: [Vec<f64>; 2],
    /// Summed biases of the connections without a norm of their own.
    constant: Vec<f64>,
    /// Bias of the connection that has one.
    inner_bias: Vec<f64>,
}

impl Network {
    fn contribution(&self, index: usize, training: bool) -> Contribution {
        let layer = &self.layers[index];
        let channels = layer.shape[2];
        let mut unit = [vec![0.0; channels], vec![0.0; channels]];
        let (mut constant, mut inner_bias) = (vec![0.0; channels], vec![0.0; channels]);
        for (k, connection) in layer.connections.iter().enumerate() {
            let value = match connection.source {
                Source::Input => 1.0,
                Source::Layer(source) => f64::from(self.spike_value(source, training)) / connection.geometry.area() as f64,
            };
            unit[k].fill(value);
            if let Kind::Conv { bias, .. } = connection.kind {
                if connection.source != Source::Input {
                    let scale = &self.quantized[index][k].scale;
                    unit[k].iter_mut().zip(scale).for_each(|(unit, &scale)| *unit *= f64::from(scale));
                }
                if let Some(bias) = bias {
                    let into = if connection.norm.is_some() { &mut inner_bias } else { &mut constant };
                    into.iter_mut().zip(self.value(bias)).for_each(|(sum, &b)| *sum += f64::from(b));
                }
            }
        }
        Contribution { unit, constant, inner_bias }
    }

    /// The connection of a layer that has a norm of its own, and that norm.
    fn inner_norm(&self, index: usize) -> Option<(usize, usize)> {
        self.layers[index].connections.iter().enumerate().find_map(|(k, c)| Some((k, c.norm?)))
    }

    /// Constants of evaluation: running statistics.
    pub(super) fn running_normalizer(&self, index: usize) -> Normalizer {
        let Contribution { mut unit, mut constant, inner_bias } = self.contribution(index, false);
        if let Some((k, norm)) = self.inner_norm(index) {
            let state = &self.norms[norm];
            for c in 0..constant.len() {
                let scale = f64::from(self.value(state.weight)[c]) / (f64::from(state.running_var[c]) + EPS).sqrt();
                unit[k][c] *= scale;
                constant[c] += f64::from(self.value(state.bias)[c]) + scale * (inner_bias[c] - f64::from(state.running_mean[c]));
            }
        }
        let Some(norm) = self.layers[index].norm else {
            return without_norm(&unit, &constant);
        };
        let state = &self.norms[norm];
        let mean: Vec<f64> = state.running_mean.iter().zip(&constant).map(|(&m, constant)| f64::from(m) - constant).collect();
        let var: Vec<f64> = state.running_var.iter().map(|&v| f64::from(v)).collect();
        self.with_norm(norm, &unit, &mean, &var)
    }

    /// Constants of training: statistics of this batch of `n` values a channel; updates the running statistics.
    pub(super) fn batch_normalizer(&mut self, index: usize, moments: &Moments, n: f64) -> (Normalizer, Option<InnerKept>) {
        let Contribution { mut unit, mut constant, inner_bias } = self.contribution(index, true);
        let inner = self.inner_norm(index).map(|(k, norm)| {
            let mean: Vec<f64> = unit[k].iter().zip(&moments.mean[k]).map(|(unit, mean)| unit * mean).collect();
            let var: Vec<f64> = unit[k].iter().zip(&moments.var[2 * k]).map(|(unit, var)| unit * unit * var).collect();
            self.update_running(norm, &mean, &inner_bias, &var, n);
            let state = &self.norms[norm];
            let (gamma, beta) = (self.value(state.weight), self.value(state.bias));
            let inv: Vec<f64> = var.iter().map(|v| 1.0 / (v + EPS).sqrt()).collect();
            let factor: Vec<f64> = inv.iter().zip(&unit[k]).map(|(inv, unit)| inv * unit).collect();
            let scale: Vec<f64> = inv.iter().zip(gamma).map(|(inv, &g)| inv * f64::from(g)).collect();
            for c in 0..scale.len() {
                unit[k][c] *= scale[c];
                constant[c] += f64::from(beta[c]) - scale[c] * mean[c];
            }
            let offset: Vec<f64> = inv.iter().zip(&mean).map(|(inv, mean)| -inv * mean).collect();
            (k, factor, offset, scale)
        });
        let Some(norm) = self.layers[index].norm else { return (without_norm(&unit, &constant), None) };
        let (mean, var) = moments.combined([&unit[0], &unit[1]]);
        self.update_running(norm, &mean, &constant, &var, n);
        let inner = inner.map(|(k, factor, offset, scale)| {
            let narrow = |v: &[f64]| v.iter().map(|&v| v as f32).collect::<Vec<f32>>();
            // cov(x, u) / (σ_x σ_u), with cov(acc_j, acc_k) = var[j + k]
            let covariance = |c: usize| factor[c] * (unit[0][c] * moments.var[k][c] + unit[1][c] * moments.var[1 + k][c]);
            let correlation = (0..var.len()).map(|c| covariance(c) / (var[c] + EPS).sqrt()).collect();
            InnerKept { factor: narrow(&factor), offset: narrow(&offset), scale: narrow(&scale), correlation, ..InnerKept::default() }
        });
        (self.with_norm(norm, &unit, &mean, &var), inner)
    }

    fn with_norm(&self, norm: usize, unit: &[Vec<f64>; 2], mean: &[f64], var: &[f64]) -> Normalizer {
        let state = &self.norms[norm];
        let (gamma, beta) = (self.value(state.weight), self.value(state.bias));
        let inv: Vec<f64> = var.iter().map(|v| 1.0 / (v + EPS).sqrt()).collect();
        let times = |unit: &[f64]| -> Vec<f64> { inv.iter().zip(unit).map(|(inv, unit)| inv * unit).collect() };
        let offset: Vec<f64> = inv.iter().zip(mean).map(|(inv, mean)| -inv * mean).collect();
        let scale: Vec<f64> = inv.iter().zip(gamma).map(|(inv, &g)| inv * f64::from(g)).collect();
        Normalizer::new([&times(&unit[0]), &times(&unit[1])], &offset, gamma, beta, &scale)
    }

    /// Blends mean (`mean + constant`) and unbiased variance of `n` values into the running statistics.
    fn update_running(&mut self, norm: usize, mean: &[f64], constant: &[f64], var: &[f64], n: f64) {
        let state = &mut self.norms[norm];
        let unbiased = if n > 1.0 { n / (n - 1.0) } else { 1.0 };
        let blend = |old: f32, new: f64| ((1.0 - MOMENTUM) * f64::from(old) + MOMENTUM * new) as f32;
        for c in 0..mean.len() {
            state.running_mean[c] = blend(state.running_mean[c], mean[c] + constant[c]);
            state.running_var[c] = blend(state.running_var[c], var[c] * unbiased);
        }
        state.batches += 1;
    }
}

/// A layer without batch norm: its current is the sum itself.
fn without_norm(unit: &[Vec<f64>; 2], constant: &[f64]) -> Normalizer {
    let (one, zero) = (vec![1.0; constant.len()], vec![0.0; constant.len()]);
    Normalizer::new([&unit[0], &unit[1]], constant, &one, &zero, &vec![1.0; constant.len()])
}
