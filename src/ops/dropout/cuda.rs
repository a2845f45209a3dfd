//! Launch geometry and arguments of `kernels/dropout.cu`; no arithmetic lives here.

use bytemuck::{Pod, Zeroable};

use crate::device::{Gpu, Slice, kernels, scalars};
use crate::error::Result;
use crate::ops::optimizer::cuda::StepParameters;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Scalars {
    positions: i32,
    channels: i32,
    layer: u32,
    share: f32,
    first_sample: u32,
}

/// Draws the mask `[B][P][words]` of layer `index` of the network; a share of `share` of its neurons is dropped. Sample 0 is the one at
/// place `first` of the batch.
///
/// # Errors
/// [`crate::error::Error::Device`] if the launch fails.
pub fn draw(
    gpu: &Gpu,
    dropped: Slice<u32>,
    parameters: Slice<StepParameters>,
    index: usize,
    first: usize,
    [batch, positions, channels]: [usize; 3],
    share: f32,
) -> Result<()> {
    if batch == 0 {
        return Ok(());
    }
    let p = Scalars { positions: positions as i32, channels: channels as i32, layer: index as u32, share, first_sample: first as u32 };
    let grid = [(positions * channels.div_ceil(32)).div_ceil(256) as u32, batch as u32, 1];
    gpu.launch(&kernels::DRAW_DROPPED, grid, 0, &[&dropped, &parameters, &scalars(&p)])
}
