//! Whole networks: the forward pass bit for bit, gradients within what the order of sums and bf16 operands allow, and training steps.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::inputs::{IF, LIF, floats};
use super::{Check, Outcome, Size};
use crate::bench::settle_batch_norm;
use crate::device::{Device, Gpu};
use crate::error::Result;
use crate::network::{Builder, Forward, Input, Mode, Network, Step, SumsChoice, WeightGradient, imagenet_resnet, preact_resnet, vgg};
use crate::ops::cross_entropy::cross_entropy;
use crate::ops::neuron::Neuron;
use crate::ops::optimizer::{Optimizer, Rule};

const TOLERANCE: &str = "5% of the length";
/// Part of the length of a gradient that it may be off by. Both sides round the operands of products to bf16, but add in another order,
/// and that carries a few operands across a boundary: each by 2^-8 of itself, and each moves all layers below. Deep networks come to the
/// noise of bf16 itself, about 1 %, and small ones in unlucky draws; a wrong term costs tens of per cent. The checks of single ops are far
/// stricter.
const OF_LENGTH: f64 = 0.05;
/// Gradients that are zero but for rounding, as of biases in front of a batch norm, are held against this part of the largest one.
const OF_LARGEST: f64 = 1e-3;
/// The same for gradients of an ANN, whose operands are rounded in the forward pass, too: an operand that goes across a boundary may
/// carry currents across 0, and of a layer of a thousand neurons each of these is 3 % of the gradient's length.
const ANN_TOLERANCE: &str = "20% of the length";
const ANN_OF_LENGTH: f64 = 0.2;
const RULE: Rule = Rule::Sgd { momentum: 0.9, nesterov: false };
const DECAY: f32 = 5e-4;
const LR: f32 = 0.01;

/// A network and the batch that it reads.
#[derive(Clone, Copy)]
pub struct Case {
    name: &'static str,
    build: fn(f32) -> Result<Builder>,
    neuron: Neuron,
    time_steps: usize,
    batch: usize,
    bits: u8,
    /// Whether the input has a frame for every step.
    has_frames: bool,
}

pub fn cases(size: Size) -> Vec<Case> {
    let case = |name, build, neuron, [time_steps, batch]: [usize; 2], bits| Case {
        name,
        build,
        neuron,
        time_steps,
        batch,
        bits,
        has_frames: false,
    };
    let mut cases = vec![
        case("resnet of one channel", |v| preact_resnet([5, 5, 1], 2, &[1, 2], &[1, 1], 3, 0.0, v), IF, [1, 7], 16),
        case("resnet 8, 33, dropout", |v| preact_resnet([9, 7, 3], 10, &[8, 33], &[1, 1], 4, 0.25, v), LIF, [33, 1], 16),
        Case { has_frames: true, ..case("vgg 4 to 33", small_vgg, IF, [5, 2], 8) },
        case("resnet 8, 33, by current", |v| preact_resnet([9, 7, 3], 10, &[8, 33], &[1, 1], 4, 0.0, v)?.read_current(), LIF, [5, 3], 16),
        case("imagenet, 3 to 24", |v| imagenet_resnet([33, 33, 3], 10, 3, &[1, 1, 1, 1], false, v), LIF, [5, 2], 16),
    ];
    if size == Size::Full {
        let resnet18 = |v| preact_resnet([32, 32, 3], 10, &[64, 128, 256, 512], &[2, 2, 2, 2], 4, 0.0, v);
        cases.push(case("preact-resnet18", resnet18, IF, [5, 8], 16));
        cases.push(case("imagenet-resnet18", |v| imagenet_resnet([64, 64, 3], 100, 64, &[2, 2, 2, 2], false, v), LIF, [5, 4], 8));
    }
    cases
}

fn small_vgg(threshold: f32) -> Result<Builder> {
    vgg([32, 32, 2], 10, &[&[4], &[5], &[6, 7], &[8], &[33]], 0.1, threshold)
}

/// What a step reads.
#[derive(Clone)]
pub struct Batch {
    data: Vec<f32>,
    size: usize,
    frames: usize,
    labels: Vec<u32>,
}

impl Batch {
    pub fn input(&self) -> Input<'_> {
        Input { data: &self.data, batch: self.size, frames: self.frames }
    }
}

impl Case {
    pub fn shape(&self) -> String {
        let Case { name, time_steps, batch, bits, neuron, .. } = self;
        format!("{name}, T{time_steps} B{batch}, {bits} bits, {}", neuron.name())
    }

