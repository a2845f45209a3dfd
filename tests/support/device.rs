//! The CUDA device that tests run on.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use dsr::device::{Gpu, kernels};

/// The real device where there is one and this build has kernels for it, else the driver stand-in; one for the whole process.
pub fn gpu() -> Arc<Gpu> {
    static GPU: OnceLock<Arc<Gpu>> = OnceLock::new();
    let open = || {
        if !is_real() {
            emulator::load();
        }
        let gpu = Gpu::open(0).unwrap_or_else(|problem| panic!("{problem}"));
        println!("device: {gpu:?}");
        gpu
    };
    GPU.get_or_init(open).clone()
}

/// Whether [`gpu`] is silicon. Asked of the system and not of the driver: once a driver is opened, a process cannot take another.
pub fn is_real() -> bool {
    kernels::NVCC.is_some() && ["/dev/nvidiactl", "/dev/dxg"].iter().any(|file| Path::new(file).exists())
}
