//! Trains and measures spiking neural networks by Differentiation on Spike Representation (DSR).
//!
//! Spikes are bits, all T time steps run inside one pass over a layer, and the backward pass has no time axis.
//! Start with [`network`] (what a spiking network is) and [`ops`] (the arithmetic).
//!
//! Source of the method: Meng et al., "Training High-Performance Low-Latency Spiking Neural Networks by Differentiation on
//! Spike Representation", CVPR 2022.

pub mod atomic_file;
pub mod bench;
pub mod calibrate;
pub mod check;
pub mod checkpoint;
pub mod cli;
pub mod clock;
pub mod config;
pub mod curves;
pub mod data;
pub mod device;
pub mod energy;
pub mod error;
pub mod eval;
pub mod lines;
pub mod machine;
pub mod metrics;
pub mod models;
pub mod network;
pub mod ops;
pub mod optimizer;
pub mod profile;
pub mod recipes;
pub mod run_folder;
mod run_lock;
pub mod sketch;
pub mod spikes;
pub mod synaptic;
pub mod tensorboard;
pub mod train;
pub mod watch;
