//! Events and frames in `.npz`, as SpikingJelly and tonic write them: arrays `t`, `x`, `y`, `p`, or one called `frames`.

use std::ops::Range;
use std::path::Path;

use super::{ALWAYS, Content, MAX_EVENTS, Recording};
use crate::data::arrays::store::Store;
use crate::data::arrays::{Array, Kind};
use crate::data::camera::{Event, Sensor, inside, sensor};
use crate::error::{Error, Result};

/// Names of the arrays of events.
const EVENTS: [&str; 4] = ["t", "x", "y", "p"];

const FRAMES: &str = "frames";

/// Events that happened `when`, or frames.
///
/// # Errors
/// [`Error::File`] for neither, arrays of another kind or of different lengths, or an event outside the camera; [`Error::Io`].
pub(super) fn read(path: &Path, told: Option<Sensor>, when: Range<i64>) -> Result<Content> {
    let store = Store::Npz(path.to_path_buf());
    let keys = store.keys()?;
    let has = |key: &str| keys.iter().any(|found| found == key);
    if EVENTS.iter().all(|key| has(key)) {
        let arrays: Vec<Vec<i64>> = EVENTS.iter().map(|key| integers(&store.path(key), store.read(key)?)).collect::<Result<_>>()?;
        return events(path, &arrays, told, when).map(Content::Events);
    }
    if has(FRAMES) {
        return frames(&store.path(FRAMES), store.read(FRAMES)?);
    }
    let shown: String = keys.join(", ").chars().take(80).collect::<String>().replace(char::is_control, "?");
    Err(Error::file(path, format!("has the arrays \"{shown}\", and t, x, y, p (events) or frames are wanted")))
}

fn events(path: &Path, arrays: &[Vec<i64>], told: Option<Sensor>, when: Range<i64>) -> Result<Recording> {
    let [t, x, y, p] = arrays else { return Err(Error::file(path, "has no events; get it again")) };
    if [x, y, p].iter().any(|array| array.len() != t.len()) {
        let lengths = [t, x, y, p].map(Vec::len);
        return Err(Error::file(path, format!("has t, x, y, p of {lengths:?} values, and they are of the same events; get it again")));
    }
    let sensor = sensor(path, told, None)?;
    let mut events = Vec::new();
    for index in 0..t.len() {
        let at = [x[index], y[index]].map(|place| u32::try_from(place).unwrap_or(u32::MAX));
        let [x, y] = inside(path, index, index, at, sensor)?;
        if when.contains(&t[index]) {
            events.push(Event { time: t[index], x, y, polarity: u8::from(p[index] > 0) }); // some write −1 for darker
        }
    }
    if events.len() > MAX_EVENTS {
        return Err(Error::file(path, format!("has {} events, more than the {MAX_EVENTS} that are taken at once", events.len())));
    }
    if events.is_empty() {
        let part = if when == ALWAYS { "" } else { " in the part of its time that is asked for" };
        return Err(Error::file(path, format!("has no events{part}; get it again")));
    }
    Ok(Recording { sensor, events })
}

/// The values of an array with one axis, or of several that are 1 beside it; times in seconds are no integers and are refused.
fn integers(path: &Path, Array { kind, sizes, bytes }: Array) -> Result<Vec<i64>> {
    if sizes.iter().filter(|size| **size != 1).count() > 1 {
        return Err(Error::file(path, format!("has sizes {sizes:?}, and one axis is wanted; get it again")));
    }
    let wrong = |index: usize| Error::file(path, format!("value {index} is no whole number; times are microseconds, places pixels"));
    let each = bytes.chunks_exact(kind.bytes()).enumerate();
    each.map(|(index, value)| {
        let float = match kind {
            Kind::F32 => value.try_into().ok().map(|value| f64::from(f32::from_le_bytes(value))),
            Kind::F64 => value.try_into().ok().map(f64::from_le_bytes),
            Kind::U8 => return Ok(i64::from(value[0])),
            Kind::Int(is_signed, _) => {
                // The lowest 64 bits, with the sign in the bits above where there is one.
                let fill = if is_signed && value.last().is_some_and(|byte| byte >> 7 == 1) { 0xff } else { 0 };
                let mut wide = [fill; 8];
                wide[..value.len()].copy_from_slice(value);
                let number = i64::from_le_bytes(wide);
                return if !is_signed && number < 0 { Err(wrong(index)) } else { Ok(number) };
            }
        };
        let whole = float.filter(|value| value.fract() == 0.0 && value.abs() < 9e15).ok_or_else(|| wrong(index))?;
        Ok(whole as i64)
    })
    .collect()
}

/// Frames `[T][2][H][W]`.
fn frames(path: &Path, Array { kind, sizes, bytes }: Array) -> Result<Content> {
    let [frames, 2, height, width] = sizes[..] else {
        return Err(Error::file(path, format!("has sizes {sizes:?}, and [T, 2, height, width] are wanted")));
    };
    let sensor = sensor(path, Some([height, width]), None)?;
    let values: Vec<f32> = match kind {
        Kind::F32 => bytes.as_chunks().0.iter().map(|&value| f32::from_le_bytes(value)).collect(),
        _ => {
            let flat = Array { kind, sizes: vec![bytes.len() / kind.bytes()], bytes };
            integers(path, flat)?.into_iter().map(|value| value as f32).collect()
        }
    };
    if let Some(index) = values.iter().position(|value| !value.is_finite()) {
        return Err(Error::file(path, format!("value {index} is no number; get it again")));
    }
    Ok(Content::Frames { frames, sensor, values })
}
