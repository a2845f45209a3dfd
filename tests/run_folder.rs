//! Run folders: each epoch once in every file, one process at a time, and nothing lost.

#[path = "support/event_file.rs"]
mod event_file;

use std::path::{Path, PathBuf};

use dsr::training::curves;
use dsr::training::metrics::{EpochMetrics, LayerMetrics, State, Warning};
use dsr::training::run_folder::{Access, BEST, CONFIG, CSV, CURVES, GONE, JSONL, LAST, RunFolder, Standing, standing};

use event_file::{Event, shown};
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
        ..EpochMetrics::default()
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
    let mut files: Vec<PathBuf> = paths.filter(|p| p.file_name().unwrap().to_str().unwrap().starts_with("events.out.tfevents.")).collect();
    files.sort();
    files
}

/// The events that TensorBoard shows.
fn events(folder: &Path) -> Vec<Event> {
    shown(&event_files(folder).iter().map(|file| std::fs::read(file).unwrap()).collect::<Vec<_>>())
}

fn create(path: &Path) -> RunFolder {
    RunFolder::create(path, &Access::default()).unwrap()
}

fn resume(path: &Path) -> RunFolder {
    RunFolder::resume(path, &Access::default()).unwrap()
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
    let mut run = create(&folder);
    run.begin("lr = 0.1\n", &[]).unwrap();
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
        let mut run = create(base.path());
        (1..=5).for_each(|epoch| run.record(&metrics(epoch)).unwrap());
        drop(run);
        let mut run = resume(base.path());
        run.restore(Some("epochs = 40\n"), &history(1..=kept)).unwrap();
        assert_eq!(epochs(base.path()), (1..=kept).collect::<Vec<_>>());
        assert_eq!(run.metrics(), (1..=kept).map(metrics).collect::<Vec<_>>(), "times come from the folder");
        (kept + 1..=kept + 2).for_each(|epoch| run.record(&metrics(epoch)).unwrap());
        assert_eq!(epochs(base.path()), (1..=kept + 2).collect::<Vec<_>>());
        assert_eq!(read(base.path(), CONFIG), "epochs = 40\n");
        // In the picture too: the same as of a run that was never interrupted.
        assert_eq!(read(base.path(), CURVES), curves::svg(&(1..=kept + 2).map(metrics).collect::<Vec<_>>()).unwrap());
    }
}

/// Epoch 2 took 12 s and epoch 3 took 13 s, so their ends lie 13 s apart in the event file of a resumed run as well, which a running
/// TensorBoard reads beside the earlier one: each epoch is shown once.
#[test]
fn events_of_a_resumed_run_are_as_far_apart_as_the_epochs() {
    let base = tempfile::tempdir().unwrap();
    let mut run = create(base.path());
    (1..=3).for_each(|epoch| run.record(&metrics(epoch)).unwrap());
    drop(run);
    let first = std::fs::read(&event_files(base.path())[0]).unwrap();
    let mut run = resume(base.path());
    run.restore(Some(""), &history(1..=3)).unwrap();
    assert_eq!(event_files(base.path()).len(), 1, "nothing new is to be said");
    run.record(&metrics(4)).unwrap();
    let files = event_files(base.path());
    assert_eq!((files.len(), std::fs::read(&files[0]).unwrap()), (2, first), "the earlier file stays as it is");
    let times: Vec<f64> = events(base.path()).iter().map(|e| e.wall_time).collect();
    assert_eq!(times.len(), 4);
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
        let mut run = resume(base.path());
        run.restore(Some(""), &history(1..=2)).unwrap();
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
    let mut run = create(base.path());
    for epoch in [1, 2, 3, 2] {
        run.record(&metrics(epoch)).unwrap();
    }
    assert_eq!(epochs(base.path()), [1, 2]);
    drop(run);
    // Without a restore, what is there stays there.
    resume(base.path()).record(&metrics(3)).unwrap();
    assert_eq!(epochs(base.path()), [1, 2, 3]);
}

#[test]
fn event_files_that_were_deleted_come_back() {
    let base = tempfile::tempdir().unwrap();
    let mut run = create(base.path());
    run.record(&metrics(1)).unwrap();
    std::fs::remove_file(&event_files(base.path())[0]).unwrap();
    run.record(&metrics(2)).unwrap();
    assert_eq!(epochs(base.path()), [1, 2]);
}

