//! Spike convolution: sums are integers, so every comparison here is exact.

#[path = "support/seeded.rs"]
mod seeded;

use dsr::device::Isa;
use dsr::ops::neuron::LANES;
use dsr::ops::spike_conv::{Events, Geometry, MAX_WEIGHT_8, MAX_WEIGHT_16, QuantizedWeights, conv_at, identity_at, spike_outer};
use dsr::spikes::Spikes;
use proptest::prelude::*;
use rand::Rng;

const NO_POOL: [usize; 3] = [1, 1, 0];
const POOLS: [[usize; 3]; 3] = [NO_POOL, [2, 2, 0], [3, 2, 1]];

/// Spikes `[B][P][T][words]` of which a share `density` is set.
fn spikes(seed: u64, time_steps: usize, batch: usize, positions: usize, channels: usize, density: f64) -> Spikes {
    let mut rng = seeded::rng(seed);
    let mut spikes = Spikes::reuse(Vec::new(), time_steps, batch, positions, channels);
    let words = spikes.words();
    for step in spikes.bits_mut().chunks_exact_mut(words) {
        for c in 0..channels {
            step[c / 32] |= u32::from(rng.random_bool(density)) << (c % 32);
        }
    }
    spikes
}

/// The same where every neuron has a rate of its own, of silent, constant, and anything between.
fn spikes_of_many_rates(seed: u64, time_steps: usize, batch: usize, positions: usize, channels: usize) -> Spikes {
    let mut rng = seeded::rng(seed);
    let mut spikes = Spikes::reuse(Vec::new(), time_steps, batch, positions, channels);
    let words = spikes.words();
    for position in spikes.bits_mut().chunks_exact_mut(time_steps * words) {
        for c in 0..channels {
            let rate = rng.random_range(-0.3f64..1.3).clamp(0.0, 1.0);
            for step in position.chunks_exact_mut(words) {
                step[c / 32] |= u32::from(rng.random_bool(rate)) << (c % 32);
            }
        }
    }
    spikes
}

fn quantized(master: &[f32], cout: usize, bits: u8, max_count: usize) -> QuantizedWeights {
    let mut weights = QuantizedWeights::default();
    weights.quantize(Isa::Portable, master, cout, bits, max_count);
    weights
}

/// Spikes in the pool window of a pooled position, or 0 where that lies in the padding of the convolution.
fn pooled(spikes: &Spikes, geometry: &Geometry, b: usize, t: usize, y: isize, x: isize, c: usize) -> i64 {
    let [height, width] = geometry.source.map(|n| n as isize);
    let [window, stride, pad] = geometry.pool.map(|n| n as isize);
    let [pooled_height, pooled_width] = geometry.source.map(|n| (n as isize + 2 * pad - window) / stride + 1);
    if !(0..pooled_height).contains(&y) || !(0..pooled_width).contains(&x) {
        return 0;
    }
    let mut count = 0;
    for iy in y * stride - pad..y * stride - pad + window {
        for ix in x * stride - pad..x * stride - pad + window {
            let inside = (0..height).contains(&iy) && (0..width).contains(&ix);
            count += i64::from(inside && spikes.get(t, b, (iy * width + ix) as usize, c));
        }
    }
    count
}

/// The convolution as its definition has it, `[T][cout]`.
fn dense(spikes: &Spikes, weights: &QuantizedWeights, geometry: &Geometry, b: usize, [y, x]: [usize; 2]) -> Vec<i64> {
    let Geometry { cin, cout, kernel, stride, pad, .. } = *geometry;
    let mut out = vec![0; spikes.time_steps * cout];
    for (t, out) in out.chunks_exact_mut(cout).enumerate() {
        for ky in 0..kernel[0] {
            for kx in 0..kernel[1] {
                let from = [y * stride + ky, x * stride + kx].map(|n| n as isize - pad as isize);
                for c in 0..cin {
                    let count = pooled(spikes, geometry, b, t, from[0], from[1], c);
                    if count != 0 {
                        let row = (ky * kernel[1] + kx) * cin + c;
                        out.iter_mut().enumerate().for_each(|(o, out)| *out += count * i64::from(weights.integer(row, o)));
                    }
                }
            }
        }
    }
    out
}

