//! DVS-CIFAR10: which recordings there are, how they become frames, the cache of frames, batches.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use dsr::data::aedat::Event;
use dsr::data::events::{counts, resized};
use dsr::data::{
    Augment, Batch, Dataset, EventReading, EventSplit, FrameRule, Loader, Orientation, Preparation, Reading, Told, open, prepare,
};
use tempfile::{TempDir, tempdir};

#[path = "support/streamed_sets.rs"]
mod streamed_sets;
use streamed_sets::{aedat2, events, recording, recordings};

const DSR: EventReading =
    EventReading { time_steps: 4, frames: FrameRule::Number, orientation: Orientation::Dsr, size: 16, split: EventSplit::Dsr };

fn set() -> TempDir {
    let folder = tempdir().unwrap();
    recordings(folder.path(), &[0, 99, 899, 900]);
    folder
}

fn opened(root: &Path, events: EventReading) -> Dataset {
    open("dvs-cifar10", Some(root), &Reading { events, ..Reading::default() }).unwrap()
}

/// Makes the set ready and gives what was told.
fn prepared(dataset: &mut Dataset, root: &Path, preparation: &Preparation) -> Result<Vec<String>, dsr::error::Error> {
    let notes = Mutex::new(Vec::new());
    let tell = |told: Told| {
        if let Told::Note(note) = told {
            notes.lock().unwrap().push(note.to_string());
        }
        Ok(())
    };
    prepare(dataset, root, preparation, &tell)?;
    Ok(notes.into_inner().unwrap())
}

#[test]
fn a_split_is_told_by_the_number_of_a_recording() {
    let folder = set();
    for (split, train, test, first) in [(EventSplit::Dsr, 30, 10, 900), (EventSplit::Spikingjelly, 20, 20, 0)] {
        let dataset = opened(folder.path(), EventReading { split, ..DSR });
        assert_eq!((dataset.train.len(), dataset.test.len(), dataset.frames, dataset.shape), (train, test, 4, [16, 16, 2]));
        let each = test / 10;
        assert_eq!(dataset.test.labels, (0..test as u32).map(|i| i / each as u32).collect::<Vec<_>>());
        let path = dataset.stream.as_ref().unwrap().path(dsr::data::Part::Test, each);
        assert_eq!(path, recording(folder.path(), "automobile", first));
    }
}

fn event(x: u8, y: u8, polarity: u8, time: i64) -> Event {
    Event { time, x: x.into(), y: y.into(), polarity }
}

/// Frame, row, column, polarity and number of what is not 0.
fn listed(counts: &[f32]) -> Vec<(usize, usize, usize, usize, f32)> {
    let place = |(i, &n): (usize, &f32)| (n != 0.0).then_some((i / 32768, i / 256 % 128, i / 2 % 128, i % 2, n));
    counts.iter().enumerate().filter_map(place).collect()
}

#[test]
fn frames_by_number_and_by_time_in_both_orientations() {
    // Seven events: at 0, 10, 20, 30, 40, 50 and 90 µs.
    let events: Vec<Event> = (0..7).map(|i| event(10 + i as u8, 3, (i % 2) as u8, if i == 6 { 90 } else { 10 * i })).collect();
    let of = |frames, orientation| {
        listed(&counts(Path::new("x"), &events, &EventReading { time_steps: 3, frames, orientation, ..DSR }).unwrap())
    };
    // By number: two, two, and three with the rest.
    let expected = [(0, 3, 10, 0), (0, 3, 11, 1), (1, 3, 12, 0), (1, 3, 13, 1), (2, 3, 14, 0), (2, 3, 15, 1), (2, 3, 16, 0)];
    assert_eq!(of(FrameRule::Number, Orientation::Dsr), expected.map(|(f, y, x, p)| (f, y, x, p, 1.0)));
    // By time: 30 µs each, the last event in the last frame.
    let frames: Vec<usize> = of(FrameRule::Time, Orientation::Dsr).iter().map(|found| found.0).collect();
    assert_eq!(frames, [0, 0, 0, 1, 1, 1, 2]);
    // A quarter: row x, column 127 − y.
    assert_eq!(of(FrameRule::Number, Orientation::Spikingjelly)[0], (0, 10, 124, 0, 1.0));
    // Counts add up where time goes backwards within a frame.
    let back = [event(1, 1, 0, 50), event(1, 1, 0, 45), event(1, 1, 0, 70)];
    let by_time = EventReading { time_steps: 2, frames: FrameRule::Time, ..DSR };
    assert_eq!(listed(&counts(Path::new("x"), &back, &by_time).unwrap()), [(0, 1, 1, 0, 2.0), (1, 1, 1, 0, 1.0)]);

    let few = counts(Path::new("few.aedat"), &back, &DSR).unwrap_err().to_string();
    assert!(few.contains("few.aedat: has 3 events, fewer than the 4 frames"), "{few}");
    for events in [[event(1, 1, 0, 5), event(1, 1, 0, 5)], [event(1, 1, 0, 5), event(1, 1, 0, 4)]] {
        let still = counts(Path::new("still.aedat"), &events, &by_time).unwrap_err().to_string();
        assert!(still.contains("still.aedat: takes") && still.contains("--event-frames number"), "{still}");
    }
}

