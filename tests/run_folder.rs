//! Run folders: each epoch once in every file, one process at a time, and nothing lost.

#[path = "support/event_file.rs"]
mod event_file;

use std::path::{Path, PathBuf};

use dsr::training::curves;
use dsr::training::metrics::{EpochMetrics, LayerMetrics, State, Warning};
use dsr::training::run_folder::{BEST, CONFIG, CSV, CURVES, JSONL, LAST, RunFolder};

use event_file::{Event, decode};
use proptest::prelude::*;

fn metrics(epoch: usize) -> EpochMetrics {
    let x = epoch as f64;
    EpochMetrics {
        epoch,
        epochs: 30,
        lr: 0.05,
        train_loss: 2.0 / x,
        train_accuracy: 1.0 - 0.5 / x,
        test_loss: 2.2 / x,
        test_accuracy: 0.9 - 0.5 / x,
        best_accuracy: 0.9 - 0.5 / x,
        firing_rate: 0.05 + 0.01 / x,
        images_per_second: 1000.0 + x,
        seconds: 10.0 + x,
        layers: vec![LayerMetrics { name: "relu1".into(), threshold: Some(1.0 / x), firing_rate: 0.1 / x }],
        warnings: vec![Warning { layer: "relu1".into(), state: State::Silent, firing_rate: 0.1 / x, advice: "wake it".into() }],
    }
}

/// As a checkpoint gives them back.
fn history(epochs: std::ops::RangeInclusive<usize>) -> Vec<EpochMetrics> {
    epochs.map(|e| metrics(e).without_times()).collect()
}

fn read(folder: &Path, name: &str) -> String {
    std::fs::read_to_string(folder.join(name)).unwrap()
}

fn event_files(folder: &Path) -> Vec<PathBuf> {
    let paths = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    paths.filter(|p| p.file_name().unwrap().to_str().unwrap().starts_with("events.out.tfevents.")).collect()
}

/// The events after the version, which must be first and once.
fn events(folder: &Path) -> Vec<Event> {
    let files = event_files(folder);
    assert_eq!(files.len(), 1, "{files:?}");
    let events = decode(&std::fs::read(&files[0]).unwrap());
    assert_eq!(events[0].version.as_deref(), Some("brain.Event:2"));
    assert!(events[1..].iter().all(|e| e.version.is_none()));
    events[1..].to_vec()
}

/// The epochs of every file, which must agree.
fn epochs(folder: &Path) -> Vec<usize> {
    let text = read(folder, CSV);
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let csv: Vec<usize> = reader.records().map(|r| r.unwrap()[0].parse().unwrap()).collect();
    let jsonl: Vec<usize> = read(folder, JSONL).lines().map(|l| serde_json::from_str::<EpochMetrics>(l).unwrap().epoch).collect();
    let events: Vec<usize> = events(folder).iter().map(|e| e.step as usize).collect();
    assert_eq!(csv, jsonl);
    assert_eq!(csv, events);
    csv
}

#[test]
fn an_epoch_is_in_every_file() {
    let base = tempfile::tempdir().unwrap();
    let folder = base.path().join("runs/first");
    let mut run = RunFolder::create(&folder, "lr = 0.1\n").unwrap();
    assert_eq!((run.path(), run.last(), run.best()), (folder.as_path(), folder.join(LAST), folder.join(BEST)));
    assert_eq!(read(&folder, CONFIG), "lr = 0.1\n");
    for epoch in 1..=3 {
        run.record(&metrics(epoch)).unwrap();
    }
    assert_eq!(epochs(&folder), [1, 2, 3]);
    let text = read(&folder, CSV);
    let lines: Vec<&str> = text.lines().collect();
    let header = "epoch,epochs,lr,train_loss,train_accuracy,test_loss,test_accuracy,best_accuracy,firing_rate,images_per_second,seconds";
    assert_eq!(lines[0], header);
    assert_eq!(lines[2], "2,30,0.05,1.0,0.75,1.1,0.65,0.65,0.055,1002.0,12.0");
    assert_eq!(serde_json::from_str::<EpochMetrics>(read(&folder, JSONL).lines().nth(1).unwrap()).unwrap(), metrics(2));
    let events = events(&folder);
    let expected = [
        ("loss/train", 1.0f32),
        ("loss/test", 1.1),
        ("accuracy/train", 0.75),
        ("accuracy/test", 0.65),
        ("accuracy/best", 0.65),
        ("firing_rate", 0.055),
        ("learning_rate", 0.05),
        ("images_per_second", 1002.0),
        ("layer_rate/relu1", 0.05),
        ("threshold/relu1", 0.5),
    ];
    assert_eq!(events[1].scalars, expected.map(|(tag, value)| (tag.to_string(), value)));
    assert!(events[0].wall_time > 1.7e9 && events[0].wall_time <= events[1].wall_time);
    assert!(read(&folder, CURVES).contains("</svg>"));
}

