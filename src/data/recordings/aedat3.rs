//! AEDAT 3.1, the format of the recordings of DVS128 Gesture: header lines that begin with `#`, then packets of one kind of event each;
//! those of polarity events are read. All numbers are little-endian.

use std::path::Path;

use crate::data::camera::{Event, Sensor, inside, sensor};
use crate::error::{Error, Result};

/// Line behind which the packets begin.
const END: &str = "#!END-HEADER";

/// Bytes of the header of a packet: kind, source (2 each), then size of an event, place of its time, overflows of the clock, capacity,
/// number and valid events (4 each).
const HEADER: usize = 28;

/// Bytes of a polarity event.
const EVENT: usize = 8;

const POLARITY: u16 = 1;

/// Gives each event of the bytes of a file to `keep`; also the camera, by its name in the header where it is not `told`.
///
/// # Errors
/// [`Error::File`] for a damaged file (says at which byte), a packed one, or an event outside the camera.
pub(super) fn parse(path: &Path, bytes: &[u8], told: Option<Sensor>, keep: &mut impl FnMut(Event)) -> Result<Sensor> {
    let damaged = |at: usize, what: &str| Error::file(path, format!("is damaged at byte {at}: {what}; get it again"));
    let mut at = 0;
    let mut stated = None;
    loop {
        let line = bytes[at..].iter().position(|&byte| byte == b'\n').map(|end| &bytes[at..at + end]);
        let Some(line) = line.filter(|line| line.first() == Some(&b'#')) else {
            return Err(damaged(at, &format!("its header does not end in a line \"{END}\"")));
        };
        at += line.len() + 1;
        let line = String::from_utf8_lossy(line);
        let line = line.trim_end();
        if line == END {
            break;
        }
        if let Some(format) = line.strip_prefix("#Format:").map(str::trim).filter(|format| *format != "RAW") {
            return Err(Error::file(path, format!("is packed as {format:?}, which is not read; write it as RAW")));
        }
        stated = stated.or_else(|| line.strip_prefix("#Source").and_then(camera));
    }
    let sensor = sensor(path, told, stated)?;
    let mut index = 0;
    while at < bytes.len() {
        let header: &[u8; HEADER] = bytes[at..].first_chunk().ok_or_else(|| damaged(at, "the header of a packet is cut off"))?;
        let (fields, _) = header[4..].as_chunks::<4>();
        let [size, time_at, overflows, capacity, number] = [0, 1, 2, 3, 4].map(|field| u32::from_le_bytes(fields[field]));
        let start = at + HEADER;
        let length = u64::from(size) * u64::from(capacity);
        let body = usize::try_from(length).ok().and_then(|length| bytes[start..].get(..length));
        let body = body.ok_or_else(|| damaged(at, &format!("a packet of {length} bytes is cut off")))?;
        if u16::from_le_bytes([header[0], header[1]]) == POLARITY {
            if [size, time_at] != [EVENT as u32, 4] || number > capacity || overflows > i32::MAX as u32 {
                return Err(damaged(at, "the header of a packet of polarity events is none"));
            }
            let (events, _) = body.as_chunks::<EVENT>();
            for (place, &[d0, d1, d2, d3, t0, t1, t2, t3]) in events[..number as usize].iter().enumerate() {
                let (data, time) = (u32::from_le_bytes([d0, d1, d2, d3]), u32::from_le_bytes([t0, t1, t2, t3]));
                let byte = start + place * EVENT;
                if data & 1 == 1 {
                    // An event that is not valid may hold anything.
                    let [x, y] = inside(path, index, byte, [data >> 17, data >> 2 & 0x7fff], sensor)?;
                    let time = i32::try_from(time).map_err(|_| damaged(byte, "an event has a time below 0"))?;
                    keep(Event { time: i64::from(overflows) << 31 | i64::from(time), x, y, polarity: (data >> 1 & 1) as u8 });
                }
                index += 1;
            }
        }
        at = start + body.len();
    }
    Ok(sensor)
}

/// Pixels of a camera that a line of the header names.
fn camera(source: &str) -> Option<Sensor> {
    const KNOWN: [(&str, Sensor); 6] = [
        ("DVS128", [128, 128]),
        ("DAVIS128", [128, 128]),
        ("DAVIS208", [192, 208]),
        ("DAVIS240", [180, 240]),
        ("DAVIS346", [260, 346]),
        ("DAVIS640", [480, 640]),
    ];
    let (_, name) = source.split_once(':')?;
    KNOWN.iter().find(|(known, _)| name.trim().to_ascii_uppercase().starts_with(known)).map(|(_, sensor)| *sensor)
}
