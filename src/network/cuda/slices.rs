//! Sums over samples where a batch is cut into slices: within a slice by the kernels of a whole batch, over slices in one binary tree,
//! and over ranks as `across_ranks.rs` has it. With one slice nothing here is called.

use std::ops::Range;

use super::Demand;
use super::buckets::Bucket;
use super::pass::Pass;
use crate::device::{Layout, Slice};
use crate::error::{Error, Result};
use crate::network::{Network, Parameter, WeightGradient};
use crate::ops::batch_norm::cuda_backward::{CurrentGradient, InnerKept, current_gradient_parts, inner_gradient, inner_reduce, inner_sums};
use crate::ops::conv::cuda::{self as conv, Operand};
use crate::ops::neuron::cuda::{BiasParts, ClampParts, LayerBackward, NeuronGradients, Parts, clamp_mapping_parts, reduce};
use crate::ops::slices::cuda::{add_f64, sample_sums, slice_sums};
use crate::ops::slices::{Added, Slices};
use crate::ops::spike_conv::Geometry;
use crate::ranks::Share;

/// How batches are cut, as far as memory and recorded launches depend on it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(in crate::network) struct Cut {
    /// Slices of a batch; 0 where it is whole.
    pub slices: usize,
    /// Samples of a slice.
    len: usize,
    pub ranks: usize,
    rank: usize,
}

impl Cut {
    pub fn of(share: &Share) -> Self {
        if share.is_whole() {
            return Cut::default();
        }
        Cut { slices: share.count(), len: share.slice_len(), ranks: share.ranks().size(), rank: share.ranks().rank() }
    }

    /// The slices of a batch of so many samples on all ranks.
    fn slices(&self, total: usize) -> Slices {
        Slices { all: self.slices, present: total.div_ceil(self.len.max(1)), ranks: self.ranks }
    }

    /// Most slices that this rank has.
    pub fn own(&self) -> usize {
        if self.slices == 0 { 1 } else { self.slices(self.slices * self.len).of(self.rank).len() }
    }

    /// Parameters, of so many, that each rank adds up; the last one may have fewer.
    pub fn share_of(&self, parameters: usize) -> usize {
        parameters.div_ceil(self.ranks.max(1))
    }
}

/// Room for sums over slices.
#[derive(Clone, Debug, Default)]
pub(super) struct SliceBuffers {
    /// Of channels, `[slices][values]`.
    pub sums: Slice<f64>,
    /// Gradients of weights of all buckets; cleared before a step.
    pub grads: Slice<f32>,
    /// In the order of backward.
    pub buckets: Vec<Bucket>,
}

impl SliceBuffers {
    pub fn lay_out(network: &Network, demand: &Demand, layout: &mut Layout) -> Self {
        let (cut, parameters) = (demand.cut, network.values.len());
        if cut.slices == 0 || demand.training.is_none() {
            return SliceBuffers::default();
        }
        let channels = network.layers.iter().map(|layer| layer.shape[2]).max().unwrap_or(0);
        let (sums, grads) = (layout.take(cut.slices * 5 * channels), layout.take(cut.own() * parameters));
        SliceBuffers { sums, grads, buckets: Bucket::lay_out(network, &cut, demand.bucket, grads, layout) }
    }

    /// Gradient of a parameter in slice `at` of this rank.
    fn gradient(&self, parameter: &Parameter, at: usize) -> Result<Slice<f32>> {
        let found = self.buckets.iter().find_map(|bucket| bucket.gradient(parameter, at));
        found.ok_or_else(|| Error::shape("gradients of slices", "memory for training", "none"))
    }
}

