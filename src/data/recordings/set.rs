//! A set of recordings: which files, or parts of files, of which class and split; their frames.

use std::collections::HashSet;
use std::ffi::OsString;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::frames::{CHANNELS, RecordingReading, counts, from_frames};
use super::{ALWAYS, Content, EXTENSIONS, load, named};
use crate::data::Part;
use crate::data::camera::Sensor;
use crate::data::frame_cache::FrameCache;
use crate::data::own::OwnReading;
use crate::data::own::told::{self, Used};
use crate::data::own::tree::{self, Kinds};
use crate::error::{Error, Result};

/// Columns of a list that say which part of a file a sample is, in microseconds of its clock.
const WHEN: [&str; 2] = ["start", "end"];

const KINDS: Kinds = Kinds { what: "recordings", read: &EXTENSIONS, not_read: &["hdf5", "h5", "bag", "es", "mat"] };

/// A file, or the events of a part of its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sample {
    pub label: u32,
    /// From the root of the set.
    pub file: OsString,
    /// Microseconds of its clock.
    pub when: Range<i64>,
}

/// The samples of a set, of both splits.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Listed {
    /// The folder that files begin at.
    pub root: PathBuf,
    pub classes: Vec<String>,
    /// Training and test split.
    pub samples: [Vec<Sample>; 2],
    /// What to know of files that are there and not read.
    pub notes: Vec<String>,
    /// Share of each class that was taken out to test on, where the set has no test split.
    pub share: Option<f64>,
}

/// A set of recordings.
#[derive(Clone, Debug)]
pub struct Recordings {
    name: &'static str,
    listed: Listed,
    /// Places of the samples of the training and the test split among all, training split first.
    parts: [Vec<usize>; 2],
    /// Height and width of the camera.
    pub sensor: Sensor,
    /// Height and width of a frame.
    pub size: Sensor,
    /// How they are read.
    pub reading: RecordingReading,
    /// Their frames; without this they are made from the recording each time.
    pub(in crate::data) cache: Option<Arc<FrameCache>>,
}

impl PartialEq for Recordings {
    /// A cache changes no frame.
    fn eq(&self, other: &Self) -> bool {
        let Recordings { name, listed, parts, sensor, size, reading, cache: _ } = self;
        (name, listed, parts, sensor, size, reading)
            == (&other.name, &other.listed, &other.parts, &other.sensor, &other.size, &other.reading)
    }
}

impl Recordings {
    /// Looks which recordings there are at `place`: of a set of the user's own (folders of classes, or a list), or of the published set
    /// called `name`. One is read, for the size of the camera, where nobody says it.
    ///
    /// # Errors
    /// [`Error::File`] for a layout that is none, or files without a recording that can be read; [`Error::Config`] for settings that do not
    /// fit.
    pub fn list(name: &'static str, place: &Path, reading: RecordingReading, own: &OwnReading) -> Result<Self> {
        let (listed, known) = match named::find(name) {
            Some(set) => named::list(set, place)?,
            None => (of_own(place, own)?, None),
        };
        let sensor = match reading.sensor.or(known) {
            Some(sensor) => sensor,
            None => first_sensor(&listed)?,
        };
        let size = reading.frame_size(sensor)?;
        let [train, test] = [listed.samples[0].len(), listed.samples[1].len()];
        Ok(Recordings { name, listed, parts: [(0..train).collect(), (train..train + test).collect()], sensor, size, reading, cache: None })
    }

    /// Names of the classes.
    pub fn classes(&self) -> &[String] {
        &self.listed.classes
    }

    /// Share of each class that is tested on of a set without a test split.
    pub fn share(&self) -> Option<f64> {
        self.listed.share
    }

    /// What to know about files that are there and not read, or read twice, a line each.
    pub fn notes(&self) -> &[String] {
        &self.listed.notes
    }

    fn sample(&self, place: usize) -> &Sample {
        let [train, test] = &self.listed.samples;
        train.get(place).unwrap_or_else(|| &test[place - train.len()])
    }

    /// Class of each sample of one split.
    pub fn labels(&self, part: Part) -> Vec<u32> {
        self.parts[part as usize].iter().map(|&place| self.sample(place).label).collect()
    }

    /// Number of samples of one split.
    pub fn len(&self, part: Part) -> usize {
        self.parts[part as usize].len()
    }

    /// Number of samples of both splits.
    pub fn recordings(&self) -> usize {
        self.listed.samples.iter().map(Vec::len).sum()
    }

