//! What kernels are given of a layer's norms.

use crate::device::Slice;
use crate::ops::neuron::Neuron;

/// What one connection brings to the current of its layer, on the device; see `Contribution`.
#[derive(Clone, Copy, Debug)]
pub struct DeviceContribution {
    /// Threshold of the source; none for real values.
    pub threshold: Slice<f32>,
    /// Scale of its fixed-point weights, `[C]`; none for an identity and for real values.
    pub weight_scale: Slice<f32>,
    /// `[C]`, or none.
    pub bias: Slice<f32>,
    /// `1 - dropout` of the source in training, 1 in evaluation.
    pub keep: f32,
    /// Positions of a pool window.
    pub area: usize,
}

/// Parameters and running statistics of a batch norm, each `[C]`.
#[derive(Clone, Copy, Debug, Default)]
pub struct DeviceNorm {
    pub gamma: Slice<f32>,
    pub beta: Slice<f32>,
    pub running_mean: Slice<f32>,
    pub running_var: Slice<f32>,
}

/// What the constants of a layer follow from, all on the device.
#[derive(Clone, Copy, Debug)]
pub struct LayerNorms<'a> {
    pub connections: &'a [DeviceContribution],
    pub norm: Option<DeviceNorm>,
    /// The connection with a norm of its own, and that norm.
    pub inner: Option<(usize, DeviceNorm)>,
    pub neuron: Neuron,
    pub channels: usize,
}

/// Statistics of a batch, as the functions above and `spike_conv` leave them.
#[derive(Clone, Copy, Debug)]
pub enum DeviceStatistics {
    /// A layer without batch norm needs none.
    None,
    /// `[8][C]`.
    Integers(Slice<u64>),
    /// `[batch][2][C]`.
    Reals { sums: Slice<f64>, batch: usize },
    /// `[5][C]`, of an ANN.
    Values(Slice<f64>),
}

/// Constants of the connection that has a norm of its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct DeviceInner {
    /// `[5][padded]`: factor, offset, scale; and scale·k, own k, which backward leaves here.
    pub values: Slice<f32>,
    /// `[padded]`: `mean(x̂ · û)`.
    pub correlation: Slice<f64>,
    pub padded: usize,
}

impl DeviceInner {
    /// One of the five rows.
    pub fn row(&self, row: usize) -> Slice<f32> {
        self.values.part(row * self.padded..(row + 1) * self.padded)
    }
}
