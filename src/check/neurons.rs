//! Neurons from stored sums, and what spiking convolutions share with them.

use std::sync::Arc;

use rand_chacha::ChaCha8Rng;

use super::inputs::{IF, Kind, LIF, Stored, bits, coarse_normalizer, stored, upload_normalizer};
use super::{Check, Outcome, Output, Size};
use crate::device::{Gpu, Isa, Slice};
use crate::error::Result;
use crate::ops::batch_norm::Normalizer;
use crate::ops::neuron::{
    Currents, DeviceNeurons, LANES, Neuron, NeuronArgs, NeuronInputs, NeuronOut, NeuronOutputs, cuda, drop_spikes, neuron_at,
};

/// What the neurons of a layer write on the CPU.
pub struct Written {
    pub spikes: Vec<u32>,
    pub counts: Vec<u8>,
    pub mean_normed: Vec<f32>,
    /// Empty for IF.
    pub weighted_normed: Vec<f32>,
}

/// Neurons of all positions from the sums of up to two summands, `[positions][T or 1][stride]`.
pub fn on_cpu(
    isa: Isa,
    args: &NeuronArgs,
    norm: &Normalizer,
    [first, second]: [&[i32]; 2],
    is_real: bool,
    dropped: &[u32],
    positions: usize,
) -> Written {
    let (channels, words) = (args.channels, args.channels.div_ceil(32));
    let is_weighted = matches!(args.neuron, Neuron::Lif { .. });
    let neurons = positions * channels;
    let mut written = Written {
        spikes: vec![0; positions * args.time_steps * words],
        counts: vec![0; neurons],
        mean_normed: vec![0.0; neurons],
        weighted_normed: vec![0.0; if is_weighted { neurons } else { 0 }],
    };
    let part = |sums: &'_ [i32], q: usize| q * (sums.len() / positions)..(q + 1) * (sums.len() / positions);
    for q in 0..positions {
        let of_position = &first[part(first, q)];
        let currents = if is_real { Currents::Real(bytemuck::cast_slice(of_position)) } else { Currents::Integer(of_position) };
        let own = q * channels..(q + 1) * channels;
        let mut out = NeuronOut {
            spikes: &mut written.spikes[q * args.time_steps * words..][..args.time_steps * words],
            counts: &mut written.counts[own.clone()],
            mean_normed: &mut written.mean_normed[own.clone()],
            weighted_normed: if is_weighted { &mut written.weighted_normed[own] } else { &mut [] },
        };
        neuron_at(isa, args, norm, currents, &second[part(second, q)], &mut out);
        if !dropped.is_empty() {
            drop_spikes(&dropped[q * words..][..words], &mut out);
        }
    }
    written
}

/// Gives `launch` its buffers and compares what it leaves there: once all that training wants, once the spikes alone.
pub fn compare(
    gpu: &Arc<Gpu>,
    outcome: &mut Outcome,
    args: &NeuronArgs,
    norm: &Normalizer,
    dropped: &[u32],
    expected: &Written,
    launch: impl Fn(&NeuronInputs, &NeuronOutputs) -> Result<()>,
) -> Result<()> {
    let (_values, normalizer) = upload_normalizer(gpu, norm, args.channels)?;
    let (threshold, step_weights) = (gpu.memory_of(&[args.threshold])?, gpu.memory_of(&args.step_weights)?);
    let dropped = gpu.memory_of(dropped)?;
    let from = NeuronInputs {
        normalizer,
        threshold: threshold.slice(),
        step_weights: step_weights.slice(),
        dropped: dropped.slice(),
        neurons: DeviceNeurons::from(args),
    };
    let (spikes, counts) = (Output::unwritten(gpu, expected.spikes.len())?, Output::unwritten(gpu, expected.counts.len())?);
    let mean = Output::unwritten(gpu, expected.mean_normed.len())?;
    let weighted = Output::unwritten(gpu, expected.weighted_normed.len())?;
    let fired = Output::of(gpu, &[7u64])?; // is added to
    let to = NeuronOutputs {
        spikes: spikes.slice(),
        counts: counts.slice(),
        mean_normed: mean.slice(),
        weighted_normed: weighted.slice(),
        fired: fired.slice(),
    };
    launch(&from, &to)?;
    spikes.expect("spikes [B][P][T][words]", outcome, &expected.spikes)?;
    counts.expect("counts [B][P][C]", outcome, &expected.counts)?;
    mean.expect("means [B][P][C]", outcome, &expected.mean_normed)?;
    weighted.expect("weighted means [B][P][C]", outcome, &expected.weighted_normed)?;
    fired.expect("number of spikes", outcome, &[7 + expected.counts.iter().map(|&n| u64::from(n)).sum::<u64>()])?;
    let alone = Output::unwritten(gpu, expected.spikes.len())?;
    let to = NeuronOutputs {
        spikes: alone.slice(),
        counts: Slice::NONE,
        mean_normed: Slice::NONE,
        weighted_normed: Slice::NONE,
        fired: Slice::NONE,
    };
    launch(&from, &to)?;
    alone.expect("spikes alone [B][P][T][words]", outcome, &expected.spikes)
}

