//! Real-valued convolution: the stem's forward, that of every connection of an ANN, and the data and weight gradients of every connection.
//!
//! In the path of a batch: the image → **conv** → first layer; backward: gradient of a layer's current → its sources and weights.

mod cpu;
mod cpu_forward;
pub mod cuda;
mod cuda_data_gradient;
mod cuda_forward;
mod cuda_weight_gradient;
mod sizes;
pub use cpu::{conv_at, data_gradient, pool_rates, pool_values, unpool_add, weight_gradient};
pub use cpu_forward::conv;
