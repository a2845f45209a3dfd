//! Reads TensorBoard event files with its own checksum and its own protobuf reader, so that the writer is not its own judge.

/// CRC-32C, bit by bit: polynomial 0x1EDC6F41, reflected.
pub fn crc32c(bytes: &[u8]) -> u32 {
    !bytes
        .iter()
        .fold(!0u32, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 }))
}

fn masked(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Event {
    pub wall_time: f64,
    pub step: u64,
    pub version: Option<String>,
    pub scalars: Vec<(String, f32)>,
    /// The start of a session: what earlier files say of this step and later ones is forgotten.
    pub starts_session: bool,
}

/// What TensorBoard shows of several files, read one after the other: all events with scalars that no later session forgets.
#[allow(dead_code)] // one of its users reads single files
pub fn shown(files: &[Vec<u8>]) -> Vec<Event> {
    let mut shown: Vec<Event> = Vec::new();
    for bytes in files {
        let events = decode(bytes);
        assert_eq!(events[0].version.as_deref(), Some("brain.Event:2"));
        assert!(events[1..].iter().all(|event| event.version.is_none()));
        for event in &events[1..] {
            if event.starts_session {
                shown.retain(|earlier| earlier.step < event.step);
            } else {
                shown.push(event.clone());
            }
        }
    }
    shown
}

/// All events; fails on a wrong checksum or a record that is cut off.
pub fn decode(mut bytes: &[u8]) -> Vec<Event> {
    let mut events = Vec::new();
    while !bytes.is_empty() {
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        assert_eq!(u32::from_le_bytes(bytes[8..12].try_into().unwrap()), masked(&bytes[..8]), "checksum of a length");
        let data = &bytes[12..12 + length];
        assert_eq!(u32::from_le_bytes(bytes[12 + length..16 + length].try_into().unwrap()), masked(data), "checksum of a record");
        events.push(event(data));
        bytes = &bytes[16 + length..];
    }
    events
}

fn event(data: &[u8]) -> Event {
    let mut event = Event::default();
    for (field, value) in fields(data) {
        match (field, value) {
            (1, Value::Fixed64(bits)) => event.wall_time = f64::from_bits(bits),
            (2, Value::Varint(step)) => event.step = step,
            (3, Value::Bytes(text)) => event.version = Some(String::from_utf8(text.to_vec()).unwrap()),
            (5, Value::Bytes(summary)) => {
                for (field, value) in fields(summary) {
                    let (1, Value::Bytes(entry)) = (field, value) else { panic!("field {field} of a summary") };
                    let mut scalar = (String::new(), f32::NAN);
                    for (field, value) in fields(entry) {
                        match (field, value) {
                            (1, Value::Bytes(tag)) => scalar.0 = String::from_utf8(tag.to_vec()).unwrap(),
                            (2, Value::Fixed32(bits)) => scalar.1 = f32::from_bits(bits),
                            (field, _) => panic!("field {field} of a value"),
                        }
                    }
                    event.scalars.push(scalar);
                }
            }
            (7, Value::Bytes(session)) => {
                assert!(matches!(fields(session)[..], [(1, Value::Varint(1))]), "status START");
                event.starts_session = true;
            }
            (field, _) => panic!("field {field} of an event"),
        }
    }
    event
}

enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

fn fields(mut data: &[u8]) -> Vec<(u64, Value<'_>)> {
    let mut fields = Vec::new();
    while !data.is_empty() {
        let key = varint(&mut data);
        let value = match key & 7 {
            0 => Value::Varint(varint(&mut data)),
            1 => Value::Fixed64(u64::from_le_bytes(take(&mut data, 8).try_into().unwrap())),
            2 => {
                let length = varint(&mut data) as usize;
                Value::Bytes(take(&mut data, length))
            }
            5 => Value::Fixed32(u32::from_le_bytes(take(&mut data, 4).try_into().unwrap())),
            other => panic!("wire type {other}"),
        };
        fields.push((key >> 3, value));
    }
    fields
}

fn varint(data: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(data, 1)[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return value;
        }
    }
    panic!("a varint of more than ten bytes");
}

fn take<'a>(data: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, rest) = data.split_at(count);
    *data = rest;
    taken
}
