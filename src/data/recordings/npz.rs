//! Events and frames in `.npz`, as SpikingJelly and tonic write them: arrays `t`, `x`, `y`, `p`, or one called `frames`.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::{ALWAYS, Content, MAX_EVENTS, Recording};
use crate::data::arrays::store::Store;
use crate::data::arrays::{Array, Kind, wide};
use crate::data::camera::{Event, Sensor, sensor};
use crate::device::room::{Bytes, Room};
use crate::error::{Error, Result};
use crate::regular_file;

/// Names of the arrays of events.
const EVENTS: [&str; 4] = ["t", "x", "y", "p"];

const FRAMES: &str = "frames";

/// Events that happened `when`, or frames. Sizes in the headers are looked at before any value is read.
///
/// # Errors
/// [`Error::File`] for neither, arrays of another kind or of different lengths, more values than are taken at once, or an event outside the
/// camera; [`Error::Config`] where memory has no room for the values; [`Error::Io`].
pub(super) fn read(path: &Path, told: Option<Sensor>, when: Range<i64>) -> Result<Content> {
    let store = Store::Npz(path.to_path_buf());
    let keys = store.keys()?;
    let has = |key: &str| keys.iter().any(|found| found == key);
    if EVENTS.iter().all(|key| has(key)) {
        check(path, &store)?;
        let mut arrays = Vec::new();
        for key in EVENTS {
            arrays.push((store.path(key), store.read(key)?));
        }
        return events(path, &arrays, told, when).map(Content::Events);
    }
    if has(FRAMES) {
        if when != ALWAYS {
            let problem = "has frames, which have no times: start and end of a list are for events; list it once, or save parts as files";
            return Err(Error::file(path, problem));
        }
        let (_, sizes) = store.head(FRAMES)?;
        frames_of(&store.path(FRAMES), &sizes)?;
        if values_of(&sizes) > MAX_EVENTS {
            let problem = format!("has sizes {sizes:?}, more than the {MAX_EVENTS} values that are taken at once; save fewer frames");
            return Err(Error::file(store.path(FRAMES), problem));
        }
        return frames(&store.path(FRAMES), store.read(FRAMES)?);
    }
    let shown: String = keys.join(", ").chars().take(80).collect::<String>().replace(char::is_control, "?");
    Err(Error::file(path, format!("has the arrays \"{shown}\", and t, x, y, p (events) or frames are wanted")))
}

/// Values of an array of these sizes.
fn values_of(sizes: &[usize]) -> usize {
    sizes.iter().fold(1, |values, &size| values.saturating_mul(size))
}

/// Refuses arrays of events by what their headers promise: different lengths, more than are taken at once, or than there is memory for.
fn check(path: &Path, store: &Store) -> Result<()> {
    let heads: Vec<(Kind, Vec<usize>)> = EVENTS.iter().map(|key| store.head(key)).collect::<Result<_>>()?;
    let lengths: Vec<usize> = heads.iter().map(|(_, sizes)| values_of(sizes)).collect();
    if lengths.iter().any(|&length| length != lengths[0]) {
        return Err(Error::file(path, format!("has t, x, y, p of {lengths:?} values, and they are of the same events; get it again")));
    }
    if lengths[0] > MAX_EVENTS {
        let problem = format!("has {} events, more than the {MAX_EVENTS} that are taken at once; cut it into files", lengths[0]);
        return Err(Error::file(path, problem));
    }
    let each = heads.iter().map(|(kind, _)| kind.bytes()).sum::<usize>() + size_of::<Event>();
    let needed = (each * lengths[0]) as u64;
    let packed = regular_file::open(path)?.metadata().map_err(Error::io(path))?.len();
    if needed.min(packed.saturating_mul(1032)) > 1 << 28 {
        Room::now().check(Bytes { written: needed, reserved: 0 }, &path.display().to_string(), "cut it into files")?;
    }
    Ok(())
}

