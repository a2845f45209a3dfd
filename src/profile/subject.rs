//! What is profiled: a network with the batches that it gets, a step at a time.

use std::sync::Arc;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::bench::{Work, settle_batch_norm};
use crate::clock::{self, Name, Op, Phase};
use crate::data::{Batch, Dataset, Loader, check_batch};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::network::{Forward, Init, Input, Mode, Network, Samples};
use crate::ops::optimizer::Optimizer;
use crate::settings::{Config, Use};
use crate::training::checkpoint;

/// Where the images come from.
#[derive(Clone, Debug)]
pub enum Images {
    /// One random batch, again and again: height, width, channels.
    Random { shape: [usize; 3], classes: usize },
    /// Batches of a data set, cropped and mirrored as in training, or the test split.
    Dataset(Arc<Dataset>),
}

/// A network at work.
pub struct Subject {
    pub network: Network,
    pub config: Config,
    work: Work,
    optimizer: Option<Optimizer>,
    images: Images,
    loader: Option<Loader>,
    epoch: usize,
    batch: Batch,
    iteration: u64,
}

impl Subject {
    /// Makes the network, from `checkpoint` where given. A new network that infers has the batch-norm statistics of its first batch, so
    /// that it fires as in training.
    ///
    /// # Errors
    /// What is wrong with settings, images or checkpoint.
    pub fn new(work: Work, config: Config, images: Images, checkpoint: Option<&std::path::Path>, device: &Device) -> Result<Subject> {
        config.check()?;
        let (shape, classes) = match &images {
            Images::Random { shape, classes } => (*shape, *classes),
            Images::Dataset(dataset) => (dataset.shape, dataset.classes.len()),
        };
        if let Images::Dataset(dataset) = &images {
            check_batch(dataset, config.batch)?;
            if work == Work::Infer && config.batch > dataset.test.len() {
                let problem =
                    format!("{} is more than the {} test images of {}; lower -b", config.batch, dataset.test.len(), dataset.label());
                return Err(Error::config("batch", problem));
            }
        }
        let usage = if checkpoint.is_some() && work == Work::Infer { Use::Evaluate } else { work.usage() };
        let frames = match &images {
            Images::Random { .. } => random_frames(&config),
            Images::Dataset(dataset) => dataset.frames,
        };
        config.check_memory(usage, shape, classes, [config.batch, frames], device)?;
        let mut network = config.network(shape, classes)?;
        let mut optimizer = (work == Work::Train).then(|| config.optimizer(&network));
        if let Some(path) = checkpoint {
            checkpoint::load(path, &mut network, optimizer.as_mut())?;
        }
        let batch = match &images {
            Images::Random { .. } => random_batch(&config, shape, classes),
            Images::Dataset(_) => Batch {
                data: Vec::new(),
                bytes: Vec::new(),
                draws: Vec::new(),
                holes: Vec::new(),
                blends: Vec::new(),
                labels: Vec::new(),
                frames: 1,
            },
        };
        let mut subject = Subject { network, config, work, optimizer, images, loader: None, epoch: 0, batch, iteration: 0 };
        subject.next_batch()?;
        if work == Work::Infer && checkpoint.is_none() {
            subject.settle()?;
        }
        subject.network.place(device)?;
        let training = subject.optimizer.as_ref().map(|_| subject.config.gradient());
        subject.network.reserve(subject.config.batch, subject.batch.frames, training, subject.optimizer.as_ref())?;
        Ok(subject)
    }

    /// Gives the network the batch-norm statistics of the batch at hand.
    fn settle(&mut self) -> Result<()> {
        let Batch { data, labels, frames, .. } = &self.batch;
        settle_batch_norm(&mut self.network, &Input { data, batch: labels.len(), frames: *frames })
    }

    /// A training step or an inference on the next batch.
    ///
    /// # Errors
    /// [`Error::NotFinite`] if training diverges; what a device refuses.
    pub fn step(&mut self) -> Result<()> {
        self.next_batch()?;
        self.iteration += 1;
        let Subject { network, config, optimizer, batch, iteration, .. } = self;
        let input = Input { data: &batch.data, batch: batch.labels.len(), frames: batch.frames };
        let Some(optimizer) = optimizer else {
            return network.forward(&input, Mode::Eval, |_| false).map(|_| ());
        };
        let mode = Mode::Train { gradient: config.gradient(), seed: *iteration };
        network.begin_step(optimizer, config.lr as f32, &Samples::of(batch), &batch.labels, mode)?;
        let step = network.finish_step(optimizer)?;
        step.not_finite.map_or(Ok(()), |layer| Err(Error::NotFinite { step: *iteration, layer, checkpoint: None }))
    }

    /// One more forward pass on the batch of the last step, as in that step, with the spikes of all layers.
    ///
    /// # Errors
    /// What a device refuses.
    pub fn forward_again(&mut self) -> Result<Forward> {
        let Subject { network, config, work, batch, iteration, .. } = self;
        let mode = match work {
            Work::Train => Mode::Train { gradient: config.gradient(), seed: *iteration },
            Work::Infer => Mode::Eval,
        };
        network.forward(&Input { data: &batch.data, batch: batch.labels.len(), frames: batch.frames }, mode, |_| true)
    }

    /// The optimiser, in training.
    pub fn optimizer(&self) -> Option<&Optimizer> {
        self.optimizer.as_ref()
    }

    /// The batch of the last step.
    pub fn batch(&self) -> &Batch {
        &self.batch
    }

    /// The data set, unless the images are random.
    pub fn dataset(&self) -> Option<&Arc<Dataset>> {
        if let Images::Dataset(dataset) = &self.images { Some(dataset) } else { None }
    }

    /// Waits for the next whole batch; a random one stays.
    fn next_batch(&mut self) -> Result<()> {
        let Images::Dataset(dataset) = &self.images else { return Ok(()) };
        let _phase = clock::span(Name::Phase(Phase::Data));
        let _op = clock::span(Name::Op(Op::Wait));
        loop {
            let (batch, seed, augment) = (self.config.batch, self.config.seed, self.config.augment());
            let loader = self.loader.get_or_insert_with(|| match self.work {
                Work::Train => Loader::train(Arc::clone(dataset), batch, augment, seed, self.epoch, 0),
                Work::Infer => Loader::test(Arc::clone(dataset), batch),
            });
            match loader.next() {
                Some(next) if next.labels.len() == batch => {
                    self.batch = next;
                    return Ok(());
                }
                _ => {
                    loader.outcome()?;
                    (self.loader, self.epoch) = (None, self.epoch + 1); // what is left of an epoch would be a smaller step
                }
            }
        }
    }
}

/// Frames of a random image: VGG reads events, a frame a step.
fn random_frames(config: &Config) -> usize {
    if config.model.starts_with("vgg") { config.time_steps } else { 1 }
}

fn random_batch(config: &Config, shape: [usize; 3], classes: usize) -> Batch {
    let frames = random_frames(config);
    let mut data = vec![0.0; config.batch * frames * shape.iter().product::<usize>()];
    let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
    Init::Normal(1.0).fill(&mut data, &mut rng);
    let labels = (0..config.batch).map(|_| rng.random_range(0..classes as u32)).collect();
    Batch { data, bytes: Vec::new(), draws: Vec::new(), holes: Vec::new(), blends: Vec::new(), labels, frames }
}
