//! The life of a network's session on a device, over several steps: batches that are staged, settings that change, memory that is
//! planned anew, state that goes to the host and comes back.

#[path = "support/device.rs"]
mod device;
#[path = "support/placed.rs"]
mod placed;
#[path = "support/seeded.rs"]
mod seeded;

use dsr::data::{Augment, Dataset, Draw, Form, Hole, Images, Loader, Pixels, Split};
use dsr::device::Device;
use dsr::network::{Input, Mode, Network, Samples, Staged, WeightGradient};
use dsr::ops::cross_entropy::{Blend, cross_entropy};
use dsr::ops::optimizer::{Average, Optimizer, Rule};
use emulator::Streams;
use placed::{IF, LIF, bits, labels, mode, placed, small};

const SGD: Rule = Rule::Sgd { momentum: 0.9, nesterov: false };
const ADAM: Rule = Rule::Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8 };

fn images(seed: u64, batch: usize) -> Vec<f32> {
    seeded::values(seed, batch * 64, -1.0..1.0)
}

/// Batches that are copied while the step before them computes give the bits of batches that are not, also after one that was staged
/// and then not taken, and where two batches have the same labels or the same samples.
#[test]
fn staged_batches_are_trained_in_their_order() {
    let network = small(IF, 0.0);
    let batches: Vec<Vec<f32>> = (0..6).map(|seed| images(100 + seed % 5, 8)).collect();
    let of: Vec<Vec<u32>> = (0..6).map(|n| labels(n / 2, 8)).collect();
    let input = |n: usize| Samples::Real(Input { data: &batches[n], batch: 8, frames: 1 });
    let run = |stages: bool| {
        let (mut network, mut optimizer) = (placed(&network), Optimizer::new(SGD, 5e-4, network.len()));
        let (mut losses, mut staged) = (Vec::new(), None::<Staged>);
        for n in 0..6 {
            let samples = staged.take().map_or_else(|| input(n), Samples::Staged);
            network.begin_step(&mut optimizer, 0.02 / (n + 1) as f32, &samples, &of[n], mode(n as u64)).unwrap();
            if stages && n + 1 < 6 {
                staged = network.stage(&input(n + 1), &of[n + 1]).unwrap();
                assert!(staged.is_some());
                if n == 2 {
                    staged = None; // then the batch comes as one that was not staged
                }
            }
            losses.push(network.finish_step(&mut optimizer).unwrap().loss.to_bits());
        }
        network.synchronize(&mut optimizer).unwrap();
        (losses, bits(&network.values))
    };
    let expected = run(false);
    for streams in [Streams::Later, Streams::CopiesFirst, Streams::Random(1), Streams::Random(2), Streams::Random(3)] {
        emulator::set_streams(streams);
        let got = run(true);
        emulator::set_streams(Streams::Later);
        assert_eq!(got, expected, "{streams:?}");
    }
}

/// Batches that are staged and not taken change nothing, not even the step that computes meanwhile.
#[test]
fn batches_that_are_staged_and_not_taken_change_nothing() {
    let network = small(IF, 0.0);
    let batches: Vec<Vec<f32>> = (0..6).map(|seed| images(100 + seed, 8)).collect();
    let input = |n: usize| Samples::Real(Input { data: &batches[n], batch: 8, frames: 1 });
    let run = |count: usize| {
        let (mut network, mut optimizer, of) = (placed(&network), Optimizer::new(SGD, 5e-4, network.len()), labels(1, 8));
        let mut losses = Vec::new();
        for n in 0..2 {
            network.begin_step(&mut optimizer, 0.02, &input(n), &of, mode(n as u64)).unwrap();
            for other in 0..count {
                network.stage(&input((n + 1 + other) % 6), &labels(2, 8)).unwrap();
            }
            losses.push(network.finish_step(&mut optimizer).unwrap().loss);
        }
        losses
    };
    let expected = run(0);
    for streams in [Streams::Later, Streams::CopiesFirst, Streams::Random(1)] {
        for count in 1..=6 {
            emulator::set_streams(streams);
            let got = run(count);
            emulator::set_streams(Streams::Later);
            assert_eq!(got, expected, "{streams:?}, {count} batches staged in a step");
        }
    }
}

