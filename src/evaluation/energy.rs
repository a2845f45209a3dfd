//! An estimate of the energy of an inference from its operations, beside the same network as an ANN.
//!
//! A spike costs an accumulate (AC) for every weight that it reaches, a real value a multiply-accumulate (MAC). The ANN has the same
//! connections and neurons that pass on real values: one pass, a MAC for every weight and position. Source of the energies of single
//! operations: M. Horowitz, "Computing's energy problem (and what we can do about it)", ISSCC 2014, figure 1.1.9, 45 nm, 0.9 V.
//!
//! Neglected on both sides, as usual in the literature: memory, batch norm (it folds into weights and offsets) and biases. Neuron
//! updates are counted but have no part in the energy; see [`Counts::updates`].

use serde::Serialize;

use crate::evaluation::synaptic::{Operations, readers};
use crate::network::{Kind, Network, Source, SpikingLayer};
use crate::ops::spike_conv::Geometry;

/// Energies of single operations, picojoules.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Model {
    pub name: &'static str,
    pub source: &'static str,
    /// An accumulate caused by a spike.
    pub ac_pj: f64,
    /// A multiply-accumulate of a real input into the spiking network.
    pub mac_pj: f64,
    /// An addition in the ANN: shortcuts and pools.
    pub ann_ac_pj: f64,
    /// A multiply-accumulate in the ANN.
    pub ann_mac_pj: f64,
}

const HOROWITZ: &str = "M. Horowitz, ISSCC 2014, figure 1.1.9: 45 nm CMOS, 0.9 V";

/// The literature's convention: 32-bit floats, a MAC of 3.7 + 0.9 pJ and an AC of 0.9 pJ.
pub const FLOAT: Model = Model { name: "float32", source: HOROWITZ, ac_pj: 0.9, mac_pj: 4.6, ann_ac_pj: 0.9, ann_mac_pj: 4.6 };
/// What this engine computes: spikes add integers to 32-bit sums (0.1 pJ), the real input is 32-bit floats; the ANN has 8-bit products
/// (0.2 pJ) and 32-bit sums.
pub const INTEGER: Model = Model { name: "integer", source: HOROWITZ, ac_pj: 0.1, mac_pj: 4.6, ann_ac_pj: 0.1, ann_mac_pj: 0.3 };

/// Operations of one inference into one layer, or into all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Counts {
    /// Accumulates caused by spikes, a mean over images.
    pub ac: f64,
    /// Multiply-accumulates of the real-valued input.
    pub mac: f64,
    /// Additions of the ANN: pools and shortcuts.
    pub ann_ac: f64,
    /// Multiply-accumulates of the ANN.
    pub ann_mac: f64,
    /// Charge, fire and reset of one neuron at one step; no part of the energy.
    pub updates: f64,
}

impl Counts {
    /// Of a layer that has taken `operations` for `samples` images.
    pub fn of_layer(layer: &SpikingLayer, time_steps: usize, operations: Operations, samples: usize) -> Counts {
        let a_sample = operations.actual as f64 / samples.max(1) as f64;
        let is_real = layer.connections.iter().any(|connection| connection.source == Source::Input);
        let (ac, mac) = if is_real { (0.0, a_sample) } else { (a_sample, 0.0) };
        let neurons = if layer.fires() { layer.neurons() } else { 0 };
        let mut counts = Counts { ac, mac, updates: (neurons * time_steps) as f64, ..Counts::default() };
        for connection in &layer.connections {
            let Geometry { cin, cout, .. } = connection.geometry;
            let behind_pool = Geometry { source: connection.geometry.pooled(), pool: [1, 1, 0], ..connection.geometry };
            let total = |geometry: &Geometry| readers(geometry).iter().sum::<u64>() as f64;
            if connection.geometry.is_pooled() {
                let pool = Geometry { kernel: [1, 1], stride: 1, pad: 0, ..connection.geometry };
                counts.ann_ac += total(&pool) * cin as f64;
            }
            match connection.kind {
                Kind::Conv { .. } => counts.ann_mac += total(&behind_pool) * (cin * cout) as f64,
                Kind::Identity => counts.ann_ac += total(&behind_pool) * cin as f64,
            }
        }
        counts
    }

    /// Of all layers, one entry each.
    pub fn of_network(network: &Network, operations: &[Operations], samples: usize) -> Vec<Counts> {
        let layers = network.layers.iter().zip(operations);
        layers.map(|(layer, &operations)| Counts::of_layer(layer, network.time_steps, operations, samples)).collect()
    }

    /// The sum.
    pub fn total(counts: &[Counts]) -> Counts {
        counts.iter().fold(Counts::default(), |a, b| Counts {
            ac: a.ac + b.ac,
            mac: a.mac + b.mac,
            ann_ac: a.ann_ac + b.ann_ac,
            ann_mac: a.ann_mac + b.ann_mac,
            updates: a.updates + b.updates,
        })
    }

    /// Energy of the spiking network, joules.
    pub fn joules(&self, model: &Model) -> f64 {
        1e-12 * (self.ac * model.ac_pj + self.mac * model.mac_pj)
    }

    /// Energy of the ANN, joules.
    pub fn ann_joules(&self, model: &Model) -> f64 {
        1e-12 * (self.ann_ac * model.ann_ac_pj + self.ann_mac * model.ann_mac_pj)
    }
}
