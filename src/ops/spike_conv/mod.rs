//! Convolution of bit-packed spikes with fixed-point weights: exact integers, so every order of summation gives the same bits.
//!
//! In the path of a batch: spikes of an earlier layer → **spike_conv** → batch norm and neuron.

#[cfg(target_arch = "x86_64")]
mod avx512;
mod complement;
pub mod cost;
mod cpu;
mod cpu_weights;
mod cuda;
mod cuda_hopper;
mod cuda_weights;
mod device;
mod events;
pub mod parts;
mod products;
mod tiles;
use std::ops::Range;

use crate::device::lines::Line;
pub use cpu::{add_scaled, conv_at, identity_at, positions_together, rows_together, spike_outer};
pub use cuda::{
    LayerSums, Source, Summand, has_few_blocks, neurons, neurons_in_parts, statistics, sums, sums_and_constants, sums_and_constants_in,
};
pub(crate) use cuda_weights::rounded_pieces;
pub use cuda_weights::{BF16, PackedWeights, WeightSource, WeightTable, quantize_weights, round_weights, transpose_weights};
pub use device::{DeviceGeometry, DeviceNormalizer};
pub use events::{Events, for_each_in_window};
pub use parts::PartsRoom;
pub use tiles::Tiles;

/// Geometry of a connection: an optional average pool over the source, then a convolution (a linear layer is one that covers its input).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Channels of the source.
    pub cin: usize,
    /// Channels of the target.
    pub cout: usize,
    /// Height and width of the source.
    pub source: [usize; 2],
    /// Average pool: window, stride, padding (padding is counted); `[1, 1, 0]` for none.
    pub pool: [usize; 3],
    /// Kernel height and width.
    pub kernel: [usize; 2],
    /// Stride of the convolution.
    pub stride: usize,
    /// Zero padding of the convolution.
    pub pad: usize,
}

impl Geometry {
    /// Height and width after the pool.
    pub fn pooled(&self) -> [usize; 2] {
        let [window, stride, pad] = self.pool;
        if self.pool == [1, 1, 0] {
            return self.source; // the common case, without a division
        }
        self.source.map(|n| (n + 2 * pad).saturating_sub(window) / stride + 1)
    }

    /// Height and width of the output.
    pub fn out(&self) -> [usize; 2] {
        let pooled = self.pooled();
        [0, 1].map(|axis| (pooled[axis] + 2 * self.pad).saturating_sub(self.kernel[axis]) / self.stride + 1)
    }

    /// Number of kernel taps.
    pub fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Positions of the output.
    pub fn positions(&self) -> usize {
        self.out().iter().product()
    }

    /// Whether there is a pool before the convolution.
    pub fn is_pooled(&self) -> bool {
        self.pool != [1, 1, 0]
    }

    /// Elements a pool window has.
    pub fn area(&self) -> usize {
        self.pool[0] * self.pool[0]
    }

    /// Source rows that the output rows `out` read.
    pub fn source_rows(&self, out: Range<usize>) -> Range<usize> {
        let [window, stride, pad] = self.pool;
        let height = self.pooled()[0];
        let pooled = |row: usize| row.saturating_sub(self.pad).min(height);
        let (first, end) = (pooled(out.start * self.stride), pooled((out.end.max(1) - 1) * self.stride + self.kernel[0]));
        let source = |row: usize| row.saturating_sub(pad).min(self.source[0]);
        if first >= end { 0..0 } else { source(first * stride)..source((end - 1) * stride + window) }
    }

    /// Multiply-accumulates of a dense evaluation, a sample and step.
    pub fn dense_macs(&self) -> u64 {
        (self.positions() * self.taps() * self.cin * self.cout) as u64
    }

    /// Visits the taps of output (`y`, `x`) that are not padding: index of the tap, row and column of the pooled source.
    #[inline(always)]
    pub fn for_each_tap(&self, y: usize, x: usize, mut visit: impl FnMut(usize, usize, usize)) {
        let [height, width] = self.pooled();
        for ky in 0..self.kernel[0] {
            let row = (y * self.stride + ky).wrapping_sub(self.pad);
            if row >= height {
                continue;
            }
            for kx in 0..self.kernel[1] {
                let column = (x * self.stride + kx).wrapping_sub(self.pad);
                if column < width {
                    visit(ky * self.kernel[1] + kx, row, column);
                }
            }
        }
    }