fn events(path: &Path, arrays: &[(PathBuf, Array)], told: Option<Sensor>, when: Range<i64>) -> Result<Recording> {
    let [t, x, y, p] = arrays else { return Err(Error::file(path, "has no events; get it again")) };
    for (path, Array { sizes, .. }) in arrays {
        if sizes.iter().filter(|size| **size != 1).count() > 1 {
            return Err(Error::file(path, format!("has sizes {sizes:?}, and one axis is wanted; get it again")));
        }
    }
    let sensor = sensor(path, told, None)?;
    let mut events = Vec::new();
    for index in 0..values_of(&t.1.sizes) {
        let of = |(path, array): &(PathBuf, Array)| integer(path, array, index);
        let (time, [x, y], polarity) = (of(t)?, [of(x)?, of(y)?], of(p)?);
        let time = i64::try_from(time).map_err(|_| {
            Error::file(
                &t.0,
                format!("event {index} has the time {time}, more than {} microseconds; times are counted from any start", i64::MAX),
            )
        })?;
        let [height, width] = sensor;
        let (true, Ok(x), Ok(y)) = ((0..width as i128).contains(&x) && (0..height as i128).contains(&y), x.try_into(), y.try_into()) else {
            let problem = format!("event {index} is at column {x}, row {y}, outside the camera's {height}x{width} pixels");
            return Err(Error::file(path, format!("{problem}; get it again, or see --sensor")));
        };
        let polarity = match polarity {
            1 => 1,
            0 | -1 => 0, // both are in use
            _ => {
                let problem = format!("event {index} has the polarity {polarity}; 1 is meant for brighter, 0 or -1 for darker: save it so");
                return Err(Error::file(&p.0, problem));
            }
        };
        if when.contains(&time) {
            events.push(Event { time, x, y, polarity });
        }
    }
    if events.is_empty() {
        let part = if when == ALWAYS { "" } else { " in the part of its time that is asked for" };
        return Err(Error::file(path, format!("has no events{part}; get it again")));
    }
    Ok(Recording { sensor, events })
}

/// A value of an array; times in seconds are no integers and are refused.
fn integer(path: &Path, Array { kind, bytes, .. }: &Array, index: usize) -> Result<i128> {
    let wrong = || Error::file(path, format!("value {index} is no whole number; times are microseconds, places pixels"));
    let value = bytes.get(index * kind.bytes()..(index + 1) * kind.bytes()).ok_or_else(wrong)?;
    let float = match kind {
        Kind::F32 => value.try_into().ok().map(|value| f64::from(f32::from_le_bytes(value))),
        Kind::F64 => value.try_into().ok().map(f64::from_le_bytes),
        Kind::U8 => return Ok(i128::from(value[0])),
        Kind::Int(is_signed, _) => return Ok(wide(*is_signed, value)),
    };
    let whole = float.filter(|value| value.fract() == 0.0 && value.abs() < 9e15).ok_or_else(wrong)?;
    Ok(whole as i128)
}

/// Number and size of frames of these sizes.
fn frames_of(path: &Path, sizes: &[usize]) -> Result<(usize, Sensor)> {
    let [frames, 2, height, width] = *sizes else {
        return Err(Error::file(path, format!("has sizes {sizes:?}, and [T, 2, height, width] are wanted")));
    };
    Ok((frames, sensor(path, Some([height, width]), None)?))
}

/// Frames `[T][2][H][W]`.
fn frames(path: &Path, array: Array) -> Result<Content> {
    let (frames, sensor) = frames_of(path, &array.sizes)?;
    let values: Vec<f32> = match array.kind {
        Kind::F32 => array.bytes.as_chunks().0.iter().map(|&value| f32::from_le_bytes(value)).collect(),
        _ => (0..values_of(&array.sizes)).map(|index| Ok(integer(path, &array, index)? as f32)).collect::<Result<_>>()?,
    };
    if let Some(index) = values.iter().position(|value| !value.is_finite()) {
        return Err(Error::file(path, format!("value {index} is no number; get it again")));
    }
    Ok(Content::Frames { frames, sensor, values })
}
