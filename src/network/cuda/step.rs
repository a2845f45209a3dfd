//! A training step on a CUDA device, recorded once a batch size and then replayed as a graph.

use super::buffers::Buffers;
use super::forward::Pass;
use crate::device::{Gpu, Graph};
use crate::error::{Error, Result};
use crate::network::{Input, Kind, Mode, Network, Step, WeightGradient};
use crate::ops::cross_entropy::cuda as cross_entropy;
use crate::ops::spike_conv::{WeightSource, WeightTable, quantize_weights, transpose_weights};
use crate::optimizer::Optimizer;
use crate::optimizer::cuda::{self as update, Arenas, StepParameters, StepResult};

/// A recorded step of one batch size.
#[derive(Debug)]
pub(super) struct Recorded {
    batch: usize,
    frames: usize,
    gradient: WeightGradient,
    graph: Graph,
}

impl Network {
    /// [`Network::train_step`] on the device. Parameters, statistics and optimiser state on the host are left behind.
    pub(in crate::network) fn train_step_on_device(
        &mut self,
        optimizer: &mut Optimizer,
        lr: f32,
        input: &Input,
        labels: &[u32],
        mode: Mode,
    ) -> Result<Step> {
        let Mode::Train { gradient, seed } = mode else {
            return Err(Error::shape("train_step", "a training mode", mode));
        };
        if labels.len() != input.batch || labels.iter().any(|&label| label as usize >= self.classes) {
            return Err(Error::shape("train_step: labels", (input.batch, format!("below {}", self.classes)), labels));
        }
        self.check_input(input)?;
        self.reserve_for(input, mode, Some(optimizer))?;
        self.bring()?;
        self.bring_optimizer(optimizer)?;
        let parameters = StepParameters::new(Some(optimizer), lr, seed);
        self.record_step(optimizer, input, gradient)?;
        let missing = || Error::shape("train_step", "a recorded step", "none");
        let session = self.session.as_mut().ok_or_else(missing)?;
        let resident = session.resident.as_mut().ok_or_else(missing)?;
        let (gpu, buffers) = (&session.gpu, &resident.buffers);
        gpu.upload(input.data, buffers.input.part(0..input.data.len()))?;
        gpu.upload(labels, buffers.labels.part(0..labels.len()))?;
        gpu.upload(&[parameters], buffers.parameters)?;
        let is_same = |r: &&Recorded| (r.batch, r.frames, r.gradient) == (input.batch, input.frames, gradient);
        resident.recorded.iter().find(is_same).ok_or_else(missing)?.graph.launch()?;
        let mut result = [StepResult::default()];
        gpu.download(buffers.result, &mut result)?;
        let mut fired = vec![0u64; buffers.layers.len()];
        gpu.download(buffers.fired, &mut fired)?;
        session.device_is_newer = true;
        self.norms.iter_mut().for_each(|norm| norm.batches += 1);
        let [result] = result;
        let bad = result.first_not_finite().map(|at| self.parameter_at(at));
        let not_finite = bad.or_else(|| (!result.loss.is_finite()).then(|| "the logits".into()));
        if not_finite.is_none() {
            optimizer.steps += 1; // otherwise the update was left out
        }
        Ok(Step { loss: result.loss, correct: u64::from(result.correct), rates: self.rates_of(&fired, input.batch), not_finite })
    }

    /// Name of the parameter that holds element `at` of the arena.
    fn parameter_at(&self, at: usize) -> String {
        let holds = |p: &&crate::network::Parameter| (p.start..p.start + p.len).contains(&at);
        self.parameters.iter().find(holds).map_or_else(|| format!("element {at}"), |p| p.name.clone())
    }

    /// Records the step of a batch of this size, unless it is recorded already.
    fn record_step(&mut self, optimizer: &Optimizer, input: &Input, gradient: WeightGradient) -> Result<()> {
        let (batch, frames) = (input.batch, input.frames);
        let Some((session, resident)) = self.session.as_ref().and_then(|s| Some((s, s.resident.as_ref()?))) else { return Ok(()) };
        if resident.recorded.iter().any(|r| (r.batch, r.frames, r.gradient) == (batch, frames, gradient)) {
            return Ok(());
        }
        let (gpu, buffers, weights) = (session.gpu.clone(), &resident.buffers, &resident.weights);
        let stores = self.stores(Some(gradient));
        let pass = Pass { network: self, gpu: &gpu, buffers, batch, frames, training: Some(gradient), stores: &stores };
        let graph = gpu.capture(|| {
            gpu.fill_zero(buffers.grads)?;
            gpu.fill_zero(buffers.result)?;
            pass.enqueue()?;
            let Buffers { values, grads, first, second, losses, result, .. } = *buffers;
            let out = cross_entropy::Outputs { grad: buffers.layers[buffers.layers.len() - 1].grad, losses, result };
            let shape = [batch, self.classes];
            cross_entropy::cross_entropy(&gpu, &out, buffers.logits, buffers.labels, shape, self.squares())?;
            pass.enqueue_backward(false)?;
            update::first_not_finite(&gpu, result, values, grads)?;
            let arenas = Arenas { values, grads, first, second };
            update::step(&gpu, optimizer.rule, optimizer.weight_decay, &arenas, buffers.parameters, result)?;
            self.enqueue_weights(&gpu, buffers, weights, true)
        })?;
        if let Some(resident) = self.session.as_mut().and_then(|s| s.resident.as_mut()) {
            resident.recorded.push(Recorded { batch, frames, gradient, graph });
        }
        Ok(())
    }

    /// Launches what turns parameters into the weights of forward and, for training, of the data gradient.
    pub(super) fn enqueue_weights(&self, gpu: &Gpu, buffers: &Buffers, weights: &WeightTable, for_training: bool) -> Result<()> {
        update::bound_thresholds(gpu, buffers.values, buffers.thresholds, self.threshold_bound)?;
        quantize_weights(gpu, weights)?;
        if for_training { transpose_weights(gpu, weights) } else { Ok(()) }
    }

    /// All convolutions with the buffers of their weights.
    pub(super) fn weight_sources(&self, buffers: &Buffers) -> Vec<WeightSource> {
        let connections = self.layers.iter().zip(&buffers.layers).flat_map(|(layer, own)| layer.connections.iter().zip(&own.connections));
        connections
            .filter_map(|(connection, own)| {
                let Kind::Conv { weight, .. } = connection.kind else { return None };
                Some(WeightSource {
                    master: buffers.parameter(self, buffers.values, weight),
                    geometry: connection.geometry,
                    replicate: connection.replicate,
                    weights: own.packed,
                })
            })
            .collect()
    }
}
