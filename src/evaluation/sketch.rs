//! Quantiles of a stream of values that is never stored, within a proven error.
//!
//! A bucket is the exponent of a float and the upper 8 bits of its mantissa: 256 buckets of equal width for every power of two. So a
//! value lies within half a width of the middle of its bucket, which is at most 2⁻⁹ of the value. This is the idea of DDSketch
//! (Masson, Rim, Lee, VLDB 2019) with buckets that come from the bits of a float instead of a logarithm, so counting is exact and
//! has the same result on every machine.
//!
//! Counts are integers, so sketches of parts add up to that of the whole, in any order.

use rayon::prelude::*;

/// Bits of the mantissa that a bucket ignores.
const IGNORED: u32 = 23 - 8;
/// Buckets of finite numbers.
const BUCKETS: usize = (f32::INFINITY.to_bits() >> IGNORED) as usize;
/// Bound on the relative error of a quantile.
pub const RELATIVE_ERROR: f64 = 1.0 / 512.0;

/// Counts of values ≥ 0 by magnitude.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantileSketch {
    /// Values in each bucket.
    counts: Vec<u64>,
    /// Values that are 0, below 0, or so small that their mantissa has no full precision (below 1.2e-38).
    zeros: u64,
    /// Values that are NaN or infinite; no quantile sees them.
    not_finite: u64,
    /// Largest finite value; 0 without one above 0.
    max: f32,
}

impl Default for QuantileSketch {
    fn default() -> Self {
        QuantileSketch { counts: vec![0; BUCKETS], zeros: 0, not_finite: 0, max: 0.0 }
    }
}

impl QuantileSketch {
    /// Of values on all threads; their number changes nothing.
    pub fn of(values: &[f32]) -> QuantileSketch {
        let part = values.len().div_ceil(rayon::current_num_threads()).max(1);
        let parts = values.par_chunks(part).map(|values| {
            let mut sketch = QuantileSketch::default();
            sketch.add(values);
            sketch
        });
        parts.reduce_with(QuantileSketch::merged).unwrap_or_default()
    }

    /// Counts values.
    pub fn add(&mut self, values: &[f32]) {
        for &value in values {
            if !value.is_finite() {
                self.not_finite += 1;
            } else if value < f32::MIN_POSITIVE {
                self.zeros += 1;
            } else {
                self.counts[(value.to_bits() >> IGNORED) as usize] += 1;
                self.max = self.max.max(value);
            }
        }
    }

    /// The sketch of both parts together.
    pub fn merged(mut self, other: QuantileSketch) -> QuantileSketch {
        self.counts.iter_mut().zip(&other.counts).for_each(|(count, other)| *count += other);
        self.zeros += other.zeros;
        self.not_finite += other.not_finite;
        self.max = self.max.max(other.max);
        self
    }

    /// Finite values counted.
    pub fn len(&self) -> u64 {
        self.zeros + self.counts.iter().sum::<u64>()
    }

    /// Whether no finite value was counted.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Values that are NaN or infinite.
    pub fn not_finite(&self) -> u64 {
        self.not_finite
    }

    /// Largest finite value, exactly.
    pub fn max(&self) -> f32 {
        self.max
    }

    /// Share of values that are 0 (or below 1.2e-38); 0 of an empty sketch.
    pub fn share_of_zeros(&self) -> f64 {
        self.zeros as f64 / self.len().max(1) as f64
    }

    /// The value x such that a `share` of all values is at most x, that is the ⌈share·n⌉-th smallest, within
    /// [`RELATIVE_ERROR`]·x; exactly 0 where that value counts as 0. `share` is in 0..=1.
    pub fn quantile(&self, share: f64) -> f32 {
        let rank = ((share * self.len() as f64).ceil() as u64).clamp(1, self.len().max(1));
        let mut below = self.zeros;
        if rank <= below {
            return 0.0;
        }
        for (bucket, count) in self.counts.iter().enumerate() {
            below += count;
            if rank <= below {
                let middle = f32::from_bits(((bucket as u32) << IGNORED) + (1 << (IGNORED - 1)));
                return middle.min(self.max); // no value lies above, so this is never farther away
            }
        }
        0.0 // nothing was counted
    }
}
