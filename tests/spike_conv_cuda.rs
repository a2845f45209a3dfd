//! Spiking convolution on the device: integers, and neurons that come out bit for bit as on the CPU.

#[path = "support/device.rs"]
mod device;
#[path = "support/packed_weights.rs"]
mod packed_weights;
#[path = "support/seeded.rs"]
mod seeded;

use std::path::Path;
use std::sync::Arc;

use dsr::device::{Gpu, Isa, Memory, Products, Slice};
use dsr::ops::batch_norm::Normalizer;
use dsr::ops::batch_norm::cuda::{BatchConstants, DeviceContribution, DeviceInner, DeviceNorm, DeviceStatistics, LayerNorms};
use dsr::ops::neuron::{
    Currents, DeviceNeurons, LANES, Neuron, NeuronArgs, NeuronInputs, NeuronOut, NeuronOutputs, drop_spikes, neuron_at,
};
use dsr::ops::rate::cuda::{self as rate, DeviceReadout};
use dsr::ops::spike_conv::{
    DeviceNormalizer, Events, Geometry, LayerSums, PackedWeights, PartsRoom, QuantizedWeights, Source, Summand, WeightTable, conv_at,
    identity_at, neurons_in_parts, quantize_weights, statistics, sums, sums_and_constants_in,
};
use dsr::spikes::Spikes;
use packed_weights::{OnDevice, on_device};
use rand::Rng;

const NO_POOL: [usize; 3] = [1, 1, 0];
const IF: Neuron = Neuron::If { alpha: 0.5 };
const LIF: Neuron = Neuron::Lif { alpha: 0.3, tau: 1.0, delta_t: 0.25 };

fn spikes(seed: u64, time_steps: usize, batch: usize, positions: usize, channels: usize) -> Spikes {
    let mut rng = seeded::rng(seed);
    let mut spikes = Spikes::reuse(Vec::new(), time_steps, batch, positions, channels);
    let words = spikes.words();
    for step in spikes.bits_mut().chunks_exact_mut(words) {
        for c in 0..channels {
            step[c / 32] |= u32::from(rng.random_bool(0.3)) << (c % 32);
        }
    }
    spikes
}

/// A summand of a case.
#[derive(Clone, Copy, Debug)]
enum Kind {
    None,
    /// Channels and size of the source, pool, kernel, stride, padding.
    Conv(usize, [usize; 2], [usize; 3], [usize; 2], usize, usize),
    Bits,
    /// Spikes of a 2x2 pool, counted.
    Pooled,
}
use Kind::{Bits, Conv, None as NoSummand, Pooled};

#[derive(Clone, Copy, Debug)]
struct Case {
    summands: [Kind; 2],
    out: [usize; 2],
    channels: usize,
    time_steps: usize,
    batch: usize,
    bits: u8,
    neuron: Neuron,
    dropped: bool,
}

fn case(summands: [Kind; 2], out: [usize; 2], channels: usize, time_steps: usize, batch: usize, bits: u8) -> Case {
    Case { summands, out, channels, time_steps, batch, bits, neuron: IF, dropped: false }
}

/// Every pair of awkward numbers of channels; kernels, steps, batches, widths and neurons go round.
fn pairs() -> Vec<Case> {
    const CHANNELS: [usize; 9] = [1, 3, 16, 31, 32, 33, 64, 96, 130];
    let pairs = CHANNELS.into_iter().flat_map(|cin| CHANNELS.map(|cout| (cin, cout)));
    pairs
        .enumerate()
        .map(|(n, (cin, cout))| {
            let (source, kernel, stride, pad, out) =
                [([2, 3], 3, 1, 1, [2, 3]), ([5, 3], 3, 2, 1, [3, 2]), ([3, 5], 1, 2, 0, [2, 3]), ([2, 2], 2, 1, 0, [1, 1])][n % 4];
            let (time_steps, batch) = [(1, 3), (5, 3), (20, 1), (33, 1), (5, 1)][n % 5];
            let conv = Conv(cin, source, NO_POOL, [kernel; 2], stride, pad);
            let case = case([conv, NoSummand], out, cout, time_steps, batch, if n % 3 == 0 { 8 } else { 16 });
            Case { neuron: if n % 2 == 0 { IF } else { LIF }, dropped: n % 7 == 0, ..case }
        })
        .collect()
}

