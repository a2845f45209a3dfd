//! Pools over spikes and counts, and the readout.

use std::sync::Arc;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::inputs::{IF, LIF, identity, spikes};
use super::{Check, Outcome, Output};
use crate::device::{Gpu, Isa};
use crate::error::Result;
use crate::ops::conv::pool_rates;
use crate::ops::neuron::{LANES, Neuron};
use crate::ops::rate::cuda;
use crate::ops::rate::readout;
use crate::ops::spike_conv::{DeviceNormalizer, identity_at};

/// Source height and width, channels, pool, batch, T.
type Case = ([usize; 2], usize, [usize; 3], usize, usize);

const CASES: [Case; 8] = [
    ([1, 1], 1, [1, 1, 0], 1, 1),
    ([5, 7], 33, [2, 2, 0], 2, 5),
    ([7, 5], 31, [3, 2, 1], 1, 20),
    ([7, 7], 64, [7, 7, 0], 3, 1),
    ([4, 4], 17, [2, 1, 1], 1, 33),
    ([6, 9], 70, [3, 3, 0], 1, 3),
    ([15, 16], 4, [15, 1, 0], 1, 2),
    ([8, 8], 5, [4, 4, 0], 1, 40), // more in a window than a byte holds
];

/// Batch, positions, channels, T.
const READOUTS: [(Neuron, [usize; 4]); 4] = [(IF, [1, 1, 1, 1]), (LIF, [5, 1, 10, 20]), (IF, [2, 4, 33, 33]), (LIF, [3, 1, 1000, 5])];

pub fn checks(gpu: &Arc<Gpu>) -> Vec<Check> {
    let name = |(source, channels, pool, batch, time_steps): &Case| {
        let ([height, width], [window, stride, _]) = (source, pool);
        format!("{height}x{width}x{channels} pool {window}/{stride}, T{time_steps} B{batch}")
    };
    let pools = CASES.map(|case| {
        let gpu = gpu.clone();
        Check::bits("pooled spikes", name(&case), move |rng, outcome| check_spikes(&gpu, rng, outcome, case))
    });
    let totals = CASES.map(|case| {
        let gpu = gpu.clone();
        Check::bits("pooled counts", name(&case), move |rng, outcome| check_totals(&gpu, rng, outcome, case))
    });
    let readouts = READOUTS.map(|(neuron, shape)| {
        let (gpu, [batch, positions, channels, time_steps]) = (gpu.clone(), shape);
        let text = format!("{} logits, T{time_steps} B{batch}, {}", positions * channels, neuron.name());
        Check::bits("readout", text, move |rng, outcome| check_readout(&gpu, rng, outcome, neuron, shape))
    });
    let by_current = [[1usize, 1usize], [7, 10], [3, 101]].map(|shape| {
        let (gpu, text) = (gpu.clone(), format!("B{}, {} classes", shape[0], shape[1]));
        Check::bits("readout by current", text, move |rng, outcome| check_currents(&gpu, rng, outcome, shape))
    });
    pools.into_iter().chain(totals).chain(readouts).chain(by_current).collect()
}

/// Spikes in each window and step, as a summand and as what a convolution reads.
fn check_spikes(
    gpu: &Arc<Gpu>,
    rng: &mut ChaCha8Rng,
    outcome: &mut Outcome,
    (source, channels, pool, batch, time_steps): Case,
) -> Result<()> {
    let geometry = identity(channels, source, pool);
    let spikes = spikes(rng, time_steps, batch, source[0] * source[1], channels);
    let [height, width] = geometry.pooled();
    let (stride, padded) = (channels.next_multiple_of(LANES), channels.next_multiple_of(32));
    let mut expected = vec![0i32; batch * height * width * time_steps * stride];
    for (q, sums) in expected.chunks_exact_mut(time_steps * stride).enumerate() {
        let (b, p) = (q / (height * width), q % (height * width));
        identity_at(Isa::detect(), &spikes, b, &geometry, [p / width, p % width], stride, sums);
    }
    let bits = gpu.memory_of(spikes.bits())?;
    let sums = Output::unwritten(gpu, expected.len())?;
    cuda::pool_sums(gpu, sums.slice(), bits.slice(), &geometry, [batch, time_steps])?;
    sums.expect("sums [B][P][T][stride]", outcome, &expected)?;
    let counts = Output::unwritten(gpu, expected.len() / stride * padded)?;
    cuda::pool_counts(gpu, counts.slice(), bits.slice(), &geometry, [batch, time_steps])?;
    let bytes = |row: &[i32]| row[..channels].iter().map(|&n| n as u8).chain(std::iter::repeat(0)).take(padded).collect::<Vec<u8>>();
    counts.expect("counts [B][P][T][C padded]", outcome, &expected.chunks(stride).flat_map(bytes).collect::<Vec<u8>>())
}

