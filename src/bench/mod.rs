//! Measures speed on this machine: networks, single ops, the loader, and what the processor can do at most.
//!
//! `docs/bench.md` says what each number is and how it is taken.

pub mod baseline;
pub mod data;
pub mod decision;
pub mod kernels;
pub mod latency;
pub mod peaks;
mod throughput;
pub mod times;
mod trained;

pub(crate) use throughput::settle_batch_norm;
pub use throughput::{Bench, Case, RandomImages, Timing, Work, time_steps, usual_shape};
pub use trained::Trained;
