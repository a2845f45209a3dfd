//! Launch geometry and arguments of `kernels/neuron.cu`; no arithmetic lives here.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};

pub use super::cuda_reduction::{BiasParts, ClampParts, Parts, WeightParts, reduce};
use super::{DeviceNeurons, Neuron, NeuronInputs, NeuronOutputs, positions_at_once};
use crate::device::{Arg, Gpu, Slice, kernels, scalars};
use crate::error::{Error, Result};
use crate::ops::batch_norm::cuda::{Columns, DeviceInner, PADDING, StoredSummand};
use crate::ops::spike_conv::{DeviceNormalizer, Summand};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Place {
    positions: i32,
    frames: i32,
    at_once: i32,
}

/// Warps that a multiprocessor should have before one runs several positions.
const WARPS: usize = 32;

/// Positions that a warp of [`neurons`] runs one after the other, of B·P: one where they are few, since warps that fill the device serve
/// better.
pub fn positions_of_warp(positions: usize, channels: usize, time_steps: usize, multiprocessors: u32) -> usize {
    let at_once = positions_at_once(time_steps);
    if positions * channels.div_ceil(32) < at_once * WARPS * multiprocessors as usize { 1 } else { at_once }
}

/// Neurons of a layer from stored summands; `positions` = B·P.
///
/// # Errors
/// [`Error::ShapeMismatch`] for a summand that is not stored or an output that is too short, [`Error::Device`] if the launch fails;
/// so do all functions below.
pub fn neurons(gpu: &Gpu, from: &NeuronInputs, to: &NeuronOutputs, summands: &[Summand; 2], positions: usize) -> Result<()> {
    launch_neurons(gpu, from, to, summands, positions, None)
}

/// Time means of the current û of a connection that has a norm of its own.
#[derive(Clone, Copy, Debug)]
pub struct OwnMeans {
    /// Plain and weighted, `[B][P][C]`.
    pub plain: Slice<f32>,
    pub weighted: Slice<f32>,
    pub inner: DeviceInner,
    /// `[T]`; for IF, too.
    pub step_weights: Slice<f32>,
    /// Which summand holds its sums: 0 or 1.
    pub summand: usize,
}

/// Field for field `struct OwnMeans` in `kernels/neuron.cu`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct OwnMeansArgs {
    plain: u64,
    weighted: u64,
    inner: u64,
    step_weights: u64,
    is_second: i32,
    padding: i32,
}
const _: () = assert!(size_of::<OwnMeansArgs>() == 40);

/// [`neurons`], and the time means of one of their summands.
pub fn neurons_with_means(
    gpu: &Gpu,
    from: &NeuronInputs,
    to: &NeuronOutputs,
    summands: &[Summand; 2],
    positions: usize,
    means: &OwnMeans,
) -> Result<()> {
    launch_neurons(gpu, from, to, summands, positions, Some(means))
}