#[test]
fn a_clock_that_jumps_cuts_no_frames_by_time() {
    let reading = EventReading { time_steps: 4, frames: FrameRule::Time, ..DSR };
    let of = |jump: i64| -> Vec<Event> { (0..100).map(|i| event(1, 1, 0, 10 * i + if i >= 60 { jump } else { 0 })).collect() };
    for (jump, direction) in [(-300, "back by 290 µs at event 60"), (1 << 31, "forward by 2147483658 µs at event 60")] {
        let error = counts(Path::new("jump.aedat"), &of(jump), &reading).unwrap_err().to_string();
        assert!(
            error.contains(&format!("jump.aedat: has a clock that goes {direction}")) && error.contains("--event-frames number"),
            "{error}"
        );
        counts(Path::new("x"), &of(jump), &DSR).unwrap();
    }
    for jump in [0, -15, 500] {
        assert_eq!(counts(Path::new("x"), &of(jump), &reading).unwrap().iter().sum::<f32>(), 100.0);
    }
}

#[test]
fn frames_are_resized_as_by_pytorch() {
    let frame: Vec<f32> = (0..128 * 128 * 2).map(|i| (i * i % 97) as f32).collect();
    assert_eq!(resized(&frame, 128), frame, "the size of the camera changes nothing");
    // torch.nn.functional.interpolate(frame, size=S, mode="bilinear", align_corners=False), PyTorch 2.15, at (row, column, channel).
    let expected: [(usize, [((usize, usize, usize), f32); 4]); 3] = [
        (48, [((0, 0, 0), 24.30556), ((47, 47, 1), 19.30605), ((24, 3, 0), 79.00006), ((7, 46, 1), 44.5)]),
        (16, [((0, 0, 0), 19.0), ((15, 15, 1), 65.0), ((8, 3, 0), 24.25), ((7, 14, 1), 72.5)]),
        (100, [((0, 0, 0), 8.2572), ((99, 99, 1), 65.65723), ((50, 3, 0), 6.04038), ((7, 98, 1), 40.32582)]),
    ];
    for (size, values) in expected {
        let found = resized(&frame, size);
        assert_eq!(found.len(), size * size * 2);
        for ((y, x, c), value) in values {
            let found = found[(y * size + x) * 2 + c];
            assert!((found - value).abs() <= 2e-5 * value, "{size}: {y} {x} {c}: {found}, expected {value}");
        }
    }
}

fn batches(dataset: &Dataset, threads: usize, crop_pad: usize) -> Vec<Batch> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let augment = Augment { crop_pad, ..Augment::default() };
    let dataset = Arc::new(dataset.clone());
    pool.install(|| Loader::train(Arc::clone(&dataset), 8, augment, 1, 2, 0).chain(Loader::test(dataset, 7)).collect())
}

