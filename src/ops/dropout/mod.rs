//! Which neurons are silent in a training step: one mask for all time steps of a sample, a function of seed, layer and place in the batch.

mod cpu;
mod cuda;
pub use cpu::draw_dropped;
pub use cuda::draw;
