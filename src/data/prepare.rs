//! What is done once before a streamed set is trained on: files that cannot be read are left out if that is allowed, and recordings
//! become frames on disk.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::frame_cache::{self, FrameCache};
use super::own::table;
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
    prepared(dataset, root, preparation, tell).map_err(|error| table::named(root, error))
}

fn prepared(dataset: &mut Dataset, root: &Path, preparation: &Preparation, tell: Listener) -> Result<()> {
    if let Some(note) = dataset.own.as_ref().and_then(|own| own.note.as_ref()) {
        tell(Told::Note(note))?;
    }
    // A file that lists samples lies beside what is made from them.
    let (place, root) = (root, root_of(root));
    if dataset.own.is_some() && dataset.classes.len() == 1 {
        let class = dataset.classes[0].replace(char::is_control, "?");
        let problem = format!("{} has a single class, '{class}', so that every prediction is right", dataset.label());
        let hint = if dataset.name == "arrays" { "look at its labels" } else { "is --data-dir the folder of the class folders?" };
        tell(Told::Note(&format!("warning: {problem}; {hint}")))?;
    }
    let Some(stream) = dataset.stream.as_mut().filter(|stream| !matches!(stream, Stream::Values(_))) else { return Ok(()) };
    stream.notes().iter().try_for_each(|note| tell(Told::Note(note)))?;
    let cache = Cache::of(place, preparation);
    if preparation.skip_unreadable > 0 {
        make(&cache.folder)?;
        let bad = unreadable(stream, root, &cache, preparation.skip_unreadable, tell)?;
        if !bad.is_empty() {
            let files = stream.files_of(&bad);
            let samples = if files == bad.len() { String::new() } else { format!("{} samples of ", bad.len()) };
            tell(Told::Note(&format!("left out {samples}{files} files that cannot be read; `dsr data verify` names them")))?;
        }
        stream.remove(&bad)?;
    }
    match stream {
        Stream::Events(events) => {
            make(&cache.folder)?;
            events.cache = Some(Arc::new(frames(&Made::of_events(events), |place| events.make(place), root, &cache, tell)?));
        }
        Stream::Recordings(recordings) => {
            make(&cache.folder)?;
            let made = Made::of_recordings(recordings);
            recordings.cache = Some(Arc::new(frames(&made, |place| recordings.make(place), root, &cache, tell)?));
        }
        Stream::Photos(_) | Stream::Values(_) => {}
    }
    (dataset.train.labels, dataset.test.labels) = (stream.labels(Part::Train), stream.labels(Part::Test));
    let squares = squares(dataset, root, &cache, preparation.converts, tell)?;
    if let (Some(own), Some(squares)) = (&mut dataset.own, &squares) {
        own.squares = Some(squares.path.clone());
    }
    images::hold(dataset, squares.as_ref(), tell)?;
    images::normalise(dataset, tell)
}

/// Looks whether the files are there that a list at `place` names, without reading one. What to know, where up to `allowed` are not.
///
/// # Errors
/// [`Error::Missing`] with the line of the first of more than that.
pub fn look_for_listed(dataset: &Dataset, place: &Path, allowed: usize) -> Result<Option<String>> {
    let Some(stream) = dataset.stream.as_ref().filter(|stream| place.is_file() && !matches!(stream, Stream::Values(_))) else {
        return Ok(None);
    };
    let path = |at: usize| {
        let (part, index) = stream.at(at);
        stream.path(part, index)
    };
    let (_, missing) = digest(root_of(place), 0, (0..stream.len(Part::Train) + stream.len(Part::Test)).map(path));
    let files = stream.files_of(&missing.iter().map(|(at, _)| *at).collect::<Vec<usize>>());
    match missing.into_iter().next() {
        Some((_, first)) if files > allowed => Err(table::named(place, first)),
        first => {
            Ok(first.map(|(_, first)| format!("note: {files} files of {} are left out in training, such as {first}", place.display())))
        }
    }
}

/// The folder that files of a set at `place` begin at: that of a list, if it is one.
fn root_of(place: &Path) -> &Path {
    if place.is_file() { place.parent().filter(|root| !root.as_os_str().is_empty()).unwrap_or(Path::new(".")) } else { place }
}

/// Where what is made from a set lies.
struct Cache {
    folder: PathBuf,
    /// What tells the set from others that have the folder, too; empty where it is the set's own.
    of: OsString,
}

impl Cache {
    /// In the set, or where the user says, which other sets may share. Several lists may lie in a folder.
    fn of(place: &Path, preparation: &Preparation) -> Cache {
        match &preparation.cache_dir {
            Some(folder) => Cache { folder: folder.clone(), of: place.canonicalize().unwrap_or_else(|_| place.into()).into_os_string() },
            None => {
                let of = if place.is_file() { place.file_name().unwrap_or_default().to_owned() } else { OsString::new() };
                Cache { folder: root_of(place).join(CACHE_FOLDER), of }
            }
        }
    }

    /// The file of this name for the set.
    fn file(&self, name: &str) -> PathBuf {
        let (stem, ending) = name.rsplit_once('.').unwrap_or((name, ""));
        let is_shared = !self.of.is_empty();
        let of = if is_shared { format!("-{:08x}", crc32c::crc32c(self.of.as_encoded_bytes())) } else { String::new() };
        self.folder.join(format!("{stem}{of}.{ending}"))
    }

    /// A header that says of which set a file is, since two may have one name.
    fn header(&self, mut header: serde_json::Value) -> String {
        if !self.of.is_empty() {
            header["set"] = self.of.to_string_lossy().into();
        }
        header.to_string()
    }
}

