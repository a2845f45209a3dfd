//! Launch geometry and arguments of `kernels/conv_data_gradient.cu`.

use super::sizes::{Backward, expect, int, pooled_positions};
use crate::device::{Gpu, Slice, kernels, scalars};
use crate::error::Result;
use crate::ops::spike_conv::Geometry;

/// Input channels of a tile of the data gradient.
const COLUMNS: usize = 64;

/// Tiles of `rows` source positions: those of one remainder by the stride after the other.
fn tiles(geometry: &Geometry, batch: usize, rows: usize) -> usize {
    let stride = geometry.stride;
    let count = |n: usize, remainder: usize| (n + stride - 1 - remainder) / stride;
    let [height, width] = geometry.pooled();
    let classes = (0..stride).flat_map(|y| (0..stride).map(move |x| (y, x)));
    classes.map(|(y, x)| (batch * count(height, y) * count(width, x)).div_ceil(rows)).sum()
}

/// Gradient of the (pooled) source, `[B][P_pooled][C_in]`, from that of the output, bf16 `[B][P_out][C_out]`, and the transposed weights
/// of [`crate::ops::spike_conv::transpose_weights`].
///
/// Sets `out`, or `adds` to it.
pub fn data_gradient(
    gpu: &Gpu,
    out: Slice<f32>,
    grad: Slice<u16>,
    weights: Slice<u32>,
    geometry: &Geometry,
    batch: usize,
    adds: bool,
) -> Result<()> {
    let blocks = tiles(geometry, batch, 128) * geometry.cin.div_ceil(COLUMNS);
    let rows = if blocks >= 2 * gpu.multiprocessors() as usize { 128 } else { 64 };
    data_gradient_in_tiles(gpu, out, grad, weights, geometry, batch, adds, rows)
}

/// The same in tiles of 128 or of 64 source positions: for speed only, the bits are the same.
pub fn data_gradient_in_tiles(
    gpu: &Gpu,
    out: Slice<f32>,
    grad: Slice<u16>,
    weights: Slice<u32>,
    geometry: &Geometry,
    batch: usize,
    adds: bool,
    rows: usize,
) -> Result<()> {
    const OP: &str = "data_gradient";
    let columns = geometry.cin.div_ceil(COLUMNS);
    let (outputs, inputs) = (batch * geometry.positions() * geometry.cout, batch * pooled_positions(geometry) * geometry.cin);
    expect(OP, "gradient of the source", inputs, out)?;
    expect(OP, "gradient", outputs, grad)?;
    expect(OP, "transposed weights", columns * geometry.taps() * geometry.cout.div_ceil(32) * 1024, weights)?;
    int(OP, "elements", outputs.max(inputs))?;
    let p = Backward { geometry: geometry.into(), batch: batch as i32, add: i32::from(adds) };
    let (kernel, rows) = match (geometry.cout.is_multiple_of(8), rows) {
        (true, 128) => (&kernels::DATA_GRADIENT_128_VECTOR, 128),
        (true, _) => (&kernels::DATA_GRADIENT_64_VECTOR, 64),
        (false, _) => (&kernels::DATA_GRADIENT_64_ANY, 64),
    };
    let grid = [tiles(geometry, batch, rows) as u32, columns as u32, 1];
    gpu.launch(kernel, grid, 0, &[&out, &grad, &weights, &scalars(&p)])
}
