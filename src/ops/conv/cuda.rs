//! stub
use crate::device::{Gpu, Slice};
use crate::error::{Error, Result};
use crate::ops::spike_conv::Geometry;
#[derive(Clone, Copy, Debug)]
pub enum Operand {
    Counts(Slice<u8>),
    Totals(Slice<u16>),
    RealSum { input: Slice<f32>, frames: usize },
    Bits { bits: Slice<u32>, steps: usize },
    PooledSteps { counts: Slice<u8>, steps: usize },
    Real { input: Slice<f32>, frames: usize },
}
fn no() -> Result<()> {
    Err(Error::config("conv", "stub"))
}
pub fn conv_real(_: &Gpu, _: Slice<f32>, _: Slice<f32>, _: Slice<f32>, _: &Geometry, _: usize, _: [usize; 2]) -> Result<()> {
    no()
}
pub fn copy_real(_: &Gpu, _: Slice<f32>, _: Slice<f32>, _: &Geometry, _: [usize; 2]) -> Result<()> {
    no()
}
pub fn data_gradient(_: &Gpu, _: Slice<f32>, _: Slice<u16>, _: Slice<u32>, _: &Geometry, _: usize, _: bool) -> Result<()> {
    no()
}
pub fn unpool_add(_: &Gpu, _: Slice<f32>, _: Slice<f32>, _: &Geometry, _: usize, _: bool) -> Result<()> {
    no()
}
pub fn weight_gradient(
    _: &Gpu,
    _: Slice<f32>,
    _: Operand,
    _: Slice<u16>,
    _: &Geometry,
    _: usize,
    _: usize,
    _: Slice<f32>,
    _: f32,
    _: Slice<f32>,
) -> Result<()> {
    no()
}
pub fn weight_gradient_workspace(_: &Geometry, _: usize) -> usize {
    1
}
pub fn subtract_outer(_: &Gpu, _: Slice<f32>, _: Slice<f32>, _: Slice<f32>, _: &Geometry, _: usize) -> Result<()> {
    no()
}
