//! One CUDA device: its kernels, two streams, copies and launches.
//!
//! Kernels and most copies go to the compute stream, in order. The copy stream only brings host memory to the device while the
//! compute stream works; [`Gpu::after_copies`] and [`Gpu::after_compute`] make one wait for the other.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use bytemuck::Pod;
use cudarc::driver::sys::{self, CUdevice_attribute, CUresult};
use cudarc::driver::{CudaContext, CudaEvent, CudaStream, DriverError, result};

use super::dependent::{self, Early};
use super::driver::{self, Form, Listed, explain};
use super::graph::Kept;
use super::kernels::{self, Kernel};
use super::loaded::{Loaded, load};
use super::products::Products;
use super::slice::{Arg, Slice};
use crate::error::{Error, Result};

/// The first compute capability with the instructions that the kernels use (Ampere).
const OLDEST_CAPABILITY: (u32, u32) = (8, 0);

/// A CUDA device with all kernels loaded.
pub struct Gpu {
    ordinal: usize,
    listed: Listed,
    products: Products,
    pub(super) early: Early,
    /// While launches of a chain are made, which may begin early.
    pub(super) chains: AtomicBool,
    shared_limit: usize,
    pub(super) context: Arc<CudaContext>,
    pub(super) compute: Arc<CudaStream>,
    pub(super) copies: Arc<CudaStream>,
    compute_done: CudaEvent,
    copies_done: CudaEvent,
    pub(super) loaded: Arc<HashMap<&'static str, Loaded>>,
    /// While a graph is recorded, what has to live as long as it does.
    pub(super) kept: Mutex<Option<Vec<Kept>>>,
}

/// Adds what a driver alone would not mend.
fn and_without_kernels(error: Error) -> Error {
    match error {
        Error::Device { device, problem } if kernels::NVCC.is_none() => {
            let remedy = "scripts/install_cuda_toolchain.sh installs one, then build again";
            Error::device(
                device,
                format!("{problem}; besides, this binary was built without CUDA kernels, because no nvcc was found: {remedy}"),
            )
        }
        other => other,
    }
}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cuda:{} ({})", self.ordinal, self.listed.name)
    }
}

/// Whether the kernels of sm_90a are those that the driver takes for a device of this capability. Without nvcc there are none at all,
/// and whoever runs kernels then has his own.
fn has_warpgroups(capability: (u32, u32)) -> Result<bool> {
    let has_code = kernels::NVCC.is_none() || kernels::TARGETS.contains(&"sm_90");
    Ok(capability == (9, 0) && has_code && driver::form()? == Form::Code)
}

impl Gpu {
    /// Opens device `ordinal` and loads every kernel.
    ///
    /// # Errors
    /// [`Error::Device`]: no driver, driver too old, no such device, or one that this build has no kernels for.
    /// [`Error::Config`] for a value of `DSR_KERNELS`, `DSR_PRODUCTS`, `DSR_HOPPER` or `DSR_DEPENDENT_LAUNCH` that there is not, or that
    /// does not suit the device.
    pub fn open(ordinal: usize) -> Result<Arc<Gpu>> {
        let mut devices = driver::devices().map_err(and_without_kernels)?;
        if ordinal >= devices.len() {
            let names: Vec<String> = devices.iter().enumerate().map(|(index, device)| format!("cuda:{index} {}", device.name)).collect();
            let problem = format!("there is no such device; the driver lists {}: {}", names.len(), names.join(", "));
            return Err(Error::device(format!("cuda:{ordinal}"), problem));
        }
        let listed = devices.swap_remove(ordinal);
        let device = format!("cuda:{ordinal} ({})", listed.name);
        if listed.capability < OLDEST_CAPABILITY {
            let (major, minor) = listed.capability;
            let problem = format!("no kernels for compute capability {major}.{minor}: 8.0 (Ampere) or newer is needed; use --device cpu");
            return Err(Error::device(device, problem));
        }
        let products = Products::chosen(listed.capability, has_warpgroups(listed.capability)?)?;
        let failed = |doing: &str| {
            let (device, doing) = (device.clone(), doing.to_string());
            move |error| Error::device(device, format!("{doing} failed: {}", explain(error)))
        };
        let context = CudaContext::new(ordinal).map_err(failed("opening the device"))?;
        // SAFETY: streams are ordered by `after_copies` and `after_compute`; tracking by allocation would break graph capture.
        unsafe { context.disable_event_tracking() };
        let limit = context.attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
        let limit = limit.map_err(failed("asking for the shared memory"))?;
        let shared_limit = usize::try_from(limit).unwrap_or(0);
        let loaded = Arc::new(load(&context, &device, listed.capability)?);
        let early = Early::chosen(listed.capability, &loaded)?;
        Gpu::with_streams(ordinal, listed, products, early, shared_limit, context, loaded)
    }

