//! Batch norm in the forward pass: statistics, the constants that follow from them, running statistics, normalised currents.

use std::sync::Arc;

use rand_chacha::ChaCha8Rng;

use super::inputs::{IF, Kind, LIF, coarse_normalizer, floats, stored, upload_normalizer};
use super::spikes::{decoded, exact_sums};
use super::{Check, Outcome, Output, Size};
use crate::device::{Gpu, Isa, Memory, Slice};
use crate::error::Result;
use crate::ops::batch_norm::cuda::{
    self, DeviceContribution, DeviceInner, DeviceNorm, DeviceStatistics, LayerNorms, PADDING, RunningConstants, RunningLayer,
};
use crate::ops::batch_norm::{self, Contribution, IntegerSums, Moments, Norm, Normalizer, accumulate, normalize, update_running};
use crate::ops::neuron::cuda::{OwnMeans, neurons_with_means};
use crate::ops::neuron::{DeviceNeurons, LANES, Neuron, NeuronInputs, NeuronOutputs};
use crate::ops::spike_conv::{DeviceNormalizer, Summand};

/// What the constants of a layer depend on; two connections at most.
#[derive(Clone, Copy)]
struct Layer {
    name: &'static str,
    neuron: Neuron,
    keep: f32,
    connections: &'static [Connection],
    has_norm: bool,
    /// The connection with a norm of its own.
    inner_at: Option<usize>,
}

#[derive(Clone, Copy)]
struct Connection {
    kind: Kind,
    /// Positions of its pool window.
    area: usize,
    has_bias: bool,
}

const fn connection(kind: Kind, area: usize, has_bias: bool) -> Connection {
    Connection { kind, area, has_bias }
}

const CONV: Connection = connection(Kind::Sums, 1, false);
const WITH_BIAS: Connection = connection(Kind::Sums, 9, true);
const IDENTITY: Connection = connection(Kind::Bits, 1, false);
const INPUT: Connection = connection(Kind::Real, 1, true);

const LAYERS: [Layer; 8] = [
    Layer { name: "one convolution", neuron: IF, keep: 1.0, connections: &[CONV], has_norm: true, inner_at: None },
    Layer { name: "dropout and a bias", neuron: LIF, keep: 0.7, connections: &[WITH_BIAS], has_norm: true, inner_at: None },
    Layer { name: "without norm", neuron: LIF, keep: 1.0, connections: &[WITH_BIAS, CONV], has_norm: false, inner_at: None },
    Layer { name: "convolution and identity", neuron: IF, keep: 1.0, connections: &[CONV, IDENTITY], has_norm: true, inner_at: None },
    Layer { name: "identity and convolution", neuron: LIF, keep: 0.75, connections: &[IDENTITY, CONV], has_norm: true, inner_at: None },
    Layer { name: "own norm of the second", neuron: IF, keep: 1.0, connections: &[CONV, WITH_BIAS], has_norm: true, inner_at: Some(1) },
    Layer { name: "own norm of the first", neuron: LIF, keep: 0.75, connections: &[WITH_BIAS, CONV], has_norm: true, inner_at: Some(0) },
    Layer { name: "the input", neuron: IF, keep: 1.0, connections: &[INPUT], has_norm: true, inner_at: None },
];

/// Rows, channels, largest sum.
type Shape = (usize, usize, i32);
const SHAPES: [Shape; 4] = [(1, 1, 5), (6, 33, 1000), (130, 70, 1 << 20), (301, 5, i32::MAX - 1)];

/// The same for the layers of realistic width.
const WIDE: [Shape; 2] = [(20_480, 64, 1 << 20), (2_560, 512, 1 << 24)];

