//! Weight gradients of convolutions on the device: with bf16 operands as near to f64 as a plain loop over such operands, and exact
//! where all sums are.

#[path = "support/convolutions.rs"]
mod convolutions;
#[path = "support/device.rs"]
mod device;
#[path = "support/output.rs"]
mod output;
#[path = "support/products.rs"]
mod products;
#[path = "support/seeded.rs"]
mod seeded;

use std::sync::Arc;

use convolutions::{ONE_BY_ONE, bits, geometry, upload};
use dsr::device::{Gpu, Memory, Slice};
use dsr::ops::conv::cuda::{Operand, subtract_outer, weight_gradient, weight_gradient_workspace};
use dsr::ops::spike_conv::Geometry;
use output::Output;
use products::{assert_as_near, gradient_cases, products, rounded, to_bf16};
use rand::Rng;

/// What a weight gradient reads: values of the source at (row of the source, step), and where they lie on the device.
struct Source {
    name: &'static str,
    /// `[B][P_pooled][steps][C]`.
    values: Vec<f32>,
    steps: usize,
    on_device: OnDevice,
}

/// The memory behind an operand.
enum OnDevice {
    Counts(Memory<u8>),
    Totals(Memory<u16>),
    Rounded(Memory<u16>),
    Bits(Memory<u32>, usize),
    PooledSteps(Memory<u8>, usize),
    Real(Memory<f32>, usize),
    RealSum(Memory<f32>, usize),
}

impl OnDevice {
    fn operand(&self) -> Operand {
        match self {
            OnDevice::Counts(memory) => Operand::Counts(memory.slice()),
            OnDevice::Totals(memory) => Operand::Totals(memory.slice()),
            OnDevice::Rounded(memory) => Operand::Rounded(memory.slice()),
            OnDevice::Bits(memory, steps) => Operand::Bits { bits: memory.slice(), steps: *steps },
            OnDevice::PooledSteps(memory, steps) => Operand::PooledSteps { counts: memory.slice(), steps: *steps },
            OnDevice::Real(memory, frames) => Operand::Real { input: memory.slice(), frames: *frames },
            OnDevice::RealSum(memory, frames) => Operand::RealSum { input: memory.slice(), frames: *frames },
        }
    }
}

/// Every kind of operand for this geometry.
fn sources(gpu: &Arc<Gpu>, geometry: &Geometry, batch: usize, steps: usize) -> Vec<Source> {
    let (cin, positions) = (geometry.cin, batch * geometry.pooled().iter().product::<usize>());
    let mut rng = seeded::rng(5);
    let mut integers = |len: usize, end: u32| -> Vec<u16> { (0..len).map(|_| rng.random_range(0..end) as u16).collect() };
    let floats = |values: &[u16]| values.iter().map(|&v| f32::from(v)).collect::<Vec<f32>>();
    let bytes = |values: &[u16]| values.iter().map(|&v| v as u8).collect::<Vec<u8>>();
    // Rows of `cin` values in rows of `pitch`.
    let padded = |values: &[u8], pitch: usize| {
        let mut rows = vec![0u8; values.len() / cin * pitch];
        rows.chunks_exact_mut(pitch).zip(values.chunks_exact(cin)).for_each(|(row, values)| row[..cin].copy_from_slice(values));
        rows
    };
    let counts = integers(positions * cin, 256);
    let totals = integers(positions * cin, 2000);
    let spikes = integers(positions * steps * cin, 2);
    let pooled = integers(positions * steps * cin, 10);
    let words = cin.div_ceil(32);
    let mut spike_words = vec![0u32; positions * steps * words];
    for (at, &bit) in spikes.iter().enumerate() {
        spike_words[at / cin * words + at % cin / 32] |= u32::from(bit) << (at % cin % 32);
    }
    let pooled_rows = padded(&bytes(&pooled), cin.next_multiple_of(32));
    // Frames of a sample lie behind each other on the device; here its positions do.
    let frames = seeded::values(6, positions * steps * cin, -1.0..1.0);
    let of_sample = positions / batch;
    let mut by_position = vec![0.0f32; frames.len()];
    for (row, from) in frames.chunks_exact(cin).enumerate() {
        let (position, f, b) = (row % of_sample, row / of_sample % steps, row / of_sample / steps);
        by_position[((b * of_sample + position) * steps + f) * cin..][..cin].copy_from_slice(from);
    }
    let mut summed = vec![0.0f32; positions * cin];
    for (sum, of_position) in summed.chunks_exact_mut(cin).zip(by_position.chunks_exact(steps * cin)) {
        for (i, v) in of_position.iter().enumerate() {
            sum[i % cin] += v;
        }
    }
    let source = |name, values, steps, on_device| Source { name, values, steps, on_device };
    vec![
        source("counts", floats(&counts), 1, OnDevice::Counts(upload(gpu, &bytes(&counts)))),
        source("totals", floats(&totals), 1, OnDevice::Totals(upload(gpu, &totals))),
        source("activations", floats(&counts), 1, OnDevice::Rounded(upload(gpu, &to_bf16(&floats(&counts))))),
        source("bits", floats(&spikes), steps, OnDevice::Bits(upload(gpu, &spike_words), steps)),
        source("pooled steps", floats(&pooled), steps, OnDevice::PooledSteps(upload(gpu, &pooled_rows), steps)),
        source("sum of frames", summed, 1, OnDevice::RealSum(upload(gpu, &frames), steps)),
        source("frames", by_position, steps, OnDevice::Real(upload(gpu, &frames), steps)),
    ]
}

