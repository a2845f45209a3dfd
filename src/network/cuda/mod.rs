//! A network on a CUDA device: what lies where, and what is launched in which order.
//!
//! The device holds its own copy of parameters, running statistics and optimiser state. [`Network::prepare`] says that the host has
//! changed them; a training step leaves the newer ones on the device, and [`Network::synchronize`] fetches them.

mod across_ranks;
mod ann;
mod backward;
mod buckets;
mod buffers;
mod forward;
mod latency;
mod optimizer_state;
mod pass;
mod report;
mod slices;
mod staging;
mod step;
mod work;

use std::ops::Range;
use std::sync::Arc;

use buffers::Buffers;
use forward::BegunForward;
use report::Report;
use slices::Cut;
use staging::{DeviceImages, DevicePixels, Staging};
use step::Recorded;

use super::buckets::LEAST;
use super::{Input, Kind, Mode, Network, Source, WeightGradient};
use crate::clock;
use crate::device::{Gpu, Layout, Memory};
use crate::error::{Error, Result};
use crate::ops::batch_norm::cuda::RunningConstants;
use crate::ops::neuron::Neuron;
use crate::ops::optimizer::{Optimizer, Update};
use crate::ops::spike_conv::WeightTable;
use crate::ops::spike_conv::cost::Machine;

/// How training gets from sums to statistics to neurons; both give the same bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SumsChoice {
    /// A layer at a time, by the cost model of `ops/spike_conv/cost.rs`.
    #[default]
    Cheapest,
    /// Sums are computed once and stored between the two passes.
    Store,
    /// Sums are computed twice, wherever nothing else needs them.
    Recompute,
}

/// What a session has room for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Demand {
    /// Most samples of a batch.
    pub batch: usize,
    /// Frames a sample: 1 or T.
    pub frames: usize,
    /// None for evaluation only.
    pub training: Option<WeightGradient>,
    pub optimizer: OptimizerDemand,
    /// Whether the host looks at the outputs of every layer of an ANN.
    pub activations: bool,
    pub time_steps: usize,
    pub sums: SumsChoice,
    pub cut: Cut,
    /// Fewest parameters of a bucket.
    pub bucket: usize,
    /// Constants that recorded launches hold.
    pub neuron: Neuron,
    pub weight_bits: u8,
    pub threshold_bound: f32,
    pub threshold_grad_scale: f32,
    pub label_smoothing: f64,
}

/// What an optimiser keeps beside one value a parameter.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct OptimizerDemand {
    /// Adam's second value a parameter.
    pub second: bool,
    /// Bits of the parameters that are spared from weight decay.
    pub spared: bool,
    /// Partial sums of the norm of all gradients.
    pub clips: bool,
    /// Averages of parameters and running statistics.
    pub averages: bool,
}

/// A network's place on a device.
#[derive(Debug)]
pub(super) struct Session {
    gpu: Arc<Gpu>,
    resident: Option<Resident>,
    images: Option<DeviceImages>,
    pixels: Option<DevicePixels>,
    /// Samples of the step that was begun.
    begun: Option<usize>,
    /// The forward pass that was begun.
    begun_forward: Option<BegunForward>,
    /// Whether the constants of all layers are those of evaluation with the parameters that the device has.
    evaluates: bool,
    sums: SumsChoice,
    /// Fewest parameters of a bucket.
    bucket: usize,
    /// What the device can do at most; none where its driver does not say.
    machine: Option<Machine>,
    /// Parameters or statistics on the host have changed since they were uploaded.
    host_is_newer: bool,
    /// The same of the optimiser's state.
    optimizer_is_newer: bool,
    /// Bits of the parameters that are spared from weight decay, as the device has them.
    spared: Option<Arc<[u32]>>,
    /// Number of the optimiser whose state the device has.
    holder: Option<u64>,
    /// Optimiser state that was newer on the device when its memory was planned anew or another optimiser came, by the optimiser's number.
    carried: Vec<(u64, [Vec<f32>; 4])>,
    /// Training steps have changed them on the device.
    device_is_newer: bool,
}

