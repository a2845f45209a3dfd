//! Batches in slices on CUDA devices: spikes and statistics are those of the CPU, gradients those of bf16 operands, and any number of
//! devices gives the same bits. Ranks are processes on stand-ins of the driver and of NCCL.

#[path = "support/anns.rs"]
mod anns;
#[path = "support/device.rs"]
mod device;
#[path = "support/forward_bits.rs"]
mod forward_bits;
#[path = "support/ranks.rs"]
mod ranks;
#[path = "support/seeded.rs"]
mod seeded;
#[path = "support/small_networks.rs"]
mod small_networks;

use dsr::device::{Device, Gpu};
use dsr::network::buckets::LEAST;
use dsr::network::{Input, Mode, Network, WeightGradient, preact_resnet};
use dsr::ops::cross_entropy::cross_entropy;
use dsr::ops::optimizer::{Optimizer, Rule};
use dsr::profile::collectives;
use dsr::ranks::{Nccl, Ranks, Share};
use forward_bits::{assert_same, bits};
use ranks::{PATIENT, told};
use small_networks::{Batch, IF, LIF, Small};

fn on_gpu(network: &Network) -> Network {
    let mut network = network.clone();
    network.place(&Device::Cuda(device::gpu())).unwrap();
    network
}

/// Of a batch that is cut as one of so many samples would be, which makes the last slice short.
fn sliced(network: &Network, batch: usize, slices: usize) -> Network {
    let mut network = network.clone();
    network.share = Share::new(Ranks::Alone, batch, slices).unwrap();
    network.share.begin_batch(batch);
    network
}

/// Networks of every family with more than one sample, and one with dropout.
fn spiking() -> Vec<Small> {
    let dropout = Small {
        name: "preact with dropout",
        build: |v| preact_resnet([6, 6, 2], 5, &[8, 33], &[1, 1], 3, 0.3, v),
        neuron: LIF,
        time_steps: 4,
        bits: 16,
        batch: 6,
        events: false,
    };
    small_networks::all().into_iter().filter(|small| small.batch > 1).chain([dropout]).collect()
}

#[test]
fn forward_in_slices_has_the_bits_of_the_cpu() {
    for small in spiking() {
        let (network, batch) = (small.network(), small.data());
        for slices in [2, 3, 8] {
            let cut = sliced(&network, batch.size + 1, slices);
            let forward = |network: &mut Network| {
                let forward = network.forward(&batch.input(), small_networks::TRAIN, |_| true).unwrap();
                bits(network, &forward)
            };
            assert_same(&format!("{}, {slices} slices", small.name), &forward(&mut on_gpu(&cut)), &forward(&mut cut.clone()));
        }
    }
}

fn gradients(network: &mut Network, batch: &Batch, gradient: WeightGradient) -> Vec<(String, Vec<f32>)> {
    let forward = network.forward(&batch.input(), Mode::Train { gradient, seed: 3 }, |_| false).unwrap();
    let labels: Vec<u32> = (0..batch.size).map(|b| (b % network.classes) as u32).collect();
    let mut grad = vec![0.0; forward.logits.len()];
    cross_entropy(&forward.logits, &labels, network.classes, &mut grad);
    network.grads.fill(0.0);
    network.backward(&batch.input(), &grad, None).unwrap();
    let (mut all, mut thresholds) = (Vec::new(), Vec::new());
    for i in 0..network.parameters.len() {
        let (name, grad) = (network.parameters[i].name.clone(), network.grad_mut(i).to_vec());
        if name.ends_with("Vth") {
            thresholds.extend(grad);
        } else {
            all.push((name, grad));
        }
    }
    all.push(("all thresholds".into(), thresholds));
    all
}

fn length(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|v| v * v).sum::<f64>().sqrt()
}

