//! What a run is told apart from layers and data, on the real binary: a validation split, schedules by name, losses of steps, notes when
//! it starts; and the confusion matrix of its result.

use std::fs;
use std::path::Path;

use assert_cmd::cargo::cargo_bin;
use dsr::data::{self, hold_out};
use serde_json::Value;
use tempfile::tempdir;

#[path = "support/event_file.rs"]
#[allow(dead_code)]
mod event_file;
#[path = "support/streamed_sets.rs"]
mod streamed_sets;

/// 45 steps an epoch, 41 where a tenth is held out.
const TINY: &str = "train -d digits-8x8 --widths 4,8 --blocks 1,1 -T 2 --epochs 2 --warmup 0";

/// Exit code, stdout and stderr.
fn dsr(folder: &Path, line: &str) -> (i32, String, String) {
    let mut command = std::process::Command::new(cargo_bin("dsr"));
    let output = command.current_dir(folder).args(line.split_whitespace()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

/// Runs a line that must succeed and gives its stdout and stderr.
#[track_caller]
fn ok(folder: &Path, line: &str) -> [String; 2] {
    let (code, stdout, stderr) = dsr(folder, line);
    assert_eq!(code, 0, "dsr {line}: {stderr}");
    [stdout, stderr]
}

#[track_caller]
fn fails(folder: &Path, line: &str, words: &[&str]) {
    let (code, _, stderr) = dsr(folder, line);
    assert_eq!(code, 2, "dsr {line}: {stderr}");
    for word in words {
        assert!(stderr.contains(word), "dsr {line}: {word:?} is missing in {stderr}");
    }
}

fn jsonl(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// All event files of a folder, in the order of their names.
fn events(folder: &Path) -> Vec<Vec<u8>> {
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = paths.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("events.")).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

#[test]
fn a_share_of_each_class_is_held_out() {
    let whole = data::load("digits-8x8", None).unwrap();
    let (rest, held) = hold_out(whole.clone(), 0.1, 7).unwrap();
    assert_eq!((&rest.test, &rest.mean, &held.mean), (&whole.test, &whole.mean, &whole.mean));
    let count = |labels: &[u32], class: u32| labels.iter().filter(|&&label| label == class).count();
    for class in 0..10 {
        let n = count(&whole.train.labels, class);
        let expected = (0.1 * n as f64).round() as usize;
        assert_eq!([count(&rest.train.labels, class), count(&held.test.labels, class)], [n - expected, expected], "class {class}");
    }
    // Both together are the training split.
    let images = |split: &data::Split| (0..split.len()).map(|i| (split.labels[i], split.images.image(i).to_vec())).collect::<Vec<_>>();
    let sorted = |mut images: Vec<(u32, Vec<u8>)>| {
        images.sort();
        images
    };
    assert!(sorted([images(&rest.train), images(&held.test)].concat()) == sorted(images(&whole.train)));
    // A function of the seed.
    assert!(hold_out(whole.clone(), 0.1, 7).unwrap().1 == held && hold_out(whole.clone(), 0.1, 8).unwrap().1 != held);
    // Each class keeps a sample to train on, and something is held out.
    let (rest, _) = hold_out(whole.clone(), 0.9999, 7).unwrap();
    assert!((0..10).all(|class| count(&rest.train.labels, class) == 1));
    assert!(hold_out(whole, 1e-4, 7).unwrap_err().to_string().contains("val-share"));
}

#[test]
fn the_best_epoch_is_chosen_on_the_validation_split() {
    let folder = tempdir().unwrap();
    let root = folder.path();
    let [stdout, stderr] = ok(root, &format!("{TINY} --epochs 4 --val-share 0.1 --out run"));
    assert!(stderr.contains("(1294 + 360 images, 143 more held out for validation)"), "{stderr}");
    let lines: Vec<&str> = stdout.lines().collect();
    assert!(lines[0].contains(" val ") && lines[0].contains(" test ") && lines[4].contains(" on the validation split)"), "{stdout}");
    let epochs = jsonl(&root.join("run/metrics.jsonl"));
    let of = |key: &str| epochs.iter().map(|epoch| epoch[key].as_f64().unwrap()).collect::<Vec<f64>>();
    let mut best: f64 = 0.0;
    for (accuracy, found) in of("val_accuracy").into_iter().zip(of("best_accuracy")) {
        best = best.max(accuracy);
        assert_eq!(found, best);
        assert!((accuracy * 143.0 - (accuracy * 143.0).round()).abs() < 1e-9, "a share of 143 samples: {accuracy}");
    }
    assert!(of("val_loss").iter().all(|loss| loss.is_finite()));
    let table = fs::read_to_string(root.join("run/metrics.csv")).unwrap();
    assert!(table.lines().next().unwrap().contains(",test_accuracy,val_loss,val_accuracy,best_accuracy,"), "{table}");
    assert!(fs::read_to_string(root.join("run/curves.svg")).unwrap().contains("validation"));
    let shown = event_file::shown(&events(&root.join("run")));
    assert!(["loss/val", "accuracy/val"].iter().all(|tag| shown[0].scalars.iter().any(|(found, _)| found == tag)), "{:?}", shown[0]);
    // Stopped and resumed, the split is the same; another one is refused.
    assert_eq!(dsr(root, &format!("{TINY} --epochs 4 --val-share 0.1 --out broken --stop-after-steps 50")).0, 1);
    fails(root, "train --resume auto --out broken --val-share 0.2", &["val-share 0.1 (asked for: 0.2)"]);
    let [stdout, _] = ok(root, "train --resume auto --out broken -o json");
    for name in ["last.safetensors", "best.safetensors"] {
        assert!(fs::read(root.join("run").join(name)).unwrap() == fs::read(root.join("broken").join(name)).unwrap(), "{name}");
    }
    let result: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&result["best_on"], &result["val_accuracy"]), (&"validation".into(), &epochs[3]["val_accuracy"]));
    // Evaluation says which file it took, and what that was chosen on.
    let [stdout, _] = ok(root, "eval --checkpoint run");
    assert!(stdout.starts_with("run/best.safetensors (chosen on the validation split): "), "{stdout}");
    let [stdout, _] = ok(root, "eval --checkpoint run/last.safetensors -o json");
    let result: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&result["checkpoint"], &result["chosen_on"]), (&"run/last.safetensors".into(), &Value::Null));
}

