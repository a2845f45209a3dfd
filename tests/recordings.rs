//! Recordings of any event camera: that events are those written, and those that other programs read; what each kind of damage is called.

use std::path::Path;

use dsr::data::FrameRule;
use dsr::data::recordings::frames::{counts, from_frames};
use dsr::data::recordings::named::gestures;
use dsr::data::recordings::{ALWAYS, Content, Event, Recording, RecordingReading, load, parse, read};
use proptest::prelude::*;

#[path = "support/recordings.rs"]
mod formats;
use formats::{Row, aedat3, atis, dat, evt2, evt3, evt21, npy, npz, npz_of, packet, raw, rows};

fn events(rows: &[Row]) -> Vec<Event> {
    rows.iter().map(|&(time, x, y, polarity)| Event { time, x, y, polarity }).collect()
}

/// `fixtures/recordings/make.py` says who wrote and who read these files.
#[test]
fn events_are_those_of_other_readers() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/recordings");
    let expected = std::fs::read_to_string(folder.join("expected.csv")).unwrap();
    // Of two files a reader makes something else; tests/fixtures/README.md says why.
    let differ = [("evt3.raw", "expelliarmus"), ("ncaltech101.bin", "spikingjelly")];
    let mut compared = 0;
    for line in expected.lines().skip(1) {
        let [file, reader, count, checksum] = line.split(',').collect::<Vec<_>>().try_into().unwrap();
        let told = match file {
            "nmnist.bin" => Some([34, 34]),
            "ncaltech101.bin" => Some([180, 240]),
            _ => None,
        };
        let Recording { sensor, events } = read(&folder.join(file), told, ALWAYS).unwrap();
        let sensors = [("cd.dat", [240, 304]), ("evt2.raw", [480, 640]), ("evt3.raw", [720, 1280]), ("gesture.aedat", [128, 128])];
        let stated = sensors.iter().find(|(name, _)| *name == file).map_or([260, 346], |(_, sensor)| *sensor);
        assert_eq!(sensor, told.unwrap_or(stated), "{file}");
        let packed =
            events.iter().flat_map(|e| [&e.time.to_le_bytes()[..], &e.x.to_le_bytes(), &e.y.to_le_bytes(), &[e.polarity]].concat());
        let mut crc = flate2::Crc::new();
        crc.update(&packed.collect::<Vec<u8>>());
        let is_equal = events.len().to_string() == count && format!("{:08x}", crc.sum()) == checksum;
        assert_eq!(is_equal, !differ.contains(&(file, reader)), "{file} as {reader} reads it");
        compared += usize::from(is_equal);
    }
    assert_eq!(compared, 18);
}

#[test]
fn events_are_those_written() {
    let wide = [720, 1280];
    // Times beyond the bits of each clock, and the ends of the camera.
    let corner = |rows: Vec<Row>, [height, width]: [u16; 2]| -> Vec<Row> {
        let last = rows.last().map_or(0, |row| row.0);
        rows.into_iter().chain([(last, 0, height - 1, 1), (last + 1, width - 1, 0, 0)]).collect()
    };
    let of = |n, sensor, step| corner(rows(n, sensor, step, 3), sensor);
    let nmnist = of(500, [34, 34], 50_000);
    let cases: Vec<(&str, Option<[usize; 2]>, [usize; 2], Vec<u8>, Vec<Row>)> = vec![
        ("x.bin", Some([34, 34]), [34, 34], atis(&nmnist), nmnist.clone()),
        ("x.BIN", Some([180, 240]), [180, 240], atis(&of(99, [180, 240], 7)), of(99, [180, 240], 7)),
        ("x.dat", None, [720, 1280], dat(wide, &of(300, wide, 10_000_000)), of(300, wide, 10_000_000)),
        ("x.raw", None, [720, 1280], evt2(wide, &of(300, wide, 200_000_000)), of(300, wide, 200_000_000)),
        ("y.raw", None, [720, 1280], evt21(wide, &of(300, wide, 200_000_000)), of(300, wide, 200_000_000)),
        ("z.raw", None, [720, 1280], evt3(wide, &of(300, wide, 1_000_000)), of(300, wide, 1_000_000)),
        ("any name", None, [720, 1280], evt3(wide, &of(2000, wide, 3)), of(2000, wide, 3)),
        ("x.aedat", None, [128, 128], aedat3("DVS128", &of(300, [128, 128], 50_000_000)), of(300, [128, 128], 50_000_000)),
        ("y.aedat", None, [260, 346], aedat3("DAVIS346", &of(99, [260, 346], 5)), of(99, [260, 346], 5)),
        ("z.aedat", Some([99, 55]), [99, 55], aedat3("a new one", &of(99, [99, 55], 5)), of(99, [99, 55], 5)),
    ];
    for (name, told, sensor, bytes, written) in cases {
        let found = parse(Path::new(name), &bytes, told, ALWAYS).unwrap();
        assert!(found.events == events(&written), "{name}: {:?}", found.events.iter().zip(events(&written)).position(|(a, b)| *a != b));
        assert_eq!(found.sensor, sensor, "{name}");
    }
    let part = parse(Path::new("x.bin"), &atis(&nmnist), Some([34, 34]), 51_000..151_000).unwrap();
    assert_eq!(part.events, events(&nmnist[1..3]), "from the first time on, before the second one");
}

