//! Samples that are no images in memory: most are read from their file when their batch is prepared.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use super::arrays::Values;
use super::augment::{Purpose, below, generator};
use super::recordings::change;
use super::{Augment, Events, Photos, Pixels, Recordings};
use crate::error::{Error, Result};

/// Training or test split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// What a network learns from.
    Train,
    /// What it is measured on.
    Test,
}

/// Where samples come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Stream {
    /// Recordings of an event camera.
    Events(Events),
    /// Photos.
    Photos(Photos),
    /// Samples that lie in memory and are no images of bytes.
    Values(Values),
    /// Recordings of any event camera.
    Recordings(Recordings),
}

/// What random changes are a function of, beside the index of a sample.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chance {
    pub augment: Augment,
    pub seed: u64,
    pub epoch: u64,
}

/// The bytes of a photo, and whether it is mirrored.
fn picture(photos: &Photos, pixels: &Pixels, part: Part, index: usize, chance: Option<&Chance>) -> Result<(Vec<u8>, bool)> {
    let Some(Chance { augment, seed, epoch }) = chance else { return Ok((photos.whole(part, index)?, false)) };
    let (cropped, flip) = if photos.reading.takes_part {
        let mut rng = generator(*seed, Purpose::Augment, *epoch, index as u64);
        let cropped = photos.training(index, &mut rng)?;
        (cropped, augment.flip && below(&mut rng, 2) == 1)
    } else {
        // As the loader does with a picture in memory.
        let (whole, mut drawn) = (photos.whole(part, index)?, Vec::new());
        pixels.append_drawn_bytes(&whole, augment.crop_pad, augment.draw(*seed, *epoch, index as u64), &mut drawn);
        (drawn, false)
    };
    if augment.auto_augment.is_off() {
        return Ok((cropped, flip));
    }
    let mut picture = vec![0; cropped.len()];
    pixels.fill_bytes(&cropped, flip, &mut picture);
    augment.auto_augment.augment(&mut picture, pixels.shape(), *seed, *epoch, index as u64);
    Ok((picture, false))
}

/// All frames of a recording, `[T][H][W][2]`, in one picture, `[H][W][2]`.
fn sum_of([height, width]: [usize; 2], frames: &[f32]) -> ([usize; 3], Vec<u8>) {
    let size = height * width * 2;
    let total: Vec<f32> = (0..size).map(|place| frames.iter().skip(place).step_by(size).sum()).collect();
    let most = total.iter().copied().fold(f32::MIN_POSITIVE, f32::max);
    // The root shows weak edges beside strong ones.
    ([height, width, 2], total.iter().map(|&count| ((count / most).sqrt() * 255.0) as u8).collect())
}

