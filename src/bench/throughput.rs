//! Times training steps and inferences: of a new network on random images, or of a trained one on samples of its data.

use std::sync::Arc;
use std::time::Instant;

use clap::ValueEnum;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::times::Times;
use super::trained::Trained;
use crate::device::Device;
use crate::device::machine::{forget_peak_rss, peak_rss};
use crate::device::room::{Bytes, Room};
use crate::error::{Error, Result};
use crate::network::{Init, Input, Mode, Network, WeightGradient};
use crate::ops::batch_norm::MOMENTUM;
use crate::ops::optimizer::Optimizer;
use crate::settings::models;
use crate::settings::{Config, Use};
use crate::training::checkpoint;

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Work {
    /// A training step: forward, cross-entropy, backward, update, and the weights of the next forward.
    Train,
    /// A forward pass in evaluation mode.
    Infer,
}

impl Work {
    /// What the network of a case is used for; an untrained one that infers takes the statistics of its images first.
    pub fn usage(self) -> Use {
        match self {
            Work::Train => Use::Train,
            Work::Infer => Use::Settle,
        }
    }
}

/// One thing to measure.
#[derive(Clone, Debug)]
pub struct Case {
    /// What is timed.
    pub work: Work,
    /// Network, neuron, T, batch and, for training, the update rule. The data set is not read.
    pub config: Config,
    /// Height, width, channels of the images.
    pub shape: [usize; 3],
    /// Where to compute.
    pub device: Device,
    /// The trained network that is measured, and what it is shown; none for a new one on random images.
    pub trained: Option<Arc<Trained>>,
}

/// What came out.
#[derive(Clone, Debug)]
pub struct Timing {
    /// Seconds of each timed step.
    pub seconds: Vec<f64>,
    /// Spikes per neuron and time step over all neurons, in the last step.
    pub mean_firing_rate: f32,
    /// Bytes kept for backward; 0 in inference.
    pub kept_bytes: usize,
    /// Bytes of device memory that the network took; 0 on the CPU.
    pub device_bytes: usize,
    /// Most memory of the process in warm-up and timed steps, bytes; `None` where the system does not tell.
    pub peak_rss_bytes: Option<u64>,
}

impl Timing {
    /// How the seconds are spread.
    pub fn times(&self) -> Times {
        Times::of(&self.seconds)
    }
}

/// Height, width, channels of the images that the paper feeds a network: CIFAR, DVS-CIFAR10 for VGG, ImageNet. Networks for photos of any
/// size get Tiny-ImageNet's.
pub fn usual_shape(model: &str) -> [usize; 3] {
    match model {
        vgg if vgg.starts_with("vgg") => [48, 48, 2],
        imagenet if imagenet.starts_with("imagenet") => [224, 224, 3],
        photo if photo.starts_with("photo") => [64, 64, 3],
        _ => [32, 32, 3],
    }
}

impl Case {
    /// Classes of the paper's data set, or of that of the trained network.
    pub fn classes(&self) -> usize {
        if let Some(trained) = &self.trained {
            return trained.classes;
        }
        if self.config.model.starts_with("imagenet") { 1000 } else { 10 }
    }

    /// Frames of a sample: VGG reads events, a frame a step.
    pub fn frames(&self) -> usize {
        if let Some(trained) = &self.trained {
            return trained.frames;
        }
        if self.config.model.starts_with("vgg") { self.config.time_steps } else { 1 }
    }

    /// What the network is used for; a trained one has its statistics.
    pub fn usage(&self) -> Use {
        if self.work == Work::Infer && self.trained.is_some() { Use::Evaluate } else { self.work.usage() }
    }

    /// Refuses what cannot be measured, without allocating a network.
    ///
    /// # Errors
    /// [`Error::Config`] if settings, network and images do not suit each other.
    pub fn check(&self) -> Result<()> {
        self.config.check()?;
        models::build(&self.config.architecture(), self.shape, self.classes()).map(|_| ())
    }

    /// Refuses what the memory does not suffice for, before any of it is taken.
    ///
    /// # Errors
    /// [`Error::Config`] with the bytes that are needed and those that there are.
    pub fn check_memory(&self, usage: Use) -> Result<()> {
        self.config.check_memory(usage, self.shape, self.classes(), [self.config.batch, self.frames()], &self.device)
    }
}

/// A case ready to run: a new network, and images and labels drawn from the seed, or a trained one with samples of its data.
pub struct Bench {
    case: Case,
    network: Network,
    /// For training.
    optimizer: Option<Optimizer>,
    /// `[B][1 or T][H][W][C]`.
    data: Vec<f32>,
    labels: Vec<u32>,
    steps: u64,
}

impl Bench {
    /// Makes network and images. An inference of a new network gets the batch-norm statistics of its own images, so that it fires as
    /// training does.
    ///
    /// # Errors
    /// What [`Case::check`] refuses; [`Error::Config`] for a batch that does not fit into memory; what is wrong with a checkpoint.
    pub fn new(case: &Case) -> Result<Bench> {
        case.check()?;
        case.check_memory(case.usage())?;
        let Config { batch, seed, .. } = case.config;
        let mut network = case.config.network(case.shape, case.classes())?;
        let values = case.frames() * case.shape.iter().product::<usize>();
        let (data, labels) = match &case.trained {
            Some(trained) => {
                checkpoint::load(&trained.path, &mut network, None)?;
                check_room(batch, values)?;
                trained.batch(batch)
            }
            None => {
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                let data = random_images(batch, values, &mut rng)?;
                let labels = (0..batch).map(|_| rng.random_range(0..network.classes as u32)).collect();
                (data, labels)
            }
        };
        let optimizer = match case.work {
            Work::Train => Some(case.config.optimizer(&network)),
            Work::Infer => None,
        };
        if case.work == Work::Infer && case.trained.is_none() {
            settle_batch_norm(&mut network, &Input { data: &data, batch, frames: case.frames() })?;
        }
        network.place(&case.device)?;
        let training = optimizer.as_ref().map(|_| case.config.gradient());
        network.reserve(batch, case.frames(), training, optimizer.as_ref())?;
        Ok(Bench { case: case.clone(), network, optimizer, data, labels, steps: 0 })
    }

