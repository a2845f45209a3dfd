//! One training step: forward, loss, backward, update, and the weights of the next forward.

use super::{Forward, Input, Mode, Network};
use crate::clock::{self, Name, Op, Phase};
use crate::data::Draw;
use crate::error::{Error, Result};
use crate::ops::cross_entropy::{cross_entropy, first_largest};
use crate::ops::optimizer::Optimizer;

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

/// The samples of a training step.
#[derive(Clone, Copy, Debug)]
pub enum Samples<'a> {
    /// Real values.
    Real(Input<'a>),
    /// Images that [`Network::hold_images`] has brought to the device, by index, and how each is cropped and mirrored.
    Images(&'a [(u32, Draw)]),
}

impl Samples<'_> {
    /// Number of samples and of frames of each.
    pub(super) fn shape(&self) -> [usize; 2] {
        match self {
            Samples::Real(input) => [input.batch, input.frames],
            Samples::Images(draws) => [draws.len(), 1],
        }
    }
}

impl Network {
    /// Takes one training step on a batch; `labels` are `[B]`, `mode` is a training mode.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] if the input does not fit the network, [`Error::Device`] if the device fails.
    pub fn train_step(&mut self, optimizer: &mut Optimizer, lr: f32, input: &Input, labels: &[u32], mode: Mode) -> Result<Step> {
        self.begin_step(optimizer, lr, &Samples::Real(*input), labels, mode)?;
        self.finish_step(optimizer)
    }

    /// Begins a step that [`Network::finish_step`] ends. A device computes in between, and the host can prepare and
    /// [`Network::stage`] the next batch; the CPU takes the whole step here.
    ///
    /// # Errors
    /// As [`Network::train_step`].
    pub fn begin_step(&mut self, optimizer: &mut Optimizer, lr: f32, samples: &Samples, labels: &[u32], mode: Mode) -> Result<()> {
        if self.session.is_some() {
            return self.begin_step_on_device(optimizer, lr, samples, labels, mode);
        }
        let Samples::Real(input) = samples else {
            return Err(Error::shape("train_step on the CPU", "real values", "images on a device"));
        };
        let (loss, forward) = self.gradients(input, labels, mode)?;
        let right = |(logits, &label): (&[f32], &u32)| first_largest(logits) == label as usize;
        let correct = forward.logits.chunks_exact(self.classes).zip(labels).filter(|&pair| right(pair)).count() as u64;
        let _phase = clock::span(Name::Phase(Phase::Optimizer));
        let not_finite =
            clock::op(Op::FiniteCheck, || self.first_not_finite()).or_else(|| (!loss.is_finite()).then(|| "the logits".into()));
        if not_finite.is_none() {
            clock::op(Op::Update, || optimizer.step(lr, &mut self.values, &self.grads));
            clock::op(Op::Quantize, || self.prepare());
        }
        self.begun = Some(Step { loss, correct, rates: forward.rates, not_finite });
        Ok(())
    }

    /// Waits for the step that was begun, and says what it gave.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] if none was begun, [`Error::Device`] if the device failed.
    pub fn finish_step(&mut self, optimizer: &mut Optimizer) -> Result<Step> {
        if self.session.is_some() {
            return self.finish_step_on_device(optimizer);
        }
        self.begun.take().ok_or_else(|| Error::shape("finish_step", "a step that was begun", "none"))
    }

    /// Forward in training `mode`, cross-entropy, backward: leaves the gradients of the mean loss in [`Network::grads`] and returns
    /// that loss.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] if the input does not fit the network.
    pub fn gradients(&mut self, input: &Input, labels: &[u32], mode: Mode) -> Result<(f64, Forward)> {
        let forward = self.forward(input, mode, |_| false)?;
        let mut grad_logits = vec![0.0; forward.logits.len()];
        let phase = clock::span(Name::Phase(Phase::Loss));
        let loss = clock::op(Op::CrossEntropy, || cross_entropy(&forward.logits, labels, self.classes, &mut grad_logits));
        clock::op(Op::ClearGradients, || self.grads.fill(0.0));
        drop(phase);
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
