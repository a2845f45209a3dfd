//! Backward of neurons and batch norm. What is computed neuron by neuron has the bits of the CPU; sums over a batch are f64 in another
//! order and must agree to 1e-12 of the sum of magnitudes, and to the rounding of f32 where they are stored in it.

use std::sync::Arc;

use half::bf16;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::inputs::{IF, LIF, bits, coarse_normalizer, floats, upload_normalizer};
use super::{Check, Outcome, Output, Size};
use crate::device::{Gpu, Isa, Memory, Slice};
use crate::error::Result;
use crate::ops::batch_norm::cuda::{DeviceInner, PADDING};
use crate::ops::batch_norm::cuda_backward::{CurrentGradient, InnerKept, current_gradient, inner_backward};
use crate::ops::batch_norm::{Normalizer, center, subtract_scaled};
use crate::ops::neuron::cuda::{LayerBackward, NeuronGradients, clamp_mapping_backward as on_device, partial_len};
use crate::ops::neuron::{Neuron, clamp_mapping_backward};

const TOLERANCE: &str = "1e-12 of magnitudes";
const OF_MAGNITUDES: f64 = 1e-12;
const TIME_STEPS: usize = 6;
const THRESHOLD: f32 = 0.75;
const THRESHOLD_GRAD_SCALE: f32 = 0.1;

/// Neuron, rows, channels, dropout, whether there is a batch norm.
type Shape = (Neuron, usize, usize, f32, bool);

pub fn checks(gpu: &Arc<Gpu>, size: Size) -> Vec<Check> {
    let mut shapes: Vec<Shape> = vec![
        (IF, 1, 1, 0.0, true),
        (LIF, 70, 64, 0.25, true),
        (IF, 2100, 6, 0.5, true),
        (LIF, 301, 132, 0.0, true),
        (IF, 20, 10, 0.0, false),
        (LIF, 33, 100, 0.1, false),
    ];
    if size == Size::Full {
        shapes.extend([(IF, 4096, 64, 0.0, true), (LIF, 1024, 512, 0.1, true)]);
    }
    let mut checks = Vec::new();
    for shape in shapes {
        let (neuron, rows, channels, dropout, has_norm) = shape;
        let dropout = if dropout > 0.0 { format!(", dropout {dropout}") } else { String::new() };
        let text = format!("{rows}x{channels}, {}{dropout}{}", neuron.name(), if has_norm { "" } else { ", no norm" });
        let [clamp, current, own] = [gpu.clone(), gpu.clone(), gpu.clone()];
        checks.push(Check::within(TOLERANCE, "clamp mapping", &text, move |rng, outcome| check_clamp(&clamp, rng, outcome, shape)));
        checks.push(Check::within(TOLERANCE, "gradient of currents", &text, move |rng, outcome| {
            check_current(&current, rng, outcome, shape)
        }));
        if has_norm {
            checks
                .push(Check::within(TOLERANCE, "gradient of an own norm", &text, move |rng, outcome| check_own(&own, rng, outcome, shape)));
        }
    }
    checks
}

/// A layer in backward on both sides.
struct Layer {
    neuron: Neuron,
    rows: usize,
    channels: usize,
    dropout: f32,
    has_norm: bool,
    norm: Normalizer,
    /// `[rows][C]`.
    grad: Vec<f32>,
    mean_normed: Vec<f32>,
    representation: Vec<f32>,
    dropped: Vec<u32>,
    on_device: OnDevice,
}

struct OnDevice {
    layer: LayerBackward,
    grad: Output<f32>,
    /// Of threshold, γ and β.
    gradients: [Output<f32>; 3],
    mean: Output<f32>,
    k: Output<f32>,
    partial: Memory<f64>,
    _kept: ([Memory<f32>; 4], Memory<u32>),
}

