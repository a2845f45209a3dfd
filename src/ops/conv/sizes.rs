//! What the launchers of this op have in common: sizes of buffers, and one argument.

use bytemuck::{Pod, Zeroable};

use crate::device::Slice;
use crate::error::{Error, Result};
use crate::ops::spike_conv::{DeviceGeometry, Geometry};

/// A buffer holds at least what will be touched.
pub(super) fn expect<T>(op: &str, what: &str, expected: usize, slice: Slice<T>) -> Result<()> {
    if slice.len() >= expected { Ok(()) } else { Err(Error::shape(format!("{op}: {what}"), expected, slice.len())) }
}

/// A number of elements or threads that kernels count in 32 bits.
pub(super) fn int(op: &str, what: &str, n: usize) -> Result<i32> {
    i32::try_from(n).map_err(|_| Error::shape(format!("{op}: {what}"), "less than 2^31", n))
}

pub(super) fn weights_of(geometry: &Geometry) -> usize {
    geometry.taps() * geometry.cin * geometry.cout
}

pub(super) fn pooled_positions(geometry: &Geometry) -> usize {
    geometry.pooled().iter().product()
}

pub(super) fn source_positions(geometry: &Geometry) -> usize {
    geometry.source.iter().product()
}

/// A geometry and whether to add to the output; field for field `struct Unpool` in `kernels/conv.cu` and `struct DataGradient` in
/// `kernels/conv_data_gradient.cu`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct Backward {
    pub geometry: DeviceGeometry,
    pub batch: i32,
    pub add: i32,
}
const _: () = assert!(size_of::<Backward>() == 68);
