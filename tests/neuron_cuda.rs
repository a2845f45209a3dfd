//! Neurons on the device against the CPU: the forward bit for bit; the clamp mapping, too, and its sums to 1e-12.

#[path = "support/backward_case.rs"]
mod backward_case;
#[path = "support/device.rs"]
mod device;
#[path = "support/seeded.rs"]
mod seeded;
#[path = "support/stored.rs"]
mod stored;

use std::sync::Arc;

use backward_case::{Case, IF, LIF, THRESHOLD_GRAD_SCALE, assert_rounded, bits_of, case, cases, normalizer, run_clamp};
use dsr::device::{Gpu, Isa, Slice};
use dsr::ops::batch_norm;
use dsr::ops::batch_norm::cuda::DeviceInner;
use dsr::ops::neuron::cuda::{NeuronGradients, OwnMeans, positions_of_warp};
use dsr::ops::neuron::{
    self, Currents, DeviceNeurons, LANES, Neuron, NeuronArgs, NeuronInputs, NeuronOut, NeuronOutputs, cuda, drop_spikes, neuron_at,
};
use dsr::ops::spike_conv::Summand;
use stored::{Stored, random_bits};

/// A summand by name, for T steps of each position.
fn stored(gpu: &Arc<Gpu>, kind: &str, seed: u64, [positions, time_steps, channels]: [usize; 3]) -> Stored {
    match kind {
        "sums" => stored::sums(gpu, seed, positions * time_steps, channels, -4..=12),
        "bits" => stored::bits(gpu, seed, positions * time_steps, channels),
        "real" => stored::real(gpu, seed, [positions, time_steps], channels),
        "static" => stored::real(gpu, seed, [positions, 1], channels),
        _ => stored::none(),
    }
}

#[test]
fn neurons_have_the_bits_of_the_cpu() {
    let gpu = device::gpu();
    let shapes = [
        [1, 1, 1],
        [3, 5, 31],
        [2, 20, 33],
        [5, 33, 32],
        [1, 64, 70],
        [7, 4, 16],
        [9, 1, 100],
        [1, 255, 3],
        [4, 2, 33],
        [3, 7, 40],
        [2, 35, 31],
    ];
    let kinds =
        [["sums", ""], ["real", ""], ["static", ""], ["bits", ""], ["sums", "sums"], ["sums", "bits"], ["bits", "sums"], ["bits", "bits"]];
    for (at, shape) in shapes.into_iter().enumerate() {
        for (kind, [first, second]) in kinds.into_iter().enumerate() {
            let neuron = if (at + kind) % 2 == 0 { IF } else { LIF };
            let drops = (at + kind) % 3 == 0;
            check_neurons(&gpu, neuron, shape, [first, second], drops);
        }
    }
}

/// So many positions that a warp runs several.
#[test]
fn neurons_of_many_positions_have_the_bits_of_the_cpu() {
    let gpu = device::gpu();
    // T, positions of a warp
    let cases = [(2, 8), (3, 8), (4, 8), (5, 4), (8, 4), (9, 2), (13, 2), (16, 2)];
    let kinds = [["sums", "bits"], ["real", ""], ["bits", "sums"], ["sums", ""]];
    for (n, (time_steps, at_once)) in cases.into_iter().enumerate() {
        let positions = at_once * 32 * gpu.multiprocessors() as usize / 4 + 3;
        assert_eq!(positions_of_warp(positions, 100, time_steps, gpu.multiprocessors()), at_once, "T = {time_steps}");
        check_neurons(&gpu, [IF, LIF][n % 2], [positions, time_steps, 100], kinds[n % 4], n % 4 != 1);
    }
}

