//! A stand-in for the CUDA driver: runs the kernels of `dsr` on the host, so that tests need no GPU.
//!
//! The library itself is C++ (`src/*.cpp`, built by `build.rs`); this crate says where it is and loads it.
//! `README.md` says what it models and which environment variables it reads.

use std::ffi::{CStr, CString, c_char, c_int};
use std::path::{Path, PathBuf};
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

/// When the work of streams runs. It never runs before a call that issues it has returned, except under `Now`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Streams {
    /// When somebody waits for it, and then only what that wait needs.
    Later,
    /// When it is issued.
    Now,
    /// When somebody waits, also what that wait does not need; copies between host and device as early as they may.
    CopiesFirst,
    /// When somebody waits, also what that wait does not need, in a random order from this seed.
    Random(u64),
}

/// Sets this from now on, for the whole process; before that, `DSR_STANDIN_STREAMS` says it.
///
/// # Panics
/// If the library cannot be loaded.
pub fn set_streams(streams: Streams) {
    let (number, seed) = match streams {
        Streams::Later => (0, 1),
        Streams::Now => (1, 1),
        Streams::CopiesFirst => (2, 1),
        Streams::Random(seed) => (3, seed),
    };
    // SAFETY: the function has this type in src/settings.cpp.
    unsafe { function::<unsafe extern "C" fn(c_int, u64)>(c"dsr_standin_set_streams")(number, seed) }
}

/// What has been done on the pretended device, and how often the host has waited for it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Launches of kernels, those of graphs too.
    pub launches: u64,
    /// Launches of graphs.
    pub graphs: u64,
    /// Ranges that were filled with a value.
    pub fills: u64,
    pub copies_to_device: u64,
    pub bytes_to_device: u64,
    pub copies_to_host: u64,
    pub bytes_to_host: u64,
    pub copies_on_device: u64,
    pub bytes_on_device: u64,
    /// Calls that returned only when work was done that had not been done before.
    pub waits: u64,
}

impl std::ops::Sub for Counts {
    type Output = Counts;

    /// What came since `before`.
    fn sub(self, before: Counts) -> Counts {
        Counts {
            launches: self.launches - before.launches,
            graphs: self.graphs - before.graphs,
            fills: self.fills - before.fills,
            copies_to_device: self.copies_to_device - before.copies_to_device,
            bytes_to_device: self.bytes_to_device - before.bytes_to_device,
            copies_to_host: self.copies_to_host - before.copies_to_host,
            bytes_to_host: self.bytes_to_host - before.bytes_to_host,
            copies_on_device: self.copies_on_device - before.copies_on_device,
            bytes_on_device: self.bytes_on_device - before.bytes_on_device,
            waits: self.waits - before.waits,
        }
    }
}

/// Counts of this process so far.
///
/// # Panics
/// If the library cannot be loaded.
pub fn counts() -> Counts {
    let mut counts = Counts::default();
    // SAFETY: the function has this type in src/counts.cpp, and writes as many numbers as the struct has, in this order.
    unsafe { function::<unsafe extern "C" fn(*mut Counts)>(c"dsr_standin_counts")(&mut counts) };
    counts
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
