//! What each kernel takes of each target's resources, as the compiler reported it.

use super::kernels::Kernel;
use super::occupancy::occupancy;

/// Resources of a kernel on a target.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub kernel: &'static str,
    /// For example `sm_90`.
    pub target: &'static str,
    /// Of a thread.
    pub registers: u32,
    /// Written to and read from memory for want of registers, by all instructions that do so.
    pub spill_bytes: u32,
    /// Local memory of a thread: spilled registers and arrays.
    pub local_bytes: u32,
    /// Static shared memory of a block.
    pub shared_bytes: u32,
    /// Of a spike convolution: instructions of the tensor cores, of integers or, in kernels called `*_bf16`, of bf16; none where the code
    /// was not looked at.
    pub products: Option<u32>,
    /// Of a spike convolution: instructions of a warp for a stage, which is two K steps, reading bits, both in one copy.
    pub stage_instructions: Option<u32>,
    /// Of the same: instructions of a warp for a step of its neurons in evaluation.
    pub step_instructions: Option<u32>,
    /// The same in training.
    pub training_step_instructions: Option<u32>,
    /// Of a kernel that waits for the one before it: instructions before the wait that may touch global memory, of which there must be
    /// none; `None` where the code was not looked at or has no wait, as before compute capability 9.0.
    pub before_wait: Option<u32>,
}

/// A row for each kernel and target; empty in a build without nvcc.
pub const ALL: &[Limits] = include!(concat!(env!("OUT_DIR"), "/limits.rs"));

impl Limits {
    /// The row of a kernel and target.
    pub fn of(kernel: &Kernel, target: &str) -> Option<&'static Limits> {
        ALL.iter().find(|limits| limits.kernel == kernel.name && limits.target == target)
    }

    /// Share of a multiprocessor's warps that can be resident with blocks of `threads`, without dynamic shared memory.
    pub fn occupancy(&self, threads: u32) -> Option<f64> {
        occupancy(self.target, threads, self.registers, self.shared_bytes)
    }
}