fn check_neurons(gpu: &Arc<Gpu>, neuron: Neuron, shape: [usize; 3], kinds: [&str; 2], drops: bool) {
    let [positions, time_steps, channels] = shape;
    let case = format!("{} {shape:?} {kinds:?} dropout {drops}", neuron.name());
    let (stride, words) = (channels.next_multiple_of(LANES), channels.div_ceil(32));
    let (norm, _values, on_device) = normalizer(gpu, 1, channels);
    let (x, y) = (stored(gpu, kinds[0], 2, shape), stored(gpu, kinds[1], 3, shape));
    let is_real = matches!(x.summand, Summand::Real { .. });
    let threshold = 0.5;
    let args = NeuronArgs { neuron, threshold, time_steps, step_weights: neuron.step_weights(time_steps), channels, stride };
    let dropped = random_bits(4, positions, channels);
    let is_weighted = matches!(neuron, Neuron::Lif { .. });

    let neurons = positions * channels;
    let mut spikes = vec![0u32; positions * time_steps * words];
    let (mut counts, mut mean) = (vec![0u8; neurons], vec![0.0f32; neurons]);
    let mut weighted = vec![0.0f32; if is_weighted { neurons } else { 0 }];
    for q in 0..positions {
        let frames = x.sums.len() / positions;
        let of_position = &x.sums[q * frames..][..frames];
        let first = if is_real { Currents::Real(bytemuck::cast_slice(of_position)) } else { Currents::Integer(of_position) };
        let other = y.sums.len() / positions;
        let of_neurons = q * channels..(q + 1) * channels;
        let mut out = NeuronOut {
            spikes: &mut spikes[q * time_steps * words..][..time_steps * words],
            counts: &mut counts[of_neurons.clone()],
            mean_normed: &mut mean[of_neurons.clone()],
            weighted_normed: if is_weighted { &mut weighted[of_neurons] } else { &mut [] },
        };
        neuron_at(Isa::detect(), &args, &norm, first, &y.sums[q * other..][..other], &mut out);
        if drops {
            drop_spikes(&dropped[q * words..][..words], &mut out);
        }
    }
    assert!(time_steps < 5 || spikes.iter().any(|&w| w != 0), "{case}: no spike");

    let constants = [gpu.memory_of(&[threshold]).unwrap(), gpu.memory_of(&args.step_weights).unwrap()];
    let dropped = gpu.memory_of(&dropped).unwrap();
    let from = NeuronInputs {
        normalizer: on_device,
        threshold: constants[0].slice(),
        step_weights: constants[1].slice(),
        dropped: if drops { dropped.slice() } else { Slice::NONE },
        neurons: DeviceNeurons::from(&args),
    };
    let got_spikes = gpu.memory_of(&vec![u32::MAX; spikes.len()]).unwrap();
    let (got_counts, got_mean) = (gpu.memory_of(&vec![99u8; neurons]).unwrap(), gpu.zeroed::<f32>(neurons).unwrap());
    let got_weighted = gpu.zeroed::<f32>(weighted.len()).unwrap();
    let fired = gpu.memory_of(&[7u64]).unwrap();
    let to = NeuronOutputs {
        spikes: got_spikes.slice(),
        counts: got_counts.slice(),
        mean_normed: got_mean.slice(),
        weighted_normed: got_weighted.slice(),
        fired: fired.slice(),
    };
    cuda::neurons(gpu, &from, &to, &[x.summand, y.summand], positions).unwrap();
    assert_eq!(got_spikes.to_vec().unwrap(), spikes, "{case}: spikes");
    assert_eq!(got_counts.to_vec().unwrap(), counts, "{case}: counts");
    assert_eq!(bits_of(&got_mean.to_vec().unwrap()), bits_of(&mean), "{case}: mean");
    assert_eq!(bits_of(&got_weighted.to_vec().unwrap()), bits_of(&weighted), "{case}: weighted mean");
    let expected = 7 + counts.iter().map(|&n| u64::from(n)).sum::<u64>();
    assert_eq!(fired.to_vec().unwrap(), [expected], "{case}: fired");

    // In evaluation only the spikes are wanted.
    let none = NeuronOutputs { counts: Slice::NONE, mean_normed: Slice::NONE, weighted_normed: Slice::NONE, fired: Slice::NONE, ..to };
    gpu.fill_zero(got_spikes.slice()).unwrap();
    cuda::neurons(gpu, &from, &none, &[x.summand, y.summand], positions).unwrap();
    assert_eq!(got_spikes.to_vec().unwrap(), spikes, "{case}: spikes alone");
}

