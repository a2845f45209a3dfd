//! Measures a network on the test split: accuracy, loss, firing rates.

pub mod calibrate;
pub mod energy;
pub mod sketch;
pub mod synaptic;

use std::path::Path;
use std::sync::Arc;

use crate::data::{Batch, Dataset, Loader};
use crate::error::{Error, Result};
use crate::network::{Forward, Network, Samples};
use crate::ops::cross_entropy::cross_entropy;
use crate::ranks::Ranks;

/// Which of several classes with the same logit comes first. Logits are multiples of the spike value, so ties are common at few steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Ties {
    /// That of lower number, as in the reference.
    #[default]
    First,
    /// That with the larger mean current of its output neuron, of which the logit is a clamp in steps of a spike: what the neuron's
    /// potential still holds after the last step.
    Current,
}

/// Outputs of a network for the whole test split.
#[derive(Clone, Debug, Default)]
pub struct Evaluation {
    /// `[N][classes]`.
    pub logits: Vec<f32>,
    /// Mean currents of the output neurons, `[N][classes]`: they order classes with the same logit. Empty with [`Ties::First`].
    pub currents: Vec<f32>,
    /// Label of each sample.
    pub labels: Vec<u32>,
    /// Number of classes.
    pub classes: usize,
    /// Mean cross-entropy.
    pub loss: f64,
    /// Firing rate of each layer: spikes a neuron and time step.
    pub rates: Vec<f64>,
}

impl Evaluation {
    /// Place of the label among the classes of sample `index`: 0 if it is the prediction.
    pub fn rank(&self, index: usize) -> usize {
        let label = self.labels[index] as usize;
        (0..self.classes).filter(|&class| self.is_before(index, class, label)).count()
    }

    /// Class that comes first for sample `index`.
    pub fn prediction(&self, index: usize) -> usize {
        (1..self.classes).fold(0, |best, class| if self.is_before(index, class, best) { class } else { best })
    }

    /// The classes that come first for sample `index`, `k` of them or all that there are: the prediction, then the next.
    pub fn first(&self, index: usize, k: usize) -> Vec<usize> {
        let mut left: Vec<usize> = (0..self.classes).collect();
        let mut next = || {
            let first = (1..left.len()).fold(0, |best, at| if self.is_before(index, left[at], left[best]) { at } else { best });
            left.remove(first)
        };
        (0..k.min(self.classes)).map(|_| next()).collect()
    }

    /// Softmax of the logits of sample `index`, as the loss takes it: shares of the classes, which add up to 1.
    pub fn softmax(&self, index: usize) -> Vec<f64> {
        let logits = &self.logits[index * self.classes..][..self.classes];
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let powers: Vec<f64> = logits.iter().map(|&logit| f64::from(logit - largest).exp()).collect();
        let sum: f64 = powers.iter().sum();
        powers.into_iter().map(|power| power / sum).collect()
    }

    /// Refuses logits that are no finite numbers; `path` is the file of the network, and `sample` says which sample it is by its number.
    ///
    /// # Errors
    /// That of [`not_finite`].
    pub fn check_logits(&self, path: &Path, sample: impl FnOnce(usize) -> String) -> Result<()> {
        match self.logits.iter().position(|logit| !logit.is_finite()) {
            None => Ok(()),
            Some(at) => Err(not_finite(path, &sample(at / self.classes.max(1)))),
        }
    }

    /// How many samples have several classes with the largest logit.
    pub fn ties(&self) -> usize {
        let has_tie = |logits: &&[f32]| {
            let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            logits.iter().filter(|&&logit| logit == largest).count() > 1
        };
        self.logits.chunks_exact(self.classes.max(1)).filter(has_tie).count()
    }

    /// Whether sample `index` is rather of class `a` than of class `b`.
    fn is_before(&self, index: usize, a: usize, b: usize) -> bool {
        let (logits, currents) = (&self.logits[index * self.classes..], self.currents.get(index * self.classes..).unwrap_or(&[]));
        let current = |class: usize| currents.get(class).copied().unwrap_or(0.0);
        (logits[a], current(a)) > (logits[b], current(b)) || ((logits[a], current(a)) == (logits[b], current(b)) && a < b)
    }

    /// How many samples have their label among the first `k` predictions.
    pub fn correct(&self, k: usize) -> usize {
        (0..self.labels.len()).filter(|&index| self.rank(index) < k).count()
    }

    /// Fraction of samples whose prediction is right.
    pub fn accuracy(&self) -> f64 {
        self.correct(1) as f64 / self.labels.len().max(1) as f64
    }

    /// Samples and correct predictions of each class.
    pub fn per_class(&self) -> Vec<[usize; 2]> {
        let mut counts = vec![[0; 2]; self.classes];
        for (index, &label) in self.labels.iter().enumerate() {
            counts[label as usize][0] += 1;
            counts[label as usize][1] += usize::from(self.rank(index) == 0);
        }
        counts
    }

    /// How many samples of each class (rows) were taken for each class (columns).
    pub fn confusion(&self) -> Vec<Vec<usize>> {
        let mut matrix = vec![vec![0; self.classes]; self.classes];
        for (index, &label) in self.labels.iter().enumerate() {
            matrix[label as usize][self.prediction(index)] += 1;
        }
        matrix
    }

    /// Firing rate over all neurons of `network`: spikes a neuron and time step.
    pub fn firing_rate(&self, network: &Network) -> f64 {
        let neurons = |layer: &crate::network::SpikingLayer| layer.neurons() as f64;
        let total: f64 = network.firing_layers().map(neurons).sum();
        network.firing_layers().zip(&self.rates).map(|(layer, rate)| neurons(layer) * rate).sum::<f64>() / total
    }
}

