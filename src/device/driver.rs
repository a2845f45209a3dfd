//! The CUDA driver: whether there is one, what it lists, and its errors in words.

use cudarc::driver::DriverError;
use cudarc::driver::result;
use cudarc::driver::sys::{self, CUdevice_attribute, CUresult};

use super::kernels;
use crate::error::{Error, Result};

/// A GPU as the driver lists it.
#[derive(Clone, Debug)]
pub struct Listed {
    pub name: String,
    /// Compute capability, major and minor.
    pub capability: (u32, u32),
    pub multiprocessors: u32,
    /// Bytes.
    pub memory: usize,
}

/// The oldest driver that this build's kernels run on, as [`version`] gives it, and its name.
fn needed() -> (i32, &'static str) {
    let major = kernels::NVCC.and_then(|nvcc| nvcc.split('.').next());
    if major == Some("12") { (12080, "R570") } else { (13000, "R580") }
}

/// Version of CUDA that the driver supports, 13000 for 13.0.
///
/// # Errors
/// [`Error::Device`] if there is no driver.
pub fn version() -> Result<i32> {
    // SAFETY: opens the driver's library, whose initialisers are trusted as the driver is.
    if !unsafe { sys::is_culib_present() } {
        return Err(failure("no CUDA driver was found (libcuda.so.1): install the NVIDIA driver, or use --device cpu"));
    }
    let mut version = 0;
    // SAFETY: writes one number; this call needs no initialised driver.
    let status = unsafe { sys::cuDriverGetVersion(&mut version) };
    status.result().map_err(|e| failure(format!("the driver does not say its version: {}", explain(e))))?;
    Ok(version)
}

/// Every GPU of this machine, by index.
///
/// # Errors
/// [`Error::Device`] if there is no driver, if it is too old, or if it finds no GPU.
pub fn devices() -> Result<Vec<Listed>> {
    let (found, (needed, release)) = (version()?, needed());
    if found < needed {
        let (found, needed) = (dotted(found), dotted(needed));
        let remedy = format!("this build needs {needed} (driver {release} or newer): update the driver, or use --device cpu");
        return Err(failure(format!("the CUDA driver is too old: it supports CUDA {found}, and {remedy}")));
    }
    let count = result::init().and_then(|()| result::device::get_count());
    match count {
        Ok(count) if count > 0 => (0..count).map(|index| listed(index).map_err(|e| failure(explain(e)))).collect(),
        Ok(_) | Err(DriverError(CUresult::CUDA_ERROR_NO_DEVICE)) => {
            Err(failure("the CUDA driver finds no GPU: look at `nvidia-smi` and at CUDA_VISIBLE_DEVICES, or use --device cpu"))
        }
        Err(error) => Err(failure(format!("the CUDA driver does not start: {}; look at `nvidia-smi`", explain(error)))),
    }
}

fn listed(index: i32) -> std::result::Result<Listed, DriverError> {
    let device = result::device::get(index)?;
    let attribute = |attribute: CUdevice_attribute| {
        // SAFETY: `device` comes from the driver.
        let value = unsafe { result::device::get_attribute(device, attribute) };
        value.map(|value| u32::try_from(value).unwrap_or(0))
    };
    let major = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    Ok(Listed {
        name: result::device::get_name(device)?,
        capability: (major, minor),
        multiprocessors: attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        // SAFETY: as above.
        memory: unsafe { result::device::total_mem(device) }?,
    })
}

/// 13.0 for 13000.
pub fn dotted(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

fn failure(problem: impl Into<String>) -> Error {
    Error::device("cuda", problem)
}

/// Whether a kernel did what it must not; whoever waits next is told, and the device takes no more work.
pub(super) fn is_fault(error: CUresult) -> bool {
    matches!(
        error,
        CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
            | CUresult::CUDA_ERROR_MISALIGNED_ADDRESS
            | CUresult::CUDA_ERROR_INVALID_ADDRESS_SPACE
            | CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION
            | CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR
            | CUresult::CUDA_ERROR_INVALID_PC
            | CUresult::CUDA_ERROR_ASSERT
            | CUresult::CUDA_ERROR_LAUNCH_TIMEOUT
            | CUresult::CUDA_ERROR_LAUNCH_FAILED
    )
}

/// An error of the driver with its name and its meaning.
pub(super) fn explain(error: DriverError) -> String {
    let meaning = error.error_string().ok().and_then(|text| text.to_str().ok()).unwrap_or("unknown to the driver");
    format!("{:?} ({meaning})", error.0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn versions_are_dotted() {
        for (version, text) in [(13000, "13.0"), (12080, "12.8"), (11_040, "11.4"), (0, "0.0")] {
            assert_eq!(super::dotted(version), text);
        }
    }
}