    /// On the CPU. Its running statistics are those of the batch, so that evaluation fires about as often as training.
    fn network(&self, rng: &mut ChaCha8Rng) -> Result<(Network, Batch)> {
        let threshold = if matches!(self.neuron, Neuron::If { .. }) { 1.0 } else { 0.3 };
        let mut network = (self.build)(threshold)?.finish(self.neuron, self.time_steps, 0.0005, rng.random())?;
        network.weight_bits = self.bits;
        for index in 0..network.norms.len() {
            let (gamma, beta) = (network.norms[index].weight, network.norms[index].bias);
            let channels = network.value(gamma).len();
            network.set_parameter(gamma, &floats(rng, channels, 0.7..1.3));
            network.set_parameter(beta, &floats(rng, channels, -0.2..0.4));
        }
        network.prepare();
        let frames = if self.has_frames { self.time_steps } else { 1 };
        let values = self.batch * frames * network.input.iter().product::<usize>();
        let labels = (0..self.batch).map(|_| rng.random_range(0..network.classes as u32)).collect();
        let batch = Batch { data: floats(rng, values, -1.0..2.0), size: self.batch, frames, labels };
        settle_batch_norm(&mut network, &batch.input())?;
        Ok((network, batch))
    }
}

/// The network and batch of a case, kept from one check to the next: to make them takes longer than most checks.
#[derive(Clone)]
pub struct Shared {
    case: Case,
    made: Rc<RefCell<Option<Made>>>,
}

struct Made {
    /// Before and after.
    rng: [ChaCha8Rng; 2],
    network: Network,
    batch: Batch,
}

impl Shared {
    pub fn of(case: Case) -> Self {
        Shared { case, made: Rc::default() }
    }

    pub fn network(&self, rng: &mut ChaCha8Rng) -> Result<(Network, Batch)> {
        let mut made = self.made.borrow_mut();
        if let Some(Made { rng: [_, after], network, batch }) = made.as_ref().filter(|made| made.rng[0] == *rng) {
            *rng = after.clone();
            return Ok((network.clone(), batch.clone()));
        }
        let before = rng.clone();
        let (network, batch) = self.case.network(rng)?;
        *made = Some(Made { rng: [before, rng.clone()], network: network.clone(), batch: batch.clone() });
        Ok((network, batch))
    }
}

pub fn checks(gpu: &Arc<Gpu>, size: Size) -> Vec<Check> {
    let mut checks = Vec::new();
    for case in cases(size) {
        let (shape, shared) = (case.shape(), Shared::of(case));
        let forwards = [
            ("evaluation", Mode::Eval, SumsChoice::Cheapest),
            ("training, sums stored", train(WeightGradient::Rate), SumsChoice::Store),
            ("training, sums computed twice", train(WeightGradient::Rate), SumsChoice::Recompute),
        ];
        for (op, mode, sums) in forwards {
            let (gpu, shared) = (gpu.clone(), shared.clone());
            checks.push(Check::bits(op, &shape, move |rng, outcome| check_forward(&gpu, shared.network(rng)?, outcome, mode, sums)));
        }
        if gpu.can_launch_early() {
            let (gpu, shared) = (gpu.clone(), shared.clone());
            let op = if gpu.launches_early() { "evaluation, launches in turn" } else { "evaluation, early launches" };
            checks.push(Check::bits(op, &shape, move |rng, outcome| check_early(&gpu, shared.network(rng)?, outcome)));
        }
        for (op, gradient) in [("gradients, rate", WeightGradient::Rate), ("gradients, unrolled", WeightGradient::Unrolled)] {
            let (gpu, shared) = (gpu.clone(), shared.clone());
            checks.push(Check::within(TOLERANCE, op, &shape, move |rng, outcome| {
                check_gradients(&gpu, shared.network(rng)?, outcome, gradient, OF_LENGTH)
            }));
        }
        let (of_step, of_replay, again) = (gpu.clone(), gpu.clone(), shared.clone());
        checks.push(Check::within(TOLERANCE, "training step", &shape, move |rng, outcome| {
            check_step(&of_step, shared.network(rng)?, outcome)
        }));
        checks.push(Check::bits("repeated training", &shape, move |rng, outcome| check_repeated(&of_replay, again.network(rng)?, outcome)));
    }
    checks
}

