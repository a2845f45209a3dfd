//! Spikes counted over a pool window, and read out at the end of a network.
//!
//! On the CPU a pool is part of the op that reads through it: `spike_conv` lists the spikes of a window (`identity_at`, `conv_at`),
//! `conv` adds its counts (`pool_rates`), and `Network::forward` reads the logits. A device does each once, in a kernel of its own.

pub mod cuda;
