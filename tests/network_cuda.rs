//! Networks on a CUDA device against the CPU: the forward pass bit for bit, gradients within what bf16 operands allow.

#[path = "support/device.rs"]
mod device;
#[path = "support/forward_bits.rs"]
mod forward_bits;
#[path = "support/seeded.rs"]
mod seeded;
#[path = "support/small_networks.rs"]
mod small_networks;

use dsr::device::Device;
use dsr::network::{Mode, Network, SumsChoice, WeightGradient, preact_resnet};
use dsr::ops::cross_entropy::cross_entropy;
use dsr::ops::optimizer::{Optimizer, Rule};
use emulator::Order;
use forward_bits::{assert_same, bits};
use small_networks::{Batch, Small, TRAIN};

fn on_gpu(network: &Network, sums: SumsChoice) -> Network {
    let mut network = network.clone();
    network.place(&Device::Cuda(device::gpu())).unwrap();
    network.choose_sums(sums);
    network
}

fn forward(network: &mut Network, batch: &Batch, mode: Mode) -> Vec<(String, Vec<u32>)> {
    let forward = network.forward(&batch.input(), mode, |_| true).unwrap();
    bits(network, &forward)
}

#[test]
fn forward_has_the_bits_of_the_cpu() {
    for small in small_networks::all() {
        let (mut network, batch) = (small.network(), small.data());
        for sums in [SumsChoice::Store, SumsChoice::Recompute] {
            let mut on_gpu = on_gpu(&network, sums);
            for mode in [Mode::Eval, TRAIN] {
                let expected = forward(&mut network.clone(), &batch, mode);
                assert_same(&format!("{}, {sums:?}, {mode:?}", small.name), &forward(&mut on_gpu.clone(), &batch, mode), &expected);
            }
            // The same memory serves both modes, one after the other.
            let expected = [TRAIN, Mode::Eval].map(|mode| forward(&mut network.clone(), &batch, mode));
            let mut cpu = network.clone();
            assert_same(small.name, &forward(&mut on_gpu, &batch, TRAIN), &expected[0]);
            forward(&mut cpu, &batch, TRAIN);
            assert_same(small.name, &forward(&mut on_gpu, &batch, Mode::Eval), &forward(&mut cpu, &batch, Mode::Eval));
        }
        network.prepare();
    }
}

/// Gradients of all parameters and of the input, by name.
fn gradients(network: &mut Network, batch: &Batch, gradient: WeightGradient) -> Vec<(String, Vec<f32>)> {
    let forward = network.forward(&batch.input(), Mode::Train { gradient, seed: 3 }, |_| false).unwrap();
    let labels: Vec<u32> = (0..batch.size).map(|b| (b % network.classes) as u32).collect();
    let mut grad = vec![0.0; forward.logits.len()];
    cross_entropy(&forward.logits, &labels, network.classes, &mut grad);
    network.grads.fill(0.0);
    let mut input_grad = Vec::new();
    network.backward(&batch.input(), &grad, Some(&mut input_grad)).unwrap();
    let (mut all, mut thresholds) = (Vec::new(), Vec::new());
    for i in 0..network.parameters.len() {
        let (name, grad) = (network.parameters[i].name.clone(), network.grad_mut(i).to_vec());
        if name.ends_with("Vth") {
            thresholds.extend(grad);
        } else {
            all.push((name, grad));
        }
    }
    all.push(("the input".into(), input_grad));
    all.push(("all thresholds".into(), thresholds));
    all
}

fn length(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|v| v * v).sum::<f64>().sqrt()
}

