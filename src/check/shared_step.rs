//! Training steps that several devices share against the same steps on each of them alone: the same bits.

use std::sync::Arc;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::collectives::PATIENCE;
use super::{Check, Outcome};
use crate::device::Device;
use crate::device::nccl::Communicator;
use crate::error::Result;
use crate::network::{Input, Mode, Network, WeightGradient, preact_resnet};
use crate::ops::neuron::Neuron;
use crate::ops::optimizer::{Optimizer, Rule};
use crate::ranks::{Nccl, Ranks, Share};

/// What steps leave: losses with the samples that were right, rates, parameters, running statistics.
struct Left {
    losses: Vec<u64>,
    rates: Vec<f32>,
    parameters: Vec<f32>,
    running: Vec<f32>,
}

/// A check for each kind of neuron, with both weight gradients.
pub fn checks(communicator: &Arc<Communicator>) -> Vec<Check> {
    let lif = Neuron::Lif { alpha: 0.3, tau: 1.0, delta_t: 0.05 };
    let cases = [
        ("IF, T4, dropout", Neuron::If { alpha: 0.5 }, 4, WeightGradient::Rate),
        ("LIF, T4, dropout, unrolled", lif, 4, WeightGradient::Unrolled),
        ("ANN, dropout", Neuron::Relu, 1, WeightGradient::Rate),
    ];
    let check = |(name, neuron, time_steps, gradient): (&str, Neuron, usize, WeightGradient)| {
        let communicator = communicator.clone();
        Check::bits("training step", format!("{name}: 3 steps together and alone"), move |rng, outcome| {
            compare(&communicator, rng, outcome, neuron, time_steps, gradient)
        })
    };
    cases.into_iter().map(check).collect()
}

fn compare(
    communicator: &Arc<Communicator>,
    rng: &mut ChaCha8Rng,
    outcome: &mut Outcome,
    neuron: Neuron,
    time_steps: usize,
    gradient: WeightGradient,
) -> Result<()> {
    let slices = communicator.size().next_power_of_two().max(8);
    let batch = 2 * slices;
    let data: Vec<f32> = (0..batch * 64).map(|_| rng.random_range(-1.0..1.0)).collect();
    let labels: Vec<u32> = (0..batch).map(|_| rng.random_range(0..10)).collect();
    let builder = preact_resnet([8, 8, 1], 10, &[8, 16], &[1, 1], 4, 0.1, 1.0)?;
    let network = builder.finish(neuron, time_steps, 0.01, rng.random_range(0..1000))?;
    let take = |of: Ranks| -> Result<Left> {
        let mut network: Network = network.clone();
        network.share = Share::new(of, batch, slices)?;
        network.place(&Device::Cuda(communicator.gpu().clone()))?;
        let mut optimizer = Optimizer::new(Rule::Sgd { momentum: 0.9, nesterov: false }, 5e-4, network.len());
        let mut left = Left { losses: Vec::new(), rates: Vec::new(), parameters: Vec::new(), running: Vec::new() };
        // The last batch is short, so that some devices have no samples.
        for (seed, total) in [batch, batch, batch / 2 - 1].into_iter().enumerate() {
            network.share.begin_batch(total);
            let places = network.share.places();
            let own = places.start.min(total)..places.end.min(total);
            let input = Input { data: &data[own.start * 64..own.end * 64], batch: own.len(), frames: 1 };
            let mode = Mode::Train { gradient, seed: seed as u64 };
            let step = network.train_step(&mut optimizer, 0.01, &input, &labels[own], mode)?;
            left.losses.extend([step.loss.to_bits(), step.correct]);
            left.rates.extend(step.rates);
        }
        network.synchronize(&mut optimizer)?;
        (left.running, left.parameters) = (network.running(), network.values);
        Ok(left)
    };
    let (alone, together) = (take(Ranks::Alone)?, take(Nccl::of(communicator.clone(), PATIENCE)?)?);
    outcome.bits("losses and right samples", &together.losses, &alone.losses);
    outcome.bits("firing rates", &together.rates, &alone.rates);
    outcome.bits("parameters", &together.parameters, &alone.parameters);
    outcome.bits("running statistics", &together.running, &alone.running);
    Ok(())
}