#[test]
fn without_a_validation_split_the_test_split_is_named() {
    let folder = tempdir().unwrap();
    let root = folder.path();
    let [stdout, _] = ok(root, &format!("{TINY} --out run"));
    // Two epochs, the result, and the checkpoint, which does not fit into its line.
    let [_, _, last, checkpoint] = stdout.lines().collect::<Vec<_>>()[..] else { panic!("{stdout}") };
    assert_eq!(checkpoint, "  run/last.safetensors");
    assert!(last.contains(" on the test split) after 2 epochs") && !stdout.contains(" val "), "{stdout}");
    // What is the usual is not in the checkpoint, so that its bytes are those of a program that knew less.
    let bytes = fs::read(root.join("run/last.safetensors")).unwrap();
    let head = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    let config = String::from_utf8_lossy(&bytes[8..8 + head]);
    let table = fs::read_to_string(root.join("run/metrics.csv")).unwrap();
    for word in ["val_", "schedule", "milestones", "gamma", "peak_share"] {
        assert!(!config.contains(word) && !table.contains(word), "{word} in {config}{table}");
    }
    let [stdout, _] = ok(root, "eval --checkpoint run");
    assert!(stdout.starts_with("run/best.safetensors (chosen on the test split): "), "{stdout}");
    let [stdout, _] = ok(root, "train --resume auto --out run -o json");
    let result: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&result["best_on"], result.get("val_accuracy")), (&"test".into(), None));
    let [help, _] = ok(root, "train --help");
    assert!(help.contains("chosen on the test split"), "{help}");
    for (flags, words) in [("--val-share=-0.1", "val-share"), ("--val-share 1", "val-share"), ("--val-share 0.0001", "is none; give more")]
    {
        fails(root, &format!("{TINY} {flags} --out other"), &["error: val-share", words]);
    }
    assert!(!root.join("other").exists());
}

#[test]
fn streamed_sets_have_a_validation_split() {
    let folder = tempdir().unwrap();
    let root = folder.path();
    streamed_sets::recordings(&root.join("events"), &[0, 1, 898, 899, 900]);
    streamed_sets::photos(&root.join("photos"));
    let cases = [
        ("-d dvs-cifar10 --data-dir events --event-size 16", "(30 + 10 images, 10 more held out for validation)"),
        ("-d imagenet --data-dir photos --image-size 24 --image-resize 28", "(9 + 6 images, 3 more held out for validation)"),
    ];
    for (number, (set, images)) in cases.into_iter().enumerate() {
        let line = format!("train {set} --widths 4,8 --blocks 1,1 -T 4 --epochs 1 -b 8 --crop-pad 0 --warmup 0 --val-share 0.25");
        let [stdout, stderr] = ok(root, &format!("{line} --out run{number}"));
        assert!(stderr.contains(images), "{stderr}");
        assert!(stdout.contains(" val "), "{stdout}");
    }
}

