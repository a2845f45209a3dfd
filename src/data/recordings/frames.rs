//! Events of any camera as frames that count them.

use std::path::Path;

use serde::Serialize;

use super::Recording;
use crate::data::camera::{Event, Sensor};
use crate::data::cut::{self, Cut};
use crate::data::events::FrameRule;
use crate::error::{Error, Result};

/// Darker and brighter.
pub const CHANNELS: usize = 2;

/// Pixels a side that frames have at most unless they are asked for.
const USUAL_SIDE: usize = 64;

/// Values that the frames of a recording may have.
const MOST_VALUES: usize = 1 << 26;

/// How a recording becomes frames.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RecordingReading {
    /// Number of frames T.
    pub time_steps: usize,
    /// Where frames end, unless they have a length.
    pub frames: FrameRule,
    /// Microseconds of a frame; none where the frames of a recording share its events or its time.
    pub length: Option<i64>,
    /// Height and width of the camera, where files do not state it.
    pub sensor: Option<Sensor>,
    /// Height and width of a frame, at most those of the camera; without it those of the camera, divided by the smallest number that
    /// leaves 64 pixels a side.
    pub size: Option<Sensor>,
    /// Columns from right to left.
    pub flip_x: bool,
    /// Rows from bottom to top.
    pub flip_y: bool,
    /// Columns become rows, before any flip.
    pub transpose: bool,
}

impl Default for RecordingReading {
    fn default() -> Self {
        RecordingReading {
            time_steps: 8,
            frames: FrameRule::default(),
            length: None,
            sensor: None,
            size: None,
            flip_x: false,
            flip_y: false,
            transpose: false,
        }
    }
}

impl RecordingReading {
    /// Height and width of the frames of a camera.
    ///
    /// # Errors
    /// [`Error::Config`] naming `frame-size` for frames larger than the camera, or than memory should hold.
    pub fn frame_size(&self, [height, width]: Sensor) -> Result<Sensor> {
        let turned = if self.transpose { [width, height] } else { [height, width] };
        let by = turned[0].max(turned[1]).div_ceil(USUAL_SIDE).max(1);
        let size = self.size.unwrap_or(turned.map(|side| (side / by).max(1)));
        let shown = format!("{}x{}", size[0], size[1]);
        if (0..2).any(|axis| !(1..=turned[axis]).contains(&size[axis])) {
            let problem = format!("{shown} is not in 1x1..={}x{}, the size of the camera", turned[0], turned[1]);
            return Err(Error::config("frame-size", problem));
        }
        if self.time_steps * size[0] * size[1] * CHANNELS > MOST_VALUES {
            let problem = format!("{} frames of {shown} have more than {MOST_VALUES} values; take smaller ones", self.time_steps);
            return Err(Error::config("frame-size", problem));
        }
        Ok(size)
    }

    fn cut(&self) -> Cut {
        self.length.map_or(self.frames.into(), Cut::Length)
    }
}

/// Events of each frame and pixel, darker and brighter apart, `[T][H][W][2]`; the pixels of the camera that lie in a pixel of the frame are
/// added up. `path` is what errors name.
///
/// # Errors
/// [`Error::File`] for fewer events than frames of equally many, or frames by time of a recording that takes none or whose clock jumps;
/// [`Error::Config`] for frames larger than the camera.
pub fn counts(path: &Path, recording: &Recording, reading: &RecordingReading) -> Result<Vec<f32>> {
    let size @ [height, width] = reading.frame_size(recording.sensor)?;
    let place = places(recording.sensor, size, reading);
    let mut counts = vec![0.0; reading.time_steps * height * width * CHANNELS];
    cut::each(path, &recording.events, reading.cut(), reading.time_steps, |frame, &Event { x, y, polarity, .. }| {
        let pixel = place(y.into(), x.into());
        counts[(frame * height * width + pixel) * CHANNELS + usize::from(polarity)] += 1.0;
    })?;
    Ok(counts)
}

/// Frames of a file, `[T][2][h][w]` of a camera of h×w, turned and made smaller as counts of events are.
pub fn from_frames(frames: &[f32], sensor: Sensor, reading: &RecordingReading) -> Result<Vec<f32>> {
    let size @ [height, width] = reading.frame_size(sensor)?;
    let place = places(sensor, size, reading);
    let mut out = vec![0.0; reading.time_steps * height * width * CHANNELS];
    let planes = frames.chunks_exact(sensor[0] * sensor[1]).zip(0..reading.time_steps * CHANNELS);
    for (plane, number) in planes {
        let (frame, channel) = (number / CHANNELS, number % CHANNELS);
        for (y, row) in plane.chunks_exact(sensor[1]).enumerate() {
            for (x, value) in row.iter().enumerate() {
                out[(frame * height * width + place(y, x)) * CHANNELS + channel] += value;
            }
        }
    }
    Ok(out)
}

/// Which pixel of a frame a row and column of the camera lie in.
fn places(sensor: Sensor, size: Sensor, reading: &RecordingReading) -> impl Fn(usize, usize) -> usize {
    let RecordingReading { flip_x, flip_y, transpose, .. } = *reading;
    let [rows, columns] = if transpose { [sensor[1], sensor[0]] } else { sensor };
    move |y, x| {
        let (y, x) = if transpose { (x, y) } else { (y, x) };
        let (y, x) = (if flip_y { rows - 1 - y } else { y }, if flip_x { columns - 1 - x } else { x });
        y * size[0] / rows * size[1] + x * size[1] / columns
    }
}
