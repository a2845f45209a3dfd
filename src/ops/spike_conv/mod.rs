//! Convolution of bit-packed spikes with fixed-point weights: exact integers, so every order of summation gives the same bits.
//!
//! In the path of a batch: spikes of an earlier layer → **spike_conv** → batch norm and neuron.

#[cfg(target_arch = "x86_64")]
mod avx512;
mod complement;
pub mod cost;
mod cpu;
mod cuda;
mod cuda_weights;
mod events;
use std::ops::Range;

use bytemuck::Zeroable;

use crate::device::Isa;
use crate::device::lines::Line;
use crate::per_isa;
pub use cpu::{add_scaled, conv_at, identity_at, positions_together, rows_together, spike_outer};
pub use cuda::{DeviceGeometry, DeviceNormalizer, LayerSums, Source, Summand, Tiles, neurons, statistics, sums};
pub(crate) use cuda_weights::rounded_pieces;
pub use cuda_weights::{BF16, PackedWeights, WeightSource, WeightTable, quantize_weights, round_weights, transpose_weights};
pub use events::{Events, for_each_in_window};

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
    /// Quantises master weights `[tap][cin][cout]`, rounding to nearest (ties to even).
    ///
    /// `e` of a channel is the largest up to 24 for which no weight exceeds [`MAX_WEIGHT_16`] (or [`MAX_WEIGHT_8`]), lowered until
    /// `Σ|q|·max_count < 2^31`, so that no sum overflows. Maxima and sums of integers decide it, which no order of the rows can
    /// change.
    pub fn quantize(&mut self, isa: Isa, master: &[f32], cout: usize, bits: u8, max_count: usize) {
        let limit = if bits == 8 { MAX_WEIGHT_8 } else { MAX_WEIGHT_16 };
        self.bits = bits;
        self.rows = master.len() / cout;
        self.block = match cout {
            0..=16 => 16,
            17..=32 => 32,
            // One number then names two registers of weights; others have too few registers for their sums.
            _ if bits == 8 && isa == Isa::Avx512 && cout.div_ceil(64).is_multiple_of(2) => 128,
            _ => 64,
        };
        let mut largest = vec![0.0f32; cout];
        largest_magnitudes(isa, master, &mut largest);
        let mut exponents: Vec<i32> = largest.iter().map(|&largest| largest_exponent(largest, limit)).collect();
        let blocks = cout.div_ceil(self.block);
        self.has_negatives = complement::first_negative(self.rows).is_some();
        self.lines.resize(blocks * self.lines_of_block(), Line::zeroed());
        let mut totals = vec![0u32; blocks * self.block]; // no more than 2^16 rows of at most 2^14 each
        let mut up: Vec<f32> = exponents.iter().map(|&e| f32::powi(2.0, e)).collect();
        loop {
            totals.fill(0);
            let (block, per_block) = (self.block, self.lines_of_block());
            for (b, (out, totals)) in self.lines.chunks_exact_mut(per_block).zip(totals.chunks_exact_mut(block)).enumerate() {
                match block {
                    16 => round_rows::<16>(isa, master, cout, b * 16, bits, &up, out, totals),
                    32 => round_rows::<32>(isa, master, cout, b * 32, bits, &up, out, totals),
                    128 => round_rows::<128>(isa, master, cout, b * 128, bits, &up, out, totals),
                    _ => round_rows::<64>(isa, master, cout, b * 64, bits, &up, out, totals),
                }
            }
            let sum = |c: usize| i64::from(totals[c]) * max_count as i64;
            let mut fits = true;
            for c in 0..cout {
                if sum(c) > i64::from(i32::MAX) && exponents[c] > f32::MIN_EXP {
                    exponents[c] -= 1;
                    up[c] = f32::powi(2.0, exponents[c]);
                    fits = false;
                }
            }
            if fits {
                self.largest_sum = (0..cout).map(sum).max().unwrap_or(0);
                break;
            }
        }
        let (per_block, row) = (self.lines_of_block(), self.bytes_of_row());
        for lines in self.lines.chunks_exact_mut(per_block) {
            let zeros = &mut bytemuck::cast_slice_mut::<_, u8>(lines)[self.rows * row..][..row];
            match bits {
                8 => bytemuck::cast_slice_mut(zeros).fill(BIAS_8 as u16),
                _ => bytemuck::cast_slice_mut(zeros).fill(BIAS_16),
            }
        }
        self.scale = up.iter().map(|up| 1.0 / up).collect();
    }

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