/// Kernels, strides and pools in all combinations; sizes, channels and steps go round through awkward numbers.
fn geometries() -> Vec<(Geometry, usize)> {
    let channels = [1, 3, 10, 16, 17, 31, 32, 33, 48, 63, 64, 65, 70];
    let sources = [[7, 5], [9, 9], [8, 11], [7, 8]];
    let mut cases = Vec::new();
    for kernel in [1, 3, 7] {
        for stride in [1, 2] {
            for pool in POOLS {
                for pad in [0, kernel / 2] {
                    let n = cases.len();
                    let (cin, cout, mut source) = (channels[n * 5 % 13], channels[n * 7 % 13], sources[n % 4]);
                    if pool != NO_POOL {
                        source = source.map(|n| 2 * n); // leaves room for a kernel of 7
                    }
                    let geometry = Geometry { cin, cout, source, pool, kernel: [kernel; 2], stride, pad };
                    cases.push((geometry, [1, 4, 3][n % 3]));
                }
            }
        }
    }
    // Linear layers: the kernel covers its (pooled) input.
    for (source, pool) in [([1, 1], NO_POOL), ([2, 2], NO_POOL), ([5, 4], [2, 2, 0])] {
        let mut geometry = Geometry { cin: 33, cout: 10, source, pool, kernel: [1, 1], stride: 1, pad: 0 };
        geometry.kernel = geometry.pooled();
        cases.push((geometry, 33));
    }
    cases
}

/// Every output of every sample, on every instruction set, one by one and some at once; columns behind the last channel become 0.
fn check(name: &str, spikes: &Spikes, weights: &QuantizedWeights, geometry: &Geometry) {
    let [height, width] = geometry.out();
    let stride = geometry.cout.next_multiple_of(LANES);
    let position = spikes.time_steps * stride;
    let mut acc = vec![0; height * width * position];
    let mut events = Events::default();
    for b in 0..spikes.batch {
        let expected: Vec<Vec<i64>> = (0..height * width).map(|at| dense(spikes, weights, geometry, b, [at / width, at % width])).collect();
        for (isa, together) in Isa::available().into_iter().flat_map(|isa| [1, 3, height * width].map(|n| (isa, n))) {
            acc.fill(i32::MIN);
            for (strip, acc) in acc.chunks_mut(together * position).enumerate() {
                let (first, end) = (strip * together, strip * together + acc.len() / position);
                events.list(isa, spikes, b, geometry, first / width..(end - 1) / width + 1);
                conv_at(isa, &mut events, weights, geometry, [first / width, first % width], stride, acc);
            }
            for (at, (acc, expected)) in acc.chunks_exact(position).zip(&expected).enumerate() {
                for (t, (got, expected)) in acc.chunks_exact(stride).zip(expected.chunks_exact(geometry.cout)).enumerate() {
                    let (got, padding) = got.split_at(geometry.cout);
                    let same = got.iter().map(|&v| i64::from(v)).eq(expected.iter().copied()) && padding.iter().all(|&v| v == 0);
                    let (y, x) = (at / width, at % width);
                    assert!(same, "{name}, {isa:?}, {together} together, sample {b}, step {t}, at {y},{x}: {geometry:?}");
                }
            }
        }
    }
}

/// What blocks hold depends on the instruction set that made them; any other adds them, too.
#[test]
fn weights_of_every_instruction_set_are_added_by_all() {
    for (cin, cout, bits) in [(40, 70, 8), (40, 250, 8), (40, 70, 16), (520, 130, 8), (520, 200, 8)] {
        let geometry = Geometry { cin, cout, source: [4, 3], pool: NO_POOL, kernel: [3, 3], stride: 1, pad: 1 };
        let master = seeded::values(cout as u64, 9 * cin * cout, -1.0..1.0);
        for isa in Isa::available() {
            let mut weights = QuantizedWeights::default();
            weights.quantize(isa, &master, cout, bits, 1);
            check(&format!("{cin} to {cout} channels of {isa:?}"), &spikes(7, 3, 1, 12, cin, 0.15), &weights, &geometry);
        }
    }
}

