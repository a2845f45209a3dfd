//! EVT2 and EVT2.1 of Prophesee: little-endian words of 32 or 64 bits. Four bits say what a word is; one tells the upper bits of the
//! time, which those of events do not repeat.

use std::path::Path;

use super::prophesee::turned;
use crate::data::camera::{Event, Sensor, inside};
use crate::error::{Error, Result};

/// After so many microseconds the clock begins again: 28 upper bits and 6 lower ones.
const PERIOD: i64 = 1 << 34;

const TIME_HIGH: u8 = 0x8;

/// Words that are no events of pixels: triggers, measurements of motion, others, and what continues them.
const IGNORED: [u8; 4] = [0xa, 0xd, 0xe, 0xf];

/// Gives each event of EVT2, behind `header` bytes, to `keep`. Those before the first time have none and do not count.
///
/// # Errors
/// [`Error::File`] for a body that is cut off, a word of an unknown kind, or an event outside the camera.
pub(super) fn parse(path: &Path, bytes: &[u8], header: usize, sensor: Sensor, keep: &mut impl FnMut(Event)) -> Result<()> {
    let (words, rest) = bytes[header..].as_chunks::<4>();
    whole(path, bytes.len(), rest, 4)?;
    let mut high = None;
    for (index, &word) in words.iter().enumerate() {
        let word = u32::from_le_bytes(word);
        match (word >> 28) as u8 {
            polarity @ 0..=1 => {
                let [x, y] = inside(path, index, header + 4 * index, [word >> 11 & 0x7ff, word & 0x7ff], sensor)?;
                let Some(high) = high else { continue };
                keep(Event { time: high | i64::from(word >> 22 & 63), x, y, polarity });
            }
            TIME_HIGH => high = Some(turned(high, i64::from(word & 0x0fff_ffff) << 6, PERIOD)),
            kind => known(path, header + 4 * index, kind, "EVT2")?,
        }
    }
    Ok(())
}

/// The same of EVT2.1, where a word has 32 pixels side by side.
///
/// # Errors
/// As [`parse`].
pub(super) fn parse_vectors(path: &Path, bytes: &[u8], header: usize, sensor: Sensor, keep: &mut impl FnMut(Event)) -> Result<()> {
    let (words, rest) = bytes[header..].as_chunks::<8>();
    whole(path, bytes.len(), rest, 8)?;
    let mut high = None;
    for (index, &word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(word);
        let upper = (word >> 32) as u32;
        match (upper >> 28) as u8 {
            polarity @ 0..=1 => {
                for pixel in (0..32).filter(|pixel| word >> pixel & 1 == 1) {
                    let [x, y] = inside(path, index, header + 8 * index, [(upper >> 11 & 0x7ff) + pixel, upper & 0x7ff], sensor)?;
                    let Some(high) = high else { continue };
                    keep(Event { time: high | i64::from(upper >> 22 & 63), x, y, polarity });
                }
            }
            TIME_HIGH => high = Some(turned(high, i64::from(upper & 0x0fff_ffff) << 6, PERIOD)),
            kind => known(path, header + 8 * index, kind, "EVT2.1")?,
        }
    }
    Ok(())
}

/// Whether a body of words is whole, of which `rest` is left.
pub(super) fn whole(path: &Path, length: usize, rest: &[u8], word: usize) -> Result<()> {
    if rest.is_empty() {
        return Ok(());
    }
    let problem = format!("is cut off: the word at byte {} has {} of {word} bytes; get it again", length - rest.len(), rest.len());
    Err(Error::file(path, problem))
}

fn known(path: &Path, byte: usize, kind: u8, format: &str) -> Result<()> {
    if IGNORED.contains(&kind) {
        return Ok(());
    }
    Err(Error::file(path, format!("is damaged at byte {byte}: {format} has no words of kind {kind:#x}; get it again")))
}