/// A staged batch is there until two others have been sent; then it is refused, and no other is taken for it.
#[test]
fn a_staged_batch_whose_place_was_given_away_is_refused() {
    let mut network = placed(&small(IF, 0.0));
    let (mut optimizer, of) = (Optimizer::new(SGD, 5e-4, network.len()), labels(1, 8));
    let data = images(3, 8);
    let input = Samples::Real(Input { data: &data, batch: 8, frames: 1 });
    assert_eq!(network.stage(&input, &of).unwrap(), None, "there is no place before the first batch");
    let mut step = |network: &mut Network, samples: &Samples, of: &[u32]| network.begin_step(&mut optimizer, 0.02, samples, of, mode(1));
    step(&mut network, &input, &of).unwrap();
    let staged: Vec<Staged> = (0..3).map(|_| network.stage(&input, &of).unwrap().unwrap()).collect();
    assert!(step(&mut network, &Samples::Staged(staged[0]), &of).is_err());
    assert!(step(&mut network, &Samples::Staged(staged[1]), &of[1..]).is_err(), "the labels of another batch");
    for at in [2, 1] {
        step(&mut network, &Samples::Staged(staged[at]), &of).unwrap();
        assert!(step(&mut network, &Samples::Staged(staged[at]), &of).is_err(), "it was taken");
    }
    assert!(network.stage(&input, &[10; 8]).is_err(), "no class");
    assert!(network.stage(&Samples::Pictures { bytes: &[0; 8 * 64], batch: 7, holes: &[] }, &of).is_err(), "another size");
}

/// An optimiser that keeps all that one can keep.
fn with_everything(rule: Rule, network: &Network) -> Optimizer {
    let mut optimizer = Optimizer::new(rule, 5e-4, network.len());
    optimizer.spared = vec![0x0f0f_3333; network.len().div_ceil(32)].into();
    optimizer.clip_norm = Some(0.5);
    optimizer.average = Some(Average { decay: 0.8, ..Average::default() });
    optimizer
}

/// A larger batch takes new memory; parameters and the optimiser's state go on.
#[test]
fn state_survives_a_larger_batch() {
    for rule in [SGD, ADAM] {
        let network = small(IF, 0.0);
        let run = |reserves: bool| {
            let (mut network, mut optimizer) = (placed(&network), with_everything(rule, &network));
            if reserves {
                network.reserve(8, 1, Some(WeightGradient::Rate), Some(&optimizer)).unwrap();
            }
            for (n, batch) in [4, 4, 8, 4].into_iter().enumerate() {
                let data = images(n as u64, batch);
                let input = Input { data: &data, batch, frames: 1 };
                network.train_step(&mut optimizer, 0.02, &input, &labels(n as u64, batch), mode(n as u64)).unwrap();
            }
            network.synchronize(&mut optimizer).unwrap();
            (bits(&network.values), optimizer.arenas().map(bits))
        };
        assert_eq!(run(false), run(true), "{rule:?}");
    }
}

/// Parameters and all of the optimiser's state go to the host and back, as in a stopped run.
#[test]
fn a_fresh_session_goes_on_where_the_last_one_stopped() {
    for rule in [SGD, ADAM] {
        let network = small(IF, 0.0);
        let run = |stops: bool| {
            let (mut network, mut optimizer) = (placed(&network), with_everything(rule, &network));
            for n in 0..4 {
                if stops && n == 2 {
                    network.synchronize(&mut optimizer).unwrap();
                    network = placed(&network);
                }
                let data = images(n, 8);
                let input = Input { data: &data, batch: 8, frames: 1 };
                network.train_step(&mut optimizer, 0.02, &input, &labels(n, 8), mode(n)).unwrap();
            }
            network.synchronize(&mut optimizer).unwrap();
            assert!(optimizer.second.is_empty() || optimizer.second.iter().any(|v| *v != 0.0), "the second moment came back");
            (bits(&network.values), optimizer.arenas().map(bits))
        };
        assert!(run(true) == run(false), "{rule:?}");
    }
}

