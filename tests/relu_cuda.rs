//! What the layers of an ANN do with their currents on the device: outputs, pools and norms have the bits of the CPU.

#[path = "support/device.rs"]
mod device;
#[path = "support/output.rs"]
mod output;
#[path = "support/real_rows.rs"]
mod real_rows;
#[path = "support/seeded.rs"]
mod seeded;

use std::sync::Arc;

use dsr::device::{Gpu, Isa, Memory, Slice};
use dsr::ops::batch_norm::Normalizer;
use dsr::ops::batch_norm::cuda::DeviceInner;
use dsr::ops::batch_norm::cuda_values::RealRows;
use dsr::ops::conv;
use dsr::ops::relu::cuda::{self as relu, Activations};
use dsr::ops::relu::{activate, drop_values, scale_and_shift};
use dsr::ops::spike_conv::{DeviceNormalizer, Geometry};
use half::bf16;
use output::Output;
use real_rows::{Rows, SHAPES, bits};

fn to_bf16(values: &[f32]) -> Vec<u16> {
    values.iter().map(|&v| bf16::from_f32(v).to_bits()).collect()
}

/// Pitches of the currents: of a convolution of the input, and of all others.
fn pitches(channels: usize) -> [usize; 2] {
    [channels.next_multiple_of(16), channels]
}

fn normalizer(channels: usize) -> Normalizer {
    let wide = |seed, range| seeded::values(seed, channels, range).iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
    let [gamma, beta] = [seeded::values(4, channels, -1.5..1.5), seeded::values(5, channels, -0.5..0.5)];
    Normalizer::new([&wide(1, 0.5..1.5), &wide(2, -1.0..1.0)], &wide(3, -0.3..0.3), &gamma, &beta, &vec![1.0; channels])
}

fn on_device(gpu: &Arc<Gpu>, norm: &Normalizer, channels: usize) -> (Memory<f32>, usize) {
    let padded = channels.next_multiple_of(64);
    let mut rows = vec![0.0f32; 6 * padded];
    for (row, values) in [&norm.factors[0], &norm.factors[1], &norm.offset, &norm.gamma, &norm.beta].into_iter().enumerate() {
        rows[row * padded..][..channels].copy_from_slice(&values[..channels]);
    }
    (gpu.memory_of(&rows).unwrap(), padded)
}

#[test]
fn outputs_have_the_bits_of_the_cpu() {
    let gpu = device::gpu();
    for [rows, channels] in SHAPES {
        let norm = normalizer(channels);
        let (memory, padded) = on_device(&gpu, &norm, channels);
        let words = channels.div_ceil(32);
        // Only bits of channels that exist are set, as `draw` leaves them.
        let mask = |word: usize| if word % words + 1 == words && channels % 32 != 0 { (1u32 << (channels % 32)) - 1 } else { u32::MAX };
        let drawn = seeded::values(6, rows * words, 0.0..1.0);
        let dropped: Vec<u32> = drawn.iter().enumerate().map(|(at, v)| v.to_bits().wrapping_mul(0x9e37_79b9) & mask(at)).collect();
        let dropped_memory = gpu.memory_of(&dropped).unwrap();
        for (pitch, has_second, dropout) in
            pitches(channels).into_iter().flat_map(|p| [(p, false, 0.0), (p, true, 0.0), (p, false, 0.3), (p, true, 0.25f32)])
        {
            let mut values = seeded::values(7, rows * channels, -2.0..2.0);
            values[rows * channels / 2] = f32::INFINITY;
            values[0] = f32::NAN;
            let first = Rows::new(&gpu, values, channels, pitch);
            let second = Rows::new(&gpu, seeded::values(8, rows * channels, -2.0..2.0), channels, channels);
            let (mut x, mut expected, mut active) = (first.values.clone(), vec![0.0f32; rows * channels], 0);
            activate(Isa::Portable, &norm, channels, &mut x, if has_second { &second.values } else { &[] }, &mut expected, &mut active);
            if dropout > 0.0 {
                drop_values(&dropped, channels, 1.0 / (1.0 - dropout), &mut expected);
            }
            let [normed, values] = [(); 2].map(|()| Output::of(&gpu, &vec![-1.0f32; rows * channels]));
            let (rounded, counter) = (Output::of(&gpu, &vec![7u16; rows * channels]), gpu.memory_of(&[5u64]).unwrap());
            let device_norm = DeviceNormalizer { values: memory.slice(), padded };
            let currents = [Some(first.on_device()), has_second.then(|| second.on_device())];
            let drops = if dropout > 0.0 { dropped_memory.slice() } else { Slice::NONE };
            let run = |out: Activations| relu::activate(&gpu, &out, &device_norm, currents, drops, dropout, [rows, channels]).unwrap();
            let all = Activations { normed: normed.slice(), values: values.slice(), rounded: rounded.slice(), active: counter.slice() };
            run(all);
            let what = format!("{rows}x{channels}, pitch {pitch}, second: {has_second}, dropout {dropout}");
            // A NaN has the bits that an instruction gives it.
            let same = |got: &[f32], expected: &[f32]| {
                let differs = |(a, b): (&f32, &f32)| a.to_bits() != b.to_bits() && !(a.is_nan() && b.is_nan());
                assert_eq!(got.iter().zip(expected).position(differs), None, "{what}");
            };
            same(&normed.values(), &x);
            same(&values.values(), &expected);
            let widened = |halves: &[u16]| halves.iter().map(|&v| bf16::from_bits(v).to_f32()).collect::<Vec<f32>>();
            same(&widened(&rounded.values()), &widened(&to_bf16(&expected)));
            assert!(expected.iter().any(|v| v.is_nan()) || dropout > 0.0, "{what}: NaN passes through");
            assert_eq!(counter.to_vec().unwrap(), [5 + active], "{what}");
            run(Activations { normed: Slice::NONE, values: Slice::NONE, rounded: Slice::NONE, ..all });
            assert_eq!(counter.to_vec().unwrap(), [5 + 2 * active], "nothing but the counter: {what}");
        }
    }
}

