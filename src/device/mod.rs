//! The processor a network runs on: the CPU by its instruction sets, or a CUDA device.

mod arena;
mod dependent;
pub mod driver;
mod gpu;
mod graph;
pub mod kernels;
mod lent;
pub mod limits;
pub mod lines;
mod loaded;
pub mod machine;
mod memory;
pub mod nccl;
pub mod occupancy;
mod products;
pub mod room;
mod slice;
pub mod threads;

use std::sync::Arc;

pub use arena::Layout;
pub use gpu::Gpu;
pub use graph::Graph;
pub use kernels::Kernel;
pub use lent::{Given, keeping_current};
pub use memory::{Arriving, Mark, Memory, Pinned};
pub use products::Products;
pub use slice::{Arg, Scalars, Slice, scalars};

use crate::error::{Error, Result};

/// Where to compute.
#[derive(Clone, Debug)]
pub enum Device {
    Cpu,
    Cuda(Arc<Gpu>),
}

impl Device {
    /// The device of this name: `cpu`, `cuda`, `cuda:N`, or `auto` for the first CUDA device, and the CPU where none can be used.
    ///
    /// # Errors
    /// [`Error::Config`] for another name; [`Error::Device`] if a CUDA device that was named cannot be used.
    pub fn named(name: &str) -> Result<Device> {
        let open = |ordinal| Gpu::open(ordinal).map(Device::Cuda);
        let number = match name {
            "cpu" => return Ok(Device::Cpu),
            "auto" if driver::version().is_err() => return Ok(Device::Cpu),
            "auto" => {
                return match open(0) {
                    Err(Error::Device { .. }) => Ok(Device::Cpu),
                    other => other,
                };
            }
            "cuda" => "0",
            other => other.strip_prefix("cuda:").unwrap_or_default(),
        };
        let ordinal = number.parse().map_err(|_| Error::config("device", format!("'{name}' is none of auto, cpu, cuda and cuda:N")))?;
        open(ordinal)
    }
}

impl std::fmt::Display for Device {
    /// `cpu`, or `cuda:0 (name)`; products that are not of integers, and early launches, are said.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Device::Cpu => write!(f, "cpu"),
            Device::Cuda(gpu) => {
                write!(f, "{gpu:?}")?;
                if gpu.products() != Products::Integer {
                    write!(f, ", {} products", gpu.products().name())?;
                }
                if gpu.launches_early() { write!(f, ", early launches") } else { Ok(()) }
            }
        }
    }
}

/// Instruction set of the CPU's inner loops. All give the same bits; they differ in speed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// Plain Rust for any machine.
    Portable,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ and VL.
    Avx512,
}

impl Isa {
    /// Every instruction set this machine has, the fastest last.
    pub fn available() -> Vec<Isa> {
        let mut found = vec![Isa::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                found.push(Isa::Avx2);
            }
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            if avx512 && is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                found.push(Isa::Avx512);
            }
        }
        found
    }

    /// The fastest instruction set of this machine.
    pub fn detect() -> Isa {
        Isa::available().pop().unwrap_or(Isa::Portable)
    }
}

/// Compiles one loop body for every instruction set: `$name` picks at run time, the body is written once and stays in sight.
///
/// `mul_add` is one instruction where the target has fused multiply-add and a library call elsewhere; it rounds once in both.
#[macro_export]
macro_rules! per_isa {
    ($(#[$doc:meta])* pub fn $name:ident $(<const $n:ident: usize>)? ($($arg:ident: $ty:ty),* $(,)?) $body:block) => {
        $(#[$doc])*
        pub fn $name $(<const $n: usize>)? (isa: $crate::device::Isa, $($arg: $ty),*) {
            #[inline(always)]
            fn portable $(<const $n: usize>)? ($($arg: $ty),*) $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,popcnt,bmi1,bmi2")]
            fn avx2 $(<const $n: usize>)? ($($arg: $ty),*) { portable $(::<$n>)? ($($arg),*) }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,popcnt,bmi1,bmi2")]
            fn avx512 $(<const $n: usize>)? ($($arg: $ty),*) { portable $(::<$n>)? ($($arg),*) }
            match isa {
                $crate::device::Isa::Portable => portable $(::<$n>)? ($($arg),*),
                // SAFETY: `Isa` values other than `Portable` come from `Isa::available`, which asked the CPU.
                #[cfg(target_arch = "x86_64")]
                $crate::device::Isa::Avx2 => unsafe { avx2 $(::<$n>)? ($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::device::Isa::Avx512 => unsafe { avx512 $(::<$n>)? ($($arg),*) },
                #[cfg(not(target_arch = "x86_64"))]
                _ => portable $(::<$n>)? ($($arg),*),
            }
        }
    };
}
