//! Neurons: spikes are compared bit for bit, never with a tolerance; the clamp mapping is checked at its ends.

#[path = "support/seeded.rs"]
mod seeded;

use approx::assert_relative_eq;
use dsr::device::Isa;
use dsr::ops::batch_norm::Normalizer;
use dsr::ops::neuron::{Currents, Neuron, NeuronArgs, NeuronOut, clamp_mapping_backward, drop_spikes, neuron_at};

const IF: Neuron = Neuron::If { alpha: 0.5 };
const LIF: Neuron = Neuron::Lif { alpha: 0.3, tau: 1.0, delta_t: 0.05 };

/// What a position gives, owned.
#[derive(Clone, Debug, PartialEq)]
struct Out {
    spikes: Vec<u32>,
    counts: Vec<u8>,
    mean: Vec<f32>,
    weighted: Vec<f32>,
}

impl Out {
    fn fired(&self, t: usize, c: usize) -> bool {
        self.spikes[t * self.counts.len().div_ceil(32) + c / 32] >> (c % 32) & 1 == 1
    }
}

fn args(neuron: Neuron, threshold: f32, time_steps: usize, channels: usize, stride: usize) -> NeuronArgs {
    NeuronArgs { neuron, threshold, time_steps, step_weights: neuron.step_weights(time_steps), channels, stride }
}

fn run(isa: Isa, args: &NeuronArgs, norm: &Normalizer, first: Currents, second: &[i32]) -> Out {
    let channels = args.channels;
    let mut out = Out {
        spikes: vec![u32::MAX; args.time_steps * channels.div_ceil(32)],
        counts: vec![u8::MAX; channels],
        mean: vec![f32::NAN; channels],
        weighted: vec![f32::NAN; channels],
    };
    let Out { spikes, counts, mean, weighted } = &mut out;
    neuron_at(isa, args, norm, first, second, &mut NeuronOut { spikes, counts, mean_normed: mean, weighted_normed: weighted });
    out
}

/// Normaliser that passes real currents on.
fn identity(channels: usize) -> Normalizer {
    let (one, zero) = (vec![1.0; channels], vec![0.0; channels]);
    Normalizer::new([&one, &zero], &zero, &vec![1.0; channels], &vec![0.0; channels], &one)
}

/// Some normaliser with batch norm's two steps.
fn mixed(channels: usize) -> Normalizer {
    let wide = |seed, range| seeded::values(seed, channels, range).iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
    let [gamma, beta] = [seeded::values(3, channels, 0.5..1.5), seeded::values(4, channels, -0.5..1.0)];
    Normalizer::new([&wide(1, -0.02..0.02), &wide(2, -0.02..0.02)], &wide(5, -1.0..1.0), &gamma, &beta, &wide(6, 0.5..1.5))
}

/// Charge, fire, reset: `current` over time for one neuron, threshold, expected spikes.
#[test]
fn fires_at_alpha_times_threshold_and_loses_the_threshold() {
    let half = Neuron::Lif { alpha: 0.5, tau: 1.0, delta_t: 0.1 };
    let charge = half.charge();
    let cases: [(&str, Neuron, f32, Vec<f32>, &str); 12] = [
        ("a tie fires", IF, 1.0, vec![0.5, 0.0, 0.5, 0.5], "1001"), // V: .5 fires, -.5; -.5; 0; .5 fires
        ("just below waits", IF, 1.0, vec![0.499_999_97, 0.0, 0.0], "000"),
        ("what is missing comes later", IF, 1.0, vec![0.25, 0.125, 0.125], "001"),
        ("one spike a step", IF, 1.0, vec![9.0, 0.0, 0.0], "111"),
        ("negative currents count against later ones", IF, 1.0, vec![-1.0, 0.5, 0.5, 0.5], "0001"),
        ("never fires without a current", IF, 1.0, vec![0.0; 5], "00000"),
        ("fires at every step once saturated", IF, 2.0, vec![2.0; 5], "11111"),
        ("a tie of the leaky neuron fires", half, 2.0 * charge, vec![1.0, -9.0], "10"), // alpha·Vth is charge, and so is V
        ("just below waits, leaky", half, 2.0 * charge, vec![0.999_999, 0.0], "00"),
        ("the leak loses what came", half, 2.0 * charge, vec![0.5, 0.5], "00"), // without leak, V would reach charge
        ("a leaky neuron integrates, too", half, 2.0 * charge, vec![0.6, 0.6, 0.0], "010"),
        ("infinite currents saturate", IF, 1.0, vec![f32::INFINITY, 0.0], "11"),
    ];
    for (name, neuron, threshold, current, expected) in cases {
        let expected: Vec<bool> = expected.chars().map(|c| c == '1').collect();
        for isa in Isa::available() {
            let out = run(isa, &args(neuron, threshold, current.len(), 1, 1), &identity(1), Currents::Real(&current), &[]);
            let got: Vec<bool> = (0..current.len()).map(|t| out.fired(t, 0)).collect();
            assert_eq!(got, expected, "{name}, {isa:?}");
            assert_eq!(usize::from(out.counts[0]), expected.iter().filter(|s| **s).count(), "{name}, {isa:?}");
        }
    }
}