/// Whether steps are recorded and replayed: not while somebody listens to the clock, nor under `CUDA_LAUNCH_BLOCKING=1`, which is
/// to name the kernel that fails, and a replayed step is one launch.
fn is_replayed() -> bool {
    !clock::is_listening() && std::env::var_os("CUDA_LAUNCH_BLOCKING").is_none_or(|value| value != "1")
}

/// Waits for what was launched while somebody listens to the clock, so that a span is the time of its kernels.
fn settle(gpu: &Gpu) -> Result<()> {
    if clock::is_listening() { gpu.synchronize() } else { Ok(()) }
}

/// What has memory.
#[derive(Debug)]
struct Resident {
    demand: Demand,
    buffers: Buffers,
    weights: WeightTable,
    /// Of all layers, in evaluation.
    constants: RunningConstants,
    staging: Staging,
    report: Report,
    recorded: Vec<Recorded>,
    /// The arena that `buffers` are cut from, all zero at first, and what lies between them.
    memory: Memory<u8>,
    gaps: Vec<Range<usize>>,
}

impl Clone for Session {
    /// A session of its own, not yet in memory. The network that is cloned has fetched what the device had newer.
    fn clone(&self) -> Self {
        Session { sums: self.sums, bucket: self.bucket, ..Session::new(&self.gpu) }
    }
}

impl Session {
    pub fn new(gpu: &Arc<Gpu>) -> Self {
        Session {
            gpu: gpu.clone(),
            resident: None,
            images: None,
            pixels: None,
            begun: None,
            begun_forward: None,
            evaluates: false,
            sums: SumsChoice::default(),
            bucket: LEAST,
            machine: Machine::of(gpu).ok(),
            host_is_newer: true,
            optimizer_is_newer: true,
            spared: None,
            holder: None,
            carried: Vec::new(),
            device_is_newer: false,
        }
    }

    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// The host has changed parameters, statistics or optimiser state.
    pub fn host_is_newer(&mut self) {
        (self.host_is_newer, self.optimizer_is_newer) = (true, true);
        self.carried.clear();
    }

    pub fn kept_bytes(&self) -> usize {
        self.resident.as_ref().map_or(0, |resident| resident.buffers.kept_bytes())
    }
}

impl Network {
    /// Fixes how training on a CUDA device gets from sums to neurons; without effect on the CPU and on results.
    pub fn choose_sums(&mut self, sums: SumsChoice) {
        if let Some(session) = &mut self.session {
            session.sums = sums;
        }
    }

    /// Fixes of how many parameters at least several CUDA devices exchange the gradients together ([`super::buckets`]); without effect
    /// elsewhere and on results.
    pub fn choose_buckets(&mut self, least: usize) {
        if let Some(session) = &mut self.session {
            session.bucket = least;
        }
    }

    /// Plans and takes the memory that training (or, without `training`, evaluation) of batches up to `batch` needs on the device;
    /// on the CPU nothing is planned.
    ///
    /// Without this the first step does it; called at the start it tells early whether the memory suffices.
    ///
    /// # Errors
    /// [`Error::Device`] if the device has not so much memory: it says what is needed and what is free.
    pub fn reserve(&mut self, batch: usize, frames: usize, training: Option<WeightGradient>, optimizer: Option<&Optimizer>) -> Result<()> {
        self.reserve_with(batch, frames, training, optimizer, false)
    }

