//! What a run is: every hyper-parameter, the recipes that have a name, and the networks that have one.

mod augmentation;
mod check;
mod config;
mod files;
mod kinds;
mod memory;
pub mod models;
pub mod recipes;
mod written;

pub use config::Config;
pub use kinds::{DecayOn, GradientKind, LrDecay, NeuronKind, OptimizerKind, ReadoutKind, ScheduleKind, SyncBatchNorm, ThresholdInit};
pub use memory::Use;
