//! The kernels of this build on a device.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use cudarc::driver::{CudaContext, CudaFunction, sys};
use cudarc::nvrtc::Ptx;

use super::driver::explain;
use super::kernels;
use crate::error::{Error, Result};

/// Shared memory of a block that needs no asking.
const SHARED_WITHOUT_ASKING: usize = 48 << 10;

/// A kernel on a device.
pub(super) struct Loaded {
    pub function: CudaFunction,
    /// Dynamic shared memory that was asked for so far.
    pub shared: AtomicUsize,
    /// Bytes of each parameter; read in debug builds only.
    pub parameters: Option<Vec<usize>>,
}

/// Loads every image and finds every kernel in it.
pub(super) fn load(context: &Arc<CudaContext>, device: &str, (major, minor): (u32, u32)) -> Result<HashMap<&'static str, Loaded>> {
    let mut loaded = HashMap::new();
    for &(file, image) in kernels::IMAGES {
        let module = context.load_module(Ptx::from_binary(image.to_vec())).map_err(|e| {
            let remedy = "scripts/install_cuda_toolchain.sh installs one, then build again; or use --device cpu";
            let problem = match kernels::NVCC {
                None => format!("this binary was built without CUDA kernels, because no nvcc was found: {remedy}"),
                Some(nvcc) => format!(
                    "no kernels for compute capability {major}.{minor}: nvcc {nvcc} built {} for {}; {}",
                    file,
                    kernels::TARGETS.join(", "),
                    explain(e)
                ),
            };
            Error::device(device, problem)
        })?;
        for kernel in kernels::ALL.iter().filter(|kernel| kernel.file == file) {
            let missing = |e| Error::device(device, format!("kernel {} is not in its image {file}: {}", kernel.name, explain(e)));
            let function = module.load_function(kernel.name).map_err(missing)?;
            let parameters = cfg!(debug_assertions).then(|| parameters(&function));
            loaded.insert(kernel.name, Loaded { function, shared: AtomicUsize::new(SHARED_WITHOUT_ASKING), parameters });
        }
    }
    Ok(loaded)
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
