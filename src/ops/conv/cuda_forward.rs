//! Launch geometry and arguments of `kernels/conv_forward.cu`; no arithmetic lives here.

use bytemuck::{Pod, Zeroable};

use super::sizes::{expect, int, pooled_positions};
use crate::device::{Gpu, Slice, kernels, scalars};
use crate::error::Result;
use crate::ops::spike_conv::{DeviceGeometry, Geometry, rounded_pieces};

/// Field for field `struct ConvForward` in `kernels/conv_forward.cu`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct ConvForward {
    geometry: DeviceGeometry,
    batch: i32,
}
const _: () = assert!(size_of::<ConvForward>() == 64);

/// Output channels of a tile.
const COLUMNS: usize = 64;

/// Convolution of a (pooled) source, bf16 `[B][P_pooled][C_in]`, with the weights of [`crate::ops::spike_conv::round_weights`]: `out` is
/// `[B][P_out][C_out]`. What [`super::conv`] computes of operands that are rounded to bf16, but for the order of its sums.
///
/// # Errors
/// [`crate::error::Error::ShapeMismatch`] for a buffer that is too small, [`crate::error::Error::Device`] if the launch fails.
pub fn conv_forward(gpu: &Gpu, out: Slice<f32>, source: Slice<u16>, weights: Slice<u32>, geometry: &Geometry, batch: usize) -> Result<()> {
    let blocks = (batch * geometry.positions()).div_ceil(128) * geometry.cout.div_ceil(COLUMNS);
    let rows = if blocks >= 2 * gpu.multiprocessors() as usize { 128 } else { 64 };
    conv_forward_in_tiles(gpu, out, source, weights, geometry, batch, rows)
}

/// The same in tiles of 128 or of 64 outputs: for speed only, the bits are the same.
///
/// # Errors
/// As [`conv_forward`].
pub fn conv_forward_in_tiles(
    gpu: &Gpu,
    out: Slice<f32>,
    source: Slice<u16>,
    weights: Slice<u32>,
    geometry: &Geometry,
    batch: usize,
    rows: usize,
) -> Result<()> {
    const OP: &str = "conv_forward";
    let positions = batch * geometry.positions();
    let (outputs, inputs) = (positions * geometry.cout, batch * pooled_positions(geometry) * geometry.cin);
    expect(OP, "output", outputs, out)?;
    expect(OP, "source", inputs, source)?;
    expect(OP, "rounded weights", rounded_pieces(geometry) * 1024, weights)?;
    int(OP, "elements", outputs.max(inputs))?;
    let p = ConvForward { geometry: geometry.into(), batch: batch as i32 };
    let (kernel, rows) = match (geometry.cin.is_multiple_of(8), rows) {
        (true, 128) => (&kernels::CONV_FORWARD_128_VECTOR, 128),
        (true, _) => (&kernels::CONV_FORWARD_64_VECTOR, 64),
        (false, _) => (&kernels::CONV_FORWARD_64_ANY, 64),
    };
    let grid = [positions.div_ceil(rows) as u32, geometry.cout.div_ceil(COLUMNS) as u32, 1];
    gpu.launch(kernel, grid, 0, &[&out, &source, &weights, &scalars(&p)])
}
