//! dsr: spiking neural networks trained by differentiation on spike representation.
pub mod device;
pub mod error;
pub mod ops;
pub mod spikes;