/// As in `tests/network_cuda.rs`; an ANN is compared with itself in one slice, since with the CPU it agrees less.
#[test]
fn gradients_in_slices_are_those_of_bf16_operands() {
    for (small, slices) in
        spiking().into_iter().chain(anns::all().into_iter().filter(|small| small.batch > 1)).zip([2, 3, 8].iter().cycle())
    {
        let (network, batch) = (small.network(), small.data());
        let cut = sliced(&network, batch.size + 1, *slices);
        for gradient in [WeightGradient::Rate, WeightGradient::Unrolled] {
            let mut reference = if small.neuron.is_real() { on_gpu(&network) } else { cut.clone() };
            reference.bf16_products = true;
            let expected = gradients(&mut reference, &batch, gradient);
            let mut gpu = on_gpu(&cut);
            let got = gradients(&mut gpu, &batch, gradient);
            let largest = expected.iter().flat_map(|(_, g)| g).fold(0.0f32, |m, g| m.max(g.abs()));
            for ((name, got), (_, expected)) in got.iter().zip(&expected) {
                let floor = f64::from(largest) * 1e-3 * (expected.len() as f64).sqrt();
                let scale = length(expected.iter().map(|v| f64::from(*v))) + floor;
                let off = length(got.iter().zip(expected).map(|(a, b)| f64::from(*a) - f64::from(*b))) / scale;
                assert!(off < 2e-3, "{}, {gradient:?}, {slices} slices: gradient of {name} is off by {off:.2e}", small.name);
            }
            assert_eq!(gpu.stray_bytes().unwrap(), 0, "{}: a kernel left its buffer", small.name);
        }
    }
}

/// Of a step, as docs/distributed.md counts them, without the one that asks whether to stop; gradients go in buckets of at least so many
/// parameters.
fn exchanges(network: &Network, bucket: usize) -> u64 {
    use dsr::network::Kind;
    let of_layer = |layer: &dsr::network::SpikingLayer| {
        let has_inner = layer.connections.iter().any(|c| c.norm.is_some());
        let has_bias = layer.connections.iter().any(|c| matches!(c.kind, Kind::Conv { bias: Some(_), .. }));
        1 + u64::from(layer.norm.is_some()) + u64::from(has_inner) + u64::from(has_bias)
    };
    3 + 2 * network.buckets(bucket).len() as u64 + network.layers.iter().map(of_layer).sum::<u64>()
}

/// How a batch and the gradients are cut.
#[derive(Clone, Copy)]
struct Cuts {
    slices: usize,
    /// Fewest parameters of a bucket.
    bucket: usize,
}

/// What `dsr profile --predict` multiplies is what a rank with one node sends; it has no exchange that asks whether to stop here.
fn assert_sends_as_predicted(network: &Network, bytes: u64, cuts: Cuts) {
    let predicted = collectives::exchanges(network, cuts.slices, cuts.bucket);
    assert_eq!(predicted.iter().map(|kind| kind.count as u64).sum::<u64>(), exchanges(network, cuts.bucket) + 1);
    let expected = (predicted.iter().map(|kind| kind.bytes_to_each).sum::<f64>() - 1.0) * (cuts.slices - 1) as f64;
    // The share of the last rank may be smaller, and bytes of integers are whole ones.
    let off = (4 * cuts.slices * network.buckets(cuts.bucket).len() + network.layers.len() + 2) as f64;
    assert!((bytes as f64 - expected).abs() <= off, "{bytes} bytes, predicted {expected}");
}

