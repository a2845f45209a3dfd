//! The batches of an epoch, prepared by a thread while the engine works on the batch before.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use rayon::prelude::*;

use super::augment::{Purpose, below, generator};
use super::stream::Chance;
use super::{Augment, Dataset, Draw, Hole, Mix, Part, Pixels, Split};
use crate::error::{Error, Result};
use crate::ops::cross_entropy::Blend;

/// Batches that wait, ready, for the engine; one more is in preparation.
const AHEAD: usize = 2;

/// All places of a batch.
const WHOLE: Range<usize> = 0..usize::MAX;

/// Input of one step.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// `[B][frames][H][W][C]`, normalised; only of [`Form::Values`].
    pub data: Vec<f32>,
    /// `[B][H][W][C]`; only of [`Form::Bytes`].
    pub bytes: Vec<u8>,
    /// Only of [`Form::Draws`]: images of the training split by index, and what happens to each, `[B]`.
    pub draws: Vec<(u32, Draw)>,
    /// Of [`Form::Bytes`] and [`Form::Draws`]: what is to be zero of each image, `[B]`; empty without cutout. Values have it done.
    pub holes: Vec<Hole>,
    /// The other class of each sample that was mixed, `[B]`; empty without mixup.
    pub blends: Vec<Blend>,
    /// Classes, `[B]`.
    pub labels: Vec<u32>,
    /// Images a sample: 1 for static images, T for recordings of an event camera.
    pub frames: usize,
}

/// What a batch holds of its samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// Values, as a network takes them.
    #[default]
    Values,
    /// Pictures of one byte a value, cut and mirrored, for a device that makes the same values of them with [`Batch::holes`]. Recordings
    /// stay values.
    Bytes,
    /// What to do with which image of the training split, for a device that has them all. Other samples are as for `Bytes`.
    Draws,
}

/// Checks a batch size against the training split.
///
/// # Errors
/// [`Error::Config`] if it is 0, or larger than the training split.
pub fn check_batch(dataset: &Dataset, batch: usize) -> Result<()> {
    let images = dataset.train.len();
    match batch {
        0 => Err(Error::config("batch", "a batch needs at least one image")),
        _ if batch > images => {
            let problem = format!("{batch} is more than the {images} training images of {}; lower -b", dataset.label());
            Err(Error::config("batch", problem))
        }
        _ => Ok(()),
    }
}

/// Order of the training images in an epoch: a Fisher-Yates shuffle that is a function of (seed, epoch).
pub fn epoch_order(images: usize, seed: u64, epoch: u64) -> Vec<u32> {
    let mut order: Vec<u32> = (0..images as u64).map(|index| index as u32).collect();
    let mut rng = generator(seed, Purpose::Order, epoch, 0);
    for last in (1..images).rev() {
        order.swap(last, below(&mut rng, last as u64 + 1) as usize);
    }
    order
}

/// Iterator over the batches of one pass through a split. Dropping it ends its threads.
///
/// A sample that cannot be read ends the pass before its batch; [`Loader::outcome`] then has the error.
#[derive(Debug)]
pub struct Loader {
    plan: Arc<Plan>,
    /// Step whose batch comes next.
    step: usize,
    ready: Option<Receiver<Result<Batch>>>,
    failed: Option<Error>,
    thread: Option<JoinHandle<()>>,
}

/// What every batch of the pass is a function of.
#[derive(Debug)]
struct Plan {
    dataset: Arc<Dataset>,
    pixels: Pixels,
    batch: usize,
    /// Places within each batch that this pass takes; of a short batch what there is, maybe nothing.
    places: Range<usize>,
    /// Of every so many batches the pass takes one.
    every: usize,
    form: Form,
    /// None for a pass through the test split, as it lies.
    training: Option<Training>,
    /// Threads that read the samples of a streamed set, several at once; none where the system has none.
    readers: Option<rayon::ThreadPool>,
}

#[derive(Debug)]
struct Training {
    chance: Chance,
    order: Vec<u32>,
}

impl Loader {
    /// The training batches of one epoch, from step `first_step` on: the same ones as if the steps before it had been taken.
    ///
    /// The last batch holds what is left and may be as small as one image, over which a batch norm without positions has no
    /// variance; choose a batch size that leaves no single image, or accept one such step an epoch, as in PyTorch without
    /// `drop_last`. The sizes are checked by [`check_batch`]; a `batch` of 0 counts as 1.
    pub fn train(dataset: Arc<Dataset>, batch: usize, augment: Augment, seed: u64, epoch: usize, first_step: usize) -> Self {
        Self::train_as(Form::Values, dataset, batch, augment, seed, epoch, first_step)
    }

    /// The same batches in another form, as far as [`Augment::form`] allows.
    pub fn train_as(form: Form, dataset: Arc<Dataset>, batch: usize, augment: Augment, seed: u64, epoch: usize, first_step: usize) -> Self {
        Self::train_part(form, dataset, batch, WHOLE, augment, seed, epoch, first_step)
    }

