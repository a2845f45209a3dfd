//! What a step and an evaluation cost beside the arithmetic: launches, copies, waits. The driver stand-in counts them.

#[path = "support/device.rs"]
mod device;
#[path = "support/seeded.rs"]
mod seeded;

use std::sync::Arc;

use dsr::device::Device;
use dsr::evaluation::{Ties, evaluate};
use dsr::network::{Input, Mode, Network, Samples, Source, Staged, WeightGradient, imagenet_resnet, preact_resnet};
use dsr::ops::neuron::Neuron;
use dsr::ops::optimizer::{Optimizer, Rule};
use emulator::Counts;

const BATCH: usize = 8;

/// Launches of a step that belong to no layer: readout, loss and its mean, the last sums of backward, the check for values that are not
/// finite, the update, bounds of thresholds, weights of the next forward and of the next backward pass.
const BESIDE_LAYERS: u64 = 9;

/// Networks on a device of which the stand-in counts everything, with the values of a sample; none on a real device.
fn networks() -> Vec<(String, Network, usize)> {
    let gpu = device::gpu();
    if device::is_real() {
        return Vec::new();
    }
    let preact = || preact_resnet([8, 8, 1], 10, &[8, 16], &[1, 1], 4, 0.0, 1.0).unwrap();
    let imagenet = || imagenet_resnet([33, 33, 3], 10, 2, &[1, 1, 1, 1], true, 1.0).unwrap();
    let mut all = Vec::new();
    for neuron in [Neuron::If { alpha: 0.5 }, Neuron::Lif { alpha: 0.3, tau: 1.0, delta_t: 0.05 }] {
        for (name, builder, frame) in [("preact", preact(), 64), ("imagenet", imagenet(), 33 * 33 * 3)] {
            let mut network = builder.finish(neuron, 4, 0.01, 11).unwrap();
            network.place(&Device::Cuda(gpu.clone())).unwrap();
            all.push((format!("{name}, {}", neuron.name()), network, frame));
        }
    }
    all
}

/// What was done since `before`, and the number of calls that had to wait for it.
fn since(before: Counts) -> (Counts, u64) {
    let counts = emulator::counts() - before;
    (counts, counts.waits)
}

#[test]
fn between_two_steps_the_host_waits_for_the_result_alone() {
    for (name, mut network, frame) in networks() {
        let batches: Vec<Vec<f32>> = (0..6).map(|seed| seeded::values(seed, BATCH * frame, -1.0..1.0)).collect();
        let input = |n: usize| Samples::Real(Input { data: &batches[n], batch: BATCH, frames: 1 });
        let labels: Vec<u32> = (0..BATCH as u32).collect();
        let mut optimizer = Optimizer::new(Rule::Sgd { momentum: 0.9, nesterov: false }, 5e-4, network.len());
        let mut staged = None::<Staged>;
        for n in 0..5 {
            let before = emulator::counts();
            let samples = staged.map_or_else(|| input(n), Samples::Staged);
            network.begin_step(&mut optimizer, 0.02, &samples, &labels, Mode::Train { gradient: WeightGradient::Rate, seed: 1 }).unwrap();
            if n > 0 {
                assert_eq!(since(before).1, 0, "{name}, step {n}: begun");
            }
            staged = network.stage(&input(n + 1), &labels).unwrap();
            let waits = since(before).1;
            network.finish_step(&mut optimizer).unwrap();
            let (counts, all) = since(before);
            println!("{name}, {} layers, step {n}: {counts:?}", network.layers.len());
            if n == 0 {
                continue; // memory, parameters and the graph come with the first
            }
            assert_eq!((waits, all), (0, 1), "{name}, step {n}: waits until the next batch is staged, and in all");
            assert_eq!(counts.graphs, 1, "{name}");
            assert!(counts.launches <= 8 * network.layers.len() as u64 + BESIDE_LAYERS, "{name}: {counts:?}");
            // Batch, labels and what changes from step to step; loss and spikes of each layer.
            assert_eq!(counts.copies_to_device, 3, "{name}");
            assert_eq!(counts.bytes_to_device, (4 * BATCH * frame + 4 * BATCH + 64) as u64, "{name}");
            assert_eq!((counts.copies_to_host, counts.bytes_to_host), (2, 16 + 8 * network.layers.len() as u64), "{name}");
        }
    }
}