impl Layer {
    /// Currents on and around the ends of the clamp's range, gradients of any size.
    fn new(gpu: &Arc<Gpu>, rng: &mut ChaCha8Rng, (neuron, rows, channels, dropout, has_norm): Shape) -> Result<Layer> {
        let (norm, neurons, upper) = (coarse_normalizer(rng, channels), rows * channels, neuron.upper(THRESHOLD));
        let (values, normalizer) = upload_normalizer(gpu, &norm, channels)?;
        let ends = [0.0, -0.0, upper, 0.5 * upper, 1e-30, -1e-30];
        let mut currents =
            || (0..neurons).map(|i| if i % 3 == 0 { ends[i / 3 % ends.len()] } else { rng.random_range(-1.0..2.0 * upper) }).collect();
        let mean_normed: Vec<f32> = currents();
        let is_lif = matches!(neuron, Neuron::Lif { .. });
        let representation = if is_lif { currents() } else { mean_normed.clone() };
        let grad = floats(rng, neurons, -1e-3..1e-3);
        let dropped = if dropout > 0.0 { bits(rng, rows, channels, f64::from(dropout)) } else { Vec::new() };
        let padded = if has_norm { channels.next_multiple_of(PADDING) } else { 0 };
        let [mean, k] = [Output::of(gpu, &vec![0.0; padded])?, Output::of(gpu, &vec![0.0; padded])?];
        let partial = gpu.zeroed::<f64>(partial_len(rows, channels))?;
        let on_gpu = [gpu.memory_of(&mean_normed)?, gpu.memory_of(if is_lif { &representation } else { &[] })?];
        let [device_mean, device_representation] = &on_gpu;
        let (device_dropped, threshold) = (gpu.memory_of(&dropped)?, gpu.memory_of(&[THRESHOLD])?);
        let layer = LayerBackward {
            rows,
            channels,
            time_steps: TIME_STEPS,
            normalizer,
            threshold: threshold.slice(),
            mean_normed: device_mean.slice(),
            representation: if is_lif { device_representation.slice() } else { device_mean.slice() },
            dropped: device_dropped.slice(),
            mean: mean.slice(),
            k: k.slice(),
            partial: partial.slice(),
        };
        let zeros = |len: usize| Output::of(gpu, &vec![0.0f32; len]);
        let (on_grad, gradients) = (Output::of(gpu, &grad)?, [zeros(1)?, zeros(channels)?, zeros(channels)?]);
        let [device_mean, device_representation] = on_gpu;
        let kept = ([values, device_mean, device_representation, threshold], device_dropped);
        let on_device = OnDevice { layer, grad: on_grad, gradients, mean, k, partial, _kept: kept };
        Ok(Layer { neuron, rows, channels, dropout, has_norm, norm, grad, mean_normed, representation, dropped, on_device })
    }

    fn run_clamp(&self, gpu: &Gpu) -> Result<()> {
        let [threshold, gamma, beta] = self.on_device.gradients.each_ref().map(Output::slice);
        let (gamma, beta) = if self.has_norm { (gamma, beta) } else { (Slice::NONE, Slice::NONE) };
        let into = NeuronGradients { threshold, gamma, beta };
        on_device(gpu, self.on_device.grad.slice(), &into, &self.on_device.layer, Some(self.neuron), THRESHOLD_GRAD_SCALE, self.dropout)
    }

    /// A = γ/σ·(g - mean g) on the CPU, from the g and the mean that the device left.
    fn centered(&self, outcome: &mut Outcome) -> Result<Vec<f32>> {
        let mut grad = self.on_device.grad.values("g", outcome)?;
        if self.has_norm {
            let mean = self.on_device.mean.values("mean of g", outcome)?;
            center(Isa::detect(), &self.norm.scale, &mean[..self.channels], &mut grad);
        }
        Ok(grad)
    }
}

/// Sums of channels, `[C]`, with the sums of magnitudes.
#[derive(Clone)]
struct Sums {
    values: Vec<f64>,
    magnitudes: Vec<f64>,
}

impl Sums {
    fn times(&self, factor: impl Fn(usize) -> f64) -> Sums {
        let times = |values: &[f64]| values.iter().enumerate().map(|(c, v)| v * factor(c)).collect();
        Sums { values: times(&self.values), magnitudes: times(&self.magnitudes) }
    }