    /// Of the same batches, the samples at some places only.
    pub fn train_part(
        form: Form,
        dataset: Arc<Dataset>,
        batch: usize,
        places: Range<usize>,
        augment: Augment,
        seed: u64,
        epoch: usize,
        first_step: usize,
    ) -> Self {
        let form = augment.form(form);
        let epoch = epoch as u64;
        let order = epoch_order(dataset.train.len(), seed, epoch);
        Self::start(form, dataset, batch, places, Some(Training { chance: Chance { augment, seed, epoch }, order }), [first_step, 1])
    }

    /// The test images in their order, as they are.
    pub fn test(dataset: Arc<Dataset>, batch: usize) -> Self {
        Self::test_as(Form::Values, dataset, batch)
    }

    /// The same batches in another form.
    pub fn test_as(form: Form, dataset: Arc<Dataset>, batch: usize) -> Self {
        Self::test_dealt(form, dataset, batch, [0, 1])
    }

    /// Of the same batches, every `every`-th from `first` on.
    pub fn test_dealt(form: Form, dataset: Arc<Dataset>, batch: usize, [first, every]: [usize; 2]) -> Self {
        Self::start(form, dataset, batch, WHOLE, None, [first, every])
    }

    fn start(
        form: Form,
        dataset: Arc<Dataset>,
        batch: usize,
        places: Range<usize>,
        training: Option<Training>,
        [first_step, every]: [usize; 2],
    ) -> Self {
        // Not the threads that compute: those would wait for a file in the middle of a layer.
        let pool = || rayon::ThreadPoolBuilder::new().num_threads(rayon::current_num_threads()).build().ok();
        let readers = dataset.stream.as_ref().and_then(|_| pool());
        let samples = dataset.split(if training.is_some() { Part::Train } else { Part::Test }).len();
        let batch = batch.clamp(1, samples.max(1)); // a larger one is the whole split
        let plan = Arc::new(Plan { pixels: Pixels::of(&dataset), dataset, batch, places, every: every.max(1), form, training, readers });
        let (sender, ready) = sync_channel(AHEAD);
        let steps = (first_step..plan.steps()).step_by(plan.every);
        let worker = Arc::clone(&plan);
        // Without a thread (the system has none left) the sender is gone, and `next` prepares the batches itself.
        let thread = std::thread::Builder::new()
            .name("batches".into())
            .spawn(move || {
                for step in steps {
                    let batch = worker.prepare(step);
                    let is_last = batch.is_err();
                    if sender.send(batch).is_err() || is_last {
                        return;
                    }
                }
            })
            .ok();
        Loader { plan, step: first_step, ready: Some(ready), failed: None, thread }
    }

    /// Why the pass ended early, once.
    ///
    /// # Errors
    /// [`Error::File`] or [`Error::Io`] of the sample that could not be read.
    pub fn outcome(&mut self) -> Result<()> {
        self.failed.take().map_or(Ok(()), Err)
    }
}

impl Iterator for Loader {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        if self.step >= self.plan.steps() {
            return None;
        }
        // The channel ends early only if the thread could not be started or broke off; a batch is never left out.
        let ready = self.ready.as_ref().and_then(|ready| ready.recv().ok());
        match ready.unwrap_or_else(|| self.plan.prepare(self.step)) {
            Ok(batch) => {
                self.step += self.plan.every;
                Some(batch)
            }
            Err(error) => {
                self.step = self.plan.steps();
                self.failed = Some(error);
                None
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.plan.steps().saturating_sub(self.step).div_ceil(self.plan.every);
        (left, Some(left))
    }
}

impl ExactSizeIterator for Loader {}

impl Drop for Loader {
    fn drop(&mut self) {
        // Without a receiver the thread's next send fails, so this waits for one batch at most.
        self.ready = None;
        if let Some(thread) = self.thread.take() {
            // Err would be a panic of the thread, which has been printed, and whose batch `next` has prepared again.
            let _ = thread.join();
        }
    }
}

impl Plan {
    fn part(&self) -> Part {
        if self.training.is_some() { Part::Train } else { Part::Test }
    }

    fn split(&self) -> &Split {
        self.dataset.split(self.part())
    }

    fn steps(&self) -> usize {
        self.split().len().div_ceil(self.batch)
    }

    /// Samples of a step on all ranks, by place in the pass.
    fn step(&self, step: usize) -> Range<usize> {
        step * self.batch..((step + 1) * self.batch).min(self.split().len())
    }

    /// Samples of a step, by place in its batch: those of this pass.
    fn own(&self, step: usize) -> Range<usize> {
        let Range { start, end } = self.step(step);
        self.places.start.min(end - start)..self.places.end.min(end - start)
    }

    /// Sample of a step at a place of its batch, by index.
    fn sample(&self, step: usize, place: usize) -> usize {
        let place = step * self.batch + place;
        self.training.as_ref().map_or(place, |training| training.order[place] as usize)
    }

    /// Whom the samples of a step are mixed with, if at all: all places of the batch, whoever has them.
    fn mix(&self, step: usize) -> Option<Mix> {
        let Chance { augment, seed, epoch } = self.training.as_ref()?.chance;
        (augment.mixup > 0.0).then(|| Mix::draw(augment.mixup, self.step(step).len(), seed, epoch, step as u64))
    }