pub fn checks(gpu: &Arc<Gpu>, size: Size) -> Vec<Check> {
    let shapes: Vec<Shape> = SHAPES.into_iter().chain(WIDE.into_iter().filter(|_| size == Size::Full)).collect();
    let mut checks = Vec::new();
    for &(rows, channels, largest) in &shapes {
        let gpu = gpu.clone();
        let shape = format!("{rows}x{channels}, sums to {largest}");
        checks.push(Check::bits("batch_norm statistics", shape, move |rng, outcome| {
            use Kind::{Bits, None as Nothing, Sums};
            for kinds in [[Sums, Nothing], [Bits, Nothing], [Sums, Sums], [Bits, Sums], [Sums, Bits], [Bits, Bits]] {
                check_statistics(&gpu, rng, outcome, kinds, [rows, channels], largest)?;
            }
            Ok(())
        }));
    }
    for layer in LAYERS {
        let (gpu, shapes) = (gpu.clone(), shapes.clone());
        checks.push(Check::bits("batch_norm constants", format!("{}, {}", layer.name, layer.neuron.name()), move |rng, outcome| {
            shapes.iter().try_for_each(|&shape| check_layer(&gpu, rng, outcome, &layer, shape))
        }));
    }
    let of_wide = gpu.clone();
    checks.push(Check::bits("batch_norm constants", "covariances of more than 53 bits", move |rng, outcome| {
        check_covariances(&of_wide, rng, outcome)
    }));
    for &(rows, channels, _) in &shapes {
        let gpu = gpu.clone();
        checks.push(Check::bits("normalized rows", format!("{rows}x{channels}"), move |rng, outcome| {
            check_rows(&gpu, rng, outcome, [rows, channels])
        }));
    }
    let means: [(Neuron, [usize; 3]); 4] = [(IF, [1, 1, 1]), (LIF, [3, 5, 31]), (LIF, [2, 33, 33]), (IF, [9, 4, 100])];
    for (neuron, shape) in means {
        let gpu = gpu.clone();
        let [positions, time_steps, channels] = shape;
        checks.push(Check::bits("time means", format!("{positions}x{channels}, T{time_steps}, {}", neuron.name()), move |rng, outcome| {
            check_time_means(&gpu, rng, outcome, neuron, shape)
        }));
    }
    checks
}

fn check_statistics(
    gpu: &Arc<Gpu>,
    rng: &mut ChaCha8Rng,
    outcome: &mut Outcome,
    kinds: [Kind; 2],
    [rows, channels]: [usize; 2],
    largest: i32,
) -> Result<()> {
    let shape = [rows, 1, channels];
    let (x, y) = (stored(gpu, rng, kinds[0], shape, -largest..=largest)?, stored(gpu, rng, kinds[1], shape, -largest..=largest)?);
    let statistics = Output::of(gpu, &vec![0u64; 8 * channels])?;
    cuda::statistics_of_sums(gpu, statistics.slice(), &x.summand, &y.summand, rows, channels)?;
    let name = format!("statistics of {kinds:?} [5][C]");
    let got = statistics.values(&name, outcome)?;
    outcome.bits(&name, &decoded(&got, channels), &exact_sums(&x.sums, &y.sums, channels.next_multiple_of(LANES), channels));
    Ok(())
}

/// Values `[C]` on both sides.
struct Both {
    host: Vec<f32>,
    device: Memory<f32>,
}

impl Both {
    fn of(gpu: &Arc<Gpu>, host: Vec<f32>) -> Result<Both> {
        Ok(Both { device: gpu.memory_of(&host)?, host })
    }
}

/// γ, β, running mean and variance.
struct BothNorm([Both; 4]);

impl BothNorm {
    fn new(gpu: &Arc<Gpu>, rng: &mut ChaCha8Rng, channels: usize) -> Result<Self> {
        let mut draw = |range| Both::of(gpu, floats(rng, channels, range));
        Ok(BothNorm([draw(0.5..1.5)?, draw(-1.0..1.0)?, draw(-0.5..0.5)?, draw(0.1..2.0)?]))
    }

