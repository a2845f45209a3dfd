//! Launch geometry and arguments of `kernels/augment_strided.cu`; no arithmetic lives here.

use std::ops::Range;
use std::sync::Arc;

use bytemuck::{Pod, Zeroable};

use crate::device::{Gpu, Slice, kernels, scalars};
use crate::error::{Error, Result};

/// Axes of an array: for images, samples, frames, and three of an image.
const AXES: usize = 5;

/// An array on a device by the shape of its axes and the steps between its elements. All of them lie in its memory, which must
/// outlive its use.
#[derive(Clone, Copy, Debug)]
pub struct Strided<T> {
    memory: Slice<T>,
    /// Place in the memory of the element whose indices are all 0.
    first: usize,
    shape: [usize; AXES],
    steps: [i64; AXES],
}

/// Images on a device, `[B][1 or T][H][W][C]` by the order of the axes.
#[derive(Clone, Copy, Debug)]
pub enum OnDevice {
    /// As the network takes them.
    Real(Strided<f32>),
    /// Bytes, for a device that knows what they stand for ([`crate::Network::look_up_by`]).
    Bytes(Strided<u8>),
}

impl OnDevice {
    /// Lengths of the axes.
    pub fn shape(&self) -> [usize; AXES] {
        match self {
            OnDevice::Real(values) => values.shape,
            OnDevice::Bytes(bytes) => bytes.shape,
        }
    }

    /// Some of the samples.
    ///
    /// # Panics
    /// As [`Strided::part`].
    pub fn part(&self, samples: Range<usize>) -> Self {
        match self {
            OnDevice::Real(values) => OnDevice::Real(values.part(samples)),
            OnDevice::Bytes(bytes) => OnDevice::Bytes(bytes.part(samples)),
        }
    }
}

/// Field for field `struct Strided` in `kernels/augment_strided.cu`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct StridedArgs {
    steps: [i64; AXES],
    shape: [i32; AXES],
    values: i32,
}
const _: () = assert!(size_of::<StridedArgs>() == 64);

/// How far the elements of an array reach from the one whose indices are all 0, in elements: to the lowest and to the highest address.
/// None for an array without elements, and for one that no memory can hold.
pub fn reach(shape: &[usize], steps: &[i64]) -> Option<[i64; 2]> {
    let mut reach = [0i64; 2];
    for (&len, &step) in shape.iter().zip(steps) {
        let far = i64::try_from(len.checked_sub(1)?).ok()?.checked_mul(step)?;
        let side = &mut reach[usize::from(far > 0)];
        *side = side.checked_add(far)?;
    }
    Some(reach)
}

impl<T: Pod> Strided<T> {
    /// An array whose element with the indices 0 is element `first` of `memory`; `steps` are in elements, and may be negative or 0.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] if an element lies outside of the memory, if there is none, or if there are 2^31 or more.
    pub fn new(memory: Slice<T>, first: usize, shape: [usize; AXES], steps: [i64; AXES]) -> Result<Self> {
        let outside = || Error::shape("a strided array", format!("inside of {} elements", memory.len()), (first, shape, steps));
        let [lowest, highest] = reach(&shape, &steps).ok_or_else(outside)?;
        let lowest = i64::try_from(first).ok().and_then(|first| first.checked_add(lowest));
        let highest = usize::try_from(highest).ok().and_then(|highest| first.checked_add(highest));
        if lowest.is_none_or(|lowest| lowest < 0) || highest.is_none_or(|highest| highest >= memory.len()) {
            return Err(outside());
        }
        let values = shape.iter().try_fold(1usize, |values, &len| values.checked_mul(len));
        if values.is_none_or(|values| i32::try_from(values).is_err()) {
            return Err(Error::shape("a strided array: elements", "less than 2^31", format!("{shape:?}")));
        }
        Ok(Strided { memory, first, shape, steps })
    }

