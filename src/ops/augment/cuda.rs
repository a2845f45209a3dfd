//! Launch geometry and arguments of `kernels/augment.cu`; no arithmetic lives here.

use bytemuck::{Pod, Zeroable};

use crate::data::{Draw, Hole};
use crate::device::{Gpu, Slice, kernels, scalars};
use crate::error::{Error, Result};

/// An image of a buffer and what happens to it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct DeviceDraw {
    image: i32,
    top: i32,
    left: i32,
    flip: i32,
}

impl DeviceDraw {
    /// Image `image` of the buffer, cut and mirrored as drawn.
    pub fn new(image: usize, draw: Draw) -> Self {
        DeviceDraw { image: image as i32, top: draw.top as i32, left: draw.left as i32, flip: i32::from(draw.flip) }
    }
}

/// Field for field `struct Augment` in `kernels/augment.cu`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Augment {
    batch: i32,
    height: i32,
    width: i32,
    channels: i32,
    pad: i32,
}

/// What a batch is made of, on the device.
#[derive(Clone, Copy, Debug)]
pub struct Pictures {
    /// `[N][H][W][C]`.
    pub images: Slice<u8>,
    /// What to do with which image, `[B]`; without draws (none) the first B images are taken as they are.
    pub draws: Slice<DeviceDraw>,
    /// What is zero of each image of the batch, `[B]`, or none.
    pub holes: Slice<Hole>,
    /// [`crate::data::Pixels::table`], `[C][256]`.
    pub table: Slice<f32>,
}

/// A batch for the network, `[B][1][H][W][C]`: padded by `pad` pixels, cut and mirrored as drawn, with holes.
///
/// # Errors
/// [`Error::ShapeMismatch`] for a buffer that is too small, [`Error::Device`] if the launch fails.
pub fn augment(
    gpu: &Gpu,
    out: Slice<f32>,
    pictures: &Pictures,
    [height, width, channels]: [usize; 3],
    batch: usize,
    pad: usize,
) -> Result<()> {
    let Pictures { images, draws, holes, table } = pictures;
    let (image, drawn) = (height * width * channels, !draws.is_none());
    let expect = |what: &str, expected: usize, got: usize| {
        if got >= expected { Ok(()) } else { Err(Error::shape(format!("augment: {what}"), expected, got)) }
    };
    expect("output", batch * image, out.len())?;
    expect("images", if drawn { image } else { batch * image }, images.len())?;
    expect("draws", if drawn { batch } else { 0 }, draws.len())?;
    expect("holes", if holes.is_none() { 0 } else { batch }, holes.len())?;
    expect("table", channels * 256, table.len())?;
    let values = i32::try_from(batch * image).map_err(|_| Error::shape("augment: values", "less than 2^31", batch * image))?;
    let [batch, height, width, channels, pad] = [batch, height, width, channels, pad].map(|n| n as i32);
    let p = Augment { batch, height, width, channels, pad };
    let grid = [values.unsigned_abs().div_ceil(256), 1, 1];
    gpu.launch(&kernels::AUGMENT, grid, 0, &[&out, images, draws, holes, table, &scalars(&p)])
}
