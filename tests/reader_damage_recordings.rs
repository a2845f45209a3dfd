//! As `reader_damage.rs`, of the recordings of any event camera.

use std::path::Path;

use dsr::data::recordings::named::gestures;
use dsr::data::recordings::{ALWAYS, load, parse};

#[path = "support/damage.rs"]
mod damage;
#[path = "support/recordings.rs"]
mod formats;
use damage::{EACH, peak, scratch, survives};
use formats::{Row, aedat3, atis, dat, evt2, evt3, evt21, npy, npz, npz_of, rows};

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

/// Reads damaged copies of an `.npz`, of a few hundred bytes that unpack to no more than a thousand or two: the bound is one of all of it.
fn arrays(file: &[u8], n: u64) {
    let folder = scratch();
    let read = |bytes: &[u8]| {
        let path = folder.path().join(format!("{:?}.npz", std::thread::current().id()).replace(['(', ')'], "_"));
        std::fs::write(&path, bytes).unwrap();
        load(&path, Some([60, 80]), ALWAYS).is_ok()
    };
    println!("npz: {} of {n} read", survives("npz", n, file, read, |_| 1 << 20));
}

#[test]
fn damaged_arrays_of_events_harm_nobody() {
    arrays(&npz_of(&rows(30, SENSOR, 500, 1), false), EACH);
}

#[test]
fn damaged_packed_arrays_of_events_harm_nobody() {
    arrays(&npz_of(&rows(30, SENSOR, 500, 1), true), EACH);
}

#[test]
fn damaged_arrays_of_frames_harm_nobody() {
    let frames = npz(&[("frames", npy("<f4", &[2, 2, 3, 4], &[0; 192]))], true);
    arrays(&frames, EACH);
}

#[test]
fn arrays_that_unpack_to_more_than_is_taken_are_refused_by_their_sizes() {
    let folder = scratch();
    let zeros = vec![0; (1 << 26) + 2];
    let n = zeros.len();
    let of_events: Vec<_> = ["t", "x", "y", "p"].map(|key| (key, npy("|u1", &[n], &zeros))).into();
    let of_frames = vec![("frames", npy("|u1", &[n / 2, 2, 1, 1], &zeros))];
    let uneven: Vec<_> = [("t", n), ("x", 3), ("y", 3), ("p", 3)].map(|(key, n)| (key, npy("|u1", &[n], &zeros[..n]))).into();
    for (arrays, problem) in [
        (of_events, "has 67108866 events, more than the 67108864 that are taken at once"),
        (of_frames, "more than the 67108864 values that are taken at once"),
        (uneven, "of [67108866, 3, 3, 3] values"),
    ] {
        let path = folder.path().join("bomb.npz");
        std::fs::write(&path, npz(&arrays, true)).unwrap();
        let (result, most) = peak(|| load(&path, Some([60, 80]), ALWAYS));
        let error = result.unwrap_err().to_string();
        assert!(error.contains(problem) && most < 1 << 20, "{most}: {error}");
    }
}

#[test]
fn damaged_lists_of_gestures_harm_nobody() {
    let good = b"class,startTime_usec,endTime_usec\n1,80048239,85092709\n2,90000000,95000000\n11,96000000,99000000\n";
    survives("gestures", EACH, good, |bytes| gestures(Path::new("x"), bytes).is_ok(), |len| 40 * len + (1 << 12));
}
