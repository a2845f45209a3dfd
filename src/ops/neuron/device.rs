//! Constants of a layer's neurons as kernels take them.

use bytemuck::{Pod, Zeroable};

use super::NeuronArgs;

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

impl From<&NeuronArgs> for DeviceNeurons {
    fn from(args: &NeuronArgs) -> Self {
        DeviceNeurons {
            leak: args.neuron.leak(),
            charge: args.neuron.charge(),
            alpha: args.neuron.alpha(),
            time_steps: args.time_steps as i32,
            channels: args.channels as i32,
            padded: args.channels.next_multiple_of(64) as i32,
        }
    }
}