    fn host(&self) -> Norm<'_> {
        let [gamma, beta, running_mean, running_var] = self.0.each_ref().map(|values| &values.host[..]);
        Norm { gamma, beta, running_mean, running_var }
    }

    fn device(&self) -> DeviceNorm {
        let [gamma, beta, running_mean, running_var] = self.0.each_ref().map(|values| values.device.slice());
        DeviceNorm { gamma, beta, running_mean, running_var }
    }

    fn compare_running(&mut self, outcome: &mut Outcome, of_batch: &batch_norm::Statistics, n: f64, name: &str) -> Result<()> {
        let [_, _, mean, var] = &mut self.0;
        update_running(&mut mean.host, &mut var.host, of_batch, n);
        outcome.bits(&format!("running mean, {name}"), &mean.device.to_vec()?, &mean.host);
        outcome.bits(&format!("running variance, {name}"), &var.device.to_vec()?, &var.host);
        Ok(())
    }
}

/// The six rows of a layer's constants.
fn compare_normalizer(outcome: &mut Outcome, got: &[f32], expected: &Normalizer, channels: usize, of: &str) {
    let padded = channels.next_multiple_of(PADDING);
    let rows = [&expected.factors[0], &expected.factors[1], &expected.offset, &expected.gamma, &expected.beta, &expected.scale];
    let names = ["factor of the first sum", "factor of the second sum", "offset", "gamma", "beta", "scale"];
    for ((got, expected), name) in got.chunks_exact(padded).zip(rows).zip(names) {
        let expected: Vec<f32> = expected[..channels].iter().copied().chain(std::iter::repeat(0.0)).take(padded).collect();
        outcome.bits(&format!("{name} [C], {of}"), got, &expected);
    }
}