/// Counts added up over each window, in bytes where they fit, and in halfwords.
fn check_totals(
    gpu: &Arc<Gpu>,
    rng: &mut ChaCha8Rng,
    outcome: &mut Outcome,
    (source, channels, pool, batch, time_steps): Case,
) -> Result<()> {
    let geometry = identity(channels, source, pool);
    let sample = source[0] * source[1] * channels;
    let counts: Vec<u8> = (0..batch * sample).map(|_| rng.random_range(0..=time_steps as u8)).collect();
    let mut expected: Vec<u16> = Vec::new();
    for counts in counts.chunks(sample) {
        // A spike worth the area makes every product an integer.
        let mut rates = vec![0.0; geometry.pooled().iter().product::<usize>() * channels];
        pool_rates(counts, geometry.area() as f32, &geometry, &mut rates);
        expected.extend(rates.iter().map(|&total| total as u16));
    }
    let counts = gpu.memory_of(&counts)?;
    let totals = Output::unwritten(gpu, expected.len())?;
    cuda::pool_totals(gpu, totals.slice(), counts.slice(), &geometry, [batch, time_steps])?;
    totals.expect("totals [B][P][C]", outcome, &expected)
}

fn check_currents(gpu: &Arc<Gpu>, rng: &mut ChaCha8Rng, outcome: &mut Outcome, [batch, channels]: [usize; 2]) -> Result<()> {
    let padded = channels.next_multiple_of(64);
    let mut drawn = |len: usize| (0..len).map(|_| rng.random_range(-3.0f32..3.0)).collect::<Vec<f32>>();
    let (means, constants) = (drawn(batch * channels), drawn(6 * padded));
    let of_class = |at: usize| (constants[3 * padded + at % channels], constants[4 * padded + at % channels]);
    let expected: Vec<f32> = means.iter().enumerate().map(|(at, mean)| of_class(at).0.mul_add(*mean, of_class(at).1)).collect();
    let (on_device, normalizer) = (gpu.memory_of(&means)?, gpu.memory_of(&constants)?);
    let logits = Output::unwritten(gpu, expected.len())?;
    let norm = DeviceNormalizer { values: normalizer.slice(), padded };
    cuda::readout_current(gpu, logits.slice(), on_device.slice(), &norm, [batch, channels])?;
    logits.expect("logits [B][classes]", outcome, &expected)
}

fn check_readout(gpu: &Arc<Gpu>, rng: &mut ChaCha8Rng, outcome: &mut Outcome, neuron: Neuron, shape: [usize; 4]) -> Result<()> {
    let [batch, positions, channels, time_steps] = shape;
    let spikes = spikes(rng, time_steps, batch, positions, channels);
    let (bits, weights) = (gpu.memory_of(spikes.bits())?, neuron.step_weights(time_steps));
    let step_weights = gpu.memory_of(&weights)?;
    // The second threshold is such that a silent LIF neuron shows the sign of its zero.
    for threshold in [0.37f32, 1e30] {
        let expected = readout(neuron, threshold, &weights, &spikes);
        let (logits, on_device) = (Output::unwritten(gpu, expected.len())?, gpu.memory_of(&[threshold])?);
        let slices = (logits.slice(), bits.slice(), on_device.slice(), step_weights.slice());
        cuda::readout(gpu, slices.0, slices.1, slices.2, slices.3, neuron, [batch, positions, channels])?;
        logits.expect("logits [B][classes]", outcome, &expected)?;
    }
    Ok(())
}
