//! Recordings of any event camera, one file for each format: bytes become events. What a file says of itself decides the format; only
//! `.bin` says nothing and goes by its name.

mod aedat3;
mod atis;
pub(super) mod change;
mod evt2;
mod evt3;
pub mod frames;
pub mod named;
mod npz;
mod prophesee;
mod set;

use std::io::Read;
use std::ops::Range;
use std::path::Path;

use super::aedat::{self, Version};
pub use super::camera::Event;
use super::camera::{Sensor, sensor};
use super::guard::guarded;
use super::own::Own;
use super::{Dataset, Reading, Stream, aedat2, aedat4};
pub use change::EventChange;
pub use frames::RecordingReading;
pub use set::Recordings;

use crate::error::{Error, Result};
use crate::regular_file;

/// What files of recordings end in.
pub const EXTENSIONS: [&str; 6] = ["aedat", "aedat4", "bin", "dat", "npz", "raw"];

/// More bytes than a recording has.
const MAX_BYTES: u64 = 1 << 30;

/// More events than are taken from a file at once: 1 GiB of them.
pub const MAX_EVENTS: usize = 1 << 26;

/// All of the time.
pub const ALWAYS: Range<i64> = i64::MIN..i64::MAX;

/// A file, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recording {
    /// Height and width of the camera.
    pub sensor: Sensor,
    /// The events, in the order of the file; at least one.
    pub events: Vec<Event>,
}

/// What a file holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// Events.
    Events(Recording),
    /// Frames that somebody else has made of events.
    Frames {
        /// Number of frames.
        frames: usize,
        /// Height and width.
        sensor: Sensor,
        /// `[frames][2][H][W]`, darker and brighter.
        values: Vec<f32>,
    },
}

/// Opens a set: of the user's own, or the published one called `name`.
pub(super) fn open(name: &'static str, is_own: bool, place: &Path, reading: &Reading) -> Result<Dataset> {
    let recordings = Recordings::list(name, place, reading.recordings, &reading.own)?;
    let share = recordings.share();
    let own = is_own.then(|| Own { place: Own::name(place), share, is_normalised: true, note: None, squares: None, tested: Vec::new() });
    let classes = recordings.classes().to_vec();
    Ok(Dataset { own, ..Dataset::streamed(name, classes, Stream::Recordings(recordings)) })
}

/// What a file holds, of events those that happened `when`. `told` is the camera, where the file does not state it.
///
/// # Errors
/// As [`read`]; [`Error::File`] for an `.npz` without events and frames.
pub fn load(path: &Path, told: Option<Sensor>, when: Range<i64>) -> Result<Content> {
    let is_npz = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("npz"));
    if is_npz { npz::read(path, told, when) } else { read(path, told, when).map(Content::Events) }
}

/// The events of a file that happened `when` (microseconds of its clock). `told` is the camera, where the file does not state it.
///
/// # Errors
/// [`Error::Io`] if it could not be read, and what [`parse`] finds wrong.
pub fn read(path: &Path, told: Option<Sensor>, when: Range<i64>) -> Result<Recording> {
    let file = regular_file::open(path)?;
    let length = file.metadata().map_err(Error::io(path))?.len();
    if length > MAX_BYTES {
        return Err(Error::file(path, format!("has {length} bytes, more than the {MAX_BYTES} that are supported; cut it into parts")));
    }
    let mut bytes = Vec::with_capacity(length as usize);
    file.take(length).read_to_end(&mut bytes).map_err(Error::io(path))?;
    parse(path, &bytes, told, when)
}

/// The same of the bytes of a file. `path` is what errors name, and its extension tells a `.bin`.
///
/// # Errors
/// [`Error::File`] for a format that is not read, a camera that nobody states, a body that is cut off or damaged (says at which byte), an
/// event outside the camera, no events, or more than [`MAX_EVENTS`].
pub fn parse(path: &Path, bytes: &[u8], told: Option<Sensor>, when: Range<i64>) -> Result<Recording> {
    let mut events = Vec::new();
    let mut total = 0;
    let mut keep = |event: Event| {
        total += usize::from(when.contains(&event.time));
        if when.contains(&event.time) && events.len() < MAX_EVENTS {
            events.push(event);
        }
    };
    let is_bin = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("bin"));
    let found = match bytes {
        _ if is_bin => {
            let sensor = sensor(path, told, None)?;
            atis::parse(path, bytes, sensor, &mut keep).map(|()| sensor)
        }
        [b'#', ..] => match aedat::version(path, bytes)? {
            Version::Two if told.is_some_and(|told| told != aedat2::SENSOR) => {
                let [[h, w], [height, width]] = [told.unwrap_or(aedat2::SENSOR), aedat2::SENSOR];
                let problem =
                    format!("is AEDAT 2.0, which is read of a DVS128 ({height}x{width}) only, and the camera is {h}x{w}; see --sensor");
                Err(Error::file(path, problem))
            }
            Version::Two => aedat2::parse(path, bytes).map(|events| {
                events.into_iter().for_each(&mut keep);
                aedat2::SENSOR
            }),
            Version::Three => aedat3::parse(path, bytes, told, &mut keep),
            Version::Four => guarded(path, || aedat4::parse(path, bytes, told)).map(|recording| {
                recording.events.into_iter().for_each(&mut keep);
                recording.sensor
            }),
        },
        [b'%', ..] => prophesee::parse(path, bytes, told, &mut keep),
        _ => {
            let start = &bytes[..bytes.len().min(12)];
            let problem = format!("is no recording that is read (docs/data.md): it begins with \"{}\"; get it again", start.escape_ascii());
            Err(Error::file(path, problem))
        }
    };
    let sensor = found?;
    if total > MAX_EVENTS {
        let problem = format!("has {total} events, more than the {MAX_EVENTS} that are taken at once; name parts of it by start and end");
        return Err(Error::file(path, problem));
    }
    if events.is_empty() {
        let part = if when == ALWAYS { String::new() } else { format!(" from {} to {} µs of its clock", when.start, when.end) };
        return Err(Error::file(path, format!("has no events{part}; get it again")));
    }
    events.shrink_to_fit();
    Ok(Recording { sensor, events })
}
