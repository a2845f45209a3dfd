//! Memory that passes between this program and others in its process: what they lend, and what they are given.

use std::sync::Arc;

use bytemuck::Pod;
use cudarc::driver::sys::{self, CUmemorytype, CUpointer_attribute, CUresult};
use cudarc::driver::{CudaContext, DriverError, result};

use super::driver;
use super::gpu::Gpu;
use super::slice::Slice;
use crate::error::{Error, Result};

/// An allocation that others may use, too; freed when dropped, by any thread, whatever the streams of this program are at.
#[derive(Debug)]
pub struct Given<T> {
    context: Arc<CudaContext>,
    slice: Slice<T>,
}

impl<T> Given<T> {
    /// All of it; valid while this lives.
    pub fn slice(&self) -> Slice<T> {
        self.slice
    }
}

impl<T> Drop for Given<T> {
    fn drop(&mut self) {
        // Whoever drops it, such as another program's last tensor, goes on with the device that it had.
        keeping_current(|| {
            self.context.record_err(self.context.bind_to_thread());
            // SAFETY: this owns the address, and the driver waits for the work that uses it.
            self.context.record_err(unsafe { result::free_sync(self.slice.address()) });
        });
    }
}

/// Runs `body`, which may make a device current for this thread; afterwards that of before is current again. Other programs in the process
/// take the current device for theirs.
pub fn keeping_current<T>(body: impl FnOnce() -> T) -> T {
    let before = driver::is_there().then(result::ctx::get_current).and_then(std::result::Result::ok);
    let done = body();
    if let Some(before) = before {
        // SAFETY: a context that was current a moment ago, or none. A failure leaves what `body` made current, as without this.
        let _ = unsafe { result::ctx::set_current(before.unwrap_or(std::ptr::null_mut())) };
    }
    done
}

impl Gpu {
    /// Runs `body` where this device is current for the thread; afterwards that of before is.
    ///
    /// # Errors
    /// [`Error::Device`] if the driver fails.
    pub fn while_current<T>(&self, body: impl FnOnce() -> T) -> Result<T> {
        keeping_current(|| self.bind().map(|()| body()))
    }

    /// The driver's handle of the copy stream, as a number: who lends memory makes this stream wait for what still writes it
    /// (`stream` of DLPack's `__dlpack__`), and [`Gpu::after_copies`] then the kernels. It is never captured.
    pub fn lenders_stream(&self) -> usize {
        self.copies.cu_stream() as usize
    }

    /// `len` elements from `address` on, of memory that another program has on this device; none where it is of another device or
    /// context.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] if the address does not suit the type, or not all of it is memory of the device: what others say of their
    /// memory is not believed. [`Error::Device`] if the driver fails.
    ///
    /// # Safety
    /// The memory is freed only when no stream reads it any more.
    pub unsafe fn lent<T: Pod>(&self, address: u64, len: usize) -> Result<Option<Slice<T>>> {
        let wrong = |expected: &str, got: String| {
            let op = format!("memory at {address:#x} that is lent to {self:?}");
            Err(Error::ShapeMismatch { op, expected: expected.into(), got })
        };
        let end = len.checked_mul(size_of::<T>()).and_then(|bytes| address.checked_add(bytes as u64));
        let Some(end) = end.filter(|end| *end > address) else {
            return wrong("some elements", format!("{len}"));
        };
        if !address.is_multiple_of(align_of::<T>() as u64) {
            return wrong("an address of whole elements", format!("one that is no multiple of {}", align_of::<T>()));
        }
        keeping_current(|| self.lent_here(address, len, end))
    }

    fn lent_here<T: Pod>(&self, address: u64, len: usize, end: u64) -> Result<Option<Slice<T>>> {
        let wrong = |expected: &str, got: String| {
            let op = format!("memory at {address:#x} that is lent to {self:?}");
            Err(Error::ShapeMismatch { op, expected: expected.into(), got })
        };
        self.bind()?;
        // Allocations may lie side by side, as those of programs that map their memory piece by piece do.
        let mut known = address;
        while known < end {
            let Some(kind) = self.attribute::<u32>(CUpointer_attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE, known)? else {
                return wrong("memory of the device", format!("{} of {} bytes", known - address, end - address));
            };
            if kind != CUmemorytype::CU_MEMORYTYPE_DEVICE as u32 {
                return wrong("memory of the device", "memory of the host".into());
            }
            if !self.has(known)? {
                return Ok(None);
            }
            let (mut start, mut bytes) = (0, 0);
            // SAFETY: writes two numbers; the driver knows the address.
            let range = unsafe { sys::cuMemGetAddressRange_v2(&mut start, &mut bytes, known) };
            range.result().map_err(|e| self.failed("asking for an allocation", e))?;
            match start.checked_add(bytes as u64) {
                Some(behind) if behind > known => known = behind,
                _ => return wrong("memory of the device", "an allocation of no bytes".into()),
            }
        }
        Ok(Some(Slice::at(address, len)))
    }

    /// Whether an address is of this device and, where memory has one, of this context.
    fn has(&self, address: u64) -> Result<bool> {
        let ordinal = self.attribute::<i32>(CUpointer_attribute::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, address)?;
        let context = self.attribute::<usize>(CUpointer_attribute::CU_POINTER_ATTRIBUTE_CONTEXT, address)?;
        let is_own = context.is_none_or(|context| context == 0 || context == self.context.cu_ctx() as usize);
        Ok(is_own && ordinal.is_none_or(|ordinal| ordinal as usize == self.ordinal()))
    }

    /// What the driver knows of an address; none if it is of no memory that the driver has.
    fn attribute<T: Pod>(&self, attribute: CUpointer_attribute, address: u64) -> Result<Option<T>> {
        let mut value = T::zeroed();
        // SAFETY: `T` has the size of the attribute's value, which is written there.
        let status = unsafe { sys::cuPointerGetAttribute((&raw mut value).cast(), attribute, address) };
        match status.result() {
            Ok(()) => Ok(Some(value)),
            Err(DriverError(CUresult::CUDA_ERROR_INVALID_VALUE)) => Ok(None),
            Err(error) => Err(self.failed("asking whose memory an address is", error)),
        }
    }

    /// An allocation of `len` elements for others, whose bytes are not set.
    ///
    /// # Errors
    /// [`Error::Device`] if there is not so much memory, [`Error::ShapeMismatch`] for no elements.
    pub fn given<T: Pod>(&self, len: usize) -> Result<Given<T>> {
        if len == 0 {
            return Err(Error::shape("memory for others", "some elements", 0));
        }
        Ok(Given { context: self.context.clone(), slice: self.malloc(len)? })
    }
}
