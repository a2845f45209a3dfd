//! A layer in backward on the device and on the host, and what to compare.

use std::any::Any;
use std::sync::Arc;

use dsr::device::{Gpu, Memory};
use dsr::ops::batch_norm::Normalizer;
use dsr::ops::batch_norm::cuda::PADDING;
use dsr::ops::neuron::Neuron;
use dsr::ops::neuron::cuda::{LayerBackward, NeuronGradients, clamp_mapping_backward, partial_len};
use dsr::ops::spike_conv::DeviceNormalizer;
use rand::Rng;

use super::seeded;
use super::stored::random_bits;

pub const IF: Neuron = Neuron::If { alpha: 0.5 };
pub const LIF: Neuron = Neuron::Lif { alpha: 0.3, tau: 1.0, delta_t: 0.05 };

pub fn bits_of(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Rows of a normalizer on both sides: multiples of powers of two, so that currents hit thresholds exactly.
pub fn normalizer(gpu: &Arc<Gpu>, seed: u64, channels: usize) -> (Normalizer, Memory<f32>, DeviceNormalizer) {
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

/// f32 roundings of sums that agree to 1e-12: neighbours at most.
pub fn assert_rounded(got: &[f32], expected: &[f64], magnitude: &[f64], what: &str) {
    for c in 0..expected.len() {
        let allowed = expected[c].abs() * f64::from(f32::EPSILON) + 1e-12 * magnitude[c];
        assert!((f64::from(got[c]) - expected[c]).abs() <= allowed, "{what}, channel {c}: expected {}, got {}", expected[c], got[c]);
    }
}

/// A layer in backward on both sides.
pub struct Case {
    pub name: String,
    pub neuron: Neuron,
    pub rows: usize,
    pub channels: usize,
    pub dropout: f32,
    pub has_norm: bool,
    pub norm: Normalizer,
    pub threshold: f32,
    pub grad: Vec<f32>,
    pub mean_normed: Vec<f32>,
    pub representation: Vec<f32>,
    pub dropped: Vec<u32>,
    pub device: OnDevice,
}

pub struct OnDevice {
    pub layer: LayerBackward,
    pub grad: Memory<f32>,
    /// Of threshold, gamma and beta.
    pub gradients: [Memory<f32>; 3],
    pub mean: Memory<f32>,
    pub k: Memory<f32>,
    pub partial: Memory<f64>,
    _kept: Vec<Box<dyn Any>>,
}

/// Values on and around the ends of the clamp's range, gradients of any size.
pub fn case(gpu: &Arc<Gpu>, neuron: Neuron, rows: usize, channels: usize, dropout: f32, has_norm: bool) -> Case {
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

pub fn cases(gpu: &Arc<Gpu>) -> Vec<Case> {
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

pub const THRESHOLD_GRAD_SCALE: f32 = 0.1;

pub fn run_clamp(gpu: &Gpu, case: &Case) {
    let [threshold, gamma, beta] = case.device.gradients.each_ref().map(|memory| memory.slice());
    let into = if case.has_norm { NeuronGradients { threshold, gamma, beta } } else { NeuronGradients { threshold, ..Default::default() } };
    let OnDevice { grad, layer, .. } = &case.device;
    clamp_mapping_backward(gpu, grad.slice(), &into, layer, Some(case.neuron), THRESHOLD_GRAD_SCALE, case.dropout).unwrap();
}
