//! Synaptic operations: what the spikes of a batch really cost, against the same network evaluated densely.
//!
//! A spike costs one addition for every weight it reaches: its fan-out, which is smaller at the border of an image and
//! includes the average pool in front of a convolution.

use crate::network::{Connection, Kind, Network, Source};
use crate::ops::spike_conv::{Geometry, for_each_in_window};
use crate::spikes::Spikes;

/// Operations of one layer's connections, summed over samples and time steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Operations {
    /// Additions that spikes cause; multiply-accumulates of a real-valued input.
    pub actual: u64,
    /// Multiply-accumulates if every source fired at every step.
    pub dense: u64,
}

/// Reads of every source position by one output channel, `[P]`: each tap of each output that sees it through the pool.
pub fn readers(geometry: &Geometry) -> Vec<u64> {
    let [height, width] = geometry.out();
    let mut readers = vec![0u64; geometry.source.iter().product()];
    for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
        geometry.for_each_tap(y, x, |_, row, column| for_each_in_window(geometry, row, column, |position| readers[position] += 1));
    }
    readers
}

/// Weights that a spike meets at each read: all output channels of a convolution, itself in an identity.
fn fan(connection: &Connection) -> u64 {
    match connection.kind {
        Kind::Conv { .. } => connection.geometry.cout as u64,
        Kind::Identity => 1,
    }
}

/// Operations of one connection for a batch of `samples`; without the `spikes` of its source nothing is actual.
///
/// `frames` is 1 for a static image, whose current is computed once for all time steps.
pub fn of_connection(connection: &Connection, spikes: Option<&Spikes>, time_steps: usize, samples: usize, frames: usize) -> Operations {
    let (readers, fan) = (readers(&connection.geometry), fan(connection));
    let reads = readers.iter().sum::<u64>() * connection.geometry.cin as u64 * fan;
    if connection.source == Source::Input {
        let all = reads * (samples * frames) as u64;
        return Operations { actual: all, dense: all };
    }
    let fired = |spikes: &Spikes| {
        let of_position = |(position, words): (usize, &[u32])| {
            let fired: u32 = words.iter().map(|word| word.count_ones()).sum();
            u64::from(fired) * readers[position % spikes.positions] * fan
        };
        spikes.bits().chunks_exact(spikes.words() * spikes.time_steps).enumerate().map(of_position).sum()
    };
    Operations { actual: spikes.map_or(0, fired), dense: reads * (samples * time_steps) as u64 }
}

/// Adds the operations of a batch of `samples` to `totals`, one entry a layer. Needs the spikes of all layers.
pub fn add_operations(network: &Network, spikes: &[Option<Spikes>], samples: usize, frames: usize, totals: &mut [Operations]) {
    for (layer, total) in network.layers.iter().zip(totals) {
        for connection in &layer.connections {
            let spikes = if let Source::Layer(source) = connection.source { spikes[source].as_ref() } else { None };
            let Operations { actual, dense } = of_connection(connection, spikes, network.time_steps, samples, frames);
            total.actual += actual;
            total.dense += dense;
        }
    }
}
