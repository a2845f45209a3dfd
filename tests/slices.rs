//! A batch in slices: the same bits for any number of ranks and threads, in every family of networks; one slice is what there was before.

#[path = "support/anns.rs"]
mod anns;
#[path = "support/seeded.rs"]
mod seeded;
#[path = "support/small_networks.rs"]
mod small_networks;

use std::sync::Arc;
use std::time::Duration;

use dsr::data::{Augment, Form, Loader};
use dsr::evaluation::{Evaluation, Ties, evaluate};
use dsr::network::{Input, Mode, WeightGradient};
use dsr::ops::optimizer::{Optimizer, Rule};
use dsr::ranks::{Ranks, Share, Threads};
use small_networks::Small;

const PATIENCE: Duration = Duration::from_secs(60);

fn on_threads<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}

/// The same work on each rank of a group of threads, each with a pool of its own, as processes have.
fn on_ranks<T: Send>(size: usize, work: impl Fn(Ranks) -> T + Sync) -> Vec<T> {
    let work = &work;
    std::thread::scope(|scope| {
        let ranks = Threads::group(size, PATIENCE);
        let threads: Vec<_> = ranks.into_iter().map(|ranks| scope.spawn(move || on_threads(1, || work(ranks)))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// What a few steps leave, the second of them with a short batch; all bits that a run can show.
fn train(small: &Small, ranks: Ranks, slices: usize, gradient: WeightGradient) -> Vec<(String, Vec<u32>)> {
    let (mut network, batch) = (small.network(), small.data());
    network.share = Share::new(ranks, batch.size, slices).unwrap();
    let mut optimizer = Optimizer::new(Rule::Adam { beta1: 0.9, beta2: 0.99, eps: 1e-8 }, 5e-4, network.len());
    let labels: Vec<u32> = (0..batch.size).map(|b| (b % network.classes) as u32).collect();
    let sample = batch.data.len() / batch.size;
    let mut all = Vec::new();
    for (step, total) in [batch.size, batch.size.div_ceil(2), batch.size].into_iter().enumerate() {
        network.share.begin_batch(total);
        let places = network.share.places();
        let own = places.start.min(total)..places.end.min(total);
        let input = Input { data: &batch.data[own.start * sample..own.end * sample], batch: own.len(), frames: batch.frames };
        let mode = Mode::Train { gradient, seed: step as u64 };
        let done = network.train_step(&mut optimizer, 0.01, &input, &labels[own], mode).unwrap();
        assert_eq!(done.not_finite, None, "{}", small.name);
        all.push((format!("loss {step}"), vec![(done.loss.to_bits() >> 32) as u32, done.loss.to_bits() as u32, done.correct as u32]));
        all.push((format!("rates {step}"), done.rates.iter().map(|v| v.to_bits()).collect()));
        all.push((format!("gradients {step}"), network.grads.iter().map(|v| v.to_bits()).collect()));
        all.push((format!("parameters {step}"), network.values.iter().map(|v| v.to_bits()).collect()));
        let running = network.norms.iter().flat_map(|norm| norm.running_mean.iter().chain(&norm.running_var));
        all.push((format!("running statistics {step}"), running.map(|v| v.to_bits()).collect()));
    }
    all
}

#[track_caller]
fn assert_same(what: &str, got: &[(String, Vec<u32>)], expected: &[(String, Vec<u32>)]) {
    for ((name, got), (_, expected)) in got.iter().zip(expected) {
        let differ = got.iter().zip(expected).filter(|(a, b)| a != b).count();
        assert!(got.len() == expected.len() && differ == 0, "{what}: {differ} of {} values differ in {name}", expected.len());
    }
}

fn all() -> Vec<Small> {
    small_networks::all().into_iter().chain(anns::all()).filter(|small| small.batch > 1).collect()
}

#[test]
fn any_number_of_ranks_gives_the_same_bits() {
    for small in all() {
        for gradient in [WeightGradient::Rate, WeightGradient::Unrolled] {
            if small.neuron.is_real() && gradient == WeightGradient::Unrolled {
                continue; // an ANN has one step
            }
            for slices in [small.batch, small.batch.div_ceil(2)].into_iter().filter(|&slices| slices > 1) {
                let expected = on_threads(1, || train(&small, Ranks::Alone, slices, gradient));
                for ranks in (2..=slices).rev().step_by(2) {
                    for (rank, got) in on_ranks(ranks, |ranks| train(&small, ranks, slices, gradient)).iter().enumerate() {
                        assert_same(&format!("{}, {gradient:?}, {slices} slices, rank {rank} of {ranks}", small.name), got, &expected);
                    }
                }
            }
        }
    }
}

#[test]
fn slices_have_the_same_bits_on_any_number_of_threads() {
    for small in all() {
        let of = |threads| on_threads(threads, || train(&small, Ranks::Alone, small.batch, WeightGradient::Unrolled));
        assert_same(small.name, &of(3), &of(1));
    }
}

/// Sums in another order, of the same values: gradients of the first step are those of one slice but for rounding.
#[test]
fn slices_change_a_gradient_by_rounding_only() {
    for small in all() {
        for gradient in [WeightGradient::Rate, WeightGradient::Unrolled] {
            let of = |slices| -> Vec<f64> {
                let found = train(&small, Ranks::Alone, slices, gradient);
                let (_, bits) = found.into_iter().find(|(name, _)| name == "gradients 0").unwrap();
                bits.into_iter().map(|bits| f64::from(f32::from_bits(bits))).collect()
            };
            let (one, sliced) = (of(1), of(small.batch));
            let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
            let (size, off) = (norm(&mut one.iter().copied()), norm(&mut one.iter().zip(&sliced).map(|(a, b)| a - b)));
            // A current of the first layer may move across a threshold with the last bit of its statistics; here none does.
            assert!(size > 0.0 && off <= 2e-5 * size, "{}, {gradient:?}: {off} of {size}", small.name);
        }
    }
}

#[test]
fn ranks_share_an_evaluation() {
    let small = &small_networks::all()[2];
    let dataset = Arc::new(dsr::data::load("digits-8x8", None).unwrap());
    let evaluated = |ranks: Ranks| {
        let builder = dsr::network::preact_resnet([8, 8, 1], 10, &[4], &[1], 2, 0.0, 1.0).unwrap();
        let mut network = builder.finish(small.neuron, 2, 0.01, 1).unwrap();
        network.share = Share::new(ranks, 64, 4).unwrap();
        evaluate(&mut network, &dataset, 100, Ties::Current, false, &mut |_, _, _| true).unwrap().unwrap()
    };
    let bits = |found: &Evaluation| {
        let values = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        let exact = [found.loss].iter().chain(&found.rates).map(|v| v.to_bits()).collect::<Vec<_>>();
        (values(&found.logits), values(&found.currents), exact, found.labels.clone(), found.correct(1))
    };
    let expected = bits(&evaluated(Ranks::Alone));
    for size in [2, 3, 4] {
        on_ranks(size, evaluated).iter().for_each(|found| assert!(bits(found) == expected, "{size} ranks"));
    }
    // One that is told to stop stops all.
    let stopped = on_ranks(3, |ranks| {
        let rank = ranks.rank();
        let mut network = small.network();
        network.share = Share::new(ranks, 4, 4).unwrap();
        evaluate(&mut network, &halves(), 2, Ties::First, false, &mut |_, _, _| rank != 1).unwrap().is_none()
    });
    assert_eq!(stopped, [true; 3]);
}

/// Frames for the third of the small networks: its input has one a step.
fn halves() -> Arc<dsr::Dataset> {
    let split = |n: usize| dsr::data::Split {
        images: dsr::data::Images { shape: [8, 8, 1], pixels: (0..n * 64).map(|i| (i * 7 % 251) as u8).collect() },
        labels: (0..n).map(|i| i as u32 % 3).collect(),
    };
    let classes = ["a", "b", "c"].map(String::from).to_vec();
    Arc::new(dsr::Dataset::new("halves", classes, split(12), split(12), 255).unwrap())
}

#[test]
fn parts_of_batches_are_those_of_whole_batches() {
    let dataset = Arc::new(dsr::data::load("digits-8x8", None).unwrap());
    let augment = Augment { crop_pad: 1, flip: true, ..Augment::default() };
    let whole: Vec<_> = Loader::train(dataset.clone(), 100, augment, 1, 2, 12).collect();
    let part = |places| Loader::train_part(Form::Values, dataset.clone(), 100, places, augment, 1, 2, 12).collect::<Vec<_>>();
    let parts = [part(0..25), part(25..75), part(75..100)];
    for (step, whole) in whole.iter().enumerate() {
        let labels: Vec<u32> = parts.iter().flat_map(|part| part[step].labels.clone()).collect();
        let data: Vec<f32> = parts.iter().flat_map(|part| part[step].data.clone()).collect();
        assert!(labels == whole.labels && data == whole.data, "step {step}");
    }
    // The last batch is short: the last rank has nothing, and still a batch.
    assert_eq!(whole.last().unwrap().labels.len(), parts.iter().map(|part| part.last().unwrap().labels.len()).sum::<usize>());
    assert!(parts.iter().all(|part| part.len() == whole.len()));
    let test: Vec<_> = Loader::test(dataset.clone(), 100).collect();
    for rank in 0..3 {
        let dealt: Vec<_> = Loader::test_dealt(Form::Values, dataset.clone(), 100, [rank, 3]).collect();
        assert_eq!(dealt, test.iter().skip(rank).step_by(3).cloned().collect::<Vec<_>>());
    }
}

/// The table of docs/distributed.md.
#[test]
fn exchanges_and_bytes_are_those_of_the_documents() {
    for small in all() {
        let (network, batch) = (small.network(), small.data());
        let (parameters, layers) = (network.len(), network.layers.len());
        for ranks in [2usize, 4] {
            if batch.size < ranks {
                continue;
            }
            // As many slices as ranks: one node each; whole shares of the parameters are compared below.
            let mut exchanges = 6;
            let mut to_each = 16 * layers + 32 + 16;
            for (index, layer) in network.layers.iter().enumerate() {
                let channels = layer.shape[2];
                let reads_input = layer.connections[0].source == dsr::network::Source::Input;
                exchanges += 1 + usize::from(layer.norm.is_some());
                to_each += 24 + 24 * channels;
                to_each += match (layer.norm, network.neuron.is_real(), index == 0 || reads_input) {
                    (None, ..) => 0,
                    (_, true, _) => 24 + 40 * channels,
                    (_, false, true) => 24 + 16 * channels,
                    (_, false, false) => 80 * channels,
                };
                for connection in &layer.connections {
                    let has_bias = matches!(connection.kind, dsr::network::Kind::Conv { bias: Some(_), .. });
                    let more = usize::from(connection.norm.is_some()) + usize::from(has_bias);
                    exchanges += more;
                    to_each += more * (24 + 16 * channels);
                }
            }
            let found = on_ranks(ranks, |of| {
                let mut network = network.clone();
                network.share = Share::new(of.clone(), ranks, ranks).unwrap();
                network.share.begin_batch(ranks);
                let sample = batch.data.len() / batch.size;
                let at = of.rank();
                let input = Input { data: &batch.data[at * sample..(at + 1) * sample], batch: 1, frames: batch.frames };
                let mut optimizer = Optimizer::new(Rule::Sgd { momentum: 0.9, nesterov: false }, 0.0, network.len());
                let mode = Mode::Train { gradient: WeightGradient::Rate, seed: 1 };
                network.train_step(&mut optimizer, 0.01, &input, &[0], mode).unwrap();
                of.any("whether to go on after the step", false).unwrap();
                of.cost()
            });
            for (rank, cost) in found.iter().enumerate() {
                let share = |rank: usize| (rank + 1) * parameters / ranks - rank * parameters / ranks;
                let others = (0..ranks).filter(|&other| other != rank);
                let gradients: usize = others.map(|other| 24 + 4 * share(other) + 4 * share(rank)).sum();
                let expected = (to_each + 1) * (ranks - 1) + gradients;
                assert_eq!((cost.exchanges, cost.bytes), (exchanges as u64, expected as u64), "{} on {ranks}", small.name);
            }
        }
    }
}

/// Without MPI, what a launcher starts would be as many runs.
#[cfg(not(feature = "mpi"))]
#[test]
fn a_build_without_mpi_refuses_to_be_one_of_several() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin("dsr"));
    command.current_dir(folder.path()).args(["train", "-d", "digits-8x8", "--slices", "4"]);
    let output = command.envs([("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "4")]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    let expected = "error: ranks: mpirun has started 4 processes, but this build has no MPI, and they would be 4 runs: \
                    build with --features mpi, or start one\n";
    assert_eq!((output.status.code(), stderr.as_str()), (Some(2), expected));
    assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none(), "nothing is written");
}

/// A sample and its partner may be with two ranks.
#[test]
fn mixed_samples_are_not_shared() {
    let mixing = dsr::settings::Config { mixup: 0.2, slices: 2, ..dsr::settings::Config::default() };
    for refused in on_ranks(2, |ranks| dsr::training::share_of(&mixing, ranks).unwrap_err().to_string()) {
        assert!(refused.starts_with("mixup: 0.2: "), "{refused}");
    }
    assert!(dsr::training::share_of(&mixing, Ranks::Alone).is_ok());
}
