//! The memory that a network will need on the CPU, from its layers alone: it is compared with what there is before any of it is taken.
//!
//! It counts what has to be in memory at once, and leaves out what may be there besides (buffers of threads, batches that wait, copies
//! that come and go). So it is below what a run really takes, and a run that fits is not refused.

use super::{Builder, Connection, Kind, Source, SpikingLayer};
use crate::device::room::Bytes;
use crate::ops::neuron::{LANES, Neuron};

/// What a network is going to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Forward passes in evaluation.
    Evaluate,
    /// A forward pass in training on a copy, for the statistics of an untrained network.
    Settle,
    /// Training steps with an optimiser of so many values a parameter.
    Train { state: u64 },
    /// Single ops at the shapes of its layers.
    Ops,
}

/// A network at work.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    pub purpose: Purpose,
    pub neuron: Neuron,
    pub time_steps: usize,
    pub weight_bits: u8,
    /// Samples computed at once.
    pub batch: usize,
    /// Frames a sample: 1 or T.
    pub frames: usize,
}

/// Bytes of one layer at work.
#[derive(Clone, Copy, Debug, Default)]
struct LayerBytes {
    /// Spikes; real values of an ANN.
    output: u64,
    /// The same of the layers that it reads.
    sources: u64,
    /// Sums of the first connection that training stores, and of the second.
    sums: [u64; 2],
    /// Kept for backward.
    kept: u64,
    /// Gradients of the layer and of the largest layer that it reads.
    grads: u64,
}

/// The product of sizes; the largest number where it would be beyond that.
fn product(sizes: &[usize]) -> u64 {
    sizes.iter().fold(1, |product: u64, &size| product.saturating_mul(size as u64))
}

impl Builder {
    /// Bytes of the host's memory that the network needs at least for a workload on the CPU.
    pub fn demand(&self, work: &Workload) -> Bytes {
        let values = product(&[self.len, 4]);
        let weights = values.saturating_add(self.quantized_bytes(work));
        let layers: Vec<LayerBytes> = self.layers.iter().map(|layer| self.layer_bytes(layer, work)).collect();
        let most = |of: fn(&LayerBytes) -> u64| layers.iter().map(of).max().unwrap_or(0);
        // An ANN in training keeps the outputs of all its layers.
        let keeps_outputs = work.neuron.is_real() && work.purpose != Purpose::Evaluate;
        let passing = if keeps_outputs { 0 } else { most(|layer| layer.output.saturating_add(layer.sources)) };
        let kept = layers.iter().fold(0u64, |sum, layer| sum.saturating_add(layer.kept));
        let sums = most(|layer| layer.sums[0]).saturating_add(most(|layer| layer.sums[1]));
        let grads = values;
        let (parts, reserved) = match work.purpose {
            Purpose::Evaluate => (vec![weights, passing], grads),
            Purpose::Settle => (vec![weights, weights, passing, kept, sums], grads),
            Purpose::Train { state } => {
                (vec![weights, grads, values.saturating_mul(state), passing, kept, sums, most(|layer| layer.grads)], 0)
            }
            Purpose::Ops => (vec![weights, most(|layer| layer.output.saturating_add(layer.sums[0]))], grads),
        };
        let input = product(&[work.batch, work.frames, 4]).saturating_mul(product(&self.input));
        Bytes { written: parts.iter().fold(input, |sum, &part| sum.saturating_add(part)), reserved }
    }

    /// Fixed-point weights of the connections from spikes.
    fn quantized_bytes(&self, work: &Workload) -> u64 {
        if work.neuron.is_real() {
            return 0;
        }
        let of_spikes = |connection: &&Connection| connection.source != Source::Input && matches!(connection.kind, Kind::Conv { .. });
        let connections = self.layers.iter().flat_map(|layer| &layer.connections).filter(of_spikes);
        let weights = connections.map(|connection| &connection.geometry).map(|g| product(&[g.taps(), g.cin, g.cout]));
        weights.fold(0, |sum: u64, weights| sum.saturating_add(weights.saturating_mul(u64::from(work.weight_bits) / 8)))
    }

    fn layer_bytes(&self, layer: &SpikingLayer, work: &Workload) -> LayerBytes {
        let Workload { batch, time_steps, frames, neuron, .. } = *work;
        let is_real = neuron.is_real();
        let neurons = |[height, width, channels]: [usize; 3]| product(&[batch, height, width, channels]);
        let output = |[height, width, channels]: [usize; 3]| match is_real {
            true => neurons([height, width, channels]).saturating_mul(4),
            false => product(&[batch, height, width, time_steps, channels.div_ceil(32), 4]),
        };
        let mut read: Vec<[usize; 3]> = Vec::new();
        for (at, connection) in layer.connections.iter().enumerate() {
            let is_again = layer.connections[..at].iter().any(|earlier| earlier.source == connection.source);
            if connection.source != Source::Input && !is_again {
                read.push(self.shape(connection.source));
            }
        }
        let [height, width, channels] = layer.shape;
        let from_input = layer.connections[0].source == Source::Input;
        let sums = |frames: usize| product(&[batch, height, width, frames, channels.next_multiple_of(LANES), 4]);
        let second_is_conv = layer.connections.get(1).is_some_and(|second| matches!(second.kind, Kind::Conv { .. }));
        let own_norm = if layer.connections.iter().any(|connection| connection.norm.is_some()) { 8 } else { 0 };
        let kept_a_neuron = own_norm
            + match neuron {
                Neuron::If { .. } => 1 + 4,
                Neuron::Lif { .. } => 1 + 4 + 4,
                Neuron::Relu => 4 + 4,
            };
        let dropped = if layer.dropout > 0.0 { product(&[batch, height, width, channels.div_ceil(32), 4]) } else { 0 };
        let of_sources = |of: &dyn Fn([usize; 3]) -> u64| read.iter().map(|&shape| of(shape)).collect::<Vec<u64>>();
        LayerBytes {
            output: output(layer.shape),
            sources: of_sources(&output).iter().fold(0, |sum, &bytes| sum.saturating_add(bytes)),
            sums: match is_real {
                true => [0, 0],
                false => [sums(if from_input { frames } else { time_steps }), if second_is_conv { sums(time_steps) } else { 0 }],
            },
            kept: neurons(layer.shape).saturating_mul(kept_a_neuron).saturating_add(dropped),
            grads: neurons(layer.shape).saturating_add(of_sources(&neurons).into_iter().max().unwrap_or(0)).saturating_mul(4),
        }
    }
}
