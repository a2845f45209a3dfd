//! Batch norm on the device against the CPU: statistics, constants and running statistics bit for bit.

#[path = "support/device.rs"]
mod device;
#[path = "support/seeded.rs"]
mod seeded;
#[path = "support/stored.rs"]
mod stored;

use std::sync::Arc;

use dsr::device::{Gpu, Isa, Memory, Slice};
use dsr::ops::batch_norm::cuda::{
    self, BatchConstants, DeviceContribution, DeviceInner, DeviceNorm, DeviceStatistics, LayerNorms, PADDING, RunningConstants,
    RunningLayer,
};
use dsr::ops::batch_norm::{self, Contribution, IntegerSums, Moments, Norm, Normalizer, accumulate, normalize, update_running};
use dsr::ops::neuron::{LANES, Neuron};
use dsr::ops::spike_conv::{DeviceNormalizer, Summand};
use stored::Stored;

const IF: Neuron = Neuron::If { alpha: 0.5 };
const LIF: Neuron = Neuron::Lif { alpha: 0.3, tau: 1.0, delta_t: 0.05 };

/// Rows and channels around every boundary: words, quads of channels, blocks of rows.
const SHAPES: [[usize; 2]; 6] = [[1, 1], [5, 31], [33, 32], [130, 33], [70, 100], [2100, 7]];

/// A summand by name; `largest` bounds the magnitude of sums.
fn stored(gpu: &Arc<Gpu>, kind: &str, seed: u64, [rows, channels]: [usize; 2], largest: i32) -> Stored {
    match kind {
        "sums" => stored::sums(gpu, seed, rows, channels, -largest..=largest),
        "bits" => stored::bits(gpu, seed, rows, channels),
        _ => stored::none(),
    }
}

/// The five sums of a channel as exact integers.
fn exact_sums(first: &[i32], second: &[i32], stride: usize, c: usize) -> [i128; 5] {
    let mut sums = [0; 5];
    for at in (0..first.len()).step_by(stride) {
        let (x, y) = (i128::from(first[at + c]), second.get(at + c).map_or(0, |&y| i128::from(y)));
        [x, y, x * x, x * y, y * y].iter().zip(&mut sums).for_each(|(v, sum)| *sum += v);
    }
    sums
}

#[test]
fn statistics_of_integers_are_exact() {
    let gpu = device::gpu();
    for [rows, channels] in SHAPES {
        for (first, second) in [("sums", ""), ("bits", ""), ("sums", "sums"), ("bits", "sums"), ("sums", "bits"), ("bits", "bits")] {
            let (x, y) = (stored(&gpu, first, 1, [rows, channels], i32::MAX - 1), stored(&gpu, second, 2, [rows, channels], i32::MAX - 1));
            let statistics = gpu.zeroed::<u64>(8 * channels).unwrap();
            cuda::statistics_of_sums(&gpu, statistics.slice(), &x.summand, &y.summand, rows, channels).unwrap();
            let got = statistics.to_vec().unwrap();
            for c in 0..channels {
                let row = |row: usize| i128::from(got[row * channels + c] as i64);
                let product = |low: usize| (row(low + 1) << 32) + row(low);
                let expected = exact_sums(&x.sums, &y.sums, channels.next_multiple_of(LANES), c);
                assert_eq!(
                    [row(0), row(1), product(2), product(4), product(6)],
                    expected,
                    "{first} {second} {rows}x{channels}, channel {c}"
                );
            }
        }
    }
}

/// Everything a layer's constants depend on, on the host.
#[derive(Clone)]
struct Layer {
    name: &'static str,
    neuron: Neuron,
    thresholds: Vec<f32>,
    keep: f32,
    areas: Vec<usize>,
    has_scale: Vec<bool>,
    has_bias: Vec<bool>,
    has_norm: bool,
    inner_at: Option<usize>,
    /// The first connection reads the real input.
    is_real: bool,
}