/// `Σ source ⊗ grad` in f64, and in f32 of rounded operands in the order of rows.
fn plain_weight_gradient(geometry: &Geometry, source: &Source, grad: &[f32], batch: usize) -> (Vec<f64>, Vec<f32>) {
    let (cin, cout, steps) = (geometry.cin, geometry.cout, source.steps);
    let (inputs, outputs) = (geometry.pooled().iter().product::<usize>(), geometry.positions());
    let len = geometry.taps() * cin * cout;
    let (near, near_grad) = (rounded(&source.values), rounded(grad));
    let (mut exact, mut plain) = (vec![0.0f64; len], vec![0.0f32; len]);
    for (b, [from, to, tap]) in (0..batch).flat_map(|b| products(geometry).into_iter().map(move |p| (b, p))) {
        for t in 0..steps {
            let (from, to) = (((b * inputs + from) * steps + t) * cin, ((b * outputs + to) * steps + t) * cout);
            let grads = grad[to..to + cout].iter().zip(&near_grad[to..to + cout]);
            for c in 0..cin {
                let at = (tap * cin + c) * cout;
                let (value, near_value) = (source.values[from + c], near[from + c]);
                let sums = exact[at..at + cout].iter_mut().zip(&mut plain[at..at + cout]);
                for ((exact, plain), (grad, near_grad)) in sums.zip(grads.clone()) {
                    *exact += f64::from(value) * f64::from(*grad);
                    *plain += near_value * near_grad;
                }
            }
        }
    }
    (exact, plain)
}

#[test]
fn weight_gradients_are_as_near_as_bf16_operands_allow() {
    let gpu = device::gpu();
    // Maps large enough for several parts of the sum, and several steps of them.
    let mut cases: Vec<(Geometry, usize, usize, usize)> =
        gradient_cases().into_iter().map(|(g, batch, copies)| (g, batch, copies, 5)).collect();
    cases.push((geometry(3, 10, [19, 17], 3, 1, 1), 2, 1, 3));
    cases.push((geometry(32, 16, [11, 13], 3, 2, 1), 2, 2, 33));
    cases.push((geometry(48, 33, [7, 5], 1, 1, 0), 20, 1, 1));
    let mut most_parts = 0;
    for (case, (geometry, batch, replicate, steps)) in cases.into_iter().enumerate() {
        let len = geometry.taps() * geometry.cin * geometry.cout;
        for source in sources(&gpu, &geometry, batch, steps) {
            let rows = batch * geometry.positions() * source.steps;
            let what = format!("case {case}, {}, {geometry:?}, {rows} rows", source.name);
            let grad = seeded::values(7, rows * geometry.cout, -1.0..1.0);
            let (exact, plain) = plain_weight_gradient(&geometry, &source, &grad, batch);
            let grad = upload(&gpu, &to_bf16(&grad));
            // A threshold and a factor whose product is a power of two.
            let (threshold, is_input) = (upload(&gpu, &[0.5f32]), source.name.contains("frames"));
            let value = if is_input { Slice::NONE } else { threshold.slice() };
            let factor = if is_input { 0.125f32 } else { 0.25 };
            let len_of_workspace = weight_gradient_workspace(&geometry, rows);
            most_parts = most_parts.max(len_of_workspace / len);
            let run = |before: &[f32]| {
                let workspace = Output::of(&gpu, &vec![f32::NAN; len_of_workspace]);
                let into = Output::of(&gpu, before);
                let (to, scratch) = (into.slice(), workspace.slice());
                let operand = source.on_device.operand();
                weight_gradient(&gpu, to, operand, grad.slice(), &geometry, replicate, batch, value, factor, scratch).unwrap();
                workspace.values();
                into.values()
            };
            let fresh = run(&vec![0.0; replicate * len]);
            assert_as_near(
                &what,
                &fresh[..len],
                &plain.iter().map(|v| v * 0.125).collect::<Vec<_>>(),
                &exact.iter().map(|v| v * 0.125).collect::<Vec<_>>(),
            );
            for copy in fresh.chunks_exact(len) {
                assert_eq!(bits(copy), bits(&fresh[..len]), "every copy gets the same: {what}");
            }
            let before = seeded::values(8, replicate * len, -1.0..1.0);
            let expected: Vec<f32> = before.iter().zip(&fresh).map(|(before, v)| before + v).collect();
            assert_eq!(bits(&run(&before)), bits(&expected), "the same bits again, added: {what}");
        }
    }
    assert!(most_parts > 4, "a case with several parts of the sum");
}

