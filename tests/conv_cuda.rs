//! Real convolutions on the device: forward, copies and pools have the bits of the CPU.

#[path = "support/convolutions.rs"]
mod convolutions;
#[path = "support/device.rs"]
mod device;
#[path = "support/output.rs"]
mod output;
#[path = "support/seeded.rs"]
mod seeded;

use convolutions::{NO_POOL, ONE_BY_ONE, bits, geometry, upload};
use dsr::device::Isa;
use dsr::ops::conv::cuda::{conv_real, copy_real, unpool_add};
use dsr::ops::conv::{self, conv_at};
use dsr::ops::spike_conv::Geometry;
use output::Output;

#[test]
fn forward_has_the_bits_of_the_cpu() {
    let gpu = device::gpu();
    let cases = [
        (ONE_BY_ONE, 1, 1, 1),
        (geometry(3, 64, [5, 7], 3, 1, 1), 3, 1, 1),
        (geometry(3, 70, [9, 11], 7, 2, 3), 2, 1, 1),
        (geometry(2, 31, [6, 5], 3, 2, 1), 2, 5, 1),
        (geometry(37, 16, [3, 3], 1, 1, 0), 1, 2, 1),
        (Geometry { kernel: [4, 3], ..geometry(5, 130, [4, 3], 1, 1, 0) }, 2, 1, 3),
    ];
    for (geometry, batch, frames, replicate) in cases {
        let Geometry { cin, cout, source, .. } = geometry;
        let (frame, len, stride) = (source[0] * source[1] * cin, geometry.taps() * cin * cout, cout.next_multiple_of(16));
        let mut input = seeded::values(1, batch * frames * frame, -2.0..2.0);
        input[0] = -0.0;
        let weights = seeded::values(2, replicate * len, -1.0..1.0);
        let total = |i: usize| (0..replicate).map(|copy| f64::from(weights[copy * len + i])).sum::<f64>() as f32;
        let effective: Vec<f32> = (0..len).map(total).collect();
        let [width, positions] = [geometry.out()[1], geometry.positions()];
        let mut expected = vec![0.0f32; batch * positions * frames * stride];
        for (row, out) in expected.chunks_exact_mut(stride).enumerate() {
            let (f, at, b) = (row % frames, row / frames % positions, row / frames / positions);
            let frame = &input[(b * frames + f) * frame..][..frame];
            conv_at(Isa::detect(), frame, &effective, &geometry, [at / width, at % width], &mut out[..cout]);
        }
        let sums = Output::of(&gpu, &vec![f32::NAN; expected.len()]);
        let (input, weights) = (upload(&gpu, &input), upload(&gpu, &weights));
        conv_real(&gpu, sums.slice(), input.slice(), weights.slice(), &geometry, replicate, [batch, frames]).unwrap();
        assert_eq!(bits(&sums.values()), bits(&expected), "{geometry:?}");
    }
}

#[test]
fn the_input_is_copied_position_by_position() {
    let gpu = device::gpu();
    for (channels, source, batch, frames) in [(1usize, [1, 1], 1, 1), (3, [5, 7], 2, 5), (33, [3, 2], 3, 1), (16, [4, 4], 1, 20)] {
        let (positions, stride) = (source[0] * source[1], channels.next_multiple_of(16));
        let input = seeded::values(1, batch * frames * positions * channels, -2.0..2.0);
        let mut expected = vec![0.0f32; batch * positions * frames * stride];
        for (row, out) in expected.chunks_exact_mut(stride).enumerate() {
            let (f, at, b) = (row % frames, row / frames % positions, row / frames / positions);
            out[..channels].copy_from_slice(&input[((b * frames + f) * positions + at) * channels..][..channels]);
        }
        let sums = Output::of(&gpu, &vec![f32::NAN; expected.len()]);
        let input = upload(&gpu, &input);
        copy_real(&gpu, sums.slice(), input.slice(), &geometry(channels, channels, source, 1, 1, 0), [batch, frames]).unwrap();
        assert_eq!(sums.values(), expected, "{channels} channels, {source:?}");
    }
}

#[test]
fn unpooled_gradients_have_the_bits_of_the_cpu() {
    let gpu = device::gpu();
    let cases = [
        (1, NO_POOL, [1, 1], 1),
        (64, NO_POOL, [5, 3], 2),
        (31, [2, 2, 0], [5, 7], 3),
        (12, [3, 2, 1], [7, 5], 2),
        (3, [4, 4, 0], [4, 4], 1),
        (130, [3, 1, 1], [3, 4], 1),
    ];
    for (channels, pool, source, batch) in cases {
        let geometry = Geometry { pool, ..geometry(channels, channels, source, 1, 1, 0) };
        let (own, pooled) = (source[0] * source[1] * channels, geometry.pooled().iter().product::<usize>() * channels);
        let from = seeded::values(1, batch * pooled, -1.0..1.0);
        let before = seeded::values(2, batch * own, -1.0..1.0);
        let from_device = upload(&gpu, &from);
        for adds in [false, true] {
            let mut expected = if adds { before.clone() } else { vec![0.0; before.len()] };
            expected.chunks_exact_mut(own).zip(from.chunks_exact(pooled)).for_each(|(to, from)| conv::unpool_add(from, &geometry, to));
            let grad = Output::of(&gpu, &before);
            unpool_add(&gpu, grad.slice(), from_device.slice(), &geometry, batch, adds).unwrap();
            assert_eq!(bits(&grad.values()), bits(&expected), "{geometry:?}, adds: {adds}");
        }
    }
}

#[test]
fn buffers_that_are_too_small_are_refused() {
    let gpu = device::gpu();
    let geometry = geometry(3, 8, [5, 5], 3, 1, 1);
    let floats = gpu.zeroed::<f32>(74).unwrap();
    let problems = [
        conv_real(&gpu, floats.slice(), floats.slice(), floats.slice(), &geometry, 1, [1, 1]),
        copy_real(&gpu, floats.slice(), floats.slice(), &geometry, [1, 1]),
        unpool_add(&gpu, floats.slice(), floats.slice(), &geometry, 1, true),
    ];
    for (at, problem) in problems.into_iter().enumerate() {
        let problem = problem.unwrap_err().to_string();
        assert!(problem.contains("expected") && problem.contains("got"), "call {at}: {problem}");
    }
}

/// Copies of a weight are added up in f64: in f32 the small one would be lost beside the large ones.
#[test]
fn copies_of_a_weight_are_added_without_loss() {
    let gpu = device::gpu();
    let large = 16_777_216.0; // 2^24
    let (input, weights) = (upload(&gpu, &[1.0f32]), upload(&gpu, &[large, 1.0, -large]));
    let sums = Output::of(&gpu, &[f32::NAN; 16]);
    conv_real(&gpu, sums.slice(), input.slice(), weights.slice(), &ONE_BY_ONE, 3, [1, 1]).unwrap();
    assert_eq!(sums.values()[0], 1.0);
}