/// Constants of evaluation, statistics of a batch, constants of training, running statistics.
fn check_layer(gpu: &Arc<Gpu>, rng: &mut ChaCha8Rng, outcome: &mut Outcome, layer: &Layer, (rows, channels, largest): Shape) -> Result<()> {
    let shape = format!("{rows}x{channels}");
    let is_real = layer.connections[0].kind == Kind::Real;
    let thresholds = [0.7f32, 1.3];
    let on_device = gpu.memory_of(&thresholds)?;
    let (mut norm, mut inner) = (BothNorm::new(gpu, rng, channels)?, BothNorm::new(gpu, rng, channels)?);
    let mut values = Vec::new(); // scale and bias of each connection
    for k in 0..layer.connections.len() {
        let scale = (0..channels).map(|c| f32::powi(2.0, -(((c * 5 + k) % 20) as i32))).collect();
        values.push([Both::of(gpu, scale)?, Both::of(gpu, floats(rng, channels, -1.0..1.0))?]);
    }
    let has_scale = |connection: &Connection| connection.kind == Kind::Sums;
    let both = || layer.connections.iter().zip(&values).enumerate();
    let contributions: Vec<Contribution> = both()
        .map(|(k, (connection, [scale, bias]))| Contribution {
            value: if is_real { 1.0 } else { layer.neuron.spike_value(thresholds[k]) / layer.keep },
            area: connection.area,
            weight_scale: has_scale(connection).then_some(&scale.host[..]),
            bias: connection.has_bias.then_some(&bias.host[..]),
        })
        .collect();
    let connections: Vec<DeviceContribution> = both()
        .map(|(k, (connection, [scale, bias]))| DeviceContribution {
            threshold: if is_real { Slice::NONE } else { on_device.slice().part(k..k + 1) },
            weight_scale: if has_scale(connection) { scale.device.slice() } else { Slice::NONE },
            bias: if connection.has_bias { bias.device.slice() } else { Slice::NONE },
            keep: layer.keep,
            area: connection.area,
        })
        .collect();
    let norms = LayerNorms {
        connections: &connections,
        norm: layer.has_norm.then(|| norm.device()),
        inner: layer.inner_at.map(|at| (at, inner.device())),
        neuron: layer.neuron,
        channels,
    };
    let (host_norm, host_inner) = (layer.has_norm.then(|| norm.host()), layer.inner_at.map(|at| (at, inner.host())));
    let padded = channels.next_multiple_of(PADDING);
    let constants = Output::<f32>::unwritten(gpu, 6 * padded)?;
    let out = DeviceNormalizer { values: constants.slice(), padded };

    RunningConstants::new(gpu, &[RunningLayer::new(&out, &norms)?])?.launch(gpu)?;
    let expected = batch_norm::running_normalizer(channels, &contributions, host_norm, host_inner);
    let got = constants.values("constants", outcome)?;
    compare_normalizer(outcome, &got, &expected, channels, &format!("evaluation, {shape}"));

    let batch = 1 + usize::from(rows.is_multiple_of(2));
    let (integers, reals) = (gpu.zeroed::<u64>(8 * channels)?, gpu.zeroed::<f64>(batch * 2 * channels)?);
    let stride = channels.next_multiple_of(LANES);
    // A static input is one of three equal frames here.
    let (moments, n) = if is_real {
        let x = floats(rng, rows * stride, -2.0..3.0);
        let sums = gpu.memory_of(&x)?;
        cuda::statistics_of_real(gpu, reals.slice(), sums.slice(), batch, rows / batch, channels)?;
        let expected = real_sums(&x, batch, channels);
        outcome.bits(&format!("real statistics [B][2][C], {shape}"), &reals.to_vec()?, &expected.concat());
        let total =
            |k: usize| (0..channels).map(|c| expected.iter().map(|of_sample| of_sample[k * channels + c]).sum()).collect::<Vec<f64>>();
        (Moments::of_real(&total(0), &total(1), rows as f64), 3 * rows)
    } else {
        let kind = |k: usize| layer.connections.get(k).map_or(Kind::None, |connection| connection.kind);
        let x = stored(gpu, rng, kind(0), [rows, 1, channels], -largest..=largest)?;
        let y = stored(gpu, rng, kind(1), [rows, 1, channels], -largest..=largest)?;
        cuda::statistics_of_sums(gpu, integers.slice(), &x.summand, &y.summand, rows, channels)?;
        let mut sums = IntegerSums::new(channels, i64::from(largest));
        sums.add(Isa::detect(), &x.sums, &y.sums, stride);
        (sums.moments(rows as u64), rows)
    };
    let statistics = match (layer.has_norm, is_real) {
        (false, _) => DeviceStatistics::None,
        (true, false) => DeviceStatistics::Integers(integers.slice()),
        (true, true) => DeviceStatistics::Reals { sums: reals.slice(), batch },
    };
    let (inner_values, correlation) = (gpu.zeroed::<f32>(5 * padded)?, gpu.zeroed::<f64>(padded)?);
    let inner_out = DeviceInner { values: inner_values.slice(), correlation: correlation.slice(), padded };
    cuda::batch_normalizer(gpu, &out, &inner_out, &norms, statistics, [rows, n])?;
    let expected = batch_norm::batch_normalizer(channels, &contributions, &moments, host_norm, host_inner);
    let got = constants.values("constants", outcome)?;
    compare_normalizer(outcome, &got, &expected.normalizer, channels, &format!("training, {shape}"));
    if let Some(of_batch) = &expected.statistics {
        norm.compare_running(outcome, of_batch, n as f64, &shape)?;
    }
    if let Some(expected) = &expected.inner {
        inner.compare_running(outcome, &expected.statistics, n as f64, &format!("own norm, {shape}"))?;
        let (got, got_correlation) = (inner_values.to_vec()?, correlation.to_vec()?);
        let rows = [("factor", &expected.factor), ("offset", &expected.offset), ("scale", &expected.scale)];
        for (got, (name, expected)) in got.chunks(padded).zip(rows) {
            outcome.bits(&format!("{name} of the own norm [C], {shape}"), &got[..channels], expected);
        }
        outcome.bits(&format!("correlation [C], {shape}"), &got_correlation[..channels], &expected.correlation);
    }
    Ok(())
}

