//! Crop, mirror and normalise a batch of images on the device, and cut squares out of them.
//!
//! On the CPU the loader does it, where the random numbers are drawn: [`crate::data::Pixels`], in `data/augment.rs`, with the same bits.

mod cuda;
pub use cuda::{DeviceDraw, Pictures, augment};
