//! What holds for every network: the same bits however the work is cut, and the bits of a plain loop.

#[path = "support/forward_bits.rs"]
mod forward_bits;
#[path = "support/plain_network.rs"]
mod plain_network;
#[path = "support/seeded.rs"]
mod seeded;
#[path = "support/small_networks.rs"]
mod small_networks;

use approx::assert_relative_eq;
use dsr::device::Isa;
use dsr::network::{Builder, Conv, Init, Input, Mode, NO_POOL, Network, Source, WeightGradient, preact_resnet, vgg};
use dsr::ops::cross_entropy::cross_entropy;
use dsr::ops::neuron::Neuron;
use dsr::ops::optimizer::{Optimizer, Rule};
use forward_bits::{assert_same, bits};
use small_networks::{Batch, IF, LIF, Small, TRAIN};

fn both_modes(network: &Network, batch: &Batch) -> Vec<(String, Vec<u32>)> {
    [Mode::Eval, TRAIN].into_iter().flat_map(|mode| run(&mut network.clone(), batch, mode)).collect()
}

fn run(network: &mut Network, batch: &Batch, mode: Mode) -> Vec<(String, Vec<u32>)> {
    let forward = network.forward(&batch.input(), mode, |_| true).unwrap();
    bits(network, &forward)
}

fn on_threads<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}

/// Networks that never fire would pass every comparison.
#[test]
fn every_layer_of_the_small_networks_fires_and_rests() {
    for small in small_networks::all() {
        let mut network = small.network();
        for mode in [Mode::Eval, TRAIN] {
            let forward = network.forward(&small.data().input(), mode, |_| false).unwrap();
            for (layer, rate) in network.firing_layers().zip(&forward.rates) {
                assert!(*rate > 0.0 && *rate < 0.95, "{}, {mode:?}: {} fires at {rate}", small.name, layer.name);
            }
        }
    }
}

#[test]
fn forward_has_the_same_bits_on_every_instruction_set() {
    for small in small_networks::all() {
        let (mut network, batch) = (small.network(), small.data());
        network.isa = Isa::Portable;
        let expected = both_modes(&network, &batch);
        for isa in Isa::available() {
            network.isa = isa;
            network.prepare();
            assert_same(&format!("{}, {isa:?}", small.name), &both_modes(&network, &batch), &expected);
        }
    }
}

#[test]
fn forward_has_the_same_bits_on_any_number_of_threads() {
    for small in small_networks::all() {
        let (network, batch) = (small.network(), small.data());
        let expected = on_threads(1, || both_modes(&network, &batch));
        for threads in [2, 5] {
            let got = on_threads(threads, || both_modes(&network, &batch));
            assert_same(&format!("{} on {threads} threads", small.name), &got, &expected);
        }
    }
}

#[test]
fn evaluation_has_the_same_bits_for_any_batch_split() {
    for small in small_networks::all().into_iter().filter(|s| s.batch == 5) {
        let (mut network, batch) = (small.network(), small.data());
        let sample = batch.data.len() / batch.size;
        let whole = network.forward(&batch.input(), Mode::Eval, |_| true).unwrap();
        for split in [vec![2, 3], vec![1; 5], vec![4, 1]] {
            let mut first = 0;
            for &size in &split {
                let input = Input { data: &batch.data[first * sample..][..size * sample], batch: size, frames: batch.frames };
                let part = network.forward(&input, Mode::Eval, |_| true).unwrap();
                let logits = &whole.logits[first * network.classes..][..size * network.classes];
                assert_eq!(part.logits, logits, "{}, {split:?}", small.name);
                for (layer, (part, whole)) in network.layers.iter().zip(part.spikes.iter().zip(&whole.spikes)) {
                    let (part, whole) = (part.as_ref().unwrap(), whole.as_ref().unwrap());
                    for (b, p) in (0..size).flat_map(|b| (0..layer.positions()).map(move |p| (b, p))) {
                        assert_eq!(part.position(b, p), whole.position(first + b, p), "{}, {split:?}: {}", small.name, layer.name);
                    }
                }
                first += size;
            }
        }
    }
}