#[test]
fn resuming_leaves_each_epoch_once() {
    for kept in [0, 2, 5] {
        let base = tempfile::tempdir().unwrap();
        let mut run = RunFolder::create(base.path(), "epochs = 30\n").unwrap();
        (1..=5).for_each(|epoch| run.record(&metrics(epoch)).unwrap());
        drop(run);
        let mut run = RunFolder::resume(base.path()).unwrap();
        run.restore("epochs = 40\n", &history(1..=kept)).unwrap();
        assert_eq!(epochs(base.path()), (1..=kept).collect::<Vec<_>>());
        assert_eq!(run.metrics(), (1..=kept).map(metrics).collect::<Vec<_>>(), "times come from the folder");
        (kept + 1..=kept + 2).for_each(|epoch| run.record(&metrics(epoch)).unwrap());
        assert_eq!(epochs(base.path()), (1..=kept + 2).collect::<Vec<_>>());
        assert_eq!(read(base.path(), CONFIG), "epochs = 40\n");
        // In the picture too: the same as of a run that was never interrupted.
        assert_eq!(read(base.path(), CURVES), curves::svg(&(1..=kept + 2).map(metrics).collect::<Vec<_>>()).unwrap());
    }
}

/// Epoch 2 took 12 s and epoch 3 took 13 s, so their ends lie 13 s apart in the rewritten events as well.
#[test]
fn rewritten_events_are_as_far_apart_as_the_epochs() {
    let base = tempfile::tempdir().unwrap();
    let mut run = RunFolder::create(base.path(), "").unwrap();
    (1..=3).for_each(|epoch| run.record(&metrics(epoch)).unwrap());
    drop(run);
    RunFolder::resume(base.path()).unwrap().restore("", &history(1..=3)).unwrap();
    let times: Vec<f64> = events(base.path()).iter().map(|e| e.wall_time).collect();
    assert!((times[2] - times[1] - 13.0).abs() < 1e-3 && (times[1] - times[0] - 12.0).abs() < 1e-3, "{times:?}");
}

/// A checkpoint's history is enough where the folder's own records were lost, damaged or are of another run.
#[test]
fn records_are_made_anew_from_a_checkpoint() {
    let half: &[u8] = b"{\"epoch\":1,\"epo";
    let other = format!("{}\n", serde_json::to_string(&EpochMetrics { train_loss: 7.0, ..metrics(1) }).unwrap());
    for jsonl in [None, Some(half), Some(&b"\xff\xfe\n\n[]\n"[..]), Some(other.as_bytes())] {
        let base = tempfile::tempdir().unwrap();
        if let Some(bytes) = jsonl {
            std::fs::write(base.path().join(JSONL), bytes).unwrap();
        }
        let mut run = RunFolder::resume(base.path()).unwrap();
        run.restore("", &history(1..=2)).unwrap();
        assert_eq!(epochs(base.path()), [1, 2]);
        let text = read(base.path(), CSV);
        assert!(text.lines().nth(1).unwrap().ends_with(",,"), "unknown times are empty fields: {text}");
        let tags: Vec<String> = events(base.path())[0].scalars.iter().map(|s| s.0.clone()).collect();
        assert!(!tags.contains(&"images_per_second".to_string()) && tags.len() == 9, "{tags:?}");
    }
}

