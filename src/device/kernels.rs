//! The kernels of `kernels/*.cu`, by name: `build.rs` writes the constants.

/// A kernel; its `KERNEL(name, block)` or `DEPENDENT_KERNEL(name, block)` line in `kernels/<file>.cu` is where these come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    pub name: &'static str,
    pub file: &'static str,
    /// Threads of a block.
    pub block: u32,
    /// Whether it waits for the kernel before it, so that it may begin before that one has ended (`kernels/include/dependent.cuh`).
    pub waits: bool,
}

/// The kernels of a file, as a driver takes them.
#[derive(Clone, Copy, Debug)]
pub struct Image {
    pub file: &'static str,
    /// Machine code for [`TARGETS`], and PTX of compute capability 8.0 for newer devices.
    pub code: &'static [u8],
    /// PTX of version 7.0 for compute capability 8.0, ended by a zero: older drivers compile it when the program starts.
    pub ptx: &'static [u8],
}

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