    /// Of `[n][C]` values.
    fn of(values: impl Iterator<Item = f64>, channels: usize) -> Sums {
        let mut sums = Sums { values: vec![0.0; channels], magnitudes: vec![0.0; channels] };
        for (i, v) in values.enumerate() {
            sums.values[i % channels] += v;
            sums.magnitudes[i % channels] += v.abs();
        }
        sums
    }

    /// Compares with values that were rounded to f32; what lies behind the last channel is not looked at.
    fn compare_rounded(&self, outcome: &mut Outcome, name: &str, got: &Output<f32>) -> Result<()> {
        let got = got.values(name, outcome)?;
        let allowed = |c: usize| self.values[c].abs() * f64::from(f32::EPSILON) + OF_MAGNITUDES * self.magnitudes[c] + f64::MIN_POSITIVE;
        outcome.near(name, &got[..self.values.len()], &self.values, allowed);
        Ok(())
    }
}

fn check_clamp(gpu: &Arc<Gpu>, rng: &mut ChaCha8Rng, outcome: &mut Outcome, shape: Shape) -> Result<()> {
    let layer = Layer::new(gpu, rng, shape)?;
    layer.run_clamp(gpu)?;
    let (channels, keep) = (layer.channels, 1.0 / (1.0 - layer.dropout));
    let mut grad = layer.grad.clone();
    if layer.dropout > 0.0 {
        for (i, grad) in grad.iter_mut().enumerate() {
            let (row, c) = (i / channels, i % channels);
            let is_dropped = layer.dropped[row * channels.div_ceil(32) + c / 32] >> (c % 32) & 1 == 1;
            *grad = if is_dropped { 0.0 } else { *grad * keep };
        }
    }
    let largest: f64 = grad.iter().map(|g| f64::from(g.abs())).sum();
    let mut sums = [(); 3].map(|()| vec![0.0; channels]);
    let [above, sum, product] = &mut sums;
    let map = layer.neuron.clamp_mapping(THRESHOLD);
    let (representation, mean_normed) = (&layer.representation, &layer.mean_normed);
    clamp_mapping_backward(Isa::detect(), map, &layer.norm, representation, mean_normed, &mut grad, above, sum, product);
    layer.on_device.grad.expect("g [B][P][C]", outcome, &grad)?;
    let of_g = Sums::of(grad.iter().map(|g| f64::from(*g)), channels);
    let of_product = Sums::of(grad.iter().zip(mean_normed).map(|(g, x)| f64::from(*g) * f64::from(*x)), channels);
    let [above, sum, product] = [
        Sums { values: sums[0].clone(), magnitudes: vec![largest; channels] },
        Sums { values: sums[1].clone(), ..of_g },
        Sums { values: sums[2].clone(), ..of_product },
    ];
    let partial = layer.on_device.partial.to_vec()?;
    for ((partial, expected), name) in partial.chunks_exact(partial.len() / 3).zip([&above, &sum, &product]).zip(["above", "g", "g x"]) {
        let total = |c: usize| partial.iter().skip(c).step_by(channels).sum::<f64>();
        let got: Vec<f64> = (0..channels).map(total).collect();
        let allowed = |c: usize| OF_MAGNITUDES * expected.magnitudes[c] + f64::MIN_POSITIVE;
        outcome.near(&format!("sums of {name} [C]"), &got, &expected.values, allowed);
    }
    let [threshold, gamma, beta] = &layer.on_device.gradients;
    let (steps, rows) = (TIME_STEPS as f64, layer.rows as f64);
    let factor = f64::from(layer.neuron.threshold_grad_factor() * THRESHOLD_GRAD_SCALE) * steps;
    let of_threshold = Sums { values: vec![above.values.iter().sum::<f64>()], magnitudes: vec![largest] }.times(|_| factor);
    of_threshold.compare_rounded(outcome, "gradient of the threshold", threshold)?;
    if !layer.has_norm {
        gamma.expect("gradient of an absent gamma", outcome, &vec![0.0; channels])?;
        return beta.expect("gradient of an absent beta", outcome, &vec![0.0; channels]);
    }
    let scale = |c: usize| f64::from(layer.norm.scale[c]) / rows;
    let named = [
        ("gradient of beta [C]", beta, sum.times(|_| steps)),
        ("gradient of gamma [C]", gamma, product.times(|_| steps)),
        ("mean of g [C]", &layer.on_device.mean, sum.times(|_| 1.0 / rows)),
        ("k [C]", &layer.on_device.k, product.times(scale)),
    ];
    for (name, got, expected) in named {
        expected.compare_rounded(outcome, name, got)?;
    }
    Ok(())
}

