//! What is done once before a streamed set is trained on: files that cannot be read are left out if that is allowed, and recordings
//! become frames on disk.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::frame_cache::{self, FrameCache};
use super::picture::DECODERS;
use super::stream::{Listener, Told};
use super::{Dataset, Events, MAX_FILE_BYTES, Part, Recordings, Stream, images};
use crate::atomic_file;
use crate::error::{Error, Result};
use crate::file_lock::{self, Attempt};
use crate::regular_file;

/// Name of the folder for what is made from a data set, inside of it.
pub const CACHE_FOLDER: &str = ".dsr-cache";

/// What [`prepare`] may do.
#[derive(Clone, Debug, Default)]
pub struct Preparation {
    /// Folder for what is made; [`CACHE_FOLDER`] inside the data set without this.
    pub cache_dir: Option<PathBuf>,
    /// So many files that cannot be read are left out; with 0, none is looked for, and the first one met ends the run.
    pub skip_unreadable: usize,
    /// Whether the squares of a set of pictures are written, so that later runs need not decode them.
    pub converts: bool,
}

/// Makes a data set ready for training. A set in memory is ready. `root` is its folder, or the file that lists it.
///
/// # Errors
/// [`Error::File`] for more unreadable files than allowed, or a recording that makes no frames; what the cache folder refuses; that of
/// `tell`, which ends the work.
pub fn prepare(dataset: &mut Dataset, root: &Path, preparation: &Preparation, tell: Listener) -> Result<()> {
    if let Some(note) = dataset.own.as_ref().and_then(|own| own.note.as_ref()) {
        tell(Told::Note(note))?;
    }
    // A file that lists samples lies beside what is made from them.
    let root = if root.is_file() { root.parent().filter(|root| !root.as_os_str().is_empty()).unwrap_or(Path::new(".")) } else { root };
    let Some(stream) = dataset.stream.as_mut().filter(|stream| !matches!(stream, Stream::Values(_))) else { return Ok(()) };
    if let Some(note) = stream.note() {
        tell(Told::Note(&note))?;
    }
    let folder = preparation.cache_dir.clone().unwrap_or_else(|| root.join(CACHE_FOLDER));
    if preparation.skip_unreadable > 0 {
        make(&folder)?;
        let bad = unreadable(stream, root, &folder, preparation.skip_unreadable, tell)?;
        if !bad.is_empty() {
            let files = stream.files_of(&bad);
            let samples = if files == bad.len() { String::new() } else { format!("{} samples of ", bad.len()) };
            tell(Told::Note(&format!("left out {samples}{files} files that cannot be read; `dsr data verify` names them")))?;
        }
        stream.remove(&bad)?;
    }
    match stream {
        Stream::Events(events) => {
            make(&folder)?;
            events.cache = Some(Arc::new(frames(&Made::of_events(events), |place| events.make(place), root, &folder, tell)?));
        }
        Stream::Recordings(recordings) => {
            make(&folder)?;
            let made = Made::of_recordings(recordings);
            recordings.cache = Some(Arc::new(frames(&made, |place| recordings.make(place), root, &folder, tell)?));
        }
        Stream::Photos(_) | Stream::Values(_) => {}
    }
    (dataset.train.labels, dataset.test.labels) = (stream.labels(Part::Train), stream.labels(Part::Test));
    let squares = squares(dataset, root, &folder, preparation.converts, tell)?;
    if let (Some(own), Some(squares)) = (&mut dataset.own, &squares) {
        own.squares = Some(squares.path.clone());
    }
    images::hold(dataset, squares.as_ref(), tell)?;
    images::normalise(dataset, tell)
}

fn make(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|e| refused(folder, e))
}

