//! Launch geometry and arguments of `kernels/batch_norm_backward.cu`; no arithmetic lives here.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};

use super::cuda::{Columns, DeviceInner};
use crate::device::{Arg, Gpu, Slice, kernels, scalars};
use crate::error::{Error, Result};
use crate::ops::neuron::cuda::{BiasParts, LayerBackward, Parts, reduce};

/// Where the gradient of a current goes, `[B][P][C]`; what is none is not written.
#[derive(Clone, Copy, Debug, Default)]
pub struct CurrentGradient {
    /// Time mean of the gradient (`unrolled`: the part of it that is constant in time), as bf16: for the weights.
    pub plain: Slice<u16>,
    /// r(gradient), as bf16: for the sources.
    pub weighted: Slice<u16>,
    /// The same in f32.
    pub plain_f32: Slice<f32>,
    pub weighted_f32: Slice<f32>,
    /// Where `weighted_f32` is the gradient of the source of an identity: whether it is added to what is there, or to 0.
    pub source_adds: Option<bool>,
    /// Gradients of the biases of up to two connections, `[C]`; they are added to.
    pub biases: [Slice<f32>; 2],
    /// Room for the parts of their sums; none for the layer's `partial`.
    pub bias_partial: Slice<f64>,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct CurrentGradientArgs {
    plain: u64,
    weighted: u64,
    plain_f32: u64,
    weighted_f32: u64,
    bias_partial: u64,
    adds: i32,
    padding: i32,
}
const _: () = assert!(size_of::<CurrentGradientArgs>() == 48);

impl CurrentGradient {
    pub fn has_bias(&self) -> bool {
        self.biases.iter().any(|bias| !bias.is_none())
    }

    /// Room for the sums of the biases, none where there are no biases.
    fn partial(&self, layer: &LayerBackward) -> Slice<f64> {
        match (self.has_bias(), self.bias_partial.is_none()) {
            (false, _) => Slice::NONE,
            (true, true) => layer.partial,
            (true, false) => self.bias_partial,
        }
    }

    fn args(&self, layer: &LayerBackward) -> CurrentGradientArgs {
        CurrentGradientArgs {
            plain: self.plain.address(),
            weighted: self.weighted.address(),
            plain_f32: self.plain_f32.address(),
            weighted_f32: self.weighted_f32.address(),
            bias_partial: self.partial(layer).address(),
            adds: i32::from(self.source_adds == Some(true)),
            padding: 0,
        }
    }

    /// Some of the rows of `channels` values.
    pub fn of_rows(&self, rows: Range<usize>, channels: usize) -> Self {
        fn part<T>(slice: Slice<T>, values: &Range<usize>) -> Slice<T> {
            if slice.is_none() { slice } else { slice.part(values.clone()) }
        }
        let values = rows.start * channels..rows.end * channels;
        CurrentGradient {
            plain: part(self.plain, &values),
            weighted: part(self.weighted, &values),
            plain_f32: part(self.plain_f32, &values),
            weighted_f32: part(self.weighted_f32, &values),
            ..*self
        }
    }

    /// What is left to be added up.
    fn parts(&self, layer: &LayerBackward, blocks: usize) -> Option<Parts> {
        let LayerBackward { channels, time_steps, .. } = *layer;
        let parts = BiasParts { into: self.biases, partial: self.partial(layer), blocks, channels, time_steps };
        self.has_bias().then_some(Parts::Bias(parts))
    }
}

/// From g to the gradient of the current that connections without a norm of their own share.
///
/// IF has one gradient for both uses in `rate` mode: ask for `plain` alone.
pub fn current_gradient(gpu: &Gpu, out: &CurrentGradient, grad: Slice<f32>, layer: &LayerBackward, unrolled: bool) -> Result<()> {
    reduce(gpu, current_gradient_parts(gpu, out, grad, layer, unrolled)?.as_slice())
}

/// The same without the last step: the gradients of biases are there when [`reduce`] has added up what this leaves.
pub fn current_gradient_parts(
    gpu: &Gpu,
    out: &CurrentGradient,
    grad: Slice<f32>,
    layer: &LayerBackward,
    unrolled: bool,
) -> Result<Option<Parts>> {
    let columns = Columns::new(layer.rows, layer.channels);
    let has_norm = !layer.mean.is_none();
    let of_norm = |means: Slice<f32>| if has_norm { means } else { Slice::NONE };
    let (outputs, padded) = (out.args(layer), layer.normalizer.padded as i32);
    let args: [&dyn Arg; 9] = [
        &scalars(&outputs),
        &grad,
        &layer.normalizer.values,
        &layer.mean,
        &layer.k,
        &if unrolled { Slice::NONE } else { of_norm(layer.mean_normed) },
        &of_norm(layer.representation),
        &scalars(&columns),
        &padded,
    ];
    let kernel = if out.source_adds.is_some() { &kernels::CURRENT_GRADIENT_TO_SOURCE } else { &kernels::CURRENT_GRADIENT };
    gpu.launch(kernel, columns.grid(), 0, &args)?;
    Ok(out.parts(layer, columns.blocks()))
}

/// What forward has kept of û, `[B][P][C]`.
#[derive(Clone, Copy, Debug)]
pub struct InnerKept {
    pub inner: DeviceInner,
    pub mean_normed: Slice<f32>,
    /// The weighted mean, for IF too.
    pub weighted_normed: Slice<f32>,
}

impl InnerKept {
    /// Some of the rows of `channels` values.
    pub fn of_rows(&self, rows: Range<usize>, channels: usize) -> Self {
        let part = |slice: Slice<f32>| slice.part(rows.start * channels..rows.end * channels);
        InnerKept { mean_normed: part(self.mean_normed), weighted_normed: part(self.weighted_normed), ..*self }
    }
}

/// Field for field `struct InnerReduce` in `kernels/batch_norm_backward.cu`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct InnerReduceArgs {
    time_steps: i32,
    blocks: i32,
    rows: i32,
    channels: i32,
    padded: i32,
}
const _: () = assert!(size_of::<InnerReduceArgs>() == 20);

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct InnerMeans {
    mean_normed: u64,
    representation: u64,
    inner_mean_normed: u64,
    inner_representation: u64,
}