/// Two optimisers that take turns on one network have each its own state, whether they are fetched in between or not, and also when the
/// second needs new memory; a clone goes on from the state that it was cloned with.
#[test]
fn optimisers_that_take_turns_have_each_its_own_state() {
    let network = small(IF, 0.0);
    // `fetches`: after every step; `fresh`: each step in a session of its own, which has no state but what it is given.
    let run = |fetches: bool, fresh: bool| {
        let mut network = placed(&network);
        let mut optimizers = [with_everything(SGD, &network), with_everything(ADAM, &network), Optimizer::new(SGD, 0.0, network.len())];
        for (n, which) in [0, 0, 1, 0, 2, 1, 1, 2, 0].into_iter().enumerate() {
            let data = images(n as u64, 8);
            let input = Input { data: &data, batch: 8, frames: 1 };
            network.train_step(&mut optimizers[which], 0.02, &input, &labels(n as u64, 8), mode(n as u64)).unwrap();
            if fetches || fresh {
                network.synchronize(&mut optimizers[which]).unwrap();
            }
            if fresh {
                network = placed(&network);
            }
            if fetches && n == 4 {
                optimizers[0] = optimizers[0].clone();
            }
        }
        optimizers.iter_mut().for_each(|optimizer| network.synchronize(optimizer).unwrap());
        (bits(&network.values), optimizers.map(|optimizer| optimizer.arenas().map(bits)))
    };
    let expected = run(false, true);
    assert!(run(true, false) == expected, "fetched after each step");
    assert!(run(false, false) == expected, "fetched at the end");
}

/// An optimiser that has taken no step on the device gets nothing from it.
#[test]
fn an_optimiser_is_not_given_the_state_of_another() {
    let mut network = placed(&small(IF, 0.0));
    let (mut first, mut second) = (Optimizer::new(SGD, 0.0, network.len()), Optimizer::new(SGD, 0.0, network.len()));
    let data = images(3, 8);
    network.train_step(&mut first, 0.02, &Input { data: &data, batch: 8, frames: 1 }, &labels(3, 8), mode(0)).unwrap();
    network.synchronize(&mut second).unwrap();
    assert!(second.first.iter().all(|v| *v == 0.0));
    network.synchronize(&mut first).unwrap();
    assert!(first.first.iter().any(|v| *v != 0.0), "the state of the first is still there");
}

/// What a recorded step holds is recorded anew when it changes.
#[test]
fn settings_may_change_between_steps() {
    let network = small(IF, 0.0);
    let (data, of) = (images(3, 8), labels(3, 8));
    let input = Input { data: &data, batch: 8, frames: 1 };
    let changes: [(&str, fn(&mut Network, &mut Optimizer)); 8] = [
        ("bound of the gradients", |_, optimizer| optimizer.clip_norm = Some(1e-3)),
        ("parameters that do not decay", |network, optimizer| optimizer.spared = vec![0x5555_5555; network.len().div_ceil(32)].into()),
        ("decay of the average", |_, optimizer| {
            optimizer.average.as_mut().unwrap().decay = 0.05;
        }),
        ("weight decay", |_, optimizer| optimizer.weight_decay = 0.5),
        ("momentum", |_, optimizer| optimizer.rule = Rule::Sgd { momentum: 0.1, nesterov: true }),
        ("threshold_grad_scale", |network, _| network.threshold_grad_scale = 0.001),
        ("label_smoothing", |network, _| network.label_smoothing = 0.3),
        ("threshold_bound", |network, _| network.threshold_bound = 3.0),
    ];
    for (name, change) in changes {
        // The same two steps, with a fresh session and graph for the second.
        let run = |fresh: bool| {
            let (mut network, mut optimizer) = (placed(&network), with_everything(SGD, &network));
            network.train_step(&mut optimizer, 0.02, &input, &of, mode(0)).unwrap();
            if fresh {
                network.synchronize(&mut optimizer).unwrap();
                network = placed(&network);
            }
            change(&mut network, &mut optimizer);
            network.train_step(&mut optimizer, 0.02, &input, &of, mode(1)).unwrap();
            network.synchronize(&mut optimizer).unwrap();
            (bits(&network.values), optimizer.arenas().map(bits))
        };
        assert_eq!(run(false), run(true), "{name}");
    }
}

/// A bad value is named by the step and stops the update.
#[test]
fn a_bad_parameter_is_named_and_nothing_is_updated() {
    let mut network = small(IF, 0.0);
    let index = network.norms[0].bias;
    let mut values = network.value(index).to_vec();
    values[1] = f32::NAN;
    network.set_parameter(index, &values);
    network.prepare();
    let (name, before) = (network.parameters[index].name.clone(), bits(&network.values));
    let (mut network, mut optimizer) = (placed(&network), Optimizer::new(SGD, 5e-4, network.len()));
    let data = images(3, 8);
    let step = network.train_step(&mut optimizer, 0.02, &Input { data: &data, batch: 8, frames: 1 }, &labels(3, 8), mode(0)).unwrap();
    assert_eq!(step.not_finite, Some(name));
    network.synchronize(&mut optimizer).unwrap();
    assert!(bits(&network.values) == before, "nothing is updated");
    assert_eq!(optimizer.steps, 0, "a step that was left out is not counted");
}

