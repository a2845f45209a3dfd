//! One training step: forward, loss, backward, update, and the weights of the next forward.

use super::{Forward, Input, Mode, Network};
use crate::clock::{self, Name, Op, Phase};
use crate::data::{Batch, Draw, Hole};
use crate::error::{Error, Result};
use crate::ops::augment::OnDevice;
use crate::ops::cross_entropy::{Blend, Targets, first_largest, summed_cross_entropy};
use crate::ops::optimizer::Optimizer;

/// What one training step gave.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// Mean loss over the batch.
    pub loss: f64,
    /// Samples whose largest logit is that of their class.
    pub correct: u64,
    /// Mean firing rate of each layer, spikes per neuron and step.
    pub rates: Vec<f32>,
    /// First place with a value that is no number: a parameter or `the logits`. Then nothing was updated.
    pub not_finite: Option<String>,
}

/// The samples of a training step.
#[derive(Clone, Copy, Debug)]
pub enum Samples<'a> {
    /// Real values.
    Real(Input<'a>),
    /// Real values of samples that were mixed, with their other classes, `[B]`.
    Mixed { input: Input<'a>, blends: &'a [Blend] },
    /// Pictures `[B][H][W][C]` of one byte a value, for a device that knows what bytes stand for ([`Network::form_of`]).
    /// `holes` are zero for the network, `[B]`, or none.
    Pictures { bytes: &'a [u8], batch: usize, holes: &'a [Hole] },
    /// Images that [`Network::hold_images`] has brought to the device, by index, and how each is cropped and mirrored; `holes` as above.
    Images { draws: &'a [(u32, Draw)], holes: &'a [Hole] },
    /// Images that another program has put on the network's own device. They stay there, unchanged, until the pass or step is finished.
    OnDevice(OnDevice),
    /// A batch that is on the device already, or on its way.
    Staged(Staged),
}

/// A batch that [`Network::stage`] has sent to a device. It is there until two others have been sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Staged {
    pub(super) number: u64,
    pub(super) batch: usize,
    pub(super) frames: usize,
    pub(super) labels: usize,
    pub(super) is_mixed: bool,
}

impl Samples<'_> {
    /// Number of samples and of frames of each.
    pub(super) fn shape(&self) -> [usize; 2] {
        match self {
            Samples::Real(input) | Samples::Mixed { input, .. } => [input.batch, input.frames],
            Samples::Pictures { batch, .. } => [*batch, 1],
            Samples::Images { draws, .. } => [draws.len(), 1],
            Samples::OnDevice(images) => {
                let [batch, frames, ..] = images.shape();
                [batch, frames]
            }
            Samples::Staged(Staged { batch, frames, .. }) => [*batch, *frames],
        }
    }

    /// What a device has to make zero of each sample; none where nothing is.
    pub(super) fn holes(&self) -> &[Hole] {
        match self {
            Samples::Pictures { holes, .. } | Samples::Images { holes, .. } => holes,
            Samples::Real(_) | Samples::Mixed { .. } | Samples::OnDevice(_) | Samples::Staged(_) => &[],
        }
    }

    /// The other classes of the samples, which come with their labels; none where they were not mixed.
    pub(super) fn blends(&self) -> &[Blend] {
        if let Samples::Mixed { blends, .. } = self { blends } else { &[] }
    }

    /// Whether the step is one of mixed samples.
    pub(super) fn is_mixed(&self) -> bool {
        matches!(self, Samples::Mixed { .. } | Samples::Staged(Staged { is_mixed: true, .. }))
    }
}

impl<'a> Samples<'a> {
    /// Those of a batch, in the form that it has.
    pub fn of(batch: &'a Batch) -> Self {
        let Batch { data, bytes, draws, holes, blends, labels, frames } = batch;
        let input = Input { data, batch: labels.len(), frames: *frames };
        if !draws.is_empty() {
            Samples::Images { draws, holes }
        } else if !bytes.is_empty() {
            Samples::Pictures { bytes, batch: labels.len(), holes }
        } else if !blends.is_empty() {
            Samples::Mixed { input, blends }
        } else {
            Samples::Real(input)
        }
    }

