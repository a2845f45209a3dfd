//! EVT3 of Prophesee: little-endian words of 16 bits, four of which say what a word is. A word tells what has changed: row, upper or lower
//! bits of the time, a pixel of the row, or which of 12 or 8 pixels side by side.

use std::path::Path;

use super::evt2::whole;
use super::prophesee::turned;
use crate::data::camera::{Event, Sensor, inside};
use crate::error::{Error, Result};

/// After so many microseconds the clock begins again: 12 upper bits and 12 lower ones.
const PERIOD: i64 = 1 << 24;

/// Gives each event behind `header` bytes to `keep`. Those before the first time and row have none and do not count.
///
/// # Errors
/// [`Error::File`] for a body that is cut off, a word of an unknown kind, or an event outside the camera.
pub(super) fn parse(path: &Path, bytes: &[u8], header: usize, sensor: Sensor, keep: &mut impl FnMut(Event)) -> Result<()> {
    let (words, rest) = bytes[header..].as_chunks::<2>();
    whole(path, bytes.len(), rest, 2)?;
    let (mut high, mut low, mut row) = (None, 0, None);
    // Where the next pixels side by side begin, and their polarity.
    let mut vector = None;
    for (index, &word) in words.iter().enumerate() {
        let word = u16::from_le_bytes(word);
        let byte = header + 2 * index;
        let (kind, value) = (word >> 12, word & 0xfff);
        let (place, polarity) = (u32::from(word & 0x7ff), (word >> 11 & 1) as u8);
        let mut event = |x: u32, polarity: u8| -> Result<()> {
            let Some((time, y)) = high.zip(row) else { return Ok(()) };
            let [x, y] = inside(path, index, byte, [x, y], sensor)?;
            keep(Event { time: time | low, x, y, polarity });
            Ok(())
        };
        match kind {
            0x0 => row = Some(place),
            0x2 => event(place, polarity)?,
            0x3 => vector = Some((place, polarity)),
            0x4 | 0x5 => {
                let pixels = if kind == 0x4 { 12 } else { 8 };
                let Some((first, polarity)) = vector else { continue };
                for pixel in (0..pixels).filter(|pixel| value >> pixel & 1 == 1) {
                    event(first + pixel, polarity)?;
                }
                // A row has no more pixels than that, and inside no vector goes so far.
                vector = Some(((first + pixels).min(1 << 16), polarity));
            }
            0x6 => low = i64::from(value),
            0x8 => (high, low) = (Some(turned(high, i64::from(value) << 12, PERIOD)), 0),
            0x7 | 0xa | 0xd | 0xe | 0xf => {} // triggers, others, and what continues them
            _ => {
                let problem = format!("is damaged at byte {byte}: EVT3 has no words of kind {kind:#x}; get it again");
                return Err(Error::file(path, problem));
            }
        }
    }
    Ok(())
}