/// Neuron, positions, T, channels, summands, dropout.
type Case = (Neuron, [usize; 3], [Kind; 2], bool);

pub fn checks(gpu: &Arc<Gpu>, size: Size) -> Vec<Check> {
    use Kind::{Bits, None as Nothing, Real, Static, Sums};
    let mut cases: Vec<Case> = vec![
        (IF, [1, 1, 1], [Sums, Nothing], false),
        (LIF, [3, 5, 31], [Sums, Sums], true),
        (IF, [5, 33, 32], [Sums, Bits], false),
        (LIF, [2, 20, 33], [Bits, Sums], true),
        (IF, [9, 5, 100], [Static, Nothing], true),
        (LIF, [7, 5, 16], [Real, Nothing], false),
        (IF, [1, 255, 3], [Bits, Bits], false),
        (LIF, [64, 5, 64], [Sums, Nothing], false),
    ];
    if size == Size::Full {
        cases.extend([(IF, [4096, 5, 64], [Sums, Nothing], false), (LIF, [1024, 33, 256], [Sums, Bits], true)]);
    }
    let check = |(neuron, [positions, time_steps, channels], kinds, drops): Case| {
        let gpu = gpu.clone();
        let name = |kind| match kind {
            Nothing => "",
            Sums => " sums",
            Bits => " bits",
            Real => " frames",
            Static => " image",
        };
        let dropout = if drops { ", dropout" } else { "" };
        let shape = format!("{positions}x{channels}, T{time_steps}, {} of{}{}{dropout}", neuron.name(), name(kinds[0]), name(kinds[1]));
        Check::bits("neurons", shape, move |rng, outcome| {
            let shape = [positions, time_steps, channels];
            let summands = [stored(&gpu, rng, kinds[0], shape, -4..=12)?, stored(&gpu, rng, kinds[1], shape, -4..=12)?];
            check_stored(&gpu, rng, outcome, neuron, shape, &summands, drops)
        })
    };
    let mut checks: Vec<Check> = cases.into_iter().map(check).collect();
    let gpu = gpu.clone();
    checks.push(Check::bits("neurons", "2x33, T255, if of sums that fire at every step", move |rng, outcome| {
        let shape = [2, 255, 33];
        let summands = [stored(&gpu, rng, Sums, shape, 1000..=1001)?, stored(&gpu, rng, Nothing, shape, 0..=0)?];
        check_stored(&gpu, rng, outcome, IF, shape, &summands, false)
    }));
    checks
}

fn check_stored(
    gpu: &Arc<Gpu>,
    rng: &mut ChaCha8Rng,
    outcome: &mut Outcome,
    neuron: Neuron,
    [positions, time_steps, channels]: [usize; 3],
    [first, second]: &[Stored; 2],
    drops: bool,
) -> Result<()> {
    let (norm, stride) = (coarse_normalizer(rng, channels), channels.next_multiple_of(LANES));
    let args = NeuronArgs { neuron, threshold: 0.5, time_steps, step_weights: neuron.step_weights(time_steps), channels, stride };
    let dropped = if drops { bits(rng, positions, channels, 0.25) } else { Vec::new() };
    let is_real = matches!(first.summand, crate::ops::spike_conv::Summand::Real { .. });
    let expected = on_cpu(Isa::detect(), &args, &norm, [&first.sums, &second.sums], is_real, &dropped, positions);
    let summands = [first.summand, second.summand];
    compare(gpu, outcome, &args, &norm, &dropped, &expected, |from, to| cuda::neurons(gpu, from, to, &summands, positions))
}
