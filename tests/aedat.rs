//! Recordings of event cameras: what is read, what each kind of damage is called, and that no bytes make the reader panic.

use std::io::Write;
use std::path::Path;

use dsr::data::aedat::{Event, parse, read};
use proptest::prelude::*;

#[path = "support/streamed_sets.rs"]
mod streamed_sets;
use streamed_sets::{aedat2, events};

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/events").join(name)).unwrap()
}

fn event((x, y, polarity, time): (u8, u8, u8, i64)) -> Event {
    Event { time, x: x.into(), y: y.into(), polarity }
}

#[test]
fn four_events_decoded_by_hand() {
    let expected = [(127, 0, 1, 1), (0, 127, 0, 2), (0, 0, 1, 3), (127, 127, 0, 4)].map(event);
    assert_eq!(parse(Path::new("golden4.aedat"), &fixture("golden4.aedat")).unwrap(), expected);
}

#[test]
fn events_are_those_written() {
    let rows = events(500, 3);
    let expected: Vec<Event> = rows.iter().map(|&(x, y, polarity, time)| event((x, y, polarity, time.into()))).collect();
    assert_eq!(parse(Path::new("x"), &aedat2(&rows)).unwrap(), expected);
    // The last time that 32 bits hold, and the time before it; a signal from outside between them.
    let mut bytes = aedat2(&[(0, 0, 0, u32::MAX - 1), (5, 6, 1, 77), (127, 127, 1, u32::MAX)]);
    let signal = bytes.len() - 14;
    bytes[signal] |= 0x80;
    assert_eq!(parse(Path::new("x"), &bytes).unwrap(), [event((0, 0, 0, 4_294_967_294)), event((127, 127, 1, 4_294_967_295))]);
}

/// A file of AEDAT 4.0 with packets of events (x, y, on), and one packet of something else.
fn aedat4(compression: u8, packets: &[&[(i16, i16, u8)]], pack: impl Fn(Vec<u8>) -> Vec<u8>) -> Vec<u8> {
    aedat4_of(compression, packets, pack, &[7; 8])
}

/// [`aedat4`] with the number of each packet's stream.
fn aedat4_of(compression: u8, packets: &[&[(i16, i16, u8)]], pack: impl Fn(Vec<u8>) -> Vec<u8>, streams: &[u32]) -> Vec<u8> {
    // Fields of the header: compression at 4, the place of the list at 8 (−1: none); their list has its size, that of the table,
    // and both places.
    let table = [&8i32.to_le_bytes()[..], &i32::from(compression).to_le_bytes(), &(-1i64).to_le_bytes()].concat();
    let fields = [8u16, 16, 4, 8].iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>();
    let root = (8 + fields.len() + 4) as u32;
    let header = [&root.to_le_bytes()[..], b"IOHE", &[0; 4], &fields, &table].concat();
    let mut bytes = [&b"#!AER-DAT4.0\r\n"[..], &(header.len() as u32).to_le_bytes(), &header].concat();
    let mut append = |kind: &[u8; 4], elements: &[u8], count: usize, stream: u32| {
        let fields = [6u16, 8, 4].iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>();
        let root = 8 + fields.len() as u32;
        let table = [&(fields.len() as i32).to_le_bytes()[..], &4u32.to_le_bytes()].concat();
        let buffer = [&root.to_le_bytes()[..], kind, &fields, &table, &(count as u32).to_le_bytes(), elements].concat();
        let packet = pack([&(buffer.len() as u32).to_le_bytes()[..], &buffer].concat());
        bytes.extend([&stream.to_le_bytes()[..], &(packet.len() as u32).to_le_bytes(), &packet].concat());
    };
    append(b"IMUS", &[1; 40], 1, 99);
    for (place, packet) in packets.iter().enumerate() {
        let element = |(i, &(x, y, on)): (usize, &(i16, i16, u8))| {
            let time = 1_600_000_000_000_000 + 100 * place as i64 + i as i64;
            [&time.to_le_bytes()[..], &x.to_le_bytes(), &y.to_le_bytes(), &[on, 9, 9, 9]].concat()
        };
        append(b"EVTS", &packet.iter().enumerate().flat_map(element).collect::<Vec<u8>>(), packet.len(), streams[place]);
    }
    bytes
}

fn lz4(bytes: Vec<u8>) -> Vec<u8> {
    let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
    encoder.write_all(&bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: Vec<u8>) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(&bytes[..], ruzstd::encoding::CompressionLevel::Fastest)
}

