//! DVS-CIFAR10 (CIFAR10-DVS): recordings of an event camera, made into T frames of event counts.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::aedat::{self, Event, SIDE};
use super::frame_cache::FrameCache;
use super::{Part, class_folders, cut};
use crate::error::{Error, Result};

/// The classes, in the order of their labels.
pub const CLASSES: [&str; 10] = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

/// Darker and brighter.
const CHANNELS: usize = 2;

const HINT: &str = "expected are CLASS/cifar10_CLASS_NUMBER.aedat for ten classes below --data-dir (docs/data.md)";

/// Which recordings of each class are tested on; the publishers of the set say nothing about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum EventSplit {
    /// 900 to 999, as the paper.
    #[default]
    Dsr,
    /// 0 to 99, as examples of SpikingJelly.
    Spikingjelly,
}

/// Where one frame ends and the next begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum FrameRule {
    /// After N / T events; the last frame takes what is left.
    #[default]
    Number,
    /// After a T-th of the time between first and last event.
    Time,
}

/// Where a pixel of the camera lies in a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Orientation {
    /// As the paper: column = 127 − x field, row = y field of AEDAT 2.0.
    #[default]
    Dsr,
    /// As SpikingJelly, a quarter turn from that: column = 127 − y field, row = 127 − x field of AEDAT 2.0.
    Spikingjelly,
}

/// How a recording becomes frames, and which split it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct EventReading {
    /// Number of frames T.
    pub time_steps: usize,
    /// Where frames end.
    pub frames: FrameRule,
    /// Where a pixel of the camera lies in them.
    pub orientation: Orientation,
    /// Pixels a side of a frame, 1..=128.
    pub size: usize,
    /// Which recordings are tested on. It does not change frames.
    #[serde(skip)]
    pub split: EventSplit,
}

impl Default for EventReading {
    fn default() -> Self {
        EventReading {
            time_steps: 20,
            frames: FrameRule::default(),
            orientation: Orientation::default(),
            size: 48,
            split: EventSplit::default(),
        }
    }
}

impl std::fmt::Display for EventReading {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let split = match self.split {
            EventSplit::Dsr => "dsr (recordings 900 to 999 of each class are tested on)",
            EventSplit::Spikingjelly => "spikingjelly (recordings 0 to 99 of each class are tested on)",
        };
        let frames = match self.frames {
            FrameRule::Number => "by number",
            FrameRule::Time => "by time",
        };
        let orientation = match self.orientation {
            Orientation::Dsr => "dsr",
            Orientation::Spikingjelly => "spikingjelly",
        };
        write!(f, "split {split}; frames {frames}, orientation {orientation}")
    }
}

/// A recording that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Recording {
    label: u32,
    number: u32,
    file: OsString,
}

/// The files of the set.
#[derive(Clone, Debug)]
pub struct Events {
    root: PathBuf,
    recordings: Vec<Recording>,
    /// Recordings of the training and the test split.
    parts: [Vec<usize>; 2],
    /// How they are read.
    pub reading: EventReading,
    /// Their frames; without this they are made from the recording each time.
    pub(super) cache: Option<Arc<FrameCache>>,
}

impl PartialEq for Events {
    /// A cache changes no frame.
    fn eq(&self, other: &Self) -> bool {
        (&self.root, &self.recordings, &self.parts, &self.reading) == (&other.root, &other.recordings, &other.parts, &other.reading)
    }
}

