//! AEDAT 2.0, the format of the recordings of CIFAR10-DVS: header lines that begin with `#`, then 8 bytes an event, a big-endian
//! address and a big-endian time.

use std::path::Path;

use super::camera::{Event, SIDE, Sensor};
use crate::error::{Error, Result};

/// The camera of these addresses, a DVS128.
pub(super) const SENSOR: Sensor = [SIDE; 2];

/// Bytes of an event.
const RECORD: usize = 8;

/// The events in the bytes of a file, in its order.
///
/// # Errors
/// [`Error::File`] for a body that is cut off, or an event outside the camera.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Vec<Event>> {
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
        let (column, y) = ((address >> 1 & 127) as u16, (address >> 8 & 127) as u16);
        let time = i64::from(u32::from_be_bytes([t0, t1, t2, t3]));
        events.push(Event { time, x: SIDE as u16 - 1 - column, y, polarity: 1 - (address & 1) as u8 });
    }
    Ok(events)
}
