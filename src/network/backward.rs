//! Backward over all layers: one pass, whatever T.
//!
//! The gradient of a current is the same at every step (clamp mapping), so only its (weighted) time mean travels:
//! below, `r(·)` is that mean, and every buffer is `[B][P][C]` without a time axis. Source: DSR, section 4; the formulas
//! of batch norm over T·B·H·W follow from `grad_x[t] = γ/σ·(g - mean(g) - x̂[t]·mean(g·mean_t x̂))`.

use std::borrow::Cow;
use std::ops::Range;

use half::bf16;
use rayon::prelude::*;

use super::forward::in_order;
use super::kept::{InnerKept, LayerKept};
use super::{Connection, Input, Kind, Network, Samples, Source};
use crate::clock::{self, Name, Op, Phase};
use crate::error::{Error, Result};
use crate::ops::augment::Strided;
use crate::ops::batch_norm::{center, gradient_sums, subtract_scaled};
use crate::ops::conv::{data_gradient, pool_rates, pool_values, unpool_add, weight_gradient};
use crate::ops::neuron::{ClampMapping, clamp_mapping_backward};
use crate::ops::spike_conv::add_scaled;
use crate::ranks::{Node, Tree};

/// Which gradient the weights get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightGradient {
    /// Of the mapping between representations, as in the paper's theory: needs spike counts only.
    Rate,
    /// The full sum over time steps, equal to backpropagation through the unrolled network.
    Unrolled,
}

/// Gradient of a current, for those who need it.
struct CurrentGrad {
    /// For the weights: its time mean, or (`unrolled`) the part of it that is constant in time.
    plain: Vec<f32>,
    /// For the sources: r(gradient); `None` where it equals `plain`.
    weighted: Option<Vec<f32>>,
    /// What the weight gradient still lacks in `unrolled` mode, `[slices][tap][cin][cout]`; empty otherwise.
    outer: Vec<f32>,
}

/// The gradient of a loss by the logits, `[B][classes]`.
#[derive(Clone, Copy, Debug)]
pub enum LogitsGradient<'a> {
    Host(&'a [f32]),
    /// On the network's own device, `[1, 1, 1, B, classes]`; it stays there, unchanged, until backward is done.
    OnDevice(Strided<f32>),
}

impl Network {
    /// [`Network::backward`] of samples, and of a gradient, in the form that they have: the CPU takes real values of the host.
    ///
    /// # Errors
    /// As [`Network::backward`]; [`Error::Device`] if the device fails.
    pub fn backward_of(&mut self, samples: &Samples, gradient: LogitsGradient, input_grad: Option<&mut Vec<f32>>) -> Result<()> {
        let [batch, frames] = samples.shape();
        let (fits, got) = match &gradient {
            LogitsGradient::Host(grad) => (grad.len() == batch * self.classes, grad.len()),
            LogitsGradient::OnDevice(grad) => (grad.shape() == [1, 1, 1, batch, self.classes], grad.len()),
        };
        if !fits {
            return Err(Error::shape("backward", (batch, self.classes), got));
        }
        match gradient {
            _ if self.session.is_some() => self.backward_on_device([batch, frames], &gradient, input_grad),
            LogitsGradient::Host(grad) => self.backward(samples.on_the_cpu()?, grad, input_grad),
            LogitsGradient::OnDevice(_) => Err(Error::shape("backward on the CPU", "a gradient of the host", "one of a device")),
        }
    }