#[test]
fn batches_are_the_same_from_cache_and_recording_for_any_number_of_threads() {
    let folder = set();
    let mut dataset = opened(folder.path(), DSR);
    let expected = batches(&dataset, 1, 2);
    assert_eq!(expected.iter().map(|batch| batch.labels.len()).collect::<Vec<_>>(), [8, 8, 8, 6, 7, 3]);
    for batch in &expected {
        assert_eq!((batch.frames, batch.data.len()), (4, batch.labels.len() * 4 * 16 * 16 * 2));
    }
    let notes = prepared(&mut dataset, folder.path(), &Preparation::default()).unwrap();
    assert!(notes[0].contains("making frames of 40 recordings"), "{notes:?}");
    for threads in [1, 2, 5] {
        assert_eq!(batches(&dataset, threads, 2), expected, "{threads} threads");
    }
    // All frames of a sample are moved by as much.
    let plain = batches(&dataset, 1, 0);
    let mut moved = 0;
    for (batch, plain) in expected.iter().zip(&plain).take(4) {
        assert_eq!(batch.labels, plain.labels);
        for (sample, plain) in batch.data.chunks_exact(2048).zip(plain.data.chunks_exact(2048)) {
            let pixel = |values: &[f32], frame: usize, y: isize, x: isize| {
                let inside = (0..16).contains(&y) && (0..16).contains(&x);
                if inside { values[frame * 512 + (y * 16 + x) as usize * 2] } else { 0.0 }
            };
            let explains = |down: isize, across: isize| {
                let mut places = (0..4).flat_map(|frame| (0..256).map(move |i| (frame, i / 16, i % 16)));
                places.all(|(frame, y, x)| pixel(sample, frame, y, x) == pixel(plain, frame, y + down, x + across))
            };
            let shifts: Vec<_> = (-2..=2).flat_map(|down| (-2..=2).map(move |across| (down, across))).collect();
            let found: Vec<_> = shifts.into_iter().filter(|&(down, across)| explains(down, across)).collect();
            assert_eq!(found.len(), 1, "{found:?}");
            moved += usize::from(found[0] != (0, 0));
        }
    }
    assert!(moved > 20, "{moved} of 30"); // 24 of 25 shifts are not none
}

#[test]
fn the_cache_is_kept_while_nothing_changes() {
    let folder = set();
    let cache = folder.path().join(".dsr-cache");
    let made = |reading: EventReading| {
        let mut dataset = opened(folder.path(), reading);
        let notes = prepared(&mut dataset, folder.path(), &Preparation::default()).unwrap();
        (notes.len(), dataset)
    };
    assert_eq!(made(DSR).0, 1);
    let (again, first) = made(DSR);
    assert_eq!(again, 0, "made once");
    // The split changes no frame; every other setting does.
    assert_eq!(made(EventReading { split: EventSplit::Spikingjelly, ..DSR }).0, 0);
    let others = [
        EventReading { time_steps: 5, ..DSR },
        EventReading { frames: FrameRule::Time, ..DSR },
        EventReading { orientation: Orientation::Spikingjelly, ..DSR },
        EventReading { size: 15, ..DSR },
    ];
    for other in others {
        assert_eq!(made(other).0, 1, "{other:?}");
    }
    let mut names: Vec<String> = fs::read_dir(&cache).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names.len(), 6, "{names:?}");
    assert!(names.contains(&"dvs-cifar10-t4-number-dsr-16.frames".to_string()) && names.contains(&"lock".to_string()), "{names:?}");

    // What a killed process left is cleared away, and a file that was cut is made again; so it is when a recording has changed.
    let path = cache.join("dvs-cifar10-t4-number-dsr-16.frames");
    let whole = fs::read(&path).unwrap();
    let leftover = cache.join(".x.1-0.dsr-tmp");
    for damage in [&whole[..whole.len() - 1], &[], b"something else"] {
        fs::write(&leftover, b"half").unwrap();
        fs::write(&path, damage).unwrap();
        assert_eq!(made(DSR).0, 1);
        assert!(fs::read(&path).unwrap() == whole && !leftover.exists());
    }
    // A changed byte of the frames is found when it is read.
    let mut changed = whole.clone();
    let at = whole.len() - 40 * 4 - 5;
    changed[at] ^= 1;
    fs::write(&path, &changed).unwrap();
    let mut loader = Loader::test(Arc::new(made(DSR).1), 8);
    let seen = loader.by_ref().count();
    let error = loader.outcome().unwrap_err().to_string();
    assert!(seen == 1 && error.contains("damaged; delete this file"), "{error}");
    fs::write(&path, &whole).unwrap();

    fs::write(recording(folder.path(), "cat", 99), aedat2(&events(900, 5))).unwrap();
    let (times, second) = made(DSR);
    assert_eq!(times, 1);
    assert!(batches(&first, 1, 0) != batches(&second, 1, 0));
}