/// The time means of a connection with a norm of its own, from either summand; the neurons are what they are without them.
#[test]
fn means_of_an_own_norm_have_the_bits_of_the_cpu() {
    let gpu = device::gpu();
    let shapes = [[1, 1, 1], [3, 5, 31], [2, 20, 33], [5, 33, 32], [9, 4, 100]];
    let kinds = [("sums", "", 0), ("bits", "", 0), ("sums", "sums", 1), ("sums", "sums", 0), ("sums", "bits", 1), ("bits", "sums", 1)];
    for (at, shape) in shapes.into_iter().enumerate() {
        for (first, second, summand) in kinds {
            let [positions, time_steps, channels] = shape;
            let case = format!("{shape:?}, {first:?} and {second:?}, {summand}");
            let neuron = if at % 2 == 0 { IF } else { LIF };
            let (_, _values, normalizer) = normalizer(&gpu, 1, channels);
            let (padded, stride) = (normalizer.padded, channels.next_multiple_of(LANES));
            let summands = [stored(&gpu, first, 2, shape), stored(&gpu, second, 3, shape)];
            let (inner, weights) = (seeded::values(4, 5 * padded, -0.5..0.5), neuron.step_weights(time_steps));
            let (mut plain, mut weighted) = (vec![0.0; positions * channels], vec![0.0; positions * channels]);
            let (factor, offset) = (&inner[..channels], &inner[padded..padded + channels]);
            let means = plain.chunks_mut(channels).zip(weighted.chunks_mut(channels));
            for (acc, (plain, weighted)) in summands[summand].sums.chunks(time_steps * stride).zip(means) {
                batch_norm::time_means(Isa::detect(), factor, offset, &weights, acc, stride, plain, weighted);
            }
            let (values, weights, threshold) =
                (gpu.memory_of(&inner).unwrap(), gpu.memory_of(&weights).unwrap(), gpu.memory_of(&[0.5f32]).unwrap());
            let from = NeuronInputs {
                normalizer,
                threshold: threshold.slice(),
                step_weights: weights.slice(),
                dropped: Slice::NONE,
                neurons: DeviceNeurons::new(neuron, time_steps, channels),
            };
            let outputs = [(); 2].map(|()| {
                let spikes = gpu.memory_of(&vec![u32::MAX; positions * time_steps * channels.div_ceil(32)]).unwrap();
                (spikes, gpu.memory_of(&vec![99u8; positions * channels]).unwrap(), gpu.zeroed::<f32>(positions * channels).unwrap())
            });
            let [with, without] = outputs.each_ref().map(|(spikes, counts, mean_normed)| NeuronOutputs {
                spikes: spikes.slice(),
                counts: counts.slice(),
                mean_normed: mean_normed.slice(),
                weighted_normed: Slice::NONE,
                fired: Slice::NONE,
            });
            let [got, got_weighted] = [(); 2].map(|()| gpu.memory_of(&vec![9.0f32; positions * channels]).unwrap());
            let inner = DeviceInner { values: values.slice(), correlation: Slice::NONE, padded };
            let means = OwnMeans { plain: got.slice(), weighted: got_weighted.slice(), inner, step_weights: weights.slice(), summand };
            let both = summands.each_ref().map(|stored| stored.summand);
            cuda::neurons_with_means(&gpu, &from, &with, &both, positions, &means).unwrap();
            cuda::neurons(&gpu, &from, &without, &both, positions).unwrap();
            assert_eq!(bits_of(&got.to_vec().unwrap()), bits_of(&plain), "{case}: mean");
            assert_eq!(bits_of(&got_weighted.to_vec().unwrap()), bits_of(&weighted), "{case}: weighted mean");
            let [with, without] = outputs
                .each_ref()
                .map(|(spikes, counts, mean)| (spikes.to_vec().unwrap(), counts.to_vec().unwrap(), bits_of(&mean.to_vec().unwrap())));
            assert_eq!(with, without, "{case}: neurons");
        }
    }
}

