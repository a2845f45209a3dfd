//! The constants of a batch norm by the last block of the kernel that collects its statistics, many times over: whether that block
//! sees what all others have added is a question of the order of memory, which only a device can answer.

use std::sync::Arc;

use rand_chacha::ChaCha8Rng;

use super::inputs::{Kind, floats, stored};
use super::{Check, Outcome, Output, Size};
use crate::device::{Gpu, Slice};
use crate::error::Result;
use crate::ops::batch_norm::cuda::{
    BatchConstants, DeviceContribution, DeviceInner, DeviceNorm, DeviceStatistics, LayerNorms, PADDING, batch_normalizer,
    statistics_of_sums, statistics_of_sums_and_constants,
};
use crate::ops::neuron::Neuron;
use crate::ops::spike_conv::DeviceNormalizer;

/// Three groups of 64 channels, the last of them not full.
const CHANNELS: usize = 130;

/// The rows of `dsr check` for it.
pub fn checks(gpu: &Arc<Gpu>, size: Size) -> Vec<Check> {
    let (rows, times) = if size == Size::Full { (20_000, 50) } else { (3_000, 3) };
    let gpu = gpu.clone();
    let text = format!("{rows}x{CHANNELS}, {times} times");
    vec![Check::bits("constants by the last block", text, move |rng, outcome| check_times(&gpu, rng, outcome, rows, times))]
}

fn check_times(gpu: &Arc<Gpu>, rng: &mut ChaCha8Rng, outcome: &mut Outcome, rows: usize, times: usize) -> Result<()> {
    let padded = CHANNELS.next_multiple_of(PADDING);
    let x = stored(gpu, rng, Kind::Sums, [rows, 1, CHANNELS], -1000..=1000)?;
    let y = stored(gpu, rng, Kind::None, [rows, 1, CHANNELS], -1..=1)?;
    let [gamma, beta, scale, threshold] =
        [0.5..1.5, -1.0..1.0, 0.1..0.2, 0.5..1.0].map(|range| gpu.memory_of(&floats(rng, CHANNELS, range)));
    let (gamma, beta, scale, threshold) = (gamma?, beta?, scale?, threshold?);
    let (mean, var) = (gpu.zeroed::<f32>(CHANNELS)?, gpu.zeroed::<f32>(CHANNELS)?);
    let norm = DeviceNorm { gamma: gamma.slice(), beta: beta.slice(), running_mean: mean.slice(), running_var: var.slice() };
    let connections = [DeviceContribution {
        threshold: threshold.slice().part(0..1),
        weight_scale: scale.slice(),
        bias: Slice::NONE,
        keep: 1.0,
        area: 1,
    }];
    let neuron = Neuron::If { alpha: 0.5 };
    let norms = LayerNorms { connections: &connections, norm: Some(norm), inner: None, neuron, channels: CHANNELS };
    let (statistics, counters) = (gpu.zeroed::<u64>(8 * CHANNELS)?, gpu.zeroed::<u64>(padded / PADDING)?);
    let (values, own) = (Output::<f32>::unwritten(gpu, 6 * padded)?, gpu.zeroed::<f32>(5 * padded)?);
    let correlation = gpu.zeroed::<f64>(padded)?;
    let out = DeviceNormalizer { values: values.slice(), padded };
    let inner = DeviceInner { values: own.slice(), correlation: correlation.slice(), padded };
    let integers = DeviceStatistics::Integers(statistics.slice());

    statistics_of_sums(gpu, statistics.slice(), &x.summand, &y.summand, rows, CHANNELS)?;
    batch_normalizer(gpu, &out, &inner, &norms, integers, [rows, rows])?;
    let expected = values.values("constants by a launch of their own", outcome)?;
    let constants = BatchConstants::new(&out, &inner, &norms, integers, [rows, rows], counters.slice())?;
    let step = gpu.capture(|| {
        gpu.fill_zero(values.slice())?;
        gpu.fill_zero(statistics.slice())?;
        gpu.fill_zero(counters.slice())?;
        statistics_of_sums_and_constants(gpu, statistics.slice(), &x.summand, &y.summand, rows, CHANNELS, &constants)
    })?;
    for time in 0..times {
        step.launch()?;
        values.expect(&format!("constants [6][C], time {time}"), outcome, &expected)?;
    }
    Ok(())
}