/// The products of backward have bf16 operands on the device. The CPU can round its operands, too: then both differ by the order of
/// sums alone, and by the few values that this moves across a boundary of bf16. And the error against operands in f32 is no more
/// than twice that of the CPU's rounded operands.
///
/// A threshold is one number, whose sum may cancel to nearly nothing, so all of them are taken together.
/// Lengths are compared with the length of the gradient; where it is 0 in exact arithmetic (biases in front of a batch norm), with 1e-3
/// of the largest gradient an element.
#[test]
fn gradients_are_those_of_bf16_operands() {
    for small in small_networks::all() {
        let (network, batch) = (small.network(), small.data());
        for gradient in [WeightGradient::Rate, WeightGradient::Unrolled] {
            let exact = gradients(&mut network.clone(), &batch, gradient);
            let mut rounding = network.clone();
            rounding.bf16_products = true;
            let rounded = gradients(&mut rounding, &batch, gradient);
            let got = gradients(&mut on_gpu(&network, SumsChoice::Cheapest), &batch, gradient);
            let largest = exact.iter().flat_map(|(_, g)| g).fold(0.0f32, |m, g| m.max(g.abs()));
            let (mut worst, mut of_rounding) = ((0.0, ""), 0.0f64);
            for (((name, got), (_, rounded)), (_, exact)) in got.iter().zip(&rounded).zip(&exact) {
                assert_eq!(got.len(), exact.len(), "{name}");
                let floor = f64::from(largest) * 1e-3 * (exact.len() as f64).sqrt();
                let scale = length(exact.iter().map(|v| f64::from(*v))) + floor;
                let off = |a: &[f32], b: &[f32]| length(a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b))) / scale;
                let (share, error, allowed) = (off(got, rounded), off(got, exact), off(rounded, exact));
                if share > worst.0 {
                    worst = (share, name);
                }
                of_rounding = of_rounding.max(allowed);
                assert!(share < 2e-3, "{}, {gradient:?}: gradient of {name} is off by {share:.2e} of its length", small.name);
                assert!(error <= 2.0 * allowed + 1e-4, "{}, {gradient:?}: {name}: error {error:.2e}, of bf16 {allowed:.2e}", small.name);
            }
            println!("{}, {gradient:?}: off by {:.1e} ({}), bf16 by {of_rounding:.1e}", small.name, worst.0, worst.1);
        }
    }
}

fn train(small: &Small, network: &mut Network, rule: Rule, steps: u64) -> Vec<f64> {
    let batch = small.data();
    let mut optimizer = Optimizer::new(rule, 5e-4, network.len());
    let labels: Vec<u32> = (0..batch.size).map(|b| (b % network.classes) as u32).collect();
    let mut losses = Vec::new();
    for seed in 0..steps {
        let mode = Mode::Train { gradient: WeightGradient::Rate, seed };
        let step = network.train_step(&mut optimizer, 0.01, &batch.input(), &labels, mode).unwrap();
        assert_eq!(step.not_finite, None, "{}", small.name);
        losses.push(step.loss);
    }
    network.synchronize(&mut optimizer).unwrap();
    assert_eq!(optimizer.steps, steps);
    assert_eq!(network.stray_bytes().unwrap(), 0, "{}: a kernel left its buffer", small.name);
    assert!(optimizer.first.iter().any(|v| *v != 0.0), "{}: the optimiser's state came back", small.name);
    losses
}

/// Steps are recorded and replayed; what they leave behind is the same bits in every run, and on the CPU nearly the same.
#[test]
fn training_steps_follow_the_cpu() {
    let rules = [Rule::Sgd { momentum: 0.9, nesterov: true }, Rule::Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8 }];
    for (small, rule) in small_networks::all().iter().zip(rules.iter().cycle()) {
        let network = small.network();
        let (mut cpu, mut gpu, mut again) =
            (network.clone(), on_gpu(&network, SumsChoice::Cheapest), on_gpu(&network, SumsChoice::Cheapest));
        let (expected, got) = (train(small, &mut cpu, *rule, 3), train(small, &mut gpu, *rule, 3));
        assert!((got[0] - expected[0]).abs() < 1e-9 * expected[0], "{}: first loss {} and {}", small.name, got[0], expected[0]);
        println!("{}: losses {got:?}, on the CPU {expected:?}", small.name);
        assert_eq!(train(small, &mut again, *rule, 3), got, "{}: losses of two runs", small.name);
        let bits = |n: &Network| n.values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&again), bits(&gpu), "{}: parameters of two runs", small.name);
        for (a, b) in gpu.norms.iter().zip(&cpu.norms) {
            assert_eq!(a.batches, b.batches, "{}: batches of {}", small.name, a.name);
        }
    }
}