#[test]
fn vectors_have_many_pixels() {
    // EVT3: nothing counts before a time and a row; then 12, 12 and 8 pixels side by side, and a step back of the clock.
    let words =
        [0x2005, 0x0007, 0x2005, 0x8001, 0x6002, 0x3064, 0x4fff, 0x4801, 0x5081, 0x2805, 0x8000, 0x2006, 0x8fff, 0x2007, 0x8000, 0x2008u16];
    let bytes = [raw(3, [8, 200]), words.iter().flat_map(|word| word.to_le_bytes()).collect()].concat();
    let found = parse(Path::new("x.raw"), &bytes, None, ALWAYS).unwrap();
    let time = 4096 + 2;
    let first = (100..112).chain([112, 123, 124, 131]).map(|x| (time, x, 7, 0));
    let rest = [(time, 5, 7, 1), (0, 6, 7, 0), (0xfff << 12, 7, 7, 0), (1 << 24, 8, 7, 0)];
    assert_eq!(found.events, events(&first.chain(rest).collect::<Vec<_>>()));
    // EVT2.1: 32 pixels in a word.
    let words = [0x8000_0001u64 << 32, (1 << 28 | 5 << 22 | 64 << 11 | 3) << 32 | 0x8000_0101];
    let bytes = [raw(21, [8, 200]), words.iter().flat_map(|word| word.to_le_bytes()).collect()].concat();
    let found = parse(Path::new("x.raw"), &bytes, None, ALWAYS).unwrap();
    assert_eq!(found.events, events(&[(69, 64, 3, 1), (69, 72, 3, 1), (69, 95, 3, 1)]));
}

#[test]
fn old_headers_and_signals_are_read() {
    // Before formats were named, EVT2 was "evt 2.0", with nothing behind the last line; an event that is not valid may be anywhere.
    let header = b"% Date 2019\n% evt 2.0\n% geometry 640x480\n".to_vec();
    let words = [0x8000_0002u32, 0x0000_0000, 0xe000_0000, 0xf000_0000, 0x1fc0_0801];
    let bytes = [header, words.iter().flat_map(|word| word.to_le_bytes()).collect()].concat();
    assert_eq!(parse(Path::new("x"), &bytes, None, ALWAYS).unwrap().events, events(&[(128, 0, 0, 0), (191, 1, 1, 1)]));
    let invalid = packet(1, 0, &[[0xfe, 0xff, 0xff, 0xff, 1, 0, 0, 0], [1, 0, 2, 0, 3, 0, 0, 0]]);
    let bytes = [b"#!AER-DAT3.1\r\n#Source 1: DVS128\r\n#!END-HEADER\r\n".to_vec(), invalid].concat();
    assert_eq!(parse(Path::new("x"), &bytes, None, ALWAYS).unwrap().events, events(&[(3, 1, 0, 0)]));
}

