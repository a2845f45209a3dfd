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
    train_with(small, ranks, slices, gradient, false)
}

/// The same, with batch norms that have the statistics of a slice or not.
fn train_with(small: &Small, ranks: Ranks, slices: usize, gradient: WeightGradient, by_slice: bool) -> Vec<(String, Vec<u32>)> {
    let (mut network, batch) = (small.network(), small.data());
    network.share = Share::new(ranks, batch.size, slices).unwrap().with_norms_by_slice(by_slice);
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
fn norms_of_slices_have_the_same_bits_on_any_number_of_ranks_and_threads() {
    for small in all() {
        let gradient = if small.neuron.is_real() { WeightGradient::Rate } else { WeightGradient::Unrolled };
        for slices in [small.batch, small.batch.div_ceil(2)].into_iter().filter(|&slices| slices > 1) {
            let of = |threads| on_threads(threads, || train_with(&small, Ranks::Alone, slices, gradient, true));
            let expected = of(1);
            assert_same(small.name, &of(3), &expected);
            for ranks in (2..=slices).rev().step_by(2) {
                for (rank, got) in on_ranks(ranks, |ranks| train_with(&small, ranks, slices, gradient, true)).iter().enumerate() {
                    assert_same(&format!("{}, {slices} slices, rank {rank} of {ranks}", small.name), got, &expected);
                }
            }
        }
        // One slice is the whole batch.
        let [all, one] = [false, true].map(|by_slice| on_threads(1, || train_with(&small, Ranks::Alone, 1, gradient, by_slice)));
        assert_same(small.name, &one, &all);
    }
}

/// The definition of docs/distributed.md, by networks that have never heard of slices: each slice as a batch of its own.
#[test]
fn a_slice_is_a_batch_of_its_own() {
    for small in all() {
        let (mut network, batch) = (small.network(), small.data());
        let labels: Vec<u32> = (0..batch.size).map(|b| (b % network.classes) as u32).collect();
        let (sample, mode) = (batch.data.len() / batch.size, Mode::Train { gradient: WeightGradient::Rate, seed: 3 });
        if network.layers.iter().any(|layer| layer.dropout > 0.0) {
            continue; // masks go by the place in the whole batch
        }
        // Two slices, of which the second may be shorter.
        let half = batch.size.div_ceil(2);
        let (mut gradients, mut loss, mut running) = (vec![0.0f64; network.len()], 0.0, Vec::new());
        for samples in [0..half, half..batch.size] {
            let mut alone = network.clone();
            let n = samples.len();
            let input = Input { data: &batch.data[samples.start * sample..samples.end * sample], batch: n, frames: batch.frames };
            let (of_slice, _) = alone.gradients(&input, &labels[samples], mode).unwrap();
            let weight = n as f64 / batch.size as f64;
            loss += weight * of_slice;
            gradients.iter_mut().zip(&alone.grads).for_each(|(sum, &g)| *sum += weight * f64::from(g));
            running
                .push(alone.norms.iter().flat_map(|norm| norm.running_mean.iter().chain(&norm.running_var)).copied().collect::<Vec<f32>>());
        }
        network.share = Share::new(Ranks::Alone, batch.size, 2).unwrap().with_norms_by_slice(true);
        network.share.begin_batch(batch.size);
        let batches = network.norms.iter().map(|norm| norm.batches + 1).collect::<Vec<_>>();
        let input = Input { data: &batch.data, batch: batch.size, frames: batch.frames };
        let (found, _) = network.gradients(&input, &labels, mode).unwrap();
        assert!((found - loss).abs() < 1e-9 * loss.abs().max(1.0), "{}: {found} {loss}", small.name);
        let norm = gradients.iter().map(|g| g * g).sum::<f64>().sqrt();
        let off = gradients.iter().zip(&network.grads).map(|(a, &b)| (a - f64::from(b)).powi(2)).sum::<f64>().sqrt();
        assert!(norm > 0.0 && off < 1e-5 * norm, "{}: {off} of {norm}", small.name);
        let mean: Vec<u32> =
            running[0].iter().zip(&running[1]).map(|(&a, &b)| (((f64::from(a) + f64::from(b)) / 2.0) as f32).to_bits()).collect();
        let found = network.norms.iter().flat_map(|norm| norm.running_mean.iter().chain(&norm.running_var)).map(|v| v.to_bits());
        assert_eq!(found.collect::<Vec<u32>>(), mean, "{}", small.name);
        assert_eq!(network.norms.iter().map(|norm| norm.batches).collect::<Vec<_>>(), batches);
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
    parts_of_batches(&dataset, Augment { crop_pad: 1, flip: true, ..Augment::default() });
    // Partners of mixed samples may be at the places of others.
    parts_of_batches(&dataset, Augment { crop_pad: 1, cutout: 3, mixup: 0.4, ..Augment::default() });
    let test: Vec<_> = Loader::test(dataset.clone(), 100).collect();
    for rank in 0..3 {
        let dealt: Vec<_> = Loader::test_dealt(Form::Values, dataset.clone(), 100, [rank, 3]).collect();
        assert_eq!(dealt, test.iter().skip(rank).step_by(3).cloned().collect::<Vec<_>>());
    }
}

fn parts_of_batches(dataset: &Arc<dsr::Dataset>, augment: Augment) {
    let whole: Vec<_> = Loader::train(dataset.clone(), 100, augment, 1, 2, 12).collect();
    let part = |places| Loader::train_part(Form::Values, dataset.clone(), 100, places, augment, 1, 2, 12).collect::<Vec<_>>();
    let parts = [part(0..25), part(25..75), part(75..100)];
    for (step, whole) in whole.iter().enumerate() {
        let labels: Vec<u32> = parts.iter().flat_map(|part| part[step].labels.clone()).collect();
        let data: Vec<f32> = parts.iter().flat_map(|part| part[step].data.clone()).collect();
        let blends: Vec<_> = parts.iter().flat_map(|part| part[step].blends.clone()).collect();
        assert!(labels == whole.labels && data == whole.data && blends == whole.blends, "step {step}");
        assert_eq!(blends.is_empty(), augment.mixup == 0.0);
    }
    // The last batch is short: the last rank has nothing, and still a batch.
    assert_eq!(whole.last().unwrap().labels.len(), parts.iter().map(|part| part.last().unwrap().labels.len()).sum::<usize>());
    assert!(parts.iter().all(|part| part.len() == whole.len()));
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
            let on = |by_slice: bool| {
                on_ranks(ranks, |of| {
                    let mut network = network.clone();
                    network.share = Share::new(of.clone(), ranks, ranks).unwrap().with_norms_by_slice(by_slice);
                    network.share.begin_batch(ranks);
                    let sample = batch.data.len() / batch.size;
                    let at = of.rank();
                    let input = Input { data: &batch.data[at * sample..(at + 1) * sample], batch: 1, frames: batch.frames };
                    let mut optimizer = Optimizer::new(Rule::Sgd { momentum: 0.9, nesterov: false }, 0.0, network.len());
                    let mode = Mode::Train { gradient: WeightGradient::Rate, seed: 1 };
                    network.train_step(&mut optimizer, 0.01, &input, &[0], mode).unwrap();
                    of.any("whether to go on after the step", false).unwrap();
                    of.cost()
                })
            };
            let statistics: usize = network.norms.iter().map(|norm| 2 * norm.running_mean.len()).sum();
            let of_slices = 24 + 16 + 8 * layers + 8 * statistics + 16 + 1;
            for ((rank, cost), of_slice) in on(false).iter().enumerate().zip(on(true)) {
                let share = |rank: usize| (rank + 1) * parameters / ranks - rank * parameters / ranks;
                let others = (0..ranks).filter(|&other| other != rank);
                let gradients: usize = others.map(|other| 24 + 4 * share(other) + 4 * share(rank)).sum();
                let expected = (to_each + 1) * (ranks - 1) + gradients;
                assert_eq!((cost.exchanges, cost.bytes), (exchanges as u64, expected as u64), "{} on {ranks}", small.name);
                let expected_of_slice = of_slices * (ranks - 1) + gradients;
                assert_eq!((of_slice.exchanges, of_slice.bytes), (5, expected_of_slice as u64), "{} on {ranks}, by slice", small.name);
            }
        }
    }
}

