//! Neurons on the device against the CPU: the forward bit for bit; the backward's elementwise parts, too, given its sums.

#[path = "support/device.rs"]
mod device;
#[path = "support/seeded.rs"]
mod seeded;
#[path = "support/stored.rs"]
mod stored;

use std::sync::Arc;

use dsr::device::{Gpu, Isa, Memory, Slice};
use dsr::ops::batch_norm::cuda::{DeviceInner, PADDING};
use dsr::ops::batch_norm::{self, Normalizer, center, subtract_scaled};
use dsr::ops::neuron::cuda::{self, CurrentGradient, InnerKept, LayerBackward, NeuronGradients, partial_len};
use dsr::ops::neuron::{
    self, Currents, DeviceNeurons, LANES, Neuron, NeuronArgs, NeuronInputs, NeuronOut, NeuronOutputs, drop_spikes, neuron_at,
};
use dsr::ops::spike_conv::{DeviceNormalizer, Summand};
use half::bf16;
use rand::Rng;
use stored::{Stored, random_bits};

const IF: Neuron = Neuron::If { alpha: 0.5 };
const LIF: Neuron = Neuron::Lif { alpha: 0.3, tau: 1.0, delta_t: 0.05 };

fn bits_of(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

fn rounded(values: &[f32]) -> Vec<u16> {
    values.iter().map(|&v| bf16::from_f32(v).to_bits()).collect()
}

/// Rows of a normalizer on both sides: multiples of powers of two, so that currents hit thresholds exactly.
fn normalizer(gpu: &Arc<Gpu>, seed: u64, channels: usize) -> (Normalizer, Memory<f32>, DeviceNormalizer) {
    let padded = channels.next_multiple_of(PADDING);
    let mut rng = seeded::rng(seed);
    let mut row = |choices: &[f32]| -> Vec<f32> { (0..channels).map(|_| choices[rng.random_range(0..choices.len())]).collect() };
    let rows = [
        row(&[0.125, 0.0625, -0.125, 0.3]),
        row(&[0.25, -0.0625, 0.01]),
        row(&[0.0, 0.125, -0.5, 0.2]),
        row(&[1.0, 0.5, 1.1]),
        row(&[0.0, 0.25, 0.3]),
        row(&[1.0, 0.7, 2.0]),
    ];
    let pad = |row: &Vec<f32>| {
        let mut row = row.clone();
        row.resize(padded, 0.0);
        row
    };
    let values = gpu.memory_of(&rows.each_ref().map(pad).concat()).unwrap();
    let [factor, other_factor, offset, gamma, beta, scale] = rows.each_ref().map(pad);
    let host = Normalizer { factors: [factor, other_factor], offset, gamma, beta, scale: scale[..channels].to_vec() };
    let on_device = DeviceNormalizer { values: values.slice(), padded };
    (host, values, on_device)
}

/// A summand by name, for T steps of each position.
fn stored(gpu: &Arc<Gpu>, kind: &str, seed: u64, [positions, time_steps, channels]: [usize; 3]) -> Stored {
    match kind {
        "sums" => stored::sums(gpu, seed, positions * time_steps, channels, -4..=12),
        "bits" => stored::bits(gpu, seed, positions * time_steps, channels),
        "real" => stored::real(gpu, seed, [positions, time_steps], channels),
        "static" => stored::real(gpu, seed, [positions, 1], channels),
        _ => stored::none(),
    }
}

#[test]
fn neurons_have_the_bits_of_the_cpu() {
    let gpu = device::gpu();
    let shapes = [[1, 1, 1], [3, 5, 31], [2, 20, 33], [5, 33, 32], [1, 64, 70], [7, 4, 16], [9, 1, 100], [1, 255, 3]];
    let kinds =
        [["sums", ""], ["real", ""], ["static", ""], ["bits", ""], ["sums", "sums"], ["sums", "bits"], ["bits", "sums"], ["bits", "bits"]];
    for (at, shape) in shapes.into_iter().enumerate() {
        for (kind, [first, second]) in kinds.into_iter().enumerate() {
            let neuron = if (at + kind) % 2 == 0 { IF } else { LIF };
            let drops = (at + kind) % 3 == 0;
            check_neurons(&gpu, neuron, shape, [first, second], drops);
        }
    }
}

fn check_neurons(gpu: &Arc<Gpu>, neuron: Neuron, shape: [usize; 3], kinds: [&str; 2], drops: bool) {
    let [positions, time_steps, channels] = shape;
    let case = format!("{} {shape:?} {kinds:?} dropout {drops}", neuron.name());
    let (stride, words) = (channels.next_multiple_of(LANES), channels.div_ceil(32));
    let (norm, _values, on_device) = normalizer(gpu, 1, channels);
    let (x, y) = (stored(gpu, kinds[0], 2, shape), stored(gpu, kinds[1], 3, shape));
    let is_real = matches!(x.summand, Summand::Real { .. });
    let threshold = 0.5;
    let args = NeuronArgs { neuron, threshold, time_steps, step_weights: neuron.step_weights(time_steps), channels, stride };
    let dropped = random_bits(4, positions, channels);
    let is_weighted = matches!(neuron, Neuron::Lif { .. });

    let neurons = positions * channels;
    let mut spikes = vec![0u32; positions * time_steps * words];
    let (mut counts, mut mean) = (vec![0u8; neurons], vec![0.0f32; neurons]);
    let mut weighted = vec![0.0f32; if is_weighted { neurons } else { 0 }];
    for q in 0..positions {
        let frames = x.sums.len() / positions;
        let of_position = &x.sums[q * frames..][..frames];
        let first = if is_real { Currents::Real(bytemuck::cast_slice(of_position)) } else { Currents::Integer(of_position) };
        let other = y.sums.len() / positions;
        let of_neurons = q * channels..(q + 1) * channels;
        let mut out = NeuronOut {
            spikes: &mut spikes[q * time_steps * words..][..time_steps * words],
            counts: &mut counts[of_neurons.clone()],
            mean_normed: &mut mean[of_neurons.clone()],
            weighted_normed: if is_weighted { &mut weighted[of_neurons] } else { &mut [] },
        };
        neuron_at(Isa::detect(), &args, &norm, first, &y.sums[q * other..][..other], &mut out);
        if drops {
            drop_spikes(&dropped[q * words..][..words], &mut out);
        }
    }
    assert!(time_steps < 5 || spikes.iter().any(|&w| w != 0), "{case}: no spike");

    let constants = [gpu.memory_of(&[threshold]).unwrap(), gpu.memory_of(&args.step_weights).unwrap()];
    let dropped = gpu.memory_of(&dropped).unwrap();
    let from = NeuronInputs {
        normalizer: on_device,
        threshold: constants[0].slice(),
        step_weights: constants[1].slice(),
        dropped: if drops { dropped.slice() } else { Slice::NONE },
        neurons: DeviceNeurons::from(&args),
    };
    let got_spikes = gpu.memory_of(&vec![u32::MAX; spikes.len()]).unwrap();
    let (got_counts, got_mean) = (gpu.memory_of(&vec![99u8; neurons]).unwrap(), gpu.zeroed::<f32>(neurons).unwrap());
    let got_weighted = gpu.zeroed::<f32>(weighted.len()).unwrap();
    let fired = gpu.memory_of(&[7u64]).unwrap();
    let to = NeuronOutputs {
        spikes: got_spikes.slice(),
        counts: got_counts.slice(),
        mean_normed: got_mean.slice(),
        weighted_normed: got_weighted.slice(),
        fired: fired.slice(),
    };
    cuda::neurons(gpu, &from, &to, &[x.summand, y.summand], positions).unwrap();
    assert_eq!(got_spikes.to_vec().unwrap(), spikes, "{case}: spikes");
    assert_eq!(got_counts.to_vec().unwrap(), counts, "{case}: counts");
    assert_eq!(bits_of(&got_mean.to_vec().unwrap()), bits_of(&mean), "{case}: mean");
    assert_eq!(bits_of(&got_weighted.to_vec().unwrap()), bits_of(&weighted), "{case}: weighted mean");
    let expected = 7 + counts.iter().map(|&n| u64::from(n)).sum::<u64>();
    assert_eq!(fired.to_vec().unwrap(), [expected], "{case}: fired");

    // In evaluation only the spikes are wanted.
    let none = NeuronOutputs { counts: Slice::NONE, mean_normed: Slice::NONE, weighted_normed: Slice::NONE, fired: Slice::NONE, ..to };
    gpu.fill_zero(got_spikes.slice()).unwrap();
    cuda::neurons(gpu, &from, &none, &[x.summand, y.summand], positions).unwrap();
    assert_eq!(got_spikes.to_vec().unwrap(), spikes, "{case}: spikes alone");
}

#[test]
fn time_means_have_the_bits_of_the_cpu() {
    let gpu = device::gpu();
    for (at, shape) in [[1usize, 1, 1], [3, 5, 31], [2, 20, 33], [5, 33, 32], [9, 4, 100]].into_iter().enumerate() {
        let [positions, time_steps, channels] = shape;
        let padded = channels.next_multiple_of(PADDING);
        let inner = seeded::values(1, 5 * padded, -0.5..0.5);
        let weights = if at % 2 == 0 { IF } else { LIF }.step_weights(time_steps);
        let x = stored(&gpu, if at == 2 { "bits" } else { "sums" }, 2, shape);
        let (mut plain, mut weighted) = (vec![0.0; positions * channels], vec![0.0; positions * channels]);
        let stride = channels.next_multiple_of(LANES);
        let (factor, offset) = (&inner[..channels], &inner[padded..padded + channels]);
        for (acc, means) in x.sums.chunks(time_steps * stride).zip(plain.chunks_mut(channels).zip(weighted.chunks_mut(channels))) {
            batch_norm::time_means(Isa::detect(), factor, offset, &weights, acc, stride, means.0, means.1);
        }
        let (values, weights) = (gpu.memory_of(&inner).unwrap(), gpu.memory_of(&weights).unwrap());
        let device = DeviceInner { values: values.slice(), correlation: Slice::NONE, padded };
        let [got, got_weighted] = [(); 2].map(|()| gpu.zeroed::<f32>(positions * channels).unwrap());
        let out = [got.slice(), got_weighted.slice()];
        cuda::time_means(&gpu, out, &device, weights.slice(), &x.summand, [positions, channels]).unwrap();
        assert_eq!(bits_of(&got.to_vec().unwrap()), bits_of(&plain), "{shape:?}");
        assert_eq!(bits_of(&got_weighted.to_vec().unwrap()), bits_of(&weighted), "{shape:?}, weighted");
    }
}

/// A sum of f64 in another order: `magnitude` is the sum of magnitudes.
fn assert_close(got: f64, expected: f64, magnitude: f64, tolerance: f64, what: &str) {
    assert!((got - expected).abs() <= tolerance * magnitude.max(f64::MIN_POSITIVE), "{what}: expected {expected}, got {got}");
}

/// f32 roundings of sums that agree to 1e-12: neighbours at most.
fn assert_rounded(got: &[f32], expected: &[f64], magnitude: &[f64], what: &str) {
    for c in 0..expected.len() {
        let allowed = expected[c].abs() * f64::from(f32::EPSILON) + 1e-12 * magnitude[c];
        assert!((f64::from(got[c]) - expected[c]).abs() <= allowed, "{what}, channel {c}: expected {}, got {}", expected[c], got[c]);
    }
}

/// A layer in backward on both sides.
struct Case {
    name: String,
    neuron: Neuron,
    rows: usize,
    channels: usize,
    dropout: f32,
    has_norm: bool,
    norm: Normalizer,
    threshold: f32,
    grad: Vec<f32>,
    mean_normed: Vec<f32>,
    representation: Vec<f32>,
    dropped: Vec<u32>,
    device: OnDevice,
}

struct OnDevice {
    layer: LayerBackward,
    grad: Memory<f32>,
    /// Of threshold, gamma and beta.
    gradients: [Memory<f32>; 3],
    mean: Memory<f32>,
    k: Memory<f32>,
    partial: Memory<f64>,
    _kept: Vec<Box<dyn std::any::Any>>,
}

/// Values on and around the ends of the clamp's range, gradients of any size.
fn case(gpu: &Arc<Gpu>, neuron: Neuron, rows: usize, channels: usize, dropout: f32, has_norm: bool) -> Case {
    let (norm, values, on_device) = normalizer(gpu, 1, channels);
    let (threshold, neurons) = (0.75, rows * channels);
    let ends = [0.0, -0.0, neuron.upper(threshold), 0.5 * neuron.upper(threshold), 1e-30, -1e-30];
    let mut rng = seeded::rng(2);
    let mut currents = |range: std::ops::Range<f32>| -> Vec<f32> {
        (0..neurons).map(|i| if i % 3 == 0 { ends[i / 3 % ends.len()] } else { rng.random_range(range.clone()) }).collect()
    };
    let mean_normed = currents(-1.0..2.0 * neuron.upper(threshold));
    let is_lif = matches!(neuron, Neuron::Lif { .. });
    let representation = if is_lif { currents(-1.0..2.0 * neuron.upper(threshold)) } else { mean_normed.clone() };
    let grad = seeded::values(3, neurons, -1e-3..1e-3);
    let dropped = if dropout > 0.0 { random_bits(4, rows, channels) } else { Vec::new() };
    let padded = channels.next_multiple_of(PADDING);
    let [mean, k] = [(); 2].map(|()| gpu.zeroed::<f32>(if has_norm { padded } else { 0 }).unwrap());
    let partial = gpu.zeroed::<f64>(partial_len(rows, channels)).unwrap();
    let device_mean = gpu.memory_of(&mean_normed).unwrap();
    let device_representation = gpu.memory_of(if is_lif { &representation } else { &[] }).unwrap();
    let (device_dropped, device_threshold) = (gpu.memory_of(&dropped).unwrap(), gpu.memory_of(&[threshold]).unwrap());
    let layer = LayerBackward {
        rows,
        channels,
        time_steps: 6,
        normalizer: on_device,
        threshold: device_threshold.slice(),
        mean_normed: device_mean.slice(),
        representation: if is_lif { device_representation.slice() } else { device_mean.slice() },
        dropped: device_dropped.slice(),
        mean: mean.slice(),
        k: k.slice(),
        partial: partial.slice(),
    };
    let device = OnDevice {
        layer,
        grad: gpu.memory_of(&grad).unwrap(),
        gradients: [1, channels, channels].map(|len| gpu.memory_of(&vec![0.0; len]).unwrap()),
        mean,
        k,
        partial,
        _kept: vec![
            Box::new(values),
            Box::new(device_mean),
            Box::new(device_representation),
            Box::new(device_dropped),
            Box::new(device_threshold),
        ],
    };
    let name = format!("{} {rows}x{channels} dropout {dropout} norm {has_norm}", neuron.name());
    Case { name, neuron, rows, channels, dropout, has_norm, norm, threshold, grad, mean_normed, representation, dropped, device }
}

fn cases(gpu: &Arc<Gpu>) -> Vec<Case> {
    [
        (IF, 1, 1, 0.0, true),
        (IF, 50, 33, 0.0, true),
        (LIF, 70, 64, 0.25, true),
        (LIF, 9, 31, 0.0, true),
        (IF, 2100, 6, 0.5, true),
        (LIF, 300, 132, 0.0, true),
        (IF, 20, 10, 0.0, false),
        (LIF, 33, 100, 0.1, false),
    ]
    .map(|(neuron, rows, channels, dropout, has_norm)| case(gpu, neuron, rows, channels, dropout, has_norm))
    .into()
}

/// What the CPU makes of a case: g, and the sums (above, g, g·mean x̂) with their magnitudes, `[C]`.
fn expected_clamp(case: &Case) -> (Vec<f32>, [Vec<f64>; 3], [Vec<f64>; 3]) {
    let channels = case.channels;
    let keep = 1.0 / (1.0 - case.dropout);
    let mut grad = case.grad.clone();
    if case.dropout > 0.0 {
        for (i, grad) in grad.iter_mut().enumerate() {
            let (row, c) = (i / channels, i % channels);
            let is_dropped = case.dropped[row * channels.div_ceil(32) + c / 32] >> (c % 32) & 1 == 1;
            *grad = if is_dropped { 0.0 } else { *grad * keep };
        }
    }
    let largest: f64 = grad.iter().map(|g| f64::from(g.abs())).sum();
    let mut sums = [(); 3].map(|()| vec![0.0; channels]);
    let [above, sum, product] = &mut sums;
    let map = case.neuron.clamp_mapping(case.threshold);
    let (representation, mean) = (&case.representation, &case.mean_normed);
    neuron::clamp_mapping_backward(Isa::detect(), map, &case.norm, representation, mean, &mut grad, above, sum, product);
    let mut magnitudes = [vec![largest; channels], vec![0.0; channels], vec![0.0; channels]];
    for (i, g) in grad.iter().enumerate() {
        magnitudes[1][i % channels] += f64::from(g.abs());
        magnitudes[2][i % channels] += f64::from(g.abs()) * f64::from(mean[i].abs());
    }
    (grad, sums, magnitudes)
}

const THRESHOLD_GRAD_SCALE: f32 = 0.1;

fn run_clamp(gpu: &Gpu, case: &Case) {
    let [threshold, gamma, beta] = case.device.gradients.each_ref().map(|memory| memory.slice());
    let into = if case.has_norm { NeuronGradients { threshold, gamma, beta } } else { NeuronGradients { threshold, ..Default::default() } };
    let OnDevice { grad, layer, .. } = &case.device;
    cuda::clamp_mapping_backward(gpu, grad.slice(), &into, layer, case.neuron, THRESHOLD_GRAD_SCALE, case.dropout).unwrap();
}

#[test]
fn the_clamp_mapping_has_the_bits_of_the_cpu_and_its_sums() {
    let gpu = device::gpu();
    for case in cases(&gpu) {
        run_clamp(&gpu, &case);
        let (grad, sums, magnitudes) = expected_clamp(&case);
        assert_eq!(bits_of(&case.device.grad.to_vec().unwrap()), bits_of(&grad), "{}: g", case.name);
        let partial = case.device.partial.to_vec().unwrap();
        for (quantity, partial) in partial.chunks_exact(partial.len() / 3).enumerate() {
            for c in 0..case.channels {
                let got: f64 = partial.iter().skip(c).step_by(case.channels).sum();
                let name = format!("{}: sum {quantity} of channel {c}", case.name);
                assert_close(got, sums[quantity][c], magnitudes[quantity][c], 1e-12, &name);
            }
        }
        let [threshold, gamma, beta] = case.device.gradients.each_ref().map(|memory| memory.to_vec().unwrap());
        let steps = case.device.layer.time_steps as f64;
        let factor = f64::from(case.neuron.threshold_grad_factor() * THRESHOLD_GRAD_SCALE) * steps;
        let above = factor * sums[0].iter().sum::<f64>();
        assert_rounded(&threshold, &[above], &[factor * magnitudes[0][0]], &format!("{}: threshold", case.name));
        if !case.has_norm {
            assert!(gamma.iter().chain(&beta).all(|&v| v == 0.0), "{}", case.name);
            continue;
        }
        let rows = case.rows as f64;
        let times = |values: &[f64], factor: f64| -> Vec<f64> { values.iter().map(|v| v * factor).collect() };
        let [_, sum, product] = &sums;
        let [_, of_sum, of_product] = &magnitudes;
        assert_rounded(&beta, &times(sum, steps), &times(of_sum, steps), &format!("{}: beta", case.name));
        assert_rounded(&gamma, &times(product, steps), &times(of_product, steps), &format!("{}: gamma", case.name));
        let mean = case.device.mean.to_vec().unwrap();
        assert_rounded(&mean, &times(sum, 1.0 / rows), &times(of_sum, 1.0 / rows), &format!("{}: mean", case.name));
        let scaled = |values: &[f64]| -> Vec<f64> { values.iter().zip(&case.norm.scale).map(|(v, &s)| f64::from(s) * v / rows).collect() };
        assert_rounded(&case.device.k.to_vec().unwrap(), &scaled(product), &scaled(of_product), &format!("{}: k", case.name));
    }
}

/// Outputs of a current's gradient, all of them asked for.
struct Outputs {
    halves: [Memory<u16>; 2],
    floats: [Memory<f32>; 2],
    biases: [Memory<f32>; 2],
    out: CurrentGradient,
}

fn outputs(gpu: &Arc<Gpu>, neurons: usize, channels: usize) -> Outputs {
    let halves = [(); 2].map(|()| gpu.zeroed::<u16>(neurons).unwrap());
    let floats = [(); 2].map(|()| gpu.zeroed::<f32>(neurons).unwrap());
    let biases = [(); 2].map(|()| gpu.zeroed::<f32>(channels).unwrap());
    let out = CurrentGradient {
        plain: halves[0].slice(),
        weighted: halves[1].slice(),
        plain_f32: floats[0].slice(),
        weighted_f32: floats[1].slice(),
        biases: biases.each_ref().map(|bias| bias.slice()),
    };
    Outputs { halves, floats, biases, out }
}

impl Outputs {
    fn assert(&self, plain: &[f32], weighted: &[f32], case: &Case, what: &str) {
        let name = format!("{}, {what}", case.name);
        for (at, expected) in [plain, weighted].into_iter().enumerate() {
            assert_eq!(bits_of(&self.floats[at].to_vec().unwrap()), bits_of(expected), "{name}: f32 {at}");
            assert_eq!(self.halves[at].to_vec().unwrap(), rounded(expected), "{name}: bf16 {at}");
        }
        let steps = case.device.layer.time_steps as f64;
        let (mut sum, mut magnitude) = (vec![0.0; case.channels], vec![0.0; case.channels]);
        for (i, &g) in plain.iter().enumerate() {
            sum[i % case.channels] += steps * f64::from(g);
            magnitude[i % case.channels] += steps * f64::from(g.abs());
        }
        for bias in &self.biases {
            assert_rounded(&bias.to_vec().unwrap(), &sum, &magnitude, &format!("{name}: bias"));
        }
    }
}

/// A, on the CPU, from what the device left in mean.
fn centered(case: &Case) -> Vec<f32> {
    let mut grad = case.device.grad.to_vec().unwrap();
    if case.has_norm {
        center(Isa::detect(), &case.norm.scale, &case.device.mean.to_vec().unwrap()[..case.channels], &mut grad);
    }
    grad
}

#[test]
fn gradients_of_currents_are_those_of_the_cpu() {
    let gpu = device::gpu();
    for case in cases(&gpu) {
        run_clamp(&gpu, &case);
        let base = centered(&case);
        let (mut plain, mut weighted) = (base.clone(), base.clone());
        if case.has_norm {
            let k = &case.device.k.to_vec().unwrap()[..case.channels];
            subtract_scaled(Isa::detect(), k, &case.mean_normed, &mut plain);
            subtract_scaled(Isa::detect(), k, &case.representation, &mut weighted);
        }
        for unrolled in [false, true] {
            let outputs = outputs(&gpu, base.len(), case.channels);
            cuda::current_gradient(&gpu, &outputs.out, case.device.grad.slice(), &case.device.layer, unrolled).unwrap();
            outputs.assert(if unrolled { &base } else { &plain }, &weighted, &case, if unrolled { "unrolled" } else { "rate" });
        }
        // As IF in `rate` mode asks: one output.
        let only = outputs(&gpu, base.len(), case.channels);
        let out = CurrentGradient { plain: only.halves[0].slice(), ..CurrentGradient::default() };
        cuda::current_gradient(&gpu, &out, case.device.grad.slice(), &case.device.layer, false).unwrap();
        assert_eq!(only.halves[0].to_vec().unwrap(), rounded(&plain), "{}: plain alone", case.name);
        assert!(only.biases[0].to_vec().unwrap().iter().all(|&v| v == 0.0), "{}", case.name);
    }
}

#[test]
fn the_gradient_through_a_norm_of_its_own_is_that_of_the_cpu() {
    let gpu = device::gpu();
    for case in cases(&gpu).into_iter().filter(|case| case.has_norm) {
        run_clamp(&gpu, &case);
        let (channels, padded, neurons) = (case.channels, case.channels.next_multiple_of(PADDING), case.grad.len());
        let (plain_u, weighted_u) = (seeded::values(10, neurons, -2.0..2.0), seeded::values(11, neurons, -2.0..2.0));
        let correlation: Vec<f64> = seeded::values(12, padded, -1.0..1.0).into_iter().map(f64::from).collect();
        let inner_values = seeded::values(13, 5 * padded, 0.1..2.0);
        let values = gpu.memory_of(&inner_values).unwrap();
        let on_device = (gpu.memory_of(&correlation).unwrap(), gpu.memory_of(&plain_u).unwrap(), gpu.memory_of(&weighted_u).unwrap());
        let inner = DeviceInner { values: values.slice(), correlation: on_device.0.slice(), padded };
        let kept = InnerKept { inner, mean_normed: on_device.1.slice(), weighted_normed: on_device.2.slice() };
        let scale = &inner_values[2 * padded..][..channels];
        let k = case.device.k.to_vec().unwrap()[..channels].to_vec();
        let base = centered(&case);

        // The sums of channels, and what follows from them.
        let (mut product, mut magnitude) = (vec![0.0; channels], vec![0.0; channels]);
        for (i, (&g, &u)) in base.iter().zip(&plain_u).enumerate() {
            product[i % channels] += f64::from(g) * f64::from(u);
            magnitude[i % channels] += (f64::from(g) * f64::from(u)).abs();
        }
        let (steps, rows) = (case.device.layer.time_steps as f64, case.rows as f64);
        let covariance: Vec<f64> = (0..channels).map(|c| product[c] / rows - f64::from(k[c]) * correlation[c]).collect();
        let of_covariance: Vec<f64> = (0..channels).map(|c| magnitude[c] / rows + (f64::from(k[c]) * correlation[c]).abs()).collect();
        let times = |values: &[f64], factor: f64| -> Vec<f64> { values.iter().map(|v| v * factor).collect() };

        for unrolled in [false, true] {
            let what = if unrolled { "own norm, unrolled" } else { "own norm, rate" };
            let outputs = outputs(&gpu, neurons, channels);
            let grad_gamma = gpu.zeroed::<f32>(channels).unwrap();
            let (grad, layer) = (case.device.grad.slice(), &case.device.layer);
            cuda::inner_backward(&gpu, &outputs.out, grad_gamma.slice(), grad, layer, &kept, unrolled).unwrap();
            let expected = times(&covariance, steps * rows);
            assert_rounded(
                &grad_gamma.to_vec().unwrap(),
                &expected,
                &times(&of_covariance, steps * rows),
                &format!("{}, {what}: gamma", case.name),
            );
            let left = values.to_vec().unwrap();
            let (scaled_k, own_k) = (&left[3 * padded..][..channels], &left[4 * padded..][..channels]);
            let expected_k: Vec<f32> = k.iter().zip(scale).map(|(k, scale)| k * scale).collect();
            assert_eq!(bits_of(scaled_k), bits_of(&expected_k), "{}, {what}: scaled k", case.name);
            for c in 0..channels {
                let expected = covariance[c] * f64::from(scale[c]);
                let allowed = 2.0 * f64::from(f32::EPSILON) * expected.abs() + 1e-12 * of_covariance[c] * f64::from(scale[c]);
                assert!((f64::from(own_k[c]) - expected).abs() <= allowed, "{}, {what}: own k {expected}, got {}", case.name, own_k[c]);
            }
            let mut scaled = base.clone();
            center(Isa::detect(), scale, &vec![0.0; channels], &mut scaled);
            let subtracted = |x: &[f32], u: &[f32]| {
                let mut out = scaled.clone();
                subtract_scaled(Isa::detect(), scaled_k, x, &mut out);
                subtract_scaled(Isa::detect(), own_k, u, &mut out);
                out
            };
            let weighted = subtracted(&case.representation, &weighted_u);
            let plain = if unrolled { scaled.clone() } else { subtracted(&case.mean_normed, &plain_u) };
            outputs.assert(&plain, &weighted, &case, what);
        }
    }
}

/// The same sums in every run, and added to what is there.
#[test]
fn gradients_are_added_and_repeat() {
    let gpu = device::gpu();
    let runs: Vec<Vec<u32>> = (0..2)
        .map(|_| {
            let case = case(&gpu, LIF, 2100, 70, 0.25, true);
            run_clamp(&gpu, &case);
            case.device.gradients.iter().flat_map(|memory| bits_of(&memory.to_vec().unwrap())).collect()
        })
        .collect();
    assert_eq!(runs[0], runs[1]);
    let case = case(&gpu, IF, 40, 5, 0.0, true);
    run_clamp(&gpu, &case);
    let once = case.device.gradients.each_ref().map(|memory| memory.to_vec().unwrap());
    gpu.upload(&case.grad, case.device.grad.slice()).unwrap();
    run_clamp(&gpu, &case);
    for (twice, once) in case.device.gradients.iter().zip(&once) {
        let doubled: Vec<f32> = once.iter().map(|v| v + v).collect();
        assert_eq!(bits_of(&twice.to_vec().unwrap()), bits_of(&doubled));
    }
}

#[test]
fn a_buffer_that_is_too_short_is_refused() {
    let gpu = device::gpu();
    let (_, _values, normalizer) = normalizer(&gpu, 1, 3);
    let args = NeuronArgs { neuron: IF, threshold: 1.0, time_steps: 2, step_weights: IF.step_weights(2), channels: 3, stride: 16 };
    let from = NeuronInputs {
        normalizer,
        threshold: Slice::NONE,
        step_weights: Slice::NONE,
        dropped: Slice::NONE,
        neurons: DeviceNeurons::from(&args),
    };
    let spikes = gpu.zeroed::<u32>(9).unwrap();
    let to = NeuronOutputs {
        spikes: spikes.slice(),
        counts: Slice::NONE,
        mean_normed: Slice::NONE,
        weighted_normed: Slice::NONE,
        fired: Slice::NONE,
    };
    let error = cuda::neurons(&gpu, &from, &to, &[Summand::None, Summand::None], 5).unwrap_err();
    assert_eq!(error.to_string(), "neurons: spikes: expected 10, got 9");
}
