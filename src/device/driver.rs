//! The CUDA driver: whether there is one, what it lists, and its errors in words.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

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

/// What a driver is given of the kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Machine code for the targets of the build.
    Code,
    /// PTX, which the driver compiles when the program starts for the first time.
    Ptx,
}

/// The oldest driver with every call that is made here (`cuGraphInstantiateWithFlags` came with it), and its name.
const OLDEST: (i32, &str) = (11040, "R470");

/// The oldest driver that takes the machine code of this build, and its name: by NVIDIA's rule for minor versions any driver of
/// a release of CUDA runs what a toolkit of the same release compiled.
fn for_code(nvcc: Option<&str>) -> (i32, &'static str) {
    match nvcc.and_then(|nvcc| nvcc.split('.').next()?.parse().ok()) {
        Some(12) => (12000, "R525"),
        None | Some(13) => (13000, "R580"),
        Some(later) => (later * 1000, "of its release"),
    }
}

/// What this machine's driver is given; `DSR_KERNELS=ptx` in the environment asks for PTX where machine code would do.
///
/// # Errors
/// [`Error::Device`] if there is no driver, [`Error::Config`] for another value of the variable.
pub fn form() -> Result<Form> {
    let forced = match std::env::var("DSR_KERNELS").ok().filter(|value| !value.is_empty()).as_deref() {
        None | Some("code") => false,
        Some("ptx") => true,
        Some(other) => return Err(Error::config("DSR_KERNELS", format!("{other:?} is neither code nor ptx"))),
    };
    Ok(if forced || version()? < for_code(kernels::NVCC).0 { Form::Ptx } else { Form::Code })
}

/// What a user of an older driver should know: that it compiles the kernels, and how to spare that.
pub fn note() -> Option<String> {
    let found = version().ok()?;
    let (needed, release) = for_code(Some(kernels::NVCC?));
    if found >= needed || found < OLDEST.0 {
        return None;
    }
    let (found, needed) = (dotted(found), dotted(needed));
    Some(format!(
        "the driver supports CUDA {found}, and the machine code of this build needs {needed} (driver {release}), so the driver \
         compiles the kernels itself, which takes a while the first time; a newer driver, NVIDIA's cuda-compat package for \
         {needed} in LD_LIBRARY_PATH, or a build with an nvcc of the driver's release spares that (docs/install.md)"
    ))
}

/// Whether this machine has a driver.
pub(super) fn is_there() -> bool {
    // SAFETY: opens the driver's library, whose initialisers are trusted as the driver is.
    unsafe { sys::is_culib_present() }
}

/// Version of CUDA that the driver supports, 13000 for 13.0.
///
/// # Errors
/// [`Error::Device`] if there is no driver.
pub fn version() -> Result<i32> {
    if !is_there() {
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
    let (found, (oldest, release)) = (version()?, OLDEST);
    if found < oldest {
        let (found, oldest) = (dotted(found), dotted(oldest));
        return Err(failure(format!(
            "the CUDA driver is too old: it supports CUDA {found}, and {oldest} (driver {release}) is needed; update the driver, \
             put the folder of NVIDIA's cuda-compat package for a newer CUDA into LD_LIBRARY_PATH, or use --device cpu"
        )));
    }
    let count = result::init().and_then(|()| result::device::get_count());
    match count {
        Ok(count) if count > 0 => (0..count).map(|index| listed(index).map_err(|e| failure(explain(e)))).collect(),
        Ok(_) | Err(DriverError(CUresult::CUDA_ERROR_NO_DEVICE)) => {
            Err(failure("the CUDA driver finds no GPU: look at `nvidia-smi` and at CUDA_VISIBLE_DEVICES, or use --device cpu"))
        }
        Err(DriverError(CUresult::CUDA_ERROR_STUB_LIBRARY)) => Err(failure(
            "the libcuda that was found is a stub of the CUDA toolkit for linking, not the driver: take its folder (stubs) out of \
             LD_LIBRARY_PATH and /etc/ld.so.conf.d, or use --device cpu",
        )),
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

/// `LD_LIBRARY_PATH` without the folders that have a `libcuda.so` and no `libcuda.so.1`: toolkits have one for the linker, and
/// it would be found before the driver. None where there is no such folder.
pub fn path_without_stubs(path: &OsStr) -> Option<OsString> {
    let is_stub = |folder: &PathBuf| folder.join("libcuda.so").exists() && !folder.join("libcuda.so.1").exists();
    let (stubs, others): (Vec<PathBuf>, Vec<PathBuf>) = std::env::split_paths(path).partition(is_stub);
    if stubs.is_empty() { None } else { std::env::join_paths(others).ok() }
}

/// An error of the driver with its name and its meaning.
pub(super) fn explain(error: DriverError) -> String {
    let meaning = error.error_string().ok().and_then(|text| text.to_str().ok()).unwrap_or("unknown to the driver");
    format!("{:?} ({meaning})", error.0)
}

#[cfg(test)]
mod tests {
    /// The table of docs/install.md: machine code where the driver is of the toolkit's release, or newer.
    #[test]
    fn drivers_of_the_toolkits_release_take_its_machine_code() {
        let table = std::fs::read_to_string("docs/install.md").unwrap();
        for (driver, version) in
            [("R450", 11000), ("R470", 11040), ("R525", 12000), ("R535", 12020), ("R550", 12040), ("R570", 12080), ("R580", 13000)]
        {
            let form = |nvcc| match version {
                _ if version < super::OLDEST.0 => "refused",
                _ if version < super::for_code(Some(nvcc)).0 => "PTX",
                _ => "machine code",
            };
            for nvcc in ["12.4.131", "12.8.93"] {
                assert_eq!(form(nvcc), form("12.0.140"), "{driver}");
            }
            let row = format!("| {driver} | {} | {} | {} |", super::dotted(version), form("12.0.140"), form("13.0.88"));
            assert!(table.contains(&row), "docs/install.md lacks {row}");
        }
    }

    #[test]
    fn versions_are_dotted() {
        for (version, text) in [(13000, "13.0"), (12080, "12.8"), (11_040, "11.4"), (0, "0.0")] {
            assert_eq!(super::dotted(version), text);
        }
    }
}
