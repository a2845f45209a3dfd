//! Batch norm: statistics of integer sums are exact; real-valued ones and the maps over rows are compared with plain loops.

#[path = "support/seeded.rs"]
mod seeded;

use approx::assert_relative_eq;
use dsr::device::Isa;
use dsr::ops::batch_norm::{IntegerSums, Moments, Normalizer, accumulate, center, gradient_sums, normalize, subtract_scaled, time_means};
use rand::Rng;
use rand::seq::SliceRandom;

/// Rows `[n][stride]` of two connections; channels behind the last one hold garbage.
struct Rows {
    name: &'static str,
    channels: usize,
    stride: usize,
    largest: i64,
    first: Vec<i32>,
    second: Vec<i32>,
}

fn random(name: &'static str, seed: u64, channels: usize, n: usize, largest: i32) -> Rows {
    let stride = channels.next_multiple_of(16);
    let mut rng = seeded::rng(seed);
    let mut values = || (0..n * stride).map(|_| rng.random_range(-largest..=largest)).collect();
    Rows { name, channels, stride, largest: i64::from(largest), first: values(), second: values() }
}

fn cases() -> Vec<Rows> {
    let alike = |name, value: i32, n: usize| Rows {
        name,
        channels: 3,
        stride: 16,
        largest: i64::from(value.unsigned_abs()),
        first: vec![value; n * 16],
        second: vec![-value; n * 16],
    };
    let mut alternating = alike("the largest sums there are, of both signs", i32::MAX, 50);
    alternating.first.iter_mut().skip(1).step_by(3).for_each(|v| *v = -*v);
    vec![
        random("small sums", 1, 10, 40, 100),
        random("one channel, one row", 2, 1, 1, 5),
        random("33 channels", 3, 33, 100, 1 << 20),
        random("products of two rows fill 64 bits", 4, 16, 101, i32::MAX),
        random("products of three rows fill 64 bits", 5, 16, 101, 1_500_000_000),
        alike("the largest sum there is, always", i32::MAX, 1000),
        alike("always the same", 12345, 77),
        alike("always zero", 0, 9),
        alternating,
    ]
}

fn sums_of(rows: &Rows, range: std::ops::Range<usize>, isa: Isa, with_second: bool) -> IntegerSums {
    let part = |v: &'_ [i32]| v[range.start * rows.stride..range.end * rows.stride].to_vec();
    let mut sums = IntegerSums::new(rows.channels, rows.largest);
    let second = if with_second { part(&rows.second) } else { Vec::new() };
    sums.add(isa, &part(&rows.first), &second, rows.stride);
    sums
}

/// `(n·Σxy - Σx·Σy) / n²` in integers up to the division; the products of the largest sums need 97 bits.
fn covariance(x: &[i32], y: &[i32]) -> f64 {
    let n = x.len() as i128;
    let sum = |v: &[i32]| v.iter().map(|&v| i128::from(v)).sum::<i128>();
    let products: i128 = x.iter().zip(y).map(|(&x, &y)| i128::from(x) * i128::from(y)).sum();
    (n * products - sum(x) * sum(y)) as f64 / (n * n) as f64
}

