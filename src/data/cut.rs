//! Where one frame of a recording ends and the next begins.

use std::path::Path;

use super::camera::Event;
use super::events::FrameRule;
use crate::error::{Error, Result};

/// How a recording becomes frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// Of equally many events; the last frame takes what is left.
    Number,
    /// Of equal time, from the first to the last event.
    Time,
    /// Of so many microseconds, from the first event on; what comes behind the last frame does not count.
    Length(i64),
}

impl From<FrameRule> for Cut {
    fn from(rule: FrameRule) -> Self {
        match rule {
            FrameRule::Number => Cut::Number,
            FrameRule::Time => Cut::Time,
        }
    }
}

/// Gives each event that is in one of `frames` to `put`, with its frame. `path` is what errors name.
///
/// # Errors
/// [`Error::File`] for fewer events than frames of equally many, or frames by time of a recording that takes none or whose clock jumps.
pub(super) fn each(path: &Path, events: &[Event], cut: Cut, frames: usize, mut put: impl FnMut(usize, &Event)) -> Result<()> {
    if !matches!(cut, Cut::Length(_)) && events.len() < frames {
        let problem = format!("has {} events, fewer than the {frames} frames to be made of them; lower -T, or get it again", events.len());
        return Err(Error::file(path, problem));
    }
    let begin = events.first().map_or(0, |event| event.time);
    let time = i128::from(events.last().map_or(0, |event| event.time)) - i128::from(begin);
    let since = |event: &Event| (i128::from(event.time) - i128::from(begin)).max(0);
    match cut {
        Cut::Number => {
            let a_frame = (events.len() / frames.max(1)).max(1);
            events.iter().enumerate().for_each(|(index, event)| put((index / a_frame).min(frames - 1), event));
        }
        Cut::Time => {
            check_clock(path, events, time, frames)?;
            // The order of a file is that of time only within a frame.
            events.iter().for_each(|event| put(((since(event) * frames as i128 / time) as usize).min(frames - 1), event));
        }
        Cut::Length(length) => {
            check_back(path, events, length.into())?;
            let frame = |event: &Event| usize::try_from(since(event) / i128::from(length.max(1))).unwrap_or(usize::MAX);
            events
                .iter()
                .map(|event| (frame(event), event))
                .filter(|(frame, _)| *frame < frames)
                .for_each(|(frame, event)| put(frame, event));
        }
    }
    Ok(())
}

/// Whether `time`, from the first to the last of `events`, can be cut into `frames`: a clock that goes back by more than a frame
/// would mix frames, and one that goes forward by more than half of the time would leave many of them empty.
fn check_clock(path: &Path, events: &[Event], time: i128, frames: usize) -> Result<()> {
    if time <= 0 {
        let problem =
            format!("takes {time} µs from its first to its last event, so frames cannot be cut by time; use --event-frames number");
        return Err(Error::file(path, problem));
    }
    let mut latest = i128::from(events.first().map_or(0, |event| event.time));
    for (index, event) in events.iter().enumerate() {
        let step = i128::from(event.time) - latest;
        if -step * frames as i128 > time || frames > 2 && 2 * step > time {
            return Err(jumps(path, index, step));
        }
        latest = latest.max(event.time.into());
    }
    Ok(())
}

/// Whether the clock of `events` never goes back by more than the `length` of a frame.
fn check_back(path: &Path, events: &[Event], length: i128) -> Result<()> {
    let mut latest = i128::from(events.first().map_or(0, |event| event.time));
    for (index, event) in events.iter().enumerate() {
        let step = i128::from(event.time) - latest;
        if -step > length {
            return Err(jumps(path, index, step));
        }
        latest = latest.max(event.time.into());
    }
    Ok(())
}

fn jumps(path: &Path, index: usize, step: i128) -> Error {
    let direction = if step < 0 { "back" } else { "forward" };
    let problem = format!(
        "has a clock that goes {direction} by {} µs at event {index}, so frames cannot be cut by time; use --event-frames number",
        step.abs()
    );
    Error::file(path, problem)
}