/// What three steps leave, the second of them with a short batch: all bits that a run can show.
fn train(small: &Small, gpu: &std::sync::Arc<Gpu>, of: Ranks, cuts: Cuts, gradient: WeightGradient) -> Vec<(String, Vec<u32>)> {
    let (mut network, batch) = (small.network(), small.data());
    network.share = Share::new(of, batch.size, cuts.slices).unwrap();
    network.place(&Device::Cuda(gpu.clone())).unwrap();
    network.choose_buckets(cuts.bucket);
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
        let before = network.share.cost();
        let done = network.train_step(&mut optimizer, 0.01, &input, &labels[own], mode).unwrap();
        if !network.share.ranks().is_alone() {
            let cost = network.share.cost() - before;
            assert_eq!(cost.exchanges, exchanges(&network, cuts.bucket), "{}, step {step}", small.name);
            if cuts.slices == network.share.ranks().size() && batch.size % cuts.slices == 0 && total == batch.size {
                assert_sends_as_predicted(&network, cost.bytes, cuts);
            }
        }
        assert_eq!(done.not_finite, None, "{}", small.name);
        network.synchronize(&mut optimizer).unwrap();
        let loss = done.loss.to_bits();
        all.push((format!("loss {step}"), vec![(loss >> 32) as u32, loss as u32, done.correct as u32]));
        all.push((format!("rates {step}"), done.rates.iter().map(|v| v.to_bits()).collect()));
        all.push((format!("gradients {step}"), network.grads.iter().map(|v| v.to_bits()).collect()));
        all.push((format!("parameters {step}"), network.values.iter().map(|v| v.to_bits()).collect()));
        let running = network.norms.iter().flat_map(|norm| norm.running_mean.iter().chain(&norm.running_var));
        all.push((format!("running statistics {step}"), running.map(|v| v.to_bits()).collect()));
    }
    assert_eq!(network.stray_bytes().unwrap(), 0, "{}: a kernel left its buffer", small.name);
    all
}

/// One of each kind of network, neuron and gradient, and dropout.
fn shared() -> Vec<(Small, WeightGradient)> {
    let names = ["preact", "preact in 8 bits", "imagenet, bottleneck blocks", "preact with dropout", "preact, readout by current"];
    let found = spiking().into_iter().filter(|small| names.contains(&small.name)).collect::<Vec<_>>();
    assert_eq!(found.len(), names.len());
    let gradients = [WeightGradient::Rate, WeightGradient::Unrolled];
    let found = found.into_iter().zip(gradients.into_iter().cycle());
    let anns = anns::all().into_iter().filter(|small| ["preact", "vgg with dropout"].contains(&small.name));
    let small_if = small_networks::all().into_iter().filter(|small| small.name == "vgg").map(|small| Small { neuron: IF, ..small });
    let unrolled = small_if.map(|small| (small, WeightGradient::Unrolled));
    found.chain(anns.map(|small| (small, WeightGradient::Rate))).chain(unrolled).collect()
}

/// Every value as one checksum each, so that a difference has a name.
fn checksums(of: &[(String, Vec<u32>)]) -> String {
    of.iter().map(|(name, bits)| format!("{name} {:08x}", crc32c::crc32c(bytemuck::cast_slice(bits)))).collect::<Vec<_>>().join("; ")
}

/// Runs the case that the environment names; without one this is no rank, and there is nothing to do.
#[test]
fn in_rank() {
    let Some((case, rank, size)) = ranks::own_case() else { return };
    let words: Vec<&str> = case.split(' ').collect();
    let [slices, bucket] = [words[0], words[1]].map(|word| word.parse::<usize>().unwrap());
    let gpu = Gpu::open(rank).unwrap();
    let of = if size == 1 { Ranks::Alone } else { Nccl::join(&gpu, [rank, size], PATIENT).unwrap() };
    let train = |small: &Small, gradient: WeightGradient| {
        let cuts = Cuts { slices: slices.min(small.batch.max(size)), bucket };
        format!("{}, {gradient:?}: {}", small.name, checksums(&train(small, &gpu, of.clone(), cuts, gradient)))
    };
    let all = match words[2] {
        "all" => shared().iter().map(|(small, gradient)| train(small, *gradient)).collect::<Vec<_>>(),
        name => {
            let (small, gradient) = shared().into_iter().find(|(small, _)| small.name == name.replace('-', " ")).unwrap();
            let told = train(&small, gradient);
            if size > 1 && rank == 0 {
                buckets_go_beside_backward(&small, bucket); // of the short batch: the other ranks may have no samples
            }
            vec![told]
        }
    };
    println!("\ntold: {}", all.join(" | "));
}