/// Outputs of a current's gradient, all of them asked for.
struct Gradients {
    halves: [Output<u16>; 2],
    floats: [Output<f32>; 2],
    biases: [Output<f32>; 2],
}

impl Gradients {
    fn new(gpu: &Arc<Gpu>, neurons: usize, channels: usize) -> Result<Self> {
        Ok(Gradients {
            halves: [Output::unwritten(gpu, neurons)?, Output::unwritten(gpu, neurons)?],
            floats: [Output::unwritten(gpu, neurons)?, Output::unwritten(gpu, neurons)?],
            biases: [Output::of(gpu, &vec![0.0; channels])?, Output::of(gpu, &vec![0.0; channels])?],
        })
    }

    fn slices(&self) -> CurrentGradient {
        let ([plain, weighted], [plain_f32, weighted_f32]) = (self.halves.each_ref(), self.floats.each_ref());
        CurrentGradient {
            plain: plain.slice(),
            weighted: weighted.slice(),
            plain_f32: plain_f32.slice(),
            weighted_f32: weighted_f32.slice(),
            biases: self.biases.each_ref().map(Output::slice),
            ..CurrentGradient::default()
        }
    }

    fn compare(&self, outcome: &mut Outcome, expected: [&[f32]; 2], channels: usize, mode: &str) -> Result<()> {
        for (at, (expected, name)) in expected.into_iter().zip(["plain", "weighted"]).enumerate() {
            let halves: Vec<u16> = expected.iter().map(|&v| bf16::from_f32(v).to_bits()).collect();
            self.floats[at].expect(&format!("{name} gradient, {mode} [B][P][C]"), outcome, expected)?;
            self.halves[at].expect(&format!("{name} gradient in bf16, {mode} [B][P][C]"), outcome, &halves)?;
        }
        let sums = Sums::of(expected[0].iter().map(|g| f64::from(*g)), channels).times(|_| TIME_STEPS as f64);
        for bias in &self.biases {
            sums.compare_rounded(outcome, &format!("gradient of a bias, {mode} [C]"), bias)?;
        }
        Ok(())
    }
}

fn check_current(gpu: &Arc<Gpu>, rng: &mut ChaCha8Rng, outcome: &mut Outcome, shape: Shape) -> Result<()> {
    let layer = Layer::new(gpu, rng, shape)?;
    layer.run_clamp(gpu)?;
    let base = layer.centered(outcome)?;
    let (mut plain, mut weighted) = (base.clone(), base.clone());
    if layer.has_norm {
        let k = &layer.on_device.k.values("k", outcome)?[..layer.channels];
        subtract_scaled(Isa::detect(), k, &layer.mean_normed, &mut plain);
        subtract_scaled(Isa::detect(), k, &layer.representation, &mut weighted);
    }
    for (unrolled, mode) in [(false, "rate"), (true, "unrolled")] {
        let got = Gradients::new(gpu, base.len(), layer.channels)?;
        current_gradient(gpu, &got.slices(), layer.on_device.grad.slice(), &layer.on_device.layer, unrolled)?;
        got.compare(outcome, [if unrolled { &base } else { &plain }, &weighted], layer.channels, mode)?;
    }
    Ok(())
}

