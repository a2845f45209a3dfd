//! Sums over slices of a batch, and over ranks that share it.

use std::sync::Arc;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::{Check, Outcome, Output};
use crate::device::{Gpu, Slice};
use crate::error::Result;
use crate::ops::slices::cuda::{add_f32, add_f64, sample_sums, slice_sums};
use crate::ops::slices::{Added, Slices, add_slices};

/// Slices of a whole batch, those of this batch, ranks; values of a slice.
const TREES: [(Slices, usize); 6] = [
    (Slices { all: 1, present: 1, ranks: 1 }, 1),
    (Slices { all: 8, present: 8, ranks: 1 }, 300),
    (Slices { all: 8, present: 5, ranks: 3 }, 255),
    (Slices { all: 8, present: 8, ranks: 4 }, 257),
    (Slices { all: 9, present: 7, ranks: 2 }, 33),
    (Slices { all: 5, present: 3, ranks: 5 }, 256),
];
/// Samples of a batch, of a slice, values of each.
const SAMPLES: [[usize; 3]; 4] = [[1, 1, 1], [7, 3, 257], [8, 2, 20], [5, 8, 256]];
/// Quantities, blocks of rows, channels.
const PARTS: [[usize; 3]; 3] = [[1, 1, 1], [3, 7, 33], [2, 19, 64]];

pub fn checks(gpu: &Arc<Gpu>) -> Vec<Check> {
    let trees = TREES.map(|(slices, len)| {
        let (gpu, text) = (gpu.clone(), format!("{} of {} slices, {} ranks, {len} values", slices.present, slices.all, slices.ranks));
        Check::bits("sums over slices", text, move |rng, outcome| check_tree(&gpu, rng, outcome, &slices, len))
    });
    let samples = SAMPLES.map(|shape| {
        let (gpu, text) = (gpu.clone(), format!("{} samples, {} per slice, {} values", shape[0], shape[1], shape[2]));
        Check::bits("sums of samples", text, move |rng, outcome| check_samples(&gpu, rng, outcome, shape))
    });
    let parts = PARTS.map(|shape| {
        let (gpu, text) = (gpu.clone(), format!("{} quantities, {} blocks, {} channels", shape[0], shape[1], shape[2]));
        Check::bits("sums of parts", text, move |rng, outcome| check_parts(&gpu, rng, outcome, shape))
    });
    trees.into_iter().chain(samples).chain(parts).collect()
}

/// Values whose sums round, so that another order shows.
fn values(rng: &mut ChaCha8Rng, len: usize) -> Vec<f64> {
    (0..len).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// What is each rank's own, rank by rank, then what lies across ranks; the total is added to what is there.
fn check_tree(gpu: &Arc<Gpu>, rng: &mut ChaCha8Rng, outcome: &mut Outcome, slices: &Slices, len: usize) -> Result<()> {
    let mut wide = values(rng, slices.all * len);
    let mut narrow: Vec<f32> = wide.iter().map(|&value| value as f32).collect();
    let [on_device, into] = [Output::of(gpu, &narrow)?, Output::of(gpu, &vec![0.5f32; len])?];
    let wide_on_device = Output::of(gpu, &wide)?;
    for added in (0..slices.ranks).map(Added::Own).chain([Added::Across]) {
        add_slices(&mut narrow, len, slices, added, 0);
        add_slices(&mut wide, len, slices, added, 0);
        let to = if added == Added::Across { into.slice() } else { Slice::NONE };
        add_f32(gpu, on_device.slice(), to, len, slices, added, 0)?;
        add_f64(gpu, wide_on_device.slice(), Slice::NONE, len, slices, added, 0)?;
    }
    let total: Vec<f32> = narrow[..len].iter().map(|sum| 0.5 + sum).collect();
    on_device.expect("sums in f32", outcome, &narrow)?;
    wide_on_device.expect("sums in f64", outcome, &wide)?;
    into.expect("what the total is added to", outcome, &total)
}

fn check_samples(gpu: &Arc<Gpu>, rng: &mut ChaCha8Rng, outcome: &mut Outcome, [batch, slice, len]: [usize; 3]) -> Result<()> {
    let samples = values(rng, batch * len);
    let (on_device, sums) = (gpu.memory_of(&samples)?, Output::unwritten(gpu, batch.div_ceil(slice) * len)?);
    sample_sums(gpu, sums.slice(), on_device.slice(), [batch, slice, len])?;
    let mut expected = Vec::new();
    for of_slice in samples.chunks(slice * len) {
        expected.extend((0..len).map(|i| of_slice.chunks(len).fold(0.0, |sum, sample| sum + sample[i])));
    }
    sums.expect("sums of slices", outcome, &expected)
}

/// Eight runs of blocks, each in order, then the runs in order.
fn check_parts(gpu: &Arc<Gpu>, rng: &mut ChaCha8Rng, outcome: &mut Outcome, shape: [usize; 3]) -> Result<()> {
    let [quantities, blocks, channels] = shape;
    let parts = values(rng, quantities * blocks * channels);
    let (on_device, sums) = (gpu.memory_of(&parts)?, Output::unwritten(gpu, quantities * channels)?);
    slice_sums(gpu, sums.slice(), on_device.slice(), shape)?;
    let expected: Vec<f64> = (0..quantities * channels)
        .map(|at| {
            let part = |block: usize| parts[(at / channels * blocks + block) * channels + at % channels];
            let run = |run: usize| (blocks * run / 8..blocks * (run + 1) / 8).fold(0.0, |sum, block| sum + part(block));
            (1..8).fold(run(0), |sum, other| sum + run(other))
        })
        .collect();
    sums.expect("sums of channels", outcome, &expected)
}
