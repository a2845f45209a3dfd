//! Ranges of device memory, and what a kernel can be given.

use std::marker::PhantomData;
use std::ops::Range;

use bytemuck::Pod;

/// A range of device memory: an address and a number of elements. A plain value: what it points into must outlive its use.
pub struct Slice<T> {
    address: u64,
    len: usize,
    element: PhantomData<T>,
}

impl<T> Slice<T> {
    /// A null pointer of no elements: an argument that is not there.
    pub const NONE: Slice<T> = Slice { address: 0, len: 0, element: PhantomData };

    /// The same as [`Slice::NONE`].
    pub const fn none() -> Self {
        Self::NONE
    }

    pub(super) fn at(address: u64, len: usize) -> Self {
        Slice { address, len, element: PhantomData }
    }

    /// The device's address of the first element, as a struct of pointers wants it.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether this is [`Slice::NONE`].
    pub fn is_none(&self) -> bool {
        self.address == 0
    }

    /// Bytes of all elements.
    pub fn bytes(&self) -> usize {
        self.len * size_of::<T>()
    }

    /// Some of the elements.
    ///
    /// # Panics
    /// If the range is not inside.
    pub fn part(&self, range: Range<usize>) -> Slice<T> {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} is not inside 0..{}", self.len);
        Slice::at(self.address + (range.start * size_of::<T>()) as u64, range.len())
    }

    /// The same bytes as elements of another type.
    ///
    /// # Panics
    /// If address or size do not fit the type.
    pub fn cast<U: Pod>(&self) -> Slice<U> {
        let fits = self.address.is_multiple_of(align_of::<U>() as u64) && self.bytes().is_multiple_of(size_of::<U>());
        assert!(fits, "{self:?} holds no whole elements of {} bytes", size_of::<U>());
        Slice::at(self.address, self.bytes() / size_of::<U>())
    }
}

impl<T> Clone for Slice<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Slice<T> {}

impl<T> Default for Slice<T> {
    fn default() -> Self {
        Self::NONE
    }
}

impl<T> std::fmt::Debug for Slice<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}[{}] at {:#x}", std::any::type_name::<T>(), self.len, self.address)
    }
}

/// An argument of a kernel.
///
/// # Safety
/// The bytes are those that the kernel's parameter has, padding included, at an address aligned as the parameter is.
pub unsafe trait Arg {
    fn bytes(&self) -> &[u8];
}

// SAFETY: a pointer parameter is the 8 bytes of an address.
unsafe impl<T> Arg for Slice<T> {
    fn bytes(&self) -> &[u8] {
        bytemuck::bytes_of(&self.address)
    }
}

macro_rules! scalar_arguments {
    ($($scalar:ty),*) => { $(
        // SAFETY: a number has the same bytes on both sides.
        unsafe impl Arg for $scalar {
            fn bytes(&self) -> &[u8] {
                bytemuck::bytes_of(self)
            }
        }
    )* };
}
scalar_arguments!(u32, i32, f32, u64, i64, f64);

/// A `#[repr(C)]` struct of scalars and addresses as one argument: see [`scalars`].
pub struct Scalars<'a, T>(&'a T);

/// `value` as one argument, passed by value; field for field the struct that the kernel takes.
pub fn scalars<T: Pod>(value: &T) -> Scalars<'_, T> {
    Scalars(value)
}

// SAFETY: `Pod` has no padding and no hidden layout; the kernel's struct mirrors it, and `launch` compares the sizes.
unsafe impl<T: Pod> Arg for Scalars<'_, T> {
    fn bytes(&self) -> &[u8] {
        bytemuck::bytes_of(self.0)
    }
}
