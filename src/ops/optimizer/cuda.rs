//! Launch geometry and arguments of `kernels/optimizer.cu`, and what a replayed step reads and reports.

use bytemuck::{Pod, Zeroable};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::{Optimizer, Rule, clip as clipping, cpu};
use crate::device::{Gpu, Slice, kernels, scalars};
use crate::error::Result;

/// What changes from step to step; field for field `struct StepParameters` in `kernels/include/step.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct StepParameters {
    lr: f32,
    root: f32,
    keep: f32,
    average: f32,
    key: [u32; 8],
    clip: f32,
    padding: [u32; 3],
}
const _: () = assert!(size_of::<StepParameters>() == 64);

impl StepParameters {
    /// Of the next step of `optimizer` at this learning rate, with the dropout masks of `seed`.
    pub fn new(optimizer: Option<&Optimizer>, lr: f32, seed: u64) -> Self {
        let rule = optimizer.map(|optimizer| optimizer.rule);
        let (rate, root) = match (rule, optimizer) {
            (Some(Rule::Adam { beta1, beta2, .. } | Rule::AdamW { beta1, beta2, .. }), Some(Optimizer { steps, .. })) => {
                cpu::adam_rates(lr, beta1, beta2, steps + 1)
            }
            _ => (lr, 1.0),
        };
        let keep = match (rule, optimizer) {
            (Some(Rule::AdamW { .. }), Some(optimizer)) => cpu::kept(lr, optimizer.weight_decay),
            _ => 1.0,
        };
        let average = optimizer.and_then(|optimizer| Some(optimizer.average.as_ref()?.share(optimizer.steps))).unwrap_or(0.0);
        let seed = ChaCha8Rng::seed_from_u64(seed).get_seed();
        let word = |i: usize| u32::from_le_bytes([seed[4 * i], seed[4 * i + 1], seed[4 * i + 2], seed[4 * i + 3]]);
        StepParameters { lr: rate, root, keep, average, key: std::array::from_fn(word), clip: 1.0, padding: [0; 3] }
    }
}

/// What a step reports; field for field `struct StepResult` in `kernels/include/step.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct StepResult {
    /// Mean loss over the batch.
    pub loss: f64,
    /// Samples whose largest logit is that of their class.
    pub correct: u32,
    first_bad: u32,
}
const _: () = assert!(size_of::<StepResult>() == 16);

impl StepResult {
    /// Index of the first value or gradient of the arena that is not finite; from the length of the arena on, of a running statistic.
    pub fn first_not_finite(&self) -> Option<usize> {
        (self.first_bad != 0).then(|| (u32::MAX - self.first_bad) as usize)
    }
}

/// Arenas of one length: parameters, their gradients, and the optimiser's state.
#[derive(Clone, Copy, Debug)]
pub struct Arenas {
    pub values: Slice<f32>,
    pub grads: Slice<f32>,
    pub first: Slice<f32>,
    /// None for SGD.
    pub second: Slice<f32>,
    /// Bits of the parameters that are spared from weight decay; none if all decay.
    pub spared: Slice<u32>,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Sgd {
    momentum: f32,
    decay: f32,
    nesterov: i32,
    len: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Adam {
    beta1: f32,
    beta2: f32,
    eps: f32,
    decay: f32,
    decoupled: i32,
    len: i32,
}

/// Blocks of a loop over the arena: enough to fill every device.
const MOST_BLOCKS: usize = 2048;

/// Looks for values, gradients and running statistics that are not finite; [`step`] then changes nothing.
///
/// # Errors
/// [`crate::error::Error::Device`] if the launch fails; so do the others.
pub fn first_not_finite(gpu: &Gpu, result: Slice<StepResult>, values: Slice<f32>, grads: Slice<f32>, running: Slice<f32>) -> Result<()> {
    let grid = [(values.len() + running.len()).div_ceil(256).min(MOST_BLOCKS) as u32, 1, 1];
    let (len, statistics) = (values.len() as i32, running.len() as i32);
    gpu.launch(&kernels::FIRST_NOT_FINITE, grid, 0, &[&result, &values, &grads, &len, &running, &statistics])
}

/// Updates the values, unless `result` reports something that is not finite.
pub fn step(
    gpu: &Gpu,
    rule: Rule,
    weight_decay: f32,
    arenas: &Arenas,
    parameters: Slice<StepParameters>,
    result: Slice<StepResult>,
) -> Result<()> {
    let Arenas { values, grads, first, second, spared } = arenas;
    let (len, decay) = (values.len() as i32, weight_decay);
    match rule {
        Rule::Sgd { momentum, nesterov } => {
            let p = Sgd { momentum, decay, nesterov: i32::from(nesterov), len };
            let grid = [values.len().div_ceil(1024) as u32, 1, 1];
            gpu.launch(&kernels::SGD_STEP, grid, 0, &[values, first, grads, spared, &parameters, &result, &scalars(&p)])
        }
        Rule::Adam { beta1, beta2, eps } | Rule::AdamW { beta1, beta2, eps } => {
            let decoupled = i32::from(matches!(rule, Rule::AdamW { .. }));
            let p = Adam { beta1, beta2, eps, decay, decoupled, len };
            let grid = [values.len().div_ceil(256).min(MOST_BLOCKS) as u32, 1, 1];
            gpu.launch(&kernels::ADAM_STEP, grid, 0, &[values, first, second, grads, spared, &parameters, &result, &scalars(&p)])
        }
    }
}

/// Values that [`clip`] needs between its two launches, for `len` gradients.
pub fn clip_len(len: usize) -> usize {
    len.div_ceil(clipping::PART)
}

/// Sets the factor of the gradients that keeps their norm up to `most`; [`step`] reads it.
pub fn clip(gpu: &Gpu, parameters: Slice<StepParameters>, grads: Slice<f32>, partial: Slice<f64>, most: f32) -> Result<()> {
    let (len, parts) = (grads.len() as i32, clip_len(grads.len()) as i32);
    gpu.launch(&kernels::SQUARES, [parts as u32, 1, 1], 0, &[&partial, &grads, &len])?;
    gpu.launch(&kernels::CLIP_FACTOR, [1, 1, 1], 0, &[&parameters, &partial, &parts, &most])
}

/// Takes `values` into their average, unless `result` reports something that is not finite.
pub fn average(
    gpu: &Gpu,
    average: Slice<f32>,
    values: Slice<f32>,
    parameters: Slice<StepParameters>,
    result: Slice<StepResult>,
) -> Result<()> {
    let grid = [values.len().div_ceil(256).min(MOST_BLOCKS) as u32, 1, 1];
    gpu.launch(&kernels::AVERAGE, grid, 0, &[&average, &values, &parameters, &result, &(values.len() as i32)])
}

/// Keeps the thresholds at these places of the arena above their bound.
pub fn bound_thresholds(gpu: &Gpu, values: Slice<f32>, places: Slice<u32>, bound: f32) -> Result<()> {
    let grid = [places.len().div_ceil(64) as u32, 1, 1];
    gpu.launch(&kernels::BOUND_THRESHOLDS, grid, 0, &[&values, &places, &bound, &(places.len() as i32)])
}