    /// The network with its images, `[B][frames][H][W][C]`: what an inference takes.
    pub(super) fn parts(&mut self) -> (&mut Network, Input<'_>) {
        let batch = self.case.config.batch;
        (&mut self.network, Input { data: &self.data, batch, frames: self.case.frames() })
    }

    /// One training step or inference; returns the mean firing rate over all neurons.
    ///
    /// # Errors
    /// [`Error::NotFinite`] if training diverges.
    pub fn step(&mut self) -> Result<f32> {
        let Bench { case: Case { config, .. }, network, optimizer, data, labels, steps } = self;
        let input = Input { data, batch: config.batch, frames: data.len() / config.batch / network.input.iter().product::<usize>() };
        *steps += 1;
        let Some(optimizer) = optimizer else {
            let forward = network.forward(&input, Mode::Eval, |_| false)?;
            return Ok(network.mean_rate(&forward.rates));
        };
        let mode = Mode::Train { gradient: config.gradient(), seed: *steps };
        let step = network.train_step(optimizer, config.lr as f32, &input, labels, mode)?;
        match step.not_finite {
            Some(layer) => Err(Error::NotFinite { step: *steps, layer, checkpoint: None }),
            None => Ok(network.mean_rate(&step.rates)),
        }
    }
}

/// Times `repeats` steps after `warmup` steps that are not timed.
///
/// # Errors
/// What [`Bench::new`] and [`Bench::step`] refuse.
pub fn time_steps(case: &Case, warmup: usize, repeats: usize) -> Result<Timing> {
    let mut bench = Bench::new(case)?;
    forget_peak_rss();
    let mut mean_firing_rate = 0.0;
    let mut seconds = Vec::with_capacity(repeats);
    for step in 0..warmup + repeats {
        let begin = Instant::now();
        mean_firing_rate = bench.step()?;
        if step >= warmup {
            seconds.push(begin.elapsed().as_secs_f64());
        }
    }
    Ok(Timing {
        seconds,
        mean_firing_rate,
        kept_bytes: bench.network.kept_bytes(),
        device_bytes: bench.network.device_bytes(),
        peak_rss_bytes: peak_rss(),
    })
}

/// A new network with random images; an inference fires as training does.
pub struct RandomImages {
    pub network: Network,
    /// `[B][frames][H][W][C]`.
    pub images: Vec<f32>,
    /// 1 or T.
    pub frames: usize,
}

impl RandomImages {
    /// `samples` images for the network of a case, on the CPU.
    ///
    /// # Errors
    /// As [`Bench::new`].
    pub fn new(case: &Case, samples: usize) -> Result<RandomImages> {
        // Few images settle the statistics as well as many; training keeps much of each.
        let config = Config { batch: samples.clamp(1, 32), ..case.config.clone() };
        let settled = Case { work: Work::Infer, config, device: Device::Cpu, ..case.clone() };
        let (network, frames) = (Bench::new(&settled)?.network, case.frames());
        let mut rng = ChaCha8Rng::seed_from_u64(case.config.seed);
        let images = random_images(samples, frames * case.shape.iter().product::<usize>(), &mut rng)?;
        Ok(RandomImages { network, images, frames })
    }
}

/// Refuses more images than fit into memory, `samples` times `values`.
pub(super) fn check_room(samples: usize, values: usize) -> Result<()> {
    let bytes = (samples as u64).saturating_mul(values as u64).saturating_mul(4);
    Room::now().check(Bytes { written: bytes, reserved: 0 }, &format!("{samples} images"), "take fewer, or smaller ones")
}

/// Normal random values, `samples` times `values`.
fn random_images(samples: usize, values: usize, rng: &mut ChaCha8Rng) -> Result<Vec<f32>> {
    check_room(samples, values)?;
    let mut data = vec![0.0; samples * values];
    Init::Normal(1.0).fill(&mut data, rng);
    Ok(data)
}

/// Makes the running statistics those of `input`, so that an untrained network fires in inference as it does in training.
pub(crate) fn settle_batch_norm(network: &mut Network, input: &Input) -> Result<()> {
    // On a copy: what training keeps is no memory of inference.
    let mut trained = network.clone();
    for norm in &mut trained.norms {
        norm.running_mean.fill(0.0);
        norm.running_var.fill(0.0);
    }
    trained.forward(input, Mode::Train { gradient: WeightGradient::Rate, seed: 0 }, |_| false)?;
    network.norms = trained.norms;
    for norm in &mut network.norms {
        // Started from zero, one update leaves the share `MOMENTUM` of the new statistics.
        norm.running_mean.iter_mut().chain(&mut norm.running_var).for_each(|v| *v /= MOMENTUM as f32);
    }
    Ok(())
}