/// Blocks of weights that are too large for a cache are taken in parts of the taps: at the edges of an image some are empty.
#[test]
fn large_weights_are_summed_in_parts() {
    for (n, (cin, kernel, stride, bits)) in [(256, 3, 1, 16), (300, 3, 2, 16), (520, 3, 1, 8), (65, 7, 1, 16)].into_iter().enumerate() {
        let geometry = Geometry { cin, cout: 65, source: [5, 4], pool: NO_POOL, kernel: [kernel; 2], stride, pad: kernel / 2 };
        let master = seeded::values(n as u64, kernel * kernel * cin * 65, -1.0..1.0);
        let weights = quantized(&master, 65, bits, 1);
        check(&format!("case {n}"), &spikes(n as u64, 3, 1, 20, cin, 0.15), &weights, &geometry);
    }
    let pooled = Geometry { cin: 257, cout: 40, source: [6, 6], pool: [2, 2, 0], kernel: [3, 3], stride: 1, pad: 1 };
    let weights = quantized(&seeded::values(9, 9 * 257 * 40, -1.0..1.0), 40, 16, 4);
    check("pooled", &spikes(9, 2, 1, 36, 257, 0.15), &weights, &pooled);
}

#[test]
fn sums_equal_a_dense_convolution() {
    for (n, (geometry, time_steps)) in geometries().iter().enumerate() {
        let rows = geometry.taps() * geometry.cin;
        let master = seeded::values(n as u64, rows * geometry.cout, -1.0..1.0);
        let weights = quantized(&master, geometry.cout, if n % 2 == 0 { 16 } else { 8 }, geometry.area());
        for density in [0.0, 0.1, 1.0] {
            let positions = geometry.source[0] * geometry.source[1];
            let spikes = spikes(n as u64, *time_steps, 2, positions, geometry.cin, density);
            check(&format!("case {n} at density {density}"), &spikes, &weights, geometry);
        }
    }
}

/// Neurons that fire at most steps are told by their silence: for any T, counts on both sides of the half, and large weights in parts.
#[test]
fn neurons_that_fire_often_are_summed_exactly() {
    for (n, time_steps) in [1, 2, 3, 4, 5, 7, 8, 20, 31, 32, 33, 255].into_iter().enumerate() {
        let channels = [33, 64, 65, 10, 96, 128][n % 6];
        let geometry = Geometry { cin: channels, cout: 70, source: [5, 4], pool: NO_POOL, kernel: [3, 3], stride: 1 + n % 2, pad: 1 };
        for bits in [16, 8] {
            let weights = quantized(&seeded::values(n as u64, 9 * channels * 70, -1.0..1.0), 70, bits, 1);
            check(&format!("T = {time_steps}"), &spikes_of_many_rates(n as u64, time_steps, 1, 20, channels), &weights, &geometry);
        }
    }
    for (n, (cin, kernel, pool, bits)) in [(300, 3, NO_POOL, 16), (520, 3, [2, 2, 0], 8), (65, 5, [3, 2, 1], 16)].into_iter().enumerate() {
        let geometry = Geometry { cin, cout: 65, source: [6, 6], pool, kernel: [kernel; 2], stride: 1, pad: kernel / 2 };
        let weights = quantized(&seeded::values(n as u64, kernel * kernel * cin * 65, -1.0..1.0), 65, bits, geometry.area());
        check("parts", &spikes_of_many_rates(n as u64, 5, 1, 36, cin), &weights, &geometry);
    }
    // The most rows whose negatives have numbers, and one more; the largest weights of both signs.
    for cin in [32_767, 32_768] {
        let geometry = Geometry { cin, cout: 3, source: [1, 1], pool: NO_POOL, kernel: [1, 1], stride: 1, pad: 0 };
        let mut master = vec![1.0; cin * 3];
        master.iter_mut().step_by(2).for_each(|weight| *weight = -1.0);
        check("many rows", &spikes_of_many_rates(cin as u64, 6, 1, 1, cin), &quantized(&master, 3, 16, 1), &geometry);
    }
}

