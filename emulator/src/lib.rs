//! A stand-in for the CUDA driver: runs the kernels of `dsr` on the host, so that tests need no GPU.
//!
//! The library itself is C++ (`src/*.cpp`, built by `build.rs`); this crate says where it is and loads it.
//! `README.md` says what it models and which environment variables it reads.

mod compile;
mod kernel_sets;
mod nvcc;
mod ptx;

use std::ffi::{CStr, CString, c_char, c_int};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

#[doc(hidden)]
pub use kernel_sets::Check;
use kernel_sets::Engine;
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

/// The folder of `libcuda.so.1`: put it first in `LD_LIBRARY_PATH` of a child process, and that process has a CUDA device.
///
/// Beside the library then are the kernels that the environment asks for: `DSR_STANDIN_ENGINE`, `DSR_STANDIN_RACES`, ….
///
/// # Panics
/// If they cannot be made.
pub fn directory() -> &'static Path {
    static MADE: OnceLock<()> = OnceLock::new();
    MADE.get_or_init(|| {
        let made = kernel_sets::wanted().and_then(|(engine, check)| kernel_sets::make(&engine, check, root(), driver()));
        made.unwrap_or_else(|problem| panic!("{problem}"));
    });
    driver()
}

fn driver() -> &'static Path {
    Path::new(env!("STANDIN_DRIVER"))
}

/// Of the project.
fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Makes the kernel library `library`, for `DSR_STANDIN_KERNELS`, of `file` of a folder that is like `kernels/`, as nvcc compiles it
/// for an architecture, as `80`, with a check compiled in.
///
/// # Errors
/// No nvcc, or what a compiler or the translator says.
#[doc(hidden)]
pub fn compiled_kernels(kernels: &Path, file: &str, architecture: &str, check: Check, library: &Path) -> Result<(), String> {
    let engine = Engine::Ptx(architecture.into());
    kernel_sets::library_of(&engine, check, root(), kernels, &kernels.join(file), driver(), library)
}

/// The same of the kernels' text.
///
/// # Errors
/// What the compiler says.
#[doc(hidden)]
pub fn text_kernels(kernels: &Path, file: &str, library: &Path) -> Result<(), String> {
    kernel_sets::library_of(&Engine::Text, Check::None, root(), kernels, &kernels.join(file), driver(), library)
}

/// Makes a driver in `folder` in which `source` takes the place of the file of its name in `src/`; its kernels are those of this one.
///
/// # Errors
/// What the compiler says, or that the folder cannot be written.
#[doc(hidden)]
pub fn changed_driver(source: &Path, folder: &Path) -> Result<(), String> {
    let object = folder.join(source.file_name().unwrap_or_default()).with_extension("o");
    compile::compile(env!("STANDIN_CXX"), compile::Kind::Driver, &[root().join("emulator/src")], source, &object)?;
    let mut objects = compile::files(&driver().join("objects"), "o");
    objects.retain(|other| other.file_name() != object.file_name());
    let inputs: Vec<&Path> = objects.iter().map(PathBuf::as_path).chain([object.as_path()]).collect();
    compile::link(env!("STANDIN_CXX"), &inputs, &folder.join("libcuda.so.1"), compile::DRIVER_LINK)?;
    for (of, name) in [(folder.join("libcuda.so.1"), "libcuda.so"), (driver().join("kernels"), "kernels")] {
        std::os::unix::fs::symlink(of, folder.join(name)).map_err(|e| format!("{}: {e}", folder.join(name).display()))?;
    }
    Ok(())
}

/// Whether there is an nvcc for [`compiled_kernels`]; else why not.
///
/// # Errors
/// That there is none, and what to do.
#[doc(hidden)]
pub fn has_nvcc() -> Result<(), String> {
    nvcc::find(root()).map(|_| ())
}

/// Loads the driver into this process, before anything looks for a driver: whoever opens `libcuda.so.1` later finds it loaded.
///
/// # Panics
/// If the library cannot be loaded.
pub fn load() {
    library();
}

fn library() -> &'static Library {
    static LOADED: OnceLock<Library> = OnceLock::new();
    LOADED.get_or_init(|| {
        let path = directory().join("libcuda.so.1");
        // SAFETY: the library was built by this crate's build script, and its initialisers only fill tables.
        let library = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_GLOBAL) };
        library.unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    })
}

/// Which of the threads of a block that can go on runs next; every order is one that a device may choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The first of the block; it runs until it has to wait.
    Fifo,
    /// The last.
    Lifo,
    /// By random priorities of the warps from this seed, which change now and then.
    Random(u64),
}

/// Sets the order for launches from now on, of the whole process; before that, `DSR_STANDIN_ORDER` says it.
///
/// # Panics
/// If the library cannot be loaded.
pub fn set_order(order: Order) {
    let (number, seed) = match order {
        Order::Fifo => (0, 1),
        Order::Lifo => (1, 1),
        Order::Random(seed) => (2, seed),
    };
    // SAFETY: the function has this type in src/settings.cpp.
    unsafe { function::<unsafe extern "C" fn(c_int, u64)>(c"dsr_standin_set_order")(number, seed) }
}

/// Registers of the real kernels, `name=registers,name=registers`, for the limits of a launch; as `DSR_STANDIN_REGISTERS`.
///
/// # Panics
/// If the library cannot be loaded, or the text has a NUL in it.
pub fn set_registers(of_kernels: &str) {
    let text = CString::new(of_kernels).unwrap_or_else(|e| panic!("{e}"));
    // SAFETY: the function has this type in src/settings.cpp, and copies the text.
    unsafe { function::<unsafe extern "C" fn(*const c_char)>(c"dsr_standin_set_registers")(text.as_ptr()) }
}

/// A function of the driver library.
///
/// # Safety
/// It has the type `F`.
unsafe fn function<F: Copy>(name: &CStr) -> F {
    // SAFETY: the caller says so.
    *unsafe { library().get::<F>(name) }.unwrap_or_else(|e| panic!("{name:?}: {e}"))
}

/// Loads a kernel library of this crate's own tests, `tests/kernels/NAME.cu`, beside those of the product.
///
/// # Panics
/// If there is none of this name.
#[doc(hidden)]
pub fn load_test_kernels(name: &str) {
    load();
    let path = test_kernels(name);
    // SAFETY: as above.
    let library = unsafe { Library::open(Some(&path), RTLD_NOW) };
    std::mem::forget(library.unwrap_or_else(|e| panic!("{}: {e}", path.display())));
}

/// Where the library of `tests/kernels/NAME.cu` is.
#[doc(hidden)]
pub fn test_kernels(name: &str) -> PathBuf {
    directory().join("planted").join(name).with_extension("so")
}