/// What a long piece of work tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told<'a> {
    /// Something to know.
    Note(&'a str),
    /// How far it is.
    Done { what: &'a str, done: usize, total: usize },
}

/// Who listens; an error ends the work, and is what it returns.
pub type Listener<'a> = &'a (dyn Fn(Told) -> Result<()> + Sync);

impl Stream {
    /// Class of each sample of a split.
    pub fn labels(&self, part: Part) -> Vec<u32> {
        match self {
            Stream::Events(events) => events.labels(part),
            Stream::Photos(photos) => photos.labels(part),
            Stream::Values(values) => values.labels(part),
            Stream::Recordings(recordings) => recordings.labels(part),
        }
    }

    /// The file of a sample.
    pub fn path(&self, part: Part, index: usize) -> PathBuf {
        match self {
            Stream::Events(events) => events.path(part, index),
            Stream::Photos(photos) => photos.path(part, index),
            Stream::Values(values) => values.path(),
            Stream::Recordings(recordings) => recordings.path(part, index),
        }
    }

    /// Puts a sample, `[frames][H][W][C]`, into `out`: as it is tested on, or, with `chance`, as it is trained on.
    pub(super) fn fill(&self, pixels: &Pixels, part: Part, index: usize, chance: Option<&Chance>, out: &mut [f32]) -> Result<()> {
        match (self, chance) {
            (Stream::Photos(photos), _) => {
                let (picture, flip) = picture(photos, pixels, part, index, chance)?;
                pixels.fill(&picture, flip, out);
            }
            (Stream::Values(values), chance) => values.fill(part, index, chance, out),
            (Stream::Recordings(recordings), None) => out.copy_from_slice(&recordings.frames(part, index)?),
            (Stream::Recordings(recordings), Some(Chance { augment, seed, epoch })) => {
                let (key, draw) = ([*seed, *epoch, index as u64], augment.draw(*seed, *epoch, index as u64));
                let frames = recordings.frames(part, index)?;
                change::change(&frames, recordings.size, draw, augment.crop_pad, &augment.events, key, out);
            }
            (Stream::Events(events), None) => out.copy_from_slice(&events.frames(part, index)?),
            (Stream::Events(events), Some(Chance { augment, seed, epoch })) => {
                let draw = augment.draw(*seed, *epoch, index as u64);
                let frames = events.frames(part, index)?;
                let (side, size) = (events.reading.size, out.len() / events.reading.time_steps);
                for (frame, out) in frames.chunks_exact(size).zip(out.chunks_exact_mut(size)) {
                    draw.cut(frame, side, augment.crop_pad, out);
                }
            }
        }
        Ok(())
    }

    /// The same as bytes, which [`Pixels`] makes the same values of; for a set of pictures.
    pub(super) fn fill_bytes(&self, pixels: &Pixels, part: Part, index: usize, chance: Option<&Chance>, out: &mut [u8]) -> Result<()> {
        let Stream::Photos(photos) = self else { return Err(Error::shape("a sample as bytes", "a picture", "values")) };
        let (picture, flip) = picture(photos, pixels, part, index, chance)?;
        pixels.fill_bytes(&picture, flip, out);
        Ok(())
    }

    /// A small picture of a sample, `[H][W][C]` bytes: the sum of all frames, or the middle of a photo.
    pub(super) fn thumbnail(&self, part: Part, index: usize) -> Result<([usize; 3], Vec<u8>)> {
        const SIDE: usize = 64;
        match self {
            Stream::Photos(photos) => {
                let mut small = photos.clone();
                small.reading.size = SIDE;
                small.reading.resize = SIDE;
                Ok((small.reading.shape(), small.whole(part, index)?))
            }
            Stream::Values(values) => Ok(values.thumbnail(part, index)),
            Stream::Events(events) => Ok(sum_of([events.reading.size; 2], &events.frames(part, index)?)),
            Stream::Recordings(recordings) => Ok(sum_of(recordings.size, &recordings.frames(part, index)?)),
        }
    }

    /// Number of samples of a split.
    pub fn len(&self, part: Part) -> usize {
        match self {
            Stream::Events(events) => events.len(part),
            Stream::Photos(photos) => photos.len(part),
            Stream::Values(values) => values.len(part),
            Stream::Recordings(recordings) => recordings.len(part),
        }
    }

    /// Split and index of a sample by its place in both, training split first.
    pub(super) fn at(&self, place: usize) -> (Part, usize) {
        match place.checked_sub(self.len(Part::Train)) {
            None => (Part::Train, place),
            Some(index) => (Part::Test, index),
        }
    }

    /// Reads every file, by all threads, and gives those that cannot be used, in the order of the set, training split first: its
    /// place in that order, and why.
    ///
    /// # Errors
    /// That of `tell`.
    pub fn unreadable(&self, tell: Listener) -> Result<Vec<(usize, Error)>> {
        let total = self.len(Part::Train) + self.len(Part::Test);
        let done = AtomicUsize::new(0);
        let check = |place: usize| {
            let (part, index) = self.at(place);
            let result = match self {
                Stream::Events(events) => events.check(part, index),
                Stream::Photos(photos) => super::picture::check(&photos.path(part, index)),
                Stream::Values(_) => Ok(()), // they have been read
                Stream::Recordings(recordings) => recordings.check(part, index),
            };
            tell(Told::Done { what: "read", done: done.fetch_add(1, Ordering::Relaxed) + 1, total })?;
            Ok(result.err().map(|error| (place, error)))
        };
        (0..total).into_par_iter().filter_map(|place| check(place).transpose()).collect()
    }

    /// What to know about files that are there and not read, if there are any.
    pub fn note(&self) -> Option<String> {
        match self {
            Stream::Events(_) | Stream::Values(_) => None,
            Stream::Photos(photos) => photos.note(),
            Stream::Recordings(recordings) => recordings.note(),
        }
    }

    /// What is left to train on without the training samples that are `held` out, and these as the test split of a stream of their own.
    pub(super) fn hold_out(&self, held: &[bool]) -> (Stream, Stream) {
        match self {
            Stream::Events(events) => {
                let (rest, validation) = events.hold_out(held);
                (Stream::Events(rest), Stream::Events(validation))
            }
            Stream::Photos(photos) => {
                let (rest, validation) = photos.hold_out(held);
                (Stream::Photos(rest), Stream::Photos(validation))
            }
            Stream::Values(values) => {
                let (rest, validation) = values.hold_out(held);
                (Stream::Values(rest), Stream::Values(validation))
            }
            Stream::Recordings(recordings) => {
                let (rest, validation) = recordings.hold_out(held);
                (Stream::Recordings(rest), Stream::Recordings(validation))
            }
        }
    }

    fn paths_of(&self, places: &[usize]) -> HashSet<PathBuf> {
        let path = |&place: &usize| {
            let (part, index) = self.at(place);
            self.path(part, index)
        };
        places.iter().map(path).collect()
    }

    /// Number of the files of some samples, by their places in both splits, training split first: a file may have several.
    pub fn files_of(&self, places: &[usize]) -> usize {
        self.paths_of(places).len()
    }

    /// Leaves out some samples, by their places in both splits, training split first.
    pub(super) fn remove(&mut self, places: &[usize]) -> Result<()> {
        let paths = self.paths_of(places);
        match self {
            Stream::Events(events) => events.remove(&paths),
            Stream::Photos(photos) => photos.remove(&paths),
            Stream::Values(_) => Ok(()),
            Stream::Recordings(recordings) => recordings.remove(&places.iter().copied().collect()),
        }
    }
}
