//! Spikes counted over a pool window, and read out at the end of a network.
//!
//! On the CPU a pool is part of the op that reads through it: `spike_conv` lists the spikes of a window (`identity_at`, `conv_at`), and
//! `conv` adds its counts (`pool_rates`). A device does each once, in a kernel of its own.

mod cpu;
pub mod cuda;
pub use cpu::readout;