/// What layers are made of, and [`pairs`].
fn cases() -> Vec<Case> {
    let conv3 = |cin, source| Conv(cin, source, NO_POOL, [3, 3], 1, 1);
    let down3 = |cin, source| Conv(cin, source, NO_POOL, [3, 3], 2, 1);
    let down1 = |cin, source| Conv(cin, source, NO_POOL, [1, 1], 2, 0);
    let lif = |case: Case| Case { neuron: LIF, ..case };
    let dropped = |case: Case| Case { dropped: true, ..case };
    let layers = [
        case([conv3(1, [1, 1]), NoSummand], [1, 1], 1, 1, 1, 16),
        lif(case([conv3(3, [5, 7]), NoSummand], [5, 7], 16, 5, 1, 16)),
        case([conv3(16, [3, 5]), NoSummand], [3, 5], 31, 20, 1, 8),
        case([conv3(31, [4, 3]), NoSummand], [4, 3], 33, 5, 3, 16),
        lif(dropped(case([conv3(64, [3, 3]), NoSummand], [3, 3], 64, 20, 1, 16))),
        case([down3(33, [7, 5]), NoSummand], [4, 3], 96, 5, 1, 8),
        case([conv3(130, [2, 3]), NoSummand], [2, 3], 32, 1, 3, 16),
        // time that is cut into tiles
        lif(case([conv3(32, [2, 3]), NoSummand], [2, 3], 33, 33, 1, 16)),
        case([conv3(3, [1, 3]), Bits], [1, 3], 3, 130, 1, 16),
        lif(case([conv3(32, [3, 3]), down1(16, [5, 5])], [3, 3], 31, 130, 1, 8)),
        lif(case([conv3(5, [2, 2]), Bits], [2, 2], 40, 40, 1, 16)), // more steps than a word has bits, uncut
        // few steps: several positions share a word's lanes, and one to three steps are left over
        dropped(case([conv3(16, [5, 5]), NoSummand], [5, 5], 33, 2, 3, 16)),
        lif(dropped(case([conv3(5, [3, 7]), Bits], [3, 7], 40, 3, 2, 16))),
        case([conv3(5, [3, 7]), Pooled], [3, 7], 16, 6, 2, 8),
        lif(case([down3(16, [7, 9]), down1(16, [7, 9])], [4, 5], 33, 7, 2, 16)),
        case([conv3(3, [4, 5]), Bits], [4, 5], 64, 8, 2, 16),
        lif(case([conv3(16, [3, 5]), NoSummand], [3, 5], 31, 16, 1, 8)),
        dropped(case([conv3(16, [2, 5]), Bits], [2, 5], 33, 17, 1, 16)),
        case([conv3(3, [9, 9]), NoSummand], [9, 9], 20, 1, 2, 16),
        // identities in either place
        case([conv3(32, [3, 5]), Bits], [3, 5], 32, 5, 1, 16),
        lif(dropped(case([Bits, conv3(33, [3, 3])], [3, 3], 70, 20, 1, 16))),
        case([conv3(16, [3, 3]), Pooled], [3, 3], 33, 5, 1, 8),
        lif(case([Pooled, conv3(16, [2, 2])], [2, 2], 16, 33, 3, 16)),
        // second convolutions: the shortcut of a block that shrinks, in either place
        case([down3(64, [5, 7]), down1(31, [5, 7])], [3, 4], 64, 5, 1, 16),
        lif(case([down1(96, [3, 3]), down3(96, [3, 3])], [2, 2], 130, 4, 1, 16)),
        // two groups of 64 channels a block on Hopper, where the device has few multiprocessors
        case([conv3(33, [5, 9]), NoSummand], [5, 9], 128, 5, 1, 8),
        lif(dropped(case([down3(64, [5, 7]), down1(31, [5, 7])], [3, 4], 256, 20, 1, 8))),
        dropped(case([Bits, conv3(40, [9, 15])], [9, 15], 100, 1, 2, 8)),
        lif(case([conv3(3, [1, 3]), Bits], [1, 3], 70, 130, 1, 8)),
        lif(case([conv3(16, [3, 3]), Conv(130, [3, 3], NO_POOL, [1, 1], 1, 0)], [3, 3], 97, 130, 1, 8)),
        // linear layers cover their input
        case([Conv(33, [7, 7], NO_POOL, [7, 7], 1, 0), NoSummand], [1, 1], 10, 5, 3, 16),
        lif(case([Conv(130, [1, 1], NO_POOL, [1, 1], 1, 0), NoSummand], [1, 1], 10, 20, 3, 8)),
        // many taps, and more than a row has bits for on Hopper
        case([Conv(70, [4, 4], NO_POOL, [5, 5], 1, 2), NoSummand], [4, 4], 70, 5, 1, 8),
        case([Conv(33, [3, 4], NO_POOL, [7, 7], 1, 3), NoSummand], [3, 4], 33, 5, 1, 16),
        // counts of a pool
        case([Conv(33, [6, 10], [2, 2, 0], [3, 3], 1, 1), NoSummand], [3, 5], 31, 5, 1, 16),
        lif(case([Conv(64, [7, 7], [3, 2, 1], [2, 2], 2, 0), NoSummand], [2, 2], 33, 20, 1, 8)),
        case([Conv(31, [4, 4], [4, 4, 0], [1, 1], 1, 0), Conv(3, [1, 1], NO_POOL, [1, 1], 1, 0)], [1, 1], 16, 130, 3, 16),
        case([conv3(16, [3, 3]), Conv(64, [6, 6], [2, 2, 0], [1, 1], 1, 0)], [3, 3], 65, 4, 1, 16),
    ];
    layers.into_iter().chain(pairs()).collect()
}

/// A summand on both sides; `sums` is `[B][P][T][stride]`.
struct Built {
    summand: Summand,
    sums: Vec<i32>,
    /// Value of a unit of the sums, for currents of a sensible size.
    unit: f32,
    _memory: Vec<Memory<u32>>,
    _weights: Option<OnDevice>,
}