fn make(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|e| refused(folder, e))
}

/// Places of the samples that cannot be used, from the list of an earlier look at the same files by the same settings, or by reading all;
/// `allowed` counts their files. Only damaged contents are remembered: a file that is not there, or that the system does not give, may be
/// read the next time.
fn unreadable(stream: &Stream, root: &Path, cache: &Cache, allowed: usize, tell: Listener) -> Result<Vec<usize>> {
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
    let (digest, missing) = digest(root, begun, (0..total).map(path));
    let list = cache.file(&format!("unreadable-{digest:08x}.json"));
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
                let _lock = lock(&cache.folder, tell)?; // else another process might take the file for a leftover
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
fn frames(made: &Made, make: impl Fn(usize) -> Result<Vec<f32>> + Sync, root: &Path, cache: &Cache, tell: Listener) -> Result<FrameCache> {
    let Made { name, paths, values, reading } = made;
    let recordings = paths.len();
    let (digest, missing) = digest(root, 0, paths.iter().cloned());
    if let Some((_, error)) = missing.into_iter().next() {
        return Err(error);
    }
    let header = cache.header(serde_json::json!({ "format": 1, "reading": reading, "recordings": recordings, "files": digest }));
    let (path, folder) = (cache.file(name), &cache.folder);
    let open = || FrameCache::open(&path, &header, recordings, values * size_of::<f32>());
    if let Some(cache) = open()? {
        return Ok(cache);
    }
    let _lock = lock(folder, tell)?;
    // Another process may have made them in the meantime.
    if let Some(cache) = open()? {
        return Ok(cache);
    }
    tell(Told::Note(&format!("making frames of {recordings} recordings, once for these settings: {}", path.display())))?;
    FrameCache::create(&path, &header, recordings, |place| make(place).map(frame_cache::bytes), tell)?;
    open()?.ok_or_else(|| Error::file(&path, "was changed while it was written; run again"))
}

/// The squares of a set of pictures that is kept in memory, on disk; none if they are not there and not wanted there. They are what
/// decoding gives, so training needs them only for its first minutes, and writes nothing beside somebody's pictures unasked.
fn squares(dataset: &Dataset, root: &Path, cache: &Cache, converts: bool, tell: Listener) -> Result<Option<FrameCache>> {
    let (Some(Stream::Photos(photos)), Some((name, mut header, pictures))) = (&dataset.stream, images::cache(dataset)) else {
        return Ok(None);
    };
    let (path, folder) = (cache.file(&name), &cache.folder);
    if !converts && !path.exists() {
        return Ok(None);
    }
    let places = images::in_order(photos);
    let files = places.iter().map(|&(part, index)| photos.path(part, index));
    let (digest, missing) = digest(root, 0, files);
    if let Some((_, error)) = missing.into_iter().next() {
        return Err(error);
    }
    header["files"] = digest.into();
    let (header, size) = (cache.header(header), dataset.sample_values());
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
        tell(Told::Note(&format!("decoding {pictures} pictures, once for these settings: {}", path.display())))?;
        FrameCache::create(&path, &header, pictures, |at| photos.whole(places[at].0, places[at].1), tell)?;
    }
    open()?.map(Some).ok_or_else(|| Error::file(&path, "was changed while it was written; run again"))
}

/// Waits until no other process writes in `folder`, and removes what processes that were killed have left. The system gives the lock back
/// when a process ends, however it ends.
fn lock(folder: &Path, tell: Listener) -> Result<File> {
    let path = folder.join("lock");
    let file = file_lock::open(&path).map_err(|e| refused(&path, e))?;
    match file_lock::attempt(&file).map_err(|e| refused(&path, e))? {
        Attempt::Taken => {}
        Attempt::Busy => {
            tell(Told::Note(&format!("waiting for another dsr that works in {}", folder.display())))?;
            file.lock().map_err(|e| refused(&path, e))?;
        }
        // Two processes may do the same work here; each file is still written whole, so none may take another's away.
        Attempt::Unknown => {
            tell(Told::Note(&format!("note: the file system of {} has no locks", folder.display())))?;
            return Ok(file);
        }
    }
    atomic_file::remove_leftovers(folder);
    Ok(file)
}

/// Checksum of which files there are, continued from `checksum`: name below `root`, length, and time of the last change of each.
/// Also the places of those that are not there, or of which the system says nothing, such as links to nothing or to themselves.
fn digest(root: &Path, mut checksum: u32, paths: impl Iterator<Item = PathBuf>) -> (u32, Vec<(usize, Error)>) {
    let mut missing = Vec::new();
    for (place, path) in paths.enumerate() {
        for name in inside(root, &path).iter().map(OsStr::as_encoded_bytes) {
            checksum = crc32c::crc32c_append(crc32c::crc32c_append(checksum, name), b"/");
        }
        let metadata = match path.metadata() {
            Ok(metadata) => metadata,
            Err(e) => {
                missing.push((place, Error::io(&path)(e)));
                continue;
            }
        };
        let changed = metadata.modified().ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok()).unwrap_or_default();
        for number in [metadata.len() as u128, changed.as_nanos()] {
            checksum = crc32c::crc32c_append(checksum, &number.to_le_bytes());
        }
    }
    (checksum, missing)
}

/// A path below `root`, without it: a set may be moved.
fn inside<'a>(root: &Path, path: &'a Path) -> &'a Path {
    path.strip_prefix(root).unwrap_or(path)
}

/// The error of a cache folder that cannot be written.
fn refused(path: &Path, source: std::io::Error) -> Error {
    Error::file(path, format!("cannot be written ({source}): name a folder for what is made from the data set by --cache-dir"))
}