fn layers() -> Vec<Layer> {
    let one = Layer {
        name: "one convolution",
        neuron: IF,
        thresholds: vec![0.7],
        keep: 1.0,
        areas: vec![1],
        has_scale: vec![true],
        has_bias: vec![false],
        has_norm: true,
        inner_at: None,
        is_real: false,
    };
    let two = Layer {
        name: "two convolutions",
        thresholds: vec![0.7, 1.3],
        areas: vec![1, 9],
        has_scale: vec![true, true],
        has_bias: vec![true, false],
        ..one.clone()
    };
    vec![
        one.clone(),
        Layer { name: "dropout, LIF, a bias", neuron: LIF, keep: 1.0 - 0.3, has_bias: vec![true], ..one.clone() },
        Layer { name: "without norm", has_norm: false, has_bias: vec![true], areas: vec![49], neuron: LIF, ..one.clone() },
        Layer { name: "a convolution and an identity", has_scale: vec![true, false], ..two.clone() },
        Layer { name: "a pooled identity first, LIF", neuron: LIF, has_scale: vec![false, true], areas: vec![4, 1], ..two.clone() },
        Layer { name: "an own norm of the second", inner_at: Some(1), has_bias: vec![true, true], ..two.clone() },
        Layer { name: "an own norm of the first", inner_at: Some(0), neuron: LIF, keep: 1.0 - 0.25, ..two.clone() },
        Layer { name: "two without norm", has_norm: false, has_bias: vec![true, true], ..two },
        Layer { name: "the input", is_real: true, has_scale: vec![false], has_bias: vec![true], ..one.clone() },
        Layer { name: "the input without norm", is_real: true, has_scale: vec![false], has_norm: false, ..one },
    ]
}

/// Values of a norm or a connection, `[C]`, on both sides.
struct Both {
    host: Vec<f32>,
    device: Memory<f32>,
}

fn both(gpu: &Arc<Gpu>, seed: u64, channels: usize, range: std::ops::Range<f32>) -> Both {
    let host = seeded::values(seed, channels, range);
    Both { device: gpu.memory_of(&host).unwrap(), host }
}

struct BothNorm([Both; 4]);

impl BothNorm {
    fn new(gpu: &Arc<Gpu>, seed: u64, channels: usize) -> Self {
        let ranges = [0.5..1.5, -1.0..1.0, -0.5..0.5, 0.1..2.0];
        let mut seed = seed;
        BothNorm(ranges.map(|range| {
            seed += 1;
            both(gpu, seed, channels, range)
        }))
    }

    fn host(&self) -> Norm<'_> {
        let [gamma, beta, running_mean, running_var] = &self.0;
        Norm { gamma: &gamma.host, beta: &beta.host, running_mean: &running_mean.host, running_var: &running_var.host }
    }

    fn device(&self) -> DeviceNorm {
        let [gamma, beta, running_mean, running_var] = self.0.each_ref().map(|values| values.device.slice());
        DeviceNorm { gamma, beta, running_mean, running_var }
    }

    fn assert_running(&mut self, of_batch: &batch_norm::Statistics, n: f64, case: &str) {
        let [_, _, mean, var] = &mut self.0;
        update_running(&mut mean.host, &mut var.host, of_batch, n);
        assert_same_bits(&mean.device.to_vec().unwrap(), &mean.host, &format!("{case}: running mean"));
        assert_same_bits(&var.device.to_vec().unwrap(), &var.host, &format!("{case}: running variance"));
    }
}

fn assert_same_bits(got: &[f32], expected: &[f32], what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert_eq!(got.to_bits(), expected.to_bits(), "{what}: at {i} expected {expected}, got {got}");
    }
}

fn assert_normalizer(got: &[f32], expected: &Normalizer, channels: usize, case: &str) {
    let padded = channels.next_multiple_of(PADDING);
    let rows = [&expected.factors[0], &expected.factors[1], &expected.offset, &expected.gamma, &expected.beta, &expected.scale];
    let names = ["factor of the first sum", "factor of the second sum", "offset", "gamma", "beta", "scale"];
    for ((got, expected), name) in got.chunks_exact(padded).zip(rows).zip(names) {
        let mut expected = expected[..channels].to_vec();
        expected.resize(padded, 0.0);
        assert_same_bits(got, &expected, &format!("{case}: {name}"));
    }
}