#[test]
fn damaged_recordings_are_named() {
    let sensor = [60, 80];
    let few = rows(20, sensor, 100, 1);
    let cut = |bytes: &[u8], n: usize| bytes[..bytes.len() - n].to_vec();
    let outside = vec![(5, 80, 3, 1)];
    let (dat_file, evt2_file, evt3_file) = (dat(sensor, &few), evt2(sensor, &few), evt3(sensor, &few));
    let aedat = aedat3("DVS128", &few);
    let replaced = |bytes: &[u8], from: &str, to: &str| {
        let at = bytes.windows(from.len()).position(|part| part == from.as_bytes()).unwrap();
        [&bytes[..at], to.as_bytes(), &bytes[at + from.len()..]].concat()
    };
    let with = |word: u32| [raw(2, sensor), 0x8000_0001u32.to_le_bytes().to_vec(), word.to_le_bytes().to_vec()].concat();
    let mut promise = aedat.clone();
    let body = aedat.windows(12).position(|part| part == b"#!END-HEADER").unwrap() + 14;
    promise[body + 16..body + 20].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut number = aedat.clone();
    number[body + 36 + 20] = 99;
    let cases: Vec<(&str, Vec<u8>, &[&str])> = vec![
        ("x.bin", vec![], &["has no events"]),
        ("x.bin", vec![0; 11], &["is cut off: it has 11 bytes, no multiple of an event (5 bytes)"]),
        ("x.bin", atis(&[(0, 3, 3, 0), (1, 80, 3, 0)]), &["event 1 at byte 5 is at column 80, row 3, outside the camera's 60x80 pixels"]),
        ("x", vec![], &["is no recording that is read", "docs/data.md"]),
        ("x.dat", b"<!DOCTYPE html>".to_vec(), &["begins with \"<!DOCTYPE ht\""]),
        ("x.dat", cut(&dat_file, 3), &["is cut off: event 19 at byte", "has 5 of 8 bytes"]),
        ("x.dat", dat_file[..40].to_vec(), &["ends in its header, after 40 bytes"]),
        ("x.dat", replaced(&dat_file, "Version 2", "Version 1"), &["is of version \"1\" of DAT"]),
        ("x.dat", replaced(&dat_file, "\x0c\x08", "\x0e\x08"), &["has events of kind 0x0e and 8 bytes"]),
        ("x.dat", dat(sensor, &outside), &["event 0 at byte", "column 80, row 3", "--sensor"]),
        ("x.dat", dat(sensor, &[]), &["has no events"]),
        ("x.raw", cut(&evt2_file, 1), &["is cut off: the word at byte", "has 3 of 4 bytes"]),
        ("x.raw", cut(&evt3_file, 1), &["is cut off: the word at byte", "has 1 of 2 bytes"]),
        ("x.raw", with(0x5000_0000), &["is damaged at byte", "EVT2 has no words of kind 0x5"]),
        ("x.raw", [raw(3, sensor), vec![0, 0xb0]].concat(), &["EVT3 has no words of kind 0xb"]),
        ("x.raw", [raw(21, sensor), vec![0, 0, 0, 0, 0, 0, 0, 0x90]].concat(), &["EVT2.1 has no words of kind 0x9"]),
        ("x.raw", evt2(sensor, &outside), &["column 80, row 3"]),
        ("x.raw", evt21(sensor, &outside), &["column 80, row 3"]),
        ("x.raw", evt3(sensor, &outside), &["column 80, row 3"]),
        ("x.raw", replaced(&evt2_file, "EVT2;", "EVT4;"), &["has events of format \"4\", which is not read"]),
        ("x.raw", replaced(&evt2_file, "EVT2;", "EVT2;endianness=legacy;"), &["endianness \"legacy\""]),
        ("x.raw", b"% evt 3.0\n% end\n\0\0".to_vec(), &["does not say how many pixels", "--sensor HEIGHTxWIDTH"]),
        ("x.raw", raw(3, [720, 4096]), &["states a camera of 720x4096 pixels"]),
        ("x.aedat", cut(&aedat, 1), &["is damaged at byte", "a packet of 160 bytes is cut off"]),
        ("x.aedat", aedat[..body + 30].to_vec(), &["a packet of 8 bytes is cut off"]),
        ("x.aedat", aedat[..body + 10].to_vec(), &["the header of a packet is cut off"]),
        ("x.aedat", aedat[..body - 3].to_vec(), &["its header does not end in a line \"#!END-HEADER\""]),
        ("x.aedat", promise, &["a packet of 34359738360 bytes is cut off"]),
        ("x.aedat", number, &["the header of a packet of polarity events is none"]),
        ("x.aedat", replaced(&aedat, "RAW", "PNG"), &["is packed as \"PNG\""]),
        ("x.aedat", replaced(&aedat, "DVS128", "DVX128"), &["does not say how many pixels"]),
        ("x.aedat", replaced(&aedat, "DAT3.1", "DAT3.0"), &["is AEDAT 3.x, which is not read"]),
        ("x.aedat", aedat3("DVS128", &[(5, 128, 3, 1)]), &["event 0 at byte", "column 128, row 3", "128x128"]),
    ];
    for (name, bytes, parts) in cases {
        let told = name.ends_with("bin").then_some([60, 80]);
        let error = parse(Path::new(name), &bytes, told, ALWAYS).map(|found| found.events.len()).expect_err(parts[0]).to_string();
        assert!(error.starts_with(&format!("{name}: ")) && !error.contains('\n'), "{error}");
        for part in parts {
            assert!(error.contains(part), "{part:?} is missing in {error:?}");
        }
    }
    let none = parse(Path::new("x.dat"), &dat_file, None, 0..5).unwrap_err().to_string();
    assert!(none.contains("has no events from 0 to 5 µs of its clock"), "{none}");
    let unknown = parse(Path::new("x.bin"), &atis(&few), None, ALWAYS).unwrap_err().to_string();
    assert!(unknown.contains("does not say how many pixels its camera has"), "{unknown}");
}

