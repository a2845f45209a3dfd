//! The matrix products of bf16 operands on the tensor cores: gradients of the sources and of the weights of a convolution, and the
//! convolution between the layers of an ANN.
//!
//! Operands are bf16, sums f32. Small integers have one right sum, which has to come out. Of other values each gradient is compared with
//! the sum of its rounded operands in f64, and may be off by a part of the sum of magnitudes.

use std::sync::Arc;

use half::bf16;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::convolutions::geometry;
use super::inputs::{bits, floats, window};
use super::weights::{OnDevice, summed_copies};
use super::{Check, Outcome, Output, Size};
use crate::device::{Gpu, Memory, Slice};
use crate::error::Result;
use crate::ops::conv::cuda::{
    Operand, conv_forward, conv_forward_in_tiles, data_gradient, data_gradient_in_tiles, subtract_outer, weight_gradient,
    weight_gradient_workspace,
};
use crate::ops::spike_conv::{BF16, Geometry, WeightTable, round_weights, transpose_weights};

/// Part of the sum of magnitudes that a sum of f32 may be off by: about 80 roundings of the largest partial sum that there can be.
const OF_MAGNITUDES: f64 = 1e-5;
const TOLERANCE: &str = "1e-5 of magnitudes";

/// Geometry, batch, copies of the weights.
type Case = (Geometry, usize, usize);

fn cases(size: Size) -> Vec<Case> {
    let mut cases = vec![
        (geometry(1, 1, [1, 1], 1, 1, 0), 1, 1),
        (geometry(3, 31, [5, 7], 3, 1, 1), 2, 1),
        (geometry(31, 64, [5, 7], 3, 2, 1), 1, 1),
        (geometry(64, 130, [5, 4], 3, 1, 1), 1, 1),
        (geometry(130, 64, [7, 5], 1, 2, 0), 2, 1),
        (geometry(3, 64, [9, 11], 7, 2, 3), 1, 1),
        (geometry(16, 40, [7, 8], 2, 3, 0), 2, 1),
        (Geometry { kernel: [2, 3], ..geometry(64, 10, [2, 3], 1, 1, 0) }, 5, 1),
        (Geometry { pool: [2, 2, 0], ..geometry(48, 10, [5, 3], 1, 1, 0) }, 3, 4),
        (geometry(64, 64, [8, 8], 3, 1, 1), 1, 1),
    ];
    if size == Size::Full {
        cases.extend([
            (geometry(64, 64, [32, 32], 3, 1, 1), 4, 1),
            (geometry(128, 256, [16, 16], 3, 2, 1), 4, 1),
            (geometry(512, 512, [4, 4], 3, 1, 1), 8, 1),
            (geometry(256, 512, [8, 8], 1, 2, 0), 8, 1),
        ]);
    }
    cases
}

pub fn checks(gpu: &Arc<Gpu>, size: Size) -> Vec<Check> {
    let mut checks = Vec::new();
    for (geometry, batch, replicate) in cases(size) {
        let copies = if replicate > 1 { format!(", {replicate} copies") } else { String::new() };
        let shape = format!("{} -> {}, B{batch}{copies}", window(&geometry), geometry.cout);
        for (op, is_exact) in [("ANN convolution, integers", true), ("ANN convolution", false)] {
            let gpu = gpu.clone();
            let run =
                move |rng: &mut ChaCha8Rng, outcome: &mut Outcome| check_forward(&gpu, rng, outcome, &geometry, batch, replicate, is_exact);
            checks.push(if is_exact { Check::bits(op, &shape, run) } else { Check::within(TOLERANCE, op, &shape, run) });
        }
        let [gpu_exact, gpu_near] = [gpu.clone(), gpu.clone()];
        checks.push(Check::bits("data gradient, integers", &shape, move |rng, outcome| {
            check_data(&gpu_exact, rng, outcome, &geometry, batch, replicate, true)
        }));
        checks.push(Check::within(TOLERANCE, "data gradient", &shape, move |rng, outcome| {
            check_data(&gpu_near, rng, outcome, &geometry, batch, replicate, false)
        }));
    }
    let mut of_weights: Vec<(Case, usize)> = cases(Size::Small).into_iter().map(|case| (case, 5)).collect();
    of_weights.extend(cases(size).into_iter().skip(of_weights.len()).map(|case| (case, 2)));
    of_weights.push(((geometry(3, 10, [19, 17], 3, 1, 1), 2, 1), 3)); // several parts of the sum
    of_weights.push(((geometry(32, 16, [11, 13], 3, 2, 1), 1, 2), 33));
    for ((geometry, batch, replicate), steps) in of_weights {
        let copies = if replicate > 1 { format!(", {replicate} copies") } else { String::new() };
        let shape = format!("{} -> {}, T{steps} B{batch}{copies}", window(&geometry), geometry.cout);
        let [gpu_exact, gpu_near] = [gpu.clone(), gpu.clone()];
        checks.push(Check::bits("weight gradient, integers", &shape, move |rng, outcome| {
            check_weights(&gpu_exact, rng, outcome, &geometry, [batch, replicate, steps], true)
        }));
        checks.push(Check::within(TOLERANCE, "weight gradient", &shape, move |rng, outcome| {
            check_weights(&gpu_near, rng, outcome, &geometry, [batch, replicate, steps], false)
        }));
    }
    for (geometry, replicate) in
        [(geometry(1, 1, [1, 1], 1, 1, 0), 1), (geometry(3, 31, [5, 5], 3, 1, 1), 1), (geometry(5, 64, [1, 1], 1, 1, 0), 49)]
    {
        let gpu = gpu.clone();
        let shape = format!("{} -> {}, {replicate} copies", window(&geometry), geometry.cout);
        checks.push(Check::bits("outer products", shape, move |rng, outcome| check_outer(&gpu, rng, outcome, &geometry, replicate)));
    }
    checks
}

