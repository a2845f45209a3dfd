//! A validation split: samples that are held out of the training split, a share of each class.

use std::collections::{BTreeMap, BTreeSet, HashMap};

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
/// as the parts of a recording, stays together, in whatever classes these parts are; a class keeps a file to train on.
///
/// # Errors
/// As [`drawn`].
pub(super) fn drawn_by(labels: &[u32], classes: usize, share: f64, lots: &[u64]) -> Result<Vec<bool>> {
    // Samples of each file in each class, and classes of each file.
    let mut files_of = vec![BTreeMap::<u64, usize>::new(); classes];
    let mut classes_of = HashMap::<u64, BTreeSet<usize>>::new();
    for (&label, &lot) in labels.iter().zip(lots) {
        *files_of[label as usize].entry(lot).or_default() += 1;
        classes_of.entry(lot).or_default().insert(label as usize);
    }
    let mut left: Vec<usize> = files_of.iter().map(BTreeMap::len).collect(); // files of each class that are not held out
    let mut held_out = BTreeSet::<u64>::new();
    for files in &files_of {
        let wanted = taken(share, files.values().sum());
        // What other classes have held out of this one.
        let mut held: usize = files.iter().filter(|(lot, _)| held_out.contains(lot)).map(|(_, samples)| samples).sum();
        for (lot, samples) in files {
            if held_out.contains(lot) || classes_of[lot].iter().any(|&class| left[class] < 2) {
                continue;
            }
            let is_nearer = (held + samples).abs_diff(wanted) < held.abs_diff(wanted) || (held == 0 && wanted > 0);
            if !is_nearer {
                break;
            }
            held += samples;
            held_out.insert(*lot);
            classes_of[lot].iter().for_each(|&class| left[class] -= 1);
        }
    }
    let held: Vec<bool> = lots.iter().map(|lot| held_out.contains(lot)).collect();
    if !held.contains(&true) && classes_of.len() < lots.len() {
        let problem = format!(
            "{share} of {} training samples of {classes} classes is none, since parts of a file stay together; give more, or more files",
            lots.len()
        );
        return Err(Error::config("val-share", problem));
    }
    some(held, classes, share)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Samples as (class, file) by `drawn_by`: the files that are held out.
    fn held_files(samples: &[(u32, u64)], classes: usize, share: f64) -> Vec<u64> {
        let (labels, lots): (Vec<u32>, Vec<u64>) = samples.iter().copied().unzip();
        let held = drawn_by(&labels, classes, share, &lots).unwrap();
        let files =
            |wanted: bool| -> BTreeSet<u64> { lots.iter().zip(&held).filter(|(_, held)| **held == wanted).map(|(lot, _)| *lot).collect() };
        assert!(files(true).is_disjoint(&files(false)), "{samples:?}: parts of a file on both sides");
        for class in 0..classes as u32 {
            assert!(
                labels.iter().zip(&held).any(|(&label, held)| label == class && !held),
                "{samples:?}: class {class} has nothing to train on"
            );
        }
        files(true).into_iter().collect()
    }

    #[test]
    fn files_that_classes_share_stay_on_one_side() {
        let alone = |class: u32, files: std::ops::Range<u64>| files.map(move |file| (class, file));
        // A class by itself: the lowest lots, as many as are nearest to the share.
        assert_eq!(held_files(&alone(0, 1..11).collect::<Vec<_>>(), 1, 0.2), [1, 2]);
        // File 1 is in both classes. By itself the second one, of two files, would hold none out.
        let shared: Vec<_> = alone(0, 1..6).chain([(1, 1), (1, 2)]).collect();
        assert_eq!(held_files(&shared, 2, 0.2), [1]);
        // The second class has file 1 alone, which it keeps to train on.
        let kept: Vec<_> = alone(0, 1..6).chain([(1, 1)]).collect();
        assert_eq!(held_files(&kept, 2, 0.2), [2]);
        // Every file has parts of every class: whole files are drawn, and what the first class has is enough for all.
        let parts: Vec<_> = (0..3).flat_map(|class| (1..11).flat_map(move |file| [(class, file); 4])).collect();
        assert_eq!(held_files(&parts, 3, 0.3), [1, 2, 3]);
        // A rare class that has nothing to test on takes no file from another one, in whatever order they come.
        for [rare, common] in [[0, 1], [1, 0]] {
            let rare: Vec<_> =
                [(rare, 1), (rare, 2)].into_iter().chain([(common, 1); 5]).chain([(common, 2); 5]).chain(alone(2, 3..13)).collect();
            assert_eq!(held_files(&rare, 3, 0.2), [1, 3, 4]);
        }
        // A large file first: at least one is held out, and no further one, which would be farther from the share.
        let large: Vec<_> = [(0, 1); 6].into_iter().chain(alone(0, 2..10)).collect();
        assert_eq!(held_files(&large, 1, 0.2), [1]);
    }

    #[test]
    fn one_file_for_all_is_no_division() {
        let error = drawn_by(&[0, 1, 0, 1], 2, 0.5, &[7; 4]).unwrap_err().to_string();
        assert!(error.contains("parts of a file stay together"), "{error}");
    }
}