/// Sums of all positions, by the CPU's function of one.
fn all_positions(case: &Case, mut at: impl FnMut(usize, [usize; 2], &mut [i32])) -> Vec<i32> {
    let ([height, width], stride) = (case.out, case.channels.next_multiple_of(LANES));
    let mut sums = vec![0; case.batch * height * width * case.time_steps * stride];
    for (q, sums) in sums.chunks_exact_mut(case.time_steps * stride).enumerate() {
        at(q / (height * width), [q / width % height, q % width], sums);
    }
    sums
}

/// Spikes of each pool window, `[B][P pooled][T][C rounded up to 32]`.
fn pool_counts(spikes: &Spikes, geometry: &Geometry) -> Vec<u8> {
    let [height, width] = geometry.pooled();
    let stride = spikes.channels.next_multiple_of(32);
    let mut acc = vec![0; spikes.time_steps * stride];
    let mut counts = Vec::new();
    for q in 0..spikes.batch * height * width {
        acc.fill(0);
        identity_at(Isa::Portable, spikes, q / (height * width), geometry, [q / width % height, q % width], stride, &mut acc);
        counts.extend(acc.iter().map(|&count| count as u8));
    }
    counts
}

fn build(gpu: &Arc<Gpu>, case: &Case, kind: Kind, seed: u64) -> Built {
    let (stride, [height, width]) = (case.channels.next_multiple_of(LANES), case.out);
    let identity =
        |source: [usize; 2], pool| Geometry { cin: case.channels, cout: case.channels, source, pool, kernel: [1, 1], stride: 1, pad: 0 };
    let built = |summand, sums, unit, memory| Built { summand, sums, unit, _memory: vec![memory], _weights: None };
    match kind {
        NoSummand => built(Summand::None, Vec::new(), 0.0, gpu.memory_of(&[]).unwrap()),
        Bits => {
            let spikes = spikes(seed, case.time_steps, case.batch, height * width, case.channels);
            let geometry = identity(case.out, NO_POOL);
            let sums = all_positions(case, |b, at, acc| identity_at(Isa::Portable, &spikes, b, &geometry, at, stride, acc));
            let memory = gpu.memory_of(spikes.bits()).unwrap();
            built(Summand::Bits { spikes: memory.slice() }, sums, 0.5, memory)
        }
        Pooled => {
            let spikes = spikes(seed, case.time_steps, case.batch, 4 * height * width, case.channels);
            let geometry = identity([2 * height, 2 * width], [2, 2, 0]);
            let sums = all_positions(case, |b, at, acc| identity_at(Isa::Portable, &spikes, b, &geometry, at, stride, acc));
            let memory = gpu.memory_of(bytemuck::cast_slice::<i32, u32>(&sums)).unwrap();
            built(Summand::Sums { sums: memory.slice().cast() }, sums, 0.2, memory)
        }
        Conv(cin, source, pool, kernel, conv_stride, pad) => {
            let geometry = Geometry { cin, cout: case.channels, source, pool, kernel, stride: conv_stride, pad };
            assert_eq!(geometry.out(), case.out, "{case:?}");
            let spikes = spikes(seed, case.time_steps, case.batch, source[0] * source[1], cin);
            let master = seeded::values(seed + 1, geometry.taps() * cin * case.channels, -1.0..1.0);
            let mut quantized = QuantizedWeights::default();
            quantized.quantize(Isa::Portable, &master, case.channels, case.bits, geometry.area());
            let mut events = Events::default();
            let sums = all_positions(case, |b, at, acc| {
                events.list(Isa::Portable, &spikes, b, &geometry, at[0]..at[0] + 1);
                conv_at(Isa::Portable, &mut events, &quantized, &geometry, at, stride, acc);
            });
            let weights = on_device(gpu, &master, geometry, 1, case.bits);
            quantize_weights(gpu, &WeightTable::new(gpu, &[weights.source]).unwrap()).unwrap();
            let (memory, source) = if geometry.is_pooled() {
                let counts = pool_counts(&spikes, &geometry);
                let memory = gpu.memory_of(bytemuck::cast_slice::<u8, u32>(&counts)).unwrap();
                let source = Source::Counts(memory.slice().cast());
                (memory, source)
            } else {
                let memory = gpu.memory_of(spikes.bits()).unwrap();
                let source = Source::Bits(memory.slice());
                (memory, source)
            };
            let unit = quantized.scale[0] * 2.0 / (geometry.taps() as f32 * cin as f32 * geometry.area() as f32).sqrt();
            let summand = Summand::Conv { source, weights: weights.weights, geometry };
            Built { summand, sums, unit, _memory: vec![memory], _weights: Some(weights) }
        }
    }
}

fn layer_of(case: &Case, built: &[Built; 2]) -> LayerSums {
    LayerSums {
        summands: [built[0].summand, built[1].summand],
        batch: case.batch,
        positions: case.out[0] * case.out[1],
        time_steps: case.time_steps,
        channels: case.channels,
    }
}