/// Random values; those of a few bits have exact sums.
fn operand(rng: &mut ChaCha8Rng, len: usize, is_exact: bool) -> Vec<f32> {
    let values = floats(rng, len, -1.0..1.0);
    if is_exact { values.iter().map(|v| (v * 4.0).round() / 4.0).collect() } else { values }
}

fn to_bf16(values: &[f32]) -> Vec<u16> {
    values.iter().map(|&v| bf16::from_f32(v).to_bits()).collect()
}

fn rounded(value: f32) -> f64 {
    f64::from(bf16::from_f32(value).to_f32())
}

/// A sum in f64 and the sum of its magnitudes.
#[derive(Clone, Copy, Default)]
struct Sum {
    value: f64,
    magnitude: f64,
}

impl Sum {
    fn add(&mut self, product: f64) {
        self.value += product;
        self.magnitude += product.abs();
    }
}

/// The exact sums, or sums within the tolerance.
fn compare(outcome: &mut Outcome, name: &str, got: &[f32], sums: &[Sum], is_exact: bool) {
    if is_exact {
        outcome.bits(name, got, &sums.iter().map(|sum| sum.value as f32).collect::<Vec<f32>>());
    } else {
        let values: Vec<f64> = sums.iter().map(|sum| sum.value).collect();
        outcome.near(name, got, &values, |at| OF_MAGNITUDES * sums[at].magnitude);
    }
}

/// For each output position of a sample: the (pooled source position, tap) that it reads.
fn reads(geometry: &Geometry) -> Vec<Vec<[usize; 2]>> {
    let ([_, width], [_, out_width]) = (geometry.pooled(), geometry.out());
    let of_position = |to: usize| {
        let mut found = Vec::new();
        geometry.for_each_tap(to / out_width, to % out_width, |tap, row, column| found.push([row * width + column, tap]));
        found
    };
    (0..geometry.positions()).map(of_position).collect()
}

