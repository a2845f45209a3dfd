//! A training step on a CUDA device, recorded once a batch size and then replayed as a graph.

use std::cell::Cell;

use super::buffers::Buffers;
use super::pass::Pass;
use super::staging::{DeviceImages, DevicePixels};
use super::{Resident, Session, is_replayed, settle};
use crate::clock::{self, Name, Op, Phase};
use crate::data::{Dataset, Form, Pixels};
use crate::device::{Gpu, Graph, Slice};
use crate::error::{Error, Result};
use crate::network::step::check_blends;
use crate::network::{Kind, Mode, Network, NormState, Samples, Staged, Step, WeightGradient};
use crate::ops::cross_entropy::cuda as cross_entropy;
use crate::ops::optimizer::cuda::{self as optimizer, Arenas, StepParameters};
use crate::ops::optimizer::{Optimizer, Update};
use crate::ops::spike_conv::{WeightSource, WeightTable, quantize_weights, round_weights, transpose_weights};
use crate::ranks::Cost;

/// Recorded launches: of a training step, or of an evaluation.
#[derive(Debug)]
pub(super) struct Recorded {
    pub what: What,
    pub graph: Graph,
    /// What every launch of it exchanges with other ranks.
    pub cost: Cost,
}

/// What recorded launches do, with all that they hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct What {
    pub batch: usize,
    pub frames: usize,
    /// Whether the loss is that of mixed samples.
    pub is_mixed: bool,
    /// None for an evaluation.
    pub training: Option<(WeightGradient, Update)>,
    /// Place of the first sample in the batch of all ranks, and samples of that batch.
    pub place: [usize; 2],
}

impl Network {
    /// [`Network::begin_step`] on the device. Parameters, statistics and optimiser state on the host are left behind.
    pub(in crate::network) fn begin_step_on_device(
        &mut self,
        optimizer: &mut Optimizer,
        lr: f32,
        samples: &Samples,
        labels: &[u32],
        mode: Mode,
    ) -> Result<()> {
        let Mode::Train { gradient, seed } = mode else {
            return Err(Error::shape("train_step", "a training mode", mode));
        };
        let gradient = self.device_gradient(gradient);
        let [batch, frames] = samples.shape();
        if labels.len() != batch {
            return Err(Error::shape("train_step: labels", batch, labels.len()));
        }
        self.check_batch(samples, labels)?;
        self.reserve(batch, frames, Some(gradient), Some(optimizer))?;
        self.bring()?;
        self.bring_optimizer(optimizer)?;
        let parameters = StepParameters::new(Some(optimizer), lr, seed);
        let total = self.share.total(batch);
        let place = [self.share.first(), total];
        let what = What { batch, frames, is_mixed: samples.is_mixed(), training: Some((gradient, optimizer.update())), place };
        let is_replayed = is_replayed();
        if is_replayed {
            self.record(what)?;
        }
        let missing = || Error::shape("train_step", "a recorded step", "none");
        let phase = clock::span(Name::Phase(Phase::Data));
        clock::op(Op::Copy, || self.deliver(samples, labels, Some(parameters)))?;
        drop(phase);
        if let Some(session) = &mut self.session {
            (session.begun, session.device_is_newer, session.evaluates) = (Some(total), true, false);
        }
        let spent = Cell::default();
        if !is_replayed {
            self.launch(what, &spent)?;
        }
        let Session { gpu, resident, .. } = self.session.as_mut().ok_or_else(missing)?;
        let Resident { recorded, report, buffers, .. } = resident.as_mut().ok_or_else(missing)?;
        if is_replayed {
            let recorded = recorded.iter().find(|r| r.what == what).ok_or_else(missing)?;
            recorded.graph.launch()?;
            spent.set(recorded.cost);
        }
        if let Some(nccl) = self.share.ranks().nccl() {
            nccl.count(spent.get());
        }
        report.fetch_step(gpu, buffers)
    }

    /// Starts to bring the next batch to the device, while it computes with the one before: what this gives is then the batch,
    /// [`Samples::Staged`]. For evaluation there are no labels. None on the CPU, and on a device before the first batch.
    ///
    /// # Errors
    /// [`Error::Device`] if the device fails, [`Error::ShapeMismatch`] for what does not fit the network and for a larger batch than any
    /// before.
    pub fn stage(&mut self, samples: &Samples, labels: &[u32]) -> Result<Option<Staged>> {
        self.check_batch(samples, labels)?;
        let Some(Session { gpu, resident: Some(resident), .. }) = &mut self.session else { return Ok(None) };
        let [batch, frames] = samples.shape();
        Ok(Some(Staged {
            number: resident.staging.send(gpu, samples, labels)?,
            batch,
            frames,
            labels: labels.len(),
            is_mixed: samples.is_mixed(),
        }))
    }

