//! Launch geometry and arguments of `kernels/slices.cu`; no arithmetic lives here.

use bytemuck::{Pod, Zeroable};

use super::{Added, Slices};
use crate::device::{Gpu, Slice, kernels, scalars};
use crate::error::{Error, Result};

const OP: &str = "slices";

fn expect<T>(what: &str, expected: usize, got: Slice<T>) -> Result<()> {
    if got.len() < expected { Err(Error::shape(format!("{OP}: {what}"), expected, got.len())) } else { Ok(()) }
}

/// Adds up what another kernel has left in parts, `[quantities][blocks][C]`, to `[quantities][C]`.
///
/// # Errors
/// [`Error::ShapeMismatch`] for a buffer that is too small, [`Error::Device`] if the launch fails; so do all functions here.
pub fn slice_sums(gpu: &Gpu, sums: Slice<f64>, parts: Slice<f64>, [quantities, blocks, channels]: [usize; 3]) -> Result<()> {
    expect("parts", quantities * blocks * channels, parts)?;
    expect("sums", quantities * channels, sums)?;
    let grid = [channels.div_ceil(32) as u32, quantities as u32, 1];
    gpu.launch(&kernels::SLICE_SUMS, grid, 0, &[&sums, &parts, &(blocks as i32), &(channels as i32)])
}

/// Field for field `struct Samples` in `kernels/slices.cu`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct SampleArgs {
    batch: i32,
    slice: i32,
    len: i32,
}

/// Adds up `[B][len]` over the samples of each slice of `slice` samples, to `[slices][len]`.
pub fn sample_sums(gpu: &Gpu, sums: Slice<f64>, samples: Slice<f64>, [batch, slice, len]: [usize; 3]) -> Result<()> {
    let slices = batch.div_ceil(slice.max(1));
    expect("values of samples", batch * len, samples)?;
    expect("sums of samples", slices * len, sums)?;
    if slices == 0 {
        return Ok(());
    }
    let p = SampleArgs { batch: batch as i32, slice: slice as i32, len: len as i32 };
    gpu.launch(&kernels::SAMPLE_SUMS, [len.div_ceil(256) as u32, slices as u32, 1], 0, &[&sums, &samples, &scalars(&p)])
}

/// Field for field `struct Tree` in `kernels/slices.cu`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct TreeArgs {
    len: i64,
    slices: i32,
    present: i32,
    ranks: i32,
    rank: i32,
    base: i32,
    padding: i32,
}
const _: () = assert!(size_of::<TreeArgs>() == 32);

impl TreeArgs {
    fn new(len: usize, slices: &Slices, added: Added, base: usize) -> Self {
        TreeArgs {
            len: len as i64,
            slices: slices.all as i32,
            present: slices.present as i32,
            ranks: slices.ranks as i32,
            rank: match added {
                Added::Own(rank) => rank as i32,
                Added::Across => -1,
            },
            base: base as i32,
            padding: 0,
        }
    }
}

fn grid(len: usize) -> [u32; 3] {
    [len.div_ceil(256) as u32, 1, 1]
}

/// Adds up `values`, `[slices][len]` from slice `base` on, in place, as [`super::add_slices`]; what then stands first is added to `into`,
/// unless that is none.
pub fn add_f32(gpu: &Gpu, values: Slice<f32>, into: Slice<f32>, len: usize, slices: &Slices, added: Added, base: usize) -> Result<()> {
    if len == 0 {
        return Ok(());
    }
    gpu.launch(&kernels::TREE_F32, grid(len), 0, &[&values, &into, &scalars(&TreeArgs::new(len, slices, added, base))])
}

/// The same in f64.
pub fn add_f64(gpu: &Gpu, values: Slice<f64>, into: Slice<f64>, len: usize, slices: &Slices, added: Added, base: usize) -> Result<()> {
    if len == 0 {
        return Ok(());
    }
    gpu.launch(&kernels::TREE_F64, grid(len), 0, &[&values, &into, &scalars(&TreeArgs::new(len, slices, added, base))])
}
