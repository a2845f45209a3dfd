//! Everything a network needs in the memory of a CUDA device, laid out before the first step.

use super::Demand;
use super::slices::SliceBuffers;
use crate::device::{Layout, Products, Slice};
use crate::network::{Connection, Kind, Network, Source, SpikingLayer, WeightGradient};
use crate::ops::batch_norm::cuda::PADDING;
use crate::ops::batch_norm::cuda_values as batch_norm;
use crate::ops::conv::cuda as conv;
use crate::ops::cross_entropy::Blend;
use crate::ops::neuron::cuda as neuron;
use crate::ops::neuron::{LANES, Neuron};
use crate::ops::optimizer::cuda::{StepParameters, StepResult, clip_len};
use crate::ops::spike_conv::{BF16, DeviceNormalizer, PackedWeights, PartsRoom};

/// All buffers of a session; `Default` is none.
#[derive(Clone, Debug, Default)]
pub(super) struct Buffers {
    /// Values, gradients and optimiser state, each as long as the arena on the host.
    pub values: Slice<f32>,
    pub grads: Slice<f32>,
    pub first: Slice<f32>,
    pub second: Slice<f32>,
    /// Averages of values and running statistics, where the optimiser keeps them.
    pub average: Slice<f32>,
    pub average_running: Slice<f32>,
    /// Bits of the parameters that are spared from weight decay.
    pub spared: Slice<u32>,
    /// Partial sums of the norm of all gradients.
    pub norm_parts: Slice<f64>,
    /// Running mean, then variance, of one norm after the other.
    pub running: Slice<f32>,
    /// `[B][1 or T][H][W][C]`.
    pub input: Slice<f32>,
    /// r(gradient of the input), `[B][H][W][C]`.
    pub input_grad: Slice<f32>,
    pub labels: Slice<u32>,
    /// Of mixed samples, `[B]`.
    pub blends: Slice<Blend>,
    /// `[B][classes]`.
    pub logits: Slice<f32>,
    /// `[B]`.
    pub losses: Slice<f64>,
    /// Share of each step in the representation, `[T]`.
    pub step_weights: Slice<f32>,
    /// Statistics of all layers with their counters, none of an ANN; cleared before a forward pass in training mode.
    pub statistics: Slice<u64>,
    /// Spikes of each layer; cleared before a forward pass.
    pub fired: Slice<u64>,
    /// Places of the thresholds in the arena, a layer.
    pub thresholds: Slice<u32>,
    pub parameters: Slice<StepParameters>,
    pub result: Slice<StepResult>,
    pub layers: Vec<LayerBuffers>,
    pub scratch: Scratch,
    pub slices: SliceBuffers,
}

/// Buffers of one layer.
#[derive(Clone, Debug, Default)]
pub(super) struct LayerBuffers {
    /// `[B][P][T][words]`; none of an ANN.
    pub spikes: Slice<u32>,
    /// Outputs of a layer of an ANN, `[B][P][C]`, where an identity, a pool or the host reads them; of the last one they are the logits.
    pub values: Slice<f32>,
    /// The same as bf16, where a convolution reads them.
    pub rounded: Slice<u16>,
    pub normalizer: DeviceNormalizer,
    /// `[8][C]`.
    pub statistics: Slice<u64>,
    /// Blocks that have added to them, one for 64 channels.
    pub counters: Slice<u64>,
    pub connections: Vec<ConnectionBuffers>,
    // From here on for training only, but for the means of the last layer.
    /// `[B][P][C]`.
    pub counts: Slice<u8>,
    pub mean_normed: Slice<f32>,
    /// LIF only.
    pub weighted_normed: Slice<f32>,
    /// `[B][P][words]`, with dropout only.
    pub dropped: Slice<u32>,
    /// The connection with a norm of its own.
    pub inner: Option<InnerBuffers>,
    /// Gradient of the representation, `[B][P][C]`: one of a few buffers that layers share.
    pub grad: Slice<f32>,
}

/// Buffers of one connection.
#[derive(Clone, Debug, Default)]
pub(super) struct ConnectionBuffers {
    /// Weights of a convolution as kernels read them.
    pub packed: PackedWeights,
    /// `Σ_t x̂[t] ⊗ o[t]`, `[own slices][tap][cin][cout]`, in `unrolled` mode behind a batch norm.
    pub outer: Slice<f32>,
}