/// The same as ANNs, but for the network of one channel, where a single value is the length of everything.
fn ann_cases(size: Size) -> Vec<Case> {
    let as_ann = |case: Case| Case { neuron: Neuron::Relu, time_steps: 1, batch: case.batch.max(4), has_frames: false, ..case };
    cases(size).into_iter().skip(1).map(as_ann).collect()
}

/// Networks as ANNs.
pub fn ann_checks(gpu: &Arc<Gpu>, size: Size) -> Vec<Check> {
    let mut checks = Vec::new();
    for case in ann_cases(size) {
        let (shape, shared) = (format!("{}, B{}, relu", case.name, case.batch), Shared::of(case));
        for (op, mode) in [("evaluation", Mode::Eval), ("training", train(WeightGradient::Rate))] {
            let (gpu, shared) = (gpu.clone(), shared.clone());
            checks.push(Check::within(TOLERANCE, op, &shape, move |rng, outcome| check_outputs(&gpu, shared.network(rng)?, outcome, mode)));
        }
        let (of_gradients, of_replay, again) = (gpu.clone(), gpu.clone(), shared.clone());
        checks.push(Check::within(ANN_TOLERANCE, "gradients", &shape, move |rng, outcome| {
            check_gradients(&of_gradients, shared.network(rng)?, outcome, WeightGradient::Rate, ANN_OF_LENGTH)
        }));
        checks.push(Check::bits("repeated training", &shape, move |rng, outcome| check_repeated(&of_replay, again.network(rng)?, outcome)));
    }
    checks
}

/// Logits and running statistics of an ANN.
fn check_outputs(gpu: &Arc<Gpu>, (mut network, batch): (Network, Batch), outcome: &mut Outcome, mode: Mode) -> Result<()> {
    let mut on_gpu = on_gpu(gpu, &network, SumsChoice::Cheapest)?;
    network.bf16_products = true;
    let [got, expected] = [&mut on_gpu, &mut network].map(|network| network.forward(&batch.input(), mode, |_| false));
    outcome.length("logits [B][classes]", &got?.logits, &expected?.logits, 0.0, OF_LENGTH);
    for (got, expected) in on_gpu.norms.iter().zip(&network.norms) {
        outcome.length(&format!("running mean of {}", got.name), &got.running_mean, &expected.running_mean, 0.0, OF_LENGTH);
        outcome.length(&format!("running variance of {}", got.name), &got.running_var, &expected.running_var, 0.0, OF_LENGTH);
    }
    outcome.bits("bytes written between the buffers", &[on_gpu.stray_bytes()? as u64], &[0]);
    Ok(())
}

fn train(gradient: WeightGradient) -> Mode {
    Mode::Train { gradient, seed: 3 }
}

fn on_gpu(gpu: &Arc<Gpu>, network: &Network, sums: SumsChoice) -> Result<Network> {
    let mut network = network.clone();
    network.place(&Device::Cuda(gpu.clone()))?;
    network.choose_sums(sums);
    Ok(network)
}

/// Spikes of every layer, logits, firing rates and running statistics.
///
/// # Errors
/// What a device refuses.
pub fn compare_forward(outcome: &mut Outcome, got: (&Network, &Forward), expected: (&Network, &Forward)) -> Result<()> {
    let none = [];
    for (layer, (got, expected)) in got.0.layers.iter().zip(got.1.spikes.iter().zip(&expected.1.spikes)) {
        let bits = |spikes: &'_ Option<crate::spikes::Spikes>| spikes.as_ref().map_or(&none[..], |spikes| spikes.bits()).to_vec();
        outcome.bits(&format!("spikes of {} [B][P][T][words]", layer.name), &bits(got), &bits(expected));
    }
    outcome.bits("logits [B][classes]", &got.1.logits, &expected.1.logits);
    let currents = |(network, forward): (&Network, &Forward)| network.output_currents(forward.logits.len() / network.classes);
    outcome.bits("currents of the output neurons [B][classes]", &currents(got)?, &currents(expected)?);
    outcome.bits("firing rates", &got.1.rates, &expected.1.rates);
    compare_norms(outcome, got.0, expected.0);
    Ok(())
}

fn compare_norms(outcome: &mut Outcome, got: &Network, expected: &Network) {
    for (got, expected) in got.norms.iter().zip(&expected.norms) {
        outcome.bits(&format!("running mean of {}", got.name), &got.running_mean, &expected.running_mean);
        outcome.bits(&format!("running variance of {}", got.name), &got.running_var, &expected.running_var);
    }
}