/// Runs one layer through both normalizers, with `rows` = B·P·T values a channel; where it `finishes`, the kernel of the statistics computes
/// the constants.
fn check_layer(gpu: &Arc<Gpu>, layer: &Layer, rows: usize, channels: usize, largest: i32, finishes: bool) {
    let case = format!("{}, {rows} rows, {channels} channels, finishes {finishes}", layer.name);
    let count = layer.thresholds.len();
    let scales: Vec<Both> = (0..count)
        .map(|k| {
            let host: Vec<f32> = (0..channels).map(|c| f32::powi(2.0, -(((c * 5 + k) % 20) as i32))).collect();
            Both { device: gpu.memory_of(&host).unwrap(), host }
        })
        .collect();
    let biases: Vec<Both> = (0..count).map(|k| both(gpu, 20 + k as u64, channels, -1.0..1.0)).collect();
    let thresholds = gpu.memory_of(&layer.thresholds).unwrap();
    let (mut norm, mut inner) = (BothNorm::new(gpu, 30, channels), BothNorm::new(gpu, 40, channels));
    let side = |k: usize| {
        let (scale, bias) = (layer.has_scale[k], layer.has_bias[k]);
        let spike_value = layer.neuron.spike_value(layer.thresholds[k]);
        let value = if layer.is_real { 1.0 } else { spike_value / layer.keep };
        let host = |present: bool, values: &'_ Both| present.then(|| values.host.clone());
        let device = |present: bool, values: &Both| if present { values.device.slice() } else { Slice::NONE };
        let threshold = if layer.is_real { Slice::NONE } else { thresholds.slice().part(k..k + 1) };
        let on_device = DeviceContribution {
            threshold,
            weight_scale: device(scale, &scales[k]),
            bias: device(bias, &biases[k]),
            keep: layer.keep,
            area: layer.areas[k],
        };
        ((value, layer.areas[k], host(scale, &scales[k]), host(bias, &biases[k])), on_device)
    };
    let (hosts, devices): (Vec<_>, Vec<_>) = (0..count).map(side).unzip();
    let contributions: Vec<Contribution> = hosts
        .iter()
        .map(|(value, area, scale, bias)| Contribution {
            value: *value,
            area: *area,
            weight_scale: scale.as_deref(),
            bias: bias.as_deref(),
        })
        .collect();
    let norms = LayerNorms {
        connections: &devices,
        norm: layer.has_norm.then(|| norm.device()),
        inner: layer.inner_at.map(|at| (at, inner.device())),
        neuron: layer.neuron,
        channels,
    };
    let host_norm = layer.has_norm.then(|| norm.host());
    let host_inner = layer.inner_at.map(|at| (at, inner.host()));
    let padded = channels.next_multiple_of(PADDING);
    let values = gpu.memory_of(&vec![f32::NAN; 6 * padded]).unwrap();
    let out = DeviceNormalizer { values: values.slice(), padded };

    // Two layers at once, of which the second is wider than this one.
    let wider = gpu.memory_of(&vec![f32::NAN; 6 * (padded + PADDING)]).unwrap();
    let layers = [(values.slice(), padded), (wider.slice(), padded + PADDING)];
    let layers = layers.map(|(values, padded)| RunningLayer::new(&DeviceNormalizer { values, padded }, &norms).unwrap());
    RunningConstants::new(gpu, &layers).unwrap().launch(gpu).unwrap();
    let expected = batch_norm::running_normalizer(channels, &contributions, host_norm, host_inner);
    assert_normalizer(&values.to_vec().unwrap(), &expected, channels, &format!("{case}, evaluation"));
    let wider = wider.to_vec().unwrap();
    let narrowed = wider.chunks_exact(padded + PADDING).flat_map(|row| row[..padded].to_vec()).collect::<Vec<f32>>();
    assert_normalizer(&narrowed, &expected, channels, &format!("{case}, evaluation, in wider rows"));

    let inner_values = gpu.zeroed::<f32>(5 * padded).unwrap();
    let correlation = gpu.zeroed::<f64>(padded).unwrap();
    let inner_out = DeviceInner { values: inner_values.slice(), correlation: correlation.slice(), padded };
    let counters = gpu.zeroed::<u64>(channels.div_ceil(PADDING)).unwrap();

    // The statistics, by the kernels and on the host. A static input has a third of the frames here.
    let batch = 1 + usize::from(rows.is_multiple_of(2));
    let (integers, reals) = (gpu.zeroed::<u64>(8 * channels).unwrap(), gpu.zeroed::<f64>(batch * 2 * channels).unwrap());
    let stride = channels.next_multiple_of(LANES);
    let (moments, n) = if layer.is_real {
        let x = seeded::values(50, rows * stride, -2.0..3.0);
        let sums = gpu.memory_of(&x).unwrap();
        cuda::statistics_of_real(gpu, reals.slice(), sums.slice(), batch, rows / batch, channels).unwrap();
        let (mut sum, mut squares) = (vec![0.0; channels], vec![0.0; channels]);
        for x in x.chunks_exact(rows / batch * stride) {
            let (mut of_sample, mut squares_of_sample) = (vec![0.0; channels], vec![0.0; channels]);
            accumulate(Isa::detect(), x, stride, &mut of_sample, &mut squares_of_sample);
            sum.iter_mut().zip(of_sample).for_each(|(sum, v)| *sum += v);
            squares.iter_mut().zip(squares_of_sample).for_each(|(sum, v)| *sum += v);
        }
        (Moments::of_real(&sum, &squares, rows as f64), 3 * rows)
    } else {
        let kind = |k: usize| match layer.has_scale.get(k) {
            None => "",
            Some(true) => "sums",
            Some(false) => "bits",
        };
        let (x, y) = (stored(gpu, kind(0), 51, [rows, channels], largest), stored(gpu, kind(1), 52, [rows, channels], largest));
        if finishes {
            let statistics = DeviceStatistics::Integers(integers.slice());
            let constants = BatchConstants::new(&out, &inner_out, &norms, statistics, [rows, rows], counters.slice()).unwrap();
            let (first, second) = (&x.summand, &y.summand);
            cuda::statistics_of_sums_and_constants(gpu, integers.slice(), first, second, rows, channels, &constants).unwrap();
        } else {
            cuda::statistics_of_sums(gpu, integers.slice(), &x.summand, &y.summand, rows, channels).unwrap();
        }
        let mut sums = IntegerSums::new(channels, i64::from(largest));
        sums.add(Isa::detect(), &x.sums, &y.sums, stride);
        (sums.moments(rows as u64), rows)
    };
    let statistics = match (layer.has_norm, layer.is_real) {
        (false, _) => DeviceStatistics::None,
        (true, false) => DeviceStatistics::Integers(integers.slice()),
        (true, true) => DeviceStatistics::Reals { sums: reals.slice(), batch },
    };
    if !finishes {
        cuda::batch_normalizer(gpu, &out, &inner_out, &norms, statistics, [rows, n]).unwrap();
    }
    let expected = batch_norm::batch_normalizer(channels, &contributions, &moments, host_norm, host_inner);
    assert_normalizer(&values.to_vec().unwrap(), &expected.normalizer, channels, &format!("{case}, training"));
    if let Some(of_batch) = &expected.statistics {
        norm.assert_running(of_batch, n as f64, &case);
    }
    if let Some(expected) = &expected.inner {
        inner.assert_running(&expected.statistics, n as f64, &format!("{case}, own norm"));
        let got = inner_values.to_vec().unwrap();
        for ((got, expected), name) in
            got.chunks(padded).zip([&expected.factor, &expected.offset, &expected.scale]).zip(["factor", "offset", "scale"])
        {
            assert_same_bits(&got[..channels], expected, &format!("{case}: {name} of the own norm"));
        }
        let (got, expected): (Vec<u64>, Vec<u64>) = (
            correlation.to_vec().unwrap()[..channels].iter().map(|v| v.to_bits()).collect(),
            expected.correlation.iter().map(|v| v.to_bits()).collect(),
        );
        assert_eq!(got, expected, "{case}: correlation");
    }
}

