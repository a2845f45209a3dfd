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

/// The folder of `libnccl.so.2`: put it into `LD_LIBRARY_PATH` of child processes as well, and they have collectives; a folder of its
/// own, so that a test may leave it out.
pub fn nccl_directory() -> &'static Path {
    Path::new(env!("STANDIN_NCCL"))
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
    kernel_sets::library_of((&engine, check), root(), kernels, &kernels.join(file), driver(), library)
}

/// The same of the kernels' text.
///
/// # Errors
/// What the compiler says.
#[doc(hidden)]
pub fn text_kernels(kernels: &Path, file: &str, library: &Path) -> Result<(), String> {
    kernel_sets::library_of((&Engine::Text, Check::None), root(), kernels, &kernels.join(file), driver(), library)
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
    /// Launches that may begin before the one before has ended.
    pub dependent: u64,
    /// Those of them that every block of the kernel before has let begin.
    pub early: u64,
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
            dependent: self.dependent - before.dependent,
            early: self.early - before.early,
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

/// A piece of work of a recorded graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Of the kernel or the collective, or the call of the driver.
    pub name: String,
    /// Number of its stream, in the order in which streams have joined.
    pub stream: usize,
    /// Of every stream, how many of its nodes have to be done before.
    pub after: Vec<usize>,
}

/// The graph that this process has captured last, in the order of capture.
///
/// # Panics
/// If the library cannot be loaded.
pub fn recorded() -> Vec<Node> {
    // SAFETY: the function has this type in src/api_graph.cpp; the text is copied before anything else is captured.
    let text = unsafe { CStr::from_ptr(function::<unsafe extern "C" fn() -> *const c_char>(c"dsr_standin_recorded")()) };
    let text = text.to_string_lossy();
    let number = |word: &str| word.parse::<usize>().unwrap_or_else(|e| panic!("{word:?}: {e}"));
    let node = |line: &str| {
        let words: Vec<&str> = line.split('\t').collect();
        Node { name: words[1].into(), stream: number(words[0]), after: words[2..].iter().map(|word| number(word)).collect() }
    };
    text.lines().map(node).collect()
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