fn check_forward(
    gpu: &Arc<Gpu>,
    rng: &mut ChaCha8Rng,
    outcome: &mut Outcome,
    geometry: &Geometry,
    batch: usize,
    replicate: usize,
    is_exact: bool,
) -> Result<()> {
    let Geometry { cin, cout, .. } = *geometry;
    let (inputs, outputs) = (geometry.pooled().iter().product::<usize>() * cin, geometry.positions() * cout);
    let source = operand(rng, batch * inputs, is_exact);
    let master = operand(rng, replicate * geometry.taps() * cin * cout, is_exact);
    let near_weights: Vec<f64> = summed_copies(&master, replicate).into_iter().map(rounded).collect();
    let near_source: Vec<f64> = source.iter().copied().map(rounded).collect();
    let mut sums = vec![Sum::default(); batch * outputs];
    let reads = reads(geometry);
    sums.par_chunks_mut(outputs).zip(near_source.par_chunks(inputs)).for_each(|(sums, source)| {
        for (sums, reads) in sums.chunks_exact_mut(cout).zip(&reads) {
            for &[from, tap] in reads {
                for (value, weights) in source[from * cin..][..cin].iter().zip(near_weights[tap * cin * cout..].chunks_exact(cout)) {
                    sums.iter_mut().zip(weights).for_each(|(sum, weight)| sum.add(value * weight));
                }
            }
        }
    });
    let weights = OnDevice::new(gpu, &master, *geometry, replicate, BF16)?;
    round_weights(gpu, &WeightTable::new(gpu, &[weights.source])?)?;
    let (weights, source) = (weights.source.weights.packed, gpu.memory_of(&to_bf16(&source))?);
    let out = Output::unwritten(gpu, batch * outputs)?;
    conv_forward(gpu, out.slice(), source.slice(), weights, geometry, batch)?;
    let got: Vec<f32> = out.values("sums [B][P][C]", outcome)?;
    compare(outcome, "sums [B][P][C]", &got, &sums, is_exact);
    for rows in [64, 128] {
        let out = Output::unwritten(gpu, batch * outputs)?;
        conv_forward_in_tiles(gpu, out.slice(), source.slice(), weights, geometry, batch, rows)?;
        out.expect(&format!("sums, tiles of {rows} [B][P][C]"), outcome, &got)?;
    }
    Ok(())
}

fn check_data(
    gpu: &Arc<Gpu>,
    rng: &mut ChaCha8Rng,
    outcome: &mut Outcome,
    geometry: &Geometry,
    batch: usize,
    replicate: usize,
    is_exact: bool,
) -> Result<()> {
    let Geometry { cin, cout, .. } = *geometry;
    let (inputs, outputs) = (geometry.pooled().iter().product::<usize>() * cin, geometry.positions() * cout);
    let grad = operand(rng, batch * outputs, is_exact);
    let master = operand(rng, replicate * geometry.taps() * cin * cout, is_exact);
    let before = operand(rng, batch * inputs, is_exact);
    let near_weights: Vec<f64> = summed_copies(&master, replicate).into_iter().map(rounded).collect();
    let near_grad: Vec<f64> = grad.iter().copied().map(rounded).collect();
    let mut sums = vec![Sum::default(); batch * inputs];
    let reads = reads(geometry);
    sums.par_chunks_mut(inputs).zip(near_grad.par_chunks(outputs)).for_each(|(sums, grad)| {
        for (grad, reads) in grad.chunks_exact(cout).zip(&reads) {
            for &[from, tap] in reads {
                for (c, sum) in sums[from * cin..][..cin].iter_mut().enumerate() {
                    let weights = &near_weights[(tap * cin + c) * cout..][..cout];
                    grad.iter().zip(weights).for_each(|(g, w)| sum.add(g * w));
                }
            }
        }
    });
    let weights = OnDevice::new(gpu, &master, *geometry, replicate, 16)?;
    transpose_weights(gpu, &WeightTable::new(gpu, &[weights.source])?)?;
    let (weights, grad) = (weights.source.weights.transposed, gpu.memory_of(&to_bf16(&grad))?);
    let out = Output::unwritten(gpu, batch * inputs)?;
    data_gradient_in_tiles(gpu, out.slice(), grad.slice(), weights, geometry, batch, false, 64)?;
    let set: Vec<f32> = out.values("gradient [B][P][C]", outcome)?;
    compare(outcome, "gradient [B][P][C]", &set, &sums, is_exact);
    // Tiles of the other size have the same bits.
    let added: Vec<f32> = before.iter().zip(&set).map(|(before, v)| before + v).collect();
    let out = Output::of(gpu, &before)?;
    data_gradient_in_tiles(gpu, out.slice(), grad.slice(), weights, geometry, batch, true, 128)?;
    out.expect("added gradient, larger tiles [B][P][C]", outcome, &added)?;
    let out = Output::unwritten(gpu, batch * inputs)?;
    data_gradient(gpu, out.slice(), grad.slice(), weights, geometry, batch, false)?;
    out.expect("gradient, tiles of its own choice [B][P][C]", outcome, &set)
}

/// What a weight gradient reads: its name, the values of each row of the source, `[B][P pooled][steps][C]`, and where they lie.
struct Source {
    name: &'static str,
    values: Vec<f32>,
    steps: usize,
    operand: Operand,
    _memory: Memory<u32>,
}

/// Whether a source holds small integers.
fn is_integer(name: &str) -> bool {
    !matches!(name, "totals" | "frames" | "sum of frames")
}

