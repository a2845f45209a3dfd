//! Launch geometry and arguments of `kernels/relu.cu`; no arithmetic lives here.

use bytemuck::{Pod, Zeroable};

use crate::device::{Arg, Gpu, Slice, kernels, scalars};
use crate::error::{Error, Result};
use crate::ops::batch_norm::cuda::{Columns, DeviceInner};
use crate::ops::batch_norm::cuda_values::{RealRows, RowsArgs};
use crate::ops::spike_conv::{DeviceGeometry, DeviceNormalizer, Geometry};

/// Field for field `struct Activate` in `kernels/relu.cu`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct ActivateArgs {
    first: RowsArgs,
    second: RowsArgs,
    columns: Columns,
    padded: i32,
    keep: f32,
}
const _: () = assert!(size_of::<ActivateArgs>() == 56);

/// What a layer of an ANN writes, `[B][P][C]`; what is none is not written.
#[derive(Clone, Copy, Debug)]
pub struct Activations {
    /// x̂, for backward.
    pub normed: Slice<f32>,
    /// The outputs, for identities, pools and the logits.
    pub values: Slice<f32>,
    /// The same as bf16, for convolutions.
    pub rounded: Slice<u16>,
    /// One counter that the number of outputs above 0, before dropout, is added to.
    pub active: Slice<u64>,
}

/// A buffer holds at least what will be touched, unless it is absent.
fn expect<T>(op: &str, what: &str, expected: usize, slice: Slice<T>) -> Result<()> {
    if slice.is_none() || slice.len() >= expected { Ok(()) } else { Err(Error::shape(format!("{op}: {what}"), expected, slice.len())) }
}

/// Currents `[rows][C]` of one or two connections to outputs, as [`super::activate`] and, with `dropped` `[rows][words]`,
/// [`super::drop_values`] do; `dropout` is the share that was dropped.
///
/// # Errors
/// [`Error::ShapeMismatch`] for a buffer that is too small, [`Error::Device`] if the launch fails; so do all functions here.
pub fn activate(
    gpu: &Gpu,
    out: &Activations,
    normalizer: &DeviceNormalizer,
    [first, second]: [Option<RealRows>; 2],
    dropped: Slice<u32>,
    dropout: f32,
    [rows, channels]: [usize; 2],
) -> Result<()> {
    const OP: &str = "activate";
    let Some(first) = first else { return Err(Error::shape(OP, "one or two currents", "none")) };
    let Activations { normed, values, rounded, active } = out;
    expect(OP, "normalised currents", rows * channels, *normed)?;
    expect(OP, "outputs", rows * channels, *values)?;
    expect(OP, "rounded outputs", rows * channels, *rounded)?;
    expect(OP, "dropped values", rows * channels.div_ceil(32), dropped)?;
    expect(OP, "normalizer", 6 * normalizer.padded, normalizer.values)?;
    let columns = Columns::new(rows, channels);
    let p = ActivateArgs {
        first: first.args(OP, [rows, channels])?,
        second: second.map_or(Ok(RowsArgs::zeroed()), |second| second.args(OP, [rows, channels]))?,
        columns,
        padded: normalizer.padded as i32,
        keep: 1.0 / (1.0 - dropout),
    };
    let args: [&dyn Arg; 7] = [normed, values, rounded, active, &normalizer.values, &dropped, &scalars(&p)];
    gpu.launch(&kernels::ACTIVATE, columns.grid(), 0, &args)
}

/// û `[rows][C]` of the connection with a norm of its own, from its current.
pub fn scale_and_shift(gpu: &Gpu, normed: Slice<f32>, inner: &DeviceInner, from: RealRows, [rows, channels]: [usize; 2]) -> Result<()> {
    const OP: &str = "scale_and_shift";
    expect(OP, "output", rows * channels, normed)?;
    let (columns, from) = (Columns::new(rows, channels), from.args(OP, [rows, channels])?);
    let args: [&dyn Arg; 5] = [&normed, &inner.values, &scalars(&from), &scalars(&columns), &(inner.padded as i32)];
    gpu.launch(&kernels::SCALE_AND_SHIFT, columns.grid(), 0, &args)
}

/// Means of pool windows, `[B][P_pooled][C]` from values `[B][P][C]`: in f32 for an identity, in bf16 for a convolution; the other is
/// none.
pub fn pool_values(gpu: &Gpu, means: Slice<f32>, rounded: Slice<u16>, values: Slice<f32>, geometry: &Geometry, batch: usize) -> Result<()> {
    const OP: &str = "pool_values";
    let positions = |[height, width]: [usize; 2]| batch * height * width;
    let pooled = positions(geometry.pooled());
    expect(OP, "means", pooled * geometry.cin, means)?;
    expect(OP, "rounded means", pooled * geometry.cin, rounded)?;
    expect(OP, "values", positions(geometry.source) * geometry.cin, values)?;
    let threads = pooled * geometry.cin.div_ceil(4);
    let Ok(blocks) = u32::try_from(threads.next_multiple_of(256)).map(|threads| threads / 256) else {
        return Err(Error::shape(OP, "less than 2^32 threads", threads));
    };
    let device: DeviceGeometry = geometry.into();
    gpu.launch(&kernels::POOL_VALUES, [blocks, 1, 1], 0, &[&means, &rounded, &values, &scalars(&device), &(batch as i32)])
}
