//! Summands of a current on the device, and the same values as sums on the host.

use std::any::Any;
use std::ops::RangeInclusive;
use std::sync::Arc;

use dsr::device::{Gpu, Isa};
use dsr::ops::neuron::LANES;
use dsr::ops::spike_conv::{Geometry, Summand, identity_at};
use dsr::spikes::Spikes;
use rand::Rng;

use super::seeded;

pub struct Stored {
    pub summand: Summand,
    /// `[rows][stride]`, f32 in the bits of i32 where they are real; empty for none.
    pub sums: Vec<i32>,
    _memory: Box<dyn Any>,
}

/// Words of random bits, `[rows][words]`; bits behind the last channel are zero.
pub fn random_bits(seed: u64, rows: usize, channels: usize) -> Vec<u32> {
    let words = channels.div_ceil(32);
    let mut rng = seeded::rng(seed);
    let mut word = |at: usize| {
        let live = channels - at % words * 32;
        rng.random::<u32>() & if live < 32 { (1 << live) - 1 } else { u32::MAX }
    };
    (0..rows * words).map(&mut word).collect()
}

pub fn none() -> Stored {
    Stored { summand: Summand::None, sums: Vec::new(), _memory: Box::new(()) }
}

pub fn bits(gpu: &Arc<Gpu>, seed: u64, rows: usize, channels: usize) -> Stored {
    let bits = random_bits(seed, rows, channels);
    let mut spikes = Spikes::reuse(Vec::new(), rows, 1, 1, channels);
    spikes.bits_mut().copy_from_slice(&bits);
    let geometry = Geometry { cin: channels, cout: channels, source: [1, 1], pool: [1, 1, 0], kernel: [1, 1], stride: 1, pad: 0 };
    let stride = channels.next_multiple_of(LANES);
    let mut sums = vec![0; rows * stride];
    identity_at(Isa::Portable, &spikes, 0, &geometry, [0, 0], stride, &mut sums);
    let memory = gpu.memory_of(&bits).unwrap();
    Stored { summand: Summand::Bits { spikes: memory.slice() }, sums, _memory: Box::new(memory) }
}

/// What lies behind the last channel is anything.
pub fn sums(gpu: &Arc<Gpu>, seed: u64, rows: usize, channels: usize, range: RangeInclusive<i32>) -> Stored {
    let mut rng = seeded::rng(seed);
    let sums: Vec<i32> = (0..rows * channels.next_multiple_of(LANES)).map(|_| rng.random_range(range.clone())).collect();
    let memory = gpu.memory_of(&sums).unwrap();
    Stored { summand: Summand::Sums { sums: memory.slice() }, sums, _memory: Box::new(memory) }
}

/// `frames` of T steps, 1 or T.
#[allow(dead_code)] // each test binary uses its part
pub fn real(gpu: &Arc<Gpu>, seed: u64, [positions, frames]: [usize; 2], channels: usize) -> Stored {
    let x = seeded::values(seed, positions * frames * channels.next_multiple_of(LANES), -4.0..12.0);
    let memory = gpu.memory_of(&x).unwrap();
    let sums = bytemuck::cast_slice(&x).to_vec();
    Stored { summand: Summand::Real { sums: memory.slice(), frames }, sums, _memory: Box::new(memory) }
}