#[test]
fn constants_and_running_statistics_have_the_bits_of_the_cpu() {
    let gpu = device::gpu();
    for layer in layers() {
        for ([rows, channels], largest) in [([1, 1], 5), ([6, 33], 1000), ([45, 70], 1 << 20), ([300, 5], i32::MAX - 1)] {
            check_layer(&gpu, &layer, rows, channels, largest, false);
            if layer.has_norm && !layer.is_real {
                check_layer(&gpu, &layer, rows, channels, largest, true);
            }
        }
    }
}

/// Integers that round up, round down and tie: the covariance of two rows is `(x - x')·(y - y')`, of up to 65 bits, and the correlation
/// of a norm of the first sum with the norm of both shows its last bit.
#[test]
fn covariances_of_more_than_53_bits_round_to_nearest_even() {
    let gpu = device::gpu();
    let values = [0, 1, 3, -1, 0x0400_0001, 0x0800_0001, 0x1000_0003, 0x5555_5555, 0x7fff_fffe, -0x7fff_fffe, -0x4000_0001, 0x0123_4567];
    let pairs: Vec<[i32; 2]> = values.iter().flat_map(|&x| values.map(|y| [x, y])).collect();
    let channels = pairs.len();
    let stride = channels.next_multiple_of(LANES);
    let (mut x, mut y) = (vec![0; 2 * stride], vec![0; 2 * stride]);
    for c in 0..channels {
        (x[c], x[stride + c]) = (pairs[c][0], -1);
        (y[c], y[stride + c]) = (pairs[c][1], 2);
    }
    let (norm, inner) = (BothNorm::new(&gpu, 70, channels), BothNorm::new(&gpu, 80, channels));
    let mut sums = IntegerSums::new(channels, 1 << 31);
    sums.add(Isa::detect(), &x, &y, stride);
    let contributions = [Contribution { value: 1.0, area: 1, weight_scale: None, bias: None }; 2];
    let expected = batch_norm::batch_normalizer(channels, &contributions, &sums.moments(2), Some(norm.host()), Some((0, inner.host())));

    let connections = [DeviceContribution { threshold: Slice::NONE, weight_scale: Slice::NONE, bias: Slice::NONE, keep: 1.0, area: 1 }; 2];
    let layer = LayerNorms { connections: &connections, norm: Some(norm.device()), inner: Some((0, inner.device())), neuron: IF, channels };
    let (statistics, x, y) = (gpu.zeroed::<u64>(8 * channels).unwrap(), gpu.memory_of(&x).unwrap(), gpu.memory_of(&y).unwrap());
    let (first, second) = (Summand::Sums { sums: x.slice() }, Summand::Sums { sums: y.slice() });
    cuda::statistics_of_sums(&gpu, statistics.slice(), &first, &second, 2, channels).unwrap();
    let padded = channels.next_multiple_of(PADDING);
    let (values, inner_values) = (gpu.zeroed::<f32>(6 * padded).unwrap(), gpu.zeroed::<f32>(5 * padded).unwrap());
    let correlation = gpu.zeroed::<f64>(padded).unwrap();
    let out = DeviceNormalizer { values: values.slice(), padded };
    let inner_out = DeviceInner { values: inner_values.slice(), correlation: correlation.slice(), padded };
    cuda::batch_normalizer(&gpu, &out, &inner_out, &layer, DeviceStatistics::Integers(statistics.slice()), [2, 2]).unwrap();
    let got = correlation.to_vec().unwrap();
    for (c, pair) in pairs.iter().enumerate() {
        let expected = expected.inner.as_ref().unwrap().correlation[c];
        assert_eq!(got[c].to_bits(), expected.to_bits(), "{pair:?}: expected {expected}, got {}", got[c]);
    }
}