/// Every kind of operand.
fn sources(gpu: &Arc<Gpu>, rng: &mut ChaCha8Rng, geometry: &Geometry, batch: usize, steps: usize) -> Result<Vec<Source>> {
    let (cin, positions) = (geometry.cin, batch * geometry.pooled().iter().product::<usize>());
    let mut found = Vec::new();
    // Bytes fill whole words behind the last value.
    let mut source = |name, values: Vec<f32>, steps, bytes: &[u8], operand: fn(Slice<u32>, usize) -> Operand| -> Result<()> {
        let mut words = vec![0u32; bytes.len().div_ceil(4)];
        bytemuck::cast_slice_mut::<u32, u8>(&mut words)[..bytes.len()].copy_from_slice(bytes);
        let memory = gpu.memory_of(&words)?;
        found.push(Source { name, values, steps, operand: operand(memory.slice(), steps), _memory: memory });
        Ok(())
    };
    let draw = |rng: &mut ChaCha8Rng, len: usize, end: u16| -> Vec<u16> { (0..len).map(|_| rng.random_range(0..end)).collect() };
    let as_floats = |values: &[u16]| values.iter().map(|&v| f32::from(v)).collect::<Vec<f32>>();
    let counts = draw(rng, positions * cin, 256);
    let bytes: Vec<u8> = counts.iter().map(|&v| v as u8).collect();
    source("counts", as_floats(&counts), 1, &bytes, |words, _| Operand::Counts(words.cast()))?;
    let totals = draw(rng, positions * cin, 2000);
    source("totals", as_floats(&totals), 1, bytemuck::cast_slice(&totals), |words, _| Operand::Totals(words.cast()))?;
    source("activations", as_floats(&counts), 1, bytemuck::cast_slice(&to_bf16(&as_floats(&counts))), |words, _| {
        Operand::Rounded(words.cast())
    })?;
    let spikes = bits(rng, positions * steps, cin, 0.3);
    let words = cin.div_ceil(32);
    let is_set = |at: usize| f32::from(u8::from(spikes[at / cin * words + at % cin / 32] >> (at % cin % 32) & 1 == 1));
    let values = (0..positions * steps * cin).map(is_set).collect();
    source("bits", values, steps, bytemuck::cast_slice(&spikes), |bits, steps| Operand::Bits { bits, steps })?;
    let pooled = draw(rng, positions * steps * cin, 10);
    let padded = |row: &[u16]| row.iter().map(|&v| v as u8).chain(std::iter::repeat(0)).take(cin.next_multiple_of(32)).collect::<Vec<u8>>();
    let rows: Vec<u8> = pooled.chunks_exact(cin).flat_map(padded).collect();
    source("pooled steps", as_floats(&pooled), steps, &rows, |words, steps| Operand::PooledSteps { counts: words.cast(), steps })?;
    // Frames of a sample lie behind each other on the device; here its positions do.
    let frames = floats(rng, positions * steps * cin, -1.0..1.0);
    let of_sample = positions / batch;
    let mut by_position = vec![0.0f32; frames.len()];
    for (row, from) in frames.chunks_exact(cin).enumerate() {
        let (position, f, b) = (row % of_sample, row / of_sample % steps, row / of_sample / steps);
        by_position[((b * of_sample + position) * steps + f) * cin..][..cin].copy_from_slice(from);
    }
    let mut summed = vec![0.0f32; positions * cin];
    for (sum, of_position) in summed.chunks_exact_mut(cin).zip(by_position.chunks_exact(steps * cin)) {
        of_position.iter().enumerate().for_each(|(i, v)| sum[i % cin] += v);
    }
    let bytes: &[u8] = bytemuck::cast_slice(&frames);
    source("frames", by_position, steps, bytes, |words, frames| Operand::Real { input: words.cast(), frames })?;
    // One row a position, but all frames in memory.
    source("sum of frames", summed, steps, bytes, |words, frames| Operand::RealSum { input: words.cast(), frames })?;
    Ok(found)
}

