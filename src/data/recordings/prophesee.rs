//! Files of Prophesee's cameras: lines that begin with `%`, then events; `.dat` with 8 bytes an event, `.raw` in the words of EVT2, EVT2.1
//! or EVT3. What the lines say decides, not the name.

use std::path::Path;

use super::{evt2, evt3};
use crate::data::camera::{Event, Sensor, inside, sensor};
use crate::error::{Error, Result};

/// How events are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Dat,
    Evt2,
    Evt21,
    Evt3,
}

/// The lines at the beginning.
struct Header {
    format: Format,
    sensor: Option<Sensor>,
    /// Bytes of it.
    length: usize,
}

/// Gives each event of the bytes of a file to `keep`; also the camera, as the header states it where it is not `told`.
///
/// # Errors
/// [`Error::File`] for a damaged file (says at which byte), a format that is not read, or an event outside the camera.
pub(super) fn parse(path: &Path, bytes: &[u8], told: Option<Sensor>, keep: &mut impl FnMut(Event)) -> Result<Sensor> {
    let Header { format, sensor: stated, length } = header(path, bytes)?;
    let sensor = sensor(path, told, stated)?;
    match format {
        Format::Dat => dat(path, bytes, length, sensor, keep)?,
        Format::Evt2 => evt2::parse(path, bytes, length, sensor, keep)?,
        Format::Evt21 => evt2::parse_vectors(path, bytes, length, sensor, keep)?,
        Format::Evt3 => evt3::parse(path, bytes, length, sensor, keep)?,
    }
    Ok(sensor)
}

/// Reads the lines; those with anything else than format and size of the camera do not count.
fn header(path: &Path, bytes: &[u8]) -> Result<Header> {
    let (mut format, mut version, mut height, mut width) = (None, None, None, None);
    let mut length = 0;
    while bytes[length..].first() == Some(&b'%') {
        let Some(end) = bytes[length..].iter().position(|&byte| byte == b'\n') else {
            return Err(Error::file(path, format!("ends in its header, after {} bytes; get it again", bytes.len())));
        };
        let line = String::from_utf8_lossy(&bytes[length + 1..length + end]);
        length += end + 1;
        let (key, value) = line.trim().split_once(char::is_whitespace).unwrap_or((line.trim(), ""));
        let value = value.trim();
        match key.to_ascii_lowercase().as_str() {
            "end" => break,
            "evt" => format = format.or(Some(value.to_string())),
            "format" => {
                let mut parts = value.split(';').map(str::trim);
                let name = parts.next().unwrap_or_default();
                format = Some(name.strip_prefix("EVT").unwrap_or(name).to_string());
                for (key, value) in parts.filter_map(|part| part.split_once('=')) {
                    match key {
                        "height" => height = value.parse().ok(),
                        "width" => width = value.parse().ok(),
                        "endianness" if value != "little" => {
                            let problem = format!("has words of endianness {value:?}, which are not read; write it anew");
                            return Err(Error::file(path, problem));
                        }
                        _ => {}
                    }
                }
            }
            "geometry" => {
                let (w, h) = value.split_once('x').unwrap_or_default();
                (width, height) = (w.parse().ok(), h.parse().ok());
            }
            "version" => version = Some(value.to_string()),
            "height" => height = value.parse().ok(),
            "width" => width = value.parse().ok(),
            _ => {}
        }
    }
    let format = match (format.as_deref(), version.as_deref()) {
        (Some("2" | "2.0"), _) => Format::Evt2,
        (Some("21" | "2.1"), _) => Format::Evt21,
        (Some("3" | "3.0"), _) => Format::Evt3,
        (Some(other), _) => {
            let problem = format!("has events of format {other:?}, which is not read: EVT2, EVT2.1 and EVT3 are");
            return Err(Error::file(path, problem));
        }
        (None, None | Some("2")) => Format::Dat,
        (None, Some(other)) => return Err(Error::file(path, format!("is of version {other:?} of DAT, which is not read: 2 is"))),
    };
    Ok(Header { format, sensor: height.zip(width).map(|(height, width)| [height, width]), length })
}

/// DAT: a byte for the kind of events, one for the size of an event, then events of two little-endian words: microseconds; column (14
/// bits), row (14 bits), brighter.
fn dat(path: &Path, bytes: &[u8], header: usize, sensor: Sensor, keep: &mut impl FnMut(Event)) -> Result<()> {
    const RECORD: usize = 8;
    let &[kind, size] = bytes[header..]
        .first_chunk()
        .ok_or_else(|| Error::file(path, format!("ends behind its header, after {} bytes; get it again", bytes.len())))?;
    if !matches!(kind, 0x00 | 0x0c) || usize::from(size) != RECORD {
        let problem = format!(
            "has events of kind {kind:#04x} and {size} bytes, which are not read: changes of pixels are (0x0c, {RECORD} bytes); \
             get it again"
        );
        return Err(Error::file(path, problem));
    }
    let begin = header + 2;
    let (records, rest) = bytes[begin..].as_chunks::<RECORD>();
    if !rest.is_empty() {
        let problem = format!(
            "is cut off: event {} at byte {} has {} of {RECORD} bytes; get it again",
            records.len(),
            bytes.len() - rest.len(),
            rest.len()
        );
        return Err(Error::file(path, problem));
    }
    for (index, &[t0, t1, t2, t3, d0, d1, d2, d3]) in records.iter().enumerate() {
        let data = u32::from_le_bytes([d0, d1, d2, d3]);
        let [x, y] = inside(path, index, begin + index * RECORD, [data & 0x3fff, data >> 14 & 0x3fff], sensor)?;
        keep(Event { time: u32::from_le_bytes([t0, t1, t2, t3]).into(), x, y, polarity: (data >> 28 & 1) as u8 });
    }
    Ok(())
}

/// The time that the upper bits of a clock stand for, which begins again at 0 after `period` µs; `before` is what they stood for before.
/// A small step back is one; a large one is a new turn.
pub(super) fn turned(before: Option<i64>, bits: i64, period: i64) -> i64 {
    let Some(before) = before else { return bits };
    let turn = before - before.rem_euclid(period);
    let time = turn + bits;
    if before - time > period / 2 {
        time + period
    } else if time - before > period / 2 && time >= period {
        time - period // late, from before the turn
    } else {
        time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bits of a clock that turns at 16, and what they stand for.
    #[test]
    fn a_clock_goes_on_over_its_turns_and_comes_back_from_a_late_event() {
        let mut before = None;
        let bits = [14, 15, 0, 15, 0, 1, 14, 9, 3, 2];
        let times = [14, 15, 16, 15, 16, 17, 14, 9, 3, 2];
        for (bits, time) in bits.into_iter().zip(times) {
            before = Some(turned(before, bits, 16));
            assert_eq!(before, Some(time));
        }
        // Nothing comes from before the first turn.
        assert_eq!(turned(Some(0), 15, 16), 15);
    }
}
