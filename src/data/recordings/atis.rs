//! The 40-bit events of N-MNIST and N-Caltech101 (`.bin`; Orchard, Jayawant, Cohen and Thakor, 2015): no header; column, row, then one
//! bit for brighter and 23 bits of microseconds, big-endian.

use std::path::Path;

use crate::data::camera::{Event, Sensor, inside};
use crate::error::{Error, Result};

/// Bytes of an event.
const RECORD: usize = 5;

/// A row that no camera of this format has: its events say that 2^13 µs have gone by.
const OVERFLOW: u8 = 240;

/// Gives each event of the bytes of a file to `keep`.
///
/// # Errors
/// [`Error::File`] for a body that is cut off, or an event outside the camera.
pub(super) fn parse(path: &Path, bytes: &[u8], sensor: Sensor, keep: &mut impl FnMut(Event)) -> Result<()> {
    let (records, rest) = bytes.as_chunks::<RECORD>();
    if !rest.is_empty() {
        let problem = format!("is cut off: it has {} bytes, no multiple of an event ({RECORD} bytes); get it again", bytes.len());
        return Err(Error::file(path, problem));
    }
    let mut gone = 0;
    for (index, &[x, y, t2, t1, t0]) in records.iter().enumerate() {
        if y == OVERFLOW {
            gone += 1 << 13;
            continue;
        }
        let [x, y] = inside(path, index, index * RECORD, [x.into(), y.into()], sensor)?;
        let time = gone + i64::from(u32::from_be_bytes([0, t2 & 127, t1, t0]));
        keep(Event { time, x, y, polarity: t2 >> 7 });
    }
    Ok(())
}
