//! Forward on a CUDA device: a batch brought there, its launches, what they gave.

use std::cell::Cell;

use super::pass::Pass;
use super::staging::Held;
use super::step::What;
use super::{Resident, Session, is_replayed, settle};
use crate::clock::{self, Name, Op, Phase};
use crate::device::Slice;
use crate::error::{Error, Result};
use crate::network::{Forward, Mode, Network, Samples, WeightGradient};
use crate::ops::optimizer::cuda::StepParameters;
use crate::spikes::Spikes;

/// A forward pass that the device is at.
#[derive(Debug)]
pub(super) struct BegunForward {
    batch: usize,
    mode: Mode,
    /// Layers whose spikes are wanted.
    keeps: Vec<bool>,
}

impl Network {
    /// [`Network::forward`] on the device; leaves the running statistics on the host up to date.
    pub(in crate::network) fn forward_on_device(
        &mut self,
        samples: &Samples,
        mode: Mode,
        keep_spikes: impl Fn(usize) -> bool,
    ) -> Result<Forward> {
        self.begin_forward_on_device(samples, mode, keep_spikes)?;
        self.finish_forward_on_device()
    }

    /// [`Network::begin_evaluation`] on the device.
    pub(in crate::network) fn begin_evaluation_on_device(&mut self, samples: &Samples, keep_spikes: impl Fn(usize) -> bool) -> Result<()> {
        self.begin_forward_on_device(samples, Mode::Eval, keep_spikes)
    }

    /// Brings a batch, launches all layers, and starts to bring back what they give.
    fn begin_forward_on_device(&mut self, samples: &Samples, mode: Mode, keep_spikes: impl Fn(usize) -> bool) -> Result<()> {
        self.check_samples(samples)?;
        let [batch, frames] = samples.shape();
        self.reserve(batch, frames, mode.gradient(), None)?;
        self.bring()?;
        let parameters = if let Mode::Train { seed, .. } = mode { Some(StepParameters::new(None, 0.0, seed)) } else { None };
        let what = What { batch, frames, is_mixed: false, training: None, place: [0, batch] };
        let is_replayed = mode == Mode::Eval && is_replayed();
        if is_replayed {
            self.record(what)?;
        }
        let phase = clock::span(Name::Phase(Phase::Data));
        clock::op(Op::Copy, || self.deliver(samples, &[], parameters))?;
        drop(phase);
        if mode == Mode::Eval {
            self.ready_for_evaluation()?;
        }
        let missing = || Error::shape("forward", "a network on a device", "none");
        let session = self.session.as_ref().ok_or_else(missing)?;
        let resident = session.resident.as_ref().ok_or_else(missing)?;
        if is_replayed {
            resident.recorded.iter().find(|r| r.what == what).ok_or_else(missing)?.graph.launch()?;
        } else {
            let training = mode.gradient().map(|gradient| self.device_gradient(gradient));
            let stores = self.stores(training);
            let (buffers, spent) = (&resident.buffers, &Cell::default());
            Pass { network: self, gpu: &session.gpu, buffers, batch, frames, training, stores: &stores, spent }.enqueue()?;
        }
        let last = &self.layers[self.layers.len() - 1];
        let words = if self.neuron.is_real() { 0 } else { batch * last.positions() * self.time_steps * last.shape[2].div_ceil(32) };
        let logits = batch * self.classes;
        let keeps = (0..self.layers.len()).map(keep_spikes).collect();
        let Session { gpu, resident, begun_forward, evaluates, .. } = self.session.as_mut().ok_or_else(missing)?;
        let resident = resident.as_mut().ok_or_else(missing)?;
        resident.report.fetch_forward(gpu, &resident.buffers, [logits, words])?;
        *begun_forward = Some(BegunForward { batch, mode, keeps });
        *evaluates &= mode == Mode::Eval;
        Ok(())
    }