/// A reading of `-T 3`, frames of the size of the camera.
fn reading() -> RecordingReading {
    RecordingReading { time_steps: 3, ..RecordingReading::default() }
}

/// Frame, row, column, polarity and number of what is not 0 in frames of this size.
fn listed(values: &[f32], [height, width]: [usize; 2]) -> Vec<(usize, usize, usize, usize, f32)> {
    let place =
        |(i, &n): (usize, &f32)| (n != 0.0).then_some((i / (2 * height * width), i / (2 * width) % height, i / 2 % width, i % 2, n));
    values.iter().enumerate().filter_map(place).collect()
}

#[test]
fn frames_count_events_where_they_lie() {
    let (path, sensor) = (Path::new("x"), [4, 6]);
    let rows = [(10, 5, 0, 1), (20, 0, 3, 0), (30, 0, 3, 0), (40, 4, 1, 1), (50, 1, 2, 1), (90, 2, 2, 0)];
    let recording = Recording { sensor, events: events(&rows) };
    let of = |reading: RecordingReading| counts(path, &recording, &reading).unwrap();
    let by_number = [(0, 0, 5, 1, 1.0), (0, 3, 0, 0, 1.0), (1, 1, 4, 1, 1.0), (1, 3, 0, 0, 1.0), (2, 2, 1, 1, 1.0), (2, 2, 2, 0, 1.0)];
    assert_eq!(listed(&of(reading()), sensor), by_number);
    let frames = |reading| listed(&of(reading), sensor).iter().map(|found| (found.0, found.4)).collect::<Vec<_>>();
    // By time, 26⅔ µs each; of 15 µs each, where the last event comes behind all frames.
    assert_eq!(frames(RecordingReading { frames: FrameRule::Time, ..reading() }), [(0, 1.0), (0, 2.0), (1, 1.0), (1, 1.0), (2, 1.0)]);
    assert_eq!(frames(RecordingReading { length: Some(15), ..reading() }), [(0, 1.0), (0, 1.0), (1, 1.0), (2, 1.0), (2, 1.0)]);
    // More frames than there is time: the last ones are empty.
    assert_eq!(frames(RecordingReading { length: Some(1000), ..reading() }).iter().map(|found| found.1).sum::<f32>(), 6.0);
    // Two rows and three columns of the camera are one pixel.
    let small = RecordingReading { size: Some([2, 2]), ..reading() };
    assert_eq!(
        listed(&of(small), [2, 2]),
        [(0, 0, 1, 1, 1.0), (0, 1, 0, 0, 1.0), (1, 0, 1, 1, 1.0), (1, 1, 0, 0, 1.0), (2, 1, 0, 0, 1.0), (2, 1, 0, 1, 1.0)]
    );
    // Turned: where the first event, in the upper right corner, goes.
    for (transpose, flip_x, flip_y, row, column) in [
        (false, true, false, 0, 0),
        (false, false, true, 3, 5),
        (true, false, false, 5, 0),
        (true, true, false, 5, 3),
        (true, false, true, 0, 0),
    ] {
        let turned = RecordingReading { transpose, flip_x, flip_y, ..reading() };
        let size = if transpose { [6, 4] } else { sensor };
        assert!(listed(&of(turned), size).contains(&(0, row, column, 1, 1.0)), "{turned:?}");
        // Frames that are given, [T][2][H][W], go the same way.
        let mut given = vec![0.0; 3 * 2 * 24];
        by_number.iter().for_each(|&(frame, y, x, p, n)| given[((frame * 2 + p) * 4 + y) * 6 + x] = n);
        assert_eq!(from_frames(&given, sensor, &turned).unwrap(), of(turned));
    }
    // A clock that goes back within a frame counts, by more than one it does not.
    let back = |by: i64| Recording { sensor, events: events(&[(1000, 0, 0, 0), (1030, 1, 1, 1), (1030 - by, 2, 2, 1)]) };
    let fixed = RecordingReading { length: Some(20), ..reading() };
    counts(path, &back(20), &fixed).unwrap();
    let error = counts(path, &back(21), &fixed).unwrap_err().to_string();
    assert!(error.contains("has a clock that goes back by 21 µs at event 2"), "{error}");
    let error = counts(path, &back(0), &RecordingReading { time_steps: 4, ..reading() }).unwrap_err().to_string();
    assert!(error.contains("has 3 events, fewer than the 4 frames"), "{error}");
    // The usual size of a frame.
    for (camera, size) in
        [([34, 34], [34, 34]), ([128, 128], [64, 64]), ([240, 304], [48, 60]), ([720, 1280], [36, 64]), ([1, 2048], [1, 64])]
    {
        assert_eq!(reading().frame_size(camera).unwrap(), size, "{camera:?}");
    }
    let large = RecordingReading { time_steps: 255, size: Some([2048, 2048]), ..reading() }.frame_size([2048, 2048]).unwrap_err();
    assert!(large.to_string().contains("frame-size: 255 frames of 2048x2048 have more than"), "{large}");
}