/// A child of [`neurons_by_wgmma_equal_the_cpu`], which multiplies so.
const BY_WGMMA: &str = "DSR_TEST_WGMMA";

/// The device with either kind of products, and every case with each.
fn with_both_products() -> Vec<(Arc<Gpu>, usize, Case)> {
    let kinds = if std::env::var_os(BY_WGMMA).is_some() { vec![Products::Warpgroup] } else { vec![Products::Integer, Products::Bf16] };
    let both: Vec<_> = kinds.into_iter().map(|products| device::gpu().multiplying(products).unwrap()).collect();
    both.into_iter().flat_map(|gpu| cases().into_iter().enumerate().map(move |(n, case)| (gpu.clone(), n, case))).collect()
}

#[test]
fn sums_and_statistics_equal_the_cpu() {
    for (gpu, n, case) in &with_both_products() {
        let built = [0, 1].map(|k| build(gpu, case, case.summands[k], 10 * *n as u64 + 2 * k as u64));
        let layer = layer_of(case, &built);
        let rows = case.batch * case.out[0] * case.out[1] * case.time_steps;
        let stride = layer.stride();
        let stored = [0, 1].map(|_| gpu.memory_of(&vec![i32::MIN; rows * stride]).unwrap());
        let counted = [0, 1].map(|_| gpu.zeroed::<u64>(8 * case.channels).unwrap());
        sums(gpu, &layer, [stored[0].slice(), stored[1].slice()], counted[0].slice()).unwrap();
        statistics(gpu, &layer, counted[1].slice()).unwrap();
        for k in 0..2 {
            if matches!(case.summands[k], Conv(..)) {
                assert!(stored[k].to_vec().unwrap() == built[k].sums, "case {n}, summand {k}: {case:?}");
            }
        }
        let [counted, alone] = counted.map(|memory| memory.to_vec().unwrap());
        assert_eq!(counted, alone, "case {n}: statistics with and without sums, {case:?}");
        let value = |k: usize, row: usize, c: usize| built[k].sums.get(row * stride + c).map_or(0, |&acc| i128::from(acc));
        for c in 0..case.channels {
            let sum = |f: &dyn Fn(usize) -> i128| (0..rows).map(f).sum::<i128>();
            let expected = [
                sum(&|row| value(0, row, c)),
                sum(&|row| value(1, row, c)),
                sum(&|row| value(0, row, c) * value(0, row, c)),
                sum(&|row| value(0, row, c) * value(1, row, c)),
                sum(&|row| value(1, row, c) * value(1, row, c)),
            ];
            let at = |k: usize| i128::from(counted[k * case.channels + c] as i64);
            let product = |k: usize| (at(2 + 2 * k + 1) << 32) + at(2 + 2 * k);
            assert_eq!([at(0), at(1), product(0), product(1), product(2)], expected, "case {n}, channel {c}: {case:?}");
        }
    }
}

/// 65536 inputs that all fire, with the largest weights of both signs: sums come close to 2^31, their squares use all of 64 bits.
/// The constants of a batch norm from the kernel that collects the statistics, by its last block, and from a launch of its own.
#[test]
fn the_last_block_computes_the_constants_of_a_launch_of_its_own() {
    let gpu = device::gpu();
    for (n, case) in cases().iter().enumerate() {
        let built = [0, 1].map(|k| build(&gpu, case, case.summands[k], 10 * n as u64 + 2 * k as u64));
        let layer = layer_of(case, &built);
        let (channels, padded) = (case.channels, case.channels.next_multiple_of(64));
        let rows = case.batch * case.out[0] * case.out[1] * case.time_steps;
        let count = case.summands.iter().filter(|kind| !matches!(kind, NoSummand)).count();
        let threshold = gpu.memory_of(&[0.75f32]).unwrap();
        let scales = [1, 2].map(|seed| gpu.memory_of(&seeded::values(seed, channels, 0.5..1.5)).unwrap());
        let run = |one_launch: bool| {
            let running = [3, 4, 5, 6].map(|seed| gpu.memory_of(&seeded::values(seed, channels, 0.1..1.0)).unwrap());
            let norm = |at: usize| DeviceNorm {
                gamma: scales[at].slice(),
                beta: scales[1 - at].slice(),
                running_mean: running[2 * at].slice(),
                running_var: running[2 * at + 1].slice(),
            };
            let contribution = |summand: &Summand| DeviceContribution {
                threshold: threshold.slice(),
                weight_scale: if let Summand::Conv { weights, .. } = summand { weights.scale } else { Slice::NONE },
                bias: Slice::NONE,
                keep: 1.0,
                area: 1,
            };
            let connections: Vec<DeviceContribution> = layer.summands[..count].iter().map(contribution).collect();
            let inner = (count == 2).then(|| (n % 2, norm(1)));
            let norms = LayerNorms { connections: &connections, norm: Some(norm(0)), inner, neuron: case.neuron, channels };
            let (statistics, counters) = (gpu.zeroed::<u64>(8 * channels).unwrap(), gpu.zeroed::<u64>(padded / 64).unwrap());
            let (values, own) = (gpu.memory_of(&vec![f32::NAN; 6 * padded]).unwrap(), gpu.zeroed::<f32>(5 * padded).unwrap());
            let correlation = gpu.zeroed::<f64>(padded).unwrap();
            let out = DeviceNormalizer { values: values.slice(), padded };
            let of_inner = DeviceInner { values: own.slice(), correlation: correlation.slice(), padded };
            let integers = DeviceStatistics::Integers(statistics.slice());
            let constants = BatchConstants::new(&out, &of_inner, &norms, integers, [rows, rows], counters.slice()).unwrap();
            sums_and_constants_in(&gpu, &layer, [Slice::NONE; 2], statistics.slice(), &constants, one_launch).unwrap();
            let blocks = if one_launch { rows.div_ceil(128) as u64 } else { 0 };
            assert_eq!(counters.to_vec().unwrap(), vec![blocks; padded / 64], "case {n}: {case:?}");
            let floats: Vec<u32> =
                [&values, &own].into_iter().chain(&running).flat_map(|m| m.to_vec().unwrap()).map(f32::to_bits).collect();
            (floats, correlation.to_vec().unwrap().into_iter().map(f64::to_bits).collect::<Vec<u64>>())
        };
        let (one, two) = (run(true), run(false));
        assert!(one == two, "case {n}: {case:?}");
        assert!(one.0.iter().all(|&bits| !f32::from_bits(bits).is_nan()), "case {n}: {case:?}");
    }
}