/// Ten steps side by side, the CPU with bf16 operands, too: the spikes of the first are equal, the losses stay within 1e-3.
#[test]
fn ten_steps_stay_together() {
    for neuron in [small_networks::IF, small_networks::LIF] {
        let builder = preact_resnet([8, 8, 1], 10, &[8, 16], &[1, 1], 4, 0.0, if neuron == small_networks::IF { 1.0 } else { 0.3 });
        let mut cpu = builder.unwrap().finish(neuron, 4, 0.01, 11).unwrap();
        cpu.bf16_products = true;
        let mut gpu = on_gpu(&cpu, SumsChoice::Cheapest);
        let batch = Batch { data: seeded::values(21, 8 * 64, -1.0..1.0), size: 8, frames: 1 };
        let labels: Vec<u32> = (0..8).collect();
        assert_same("first step", &forward(&mut gpu.clone(), &batch, TRAIN), &forward(&mut cpu.clone(), &batch, TRAIN));
        let rule = Rule::Sgd { momentum: 0.9, nesterov: false };
        let (mut of_cpu, mut of_gpu) = (Optimizer::new(rule, 5e-4, cpu.len()), Optimizer::new(rule, 5e-4, cpu.len()));
        let first = cpu.clone();
        for seed in 0..10 {
            let mode = Mode::Train { gradient: WeightGradient::Rate, seed };
            let expected = cpu.train_step(&mut of_cpu, 0.002, &batch.input(), &labels, mode).unwrap();
            let got = gpu.train_step(&mut of_gpu, 0.002, &batch.input(), &labels, mode).unwrap();
            println!("{neuron:?}, step {seed}: loss {}, on the CPU {}", got.loss, expected.loss);
            assert!((got.loss - expected.loss).abs() <= 1e-3, "step {seed}: loss {}, on the CPU {}", got.loss, expected.loss);
            assert_eq!(got.correct, expected.correct, "step {seed}");
        }
        gpu.synchronize(&mut of_gpu).unwrap();
        let moved = |n: &Network| length(n.values.iter().zip(&first.values).map(|(a, b)| f64::from(*a) - f64::from(*b)));
        let apart = length(gpu.values.iter().zip(&cpu.values).map(|(a, b)| f64::from(*a) - f64::from(*b)));
        assert!(apart <= 0.01 * moved(&cpu), "parameters are {apart} apart and moved {}", moved(&cpu));
    }
}

/// A device may run the threads of a block in any order. Wrong barriers show as other bits, or as a fault of the stand-in.
#[test]
fn every_order_of_threads_gives_the_same_bits() {
    if device::is_real() {
        println!("skipped: only the stand-in can be told an order");
        return;
    }
    for small in small_networks::all().iter().filter(|s| ["preact", "vgg in 8 bits", "imagenet, bottleneck in 8 bits"].contains(&s.name)) {
        let (network, batch) = (small.network(), small.data());
        let run = |order: Order| {
            let mut on_gpu = on_gpu(&network, SumsChoice::Cheapest);
            emulator::set_order(order);
            let all = gradients(&mut on_gpu, &batch, WeightGradient::Unrolled);
            emulator::set_order(Order::Fifo);
            all.into_iter().map(|(name, values)| (name, values.iter().map(|v| v.to_bits()).collect())).collect::<Vec<(String, Vec<u32>)>>()
        };
        let expected = run(Order::Fifo);
        for order in [Order::Lifo, Order::Random(1), Order::Random(2)] {
            assert_same(&format!("{}, {order:?}", small.name), &run(order), &expected);
        }
    }
}