impl Pass<'_> {
    /// Whether a batch is one slice, and all of it here.
    pub fn is_whole(&self) -> bool {
        self.network.share.is_whole()
    }

    /// Samples of the batch on all ranks.
    pub fn total(&self) -> usize {
        self.network.share.total(self.batch)
    }

    pub(super) fn cut(&self) -> Cut {
        Cut::of(&self.network.share)
    }

    pub(super) fn slices(&self) -> Slices {
        self.cut().slices(self.total())
    }

    /// Sums over the batch, `[len]`: `of` leaves those over some of the samples where it is told.
    pub fn sum_over_slices(&self, len: usize, mut of: impl FnMut(Range<usize>, Slice<f64>) -> Result<()>) -> Result<Slice<f64>> {
        let room = self.buffers.slices.sums;
        for (slice, samples) in self.network.share.slices(self.batch) {
            of(samples, room.part(slice * len..(slice + 1) * len))?;
        }
        self.add_up(len)
    }

    /// The same of values that samples have, `[B][len]`.
    pub fn sum_samples(&self, samples: Slice<f64>, len: usize) -> Result<Slice<f64>> {
        let (room, cut) = (self.buffers.slices.sums, self.cut());
        let first = self.slices().of(cut.rank).start * len;
        sample_sums(self.gpu, room.part(first..room.len()), samples, [self.batch, cut.len, len])?;
        self.add_up(len)
    }

    /// From the sums of this rank's slices to that of all.
    fn add_up(&self, len: usize) -> Result<Slice<f64>> {
        let (gpu, room, slices) = (self.gpu, self.buffers.slices.sums, self.slices());
        add_f64(gpu, room, Slice::NONE, len, &slices, Added::Own(self.cut().rank), 0)?;
        if slices.ranks > 1 {
            self.gather_nodes(room, len, &slices)?;
            add_f64(gpu, room, Slice::NONE, len, &slices, Added::Across, 0)?;
        }
        Ok(room.part(0..len))
    }

    /// Gradients of threshold, γ and β, mean and k of a layer; `grad` in place from that of the spikes to that of the current.
    pub fn clamp_mapping_of_slices(&self, grad: Slice<f32>, into: &NeuronGradients, index: usize, layer: &LayerBackward) -> Result<()> {
        let of_layer = &self.network.layers[index];
        let (neuron, positions, dropout) = (of_layer.threshold.map(|_| self.network.neuron), of_layer.positions(), of_layer.dropout);
        let (scale, channels) = (self.network.threshold_grad_scale, layer.channels);
        let sums = self.sum_over_slices(3 * channels, |samples, room| {
            let rows = samples.start * positions..samples.end * positions;
            let (layer, grad) = (layer.of_rows(rows.clone()), grad.part(rows.start * channels..rows.end * channels));
            let parts = clamp_mapping_parts(self.gpu, grad, into, &layer, neuron, scale, dropout)?;
            slice_sums(self.gpu, room, layer.partial, [3, parts.blocks, channels])
        })?;
        reduce(self.gpu, &[Parts::Clamp(ClampParts::new(&self.of_all(index, layer, sums), into, neuron, scale, 1))])
    }

    /// A layer with the sums over all samples in the place of its parts.
    fn of_all(&self, index: usize, layer: &LayerBackward, sums: Slice<f64>) -> LayerBackward {
        LayerBackward { rows: self.network.layers[index].positions() * self.total(), partial: sums, ..*layer }
    }

    /// Gradients of a current that all connections share, and those of biases.
    pub fn current_gradient_of_slices(
        &self,
        out: &CurrentGradient,
        grad: Slice<f32>,
        index: usize,
        layer: &LayerBackward,
        unrolled: bool,
    ) -> Result<()> {
        if !out.has_bias() {
            return current_gradient_parts(self.gpu, out, grad, layer, unrolled).map(drop);
        }
        let (channels, positions) = (layer.channels, self.network.layers[index].positions());
        let sums = self.sum_over_slices(channels, |samples, room| {
            let rows = samples.start * positions..samples.end * positions;
            let (out, layer) = (out.of_rows(rows.clone(), channels), layer.of_rows(rows.clone()));
            let grad = grad.part(rows.start * channels..rows.end * channels);
            match current_gradient_parts(self.gpu, &out, grad, &layer, unrolled)? {
                Some(Parts::Bias(parts)) => slice_sums(self.gpu, room, parts.partial, [1, parts.blocks, channels]),
                _ => Ok(()),
            }
        })?;
        reduce(self.gpu, &[bias_of(out, sums, layer)])
    }

    /// The same where one connection has a norm of its own: gradients of its current and of that which the others share.
    pub fn inner_backward_of_slices(
        &self,
        [out, shared]: [&CurrentGradient; 2],
        grad_gamma: Slice<f32>,
        grad: Slice<f32>,
        index: usize,
        layer: &LayerBackward,
        kept: &InnerKept,
        unrolled: bool,
    ) -> Result<()> {
        let (gpu, channels, positions) = (self.gpu, layer.channels, self.network.layers[index].positions());
        let of_samples = |samples: &Range<usize>| {
            let rows = samples.start * positions..samples.end * positions;
            let grad = grad.part(rows.start * channels..rows.end * channels);
            (grad, layer.of_rows(rows.clone()), kept.of_rows(rows.clone(), channels), rows)
        };
        let sums = self.sum_over_slices(channels, |samples, room| {
            let (grad, layer, kept, _) = of_samples(&samples);
            let blocks = inner_sums(gpu, grad, &layer, &kept)?;
            slice_sums(gpu, room, layer.partial, [1, blocks, channels])
        })?;
        inner_reduce(gpu, grad_gamma, &self.of_all(index, layer, sums), kept, 1)?;
        if !out.has_bias() && !shared.has_bias() {
            return inner_gradient(gpu, [out, shared], grad, layer, kept, unrolled);
        }
        // Both biases of a slice one behind the other; what has none leaves what is there, and nobody reads it.
        let sums = self.sum_over_slices(2 * channels, |samples, room| {
            let (grad, layer, kept, rows) = of_samples(&samples);
            let of_rows = [out, shared].map(|out| out.of_rows(rows.clone(), channels));
            inner_gradient(gpu, [&of_rows[0], &of_rows[1]], grad, &layer, &kept, unrolled)?;
            for (k, out) in of_rows.iter().enumerate().filter(|(_, out)| out.has_bias()) {
                let blocks = crate::ops::batch_norm::cuda::Columns::new(layer.rows, channels).blocks();
                slice_sums(gpu, room.part(k * channels..(k + 1) * channels), out.bias_partial, [1, blocks, channels])?;
            }
            Ok(())
        })?;
        let of_biases = [out, shared].into_iter().enumerate().filter(|(_, out)| out.has_bias());
        let parts: Vec<Parts> = of_biases.map(|(k, out)| bias_of(out, sums.part(k * channels..(k + 1) * channels), layer)).collect();
        reduce(gpu, &parts)
    }

    /// Gradients of the weights of connection `k` of a layer by slices; `buckets.rs` adds them up over slices.
    pub fn weights_of_slices(
        &self,
        index: usize,
        k: usize,
        weight: usize,
        operand: Operand,
        grad: Slice<u16>,
        (value, factor): (Slice<f32>, f32),
    ) -> Result<()> {
        let Pass { network, gpu, buffers, .. } = *self;
        let connection = &network.layers[index].connections[k];
        let (geometry, copies) = (&connection.geometry, connection.replicate);
        let parameter = &network.parameters[weight];
        for (at, (_, samples)) in network.share.slices(self.batch).into_iter().enumerate() {
            let into = buffers.slices.gradient(parameter, at)?;
            let (operand, grad) = (operand.of_samples(samples.clone(), geometry), of_outputs(grad, &samples, geometry, 1));
            let workspace = buffers.scratch.workspace[k];
            conv::weight_gradient(gpu, into, operand, grad, geometry, copies, samples.len(), value, factor, workspace)?;
            self.subtract_outer(index, k, into, at)?;
        }
        Ok(())
    }

    /// What `unrolled` lacks of the weight gradient `into` of slice `at` of this rank: minus Σ_t x̂[t] ⊗ o[t] times a factor per channel.
    pub fn subtract_outer(&self, index: usize, k: usize, into: Slice<f32>, at: usize) -> Result<()> {
        let Pass { network, gpu, buffers, .. } = *self;
        let connection = &network.layers[index].connections[k];
        let own = &buffers.layers[index];
        let (geometry, copies, outer) = (&connection.geometry, connection.replicate, own.connections[k].outer);
        if self.training != Some(WeightGradient::Unrolled) || outer.is_none() {
            return Ok(());
        }
        let len = geometry.taps() * geometry.cin * geometry.cout;
        let of_slice = |outer: Slice<f32>| outer.part(at * len..(at + 1) * len);
        match (&own.inner, connection.norm) {
            (Some(inner), Some(_)) => {
                let constants = own.device_inner();
                conv::subtract_outer(gpu, into, of_slice(outer), constants.row(3), geometry, copies)?;
                conv::subtract_outer(gpu, into, of_slice(inner.outer), constants.row(4), geometry, copies)
            }
            _ => conv::subtract_outer(gpu, into, of_slice(outer), buffers.scratch.k, geometry, copies),
        }
    }
}

/// Some of the samples of a gradient `[B][P_out][steps][C_out]`.
pub(super) fn of_outputs(grad: Slice<u16>, samples: &Range<usize>, geometry: &Geometry, steps: usize) -> Slice<u16> {
    let of_sample = geometry.positions() * steps * geometry.cout;
    grad.part(samples.start * of_sample..samples.end * of_sample)
}

/// The gradients of biases from their sums over all samples.
fn bias_of(out: &CurrentGradient, sums: Slice<f64>, layer: &LayerBackward) -> Parts {
    let LayerBackward { channels, time_steps, .. } = *layer;
    Parts::Bias(BiasParts { into: out.biases, partial: sums, blocks: 1, channels, time_steps })
}
