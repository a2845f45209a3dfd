//! The CPU's instruction sets against plain Rust: every loop that is compiled for each of them, a network and a training step.

use rand_chacha::ChaCha8Rng;

use super::inputs::{IF, LIF, coarse_normalizer, floats, integers, spikes, spikes_of_all_rates, window};
use super::networks::{self, Batch, Shared, compare_forward, take_steps};
use super::neurons::on_cpu;
use super::{Check, Outcome, Size, convolutions};
use crate::device::Isa;
use crate::error::Result;
use crate::network::{Mode, Network, Step, WeightGradient};
use crate::ops::batch_norm::{IntegerSums, accumulate, center, gradient_sums, normalize, subtract_scaled, time_means};
use crate::ops::conv;
use crate::ops::neuron::{LANES, Neuron, NeuronArgs, clamp_mapping_backward};
use crate::ops::spike_conv::{Events, Geometry, QuantizedWeights, add_scaled, conv_at, spike_outer};
use crate::spikes::Spikes;

pub fn checks(size: Size) -> Vec<Check> {
    let others = || Isa::available().into_iter().filter(|isa| *isa != Isa::Portable);
    others().flat_map(|isa| of_isa(isa, size)).collect()
}

fn of_isa(isa: Isa, size: Size) -> Vec<Check> {
    let on = format!("{isa:?}").to_lowercase();
    let mut checks = Vec::new();
    let mut convolutions: Vec<(Geometry, usize)> = vec![
        (convolutions::geometry(1, 1, [1, 1], 1, 1, 0), 1),
        (convolutions::geometry(3, 16, [5, 7], 3, 1, 1), 5),
        (convolutions::geometry(31, 33, [4, 3], 3, 2, 1), 33),
        (convolutions::geometry(130, 65, [3, 3], 1, 1, 0), 5),
        (Geometry { pool: [2, 2, 0], ..convolutions::geometry(64, 10, [6, 6], 3, 1, 1) }, 5),
        (convolutions::geometry(64, 64, [8, 8], 3, 1, 1), 20),
    ];
    if size == Size::Full {
        convolutions.push((convolutions::geometry(256, 256, [8, 8], 3, 1, 1), 20));
    }
    for (geometry, time_steps) in convolutions {
        for (bits, all_rates) in [(16, false), (16, true), (8, false), (8, true)] {
            let rates = if all_rates { "all rates" } else { "rate 0.3" };
            let shape = format!("{on}, {} -> {}, T{time_steps}, {bits} bits, {rates}", window(&geometry), geometry.cout);
            checks.push(Check::bits("spike_conv", shape, move |rng, outcome| {
                let positions = geometry.source.iter().product();
                let spikes = match all_rates {
                    true => spikes_of_all_rates(rng, time_steps, positions, geometry.cin),
                    false => spikes(rng, time_steps, 1, positions, geometry.cin),
                };
                check_sums(isa, rng, outcome, &spikes, &geometry, bits);
                Ok(())
            }));
        }
    }
    for (neuron, shape) in [(IF, [1, 1, 1]), (LIF, [3, 5, 31]), (IF, [5, 33, 33]), (LIF, [64, 5, 100])] {
        let [positions, time_steps, channels] = shape;
        checks.push(Check::bits(
            "neurons",
            format!("{on}, {positions}x{channels}, T{time_steps}, {}", neuron.name()),
            move |rng, outcome| {
                check_neurons(isa, rng, outcome, neuron, shape);
                Ok(())
            },
        ));
    }
    for (neuron, rows, channels) in [(IF, 1, 1), (LIF, 70, 33), (IF, 33, 100)] {
        checks.push(Check::bits("batch_norm", format!("{on}, {rows}x{channels}"), move |rng, outcome| {
            check_rows(isa, rng, outcome, rows, channels);
            Ok(())
        }));
        checks.push(Check::bits("backward", format!("{on}, {rows}x{channels}, {}", neuron.name()), move |rng, outcome| {
            check_backward(isa, rng, outcome, neuron, rows, channels);
            Ok(())
        }));
    }
    for geometry in [convolutions::geometry(3, 64, [5, 7], 3, 1, 1), convolutions::geometry(3, 31, [9, 11], 7, 2, 3)] {
        let shape = format!("{on}, {} -> {}", window(&geometry), geometry.cout);
        checks.push(Check::bits("real convolution", shape, move |rng, outcome| {
            let input = floats(rng, geometry.source.iter().product::<usize>() * geometry.cin, -2.0..2.0);
            let weights = floats(rng, geometry.taps() * geometry.cin * geometry.cout, -1.0..1.0);
            let all = |isa| {
                let mut out = vec![0.0; geometry.positions() * geometry.cout];
                for (at, out) in out.chunks_exact_mut(geometry.cout).enumerate() {
                    let width = geometry.out()[1];
                    conv::conv_at(isa, &input, &weights, &geometry, [at / width, at % width], out);
                }
                out
            };
            outcome.bits("sums [P][C]", &all(isa), &all(Isa::Portable));
            Ok(())
        }));
    }
    for case in networks::cases(size) {
        let (shape, shared) = (format!("{on}, {}", case.shape()), Shared::of(case));
        let again = shared.clone();
        checks.push(Check::bits("forward", &shape, move |rng, outcome| check_forward(isa, shared.network(rng)?, outcome)));
        checks.push(Check::bits("training steps", &shape, move |rng, outcome| check_steps(isa, again.network(rng)?, outcome)));
    }
    checks
}