    /// Refuses samples and labels that do not fit the network.
    fn check_batch(&self, samples: &Samples, labels: &[u32]) -> Result<()> {
        if labels.iter().any(|&label| label as usize >= self.classes) {
            return Err(Error::shape("train_step: labels", format!("below {}", self.classes), labels));
        }
        let ([batch, _], holes) = (samples.shape(), samples.holes().len());
        if holes != 0 && holes != batch {
            return Err(Error::shape("holes of a batch", batch, holes));
        }
        check_blends(samples.blends(), batch, self.classes)?;
        match samples {
            Samples::Staged(staged) if staged.labels != labels.len() => {
                Err(Error::shape("labels of a staged batch", staged.labels, labels.len()))
            }
            _ => self.check_samples(samples),
        }
    }

    /// Refuses samples that do not fit the network.
    pub(super) fn check_samples(&self, samples: &Samples) -> Result<()> {
        match samples {
            Samples::Real(input) | Samples::Mixed { input, .. } => self.check_input(input),
            Samples::OnDevice(images) => {
                let ([batch, frames, image @ ..], expected) = (images.shape(), self.input);
                let fits = batch > 0 && (frames == 1 || frames == self.time_steps) && image == expected;
                let expected = || format!("[B, 1 or {}, {expected:?}]", self.time_steps);
                if fits { Ok(()) } else { Err(Error::shape("images on the device", expected(), (batch, frames, image))) }
            }
            Samples::Pictures { bytes, batch, .. } => {
                let expected = batch * self.input.iter().product::<usize>();
                if bytes.len() == expected { Ok(()) } else { Err(Error::shape("a batch of pictures", expected, bytes.len())) }
            }
            Samples::Images { .. } | Samples::Staged(_) => Ok(()),
        }
    }

    /// The form in which batches of a data set come: on a device the pictures as bytes, and the device then knows what they stand for.
    ///
    /// # Errors
    /// [`Error::Device`] if the device fails.
    pub fn form_of(&mut self, dataset: &Dataset) -> Result<Form> {
        if self.session.is_none() || !dataset.has_bytes() {
            return Ok(Form::Values);
        }
        self.look_up_by(&Pixels::of(dataset))?;
        Ok(Form::Bytes)
    }

    /// Says what the bytes of pictures stand for from now on, for a device; without effect on the CPU.
    ///
    /// # Errors
    /// [`Error::Device`] if the device fails.
    pub fn look_up_by(&mut self, pixels: &Pixels) -> Result<()> {
        let Some(session) = &mut self.session else { return Ok(()) };
        if !session.pixels.as_ref().is_some_and(|held| held.is(pixels)) {
            session.pixels = Some(DevicePixels::new(&session.gpu, pixels)?);
        }
        Ok(())
    }

    /// Brings the training images of a data set to the device, so that it crops, mirrors and normalises them itself. False where they
    /// would take more than half of the free memory, and on the CPU.
    ///
    /// # Errors
    /// [`Error::Device`] if the device fails.
    pub fn hold_images(&mut self, dataset: &Dataset, crop_pad: usize) -> Result<bool> {
        let Some(session) = &mut self.session else { return Ok(false) };
        let [free, _] = session.gpu.memory()?;
        if dataset.train.images.pixels.len() > free / 2 {
            return Ok(false);
        }
        session.images = Some(DeviceImages::new(&session.gpu, dataset, crop_pad)?);
        Ok(true)
    }