/// The most inputs a neuron may have: row numbers use all of their 16 bits, and the sums come close to 2^31.
#[test]
fn receptive_fields_of_65536_inputs() {
    let wide = Geometry { cin: 1 << 16, cout: 3, source: [1, 1], pool: NO_POOL, kernel: [1, 1], stride: 1, pad: 0 };
    let deep = Geometry { cin: 1337, source: [7, 7], kernel: [7, 7], pad: 0, ..wide };
    for geometry in [wide, deep] {
        let rows = geometry.taps() * geometry.cin;
        let positions = geometry.source[0] * geometry.source[1];
        let random = quantized(&seeded::values(1, rows * 3, -1.0..1.0), 3, 16, 1);
        check("random", &spikes(2, 2, 1, positions, geometry.cin, 0.2), &random, &geometry);
        let largest = quantized(&vec![-1.0; rows * 3], 3, 16, 1);
        check("all weights alike, all neurons fire", &spikes(3, 1, 1, positions, geometry.cin, 1.0), &largest, &geometry);
    }
}

/// 8-bit weights are summed in i16 in between: every spike fires, and the sum is beyond what an i16 holds, in both directions.
#[test]
fn sums_of_narrow_weights_go_beyond_sixteen_bits() {
    let geometry = Geometry { cin: 64, cout: 70, source: [3, 3], pool: [1, 1, 0], kernel: [3, 3], stride: 1, pad: 1 };
    let rows = 9 * 64;
    let mut master = vec![127.0 / 128.0; rows * 70];
    master.iter_mut().skip(1).step_by(2).for_each(|w| *w = -*w);
    let weights = quantized(&master, 70, 8, 1);
    let spikes = spikes(5, 2, 1, 9, 64, 1.0);
    let largest = dense(&spikes, &weights, &geometry, 0, [1, 1]);
    assert_eq!((largest[0], largest[1]), (rows as i64 * 127, rows as i64 * -127));
    check("narrow", &spikes, &weights, &geometry);
}

#[test]
fn identity_counts_spikes_in_the_pool_window() {
    for (n, pool) in [NO_POOL, [2, 2, 0], [3, 2, 1], [4, 4, 0], [7, 7, 0]].into_iter().enumerate() {
        for channels in [1, 31, 32, 33, 48, 70] {
            let geometry = Geometry { cin: channels, cout: channels, source: [7, 9], pool, kernel: [1, 1], stride: 1, pad: 0 };
            let spikes = spikes(n as u64, 3, 2, 63, channels, 0.4);
            let stride = channels.next_multiple_of(LANES);
            let [height, width] = geometry.out();
            for isa in Isa::available() {
                for (b, y, x) in (0..2).flat_map(|b| (0..height).flat_map(move |y| (0..width).map(move |x| (b, y, x)))) {
                    let mut acc = vec![i32::MIN; 3 * stride];
                    identity_at(isa, &spikes, b, &geometry, [y, x], stride, &mut acc);
                    for (t, c) in (0..3).flat_map(|t| (0..channels).map(move |c| (t, c))) {
                        let expected = pooled(&spikes, &geometry, b, t, y as isize, x as isize, c);
                        assert_eq!(i64::from(acc[t * stride + c]), expected, "{pool:?}, {isa:?}, sample {b}, step {t}, at {y},{x},{c}");
                    }
                }
            }
        }
    }
}