#[test]
fn largest_sums_do_not_overflow() {
    let gpu = device::gpu();
    let geometry = Geometry { cin: 1 << 14, cout: 2, source: [2, 2], pool: NO_POOL, kernel: [2, 2], stride: 1, pad: 0 };
    let weight = 16383.0 / 16384.0;
    let master: Vec<f32> = (0..2 << 16).map(|at| if at % 2 == 0 { weight } else { -weight }).collect();
    let weights = on_device(&gpu, &master, geometry, 1, 16);
    quantize_weights(&gpu, &WeightTable::new(&gpu, &[weights.source]).unwrap()).unwrap();
    let spikes = gpu.memory_of(&vec![u32::MAX; 4 * 3 * 512]).unwrap();
    let summand = Summand::Conv { source: Source::Bits(spikes.slice()), weights: weights.weights, geometry };
    let layer = LayerSums { summands: [summand, Summand::None], batch: 1, positions: 1, time_steps: 3, channels: 2 };
    let stored = gpu.zeroed::<i32>(3 * 16).unwrap();
    let counted = gpu.zeroed::<u64>(16).unwrap();
    sums(&gpu, &layer, [stored.slice(), Slice::NONE], counted.slice()).unwrap();
    let largest = 65536 * 16383;
    for step in stored.to_vec().unwrap().chunks_exact(16) {
        assert_eq!(step[..3], [largest, -largest, 0]);
    }
    let counted = counted.to_vec().unwrap();
    for (c, sign) in [(0, 1), (1, -1)] {
        let square = i128::from(largest) * i128::from(largest);
        let got = (i128::from(counted[6 + c] as i64) << 32) + i128::from(counted[4 + c] as i64);
        assert_eq!((counted[c] as i64, got), (3 * sign * i64::from(largest), 3 * square));
    }
}

/// Constants that make some neurons fire often, some seldom.
fn normalizer(case: &Case, built: &[Built; 2], seed: u64) -> Normalizer {
    let values = |k: u64, range| seeded::values(1000 + seed * 8 + k, case.channels, range);
    let factors = [0, 1].map(|k| values(k, 0.5..2.0).iter().map(|&v| f64::from(v * built[k as usize].unit)).collect::<Vec<f64>>());
    let offset: Vec<f64> = values(2, -0.2..0.4).iter().map(|&v| f64::from(v)).collect();
    let scale = vec![1.0; case.channels];
    Normalizer::new([&factors[0], &factors[1]], &offset, &values(3, 0.5..1.5), &values(4, -0.1..0.3), &scale)
}

/// What the neurons of a layer write.
#[derive(PartialEq)]
struct Written {
    spikes: Vec<u32>,
    counts: Vec<u8>,
    mean_normed: Vec<u32>,
    weighted_normed: Vec<u32>,
    fired: u64,
}

