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
use dsr::network::{Input, Mode, Network, WeightGradient, preact_resnet};
use dsr::ops::cross_entropy::cross_entropy;
use dsr::ops::optimizer::{Optimizer, Rule};
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

/// Of a step, as docs/distributed.md counts them, without the one that asks whether to stop.
fn exchanges(network: &Network) -> u64 {
    use dsr::network::Kind;
    let of_layer = |layer: &dsr::network::SpikingLayer| {
        let has_inner = layer.connections.iter().any(|c| c.norm.is_some());
        let has_bias = layer.connections.iter().any(|c| matches!(c.kind, Kind::Conv { bias: Some(_), .. }));
        1 + u64::from(layer.norm.is_some()) + u64::from(has_inner) + u64::from(has_bias)
    };
    5 + network.layers.iter().map(of_layer).sum::<u64>()
}

/// What three steps leave, the second of them with a short batch: all bits that a run can show.
fn train(small: &Small, gpu: &std::sync::Arc<Gpu>, of: Ranks, slices: usize, gradient: WeightGradient) -> Vec<(String, Vec<u32>)> {
    let (mut network, batch) = (small.network(), small.data());
    network.share = Share::new(of, batch.size, slices).unwrap();
    network.place(&Device::Cuda(gpu.clone())).unwrap();
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
            assert_eq!((network.share.cost() - before).exchanges, exchanges(&network), "{}, step {step}", small.name);
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
    let slices: usize = case.parse().unwrap();
    let gpu = Gpu::open(rank).unwrap();
    let of = if size == 1 { Ranks::Alone } else { Nccl::join(&gpu, [rank, size], PATIENT).unwrap() };
    let all: Vec<String> = shared()
        .iter()
        .map(|(small, gradient)| {
            let slices = slices.min(small.batch.max(size));
            format!("{}, {gradient:?}: {}", small.name, checksums(&train(small, &gpu, of.clone(), slices, *gradient)))
        })
        .collect();
    println!("\ntold: {}", all.join(" | "));
}

#[test]
fn any_number_of_devices_gives_the_same_bits() {
    for (slices, sizes) in [(4, &[2, 3, 4][..]), (5, &[2][..])] {
        let ended = ranks::run(&slices.to_string(), 1, &[]);
        let expected = told(&ended[0]).to_string();
        for &size in sizes {
            for (rank, ended) in ranks::run(&slices.to_string(), size, &[]).iter().enumerate() {
                for (got, expected) in told(ended).split("; ").zip(expected.split("; ")) {
                    assert_eq!(got, expected, "rank {rank} of {size}, {slices} slices");
                }
                assert!(!ended.text.contains("dsr stand-in:"), "{}", ended.text);
            }
        }
    }
}