/// Each step draws the dropout masks of its own seed: its loss is that of the forward pass on the CPU.
#[test]
fn steps_draw_the_masks_of_their_seed() {
    let network = small(IF, 0.4);
    let (data, of) = (images(3, 8), labels(3, 8));
    let input = Input { data: &data, batch: 8, frames: 1 };
    let (mut gpu, mut optimizer) = (placed(&network), Optimizer::new(SGD, 0.0, network.len()));
    for seed in [5, 6, 7] {
        let forward = network.clone().forward(&input, mode(seed), |_| false).unwrap();
        let expected = cross_entropy(&forward.logits, &of, 10, &mut vec![0.0; 80]);
        let got = gpu.train_step(&mut optimizer, 0.0, &input, &of, mode(seed)).unwrap().loss; // nothing moves
        assert!((got - expected).abs() < 1e-9 * expected, "seed {seed}: {got}, on the CPU {expected}");
    }
}

/// Mixed samples on the device have the loss of the CPU, also with smoothed targets and when they were staged; a plain step after them
/// is plain.
#[test]
fn mixed_samples_have_the_loss_of_the_cpu() {
    let mut network = small(IF, 0.0);
    network.label_smoothing = 0.1;
    let (data, of) = (images(3, 8), labels(3, 8));
    let input = Input { data: &data, batch: 8, frames: 1 };
    let blends: Vec<Blend> = (0..8).map(|n| Blend { other: n % 7, share: 0.1 * n as f32 }).collect();
    let mixed = Samples::Mixed { input, blends: &blends };
    let step = |network: &mut Network, samples: &Samples| {
        let mut optimizer = Optimizer::new(SGD, 0.0, network.len());
        network.begin_step(&mut optimizer, 0.0, samples, &of, mode(0)).unwrap(); // nothing moves
        network.finish_step(&mut optimizer).unwrap().loss
    };
    let expected = [&mixed, &Samples::Real(input)].map(|samples| step(&mut network.clone(), samples));
    assert!((expected[0] - expected[1]).abs() > 1e-3, "{expected:?}");
    let mut gpu = placed(&network);
    let near = |got: f64, expected: f64| assert!((got - expected).abs() < 1e-9 * expected, "{got}, on the CPU {expected}");
    near(step(&mut gpu, &mixed), expected[0]);
    near(step(&mut gpu, &Samples::Real(input)), expected[1]);
    let staged = gpu.stage(&mixed, &of).unwrap().unwrap();
    near(step(&mut gpu, &Samples::Staged(staged)), expected[0]);
    for (blends, words) in [(&blends[..7], "expected 8, got 7"), (&[Blend { other: 10, share: 0.5 }; 8], "classes below 10")] {
        for network in [&mut gpu, &mut network] {
            let samples = Samples::Mixed { input, blends };
            let mut optimizer = Optimizer::new(SGD, 0.0, network.len());
            let error = network.begin_step(&mut optimizer, 0.0, &samples, &of, mode(0)).unwrap_err().to_string();
            assert!(error.starts_with("train_step: blends: ") && error.contains(words), "{error}");
        }
    }
}

/// Thresholds fall by a large learning rate and stay at their bound, as on the CPU.
#[test]
fn steps_keep_thresholds_above_their_bound() {
    let mut network = small(IF, 0.0);
    network.threshold_bound = 0.98;
    let (data, of) = (images(3, 8), labels(3, 8));
    let input = Input { data: &data, batch: 8, frames: 1 };
    let mut gpu = placed(&network);
    let mut optimizer = Optimizer::new(SGD, 0.5, network.len()); // the decay alone makes them fall
    gpu.train_step(&mut optimizer, 0.2, &input, &of, mode(0)).unwrap();
    gpu.synchronize(&mut optimizer).unwrap();
    let (mut cpu, mut optimizer) = (network.clone(), Optimizer::new(SGD, 0.5, network.len()));
    cpu.train_step(&mut optimizer, 0.2, &input, &of, mode(0)).unwrap();
    let thresholds = |n: &Network| n.layers.iter().map(|layer| n.threshold(layer)).collect::<Vec<f32>>();
    assert!(thresholds(&cpu).contains(&0.98), "{:?} show the bound", thresholds(&cpu));
    for (got, expected) in thresholds(&gpu).into_iter().zip(thresholds(&cpu)) {
        assert!((got - expected).abs() < 1e-3, "{got}, on the CPU {expected}");
    }
}