    /// Whether a device has the training images.
    pub fn holds_images(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.images.is_some())
    }

    /// [`Network::finish_step`] on the device.
    pub(in crate::network) fn finish_step_on_device(&mut self, optimizer: &mut Optimizer) -> Result<Step> {
        let none = || Error::shape("finish_step", "a step that was begun", "none");
        if let Some(nccl) = self.share.ranks().nccl() {
            nccl.wait("a training step")?; // not without an end, as below
        }
        let session = self.session.as_mut().ok_or_else(none)?;
        let batch = session.begun.take().ok_or_else(none)?;
        let (result, fired) = session.resident.as_mut().ok_or_else(none)?.report.step()?;
        let fired = fired.to_vec();
        self.norms.iter_mut().for_each(|norm| norm.batches += 1);
        let bad = result.first_not_finite().map(|at| self.parameter_at(at));
        let not_finite = bad.or_else(|| (!result.loss.is_finite()).then(|| "the logits".into()));
        if not_finite.is_none() {
            optimizer.steps += 1; // otherwise the update was left out
        }
        Ok(Step { loss: result.loss, correct: u64::from(result.correct), rates: self.rates_of(&fired, batch), not_finite })
    }

    /// Name of the parameter that holds element `at` of the arena, or, behind the arena, of the norm with that running statistic.
    fn parameter_at(&self, at: usize) -> String {
        let holds = |p: &&crate::network::Parameter| (p.start..p.start + p.len).contains(&at);
        let mut before = self.len();
        let of_norm = self.norms.iter().find(|norm| {
            before += 2 * norm.running_mean.len();
            at >= self.len() && at < before
        });
        let name = self.parameters.iter().find(holds).map(|p| p.name.clone()).or_else(|| of_norm.map(NormState::statistics_name));
        name.unwrap_or_else(|| format!("element {at}"))
    }

    /// Records launches, unless they are recorded already.
    pub(super) fn record(&mut self, what: What) -> Result<()> {
        let Some((session, resident)) = self.session.as_ref().and_then(|s| Some((s, s.resident.as_ref()?))) else { return Ok(()) };
        if resident.recorded.iter().any(|r| r.what == what) {
            return Ok(());
        }
        let (gpu, spent) = (session.gpu.clone(), Cell::default());
        let graph = gpu.capture(|| self.launch(what, &spent))?;
        if let Some(resident) = self.session.as_mut().and_then(|s| s.resident.as_mut()) {
            resident.recorded.push(Recorded { what, graph, cost: spent.get() });
        }
        Ok(())
    }

    /// Launches a training step or an evaluation. While somebody listens, each part is waited for, so that its span is its time.
    pub(super) fn launch(&self, what: What, spent: &Cell<Cost>) -> Result<()> {
        let Some((session, resident)) = self.session.as_ref().and_then(|s| Some((s, s.resident.as_ref()?))) else { return Ok(()) };
        let (gpu, buffers, weights) = (&session.gpu, &resident.buffers, &resident.weights);
        let What { batch, frames, is_mixed, training, .. } = what;
        let gradient = training.map(|(gradient, _)| gradient);
        let stores = self.stores(gradient);
        let pass = Pass { network: self, gpu, buffers, batch, frames, training: gradient, stores: &stores, spent };
        let Some((_, update)) = training else { return pass.enqueue() };
        gpu.fill_zero(buffers.grads)?;
        gpu.fill_zero(buffers.result)?;
        gpu.fill_zero(buffers.slices.grads)?;
        pass.enqueue()?;
        let Buffers { values, grads, first, second, losses, result, parameters, .. } = *buffers;
        let phase = clock::span(Name::Phase(Phase::Loss));
        let out = cross_entropy::Outputs { grad: buffers.layers[buffers.layers.len() - 1].grad, losses, result };
        let blends = if is_mixed { buffers.blends } else { Slice::NONE };
        let targets = cross_entropy::DeviceTargets { labels: buffers.labels, blends, smoothing: self.label_smoothing };
        let shape = [batch, self.classes];
        clock::op(Op::CrossEntropy, || {
            if self.share.is_whole() {
                cross_entropy::cross_entropy(gpu, &out, buffers.logits, &targets, shape, self.squares())?;
            } else {
                let total = pass.total();
                cross_entropy::sample_losses(gpu, &out, buffers.logits, &targets, shape, total, self.squares())?;
                cross_entropy::mean_loss(gpu, result, pass.sum_samples(losses, 1)?, 1, total)?;
                pass.add_correct(result)?;
            }
            settle(gpu)
        })?;
        drop(phase);
        pass.enqueue_backward(false)?;
        let _phase = clock::span(Name::Phase(Phase::Optimizer));
        clock::op(Op::FiniteCheck, || {
            optimizer::first_not_finite(gpu, result, values, grads, buffers.running)?;
            settle(gpu)
        })?;
        clock::op(Op::Update, || {
            if let Some(most) = update.clip_norm {
                optimizer::clip(gpu, parameters, grads, buffers.norm_parts, most)?;
            }
            let spared = if update.spares { buffers.spared } else { Slice::NONE };
            let arenas = Arenas { values, grads, first, second, spared };
            optimizer::step(gpu, update.rule, update.weight_decay, &arenas, parameters, result)?;
            settle(gpu)
        })?;
        clock::op(Op::Quantize, || {
            self.enqueue_weights(gpu, buffers, weights, true)?;
            settle(gpu)
        })?;
        clock::op(Op::Update, || {
            if update.averages {
                optimizer::average(gpu, buffers.average, values, parameters, result)?;
                optimizer::average(gpu, buffers.average_running, buffers.running, parameters, result)?;
            }
            settle(gpu)
        })
    }

    /// Launches what turns parameters into the weights of forward and, for training, of the data gradient.
    pub(super) fn enqueue_weights(&self, gpu: &Gpu, buffers: &Buffers, weights: &WeightTable, for_training: bool) -> Result<()> {
        optimizer::bound_thresholds(gpu, buffers.values, buffers.thresholds, self.threshold_bound)?;
        if self.neuron.is_real() {
            round_weights(gpu, weights)?
        } else {
            quantize_weights(gpu, weights)?
        }
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
