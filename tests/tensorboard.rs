//! TensorBoard event files, read back by an independent reader.

#[path = "support/event_file.rs"]
mod event_file;

use dsr::training::tensorboard::{append, file_name, scalars_record, session_record, version_record};
use event_file::{Event, crc32c, decode};
use proptest::prelude::*;

/// The reader's own checksum, against the check value of the CRC catalogue and a vector of RFC 3720, B.4.
#[test]
fn checksum_has_its_known_values() {
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    assert_eq!(crc32c(b""), 0);
}

#[test]
fn records_are_read_back() {
    let long = "loss/".repeat(60); // a length of more than one byte
    let scalars = [("loss/train", 0.412f32), (long.as_str(), f32::NEG_INFINITY), ("größe", f32::MIN_POSITIVE)];
    let mut bytes = version_record(1_700_000_000.25);
    bytes.extend(scalars_record(1_700_000_001.5, 300, &scalars));
    bytes.extend(scalars_record(0.0, u64::from(u32::MAX) + 1, &[]));
    bytes.extend(session_record(2.0, 7));
    let named = |(tag, value): &(&str, f32)| (tag.to_string(), *value);
    let expected = [
        Event { wall_time: 1_700_000_000.25, version: Some("brain.Event:2".to_string()), ..Event::default() },
        Event { wall_time: 1_700_000_001.5, step: 300, scalars: scalars.iter().map(named).collect(), ..Event::default() },
        Event { step: 1 << 32, ..Event::default() },
        Event { wall_time: 2.0, step: 7, starts_session: true, ..Event::default() },
    ];
    assert_eq!(decode(&bytes), expected);
}

/// The first record, byte by byte, as TensorBoard's own writer lays it out for this wall time.
#[test]
fn the_version_record_has_the_expected_bytes() {
    let bytes = version_record(1.0);
    let data = b"\x09\x00\x00\x00\x00\x00\x00\xf0\x3f\x1a\x0dbrain.Event:2";
    assert_eq!(bytes[..8], (data.len() as u64).to_le_bytes());
    assert_eq!(&bytes[12..12 + data.len()], data);
    assert_eq!(bytes.len(), 16 + data.len());
}

#[test]
fn file_names_are_those_that_tensorboard_looks_for() {
    let name = file_name(1_700_000_000);
    let host = name.strip_prefix("events.out.tfevents.1700000000.").unwrap();
    assert!(!host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-.".contains(c)), "{name}");
}

#[test]
fn appending_keeps_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events");
    assert!(append(&path, &version_record(0.0)).unwrap_err().to_string().contains("events"), "there is no file to append to");
    std::fs::write(&path, version_record(0.0)).unwrap();
    append(&path, &scalars_record(1.0, 1, &[("a", 1.0)])).unwrap();
    append(&path, &scalars_record(2.0, 2, &[("a", 2.0)])).unwrap();
    let steps: Vec<u64> = decode(&std::fs::read(&path).unwrap()).iter().map(|e| e.step).collect();
    assert_eq!(steps, [0, 1, 2]);
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_named() {
    let error = append(std::path::Path::new("/dev/full"), &version_record(0.0)).unwrap_err().to_string();
    assert!(error.contains("/dev/full: the disk is full"), "{error}");
}

proptest! {
    #[test]
    fn any_scalar_is_read_back(wall_time in -1e12..1e12f64, step in any::<u64>(), tag in ".{0,200}", bits in any::<u32>()) {
        let value = f32::from_bits(bits);
        let events = decode(&scalars_record(wall_time, step, &[(&tag, value)]));
        prop_assert_eq!(events.len(), 1);
        prop_assert_eq!((events[0].wall_time, events[0].step), (wall_time, step));
        prop_assert_eq!(&events[0].scalars[0].0, &tag);
        prop_assert_eq!(events[0].scalars[0].1.to_bits(), bits);
    }
}
