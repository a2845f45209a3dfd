//! As `reader_damage.rs`, of the recordings of any event camera.

use std::path::Path;

use dsr::data::recordings::{ALWAYS, parse};

#[path = "support/damage.rs"]
mod damage;
#[path = "support/recordings.rs"]
mod formats;
use damage::{EACH, survives};
use formats::{Row, aedat3, atis, dat, evt2, evt3, evt21, rows};

const SENSOR: [u16; 2] = [60, 80];

/// docs/data.md: 16 bytes an event, three times that while they are taken; the densest format has 12 events in 2 bytes.
fn bound(len: usize) -> usize {
    3 * 96 * len + (1 << 16)
}

/// Reads damaged copies of a recording: many of few events, and some of many.
fn recordings(name: &str, file: impl Fn(&[Row]) -> Vec<u8>) {
    let read = |bytes: &[u8]| parse(Path::new(name), bytes, name.ends_with("bin").then_some([60, 80]), ALWAYS).is_ok();
    for (n, events) in [(EACH, 30), (10_000, 200)] {
        println!("{name}: {} of {n} read", survives(name, n, &file(&rows(events, SENSOR, 500, 1)), read, bound));
    }
}

#[test]
fn damaged_40_bit_events_harm_nobody() {
    recordings("x.bin", atis);
}

#[test]
fn damaged_dat_files_harm_nobody() {
    recordings("x.dat", |events| dat(SENSOR, events));
}

#[test]
fn damaged_words_of_evt2_harm_nobody() {
    recordings("x.raw", |events| evt2(SENSOR, events));
}

#[test]
fn damaged_words_of_evt21_harm_nobody() {
    recordings("x.raw", |events| evt21(SENSOR, events));
}

#[test]
fn damaged_words_of_evt3_harm_nobody() {
    recordings("x.raw", |events| evt3(SENSOR, events));
}

#[test]
fn damaged_recordings_of_aedat_3_harm_nobody() {
    recordings("x.aedat", |events| aedat3("DVS128", events));
}