impl Events {
    /// Looks which recordings there are below `root`; reads none.
    ///
    /// # Errors
    /// [`Error::File`] for a class that is missing or empty, a file with an unexpected name, or a split without recordings;
    /// [`Error::Io`] if a folder could not be read.
    pub fn list(root: &Path, reading: EventReading) -> Result<Self> {
        if !root.is_dir() {
            return Err(Error::no_folder(root, HINT));
        }
        let mut recordings = Vec::new();
        for (label, class) in CLASSES.into_iter().enumerate() {
            let folder = root.join(class);
            if !folder.is_dir() {
                return Err(Error::no_folder(folder, HINT));
            }
            let files = class_folders::files(&folder, &["aedat", "aedat4"])?;
            if files.is_empty() {
                return Err(Error::file(folder, format!("has no recordings; {HINT}")));
            }
            let first = recordings.len();
            for file in files {
                let number = number(&file, class).ok_or_else(|| {
                    let problem =
                        format!("is not named cifar10_{class}_NUMBER.aedat, and the number decides the split; rename or remove it");
                    Error::file(folder.join(&file), problem)
                })?;
                recordings.push(Recording { label: label as u32, number, file });
            }
            let of_class = &mut recordings[first..];
            of_class.sort_by_key(|recording| recording.number);
            if let Some(pair) = of_class.windows(2).find(|pair| pair[0].number == pair[1].number) {
                let problem = format!("has the number of {} beside it; remove one of them", pair[0].file.display());
                return Err(Error::file(folder.join(&pair[1].file), problem));
            }
        }
        let parts = divide(root, &recordings, reading.split)?;
        Ok(Events { root: root.to_path_buf(), recordings, parts, reading, cache: None })
    }

    /// Class of each recording of one split.
    pub fn labels(&self, part: Part) -> Vec<u32> {
        self.parts[part as usize].iter().map(|&index| self.recordings[index].label).collect()
    }

    /// Number of recordings of one split.
    pub fn len(&self, part: Part) -> usize {
        self.parts[part as usize].len()
    }

    /// Number of recordings of both splits.
    pub fn recordings(&self) -> usize {
        self.recordings.len()
    }

    /// Where a recording is, of both splits together, in the order of classes and numbers.
    pub(super) fn path_of(&self, recording: usize) -> PathBuf {
        let Recording { label, file, .. } = &self.recordings[recording];
        self.root.join(CLASSES[*label as usize]).join(file)
    }

    /// Where a recording of one split is.
    pub fn path(&self, part: Part, index: usize) -> PathBuf {
        self.path_of(self.parts[part as usize][index])
    }

    /// The set without the training recordings that are `held` out, and one that is tested on these.
    pub(super) fn hold_out(&self, held: &[bool]) -> (Events, Events) {
        let [train, test] = &self.parts;
        let part = |wanted: bool| train.iter().zip(held).filter(|(_, is_held)| **is_held == wanted).map(|(index, _)| *index).collect();
        let rest = Events { parts: [part(false), test.clone()], ..self.clone() };
        (rest, Events { parts: [Vec::new(), part(true)], ..self.clone() })
    }

    /// Leaves out some recordings.
    ///
    /// # Errors
    /// [`Error::File`] if a split has none left.
    pub(super) fn remove(&mut self, paths: &HashSet<PathBuf>) -> Result<()> {
        let stay: Vec<bool> = (0..self.recordings.len()).map(|index| !paths.contains(&self.path_of(index))).collect();
        let mut stay = stay.into_iter();
        self.recordings.retain(|_| stay.next().unwrap_or(true));
        self.parts = divide(&self.root, &self.recordings, self.reading.split)?;
        Ok(())
    }

    /// Values of a sample, T·size·size·2.
    pub fn values(&self) -> usize {
        self.reading.time_steps * self.reading.size * self.reading.size * CHANNELS
    }

    /// The file with the frames, if they are taken from one.
    pub fn cached_at(&self) -> Option<&Path> {
        self.cache.as_ref().map(|cache| cache.path.as_path())
    }

    /// Name of the file that holds the frames for these settings.
    pub(super) fn cache_name(&self) -> String {
        let EventReading { time_steps, frames, orientation, size, split: _ } = self.reading;
        let name = format!("dvs-cifar10-T{time_steps}-{frames:?}-{orientation:?}-{size}.frames");
        name.to_lowercase()
    }

    /// Whether a recording can be used.
    ///
    /// # Errors
    /// As [`Events::make`].
    pub(super) fn check(&self, part: Part, index: usize) -> Result<()> {
        let path = self.path(part, index);
        counts(&path, &aedat::read(&path)?, &self.reading).map(drop)
    }

    /// The frames of a recording of one split, `[T][size][size][2]`, from the cache if there is one.
    ///
    /// # Errors
    /// As [`Events::make`], and a cache that could not be read.
    pub(super) fn frames(&self, part: Part, index: usize) -> Result<Vec<f32>> {
        let recording = self.parts[part as usize][index];
        match &self.cache {
            Some(cache) => cache.read(recording),
            None => self.make(recording),
        }
    }

