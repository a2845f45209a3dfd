//! The small networks with ReLU in place of neurons.

use dsr::network::{preact_resnet, vgg};
use dsr::ops::neuron::Neuron;

use super::small_networks::{self, IF, Small};

/// Every small network as an ANN, and two with dropout.
pub fn all() -> Vec<Small> {
    let mut all = small_networks::all();
    let dropout = |name, build| Small { name, build, neuron: IF, time_steps: 1, bits: 16, batch: 6, events: false };
    all.push(dropout("preact with dropout", |v| preact_resnet([6, 6, 2], 5, &[8, 33], &[1, 1], 3, 0.3, v)));
    all.push(dropout("vgg with dropout", |v| vgg([32, 32, 2], 10, &[&[4], &[5], &[6, 7], &[8], &[33]], 0.2, v)));
    all.into_iter().map(|small| Small { neuron: Neuron::Relu, time_steps: 1, ..small }).collect()
}