/// Places of the samples that cannot be used, from the list of an earlier look at the same files by the same settings, or by reading all;
/// `allowed` counts their files. Only damaged contents are remembered: a file that is not there, or that the system does not give, may be
/// read the next time.
fn unreadable(stream: &Stream, root: &Path, folder: &Path, allowed: usize, tell: Listener) -> Result<Vec<usize>> {
    let total = stream.len(Part::Train) + stream.len(Part::Test);
    let path = |place: usize| {
        let (part, index) = stream.at(place);
        stream.path(part, index)
    };
    // Settings decide, too, whether a recording makes frames.
    let made_of = match stream {
        Stream::Events(events) => serde_json::json!(events.reading),
        Stream::Recordings(recordings) => recordings.made_of(),
        Stream::Photos(_) | Stream::Values(_) => serde_json::Value::Null,
    };
    let begun = crc32c::crc32c_append(crc32c::crc32c(DECODERS.as_bytes()), made_of.to_string().as_bytes());
    let (digest, missing) = digest(root, begun, (0..total).map(path))?;
    let list = folder.join(format!("unreadable-{digest:08x}.json"));
    // A list that was damaged is made again.
    let known: Option<Vec<usize>> = regular_file::read(&list, MAX_FILE_BYTES).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let mut bad: Vec<(usize, Option<Error>)> = missing.into_iter().map(|(place, error)| (place, Some(error))).collect();
    match known.filter(|places| places.iter().all(|&place| place < total)) {
        Some(known) => bad.extend(known.into_iter().map(|place| (place, None))),
        None => {
            let (passing, damaged): (Vec<_>, Vec<_>) =
                stream.unreadable(tell)?.into_iter().partition(|(_, error)| matches!(error, Error::Io { .. }));
            if passing.iter().all(|(place, _)| bad.iter().any(|(missing, _)| missing == place)) {
                let places: Vec<usize> = damaged.iter().map(|(place, _)| *place).collect();
                let text = serde_json::to_vec(&places).map_err(|e| Error::file(&list, format!("cannot be written ({e})")))?;
                atomic_file::write(&list, &text)?;
            }
            bad.extend(passing.into_iter().chain(damaged).map(|(place, error)| (place, Some(error))));
        }
    }
    bad.sort_by_key(|(place, _)| *place);
    bad.dedup_by_key(|(place, _)| *place);
    let mut files = HashSet::new();
    let next = bad.iter().filter(|(place, _)| files.insert(path(*place)) && files.len() == allowed + 1).last();
    if let Some((place, error)) = next {
        let next = error.as_ref().map_or_else(|| path(*place).display().to_string(), Error::to_string);
        let problem = format!("{} files cannot be read, {allowed} may be left out; the next one: {next}", files.len());
        return Err(Error::config("skip-unreadable", problem));
    }
    Ok(bad.into_iter().map(|(place, _)| place).collect())
}

/// What a file of frames is made of.
struct Made {
    name: String,
    /// Where each recording is.
    paths: Vec<PathBuf>,
    /// Values of each.
    values: usize,
    reading: serde_json::Value,
}

impl Made {
    fn of_events(events: &Events) -> Made {
        let paths = (0..events.recordings()).map(|recording| events.path_of(recording)).collect();
        Made { name: events.cache_name(), paths, values: events.values(), reading: serde_json::json!(events.reading) }
    }

    fn of_recordings(recordings: &Recordings) -> Made {
        let paths = (0..recordings.recordings()).map(|place| recordings.path_of(place)).collect();
        Made { name: recordings.cache_name(), paths, values: recordings.values(), reading: recordings.made_of() }
    }
}

/// The frames of all recordings, on disk; made by one process at a time.
fn frames(made: &Made, make: impl Fn(usize) -> Result<Vec<f32>> + Sync, root: &Path, folder: &Path, tell: Listener) -> Result<FrameCache> {
    let Made { name, paths, values, reading } = made;
    let recordings = paths.len();
    let (digest, missing) = digest(root, 0, paths.iter().cloned())?;
    if let Some((_, error)) = missing.into_iter().next() {
        return Err(error);
    }
    let header = serde_json::json!({ "format": 1, "reading": reading, "recordings": recordings, "files": digest }).to_string();
    let path = folder.join(name);
    let open = || FrameCache::open(&path, &header, recordings, values * size_of::<f32>());
    if let Some(cache) = open()? {
        return Ok(cache);
    }
    let _lock = lock(folder, tell)?;
    // Another process may have made them in the meantime.
    if let Some(cache) = open()? {
        return Ok(cache);
    }
    atomic_file::remove_leftovers(folder); // of processes that were killed; those at work hold the lock
    tell(Told::Note(&format!("making frames of {recordings} recordings, once for these settings: {}", path.display())))?;
    FrameCache::create(&path, &header, recordings, |place| make(place).map(frame_cache::bytes), tell)?;
    open()?.ok_or_else(|| Error::file(&path, "was changed while it was written; run again"))
}