/// Without MPI, what a launcher starts would be as many runs.
#[cfg(not(feature = "mpi"))]
#[test]
fn a_build_without_mpi_refuses_to_be_one_of_several() {
    let folder = tempfile::tempdir().unwrap();
    for (launcher, rank, size) in [
        ("mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
        ("torchrun", "RANK", "WORLD_SIZE"),
        ("srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    ] {
        let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin("dsr"));
        command.current_dir(folder.path()).args(["train", "-d", "digits-8x8", "--slices", "4"]);
        let output = command.envs([(rank, "1"), (size, "4")]).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        let expected = format!(
            "error: ranks: {launcher} has started 4 processes, but this build has no MPI, and they would be 4 runs: build with --features mpi, \
             or start one\n"
        );
        assert_eq!((output.status.code(), stderr), (Some(2), expected));
    }
    assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none(), "nothing is written");
}

/// Norms of slices are of the CPU so far.
#[test]
fn norms_of_slices_are_refused_on_a_device() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin("dsr"));
    let line = "train -d digits-8x8 --widths 4 --blocks 1 -T 2 --device cuda --sync-batch-norm slice";
    command.current_dir(folder.path()).args(line.split_whitespace()).env("LD_LIBRARY_PATH", emulator::directory());
    let output = command.output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(
        stderr.contains("error: sync-batch-norm: slice: on a device batch norm has the statistics of the whole batch, so far"),
        "{stderr}"
    );
}

/// Work that is not shared is done by each process, and the first of them says so.
#[test]
fn a_command_that_shares_no_work_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let said = |rank: &str| {
        let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin("dsr"));
        let line =
            "bench throughput --widths 4 --blocks 1 -b 2 -T 2 --image 8x8x1 --mode infer --warmup 1 --repeats 1 --device cpu -o json";
        command.current_dir(folder.path()).args(line.split_whitespace());
        let output = command.envs([("SLURM_PROCID", rank), ("SLURM_STEP_NUM_TASKS", "4")]).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stderr).unwrap()
    };
    let note = "note: srun has started 4 processes, and each does all of dsr bench: only dsr train shares its work\n";
    assert!(said("0").contains(note), "{}", said("0"));
    assert!(!said("1").contains("note: srun"));
    assert!(!said("x").contains("note: srun"), "variables of nobody are none of its business");
}