    /// Real values, which is all that the CPU takes.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] for samples in a form that only a device takes.
    pub fn on_the_cpu(&self) -> Result<&Input<'a>> {
        match self {
            Samples::Real(input) | Samples::Mixed { input, .. } => Ok(input),
            _ => Err(Error::shape("a batch on the CPU", "real values", "a batch of a device")),
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
        let input = samples.on_the_cpu()?;
        let (loss, forward) = self.gradients_of(input, labels, samples.blends(), mode)?;
        let right = |(logits, &label): (&[f32], &u32)| first_largest(logits) == label as usize;
        let mut correct = [forward.logits.chunks_exact(self.classes).zip(labels).filter(|&pair| right(pair)).count() as i128];
        self.share.add(|| "correct samples".into(), &mut correct)?;
        let correct = correct[0] as u64;
        let _phase = clock::span(Name::Phase(Phase::Optimizer));
        let not_finite =
            clock::op(Op::FiniteCheck, || self.first_not_finite()).or_else(|| (!loss.is_finite()).then(|| "the logits".into()));
        if not_finite.is_none() {
            clock::op(Op::Update, || optimizer.step(lr, &mut self.values, &self.grads));
            clock::op(Op::Quantize, || self.prepare());
            if optimizer.average.is_some() {
                clock::op(Op::Update, || optimizer.average(&self.values, &self.running()));
            }
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
    /// [`Error::ShapeMismatch`] if the input does not fit the network, or if a label is missing; [`Error::Ranks`] if another rank is.
    pub fn gradients(&mut self, input: &Input, labels: &[u32], mode: Mode) -> Result<(f64, Forward)> {
        self.gradients_of(input, labels, &[], mode)
    }

    fn gradients_of(&mut self, input: &Input, labels: &[u32], blends: &[Blend], mode: Mode) -> Result<(f64, Forward)> {
        if labels.len() != input.batch {
            return Err(Error::shape("labels", input.batch, labels.len()));
        }
        check_blends(blends, labels.len(), self.classes)?;
        if self.share.has_norms_by_slice() {
            return self.gradients_by_slice(input, labels, blends, mode);
        }
        let forward = self.forward(input, mode, |_| false)?;
        let mut grad_logits = vec![0.0; forward.logits.len()];
        let phase = clock::span(Name::Phase(Phase::Loss));
        let (classes, batch) = (self.classes, self.share.total(labels.len()));
        let of_slice = |samples: std::ops::Range<usize>| {
            let blends = if blends.is_empty() { blends } else { &blends[samples.clone()] };
            let targets = Targets { labels: &labels[samples.clone()], blends, smoothing: self.label_smoothing };
            let of_logits = samples.start * classes..samples.end * classes;
            vec![summed_cross_entropy(&forward.logits[of_logits.clone()], &targets, classes, batch, &mut grad_logits[of_logits])]
        };
        let loss =
            clock::op(Op::CrossEntropy, || self.share.sum(|| "loss".into(), labels.len(), of_slice))?.iter().sum::<f64>() / batch as f64;
        clock::op(Op::ClearGradients, || self.grads.fill(0.0));
        drop(phase);
        self.backward(input, &grad_logits, None)?;
        Ok((loss, forward))
    }

    /// Running statistics of all norms, mean and variance of one after the other.
    pub(crate) fn running(&self) -> Vec<f32> {
        self.norms.iter().flat_map(|norm| [&norm.running_mean, &norm.running_var]).flatten().copied().collect()
    }

    /// Where mean and variance of norm `index` lie in [`Network::running`].
    pub(crate) fn running_places(&self, index: usize) -> [std::ops::Range<usize>; 2] {
        let start: usize = self.norms[..index].iter().map(|norm| 2 * norm.running_mean.len()).sum();
        let channels = self.norms[index].running_mean.len();
        [start..start + channels, start + channels..start + 2 * channels]
    }

    /// Whether parameter `index` is a threshold.
    pub(crate) fn is_threshold(&self, index: usize) -> bool {
        self.layers.iter().any(|layer| layer.threshold == Some(index))
    }

    /// Sets the running statistics from those of all norms.
    pub(super) fn set_running(&mut self, mut running: &[f32]) {
        for norm in &mut self.norms {
            for values in [&mut norm.running_mean, &mut norm.running_var] {
                let (own, rest) = running.split_at(values.len());
                values.copy_from_slice(own);
                running = rest;
            }
        }
    }

    /// Exchanges parameters and running statistics with their averages, if the optimiser keeps some that a step has set. A second call
    /// exchanges them back.
    ///
    /// # Errors
    /// [`Error::Device`] if the device fails.
    pub fn exchange_with_average(&mut self, optimizer: &mut Optimizer) -> Result<()> {
        self.synchronize(optimizer)?;
        let Some(average) = optimizer.average.as_mut().filter(|average| average.values.len() == self.values.len()) else { return Ok(()) };
        let running = self.running();
        std::mem::swap(&mut self.values, &mut average.values);
        self.set_running(&std::mem::replace(&mut average.running, running));
        self.prepare();
        Ok(())
    }

    /// Mean firing rate over all neurons, from that of each layer; a readout by current has none.
    pub fn mean_rate(&self, rates: &[f32]) -> f32 {
        let neurons: usize = self.firing_layers().map(super::SpikingLayer::neurons).sum();
        let spikes: f64 = self.firing_layers().zip(rates).map(|(l, &r)| l.neurons() as f64 * f64::from(r)).sum();
        (spikes / neurons as f64) as f32
    }
}

/// Refuses other classes that are none, and too few or too many of them.
pub(super) fn check_blends(blends: &[Blend], batch: usize, classes: usize) -> Result<()> {
    if !blends.is_empty() && blends.len() != batch {
        return Err(Error::shape("train_step: blends", batch, blends.len()));
    }
    match blends.iter().find(|blend| blend.other as usize >= classes || !(0.0..=1.0).contains(&blend.share)) {
        Some(blend) => Err(Error::shape("train_step: blends", format!("classes below {classes} and shares in 0..=1"), blend)),
        None => Ok(()),
    }
}
