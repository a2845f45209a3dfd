//! The launches of every layer of a forward pass on a CUDA device, in order.

use std::cell::Cell;
use std::sync::Arc;

use super::buffers::{Buffers, LayerBuffers};
use super::settle;
use super::slices::of_outputs;
use crate::clock::{self, Name, Op, Phase};
use crate::device::{Gpu, Slice};
use crate::error::Result;
use crate::network::{Connection, Kind, Network, Source, WeightGradient};
use crate::ops::batch_norm::cuda::{
    self as batch_norm, BatchConstants, DeviceContribution, DeviceInner, DeviceNorm, DeviceStatistics, LayerNorms, RunningConstants,
    RunningLayer,
};
use crate::ops::conv::cuda as conv;
use crate::ops::dropout;
use crate::ops::neuron::{DeviceNeurons, LANES, NeuronInputs, NeuronOutputs, cuda as neuron};
use crate::ops::rate::cuda::{self as rate, DeviceReadout};
use crate::ops::spike_conv::{self, LayerSums, Summand};
use crate::ranks::Cost;

/// One forward pass to be launched.
#[derive(Clone, Copy)]
pub(super) struct Pass<'a> {
    pub network: &'a Network,
    pub gpu: &'a Gpu,
    pub buffers: &'a Buffers,
    pub batch: usize,
    /// Frames of a sample: 1 or T.
    pub frames: usize,
    /// None in evaluation.
    pub training: Option<WeightGradient>,
    /// Whether a layer stores the sums of its convolutions between statistics and neurons.
    pub stores: &'a [bool],
    /// What was exchanged with other ranks so far.
    pub spent: &'a Cell<Cost>,
}

impl Network {
    /// Which layers store the sums of their convolutions in training.
    pub(super) fn stores(&self, training: Option<WeightGradient>) -> Vec<bool> {
        let demand = self.session.as_ref().and_then(|s| s.resident.as_ref()).map(|resident| resident.demand);
        let of_layer = |index: usize| match (training, &demand) {
            (Some(gradient), Some(demand)) => self.layers[index].norm.is_some() && self.stores_convolutions(index, gradient, demand),
            _ => false,
        };
        (0..self.layers.len()).map(of_layer).collect()
    }

    /// What computes the constants of all layers in evaluation, from running statistics.
    pub(super) fn running_constants(&self, gpu: &Arc<Gpu>, buffers: &Buffers) -> Result<RunningConstants> {
        let spent = &Cell::default();
        let pass = Pass { network: self, gpu, buffers, batch: 0, frames: 1, training: None, stores: &[], spent };
        let of_layer = |index: usize| pass.with_norms(index, |norms| RunningLayer::new(&buffers.layers[index].normalizer, norms));
        let layers = (0..self.layers.len()).map(of_layer).collect::<Result<Vec<_>>>()?;
        RunningConstants::new(gpu, &layers)
    }

    /// Mean firing rate of each layer from its number of spikes.
    pub(super) fn rates_of(&self, fired: &[u64], batch: usize) -> Vec<f32> {
        let sites = |neurons: usize| (batch * neurons * self.time_steps) as f64;
        self.layers.iter().zip(fired).map(|(layer, &fired)| (fired as f64 / sites(layer.neurons())) as f32).collect()
    }
}

