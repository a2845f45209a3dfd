//! What the neurons of a network do in an inference: firing rates by step, potentials, accuracy by T.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::subject::Subject;
use crate::data::{Batch, Dataset};
use crate::error::Result;
use crate::evaluation::{Ties, evaluate, wilson_interval};
use crate::network::{Forward, Input, Network};
use crate::spikes::Spikes;

/// Ends of the histogram, in units of the threshold; what lies outside counts in the first or last bin.
pub const RANGE: [f32; 2] = [-3.0, 3.0];
/// Bins of the histogram.
pub const BINS: usize = 60;
/// Samples whose potentials are computed again.
const SAMPLES: usize = 4;

/// Neurons of one layer.
#[derive(Clone, Debug, Serialize)]
pub struct LayerActivity {
    pub layer: String,
    /// Spikes a neuron, at each step, `[T]`.
    pub rates: Vec<f64>,
    /// Potentials before the reset, in units of the threshold, over neurons and steps: neurons in each bin.
    pub potentials: Vec<u64>,
}

/// Of all layers, in one inference.
#[derive(Clone, Debug, Serialize)]
pub struct Activity {
    /// Share of the threshold at which a neuron fires.
    pub alpha: f32,
    pub samples: usize,
    /// Samples that the potentials are of.
    pub potential_samples: usize,
    pub range: [f32; 2],
    pub layers: Vec<LayerActivity>,
}

/// Accuracy with one number of time steps.
#[derive(Clone, Debug, Serialize)]
pub struct Accuracy {
    pub time_steps: usize,
    pub top1: f64,
    /// 95 %, Wilson.
    pub interval: [f64; 2],
    pub firing_rate: f64,
}

/// Runs an inference of the batch at hand and looks at all neurons. The network of `subject` infers, on the CPU.
///
/// # Errors
/// What a device refuses.
pub fn activity(subject: &mut Subject) -> Result<Activity> {
    let forward = subject.forward_again()?;
    let (network, batch) = (&subject.network, subject.batch());
    let input = Input { data: &batch.data, batch: batch.labels.len(), frames: batch.frames };
    let mut layers: Vec<LayerActivity> = network
        .firing_layers()
        .zip(&forward.spikes)
        .map(|(layer, spikes)| LayerActivity {
            layer: layer.name.clone(),
            rates: spikes.as_ref().map_or_else(Vec::new, rates_by_step),
            potentials: vec![0; BINS],
        })
        .collect();
    let [low, high] = RANGE;
    network.potentials(&input, &forward.spikes, SAMPLES, |moment| {
        let bin = ((moment.potential - low) / (high - low) * BINS as f32).floor();
        layers[moment.layer].potentials[bin.clamp(0.0, (BINS - 1) as f32) as usize] += 1;
    })?;
    let samples = batch.labels.len();
    Ok(Activity { alpha: network.neuron.alpha(), samples, potential_samples: samples.min(SAMPLES), range: RANGE, layers })
}

/// Spikes a neuron at each step, `[T]`.
pub fn rates_by_step(spikes: &Spikes) -> Vec<f64> {
    let mut counts = vec![0u64; spikes.time_steps];
    for position in spikes.bits().chunks_exact(spikes.time_steps * spikes.words()) {
        for (count, words) in counts.iter_mut().zip(position.chunks_exact(spikes.words())) {
            *count += words.iter().map(|word| u64::from(word.count_ones())).sum::<u64>();
        }
    }
    let neurons = (spikes.batch * spikes.positions * spikes.channels) as f64;
    counts.iter().map(|&count| count as f64 / neurons).collect()
}

/// Accuracy on the test split with fewer and fewer time steps, down from those of the network, which is that of the file at `path`.
///
/// # Errors
/// What a device refuses; that of [`Evaluation::check_logits`](crate::evaluation::Evaluation::check_logits).
pub fn accuracy_by_steps(path: &Path, network: &mut Network, dataset: &Arc<Dataset>, batch: usize) -> Result<Vec<Accuracy>> {
    let most = network.time_steps;
    let mut steps: Vec<usize> = [1, 2, 3, 5, 8, 12, 20, 32, 50, 80, 128, 200].into_iter().filter(|&t| t < most).collect();
    steps.push(most);
    let mut results = Vec::new();
    for time_steps in steps {
        network.time_steps = time_steps;
        let go_on = &mut |_: &Network, _: &Forward, _: &Batch| true;
        let evaluation = evaluate(network, dataset, batch, Ties::First, false, go_on)?.unwrap_or_default();
        evaluation.check_logits(path, |index| format!("test sample {index}"))?;
        let (hits, n) = (evaluation.correct(1), evaluation.labels.len());
        results.push(Accuracy {
            time_steps,
            top1: evaluation.accuracy(),
            interval: wilson_interval(hits, n),
            firing_rate: evaluation.firing_rate(network),
        });
    }
    network.time_steps = most;
    Ok(results)
}
