//! Crop, mirror and normalise a batch of images on the device, and cut squares out of them.
//!
//! On the CPU the loader does it, where the random numbers are drawn: [`crate::data::Pixels`], in `data/augment.rs`, with the same bits.
//!
//! What another program has put on the device comes as a [`Strided`] array: copied, or looked up where it is bytes.

mod cuda;
mod cuda_strided;
pub use cuda::{DeviceDraw, Pictures, augment};
pub use cuda_strided::{OnDevice, Strided, reach, strided_bytes, strided_not_finite, strided_values};
