//! The kernels of `kernels/*.cu`, by name: `build.rs` writes the constants.

/// A kernel; its `KERNEL(name, block)` line in `kernels/<file>.cu` is where these come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    pub name: &'static str,
    pub file: &'static str,
    /// Threads of a block.
    pub block: u32,
}

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