/// Spikes bit for bit; logits and batch statistics, which are rounded to f32, within a few of its units.
#[test]
fn forward_has_the_spikes_of_a_plain_loop() {
    for small in small_networks::all() {
        let (mut network, batch) = (small.network(), small.data());
        for mode in [Mode::Eval, TRAIN] {
            let plain = plain_network::forward(&network, &batch.input(), mode == TRAIN);
            let before = network.clone();
            let forward = network.forward(&batch.input(), mode, |_| true).unwrap();
            for ((layer, expected), spikes) in network.layers.iter().zip(&plain.spikes).zip(&forward.spikes) {
                let (spikes, mut sites) = (spikes.as_ref().unwrap(), expected.iter());
                for (t, b) in (0..small.time_steps).flat_map(|t| (0..batch.size).map(move |b| (t, b))) {
                    for (p, c) in (0..layer.positions()).flat_map(|p| (0..layer.shape[2]).map(move |c| (p, c))) {
                        let same = sites.next() == Some(&spikes.get(t, b, p, c));
                        assert!(same, "{}, {mode:?}: {}, step {t}, sample {b}, position {p}, channel {c}", small.name, layer.name);
                    }
                }
                let tail = layer.shape[2] % 32;
                let last = spikes.bits().iter().skip(spikes.words() - 1).step_by(spikes.words());
                assert!(tail == 0 || last.into_iter().all(|w| w >> tail == 0), "{}: bits behind the last channel", small.name);
            }
            for (got, expected) in forward.logits.iter().zip(&plain.logits) {
                // A mean current is a sum of T numbers of the size of a current, which may cancel.
                let epsilon = if network.layers.last().unwrap().fires() { 0.0 } else { 4e-7 * small.time_steps as f64 };
                assert_relative_eq!(f64::from(*got), expected, max_relative = 1e-6, epsilon = epsilon);
            }
            for ((norm, before), [mean, var]) in network.norms.iter().zip(&before.norms).zip(&plain.statistics) {
                for (c, (mean, var)) in mean.iter().zip(var).enumerate() {
                    let blended = |old: f32, new: f64| 0.9 * f64::from(old) + 0.1 * new;
                    let expected = blended(before.running_mean[c], *mean);
                    assert_relative_eq!(f64::from(norm.running_mean[c]), expected, max_relative = 1e-6, epsilon = 1e-7);
                    assert_relative_eq!(f64::from(norm.running_var[c]), blended(before.running_var[c], *var), max_relative = 1e-6);
                }
            }
        }
    }
}

/// Forward, backward, update, and the next forward.
#[test]
fn training_has_the_same_bits_on_any_number_of_threads() {
    for small in small_networks::all() {
        for gradient in [WeightGradient::Rate, WeightGradient::Unrolled] {
            let train = || {
                let (mut network, batch) = (small.network(), small.data());
                let mut optimizer = Optimizer::new(Rule::Sgd { momentum: 0.9, nesterov: true }, 5e-4, network.len());
                let labels: Vec<u32> = (0..batch.size).map(|b| (b % network.classes) as u32).collect();
                let mut all = Vec::new();
                for step in 0..2 {
                    let forward = network.forward(&batch.input(), Mode::Train { gradient, seed: step }, |_| true).unwrap();
                    let mut grad = vec![0.0; forward.logits.len()];
                    cross_entropy(&forward.logits, &labels, network.classes, &mut grad);
                    network.grads.fill(0.0);
                    let mut input_grad = Vec::new();
                    network.backward(&batch.input(), &grad, Some(&mut input_grad)).unwrap();
                    all.extend(bits(&network, &forward));
                    all.push(("gradient of the input".into(), input_grad.iter().map(|g| g.to_bits()).collect()));
                    for index in 0..network.parameters.len() {
                        let name = format!("gradient of {}", network.parameters[index].name);
                        all.push((name, network.grad_mut(index).iter().map(|g| g.to_bits()).collect()));
                    }
                    assert_eq!(network.first_not_finite(), None, "{}", small.name);
                    assert!(network.grads.iter().filter(|g| **g != 0.0).count() > network.len() / 4, "{}: no gradient", small.name);
                    let Network { values, grads, .. } = &mut network;
                    optimizer.step(0.05, values, grads);
                    network.prepare();
                }
                all
            };
            let expected = on_threads(1, train);
            for threads in [2, 5] {
                assert_same(&format!("{}, {gradient:?}, {threads} threads", small.name), &on_threads(threads, train), &expected);
            }
        }
    }
}

