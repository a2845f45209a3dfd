//! Every op at every layer shape of a network, alone: how much it does a second, and what share of the machine's peak that is.

mod cpu;
mod cuda;
mod shapes;

pub use cpu::on_cpu;
pub use cuda::{copy_bytes_per_s, on_cuda};

use clap::ValueEnum;
use serde::Serialize;

use super::peaks::Peaks;
use super::times::Limits;
use crate::evaluation::synaptic::readers;
use crate::network::{Init, Network};
use crate::ops::spike_conv::Geometry;
use crate::spikes::Spikes;

/// What bounds an op: the peak that it is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// Floating-point operations of a large matrix product.
    Gemm,
    /// Additions of 32-bit integers.
    AddsI32,
    /// Additions of 16-bit integers.
    AddsI16,
    /// Bytes of a large copy.
    Memory,
    /// Operations of the tensor cores, for which there is no measured peak here.
    TensorCores,
}

/// What an op finds in the caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Cache {
    /// What the run before has left there.
    Warm,
    /// Other data: all caches are overwritten before each run.
    Cold,
}

/// An op at a shape, and what one run of it does.
#[derive(Clone, Debug, PartialEq)]
pub struct Op {
    /// Name, such as `spike_conv`.
    pub name: &'static str,
    /// Such as `64x32x32 to 128 3x3 /2` (channels, height, width; output channels; kernel; stride).
    pub shape: String,
    /// Layers or connections of the network with this shape.
    pub layers: usize,
    /// Width of the weights, where the op reads fixed-point weights.
    pub weight_bits: Option<u8>,
    /// Operations if every source fired at every step; a multiply-accumulate is two. 0 for an op that only moves data.
    pub dense: u64,
    /// Operations that are carried out: additions for spikes, two for a multiply-accumulate of real values.
    pub operations: u64,
    /// Bytes that have to be read or written once.
    pub bytes: u64,
    pub bound: Bound,
}

impl Op {
    /// An op that moves `bytes` and that memory bounds.
    fn moving(name: &'static str, shape: String, layers: usize, bytes: usize) -> Op {
        Op { name, shape, layers, weight_bits: None, dense: 0, operations: 0, bytes: bytes as u64, bound: Bound::Memory }
    }

    /// The share of the peak that runs of `seconds` reach; `None` where the peak is not known.
    pub fn share(&self, seconds: f64, peaks: &KnownPeaks) -> Option<f64> {
        let (amount, peak) = match self.bound {
            Bound::Gemm => (self.operations, peaks.cpu?.gemm_flop_per_s),
            Bound::AddsI32 => (self.operations, peaks.cpu?.adds_i32_per_s),
            Bound::AddsI16 => (self.operations, peaks.cpu?.adds_i16_per_s),
            Bound::Memory => (self.bytes, peaks.memory_bytes_per_s()?),
            Bound::TensorCores => return None,
        };
        Some(amount as f64 / seconds / peak)
    }
}

/// The peaks of the device that ops ran on.
#[derive(Clone, Copy, Debug, Default)]
pub struct KnownPeaks {
    pub cpu: Option<Peaks>,
    /// Of a copy on a CUDA device.
    pub cuda_bytes_per_s: Option<f64>,
}

impl KnownPeaks {
    fn memory_bytes_per_s(&self) -> Option<f64> {
        self.cuda_bytes_per_s.or(self.cpu.map(|peaks| peaks.memory_bytes_per_s))
    }
}

/// What came out for an op.
#[derive(Clone, Debug)]
pub struct Measured {
    pub op: Op,
    pub cache: Cache,
    /// Seconds of each run; empty where it was not measured.
    pub seconds: Vec<f64>,
}

/// What is measured.
pub struct Plan<'a> {
    pub network: &'a Network,
    pub batch: usize,
    /// Frames of a sample: 1 or T.
    pub frames: usize,
    /// Share of neurons that fire, for random spikes.
    pub rate: f64,
    /// Widths of weights.
    pub weight_bits: &'a [u8],
    pub caches: &'a [Cache],
    /// Parts of names; an op is measured if its name has one of them. All ops without any.
    pub only: &'a [String],
    pub limits: Limits,
    pub seed: u64,
}

/// Names of all ops: those of the CPU, and further ones of CUDA devices.
pub const OPS: [&str; 21] = [
    "conv_real",
    "quantize_weights",
    "spike_conv",
    "pool",
    "pool_counts",
    "identity",
    "rate_counts",
    "unpool",
    "data_gradient",
    "weight_gradient",
    "statistics",
    "neuron",
    "clamp_mapping_backward",
    "batch_norm_backward",
    "readout",
    "optimizer",
    "transpose_weights",
    "spike_conv_sums",
    "spike_conv_statistics",
    "spike_conv_neurons",
    "readout_current",
];

/// Additions that spikes cause in a convolution: each meets the weights of all outputs that read it.
fn additions(geometry: &Geometry, spikes: &Spikes) -> u64 {
    let readers = readers(geometry);
    let positions = spikes.bits().chunks_exact(spikes.time_steps * spikes.words()).enumerate();
    let of_position = |(at, words): (usize, &[u32])| {
        let fired: u32 = words.iter().map(|word| word.count_ones()).sum();
        u64::from(fired) * readers[at % spikes.positions]
    };
    positions.map(of_position).sum::<u64>() * geometry.cout as u64
}

impl Plan<'_> {
    fn wants(&self, name: &str) -> bool {
        debug_assert!(OPS.contains(&name), "{name} is not listed");
        self.only.is_empty() || self.only.iter().any(|part| name.contains(part.as_str()))
    }

    fn generator(&self, stream: u64) -> rand_chacha::ChaCha8Rng {
        let mut rng: rand_chacha::ChaCha8Rng = rand::SeedableRng::seed_from_u64(self.seed);
        rng.set_stream(stream);
        rng
    }

    /// Random spikes at the plan's rate.
    fn spikes(&self, positions: usize, channels: usize) -> Spikes {
        let mut rng = self.generator(1);
        let mut spikes = Spikes::reuse(Vec::new(), self.network.time_steps, self.batch, positions, channels);
        let words = spikes.words();
        for (index, word) in spikes.bits_mut().iter_mut().enumerate() {
            let live = (channels - index % words * 32).min(32);
            *word = (0..live).map(|bit| u32::from(rand::Rng::random_bool(&mut rng, self.rate)) << bit).sum();
        }
        spikes
    }

    /// Normal values.
    fn values(&self, stream: u64, len: usize, std: f32) -> Vec<f32> {
        let mut values = vec![0.0; len];
        Init::Normal(std).fill(&mut values, &mut self.generator(stream));
        values
    }

    /// Sums around zero.
    fn sums(&self, stream: u64, len: usize) -> Vec<i32> {
        self.values(stream, len, 1000.0).iter().map(|&v| v as i32).collect()
    }
}