impl Pass<'_> {
    /// Launches all layers and the readout. The numbers of spikes are zero before, as who has read them leaves them; in evaluation the
    /// constants of the layers are there already ([`Network::ready_for_evaluation`]), and kernels may begin before the one before them has
    /// ended, where the device has that.
    pub fn enqueue(&self) -> Result<()> {
        let Pass { gpu, buffers, .. } = self;
        let _phase = clock::span(Name::Phase(Phase::Forward));
        if self.training.is_none() {
            return gpu.chained(|| self.enqueue_layers());
        }
        gpu.fill_zero(buffers.statistics)?;
        self.enqueue_layers()
    }

    fn enqueue_layers(&self) -> Result<()> {
        let Pass { network, gpu, buffers, .. } = self;
        for index in 0..network.layers.len() {
            let _layer = clock::span(Name::Layer(index));
            clock::op(Op::Kernels, || {
                if network.neuron.is_real() {
                    self.real_layer(index)?
                } else {
                    self.layer(index)?
                }
                settle(gpu)
            })?;
        }
        if self.training.is_some() {
            self.add_integers(buffers.fired)?;
        }
        self.readout()
    }

    /// Logits from what the last layer has left, unless its kernel has written them.
    fn readout(&self) -> Result<()> {
        let Pass { network, gpu, buffers, batch, .. } = *self;
        let last = network.layers.len() - 1;
        let (layer, own) = (&network.layers[last], &buffers.layers[last]);
        if self.reads_out_itself(last) || (network.neuron.is_real() && layer.fires()) {
            return Ok(()); // the last layer of an ANN has written the logits, too
        }
        if !layer.fires() {
            let means = if own.weighted_normed.is_none() { own.mean_normed } else { own.weighted_normed };
            return rate::readout_current(gpu, buffers.logits, means, &own.normalizer, [batch, layer.neurons()]);
        }
        let (threshold, shape) = (buffers.threshold(network, layer), [batch, layer.positions(), layer.shape[2]]);
        rate::readout(gpu, buffers.logits, own.spikes, threshold, buffers.step_weights, network.neuron, shape)
    }

    /// Whether the kernel of a layer writes the logits: that of the last one in evaluation, if it convolves spikes.
    fn reads_out_itself(&self, index: usize) -> bool {
        let Pass { network, batch, .. } = *self;
        let is_last = index + 1 == network.layers.len();
        self.training.is_none() && is_last && !network.neuron.is_real() && network.layer_work(index, batch).convolutions > 0
    }

    /// Logits that the kernel of a layer writes.
    fn readout_of(&self, index: usize) -> DeviceReadout {
        let Pass { network, buffers, .. } = *self;
        if !self.reads_out_itself(index) {
            return DeviceReadout::default();
        }
        if !network.layers[index].fires() {
            return DeviceReadout::by_current(buffers.logits);
        }
        DeviceReadout::by_spikes(buffers.logits, buffers.step_weights, network.neuron)
    }

    fn layer(&self, index: usize) -> Result<()> {
        let Pass { network, gpu, buffers, batch, .. } = *self;
        let (layer, own) = (&network.layers[index], &buffers.layers[index]);
        let [positions, channels] = [batch * layer.positions(), layer.shape[2]];
        let is_training = self.training.is_some();
        if is_training && layer.dropout > 0.0 {
            let shape = [batch, layer.positions(), channels];
            dropout::draw(gpu, own.dropped, buffers.parameters, index, network.share.first(), shape, layer.dropout)?;
        }
        let summands = self.summands(index)?;
        let is_conv = |summand: &Summand| matches!(summand, Summand::Conv { .. });
        let sums = LayerSums { summands, batch, positions: layer.positions(), time_steps: network.time_steps, channels };
        // What the neurons read: the summands themselves, or the stored sums of the convolutions.
        let mut read = summands;
        if is_training {
            self.statistics_and_constants(index, &sums, &mut read)?;
        }
        let keeps_means = is_training || index + 1 == network.layers.len();
        let outputs = NeuronOutputs {
            spikes: own.spikes,
            counts: if is_training { own.counts } else { Slice::NONE },
            mean_normed: if keeps_means { own.mean_normed } else { Slice::NONE },
            weighted_normed: if keeps_means { own.weighted_normed } else { Slice::NONE },
            fired: buffers.fired.part(index..index + 1),
        };
        let inputs = NeuronInputs {
            normalizer: own.normalizer,
            threshold: buffers.threshold(network, layer),
            step_weights: buffers.step_weights,
            dropped: if is_training { own.dropped } else { Slice::NONE },
            neurons: DeviceNeurons::new(network.neuron, network.time_steps, channels),
        };
        if read.iter().any(is_conv) {
            let parts = if is_training { 1 } else { network.parts_of(index, batch, &buffers.scratch.parts) };
            let layer = LayerSums { summands: read, ..sums };
            spike_conv::neurons_in_parts(gpu, &layer, &inputs, &outputs, &self.readout_of(index), parts, &buffers.scratch.parts)?;
        } else if let (true, Some(inner), Some(summand)) = (is_training, &own.inner, own_norm(layer)) {
            let means = neuron::OwnMeans {
                plain: inner.mean_normed,
                weighted: inner.weighted_normed,
                inner: own.device_inner(),
                step_weights: buffers.step_weights,
                summand,
            };
            neuron::neurons_with_means(gpu, &inputs, &outputs, &read, positions, &means)?;
        } else {
            neuron::neurons(gpu, &inputs, &outputs, &read, positions)?;
        }
        if self.training == Some(WeightGradient::Unrolled) && layer.norm.is_some() {
            self.outer_products(index, &summands, &read)?;
        }
        Ok(())
    }

    /// Statistics of a layer where it has a batch norm, and its constants; leaves in `read` the sums that were stored on the way.
    fn statistics_and_constants(&self, index: usize, sums: &LayerSums, read: &mut [Summand; 2]) -> Result<()> {
        let Pass { network, gpu, buffers, batch, .. } = *self;
        let (layer, own) = (&network.layers[index], &buffers.layers[index]);
        let LayerSums { summands, positions, channels, .. } = *sums;
        let is_conv = |summand: &Summand| matches!(summand, Summand::Conv { .. });
        if layer.norm.is_none() {
            return self.normalizer(index, DeviceStatistics::None);
        }
        if let Summand::Real { sums, frames } = summands[0] {
            let real = buffers.scratch.real_statistics;
            batch_norm::statistics_of_real(gpu, real, sums, batch, positions * frames, channels)?;
            if !self.is_whole() {
                let sums = self.sum_samples(real, 2 * channels)?;
                return self.normalizer(index, DeviceStatistics::Reals { sums, batch: 1 });
            }
            return self.normalizer(index, DeviceStatistics::Reals { sums: real, batch });
        }
        let constants = self.batch_constants(index, DeviceStatistics::Integers(own.statistics))?;
        let is_alone = network.share.ranks().is_alone(); // else the constants wait for the statistics of all ranks
        if !summands.iter().any(is_conv) {
            let rows = batch * positions * network.time_steps;
            let [first, second] = &summands;
            if !is_alone {
                batch_norm::statistics_of_sums(gpu, own.statistics, first, second, rows, channels)?;
                self.add_integers(own.statistics)?;
                return constants.launch(gpu);
            }
            return batch_norm::statistics_of_sums_and_constants(gpu, own.statistics, first, second, rows, channels, &constants);
        }
        let mut stored = [Slice::NONE; 2];
        if self.stores[index] {
            for k in (0..2).filter(|&k| is_conv(&summands[k])) {
                stored[k] = buffers.scratch.sums[k];
                read[k] = Summand::Sums { sums: stored[k] };
            }
        }
        if !is_alone {
            spike_conv::sums(gpu, sums, stored, own.statistics)?;
            self.add_integers(own.statistics)?;
            return constants.launch(gpu);
        }
        spike_conv::sums_and_constants(gpu, sums, stored, own.statistics, &constants)
    }

    /// What the connections of a layer add up, with what has to be computed before its own kernels: real convolutions and pools.
    fn summands(&self, index: usize) -> Result<[Summand; 2]> {
        let Pass { network, gpu, buffers, batch, frames, .. } = *self;
        let mut summands = [Summand::None; 2];
        for (k, connection) in network.layers[index].connections.iter().enumerate() {
            let geometry = connection.geometry;
            let own = &buffers.layers[index].connections[k];
            summands[k] = match (connection.source, &connection.kind) {
                (Source::Input, kind) => {
                    let len = batch * geometry.positions() * frames * geometry.cout.next_multiple_of(LANES);
                    let sums = buffers.scratch.sums[0].part(0..len).cast::<f32>();
                    match kind {
                        Kind::Conv { weight, .. } => {
                            let weights = buffers.parameter(network, buffers.values, *weight);
                            conv::conv_real(gpu, sums, buffers.input, weights, &geometry, connection.replicate, [batch, frames])?;
                        }
                        Kind::Identity => conv::copy_real(gpu, sums, buffers.input, &geometry, [batch, frames])?,
                    }
                    Summand::Real { sums, frames }
                }
                (Source::Layer(source), kind) => {
                    let spikes = buffers.layers[source].spikes;
                    let is_pooled = geometry.is_pooled();
                    let shape = [batch, network.time_steps];
                    match kind {
                        Kind::Conv { .. } if is_pooled => {
                            let counts = buffers.scratch.pooled[k];
                            rate::pool_counts(gpu, counts, spikes, &geometry, shape)?;
                            Summand::Conv { source: spike_conv::Source::Counts(counts), weights: own.packed, geometry }
                        }
                        Kind::Conv { .. } => Summand::Conv { source: spike_conv::Source::Bits(spikes), weights: own.packed, geometry },
                        Kind::Identity if is_pooled => {
                            rate::pool_sums(gpu, buffers.scratch.sums[k], spikes, &geometry, shape)?;
                            Summand::Sums { sums: buffers.scratch.sums[k] }
                        }
                        Kind::Identity => Summand::Bits { spikes },
                    }
                }
            };
        }
        Ok(summands)
    }

    /// Constants of a layer in training, from the statistics of the batch.
    pub(super) fn normalizer(&self, index: usize, statistics: DeviceStatistics) -> Result<()> {
        self.batch_constants(index, statistics)?.launch(self.gpu)
    }

    /// What computes the constants of training.
    fn batch_constants(&self, index: usize, statistics: DeviceStatistics) -> Result<BatchConstants> {
        let Pass { network, buffers, frames, .. } = *self;
        let (layer, own) = (&network.layers[index], &buffers.layers[index]);
        let positions = self.total() * layer.positions();
        let seen = if layer.connections[0].source == Source::Input { frames } else { network.time_steps };
        let (inner, values) = (own.device_inner(), [positions * seen, positions * network.time_steps]);
        self.with_norms(index, |norms| BatchConstants::new(&own.normalizer, &inner, norms, statistics, values, own.counters))
    }

    /// Calls `then` with what the constants of a layer follow from.
    fn with_norms<R>(&self, index: usize, then: impl FnOnce(&LayerNorms) -> Result<R>) -> Result<R> {
        let Pass { network, buffers, .. } = *self;
        let (layer, own) = (&network.layers[index], &buffers.layers[index]);
        let parameter = |index: usize| buffers.parameter(network, buffers.values, index);
        let is_training = self.training.is_some();
        let of_connection = |(connection, own): (&Connection, &super::buffers::ConnectionBuffers)| {
            let (threshold, keep) = match connection.source {
                Source::Layer(source) if !network.neuron.is_real() => {
                    let source = &network.layers[source];
                    (buffers.threshold(network, source), if is_training { 1.0 - source.dropout } else { 1.0 })
                }
                _ => (Slice::NONE, 1.0), // real values are worth themselves
            };
            let bias = if let Kind::Conv { bias: Some(bias), .. } = connection.kind { parameter(bias) } else { Slice::NONE };
            let weight_scale = if connection.source == Source::Input { Slice::NONE } else { own.packed.scale };
            DeviceContribution { threshold, weight_scale, bias, keep, area: connection.geometry.area() }
        };
        let connections: Vec<DeviceContribution> = layer.connections.iter().zip(&own.connections).map(of_connection).collect();
        let device_norm = |index: usize| {
            let state = &network.norms[index];
            let [running_mean, running_var] = buffers.running_of(network, index);
            DeviceNorm { gamma: parameter(state.weight), beta: parameter(state.bias), running_mean, running_var }
        };
        then(&LayerNorms {
            connections: &connections,
            norm: layer.norm.map(device_norm),
            inner: layer.connections.iter().enumerate().find_map(|(k, c)| Some((k, device_norm(c.norm?)))),
            neuron: network.neuron,
            channels: layer.shape[2],
        })
    }

    /// `Σ_t x̂[t] ⊗ o[t]` of every convolution of a layer, for the unrolled weight gradient.
    fn outer_products(&self, index: usize, summands: &[Summand; 2], read: &[Summand; 2]) -> Result<()> {
        let Pass { network, gpu, buffers, batch, frames, .. } = *self;
        let (layer, own) = (&network.layers[index], &buffers.layers[index]);
        let is_real = layer.connections[0].source == Source::Input;
        let steps = if is_real { frames } else { network.time_steps };
        let [rows, channels] = [batch * layer.positions() * steps, layer.shape[2]];
        let normed = buffers.scratch.normed;
        if let (Some(k), Some(inner)) = (own_norm(layer), &own.inner) {
            batch_norm::normalize_inner_rows(gpu, normed, &own.device_inner(), &read[k], rows, channels)?;
            self.outer_product(index, k, &summands[k], inner.outer, steps)?;
        }
        batch_norm::normalize_rows(gpu, normed, &own.normalizer, &read[0], &read[1], rows, channels)?;
        for (k, connection) in layer.connections.iter().enumerate() {
            if matches!(connection.kind, Kind::Conv { .. }) {
                self.outer_product(index, k, &summands[k], own.connections[k].outer, steps)?;
            }
        }
        Ok(())
    }

    /// Products of the inputs of connection `k` with the rows in `scratch.normed`.
    fn outer_product(&self, index: usize, k: usize, summand: &Summand, outer: Slice<f32>, steps: usize) -> Result<()> {
        let Pass { network, gpu, buffers, batch, .. } = *self;
        let connection = &network.layers[index].connections[k];
        let geometry = &connection.geometry;
        let operand = match summand {
            Summand::Conv { source: spike_conv::Source::Bits(bits), .. } => conv::Operand::Bits { bits: *bits, steps },
            Summand::Conv { source: spike_conv::Source::Counts(counts), .. } => conv::Operand::PooledSteps { counts: *counts, steps },
            _ => conv::Operand::Real { input: buffers.input, frames: steps },
        };
        let (value, factor) = match connection.source {
            Source::Input => (Slice::NONE, (network.time_steps / steps) as f32),
            Source::Layer(source) => self.spike_value(source, geometry.area()),
        };
        gpu.fill_zero(outer)?;
        let (normed, workspace) = (buffers.scratch.normed, buffers.scratch.workspace[k]);
        let len = geometry.taps() * geometry.cin * geometry.cout;
        for (at, (_, samples)) in network.share.slices(batch).into_iter().enumerate() {
            let (outer, operand) = (outer.part(at * len..(at + 1) * len), operand.of_samples(samples.clone(), geometry));
            let normed = of_outputs(normed, &samples, geometry, steps);
            conv::weight_gradient(gpu, outer, operand, normed, geometry, 1, samples.len(), value, factor, workspace)?;
        }
        Ok(())
    }

    /// Threshold of a source, and what it is multiplied with to be the value of a spike in a pool window, in training.
    pub fn spike_value(&self, source: usize, area: usize) -> (Slice<f32>, f32) {
        let Pass { network, buffers, .. } = *self;
        let layer = &network.layers[source];
        let per_spike = network.neuron.spike_value(1.0);
        (buffers.threshold(network, layer), per_spike / (1.0 - layer.dropout) / area as f32)
    }
}

impl LayerBuffers {
    /// Constants of the connection with a norm of its own; none without.
    pub fn device_inner(&self) -> DeviceInner {
        let padded = self.normalizer.padded;
        self.inner.as_ref().map_or(DeviceInner::default(), |i| DeviceInner { values: i.constants, correlation: i.correlation, padded })
    }
}

/// The connection of a layer that has a norm of its own.
pub(super) fn own_norm(layer: &crate::network::SpikingLayer) -> Option<usize> {
    layer.connections.iter().position(|c| c.norm.is_some())
}
