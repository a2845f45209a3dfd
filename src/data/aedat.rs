//! Recordings of event cameras in AEDAT files. Which version a file has is told by its first line, never by its name.

use std::io::Read;
use std::path::Path;

pub use super::camera::{Event, SIDE};
use super::guard::guarded;
use super::{aedat2, aedat4};
use crate::error::{Error, Result};
use crate::regular_file;

/// More bytes than a recording has: 16 million events of AEDAT 2.0.
const MAX_BYTES: u64 = 1 << 27;

/// The events of a file, in its order; at least one.
///
/// # Errors
/// [`Error::Io`] if it could not be read, and what [`parse`] finds wrong.
pub fn read(path: &Path) -> Result<Vec<Event>> {
    let file = regular_file::open(path)?;
    let length = file.metadata().map_err(Error::io(path))?.len();
    if length > MAX_BYTES {
        return Err(Error::file(path, format!("has {length} bytes, more than the {MAX_BYTES} that are supported")));
    }
    let mut bytes = Vec::with_capacity(length as usize);
    file.take(length).read_to_end(&mut bytes).map_err(Error::io(path))?;
    parse(path, &bytes)
}

/// What the first line of a file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// 2.0
    Two,
    /// 3.1
    Three,
    /// 4.0
    Four,
}

/// The version of the bytes of a file.
///
/// # Errors
/// [`Error::File`] for another version, or another format.
pub(super) fn version(path: &Path, bytes: &[u8]) -> Result<Version> {
    match bytes.strip_prefix(b"#!AER-DAT").unwrap_or_default() {
        [b'2', b'.', ..] => Ok(Version::Two),
        [b'3', b'.', b'1', ..] => Ok(Version::Three),
        [b'4', b'.', ..] => Ok(Version::Four),
        [version @ (b'1' | b'3'), b'.', ..] => Err(not_read(path, char::from(*version))),
        _ => {
            let start = &bytes[..bytes.len().min(12)];
            let problem = format!("is no AEDAT file: begins with \"{}\" instead of \"#!AER-DAT\"; get it again", start.escape_ascii());
            Err(Error::file(path, problem))
        }
    }
}

fn not_read(path: &Path, version: char) -> Error {
    Error::file(path, format!("is AEDAT {version}.x, which is not read; convert it to AEDAT 2.0 or 4.0"))
}

/// The events in the bytes of a file of CIFAR10-DVS, AEDAT 2.0 or 4.0. `path` is what errors name.
///
/// # Errors
/// [`Error::File`] for another format or version, a body that is cut off, an event outside the camera, or no events.
pub fn parse(path: &Path, bytes: &[u8]) -> Result<Vec<Event>> {
    let events = match version(path, bytes)? {
        Version::Two => aedat2::parse(path, bytes)?,
        Version::Three => return Err(not_read(path, '3')),
        Version::Four => guarded(path, || aedat4::parse(path, bytes, Some([SIDE; 2])))?.events,
    };
    if events.is_empty() {
        return Err(Error::file(path, "has no events; get it again"));
    }
    Ok(events)
}