/// Gradients of one backward pass do not find their way into the next.
#[test]
fn backward_adds_to_the_host_once() {
    let mut network = placed(&small(LIF, 0.0));
    let data = images(3, 8);
    let input = Input { data: &data, batch: 8, frames: 1 };
    let grad = seeded::values(4, 80, -1.0..1.0);
    let mut runs = Vec::new();
    for _ in 0..2 {
        network.forward(&input, mode(1), |_| false).unwrap();
        network.grads.fill(0.0);
        network.backward(&input, &grad, None).unwrap();
        runs.push(bits(&network.grads));
    }
    assert!(runs[0] == runs[1]);
}

/// Images that a device crops and mirrors itself, and bytes that it looks up, give the steps of those that the host has made values of.
#[test]
fn held_images_and_bytes_are_those_of_the_host() {
    let shape = [8, 8, 1];
    let pixels = seeded::values(1, 12 * 64, 0.0..255.0).iter().map(|v| *v as u8).collect();
    let split = Split { images: Images { shape, pixels }, labels: vec![0; 12] };
    let dataset = Dataset::new("random", vec!["all".into()], split.clone(), split, 255).unwrap();
    let how = Augment { crop_pad: 2, flip: true, ..Augment::default() };
    let draws: Vec<(u32, Draw)> = (0..8).map(|n| (n, how.draw(9, 1, u64::from(n)))).collect();
    let (mut data, mut bytes, pixels) = (Vec::new(), Vec::new(), Pixels::of(&dataset));
    for &(image, draw) in &draws {
        let image = dataset.train.images.image(image as usize);
        pixels.append_drawn(image, 2, draw, &mut data);
        pixels.append_drawn_bytes(image, 2, draw, &mut bytes);
    }
    let network = small(IF, 0.0);
    let run = |samples: &Samples| {
        let (mut network, mut optimizer) = (placed(&network), Optimizer::new(SGD, 5e-4, network.len()));
        assert!(network.hold_images(&dataset, 2).unwrap());
        assert_eq!(network.form_of(&dataset).unwrap(), Form::Bytes);
        network.begin_step(&mut optimizer, 0.02, samples, &labels(1, 8), mode(0)).unwrap();
        let loss = network.finish_step(&mut optimizer).unwrap().loss;
        network.synchronize(&mut optimizer).unwrap();
        (loss, bits(&network.values))
    };
    let expected = run(&Samples::Real(Input { data: &data, batch: 8, frames: 1 }));
    assert!(run(&Samples::Images { draws: &draws, holes: &[] }) == expected, "held");
    assert!(run(&Samples::Pictures { bytes: &bytes, batch: 8, holes: &[] }) == expected, "bytes");

    let holes: Vec<Hole> = (0..8).map(|n| Hole::draw(3, shape, 9, 1, n)).collect();
    data.chunks_exact_mut(64).zip(&holes).for_each(|(image, hole)| hole.clear(image, shape));
    let cut = run(&Samples::Real(Input { data: &data, batch: 8, frames: 1 }));
    assert!(cut != expected);
    assert!(run(&Samples::Images { draws: &draws, holes: &holes }) == cut, "held, with holes");
    assert!(run(&Samples::Pictures { bytes: &bytes, batch: 8, holes: &holes }) == cut, "bytes with holes");
    let few = Samples::Pictures { bytes: &bytes, batch: 8, holes: &holes[..7] };
    let refused = placed(&network).stage(&few, &labels(1, 8)).unwrap_err().to_string();
    assert_eq!(refused, "holes of a batch: expected 8, got 7");
}

