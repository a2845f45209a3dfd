//! Per-channel sums and maps over rows of C values, vectorised across channels.

use super::{Moments, Normalizer};
use crate::device::Isa;
use crate::per_isa;

/// Exact sums of the integer currents of a layer, per channel.
#[derive(Clone, Debug, Default)]
pub struct IntegerSums {
    /// `Σ acc` of each connection.
    sum: [Vec<i64>; 2],
    /// `Σ acc₁²`, `Σ acc₁·acc₂`, `Σ acc₂²`.
    squares: [Vec<i128>; 3],
    /// The same, of the last few rows: products of at most `fold` rows fit.
    part: [Vec<i64>; 3],
    fold: usize,
    pending: usize,
}

impl IntegerSums {
    /// No value yet; `largest` bounds the magnitude of every sum that will come.
    pub fn new(channels: usize, largest: i64) -> Self {
        let fold = (i64::MAX / largest.saturating_mul(largest).max(1)).max(1);
        IntegerSums {
            sum: [vec![0; channels], vec![0; channels]],
            squares: [vec![0; channels], vec![0; channels], vec![0; channels]],
            part: [vec![0; channels], vec![0; channels], vec![0; channels]],
            fold: fold.min(1 << 30) as usize,
            pending: 0,
        }
    }

    /// Adds rows `[n][stride]` of the first and (unless empty) second connection.
    pub fn add(&mut self, isa: Isa, first: &[i32], second: &[i32], stride: usize) {
        for at in (0..first.len()).step_by(stride) {
            if self.pending == self.fold {
                self.fold_part();
            }
            self.pending += 1;
            add_row(isa, &first[at..], &mut self.sum[0], &mut self.part[0]);
            if !second.is_empty() {
                add_row(isa, &second[at..], &mut self.sum[1], &mut self.part[2]);
                add_products(isa, &first[at..], &second[at..], &mut self.part[1]);
            }
        }
    }

    fn fold_part(&mut self) {
        self.pending = 0;
        for (total, part) in self.squares.iter_mut().zip(&mut self.part) {
            for (total, part) in total.iter_mut().zip(part) {
                *total += i128::from(std::mem::take(part));
            }
        }
    }

    /// Adds the sums of another part of the batch; integers, so the order does not matter.
    pub fn merge(mut self, mut other: IntegerSums) -> IntegerSums {
        self.fold_part();
        other.fold_part();
        for (into, from) in self.sum.iter_mut().zip(&other.sum) {
            into.iter_mut().zip(from).for_each(|(into, from)| *into += from);
        }
        for (into, from) in self.squares.iter_mut().zip(&other.squares) {
            into.iter_mut().zip(from).for_each(|(into, from)| *into += from);
        }
        self
    }

    /// All sums, one after the other, to be added to those of other parts of the batch.
    pub fn to_integers(&mut self) -> Vec<i128> {
        self.fold_part();
        self.sum.iter().flatten().map(|&value| i128::from(value)).chain(self.squares.iter().flatten().copied()).collect()
    }

    /// Takes what [`IntegerSums::to_integers`] gave, added to that of others.
    pub fn set_integers(&mut self, integers: &[i128]) {
        let mut values = integers.iter();
        self.sum.iter_mut().flatten().zip(&mut values).for_each(|(into, &value)| *into = value as i64); // as `merge`, it fits
        self.squares.iter_mut().flatten().zip(&mut values).for_each(|(into, &value)| *into = value);
    }

    /// Mean and (co)variances over `n` rows; exact until the last division.
    pub fn moments(mut self, n: u64) -> Moments {
        self.fold_part();
        let wide = i128::from(n);
        let count = n as f64;
        let covariance = |product: &[i128], x: &[i64], y: &[i64]| -> Vec<f64> {
            product
                .iter()
                .zip(x.iter().zip(y))
                .map(|(&product, (&x, &y))| (wide * product - i128::from(x) * i128::from(y)) as f64 / count / count)
                .collect()
        };
        let [x, y] = &self.sum;
        let mean = |sum: &[i64]| sum.iter().map(|&s| s as f64 / count).collect();
        Moments {
            var: [covariance(&self.squares[0], x, x), covariance(&self.squares[1], x, y), covariance(&self.squares[2], y, y)],
            mean: [mean(x), mean(y)],
        }
    }
}