    /// Where the file of a sample is, of both splits together.
    pub(in crate::data) fn path_of(&self, place: usize) -> PathBuf {
        self.listed.root.join(&self.sample(place).file)
    }

    /// The part of its file that a sample of one split is, in microseconds of its clock; none for all of it.
    pub fn when(&self, part: Part, index: usize) -> Option<Range<i64>> {
        Some(self.sample(self.parts[part as usize][index]).when.clone()).filter(|when| *when != ALWAYS)
    }

    /// Where the file of a sample of one split is.
    pub fn path(&self, part: Part, index: usize) -> PathBuf {
        self.path_of(self.parts[part as usize][index])
    }

    /// The set without the training samples that are `held` out, and one that is tested on these.
    pub(in crate::data) fn hold_out(&self, held: &[bool]) -> (Recordings, Recordings) {
        let [train, test] = &self.parts;
        let part = |wanted: bool| train.iter().zip(held).filter(|(_, is_held)| **is_held == wanted).map(|(place, _)| *place).collect();
        let rest = Recordings { parts: [part(false), test.clone()], ..self.clone() };
        (rest, Recordings { parts: [Vec::new(), part(true)], ..self.clone() })
    }

    /// Leaves out some samples, by their places among all, training split first; other parts of their files stay.
    ///
    /// # Errors
    /// [`Error::File`] if a split has none left.
    pub(in crate::data) fn remove(&mut self, places: &HashSet<usize>) -> Result<()> {
        let root = &self.listed.root;
        let mut place = 0..;
        for samples in &mut self.listed.samples {
            samples.retain(|_| place.next().is_some_and(|place| !places.contains(&place)));
            if samples.is_empty() {
                return Err(Error::file(root, "has a split without recordings that can be read; get its files again"));
            }
        }
        let [train, test] = [0, 1].map(|part: usize| self.listed.samples[part].len());
        self.parts = [(0..train).collect(), (train..train + test).collect()];
        Ok(())
    }

    /// Values of a sample, T·H·W·2.
    pub fn values(&self) -> usize {
        self.reading.time_steps * self.size[0] * self.size[1] * CHANNELS
    }

    /// The file with the frames, if they are taken from one.
    pub fn cached_at(&self) -> Option<&Path> {
        self.cache.as_ref().map(|cache| cache.path.as_path())
    }

    /// Name of the file that holds the frames for these settings.
    pub(in crate::data) fn cache_name(&self) -> String {
        let RecordingReading { time_steps, frames, length, flip_x, flip_y, transpose, .. } = self.reading;
        let cut = length.map_or(format!("{frames:?}"), |length| format!("{length}us"));
        let turned: String = [(transpose, "t"), (flip_x, "x"), (flip_y, "y")].iter().filter(|(is, _)| *is).map(|(_, name)| *name).collect();
        let turned = if turned.is_empty() { String::new() } else { format!("-{turned}") };
        let [height, width] = self.size;
        format!("{}-T{time_steps}-{cut}-{height}x{width}{turned}.frames", self.name).to_lowercase()
    }

    /// What the frames depend on beside the files: settings, and which part of its file each sample is.
    pub(in crate::data) fn made_of(&self) -> serde_json::Value {
        let whens = self.listed.samples.iter().flatten().flat_map(|sample| [sample.when.start, sample.when.end]);
        let parts = whens.fold(0, |checksum, when| crc32c::crc32c_append(checksum, &when.to_le_bytes()));
        serde_json::json!({ "reading": self.reading, "sensor": self.sensor, "size": self.size, "parts": parts })
    }

    /// Whether a sample can be used.
    ///
    /// # Errors
    /// As [`Recordings::make`].
    pub(in crate::data) fn check(&self, part: Part, index: usize) -> Result<()> {
        self.make(self.parts[part as usize][index]).map(drop)
    }

    /// The frames of a sample of one split, `[T][H][W][2]`, from the cache if there is one.
    ///
    /// # Errors
    /// As [`Recordings::make`], and a cache that could not be read.
    pub(in crate::data) fn frames(&self, part: Part, index: usize) -> Result<Vec<f32>> {
        let place = self.parts[part as usize][index];
        match &self.cache {
            Some(cache) => cache.read(place),
            None => self.make(place),
        }
    }

