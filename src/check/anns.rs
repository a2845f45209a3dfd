//! What only an ANN does: outputs, pools and norms of real values have the bits of the CPU, statistics those of exact sums; whole networks.

use std::sync::Arc;

use rand_chacha::ChaCha8Rng;

use super::inputs::{NO_POOL, bits, coarse_normalizer, floats, identity, upload_normalizer, window};
use super::{Check, Outcome, Output, Size, networks};
use crate::device::{Gpu, Isa, Slice};
use crate::error::Result;
use crate::ops::batch_norm::cuda::{DeviceInner, PADDING};
use crate::ops::batch_norm::cuda_values::{RealRows, partial_len, statistics_of_values};
use crate::ops::conv;
use crate::ops::relu::cuda::{self as relu, Activations};
use crate::ops::relu::{activate, drop_values, scale_and_shift};
use crate::ops::spike_conv::Geometry;

/// Rows and channels.
const SHAPES: [[usize; 2]; 4] = [[1, 1], [6, 33], [130, 70], [301, 5]];
/// The same for layers of realistic width.
const WIDE: [[usize; 2]; 2] = [[20_480, 64], [2_560, 512]];

pub fn checks(gpu: &Arc<Gpu>, size: Size) -> Vec<Check> {
    let mut checks = Vec::new();
    for shape in SHAPES.into_iter().chain(WIDE.into_iter().filter(|_| size == Size::Full)) {
        let text = format!("{}x{}", shape[0], shape[1]);
        let [of_outputs, of_own, of_sums] = [gpu.clone(), gpu.clone(), gpu.clone()];
        checks.push(Check::bits("ANN outputs", &text, move |rng, outcome| check_outputs(&of_outputs, rng, outcome, shape)));
        checks.push(Check::bits("ANN own norm", &text, move |rng, outcome| check_own_norm(&of_own, rng, outcome, shape)));
        checks.push(Check::bits("ANN statistics, integers", &text, move |rng, outcome| check_statistics(&of_sums, rng, outcome, shape)));
    }
    let of_nan = gpu.clone();
    checks.push(Check::bits("ANN outputs", "currents that are no number", move |rng, outcome| check_nan(&of_nan, rng, outcome)));
    for (channels, pool, source, batch) in
        [(1, NO_POOL, [1, 1], 1), (31, [2, 2, 0], [5, 7], 3), (12, [3, 2, 1], [7, 5], 2), (130, [3, 1, 1], [3, 4], 1)]
    {
        let (gpu, geometry) = (gpu.clone(), identity(channels, source, pool));
        let shape = format!("{}, B{batch}", window(&geometry));
        checks.push(Check::bits("ANN pool", shape, move |rng, outcome| check_pool(&gpu, rng, outcome, &geometry, batch)));
    }
    checks.extend(networks::ann_checks(gpu, size));
    checks
}

/// One current and two, with and without dropout.
fn check_outputs(gpu: &Arc<Gpu>, rng: &mut ChaCha8Rng, outcome: &mut Outcome, [rows, channels]: [usize; 2]) -> Result<()> {
    let norm = coarse_normalizer(rng, channels);
    let (_memory, on_device) = upload_normalizer(gpu, &norm, channels)?;
    for (has_second, dropout) in [(false, 0.0f32), (true, 0.0), (true, 0.25)] {
        let [first, second] = [(); 2].map(|()| floats(rng, rows * channels, -4.0..4.0));
        let dropped = bits(rng, rows, channels, f64::from(dropout));
        let (mut x, mut expected, mut active) = (first.clone(), vec![0.0; rows * channels], 0);
        activate(Isa::detect(), &norm, channels, &mut x, if has_second { &second } else { &[] }, &mut expected, &mut active);
        if dropout > 0.0 {
            drop_values(&dropped, channels, 1.0 / (1.0 - dropout), &mut expected);
        }
        let [first, second] = [gpu.memory_of(&first)?, gpu.memory_of(&second)?];
        let of = |values| RealRows { values, pitch: channels };
        let currents = [Some(of(first.slice())), has_second.then(|| of(second.slice()))];
        let (normed, values) = (Output::unwritten(gpu, rows * channels)?, Output::unwritten(gpu, rows * channels)?);
        let (rounded, counter) = (Output::unwritten(gpu, rows * channels)?, Output::of(gpu, &[0u64])?);
        let out = Activations { normed: normed.slice(), values: values.slice(), rounded: rounded.slice(), active: counter.slice() };
        let mask = gpu.memory_of(&dropped)?;
        let dropped = if dropout > 0.0 { mask.slice() } else { Slice::NONE };
        relu::activate(gpu, &out, &on_device, currents, dropped, dropout, [rows, channels])?;
        normed.expect("normalised currents [B][P][C]", outcome, &x)?;
        values.expect("outputs [B][P][C]", outcome, &expected)?;
        rounded.expect("outputs as bf16 [B][P][C]", outcome, &to_bf16(&expected))?;
        counter.expect("number of outputs above 0", outcome, &[active])?;
    }
    Ok(())
}