    /// Pooled source position that tap (`ky`, `kx`) of output (`y`, `x`) reads, unless it is padding.
    #[inline(always)]
    pub fn tap_position(&self, y: usize, x: usize, ky: usize, kx: usize) -> Option<usize> {
        let [height, width] = self.pooled();
        let (iy, ix) = ((y * self.stride + ky).wrapping_sub(self.pad), (x * self.stride + kx).wrapping_sub(self.pad));
        (iy < height && ix < width).then(|| iy * width + ix)
    }
}

/// Largest magnitude of a 16-bit weight: one bit less than 16 hold, so that two of them are added in 16 bits.
pub const MAX_WEIGHT_16: i32 = (1 << 14) - 1;
/// Largest magnitude of an 8-bit weight.
pub const MAX_WEIGHT_8: i32 = (1 << 7) - 1;
/// What makes a 16-bit weight positive in the lower half of an element.
const BIAS_16: i32 = 1 << 14;
/// The same for an 8-bit weight.
const BIAS_8: i32 = 1 << 7;

/// Fixed-point weights with one power-of-two scale an output channel.
///
/// Blocks of output channels hold rows `[tap][cin]`, and a row `block / 2` elements: weight i of a block in the lower half of
/// element i, plus a bias that makes it positive, and weight `block / 2 + i` in the upper half. An element has 32 bits, or 16
/// where weights have 8. A row of zeros follows the last one, and then the negatives of all rows, if row numbers have 16 bits with them.
#[derive(Clone, Debug, Default)]
pub struct QuantizedWeights {
    /// 16 or 8.
    pub bits: u8,
    /// Output channels a block holds: 16, 32, 64, or 128 of 8-bit weights; the last block is padded with zeros.
    pub block: usize,
    /// Rows of a block: taps times input channels.
    pub rows: usize,
    /// Whether the negatives of all rows follow them.
    has_negatives: bool,
    /// The elements of each block, filled up to whole lines.
    lines: Vec<Line>,
    /// `2^-e` per output channel: weight ≈ q · scale.
    pub scale: Vec<f32>,
    /// No sum of a receptive field exceeds this magnitude; below 2^31.
    pub largest_sum: i64,
}

impl QuantizedWeights {
    /// Lines of one block.
    fn lines_of_block(&self) -> usize {
        let negatives = if self.has_negatives { self.rows } else { 0 };
        ((self.rows + 1 + negatives) * self.bytes_of_row()).div_ceil(size_of::<Line>())
    }

    /// Bytes of a row of a block.
    fn bytes_of_row(&self) -> usize {
        self.block * usize::from(self.bits) / 8
    }

    /// Elements of each block; the last line may hold more than the rows.
    fn blocks(&self) -> impl Iterator<Item = &[Line]> {
        self.lines.chunks_exact(self.lines_of_block())
    }

    /// Integer weight of row `tap · cin + c` and output channel `o`; 0 for the channels that fill up a block.
    pub fn integer(&self, row: usize, o: usize) -> i32 {
        let (half, lines) = (self.block / 2, &self.lines[o / self.block * self.lines_of_block()..][..self.lines_of_block()]);
        let at = row * half + o % half;
        let is_upper = o % self.block >= half;
        match (self.bits, is_upper) {
            (8, false) => i32::from(bytemuck::cast_slice::<_, u16>(lines)[at] & 0xff) - BIAS_8,
            (8, true) => i32::from(bytemuck::cast_slice::<_, i16>(lines)[at] >> 8),
            (_, false) => (bytemuck::cast_slice::<_, i32>(lines)[at] & 0xffff) - BIAS_16,
            (_, true) => bytemuck::cast_slice::<_, i32>(lines)[at] >> 16,
        }
    }

    /// Output channels of all blocks, those that fill up the last one included.
    pub fn padded_channels(&self) -> usize {
        self.lines.len() / self.lines_of_block() * self.block
    }

    /// Bytes of the rows of all blocks, without their negatives.
    pub fn bytes(&self) -> usize {
        self.padded_channels() / self.block * self.rows * self.bytes_of_row()
    }
}
