//! Convolution of bit-packed spikes with fixed-point weights: exact integers, so every order of summation gives the same bits.
//!
//! In the path of a batch: spikes of an earlier layer → **spike_conv** → batch norm and neuron.

pub mod cost;
mod cpu;
mod cuda;
mod cuda_weights;
use crate::device::Isa;
use crate::per_isa;
pub use cpu::{Events, add_scaled, conv_at, for_each_in_window, identity_at, spike_outer};
pub use cuda::{DeviceGeometry, DeviceNormalizer, LayerSums, Source, Summand, Tiles, neurons, statistics, sums};
pub use cuda_weights::{PackedWeights, WeightSource, WeightTable, quantize_weights, transpose_weights};

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

/// Largest magnitude of a 16-bit weight: `256·hi + lo` with both halves in i8.
pub const MAX_WEIGHT_16: i32 = 127 * 256 + 127;
/// Largest magnitude of an 8-bit weight.
pub const MAX_WEIGHT_8: i32 = 127;

/// Fixed-point weights, `[cout / block][tap][cin][block]`, with one power-of-two scale an output channel.
#[derive(Clone, Debug, Default)]
pub struct QuantizedWeights {
    /// 16 or 8.
    pub bits: u8,
    /// Output channels a block holds: 16, 32 or 64; the last block is padded with zeros.
    pub block: usize,
    /// Integers, `|q| ≤` [`MAX_WEIGHT_16`] (or 8-bit).
    pub data: Vec<i16>,
    /// `2^-e` per output channel: weight ≈ q · scale.
    pub scale: Vec<f32>,
    /// No sum of a receptive field exceeds this magnitude; below 2^31.
    pub largest_sum: i64,
}

impl QuantizedWeights {
    /// Quantises master weights `[tap][cin][cout]`, rounding to nearest (ties to even).
    ///
    /// `e` of a channel is the largest up to 24 for which no weight exceeds the width, lowered until `Σ|q|·max_count < 2^31`, so that
    /// no sum overflows. Maxima and sums of integers decide it, which no order of the rows can change.
    pub fn quantize(&mut self, isa: Isa, master: &[f32], cout: usize, bits: u8, max_count: usize) {
        let rows = master.len() / cout;
        let limit = if bits == 8 { MAX_WEIGHT_8 } else { MAX_WEIGHT_16 };
        self.bits = bits;
        self.block = match cout {
            0..=16 => 16,
            17..=32 => 32,
            _ => 64,
        };
        let mut largest = vec![0.0f32; cout];
        largest_magnitudes(isa, master, &mut largest);
        let mut exponents: Vec<i32> = largest.iter().map(|&largest| largest_exponent(largest, limit)).collect();
        self.data.resize(cout.div_ceil(self.block) * rows * self.block, 0);
        let mut totals = vec![0u32; self.data.len() / rows.max(1)]; // no more than 2^16 rows of at most 2^15 each
        let mut up: Vec<f32> = exponents.iter().map(|&e| f32::powi(2.0, e)).collect();
        loop {
            totals.fill(0);
            let blocks = self.data.chunks_exact_mut(rows * self.block).zip(totals.chunks_exact_mut(self.block));
            for (b, (out, totals)) in blocks.enumerate() {
                round_rows(isa, master, cout, b * self.block, self.block, &up, out);
                add_magnitudes(isa, out, totals);
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
        self.scale = up.iter().map(|up| 1.0 / up).collect();
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
    /// Adds the magnitudes of the rows `[n][block]` to `totals`, `[block]`.
    pub fn add_magnitudes(rows: &[i16], totals: &mut [u32]) {
        let block = totals.len();
        for row in rows.chunks_exact(block) {
            for i in 0..block {
                totals[i] = totals[i].wrapping_add(u32::from(row[i].unsigned_abs())); // cannot wrap: see `totals` above
            }
        }
    }
}

per_isa! {
    /// Rounds the columns from `first` on of `[n][cout]` to rows of `block` integers; columns that do not exist stay zero.
    pub fn round_rows(master: &[f32], cout: usize, first: usize, block: usize, up: &[f32], out: &mut [i16]) {
        let live = block.min(cout - first);
        let up = &up[first..first + live];
        for (row, out) in master.chunks_exact(cout).zip(out.chunks_exact_mut(block)) {
            let row = &row[first..first + live];
            out[live..].fill(0);
            for i in 0..live {
                out[i] = (row[i] * up[i]).round_ties_even() as i32 as i16;
            }
        }
    }
}