#[test]
fn version_4_is_read_with_every_compression() {
    let found = parse(Path::new("x"), &fixture("synthetic128.aedat4")).unwrap();
    assert_eq!(found.len(), 1000);
    // The file counts columns by 1, rows by 7, time by 100 µs, and changes polarity from event to event.
    let start = 1_600_000_000_000_000;
    let expected = |i: usize| event(((i % 128) as u8, (7 * i % 128) as u8, 1 - (i % 2) as u8, start + 100 * i as i64));
    assert_eq!(found, (0..1000).map(expected).collect::<Vec<_>>());

    let packets: [&[(i16, i16, u8)]; 3] = [&[(0, 0, 1), (127, 127, 0)], &[], &[(1, 2, 1)]];
    let expected = [(0, 0, 1, start), (127, 127, 0, start + 1), (1, 2, 1, start + 200)].map(event);
    let files = [aedat4(0, &packets, |bytes| bytes), aedat4(1, &packets, lz4), aedat4(2, &packets, lz4), aedat4(3, &packets, zstd)];
    for (kind, bytes) in files.into_iter().chain([aedat4(4, &packets, zstd)]).enumerate() {
        assert_eq!(parse(Path::new("x"), &bytes).unwrap(), expected, "compression {kind}");
    }
}

#[test]
fn damaged_recordings_are_named() {
    let good = aedat2(&events(5, 0));
    let body = good.len() - 40;
    let mut outside = good.clone();
    outside[body + 16] = 0x12;
    let mut signals = good.clone();
    (0..5).for_each(|event| signals[body + 8 * event + 2] |= 0x80);
    let four = aedat4(0, &[&[(1, 2, 1), (3, 4, 0)]], |bytes| bytes);
    let ending = |place: i64| {
        let mut bytes = four.clone();
        bytes[46..54].copy_from_slice(&place.to_le_bytes());
        bytes
    };
    assert_eq!(parse(Path::new("x"), &ending(four.len() as i64)).unwrap().len(), 2);
    let cut = |mut bytes: Vec<u8>| {
        bytes.truncate(bytes.len() - 8);
        bytes
    };
    let place = |column: i16, row: i16| aedat4(3, &[&[(1, 2, 1)], &[(0, 0, 0), (column, row, 1)]], zstd);
    let mut promises = four.clone();
    let count = four.len() - 36;
    promises[count..count + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    let cases: Vec<(&str, Vec<u8>, &[&str])> = vec![
        ("empty", vec![], &["is no AEDAT file", "get it again"]),
        ("a page", b"<!DOCTYPE html>".to_vec(), &["is no AEDAT file: begins with \"<!DOCTYPE ht\""]),
        ("another version", b"#!AER-DAT3.1\r\n".to_vec(), &["is AEDAT 3.x, which is not read", "convert it"]),
        ("an old version", b"#!AER-DAT1.0\r\n".to_vec(), &["is AEDAT 1.x"]),
        ("header without an end", good[..20].to_vec(), &["ends in its header, after 20 bytes"]),
        ("no body", good[..body].to_vec(), &["has no events"]),
        ("only signals from outside", signals, &["has no events"]),
        (
            "body cut",
            good[..good.len() - 3].to_vec(),
            &["is cut off", "37 bytes", "no multiple of an event (8 bytes)", "event 4 at byte", "has 5;"],
        ),
        ("address", outside, &["event 2 at byte 63", "address 0x1200", "get it again"]),
        ("4: first line only", b"#!AER-DAT4.0\r\n".to_vec(), &["is damaged at byte 14: it is cut off"]),
        ("4: another minor version", b"#!AER-DAT4.1\r\n".to_vec(), &["is no AEDAT 4.0 file"]),
        ("4: header cut", four[..30].to_vec(), &["is damaged at byte 14: it is cut off"]),
        (
            "4: header of another kind",
            {
                let mut b = four.clone();
                b[22] = b'X';
                b
            },
            &["header is no table of the kind IOHE"],
        ),
        ("4: unknown compression", aedat4(9, &[], |bytes| bytes), &["compression 9 is not known (0 to 4 are)"]),
        ("4: packet cut", four[..four.len() - 1].to_vec(), &["is damaged at byte", "it is cut off"]),
        ("4: packet header cut", [&four[..], &[0; 5]].concat(), &["it is cut off"]),
        ("4: not what it is packed with", aedat4(1, &[&[(1, 2, 1)]], |bytes| bytes), &["a packet cannot be unpacked"]),
        ("4: LZ4 cut", aedat4(1, &[&[(1, 2, 1)]], |bytes| cut(lz4(bytes))), &["a packet cannot be unpacked"]),
        ("4: ZSTD cut", aedat4(3, &[&[(1, 2, 1)]], |bytes| cut(zstd(bytes))), &["a packet cannot be unpacked"]),
        ("4: packets end too early", ending(four.len() as i64 - 50), &["is damaged at byte", "it is cut off"]),
        ("4: packets end within a packet's header", ending(115), &["is damaged at byte", "it is cut off"]),
        ("4: packets end behind the file", ending(1 << 40), &["it is cut off"]),
        ("4: count", promises, &["a packet of events is no table of the kind EVTS"]),
        ("4: column", place(128, 0), &["event 2 (in the packet at byte", "column 128, row 0", "outside the camera's 128x128 pixels"]),
        ("4: row", place(5, -1), &["column 5, row -1"]),
        ("4: no events", aedat4(0, &[&[]], |bytes| bytes), &["has no events"]),
    ];
    for (what, bytes, parts) in cases {
        let error = parse(Path::new("cat/cifar10_cat_7.aedat"), &bytes).map(|events| events.len()).expect_err(what).to_string();
        assert!(error.starts_with("cat/cifar10_cat_7.aedat: ") && !error.contains('\n'), "{what}: {error}");
        for part in parts {
            assert!(error.contains(part), "{what}: {part:?} is missing in {error:?}");
        }
    }
    assert!(read(Path::new("/nowhere/x.aedat")).unwrap_err().to_string().starts_with("/nowhere/x.aedat: "));
}

/// The file with a description of its streams in the header: a third field behind the others, and the text behind the table.
fn described(file: &[u8], text: &str) -> Vec<u8> {
    let header = [
        &24u32.to_le_bytes()[..],
        b"IOHE",
        &[0; 2],
        // Its list of fields: its size, that of the table, and where each field lies.
        &[10u16, 20, 4, 8, 16].iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>(),
        &[0; 4],
        &14i32.to_le_bytes(),
        &0i32.to_le_bytes(),
        &(-1i64).to_le_bytes(),
        &4u32.to_le_bytes(),
        &(text.len() as u32).to_le_bytes(),
        text.as_bytes(),
    ]
    .concat();
    let size = u32::from_le_bytes(file[14..18].try_into().unwrap()) as usize;
    [&file[..14], &(header.len() as u32).to_le_bytes(), &header, &file[18 + size..]].concat()
}

#[test]
fn of_two_streams_the_one_named_events_counts() {
    let packets: [&[(i16, i16, u8)]; 3] = [&[(1, 2, 1)], &[(3, 4, 0)], &[(5, 6, 1)]];
    let file = aedat4_of(0, &packets, |bytes| bytes, &[0, 3, 0]);
    let columns = |bytes: &[u8]| {
        parse(Path::new("x.aedat4"), bytes)
            .map(|events| events.iter().map(|event| event.x).collect::<Vec<u16>>())
            .map_err(|e| e.to_string())
    };
    let node = |id: u32, name: &str| {
        format!(
            "<node name=\"{id}\" path=\"/\"><attr key=\"compression\" type=\"string\">NONE</attr><attr key=\"originalOutputName\" type=\"string\">{name}</attr></node>"
        )
    };
    let with = |streams: &[(u32, &str)]| {
        let nodes: String = streams.iter().map(|(id, name)| node(*id, name)).collect();
        described(&file, &format!("<dv><node name=\"outInfo\">{nodes}</node></dv>"))
    };
    assert_eq!(columns(&with(&[(0, "events"), (3, "filtered")])).unwrap(), [1, 5]);
    assert_eq!(columns(&with(&[(0, "raw"), (3, "events")])).unwrap(), [3]);
    for bytes in [file.clone(), with(&[(0, "left"), (3, "right")]), with(&[(0, "events"), (3, "events")]), described(&file, "")] {
        let error = columns(&bytes).unwrap_err();
        assert!(error.starts_with("x.aedat4: has two streams of events, 0 and 3, ") && error.contains("file of its own"), "{error}");
    }
    let one = aedat4_of(0, &packets, |bytes| bytes, &[3, 3, 3]);
    assert_eq!(columns(&one).unwrap(), [1, 3, 5]);
    assert_eq!(columns(&described(&one, &node(3, "any"))).unwrap(), [1, 3, 5]);
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(kind in 0..4usize, at in 0.0..1.0f64, byte: u8, cut in 0.0..1.0f64, noise: Vec<u8>) {
        let mut bytes = match kind {
            0 => aedat2(&events(20, 1)),
            1 => aedat4(0, &[&[(1, 2, 1), (3, 4, 0)]], |bytes| bytes),
            2 => aedat4(1, &[&[(1, 2, 1), (3, 4, 0)]], lz4),
            _ => aedat4(3, &[&[(1, 2, 1), (3, 4, 0)]], zstd),
        };
        let place = (at * bytes.len() as f64) as usize;
        bytes[place] ^= byte;
        let outside = |e: &Event| e.x > 127 || e.y > 127 || e.polarity > 1;
        let strays = |bytes: &[u8]| parse(Path::new("x"), bytes).is_ok_and(|events| events.iter().any(outside));
        prop_assert!(!strays(&bytes));
        bytes.truncate((cut * bytes.len() as f64) as usize);
        prop_assert!(!strays(&bytes));
        bytes.extend(&noise);
        prop_assert!(!strays(&bytes));
        prop_assert!(!strays(&[b"#!AER-DAT4.0\r\n", &noise[..]].concat()));
        prop_assert!(!strays(&[b"#!AER-DAT2.0\r\n", &noise[..]].concat()));
    }
}
