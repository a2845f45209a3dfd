//! Launch geometry and arguments of `kernels/conv.cu`; no arithmetic lives here.

use bytemuck::{Pod, Zeroable};

pub use super::cuda_data_gradient::{data_gradient, data_gradient_in_tiles};
pub use super::cuda_forward::{conv_forward, conv_forward_in_tiles};
pub use super::cuda_weight_gradient::{Operand, subtract_outer, weight_gradient, weight_gradient_parts, weight_gradient_workspace};
use super::sizes::{Backward, expect, int, pooled_positions, source_positions, weights_of};
use crate::device::{Gpu, Slice, kernels, scalars};
use crate::error::{Error, Result};
use crate::ops::neuron::LANES;
use crate::ops::spike_conv::{DeviceGeometry, Geometry};

/// Field for field `struct RealConv` in `kernels/conv.cu`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct RealConv {
    geometry: DeviceGeometry,
    batch: i32,
    frames: i32,
    stride: i32,
    copies: i32,
}
const _: () = assert!(size_of::<RealConv>() == 76);

/// Convolution of the real-valued input `[B][F][H][W][C]`, the same bits as [`super::conv_at`]: sums are `[B][P][F][stride]`, weights
/// `[replicate][tap][cin][cout]`.
///
/// # Errors
/// [`Error::ShapeMismatch`] for a buffer that is too small, [`Error::Device`] if the launch fails; so do all functions here.
pub fn conv_real(
    gpu: &Gpu,
    sums: Slice<f32>,
    input: Slice<f32>,
    weights: Slice<f32>,
    geometry: &Geometry,
    replicate: usize,
    [batch, frames]: [usize; 2],
) -> Result<()> {
    const OP: &str = "conv_real";
    if geometry.is_pooled() {
        return Err(Error::shape(OP, "an input without pool", geometry.pool));
    }
    let (rows, stride) = (batch * geometry.positions() * frames, geometry.cout.next_multiple_of(LANES));
    expect(OP, "sums", rows * stride, sums)?;
    expect(OP, "input", batch * frames * source_positions(geometry) * geometry.cin, input)?;
    expect(OP, "weights", replicate * weights_of(geometry), weights)?;
    let p =
        RealConv { geometry: geometry.into(), batch: batch as i32, frames: frames as i32, stride: stride as i32, copies: replicate as i32 };
    let grid = [int(OP, "rows", rows)?.unsigned_abs().div_ceil(64), geometry.cout.div_ceil(64) as u32, 1];
    gpu.launch(&kernels::CONV_REAL, grid, 0, &[&sums, &input, &weights, &scalars(&p)])
}

/// Field for field `struct CopyReal` in `kernels/conv.cu`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct CopyReal {
    batch: i32,
    positions: i32,
    frames: i32,
    channels: i32,
    stride: i32,
}

/// The input `[B][F][H][W][C]` itself as sums `[B][P][F][stride]`.
pub fn copy_real(gpu: &Gpu, sums: Slice<f32>, input: Slice<f32>, geometry: &Geometry, [batch, frames]: [usize; 2]) -> Result<()> {
    const OP: &str = "copy_real";
    let (positions, channels) = (source_positions(geometry), geometry.cin);
    let stride = channels.next_multiple_of(LANES);
    expect(OP, "sums", batch * positions * frames * stride, sums)?;
    expect(OP, "input", batch * positions * frames * channels, input)?;
    let values = int(OP, "sums", batch * positions * frames * stride)?.unsigned_abs();
    let [batch, positions, frames, channels, stride] = [batch, positions, frames, channels, stride].map(|n| n as i32);
    let p = CopyReal { batch, positions, frames, channels, stride };
    gpu.launch(&kernels::COPY_REAL, [values.div_ceil(256), 1, 1], 0, &[&sums, &input, &scalars(&p)])
}

/// Gradient of a source `[B][P][C]` from that of its pool `[B][P_pooled][C]`; without a pool, what an identity passes on.
///
/// Sets `grad`, or `adds` to it.
pub fn unpool_add(gpu: &Gpu, grad: Slice<f32>, pooled: Slice<f32>, geometry: &Geometry, batch: usize, adds: bool) -> Result<()> {
    const OP: &str = "unpool_add";
    let positions = batch * source_positions(geometry);
    expect(OP, "gradient", positions * geometry.cin, grad)?;
    expect(OP, "gradient of the pool", batch * pooled_positions(geometry) * geometry.cin, pooled)?;
    let p = Backward { geometry: geometry.into(), batch: batch as i32, add: i32::from(adds) };
    let threads = int(OP, "elements", positions * geometry.cin.div_ceil(4))?.unsigned_abs();
    gpu.launch(&kernels::UNPOOL, [threads.div_ceil(256), 1, 1], 0, &[&grad, &pooled, &scalars(&p)])
}