/// Buffers of the connection with a norm of its own.
#[derive(Clone, Debug, Default)]
pub(super) struct InnerBuffers {
    /// `[5][padded]`.
    pub constants: Slice<f32>,
    /// `[padded]`.
    pub correlation: Slice<f64>,
    /// `[B][P][C]`.
    pub mean_normed: Slice<f32>,
    /// None of an ANN, where both are the same.
    pub weighted_normed: Slice<f32>,
    /// `Σ_t û[t] ⊗ o[t]`, in `unrolled` mode.
    pub outer: Slice<f32>,
}

/// Buffers that one layer after the other uses; each as large as the largest use.
#[derive(Clone, Debug, Default)]
pub(super) struct Scratch {
    /// Sums `[B][P][T or 1][stride]` of the first and second connection; of an ANN f32 in their bits.
    pub sums: [Slice<i32>; 2],
    /// Spikes in the pool windows of either connection, `[B][P_pooled][T][C padded]`.
    pub pooled: [Slice<u8>; 2],
    /// Sums of tiles that several blocks share, in evaluation.
    pub parts: PartsRoom,
    /// `[samples][2][C]` of the layer that reads the input; of an ANN `[5][C]` of a layer.
    pub real_statistics: Slice<f64>,
    /// x̂[t] in `unrolled` mode, `[B][P][T or 1][C]` bf16.
    pub normed: Slice<u16>,
    /// Backward: partial sums of channels, the same of biases (of the connection with a norm of its own the second), which wait as those
    /// of weights do, and constants `[padded]`.
    pub partial: Slice<f64>,
    pub bias_partial: [Slice<f64>; 2],
    pub mean: Slice<f32>,
    pub k: Slice<f32>,
    /// Gradients of a current, `[B][P][C]`: bf16 for the products, f32 for identities. First those that connections share, then those of
    /// the connection with a norm of its own.
    pub plain: [Slice<u16>; 2],
    pub weighted: [Slice<u16>; 2],
    pub weighted_f32: [Slice<f32>; 2],
    /// Gradient of a pooled source, `[B][P_pooled][C]`.
    pub pooled_grad: Slice<f32>,
    /// Counts in pool windows, `[B][P_pooled][C]`; of an ANN bf16 means in the windows, in evaluation, too.
    pub totals: Slice<u16>,
    /// Partial weight gradients of either connection: those of a layer are added up behind the clamp mapping of the one before it.
    pub workspace: [Slice<f32>; 2],
}

impl Buffers {
    /// Lays out what `demand` needs; the same code measures and cuts.
    pub fn lay_out(network: &Network, demand: &Demand, layout: &mut Layout) -> Buffers {
        let len = network.values.len();
        let (batch, time_steps) = (demand.batch, network.time_steps);
        let frame: usize = network.input.iter().product();
        let is_training = demand.training.is_some();
        let is_real = network.neuron.is_real();
        let in_training = |len: usize| if is_training { len } else { 0 };
        let norms: usize = network.norms.iter().map(|n| 2 * n.running_mean.len()).sum();
        let statistics: usize = network.layers.iter().map(|l| statistics_of(l).iter().sum::<usize>()).sum();
        let mut buffers = Buffers {
            values: layout.take(len),
            grads: take(layout, in_training(len)),
            first: take(layout, in_training(len)),
            second: take(layout, if demand.optimizer.second { len } else { 0 }),
            average: take(layout, if demand.optimizer.averages { len } else { 0 }),
            average_running: take(layout, if demand.optimizer.averages { norms } else { 0 }),
            spared: take(layout, if demand.optimizer.spared { len.div_ceil(32) } else { 0 }),
            norm_parts: take(layout, if demand.optimizer.clips { clip_len(len) } else { 0 }),
            running: take(layout, norms),
            input: layout.take(batch * demand.frames * frame),
            input_grad: take(layout, in_training(batch * frame)),
            labels: layout.take(batch),
            blends: take(layout, in_training(batch)),
            logits: layout.take(batch * network.classes),
            losses: take(layout, in_training(batch)),
            step_weights: layout.take(time_steps),
            statistics: take(layout, if is_real { 0 } else { in_training(statistics) }),
            fired: layout.take(network.layers.len()),
            thresholds: layout.take(network.firing_layers().count()),
            parameters: layout.take(1),
            result: layout.take(1),
            layers: Vec::new(),
            scratch: Scratch::lay_out(network, demand, layout),
            slices: SliceBuffers::lay_out(network, demand, layout),
        };
        let mut statistics = 0;
        for index in 0..network.layers.len() {
            let mut layer = LayerBuffers::lay_out(network, index, demand, layout);
            if is_training && !is_real {
                let [sums, counters] = statistics_of(&network.layers[index]);
                layer.statistics = buffers.statistics.part(statistics..statistics + sums);
                layer.counters = buffers.statistics.part(statistics + sums..statistics + sums + counters);
                statistics += sums + counters;
            }
            buffers.layers.push(layer);
        }
        if let (true, Some(last)) = (is_real, buffers.layers.last_mut()) {
            last.values = buffers.logits;
        }
        if is_training {
            lay_out_gradients(network, batch, layout, &mut buffers.layers);
        }
        buffers
    }