    fn prepare(&self, step: usize) -> Result<Batch> {
        let (split, own, mix) = (self.split(), self.own(step), self.mix(step));
        let mut samples: Vec<usize> = own.clone().map(|place| self.sample(step, place)).collect();
        // Partners at places of others are prepared here, too; a whole batch has them all.
        let is_part = own.len() < self.step(step).len();
        if let (Some(mix), true) = (&mix, is_part) {
            samples.extend(mix.partners[own.clone()].iter().map(|&partner| self.sample(step, partner)));
        }
        let mut labels: Vec<u32> = samples.iter().map(|&index| split.labels[index]).collect();
        let (mut data, mut bytes, mut draws) = (Vec::new(), Vec::new(), Vec::new());
        let chance = self.training.as_ref().map(|training| &training.chance);
        let (size, pixels) = (split.images.size(), &self.pixels);
        let is_of_bytes = self.form != Form::Values && self.dataset.has_bytes();
        match (&self.dataset.stream, chance) {
            (Some(stream), _) if is_of_bytes => {
                bytes = self.read(&samples, |index, out| stream.fill_bytes(pixels, self.part(), index, chance, out))?;
            }
            (Some(stream), _) => data = self.read(&samples, |index, out| stream.fill(pixels, self.part(), index, chance, out))?,
            (None, None) if is_of_bytes => samples.iter().for_each(|&index| bytes.extend_from_slice(split.images.image(index))),
            (None, None) => {
                data.reserve_exact(samples.len() * size);
                samples.iter().for_each(|&index| pixels.append(split.images.image(index), &mut data));
            }
            (None, Some(Chance { augment, seed, epoch })) => {
                data.reserve_exact(if self.form == Form::Values { samples.len() * size } else { 0 });
                let mut picture = Vec::new();
                for &index in &samples {
                    let (image, draw) = (split.images.image(index), augment.draw(*seed, *epoch, index as u64));
                    match self.form {
                        Form::Draws => draws.push((index as u32, draw)),
                        Form::Values | Form::Bytes if !augment.auto_augment.is_off() => {
                            picture.clear();
                            pixels.append_drawn_bytes(image, augment.crop_pad, draw, &mut picture);
                            augment.auto_augment.augment(&mut picture, pixels.shape(), *seed, *epoch, index as u64);
                            if self.form == Form::Values { pixels.append(&picture, &mut data) } else { bytes.extend(&picture) }
                        }
                        Form::Values => pixels.append_drawn(image, augment.crop_pad, draw, &mut data),
                        Form::Bytes => pixels.append_drawn_bytes(image, augment.crop_pad, draw, &mut bytes),
                    }
                }
            }
        }
        let hole = |&index: &usize| {
            let Chance { augment, seed, epoch } = chance?;
            augment.hole(self.dataset.shape, *seed, *epoch, index as u64)
        };
        let mut holes: Vec<Hole> = samples.iter().filter_map(hole).collect();
        if !data.is_empty() {
            let samples = data.chunks_exact_mut(self.dataset.sample_values());
            samples.zip(holes.drain(..)).for_each(|(sample, hole)| hole.clear(sample, self.dataset.shape));
        }
        let mut blends = Vec::new();
        if let Some(mix) = &mix {
            let values = self.dataset.sample_values();
            if is_part {
                mix.mix_with(&mut data, own.len() * values)
            } else {
                mix.mix(&mut data, values)
            }
            blends.extend(mix.partners[own].iter().map(|&partner| {
                let other = split.labels[self.sample(step, partner)];
                Blend { other, share: mix.share }
            }));
            labels.truncate(blends.len());
        }
        Ok(Batch { data, bytes, draws, holes, blends, labels, frames: self.dataset.frames })
    }

    /// What `fill` makes of some samples of a streamed set; of several errors, that of the first sample.
    fn read<T: Copy + Default + Send>(&self, samples: &[usize], fill: impl Fn(usize, &mut [T]) -> Result<()> + Sync) -> Result<Vec<T>> {
        let values = self.dataset.sample_values().max(1);
        let mut data = vec![T::default(); samples.len() * values];
        let fill = |(out, &index): (&mut [T], &usize)| fill(index, out);
        let results: Vec<Result<()>> = match &self.readers {
            Some(pool) => pool.install(|| data.par_chunks_mut(values).zip(samples).map(fill).collect()),
            None => data.chunks_mut(values).zip(samples).map(fill).collect(),
        };
        results.into_iter().collect::<Result<()>>()?;
        Ok(data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_its_thread_a_loader_gives_the_same_batches() {
        let dataset = Arc::new(crate::data::load("digits-8x8", None).unwrap());
        let augment = Augment { crop_pad: 1, flip: true, ..Augment::default() };
        let loader = || Loader::train(Arc::clone(&dataset), 100, augment, 1, 2, 3);
        let mut alone = loader();
        alone.ready = Some(sync_channel(1).1);
        assert_eq!(alone.len(), 12);
        assert_eq!(alone.collect::<Vec<_>>(), loader().collect::<Vec<_>>());
    }
}