fn check_forward(
    gpu: &Arc<Gpu>,
    (mut network, batch): (Network, Batch),
    outcome: &mut Outcome,
    mode: Mode,
    sums: SumsChoice,
) -> Result<()> {
    let mut on_gpu = on_gpu(gpu, &network, sums)?;
    let got = on_gpu.forward(&batch.input(), mode, |_| true)?;
    let expected = network.forward(&batch.input(), mode, |_| true)?;
    compare_forward(outcome, (&on_gpu, &got), (&network, &expected))
}

/// Evaluations whose kernels begin before the one before them has ended, or do not: whichever the device does not do by itself. What such a
/// kernel sees is a question of time, so it is asked often, as a graph and kernel by kernel.
fn check_early(gpu: &Arc<Gpu>, (mut network, batch): (Network, Batch), outcome: &mut Outcome) -> Result<()> {
    let mut on_gpu = on_gpu(&gpu.launching_early(!gpu.launches_early())?, &network, SumsChoice::Cheapest)?;
    let got = on_gpu.forward(&batch.input(), Mode::Eval, |_| true)?;
    let expected = network.forward(&batch.input(), Mode::Eval, |_| true)?;
    compare_forward(outcome, (&on_gpu, &got), (&network, &expected))?;
    for run in 0..20 {
        let logits = on_gpu.logits_on_device(&batch.input(), run % 2 == 0)?;
        outcome.bits("logits of another run [B][classes]", &logits, &expected.logits);
    }
    Ok(())
}

/// Gradients of all parameters and of the input, by name.
fn gradients(network: &mut Network, batch: &Batch, gradient: WeightGradient) -> Result<Vec<(String, Vec<f32>)>> {
    let forward = network.forward(&batch.input(), train(gradient), |_| false)?;
    let mut grad = vec![0.0; forward.logits.len()];
    cross_entropy(&forward.logits, &batch.labels, network.classes, &mut grad);
    network.grads.fill(0.0);
    let mut of_input = Vec::new();
    network.backward(&batch.input(), &grad, Some(&mut of_input))?;
    let mut all = by_parameter(network, &network.grads);
    all.push(("the input".into(), of_input));
    Ok(all)
}

/// The parts of an arena that belong to each parameter; all thresholds together, for the one sum that each of them is may cancel.
fn by_parameter(network: &Network, arena: &[f32]) -> Vec<(String, Vec<f32>)> {
    let thresholds: Vec<usize> = network.layers.iter().filter_map(|layer| layer.threshold).collect();
    let others = network.parameters.iter().enumerate().filter(|(index, _)| !thresholds.contains(index));
    let mut all: Vec<(String, Vec<f32>)> = others.map(|(_, p)| (p.name.clone(), arena[p.start..p.start + p.len].to_vec())).collect();
    all.push(("the thresholds".into(), thresholds.iter().map(|&index| arena[network.parameters[index].start]).collect()));
    all
}

fn compare_lengths(outcome: &mut Outcome, what: &str, got: &[(String, Vec<f32>)], expected: &[(String, Vec<f32>)], of_length: f64) {
    let largest = expected.iter().flat_map(|(_, g)| g).fold(0.0f32, |most, g| most.max(g.abs()));
    for ((name, got), (_, expected)) in got.iter().zip(expected) {
        let floor = OF_LARGEST * f64::from(largest) * (expected.len() as f64).sqrt();
        outcome.length(&format!("{what} of {name}"), got, expected, floor, of_length);
    }
}

fn check_gradients(
    gpu: &Arc<Gpu>,
    (mut network, batch): (Network, Batch),
    outcome: &mut Outcome,
    gradient: WeightGradient,
    of_length: f64,
) -> Result<()> {
    let got = gradients(&mut on_gpu(gpu, &network, SumsChoice::Cheapest)?, &batch, gradient)?;
    network.bf16_products = true;
    compare_lengths(outcome, "gradient", &got, &gradients(&mut network, &batch, gradient)?, of_length);
    Ok(())
}

