//! What kernels are given of a layer's neurons.

use bytemuck::{Pod, Zeroable};

use super::{Neuron, NeuronArgs};
use crate::device::Slice;
use crate::ops::spike_conv::DeviceNormalizer;

/// Field for field `struct Neurons` in `kernels/include/neuron.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
pub struct DeviceNeurons {
    /// `exp(-delta_t / tau)`, 1 for IF.
    pub leak: f32,
    /// `1 - leak`, 1 for IF.
    pub charge: f32,
    /// Fires at `alpha * threshold`; the threshold itself is read from the parameters.
    pub alpha: f32,
    /// T.
    pub time_steps: i32,
    /// C.
    pub channels: i32,
    /// Channels of one row of the normalizer.
    pub padded: i32,
}
const _: () = assert!(size_of::<DeviceNeurons>() == 24);

impl DeviceNeurons {
    /// The neurons of a layer.
    pub fn new(neuron: Neuron, time_steps: usize, channels: usize) -> Self {
        DeviceNeurons {
            leak: neuron.leak(),
            charge: neuron.charge(),
            alpha: neuron.alpha(),
            time_steps: time_steps as i32,
            channels: channels as i32,
            padded: channels.next_multiple_of(64) as i32,
        }
    }
}

impl From<&NeuronArgs> for DeviceNeurons {
    fn from(args: &NeuronArgs) -> Self {
        DeviceNeurons::new(args.neuron, args.time_steps, args.channels)
    }
}

/// Positions whose steps a warp stores at once, as `neuron_steps` in `kernels/include/neuron.cuh` has them: it has 32 lanes, and a position
/// takes a multiple of four.
pub fn positions_at_once(time_steps: usize) -> usize {
    let lanes = time_steps.next_multiple_of(4);
    if lanes <= 16 { 32 / lanes } else { 1 }
}

/// What the neurons of a layer read beside their sums.
#[derive(Clone, Copy, Debug)]
pub struct NeuronInputs {
    pub normalizer: DeviceNormalizer,
    /// The threshold among the parameters, one value; none where the layer has no neurons, and then nothing fires.
    pub threshold: Slice<f32>,
    /// `[T]`; needed for weighted means only.
    pub step_weights: Slice<f32>,
    /// `[B][P][words]`, one bit a dropped neuron; none without dropout.
    pub dropped: Slice<u32>,
    pub neurons: DeviceNeurons,
}

/// What the neurons of a layer write; all but the spikes may be none.
#[derive(Clone, Copy, Debug)]
pub struct NeuronOutputs {
    /// `[B][P][T][words]`.
    pub spikes: Slice<u32>,
    /// `[B][P][C]`.
    pub counts: Slice<u8>,
    /// Time means of the normalised current, `[B][P][C]`.
    pub mean_normed: Slice<f32>,
    /// Weighted time means (LIF), `[B][P][C]`.
    pub weighted_normed: Slice<f32>,
    /// One counter that the spikes of the layer are added to.
    pub fired: Slice<u64>,
}
