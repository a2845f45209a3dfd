//! The CUDA device that tests run on.

use std::cell::OnceCell;
use std::path::Path;
use std::sync::Arc;

use dsr::device::{Gpu, kernels, limits};

thread_local! {
    static GPU: OnceCell<Arc<Gpu>> = const { OnceCell::new() };
}

/// The real device where there is one and this build has kernels for it, else the driver stand-in.
///
/// One for each thread: `cargo test` runs tests as threads of a process, and the stream that one of them captures must not see
/// the work of another.
pub fn gpu() -> Arc<Gpu> {
    let open = || {
        if !is_real() {
            emulator::load();
            emulator::set_registers(&registers());
        }
        let gpu = Gpu::open(0).unwrap_or_else(|problem| panic!("{problem}"));
        println!("device: {gpu:?}");
        gpu
    };
    GPU.with(|gpu| gpu.get_or_init(open).clone())
}

/// Registers of the real kernels, for the stand-in's launch limits; empty in a build without nvcc.
fn registers() -> String {
    let of_standin = limits::ALL.iter().filter(|limits| limits.target == "sm_80");
    of_standin.map(|limits| format!("{}={}", limits.kernel, limits.registers)).collect::<Vec<_>>().join(",")
}

/// Whether [`gpu`] is silicon. Asked of the system and not of the driver: once a driver is opened, a process cannot take another.
pub fn is_real() -> bool {
    kernels::NVCC.is_some() && ["/dev/nvidiactl", "/dev/dxg"].iter().any(|file| Path::new(file).exists())
}