/// Integers of more than 53 bits are rounded to an even f64 where they lie between two: random sums hardly ever do, these often.
fn check_covariances(gpu: &Arc<Gpu>, rng: &mut ChaCha8Rng, outcome: &mut Outcome) -> Result<()> {
    let ends = [0, 1, 3, -1, 0x0400_0001, 0x0800_0001, 0x1000_0003, 0x5555_5555, 0x7fff_fffe, -0x7fff_fffe, -0x4000_0001, 0x0123_4567];
    let pairs: Vec<[i32; 2]> = ends.iter().flat_map(|&x| ends.map(|y| [x, y])).collect();
    let channels = pairs.len();
    let (stride, padded) = (channels.next_multiple_of(LANES), channels.next_multiple_of(PADDING));
    let [x, y] = [(0, -1), (1, 2)].map(|(k, other)| {
        let mut rows = vec![0; 2 * stride];
        for (c, pair) in pairs.iter().enumerate() {
            (rows[c], rows[stride + c]) = (pair[k], other);
        }
        rows
    });
    let (norm, inner) = (BothNorm::new(gpu, rng, channels)?, BothNorm::new(gpu, rng, channels)?);
    let mut sums = IntegerSums::new(channels, 1 << 31);
    sums.add(Isa::detect(), &x, &y, stride);
    let contributions = [Contribution { value: 1.0, area: 1, weight_scale: None, bias: None }; 2];
    let expected = batch_norm::batch_normalizer(channels, &contributions, &sums.moments(2), Some(norm.host()), Some((0, inner.host())));

    let connections = [DeviceContribution { threshold: Slice::NONE, weight_scale: Slice::NONE, bias: Slice::NONE, keep: 1.0, area: 1 }; 2];
    let norms = LayerNorms { connections: &connections, norm: Some(norm.device()), inner: Some((0, inner.device())), neuron: IF, channels };
    let (statistics, x, y) = (gpu.zeroed::<u64>(8 * channels)?, gpu.memory_of(&x)?, gpu.memory_of(&y)?);
    let [x, y] = [x.slice(), y.slice()].map(|sums| Summand::Sums { sums });
    cuda::statistics_of_sums(gpu, statistics.slice(), &x, &y, 2, channels)?;
    let (constants, inner_values) = (Output::<f32>::unwritten(gpu, 6 * padded)?, gpu.zeroed::<f32>(5 * padded)?);
    let correlation = gpu.zeroed::<f64>(padded)?;
    let out = DeviceNormalizer { values: constants.slice(), padded };
    let inner_out = DeviceInner { values: inner_values.slice(), correlation: correlation.slice(), padded };
    cuda::batch_normalizer(gpu, &out, &inner_out, &norms, DeviceStatistics::Integers(statistics.slice()), [2, 2])?;
    let got = constants.values("constants", outcome)?;
    compare_normalizer(outcome, &got, &expected.normalizer, channels, "covariances");
    let of_inner = expected.inner.map_or(Vec::new(), |inner| inner.correlation);
    outcome.bits("correlation [C]", &correlation.to_vec()?[..channels], &of_inner);
    Ok(())
}

/// Sums and squares of each sample, `[2][C]`.
fn real_sums(x: &[f32], batch: usize, channels: usize) -> Vec<Vec<f64>> {
    let of_sample = |x: &[f32]| {
        let (mut sum, mut squares) = (vec![0.0; channels], vec![0.0; channels]);
        accumulate(Isa::detect(), x, channels.next_multiple_of(LANES), &mut sum, &mut squares);
        [sum, squares].concat()
    };
    x.chunks_exact(x.len() / batch).map(of_sample).collect()
}