    /// Makes the frames of a sample, `[T][H][W][2]`.
    ///
    /// # Errors
    /// [`Error::Io`] if it could not be read, [`Error::File`] if it is damaged, has too few events, or frames of another number.
    pub(in crate::data) fn make(&self, place: usize) -> Result<Vec<f32>> {
        let (path, sample) = (self.path_of(place), self.sample(place));
        match load(&path, Some(self.sensor), sample.when.clone())? {
            Content::Events(recording) => counts(&path, &recording, &self.reading),
            Content::Frames { frames, sensor, values } => {
                let steps = self.reading.time_steps;
                if frames != steps || sensor != self.sensor {
                    let ([h, w], [height, width]) = (sensor, self.sensor);
                    let problem =
                        format!("has {frames} frames of {h}x{w}, and {steps} of {height}x{width} are wanted; see -T and --sensor");
                    return Err(Error::file(path, problem));
                }
                from_frames(&values, sensor, &self.reading)
            }
        }
    }
}

impl std::fmt::Display for Recordings {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let [height, width] = self.sensor;
        let RecordingReading { frames, length, flip_x, flip_y, transpose, .. } = self.reading;
        let cut = match length {
            Some(length) => format!("of {} ms", length as f64 / 1000.0),
            None => format!("by {frames:?}").to_lowercase(),
        };
        let turned: Vec<&str> = [(transpose, "transposed"), (flip_x, "flipped in x"), (flip_y, "flipped in y")]
            .iter()
            .filter(|(is, _)| *is)
            .map(|(_, name)| *name)
            .collect();
        let turned = if turned.is_empty() { "as in the file".to_string() } else { turned.join(", ") };
        write!(f, "camera {height}x{width}; frames {cut}, orientation {turned}")?;
        match (named::find(self.name).and_then(|set| set.split), self.listed.share) {
            (Some(split), _) => write!(f, "; split: {split}"),
            (None, Some(share)) => write!(f, "; {share} of each class is tested on"),
            (None, None) => Ok(()),
        }
    }
}

/// The samples of a set of the user's own.
fn of_own(place: &Path, own: &OwnReading) -> Result<Listed> {
    let tree = tree::list(place, &KINDS, own, &WHEN)?;
    let mut samples = [Vec::new(), Vec::new()];
    for ((files, others), samples) in tree.files.into_iter().zip(tree.others).zip(&mut samples) {
        for ((label, file), others) in files.into_iter().zip(others) {
            let when = when(place, &file, &others)?;
            samples.push(Sample { label, file, when });
        }
    }
    let not_read =
        (tree.not_read > 0).then(|| format!("{} files are recordings of formats that are not read (docs/data.md)", tree.not_read));
    let mut used = Vec::new();
    for (part, samples) in [Part::Train, Part::Test].into_iter().zip(&samples) {
        used.extend(samples.iter().map(|sample| Used { part, path: tree.root.join(&sample.file), when: sample.when.clone() }));
    }
    let notes = not_read.into_iter().chain(tree.notes).chain(told::twice(&used, "recordings")).collect();
    Ok(Listed { root: tree.root, classes: tree.classes, samples, notes, share: tree.share })
}

/// The time that a row of a list names, all of it where it names none.
fn when(list: &Path, file: &OsString, others: &[Option<String>]) -> Result<Range<i64>> {
    let mut ends = [ALWAYS.start, ALWAYS.end];
    for ((end, cell), name) in ends.iter_mut().zip(others).zip(WHEN) {
        let Some(cell) = cell else { continue };
        let wrong = || {
            let cell: String = cell.chars().take(40).collect::<String>().replace(char::is_control, "?");
            Error::file(list, format!("has the {name} \"{cell}\" of {}, and whole microseconds are wanted; mend it", file.display()))
        };
        *end = cell.parse().map_err(|_| wrong())?;
    }
    let [start, end] = ends;
    if start >= end {
        return Err(Error::file(list, format!("has a part of {} that begins at {start} and ends at {end} µs; mend it", file.display())));
    }
    Ok(start..end)
}

/// The camera of the first recording that can be read.
fn first_sensor(listed: &Listed) -> Result<Sensor> {
    const LOOKS: usize = 10;
    let mut first = None;
    for sample in listed.samples.iter().flatten().take(LOOKS) {
        match load(&listed.root.join(&sample.file), None, sample.when.clone()) {
            Ok(Content::Events(recording)) => return Ok(recording.sensor),
            Ok(Content::Frames { sensor, .. }) => return Ok(sensor),
            Err(error) => first = first.or(Some(error)),
        }
    }
    Err(first.unwrap_or_else(|| Error::file(&listed.root, "has no recordings; see docs/data.md")))
}