/// One frame that stands for all steps is computed once; T copies of it give the same bits.
#[test]
fn a_static_input_is_the_same_as_its_copies() {
    for small in small_networks::all().into_iter().filter(|s| !s.events) {
        let (network, batch) = (small.network(), small.data());
        let sample = batch.data.len() / batch.size;
        let data = batch.data.chunks_exact(sample).flat_map(|frame| frame.repeat(small.time_steps)).collect();
        let copies = Batch { data, size: batch.size, frames: small.time_steps };
        let [got, expected] = [&copies, &batch].map(|batch| run(&mut network.clone(), batch, Mode::Eval));
        assert_same(&format!("{} in evaluation", small.name), &got, &expected);
        let [got, expected] = [&copies, &batch].map(|batch| run(&mut network.clone(), batch, TRAIN));
        assert_same(&format!("{} in training", small.name), &got[..network.layers.len()], &expected[..network.layers.len()]);
    }
}

/// Bytes kept for backward at T = 5 and at T = 20.
#[test]
fn what_is_kept_for_backward_does_not_grow_with_time() {
    for small in small_networks::all() {
        for gradient in [WeightGradient::Rate, WeightGradient::Unrolled] {
            let kept = |time_steps: usize| {
                let small = Small { time_steps, batch: 4, ..small };
                let mut network = small.network();
                network.forward(&small.data().input(), Mode::Train { gradient, seed: 0 }, |_| false).unwrap();
                let neurons: usize = network.layers.iter().map(|l| 4 * l.neurons()).sum();
                assert!(network.kept_bytes() >= 5 * neurons, "{}: a count and a mean a neuron are kept at least", small.name);
                network.kept_bytes()
            };
            let [few, many] = [kept(5), kept(20)];
            let ratio = many as f64 / few as f64;
            println!("{}, {gradient:?}: {few} bytes at T = 5, {many} at T = 20, ratio {ratio:.3}", small.name);
            assert!(ratio <= 1.05, "{}, {gradient:?}: ratio {ratio}", small.name);
        }
    }
}

/// A layer of neurons that read the input as their current, dropped with `dropout`, in front of a linear layer whose weights are 0.01
/// and which clamps nothing.
fn dropping(dropout: f32, norm: Option<&str>) -> Network {
    let mut net = Builder::new([3, 5, 33], 1.0);
    let frames = net.identity(Source::Input, [1, 1, 0]);
    let first = net.layer("first", vec![frames], None, dropout).unwrap();
    let linear = net.linear("linear", first, [1, 1, 0], 4, 1, [Init::Uniform(0.1), Init::Uniform(0.1)]);
    net.layer("last", vec![linear], norm, 0.0).unwrap();
    let mut network = net.finish(IF, 6, 0.01, 3).unwrap();
    for (name, value) in [("linear.weight", 0.01), ("linear.bias", 0.5), ("last.Vth", 100.0)] {
        let index = network.parameter(name).unwrap();
        network.set_parameter(index, &vec![value; network.parameters[index].len]);
    }
    network.prepare();
    network
}

#[test]
fn dropout_takes_one_mask_for_all_steps() {
    let batch = Batch { data: seeded::values(1, 4 * 495, 0.2..0.9), size: 4, frames: 1 }; // inside the clamp range
    let (mut network, mut without) = (dropping(0.5, None), dropping(0.0, None));
    let train = |network: &mut Network, seed: u64| {
        let mode = Mode::Train { gradient: WeightGradient::Rate, seed };
        network.forward(&batch.input(), mode, |_| true).unwrap().spikes[0].take().unwrap()
    };
    let all = train(&mut without, 0);
    let neurons = || (0..4).flat_map(|b| (0..15).flat_map(move |p| (0..33).map(move |c| (b, p, c))));
    let masks: Vec<Vec<bool>> = [0, 0, 1]
        .map(|seed| {
            let spikes = train(&mut network, seed);
            let is_kept = |(b, p, c): (usize, usize, usize)| {
                let got: Vec<bool> = (0..6).map(|t| spikes.get(t, b, p, c)).collect();
                let expected: Vec<bool> = (0..6).map(|t| all.get(t, b, p, c)).collect();
                let is_silent = got.iter().all(|s| !s);
                assert!(got == expected || is_silent, "neuron {b},{p},{c}: {got:?} is neither {expected:?} nor silent");
                assert!(expected.contains(&true), "neuron {b},{p},{c} shows nothing");
                !is_silent
            };
            neurons().map(is_kept).collect()
        })
        .to_vec();
    assert_eq!(masks[0], masks[1], "the seed decides the mask");
    assert_ne!(masks[0], masks[2], "another seed, another mask");
    assert_ne!(masks[0][..495], masks[0][495..990], "every sample has its own");
    let kept = masks[2].iter().filter(|k| **k).count() as f64 / masks[2].len() as f64;
    assert!((kept - 0.5).abs() < 0.06, "{kept} of the neurons are kept"); // five standard deviations of 1,980 draws

    // Kept spikes are worth 1/(1 - p) to their readers, and so are their gradients; dropped ones get none.
    assert_eq!((network.spike_value(0, true), network.spike_value(0, false)), (2.0, 1.0));
    let (mut input_grad, grad) = (Vec::new(), seeded::values(2, 16, -1.0..1.0));
    network.backward(&batch.input(), &grad, Some(&mut input_grad)).unwrap();
    for (i, (is_kept, got)) in masks[2].iter().zip(&input_grad).enumerate() {
        let of_readers = 0.01 * grad[i / 495 * 4..][..4].iter().sum::<f32>() / 6.0; // Σ w_t² = 1/T
        assert_relative_eq!(*got, if *is_kept { 2.0 * of_readers } else { 0.0 }, max_relative = 1e-5);
    }

    let [eval, expected] = [&mut network, &mut without].map(|network| network.forward(&batch.input(), Mode::Eval, |_| true).unwrap());
    assert_eq!((eval.logits, &eval.spikes), (expected.logits, &expected.spikes), "evaluation drops nothing");
}