/// The documented arithmetic, one neuron after the other; means in f64.
fn naive(args: &NeuronArgs, norm: &Normalizer, x: impl Fn(usize, usize) -> (f32, Option<f32>)) -> (Vec<Vec<bool>>, Vec<[f64; 2]>) {
    let (leak, charge, fire_at) = (args.neuron.leak(), args.neuron.charge(), args.neuron.alpha() * args.threshold);
    let one = |c: usize| {
        let (mut potential, mut means, mut fired) = (0.0f32, [0.0f64; 2], Vec::new());
        for t in 0..args.time_steps {
            let (first, second) = x(t, c);
            let normed = second.map_or(norm.offset[c], |second| norm.factors[1][c].mul_add(second, norm.offset[c]));
            let normed = norm.factors[0][c].mul_add(first, normed);
            means[0] += f64::from(normed) / args.time_steps as f64;
            means[1] += f64::from(normed) * f64::from(args.step_weights[t]);
            let current = norm.gamma[c].mul_add(normed, norm.beta[c]);
            potential = leak.mul_add(potential, charge * current);
            fired.push(potential >= fire_at);
            if potential >= fire_at {
                potential -= args.threshold;
            }
        }
        (fired, means)
    };
    (0..args.channels).map(one).unzip()
}

/// Sizes around every boundary: words of 32 channels, groups of 16, one step, many steps.
#[test]
fn every_instruction_set_gives_the_bits_of_a_plain_loop() {
    let mut spikes_seen = 0;
    for [time_steps, channels] in [[1, 1usize], [5, 15], [4, 16], [5, 17], [5, 31], [6, 32], [33, 33], [3, 48], [20, 49], [255, 70]] {
        let stride = channels.next_multiple_of(16);
        let real = seeded::values(7, time_steps * stride, -50.0..100.0);
        let [first, second] = [8, 9].map(|seed| {
            let values = seeded::values(seed, time_steps * stride, -50.0..100.0);
            values.iter().map(|&v| v as i32).collect::<Vec<i32>>()
        });
        let norm = mixed(channels);
        for (neuron, threshold) in [(IF, 1.0), (LIF, 0.3)] {
            let args = args(neuron, threshold, time_steps, channels, stride);
            let kinds: [(&str, Currents, &[i32]); 5] = [
                ("integers", Currents::Integer(&first), &[]),
                ("two connections", Currents::Integer(&first), &second),
                ("real values", Currents::Real(&real), &[]),
                ("one step for all", Currents::Real(&real[..stride]), &[]),
                ("one step of integers for all", Currents::Integer(&first[..stride]), &[]),
            ];
            for (kind, currents, other) in kinds {
                let row = |t: usize| if currents.len() == stride { 0 } else { t * stride };
                let x = |t: usize, c: usize| {
                    let first = match currents {
                        Currents::Integer(acc) => acc[row(t) + c] as f32,
                        Currents::Real(x) => x[row(t) + c],
                    };
                    (first, (!other.is_empty()).then(|| other[t * stride + c] as f32))
                };
                let (expected, means) = naive(&args, &norm, x);
                let portable = run(Isa::Portable, &args, &norm, currents, other);
                let name = format!("{kind}, {}, T = {time_steps}, C = {channels}", neuron.name());
                for c in 0..channels {
                    let got: Vec<bool> = (0..time_steps).map(|t| portable.fired(t, c)).collect();
                    assert_eq!(got, expected[c], "{name}, channel {c}");
                    let count = got.iter().filter(|s| **s).count();
                    assert_eq!(usize::from(portable.counts[c]), count, "{name}, channel {c}");
                    spikes_seen += count;
                    for (got, expected) in [portable.mean[c], portable.weighted[c]].into_iter().zip(means[c]) {
                        assert_relative_eq!(f64::from(got), expected, epsilon = 1e-5, max_relative = 1e-5);
                    }
                }
                let tail = channels % 32;
                let words = channels.div_ceil(32);
                let last_words = portable.spikes.chunks_exact(words).map(|step| step[words - 1]);
                assert!(tail == 0 || last_words.clone().all(|w| w >> tail == 0), "{name}: bits behind the last channel");
                for isa in Isa::available() {
                    assert_eq!(run(isa, &args, &norm, currents, other), portable, "{name}, {isa:?}");
                }
            }
        }
    }
    assert!(spikes_seen > 1000, "only {spikes_seen} spikes: these currents show nothing");
}