/// A folder holds a run if it holds a checkpoint; a new run begins where nothing of anybody's can be harmed.
#[test]
fn a_folder_that_cannot_be_used_is_refused() {
    let base = tempfile::tempdir().unwrap();
    let at = |name: &str| base.path().join(name);
    let refused = |path: &Path| RunFolder::create(path, &Access::default()).err().unwrap().to_string();
    let events = "events.out.tfevents.0000000001.host";
    let run = |file| Some(Standing::Run(PathBuf::from(file)));
    let cases = [
        (LAST, run(LAST), "already holds a run: use --resume auto or another --out".to_string()),
        (BEST, run(BEST), "already holds a run: use --resume auto or another --out".into()),
        (CSV, Some(Standing::Records), format!("{GONE}; or choose another --out")),
        (JSONL, Some(Standing::Records), format!("{GONE}; or choose another --out")),
        (events, Some(Standing::Records), format!("{GONE}; or choose another --out")),
        (CONFIG, None, "holds config.toml, and a new run begins in a new or empty folder: choose another --out".into()),
        (CURVES, None, "holds curves.svg, and a new run begins in a new or empty folder: choose another --out".into()),
        ("thresholds.jsonl", None, "holds thresholds.jsonl, and a new run begins in a new or empty folder: choose another --out".into()),
        ("notes.dsr-tmp", None, "holds notes.dsr-tmp, and a new run begins in a new or empty folder: choose another --out".into()),
    ];
    for (index, (file, expected, words)) in cases.into_iter().enumerate() {
        let folder = at(&index.to_string());
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join(file), "mine").unwrap();
        let expected = match expected {
            Some(Standing::Run(name)) => Standing::Run(folder.join(name)),
            Some(other) => other,
            None => Standing::Foreign(folder.join(file)),
        };
        assert_eq!(standing(&folder).unwrap(), expected, "{file}");
        assert_eq!(refused(&folder), format!("{}: {words}", folder.display()));
        let names: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!((names, read(&folder, file).as_str()), (vec![file.into()], "mine"), "untouched, and no lock left");
    }
    std::fs::write(at("file"), "text").unwrap();
    assert!(refused(&at("file")).contains("is a file"), "{}", refused(&at("file")));
    let error = RunFolder::resume(&at("absent"), &Access::default()).err().unwrap().to_string();
    assert!(error.contains("no run to resume") && !at("absent").exists(), "{error}");
    // What a killed process of ours leaves is not in the way.
    std::fs::create_dir(at("left")).unwrap();
    for name in ["lock", ".last.safetensors.17-0.dsr-tmp"] {
        std::fs::write(at("left").join(name), "").unwrap();
    }
    assert_eq!(standing(&at("left")).unwrap(), Standing::Free);
    drop(create(&at("left")));
    assert_eq!(std::fs::read_dir(at("left")).unwrap().count(), 0);
}

#[test]
fn processes_that_ask_at_once_get_a_folder_each() {
    let base = tempfile::tempdir().unwrap();
    let names = || (1..).map(|n| base.path().join(format!("runs/x-{n}")));
    let ready = std::sync::Barrier::new(8);
    let take = || {
        ready.wait();
        RunFolder::create_first(names(), &Access::default()).unwrap().path().to_path_buf()
    };
    let mut taken: Vec<PathBuf> = std::thread::scope(|scope| {
        let takers: Vec<_> = (0..8).map(|_| scope.spawn(take)).collect();
        takers.into_iter().map(|t| t.join().unwrap()).collect()
    });
    taken.sort();
    assert_eq!(taken, names().take(8).collect::<Vec<_>>());
}

#[test]
fn one_process_at_a_time() {
    let base = tempfile::tempdir().unwrap();
    let run = create(base.path());
    let access = Access::default();
    for taken in [RunFolder::create(base.path(), &access), RunFolder::resume(base.path(), &access)] {
        let error = taken.err().unwrap().to_string();
        assert!(error.contains(&format!("in use by process {}", std::process::id())), "{error}");
        assert!(error.starts_with(&base.path().display().to_string()) && !error.contains('\n'), "{error}");
    }
    run.check_lock().unwrap();
    drop(run);
    assert!(!base.path().join("lock").exists());
    resume(base.path());
}

/// A record that cannot be written says which file it is, and the other epochs stay; a picture that cannot be drawn costs a note.
#[test]
fn a_record_that_cannot_be_written_is_named() {
    static NOTES: std::sync::Mutex<Vec<String>> = std::sync::Mutex::new(Vec::new());
    let base = tempfile::tempdir().unwrap();
    let mut run =
        RunFolder::create(base.path(), &Access { note: |text| NOTES.lock().unwrap().push(text.into()), ..Access::default() }).unwrap();
    run.record(&metrics(1)).unwrap();
    std::fs::remove_file(base.path().join(CURVES)).unwrap();
    std::fs::create_dir(base.path().join(CURVES)).unwrap();
    run.record(&metrics(2)).unwrap();
    let notes = std::mem::take(&mut *NOTES.lock().unwrap());
    assert!(notes.len() == 1 && notes[0].contains(CURVES) && notes[0].contains("is a folder"), "{notes:?}");
    assert_eq!(epochs(base.path()), [1, 2]);
    std::fs::remove_dir(base.path().join(CURVES)).unwrap();

    let before = read(base.path(), JSONL);
    std::fs::remove_file(base.path().join(CSV)).unwrap();
    std::fs::create_dir(base.path().join(CSV)).unwrap();
    let error = run.record(&metrics(3)).unwrap_err().to_string();
    assert!(error.contains(CSV) && error.contains("is a folder"), "{error}");
    assert_eq!(read(base.path(), JSONL), before);
    std::fs::remove_dir(base.path().join(CSV)).unwrap();
    run.record(&metrics(4)).unwrap();
    assert_eq!(read(base.path(), JSONL).lines().count(), 4, "what failed to be written was recorded");
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