/// Integers whose sums f32 holds have one right answer in any order.
#[test]
fn weight_gradients_of_small_integers_are_exact() {
    let gpu = device::gpu();
    for (case, (geometry, batch, _)) in gradient_cases().into_iter().enumerate() {
        let len = geometry.taps() * geometry.cin * geometry.cout;
        for source in sources(&gpu, &geometry, batch, 3) {
            if matches!(source.name, "totals" | "frames" | "sum of frames") {
                continue; // these are rounded
            }
            let rows = batch * geometry.positions() * source.steps;
            let grad: Vec<f32> = seeded::values(7, rows * geometry.cout, -8.0..8.0).iter().map(|v| v.round()).collect();
            let (exact, _) = plain_weight_gradient(&geometry, &source, &grad, batch);
            let exact: Vec<f32> = exact.iter().map(|&v| v as f32).collect();
            let grad = upload(&gpu, &to_bf16(&grad));
            let into = Output::of(&gpu, &vec![0.0f32; len]);
            let workspace = gpu.zeroed::<f32>(weight_gradient_workspace(&geometry, rows)).unwrap();
            let (operand, scratch) = (source.on_device.operand(), workspace.slice());
            weight_gradient(&gpu, into.slice(), operand, grad.slice(), &geometry, 1, batch, Slice::NONE, 1.0, scratch).unwrap();
            assert_eq!(into.values(), exact, "case {case}, {}, {geometry:?}", source.name);
        }
    }
}

#[test]
fn outer_products_are_subtracted_from_every_copy() {
    let gpu = device::gpu();
    for (geometry, replicate) in [(ONE_BY_ONE, 1), (geometry(3, 31, [5, 5], 3, 1, 1), 1), (geometry(5, 64, [1, 1], 1, 1, 0), 49)] {
        let len = geometry.taps() * geometry.cin * geometry.cout;
        let before = seeded::values(1, replicate * len, -1.0..1.0);
        let (outer, k) = (seeded::values(2, len, -1.0..1.0), seeded::values(3, geometry.cout, -1.0..1.0));
        let expected: Vec<f32> = before.iter().enumerate().map(|(i, v)| v - outer[i % len] * k[i % len % geometry.cout]).collect();
        let into = Output::of(&gpu, &before);
        let (outer, k) = (upload(&gpu, &outer), upload(&gpu, &k));
        subtract_outer(&gpu, into.slice(), outer.slice(), k.slice(), &geometry, replicate).unwrap();
        assert_eq!(into.values(), expected, "{geometry:?}");
    }
}

#[test]
fn buffers_that_are_too_small_are_refused() {
    let gpu = device::gpu();
    let geometry = geometry(3, 8, [5, 5], 3, 1, 1);
    let floats = gpu.zeroed::<f32>(74).unwrap();
    let problems = [subtract_outer(&gpu, floats.slice(), floats.slice(), floats.slice(), &geometry, 1)];
    for (at, problem) in problems.into_iter().enumerate() {
        let problem = problem.unwrap_err().to_string();
        assert!(problem.contains("expected") && problem.contains("got"), "call {at}: {problem}");
    }
}