/// Fixed-point weights, and sums of all positions.
fn check_sums(isa: Isa, rng: &mut ChaCha8Rng, outcome: &mut Outcome, spikes: &Spikes, geometry: &Geometry, bits: u8) {
    let master = floats(rng, geometry.taps() * geometry.cin * geometry.cout, -1.0..1.0);
    let stride = geometry.cout.next_multiple_of(LANES);
    let on = |isa| {
        let (mut weights, mut events) = (QuantizedWeights::default(), Events::default());
        weights.quantize(isa, &master, geometry.cout, bits, geometry.area());
        let mut sums = vec![0i32; geometry.positions() * spikes.time_steps * stride];
        for (at, sums) in sums.chunks_exact_mut(spikes.time_steps * stride).enumerate() {
            let width = geometry.out()[1];
            events.list(isa, spikes, 0, geometry, at / width..at / width + 1);
            conv_at(isa, &mut events, &weights, geometry, [at / width, at % width], stride, sums);
        }
        (weights, sums)
    };
    let ((weights, sums), (expected_weights, expected)) = (on(isa), on(Isa::Portable));
    outcome.bits("scales [C]", &weights.scale, &expected_weights.scale);
    let integers = |weights: &QuantizedWeights| -> Vec<i32> {
        (0..weights.rows).flat_map(|row| (0..geometry.cout).map(move |o| weights.integer(row, o))).collect()
    };
    outcome.bits("integers [tap][cin][cout]", &integers(&weights), &integers(&expected_weights));
    outcome.bits("sums [P][T][stride]", &sums, &expected);
}

fn check_neurons(isa: Isa, rng: &mut ChaCha8Rng, outcome: &mut Outcome, neuron: Neuron, [positions, time_steps, channels]: [usize; 3]) {
    let (norm, stride) = (coarse_normalizer(rng, channels), channels.next_multiple_of(LANES));
    let args = NeuronArgs { neuron, threshold: 0.5, time_steps, step_weights: neuron.step_weights(time_steps), channels, stride };
    let sums = [(); 2].map(|()| integers(rng, positions * time_steps * stride, -4..=12));
    for second in [&sums[1][..], &[]] {
        let [got, expected] = [isa, Isa::Portable].map(|isa| on_cpu(isa, &args, &norm, [&sums[0], second], false, &[], positions));
        outcome.bits("spikes [P][T][words]", &got.spikes, &expected.spikes);
        outcome.bits("counts [P][C]", &got.counts, &expected.counts);
        outcome.bits("means [P][C]", &got.mean_normed, &expected.mean_normed);
        outcome.bits("weighted means [P][C]", &got.weighted_normed, &expected.weighted_normed);
    }
}