#[test]
fn schedules_by_name_are_settings_of_a_run() {
    let folder = tempdir().unwrap();
    let root = folder.path();
    let rates = |run: &str| jsonl(&root.join(run).join("metrics.jsonl")).iter().map(|m| m["lr"].as_f64().unwrap()).collect::<Vec<_>>();
    let near = |found: &[f64], expected: &[f64]| found.iter().zip(expected).all(|(a, b)| (a / b - 1.0).abs() < 1e-9);
    ok(root, &format!("{TINY} --epochs 4 --lr 0.1 --schedule multi-step --milestones 0.25,0.75 --gamma 0.5 -q --out steps"));
    assert!(near(&rates("steps"), &[0.1, 0.05, 0.05, 0.025]), "{:?}", rates("steps"));
    ok(root, &format!("{TINY} --lr 0.1 --schedule one-cycle -q --out cycle"));
    assert!(near(&rates("cycle")[1..], &[4e-7]), "{:?}", rates("cycle"));
    // The resolved settings make the same run, and a broken one goes on to the same bytes.
    ok(root, "train --config cycle/config.toml -q --out again");
    assert_eq!(dsr(root, "train --config cycle/config.toml -q --out broken --stop-after-steps 50").0, 1);
    fails(root, "train --resume auto --out broken --schedule multi-step", &["schedule \"one-cycle\" (asked for: \"multi-step\")"]);
    fails(root, "train --resume auto --out broken --peak-share 0.5", &["peak-share 0.3 (asked for: 0.5)"]);
    ok(root, "train --resume auto --out broken -q");
    let last = |run: &str| fs::read(root.join(run).join("last.safetensors")).unwrap();
    assert!(last("cycle") == last("again") && last("cycle") == last("broken"));
    fails(root, &format!("{TINY} --gamma 0.5"), &["error: gamma: only --schedule multi-step has it"]);
}

#[test]
fn a_resumed_run_may_change_its_rate_and_says_so() {
    let folder = tempdir().unwrap();
    let root = folder.path();
    assert_eq!(dsr(root, &format!("{TINY} --lr 0.1 --out run --stop-after-steps 45")).0, 1);
    let [_, stderr] = ok(root, "train --resume auto --out run --lr 0.02");
    let note = stderr.lines().find(|line| line.starts_with("note: --lr")).unwrap_or_else(|| panic!("no note in {stderr}"));
    assert!(
        ["0.02 from here on", "0.1 up to the checkpoint", "no longer a function of one configuration"].iter().all(|w| note.contains(w)),
        "{note}"
    );
    assert_eq!(jsonl(&root.join("run/metrics.jsonl"))[1]["lr"], 0.01);
    // A finished run has no steps to take at another rate.
    let [_, stderr] = ok(root, "train --resume auto --out run --lr 0.03");
    assert!(!stderr.contains("--lr is") && fs::read_to_string(root.join("run/config.toml")).unwrap().contains("lr = 0.02"), "{stderr}");
}