    /// The same device with streams of its own, on which spikes are multiplied as `products`.
    ///
    /// # Errors
    /// [`Error::Device`] if the driver makes no streams.
    pub fn multiplying(&self, products: Products) -> Result<Arc<Gpu>> {
        self.with_own_streams(products, self.early)
    }

    pub(super) fn with_own_streams(&self, products: Products, early: Early) -> Result<Arc<Gpu>> {
        let Gpu { ordinal, listed, shared_limit, context, loaded, .. } = self;
        Gpu::with_streams(*ordinal, listed.clone(), products, early, *shared_limit, context.clone(), loaded.clone())
    }

    /// The same device with its kernels on another stream of it.
    pub(super) fn on(&self, compute: &Arc<CudaStream>) -> Result<Gpu> {
        let Gpu { ordinal, listed, products, early, shared_limit, context, copies, loaded, .. } = self;
        let event = || context.new_event(None).map_err(|e| self.failed("making an event", e));
        Ok(Gpu {
            ordinal: *ordinal,
            listed: listed.clone(),
            products: *products,
            early: *early,
            chains: AtomicBool::new(false),
            shared_limit: *shared_limit,
            context: context.clone(),
            compute: compute.clone(),
            copies: copies.clone(),
            compute_done: event()?,
            copies_done: event()?,
            loaded: loaded.clone(),
            kept: Mutex::new(None),
        })
    }