/// Largest `e ≤ 24` for which `largest · 2^e`, rounded, is at most `limit`; `2^e` and `2^-e` stay normal numbers.
fn largest_exponent(largest: f32, limit: i32) -> i32 {
    let fits = |e: i32| (f64::from(largest) * f64::powi(2.0, e)).round_ties_even() <= f64::from(limit);
    let mut e = 24;
    while e > f32::MIN_EXP && !fits(e) {
        e -= 1;
    }
    e
}

per_isa! {
    /// Largest magnitude of each column of `[n][cout]`.
    pub fn largest_magnitudes(master: &[f32], largest: &mut [f32]) {
        let cout = largest.len();
        for row in master.chunks_exact(cout) {
            for c in 0..cout {
                largest[c] = largest[c].max(row[c].abs());
            }
        }
    }
}

per_isa! {
    /// Rounds the columns from `first` on of `[n][cout]` to rows of one block, and their negatives if `out` has room for them, and adds
    /// their magnitudes to `totals`; columns that do not exist are zero.
    pub fn round_rows<const BLOCK: usize>(
        master: &[f32],
        cout: usize,
        first: usize,
        bits: u8,
        up: &[f32],
        out: &mut [Line],
        totals: &mut [u32],
    ) {
        let live = BLOCK.min(cout - first);
        let up = &up[first..first + live];
        let mut sums = [0u32; BLOCK];
        let mut q = [0i32; BLOCK];
        let mut round = |row: &[f32]| {
            let row = &row[first..first + live];
            for i in 0..live {
                q[i] = (row[i] * up[i]).round_ties_even() as i32;
            }
            for i in 0..BLOCK {
                sums[i] = sums[i].wrapping_add(q[i].unsigned_abs()); // cannot wrap: see `totals` of the caller
            }
            q
        };
        let rows = master.chunks_exact(cout);
        let others = (rows.len() + 1) * BLOCK / 2; // elements before the negatives
        // Only weights that are not finite wrap here; a step that makes them ends the training.
        if bits == 8 {
            let (out, negatives) = bytemuck::cast_slice_mut::<_, i16>(out).split_at_mut(others);
            let mut negatives = negatives.chunks_exact_mut(BLOCK / 2);
            for (row, out) in rows.zip(out.chunks_exact_mut(BLOCK / 2)) {
                let q = round(row);
                for i in 0..BLOCK / 2 {
                    out[i] = q[i].wrapping_add(BIAS_8).wrapping_add(q[BLOCK / 2 + i] << 8) as i16;
                }
                for (negative, &element) in negatives.next().unwrap_or(&mut []).iter_mut().zip(&*out) {
                    *negative = (2 * BIAS_8 as i16).wrapping_sub(element);
                }
            }
        } else {
            let (out, negatives) = bytemuck::cast_slice_mut::<_, i32>(out).split_at_mut(others);
            let mut negatives = negatives.chunks_exact_mut(BLOCK / 2);
            for (row, out) in rows.zip(out.chunks_exact_mut(BLOCK / 2)) {
                let q = round(row);
                for i in 0..BLOCK / 2 {
                    out[i] = q[i].wrapping_add(BIAS_16).wrapping_add(q[BLOCK / 2 + i] << 16);
                }
                for (negative, &element) in negatives.next().unwrap_or(&mut []).iter_mut().zip(&*out) {
                    *negative = (2 * BIAS_16).wrapping_sub(element);
                }
            }
        }
        totals.copy_from_slice(&sums);
    }
}
