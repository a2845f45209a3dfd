//! ReLU in place of neurons: currents in, activations out.
//!
//! In the path of a batch of an ANN: batch norm → **relu** → next connection. Its backward is the clamp mapping without an upper end
//! (`ops/neuron`).

mod cpu;
pub mod cuda;
pub use cpu::{activate, drop_values, scale_and_shift};