    /// Adds the gradients of all parameters to [`Network::grads`].
    ///
    /// `grad_logits` is `[B][classes]`; a forward pass of the same input in training mode must have come before.
    /// Adds r(gradient of the input), `[B][H][W][C]`, to `input_grad` where given.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] if the gradient does not fit the network; [`Error::Ranks`] if another rank is missing.
    pub fn backward(&mut self, input: &Input, grad_logits: &[f32], mut input_grad: Option<&mut Vec<f32>>) -> Result<()> {
        if self.session.is_some() {
            return self.backward_of(&Samples::Real(*input), LogitsGradient::Host(grad_logits), input_grad);
        }
        if grad_logits.len() != input.batch * self.classes {
            return Err(Error::shape("backward", (input.batch, self.classes), grad_logits.len()));
        }
        let _phase = clock::span(Name::Phase(Phase::Backward));
        let mut arena = std::mem::take(&mut self.grads);
        let kept = std::mem::take(&mut self.kept);
        let mut grads: Vec<Vec<f32>> = vec![Vec::new(); self.layers.len()];
        let mut is_read = vec![false; self.layers.len()];
        // Gradients of weights by nodes of slices; none where a batch is one slice, whose gradients go to the arena at once.
        let mut of_slices = if self.share.is_whole() { Vec::new() } else { self.share.nodes(input.batch) };
        // Weights are written over in every step, and nothing else ever is: what an earlier step has left need not be cleared.
        let mut spare = std::mem::take(&mut self.workspace.of_slices);
        of_slices.iter_mut().for_each(|node| node.sum = spare.pop().unwrap_or_else(|| vec![0.0; arena.len()]));
        let squares: f32 = self.neuron.step_weights(self.time_steps).iter().map(|w| w * w).sum();
        if let Some(last) = grads.last_mut() {
            *last = grad_logits.iter().map(|g| g * squares).collect();
        }
        is_read.last_mut().into_iter().for_each(|last| *last = true);
        for (index, state) in kept.iter().enumerate().rev() {
            let mut grad = std::mem::take(&mut grads[index]);
            if !is_read[index] {
                continue; // no later layer reads this one
            }
            let _layer = clock::span(Name::Layer(index));
            let layer = &self.layers[index];
            let k = clock::op(Op::ClampMapping, || self.neuron_backward(index, state, input.batch, &mut grad, &mut arena))?;
            let own = layer
                .connections
                .iter()
                .enumerate()
                .map(|(at, c)| {
                    let (Some(_), Some(inner)) = (c.norm, &state.inner) else { return Ok(None) };
                    let place = [index, at, input.batch];
                    clock::op(Op::InnerGradient, || self.inner_backward(place, inner, state, &grad, &k, &mut arena)).map(Some)
                })
                .collect::<Result<Vec<Option<CurrentGrad>>>>()?;
            let shared = clock::op(Op::CurrentGradient, || self.time_part(state, grad, &k));
            for (at, (connection, own)) in layer.connections.iter().zip(&own).enumerate() {
                let current = own.as_ref().unwrap_or(&shared);
                let outer = match (own, state.outer.get(at)) {
                    (Some(own), _) => &own.outer,
                    (None, Some(outer)) => &scaled_columns(outer, &k),
                    (None, None) => &shared.outer,
                };
                let place = [index, at];
                clock::op(Op::WeightGradient, || {
                    self.bias_backward(place, input.batch, &current.plain, &mut arena)?;
                    self.weights_backward(connection, input, &kept, &current.plain, outer, &mut arena, &mut of_slices);
                    Ok(())
                })?;
                let target = match connection.source {
                    Source::Input => input_grad.as_deref_mut(),
                    Source::Layer(source) => {
                        is_read[source] = true;
                        Some(&mut grads[source])
                    }
                };
                if let Some(target) = target {
                    let weighted = current.weighted.as_ref().unwrap_or(&current.plain);
                    clock::op(Op::DataGradient, || self.source_backward(connection, weighted, input.batch, target));
                }
            }
        }
        if !self.share.is_whole() {
            clock::op(Op::WeightGradient, || self.share.sum_nodes("weight gradients", &of_slices, &mut arena))?;
        }
        spare.extend(of_slices.into_iter().map(|node| node.sum));
        self.workspace.of_slices = spare;
        self.kept = kept;
        self.grads = arena;
        Ok(())
    }

