//! Convolution of the real input, copies of it, and gradients of pools: all with the bits of the CPU.

use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::inputs::{NO_POOL, floats, identity, window};
use super::weights::{CANCELS, summed_copies};
use super::{Check, Outcome, Output, Size};
use crate::device::{Gpu, Isa};
use crate::error::Result;
use crate::ops::conv::cuda::{conv_real, copy_real, unpool_add};
use crate::ops::conv::{self, conv_at};
use crate::ops::spike_conv::Geometry;

pub fn geometry(cin: usize, cout: usize, source: [usize; 2], kernel: usize, stride: usize, pad: usize) -> Geometry {
    Geometry { cin, cout, source, pool: NO_POOL, kernel: [kernel; 2], stride, pad }
}

pub fn checks(gpu: &Arc<Gpu>, size: Size) -> Vec<Check> {
    let mut checks = Vec::new();
    // Batch, frames, copies of the weights.
    let mut convolutions = vec![
        (geometry(1, 1, [1, 1], 1, 1, 0), [1, 1, 1]),
        (geometry(3, 64, [5, 7], 3, 1, 1), [3, 1, 1]),
        (geometry(3, 70, [9, 11], 7, 2, 3), [2, 1, 1]),
        (geometry(2, 31, [6, 5], 3, 2, 1), [2, 5, 1]),
        (geometry(5, 130, [4, 4], 4, 1, 0), [2, 1, 3]),
    ];
    if size == Size::Full {
        convolutions.extend([(geometry(3, 64, [32, 32], 3, 1, 1), [8, 1, 1]), (geometry(3, 64, [112, 112], 7, 2, 3), [1, 5, 1])]);
    }
    for (geometry, [batch, frames, replicate]) in convolutions {
        let gpu = gpu.clone();
        let copies = if replicate > 1 { format!(", {replicate} copies") } else { String::new() };
        let shape = format!("{} -> {}, B{batch}, {frames} frames{copies}", window(&geometry), geometry.cout);
        checks.push(Check::bits("real convolution", shape, move |rng, outcome| {
            check_convolution(&gpu, rng, outcome, &geometry, [batch, frames], replicate)
        }));
    }
    let of_copies = gpu.clone();
    checks.push(Check::bits("real convolution", "3 copies of a weight that nearly cancel", move |_, outcome| {
        let (sums, one) = (Output::unwritten(&of_copies, 16)?, of_copies.memory_of(&[1.0f32])?);
        let weights = of_copies.memory_of(&[CANCELS, 1.0, -CANCELS])?;
        conv_real(&of_copies, sums.slice(), one.slice(), weights.slice(), &geometry(1, 1, [1, 1], 1, 1, 0), 3, [1, 1])?;
        sums.expect("sums [stride]", outcome, &std::array::from_fn::<f32, 16, _>(|channel| if channel == 0 { 1.0 } else { 0.0 }))
    }));
    for (channels, source, batch, frames) in [(1, [1, 1], 1, 1), (3, [5, 7], 2, 5), (33, [3, 2], 3, 1), (16, [4, 4], 1, 33)] {
        let gpu = gpu.clone();
        let shape = format!("{}x{}x{channels}, B{batch}, {frames} frames", source[0], source[1]);
        checks.push(Check::bits("copy of the input", shape, move |rng, outcome| {
            check_copy(&gpu, rng, outcome, &identity(channels, source, NO_POOL), [batch, frames])
        }));
    }
    for (channels, pool, source, batch) in [
        (1, NO_POOL, [1, 1], 1),
        (64, NO_POOL, [5, 3], 2),
        (31, [2, 2, 0], [5, 7], 3),
        (12, [3, 2, 1], [7, 5], 2),
        (130, [3, 1, 1], [3, 4], 1),
    ] {
        let (gpu, geometry) = (gpu.clone(), identity(channels, source, pool));
        let shape = format!("{}, B{batch}", window(&geometry));
        checks.push(Check::bits("gradient of a pool", shape, move |rng, outcome| check_unpool(&gpu, rng, outcome, &geometry, batch)));
    }
    checks
}