/// `value · Σ_t x[t] ⊗ o[t]`: steps in order, one `mul_add` a spike.
#[test]
fn outer_products_add_one_row_a_spike() {
    let (time_steps, value) = (5, 0.3f32);
    for (cin, cout) in [(1usize, 1usize), (33, 10), (70, 48)] {
        let stride = cout.next_multiple_of(LANES);
        let spikes = spikes(9, time_steps, 2, 3, cin, 0.5);
        let x = seeded::values(4, time_steps * stride, -1.0..1.0);
        for (b, p) in [(0, 0), (1, 2)] {
            let start = seeded::values(5, cin * cout, -1.0..1.0);
            let mut expected = start.clone();
            for (t, c) in (0..time_steps).flat_map(|t| (0..cin).map(move |c| (t, c))).filter(|&(t, c)| spikes.get(t, b, p, c)) {
                for o in 0..cout {
                    expected[c * cout + o] = value.mul_add(x[t * stride + o], expected[c * cout + o]);
                }
            }
            for isa in Isa::available() {
                let mut outer = start.clone();
                spike_outer(isa, spikes.position(b, p), &x, stride, value, cout, &mut outer);
                assert_eq!(outer, expected, "{isa:?}, {cin} to {cout} channels");
            }
        }
    }
}

/// All weights, `[row][channels of all blocks]`.
fn integers(weights: &QuantizedWeights) -> Vec<i32> {
    (0..weights.rows).flat_map(|row| (0..weights.padded_channels()).map(move |o| weights.integer(row, o))).collect()
}

/// What must hold for any weights; returns the largest `|q|`.
fn check_bounds(name: &str, master: &[f32], cout: usize, bits: u8, max_count: usize) -> i64 {
    let weights = quantized(master, cout, bits, max_count);
    let rows = master.len() / cout;
    let limit = i64::from(if bits == 8 { MAX_WEIGHT_8 } else { MAX_WEIGHT_16 });
    let mut largest = 0;
    for o in 0..cout {
        let column: Vec<i64> = (0..rows).map(|row| i64::from(weights.integer(row, o))).collect();
        let total: i64 = column.iter().map(|q| q.abs()).sum::<i64>() * max_count as i64;
        assert!(total <= weights.largest_sum, "{name}: channel {o} sums up to {total}, promised {}", weights.largest_sum);
        let scale = f64::from(weights.scale[o]);
        assert_eq!(scale.log2().fract(), 0.0, "{name}: scale {scale} is no power of two");
        for (row, &q) in column.iter().enumerate() {
            assert!(q.abs() <= limit, "{name}: {q} is more than {limit}");
            let weight = f64::from(master[row * cout + o]);
            assert!((q as f64 * scale - weight).abs() <= scale / 2.0, "{name}: {weight} became {q} · {scale}");
            largest = largest.max(q.abs());
        }
    }
    assert!(weights.largest_sum < 1 << 31, "{name}: sums up to {}", weights.largest_sum);
    for isa in Isa::available() {
        let mut other = QuantizedWeights::default();
        other.quantize(isa, master, cout, bits, max_count);
        let same = (integers(&other), &other.scale, other.largest_sum) == (integers(&weights), &weights.scale, weights.largest_sum);
        assert!(same, "{name}: {isa:?} rounds differently");
    }
    largest
}

#[test]
fn weights_keep_their_width_and_sums_fit() {
    // name, value of every weight, rows, bits, pool area, least |q| that the width allows here
    let cases: [(&str, f32, usize, u8, usize, i64); 10] = [
        ("unit weights", 1.0, 9, 16, 1, 1 << 13),
        ("just fits the width", 16383.0, 9, 16, 1, 16383),
        ("just above the width", 16384.0, 9, 16, 1, 8192),
        ("8 bits", 127.0, 9, 8, 1, 127),
        ("just above 8 bits", 128.0, 9, 8, 1, 64),
        ("many inputs take room from the width", 1.0, 1 << 16, 16, 1, 1 << 13),
        ("a pool takes room from the width", 1.0, 512 * 9, 16, 49, 1 << 12),
        ("8 bits are never short of room", 127.0, 1 << 14, 8, 49, 127),
        ("huge weights", 1e30, 9, 16, 1, 1 << 13),
        ("the largest weight there is", f32::MAX, 1 << 10, 16, 9, 1 << 13),
    ];
    for (name, value, rows, bits, max_count, least) in cases {
        for sign in [1.0, -1.0] {
            let largest = check_bounds(name, &vec![sign * value; rows * 2], 2, bits, max_count);
            assert!(largest >= least, "{name}: {largest} wastes bits, {least} fit");
        }
    }
}