    /// Dropout, clamp mapping and batch norm, in place: from r(gradient of the spikes) to `A = γ/σ·(g - mean g)`.
    ///
    /// Returns `k = γ/σ·mean(g·mean_t x̂)` per channel: the gradient before the norm at step t is `A - k·x̂[t]`. Without batch norm
    /// the gradient stays `g` and `k` is empty. Adds the gradients of threshold, γ and β.
    fn neuron_backward(&self, index: usize, kept: &LayerKept, batch: usize, grad: &mut [f32], arena: &mut [f32]) -> Result<Vec<f32>> {
        let layer = &self.layers[index];
        let (neurons, channels, isa) = (layer.neurons(), layer.shape[2], self.isa);
        let words = channels.div_ceil(32);
        let keep = 1.0 / (1.0 - layer.dropout);
        let map = layer.threshold.map_or(ClampMapping::NONE, |_| self.neuron.clamp_mapping(self.threshold(layer)));
        let means = kept.representation().par_chunks(neurons).zip(kept.mean_normed.par_chunks(neurons));
        // Sums of a sample, added in the order of samples: the same bits for every number of threads.
        let parts: Vec<[Vec<f64>; 3]> = grad
            .par_chunks_mut(neurons)
            .zip(means)
            .enumerate()
            .map(|(b, (grad, (representation, mean_normed)))| {
                if layer.dropout > 0.0 {
                    let dropped = &kept.dropped[b * layer.positions() * words..][..layer.positions() * words];
                    for (i, grad) in grad.iter_mut().enumerate() {
                        let is_dropped = dropped[i / channels * words + i % channels / 32] >> (i % channels % 32) & 1 == 1;
                        *grad = if is_dropped { 0.0 } else { *grad * keep };
                    }
                }
                let [mut above, mut sum, mut product] = [vec![0.0; channels], vec![0.0; channels], vec![0.0; channels]];
                clamp_mapping_backward(isa, map, &kept.norm, representation, mean_normed, grad, &mut above, &mut sum, &mut product);
                [above, sum, product]
            })
            .collect();
        let name = || format!("gradient sums of layer {index}");
        let total = self.share.sum(name, batch, |samples| in_order(&parts[samples], channels))?;
        let [above, sum, product] = [0, 1, 2].map(|kind| &total[kind * channels..(kind + 1) * channels]);
        let steps = self.time_steps as f64;
        let factor = f64::from(self.neuron.threshold_grad_factor() * self.threshold_grad_scale) * steps;
        if let Some(threshold) = layer.threshold {
            arena[self.parameters[threshold].start] += (factor * above.iter().sum::<f64>()) as f32;
        }
        let Some(norm) = layer.norm else { return Ok(Vec::new()) };
        let state = &self.norms[norm];
        add_to(&mut arena[self.parameters[state.bias].start..], sum, steps);
        add_to(&mut arena[self.parameters[state.weight].start..], product, steps);
        let rows = (self.share.total(batch) * layer.positions()) as f64;
        let mean: Vec<f32> = sum.iter().map(|s| (s / rows) as f32).collect();
        grad.par_chunks_mut(neurons).for_each(|g| center(isa, &kept.norm.scale, &mean, g));
        Ok(product.iter().zip(&kept.norm.scale).map(|(p, &scale)| (f64::from(scale) * p / rows) as f32).collect())
    }

    /// The gradient that connections without a norm of their own share.
    fn time_part(&self, kept: &LayerKept, mut grad: Vec<f32>, k: &[f32]) -> CurrentGrad {
        let unrolled = !kept.outer.is_empty();
        let mut weighted = None;
        if !k.is_empty() {
            if unrolled || !kept.weighted_normed.is_empty() {
                let mut copy = grad.clone();
                self.subtract(k, kept.representation(), &mut copy);
                weighted = Some(copy);
            }
            if !unrolled {
                self.subtract(k, &kept.mean_normed, &mut grad);
            }
        }
        CurrentGrad { plain: grad, weighted, outer: Vec::new() }
    }

    /// A connection's own batch norm (û), below the layer's (x̂): with `h[t] = A - k·x̂[t]`, whose mean is 0,
    /// the gradient before it is `γ/σ·(h[t] - K·û[t])` with `K = mean(h·û)`.
    fn inner_backward(
        &self,
        [index, at, batch]: [usize; 3],
        inner: &InnerKept,
        kept: &LayerKept,
        grad: &[f32],
        k: &[f32],
        arena: &mut [f32],
    ) -> Result<CurrentGrad> {
        let (layer, channels) = (&self.layers[index], k.len());
        let Some(norm) = layer.connections[at].norm else {
            return Err(Error::shape("inner_backward", "a connection with a norm of its own", "one without"));
        };
        let state = &self.norms[norm];
        // One sum over a slice, sample after sample.
        let of_slice = |samples: Range<usize>| {
            let values = samples.start * layer.neurons()..samples.end * layer.neurons();
            self.channel_sums(&grad[values.clone()], &inner.mean_normed[values.clone()], values.len().max(1), channels)
        };
        let total = self.share.sum(|| format!("inner gradient sums of layer {index}"), batch, of_slice)?;
        let product = &total[channels..];
        let rows = (self.share.total(batch) * layer.positions()) as f64;
        let covariance: Vec<f64> = product.iter().zip(k).zip(&inner.correlation).map(|((p, &k), c)| p / rows - f64::from(k) * c).collect();
        add_to(&mut arena[self.parameters[state.weight].start..], &covariance, self.time_steps as f64 * rows);
        let scale = &inner.scale;
        let own_k: Vec<f32> = covariance.iter().zip(scale).map(|(&c, &scale)| c as f32 * scale).collect();
        let scaled_k: Vec<f32> = k.iter().zip(scale).map(|(k, scale)| k * scale).collect();
        let zero = vec![0.0; channels];
        let mut base = grad.to_vec();
        center(self.isa, scale, &zero, &mut base);
        let time_mean = |x: &[f32], u: &[f32]| {
            let mut out = base.clone();
            self.subtract(&scaled_k, x, &mut out);
            self.subtract(&own_k, u, &mut out);
            out
        };
        let weighted = Some(time_mean(kept.representation(), &inner.weighted_normed));
        if kept.outer.is_empty() {
            return Ok(CurrentGrad { plain: time_mean(&kept.mean_normed, &inner.mean_normed), weighted, outer: Vec::new() });
        }
        let mut outer = scaled_columns(&kept.outer[at], &scaled_k);
        outer.iter_mut().zip(scaled_columns(&inner.outer, &own_k)).for_each(|(sum, v)| *sum += v);
        Ok(CurrentGrad { plain: base, weighted, outer })
    }