#[test]
fn own_norms_have_the_bits_of_the_cpu() {
    let gpu = device::gpu();
    for [rows, channels] in SHAPES {
        let padded = channels.next_multiple_of(64);
        let [factor, offset] = [seeded::values(1, channels, 0.5..1.5), seeded::values(2, channels, -1.0..1.0)];
        let mut constants = vec![0.0f32; 5 * padded];
        constants[..channels].copy_from_slice(&factor);
        constants[padded..][..channels].copy_from_slice(&offset);
        let constants = gpu.memory_of(&constants).unwrap();
        for pitch in pitches(channels) {
            let from = Rows::new(&gpu, seeded::values(3, rows * channels, -2.0..2.0), channels, pitch);
            let mut expected = vec![0.0f32; rows * channels];
            scale_and_shift(Isa::Portable, &factor, &offset, &from.values, &mut expected);
            let out = Output::of(&gpu, &vec![f32::NAN; rows * channels]);
            let inner = DeviceInner { values: constants.slice(), padded, ..DeviceInner::default() };
            relu::scale_and_shift(&gpu, out.slice(), &inner, from.on_device(), [rows, channels]).unwrap();
            assert_eq!(bits(&out.values()), bits(&expected), "{rows}x{channels}, pitch {pitch}");
        }
    }
}

#[test]
fn pools_have_the_bits_of_the_cpu() {
    let gpu = device::gpu();
    let cases = [
        (1, [1, 1, 0], [1, 1], 1),
        (31, [2, 2, 0], [5, 7], 3),
        (12, [3, 2, 1], [7, 5], 2),
        (3, [4, 4, 0], [4, 4], 1),
        (130, [3, 1, 1], [3, 4], 1),
        (2, [17, 17, 0], [17, 17], 2), // a window larger than a byte counts
    ];
    for (channels, pool, source, batch) in cases {
        let geometry = Geometry { cin: channels, cout: channels, source, pool, kernel: [1, 1], stride: 1, pad: 0 };
        let (own, pooled) = (source[0] * source[1] * channels, geometry.pooled().iter().product::<usize>() * channels);
        let values = seeded::values(1, batch * own, -1.0..1.0);
        let mut expected = vec![0.0f32; batch * pooled];
        let samples = expected.chunks_exact_mut(pooled).zip(values.chunks_exact(own));
        samples.for_each(|(means, values)| conv::pool_values(values, &geometry, means));
        let values = gpu.memory_of(&values).unwrap();
        let (means, rounded) = (Output::of(&gpu, &vec![f32::NAN; batch * pooled]), Output::of(&gpu, &vec![7u16; batch * pooled]));
        relu::pool_values(&gpu, means.slice(), Slice::NONE, values.slice(), &geometry, batch).unwrap();
        relu::pool_values(&gpu, Slice::NONE, rounded.slice(), values.slice(), &geometry, batch).unwrap();
        assert_eq!(bits(&means.values()), bits(&expected), "{geometry:?}");
        assert_eq!(rounded.values(), to_bf16(&expected), "{geometry:?}");
    }
}

#[test]
fn buffers_that_are_too_small_are_refused() {
    let gpu = device::gpu();
    let geometry = Geometry { cin: 3, cout: 3, source: [4, 4], pool: [2, 2, 0], kernel: [1, 1], stride: 1, pad: 0 };
    let floats = gpu.zeroed::<f32>(11).unwrap();
    let (rows, none) = (RealRows { values: floats.slice(), pitch: 3 }, Slice::<f32>::NONE);
    let norm = DeviceNormalizer { values: floats.slice(), padded: 64 };
    let out = Activations { normed: none, values: floats.slice(), rounded: Slice::NONE, active: Slice::NONE };
    let problems = [
        relu::pool_values(&gpu, floats.slice(), Slice::NONE, floats.slice(), &geometry, 1),
        relu::activate(&gpu, &out, &norm, [Some(rows), None], Slice::NONE, 0.0, [2, 3]),
        relu::activate(&gpu, &out, &norm, [None, None], Slice::NONE, 0.0, [2, 3]),
        relu::scale_and_shift(&gpu, floats.slice(), &DeviceInner::default(), rows, [4, 3]),
    ];
    for (at, problem) in problems.into_iter().enumerate() {
        let problem = problem.unwrap_err().to_string();
        assert!(problem.contains("expected") && problem.contains("got"), "call {at}: {problem}");
    }
}