/// A sum of f64 in another order: `magnitude` is the sum of magnitudes.
fn assert_close(got: f64, expected: f64, magnitude: f64, tolerance: f64, what: &str) {
    assert!((got - expected).abs() <= tolerance * magnitude.max(f64::MIN_POSITIVE), "{what}: expected {expected}, got {got}");
}

/// What the CPU makes of a case: g, and the sums (above, g, g·mean x̂) with their magnitudes, `[C]`.
fn expected_clamp(case: &Case) -> (Vec<f32>, [Vec<f64>; 3], [Vec<f64>; 3]) {
    let channels = case.channels;
    let keep = 1.0 / (1.0 - case.dropout);
    let mut grad = case.grad.clone();
    if case.dropout > 0.0 {
        for (i, grad) in grad.iter_mut().enumerate() {
            let (row, c) = (i / channels, i % channels);
            let is_dropped = case.dropped[row * channels.div_ceil(32) + c / 32] >> (c % 32) & 1 == 1;
            *grad = if is_dropped { 0.0 } else { *grad * keep };
        }
    }
    let largest: f64 = grad.iter().map(|g| f64::from(g.abs())).sum();
    let mut sums = [(); 3].map(|()| vec![0.0; channels]);
    let [above, sum, product] = &mut sums;
    let map = case.neuron.clamp_mapping(case.threshold);
    let (representation, mean) = (&case.representation, &case.mean_normed);
    neuron::clamp_mapping_backward(Isa::detect(), map, &case.norm, representation, mean, &mut grad, above, sum, product);
    let mut magnitudes = [vec![largest; channels], vec![0.0; channels], vec![0.0; channels]];
    for (i, g) in grad.iter().enumerate() {
        magnitudes[1][i % channels] += f64::from(g.abs());
        magnitudes[2][i % channels] += f64::from(g.abs()) * f64::from(mean[i].abs());
    }
    (grad, sums, magnitudes)
}

#[test]
fn the_clamp_mapping_has_the_bits_of_the_cpu_and_its_sums() {
    let gpu = device::gpu();
    for case in cases(&gpu) {
        run_clamp(&gpu, &case);
        let (grad, sums, magnitudes) = expected_clamp(&case);
        assert_eq!(bits_of(&case.device.grad.to_vec().unwrap()), bits_of(&grad), "{}: g", case.name);
        let partial = case.device.partial.to_vec().unwrap();
        for (quantity, partial) in partial.chunks_exact(partial.len() / 3).enumerate() {
            for c in 0..case.channels {
                let got: f64 = partial.iter().skip(c).step_by(case.channels).sum();
                let name = format!("{}: sum {quantity} of channel {c}", case.name);
                assert_close(got, sums[quantity][c], magnitudes[quantity][c], 1e-12, &name);
            }
        }
        let [threshold, gamma, beta] = case.device.gradients.each_ref().map(|memory| memory.to_vec().unwrap());
        let steps = case.device.layer.time_steps as f64;
        let factor = f64::from(case.neuron.threshold_grad_factor() * THRESHOLD_GRAD_SCALE) * steps;
        let above = factor * sums[0].iter().sum::<f64>();
        assert_rounded(&threshold, &[above], &[factor * magnitudes[0][0]], &format!("{}: threshold", case.name));
        if !case.has_norm {
            assert!(gamma.iter().chain(&beta).all(|&v| v == 0.0), "{}", case.name);
            continue;
        }
        let rows = case.rows as f64;
        let times = |values: &[f64], factor: f64| -> Vec<f64> { values.iter().map(|v| v * factor).collect() };
        let [_, sum, product] = &sums;
        let [_, of_sum, of_product] = &magnitudes;
        assert_rounded(&beta, &times(sum, steps), &times(of_sum, steps), &format!("{}: beta", case.name));
        assert_rounded(&gamma, &times(product, steps), &times(of_product, steps), &format!("{}: gamma", case.name));
        let mean = case.device.mean.to_vec().unwrap();
        assert_rounded(&mean, &times(sum, 1.0 / rows), &times(of_sum, 1.0 / rows), &format!("{}: mean", case.name));
        let scaled = |values: &[f64]| -> Vec<f64> { values.iter().zip(&case.norm.scale).map(|(v, &s)| f64::from(s) * v / rows).collect() };
        assert_rounded(&case.device.k.to_vec().unwrap(), &scaled(product), &scaled(of_product), &format!("{}: k", case.name));
    }
}