/// Takes `steps` training steps and fetches what they left on the device.
pub fn take_steps(network: &mut Network, batch: &Batch, steps: u64) -> Result<(Vec<Step>, Optimizer)> {
    let mut optimizer = Optimizer::new(RULE, DECAY, network.len());
    let mut taken = Vec::new();
    for seed in 0..steps {
        let mode = Mode::Train { gradient: WeightGradient::Rate, seed };
        taken.push(network.train_step(&mut optimizer, LR, &batch.input(), &batch.labels, mode)?);
    }
    network.synchronize(&mut optimizer)?;
    Ok((taken, optimizer))
}

/// One recorded step: loss, update and running statistics.
fn check_step(gpu: &Arc<Gpu>, (mut network, batch): (Network, Batch), outcome: &mut Outcome) -> Result<()> {
    let mut on_gpu = on_gpu(gpu, &network, SumsChoice::Cheapest)?;
    let mut values = network.values.clone();
    network.bf16_products = true;
    let (got, updated) = take_steps(&mut on_gpu, &batch, 1)?;
    let (expected, by_cpu) = take_steps(&mut network, &batch, 1)?;
    for (got, expected) in got.iter().zip(&expected) {
        // Only exp, log and the order of a sample's sum differ.
        outcome.near("loss", &[got.loss], &[expected.loss], |_| 1e-12 * expected.loss.abs().max(1.0));
        outcome.bits("number of correct samples", &[got.correct], &[expected.correct]);
        outcome.bits("firing rates", &got.rates, &expected.rates);
    }
    compare_norms(outcome, &on_gpu, &network);
    compare_lengths(outcome, "velocity", &by_parameter(&network, &updated.first), &by_parameter(&network, &by_cpu.first), OF_LENGTH);
    // The update itself is exact.
    values.iter_mut().zip(&updated.first).for_each(|(value, velocity)| *value -= LR * velocity);
    network.values = values;
    network.prepare(); // the bound of thresholds
    outcome.bits("parameters", &on_gpu.values, &network.values);
    outcome.bits("bytes written between the buffers", &[on_gpu.stray_bytes()? as u64], &[0]);
    Ok(())
}

/// Three steps, once recorded and then replayed, have the same bits in every run and for both ways to the neurons.
fn check_repeated(gpu: &Arc<Gpu>, (network, batch): (Network, Batch), outcome: &mut Outcome) -> Result<()> {
    let mut first_run: Option<(Network, Vec<Step>, Optimizer)> = None;
    for (sums, run) in [(SumsChoice::Store, "first"), (SumsChoice::Store, "second"), (SumsChoice::Recompute, "third")] {
        let mut network = on_gpu(gpu, &network, sums)?;
        let (steps, optimizer) = take_steps(&mut network, &batch, 3)?;
        let Some((expected, expected_steps, expected_state)) = &first_run else {
            first_run = Some((network, steps, optimizer));
            continue;
        };
        let losses = |steps: &[Step]| steps.iter().map(|step| step.loss).collect::<Vec<f64>>();
        outcome.bits(&format!("losses of the {run} run"), &losses(&steps), &losses(expected_steps));
        outcome.bits(&format!("parameters after the {run} run"), &network.values, &expected.values);
        outcome.bits(&format!("velocities after the {run} run"), &optimizer.first, &expected_state.first);
        compare_norms(outcome, &network, expected);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    /// Outputs that are all 0 would show nothing.
    #[test]
    fn anns_are_active_in_every_layer() {
        for case in ann_cases(Size::Small) {
            let (mut network, batch) = case.network(&mut ChaCha8Rng::seed_from_u64(0)).unwrap();
            for mode in [Mode::Eval, train(WeightGradient::Rate)] {
                let rates = network.forward(&batch.input(), mode, |_| false).unwrap().rates;
                assert!(rates.iter().all(|rate| *rate > 0.02), "{}, {mode:?}: {rates:?}", case.name);
            }
        }
    }

    /// Silent neurons would show nothing.
    #[test]
    fn networks_fire_in_every_layer() {
        for case in cases(Size::Small) {
            let (mut network, batch) = case.network(&mut ChaCha8Rng::seed_from_u64(0)).unwrap();
            for mode in [Mode::Eval, train(WeightGradient::Rate)] {
                let mut rates = network.forward(&batch.input(), mode, |_| false).unwrap().rates;
                rates.truncate(network.firing_layers().count());
                println!("{}, {mode:?}: {rates:?}", case.shape());
                assert!(rates.iter().all(|rate| (0.02..0.9).contains(rate)), "{}, {mode:?}: {rates:?}", case.shape());
            }
        }
    }
}