/// Launches that an evaluation may have: one a layer, and one for each of its pools and convolutions of the input.
fn launches_wanted(network: &Network) -> usize {
    let connections = || network.layers.iter().flat_map(|layer| &layer.connections);
    let of_input = connections().filter(|c| c.source == Source::Input).count();
    let pooled = connections().filter(|c| c.source != Source::Input && c.geometry.is_pooled()).count();
    network.layers.len() + of_input + pooled
}

#[test]
fn an_evaluation_takes_one_launch_a_layer_and_one_wait() {
    for (name, mut network, frame) in networks() {
        let batches: Vec<Vec<f32>> = (0..6).map(|seed| seeded::values(seed, BATCH * frame, -1.0..1.0)).collect();
        let input = |n: usize| Samples::Real(Input { data: &batches[n], batch: BATCH, frames: 1 });
        let mut staged = None::<Staged>;
        for n in 0..5 {
            let before = emulator::counts();
            network.begin_evaluation(&staged.map_or_else(|| input(n), Samples::Staged), |_| false).unwrap();
            staged = network.stage(&input(n + 1), &[]).unwrap();
            let waits = since(before).1;
            let expected = network.clone().forward(&Input { data: &batches[n], batch: BATCH, frames: 1 }, Mode::Eval, |_| false).unwrap();
            let before_the_end = emulator::counts();
            let got = network.finish_evaluation().unwrap();
            assert_eq!(got.logits, expected.logits, "{name}, batch {n}");
            if n > 0 {
                assert_eq!(waits, 0, "{name}, batch {n}");
            }
            assert!(since(before_the_end).1 <= 1, "{name}, batch {n}");
        }
        for n in 0..3 {
            let before = emulator::counts();
            network.begin_evaluation(&input(n), |_| false).unwrap();
            network.finish_evaluation().unwrap();
            let (counts, waits) = since(before);
            println!("{name}, {} layers, evaluation {n}: {counts:?}", network.layers.len());
            assert!(counts.launches <= launches_wanted(&network) as u64, "{name}: {counts:?}, wanted {}", launches_wanted(&network));
            assert_eq!((counts.graphs, waits, counts.copies_to_device), (1, 1, 1), "{name}");
        }
    }
}

/// A pass over a split: one wait a batch, one byte a value of the pictures.
#[test]
fn a_pass_over_a_split_waits_once_a_batch_and_sends_bytes() {
    let dataset = Arc::new(dsr::data::load("digits-8x8", None).unwrap());
    let Some((_, mut network, _)) = networks().into_iter().next() else { return };
    let mut cpu = network.clone();
    cpu.place(&Device::Cpu).unwrap();
    let run = |network: &mut Network| evaluate(network, &dataset, 64, Ties::First, false, &mut |_, _, _| true).unwrap().unwrap();
    run(&mut network);
    let before = emulator::counts();
    let got = run(&mut network);
    let (counts, waits) = since(before);
    let images = dataset.test.len();
    println!("{images} images: {counts:?}");
    assert_eq!(waits, images.div_ceil(64) as u64);
    assert_eq!(counts.bytes_to_device, (images * 64) as u64);
    assert_eq!(got.logits, run(&mut cpu).logits);
}

/// What a PreAct-ResNet-18 launches for one image: a launch a layer, one more for the convolution of the input and one for the pool. Nothing is cleared before it; a change of parameters adds one launch for the constants of all layers.
#[test]
fn an_inference_of_one_image_in_launches() {
    let gpu = device::gpu();
    if device::is_real() {
        return;
    }
    let builder = preact_resnet([32, 32, 3], 10, &[8; 4], &[2; 4], 4, 0.0, 1.0).unwrap();
    let mut network = builder.finish(Neuron::If { alpha: 0.5 }, 2, 0.01, 11).unwrap();
    network.place(&Device::Cuda(gpu)).unwrap();
    let image = seeded::values(1, 32 * 32 * 3, -1.0..1.0);
    let input = Input { data: &image, batch: 1, frames: 1 };
    let mut launches = |replays: bool| {
        let before = emulator::counts();
        network.logits_on_device(&input, replays).unwrap();
        let counts = since(before).0;
        println!("{} layers, replayed: {replays}: {counts:?}", network.layers.len());
        counts
    };
    let first = launches(true);
    let [again, by_launches] = [launches(true), launches(false)];
    assert_eq!(first.launches - again.launches, 3, "bounds of thresholds, weights and constants come with the first");
    for counts in [again, by_launches] {
        assert_eq!((counts.launches, counts.copies_to_device, counts.copies_on_device), (21, 1, 1));
        assert_eq!((counts.copies_to_host, counts.fills), (1, 1), "the logits; counters are cleared behind them");
    }
}
