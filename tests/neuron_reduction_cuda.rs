//! Parts that backward leaves, added up on the device: the bits of plain sums in the order that the kernel promises, whatever else is
//! in the launch.

#[path = "support/device.rs"]
mod device;
#[path = "support/seeded.rs"]
mod seeded;

use std::sync::Arc;

use dsr::device::{Gpu, Memory, Slice};
use dsr::ops::neuron::cuda::{BiasParts, ClampParts, LayerBackward, NeuronGradients, Parts, WeightParts, reduce};
use dsr::ops::spike_conv::DeviceNormalizer;

const TIME_STEPS: usize = 6;
const SCALE_ROW: usize = 5;

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

fn doubles(seed: u64, len: usize) -> Vec<f64> {
    // Of many sizes, so that another order of the sum has other bits.
    seeded::values(seed, len, -1.0..1.0).iter().enumerate().map(|(i, &v)| f64::from(v) * 10f64.powi(i as i32 % 7 - 3) / 3.0).collect()
}

/// Eight runs of blocks, each in order, then the runs in order.
fn sum_of_channel(partial: &[f64], blocks: usize, channels: usize, c: usize) -> f64 {
    let run = |run: usize| (blocks * run / 8..blocks * (run + 1) / 8).fold(0.0, |sum, block| sum + partial[block * channels + c]);
    (1..8).fold(run(0), |sum, other| sum + run(other))
}

/// The tree of `block_sum<256>`: 256 threads with every 256th value each, halves of a warp, then the warps in order.
fn sum_of_all(partial: &[f64]) -> f64 {
    let of_thread = |thread: usize| partial.iter().skip(thread).step_by(256).fold(0.0, |sum, v| sum + v);
    let of_warp = |warp: usize| {
        let mut lanes: Vec<f64> = (0..32).map(|lane| of_thread(warp * 32 + lane)).collect();
        for offset in [16, 8, 4, 2, 1] {
            lanes = (0..32).map(|lane| lanes[lane] + lanes[lane ^ offset]).collect();
        }
        lanes[0]
    };
    (1..8).fold(of_warp(0), |sum, warp| sum + of_warp(warp))
}

/// One job, its outputs, and what they should hold.
struct Job {
    name: String,
    parts: Parts,
    outputs: Vec<(Memory<f32>, Vec<f32>)>,
    _memory: Vec<Box<dyn std::any::Any>>,
}

impl Job {
    fn assert(&self, what: &str) {
        for (at, (got, expected)) in self.outputs.iter().enumerate() {
            assert_eq!(bits(&got.to_vec().unwrap()), bits(expected), "{what}, {}: output {at}", self.name);
        }
    }
}

fn plus(before: &[f32], sums: impl Iterator<Item = f32>) -> Vec<f32> {
    before.iter().zip(sums).map(|(before, sum)| before + sum).collect()
}

fn clamp(gpu: &Arc<Gpu>, blocks: usize, channels: usize, [has_norm, fires]: [bool; 2]) -> Job {
    let (rows, padded) = (blocks * 9 + 1, channels.next_multiple_of(64));
    let partial = doubles(1, 3 * blocks * channels);
    let normalizer = seeded::values(2, 6 * padded, 0.1..2.0);
    let before: Vec<Vec<f32>> =
        [1, channels, channels].into_iter().zip(3..).map(|(len, seed)| seeded::values(seed, len, -1.0..1.0)).collect();
    let of_quantity = |quantity: usize| &partial[quantity * blocks * channels..][..blocks * channels];
    let sums = |quantity: usize| (0..channels).map(move |c| sum_of_channel(of_quantity(quantity), blocks, channels, c));
    let factor = 0.3f32;
    let steps = TIME_STEPS as f64;
    let threshold = plus(&before[0], std::iter::once((f64::from(factor) * steps * sum_of_all(of_quantity(0))) as f32));
    let (beta, gamma) = (plus(&before[2], sums(1).map(|s| (steps * s) as f32)), plus(&before[1], sums(2).map(|s| (steps * s) as f32)));
    let mut mean: Vec<f32> = sums(1).map(|s| (s / rows as f64) as f32).collect();
    let mut k: Vec<f32> =
        sums(2).enumerate().map(|(c, s)| (f64::from(normalizer[SCALE_ROW * padded + c]) * s / rows as f64) as f32).collect();
    mean.resize(padded, 9.0);
    k.resize(padded, 9.0);
    let of = |values: &[f32]| gpu.memory_of(values).unwrap();
    let memory = [of(&before[0]), of(&before[1]), of(&before[2]), of(&vec![9.0; padded]), of(&vec![9.0; padded])];
    let (device_partial, device_normalizer) = (gpu.memory_of(&partial).unwrap(), of(&normalizer));
    let unless = |there: bool, memory: &Memory<f32>| if there { memory.slice() } else { Slice::NONE };
    let layer = LayerBackward {
        rows,
        channels,
        time_steps: TIME_STEPS,
        normalizer: DeviceNormalizer { values: device_normalizer.slice(), padded },
        threshold: Slice::NONE,
        mean_normed: Slice::NONE,
        representation: Slice::NONE,
        dropped: Slice::NONE,
        mean: unless(has_norm, &memory[3]),
        k: unless(has_norm, &memory[4]),
        partial: device_partial.slice(),
    };
    let into =
        NeuronGradients { threshold: unless(fires, &memory[0]), gamma: unless(has_norm, &memory[1]), beta: unless(has_norm, &memory[2]) };
    let untouched = vec![9.0; padded];
    let expected = [
        if fires { threshold } else { before[0].clone() },
        if has_norm { gamma } else { before[1].clone() },
        if has_norm { beta } else { before[2].clone() },
        if has_norm { mean } else { untouched.clone() },
        if has_norm { k } else { untouched },
    ];
    Job {
        name: format!("clamp mapping of {blocks} blocks, {channels} channels, norm {has_norm}, fires {fires}"),
        parts: Parts::Clamp(ClampParts { layer, into, threshold_factor: factor, blocks }),
        outputs: memory.into_iter().zip(expected).collect(),
        _memory: vec![Box::new(device_partial), Box::new(device_normalizer)],
    }
}