#[test]
fn normalised_rows_are_those_of_the_cpu_rounded_to_bf16() {
    let gpu = device::gpu();
    for [rows, channels] in SHAPES {
        let (padded, stride) = (channels.next_multiple_of(PADDING), channels.next_multiple_of(LANES));
        let values = seeded::values(60, 6 * padded, -0.01..0.01);
        let row = |at: usize| values[at * padded..][..channels].to_vec();
        let norm = Normalizer { factors: [row(0), row(1)], offset: row(2), ..Normalizer::default() };
        let memory = gpu.memory_of(&values).unwrap();
        let normalizer = DeviceNormalizer { values: memory.slice(), padded };
        let normed = gpu.zeroed::<u16>(rows * channels).unwrap();
        let assert_rows = |first: &[i32], second: &[i32], is_real: bool, case: &str| {
            let mut expected = first.to_vec();
            normalize(Isa::detect(), &norm, is_real, &mut expected, second, channels, stride);
            let expected: Vec<u16> = expected
                .chunks(stride)
                .flat_map(|row| &row[..channels])
                .map(|&bits| half::bf16::from_f32(f32::from_bits(bits as u32)).to_bits())
                .collect();
            assert_eq!(normed.to_vec().unwrap(), expected, "{case}, {rows}x{channels}");
        };
        for (first, second) in [("sums", ""), ("bits", ""), ("sums", "bits"), ("bits", "sums")] {
            let (x, y) = (stored(&gpu, first, 1, [rows, channels], 1 << 26), stored(&gpu, second, 2, [rows, channels], 1 << 26));
            cuda::normalize_rows(&gpu, normed.slice(), &normalizer, &x.summand, &y.summand, rows, channels).unwrap();
            assert_rows(&x.sums, &y.sums, false, &format!("{first} {second}"));
        }
        let real = stored::real(&gpu, 61, [rows, 1], channels);
        cuda::normalize_rows(&gpu, normed.slice(), &normalizer, &real.summand, &Summand::None, rows, channels).unwrap();
        assert_rows(&real.sums, &[], true, "real");
        let x = stored(&gpu, "sums", 1, [rows, channels], 1 << 26);
        let inner_values = gpu.memory_of(&[&values[..padded], &values[2 * padded..3 * padded], &values[..3 * padded]].concat()).unwrap();
        let inner = DeviceInner { values: inner_values.slice(), correlation: Slice::NONE, padded };
        cuda::normalize_inner_rows(&gpu, normed.slice(), &inner, &x.summand, rows, channels).unwrap();
        assert_rows(&x.sums, &[], false, "own norm");
    }
}

