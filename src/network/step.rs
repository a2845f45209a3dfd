//! One training step: forward, loss, backward, update, and the weights of the next forward.

use super::{Forward, Input, Mode, Network};
use crate::error::Result;
use crate::ops::cross_entropy::{cross_entropy, first_largest};
use crate::optimizer::Optimizer;

/// What one training step gave.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// Mean loss over the batch.
    pub loss: f64,
    /// Samples whose largest logit is that of their class.
    pub correct: u64,
    /// Mean firing rate of each layer, spikes a neuron and step.
    pub rates: Vec<f32>,
    /// First place with a value that is no number: a parameter or `the logits`. Then nothing was updated.
    pub not_finite: Option<String>,
}

impl Network {
    /// Takes one training step on a batch; `labels` are `[B]`, `mode` is a training mode.
    ///
    /// # Errors
    /// [`crate::error::Error::ShapeMismatch`] if the input does not fit the network.
    pub fn train_step(&mut self, optimizer: &mut Optimizer, lr: f32, input: &Input, labels: &[u32], mode: Mode) -> Result<Step> {
        if self.session.is_some() {
            return self.train_step_on_device(optimizer, lr, input, labels, mode);
        }
        let (loss, forward) = self.gradients(input, labels, mode)?;
        let right = |(logits, &label): (&[f32], &u32)| first_largest(logits) == label as usize;
        let correct = forward.logits.chunks_exact(self.classes).zip(labels).filter(|&pair| right(pair)).count() as u64;
        let not_finite = self.first_not_finite().or_else(|| (!loss.is_finite()).then(|| "the logits".into()));
        if not_finite.is_none() {
            optimizer.step(lr, &mut self.values, &self.grads);
            self.prepare();
        }
        Ok(Step { loss, correct, rates: forward.rates, not_finite })
    }

    /// Forward in training `mode`, cross-entropy, backward: leaves the gradients of the mean loss in [`Network::grads`] and returns
    /// that loss.
    ///
    /// # Errors
    /// [`crate::error::Error::ShapeMismatch`] if the input does not fit the network.
    pub fn gradients(&mut self, input: &Input, labels: &[u32], mode: Mode) -> Result<(f64, Forward)> {
        let forward = self.forward(input, mode, |_| false)?;
        let mut grad_logits = vec![0.0; forward.logits.len()];
        let loss = cross_entropy(&forward.logits, labels, self.classes, &mut grad_logits);
        self.grads.fill(0.0);
        self.backward(input, &grad_logits, None)?;
        Ok((loss, forward))
    }

    /// Mean firing rate over all neurons, from that of each layer.
    pub fn mean_rate(&self, rates: &[f32]) -> f32 {
        let neurons: usize = self.layers.iter().map(super::SpikingLayer::neurons).sum();
        let spikes: f64 = self.layers.iter().zip(rates).map(|(l, &r)| l.neurons() as f64 * f64::from(r)).sum();
        (spikes / neurons as f64) as f32
    }
}