#[test]
fn arrays_of_events_and_frames_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npz");
    let loaded = |bytes: Vec<u8>, told: Option<[usize; 2]>| {
        std::fs::write(&path, bytes).unwrap();
        load(&path, told, ALWAYS).map_err(|e| e.to_string())
    };
    let written = rows(200, [60, 80], 7, 3);
    for is_packed in [false, true] {
        let expected = Recording { sensor: [60, 80], events: events(&written) };
        assert_eq!(loaded(npz_of(&written, is_packed), Some([60, 80])), Ok(Content::Events(expected)));
    }
    std::fs::write(&path, npz_of(&written, true)).unwrap();
    let Ok(Content::Events(part)) = load(&path, Some([60, 80]), 1007..1021) else { panic!("no events") };
    assert_eq!(part.events, events(&written[1..3]));
    // Whole numbers with a point, and −1 for darker.
    let doubles = |values: &[f64]| npy("<f8", &[values.len()], &values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>());
    let of =
        |t: &[f64], p: &[f64]| npz(&[("t", doubles(t)), ("x", doubles(&[1.0, 2.0])), ("y", doubles(&[3.0, 4.0])), ("p", doubles(p))], true);
    let Ok(Content::Events(found)) = loaded(of(&[5.0, 6.0], &[-1.0, 1.0]), Some([60, 80])) else { panic!("no events") };
    assert_eq!(found.events, events(&[(5, 1, 3, 0), (6, 2, 4, 1)]));
    let values: Vec<f32> = (0..3 * 2 * 2 * 4).map(|value| value as f32 / 2.0).collect();
    let frames = |kind: &str, sizes: &[usize]| {
        npz(&[("frames", npy(kind, sizes, &values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>()))], false)
    };
    assert_eq!(loaded(frames("<f4", &[3, 2, 2, 4]), None), Ok(Content::Frames { frames: 3, sensor: [2, 4], values: values.clone() }));
    let cases = [
        (npz_of(&written, true), None, "does not say how many pixels its camera has"),
        (npz_of(&written, true), Some([60, 70]), "outside the camera's 60x70 pixels"),
        (npz_of(&[], true), Some([60, 80]), "has no events"),
        (of(&[5.5, 6.0], &[0.0, 1.0]), Some([60, 80]), "x.npz/t.npy: value 0 is no whole number; times are microseconds"),
        (of(&[5.0, 6.0], &[0.0]), Some([60, 80]), "has t, x, y, p of [2, 2, 2, 1] values"),
        (of(&[5.0, f64::NAN], &[0.0, 0.0]), Some([60, 80]), "value 1 is no whole number"),
        (frames("<f4", &[3, 4, 4]), None, "has sizes [3, 4, 4], and [T, 2, height, width] are wanted"),
        (npz(&[("other", doubles(&[1.0]))], true), None, "has the arrays \"other\", and t, x, y, p (events) or frames are wanted"),
    ];
    for (bytes, told, problem) in cases {
        let error = loaded(bytes, told).unwrap_err();
        assert!(error.contains(problem) && error.contains("x.npz"), "{problem:?} is missing in {error:?}");
    }
}