/// Normalised currents of every kind of summand, as bf16.
fn check_rows(gpu: &Arc<Gpu>, rng: &mut ChaCha8Rng, outcome: &mut Outcome, [rows, channels]: [usize; 2]) -> Result<()> {
    use Kind::{Bits, None as Nothing, Real, Sums};
    let (norm, stride) = (coarse_normalizer(rng, channels), channels.next_multiple_of(LANES));
    let (values, normalizer) = upload_normalizer(gpu, &norm, channels)?;
    let expected = |norm: &Normalizer, first: &[i32], second: &[i32], is_real: bool| -> Vec<u16> {
        let mut first = first.to_vec();
        normalize(Isa::detect(), norm, is_real, &mut first, second, channels, stride);
        let of_row = |row: &[i32]| row[..channels].iter().map(|&v| half::bf16::from_f32(f32::from_bits(v as u32)).to_bits()).collect();
        first.chunks(stride).flat_map(|row| -> Vec<u16> { of_row(row) }).collect()
    };
    for kinds in [[Sums, Nothing], [Bits, Nothing], [Sums, Bits], [Bits, Sums], [Real, Nothing]] {
        let range = -(1 << 26)..=1 << 26;
        let x = stored(gpu, rng, kinds[0], [rows, 1, channels], range.clone())?;
        let y = stored(gpu, rng, kinds[1], [rows, 1, channels], range)?;
        let normed = Output::unwritten(gpu, rows * channels)?;
        cuda::normalize_rows(gpu, normed.slice(), &normalizer, &x.summand, &y.summand, rows, channels)?;
        normed.expect(&format!("rows of {kinds:?} [rows][C]"), outcome, &expected(&norm, &x.sums, &y.sums, kinds[0] == Real))?;
        if kinds == [Sums, Nothing] {
            // The current of a connection with a norm of its own has its factor and offset in rows 0 and 1.
            let own = Normalizer { offset: norm.factors[1].clone(), ..norm.clone() };
            let inner = DeviceInner { values: values.slice(), correlation: Slice::NONE, padded: normalizer.padded };
            let normed = Output::unwritten(gpu, rows * channels)?;
            cuda::normalize_inner_rows(gpu, normed.slice(), &inner, &x.summand, rows, channels)?;
            normed.expect("rows of an own norm [rows][C]", outcome, &expected(&own, &x.sums, &[], false))?;
        }
    }
    Ok(())
}

fn check_time_means(gpu: &Arc<Gpu>, rng: &mut ChaCha8Rng, outcome: &mut Outcome, neuron: Neuron, shape: [usize; 3]) -> Result<()> {
    let [positions, time_steps, channels] = shape;
    let (padded, stride) = (channels.next_multiple_of(PADDING), channels.next_multiple_of(LANES));
    let constants = floats(rng, 5 * padded, -0.5..0.5);
    let weights = neuron.step_weights(time_steps);
    let (values, on_device) = (gpu.memory_of(&constants)?, gpu.memory_of(&weights)?);
    let inner = DeviceInner { values: values.slice(), correlation: Slice::NONE, padded };
    // Of the neurons themselves, which `check neurons` compares, nothing is looked at.
    let normalizer = gpu.zeroed::<f32>(6 * padded)?;
    let spikes = gpu.zeroed::<u32>(positions * time_steps * channels.div_ceil(32))?;
    for kind in [Kind::Sums, Kind::Bits] {
        let x = stored(gpu, rng, kind, shape, -1000..=1000)?;
        let (mut plain, mut weighted) = (vec![0.0; positions * channels], vec![0.0; positions * channels]);
        let (factor, offset) = (&constants[..channels], &constants[padded..padded + channels]);
        let means = plain.chunks_mut(channels).zip(weighted.chunks_mut(channels));
        for (acc, (plain, weighted)) in x.sums.chunks(time_steps * stride).zip(means) {
            batch_norm::time_means(Isa::detect(), factor, offset, &weights, acc, stride, plain, weighted);
        }
        let got = [Output::unwritten(gpu, plain.len())?, Output::unwritten(gpu, plain.len())?];
        let out = got.each_ref().map(Output::slice);
        let from = NeuronInputs {
            normalizer: DeviceNormalizer { values: normalizer.slice(), padded },
            threshold: Slice::NONE,
            step_weights: Slice::NONE,
            dropped: Slice::NONE,
            neurons: DeviceNeurons::new(neuron, time_steps, channels),
        };
        let to = NeuronOutputs {
            spikes: spikes.slice(),
            counts: Slice::NONE,
            mean_normed: Slice::NONE,
            weighted_normed: Slice::NONE,
            fired: Slice::NONE,
        };
        let means = OwnMeans { plain: out[0], weighted: out[1], inner, step_weights: on_device.slice(), summand: 0 };
        neurons_with_means(gpu, &from, &to, &[x.summand, Summand::None], positions, &means)?;
        got[0].expect(&format!("means of {kind:?} [B][P][C]"), outcome, &plain)?;
        got[1].expect(&format!("weighted means of {kind:?} [B][P][C]"), outcome, &weighted)?;
    }
    Ok(())
}
