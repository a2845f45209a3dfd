//! Real-valued convolution: the stem's forward, and the data and weight gradients of every connection.
//!
//! In the path of a batch: the image → **conv** → first layer; backward: gradient of a layer's current → its sources and weights.

mod cpu;
pub mod cuda;
mod cuda_weight_gradient;
pub use cpu::{conv_at, data_gradient, pool_rates, unpool_add, weight_gradient};