    /// Where the arenas of an optimiser lie, in the order of [`crate::Optimizer::arenas`].
    pub fn optimizer_arenas(&self) -> [Slice<f32>; 4] {
        [self.first, self.second, self.average, self.average_running]
    }

    /// Running mean and variance of norm `index`.
    pub fn running_of(&self, network: &Network, index: usize) -> [Slice<f32>; 2] {
        network.running_places(index).map(|place| self.running.part(place))
    }

    /// Part of an arena that holds parameter `index`.
    pub fn parameter(&self, network: &Network, arena: Slice<f32>, index: usize) -> Slice<f32> {
        let parameter = &network.parameters[index];
        arena.part(parameter.start..parameter.start + parameter.len)
    }

    /// Threshold of a layer among the parameters; none where it has no neurons.
    pub fn threshold(&self, network: &Network, layer: &SpikingLayer) -> Slice<f32> {
        layer.threshold.map_or(Slice::NONE, |threshold| self.parameter(network, self.values, threshold))
    }

    /// Bytes that are kept from forward to backward.
    pub fn kept_bytes(&self) -> usize {
        if self.grads.is_none() {
            return 0; // evaluation
        }
        let of_layer = |layer: &LayerBuffers| {
            let mut bytes = layer.counts.bytes() + layer.mean_normed.bytes() + layer.weighted_normed.bytes() + layer.dropped.bytes();
            bytes += layer.values.bytes() + layer.rounded.bytes();
            bytes += layer.connections.iter().map(|c| c.outer.bytes()).sum::<usize>();
            if let Some(inner) = &layer.inner {
                bytes += inner.mean_normed.bytes() + inner.weighted_normed.bytes() + inner.outer.bytes();
            }
            bytes
        };
        self.layers.iter().map(of_layer).sum()
    }
}

/// Statistics of a layer, and their counters.
fn statistics_of(layer: &SpikingLayer) -> [usize; 2] {
    [8 * layer.shape[2], layer.shape[2].div_ceil(PADDING)]
}

