//! A small network on a device, for tests of what several steps do to it.

use dsr::device::Device;
use dsr::network::{Mode, Network, WeightGradient, preact_resnet};
use dsr::ops::neuron::Neuron;

use super::device;

pub const IF: Neuron = Neuron::If { alpha: 0.5 };
pub const LIF: Neuron = Neuron::Lif { alpha: 0.3, tau: 1.0, delta_t: 0.05 };

pub fn small(neuron: Neuron, dropout: f32) -> Network {
    let threshold = if neuron == IF { 1.0 } else { 0.3 };
    preact_resnet([8, 8, 1], 10, &[8, 16], &[1, 1], 4, dropout, threshold).unwrap().finish(neuron, 4, 0.01, 11).unwrap()
}

pub fn placed(network: &Network) -> Network {
    let mut network = network.clone();
    network.place(&Device::Cuda(device::gpu())).unwrap();
    network
}

pub fn labels(seed: u64, batch: usize) -> Vec<u32> {
    (0..batch as u64).map(|b| ((b * 7 + seed * 3) % 10) as u32).collect()
}

pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

pub fn mode(seed: u64) -> Mode {
    Mode::Train { gradient: WeightGradient::Rate, seed }
}
