//! Memory of a device and page-locked memory of the host: taking it, giving it back, and copies that the host does not wait for.

use std::ffi::c_void;
use std::sync::Arc;

use bytemuck::Pod;
use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaEvent, DriverError, result};

use super::gpu::Gpu;
use super::slice::Slice;
use crate::error::{Error, Result};

/// A mark in a stream, which another stream or the host can wait for; without effect until it is set.
#[derive(Debug)]
pub struct Mark(CudaEvent);

/// An allocation of its own; freed when dropped.
#[derive(Debug)]
pub struct Memory<T> {
    gpu: Arc<Gpu>,
    slice: Slice<T>,
}

impl<T: Pod> Memory<T> {
    fn new(gpu: Arc<Gpu>, slice: Slice<T>) -> Self {
        Memory { gpu, slice }
    }

    /// All of it; valid while this lives.
    pub fn slice(&self) -> Slice<T> {
        self.slice
    }

    /// A copy on the host, after all work so far.
    ///
    /// # Errors
    /// [`crate::error::Error::Device`] if work so far has failed.
    pub fn to_vec(&self) -> Result<Vec<T>> {
        let mut host = vec![T::zeroed(); self.slice.len()];
        self.gpu.download(self.slice, &mut host)?;
        Ok(host)
    }
}

impl<T> Drop for Memory<T> {
    fn drop(&mut self) {
        self.gpu.free(self.slice.address());
    }
}

/// Host memory that the device copies from, or to ([`Arriving`]), while the host goes on.
///
/// Reading or writing it on the host waits for the copies that were started from it.
#[derive(Debug)]
pub struct Pinned<T> {
    gpu: Arc<Gpu>,
    start: *mut T,
    len: usize,
    copied: Mark,
}

// SAFETY: this owns what it points to, as a `Vec` does.
unsafe impl<T: Send> Send for Pinned<T> {}
// SAFETY: shared access only reads.
unsafe impl<T: Sync> Sync for Pinned<T> {}

