//! AEDAT 2.0, the format of the recordings of CIFAR10-DVS: header lines that begin with `#`, then 8 bytes an event, a big-endian
//! address and a big-endian time. Which version a file has is told by its first line, never by its name.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::{MAX_FILE_BYTES, aedat4};
use crate::error::{Error, Result};

/// Pixels a side of the camera.
pub const SIDE: usize = 128;

/// Bytes of an event.
const RECORD: usize = 8;

/// A pixel that became brighter or darker. Column and row are those of an upright picture: column 0 is on the left, row 0 on top.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Microseconds, from any start.
    pub time: i64,
    /// Column, below [`SIDE`].
    pub x: u8,
    /// Row, below [`SIDE`].
    pub y: u8,
    /// 1 for brighter, 0 for darker.
    pub polarity: u8,
}

/// The events of a file, in its order; at least one.
///
/// # Errors
/// [`Error::Io`] if it could not be read, and what [`parse`] finds wrong.
pub fn read(path: &Path) -> Result<Vec<Event>> {
    let file = File::open(path).map_err(Error::io(path))?;
    let length = file.metadata().map_err(Error::io(path))?.len();
    if length > MAX_FILE_BYTES {
        return Err(Error::file(path, format!("has {length} bytes, more than the {MAX_FILE_BYTES} that are supported")));
    }
    let mut bytes = Vec::with_capacity(length as usize);
    file.take(MAX_FILE_BYTES).read_to_end(&mut bytes).map_err(Error::io(path))?;
    parse(path, &bytes)
}

/// The events in the bytes of a file, AEDAT 2.0 or 4.0. `path` is what errors name.
///
/// # Errors
/// [`Error::File`] for another format or version, a body that is cut off, an event outside the camera, or no events.
pub fn parse(path: &Path, bytes: &[u8]) -> Result<Vec<Event>> {
    let events = match bytes.strip_prefix(b"#!AER-DAT").unwrap_or_default() {
        [b'2', b'.', ..] => parse_2(path, bytes)?,
        [b'4', b'.', ..] => aedat4::parse(path, bytes)?,
        [version @ (b'1' | b'3'), b'.', ..] => {
            let problem = format!("is AEDAT {}.x, which is not read; convert it to AEDAT 2.0 or 4.0", char::from(*version));
            return Err(Error::file(path, problem));
        }
        _ => {
            let start = &bytes[..bytes.len().min(12)];
            let problem = format!("is no AEDAT file: begins with \"{}\" instead of \"#!AER-DAT\"; get it again", start.escape_ascii());
            return Err(Error::file(path, problem));
        }
    };
    if events.is_empty() {
        return Err(Error::file(path, "has no events; get it again"));
    }
    Ok(events)
}

fn parse_2(path: &Path, bytes: &[u8]) -> Result<Vec<Event>> {
    let mut body = bytes;
    while body.first() == Some(&b'#') {
        match body.iter().position(|&byte| byte == b'\n') {
            Some(end) => body = &body[end + 1..],
            None => return Err(Error::file(path, format!("ends in its header, after {} bytes; get it again", bytes.len()))),
        }
    }
    let header = bytes.len() - body.len();
    let (records, rest) = body.as_chunks::<RECORD>();
    if !rest.is_empty() {
        let problem = format!(
            "is cut off: its body has {} bytes, no multiple of an event ({RECORD} bytes): event {} at byte {} has {}; get it again",
            body.len(),
            records.len(),
            bytes.len() - rest.len(),
            rest.len()
        );
        return Err(Error::file(path, problem));
    }
    let mut events = Vec::with_capacity(records.len());
    for (index, &[a, b, c, d, t0, t1, t2, t3]) in records.iter().enumerate() {
        let address = u32::from_be_bytes([a, b, c, d]);
        if address >> 16 != 0 {
            let problem = format!(
                "event {index} at byte {} has address {address:#010x}, more than 16 bits: damaged, or of another camera; get it again",
                header + index * RECORD
            );
            return Err(Error::file(path, problem));
        }
        if address >> 15 == 1 {
            continue; // a signal from outside, not a pixel
        }
        // The camera counts columns from the right and says 0 for brighter.
        let (column, y) = ((address >> 1 & 127) as u8, (address >> 8 & 127) as u8);
        let time = i64::from(u32::from_be_bytes([t0, t1, t2, t3]));
        events.push(Event { time, x: SIDE as u8 - 1 - column, y, polarity: 1 - (address & 1) as u8 });
    }
    Ok(events)
}