/// The same sums in every run, and added to what is there.
#[test]
fn gradients_are_added_and_repeat() {
    let gpu = device::gpu();
    let runs: Vec<Vec<u32>> = (0..2)
        .map(|_| {
            let case = case(&gpu, LIF, 2100, 70, 0.25, true);
            run_clamp(&gpu, &case);
            case.device.gradients.iter().flat_map(|memory| bits_of(&memory.to_vec().unwrap())).collect()
        })
        .collect();
    assert_eq!(runs[0], runs[1]);
    let case = case(&gpu, IF, 40, 5, 0.0, true);
    run_clamp(&gpu, &case);
    let once = case.device.gradients.each_ref().map(|memory| memory.to_vec().unwrap());
    gpu.upload(&case.grad, case.device.grad.slice()).unwrap();
    run_clamp(&gpu, &case);
    for (twice, once) in case.device.gradients.iter().zip(&once) {
        let doubled: Vec<f32> = once.iter().map(|v| v + v).collect();
        assert_eq!(bits_of(&twice.to_vec().unwrap()), bits_of(&doubled));
    }
}

#[test]
fn a_buffer_that_is_too_short_is_refused() {
    let gpu = device::gpu();
    let (_, _values, normalizer) = normalizer(&gpu, 1, 3);
    let args = NeuronArgs { neuron: IF, threshold: 1.0, time_steps: 2, step_weights: IF.step_weights(2), channels: 3, stride: 16 };
    let from = NeuronInputs {
        normalizer,
        threshold: Slice::NONE,
        step_weights: Slice::NONE,
        dropped: Slice::NONE,
        neurons: DeviceNeurons::from(&args),
    };
    let spikes = gpu.zeroed::<u32>(9).unwrap();
    let to = NeuronOutputs {
        spikes: spikes.slice(),
        counts: Slice::NONE,
        mean_normed: Slice::NONE,
        weighted_normed: Slice::NONE,
        fired: Slice::NONE,
    };
    let error = cuda::neurons(&gpu, &from, &to, &[Summand::None, Summand::None], 5).unwrap_err();
    assert_eq!(error.to_string(), "neurons: spikes: expected 10, got 9");
}

/// Without neurons the gradient of the mean current is that of the logits, wherever it lies, and there is no threshold to have one.
#[test]
fn a_readout_by_current_has_no_ends() {
    let gpu = device::gpu();
    for case in cases(&gpu).into_iter().filter(|case| case.dropout == 0.0) {
        let [_, gamma, beta] = case.device.gradients.each_ref().map(|memory| memory.slice());
        let into = if case.has_norm { NeuronGradients { gamma, beta, ..Default::default() } } else { NeuronGradients::default() };
        neuron::cuda::clamp_mapping_backward(&gpu, case.device.grad.slice(), &into, &case.device.layer, None, 1.0, 0.0).unwrap();
        assert_eq!(bits_of(&case.device.grad.to_vec().unwrap()), bits_of(&case.grad), "{}", case.name);
        assert_eq!(case.device.gradients[0].to_vec().unwrap(), [0.0], "{}: threshold", case.name);
        let sum: f64 = case.grad.iter().step_by(case.channels).map(|&g| f64::from(g)).sum();
        let steps = case.device.layer.time_steps as f64;
        let magnitude = steps * case.grad.iter().map(|g| f64::from(g.abs())).sum::<f64>();
        if case.has_norm {
            assert_rounded(&case.device.gradients[2].to_vec().unwrap()[..1], &[steps * sum], &[magnitude], &format!("{}: beta", case.name));
        }
    }
}