fn on_cpu(case: &Case, built: &[Built; 2], norm: &Normalizer, args: &NeuronArgs, dropped: &[u32]) -> Written {
    let (positions, words) = (case.batch * case.out[0] * case.out[1], case.channels.div_ceil(32));
    let is_weighted = matches!(case.neuron, Neuron::Lif { .. });
    let mut spikes = vec![0; positions * case.time_steps * words];
    let mut counts = vec![0; positions * case.channels];
    let (mut mean, mut weighted) = (vec![0.0f32; counts.len()], vec![0.0f32; if is_weighted { counts.len() } else { 0 }]);
    for q in 0..positions {
        let part = |sums: &'_ [i32]| {
            let len = case.time_steps * args.stride;
            if sums.is_empty() { Vec::new() } else { sums[q * len..(q + 1) * len].to_vec() }
        };
        let neurons = q * case.channels..(q + 1) * case.channels;
        let mut out = NeuronOut {
            spikes: &mut spikes[q * case.time_steps * words..][..case.time_steps * words],
            counts: &mut counts[neurons.clone()],
            mean_normed: &mut mean[neurons.clone()],
            weighted_normed: if is_weighted { &mut weighted[neurons] } else { &mut [] },
        };
        neuron_at(Isa::Portable, args, norm, Currents::Integer(&part(&built[0].sums)), &part(&built[1].sums), &mut out);
        if !dropped.is_empty() {
            drop_spikes(&dropped[q * words..][..words], &mut out);
        }
    }
    let fired = counts.iter().map(|&count| u64::from(count)).sum();
    let bits = |values: Vec<f32>| values.iter().map(|v| v.to_bits()).collect();
    Written { spikes, counts, mean_normed: bits(mean), weighted_normed: bits(weighted), fired }
}

#[test]
fn neurons_equal_the_cpu_bit_for_bit() {
    let mut fired = 0;
    for (gpu, n, case) in &with_both_products() {
        let built = [0, 1].map(|k| build(gpu, case, case.summands[k], 10 * *n as u64 + 2 * k as u64));
        let layer = layer_of(case, &built);
        let norm = normalizer(case, &built, *n as u64);
        let args = NeuronArgs {
            neuron: case.neuron,
            threshold: 0.7,
            time_steps: case.time_steps,
            step_weights: case.neuron.step_weights(case.time_steps),
            channels: case.channels,
            stride: layer.stride(),
        };
        let positions = case.batch * layer.positions;
        let words = case.channels.div_ceil(32);
        let mut rng = seeded::rng(*n as u64);
        let dropped: Vec<u32> =
            (0..if case.dropped { positions * words } else { 0 }).map(|_| rng.random::<u32>() & rng.random::<u32>()).collect();
        let expected = on_cpu(case, &built, &norm, &args, &dropped);
        fired += expected.fired;

        let padded = case.channels.next_multiple_of(64);
        let rows = [&norm.factors[0], &norm.factors[1], &norm.offset, &norm.gamma, &norm.beta, &norm.scale];
        let row = |values: &Vec<f32>| values.iter().copied().chain(std::iter::repeat(0.0)).take(padded).collect::<Vec<f32>>();
        let values = gpu.memory_of(&rows.map(row).concat()).unwrap();
        let threshold = gpu.memory_of(&[args.threshold]).unwrap();
        let step_weights = gpu.memory_of(&args.step_weights).unwrap();
        let dropped = gpu.memory_of(&dropped).unwrap();
        let spikes = gpu.memory_of(&vec![u32::MAX; expected.spikes.len()]).unwrap();
        let counts = gpu.memory_of(&vec![u8::MAX; expected.counts.len()]).unwrap();
        let mean = gpu.memory_of(&vec![f32::NAN; expected.mean_normed.len()]).unwrap();
        let weighted = gpu.memory_of(&vec![f32::NAN; expected.weighted_normed.len()]).unwrap();
        let counter = gpu.memory_of(&[5u64]).unwrap();
        let from = NeuronInputs {
            normalizer: DeviceNormalizer { values: values.slice(), padded },
            threshold: threshold.slice(),
            step_weights: step_weights.slice(),
            dropped: dropped.slice(),
            neurons: (&args).into(),
        };
        let to = NeuronOutputs {
            spikes: spikes.slice(),
            counts: counts.slice(),
            mean_normed: mean.slice(),
            weighted_normed: weighted.slice(),
            fired: counter.slice(),
        };
        // Parts of a tile, fewer than it has stages and more.
        let room = layer.parts_room().unwrap_or_default().map(|len| gpu.zeroed::<u64>(len).unwrap());
        // Logits of the spikes in one case, of the currents in the next.
        let logits = gpu.memory_of(&vec![f32::NAN; positions * case.channels]).unwrap();
        let readout = if n % 2 == 0 {
            DeviceReadout::by_spikes(logits.slice(), step_weights.slice(), case.neuron)
        } else {
            DeviceReadout::by_current(logits.slice())
        };
        let in_parts = |parts: usize, from: &NeuronInputs, to: &NeuronOutputs| {
            let room = PartsRoom { sums: room[0].slice(), counters: room[1].slice() };
            neurons_in_parts(gpu, &layer, from, to, &readout, parts, &room).unwrap();
        };
        let parts = if case.time_steps > 128 { 1 } else { [2, 3, 1, 7, 40][n % 5] };
        in_parts(parts, &from, &to);
        let bits = |memory: &Memory<f32>| memory.to_vec().unwrap().iter().map(|v| v.to_bits()).collect::<Vec<u32>>();
        let got = Written {
            spikes: spikes.to_vec().unwrap(),
            counts: counts.to_vec().unwrap(),
            mean_normed: bits(&mean),
            weighted_normed: bits(&weighted),
            fired: counter.to_vec().unwrap()[0] - 5,
        };
        assert!(got.spikes == expected.spikes, "case {n}: spikes, {case:?}");
        let by_itself = gpu.memory_of(&vec![f32::NAN; positions * case.channels]).unwrap();
        if n % 2 == 0 {
            let shape = [positions, 1, case.channels];
            let (spikes, shares) = (spikes.slice(), step_weights.slice());
            rate::readout(gpu, by_itself.slice(), spikes, threshold.slice(), shares, case.neuron, shape).unwrap();
        } else {
            let means = if expected.weighted_normed.is_empty() { mean.slice() } else { weighted.slice() };
            rate::readout_current(gpu, by_itself.slice(), means, &from.normalizer, [positions, case.channels]).unwrap();
        }
        assert!(bits(&logits) == bits(&by_itself), "case {n}: logits, {case:?}");
        assert!(got.counts == expected.counts, "case {n}: counts, {case:?}");
        assert!(got.mean_normed == expected.mean_normed, "case {n}: means, {case:?}");
        assert!(got.weighted_normed == expected.weighted_normed, "case {n}: weighted means, {case:?}");
        assert_eq!(got.fired, expected.fired, "case {n}: {case:?}");

        // Evaluation wants the spikes alone.
        let none = NeuronOutputs { counts: Slice::NONE, mean_normed: Slice::NONE, weighted_normed: Slice::NONE, fired: Slice::NONE, ..to };
        gpu.upload(&vec![u32::MAX; expected.spikes.len()], spikes.slice()).unwrap();
        in_parts(1, &NeuronInputs { step_weights: Slice::NONE, ..from }, &none);
        assert!(spikes.to_vec().unwrap() == expected.spikes, "case {n}: spikes alone, {case:?}");
        if case.time_steps > 128 {
            continue;
        }
        // And twice in parts: what the first launch leaves is what the second one begins with.
        for _ in 0..2 {
            gpu.upload(&vec![u32::MAX; expected.spikes.len()], spikes.slice()).unwrap();
            in_parts(2 + n % 3, &NeuronInputs { step_weights: Slice::NONE, ..from }, &none);
            assert!(spikes.to_vec().unwrap() == expected.spikes, "case {n}: spikes in parts, {case:?}");
        }
        for left in &room {
            assert!(left.to_vec().unwrap().iter().all(|&value| value == 0), "case {n}: sums or counters of parts are left, {case:?}");
        }
    }
    assert!(fired > 1000, "{fired} spikes show little");
}