impl<T: Pod> Pinned<T> {
    /// `len` elements, all zero.
    ///
    /// # Errors
    /// [`crate::error::Error::Device`] if the host has not so much memory to lock.
    pub fn alloc(gpu: &Arc<Gpu>, len: usize) -> Result<Self> {
        let copied = gpu.mark()?;
        let start = gpu.alloc_host(len * size_of::<T>())?.cast::<T>();
        // SAFETY: the allocation has this size and the alignment of a page; all bits zero is a valid `T: Pod`.
        unsafe { start.write_bytes(0, len) };
        Ok(Pinned { gpu: gpu.clone(), start, len, copied })
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn as_slice(&self) -> &[T] {
        // SAFETY: `len` initialised elements that only `as_mut_slice` changes; the device only reads them.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }

    /// The elements, after the copies that were started from them.
    ///
    /// # Errors
    /// [`crate::error::Error::Device`] if work so far has failed.
    pub fn as_mut_slice(&mut self) -> Result<&mut [T]> {
        self.gpu.wait_for(&self.copied)?;
        // SAFETY: as in `as_slice`; no copy reads them any more, and `&mut self` keeps new ones away.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.start, self.len) })
    }

    fn copied(&self) -> &Mark {
        &self.copied
    }
}

/// Values on their way from the device to page-locked memory; looking at them waits for them.
#[derive(Debug)]
pub struct Arriving<T> {
    pinned: Pinned<T>,
    len: usize,
}

impl<T: Pod> Arriving<T> {
    /// Room for `len` elements.
    ///
    /// # Errors
    /// As [`Pinned::alloc`].
    pub fn alloc(gpu: &Arc<Gpu>, len: usize) -> Result<Self> {
        Ok(Arriving { pinned: Pinned::alloc(gpu, len)?, len: 0 })
    }

    /// What [`Gpu::fetch`] has started to copy last.
    ///
    /// # Errors
    /// [`crate::error::Error::Device`] if work so far has failed.
    pub fn wait(&mut self) -> Result<&[T]> {
        let len = self.len;
        Ok(&self.pinned.as_mut_slice()?[..len])
    }
}

impl<T> Drop for Pinned<T> {
    fn drop(&mut self) {
        self.gpu.free_host(self.start.cast(), &self.copied);
    }
}

impl Gpu {
    /// Starts to copy the first `to.len()` elements of `from`, on the copy stream, and returns at once.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] if `from` is shorter than `to`, [`Error::Device`] if the driver refuses.
    pub fn upload_async<T: Pod>(&self, from: &Pinned<T>, to: Slice<T>) -> Result<()> {
        let host = from.as_slice();
        let host = host.get(..to.len()).ok_or_else(|| Error::shape("upload_async", to.len(), host.len()))?;
        if host.is_empty() {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: the lengths are equal; `Pinned` waits for `copied` before it lets go of the memory or gives it out for writing.
        let started = unsafe { result::memcpy_htod_async(to.address(), host, self.copies.cu_stream()) };
        let started = started.and_then(|()| from.copied().0.record(&self.copies));
        started.map_err(|e| self.failed("copying to the device", e))
    }

    /// Sets a mark behind what is on the compute stream so far.
    ///
    /// # Errors
    /// [`Error::Device`] if the driver refuses; so do the next two.
    pub fn set(&self, mark: &Mark) -> Result<()> {
        mark.0.record(&self.compute).map_err(|e| self.failed("marking the stream", e))
    }

    /// Copies that are started from now on wait for the mark.
    pub fn copies_after(&self, mark: &Mark) -> Result<()> {
        self.copies.wait(&mark.0).map_err(|e| self.failed("waiting for kernels", e))
    }

    /// Starts to copy `from` to the host, behind what is on the compute stream, and returns at once.
    pub fn fetch<T: Pod>(&self, from: Slice<T>, to: &mut Arriving<T>) -> Result<()> {
        let room = to.pinned.len();
        if from.len() > room {
            return Err(Error::shape("fetch", format!("at most {room}"), from.len()));
        }
        to.len = from.len();
        if from.is_empty() {
            return Ok(());
        }
        let host = &mut to.pinned.as_mut_slice()?[..from.len()];
        self.bind()?;
        // SAFETY: the lengths are equal; `Arriving` waits for `copied` before it lets go of the memory or gives it out.
        let started = unsafe { result::memcpy_dtoh_async(host, from.address(), self.compute.cu_stream()) };
        let started = started.and_then(|()| to.pinned.copied().0.record(&self.compute));
        started.map_err(|e| self.failed("copying to the host", e))
    }

    /// An allocation of its own with a copy of `from`: for tests and small tables.
    ///
    /// # Errors
    /// [`Error::Device`] if there is not so much memory.
    pub fn memory_of<T: Pod>(self: &Arc<Self>, from: &[T]) -> Result<Memory<T>> {
        let memory = self.allocate(from.len())?;
        self.upload(from, memory.slice())?;
        Ok(memory)
    }

    /// An allocation of its own, all zero.
    ///
    /// # Errors
    /// [`Error::Device`] if there is not so much memory: it says how much was asked for, and how much is free.
    pub fn zeroed<T: Pod>(self: &Arc<Self>, len: usize) -> Result<Memory<T>> {
        let memory = self.allocate(len)?;
        self.fill_zero(memory.slice())?;
        Ok(memory)
    }

    fn allocate<T: Pod>(self: &Arc<Self>, len: usize) -> Result<Memory<T>> {
        if len == 0 {
            return Ok(Memory::new(self.clone(), Slice::NONE));
        }
        Ok(Memory::new(self.clone(), self.malloc(len)?))
    }

    /// Memory of some elements, for who frees it.
    pub(super) fn malloc<T: Pod>(&self, len: usize) -> Result<Slice<T>> {
        self.bind()?;
        let bytes = len.saturating_mul(size_of::<T>());
        // SAFETY: the number of bytes is not zero; whoever asks frees them.
        match unsafe { result::malloc_sync(bytes) } {
            Ok(address) => Ok(Slice::at(address, len)),
            Err(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                let [free, total] = self.memory()?.map(mib);
                let asked = mib(bytes);
                let remedy = "use a smaller batch (-b) or fewer time steps (-T)";
                Err(self.error(format!("out of memory: asked for {asked}, and {free} of {total} are free; {remedy}")))
            }
            Err(error) => Err(self.failed("allocating device memory", error)),
        }
    }

    /// Gives memory back when nothing uses it any more. What fails here is reported by the next call, as cudarc does.
    fn free(&self, address: u64) {
        if address != 0 {
            let ready = self.context.bind_to_thread().and_then(|()| self.copies.synchronize()).and_then(|()| self.compute.synchronize());
            self.context.record_err(ready);
            // SAFETY: `Memory` owns the address, and no stream is at work.
            self.context.record_err(unsafe { result::free_sync(address) });
        }
    }

    /// A mark that is not set yet.
    ///
    /// # Errors
    /// [`Error::Device`] if the driver has none left.
    pub fn mark(&self) -> Result<Mark> {
        self.context.new_event(None).map(Mark).map_err(|e| self.failed("making an event", e))
    }

    /// Waits until the stream has passed the mark; at once if it was never set.
    fn wait_for(&self, event: &Mark) -> Result<()> {
        event.0.synchronize().map_err(|e| self.failed("waiting for the device", e))
    }

    fn alloc_host(&self, bytes: usize) -> Result<*mut c_void> {
        self.bind()?;
        // SAFETY: the number of bytes is not zero; `Pinned` frees them.
        let start = unsafe { result::malloc_host(bytes.max(1), 0) };
        start.map_err(|e| self.failed(&format!("locking {} of host memory", mib(bytes)), e))
    }

    fn free_host(&self, start: *mut c_void, copied: &Mark) {
        self.context.record_err(copied.0.synchronize());
        // SAFETY: `Pinned` owns it, and no copy reads it any more.
        self.context.record_err(unsafe { result::free_host(start) });
    }
}

/// Bytes for people.
fn mib(bytes: usize) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