/// Statistics, normalised rows and time means.
fn check_rows(isa: Isa, rng: &mut ChaCha8Rng, outcome: &mut Outcome, rows: usize, channels: usize) {
    let (norm, stride) = (coarse_normalizer(rng, channels), channels.next_multiple_of(LANES));
    let [x, y] = [(); 2].map(|()| integers(rng, rows * stride, -(1 << 26)..=1 << 26));
    let (real, weights) = (floats(rng, rows * stride, -2.0..3.0), LIF.step_weights(rows));
    let on = |isa| {
        let mut sums = IntegerSums::new(channels, 1 << 26);
        sums.add(isa, &x, &y, stride);
        let moments = sums.moments(rows as u64);
        let (mut sum, mut squares) = (vec![0.0; channels], vec![0.0; channels]);
        accumulate(isa, &real, stride, &mut sum, &mut squares);
        let mut normed = x.clone();
        normalize(isa, &norm, false, &mut normed, &y, channels, stride);
        let [mut plain, mut weighted] = [vec![0.0; channels], vec![0.0; channels]];
        time_means(isa, &norm.factors[0][..channels], &norm.offset[..channels], &weights, &x, stride, &mut plain, &mut weighted);
        ([moments.mean.concat(), moments.var.concat(), sum, squares].concat(), normed, [plain, weighted].concat())
    };
    let (got, expected) = (on(isa), on(Isa::Portable));
    outcome.bits("statistics", &got.0, &expected.0);
    outcome.bits("normalised rows [rows][stride]", &got.1, &expected.1);
    outcome.bits("time means [2][C]", &got.2, &expected.2);
}

/// The loops of backward.
fn check_backward(isa: Isa, rng: &mut ChaCha8Rng, outcome: &mut Outcome, neuron: Neuron, rows: usize, channels: usize) {
    let norm = coarse_normalizer(rng, channels);
    let upper = neuron.upper(0.75);
    let [representation, mean] = [(); 2].map(|()| floats(rng, rows * channels, -1.0..2.0 * upper));
    let grad = floats(rng, rows * channels, -1e-3..1e-3);
    let k = floats(rng, channels, -1.0..1.0);
    let spikes = spikes(rng, rows, 1, 1, 33);
    let on = |isa| {
        let mut g = grad.clone();
        let [mut above, mut sum, mut product] = [(); 3].map(|()| vec![0.0; channels]);
        let map = neuron.clamp_mapping(0.75);
        clamp_mapping_backward(isa, map, &norm, &representation, &mean, &mut g, &mut above, &mut sum, &mut product);
        let (mut more, mut products) = (vec![0.0; channels], vec![0.0; channels]);
        gradient_sums(isa, &g, &mean, &mut more, &mut products);
        center(isa, &norm.scale, &k, &mut g);
        subtract_scaled(isa, &k, &mean, &mut g);
        add_scaled(isa, 0.3, &grad, &mut g);
        let mut outer = vec![0.0; 33 * channels];
        spike_outer(isa, spikes.bits(), &representation, channels, 0.7, channels, &mut outer);
        ([above, sum, product, more, products].concat(), g, outer)
    };
    let (got, expected) = (on(isa), on(Isa::Portable));
    outcome.bits("sums [5][C]", &got.0, &expected.0);
    outcome.bits("gradient [rows][C]", &got.1, &expected.1);
    outcome.bits("outer products [33][C]", &got.2, &expected.2);
}

fn check_forward(isa: Isa, (mut network, batch): (Network, Batch), outcome: &mut Outcome) -> Result<()> {
    let mut other = network.clone();
    (network.isa, other.isa) = (Isa::Portable, isa);
    network.prepare();
    other.prepare();
    for mode in [Mode::Train { gradient: WeightGradient::Unrolled, seed: 3 }, Mode::Eval] {
        let [got, expected] = [other.forward(&batch.input(), mode, |_| true)?, network.forward(&batch.input(), mode, |_| true)?];
        compare_forward(outcome, (&other, &got), (&network, &expected))?;
    }
    Ok(())
}

fn check_steps(isa: Isa, (mut network, batch): (Network, Batch), outcome: &mut Outcome) -> Result<()> {
    let mut other = network.clone();
    (network.isa, other.isa) = (Isa::Portable, isa);
    network.prepare();
    other.prepare();
    let ((got, _), (expected, _)) = (take_steps(&mut other, &batch, 2)?, take_steps(&mut network, &batch, 2)?);
    let losses = |steps: &[Step]| steps.iter().map(|step| step.loss).collect::<Vec<f64>>();
    outcome.bits("losses", &losses(&got), &losses(&expected));
    outcome.bits("parameters", &other.values, &network.values);
    Ok(())
}
