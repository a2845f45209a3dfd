//! The operations a network is made of, one folder an operation: contract in `mod.rs`, CPU in `cpu.rs`.

pub mod augment;
pub mod batch_norm;
pub mod conv;
pub mod cross_entropy;
pub mod dropout;
pub mod neuron;
pub mod optimizer;
pub mod rate;
pub mod relu;
pub mod slices;
pub mod spike_conv;