#[test]
fn losses_of_steps_are_written_for_tensorboard() {
    let folder = tempdir().unwrap();
    let root = folder.path();
    let losses = |run: &str| {
        let shown = event_file::shown(&events(&root.join(run).join("steps")));
        shown.iter().map(|event| (event.step, event.scalars.clone())).collect::<Vec<_>>()
    };
    // 45 steps: each; 205 and 160 steps: every third and every second, and the last of the epoch.
    for (batch, expected) in
        [(32, (1..=45).collect::<Vec<u64>>()), (9, (2..=160).step_by(2).collect()), (7, (3..=205).step_by(3).chain([206]).collect())]
    {
        let run = format!("run{batch}");
        ok(root, &format!("{TINY} --epochs 1 -b {batch} -q --out {run}"));
        let found = losses(&run);
        assert!(found.iter().all(|(_, scalars)| scalars.len() == 1 && scalars[0].0 == "loss/step" && scalars[0].1.is_finite()));
        assert_eq!(found.iter().map(|(step, _)| *step).collect::<Vec<_>>(), expected, "batches of {batch}");
        let mean = found.iter().map(|(_, scalars)| f64::from(scalars[0].1)).sum::<f64>() / found.len() as f64;
        let of_epoch = jsonl(&root.join(&run).join("metrics.jsonl"))[0]["train_loss"].as_f64().unwrap();
        assert!((mean / of_epoch - 1.0).abs() < 0.01, "{mean} and {of_epoch} differ by more than unequal batches explain");
    }
    // A run that went on shows each step once, as one that was not broken off.
    ok(root, &format!("{TINY} -q --out whole"));
    assert_eq!(dsr(root, &format!("{TINY} -q --out broken --stop-after-steps 50")).0, 1);
    ok(root, "train --resume auto --out broken -q");
    assert!(losses("whole").len() == 90 && losses("whole") == losses("broken"));
    // What cannot be written costs one note.
    ok(root, &format!("{TINY} -q --out other --stop-after-steps 1 --epochs 1 --lr 0.1").replace("--stop-after-steps 1 ", ""));
    fs::remove_dir_all(root.join("other/steps")).unwrap();
    fs::write(root.join("other/steps"), "a file").unwrap();
    let [_, stderr] = ok(root, "train --resume auto --out other --epochs 3");
    assert_eq!(stderr.lines().filter(|line| line.starts_with("note: ") && line.contains("steps")).count(), 1, "{stderr}");
}

#[test]
fn settings_that_teach_little_are_named_when_a_run_starts() {
    let folder = tempdir().unwrap();
    let root = folder.path();
    let words = ["note: the warm-up", "note: batches of one", "note: layer "];
    let cases = [
        ("", [false; 3]),
        ("--epochs 1 --warmup 45", [false; 3]),
        ("--epochs 1 --warmup 46", [true, false, false]),
        ("--epochs 1 -b 1 --stop-after-steps 2", [false, true, false]),
        ("--epochs 1 --vth 100", [false, false, true]),
        ("--epochs 1 --vth 100 --threshold-init auto", [false; 3]),
        ("--epochs 1 --warmup 46 --vth 100 -b 1 --stop-after-steps 2 -q", [false; 3]),
    ];
    for (number, (flags, expected)) in cases.into_iter().enumerate() {
        let (_, _, stderr) = dsr(
            root,
            &format!("{TINY} {flags} --out run{number}").replacen(
                "--epochs 2",
                if flags.contains("--epochs") { "" } else { "--epochs 2" },
                1,
            ),
        );
        let found = words.map(|word| stderr.lines().filter(|line| line.starts_with(word)).count());
        assert_eq!(found, expected.map(usize::from), "{flags}: {stderr}");
    }
}

#[test]
fn confusion_in_every_form() {
    let folder = tempdir().unwrap();
    let root = folder.path();
    ok(root, &format!("{TINY} -q --out run"));
    let [text, _] = ok(root, "eval --checkpoint run --confusion --per-class");
    assert!(text.contains("true\\predicted   0   1   2"), "{text}");
    let [stdout, _] = ok(root, "eval --checkpoint run --confusion --per-class -o json -T 2,3");
    let result: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(result["classes"].as_array().unwrap().len(), 10);
    for row in result["results"].as_array().unwrap() {
        let matrix = row["confusion"].as_array().unwrap();
        let sum = |row: &Value| row.as_array().unwrap().iter().map(|count| count.as_u64().unwrap()).sum::<u64>();
        for (class, counts) in row["per_class"].as_array().unwrap().iter().enumerate() {
            assert_eq!((sum(&matrix[class]), &matrix[class][class]), (counts["n"].as_u64().unwrap(), &counts["correct"]));
        }
        assert_eq!(matrix.iter().map(sum).sum::<u64>(), 360);
    }
    let [table, _] = ok(root, "eval --checkpoint run --confusion -o csv");
    let mut reader = csv::Reader::from_reader(table.as_bytes());
    assert_eq!(reader.headers().unwrap().iter().skip(4).take(3).collect::<Vec<_>>(), ["true", "predicted", "count"]);
    let matrix = result["results"][0]["confusion"].as_array().unwrap();
    let counts: Vec<u64> = reader.records().map(|record| record.unwrap()[6].parse().unwrap()).collect();
    assert_eq!(counts, matrix.iter().flat_map(|row| row.as_array().unwrap()).map(|n| n.as_u64().unwrap()).collect::<Vec<_>>());
    fails(root, "eval --checkpoint run --confusion --rates -o csv", &["error: confusion"]);
}
