//! A validation split: samples that are held out of the training split, a share of each class.

use std::collections::HashSet;

use rand::RngCore;

use super::augment::{Purpose, below, generator};
use super::{Dataset, Images, Own, Split};
use crate::error::{Error, Result};

/// Takes `share` of each class, rounded, out of the training split: the set that is left to train on, and one whose test split are the
/// samples held out, both in the order of the files. Each class keeps a sample to train on. Which ones are held out is a function of
/// `seed`; the normalisation stays that of the whole training split, so that it is the same for every user of the set.
///
/// # Errors
/// [`Error::Config`] naming `val-share` if that leaves nothing to validate on.
pub fn hold_out(dataset: Dataset, share: f64, seed: u64) -> Result<(Dataset, Dataset)> {
    let held = drawn(&dataset.train.labels, dataset.classes.len(), share, seed)?;
    let (stream, held_stream) = dataset.stream.as_ref().map(|stream| stream.hold_out(&held)).unzip();
    let validation = Dataset {
        train: Split { images: Images { shape: dataset.shape, pixels: Vec::new() }, labels: Vec::new() },
        test: part(&dataset.train, &held, true),
        stream: held_stream,
        name: dataset.name.clone(),
        classes: dataset.classes.clone(),
        mean: dataset.mean.clone(),
        std: dataset.std.clone(),
        own: dataset.own.clone().map(|own| Own { tested: Vec::new(), ..own }),
        ..dataset
    };
    let train = part(&dataset.train, &held, false);
    Ok((Dataset { train, stream, ..dataset }, validation))
}

/// Which samples are held out: `share` of each class, rounded, but not its last one. `labels` are below `classes`.
///
/// # Errors
/// [`Error::Config`] naming `val-share` if they are none.
pub(super) fn drawn(labels: &[u32], classes: usize, share: f64, seed: u64) -> Result<Vec<bool>> {
    let mut held = vec![false; labels.len()];
    let mut members_of = vec![Vec::new(); classes];
    labels.iter().enumerate().for_each(|(index, &label)| members_of[label as usize].push(index));
    for (class, mut members) in (0..).zip(members_of) {
        let taken = taken(share, members.len());
        let mut rng = generator(seed, Purpose::HoldOut, 0, class);
        for place in 0..taken {
            let other = place + below(&mut rng, (members.len() - place) as u64) as usize;
            members.swap(place, other);
            held[members[place]] = true;
        }
    }
    some(held, classes, share)
}

/// What decides by `seed` whether a file is held out; other files of its set are not looked at.
pub(super) fn lot(seed: u64, file: &[u8]) -> u64 {
    generator(seed, Purpose::HoldOut, 1, u64::from(crc32c::crc32c(file))).next_u64()
}

/// As [`drawn`], but of each class those with the lowest `lots`: a file more in a class moves one over the border at most. What has one lot,
/// as the parts of a recording, stays together.
///
/// # Errors
/// As [`drawn`].
pub(super) fn drawn_by(labels: &[u32], classes: usize, share: f64, lots: &[u64]) -> Result<Vec<bool>> {
    let mut held = vec![false; labels.len()];
    let mut members_of = vec![Vec::new(); classes];
    labels.iter().enumerate().for_each(|(index, &label)| members_of[label as usize].push(index));
    for mut members in members_of {
        members.sort_by_key(|&index| lots[index]);
        let lots: Vec<u64> = members.iter().map(|&index| lots[index]).collect();
        members.iter().take(border(&lots, taken(share, members.len()))).for_each(|&index| held[index] = true);
    }
    let distinct: HashSet<u64> = lots.iter().copied().collect();
    if !held.contains(&true) && distinct.len() < lots.len() {
        let problem = format!(
            "{share} of {} training samples of {classes} classes is none, since parts of a file stay together; give more, or more files",
            lots.len()
        );
        return Err(Error::config("val-share", problem));
    }
    some(held, classes, share)
}

/// How many of the first of these sorted lots to take, next to `wanted`, so that none is on both sides.
fn border(lots: &[u64], wanted: usize) -> usize {
    let borders = (1..lots.len()).filter(|&end| lots[end - 1] != lots[end]);
    if wanted == 0 { 0 } else { borders.min_by_key(|end| end.abs_diff(wanted)).unwrap_or(0) }
}

/// How many of so many members of a class are held out: not the last one.
fn taken(share: f64, members: usize) -> usize {
    ((share * members as f64).round() as usize).min(members.saturating_sub(1))
}

/// Refuses a share that is nothing.
fn some(held: Vec<bool>, classes: usize, share: f64) -> Result<Vec<bool>> {
    if !held.contains(&true) {
        let problem = format!("{share} of {} training samples of {classes} classes is none; give more", held.len());
        return Err(Error::config("val-share", problem));
    }
    Ok(held)
}

/// The samples of `split` that are held out, or the others.
fn part(split: &Split, held: &[bool], wanted: bool) -> Split {
    let places = || (0..split.len()).filter(|&index| held[index] == wanted);
    let is_streamed = split.images.is_empty();
    let pixels = if is_streamed { Vec::new() } else { places().flat_map(|index| split.images.image(index)).copied().collect() };
    Split { images: Images { shape: split.images.shape, pixels }, labels: places().map(|index| split.labels[index]).collect() }
}