/// Of the step that was recorded last: each layer with products has an exchange of a bucket beside it, if one is due, which its products
/// do not wait for, and the check of all gradients waits for every one.
fn buckets_go_beside_backward(small: &Small, bucket: usize) {
    let network = small.network();
    let nodes = emulator::recorded();
    let stream = |name: &str| nodes.iter().find(|node| node.name.starts_with(name)).unwrap().stream;
    let [compute, collectives] = [stream("first_not_finite"), stream("AllGather")];
    assert_ne!(compute, collectives);
    // The first exchange of a bucket adds what is this rank's own and what comes from all, the second adds the sums to the gradients.
    let mut due = std::collections::VecDeque::new();
    let (mut beside, mut all) = (0, 0);
    for (index, layer) in network.layers.iter().enumerate().rev() {
        if layer.has_products() {
            beside += due.pop_front().unwrap_or(0);
        }
        for _ in network.buckets(bucket).iter().filter(|bucket| bucket.layer == index) {
            due.extend([2, 1]);
            all += 3;
        }
    }
    assert!(beside > 3, "{}: nothing to see", small.name);
    let of_collectives: Vec<_> = nodes.iter().filter(|node| node.stream == collectives).collect();
    let is_beside = |at: usize| {
        let issued = nodes.iter().position(|node| node.stream == collectives && node.after[collectives] == at).unwrap();
        let mut products = nodes[issued..].iter().filter(|node| node.stream == compute && node.name.starts_with("weight_gradient"));
        products.any(|node| node.after[collectives] <= at)
    };
    let sums: Vec<usize> = (0..of_collectives.len()).filter(|&at| of_collectives[at].name == "tree_f32").collect();
    assert_eq!(sums.len(), all, "{}: sums of all buckets", small.name);
    assert_eq!(sums.iter().filter(|&&at| is_beside(at)).count(), beside, "{}: sums beside backward", small.name);
    let check = nodes.iter().find(|node| node.name == "first_not_finite").unwrap();
    assert_eq!(check.after[collectives], of_collectives.len(), "{}: the check waits for all", small.name);
    // The last bucket waits for all of backward: its two exchanges come last, and the sums of its own slices before them.
    let last = of_collectives[sums[all - 3]];
    assert_eq!(last.after[compute], check.after[compute], "{}: the last bucket waits for its gradients", small.name);
}

#[test]
fn any_number_of_devices_gives_the_same_bits() {
    // All gradients in one bucket, buckets of a few layers, and one for each layer.
    for (slices, sizes) in [(4, &[(2, 1), (3, 400), (4, LEAST)][..]), (5, &[(2, 400)][..]), (2, &[(2, 400)][..])] {
        let expected = alone(slices, "all");
        for &(size, bucket) in sizes {
            assert_same_on(&format!("{slices} {bucket} all"), size, &[], &expected);
        }
    }
}

/// What one process tells.
fn alone(slices: usize, which: &str) -> String {
    told(&ranks::run(&format!("{slices} {LEAST} {which}"), 1, &[])[0]).to_string()
}

#[track_caller]
fn assert_same_on(case: &str, size: usize, environment: &[(&str, &str)], expected: &str) {
    for (rank, ended) in ranks::run(case, size, environment).iter().enumerate() {
        for (got, expected) in told(ended).split("; ").zip(expected.split("; ")) {
            assert_eq!(got, expected, "{case}, rank {rank} of {size}, {environment:?}");
        }
        assert!(!ended.text.contains("dsr stand-in:"), "{case}, {environment:?}: {}", ended.text);
    }
}

/// Streams in other orders than that of the recording, as far as their events leave them free: what lacks a wait shows.
#[test]
fn buckets_beside_backward_in_any_order_of_streams_give_the_same_bits() {
    for which in ["preact", "preact-with-dropout"] {
        let expected = alone(4, which);
        for (size, streams, seed) in [(2, "random", "1"), (2, "random", "2"), (4, "random", "3"), (3, "copies-first", "1"), (2, "now", "1")]
        {
            let environment = [("DSR_STANDIN_STREAMS", streams), ("DSR_STANDIN_SEED", seed)];
            assert_same_on(&format!("4 1 {which}"), size, &environment, &expected);
        }
    }
}