    fn with_streams(
        ordinal: usize,
        listed: Listed,
        products: Products,
        early: Early,
        shared_limit: usize,
        context: Arc<CudaContext>,
        loaded: Arc<HashMap<&'static str, Loaded>>,
    ) -> Result<Arc<Gpu>> {
        let failed = |doing: &'static str| {
            let device = format!("cuda:{ordinal} ({})", listed.name);
            move |error| Error::device(device, format!("{doing} failed: {}", explain(error)))
        };
        let stream = || context.new_stream().map_err(failed("making a stream"));
        let event = || context.new_event(None).map_err(failed("making an event"));
        let [compute, copies] = [stream()?, stream()?];
        let [compute_done, copies_done] = [event()?, event()?];
        Ok(Arc::new(Gpu {
            ordinal,
            listed,
            products,
            early,
            chains: AtomicBool::new(false),
            shared_limit,
            context,
            compute,
            copies,
            compute_done,
            copies_done,
            loaded,
            kept: Mutex::new(None),
        }))
    }

    /// As the driver calls it.
    pub fn name(&self) -> &str {
        &self.listed.name
    }

    /// Index among the devices of the driver.
    pub fn ordinal(&self) -> usize {
        self.ordinal
    }

    /// Compute capability, major and minor.
    pub fn capability(&self) -> (u32, u32) {
        self.listed.capability
    }

    /// Whether [`Products::Warpgroup`] can be had here.
    pub fn has_warpgroups(&self) -> bool {
        has_warpgroups(self.listed.capability).unwrap_or(false)
    }

    /// What spikes and weights are multiplied as, in layers whose sums are exact so.
    pub fn products(&self) -> Products {
        self.products
    }

    pub fn multiprocessors(&self) -> u32 {
        self.listed.multiprocessors
    }

    /// Clocks of the multiprocessors and of the memory in kHz, width of the memory's bus in bits.
    ///
    /// # Errors
    /// [`Error::Device`] if the driver does not say.
    pub fn clocks(&self) -> Result<[u32; 3]> {
        let attribute = |attribute| {
            let value = self.context.attribute(attribute).map_err(|e| self.failed("asking for the clocks", e))?;
            Ok(u32::try_from(value).unwrap_or(0))
        };
        Ok([
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)?,
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)?,
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)?,
        ])
    }

    /// Bytes of shared memory that one block can have.
    pub fn shared_limit(&self) -> usize {
        self.shared_limit
    }

    /// Free and total bytes.
    ///
    /// # Errors
    /// [`Error::Device`] if the driver does not say.
    pub fn memory(&self) -> Result<[usize; 2]> {
        let (free, total) = self.context.mem_get_info().map_err(|e| self.failed("asking for the free memory", e))?;
        Ok([free, total])
    }

    /// Puts a kernel on the compute stream: `grid` blocks, each with `shared_bytes` of dynamic shared memory. Without a block in the
    /// first direction, that of rows, there is none: so it is on a rank without samples.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] if (in debug builds) the arguments have not the sizes of the kernel's parameters.
    /// [`Error::Device`] with the name of the kernel if the driver refuses the launch.
    pub fn launch(&self, kernel: &Kernel, grid: [u32; 3], shared_bytes: usize, args: &[&dyn Arg]) -> Result<()> {
        if grid[0] == 0 {
            return Ok(());
        }
        let refused = |problem: String| {
            let (Kernel { name, block, .. }, [x, y, z]) = (kernel, grid);
            self.error(format!("kernel {name} (grid {x}x{y}x{z}, block {block}, shared memory {shared_bytes} bytes): {problem}"))
        };
        let loaded = self.loaded.get(kernel.name).ok_or_else(|| refused("is not in this build".into()))?;
        if let Some(expected) = &loaded.parameters {
            let got: Vec<usize> = args.iter().map(|arg| arg.bytes().len()).collect();
            if *expected != got {
                return Err(Error::shape(format!("arguments of kernel {} in bytes", kernel.name), expected, got));
            }
        }
        if shared_bytes > self.shared_limit {
            return Err(refused(format!("the device has {} bytes of shared memory for a block", self.shared_limit)));
        }
        self.bind()?;
        if shared_bytes > 0 {
            let asked = loaded.ask_for_shared(shared_bytes);
            asked.map_err(|e| refused(format!("has no room in shared memory: {}", explain(e))))?;
        }
        let mut pointers: Vec<*mut c_void> = args.iter().map(|arg| arg.bytes().as_ptr() as *mut c_void).collect();
        // SAFETY: `Arg` promises the bytes that the parameters have, and the driver copies them before it returns.
        // That the kernel stays inside its buffers is its launcher's to see to.
        let launched = unsafe {
            let (function, stream, shared) = (loaded.function.cu_function(), self.compute.cu_stream(), shared_bytes as u32);
            if self.begins_early(kernel) {
                dependent::launch(function, grid, kernel.block, shared, stream, &mut pointers)
            } else {
                result::launch_kernel(function, grid.into(), (kernel.block, 1, 1), shared, stream, &mut pointers)
            }
        };
        launched.map_err(|e| refused(explain(e)))
    }

    /// Copies host memory to the device; `from` may change afterwards.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] for unequal lengths, [`Error::Device`] if this or earlier work failed.
    pub fn upload<T: Pod>(&self, from: &[T], to: Slice<T>) -> Result<()> {
        self.check_lengths("upload", to.len(), from.len())?;
        if from.is_empty() {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: the lengths are equal, and `from` lives until the copy is done, which is waited for.
        let copied = unsafe { result::memcpy_htod_async(to.address(), from, self.compute.cu_stream()) };
        copied.map_err(|e| self.failed("copying to the device", e))?;
        self.finish_compute()
    }

    /// Copies device memory to the host, after all work so far.
    ///
    /// # Errors
    /// As [`Gpu::upload`].
    pub fn download<T: Pod>(&self, from: Slice<T>, to: &mut [T]) -> Result<()> {
        self.check_lengths("download", from.len(), to.len())?;
        if to.is_empty() {
            return self.finish_compute();
        }
        self.bind()?;
        // SAFETY: as in `upload`.
        let copied = unsafe { result::memcpy_dtoh_async(to, from.address(), self.compute.cu_stream()) };
        copied.map_err(|e| self.failed("copying to the host", e))?;
        self.finish_compute()
    }

    /// Sets every byte to zero, on the compute stream.
    ///
    /// # Errors
    /// [`Error::Device`] if the driver refuses.
    pub fn fill_zero<T: Pod>(&self, to: Slice<T>) -> Result<()> {
        if to.is_empty() {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: the range is device memory, by `Slice`.
        let filled = unsafe { result::memset_d8_async(to.address(), 0, to.bytes(), self.compute.cu_stream()) };
        filled.map_err(|e| self.failed("clearing device memory", e))
    }

    /// Copies device memory to device memory, on the compute stream.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] for unequal lengths, [`Error::Device`] if the driver refuses.
    pub fn copy<T: Pod>(&self, from: Slice<T>, to: Slice<T>) -> Result<()> {
        self.check_lengths("copy", to.len(), from.len())?;
        if from.is_empty() {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: both ranges are device memory of this size, by `Slice`.
        let copied = unsafe { result::memcpy_dtod_async(to.address(), from.address(), from.bytes(), self.compute.cu_stream()) };
        copied.map_err(|e| self.failed("copying on the device", e))
    }

    /// What is put on the compute stream from now on waits for the copies that were started so far.
    ///
    /// # Errors
    /// [`Error::Device`] if the driver refuses, as it does inside [`Gpu::capture`].
    pub fn after_copies(&self) -> Result<()> {
        let waits = self.copies_done.record(&self.copies).and_then(|()| self.compute.wait(&self.copies_done));
        waits.map_err(|e| self.failed("waiting for copies", e))
    }

    /// Copies that are started from now on wait for what is on the compute stream so far.
    ///
    /// # Errors
    /// As [`Gpu::after_copies`].
    pub fn after_compute(&self) -> Result<()> {
        let waits = self.compute_done.record(&self.compute).and_then(|()| self.copies.wait(&self.compute_done));
        waits.map_err(|e| self.failed("waiting for kernels", e))
    }

    /// Waits for the compute stream alone: what is copied for a later step goes on.
    fn finish_compute(&self) -> Result<()> {
        self.compute.synchronize().map_err(|e| self.failed("waiting for the device", e))
    }

    /// Waits for both streams.
    ///
    /// # Errors
    /// [`Error::Device`] if anything that they did has failed.
    pub fn synchronize(&self) -> Result<()> {
        let finished = self.copies.synchronize().and_then(|()| self.compute.synchronize());
        finished.map_err(|e| self.failed("waiting for the device", e))
    }

    /// Seconds that the device takes for what `body` puts on the compute stream, by marks before and behind it; waits for its end.
    ///
    /// # Errors
    /// Those of `body`, and [`Error::Device`] if the device fails.
    pub fn time(&self, body: impl FnOnce() -> Result<()>) -> Result<f64> {
        let mark = || {
            let event =
                self.context.new_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT)).map_err(|e| self.failed("making an event", e))?;
            event.record(&self.compute).map_err(|e| self.failed("marking the stream", e))?;
            Ok(event)
        };
        let begin = mark()?;
        body()?;
        let milliseconds = begin.elapsed_ms(&mark()?).map_err(|e| self.failed("timing kernels", e))?;
        Ok(f64::from(milliseconds) / 1e3)
    }

    pub(super) fn bind(&self) -> Result<()> {
        self.context.bind_to_thread().map_err(|e| self.failed("an earlier call", e))
    }

    fn check_lengths(&self, what: &str, device: usize, host: usize) -> Result<()> {
        if device == host { Ok(()) } else { Err(Error::shape(what, device, host)) }
    }

    pub(super) fn failed(&self, doing: &str, error: DriverError) -> Error {
        let what = explain(error);
        match error.0 {
            fault if driver::is_fault(fault) => {
                self.error(format!("an earlier kernel failed, as {doing} shows: {what}; CUDA_LAUNCH_BLOCKING=1 names the kernel"))
            }
            CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED | CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED => {
                self.error(format!("{doing} cannot be part of a graph: {what}"))
            }
            _ => self.error(format!("{doing} failed: {what}")),
        }
    }

    pub(super) fn error(&self, problem: String) -> Error {
        Error::device(format!("{self:?}"), problem)
    }
}