/// Bytes stand for the values of the data set that was named last.
#[test]
fn bytes_are_those_of_the_data_set_at_work() {
    let of_mean = |seed| {
        let pixels = seeded::values(seed, 12 * 64, 0.0..(255.0 / seed as f32)).iter().map(|v| *v as u8).collect();
        let split = Split { images: Images { shape: [8, 8, 1], pixels }, labels: vec![0; 12] };
        Dataset::new("random", vec!["all".into()], split.clone(), split, 255).unwrap()
    };
    let (mut gpu, sets) = (placed(&small(IF, 0.0)), [of_mean(1), of_mean(3)]);
    let mut cpu = small(IF, 0.0);
    for set in [&sets[0], &sets[1], &sets[0]] {
        let bytes = &set.test.images.pixels[..8 * 64];
        let mut data = Vec::new();
        bytes.chunks_exact(64).for_each(|image| Pixels::of(set).append(image, &mut data));
        assert_eq!(gpu.form_of(set).unwrap(), Form::Bytes);
        gpu.begin_evaluation(&Samples::Pictures { bytes, batch: 8, holes: &[] }, |_| false).unwrap();
        let expected = cpu.forward(&Input { data: &data, batch: 8, frames: 1 }, Mode::Eval, |_| false).unwrap();
        assert_eq!(gpu.finish_evaluation().unwrap().logits, expected.logits);
    }
}

/// An evaluation sees the parameters and statistics of the moment, whatever has changed them.
#[test]
fn evaluations_see_what_has_changed_before_them() {
    let mut network = placed(&small(IF, 0.0));
    let mut optimizer = Optimizer::new(SGD, 5e-4, network.len());
    let data = images(3, 8);
    let input = Input { data: &data, batch: 8, frames: 1 };
    let mut seen = Vec::new();
    let mut evaluate = |network: &mut Network, optimizer: &mut Optimizer, after: &str| {
        let got = network.forward(&input, Mode::Eval, |_| false).unwrap();
        network.synchronize(optimizer).unwrap();
        let mut cpu = network.clone();
        cpu.place(&Device::Cpu).unwrap();
        let expected = cpu.forward(&input, Mode::Eval, |_| false).unwrap();
        assert_eq!((bits(&got.logits), bits(&got.rates)), (bits(&expected.logits), bits(&expected.rates)), "after {after}");
        seen.push(bits(&got.rates));
    };
    evaluate(&mut network, &mut optimizer, "nothing");
    for step in 0..2 {
        network.train_step(&mut optimizer, 0.5, &input, &labels(3, 8), mode(step)).unwrap();
        evaluate(&mut network, &mut optimizer, "a step");
    }
    network.forward(&input, mode(3), |_| false).unwrap();
    evaluate(&mut network, &mut optimizer, "a forward pass in training");
    let norm = network.norms[0].bias;
    let raised: Vec<f32> = network.value(norm).iter().map(|v| v + 0.5).collect();
    network.set_parameter(norm, &raised);
    network.prepare();
    evaluate(&mut network, &mut optimizer, "new parameters");
    seen.dedup();
    assert_eq!(seen.len(), 5, "each change is seen");
}

/// The batches of a pass as bytes are those as values, in training and in test.
#[test]
fn batches_as_bytes_stand_for_those_as_values() {
    let dataset = std::sync::Arc::new(dsr::data::load("digits-8x8", None).unwrap());
    let (pixels, how) = (Pixels::of(&dataset), Augment { crop_pad: 2, flip: true, cutout: 3, ..Augment::default() });
    let training = |form| Loader::train_as(form, dataset.clone(), 100, how, 3, 1, 2);
    let test = |form| Loader::test_as(form, dataset.clone(), 100);
    for (values, bytes) in training(Form::Values).zip(training(Form::Bytes)).chain(test(Form::Values).zip(test(Form::Bytes))) {
        let mut looked_up = Vec::new();
        bytes.bytes.chunks_exact(64).for_each(|image| pixels.append(image, &mut looked_up));
        looked_up.chunks_exact_mut(64).zip(&bytes.holes).for_each(|(image, hole)| hole.clear(image, [8, 8, 1]));
        assert!(values.holes.is_empty());
        assert!(looked_up == values.data && bytes.data.is_empty() && bytes.labels == values.labels);
    }
}

/// A label that is no class is refused before any kernel reads by it.
#[test]
fn a_label_that_is_no_class_is_refused() {
    let (mut network, mut optimizer) = (placed(&small(IF, 0.0)), Optimizer::new(SGD, 0.0, small(IF, 0.0).len()));
    let data = images(3, 2);
    assert!(network.train_step(&mut optimizer, 0.1, &Input { data: &data, batch: 2, frames: 1 }, &[0, 10], mode(0)).is_err());
}
