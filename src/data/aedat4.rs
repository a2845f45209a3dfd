//! AEDAT 4.0: a FlatBuffer that says how packets are compressed, then packets, of which those of events are read. Each packet says
//! which stream it is of, and the header describes the streams in XML.
//!
//! Of FlatBuffers only this is needed: a table begins with the distance back to its list of fields, which says where in the table
//! each field lies, 0 for one that is absent; a vector is a count and its elements. All numbers are little-endian.

use std::io::Read;
use std::path::Path;

use super::camera::{Event, Sensor, sensor};
use super::recordings::Recording;
use crate::error::{Error, Result};

/// First line of a file.
const MAGIC: &[u8] = b"#!AER-DAT4.0\r\n";

/// Bytes of an event: i64 time, i16 x, i16 y, u8 brighter, 3 unused.
const EVENT: usize = 16;

/// Bytes of events that a file of so many bytes may hold: a packet that unpacks to more is not believed.
fn room_for(bytes: usize) -> usize {
    bytes.saturating_mul(64).max(1 << 20)
}

/// More streams than a camera gives.
const MAX_STREAMS: usize = 64;

/// Largest window of a ZSTD packet, for which room is taken at once; a block of LZ4 is at most as large.
const MAX_WINDOW: u64 = 1 << 23;

/// How packets are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    None,
    Lz4,
    Zstd,
}

/// The events of all packets that hold events, in the order of the file; maybe none. The camera is that of the description of their
/// stream where it is not `told`.
///
/// # Errors
/// [`Error::File`] for a damaged file (says at which byte), an event outside the camera, or a camera that nobody states.
pub(super) fn parse(path: &Path, bytes: &[u8], told: Option<Sensor>) -> Result<Recording> {
    let problem = |at: usize, what: &str| Error::file(path, format!("is damaged at byte {at}: {what}; get it again"));
    let truncated = |at: usize| problem(at, "it is cut off");
    if !bytes.starts_with(MAGIC) {
        return Err(Error::file(path, "is no AEDAT 4.0 file: its first line is not \"#!AER-DAT4.0\"; get it again"));
    }
    let start = MAGIC.len();
    let size = u32_at(bytes, start).ok_or_else(|| truncated(start))? as usize;
    let header = bytes[start + 4..].get(..size).ok_or_else(|| truncated(start))?;
    let (compression, end, streams) = file_header(header).ok_or_else(|| problem(start, "its header is no table of the kind IOHE"))?;
    let (chosen, stated) = named_events(&streams).unzip();
    let sensor = sensor(path, told, stated.flatten())?;
    let compression = match compression {
        0 => Compression::None,
        1 | 2 => Compression::Lz4,
        3 | 4 => Compression::Zstd,
        other => return Err(problem(start, &format!("compression {other} is not known (0 to 4 are)"))),
    };
    // A list of all packets may follow them; where there is none, the place is −1.
    let end = if end < 0 { bytes.len() } else { usize::try_from(end).unwrap_or(usize::MAX) };
    if end > bytes.len() {
        return Err(truncated(bytes.len()));
    }
    let mut at = start + 4 + size;
    let mut events = Vec::new();
    let mut room = room_for(bytes.len());
    let mut stream = None;
    let mut others = Vec::new(); // streams of something else: a stream is of one kind, so one look is enough
    while at < end {
        let (id, size) = u32_at(bytes, at).zip(u32_at(bytes, at + 4)).ok_or_else(|| truncated(at))?;
        let size = size as usize;
        let packed = bytes.get(at + 8..end).and_then(|rest| rest.get(..size)).ok_or_else(|| truncated(at))?;
        let other = chosen.is_some_and(|chosen| chosen != id) || others.contains(&id);
        let packet = if other { Ok(None) } else { unpack(packed, compression, room) };
        if let Some(packet) = packet.map_err(|e| problem(at, &format!("a packet cannot be unpacked ({e})")))? {
            if packet.len() > room {
                let most = room_for(bytes.len());
                return Err(problem(at, &format!("its events unpack to more than the {most} bytes that a file of its length may have")));
            }
            if *stream.get_or_insert(id) != id {
                let problem =
                    format!("has two streams of events, {} and {id}, and none or both are called \"events\"", stream.unwrap_or(id));
                return Err(Error::file(path, format!("{problem}; write the one you want into a file of its own")));
            }
            room -= packet.len();
            let found = elements(&packet).ok_or_else(|| problem(at, "a packet of events is no table of the kind EVTS"))?;
            append(path, at, found, sensor, &mut events)?;
        } else if !other {
            others.push(id);
            if others.len() > MAX_STREAMS {
                return Err(problem(at, &format!("it has more than {MAX_STREAMS} streams")));
            }
        }
        at += 8 + size;
    }
    Ok(Recording { sensor, events })
}

/// The number of the one stream that the header's XML calls "events", and its camera if that is stated; none if none or several streams
/// have that name.
fn named_events(streams: &str) -> Option<(u32, Option<Sensor>)> {
    // A stream is <node name="NUMBER" …> with <attr key="originalOutputName" …>NAME</attr> in it, before any node of its own; sizeX and
    // sizeY are in one of those, called "info".
    let mut found = streams.split("<node name=\"").enumerate().skip(1).filter_map(|(place, node)| {
        let number = node.split('"').next()?.parse().ok()?;
        (attribute(node, "originalOutputName")? == "events").then_some((place, number))
    });
    let (place, number) = found.next().filter(|_| found.next().is_none())?;
    let mut nodes = streams.split("<node name=\"").skip(place);
    let own = nodes.next().unwrap_or_default();
    let info = nodes.next().filter(|node| node.starts_with("info\"")).unwrap_or(own);
    let side = |key: &str| attribute(info, key).or_else(|| attribute(own, key))?.trim().parse().ok();
    Some((number, side("sizeY").zip(side("sizeX")).map(|(height, width)| [height, width])))
}