/// The last row of currents may end with the last channel, without padding.
#[test]
fn currents_need_no_padding_behind_the_last_row() {
    let (time_steps, channels) = (4, 33);
    let padded = seeded::values(1, time_steps * 48, -50.0..100.0);
    let tight: Vec<f32> = padded.chunks_exact(48).flat_map(|row| row[..channels].to_vec()).collect();
    for isa in Isa::available() {
        let norm = mixed(channels);
        let expected = run(isa, &args(LIF, 0.3, time_steps, channels, 48), &norm, Currents::Real(&padded), &[]);
        assert_eq!(run(isa, &args(LIF, 0.3, time_steps, channels, 33), &norm, Currents::Real(&tight), &[]), expected, "{isa:?}");
    }
}

#[test]
fn dropped_neurons_are_silent_at_every_step() {
    let (time_steps, channels) = (5, 40);
    let current = vec![1.0; channels];
    let mut out = run(Isa::detect(), &args(IF, 1.0, time_steps, channels, channels), &identity(channels), Currents::Real(&current), &[]);
    let Out { spikes, counts, mean, weighted } = &mut out;
    let dropped = [0b1001, 1 << 7];
    drop_spikes(&dropped, &mut NeuronOut { spikes, counts, mean_normed: mean, weighted_normed: weighted });
    for c in 0..channels {
        let is_dropped = [0, 3, 39].contains(&c);
        assert_eq!(out.counts[c], if is_dropped { 0 } else { time_steps as u8 }, "channel {c}");
        assert!((0..time_steps).all(|t| out.fired(t, c) != is_dropped), "channel {c}");
        assert_eq!(out.mean[c], 1.0, "channel {c}: what the current was stays known");
    }
}

/// Mean currents at, just beside and beyond both ends: IF keeps both ends, LIF neither.
#[test]
fn clamp_mapping_keeps_the_ends_of_if_and_not_those_of_lif() {
    let lif = Neuron::Lif { alpha: 0.3, tau: 0.5, delta_t: 0.25 };
    for (neuron, threshold, upper, slope, ends_pass) in [(IF, 3.0f32, 3.0f32, 1.0, true), (lif, 3.0, 6.0, 2.0, false)] {
        assert_eq!((neuron.upper(threshold), neuron.slope()), (upper, slope));
        // Mean current, whether the gradient passes, whether it goes to the threshold.
        let cases = [
            (-1.0, false, false),
            (-f32::MIN_POSITIVE, false, false),
            (-0.0, ends_pass, false),
            (0.0, ends_pass, false),
            (f32::MIN_POSITIVE, true, false),
            (upper / 2.0, true, false),
            (upper.next_down(), true, false),
            (upper, ends_pass, false),
            (upper.next_up(), false, true),
            (1e9, false, true),
            (f32::INFINITY, false, true),
            (f32::NAN, false, false),
        ];
        let channels = cases.len();
        let currents: Vec<f32> = cases.iter().map(|case| case.0).collect();
        let norm = identity(channels);
        let mean_normed = seeded::values(1, 2 * channels, -1.0..1.0);
        for isa in Isa::available() {
            let incoming: Vec<f32> = (1..=2 * channels).map(|g| g as f32).collect();
            let mut grad = incoming.clone();
            let [mut above, mut sum, mut product] = [vec![0.0; channels], vec![0.0; channels], vec![0.0; channels]];
            let map = neuron.clamp_mapping(threshold);
            let both = [&currents[..], &currents[..]].concat();
            clamp_mapping_backward(isa, map, &norm, &both, &mean_normed, &mut grad, &mut above, &mut sum, &mut product);
            for (c, (current, passes, is_above)) in cases.into_iter().enumerate() {
                let name = format!("{}, {isa:?}, mean current {current}", neuron.name());
                let (a, b) = (incoming[c], incoming[channels + c]);
                let expected = if passes { [slope * a, slope * b] } else { [0.0, 0.0] };
                assert_eq!([grad[c], grad[channels + c]], expected, "{name}");
                assert_eq!(above[c], if is_above { f64::from(a + b) } else { 0.0 }, "{name}: threshold");
                assert_eq!(sum[c], f64::from(expected[0] + expected[1]), "{name}: sum");
                let by_row = f64::from(expected[0]) * f64::from(mean_normed[c]);
                let expected = by_row + f64::from(expected[1]) * f64::from(mean_normed[channels + c]);
                assert_relative_eq!(product[c], expected, max_relative = 1e-12, epsilon = 1e-12);
            }
        }
    }
}

