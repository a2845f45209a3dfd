//! How much work a row stands for: operations, and bytes that must be read or written at least once.

use serde::Serialize;

use super::rows::Row;
use crate::bench::Work;
use crate::clock::{Op, Phase};
use crate::evaluation::synaptic::{Operations, of_connection};
use crate::network::{Connection, Kind, Network, Source};
use crate::ops::optimizer::{Optimizer, Rule};
use crate::spikes::Spikes;

/// Work of one row in one step; none where it is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Amount {
    /// Additions that spikes cause, multiply-accumulates of real values, updates of neurons or parameters.
    pub operations: Option<u64>,
    /// The same if every neuron fired at every step.
    pub dense_operations: Option<u64>,
    pub bytes: Option<u64>,
}

impl Amount {
    fn of(operations: u64, bytes: u64) -> Amount {
        Amount { operations: Some(operations), dense_operations: Some(operations), bytes: Some(bytes) }
    }

    /// Adds another amount; what is known of one only is kept.
    pub fn add(&mut self, other: Amount) {
        let sum = |a: Option<u64>, b: Option<u64>| if a.is_none() && b.is_none() { None } else { Some(a.unwrap_or(0) + b.unwrap_or(0)) };
        self.operations = sum(self.operations, other.operations);
        self.dense_operations = sum(self.dense_operations, other.dense_operations);
        self.bytes = sum(self.bytes, other.bytes);
    }
}

/// What the amounts are counted from.
pub struct Counted<'a> {
    pub work: Work,
    pub network: &'a Network,
    pub optimizer: Option<&'a Optimizer>,
    /// Of all layers.
    pub spikes: &'a [Option<Spikes>],
    pub batch: usize,
    pub frames: usize,
}

