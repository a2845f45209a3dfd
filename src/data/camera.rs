//! What an event camera says.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Pixels a side of the camera of CIFAR10-DVS, a DVS128.
pub const SIDE: usize = 128;

/// Height and width of a camera, in pixels.
pub type Sensor = [usize; 2];

/// Height and width as a user writes them: `480x640`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Size(pub [usize; 2]);

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let parts = text.split_once(['x', 'X']).map(|(height, width)| (height.trim().parse(), width.trim().parse()));
        match parts {
            Some((Ok(height), Ok(width))) => Ok(Size([height, width])),
            _ => Err(format!("{text:?} is no height and width such as 48x64")),
        }
    }
}

impl TryFrom<String> for Size {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        text.parse()
    }
}

impl From<Size> for String {
    fn from(Size([height, width]): Size) -> String {
        format!("{height}x{width}")
    }
}

/// More pixels a side than a camera has, whatever a file states.
pub const MAX_SENSOR: usize = 2048;

/// A pixel that became brighter or darker, in the orientation of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Microseconds, from any start.
    pub time: i64,
    /// Column, below the width of the camera.
    pub x: u16,
    /// Row, below its height.
    pub y: u16,
    /// 1 for brighter, 0 for darker.
    pub polarity: u8,
}

/// The camera of a file: as the user or the set says, else as the file states.
///
/// # Errors
/// [`Error::File`] if nobody says it, if they differ, or if it has no pixels or more than [`MAX_SENSOR`] a side.
pub(super) fn sensor(path: &Path, told: Option<Sensor>, stated: Option<Sensor>) -> Result<Sensor> {
    let unknown = || Error::file(path, "does not say how many pixels its camera has; say it by --sensor HEIGHTxWIDTH");
    let sensor = told.or(stated).ok_or_else(unknown)?;
    let is_camera = |sensor: &Sensor| sensor.iter().all(|side| (1..=MAX_SENSOR).contains(side));
    if let Some([h, w]) = stated.filter(|stated| is_camera(stated) && *stated != sensor) {
        let [height, width] = sensor;
        let problem = format!(
            "states a camera of {h}x{w} pixels, and that of the set has {height}x{width} (--sensor, or its first recording); \
             take it out of the set, or leave it out by --skip-unreadable N"
        );
        return Err(Error::file(path, problem));
    }
    if !is_camera(&sensor) {
        let [height, width] = sensor;
        let problem = format!("states a camera of {height}x{width} pixels, and 1 to {MAX_SENSOR} a side are read; say it by --sensor");
        return Err(Error::file(path, problem));
    }
    Ok(sensor)
}

/// The place of an event inside of the camera: column and row.
///
/// # Errors
/// [`Error::File`] for one outside, which is number `index` of the file and lies at `byte`.
pub(super) fn inside(path: &Path, index: usize, byte: usize, [x, y]: [u32; 2], [height, width]: Sensor) -> Result<[u16; 2]> {
    if x as usize >= width || y as usize >= height {
        let problem = format!(
            "event {index} at byte {byte} is at column {x}, row {y}, outside the camera's {height}x{width} pixels; \
             get it again, or see --sensor"
        );
        return Err(Error::file(path, problem));
    }
    Ok([x as u16, y as u16]) // below 2048
}
