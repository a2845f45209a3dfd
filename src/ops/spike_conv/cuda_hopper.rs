//! What `kernels/spike_conv_hopper.cu` needs beside `cuda.rs`: which layers it takes, weights in blocks, its shared memory.

use super::cuda::{TILE, TILE_BYTES};
use super::{Geometry, LayerSums, Source, Summand, WeightSource};
use crate::device::{Gpu, Slice, kernels};
use crate::error::Result;

/// K steps of a stage, and stages in a block's ring.
const STEPS: usize = 4;
const STAGES: usize = 4;
/// Taps that a row of a padded convolution has bits for.
const TAPS: usize = 32;
/// Words of 16 bytes a lane, as fixed-point weights are packed.
const WORDS_OF_PIECE: usize = 128;
/// Bytes of a K step in the list of them.
const STEP_BYTES: usize = 8;

/// K steps of a convolution, 32 channels of a tap each.
fn steps(geometry: &Geometry) -> usize {
    geometry.taps() * geometry.cin.div_ceil(32)
}

/// Words of a connection's weights in blocks, those of a last stage filled up; none for what the kernel does not take: counts of a pool, and
/// padded convolutions of more taps than it has bits for.
pub(super) fn words_in_blocks(geometry: &Geometry, bits: u8) -> Option<usize> {
    let is_taken = !geometry.is_pooled() && (geometry.pad == 0 || geometry.taps() <= TAPS);
    is_taken.then(|| geometry.cout.div_ceil(TILE[1]) * steps(geometry).next_multiple_of(STEPS) * pieces(bits) * WORDS_OF_PIECE)
}

/// Pieces of a K step and 64 output channels.
fn pieces(bits: u8) -> usize {
    usize::from(bits) / 2
}

/// Whether the convolutions of a layer all read spikes, and have weights in blocks.
pub(super) fn takes(layer: &LayerSums) -> bool {
    layer.summands.iter().all(|summand| match summand {
        Summand::Conv { source: Source::Bits(_), weights, geometry } => {
            let span = (geometry.kernel[0] - 1) * geometry.pooled()[1] + geometry.kernel[1];
            let bytes = span * layer.time_steps * geometry.cin.div_ceil(32) * 4;
            let positions = layer.batch * geometry.pooled().iter().product::<usize>();
            let fits = u32::try_from(bytes).is_ok() && i32::try_from(positions).is_ok();
            fits && words_in_blocks(geometry, weights.bits) == Some(weights.blocks.len())
        }
        Summand::Conv { .. } => false,
        _ => true,
    })
}

/// Whether a block takes two groups of 64 channels, with 8-bit weights: where they come in pairs, and pairs still give every multiprocessor
/// the two blocks of which one multiplies while the other runs its neurons. `tiles` are those of 64 channels.
pub(super) fn in_pairs(layer: &LayerSums, bits: u8, tiles: usize, multiprocessors: u32) -> bool {
    bits == 8 && layer.channels.div_ceil(TILE[1]).is_multiple_of(2) && tiles / 2 >= 2 * multiprocessors as usize
}

/// The weights that it reads of each summand.
pub(super) fn weights(layer: &LayerSums) -> [Slice<u32>; 2] {
    layer.summands.map(|summand| if let Summand::Conv { weights, .. } = summand { weights.blocks } else { Slice::NONE })
}

/// Bytes of its tiles and stages, and behind the last tile and these a list of the K steps, with those of a stage more. In pairs, a second
/// convolution is of one group at a time, behind the two tiles of the first.
pub(super) fn shared(layer: &LayerSums, in_pairs: bool) -> usize {
    let of_convolution = |groups: usize, bits: u8, geometry: &Geometry| {
        let stage = STEPS * TILE[1] * 32 * usize::from(bits) / 8;
        groups * TILE_BYTES.max(STAGES * stage) + (steps(geometry).next_multiple_of(STEPS) + STEPS) * STEP_BYTES
    };
    let convolutions = layer.summands.iter().filter_map(|summand| match summand {
        Summand::Conv { weights, geometry, .. } => Some((weights.bits, geometry)),
        _ => None,
    });
    let last = convolutions.clone().count().saturating_sub(1);
    let bytes_of = |(index, (bits, geometry))| match (in_pairs, index) {
        (false, _) => last * TILE_BYTES + of_convolution(1, bits, geometry),
        (true, 0) => of_convolution(2, bits, geometry),
        (true, _) => 2 * TILE_BYTES + of_convolution(1, bits, geometry),
    };
    convolutions.enumerate().map(bytes_of).max().unwrap_or(TILE_BYTES)
}