fn check_convolution(
    gpu: &Arc<Gpu>,
    rng: &mut ChaCha8Rng,
    outcome: &mut Outcome,
    geometry: &Geometry,
    [batch, frames]: [usize; 2],
    replicate: usize,
) -> Result<()> {
    let Geometry { cin, cout, source, .. } = *geometry;
    let (frame, stride) = (source[0] * source[1] * cin, cout.next_multiple_of(16));
    let mut input = floats(rng, batch * frames * frame, -2.0..2.0);
    input[0] = -0.0;
    let weights = floats(rng, replicate * geometry.taps() * cin * cout, -1.0..1.0);
    let effective = summed_copies(&weights, replicate);
    let [width, positions] = [geometry.out()[1], geometry.positions()];
    let mut expected = vec![0.0f32; batch * positions * frames * stride];
    expected.par_chunks_exact_mut(stride).enumerate().for_each(|(row, out)| {
        let (f, at, b) = (row % frames, row / frames % positions, row / frames / positions);
        let frame = &input[(b * frames + f) * frame..][..frame];
        conv_at(Isa::detect(), frame, &effective, geometry, [at / width, at % width], &mut out[..cout]);
    });
    let sums = Output::unwritten(gpu, expected.len())?;
    let (input, weights) = (gpu.memory_of(&input)?, gpu.memory_of(&weights)?);
    conv_real(gpu, sums.slice(), input.slice(), weights.slice(), geometry, replicate, [batch, frames])?;
    sums.expect("sums [B][P][frames][stride]", outcome, &expected)
}

fn check_copy(gpu: &Arc<Gpu>, rng: &mut ChaCha8Rng, outcome: &mut Outcome, geometry: &Geometry, [batch, frames]: [usize; 2]) -> Result<()> {
    let (channels, positions) = (geometry.cin, geometry.positions());
    let stride = channels.next_multiple_of(16);
    let input = floats(rng, batch * frames * positions * channels, -2.0..2.0);
    let mut expected = vec![0.0f32; batch * positions * frames * stride];
    for (row, out) in expected.chunks_exact_mut(stride).enumerate() {
        let (f, at, b) = (row % frames, row / frames % positions, row / frames / positions);
        out[..channels].copy_from_slice(&input[((b * frames + f) * positions + at) * channels..][..channels]);
    }
    let (sums, input) = (Output::unwritten(gpu, expected.len())?, gpu.memory_of(&input)?);
    copy_real(gpu, sums.slice(), input.slice(), geometry, [batch, frames])?;
    sums.expect("sums [B][P][frames][stride]", outcome, &expected)
}

/// Sets the gradient of a source, and adds to it.
fn check_unpool(gpu: &Arc<Gpu>, rng: &mut ChaCha8Rng, outcome: &mut Outcome, geometry: &Geometry, batch: usize) -> Result<()> {
    let (channels, [height, width]) = (geometry.cin, geometry.source);
    let (own, pooled) = (height * width * channels, geometry.positions() * channels);
    let (from, before) = (floats(rng, batch * pooled, -1.0..1.0), floats(rng, batch * own, -1.0..1.0));
    let on_device = gpu.memory_of(&from)?;
    for adds in [false, true] {
        let mut expected = if adds { before.clone() } else { vec![0.0; before.len()] };
        expected.chunks_exact_mut(own).zip(from.chunks_exact(pooled)).for_each(|(to, from)| conv::unpool_add(from, geometry, to));
        let grad = Output::of(gpu, &before)?;
        unpool_add(gpu, grad.slice(), on_device.slice(), geometry, batch, adds)?;
        grad.expect(if adds { "added gradient [B][P][C]" } else { "gradient [B][P][C]" }, outcome, &expected)?;
    }
    Ok(())
}