proptest! {
    #[test]
    fn any_weights_keep_their_width_and_sums_fit(
        master in prop::collection::vec(-3.0f32..3.0, 1..400),
        exponent in -12i32..30,
        cout in 1usize..20,
        eight in any::<bool>(),
        max_count in 1usize..50,
    ) {
        let cout = cout.min(master.len());
        let len = master.len() / cout * cout;
        let scaled: Vec<f32> = master[..len].iter().map(|w| w * f32::powi(2.0, exponent)).collect();
        check_bounds("random", &scaled, cout, if eight { 8 } else { 16 }, max_count);
    }
}

#[test]
fn dyadic_weights_are_exact() {
    let mut rng = seeded::rng(3);
    for (bits, range) in [(16, -16383..=16383), (8, -127..=127)] {
        let integers: Vec<i32> = (0..7 * 9 * 33).map(|_| rng.random_range(range.clone())).collect();
        let master: Vec<f32> = integers.iter().map(|&q| q as f32 / 1024.0).collect();
        let weights = quantized(&master, 33, bits, 1);
        for (at, &weight) in master.iter().enumerate() {
            let (row, o) = (at / 33, at % 33);
            assert_eq!(weights.integer(row, o) as f32 * weights.scale[o], weight, "{bits} bits, row {row}, channel {o}");
        }
    }
}

#[test]
fn ties_go_to_the_even_neighbour() {
    // The first weight fixes the scale at 1.
    for (bits, first) in [(16, 16383.0), (8, 127.0)] {
        let master = [first, 0.5, 1.5, 2.5, 3.5, -0.5, -1.5, -2.5, 4.25, -4.75];
        let weights = quantized(&master, 1, bits, 1);
        let got: Vec<i64> = (0..master.len()).map(|row| i64::from(weights.integer(row, 0))).collect();
        assert_eq!((weights.scale[0], got), (1.0, vec![first as i64, 0, 2, 2, 4, 0, -2, -2, 4, -5]), "{bits} bits");
    }
}

/// A channel of zeros has a finite scale and leaves the scales of its neighbours alone; rows beyond the last channel are zero.
#[test]
fn zero_channels_and_padding_are_zero() {
    let (rows, cout) = (5, 33);
    let mut master = seeded::values(8, rows * cout, 0.5..1.0);
    let alone = quantized(&master, cout, 16, 1);
    master.chunks_exact_mut(cout).for_each(|row| row[7] = 0.0);
    let weights = quantized(&master, cout, 16, 1);
    for o in 0..weights.padded_channels() {
        let column: Vec<i32> = (0..rows).map(|row| weights.integer(row, o)).collect();
        if o == 7 || o >= cout {
            assert!(column.iter().all(|&q| q == 0), "channel {o}: {column:?}");
        } else {
            assert_eq!(weights.scale[o], alone.scale[o], "channel {o}");
        }
    }
    assert!(weights.scale.iter().all(|s| s.is_finite() && *s > 0.0));
    let zeros = quantized(&[0.0; 18], 2, 8, 4);
    assert!(integers(&zeros).iter().all(|&q| q == 0) && zeros.scale.iter().all(|s| s.is_finite()));
}

/// Storage is reused from step to step: nothing of other weights may remain.
#[test]
fn quantising_again_forgets_the_old_weights() {
    let (large, small) = (seeded::values(1, 9 * 70, -1.0..1.0), seeded::values(2, 5 * 20, -1.0..1.0));
    let mut weights = quantized(&large, 70, 16, 1);
    weights.quantize(Isa::detect(), &small, 20, 16, 1);
    let fresh = quantized(&small, 20, 16, 1);
    assert_eq!((integers(&weights), weights.scale, weights.block), (integers(&fresh), fresh.scale, fresh.block));
}
