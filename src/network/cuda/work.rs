//! What the cost model of the spiking convolution (`ops/spike_conv/cost.rs`) is asked about layers, and what follows.

use super::{Demand, Session, SumsChoice};
use crate::device::Layout;
use crate::network::{Connection, Kind, Network, Source, WeightGradient};
use crate::ops::spike_conv::cost::{self, LayerWork, Variant};
use crate::ops::spike_conv::{PartsRoom, parts};

impl Network {
    /// The spiking convolutions of a layer in a forward pass over `batch` samples; of a layer without any no K steps.
    pub(crate) fn layer_work(&self, index: usize, batch: usize) -> LayerWork {
        let layer = &self.layers[index];
        let of_spikes = |c: &&Connection| matches!((c.source, &c.kind), (Source::Layer(_), Kind::Conv { .. }));
        let convolutions = || layer.connections.iter().filter(of_spikes);
        LayerWork {
            positions: batch * layer.positions(),
            time_steps: self.time_steps,
            channels: layer.shape[2],
            k_steps: convolutions().map(|c| c.geometry.taps() * c.geometry.cin.div_ceil(32)).sum(),
            convolutions: convolutions().count(),
            weight_bits: self.weight_bits,
        }
    }

    /// Whether forward in training stores the sums of the convolutions of a layer with batch norm.
    pub(super) fn stores_convolutions(&self, index: usize, gradient: WeightGradient, demand: &Demand) -> bool {
        let layer = &self.layers[index];
        let needed_later = gradient == WeightGradient::Unrolled || layer.connections.iter().any(|c| c.norm.is_some());
        match (demand.sums, &self.session) {
            (SumsChoice::Cheapest, Some(Session { machine: Some(machine), .. })) => {
                cost::choose(&self.layer_work(index, demand.batch), machine, needed_later) == Variant::Store
            }
            (choice, _) => needed_later || choice != SumsChoice::Recompute,
        }
    }

    /// Blocks that share a tile of a layer in an evaluation: one where there is no room for sums of parts.
    pub(super) fn parts_of(&self, index: usize, batch: usize, room: &PartsRoom) -> usize {
        let machine = self.session.as_ref().and_then(|session| session.machine.as_ref()).filter(|_| !room.sums.is_none());
        machine.map_or(1, |machine| parts::choose(&self.layer_work(index, batch), machine))
    }

    /// Room for their sums, in an evaluation of any batch that fits `demand`. Where there is training, too, memory is for that: its batches
    /// have tiles enough.
    pub(super) fn take_parts(&self, demand: &Demand, layout: &mut Layout) -> PartsRoom {
        let Some(Session { machine: Some(machine), .. }) = &self.session else { return PartsRoom::default() };
        let of_layer = |index| parts::room(&self.layer_work(index, demand.batch), self.layers[index].positions(), machine);
        let layers = if self.neuron.is_real() || demand.training.is_some() { 0..0 } else { 0..self.layers.len() };
        PartsRoom::take(layout, layers.map(of_layer))
    }
}