/// The same test in a process whose kernels of sm_90a are those that nvcc makes.
#[test]
fn neurons_by_wgmma_equal_the_cpu() {
    if let (false, Err(problem)) = (device::is_real(), emulator::has_nvcc()) {
        println!("skipped: {problem}");
    }
    if device::is_real() || emulator::has_nvcc().is_err() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // The list of K steps lies beside a tile that others still read: only races would show that it lies in it.
    let library = |name: &str, check| {
        let library = folder.path().join(name);
        emulator::compiled_kernels(Path::new("kernels"), "spike_conv_hopper.cu", "90a", check, &library).unwrap();
        library
    };
    let (watched, raced) = (library("watched.so", emulator::Check::Watch), library("raced.so", emulator::Check::Races));
    for (library, order, seed) in [(&watched, "fifo", "1"), (&watched, "lifo", "1"), (&watched, "random", "1"), (&raced, "fifo", "1")] {
        let mut test = std::process::Command::new(std::env::current_exe().unwrap());
        test.args(["--exact", "neurons_equal_the_cpu_bit_for_bit", "--nocapture"]);
        test.env(BY_WGMMA, "1").env("DSR_STANDIN_KERNELS", library).env("DSR_STANDIN_CAPABILITY", "9.0").env("DSR_STANDIN_LAUNCHES", "1");
        test.env("DSR_STANDIN_MULTIPROCESSORS", "1"); // which two tiles of two groups fill
        let output = test.env("DSR_STANDIN_ORDER", order).env("DSR_STANDIN_SEED", seed).output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        let is_launched =
            |name: &str| said.lines().any(|line| line.trim_end_matches(", early").ends_with(&format!("first launch of {name}")));
        let kernels =
            ["spike_conv_neurons_16_hopper", "spike_conv_neurons_8_hopper", "spike_conv_neurons_8_pairs_hopper", "order_spike_weights"];
        assert!(output.status.success() && said.contains("1 passed") && kernels.into_iter().all(is_launched), "{order}: {said}");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let gpu = device::gpu();
    let case = case([Conv(3, [3, 3], NO_POOL, [3, 3], 1, 1), NoSummand], [3, 3], 16, 4, 1, 16);
    let built = [0, 1].map(|k| build(&gpu, &case, case.summands[k], k as u64));
    let layer = layer_of(&case, &built);
    let Summand::Conv { source: Source::Bits(bits), weights, geometry } = layer.summands[0] else { panic!() };
    let with = |source, weights, geometry| LayerSums { summands: [Summand::Conv { source, weights, geometry }, Summand::None], ..layer };
    let wrong = [
        ("no step", LayerSums { time_steps: 0, ..layer }),
        ("too many steps", LayerSums { time_steps: 256, ..layer }),
        ("another width", LayerSums { channels: 17, ..layer }),
        ("another size", LayerSums { positions: 8, ..layer }),
        ("more samples than spikes", LayerSums { batch: 2, ..layer }),
        ("no convolution", LayerSums { summands: [Summand::Bits { spikes: bits }, Summand::None], ..layer }),
        ("too few spikes", with(Source::Bits(bits.part(0..bits.len() - 1)), weights, geometry)),
        ("too few weights", with(Source::Bits(bits), PackedWeights { packed: weights.packed.part(0..64), ..weights }, geometry)),
        ("a width of weights that no kernel has", with(Source::Bits(bits), PackedWeights { bits: 4, ..weights }, geometry)),
        ("bits behind a pool", with(Source::Bits(bits), weights, Geometry { source: [6, 6], pool: [2, 2, 0], ..geometry })),
    ];
    for (name, layer) in wrong {
        let error = statistics(&gpu, &layer, Slice::NONE).expect_err(name).to_string();
        assert!(error.starts_with("spike_conv"), "{name}: {error}");
    }
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let gpu = device::gpu();
    let case = case([Conv(3, [3, 3], NO_POOL, [3, 3], 1, 1), NoSummand], [3, 3], 16, 4, 1, 16);
    let built = [0, 1].map(|k| build(&gpu, &case, case.summands[k], k as u64));
    let layer = layer_of(&case, &built);
    let (values, spikes) = (gpu.zeroed::<f32>(6 * 64).unwrap(), gpu.zeroed::<u32>(9 * 4).unwrap());
    let neurons = DeviceNeurons::new(IF, 4, 16);
    let normalizer = DeviceNormalizer { values: values.slice(), padded: 64 };
    let [threshold, step_weights] = [Slice::NONE; 2];
    let from = NeuronInputs { normalizer, threshold, step_weights, dropped: Slice::NONE, neurons };
    let [mean_normed, weighted_normed] = [Slice::NONE; 2];
    let to = NeuronOutputs { spikes: spikes.slice(), counts: Slice::NONE, mean_normed, weighted_normed, fired: Slice::NONE };
    let [sums, counters] = layer.parts_room().unwrap().map(|len| gpu.zeroed::<u64>(len).unwrap());
    let room = PartsRoom { sums: sums.slice(), counters: counters.slice() };
    let short = PartsRoom { sums: room.sums.part(1..room.sums.len()), ..room };
    let uncounted = PartsRoom { counters: Slice::NONE, ..room };
    for (name, parts, room) in [("no part", 0, room), ("too many", 65_536, room), ("no room", 2, short), ("no counter", 2, uncounted)] {
        let error = neurons_in_parts(&gpu, &layer, &from, &to, &DeviceReadout::default(), parts, &room).expect_err(name).to_string();
        assert!(error.starts_with("spike_conv neurons"), "{name}: {error}");
    }
    let too_long = LayerSums { time_steps: 129, ..layer };
    assert_eq!(too_long.parts_room(), None);
}

/// A source of more than 2^31 bytes, of which two positions are read: its last one, and its first.
#[test]
fn a_source_past_two_gigabytes_is_read() {
    let gpu = device::gpu();
    let (time_steps, cin, rows) = (255, 2048, 32_900);
    let geometry = Geometry { cin, cout: 1, source: [rows, 1], pool: NO_POOL, kernel: [1, 1], stride: rows - 1, pad: 0 };
    let words = time_steps * cin / 32;
    let [free, _] = gpu.memory().unwrap();
    if free < rows * words * 4 + (1 << 20) {
        println!("skipped: {free} bytes are free");
        return;
    }
    let bits = gpu.zeroed::<u32>(rows * words).unwrap();
    let last = spikes(5, time_steps, 1, 1, cin);
    gpu.upload(last.bits(), bits.slice().part((rows - 1) * words..rows * words)).unwrap();
    let ones = on_device(&gpu, &vec![1.0; cin], geometry, 1, 16);
    quantize_weights(&gpu, &WeightTable::new(&gpu, &[ones.source]).unwrap()).unwrap();
    let summands = [Summand::Conv { source: Source::Bits(bits.slice()), weights: ones.weights, geometry }, Summand::None];
    let layer = LayerSums { summands, batch: 1, positions: 2, time_steps, channels: 1 };
    let (out, statistics) = (gpu.zeroed::<i32>(2 * time_steps * LANES).unwrap(), gpu.zeroed::<u64>(8).unwrap());
    sums(&gpu, &layer, [out.slice(), Slice::NONE], statistics.slice()).unwrap();
    let out = out.to_vec().unwrap();
    let of_step = |position: usize, t: usize| out[(position * time_steps + t) * LANES];
    let spikes_of = |t: usize| last.bits()[t * cin / 32..][..cin / 32].iter().map(|word| word.count_ones() as i32).sum::<i32>();
    let one = of_step(1, 0) / spikes_of(0); // what a weight of 1 is as an integer
    assert!(one > 0, "{:?}", &out[..32]);
    for t in 0..time_steps {
        assert_eq!((of_step(0, t), of_step(1, t)), (0, one * spikes_of(t)), "step {t}");
    }
}