fn check_own(gpu: &Arc<Gpu>, rng: &mut ChaCha8Rng, outcome: &mut Outcome, shape: Shape) -> Result<()> {
    let layer = Layer::new(gpu, rng, shape)?;
    layer.run_clamp(gpu)?;
    let (channels, padded, neurons) = (layer.channels, layer.channels.next_multiple_of(PADDING), layer.grad.len());
    let own = [floats(rng, neurons, -2.0..2.0), floats(rng, neurons, -2.0..2.0)];
    let correlation: Vec<f64> = floats(rng, padded, -1.0..1.0).into_iter().map(f64::from).collect();
    let constants = floats(rng, 5 * padded, 0.1..2.0);
    let values = Output::of(gpu, &constants)?;
    let (on_device, means) = (gpu.memory_of(&correlation)?, [gpu.memory_of(&own[0])?, gpu.memory_of(&own[1])?]);
    let inner = DeviceInner { values: values.slice(), correlation: on_device.slice(), padded };
    let kept = InnerKept { inner, mean_normed: means[0].slice(), weighted_normed: means[1].slice() };
    let scale = &constants[2 * padded..][..channels];
    let k = layer.on_device.k.values("k", outcome)?[..channels].to_vec();
    let base = layer.centered(outcome)?;

    let product = Sums::of(base.iter().zip(&own[0]).map(|(g, u)| f64::from(*g) * f64::from(*u)), channels);
    let (steps, rows) = (TIME_STEPS as f64, layer.rows as f64);
    let through = |c: usize| f64::from(k[c]) * correlation[c];
    let covariance = Sums {
        values: (0..channels).map(|c| product.values[c] / rows - through(c)).collect(),
        magnitudes: (0..channels).map(|c| product.magnitudes[c] / rows + through(c).abs()).collect(),
    };
    for (unrolled, mode) in [(false, "rate"), (true, "unrolled")] {
        let (got, grad_gamma) = (Gradients::new(gpu, neurons, channels)?, Output::of(gpu, &vec![0.0f32; channels])?);
        let (grad, of_layer) = (layer.on_device.grad.slice(), &layer.on_device.layer);
        let (shared, room) = (Gradients::new(gpu, neurons, channels)?, gpu.zeroed::<f64>(partial_len(layer.rows, channels))?);
        let of_shared = CurrentGradient { bias_partial: room.slice(), ..shared.slices() };
        inner_backward(gpu, [&got.slices(), &of_shared], grad_gamma.slice(), grad, of_layer, &kept, unrolled)?;
        let name = format!("gradient of the own gamma, {mode} [C]");
        covariance.times(|_| steps * rows).compare_rounded(outcome, &name, &grad_gamma)?;
        let left = values.values("constants of the own norm", outcome)?;
        let (scaled_k, own_k) = (&left[3 * padded..][..channels], &left[4 * padded..][..channels]);
        let expected_k: Vec<f32> = k.iter().zip(scale).map(|(k, scale)| k * scale).collect();
        outcome.bits(&format!("scaled k, {mode} [C]"), scaled_k, &expected_k);
        // Rounded twice: the covariance, and its product with the scale.
        let expected = covariance.times(|c| f64::from(scale[c]));
        let allowed = |c: usize| 2.0 * f64::from(f32::EPSILON) * expected.values[c].abs() + OF_MAGNITUDES * expected.magnitudes[c];
        outcome.near(&format!("own k, {mode} [C]"), own_k, &expected.values, allowed);
        let mut scaled = base.clone();
        center(Isa::detect(), scale, &vec![0.0; channels], &mut scaled);
        let subtracted = |x: &[f32], u: &[f32]| {
            let mut out = scaled.clone();
            subtract_scaled(Isa::detect(), scaled_k, x, &mut out);
            subtract_scaled(Isa::detect(), own_k, u, &mut out);
            out
        };
        let weighted = subtracted(&layer.representation, &own[1]);
        let plain = if unrolled { scaled.clone() } else { subtracted(&layer.mean_normed, &own[0]) };
        got.compare(outcome, [&plain, &weighted], channels, mode)?;
        let (mut plain, mut weighted) = (base.clone(), base.clone());
        if !unrolled {
            subtract_scaled(Isa::detect(), &k, &layer.mean_normed, &mut plain);
        }
        subtract_scaled(Isa::detect(), &k, &layer.representation, &mut weighted);
        shared.compare(outcome, [&plain, &weighted], channels, &format!("{mode}, shared"))?;
    }
    Ok(())
}