/// The mean current of the next layer does not depend on the share that is dropped.
#[test]
fn readers_see_dropped_spikes_scaled() {
    let batch = Batch { data: vec![1.0; 64 * 495], size: 64, frames: 1 }; // every neuron fires at every step
    let mean = |dropout: f32| {
        let mut network = dropping(dropout, Some("bn"));
        network.forward(&batch.input(), TRAIN, |_| false).unwrap();
        10.0 * network.norms[0].running_mean[0] - 0.5
    };
    assert_relative_eq!(mean(0.0), 4.95, max_relative = 1e-3); // 16-bit weights: 2⁻¹⁵ of the largest
    assert_relative_eq!(mean(0.25), 4.95, max_relative = 0.02); // 31,680 draws: four standard deviations are 0.013
}

#[test]
fn spikes_are_kept_where_asked_for() {
    let small = &small_networks::all()[0];
    let (mut network, batch) = (small.network(), small.data());
    for mode in [Mode::Eval, TRAIN] {
        let forward = network.forward(&batch.input(), mode, |layer| layer == 1).unwrap();
        let kept: Vec<bool> = forward.spikes.iter().map(Option::is_some).collect();
        assert!(kept.iter().enumerate().all(|(layer, kept)| *kept == (layer == 1)), "{kept:?}");
        let spikes = forward.spikes[1].as_ref().unwrap();
        let sites = (batch.size * network.layers[1].neurons() * small.time_steps) as f32;
        assert_relative_eq!(forward.rates[1], spikes.count() as f32 / sites, max_relative = 1e-6);
    }
}

#[test]
fn thresholds_stay_above_their_bound() {
    let mut network = small_networks::all()[0].network();
    let index = network.parameter("layer1.0.relu1.Vth").unwrap();
    for (value, expected) in [(-3.0, 0.0005), (0.0, 0.0005), (0.25, 0.25), (1.0, 1.0)] {
        network.set_parameter(index, &[value]);
        network.prepare();
        assert_relative_eq!(network.value(index)[0], expected, max_relative = 1e-6);
    }
}

#[test]
fn parameters_travel_through_the_order_of_pytorch() {
    let mut network = small_networks::all()[4].network();
    for index in 0..network.parameters.len() {
        let values = seeded::values(index as u64, network.parameters[index].len, -1.0..1.0);
        network.set_parameter(index, &values);
        assert_eq!(network.in_torch_order(index, &network.values), values, "{}", network.parameters[index].name);
        assert_eq!(network.parameters[index].shape.iter().product::<usize>(), values.len());
    }
    assert_eq!(network.first_not_finite(), None);
    let index = network.parameter("layer3.4.weight").unwrap();
    network.grad_mut(index)[5] = f32::NAN;
    assert_eq!(network.first_not_finite().as_deref(), Some("layer3.4.weight"));
}

/// An input so large that the variance of its currents is no f32 any more: the loss is finite, but a test would not be.
#[test]
fn running_statistics_that_overflow_are_found_in_their_step() {
    let small = &small_networks::all()[0];
    let (mut network, mut batch) = (small.network(), small.data());
    batch.data.iter_mut().for_each(|v| *v *= 1e25);
    let labels = vec![0; batch.size];
    let mut optimizer = dsr::Optimizer::new(dsr::ops::optimizer::Rule::Sgd { momentum: 0.9, nesterov: false }, 0.0, network.len());
    let before = network.values.clone();
    let step = network.train_step(&mut optimizer, 0.1, &batch.input(), &labels, TRAIN).unwrap();
    let first = &network.norms[0].name;
    assert!(step.loss.is_finite());
    assert_eq!(step.not_finite, Some(format!("the running statistics of {first}")));
    assert_eq!(network.values, before, "the update was left out");
}