    /// Lengths of the axes.
    pub fn shape(&self) -> [usize; AXES] {
        self.shape
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same elements with axis `order[k]` in place `k`; `order` has every axis once.
    pub fn with_axes(&self, order: [usize; AXES]) -> Self {
        Strided { shape: order.map(|axis| self.shape[axis]), steps: order.map(|axis| self.steps[axis]), ..*self }
    }

    /// Some indices of the first axis.
    ///
    /// # Panics
    /// If the range is empty or not inside.
    pub fn part(&self, range: Range<usize>) -> Self {
        assert!(range.start < range.end && range.end <= self.shape[0], "{range:?} is not inside 0..{}", self.shape[0]);
        let mut part = *self;
        part.first = self.first.wrapping_add_signed(range.start as isize * self.steps[0] as isize);
        part.shape[0] = range.len();
        part
    }

    /// The element of this number, the last axis fastest.
    fn element(&self, number: usize) -> Slice<T> {
        let (mut left, mut at) = (number, self.first);
        for (&len, &step) in self.shape.iter().zip(&self.steps).rev() {
            at = at.wrapping_add_signed((left % len) as isize * step as isize);
            left /= len;
        }
        self.memory.part(at..at + 1)
    }

    /// The kernel's arguments: where the element with the indices 0 is, and how to get from there to the others.
    fn args(&self) -> (Slice<T>, StridedArgs) {
        let Strided { memory, first, shape, steps } = *self;
        let args = StridedArgs { steps, shape: shape.map(|len| len as i32), values: self.len() as i32 };
        (memory.part(first..first + 1), args)
    }

    fn grid(&self) -> [u32; 3] {
        [self.len().div_ceil(256) as u32, 1, 1]
    }
}

/// Copies `factor` times the values of `from` to `out`, densely, the last axis fastest.
///
/// # Errors
/// [`Error::ShapeMismatch`] for a buffer that is too small, [`Error::Device`] if the launch fails; so do the others.
pub fn strided_values(gpu: &Gpu, out: Slice<f32>, from: &Strided<f32>, factor: f32) -> Result<()> {
    expect("output", from.len(), out.len())?;
    let (origin, args) = from.args();
    gpu.launch(&kernels::STRIDED_VALUES, from.grid(), 0, &[&out, &origin, &factor, &scalars(&args)])
}

/// Looks up the bytes of `from` in `table`, `[C][256]`, where the last axis is that of the C channels; `out` as above.
pub fn strided_bytes(gpu: &Gpu, out: Slice<f32>, from: &Strided<u8>, table: Slice<f32>) -> Result<()> {
    expect("output", from.len(), out.len())?;
    expect("table", from.shape[AXES - 1] * 256, table.len())?;
    let (origin, args) = from.args();
    gpu.launch(&kernels::STRIDED_BYTES, from.grid(), 0, &[&out, &origin, &table, &scalars(&args)])
}

/// The number of the first value that is not finite, the last axis fastest, and that value; waits for the device.
///
/// # Errors
/// [`Error::Device`] if the device fails.
pub fn strided_not_finite(gpu: &Arc<Gpu>, of: &Strided<f32>) -> Result<Option<(usize, f32)>> {
    let found = gpu.zeroed::<u32>(1)?;
    let (origin, args) = of.args();
    gpu.launch(&kernels::STRIDED_NOT_FINITE, of.grid(), 0, &[&found.slice(), &origin, &scalars(&args)])?;
    let mut left = [0u32];
    gpu.download(found.slice(), &mut left)?;
    if left[0] == 0 {
        return Ok(None);
    }
    let (number, mut value) = ((u32::MAX - left[0]) as usize, [0.0f32]);
    gpu.download(of.element(number), &mut value)?;
    Ok(Some((number, value[0])))
}

fn expect(what: &str, expected: usize, got: usize) -> Result<()> {
    if got >= expected { Ok(()) } else { Err(Error::shape(format!("a strided array: {what}"), expected, got)) }
}
