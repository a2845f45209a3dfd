//! Weights of one connection on the device.

use std::sync::Arc;

use dsr::device::{Gpu, Layout, Memory};
use dsr::ops::spike_conv::{Geometry, PackedWeights, WeightSource};

/// The weights and what holds them.
pub struct OnDevice {
    pub weights: PackedWeights,
    pub source: WeightSource,
    _memory: (Memory<u8>, Memory<f32>),
}

/// Uploads `[replicate][tap][cin][cout]`; nothing is packed yet.
pub fn on_device(gpu: &Arc<Gpu>, master: &[f32], geometry: Geometry, replicate: usize, bits: u8) -> OnDevice {
    let mut layout = Layout::measure();
    PackedWeights::take_for(&mut layout, &geometry, bits, gpu.products());
    let memory = gpu.memory_of(&vec![0xa5u8; layout.bytes()]).unwrap(); // whatever was there must be overwritten
    let weights = PackedWeights::take_for(&mut Layout::of(&memory), &geometry, bits, gpu.products());
    let on_device = gpu.memory_of(master).unwrap();
    let source = WeightSource { master: on_device.slice(), geometry, replicate, weights };
    OnDevice { weights, source, _memory: (memory, on_device) }
}