fn bias(gpu: &Arc<Gpu>, seed: u64, blocks: usize, channels: usize, which: [bool; 2]) -> Job {
    let partial = doubles(seed, blocks * channels);
    let before = [seed + 1, seed + 2].map(|seed| seeded::values(seed, channels, -1.0..1.0));
    let sums = || (0..channels).map(|c| (TIME_STEPS as f64 * sum_of_channel(&partial, blocks, channels, c)) as f32);
    let memory = before.each_ref().map(|values| gpu.memory_of(values).unwrap());
    let expected = [0, 1].map(|at| if which[at] { plus(&before[at], sums()) } else { before[at].clone() });
    let device_partial = gpu.memory_of(&partial).unwrap();
    let into = [0, 1].map(|at| if which[at] { memory[at].slice() } else { Slice::NONE });
    Job {
        name: format!("biases {which:?} of {blocks} blocks, {channels} channels"),
        parts: Parts::Bias(BiasParts { into, partial: device_partial.slice(), blocks, channels, time_steps: TIME_STEPS }),
        outputs: memory.into_iter().zip(expected).collect(),
        _memory: vec![Box::new(device_partial)],
    }
}

fn weights(gpu: &Arc<Gpu>, seed: u64, [splits, len, copies]: [usize; 3], has_threshold: bool) -> Job {
    let partial: Vec<f32> = doubles(seed, splits * len).iter().map(|&v| v as f32).collect();
    let before = seeded::values(seed + 1, copies * len, -1.0..1.0);
    let (factor, threshold) = (0.7f32, 1.3f32);
    let times = if has_threshold { factor * threshold } else { factor };
    let sum = |i: usize| (0..splits).fold(0.0f32, |sum, split| sum + partial[split * len + i]) * times;
    let expected = plus(&before, (0..copies * len).map(|i| sum(i % len)));
    let into = gpu.memory_of(&before).unwrap();
    let (device_partial, device_threshold) = (gpu.memory_of(&partial).unwrap(), gpu.memory_of(&[threshold]).unwrap());
    let threshold = if has_threshold { device_threshold.slice() } else { Slice::NONE };
    let parts = WeightParts { into: into.slice(), partial: device_partial.slice(), threshold, factor, splits, len, copies };
    Job {
        name: format!("{copies} x {len} weights of {splits} parts, threshold {has_threshold}"),
        parts: Parts::Weights(parts),
        outputs: vec![(into, expected)],
        _memory: vec![Box::new(device_partial), Box::new(device_threshold)],
    }
}

#[test]
fn every_sum_has_its_order_alone_and_beside_others() {
    let gpu = device::gpu();
    let jobs = || {
        let clamps = vec![
            clamp(&gpu, 1, 1, [true, true]),
            clamp(&gpu, 7, 33, [true, true]),
            clamp(&gpu, 40, 64, [true, false]),
            clamp(&gpu, 9, 100, [false, true]),
        ];
        let biases = vec![
            bias(&gpu, 20, 1, 1, [true, false]),
            bias(&gpu, 30, 9, 31, [true, true]),
            bias(&gpu, 40, 100, 65, [false, true]),
            bias(&gpu, 50, 8, 32, [true, false]),
        ];
        let weights = vec![
            weights(&gpu, 60, [1, 1, 1], true),
            weights(&gpu, 70, [9, 255, 1], false),
            weights(&gpu, 80, [3, 257, 4], true),
            weights(&gpu, 90, [33, 512, 1], true),
        ];
        [clamps, biases, weights]
    };
    for job in jobs().iter().flatten() {
        reduce(&gpu, &[job.parts]).unwrap();
        job.assert("alone");
    }
    let [clamps, biases, weights] = jobs();
    for at in 0..4 {
        let together = [&weights[at], &biases[at], &clamps[at]];
        reduce(&gpu, &together.map(|job| job.parts)).unwrap();
        together.iter().for_each(|job| job.assert("together"));
    }
    let [_, biases, weights] = jobs();
    let pairs = [&biases[1], &biases[2], &weights[2], &weights[3]];
    reduce(&gpu, &pairs.map(|job| job.parts)).unwrap();
    pairs.iter().for_each(|job| job.assert("two of a kind"));
}

#[test]
fn more_than_a_launch_takes_is_refused_and_nothing_is_no_launch() {
    let gpu = device::gpu();
    let jobs = [weights(&gpu, 1, [1, 3, 1], true), weights(&gpu, 2, [1, 3, 1], true), weights(&gpu, 3, [1, 3, 1], true)];
    let error = reduce(&gpu, &[0, 1, 2].map(|at: usize| jobs[at].parts)).unwrap_err().to_string();
    assert_eq!(error, r#"reduce: expected "one clamp mapping, two biases and two weights at most", got [0, 0, 3]"#);
    if !device::is_real() {
        let before = emulator::counts();
        reduce(&gpu, &[]).unwrap();
        assert_eq!((emulator::counts() - before).launches, 0);
    }
}