/// The text of <attr key="KEY" …>TEXT</attr> in the XML of a node.
fn attribute<'a>(node: &'a str, key: &str) -> Option<&'a str> {
    let (_, attribute) = node.split_once(&format!("\"{key}\""))?;
    let (_, rest) = attribute.split_once('>')?;
    rest.split('<').next()
}

/// Appends the events of one packet, which begins at byte `at` of the file.
fn append(path: &Path, at: usize, packet: &[[u8; EVENT]], [height, width]: Sensor, events: &mut Vec<Event>) -> Result<()> {
    events.reserve(packet.len());
    for &[t0, t1, t2, t3, t4, t5, t6, t7, x0, x1, y0, y1, on, ..] in packet {
        let (x, y) = (i16::from_le_bytes([x0, x1]), i16::from_le_bytes([y0, y1]));
        let (column, row) = (u16::try_from(x).unwrap_or(u16::MAX), u16::try_from(y).unwrap_or(u16::MAX));
        if usize::from(column) >= width || usize::from(row) >= height {
            let problem = format!(
                "event {} (in the packet at byte {at}) is at column {x}, row {y}, outside the camera's {height}x{width} pixels; \
                 get it again",
                events.len()
            );
            return Err(Error::file(path, problem));
        }
        let time = i64::from_le_bytes([t0, t1, t2, t3, t4, t5, t6, t7]);
        events.push(Event { time, x: column, y: row, polarity: u8::from(on != 0) });
    }
    Ok(())
}

/// Compression, the byte at which the packets end, and the description of the streams, of the header's FlatBuffer (without its size).
fn file_header(buffer: &[u8]) -> Option<(i32, i64, String)> {
    if buffer.get(4..8)? != b"IOHE" {
        return None;
    }
    let table = u32_at(buffer, 0)? as usize;
    let compression = match field(buffer, table, 0)? {
        Some(place) => i32::from_le_bytes(array(buffer, place)?),
        None => 0,
    };
    let end = match field(buffer, table, 1)? {
        Some(place) => i64::from_le_bytes(array(buffer, place)?),
        None => -1,
    };
    let streams = match field(buffer, table, 2)? {
        Some(place) => {
            let text = place.checked_add(u32_at(buffer, place)? as usize)?;
            let length = u32_at(buffer, text)? as usize;
            String::from_utf8_lossy(buffer.get(text.checked_add(4)?..)?.get(..length)?).into_owned()
        }
        None => String::new(),
    };
    Some((compression, end, streams))
}

/// Whether an unpacked packet holds events, and not pictures, signals or what else a camera gives.
fn is_of_events(packet: &[u8]) -> bool {
    packet.get(8..12) == Some(b"EVTS")
}

/// The events of a packet: the vector that is the first field of its FlatBuffer, whose size stands before it.
fn elements(packet: &[u8]) -> Option<&[[u8; EVENT]]> {
    let buffer = packet.get(4..)?;
    let Some(place) = field(buffer, u32_at(buffer, 0)? as usize, 0)? else { return Some(&[]) };
    let vector = place.checked_add(u32_at(buffer, place)? as usize)?;
    let count = u32_at(buffer, vector)? as usize;
    let (elements, _) = buffer.get(vector.checked_add(4)?..)?.as_chunks::<EVENT>();
    elements.get(..count)
}

/// Where field `index` of the table at `table` lies; inside, none if the table has no such field.
fn field(buffer: &[u8], table: usize, index: usize) -> Option<Option<usize>> {
    let back = i32::from_le_bytes(array(buffer, table)?);
    let fields = usize::try_from(i64::try_from(table).ok()? - i64::from(back)).ok()?;
    let size = usize::from(u16::from_le_bytes(array(buffer, fields)?));
    let entry = 4 + 2 * index;
    if entry + 2 > size {
        return Some(None);
    }
    let offset = usize::from(u16::from_le_bytes(array(buffer, fields.checked_add(entry)?)?));
    Some((offset != 0).then_some(table + offset))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_le_bytes)
}

/// An unpacked packet, up to a byte more than `room`; none if it is not of events.
fn unpack(packed: &[u8], compression: Compression, room: usize) -> std::io::Result<Option<Vec<u8>>> {
    match compression {
        Compression::None => whole(packed, room),
        Compression::Lz4 => whole(lz4_flex::frame::FrameDecoder::new(packed), room),
        Compression::Zstd => {
            let decoder = ruzstd::decoding::StreamingDecoder::new_with_max_window_size(packed, MAX_WINDOW);
            whole(decoder.map_err(std::io::Error::other)?, room)
        }
    }
}

/// Looks at the beginning of a packet, and reads the rest if it is of events.
fn whole(mut unpacked: impl Read, room: usize) -> std::io::Result<Option<Vec<u8>>> {
    const BEGINNING: u64 = 12;
    let mut packet = Vec::new();
    unpacked.by_ref().take(BEGINNING).read_to_end(&mut packet)?;
    if !is_of_events(&packet) {
        return Ok(None);
    }
    unpacked.take((room as u64 + 1).saturating_sub(BEGINNING)).read_to_end(&mut packet)?;
    Ok(Some(packet))
}
