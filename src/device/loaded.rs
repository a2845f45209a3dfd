//! The kernels of this build on a device.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::sys::{self, CUfunction_attribute, CUresult};
use cudarc::driver::{CudaContext, CudaFunction, CudaModule, DriverError};
use cudarc::nvrtc::Ptx;

use super::driver::{self, Form, explain};
use super::kernels::{self, Image};
use crate::error::{Error, Result};

/// Dynamic shared memory of a block that needs no asking.
const SHARED_WITHOUT_ASKING: usize = 48 << 10;
/// Blocks with more than this are held back by the share of shared memory in a multiprocessor's cache, if the driver keeps it small.
const SHARED_OF_LARGE_BLOCKS: usize = 16 << 10;

/// A kernel on a device.
pub(super) struct Loaded {
    pub function: CudaFunction,
    /// Dynamic shared memory that was asked for so far.
    pub shared: Mutex<usize>,
    /// Bytes of each parameter; read in debug builds only.
    pub parameters: Option<Vec<usize>>,
}

impl Loaded {
    /// Asks for dynamic shared memory, unless as much was asked for before, and for as much of the cache as can be shared memory, so
    /// that several blocks fit.
    pub fn ask_for_shared(&self, bytes: usize) -> std::result::Result<(), DriverError> {
        use CUfunction_attribute::{CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT};
        // One thread at a time: what another one has asked for since must not become less.
        let mut asked = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes <= *asked {
            return Ok(());
        }
        if bytes > SHARED_WITHOUT_ASKING {
            self.function.set_attribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, bytes as i32)?;
        }
        if bytes > SHARED_OF_LARGE_BLOCKS {
            let all = sys::CUshared_carveout::CU_SHAREDMEM_CARVEOUT_MAX_SHARED as i32;
            self.function.set_attribute(CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT, all)?;
        }
        *asked = bytes;
        Ok(())
    }
}

/// Loads every image in the form that the driver takes, and finds every kernel in it.
pub(super) fn load(context: &Arc<CudaContext>, device: &str, (major, minor): (u32, u32)) -> Result<HashMap<&'static str, Loaded>> {
    let (form, mut loaded) = (driver::form()?, HashMap::new());
    // Older drivers have no call for the sizes of parameters.
    let knows_parameters = driver::version()? >= 12040;
    for image in kernels::IMAGES {
        let module = module(context, image, form).map_err(|e| {
            let remedy = "scripts/install_cuda_toolchain.sh installs one, then build again; or use --device cpu";
            let problem = match (kernels::NVCC, e.0) {
                (None, _) => format!("this binary was built without CUDA kernels, because no nvcc was found: {remedy}"),
                (_, CUresult::CUDA_ERROR_JIT_COMPILER_NOT_FOUND) => format!(
                    "the driver cannot compile kernels: libnvidia-ptxjitcompiler.so.1 is missing; it belongs to the driver (in a \
                     container: NVIDIA_DRIVER_CAPABILITIES=compute,utility); {}",
                    explain(e)
                ),
                (Some(nvcc), _) if form == Form::Ptx => {
                    format!("the driver does not compile the kernels' PTX ({}, nvcc {nvcc}): {}", image.file, explain(e))
                }
                (Some(nvcc), _) => format!(
                    "no kernels for compute capability {major}.{minor}: nvcc {nvcc} built {} for {}; {}",
                    image.file,
                    kernels::TARGETS.join(", "),
                    explain(e)
                ),
            };
            Error::device(device, problem)
        })?;
        for kernel in kernels::ALL.iter().filter(|kernel| kernel.file == image.file) {
            let missing = |e| Error::device(device, format!("kernel {} is not in its image {}: {}", kernel.name, image.file, explain(e)));
            let function = module.load_function(kernel.name).map_err(missing)?;
            let parameters = (cfg!(debug_assertions) && knows_parameters).then(|| parameters(&function));
            loaded.insert(kernel.name, Loaded { function, shared: Mutex::new(0), parameters });
        }
    }
    Ok(loaded)
}

/// Machine code where the driver takes it; PTX where it does not, or where there is none for the device.
fn module(context: &Arc<CudaContext>, image: &Image, form: Form) -> std::result::Result<Arc<CudaModule>, DriverError> {
    let load = |bytes: &[u8]| context.load_module(Ptx::from_binary(bytes.to_vec()));
    match form {
        Form::Ptx => load(image.ptx),
        Form::Code => load(image.code).or_else(|refused| match refused.0 {
            CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU
            | CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION
            | CUresult::CUDA_ERROR_INVALID_PTX
            | CUresult::CUDA_ERROR_INVALID_IMAGE => load(image.ptx).map_err(|_| refused),
            _ => Err(refused),
        }),
    }
}

/// Bytes of each parameter.
fn parameters(function: &CudaFunction) -> Vec<usize> {
    let size = |index| {
        let (mut offset, mut size) = (0, 0);
        // SAFETY: writes two numbers; an index past the last parameter is an error.
        let status = unsafe { sys::cuFuncGetParamInfo(function.cu_function(), index, &mut offset, &mut size) };
        status.result().ok().map(|()| size)
    };
    (0..).map_while(size).collect()
}