#[test]
fn lists_of_gestures_are_read() {
    let path = Path::new("user01_lab_labels.csv");
    let good = b"class,startTime_usec,endTime_usec\r\n1,80048239,85092709\r\n11,90000000,90000001\n\n";
    assert_eq!(gestures(path, good).unwrap(), [(0, 80_048_239..85_092_709), (10, 90_000_000..90_000_001)]);
    let head = "class,startTime_usec,endTime_usec\n";
    for (text, problem) in [
        ("".to_string(), "does not begin with class,startTime_usec,endTime_usec"),
        ("class,start,end\n".into(), "does not begin with"),
        (format!("{head}1,2,3\n0,1,2\n"), "line 3 is no class of 1 to 11"),
        (format!("{head}12,1,2\n"), "line 2"),
        (format!("{head}1,2,2\n"), "line 2"),
        (format!("{head}1,-2,2\n"), "line 2"),
        (format!("{head}1,2\n"), "line 2"),
        (format!("{head}1,2,99999999999999999999\n"), "line 2"),
    ] {
        let error = gestures(path, text.as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with("user01_lab_labels.csv: ") && error.contains(problem), "{error}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_a_reader_panic(kind in 0usize..5, bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let file = match kind {
            0 => bytes,
            1 => [raw(2, [60, 80]), bytes].concat(),
            2 => [raw(21, [60, 80]), bytes].concat(),
            3 => [raw(3, [60, 80]), bytes].concat(),
            _ => [aedat3("DVS128", &[]), bytes].concat(),
        };
        for name in ["x", "x.bin"] {
            let _ = parse(Path::new(name), &file, Some([60, 80]), ALWAYS);
        }
    }
}