/// Puts packed weights into blocks.
///
/// # Errors
/// [`crate::error::Error::Device`] if a launch fails.
pub(super) fn order(gpu: &Gpu, sources: &[WeightSource]) -> Result<()> {
    sources.iter().try_for_each(|WeightSource { geometry, weights, .. }| {
        let all = weights.blocks.len() / WORDS_OF_PIECE;
        let (steps, pieces) = (steps(geometry), pieces(weights.bits));
        let numbers = [steps.div_ceil(STEPS), steps.next_multiple_of(2), pieces, all].map(|n| n as i32);
        let [stages, steps, pieces, all] = &numbers;
        let grid = [weights.blocks.len().div_ceil(8 * WORDS_OF_PIECE) as u32, 1, 1];
        gpu.launch(&kernels::ORDER_SPIKE_WEIGHTS, grid, 0, &[&weights.blocks, &weights.packed, stages, steps, pieces, all])
    })
}

#[cfg(test)]
mod tests {
    use super::super::PackedWeights;
    use super::*;

    #[test]
    fn what_it_takes_and_what_its_blocks_hold() {
        let conv = |cin, cout, kernel, pad| Geometry { cin, cout, source: [9, 9], pool: [1, 1, 0], kernel: [kernel; 2], stride: 1, pad };
        // cin, cout, kernel, padding, bits; stages times groups of 64 channels, of 8 KiB with 8 bits
        let cases = [
            ((64, 64, 3, 1, 8), Some(5)),
            ((128, 130, 3, 1, 8), Some(9 * 3)),
            ((64, 128, 1, 0, 16), Some(2 * 2)),
            ((33, 10, 5, 2, 16), Some(2 * 13)),
            ((33, 10, 7, 3, 16), None),         // 49 taps
            ((33, 10, 9, 0, 16), Some(2 * 41)), // as many, but none is outside
        ];
        for ((cin, cout, kernel, pad, bits), expected) in cases {
            let words = words_in_blocks(&conv(cin, cout, kernel, pad), bits);
            assert_eq!(words, expected.map(|stages| stages * 2048), "{cin}, {cout}, {kernel}, {pad}, {bits}");
        }
        assert_eq!(words_in_blocks(&Geometry { pool: [2, 2, 0], ..conv(64, 64, 3, 1) }, 8), None);
    }

    #[test]
    fn shared_memory_fits_hopper() {
        const LARGEST: usize = 227 << 10;
        let conv = |bits, cin| {
            let geometry = Geometry { cin, cout: 64, source: [3, 3], pool: [1, 1, 0], kernel: [1, 1], stride: 1, pad: 0 };
            Summand::Conv { source: Source::Bits(Slice::NONE), weights: PackedWeights { bits, ..PackedWeights::default() }, geometry }
        };
        let layer = |summands| LayerSums { summands, batch: 1, positions: 9, time_steps: 1, channels: 64 };
        let most = shared(&layer([conv(16, 1 << 16), conv(16, 1 << 16)]), false);
        assert_eq!(most, TILE_BYTES + 65_536 + 2052 * 8);
        assert!(most + 8 * 1024 <= LARGEST, "{most} bytes");
        // Two blocks of a layer with two convolutions share a multiprocessor; the system takes a KiB of each.
        for (bits, in_pairs) in [(16, false), (8, false), (8, true)] {
            let layer = layer([conv(bits, 9 * 512), conv(bits, 256)]);
            assert!(2 * (shared(&layer, in_pairs) + 256 + 1024) <= 228 << 10, "{bits} bits, in pairs: {in_pairs}");
        }
    }

    #[test]
    fn in_pairs_where_they_fill_the_device() {
        let layer = |channels| LayerSums { summands: [Summand::None; 2], batch: 1, positions: 9, time_steps: 1, channels };
        // channels, bits, tiles of 64 channels
        let cases = [((128, 8, 528), true), ((128, 8, 527), false), ((128, 16, 528), false), ((64, 8, 528), false), ((130, 8, 792), false)];
        for ((channels, bits, tiles), expected) in cases {
            assert_eq!(in_pairs(&layer(channels), bits, tiles, 132), expected, "{channels} channels, {bits} bits, {tiles} tiles");
        }
    }
}
