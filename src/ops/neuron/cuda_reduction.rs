//! Launch geometry and arguments of `kernels/neuron_reduction.cu`; no arithmetic lives here.

use bytemuck::{Pod, Zeroable};

use super::Neuron;
use super::cuda::{LayerBackward, NeuronGradients};
use crate::device::{Gpu, Slice, kernels, scalars};
use crate::error::{Error, Result};

/// Sums that a kernel of backward has left in parts. Until [`reduce`] has added them up, nobody may overwrite the parts.
#[derive(Clone, Copy, Debug)]
pub enum Parts {
    Clamp(ClampParts),
    Bias(BiasParts),
    Weights(WeightParts),
}

/// What [`super::cuda::clamp_mapping_parts`] leaves: `[3][blocks][C]` in the layer's `partial`.
#[derive(Clone, Copy, Debug)]
pub struct ClampParts {
    pub layer: LayerBackward,
    pub into: NeuronGradients,
    /// Of the threshold gradient.
    pub threshold_factor: f32,
    pub blocks: usize,
}

/// Sums of the gradient of a current, `[blocks][C]`.
#[derive(Clone, Copy, Debug)]
pub struct BiasParts {
    /// Gradients of the biases of up to two connections, `[C]`; they are added to.
    pub into: [Slice<f32>; 2],
    pub partial: Slice<f64>,
    pub blocks: usize,
    pub channels: usize,
    pub time_steps: usize,
}

/// Products of the rows of one split each, `[splits][tap][cin][cout]`.
#[derive(Clone, Copy, Debug)]
pub struct WeightParts {
    /// `[copies][len]`; added to.
    pub into: Slice<f32>,
    pub partial: Slice<f32>,
    /// Of the source's neurons, or none.
    pub threshold: Slice<f32>,
    /// Of the sum, and of the threshold where there is one.
    pub factor: f32,
    pub splits: usize,
    pub len: usize,
    pub copies: usize,
}

/// Field for field `struct ClampJob` in `kernels/neuron_reduction.cu`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct ClampArgs {
    grad_threshold: u64,
    grad_gamma: u64,
    grad_beta: u64,
    mean: u64,
    k: u64,
    partial: u64,
    normalizer: u64,
    threshold_factor: f32,
    time_steps: i32,
    blocks: i32,
    rows: i32,
    channels: i32,
    padded: i32,
    grid: u32,
    threshold_grid: u32,
}

/// Field for field `struct BiasJob` there.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct BiasArgs {
    grad: u64,
    other_grad: u64,
    partial: u64,
    blocks: i32,
    channels: i32,
    time_steps: i32,
    grid: u32,
}

/// Field for field `struct WeightJob` there.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct WeightArgs {
    grad: u64,
    partial: u64,
    threshold: u64,
    factor: f32,
    splits: i32,
    len: i32,
    copies: i32,
    grid: u32,
    padding: i32,
}

/// Field for field `struct Reductions` there.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Reductions {
    clamp: ClampArgs,
    biases: [BiasArgs; 2],
    weights: [WeightArgs; 2],
}
const _: () = assert!(size_of::<Reductions>() == 264);

impl ClampParts {
    /// Of so many blocks in the layer's `partial`.
    pub fn new(layer: &LayerBackward, into: &NeuronGradients, neuron: Option<Neuron>, threshold_grad_scale: f32, blocks: usize) -> Self {
        let threshold_factor = neuron.map_or(0.0, Neuron::threshold_grad_factor) * threshold_grad_scale;
        ClampParts { layer: *layer, into: *into, threshold_factor, blocks }
    }

    fn args(&self) -> ClampArgs {
        let ClampParts { layer, into, threshold_factor, blocks } = *self;
        ClampArgs {
            grad_threshold: into.threshold.address(),
            grad_gamma: into.gamma.address(),
            grad_beta: into.beta.address(),
            mean: layer.mean.address(),
            k: layer.k.address(),
            partial: layer.partial.address(),
            normalizer: layer.normalizer.values.address(),
            threshold_factor,
            time_steps: layer.time_steps as i32,
            blocks: blocks as i32,
            rows: layer.rows as i32,
            channels: layer.channels as i32,
            padded: layer.normalizer.padded as i32,
            grid: if into.gamma.is_none() { 0 } else { layer.channels.div_ceil(32) as u32 },
            threshold_grid: u32::from(!into.threshold.is_none()),
        }
    }
}

impl BiasParts {
    fn args(&self) -> BiasArgs {
        BiasArgs {
            grad: self.into[0].address(),
            other_grad: self.into[1].address(),
            partial: self.partial.address(),
            blocks: self.blocks as i32,
            channels: self.channels as i32,
            time_steps: self.time_steps as i32,
            grid: self.channels.div_ceil(32) as u32,
        }
    }
}

impl WeightParts {
    fn args(&self) -> WeightArgs {
        WeightArgs {
            grad: self.into.address(),
            partial: self.partial.address(),
            threshold: self.threshold.address(),
            factor: self.factor,
            splits: self.splits as i32,
            len: self.len as i32,
            copies: self.copies as i32,
            grid: self.len.div_ceil(256) as u32,
            padding: 0,
        }
    }
}

/// Adds up all of these in one launch; without any there is none.
///
/// # Errors
/// [`Error::ShapeMismatch`] for more than one clamp mapping, or more than two biases or weights. [`Error::Device`] if the launch fails.
pub fn reduce(gpu: &Gpu, parts: &[Parts]) -> Result<()> {
    let mut p = Reductions::zeroed();
    let (mut clamps, mut biases, mut weights) = (0, 0, 0);
    for part in parts {
        match part {
            Parts::Clamp(clamp) => (p.clamp, clamps) = (clamp.args(), clamps + 1),
            Parts::Bias(bias) => {
                p.biases[biases.min(1)] = bias.args();
                biases += 1;
            }
            Parts::Weights(of_weights) => {
                p.weights[weights.min(1)] = of_weights.args();
                weights += 1;
            }
        }
    }
    if clamps > 1 || biases > 2 || weights > 2 {
        return Err(Error::shape("reduce", "one clamp mapping, two biases and two weights at most", [clamps, biases, weights]));
    }
    let of_channels = p.clamp.grid + p.clamp.threshold_grid + p.biases.iter().map(|bias| bias.grid).sum::<u32>();
    let blocks = of_channels + p.weights.iter().map(|weights| weights.grid).sum::<u32>();
    if blocks == 0 { Ok(()) } else { gpu.launch(&kernels::REDUCE_PARTS, [blocks, 1, 1], 0, &[&scalars(&p)]) }
}