/// An output that is no number must stay so, or a training that has diverged would go on. Its bits are the instruction's.
fn check_nan(gpu: &Arc<Gpu>, rng: &mut ChaCha8Rng, outcome: &mut Outcome) -> Result<()> {
    const CHANNELS: usize = 33;
    let norm = coarse_normalizer(rng, CHANNELS);
    let (_memory, on_device) = upload_normalizer(gpu, &norm, CHANNELS)?;
    let currents: Vec<f32> =
        floats(rng, CHANNELS, -4.0..4.0).into_iter().enumerate().map(|(c, x)| if c % 5 == 2 { f32::NAN } else { x }).collect();
    let from = gpu.memory_of(&currents)?;
    let (normed, values) = (Output::of(gpu, &[0.0f32; CHANNELS])?, Output::of(gpu, &[0.0f32; CHANNELS])?);
    let (rounded, counter) = (Output::of(gpu, &[0u16; CHANNELS])?, gpu.memory_of(&[0u64])?);
    let out = Activations { normed: normed.slice(), values: values.slice(), rounded: rounded.slice(), active: counter.slice() };
    let first = Some(RealRows { values: from.slice(), pitch: CHANNELS });
    relu::activate(gpu, &out, &on_device, [first, None], Slice::NONE, 0.0, [1, CHANNELS])?;
    let expected: Vec<u8> = currents.iter().map(|x| u8::from(x.is_nan())).collect();
    let flags = |values: &[f32]| values.iter().map(|x| u8::from(x.is_nan())).collect::<Vec<u8>>();
    let (normed, values) = (normed.values("normalised currents", outcome)?, values.values("outputs", outcome)?);
    let rounded: Vec<f32> =
        rounded.values("outputs as bf16", outcome)?.into_iter().map(|bits| half::bf16::from_bits(bits).to_f32()).collect();
    for (name, got) in [("normalised currents", normed), ("outputs", values), ("outputs as bf16", rounded)] {
        outcome.bits(&format!("{name} that are no number, 1 each"), &flags(&got), &expected);
    }
    Ok(())
}

fn check_own_norm(gpu: &Arc<Gpu>, rng: &mut ChaCha8Rng, outcome: &mut Outcome, [rows, channels]: [usize; 2]) -> Result<()> {
    let (factor, offset) = (floats(rng, channels, 0.5..1.5), floats(rng, channels, -1.0..1.0));
    let from = floats(rng, rows * channels, -4.0..4.0);
    let mut expected = vec![0.0; rows * channels];
    scale_and_shift(Isa::detect(), &factor, &offset, &from, &mut expected);
    let padded = channels.next_multiple_of(PADDING);
    let mut constants = vec![0.0f32; 5 * padded];
    constants[..channels].copy_from_slice(&factor);
    constants[padded..][..channels].copy_from_slice(&offset);
    let (constants, from) = (gpu.memory_of(&constants)?, gpu.memory_of(&from)?);
    let inner = DeviceInner { values: constants.slice(), padded, ..DeviceInner::default() };
    let out = Output::unwritten(gpu, rows * channels)?;
    relu::scale_and_shift(gpu, out.slice(), &inner, RealRows { values: from.slice(), pitch: channels }, [rows, channels])?;
    out.expect("normalised currents [B][P][C]", outcome, &expected)
}

/// Small integers have exact sums in any order.
fn check_statistics(gpu: &Arc<Gpu>, rng: &mut ChaCha8Rng, outcome: &mut Outcome, [rows, channels]: [usize; 2]) -> Result<()> {
    for has_second in [false, true] {
        let [x, y] = [(); 2].map(|()| floats(rng, rows * channels, -8.0..8.0).into_iter().map(f32::round).collect::<Vec<f32>>());
        let mut expected = vec![0.0f64; 5 * channels];
        for (at, (&x, &y)) in x.iter().zip(&y).enumerate() {
            let (x, y) = (f64::from(x), if has_second { f64::from(y) } else { 0.0 });
            [x, y, x * x, x * y, y * y].iter().enumerate().for_each(|(row, v)| expected[row * channels + at % channels] += v);
        }
        // A sum of nothing is 0, not -0.
        expected.iter_mut().for_each(|sum| *sum += 0.0);
        let [x, y] = [gpu.memory_of(&x)?, gpu.memory_of(&y)?];
        let of = |values| RealRows { values, pitch: channels };
        let (sums, partial) = (Output::unwritten(gpu, 5 * channels)?, Output::<f64>::unwritten(gpu, partial_len(rows, channels))?);
        let second = has_second.then(|| of(y.slice()));
        statistics_of_values(gpu, sums.slice(), partial.slice(), of(x.slice()), second, [rows, channels])?;
        partial.values("partial sums", outcome)?;
        sums.expect("sums [5][C]", outcome, &expected)?;
    }
    Ok(())
}

/// Means in f32 for an identity, in bf16 for a convolution.
fn check_pool(gpu: &Arc<Gpu>, rng: &mut ChaCha8Rng, outcome: &mut Outcome, geometry: &Geometry, batch: usize) -> Result<()> {
    let (own, pooled) = (geometry.source.iter().product::<usize>() * geometry.cin, geometry.positions() * geometry.cin);
    let values = floats(rng, batch * own, -1.0..1.0);
    let mut expected = vec![0.0f32; batch * pooled];
    let samples = expected.chunks_exact_mut(pooled).zip(values.chunks_exact(own));
    samples.for_each(|(means, values)| conv::pool_values(values, geometry, means));
    let values = gpu.memory_of(&values)?;
    let (means, rounded) = (Output::unwritten(gpu, batch * pooled)?, Output::unwritten(gpu, batch * pooled)?);
    relu::pool_values(gpu, means.slice(), Slice::NONE, values.slice(), geometry, batch)?;
    relu::pool_values(gpu, Slice::NONE, rounded.slice(), values.slice(), geometry, batch)?;
    means.expect("means [B][P][C]", outcome, &expected)?;
    rounded.expect("means as bf16 [B][P][C]", outcome, &to_bf16(&expected))
}

fn to_bf16(values: &[f32]) -> Vec<u16> {
    values.iter().map(|&v| half::bf16::from_f32(v).to_bits()).collect()
}
