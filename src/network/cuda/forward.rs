//! Forward on a CUDA device: a batch brought there, its launches, what they gave.

use super::buffers::Buffers;
use super::pass::Pass;
use super::step::What;
use super::{Session, is_replayed, settle};
use crate::clock::{self, Name, Op, Phase};
use crate::device::Gpu;
use crate::error::{Error, Result};
use crate::network::{Forward, Input, Mode, Network, Samples, WeightGradient};
use crate::ops::optimizer::cuda::StepParameters;
use crate::spikes::Spikes;

impl Network {
    /// [`Network::forward`] on the device; leaves the running statistics on the host up to date.
    pub(in crate::network) fn forward_on_device(
        &mut self,
        input: &Input,
        mode: Mode,
        keep_spikes: impl Fn(usize) -> bool,
    ) -> Result<Forward> {
        self.reserve_for(input, mode, None)?;
        self.bring()?;
        let seed = if let Mode::Train { seed, .. } = mode { seed } else { 0 };
        let what = What { batch: input.batch, frames: input.frames, training: None };
        let is_replayed = mode == Mode::Eval && is_replayed();
        if is_replayed {
            self.record(what)?;
        }
        let missing = || Error::shape("forward", "a network on a device", "none");
        let Session { gpu, resident, .. } = self.session.as_mut().ok_or_else(missing)?;
        let resident = resident.as_mut().ok_or_else(missing)?;
        let phase = clock::span(Name::Phase(Phase::Data));
        clock::op(Op::Copy, || {
            resident.staging.ensure(gpu, &Samples::Real(*input), &[])?;
            resident.staging.deliver(gpu, &resident.buffers, None, StepParameters::new(None, 0.0, seed))?;
            settle(gpu)
        })?;
        drop(phase);
        let (gpu, buffers) = (gpu.clone(), resident.buffers.clone());
        if is_replayed {
            resident.recorded.iter().find(|r| r.what == what).ok_or_else(missing)?.graph.launch()?;
        } else {
            let training = mode.gradient().map(|gradient| self.device_gradient(gradient));
            let stores = self.stores(training);
            let (batch, frames) = (input.batch, input.frames);
            Pass { network: self, gpu: &gpu, buffers: &buffers, batch, frames, training, stores: &stores }.enqueue()?;
        }
        let mut logits = vec![0.0; input.batch * self.classes];
        gpu.download(buffers.logits.part(0..logits.len()), &mut logits)?;
        let rates = self.download_rates(&gpu, &buffers, input.batch)?;
        let mut spikes = Vec::with_capacity(self.layers.len());
        for (index, layer) in self.layers.iter().enumerate() {
            let is_last = index + 1 == self.layers.len();
            let mut of_layer = None;
            if !self.neuron.is_real() && (keep_spikes(index) || is_last) {
                let mut train = Spikes::reuse(Vec::new(), self.time_steps, input.batch, layer.positions(), layer.shape[2]);
                let len = train.bits().len();
                gpu.download(buffers.layers[index].spikes.part(0..len), train.bits_mut())?;
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
        Ok(Forward { logits, spikes, rates })
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

    /// Mean firing rate of each layer (of an ANN, the share of outputs above 0), from the counters of the last forward pass.
    pub(super) fn download_rates(&self, gpu: &Gpu, buffers: &Buffers, batch: usize) -> Result<Vec<f32>> {
        let mut fired = vec![0u64; self.layers.len()];
        gpu.download(buffers.fired, &mut fired)?;
        Ok(self.rates_of(&fired, batch))
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
