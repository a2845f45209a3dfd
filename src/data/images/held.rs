//! Pictures that are decoded once: for their mean and deviation, for a file of squares, for memory.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use crate::data::augment::{Purpose, below, generator};
use crate::data::frame_cache::FrameCache;
use crate::data::moments::Levels;
use crate::data::picture::DECODERS;
use crate::data::stream::{Listener, Told};
use crate::data::{Dataset, Images, Part, Photos, Split, Stream};
use crate::device::room::{Bytes, Room};
use crate::error::Result;

/// Bytes that the squares of a set may have to be kept in memory.
const MOST_HELD: u64 = 1 << 30;

/// Training pictures that mean and deviation are measured on; of more, so many by lot.
const MEASURED: usize = 8192;

/// The photos of a set whose squares fit into memory and are all that training cuts from.
fn small(dataset: &Dataset) -> Option<&Photos> {
    let Some(Stream::Photos(photos)) = &dataset.stream else { return None };
    let bytes = (photos.len(Part::Train) + photos.len(Part::Test)) as u64 * dataset.sample_values() as u64;
    let has_room = Room::now().check(Bytes { written: 2 * bytes, reserved: 0 }, "", "").is_ok();
    (dataset.own.is_some() && !photos.reading.takes_part && bytes <= MOST_HELD && has_room).then_some(photos)
}

/// Split and index of all pictures in the order of their paths, which no split and no seed changes.
pub fn in_order(photos: &Photos) -> Vec<(Part, usize)> {
    let of = |part: Part| (0..photos.len(part)).map(move |index| (part, index));
    let mut places: Vec<(Part, usize)> = of(Part::Train).chain(of(Part::Test)).collect();
    places.sort_by_cached_key(|&(part, index)| photos.path(part, index));
    places
}

/// What `work` makes of some pictures, by place in the list and in the set, by all threads; of several errors, that of the first picture.
/// One of `tell` ends it at once.
fn each<T: Send>(places: &[(Part, usize)], tell: Listener, work: impl Fn(usize, (Part, usize)) -> Result<T> + Sync) -> Result<Vec<T>> {
    let done = AtomicUsize::new(0);
    let one = |(at, &place): (usize, &(Part, usize))| {
        let result = work(at, place);
        tell(Told::Done { what: "decoded", done: done.fetch_add(1, Ordering::Relaxed) + 1, total: places.len() })?;
        Ok(result)
    };
    places.par_iter().enumerate().map(one).collect::<Result<Vec<Result<T>>>>()?.into_iter().collect()
}

/// Measures mean and standard deviation on the training split, unless they are known.
pub fn normalise(dataset: &mut Dataset, tell: Listener) -> Result<()> {
    let channels = dataset.shape[2];
    let Some(own) = dataset.own.as_mut().filter(|own| !own.is_normalised) else { return Ok(()) };
    let measured = lot(dataset.train.labels.len());
    let levels = match &dataset.stream {
        Some(Stream::Photos(photos)) => {
            let places: Vec<(Part, usize)> = measured.into_iter().map(|index| (Part::Train, index)).collect();
            let of = |_, (part, index)| Ok(Levels::of(&photos.whole(part, index)?, channels));
            each(&places, tell, of)?.into_iter().fold(Levels::none(channels), Levels::plus)
        }
        _ => measured.into_iter().fold(Levels::none(channels), |levels, index| levels.and(dataset.train.images.image(index))),
    };
    (dataset.mean, dataset.std) = levels.normalisation(dataset.max_value);
    own.is_normalised = true;
    Ok(())
}

/// Up to [`MEASURED`] of so many samples, each as likely as any other; the same ones for every run.
fn lot(samples: usize) -> Vec<usize> {
    let mut all: Vec<usize> = (0..samples).collect();
    if samples > MEASURED {
        let mut rng = generator(0, Purpose::Normalisation, 0, 0);
        for place in 0..MEASURED {
            all.swap(place, place + below(&mut rng, (samples - place) as u64) as usize);
        }
        all.truncate(MEASURED);
    }
    all
}

/// Puts the squares of a small set into memory, from the file of them where there is one.
pub fn hold(dataset: &mut Dataset, squares: Option<&FrameCache>, tell: Listener) -> Result<()> {
    let Some(photos) = small(dataset) else { return Ok(()) };
    let places = in_order(photos);
    let read = |at: usize, (part, index): (Part, usize)| match squares {
        Some(squares) => squares.read_bytes(at),
        None => photos.whole(part, index),
    };
    let all = each(&places, tell, read)?;
    let size = dataset.sample_values();
    let mut pixels = [Part::Train, Part::Test].map(|part| vec![0; photos.len(part) * size]);
    for ((part, index), square) in places.iter().zip(all) {
        pixels[*part as usize][index * size..][..size].copy_from_slice(&square);
    }
    let [train, test] = pixels;
    let (shape, labels) = (dataset.shape, [Part::Train, Part::Test].map(|part| photos.labels(part)));
    let [train_labels, test_labels] = labels;
    dataset.train = Split { images: Images { shape, pixels: train }, labels: train_labels };
    dataset.test = Split { images: Images { shape, pixels: test }, labels: test_labels };
    dataset.stream = None;
    Ok(())
}

/// Where the squares of a small set are kept in the order of [`in_order`], what the file says of itself, and how many they are; none of a
/// set that is not kept so.
pub fn cache(dataset: &Dataset, folder: &Path) -> Option<(PathBuf, serde_json::Value, usize)> {
    let photos = small(dataset)?;
    let reading = photos.reading;
    let name = format!("{}-{}-{:?}-{}-{}.squares", dataset.name, reading.size, reading.fit, reading.resize, reading.channels);
    let pictures = photos.len(Part::Train) + photos.len(Part::Test);
    let header = serde_json::json!({ "format": 1, "decoders": DECODERS, "reading": reading, "pictures": pictures });
    Some((folder.join(name.to_lowercase()), header, pictures))
}