/// What is said of a network in a file whose parameters, all of them numbers, add up to none for a sample: what it predicts is no result.
pub fn not_finite(path: &Path, sample: &str) -> Error {
    Error::file(path, format!("gives {sample} a logit that is no finite number: its parameters are damaged, use another checkpoint"))
}

/// Interval that holds the true rate in 95 of 100 cases (Wilson, 1927), given `hits` of `n`.
pub fn wilson_interval(hits: usize, n: usize) -> [f64; 2] {
    const Z: f64 = 1.959_963_984_540_054; // 97.5 % quantile of the normal distribution
    if n == 0 {
        return [0.0, 1.0];
    }
    let (n, rate) = (n as f64, hits as f64 / n as f64);
    let center = rate + Z * Z / (2.0 * n);
    let half = Z * (rate * (1.0 - rate) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z * Z / n;
    [((center - half) / scale).max(0.0), ((center + half) / scale).min(1.0)]
}

/// What a batch has given, and its number.
#[derive(Debug)]
struct Part {
    number: usize,
    /// Sum of the losses.
    loss: f64,
    /// Firing rate of each layer.
    rates: Vec<f32>,
    /// `[B][classes]`.
    logits: Vec<f32>,
    /// As [`Evaluation::currents`].
    currents: Vec<f32>,
}

/// Runs the test split through `network` in batches of `batch`, which changes no logit; loss and
/// firing rate are added up batch by batch, so their last digit may. `ties` says what decides between equal logits. Ranks that share
/// the training of `network` deal the batches out, and each gets what all have found.
///
/// `visit` sees the output of every batch of this rank, with the spikes of all layers where `keep_spikes`, and says whether to go on;
/// `None` if it said no, on any rank.
///
/// # Errors
/// [`crate::error::Error::ShapeMismatch`] if network and data set do not fit; that of a sample that cannot be read;
/// [`crate::error::Error::Ranks`] if another rank is missing.
pub fn evaluate(
    network: &mut Network,
    dataset: &Arc<Dataset>,
    batch: usize,
    ties: Ties,
    keep_spikes: bool,
    visit: &mut dyn FnMut(&Network, &Forward, &Batch) -> bool,
) -> Result<Option<Evaluation>> {
    let classes = network.classes;
    let ranks = network.share.ranks().clone();
    let mut found = Vec::new();
    let mut is_stopped = false;
    let mut unused = Vec::new();
    let mut parts = Loader::test_dealt(network.form_of(dataset)?, Arc::clone(dataset), batch, [ranks.rank(), ranks.size()]);
    let mut next = parts.next();
    let mut staged = None;
    while let Some(part) = next {
        let samples = part.labels.len();
        network.begin_evaluation(&staged.map_or_else(|| Samples::of(&part), Samples::Staged), |_| keep_spikes)?;
        next = parts.next(); // while a device computes
        staged = match &next {
            Some(next) => network.stage(&Samples::of(next), &[])?,
            None => None,
        };
        let forward = network.finish_evaluation()?;
        unused.resize(forward.logits.len(), 0.0);
        let loss = cross_entropy(&forward.logits, &part.labels, classes, &mut unused) * samples as f64;
        let currents = if ties == Ties::Current { network.output_currents(samples)? } else { Vec::new() };
        is_stopped = !visit(network, &forward, &part);
        let number = ranks.rank() + found.len() * ranks.size();
        found.push(Part { number, loss, rates: forward.rates, logits: forward.logits, currents });
        if is_stopped {
            break;
        }
    }
    parts.outcome()?;
    if ranks.any("whether to go on with the evaluation", is_stopped)? {
        return Ok(None);
    }
    let labels = dataset.test.labels.clone();
    let mut result = Evaluation { classes, rates: vec![0.0; network.layers.len()], labels, ..Evaluation::default() };
    for part in of_all(&ranks, found)? {
        let samples = (part.logits.len() / classes) as f64;
        result.loss += part.loss;
        result.rates.iter_mut().zip(&part.rates).for_each(|(total, &rate)| *total += f64::from(rate) * samples);
        result.logits.extend(part.logits);
        result.currents.extend(part.currents);
    }
    let n = result.labels.len().max(1) as f64;
    result.loss /= n;
    result.rates.iter_mut().for_each(|rate| *rate /= n);
    Ok(Some(result))
}

/// The parts of all ranks, in the order of their batches.
fn of_all(ranks: &Ranks, found: Vec<Part>) -> Result<Vec<Part>> {
    if ranks.is_alone() {
        return Ok(found);
    }
    // Number of the batch and of values of each kind, then the values, all of them eight bytes.
    let mut words: Vec<u64> = Vec::new();
    for Part { number, loss, rates, logits, currents } in found {
        words.extend([number as u64, rates.len() as u64, logits.len() as u64, currents.len() as u64, loss.to_bits()]);
        words.extend([rates, logits, currents].iter().flatten().map(|value| u64::from(value.to_bits())));
    }
    let mut all = Vec::new();
    for theirs in ranks.gather("evaluation", bytemuck::cast_slice(&words).to_vec())? {
        let mut words = theirs.chunks_exact(8).map(bytemuck::pod_read_unaligned::<u64>);
        while let Some(number) = words.next() {
            let mut word = || words.next().unwrap_or_default() as usize;
            let [rates, logits, currents] = [word(), word(), word()];
            let loss = f64::from_bits(words.next().unwrap_or_default());
            let mut values = |len: usize| words.by_ref().take(len).map(|word| f32::from_bits(word as u32)).collect();
            all.push(Part { number: number as usize, loss, rates: values(rates), logits: values(logits), currents: values(currents) });
        }
    }
    all.sort_by_key(|part| part.number);
    Ok(all)
}