#[test]
fn an_epoch_recorded_twice_is_there_once() {
    let base = tempfile::tempdir().unwrap();
    let mut run = RunFolder::create(base.path(), "").unwrap();
    for epoch in [1, 2, 3, 2] {
        run.record(&metrics(epoch)).unwrap();
    }
    assert_eq!(epochs(base.path()), [1, 2]);
    drop(run);
    // Without a restore, what is there stays there.
    RunFolder::resume(base.path()).unwrap().record(&metrics(3)).unwrap();
    assert_eq!(epochs(base.path()), [1, 2, 3]);
}

#[test]
fn event_files_that_were_deleted_come_back() {
    let base = tempfile::tempdir().unwrap();
    let mut run = RunFolder::create(base.path(), "").unwrap();
    run.record(&metrics(1)).unwrap();
    std::fs::remove_file(&event_files(base.path())[0]).unwrap();
    run.record(&metrics(2)).unwrap();
    assert_eq!(epochs(base.path()), [1, 2]);
}

#[test]
fn a_folder_that_cannot_be_used_is_refused() {
    let base = tempfile::tempdir().unwrap();
    let at = |name: &str| base.path().join(name);
    for (name, file) in [("a", LAST), ("b", BEST), ("c", CSV), ("d", JSONL), ("e", "events.out.tfevents.0000000001.host")] {
        std::fs::create_dir(at(name)).unwrap();
        std::fs::write(at(name).join(file), "results").unwrap();
        let error = RunFolder::create(&at(name), "new").unwrap_err().to_string();
        assert_eq!(error, format!("{}: already holds a run: use --resume auto or another --out", at(name).display()));
        let names: Vec<_> = std::fs::read_dir(at(name)).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!((names, read(&at(name), file).as_str()), (vec![file.into()], "results"), "untouched, and no lock left");
    }
    std::fs::write(at("file"), "text").unwrap();
    let error = RunFolder::create(&at("file"), "").unwrap_err().to_string();
    assert!(error.contains("is a file"), "{error}");
    let error = RunFolder::resume(&at("absent")).unwrap_err().to_string();
    assert!(error.contains("no run to resume") && !at("absent").exists(), "{error}");
    // Neither settings of a run that failed at once nor somebody's notes are in the way.
    std::fs::create_dir(at("new")).unwrap();
    std::fs::write(at("new").join(CONFIG), "old").unwrap();
    std::fs::write(at("new/notes.txt"), "mine").unwrap();
    drop(RunFolder::create(&at("new"), "fresh").unwrap());
    assert_eq!((read(&at("new"), CONFIG), read(&at("new"), "notes.txt")), ("fresh".to_string(), "mine".to_string()));
}

#[test]
fn one_process_at_a_time() {
    let base = tempfile::tempdir().unwrap();
    let run = RunFolder::create(base.path(), "").unwrap();
    for error in [RunFolder::create(base.path(), "").unwrap_err(), RunFolder::resume(base.path()).unwrap_err()] {
        let error = error.to_string();
        assert!(error.contains(&format!("in use by process {}", std::process::id())), "{error}");
        assert!(error.starts_with(&base.path().display().to_string()) && !error.contains('\n'), "{error}");
    }
    drop(run);
    assert!(!base.path().join("lock").exists());
    RunFolder::resume(base.path()).unwrap();
}