#[test]
fn several_processes_share_one_cache() {
    let folder = set();
    // Threads open the lock file each on their own, as processes do.
    let results: Vec<Vec<Batch>> = std::thread::scope(|scope| {
        let run = || {
            let mut dataset = opened(folder.path(), DSR);
            prepared(&mut dataset, folder.path(), &Preparation::default()).unwrap();
            batches(&dataset, 1, 0)
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(run)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(results.iter().all(|batches| *batches == results[0]));
}

#[test]
fn what_is_wrong_with_a_folder_is_named() {
    type Change = fn(&Path);
    let cases: [(Change, &str, &[&str]); 9] = [
        (|root| fs::remove_dir_all(root.join("dog")).unwrap(), "dog", &["does not exist", "docs/data.md"]),
        (
            |root| {
                (0..1000).for_each(|n| {
                    let _ = fs::remove_file(recording(root, "dog", n));
                })
            },
            "dog",
            &["has no recordings"],
        ),
        (|root| fs::write(root.join("cat/cat.aedat"), "").unwrap(), "cat.aedat", &["is not named cifar10_cat_NUMBER.aedat"]),
        (|root| fs::write(root.join("cat/cifar10_cat_1000.aedat"), "").unwrap(), "cifar10_cat_1000.aedat", &["is not named"]),
        (|root| fs::write(root.join("cat/cifar10_cat_0.aedat4"), "").unwrap(), "cifar10_cat_0.aedat4", &["number of cifar10_cat_0.aedat"]),
        (
            |root| dsr::data::events::CLASSES.iter().for_each(|class| fs::remove_file(recording(root, class, 900)).unwrap()),
            "",
            &["has no test recordings", "900 to 999", "--event-split"],
        ),
        (|root| fs::write(recording(root, "cat", 900), "").unwrap(), "cifar10_cat_900.aedat", &["is no AEDAT file"]),
        (
            |root| fs::write(recording(root, "cat", 0), aedat2(&events(3, 0))).unwrap(),
            "cifar10_cat_0.aedat",
            &["has 3 events, fewer than the 4"],
        ),
        (|root| fs::write(root.join(".dsr-cache"), "").unwrap(), ".dsr-cache", &["cannot be written", "--cache-dir"]),
    ];
    for (change, file, parts) in cases {
        let folder = set();
        change(folder.path());
        let reading = Reading { events: DSR, ..Reading::default() };
        let opened = open("dvs-cifar10", Some(folder.path()), &reading);
        let done = opened.and_then(|mut dataset| prepared(&mut dataset, folder.path(), &Preparation::default()));
        let error = done.expect_err(file).to_string();
        for part in [&[file], parts].concat() {
            assert!(error.contains(part), "{part:?} is missing in {error:?}");
        }
        // A conversion that failed leaves nothing that looks like frames.
        let left = fs::read_dir(folder.path().join(".dsr-cache")).into_iter().flatten().flatten();
        assert!(left.map(|entry| entry.file_name()).all(|name| name == "lock"), "{file}");
    }
}

#[test]
fn unreadable_recordings_are_left_out_as_far_as_allowed() {
    let folder = set();
    fs::write(recording(folder.path(), "bird", 99), "no recording").unwrap();
    fs::write(recording(folder.path(), "ship", 900), aedat2(&[])).unwrap();
    let allow = |skip_unreadable: usize| {
        let mut dataset = opened(folder.path(), DSR);
        prepared(&mut dataset, folder.path(), &Preparation { skip_unreadable, ..Preparation::default() }).map(|notes| (notes, dataset))
    };
    let error = allow(0).unwrap_err().to_string();
    assert!(error.contains("cifar10_bird_99.aedat: is no AEDAT file"), "{error}");
    let error = allow(1).unwrap_err().to_string();
    assert!(
        error.contains("2 files cannot be read, 1 may be left out") && error.contains("cifar10_ship_900.aedat: has no events"),
        "{error}"
    );
    for notes in [2, 1] {
        let (told, dataset) = allow(2).unwrap();
        assert!(told.len() == notes && told[0].contains("left out 2 files"), "{told:?}");
        assert_eq!((dataset.train.len(), dataset.test.len()), (29, 9));
        assert!(!dataset.test.labels.contains(&8));
        assert_eq!(batches(&dataset, 2, 1).iter().map(|batch| batch.labels.len()).sum::<usize>(), 38);
    }
}
