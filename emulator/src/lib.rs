//! A stand-in for the CUDA driver: runs the kernels of `dsr` on the host, so that tests need no GPU.
//!
//! The library itself is C++ (`src/*.cpp`, built by `build.rs`); this crate says where it is and loads it.
//! `README.md` says what it models and which environment variables it reads.

use std::path::Path;
use std::sync::OnceLock;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

/// The folder of `libcuda.so.1`: put it first in `LD_LIBRARY_PATH` of a child process, and that process has a CUDA device.
pub fn directory() -> &'static Path {
    Path::new(env!("STANDIN_DRIVER"))
}

/// Loads the driver into this process, before anything looks for a driver: whoever opens `libcuda.so.1` later finds it loaded.
///
/// # Panics
/// If the library cannot be loaded.
pub fn load() {
    static LOADED: OnceLock<Library> = OnceLock::new();
    LOADED.get_or_init(|| {
        let path = directory().join("libcuda.so.1");
        // SAFETY: the library was built by this crate's build script, and its initialisers only fill tables.
        let library = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_GLOBAL) };
        library.unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    });
}

/// Loads a kernel library of this crate's own tests, `tests/kernels/NAME.cu`, beside those of the product.
///
/// # Panics
/// If there is none of this name.
#[doc(hidden)]
pub fn load_test_kernels(name: &str) {
    load();
    let path = directory().join("planted").join(name).with_extension("so");
    // SAFETY: as above.
    let library = unsafe { Library::open(Some(&path), RTLD_NOW) };
    std::mem::forget(library.unwrap_or_else(|e| panic!("{}: {e}", path.display())));
}