/// The squares of a set of pictures that is kept in memory, on disk; none if they are not there and not wanted there. They are what
/// decoding gives, so training needs them only for its first minutes, and writes nothing beside somebody's pictures unasked.
fn squares(dataset: &Dataset, root: &Path, folder: &Path, converts: bool, tell: Listener) -> Result<Option<FrameCache>> {
    let (Some(Stream::Photos(photos)), Some((path, mut header, pictures))) = (&dataset.stream, images::cache(dataset, folder)) else {
        return Ok(None);
    };
    if !converts && !path.exists() {
        return Ok(None);
    }
    let places = images::in_order(photos);
    let files = places.iter().map(|&(part, index)| photos.path(part, index));
    let (digest, missing) = digest(root, 0, files)?;
    if let Some((_, error)) = missing.into_iter().next() {
        return Err(error);
    }
    header["files"] = digest.into();
    let (header, size) = (header.to_string(), dataset.sample_values());
    let open = || FrameCache::open(&path, &header, pictures, size);
    if let Some(cache) = open()? {
        return Ok(Some(cache));
    }
    if !converts {
        return Ok(None);
    }
    make(folder)?;
    let _lock = lock(folder, tell)?;
    if open()?.is_none() {
        atomic_file::remove_leftovers(folder); // of processes that were killed; those at work hold the lock
        tell(Told::Note(&format!("decoding {pictures} pictures, once for these settings: {}", path.display())))?;
        FrameCache::create(&path, &header, pictures, |at| photos.whole(places[at].0, places[at].1), tell)?;
    }
    open()?.map(Some).ok_or_else(|| Error::file(&path, "was changed while it was written; run again"))
}

/// Waits until no other process makes frames in `folder`. The system gives the lock back when a process ends, however it ends.
fn lock(folder: &Path, tell: Listener) -> Result<File> {
    let path = folder.join("lock");
    let file = file_lock::open(&path).map_err(|e| refused(&path, e))?;
    match file_lock::attempt(&file).map_err(Error::io(&path))? {
        Attempt::Taken => {}
        Attempt::Busy => {
            tell(Told::Note(&format!("waiting for another dsr that works in {}", folder.display())))?;
            file.lock().map_err(Error::io(&path))?;
        }
        // Two processes may do the same work here; each file is still written whole.
        Attempt::Unknown => tell(Told::Note(&format!("note: the file system of {} has no locks", folder.display())))?,
    }
    Ok(file)
}

/// Checksum of which files there are, continued from `checksum`: name below `root`, length, and time of the last change of each.
/// Also the places of those that are not there, such as links to nothing.
fn digest(root: &Path, mut checksum: u32, paths: impl Iterator<Item = PathBuf>) -> Result<(u32, Vec<(usize, Error)>)> {
    let mut missing = Vec::new();
    for (place, path) in paths.enumerate() {
        for name in inside(root, &path).iter().map(OsStr::as_encoded_bytes) {
            checksum = crc32c::crc32c_append(crc32c::crc32c_append(checksum, name), b"/");
        }
        let metadata = match path.metadata() {
            Ok(metadata) => metadata,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                missing.push((place, Error::io(&path)(e)));
                continue;
            }
            Err(e) => return Err(Error::io(&path)(e)),
        };
        let changed = metadata.modified().ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok()).unwrap_or_default();
        for number in [metadata.len() as u128, changed.as_nanos()] {
            checksum = crc32c::crc32c_append(checksum, &number.to_le_bytes());
        }
    }
    Ok((checksum, missing))
}

/// A path below `root`, without it: a set may be moved.
fn inside<'a>(root: &Path, path: &'a Path) -> &'a Path {
    path.strip_prefix(root).unwrap_or(path)
}

/// The error of a cache folder that cannot be written.
fn refused(path: &Path, source: std::io::Error) -> Error {
    Error::file(path, format!("cannot be written ({source}): name a folder for what is made from the data set by --cache-dir"))
}