impl Counted<'_> {
    /// Work of a row.
    pub fn amount(&self, row: &Row) -> Amount {
        match (row.layer, row.phase) {
            (Some(layer), Some(Phase::Backward)) => self.backward(layer, row.op),
            (Some(layer), _) => self.forward(layer, row.op),
            (None, _) => self.parameters(row.op),
        }
    }

    fn forward(&self, index: usize, op: Op) -> Amount {
        let layer = &self.network.layers[index];
        let steps = |connection: &Connection| if self.sums_are_static(connection) { 1 } else { self.network.time_steps } as u64;
        let (positions, channels) = ((self.batch * layer.positions()) as u64, layer.shape[2] as u64);
        let is_training = self.work == Work::Train;
        // In training, sums of convolutions are stored between the two passes, 4 bytes each; so are those of a first identity.
        let stored = |k: usize, connection: &Connection| {
            let is_stored = is_training && (k == 0 || matches!(connection.kind, Kind::Conv { .. }));
            if is_stored { 4 * positions * steps(connection) * channels.next_multiple_of(16) } else { 0 }
        };
        let kind = |connection: &Connection| match (connection.source, &connection.kind) {
            (_, Kind::Identity) => Op::Identity,
            (Source::Input, _) => Op::InputConvolution,
            (Source::Layer(_), _) => Op::SpikeConvolution,
        };
        match op {
            Op::InputConvolution | Op::SpikeConvolution | Op::Identity => {
                let mut amount = Amount::default();
                for (k, connection) in layer.connections.iter().enumerate().filter(|(_, connection)| kind(connection) == op) {
                    let Operations { actual, dense } = self.operations(connection);
                    let weights = self.weights(connection) * if op == Op::SpikeConvolution { self.weight_bytes() } else { 4 };
                    let bytes = self.source_bytes(connection) + weights + stored(k, connection);
                    amount.add(Amount { operations: Some(actual), dense_operations: Some(dense), bytes: Some(bytes) });
                }
                amount
            }
            Op::Neurons => {
                let updates = positions * channels * self.network.time_steps as u64;
                let spikes = self.spike_bytes(index);
                let kept = if is_training { positions * channels * (5 + 4 * u64::from(self.is_weighted())) } else { 0 };
                let read: u64 = layer.connections.iter().enumerate().map(|(k, connection)| stored(k, connection)).sum();
                Amount::of(updates, spikes + kept + read)
            }
            _ => Amount::default(),
        }
    }

    fn backward(&self, index: usize, op: Op) -> Amount {
        let layer = &self.network.layers[index];
        let neurons = (self.batch * layer.neurons()) as u64;
        let means = 4 + 4 * u64::from(self.is_weighted());
        let mut amount = Amount::default();
        match op {
            Op::ClampMapping => amount = Amount::of(neurons, neurons * (8 + means)),
            Op::CurrentGradient if layer.norm.is_some() => amount = Amount::of(neurons, neurons * (8 + means)),
            Op::WeightGradient | Op::DataGradient => {
                for connection in &layer.connections {
                    let geometry = &connection.geometry;
                    let is_conv = matches!(connection.kind, Kind::Conv { .. });
                    let products = if is_conv { geometry.dense_macs() * self.batch as u64 } else { 0 };
                    let weights = 4 * self.weights(connection);
                    let source = (self.batch * geometry.source.iter().product::<usize>() * geometry.cin) as u64;
                    match (op, connection.source) {
                        (Op::WeightGradient, Source::Layer(_)) if is_conv => {
                            amount.add(Amount::of(products, 4 * neurons + source + 2 * weights))
                        }
                        (Op::WeightGradient, Source::Input) if is_conv => {
                            amount.add(Amount::of(products, 4 * neurons + 4 * source * self.frames as u64 + 2 * weights));
                        }
                        (Op::DataGradient, Source::Layer(_)) => amount.add(Amount::of(products, 4 * neurons + weights + 8 * source)),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
        amount
    }

    /// Work on all parameters at once.
    fn parameters(&self, op: Op) -> Amount {
        let all = self.network.len() as u64;
        let connections = self.network.layers.iter().flat_map(|layer| &layer.connections);
        match (op, self.optimizer.map(|optimizer| optimizer.rule)) {
            (Op::ClearGradients, _) => Amount::of(all, 4 * all),
            (Op::FiniteCheck, _) => Amount::of(2 * all, 8 * all),
            (Op::Update, Some(Rule::Sgd { .. })) => Amount::of(all, 20 * all), // value, gradient, momentum; two are written
            (Op::Update, Some(Rule::Adam { .. } | Rule::AdamW { .. })) => Amount::of(all, 28 * all),
            (Op::Quantize, _) => {
                let weights =
                    connections.filter(|connection| connection.source != Source::Input).map(|connection| self.weights(connection));
                let weights: u64 = weights.sum();
                Amount::of(weights, (4 + self.weight_bytes()) * weights)
            }
            _ => Amount::default(),
        }
    }

    /// Operations of a layer's connections in one forward pass.
    pub fn layer_operations(&self, index: usize) -> Operations {
        self.network.layers[index]
            .connections
            .iter()
            .map(|connection| self.operations(connection))
            .fold(Operations::default(), |a, b| Operations { actual: a.actual + b.actual, dense: a.dense + b.dense })
    }

    /// Bytes of a layer's spikes.
    pub fn spike_bytes(&self, index: usize) -> u64 {
        let layer = &self.network.layers[index];
        (4 * self.batch * layer.positions() * self.network.time_steps * layer.shape[2].div_ceil(32)) as u64
    }

    fn operations(&self, connection: &Connection) -> Operations {
        let spikes = if let Source::Layer(source) = connection.source { self.spikes[source].as_ref() } else { None };
        of_connection(connection, spikes, self.network.time_steps, self.batch, self.frames)
    }

    fn sums_are_static(&self, connection: &Connection) -> bool {
        connection.source == Source::Input && self.frames == 1
    }

    fn source_bytes(&self, connection: &Connection) -> u64 {
        match connection.source {
            Source::Input => (4 * self.batch * self.frames * self.network.input.iter().product::<usize>()) as u64,
            Source::Layer(source) => self.spike_bytes(source),
        }
    }

    /// Bytes of a weight in the forward pass.
    fn weight_bytes(&self) -> u64 {
        u64::from(self.network.weight_bits / 8)
    }

    fn weights(&self, connection: &Connection) -> u64 {
        match connection.kind {
            Kind::Conv { .. } => (connection.geometry.taps() * connection.geometry.cin * connection.geometry.cout) as u64,
            Kind::Identity => 0,
        }
    }

    fn is_weighted(&self) -> bool {
        matches!(self.network.neuron, crate::ops::neuron::Neuron::Lif { .. })
    }
}
