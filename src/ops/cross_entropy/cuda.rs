//! Launch geometry and arguments of `kernels/cross_entropy.cu`; no arithmetic lives here.

use bytemuck::{Pod, Zeroable};

use super::Blend;
use crate::device::{Gpu, Slice, kernels, scalars};
use crate::error::Result;
use crate::ops::optimizer::cuda::StepResult;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Scalars {
    batch: i32,
    classes: i32,
    total: i32,
    factor: f32,
}

/// What [`cross_entropy`] writes.
#[derive(Clone, Copy, Debug)]
pub struct Outputs {
    /// Gradient of the logits times the factor, `[B][classes]`.
    pub grad: Slice<f32>,
    /// Loss of each sample, `[B]`.
    pub losses: Slice<f64>,
    /// Mean loss, and the number of correct samples is added.
    pub result: Slice<StepResult>,
}

/// [`super::Targets`] on the device.
#[derive(Clone, Copy, Debug)]
pub struct DeviceTargets {
    /// Classes, `[B]`, below the number of classes.
    pub labels: Slice<u32>,
    /// The other class of each sample, `[B]`, or none.
    pub blends: Slice<Blend>,
    /// Share of a target that all classes have in equal parts.
    pub smoothing: f64,
}

/// Mean loss over the batch and its gradient by the logits `[B][classes]`, times `factor`.
///
/// # Errors
/// [`crate::error::Error::Device`] if a launch fails.
pub fn cross_entropy(
    gpu: &Gpu,
    out: &Outputs,
    logits: Slice<f32>,
    targets: &DeviceTargets,
    [batch, classes]: [usize; 2],
    factor: f32,
) -> Result<()> {
    sample_losses(gpu, out, logits, targets, [batch, classes], batch, factor)?;
    mean_loss(gpu, out.result, out.losses, batch, batch)
}

/// The same without the mean: the losses of samples, and the gradient of their mean over `total` samples.
///
/// # Errors
/// As [`cross_entropy`].
pub fn sample_losses(
    gpu: &Gpu,
    out: &Outputs,
    logits: Slice<f32>,
    targets: &DeviceTargets,
    [batch, classes]: [usize; 2],
    total: usize,
    factor: f32,
) -> Result<()> {
    let p = Scalars { batch: batch as i32, classes: classes as i32, total: total as i32, factor };
    let Outputs { grad, losses, result } = out;
    let DeviceTargets { labels, blends, smoothing } = targets;
    let grid = [batch.div_ceil(8) as u32, 1, 1];
    gpu.launch(&kernels::CROSS_ENTROPY, grid, 0, &[grad, losses, result, &logits, labels, blends, &scalars(&p), smoothing])
}

/// Adds up the first `count` of the losses, and leaves their mean over `total` samples.
///
/// # Errors
/// As [`cross_entropy`].
pub fn mean_loss(gpu: &Gpu, result: Slice<StepResult>, losses: Slice<f64>, count: usize, total: usize) -> Result<()> {
    gpu.launch(&kernels::LOSS_REDUCE, [1, 1, 1], 0, &[&result, &losses, &(count as i32), &(total as i32)])
}
