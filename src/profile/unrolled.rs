//! What `--weight-gradient unrolled` adds to a step on a GPU, by the formula of `predict.rs`: the normalised current of every step, its
//! products with the spikes of that step in the forward pass, and their subtraction from the gradients.

use super::predict::{Cost, Shape, weights_of};
use crate::network::{Connection, Kind, Source, WeightGradient};

impl Shape<'_> {
    /// Whether products of a layer are kept step by step: those behind a batch norm, in training.
    pub(super) fn is_unrolled(&self, index: usize) -> bool {
        self.training.is_some_and(|training| training.gradient == WeightGradient::Unrolled) && self.network.layers[index].norm.is_some()
    }

    /// Its part of the forward pass.
    pub(super) fn outer_products(&self, index: usize) -> Cost {
        let layer = &self.network.layers[index];
        if !self.is_unrolled(index) {
            return Cost::default();
        }
        let is_of_input = layer.connections.iter().any(|connection| connection.source == Source::Input);
        let steps = if is_of_input { self.frames } else { self.network.time_steps };
        let rows = (self.batch * layer.positions() * steps) as f64;
        let [normed, sums] = [2.0 * rows * layer.shape[2] as f64, 4.0 * rows * layer.shape[2].next_multiple_of(16) as f64];
        let read = |connection: &Connection| match (connection.source, &connection.kind) {
            (Source::Layer(source), Kind::Identity) => self.spikes(source),
            _ => sums,
        };
        // One kernel normalises; products are cleared, formed in splits of the rows, and added up.
        let all_read: f64 = layer.connections.iter().map(read).sum();
        let mut cost = self.cost(0.0, normed + all_read, 1);
        for connection in layer.connections.iter().filter(|connection| matches!(connection.kind, Kind::Conv { .. })) {
            let geometry = &connection.geometry;
            let operands = match connection.source {
                Source::Input => 4.0 * (self.batch * steps * geometry.source.iter().product::<usize>() * geometry.cin) as f64,
                Source::Layer(_) if geometry.is_pooled() => {
                    let places = self.batch * geometry.pooled().iter().product::<usize>() * steps;
                    (places * geometry.cin.next_multiple_of(32)) as f64
                }
                Source::Layer(source) => self.spikes(source),
            };
            let operations = 2.0 * geometry.dense_macs() as f64 * (self.batch * steps) as f64;
            let product = self.cost(operations / self.sheet.bf16_reached(), normed + operands + 8.0 * weights_of(connection), 2);
            cost = cost.plus(product);
            if connection.norm.is_some() {
                cost = cost.plus(product).plus(self.cost(0.0, normed + sums, 1));
            }
        }
        cost
    }

    /// Its part of the backward pass: the parts of a gradient are added up at once, as those of the first layer always are, and a factor for
    /// each channel times what was kept is subtracted once for each norm.
    pub(super) fn subtracted(&self, index: usize) -> Cost {
        if !self.is_unrolled(index) {
            return Cost::default();
        }
        self.network.layers[index].connections.iter().filter(|connection| matches!(connection.kind, Kind::Conv { .. })).fold(
            Cost::default(),
            |cost, connection| {
                let times = 1 + u32::from(connection.norm.is_some());
                cost.plus(self.cost(0.0, f64::from(times) * 12.0 * weights_of(connection), times + u32::from(index > 0)))
            },
        )
    }
}