/// A record that cannot be written says which file it is, and the other epochs stay.
#[test]
fn a_record_that_cannot_be_written_is_named() {
    let base = tempfile::tempdir().unwrap();
    let mut run = RunFolder::create(base.path(), "").unwrap();
    run.record(&metrics(1)).unwrap();
    let before = read(base.path(), CSV);
    std::fs::remove_file(base.path().join(CURVES)).unwrap();
    std::fs::create_dir(base.path().join(CURVES)).unwrap();
    let error = run.record(&metrics(2)).unwrap_err().to_string();
    assert!(error.contains(CURVES) && error.contains("is a folder"), "{error}");
    assert!(read(base.path(), CSV).starts_with(&before));
    std::fs::remove_dir(base.path().join(CURVES)).unwrap();
    run.record(&metrics(3)).unwrap();
    assert_eq!(read(base.path(), JSONL).lines().count(), 3, "what failed to be drawn was recorded");
}

fn count(text: &str, what: &str) -> usize {
    text.matches(what).count()
}

#[test]
fn curves_have_axes_and_a_legend() {
    let svg = curves::svg(&(1..=30).map(metrics).collect::<Vec<_>>()).unwrap();
    for text in ["Loss", "Accuracy", "Firing rate", "epoch", "cross-entropy", "% of samples", "train", "test"] {
        assert!(svg.contains(&format!("\n{text}\n")), "{text} is missing");
    }
    assert_eq!(count(&svg, "<circle"), 5 * 30);
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
}

/// A value that is no number is a gap: epochs 1 and 3..=30 of that curve, in a line of their own and a dot.
#[test]
fn values_that_are_no_numbers_are_gaps() {
    let lines = |all: &[EpochMetrics]| count(&curves::svg(all).unwrap(), "stroke-width=\"2\"");
    let mut all: Vec<EpochMetrics> = (1..=60).map(metrics).collect();
    let (whole, dots) = (lines(&all), count(&curves::svg(&all).unwrap(), "<circle"));
    assert_eq!(dots, 0);
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX] {
        all[30].train_loss = value;
        assert_eq!(lines(&all), whole + 1, "{value}");
        all[28].train_loss = value;
        assert_eq!((lines(&all), count(&curves::svg(&all).unwrap(), "<circle")), (whole + 1, 1), "{value}: epoch 30 stands alone");
        all[28].train_loss = 1.0;
    }
}

#[test]
fn few_epochs_can_be_drawn() {
    assert_eq!(count(&curves::svg(&[]).unwrap(), "<circle"), 0);
    assert_eq!(count(&curves::svg(&[metrics(1)]).unwrap(), "<circle"), 5);
    let nothing = EpochMetrics { train_loss: f64::NAN, test_loss: f64::INFINITY, ..metrics(1) };
    assert_eq!(count(&curves::svg(&[nothing]).unwrap(), "<circle"), 3);
    let constant: Vec<EpochMetrics> = (1..=3).map(|epoch| EpochMetrics { epoch, firing_rate: 0.0, test_loss: 0.0, ..metrics(1) }).collect();
    assert_eq!(count(&curves::svg(&constant).unwrap(), "<circle"), 15);
}

proptest! {
    /// No values, however wild, stop a run at its drawing.
    #[test]
    fn any_values_can_be_drawn(rows in prop::collection::vec((any::<usize>(), any::<[u64; 5]>()), 0..6)) {
        let rows: Vec<EpochMetrics> = rows.iter().map(|(epoch, bits)| {
            let [train_loss, test_loss, train_accuracy, test_accuracy, firing_rate] = bits.map(f64::from_bits);
            EpochMetrics { epoch: *epoch, train_loss, test_loss, train_accuracy, test_accuracy, firing_rate, ..metrics(1) }
        }).collect();
        curves::svg(&rows).unwrap();
    }

    /// Nor do values that hardly differ.
    #[test]
    fn close_values_can_be_drawn(value in prop::num::f64::NORMAL, steps in 0u64..3) {
        let close = f64::from_bits(value.to_bits().wrapping_add(steps));
        let rows = [EpochMetrics { train_loss: value, firing_rate: value, ..metrics(1) }, EpochMetrics { train_loss: close, firing_rate: close, ..metrics(2) }];
        curves::svg(&rows).unwrap();
    }
}