    /// Makes the frames of a recording, `[T][size][size][2]`.
    ///
    /// # Errors
    /// [`Error::Io`] if it could not be read, [`Error::File`] if it is damaged or has too few events.
    pub(super) fn make(&self, recording: usize) -> Result<Vec<f32>> {
        let path = self.path_of(recording);
        let counts = counts(&path, &aedat::read(&path)?, &self.reading)?;
        let frames = counts.chunks_exact(SIDE * SIDE * CHANNELS);
        Ok(frames.flat_map(|frame| resized(frame, self.reading.size)).collect())
    }
}

/// Places of the recordings of the training and the test split, both of which have some.
fn divide(root: &Path, recordings: &[Recording], split: EventSplit) -> Result<[Vec<usize>; 2]> {
    let is_test = |recording: &Recording| match split {
        EventSplit::Dsr => recording.number >= 900,
        EventSplit::Spikingjelly => recording.number < 100,
    };
    let (test, train): (Vec<usize>, Vec<usize>) = (0..recordings.len()).partition(|&index| is_test(&recordings[index]));
    for (part, which, numbers) in [(&train, "training", ["0 to 899", "100 to 999"]), (&test, "test", ["900 to 999", "0 to 99"])] {
        if part.is_empty() {
            let numbers = numbers[split as usize];
            let problem =
                format!("has no {which} recordings: they are those numbered {numbers} of each class; add some, or see --event-split");
            return Err(Error::file(root, problem));
        }
    }
    Ok([train, test])
}

/// The number in `cifar10_CLASS_NUMBER.EXTENSION`.
fn number(file: &OsString, class: &str) -> Option<u32> {
    let digits = Path::new(file).file_stem()?.to_str()?.strip_prefix("cifar10_")?.strip_prefix(class)?.strip_prefix('_')?;
    digits.parse().ok().filter(|number| *number < 1000)
}

/// Events of each frame and pixel, darker and brighter apart, `[T][128][128][2]`. `path` is what errors name.
///
/// # Errors
/// [`Error::File`] for fewer events than frames, or frames by time of a recording that takes none or whose clock jumps.
pub fn counts(path: &Path, events: &[Event], reading: &EventReading) -> Result<Vec<f32>> {
    let frames = reading.time_steps;
    let mut counts = vec![0.0; frames * SIDE * SIDE * CHANNELS];
    cut::each(path, events, reading.frames.into(), frames, |frame, event| {
        let (x, y) = (usize::from(event.x), usize::from(event.y));
        let (column, row) = match reading.orientation {
            Orientation::Dsr => (x, y),
            Orientation::Spikingjelly => (SIDE - 1 - y, x),
        };
        counts[((frame * SIDE + row) * SIDE + column) * CHANNELS + usize::from(event.polarity)] += 1.0;
    })?;
    Ok(counts)
}

/// A frame, `[128][128][2]`, at `size`×`size`: bilinear between the four nearest pixels, without regard to those in between, as
/// PyTorch's `interpolate`.
pub fn resized(frame: &[f32], size: usize) -> Vec<f32> {
    let scale = SIDE as f32 / size as f32;
    let places: Vec<(usize, usize, f32)> = (0..size)
        .map(|place| {
            let place = (scale * (place as f32 + 0.5) - 0.5).max(0.0);
            let first = (place as usize).min(SIDE - 1);
            (first, (first + 1).min(SIDE - 1), place - first as f32)
        })
        .collect();
    let pixel = |y: usize, x: usize, channel: usize| frame[(y * SIDE + x) * CHANNELS + channel];
    let mut out = Vec::with_capacity(size * size * CHANNELS);
    for &(top, bottom, down) in &places {
        for &(left, right, across) in &places {
            for channel in 0..CHANNELS {
                let row = |y: usize| (1.0 - across) * pixel(y, left, channel) + across * pixel(y, right, channel);
                out.push((1.0 - down) * row(top) + down * row(bottom));
            }
        }
    }
    out
}