/// A file holds tensors by their names: of two that are called the same, one would be lost.
#[test]
fn a_name_belongs_to_one_parameter() {
    let named = |[conv, norm, layer]: [&str; 3]| {
        let mut net = Builder::new([4, 4, 1], 1.0);
        let init = Init::Constant(1.0);
        let cut = |weight| Conv { cout: 2, kernel: 1, stride: 1, pad: 0, weight, bias: None };
        let first = net.conv("conv1", Source::Input, NO_POOL, cut(init));
        let spikes = net.layer("spikes1", vec![first], Some("bn1"), 0.0).unwrap();
        let second = net.conv(conv, spikes, NO_POOL, cut(init));
        net.layer(layer, vec![second], Some(norm), 0.0).unwrap();
        net.finish(IF, 2, 0.01, 0).map(|_| ())
    };
    named(["conv2", "bn2", "spikes2"]).unwrap();
    named(["conv2", "bn2", "conv2"]).unwrap(); // conv2.weight and conv2.Vth
    for (names, twice) in [
        (["conv2", "bn1", "spikes2"], "bn1.weight"),
        (["conv2", "conv1", "spikes2"], "conv1.weight"),
        (["conv1", "bn2", "spikes2"], "conv1.weight"),
        (["bn1", "bn2", "spikes2"], "bn1.weight"),
        (["conv2", "bn2", "spikes1"], "spikes1.Vth"),
    ] {
        let error = named(names).unwrap_err().to_string();
        assert!(error.starts_with("layers: ") && error.contains(&format!("'{twice}'")) && !error.contains('\n'), "{names:?}: {error}");
    }
}

#[test]
fn what_cannot_be_built_or_run_is_refused() {
    let finish = |neuron, time_steps, threshold, bound| {
        let builder = preact_resnet([8, 8, 3], 10, &[4], &[1], 4, 0.0, threshold)?;
        builder.finish(neuron, time_steps, bound, 0).map(|_| ())
    };
    let resnet = |widths: &[usize], blocks: &[usize], side| preact_resnet([side, side, 3], 10, widths, blocks, 4, 0.0, 1.0).map(|_| ());
    let cases = [
        ("no time step", finish(IF, 0, 1.0, 0.01), "time-steps"),
        ("more steps than a count holds", finish(IF, 256, 1.0, 0.01), "time-steps"),
        ("an ANN with steps", finish(Neuron::Relu, 5, 1.0, 0.01), "time-steps: 5: a network of ReLUs is an ANN and has 1"),
        ("no threshold", finish(IF, 5, 0.0, 0.01), "vth"),
        ("threshold is no number", finish(LIF, 5, f32::NAN, 0.01), "vth"),
        ("no bound", finish(IF, 5, 1.0, 0.0), "vth"),
        ("a width without blocks", resnet(&[4, 8], &[1], 16), "widths"),
        ("no width", resnet(&[], &[], 16), "widths"),
        ("an input that the pool does not fit", resnet(&[4, 8], &[1, 1], 6), "input size"),
        ("too many inputs a neuron", resnet(&[8192], &[1], 8), "width"),
        ("an input that VGG does not shrink to one position", vgg([64, 64, 2], 10, &[&[2][..]; 5], 0.0, 1.0).map(|_| ()), "input size"),
    ];
    for (name, result, part) in cases {
        let message = result.expect_err(name).to_string();
        assert!(message.contains(part), "{name}: {message}");
    }

    finish(Neuron::Relu, 1, 1.0, 0.01).unwrap();

    let mut network = small_networks::all()[0].network(); // [9, 7, 3], T = 5
    let data = [0.0; 9 * 7 * 3 * 10];
    for (batch, frames) in [(0, 1), (1, 1), (10, 2), (5, 2), (2, 4)] {
        let result = network.forward(&Input { data: &data, batch, frames }, Mode::Eval, |_| false);
        assert!(result.is_err(), "{batch} samples of {frames} frames");
    }
    assert!(network.forward(&Input { data: &data, batch: 2, frames: 5 }, Mode::Eval, |_| false).is_ok());
}