    /// Waits for the forward pass that was begun, and gives what it has found.
    pub(in crate::network) fn finish_forward_on_device(&mut self) -> Result<Forward> {
        let none = || Error::shape("finish_evaluation", "an evaluation that was begun", "none");
        let Session { gpu, resident, begun_forward, .. } = self.session.as_mut().ok_or_else(none)?;
        let BegunForward { batch, mode, keeps } = begun_forward.take().ok_or_else(none)?;
        let Resident { report, buffers, .. } = resident.as_mut().ok_or_else(none)?;
        let (logits, last, fired) = report.forward()?;
        let (logits, fired) = (logits.to_vec(), fired.to_vec());
        let mut spikes = Vec::with_capacity(self.layers.len());
        for (index, layer) in self.layers.iter().enumerate() {
            let is_last = index + 1 == self.layers.len();
            let mut of_layer = None;
            if !self.neuron.is_real() && (keeps[index] || is_last) {
                let mut train = Spikes::reuse(Vec::new(), self.time_steps, batch, layer.positions(), layer.shape[2]);
                let bits = train.bits_mut();
                if is_last {
                    bits.copy_from_slice(last);
                } else {
                    gpu.download(buffers.layers[index].spikes.part(0..bits.len()), bits)?;
                }
                of_layer = Some(train);
            }
            spikes.push(of_layer);
        }
        if mode != Mode::Eval {
            let mut running = vec![0.0; buffers.running.len()];
            gpu.download(buffers.running, &mut running)?;
            self.set_running(&running);
            self.norms.iter_mut().for_each(|norm| norm.batches += 1);
        }
        let samples = if mode == Mode::Eval { batch } else { self.share.total(batch) };
        Ok(Forward { logits, spikes, rates: self.rates_of(&fired, samples) })
    }

    /// Sends a batch, unless it was staged, and puts it where the launches read it, with the parameters of a step in training.
    pub(super) fn deliver(&mut self, samples: &Samples, labels: &[u32], parameters: Option<StepParameters>) -> Result<()> {
        let missing = || Error::shape("a batch of a device", "a network on a device", "none");
        let Session { gpu, resident, images, pixels, .. } = self.session.as_mut().ok_or_else(missing)?;
        let Resident { staging, buffers, .. } = resident.as_mut().ok_or_else(missing)?;
        let number = staging.send(gpu, samples, labels)?;
        staging.deliver(gpu, buffers, Held { images: images.as_ref(), pixels: pixels.as_ref() }, number, parameters)?;
        settle(gpu)
    }

    /// Computes the constants of all layers from the running statistics, unless they are there already.
    pub(super) fn ready_for_evaluation(&mut self) -> Result<()> {
        let Some((session, resident)) = self.session.as_ref().and_then(|s| Some((s, s.resident.as_ref()?))) else { return Ok(()) };
        if session.evaluates {
            return Ok(());
        }
        resident.constants.launch(&session.gpu)?;
        if let Some(session) = &mut self.session {
            session.evaluates = true;
        }
        Ok(())
    }

    /// The logits of the last forward pass of so many samples where they are, `[B][classes]`: valid until the next pass or step.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] on the CPU and before a forward pass of so many samples.
    pub fn device_logits(&self, batch: usize) -> Result<Slice<f32>> {
        let resident = self.session.as_ref().and_then(|session| session.resident.as_ref());
        let logits = resident.map_or(Slice::NONE, |resident| resident.buffers.logits);
        let len = batch * self.classes;
        if logits.len() < len {
            return Err(Error::shape("device_logits", (batch, self.classes), logits.len()));
        }
        Ok(logits.part(0..len))
    }

    /// [`Network::output_currents`] of the device.
    pub(in crate::network) fn output_currents_on_device(&self, batch: usize) -> Result<Vec<f32>> {
        let missing = || Error::shape("output_currents", "a forward pass", "none");
        let session = self.session.as_ref().ok_or_else(missing)?;
        let last = session.resident.as_ref().and_then(|resident| resident.buffers.layers.last()).ok_or_else(missing)?;
        let means = if last.weighted_normed.is_none() { last.mean_normed } else { last.weighted_normed };
        if means.len() < batch * self.classes {
            return Err(Error::shape("output_currents", (batch, self.classes), means.len()));
        }
        let mut normed = vec![0.0; batch * self.classes];
        session.gpu.download(means.part(0..normed.len()), &mut normed)?;
        let norm = last.normalizer.download(&session.gpu)?;
        Ok(norm.currents(&normed, self.layers[self.layers.len() - 1].shape[2]))
    }
}

impl Mode {
    /// The weight gradient that training will take.
    pub(super) fn gradient(self) -> Option<WeightGradient> {
        match self {
            Mode::Eval => None,
            Mode::Train { gradient, .. } => Some(gradient),
        }
    }
}