fn launch_neurons(
    gpu: &Gpu,
    from: &NeuronInputs,
    to: &NeuronOutputs,
    summands: &[Summand; 2],
    positions: usize,
    means: Option<&OwnMeans>,
) -> Result<()> {
    const OP: &str = "neurons";
    let layer = DeviceNeurons { padded: from.normalizer.padded as i32, ..from.neurons };
    let (channels, time_steps) = (layer.channels as usize, layer.time_steps as usize);
    let words = channels.div_ceil(32);
    for (what, expected, got) in [
        ("spikes", positions * time_steps * words, to.spikes.len()),
        ("counts", positions * channels, len_or(to.counts, positions * channels)),
        ("means", positions * channels, len_or(to.mean_normed, positions * channels)),
        ("weighted means", positions * channels, len_or(to.weighted_normed, positions * channels)),
        ("dropped neurons", positions * words, len_or(from.dropped, positions * words)),
        ("step weights", if to.weighted_normed.is_none() { 0 } else { time_steps }, from.step_weights.len()),
        ("normalizer", 6 * channels.next_multiple_of(PADDING), from.normalizer.values.len()),
        ("own means", positions * channels, means.map_or(usize::MAX, |means| means.plain.len().min(means.weighted.len()))),
        ("own constants", 5 * from.normalizer.padded, means.map_or(usize::MAX, |means| means.inner.values.len())),
        ("own step weights", time_steps, means.map_or(usize::MAX, |means| means.step_weights.len())),
    ] {
        if got < expected {
            return Err(Error::shape(format!("{OP}: {what}"), expected, got));
        }
    }
    let frames = if let Summand::Real { frames, .. } = summands[0] { frames as i32 } else { layer.time_steps };
    let (first, second) = (StoredSummand::new(OP, &summands[0], channels)?, StoredSummand::integers(OP, &summands[1], channels)?);
    let one = frames == 1 || means.is_some(); // of T = 1, too: telling it from a static image takes registers that the kernel has not
    let at_once = if one { 1 } else { positions_of_warp(positions, channels, time_steps, gpu.multiprocessors()) };
    let place = Place { positions: positions as i32, frames, at_once: at_once as i32 };
    let grid = [(positions.div_ceil(at_once) * words).div_ceil(8) as u32, 1, 1];
    let own = means.map(|means| OwnMeansArgs {
        plain: means.plain.address(),
        weighted: means.weighted.address(),
        inner: means.inner.values.address(),
        step_weights: means.step_weights.address(),
        is_second: i32::from(means.summand == 1),
        padding: 0,
    });
    let (of_first, of_second, of_layer, of_place) = (scalars(&first), scalars(&second), scalars(&layer), scalars(&place));
    let mut args: Vec<&dyn Arg> = vec![
        &to.spikes,
        &to.counts,
        &to.mean_normed,
        &to.weighted_normed,
        &to.fired,
        &from.normalizer.values,
        &from.threshold,
        &from.step_weights,
        &from.dropped,
        &of_first,
        &of_second,
        &of_layer,
        &of_place,
    ];
    let own = own.as_ref().map(scalars);
    args.extend(own.iter().map(|own| own as &dyn Arg));
    gpu.launch(if means.is_some() { &kernels::NEURONS_WITH_MEANS } else { &kernels::NEURONS }, grid, 0, &args)
}

/// Length of a buffer, or that of an absent one.
fn len_or<T>(slice: Slice<T>, absent: usize) -> usize {
    if slice.is_none() { absent } else { slice.len() }
}

/// A layer in backward: what forward has kept, and room for what goes from one kernel to the next.
#[derive(Clone, Copy, Debug)]
pub struct LayerBackward {
    /// B·P.
    pub rows: usize,
    pub channels: usize,
    pub time_steps: usize,
    pub normalizer: DeviceNormalizer,
    /// `[1]`.
    pub threshold: Slice<f32>,
    /// `[B][P][C]`.
    pub mean_normed: Slice<f32>,
    /// What decides the clamp mapping, `[B][P][C]`: the weighted mean (LIF), or `mean_normed` itself (IF).
    pub representation: Slice<f32>,
    /// `[B][P][words]`, or none.
    pub dropped: Slice<u32>,
    /// Mean gradient and k of each channel, `[padded]`; none without batch norm. Written by [`clamp_mapping_backward`].
    pub mean: Slice<f32>,
    pub k: Slice<f32>,
    /// [`partial_len`] values that any layer may overwrite.
    pub partial: Slice<f64>,
}

impl LayerBackward {
    /// Some of the rows; what is of channels stays.
    pub fn of_rows(&self, rows: Range<usize>) -> Self {
        let (start, end) = (rows.start, rows.end);
        let values = |slice: Slice<f32>| if slice.is_none() { slice } else { slice.part(start * self.channels..end * self.channels) };
        let words = self.channels.div_ceil(32);
        LayerBackward {
            rows: rows.len(),
            mean_normed: values(self.mean_normed),
            representation: values(self.representation),
            dropped: if self.dropped.is_none() { self.dropped } else { self.dropped.part(start * words..end * words) },
            ..*self
        }
    }
}