    /// Bias gradient of one connection, if it has a bias.
    fn bias_backward(&self, [index, at]: [usize; 2], batch: usize, grad: &[f32], arena: &mut [f32]) -> Result<()> {
        let Connection { kind: Kind::Conv { bias: Some(bias), .. }, geometry, .. } = &self.layers[index].connections[at] else {
            return Ok(());
        };
        let (channels, sample) = (geometry.cout, geometry.positions() * geometry.cout);
        let of_slice = |samples: Range<usize>| {
            let grad = &grad[samples.start * sample..samples.end * sample];
            self.channel_sums(grad, grad, sample, channels)
        };
        let sum = self.share.sum(|| format!("bias gradient of layer {index}"), batch, of_slice)?;
        add_to(&mut arena[self.parameters[*bias].start..], &sum[..channels], self.time_steps as f64);
        Ok(())
    }

    /// Weight gradient of one connection: `grad ⊗ Σ_t o[t] - outer`; to the arena, or to the arenas of nodes of slices.
    fn weights_backward(
        &self,
        connection: &Connection,
        input: &Input,
        kept: &[LayerKept],
        grad: &[f32],
        outer: &[f32],
        arena: &mut [f32],
        of_slices: &mut [Node<f32>],
    ) {
        let Kind::Conv { weight, .. } = connection.kind else { return };
        let geometry = &connection.geometry;
        let isa = self.isa;
        let pooled = geometry.pooled().iter().product::<usize>() * geometry.cin;
        let mut totals = vec![0.0f32; input.batch * pooled];
        let samples = totals.par_chunks_mut(pooled).enumerate();
        let rounded;
        let grad = if self.bf16_products {
            rounded = to_bf16(grad);
            &rounded[..]
        } else {
            grad
        };
        match connection.source {
            Source::Layer(source) if self.neuron.is_real() => {
                let activations = &kept[source].activations;
                let len = activations.len() / input.batch.max(1);
                samples.for_each(|(b, totals)| pool_values(&activations[b * len..][..len], geometry, totals));
                if self.bf16_products {
                    totals = to_bf16(&totals);
                }
            }
            Source::Layer(source) => {
                let value = self.spike_value(source, true);
                let counts = &kept[source].counts;
                let len = counts.len() / input.batch.max(1);
                samples.for_each(|(b, totals)| pool_rates(&counts[b * len..][..len], value, geometry, totals));
            }
            Source::Input => {
                let copies = (self.time_steps / input.frames) as f32;
                samples.for_each(|(b, totals)| {
                    if self.bf16_products {
                        (0..input.frames).for_each(|t| add_scaled(isa, 1.0, input.frame(b, t), totals));
                        totals.iter_mut().for_each(|v| *v = copies * bf16::from_f32(*v).to_f32());
                        return;
                    }
                    (0..input.frames).for_each(|t| add_scaled(isa, copies, input.frame(b, t), totals))
                });
            }
        }
        let parameter = &self.parameters[weight];
        let range = parameter.start..parameter.start + parameter.len;
        if !self.share.is_whole() {
            let (len, output) = (parameter.len / connection.replicate, geometry.positions() * geometry.cout);
            let mut tree = Tree::default();
            for (at, (slice, samples)) in self.share.slices(input.batch).into_iter().enumerate() {
                let of = |values: usize| samples.start * values..samples.end * values;
                let mut sum = vec![0.0; len];
                weight_gradient(&totals[of(pooled)], &grad[of(output)], geometry, &mut sum);
                let outer = if outer.is_empty() { outer } else { &outer[at * len..][..len] };
                sum.iter_mut().zip(outer).for_each(|(sum, outer)| *sum -= outer);
                tree.push_slice(slice, sum);
            }
            for (into, node) in of_slices.iter_mut().zip(tree.into_nodes()) {
                into.sum[range.clone()].chunks_exact_mut(len).for_each(|copy| copy.copy_from_slice(&node.sum));
            }
            return;
        }
        let into = &mut arena[range];
        if connection.replicate == 1 && outer.is_empty() {
            weight_gradient(&totals, grad, geometry, into);
            return;
        }
        let mut sum = vec![0.0; parameter.len / connection.replicate];
        weight_gradient(&totals, grad, geometry, &mut sum);
        sum.iter_mut().zip(outer).for_each(|(sum, outer)| *sum -= outer);
        for copy in into.chunks_exact_mut(sum.len()) {
            copy.iter_mut().zip(&sum).for_each(|(into, v)| *into += v);
        }
    }

