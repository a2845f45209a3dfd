//! Convolution of bit-packed spikes with fixed-point weights: exact integers, so every order of summation gives the same bits.
//!
//! In the path of a batch: spikes of an earlier layer → **spike_conv** → batch norm and neuron.

mod cpu;
use crate::device::Isa;
use crate::per_isa;
pub use cpu::{Events, add_scaled, conv_at, for_each_in_window, identity_at, spike_outer};

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
    /// `e` of a channel is the largest for which no weight exceeds the width and `Σ|q|·max_count < 2^31`, so that no sum overflows.
    pub fn quantize(&mut self, isa: Isa, master: &[f32], cout: usize, bits: u8, max_count: usize) {
        let rows = master.len() / cout;
        let limit = if bits == 8 { MAX_WEIGHT_8 } else { MAX_WEIGHT_16 };
        self.block = match cout {
            0..=16 => 16,
            17..=32 => 32,
            _ => 64,
        };
        let (mut largest, mut total) = (vec![0.0f32; cout], vec![0.0f64; cout]);
        magnitudes(isa, master, &mut largest, &mut total);
        let room = f64::from(i32::MAX) / max_count as f64 - rows as f64; // rounding adds at most 1/2 a weight
        let up: Vec<f32> = largest
            .iter()
            .zip(&total)
            .map(|(&largest, &total)| {
                let fits = |e: i32| {
                    let step = f64::powi(2.0, e);
                    (f64::from(largest) * step).round_ties_even() <= f64::from(limit) && total * step <= room
                };
                let mut e = 24i32;
                while e > f32::MIN_EXP && !fits(e) {
                    // 2^e and 2^-e are normal numbers
                    e -= 1;
                }
                f32::powi(2.0, e)
            })
            .collect();
        self.scale = up.iter().map(|up| 1.0 / up).collect();
        let bound = up.iter().zip(&total).map(|(&up, &total)| total * f64::from(up) + rows as f64 / 2.0).fold(0.0, f64::max);
        self.largest_sum = (bound * max_count as f64).ceil() as i64;
        self.data.resize(cout.div_ceil(self.block) * rows * self.block, 0);
        for (b, out) in self.data.chunks_exact_mut(rows * self.block).enumerate() {
            round_rows(isa, master, cout, b * self.block, self.block, &up, out);
        }
    }
}

per_isa! {
    /// Largest magnitude and sum of magnitudes of each column of `[n][cout]`.
    pub fn magnitudes(master: &[f32], largest: &mut [f32], total: &mut [f64]) {
        let cout = largest.len();
        let total = &mut total[..cout];
        for row in master.chunks_exact(cout) {
            for c in 0..cout {
                let v = row[c].abs();
                largest[c] = largest[c].max(v);
                total[c] += f64::from(v);
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
