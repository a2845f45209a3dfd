//! When a network has decided: the prediction after each time step, from one run over all T.
//!
//! Neither the weights nor batch norm in evaluation nor the neurons know T, so the first t steps of a run are a run with T = t, bit
//! for bit; only the shares of the steps in the representation are those of t steps. (The engine computes all T steps of a layer
//! before it begins the next, so an early decision saves no time in a run that has begun: choose T.)

use crate::error::{Error, Result};
use crate::network::{Input, Mode, Network, Readout};
use crate::ops::cross_entropy::first_largest;
use crate::ops::rate::readout;

/// Predictions of some samples after each step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decisions {
    /// T.
    pub time_steps: usize,
    /// `[N][T]`: the class with the largest logit after step 1, 2, …; the first of equals, so 0 before any spike.
    pub predictions: Vec<u32>,
    /// `[N]`: the step, from 1 on, of the first spike in the last layer; `None` for a sample without, and with a readout by current.
    pub first_spikes: Vec<Option<usize>>,
    /// Classes `[N]`; empty for random images.
    pub labels: Vec<u32>,
    /// The first sample with a logit that is no finite number, whose predictions are none.
    pub not_finite: Option<usize>,
}

/// What is known after `t` steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AfterStep {
    /// Steps so far, 1..=T.
    pub t: usize,
    /// Right predictions; `None` without labels.
    pub correct: Option<usize>,
    /// Samples whose prediction is the one after T steps.
    pub agreeing: usize,
    /// Samples whose prediction does not change any more.
    pub decided: usize,
    /// Samples without a spike in the last layer so far.
    pub silent: usize,
}

impl Decisions {
    /// For runs of `time_steps`; no sample yet.
    pub fn new(time_steps: usize) -> Self {
        Decisions { time_steps, ..Decisions::default() }
    }

    /// Runs a batch once and adds its predictions; `labels` are `[B]` or empty.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] if the network has another T or the input does not fit; [`Error::Device`] if a device fails.
    pub fn add(&mut self, network: &mut Network, input: &Input, labels: &[u32]) -> Result<()> {
        if network.time_steps != self.time_steps {
            return Err(Error::shape("decisions: time steps", self.time_steps, network.time_steps));
        }
        let last = network.layers.len() - 1;
        let start = self.first_spikes.len();
        self.first_spikes.resize(start + input.batch, None);
        self.predictions.resize((start + input.batch) * self.time_steps, 0);
        self.labels.extend_from_slice(labels);
        if network.readout() == Readout::Current {
            let forward = network.forward(input, Mode::Eval, |layer| layer + 1 == last)?;
            let logits = network.currents_by_step(input, &forward)?;
            let bad = logits.iter().position(|logit| !logit.is_finite());
            self.not_finite = self.not_finite.or(bad.map(|at| start + at / (self.time_steps * network.classes)));
            let of_samples = &mut self.predictions[start * self.time_steps..];
            of_samples.iter_mut().zip(logits.chunks_exact(network.classes)).for_each(|(p, logits)| *p = first_largest(logits) as u32);
            return Ok(());
        }
        let mut forward = network.forward(input, Mode::Eval, |layer| layer == last)?;
        let spikes = forward.spikes[last].take().ok_or_else(|| Error::shape("decisions", "spikes of the last layer", "none"))?;
        let (threshold, neuron) = (network.threshold(&network.layers[last]), network.neuron);
        for t in 1..=self.time_steps {
            let prefix = spikes.first_steps(t);
            let logits = readout(neuron, threshold, &neuron.step_weights(t), &prefix);
            let bad = logits.iter().position(|logit| !logit.is_finite());
            self.not_finite = self.not_finite.or(bad.map(|at| start + at / network.classes));
            for (b, logits) in logits.chunks_exact(network.classes).enumerate() {
                self.predictions[(start + b) * self.time_steps + t - 1] = first_largest(logits) as u32;
                let fired = (0..spikes.positions).any(|p| prefix.position(b, p)[(t - 1) * prefix.words()..].iter().any(|word| *word != 0));
                if fired && self.first_spikes[start + b].is_none() {
                    self.first_spikes[start + b] = Some(t);
                }
            }
        }
        Ok(())
    }

    /// Samples so far.
    pub fn len(&self) -> usize {
        self.first_spikes.len()
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.first_spikes.is_empty()
    }

    /// First step, from 1 on, after which the prediction of a sample never changes again.
    pub fn decision(&self, sample: usize) -> usize {
        let predictions = &self.predictions[sample * self.time_steps..][..self.time_steps];
        let last = predictions[self.time_steps - 1];
        predictions.iter().rposition(|p| *p != last).map_or(1, |changed| changed + 2)
    }

    /// Mean step of the decision; not a number without samples.
    pub fn mean_decision(&self) -> f64 {
        (0..self.len()).map(|sample| self.decision(sample) as f64).sum::<f64>() / self.len() as f64
    }

    /// Mean step of the first spike in the last layer, over the samples that have one.
    pub fn mean_first_spike(&self) -> Option<f64> {
        let steps: Vec<usize> = self.first_spikes.iter().flatten().copied().collect();
        (!steps.is_empty()).then(|| steps.iter().sum::<usize>() as f64 / steps.len() as f64)
    }

    /// What is known after each step, `[T]`.
    pub fn curve(&self) -> Vec<AfterStep> {
        let prediction = |sample: usize, t: usize| self.predictions[sample * self.time_steps + t - 1];
        let count = |holds: &dyn Fn(usize) -> bool| (0..self.len()).filter(|&sample| holds(sample)).count();
        let after = |t: usize| AfterStep {
            t,
            correct: (!self.labels.is_empty()).then(|| count(&|sample| prediction(sample, t) == self.labels[sample])),
            agreeing: count(&|sample| prediction(sample, t) == prediction(sample, self.time_steps)),
            decided: count(&|sample| self.decision(sample) <= t),
            silent: count(&|sample| self.first_spikes[sample].is_none_or(|first| first > t)),
        };
        (1..=self.time_steps).map(after).collect()
    }
}
