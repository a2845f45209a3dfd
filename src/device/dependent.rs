//! Kernels that may begin while the one before them still runs: programmatic dependent launch, which compute capability 9.0 and newer
//! have (`kernels/include/dependent.cuh` has the rules).
//!
//! Only kernels that wait for the one before them are launched so; every other is a plain launch, behind all that came before it. Then
//! memory is as if each began when the one before has ended. In a recorded graph the edges to such kernels are programmatic.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cudarc::driver::DriverError;
use cudarc::driver::sys::{self, CUfunction, CUfunction_attribute, CUlaunchAttributeID, CUlaunchConfig, CUstream};

use super::driver::{self, Form};
use super::gpu::Gpu;
use super::kernels::{self, Kernel};
use super::loaded::Loaded;
use crate::error::{Error, Result};

/// The first compute capability that has it.
const OLDEST_CAPABILITY: (u32, u32) = (9, 0);
/// The first driver whose graphs have edges of this kind.
const OLDEST_DRIVER: i32 = 12030;

/// Whether kernels of a device may begin early.
#[derive(Clone, Copy, Debug)]
pub(super) struct Early {
    is_possible: bool,
    is_wanted: bool,
}

impl Early {
    /// What `DSR_DEPENDENT_LAUNCH` in the environment asks for, of a device with these kernels on it.
    ///
    /// # Errors
    /// [`Error::Config`] for another value than 0 and 1, and for 1 where the device has none of it; [`Error::Device`] if the driver does
    /// not say what it has.
    pub fn chosen(capability: (u32, u32), loaded: &HashMap<&'static str, Loaded>) -> Result<Early> {
        let missing = missing(capability, loaded)?;
        let is_wanted = match (std::env::var("DSR_DEPENDENT_LAUNCH").unwrap_or_default().as_str(), &missing) {
            ("" | "0", _) => false,
            ("1", None) => true,
            ("1", Some(reason)) => return Err(Error::config("DSR_DEPENDENT_LAUNCH", format!("1 {reason}"))),
            (other, _) => return Err(Error::config("DSR_DEPENDENT_LAUNCH", format!("{other:?} is neither 0 nor 1"))),
        };
        Ok(Early { is_possible: missing.is_none(), is_wanted })
    }
}

/// What a device lacks; none where kernels can begin early. The virtual architecture counts that they were compiled for: below 9.0 they
/// have no waits, whatever the device is, and launched early they would read what is not yet written.
fn missing((major, minor): (u32, u32), loaded: &HashMap<&'static str, Loaded>) -> Result<Option<String>> {
    if (major, minor) < OLDEST_CAPABILITY {
        return Ok(Some(format!("needs a device of compute capability 9.0 or newer; the device has {major}.{minor}")));
    }
    let version = driver::version()?;
    if version < OLDEST_DRIVER {
        let (needed, found) = (driver::dotted(OLDEST_DRIVER), driver::dotted(version));
        return Ok(Some(format!("needs a driver for CUDA {needed} or newer; this one is for {found}")));
    }
    let waits = kernels::ALL.iter().filter(|kernel| kernel.waits).filter_map(|kernel| loaded.get(kernel.name));
    let are_for_it = driver::form()? == Form::Code && waits.map(compiled_for).all(|version| version >= 90);
    let why = "needs machine code made for compute capability 9.0 or newer; the device has the PTX of 8.0";
    Ok((!are_for_it).then(|| why.into()))
}

/// The virtual architecture that a kernel was compiled for, 90 for 9.0; 0 where the driver does not say.
fn compiled_for(loaded: &Loaded) -> i32 {
    let mut version = 0;
    let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_PTX_VERSION;
    // SAFETY: writes one number, of a function that is loaded.
    let status = unsafe { sys::cuFuncGetAttribute(&mut version, attribute, loaded.function.cu_function()) };
    status.result().map_or(0, |()| version)
}

impl Gpu {
    /// Whether kernels can begin early here.
    pub fn can_launch_early(&self) -> bool {
        self.early.is_possible
    }

    /// Whether those of [`Gpu::chained`] may.
    pub fn launches_early(&self) -> bool {
        self.early.is_possible && self.early.is_wanted
    }

    /// The same device with streams of its own, on which kernels may begin early, where they can, or not.
    ///
    /// # Errors
    /// [`Error::Device`] if the driver makes no streams.
    pub fn launching_early(&self, is_wanted: bool) -> Result<Arc<Gpu>> {
        self.with_own_streams(self.products(), Early { is_wanted, ..self.early })
    }

    /// Kernels that `body` puts on the compute stream may begin before the one before them has ended, where that was asked for. Work that
    /// is no kernel is ordered as ever.
    ///
    /// # Errors
    /// Those of `body`.
    pub fn chained<T>(&self, body: impl FnOnce() -> Result<T>) -> Result<T> {
        self.chains.store(self.launches_early(), Ordering::Relaxed);
        let done = body();
        self.chains.store(false, Ordering::Relaxed);
        done
    }

    /// Whether a launch of `kernel` now may begin early.
    pub(super) fn begins_early(&self, kernel: &Kernel) -> bool {
        kernel.waits && self.chains.load(Ordering::Relaxed)
    }
}

/// Launches a kernel that may begin early.
///
/// # Safety
/// As `cuLaunchKernel`: `pointers` are to what the kernel's parameters hold.
pub(super) unsafe fn launch(
    function: CUfunction,
    [x, y, z]: [u32; 3],
    block: u32,
    shared_bytes: u32,
    stream: CUstream,
    pointers: &mut [*mut c_void],
) -> std::result::Result<(), DriverError> {
    let mut attribute = sys::CUlaunchAttribute {
        id: CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
        pad: [0; 4],
        value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
    };
    let config = CUlaunchConfig {
        gridDimX: x,
        gridDimY: y,
        gridDimZ: z,
        blockDimX: block,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: shared_bytes,
        hStream: stream,
        attrs: &mut attribute,
        numAttrs: 1,
    };
    // SAFETY: the attribute outlives the call; the rest is the caller's.
    unsafe { sys::cuLaunchKernelEx(&config, function, pointers.as_mut_ptr(), std::ptr::null_mut()) }.result()
}