    /// The same; `activations` says whether the host will look at the outputs of every layer of an ANN.
    fn reserve_with(
        &mut self,
        batch: usize,
        frames: usize,
        training: Option<WeightGradient>,
        optimizer: Option<&Optimizer>,
        activations: bool,
    ) -> Result<()> {
        let Some(session) = &self.session else { return Ok(()) };
        let training = training.map(|gradient| self.device_gradient(gradient));
        let optimizer = optimizer.map_or_else(OptimizerDemand::default, |optimizer| OptimizerDemand::of(optimizer.update()));
        let wanted = Demand {
            batch,
            frames,
            training,
            optimizer,
            activations,
            time_steps: self.time_steps,
            sums: session.sums,
            cut: Cut::of(&self.share),
            bucket: session.bucket,
            neuron: self.neuron,
            weight_bits: self.weight_bits,
            threshold_bound: self.threshold_bound,
            threshold_grad_scale: self.threshold_grad_scale,
            label_smoothing: self.label_smoothing,
        };
        let mut demand = match session.resident.as_ref().map(|resident| resident.demand) {
            Some(has) if has.covers(&wanted) => return Ok(()),
            Some(has) => has.joined(&wanted),
            None => wanted,
        };
        self.check_device_limits()?;
        // What is newer on the device survives on the host.
        self.fetch(None)?;
        let Some(session) = &mut self.session else { return Ok(()) };
        session.resident = None; // frees the old arena before the new one is taken
        let gpu = session.gpu.clone();
        let bytes = |demand: &Demand| {
            let mut measure = Layout::measure();
            Buffers::lay_out(self, demand, &mut measure);
            measure.bytes()
        };
        let [free, _] = gpu.memory()?;
        let mut needed = bytes(&demand);
        if needed > free && demand.sums == SumsChoice::Cheapest {
            // Slower than stored sums where those were chosen, but it may fit; the bits are the same.
            demand.sums = SumsChoice::Recompute;
            needed = bytes(&demand);
        }
        let memory = gpu.zeroed::<u8>(needed)?;
        let mut layout = Layout::of(&memory);
        let buffers = Buffers::lay_out(self, &demand, &mut layout);
        let gaps = layout.gaps().to_vec();
        gpu.upload(&self.neuron.step_weights(self.time_steps), buffers.step_weights)?;
        let thresholds: Vec<u32> = self.layers.iter().filter_map(|layer| Some(self.parameters[layer.threshold?].start as u32)).collect();
        gpu.upload(&thresholds, buffers.thresholds)?;
        let weights = WeightTable::new(&gpu, &self.weight_sources(&buffers))?;
        let constants = self.running_constants(&gpu, &buffers)?;
        let Some(session) = &mut self.session else { return Ok(()) };
        let staging = Staging::new(&gpu, demand.batch, demand.batch * demand.frames * self.input.iter().product::<usize>())?;
        gpu.synchronize()?; // the copy stream must not overtake what has cleared the memory
        session.sums = demand.sums;
        let report = Report::new(&gpu, &buffers)?;
        session.resident = Some(Resident { demand, buffers, weights, constants, staging, report, gaps, recorded: Vec::new(), memory });
        (session.host_is_newer, session.optimizer_is_newer, session.evaluates, session.spared) = (true, true, false, None);
        Ok(())
    }

    /// Bytes of device memory that the network has taken; 0 on the CPU and before the first use.
    pub fn device_bytes(&self) -> usize {
        self.session.as_ref().and_then(|s| s.resident.as_ref()).map_or(0, |resident| resident.memory.slice().bytes())
    }

    /// Bytes between the buffers on the device that some kernel has written to; 0 on the CPU, and where every kernel stays inside its
    /// buffers.
    ///
    /// # Errors
    /// [`Error::Device`] if the device fails.
    pub fn stray_bytes(&self) -> Result<usize> {
        let Some(resident) = self.session.as_ref().and_then(|s| s.resident.as_ref()) else { return Ok(0) };
        let bytes = resident.memory.to_vec()?;
        Ok(resident.gaps.iter().map(|gap| bytes[gap.clone()].iter().filter(|byte| **byte != 0).count()).sum())
    }

    /// Refuses what kernels do not take.
    fn check_device_limits(&self) -> Result<()> {
        for layer in &self.layers {
            for connection in &layer.connections {
                if connection.geometry.area() > 255 && !self.neuron.is_real() {
                    let window = connection.geometry.pool;
                    return Err(Error::shape(format!("{} on CUDA", layer.name), "a pool window of at most 255 positions", window));
                }
            }
        }
        Ok(())
    }

    /// The weight gradient that training takes: with the one step of an ANN all are the same.
    fn device_gradient(&self, gradient: WeightGradient) -> WeightGradient {
        if self.neuron.is_real() { WeightGradient::Rate } else { gradient }
    }

    /// Whether forward in training stores the sums of connection `k` of a layer.
    fn stores_sums(&self, index: usize, k: usize, demand: &Demand) -> bool {
        let layer = &self.layers[index];
        let connection = &layer.connections[k];
        let is_conv = matches!(connection.kind, Kind::Conv { .. });
        let is_pooled = connection.geometry.pool != [1, 1, 0];
        match connection.source {
            Source::Layer(_) if self.neuron.is_real() => is_conv || is_pooled,
            Source::Input => true,
            Source::Layer(_) if !is_conv => is_pooled,
            Source::Layer(_) => {
                demand.training.is_some_and(|gradient| layer.norm.is_some() && self.stores_convolutions(index, gradient, demand))
            }
        }
    }

