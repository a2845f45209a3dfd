//! Random values for both sides.

use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::device::{Gpu, Isa, Memory};
use crate::error::Result;
use crate::ops::batch_norm::Normalizer;
use crate::ops::batch_norm::cuda::PADDING;
use crate::ops::neuron::{LANES, Neuron};
use crate::ops::spike_conv::{DeviceNormalizer, Geometry, Summand, identity_at};
use crate::spikes::Spikes;

pub const NO_POOL: [usize; 3] = [1, 1, 0];
pub const IF: Neuron = Neuron::If { alpha: 0.5 };
pub const LIF: Neuron = Neuron::Lif { alpha: 0.3, tau: 1.0, delta_t: 0.25 };

pub fn floats(rng: &mut ChaCha8Rng, len: usize, range: Range<f32>) -> Vec<f32> {
    (0..len).map(|_| rng.random_range(range.clone())).collect()
}

pub fn integers(rng: &mut ChaCha8Rng, len: usize, range: RangeInclusive<i32>) -> Vec<i32> {
    (0..len).map(|_| rng.random_range(range.clone())).collect()
}

/// Words of bits, `[rows][words]`, a share of `share` of them set; bits behind the last channel are zero.
pub fn bits(rng: &mut ChaCha8Rng, rows: usize, channels: usize, share: f64) -> Vec<u32> {
    bits_of(rng, rows, channels, |_| share)
}

/// The same with a share for every channel.
fn bits_of(rng: &mut ChaCha8Rng, rows: usize, channels: usize, share: impl Fn(usize) -> f64) -> Vec<u32> {
    let words = channels.div_ceil(32);
    let mut word =
        |first: usize| (first..channels.min(first + 32)).fold(0, |word, c| word | u32::from(rng.random_bool(share(c))) << (c - first));
    (0..rows * words).map(|at| word(at % words * 32)).collect()
}

/// Spikes of which three in ten are set.
pub fn spikes(rng: &mut ChaCha8Rng, time_steps: usize, batch: usize, positions: usize, channels: usize) -> Spikes {
    let mut spikes = Spikes::reuse(Vec::new(), time_steps, batch, positions, channels);
    spikes.bits_mut().copy_from_slice(&bits(rng, batch * positions * time_steps, channels, 0.3));
    spikes
}

/// Spikes of one sample as trained networks have them: some neurons are silent, some fire at every step, others at any share of them.
pub fn spikes_of_all_rates(rng: &mut ChaCha8Rng, time_steps: usize, positions: usize, channels: usize) -> Spikes {
    let mut spikes = Spikes::reuse(Vec::new(), time_steps, 1, positions, channels);
    spikes.bits_mut().copy_from_slice(&bits_of(rng, positions * time_steps, channels, |c| (c * 7 % 13) as f64 / 12.0));
    spikes
}

/// A geometry that only passes its source on, through a pool.
pub fn identity(channels: usize, source: [usize; 2], pool: [usize; 3]) -> Geometry {
    Geometry { cin: channels, cout: channels, source, pool, kernel: [1, 1], stride: 1, pad: 0 }
}

/// A summand that is stored on the device, and its sums on the host.
pub struct Stored {
    pub summand: Summand,
    /// `[rows][stride]`; real values as their bits; empty for none.
    pub sums: Vec<i32>,
    _memory: Option<Memory<u32>>,
}

/// What a stored summand is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    None,
    /// Integers.
    Sums,
    /// Spikes.
    Bits,
    /// Real values.
    Real,
    /// Real values, the same in all steps.
    Static,
}

/// A random summand for `positions` with T steps each; integers are at most `largest`.
pub fn stored(
    gpu: &Arc<Gpu>,
    rng: &mut ChaCha8Rng,
    kind: Kind,
    [positions, time_steps, channels]: [usize; 3],
    range: RangeInclusive<i32>,
) -> Result<Stored> {
    let (rows, stride) = (positions * time_steps, channels.next_multiple_of(LANES));
    match kind {
        Kind::None => Ok(Stored { summand: Summand::None, sums: Vec::new(), _memory: None }),
        Kind::Sums => {
            let sums = integers(rng, rows * stride, range);
            let memory = gpu.memory_of(bytemuck::cast_slice::<i32, u32>(&sums))?;
            Ok(Stored { summand: Summand::Sums { sums: memory.slice().cast() }, sums, _memory: Some(memory) })
        }
        Kind::Bits => {
            let spikes = spikes(rng, rows, 1, 1, channels);
            let mut sums = vec![0; rows * stride];
            identity_at(Isa::detect(), &spikes, 0, &identity(channels, [1, 1], NO_POOL), [0, 0], stride, &mut sums);
            let memory = gpu.memory_of(spikes.bits())?;
            Ok(Stored { summand: Summand::Bits { spikes: memory.slice() }, sums, _memory: Some(memory) })
        }
        Kind::Real | Kind::Static => {
            let frames = if kind == Kind::Static { 1 } else { time_steps };
            let x = floats(rng, positions * frames * stride, -4.0..12.0);
            let memory = gpu.memory_of(bytemuck::cast_slice::<f32, u32>(&x))?;
            let sums = bytemuck::cast_slice(&x).to_vec();
            Ok(Stored { summand: Summand::Real { sums: memory.slice().cast(), frames }, sums, _memory: Some(memory) })
        }
    }
}

/// The constants of a layer on the device.
pub fn upload_normalizer(gpu: &Arc<Gpu>, norm: &Normalizer, channels: usize) -> Result<(Memory<f32>, DeviceNormalizer)> {
    let padded = channels.next_multiple_of(PADDING);
    let rows = [&norm.factors[0], &norm.factors[1], &norm.offset, &norm.gamma, &norm.beta, &norm.scale];
    let row = |values: &Vec<f32>| values[..channels].iter().copied().chain(std::iter::repeat(0.0)).take(padded).collect::<Vec<f32>>();
    let values = gpu.memory_of(&rows.map(row).concat())?;
    let on_device = DeviceNormalizer { values: values.slice(), padded };
    Ok((values, on_device))
}

/// Constants that are mostly multiples of powers of two, so that currents hit thresholds exactly.
pub fn coarse_normalizer(rng: &mut ChaCha8Rng, channels: usize) -> Normalizer {
    let mut row = |choices: &[f32]| -> Vec<f32> {
        let mut row: Vec<f32> = (0..channels).map(|_| choices[rng.random_range(0..choices.len())]).collect();
        row.resize(channels.next_multiple_of(32), 0.0);
        row
    };
    Normalizer {
        factors: [row(&[0.125, 0.0625, -0.125, 0.3]), row(&[0.25, -0.0625, 0.01])],
        offset: row(&[0.0, 0.125, -0.5, 0.2]),
        gamma: row(&[1.0, 0.5, 1.1]),
        beta: row(&[0.0, 0.25, 0.3]),
        scale: row(&[1.0, 0.7, 2.0])[..channels].to_vec(),
    }
}

/// `3x3/2` for a kernel with a stride, with the pool in front of it.
pub fn window(geometry: &Geometry) -> String {
    let Geometry { source: [height, width], kernel: [rows, columns], pool: [pool, pool_stride, _], stride, cin, .. } = geometry;
    let pool = if geometry.is_pooled() { format!(" pool {pool}/{pool_stride}") } else { String::new() };
    let stride = if *stride > 1 { format!("/{stride}") } else { String::new() };
    format!("{height}x{width}x{cin}{pool} {rows}x{columns}{stride}")
}