/// `Σ source ⊗ grad` of rounded operands, `[tap][cin][cout]`.
fn plain_weight_gradient(geometry: &Geometry, values: &[f32], grad: &[f32], batch: usize, steps: usize) -> Vec<Sum> {
    let (cin, cout) = (geometry.cin, geometry.cout);
    let (inputs, outputs) = (geometry.pooled().iter().product::<usize>(), geometry.positions());
    let (values, grad): (Vec<f64>, Vec<f64>) = (values.iter().copied().map(rounded).collect(), grad.iter().copied().map(rounded).collect());
    let mut sums = vec![Sum::default(); geometry.taps() * cin * cout];
    let reads = reads(geometry);
    sums.par_chunks_mut(cin * cout).enumerate().for_each(|(of_tap, sums)| {
        for (b, to) in (0..batch).flat_map(|b| (0..outputs).map(move |to| (b, to))) {
            for &[from, _] in reads[to].iter().filter(|[_, tap]| *tap == of_tap) {
                for t in 0..steps {
                    let values = &values[((b * inputs + from) * steps + t) * cin..][..cin];
                    let grad = &grad[((b * outputs + to) * steps + t) * cout..][..cout];
                    for (value, sums) in values.iter().zip(sums.chunks_exact_mut(cout)).filter(|(value, _)| **value != 0.0) {
                        sums.iter_mut().zip(grad).for_each(|(sum, grad)| sum.add(value * grad));
                    }
                }
            }
        }
    });
    sums
}

fn check_weights(
    gpu: &Arc<Gpu>,
    rng: &mut ChaCha8Rng,
    outcome: &mut Outcome,
    geometry: &Geometry,
    [batch, replicate, time_steps]: [usize; 3],
    is_exact: bool,
) -> Result<()> {
    let len = geometry.taps() * geometry.cin * geometry.cout;
    for source in sources(gpu, rng, geometry, batch, time_steps)? {
        if is_exact && !is_integer(source.name) {
            continue;
        }
        let steps = if source.name == "sum of frames" { 1 } else { source.steps };
        let rows = batch * geometry.positions() * steps;
        let grad = if is_exact { floats(rng, rows * geometry.cout, -8.0..8.0) } else { floats(rng, rows * geometry.cout, -1.0..1.0) };
        let grad: Vec<f32> = if is_exact { grad.iter().map(|v| v.round()).collect() } else { grad };
        // A threshold and a factor whose product is a power of two.
        let (threshold, is_input) = (gpu.memory_of(&[0.5f32])?, source.name.contains("frames"));
        let (value, factor) = if is_input { (Slice::NONE, 0.125) } else { (threshold.slice(), 0.25) };
        let mut sums = plain_weight_gradient(geometry, &source.values, &grad, batch, steps);
        sums.iter_mut().for_each(|sum| *sum = Sum { value: sum.value * 0.125, magnitude: sum.magnitude * 0.125 });
        let grad = gpu.memory_of(&to_bf16(&grad))?;
        let run = |before: &[f32], outcome: &mut Outcome| -> Result<Vec<f32>> {
            let workspace = Output::<f32>::unwritten(gpu, weight_gradient_workspace(geometry, rows))?;
            let (into, scratch) = (Output::of(gpu, before)?, workspace.slice());
            weight_gradient(gpu, into.slice(), source.operand, grad.slice(), geometry, replicate, batch, value, factor, scratch)?;
            workspace.values("the workspace", outcome)?;
            into.values("the gradient", outcome)
        };
        let name = format!("gradient by {} [tap][cin][cout]", source.name);
        let fresh = run(&vec![0.0; replicate * len], outcome)?;
        for copy in fresh.chunks_exact(len) {
            compare(outcome, &name, copy, &sums, is_exact);
        }
        let before = floats(rng, replicate * len, -1.0..1.0);
        let expected: Vec<f32> = before.iter().zip(&fresh).map(|(before, v)| before + v).collect();
        let added = run(&before, outcome)?;
        outcome.bits(&format!("{name}, added, in a second run"), &added, &expected);
    }
    Ok(())
}

fn check_outer(gpu: &Arc<Gpu>, rng: &mut ChaCha8Rng, outcome: &mut Outcome, geometry: &Geometry, replicate: usize) -> Result<()> {
    let len = geometry.taps() * geometry.cin * geometry.cout;
    let before = floats(rng, replicate * len, -1.0..1.0);
    let (outer, k) = (floats(rng, len, -1.0..1.0), floats(rng, geometry.cout, -1.0..1.0));
    let expected: Vec<f32> = before.iter().enumerate().map(|(i, v)| v - outer[i % len] * k[i % len % geometry.cout]).collect();
    let into = Output::of(gpu, &before)?;
    let (outer, k) = (gpu.memory_of(&outer)?, gpu.memory_of(&k)?);
    subtract_outer(gpu, into.slice(), outer.slice(), k.slice(), geometry, replicate)?;
    into.expect("gradient [copies][tap][cin][cout]", outcome, &expected)
}
