//! Softmax cross-entropy over the batch.

mod cpu;
pub mod cuda;
pub use cpu::{cross_entropy, first_largest, summed_cross_entropy};