#[test]
fn integer_moments_are_exact() {
    for rows in cases() {
        let n = rows.first.len() / rows.stride;
        for isa in Isa::available() {
            for with_second in [true, false] {
                let moments = sums_of(&rows, 0..n, isa, with_second).moments(n as u64);
                for c in 0..rows.channels {
                    let column = |v: &[i32]| v.iter().skip(c).step_by(rows.stride).copied().collect::<Vec<_>>();
                    let (x, y) = (column(&rows.first), if with_second { column(&rows.second) } else { vec![0; n] });
                    let mean = |v: &[i32]| v.iter().map(|&v| i128::from(v)).sum::<i128>() as f64 / n as f64;
                    let expected = [mean(&x), mean(&y), covariance(&x, &x), covariance(&x, &y), covariance(&y, &y)];
                    let got = [moments.mean[0][c], moments.mean[1][c], moments.var[0][c], moments.var[1][c], moments.var[2][c]];
                    for (got, expected) in got.iter().zip(expected) {
                        // Two divisions may round where the test has one.
                        assert!(
                            (got - expected).abs() <= 4.0 * f64::EPSILON * expected.abs(),
                            "{}, {isa:?}, channel {c}: {got} is not {expected}",
                            rows.name
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn merging_parts_in_any_order_gives_the_same_bits() {
    for rows in cases() {
        let n = rows.first.len() / rows.stride;
        let whole = sums_of(&rows, 0..n, Isa::detect(), true).moments(n as u64);
        let mut starts: Vec<usize> = (0..n).step_by(n.div_ceil(7)).collect();
        for seed in 0..5 {
            starts.shuffle(&mut seeded::rng(seed));
            let mut parts: Vec<IntegerSums> =
                starts.iter().map(|&s| sums_of(&rows, s..(s + n.div_ceil(7)).min(n), Isa::Portable, true)).collect();
            while parts.len() > 1 {
                let (a, b) = (parts.remove(0), parts.pop().unwrap());
                parts.insert(parts.len() / 2, if seed % 2 == 0 { a.merge(b) } else { b.merge(a) });
            }
            let merged = parts.pop().unwrap().moments(n as u64);
            assert_eq!((&merged.mean, &merged.var), (&whole.mean, &whole.var), "{}, order {seed}", rows.name);
        }
    }
}

/// Mean and biased variance in two passes.
fn two_passes(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    (mean, values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n)
}

#[test]
fn moments_of_a_sum_of_two_connections_match_two_passes_in_f64() {
    for rows in [random("", 6, 5, 300, 3000), random("", 7, 33, 64, 1 << 30)] {
        let n = rows.first.len() / rows.stride;
        let moments = sums_of(&rows, 0..n, Isa::detect(), true).moments(n as u64);
        let factors: Vec<f64> = seeded::values(1, 2 * rows.channels, -2.0..2.0).iter().map(|&v| f64::from(v)).collect();
        let (a, b) = factors.split_at(rows.channels);
        let (mean, var) = moments.combined([a, b]);
        for c in 0..rows.channels {
            let at = |row: usize| row * rows.stride + c;
            let x: Vec<f64> = (0..n).map(|r| a[c] * f64::from(rows.first[at(r)]) + b[c] * f64::from(rows.second[at(r)])).collect();
            let (expected_mean, expected_var) = two_passes(&x);
            assert_relative_eq!(mean[c], expected_mean, max_relative = 1e-9, epsilon = 1e-9 * expected_var.sqrt());
            assert_relative_eq!(var[c], expected_var, max_relative = 1e-11);
        }
    }
}

/// Opposite connections cancel: the variance of their sum is 0, never negative.
#[test]
fn variance_is_never_negative() {
    for largest in [7, 1 << 20, i32::MAX] {
        let mut rows = random("", 8, 4, 50, largest);
        rows.second = rows.first.iter().map(|v| -v).collect();
        let moments = sums_of(&rows, 0..50, Isa::detect(), true).moments(50);
        let (mean, var) = moments.combined([&[0.1; 4], &[0.1; 4]]);
        assert_eq!((mean, var), (vec![0.0; 4], vec![0.0; 4]));
    }
    let constant = Moments::of_real(&[0.3 * 3.0], &[0.09 * 3.0 - 1e-12], 3.0);
    assert_eq!(constant.var[0], [0.0]);
}

#[test]
fn real_sums_match_two_passes_in_f64() {
    for (channels, n) in [(1, 1), (3, 50), (33, 20)] {
        let stride = channels + 5;
        let x = seeded::values(2, n * stride, -3.0..5.0);
        let mut same: Option<(Vec<f64>, Vec<f64>)> = None;
        for isa in Isa::available() {
            let (mut sum, mut squares) = (vec![0.0; channels], vec![0.0; channels]);
            accumulate(isa, &x, stride, &mut sum, &mut squares);
            let moments = Moments::of_real(&sum, &squares, n as f64);
            for c in 0..channels {
                let column: Vec<f64> = x.iter().skip(c).step_by(stride).map(|&v| f64::from(v)).collect();
                let (mean, var) = two_passes(&column);
                assert_relative_eq!(moments.mean[0][c], mean, max_relative = 1e-13);
                assert_relative_eq!(moments.var[0][c], var, max_relative = 1e-12, epsilon = 1e-14);
            }
            let bits = (sum, squares);
            assert_eq!(same.get_or_insert_with(|| bits.clone()), &bits, "{isa:?}");
        }
    }
}

/// `x̂ = f₀·acc₀ + (f₁·acc₁ + offset)`, one `mul_add` each.
#[test]
fn normalize_is_one_mul_add_a_connection() {
    for channels in [1usize, 16, 33] {
        let stride = channels.next_multiple_of(16);
        let constants = |seed| seeded::values(seed, channels, -1.0..1.0).iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
        let (one, zero) = (vec![1.0f32; channels], vec![0.0f32; channels]);
        let norm = Normalizer::new([&constants(1), &constants(2)], &constants(3), &one, &zero, &vec![1.0; channels]);
        let rows = random("", 4, channels, 7, 1 << 25); // above 2^24: the conversion to f32 rounds
        let real = seeded::values(5, 7 * stride, -2.0..2.0);
        for isa in Isa::available() {
            for (is_real, second) in [(false, &rows.second[..]), (false, &[]), (true, &[])] {
                let mut got = if is_real { bytemuck::cast_slice(&real).to_vec() } else { rows.first.clone() };
                normalize(isa, &norm, is_real, &mut got, second, channels, stride);
                for (row, c) in (0..7).flat_map(|row| (0..channels).map(move |c| (row, c))) {
                    let at = row * stride + c;
                    let x = if is_real { real[at] } else { rows.first[at] as f32 };
                    let mut expected = norm.offset[c];
                    if !second.is_empty() {
                        expected = norm.factors[1][c].mul_add(second[at] as f32, expected);
                    }
                    expected = norm.factors[0][c].mul_add(x, expected);
                    assert_eq!(got[at] as u32, expected.to_bits(), "{isa:?}, row {row}, channel {c}");
                }
            }
        }
    }
}

#[test]
fn time_means_match_f64() {
    for (channels, time_steps) in [(1, 1), (33, 5), (48, 33)] {
        let rows = random("", 6, channels, time_steps, 100);
        let [factor, offset] = [7, 8].map(|seed| seeded::values(seed, channels, -1.0..1.0));
        let weights = seeded::values(9, time_steps, 0.0..1.0);
        let mut same = None;
        for isa in Isa::available() {
            let (mut plain, mut weighted) = (vec![9.0; channels], vec![9.0; channels]);
            time_means(isa, &factor, &offset, &weights, &rows.first, rows.stride, &mut plain, &mut weighted);
            for c in 0..channels {
                let x = |t: usize| f64::from(factor[c]) * f64::from(rows.first[t * rows.stride + c]) + f64::from(offset[c]);
                let expected = (0..time_steps).map(x).sum::<f64>() / time_steps as f64;
                assert_relative_eq!(f64::from(plain[c]), expected, max_relative = 1e-5, epsilon = 1e-4);
                let expected: f64 = (0..time_steps).map(|t| f64::from(weights[t]) * x(t)).sum();
                assert_relative_eq!(f64::from(weighted[c]), expected, max_relative = 1e-5, epsilon = 1e-3);
            }
            let bits = (plain, weighted);
            assert_eq!(same.get_or_insert_with(|| bits.clone()), &bits, "{isa:?}");
        }
    }
}

/// The three maps of backward, each against its formula in f64 and with equal bits on every instruction set.
#[test]
fn gradient_maps_match_their_formulas() {
    for channels in [1, 31, 32, 33] {
        let n = 11;
        let [g, m] = [1, 2].map(|seed| seeded::values(seed, n * channels, -1.0..1.0));
        let [scale, mean] = [3, 4].map(|seed| seeded::values(seed, channels, -1.0..1.0));
        let mut same = None;
        for isa in Isa::available() {
            let (mut sum, mut product) = (vec![0.5; channels], vec![0.25; channels]); // what is there is added to
            gradient_sums(isa, &g, &m, &mut sum, &mut product);
            let mut centered = g.clone();
            center(isa, &scale, &mean, &mut centered);
            let mut subtracted = g.clone();
            subtract_scaled(isa, &scale, &m, &mut subtracted);
            for c in 0..channels {
                let column = || (0..n).map(|row| row * channels + c);
                let wide = |v: f32| f64::from(v);
                assert_relative_eq!(sum[c], 0.5 + column().map(|i| wide(g[i])).sum::<f64>(), epsilon = 1e-12);
                assert_relative_eq!(product[c], 0.25 + column().map(|i| wide(g[i]) * wide(m[i])).sum::<f64>(), epsilon = 1e-12);
                for i in column() {
                    assert_relative_eq!(wide(centered[i]), wide(scale[c]) * (wide(g[i]) - wide(mean[c])), epsilon = 3e-7);
                    assert_relative_eq!(wide(subtracted[i]), wide(g[i]) - wide(scale[c]) * wide(m[i]), epsilon = 3e-7);
                }
            }
            let bits = (sum, product, centered, subtracted);
            assert_eq!(same.get_or_insert_with(|| bits.clone()), &bits, "{isa:?}");
        }
    }
}
