//! Per-channel sums and maps over rows of C values, vectorised across channels.

use super::{Moments, Normalizer};
use crate::per_isa;

per_isa! {
    /// Adds the rows `[n][C]` of `x` to the moments.
    pub fn accumulate(x: &[f32], moments: &mut Moments) {
        let channels = moments.sum.len();
        let (sum, squares) = (&mut moments.sum[..channels], &mut moments.squares[..channels]);
        for row in x.chunks_exact(channels) {
            for c in 0..channels {
                let v = f64::from(row[c]);
                sum[c] += v;
                squares[c] = v.mul_add(v, squares[c]);
            }
        }
    }
}

per_isa! {
    /// Adds `Σ x·y` over the rows `[n][C]` to `product` `[C]`.
    pub fn accumulate_product(x: &[f32], y: &[f32], product: &mut [f64]) {
        let channels = product.len();
        for (x, y) in x.chunks_exact(channels).zip(y.chunks_exact(channels)) {
            for c in 0..channels {
                product[c] = f64::from(x[c]).mul_add(f64::from(y[c]), product[c]);
            }
        }
    }
}

per_isa! {
    /// `x̂ = (x - mean) · inv_std`, in place.
    pub fn normalize(norm: &Normalizer, x: &mut [f32]) {
        let channels = norm.mean.len();
        for row in x.chunks_exact_mut(channels) {
            for c in 0..channels {
                row[c] = (row[c] - norm.mean[c]) * norm.inv_std[c];
            }
        }
    }
}

per_isa! {
    /// `x += fmaf(u, scale, shift)`: a normalised connection joins the layer's current.
    pub fn scale_shift_add(norm: &Normalizer, u: &[f32], x: &mut [f32]) {
        let channels = norm.scale.len();
        for (row, u) in x.chunks_exact_mut(channels).zip(u.chunks_exact(channels)) {
            for c in 0..channels {
                row[c] += u[c].mul_add(norm.scale[c], norm.shift[c]);
            }
        }
    }
}

per_isa! {
    /// Plain and weighted time mean of the normalised values of one sample: `u` is `[T][P][C]`, the outputs are `[P][C]`.
    pub fn time_means(norm: &Normalizer, weights: &[f32], u: &[f32], plain: &mut [f32], weighted: &mut [f32]) {
        let channels = norm.mean.len();
        let len = plain.len();
        let share = 1.0 / weights.len() as f32;
        plain.fill(0.0);
        weighted.fill(0.0);
        for (step, &weight) in u.chunks_exact(len).zip(weights) {
            for i in 0..len {
                plain[i] += step[i];
            }
            for (weighted, step) in weighted.iter_mut().zip(step) {
                *weighted = weight.mul_add(*step, *weighted);
            }
        }
        for row in plain.chunks_exact_mut(channels) {
            for c in 0..channels {
                row[c] = (row[c] * share - norm.mean[c]) * norm.inv_std[c];
            }
        }
        for row in weighted.chunks_exact_mut(channels) {
            for c in 0..channels {
                row[c] = (row[c] - norm.mean[c]) * norm.inv_std[c];
            }
        }
    }
}

per_isa! {
    /// Adds `Σ g` and `Σ g·m` over the rows `[n][C]` to `sum` and `product`, `[C]`.
    pub fn gradient_sums(g: &[f32], m: &[f32], sum: &mut [f64], product: &mut [f64]) {
        let channels = sum.len();
        for (g, m) in g.chunks_exact(channels).zip(m.chunks_exact(channels)) {
            for c in 0..channels {
                sum[c] += f64::from(g[c]);
                product[c] = f64::from(g[c]).mul_add(f64::from(m[c]), product[c]);
            }
        }
    }
}

per_isa! {
    /// `g = scale · (g - mean)` per channel, in place.
    pub fn center(scale: &[f32], mean: &[f32], g: &mut [f32]) {
        let channels = scale.len();
        for row in g.chunks_exact_mut(channels) {
            for c in 0..channels {
                row[c] = scale[c] * (row[c] - mean[c]);
            }
        }
    }
}

per_isa! {
    /// `g -= k · m` per channel, in place.
    pub fn subtract_scaled(k: &[f32], m: &[f32], g: &mut [f32]) {
        let channels = k.len();
        for (row, m) in g.chunks_exact_mut(channels).zip(m.chunks_exact(channels)) {
            for c in 0..channels {
                row[c] = (-k[c]).mul_add(m[c], row[c]);
            }
        }
    }
}