/// The mean current is `γ·r(x̂) + β`: batch norm decides where the ends lie.
#[test]
fn clamp_mapping_sees_the_current_behind_the_batch_norm() {
    let (one, zero) = (vec![1.0; 3], vec![0.0; 3]);
    let norm = Normalizer::new([&one, &zero], &zero, &[2.0, -2.0, 0.0], &[1.0, 1.0, 9.0], &one);
    let representation = [-0.75f32, -0.75, 0.0]; // currents -0.5, 2.5, 9
    let mut grad = [1.0f32; 3];
    let [mut above, mut sum, mut product] = [vec![0.0; 3], vec![0.0; 3], vec![0.0; 3]];
    let map = IF.clamp_mapping(4.0);
    clamp_mapping_backward(Isa::detect(), map, &norm, &representation, &representation, &mut grad, &mut above, &mut sum, &mut product);
    assert_eq!((grad, above), ([0.0, 1.0, 0.0], vec![0.0, 0.0, 1.0]));
}

#[test]
fn step_weights_sum_to_one_and_follow_the_leak() {
    for (neuron, time_steps) in [(IF, 1), (IF, 33), (LIF, 1), (LIF, 5), (LIF, 255)] {
        let weights = neuron.step_weights(time_steps);
        assert_relative_eq!(weights.iter().sum::<f32>(), 1.0, max_relative = 1e-5);
        for pair in weights.windows(2) {
            assert_relative_eq!(pair[0], pair[1] * neuron.leak(), max_relative = 1e-6);
        }
    }
    assert_relative_eq!(LIF.leak(), (-0.05f32).exp(), max_relative = 1e-7);
    assert_eq!((IF.leak(), IF.charge(), LIF.leak() + LIF.charge()), (1.0, 1.0, 1.0));
    assert_eq!((IF.spike_value(0.5), IF.threshold_grad_factor()), (0.5, 1.0));
    assert_eq!((LIF.spike_value(0.5), LIF.threshold_grad_factor()), (0.5 / 0.05, 0.05));
}

#[test]
fn constants_that_the_equations_do_not_take_are_refused() {
    let lif = |tau, delta_t| Neuron::Lif { alpha: 0.3, tau, delta_t };
    for (neuron, name) in [
        (Neuron::If { alpha: 0.0 }, "alpha"),
        (Neuron::If { alpha: f32::NAN }, "alpha"),
        (lif(0.0, 0.05), "tau"),
        (lif(f32::INFINITY, 0.05), "tau"),
        (lif(1.0, -0.05), "delta_t"),
        (lif(1.0, 1e-9), "delta_t"), // nothing leaks, and nothing comes in
    ] {
        let message = neuron.check().unwrap_err().to_string();
        assert!(message.starts_with(name), "{neuron:?}: {message}");
    }
    assert!(IF.check().is_ok() && LIF.check().is_ok());
}