per_isa! {
    /// Adds one row to sums and sums of squares, `[C]`.
    pub fn add_row(x: &[i32], sum: &mut [i64], squares: &mut [i64]) {
        let channels = sum.len();
        let (x, squares) = (&x[..channels], &mut squares[..channels]);
        for c in 0..channels {
            let v = i64::from(x[c]);
            sum[c] = sum[c].wrapping_add(v);
            squares[c] = squares[c].wrapping_add(v.wrapping_mul(v)); // cannot wrap: `fold` rows fit
        }
    }
}

per_isa! {
    /// Adds the products of two rows, `[C]`.
    pub fn add_products(x: &[i32], y: &[i32], products: &mut [i64]) {
        let channels = products.len();
        let (x, y) = (&x[..channels], &y[..channels]);
        for c in 0..channels {
            products[c] = products[c].wrapping_add(i64::from(x[c]).wrapping_mul(i64::from(y[c])));
        }
    }
}

per_isa! {
    /// Adds the rows `[n][stride]` of real values to sums and sums of squares, `[C]`.
    pub fn accumulate(x: &[f32], stride: usize, sum: &mut [f64], squares: &mut [f64]) {
        let channels = sum.len();
        let squares = &mut squares[..channels];
        for row in x.chunks_exact(stride) {
            let row = &row[..channels];
            for c in 0..channels {
                let v = f64::from(row[c]);
                sum[c] += v;
                squares[c] = v.mul_add(v, squares[c]);
            }
        }
    }
}

per_isa! {
    /// Adds the products of two real-valued currents, rows `[n][C]`, to `products`, `[C]`.
    pub fn accumulate_products(x: &[f32], y: &[f32], products: &mut [f64]) {
        let channels = products.len();
        for (x, y) in x.chunks_exact(channels).zip(y.chunks_exact(channels)) {
            for c in 0..channels {
                products[c] = f64::from(x[c]).mul_add(f64::from(y[c]), products[c]);
            }
        }
    }
}

per_isa! {
    /// Turns the sums of a layer into normalised currents x̂ `[n][stride]`, in place (as the bits of f32).
    ///
    /// `is_real`: the first sums are f32 already.
    pub fn normalize(norm: &Normalizer, is_real: bool, first: &mut [i32], second: &[i32], channels: usize, stride: usize) {
        let (factor, other_factor, offset) = (&norm.factors[0][..channels], &norm.factors[1][..channels], &norm.offset[..channels]);
        for (index, row) in first.chunks_exact_mut(stride).enumerate() {
            for c in 0..channels {
                let x = if is_real { f32::from_bits(row[c] as u32) } else { row[c] as f32 };
                let mut normed = offset[c];
                if !second.is_empty() {
                    normed = other_factor[c].mul_add(second[index * stride + c] as f32, normed);
                }
                row[c] = factor[c].mul_add(x, normed).to_bits() as i32;
            }
        }
    }
}

per_isa! {
    /// Plain and weighted time mean of `factor·acc + offset` at one position: `acc` is `[T][stride]`, the outputs are `[C]`.
    pub fn time_means(factor: &[f32], offset: &[f32], weights: &[f32], acc: &[i32], stride: usize, plain: &mut [f32], weighted: &mut [f32]) {
        let channels = plain.len();
        let (factor, offset, weighted) = (&factor[..channels], &offset[..channels], &mut weighted[..channels]);
        plain.fill(0.0);
        weighted.fill(0.0);
        for (step, &weight) in acc.chunks_exact(stride).zip(weights) {
            for c in 0..channels {
                let normed = factor[c].mul_add(step[c] as f32, offset[c]);
                plain[c] += normed;
                weighted[c] = weight.mul_add(normed, weighted[c]);
            }
        }
        let time_steps = weights.len() as f32;
        plain.iter_mut().for_each(|v| *v /= time_steps);
    }
}

per_isa! {
    /// Adds `Σ g` and `Σ g·m` over the rows `[n][C]` to `sum` and `product`, `[C]`.
    pub fn gradient_sums(g: &[f32], m: &[f32], sum: &mut [f64], product: &mut [f64]) {
        let channels = sum.len();
        let product = &mut product[..channels];
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
        let mean = &mean[..channels];
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