/// Partial sums that backward of a layer of up to so many rows needs room for.
pub fn partial_len(rows: usize, channels: usize) -> usize {
    3 * Columns::most_blocks(rows, channels) * channels
}

/// The same for the gradients of biases, which wait for [`reduce`].
pub fn bias_partial_len(rows: usize, channels: usize) -> usize {
    Columns::most_blocks(rows, channels) * channels
}

/// Parameter gradients of a layer's neurons and norm, in the arena of gradients; they are added to.
#[derive(Clone, Copy, Debug, Default)]
pub struct NeuronGradients {
    /// `[1]`.
    pub threshold: Slice<f32>,
    /// `[C]`; none without batch norm.
    pub gamma: Slice<f32>,
    pub beta: Slice<f32>,
}

/// Field for field `struct ClampMapping` in `kernels/neuron.cu`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct ClampMappingArgs {
    columns: Columns,
    tau: f32,
    delta_t: f32,
    slope: f32,
    keep: f32,
    kind: i32,
    padded: i32,
}
const _: () = assert!(size_of::<ClampMappingArgs>() == 40);

/// Dropout and clamp mapping, `grad` in place from r(gradient of the spikes) to r(gradient of the current) g; adds the gradients of
/// threshold, γ and β, and leaves mean and k of each channel.
///
/// `neuron` is none for a readout by current, which has neither ends nor a threshold.
/// `threshold_grad_scale` is the network's further factor, `dropout` the share that was dropped.
pub fn clamp_mapping_backward(
    gpu: &Gpu,
    grad: Slice<f32>,
    into: &NeuronGradients,
    layer: &LayerBackward,
    neuron: Option<Neuron>,
    threshold_grad_scale: f32,
    dropout: f32,
) -> Result<()> {
    let parts = clamp_mapping_parts(gpu, grad, into, layer, neuron, threshold_grad_scale, dropout)?;
    reduce(gpu, &[Parts::Clamp(parts)])
}

/// The same without the last step: the gradients, mean and k are there when [`reduce`] has added up what this leaves.
pub fn clamp_mapping_parts(
    gpu: &Gpu,
    grad: Slice<f32>,
    into: &NeuronGradients,
    layer: &LayerBackward,
    neuron: Option<Neuron>,
    threshold_grad_scale: f32,
    dropout: f32,
) -> Result<ClampParts> {
    if layer.mean.is_none() != into.gamma.is_none() {
        return Err(Error::shape("clamp_mapping_backward", "mean and k where there is a batch norm, and only there", layer.mean.len()));
    }
    let columns = Columns::new(layer.rows, layer.channels);
    let (tau, delta_t) = if let Some(Neuron::Lif { tau, delta_t, .. }) = neuron { (tau, delta_t) } else { (1.0, 1.0) };
    let p = ClampMappingArgs {
        columns,
        tau,
        delta_t,
        slope: neuron.map_or(1.0, Neuron::slope),
        keep: 1.0 / (1.0 - dropout),
        kind: match neuron {
            Some(Neuron::If { .. }) => 0,
            Some(Neuron::Lif { .. }) => 1,
            Some(Neuron::Relu) => 2,
            None => 3,
        },
        padded: layer.normalizer.padded as i32,
    };
    let args: [&dyn Arg; 8] = [
        &grad,
        &layer.partial,
        &layer.representation,
        &layer.mean_normed,
        &layer.dropped,
        &layer.normalizer.values,
        &layer.threshold,
        &scalars(&p),
    ];
    gpu.launch(&kernels::CLAMP_MAPPING_BACKWARD, columns.grid(), 0, &args)?;
    Ok(ClampParts::new(layer, into, neuron, threshold_grad_scale, columns.blocks()))
}