impl LayerBuffers {
    fn lay_out(network: &Network, index: usize, demand: &Demand, layout: &mut Layout) -> LayerBuffers {
        let layer = &network.layers[index];
        let channels = layer.shape[2];
        let padded = channels.next_multiple_of(64);
        let positions = demand.batch * layer.positions();
        let neurons = positions * channels;
        let in_training = |len: usize| if demand.training.is_some() { len } else { 0 };
        let is_weighted = matches!(network.neuron, Neuron::Lif { .. });
        let is_unrolled = demand.training == Some(WeightGradient::Unrolled) && layer.norm.is_some();
        let weights = |c: &Connection| c.geometry.taps() * c.geometry.cin * c.geometry.cout;
        let outer = |c: &Connection| if is_unrolled { demand.cut.own() * weights(c) } else { 0 };
        let own = layer.connections.iter().find(|c| c.norm.is_some());
        let is_real = network.neuron.is_real();
        let has = |is_there: bool, len: usize| if is_there { len } else { 0 };
        let [reads_values, reads_rounded] = network.reads_outputs(index);
        let is_last = index + 1 == network.layers.len();
        let keeps_means = demand.training.is_some() || (is_last && (!is_real || !layer.fires()));
        LayerBuffers {
            spikes: take(layout, has(!is_real, positions * network.time_steps * channels.div_ceil(32))),
            values: take(layout, has(is_real && !is_last && (reads_values || demand.activations), neurons)),
            rounded: take(layout, has(is_real && reads_rounded, neurons)),
            normalizer: DeviceNormalizer { values: layout.take(6 * padded), padded },
            statistics: Slice::NONE,
            counters: Slice::NONE,
            counts: take(layout, if is_real { 0 } else { in_training(neurons) }),
            mean_normed: take(layout, has(keeps_means, neurons)),
            weighted_normed: take(layout, has(keeps_means && is_weighted, neurons)),
            dropped: take(layout, if layer.dropout > 0.0 { in_training(positions * channels.div_ceil(32)) } else { 0 }),
            inner: own.filter(|_| demand.training.is_some()).map(|connection| InnerBuffers {
                constants: layout.take(5 * padded),
                correlation: layout.take(padded),
                mean_normed: layout.take(neurons),
                weighted_normed: take(layout, has(!is_real, neurons)),
                outer: take(layout, outer(connection)),
            }),
            grad: Slice::NONE,
            connections: layer
                .connections
                .iter()
                .map(|connection| match connection.kind {
                    Kind::Identity => ConnectionBuffers::default(),
                    Kind::Conv { .. } => ConnectionBuffers {
                        packed: PackedWeights::take_for(
                            layout,
                            &connection.geometry,
                            if is_real { BF16 } else { network.weight_bits },
                            network.session.as_ref().map_or(Products::Integer, |session| session.gpu.products()),
                        ),
                        outer: take(layout, outer(connection)),
                    },
                })
                .collect(),
        }
    }
}

impl Scratch {
    fn lay_out(network: &Network, demand: &Demand, layout: &mut Layout) -> Scratch {
        let (batch, time_steps) = (demand.batch, network.time_steps);
        let is_training = demand.training.is_some();
        let in_training = |len: usize| if is_training { len } else { 0 };
        let is_unrolled = demand.training == Some(WeightGradient::Unrolled);
        let is_real = network.neuron.is_real();
        let mut sums = [0; 2];
        let mut pooled = [0; 2];
        let (mut real, mut normed, mut partial, mut neurons, mut padded) = (0, 0, 0, [0; 2], 0);
        let mut own_identity = false;
        let (mut pooled_grad, mut totals, mut workspace, mut bias_partial) = (0, 0, [0; 2], [0; 2]);
        for (index, layer) in network.layers.iter().enumerate() {
            let positions = batch * layer.positions();
            let channels = layer.shape[2];
            let frames = if layer.connections[0].source == Source::Input { demand.frames } else { time_steps };
            for (k, connection) in layer.connections.iter().enumerate() {
                let geometry = &connection.geometry;
                let pooled_positions = batch * geometry.pooled().iter().product::<usize>();
                let is_pooled = geometry.is_pooled();
                let is_conv = matches!(connection.kind, Kind::Conv { .. });
                if connection.norm.is_some() {
                    neurons[1] = neurons[1].max(positions * channels);
                    own_identity |= !is_conv;
                }
                if network.stores_sums(index, k, demand) {
                    sums[k] = sums[k].max(positions * frames * channels.next_multiple_of(LANES));
                }
                if is_pooled && is_conv {
                    let counts = pooled_positions * time_steps * geometry.cin.next_multiple_of(32);
                    pooled[k] = if is_real { 0 } else { pooled[k].max(counts) };
                    totals = totals.max(pooled_positions * geometry.cin);
                }
                if matches!(connection.kind, Kind::Conv { bias: Some(_), .. }) {
                    let own = usize::from(connection.norm.is_some());
                    bias_partial[own] = bias_partial[own].max(neuron::bias_partial_len(positions, channels));
                }
                if is_pooled {
                    pooled_grad = pooled_grad.max(pooled_positions * geometry.cin);
                }
                if is_conv {
                    let rows = positions * if is_unrolled { frames } else { 1 };
                    workspace[k] = workspace[k].max(conv::weight_gradient_workspace(geometry, rows));
                }
            }
            if is_real {
                real = real.max(5 * channels);
                partial = partial.max(batch_norm::partial_len(positions, channels));
            } else if layer.connections[0].source == Source::Input {
                real = real.max(batch * 2 * channels);
            }
            if is_unrolled && layer.norm.is_some() {
                normed = normed.max(positions * frames * channels);
            }
            partial = partial.max(neuron::partial_len(positions, channels));
            neurons[0] = neurons[0].max(positions * channels);
            padded = padded.max(channels.next_multiple_of(64));
        }
        Scratch {
            sums: sums.map(|len| take(layout, len)),
            pooled: pooled.map(|len| take(layout, len)),
            parts: network.take_parts(demand, layout),
            real_statistics: take(layout, in_training(real)),
            normed: take(layout, in_training(normed)),
            partial: take(layout, in_training(partial)),
            bias_partial: bias_partial.map(|len| take(layout, in_training(len))),
            mean: take(layout, in_training(padded)),
            k: take(layout, in_training(padded)),
            plain: neurons.map(|len| take(layout, in_training(len))),
            weighted: neurons.map(|len| take(layout, in_training(len))),
            weighted_f32: [neurons[0], if own_identity { neurons[1] } else { 0 }].map(|len| take(layout, in_training(len))),
            pooled_grad: take(layout, in_training(pooled_grad)),
            totals: take(layout, if is_real { totals } else { in_training(totals) }),
            workspace: workspace.map(|len| take(layout, in_training(len))),
        }
    }
}