    /// Adds what a connection passes to its source, `[B][P][C]`.
    fn source_backward(&self, connection: &Connection, grad: &[f32], batch: usize, target: &mut Vec<f32>) {
        let geometry = &connection.geometry;
        let source = geometry.source.iter().product::<usize>() * geometry.cin;
        let pooled = geometry.pooled().iter().product::<usize>() * geometry.cin;
        target.resize(batch * source, 0.0);
        let is_pooled = geometry.pool != super::builder::NO_POOL;
        let mut buffer = Vec::new();
        let from = match connection.kind {
            Kind::Identity => grad,
            Kind::Conv { .. } => {
                let (mut weights, mut grad) = (self.effective_weights(connection), Cow::Borrowed(grad));
                if self.bf16_products {
                    (weights, grad) = (to_bf16(&weights).into(), to_bf16(&grad).into());
                }
                // What a product gives may depend on how many rows it has: those of a slice.
                let (slices, output) = (self.share.slices(batch), geometry.positions() * geometry.cout);
                let multiply = |out: &mut [f32], len: usize| {
                    for (_, samples) in &slices {
                        let of = |values: usize| samples.start * values..samples.end * values;
                        data_gradient(&grad[of(output)], &weights, geometry, &mut out[of(len)]);
                    }
                };
                if !is_pooled {
                    multiply(target, source);
                    return;
                }
                buffer.resize(batch * pooled, 0.0);
                multiply(&mut buffer, pooled);
                &buffer
            }
        };
        target.par_chunks_mut(source).zip(from.par_chunks(pooled)).for_each(|(target, from)| unpool_add(from, geometry, target));
    }

    /// `Σ g` and `Σ g·m` per channel, one behind the other; samples are added in their order.
    fn channel_sums(&self, g: &[f32], m: &[f32], sample: usize, channels: usize) -> Vec<f64> {
        let zero = || (vec![0.0; channels], vec![0.0; channels]);
        let parts: Vec<(Vec<f64>, Vec<f64>)> = g
            .par_chunks(sample)
            .zip(m.par_chunks(sample))
            .map(|(g, m)| {
                let (mut sum, mut product) = zero();
                gradient_sums(self.isa, g, m, &mut sum, &mut product);
                (sum, product)
            })
            .collect();
        let total = parts.iter().fold(zero(), |mut total, part| {
            total.0.iter_mut().zip(&part.0).for_each(|(total, v)| *total += v);
            total.1.iter_mut().zip(&part.1).for_each(|(total, v)| *total += v);
            total
        });
        [total.0, total.1].concat()
    }

    /// `g -= k·m` per channel, on all threads.
    fn subtract(&self, k: &[f32], m: &[f32], g: &mut [f32]) {
        let rows = 1024 * k.len();
        g.par_chunks_mut(rows).zip(m.par_chunks(rows)).for_each(|(g, m)| subtract_scaled(self.isa, k, m, g));
    }
}

/// Rounded to bf16, nearest and ties to even.
pub(super) fn to_bf16(values: &[f32]) -> Vec<f32> {
    values.par_iter().map(|&v| bf16::from_f32(v).to_f32()).collect()
}

/// `into += factor · from`.
fn add_to(into: &mut [f32], from: &[f64], factor: f64) {
    into.iter_mut().zip(from).for_each(|(into, v)| *into += (factor * v) as f32);
}

/// Rows `[n][C]` times a factor per channel.
fn scaled_columns(rows: &[f32], factor: &[f32]) -> Vec<f32> {
    rows.chunks_exact(factor.len()).flat_map(|row| row.iter().zip(factor).map(|(v, f)| v * f)).collect()
}
