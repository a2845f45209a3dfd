//! What a run is: every hyper-parameter, the recipes that have a name, and the networks that have one.

mod config;
pub mod models;
pub mod recipes;

pub use config::{Config, GradientKind, LrDecay, NeuronKind, OptimizerKind, ThresholdInit};
