//! Rounds weights to fixed point and lays them out as rows of two weights an element.

use bytemuck::Zeroable;

use super::{BIAS_8, BIAS_16, MAX_WEIGHT_8, MAX_WEIGHT_16, QuantizedWeights, complement};
use crate::device::Isa;
use crate::device::lines::Line;
use crate::per_isa;

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