#[test]
fn what_a_kernel_cannot_read_is_refused() {
    let gpu = device::gpu();
    let real = Summand::Real { sums: Slice::NONE, frames: 1 };
    let error = cuda::statistics_of_sums(&gpu, Slice::NONE, &real, &Summand::None, 1, 1).unwrap_err();
    assert_eq!(error.to_string(), r#"statistics_of_sums: expected "stored sums or bits", got "real values""#);
    // Constants that follow from other statistics, or without a counter.
    let memory = gpu.zeroed::<u64>(16).unwrap();
    let connections = [DeviceContribution { threshold: Slice::NONE, weight_scale: Slice::NONE, bias: Slice::NONE, keep: 1.0, area: 1 }];
    let layer = LayerNorms { connections: &connections, norm: None, inner: None, neuron: IF, channels: 1 };
    let (out, inner) = (DeviceNormalizer { values: Slice::NONE, padded: PADDING }, DeviceInner::default());
    let bits = Summand::Bits { spikes: Slice::NONE };
    for (of, counters) in [(8..16, 1), (0..8, 0)] {
        let (of, counters) = (DeviceStatistics::Integers(memory.slice().part(of)), memory.slice().part(0..counters));
        let constants = BatchConstants::new(&out, &inner, &layer, of, [1, 1], counters).unwrap();
        let statistics = memory.slice().part(0..8);
        let error = cuda::statistics_of_sums_and_constants(&gpu, statistics, &bits, &Summand::None, 1, 1, &constants).unwrap_err();
        assert!(error.to_string().contains("constants of these statistics, with a counter"), "{error}");
    }
}