/// From g to the gradient of the current of the connection with a norm of its own; adds to the gradient of that norm's γ, `[C]`.
///
/// `shared` is what the other connections want, as [`current_gradient`] gives it; nothing where there are none. Leaves scale·k and the
/// norm's own k in rows 3 and 4 of the inner constants, for the unrolled weight gradient.
pub fn inner_backward(
    gpu: &Gpu,
    [out, shared]: [&CurrentGradient; 2],
    grad_gamma: Slice<f32>,
    grad: Slice<f32>,
    layer: &LayerBackward,
    kept: &InnerKept,
    unrolled: bool,
) -> Result<()> {
    let parts = inner_backward_parts(gpu, [out, shared], grad_gamma, grad, layer, kept, unrolled)?;
    reduce(gpu, &parts.into_iter().flatten().collect::<Vec<_>>())
}

/// The same without the last step, as [`current_gradient_parts`].
///
/// # Errors
/// [`Error::ShapeMismatch`] where the biases of both have the same room for their sums; those of the launches.
pub fn inner_backward_parts(
    gpu: &Gpu,
    [out, shared]: [&CurrentGradient; 2],
    grad_gamma: Slice<f32>,
    grad: Slice<f32>,
    layer: &LayerBackward,
    kept: &InnerKept,
    unrolled: bool,
) -> Result<[Option<Parts>; 2]> {
    let rooms = [out.partial(layer).address(), shared.partial(layer).address()];
    if rooms[0] != 0 && rooms[0] == rooms[1] {
        return Err(Error::shape("inner_backward", "room of its own for the biases of either current", "one room"));
    }
    let blocks = inner_sums(gpu, grad, layer, kept)?;
    inner_reduce(gpu, grad_gamma, layer, kept, blocks)?;
    inner_gradient(gpu, [out, shared], grad, layer, kept, unrolled)?;
    Ok([out, shared].map(|out| out.parts(layer, blocks)))
}

/// The first of three steps of [`inner_backward_parts`]: sums that decide what the norm subtracts, `[blocks][C]` in the layer's `partial`;
/// gives the blocks.
pub fn inner_sums(gpu: &Gpu, grad: Slice<f32>, layer: &LayerBackward, kept: &InnerKept) -> Result<usize> {
    let columns = Columns::new(layer.rows, layer.channels);
    let padded = layer.normalizer.padded as i32;
    let (values, mean, k) = (&layer.normalizer.values, &layer.mean, &layer.k);
    let args: [&dyn Arg; 8] = [&layer.partial, &grad, values, mean, k, &kept.mean_normed, &scalars(&columns), &padded];
    gpu.launch(&kernels::INNER_SUMS, columns.grid(), 0, &args)?;
    Ok(columns.blocks())
}

/// The second: adds up what the first has left, over all rows of the layer.
pub fn inner_reduce(gpu: &Gpu, grad_gamma: Slice<f32>, layer: &LayerBackward, kept: &InnerKept, blocks: usize) -> Result<()> {
    let reduce = InnerReduceArgs {
        time_steps: layer.time_steps as i32,
        blocks: blocks as i32,
        rows: layer.rows as i32,
        channels: layer.channels as i32,
        padded: layer.normalizer.padded as i32,
    };
    let args: [&dyn Arg; 6] = [&grad_gamma, &kept.inner.values, &layer.partial, &kept.inner.correlation, &layer.k, &scalars(&reduce)];
    gpu.launch(&kernels::INNER_REDUCE, [layer.channels.div_ceil(32) as u32, 1, 1], 0, &args)
}

/// The third: the gradients of both currents; parts of their biases are left as [`inner_backward_parts`] says.
pub fn inner_gradient(
    gpu: &Gpu,
    [out, shared]: [&CurrentGradient; 2],
    grad: Slice<f32>,
    layer: &LayerBackward,
    kept: &InnerKept,
    unrolled: bool,
) -> Result<()> {
    let columns = Columns::new(layer.rows, layer.channels);
    let padded = layer.normalizer.padded as i32;
    let (values, mean, k) = (&layer.normalizer.values, &layer.mean, &layer.k);
    let means = InnerMeans {
        mean_normed: if unrolled { 0 } else { layer.mean_normed.address() },
        representation: layer.representation.address(),
        inner_mean_normed: kept.mean_normed.address(),
        inner_representation: kept.weighted_normed.address(),
    };
    let outputs = [out.args(layer), shared.args(layer)];
    let args: [&dyn Arg; 10] = [
        &scalars(&outputs[0]),
        &scalars(&outputs[1]),
        &grad,
        values,
        mean,
        k,
        &kept.inner.values,
        &scalars(&means),
        &scalars(&columns),
        &padded,
    ];
    gpu.launch(&kernels::INNER_GRADIENT, columns.grid(), 0, &args)
}