impl Network {
    /// Whether later layers read the outputs of layer `index` of an ANN as they are, and whether they read them as bf16.
    fn reads_outputs(&self, index: usize) -> [bool; 2] {
        let readers = || self.layers.iter().flat_map(|l| &l.connections).filter(|c| c.source == Source::Layer(index));
        let is_rounded = |c: &Connection| matches!(c.kind, Kind::Conv { .. }) && !c.geometry.is_pooled();
        [readers().any(|c| !is_rounded(c)), readers().any(is_rounded)]
    }
}

/// Gradients of layers share buffers: one is taken when the first reader of a layer adds to it, and free once the layer is done.
fn lay_out_gradients(network: &Network, batch: usize, layout: &mut Layout, layers: &mut [LayerBuffers]) {
    let size = |layer: usize| batch * network.layers[layer].neurons();
    let mut slots: Vec<usize> = Vec::new(); // size of each buffer
    let mut free: Vec<usize> = Vec::new();
    let mut slot_of: Vec<Option<usize>> = vec![None; layers.len()];
    let last = layers.len() - 1;
    let mut take_slot = |layer: usize, free: &mut Vec<usize>, slot_of: &mut Vec<Option<usize>>| {
        if slot_of[layer].is_none() {
            // The free buffer that fits best: the smallest that is large enough, else the largest.
            let best = |a: &&usize| (slots[**a] < size(layer), if slots[**a] < size(layer) { usize::MAX - slots[**a] } else { slots[**a] });
            let slot = free.iter().min_by_key(best).copied();
            let slot = slot.unwrap_or_else(|| {
                slots.push(0);
                slots.len() - 1
            });
            free.retain(|other| *other != slot);
            slots[slot] = slots[slot].max(size(layer));
            slot_of[layer] = Some(slot);
        }
    };
    take_slot(last, &mut free, &mut slot_of);
    for layer in (0..layers.len()).rev() {
        for connection in &network.layers[layer].connections {
            if let Source::Layer(source) = connection.source {
                take_slot(source, &mut free, &mut slot_of);
            }
        }
        free.extend(slot_of[layer]);
    }
    let memory: Vec<Slice<f32>> = slots.iter().map(|&len| layout.take(len)).collect();
    for (layer, buffers) in layers.iter_mut().enumerate() {
        if let Some(slot) = slot_of[layer] {
            buffers.grad = memory[slot].part(0..size(layer));
        }
    }
}

/// A buffer, or none of no elements: kernels tell an absent one by its null pointer.
fn take<T: bytemuck::Pod>(layout: &mut Layout, len: usize) -> Slice<T> {
    if len == 0 { Slice::NONE } else { layout.take(len) }
}
