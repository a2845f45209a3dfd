//! Loops over rows of C values, vectorised across channels.

use crate::ops::batch_norm::Normalizer;
use crate::per_isa;

per_isa! {
    /// Rows `[n][C]`: `x` becomes the normalised current x̂, in place, and `out` max(γ·x̂ + β, 0). `second` is the current of a second
    /// connection, or empty. Adds the number of values above 0 to `active`.
    ///
    /// The current is `fmaf(γ, x̂, β)`, as the clamp mapping computes it again in backward.
    pub fn activate(norm: &Normalizer, channels: usize, x: &mut [f32], second: &[f32], out: &mut [f32], active: &mut u64) {
        let (factor, other_factor, offset) = (&norm.factors[0][..channels], &norm.factors[1][..channels], &norm.offset[..channels]);
        let (gamma, beta) = (&norm.gamma[..channels], &norm.beta[..channels]);
        for (row, (x, out)) in x.chunks_exact_mut(channels).zip(out.chunks_exact_mut(channels)).enumerate() {
            let mut above = 0u32;
            if second.is_empty() {
                for c in 0..channels {
                    x[c] = factor[c].mul_add(x[c], offset[c]);
                }
            } else {
                let second = &second[row * channels..][..channels];
                for c in 0..channels {
                    x[c] = factor[c].mul_add(x[c], other_factor[c].mul_add(second[c], offset[c]));
                }
            }
            for c in 0..channels {
                let current = gamma[c].mul_add(x[c], beta[c]);
                // Not `max`, which would turn NaN into 0 and hide that a training has diverged.
                out[c] = if current <= 0.0 { 0.0 } else { current };
                above += u32::from(current > 0.0);
            }
            *active += u64::from(above);
        }
    }
}

per_isa! {
    /// `out = factor · x + offset` over rows `[n][C]`.
    pub fn scale_and_shift(factor: &[f32], offset: &[f32], x: &[f32], out: &mut [f32]) {
        let channels = factor.len();
        let offset = &offset[..channels];
        for (x, out) in x.chunks_exact(channels).zip(out.chunks_exact_mut(channels)) {
            for c in 0..channels {
                out[c] = factor[c].mul_add(x[c], offset[c]);
            }
        }
    }
}

/// Silences dropped values `[n][C]`, whose bits are `[n][words]`, and scales the others by `keep`.
pub fn drop_values(dropped: &[u32], channels: usize, keep: f32, values: &mut [f32]) {
    let words = channels.div_ceil(32);
    for (values, dropped) in values.chunks_exact_mut(channels).zip(dropped.chunks_exact(words)) {
        for (c, value) in values.iter_mut().enumerate() {
            let is_dropped = dropped[c / 32] >> (c % 32) & 1 == 1;
            *value = if is_dropped { 0.0 } else { *value * keep };
        }
    }
}
