//! What a run is: every hyper-parameter, the recipes that have a name, and the networks that have one.

mod config;
mod memory;
pub mod models;
pub mod recipes;

pub use config::{Config, GradientKind, LrDecay, MAX_THREADS, NeuronKind, OptimizerKind, ThresholdInit};
pub use memory::Use;
