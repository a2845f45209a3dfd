//! Synaptic operations: what the spikes of a batch really cost, against the same network evaluated densely.
//!
//! A spike costs one addition for every weight it reaches: its fan-out, which is smaller at the border of an image and
//! includes the average pool in front of a convolution.

use crate::network::{Connection, Kind, Network, Source};
use crate::ops::spike_conv::Geometry;
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
    let [height, width] = geometry.pooled();
    let mut pooled = vec![0u64; height * width];
    let [out_height, out_width] = geometry.out();
    for (y, x) in (0..out_height).flat_map(|y| (0..out_width).map(move |x| (y, x))) {
        for (ky, kx) in (0..geometry.kernel[0]).flat_map(|ky| (0..geometry.kernel[1]).map(move |kx| (ky, kx))) {
            if let Some(position) = geometry.tap_position(y, x, ky, kx) {
                pooled[position] += 1;
            }
        }
    }
    let [source_height, source_width] = geometry.source;
    let [window, stride, pad] = geometry.pool;
    let mut source = vec![0u64; source_height * source_width];
    for (position, reads) in pooled.iter().enumerate() {
        let (top, left) = (position / width * stride, position % width * stride);
        for (y, x) in (0..window).flat_map(|y| (0..window).map(move |x| (top + y, left + x))) {
            let (y, x) = (y.wrapping_sub(pad), x.wrapping_sub(pad)); // padding wraps round to a huge number
            if y < source_height && x < source_width {
                source[y * source_width + x] += reads;
            }
        }
    }
    source
}

/// Weights that a spike meets at each read: all output channels of a convolution, itself in an identity.
fn fan(connection: &Connection) -> u64 {
    match connection.kind {
        Kind::Conv { .. } => connection.geometry.cout as u64,
        Kind::Identity => 1,
    }
}

/// Adds the operations of a batch of `samples` to `totals`, one entry a layer. Needs the spikes of all layers.
///
/// `frames` is 1 for a static image, whose current is computed once for all time steps.
pub fn add_operations(network: &Network, spikes: &[Option<Spikes>], samples: usize, frames: usize, totals: &mut [Operations]) {
    for (layer, total) in network.layers.iter().zip(totals) {
        for connection in &layer.connections {
            let (readers, fan) = (readers(&connection.geometry), fan(connection));
            let reads = readers.iter().sum::<u64>() * connection.geometry.cin as u64 * fan;
            match connection.source {
                Source::Input => {
                    total.actual += reads * (samples * frames) as u64;
                    total.dense += reads * (samples * frames) as u64;
                }
                Source::Layer(source) => {
                    total.dense += reads * (samples * network.time_steps) as u64;
                    let Some(spikes) = &spikes[source] else { continue };
                    for (position, words) in spikes.bits().chunks_exact(spikes.words()).enumerate() {
                        let fired: u32 = words.iter().map(|word| word.count_ones()).sum();
                        total.actual += u64::from(fired) * readers[position % spikes.positions] * fan;
                    }
                }
            }
        }
    }
}