    /// Brings parameters and running statistics to the device where the host has newer ones, and makes the weights of forward.
    fn bring(&mut self) -> Result<()> {
        let Some(session) = &self.session else { return Ok(()) };
        let (true, Some(resident)) = (session.host_is_newer, &session.resident) else { return Ok(()) };
        let (gpu, buffers) = (&session.gpu, &resident.buffers);
        gpu.upload(&self.values, buffers.values)?;
        gpu.upload(&self.running(), buffers.running)?;
        self.enqueue_weights(gpu, buffers, &resident.weights, resident.demand.training.is_some())?;
        if let Some(session) = &mut self.session {
            (session.host_is_newer, session.evaluates) = (false, false);
        }
        Ok(())
    }

    /// Fetches what training steps have changed on the device.
    pub(super) fn fetch(&mut self, mut optimizer: Option<&mut Optimizer>) -> Result<()> {
        let Some(session) = &mut self.session else { return Ok(()) };
        if let Some(optimizer) = &mut optimizer
            && let Some(carried) = session.take_carried(optimizer)
        {
            for (arena, carried) in optimizer.arenas_mut().into_iter().zip(carried) {
                arena.into_iter().for_each(|arena| arena.clone_from(&carried));
            }
        }
        // State of another optimiser stays its own.
        let optimizer = optimizer.filter(|optimizer| session.holder == Some(optimizer.identity.number()));
        if optimizer.is_none() {
            session.carry_optimizer()?;
        }
        let (true, Some(resident)) = (session.device_is_newer, &session.resident) else { return Ok(()) };
        let (gpu, buffers) = (session.gpu.clone(), &resident.buffers);
        gpu.download(buffers.values, &mut self.values)?;
        gpu.download(buffers.grads, &mut self.grads)?;
        let mut running = vec![0.0; buffers.running.len()];
        gpu.download(buffers.running, &mut running)?;
        if let Some(optimizer) = optimizer {
            for (arena, buffer) in optimizer.arenas_mut().into_iter().zip(buffers.optimizer_arenas()) {
                let Some(arena) = arena else { continue };
                arena.resize(buffer.len(), 0.0);
                gpu.download(buffer, arena)?;
            }
        }
        session.device_is_newer = false;
        self.set_running(&running);
        Ok(())
    }

    /// What a batch in this mode needs.
    fn reserve_for(&mut self, input: &Input, mode: Mode, optimizer: Option<&Optimizer>) -> Result<()> {
        let training = match mode {
            Mode::Eval => None,
            Mode::Train { gradient, .. } => Some(gradient),
        };
        self.reserve(input.batch, input.frames, training, optimizer)
    }
}

impl Demand {
    /// Whether memory for `self` serves `other`, too.
    fn covers(&self, other: &Demand) -> bool {
        self.joined(other) == *self
    }

    /// The least that covers both, as far as they can be joined: T, the choice of sums and all constants are those of `other`.
    fn joined(&self, other: &Demand) -> Demand {
        Demand {
            batch: self.batch.max(other.batch),
            frames: self.frames.max(other.frames),
            training: match (self.training, other.training) {
                (Some(WeightGradient::Unrolled), _) | (_, Some(WeightGradient::Unrolled)) => Some(WeightGradient::Unrolled),
                (first, second) => first.or(second),
            },
            optimizer: self.optimizer.joined(other.optimizer),
            activations: self.activations || other.activations,
            ..*other
        }
    }
}

impl OptimizerDemand {
    fn of(update: Update) -> Self {
        let Update { rule, clip_norm, spares, averages, .. } = update;
        OptimizerDemand { second: rule.has_second(), spared: spares, clips: clip_norm.is_some(), averages }
    }

    fn joined(self, other: Self) -> Self {
        OptimizerDemand {
            second: self.second || other.second,
            spared: self.spared || other.spared,
            clips: self.clips || other.clips,
            averages: self.averages || other.averages,
        }
    }
}
