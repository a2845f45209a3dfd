//! `dsr train`, `dsr eval` and `dsr info` as a user runs them: the real binary, tiny networks, real digits.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};

use assert_cmd::cargo::cargo_bin;
use serde_json::Value;
use tempfile::{TempDir, tempdir};

/// A network that trains in a fraction of a second: 45 steps an epoch.
const TINY: &str = "train -d digits-8x8 --widths 4,8 --blocks 1,1 -T 2 --epochs 1 --readout spikes";

fn command(folder: &Path, line: &str) -> std::process::Command {
    let mut command = std::process::Command::new(cargo_bin("dsr"));
    command.current_dir(folder).args(line.split_whitespace());
    command
}

fn dsr(folder: &Path, line: &str) -> Output {
    command(folder, line).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Runs a line that must succeed and gives its stdout.
fn ok(folder: &Path, line: &str) -> String {
    let output = dsr(folder, line);
    assert_eq!(output.status.code(), Some(0), "dsr {line}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// Runs a line that must fail with `code` and one line on stderr that has all `words`.
fn fails(folder: &Path, line: &str, code: i32, words: &[&str]) {
    let output = dsr(folder, line);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "dsr {line}: {stderr}");
    let error = stderr.lines().find(|l| l.starts_with("error: ")).unwrap_or_else(|| panic!("dsr {line}: no error line in {stderr:?}"));
    for word in words {
        assert!(error.contains(word), "dsr {line}: {word:?} is missing in {error:?}");
    }
    assert!(!stderr.contains("panicked"), "dsr {line}: {stderr}");
}

fn json(text: &str) -> Value {
    assert_eq!(text.trim_end().lines().count(), 1, "one object on one line: {text:?}");
    serde_json::from_str(text).unwrap()
}

/// A folder with one trained run in `run`.
fn trained() -> TempDir {
    let folder = tempdir().unwrap();
    ok(folder.path(), &format!("{TINY} --out run"));
    folder
}

#[test]
fn training_leaves_a_run_folder_and_a_line_an_epoch() {
    let folder = tempdir().unwrap();
    let stdout = ok(folder.path(), &format!("{TINY} --epochs 2"));
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(lines.len(), 4, "{stdout}"); // the last two are one that does not fit
    assert!(lines.iter().all(|line| line.chars().count() <= 80), "{stdout}");
    let words: Vec<&str> = lines[1].split(' ').collect();
    let names: Vec<&str> = words[..10].iter().step_by(2).copied().chain([words[12]]).collect();
    assert_eq!(names, ["epoch", "loss", "train", "test", "rate", "eta"], "{}", lines[1]);
    assert_eq!((words[1], words[11], words[13]), ("2/2", "img/s", "0:00:00"), "{}", lines[1]);
    for number in [3, 5, 7, 9, 10] {
        words[number].parse::<f64>().unwrap();
    }
    let run = folder.path().join("runs/digits-8x8-preact-resnet-4-8-if-T2-1");
    assert_eq!(lines[3], "  runs/digits-8x8-preact-resnet-4-8-if-T2-1/last.safetensors");
    let mut names: Vec<String> = fs::read_dir(&run).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let events = names.iter().position(|name| name.starts_with("events.out.tfevents")).unwrap();
    names.remove(events);
    assert_eq!(names, ["best.safetensors", "config.toml", "curves.svg", "last.safetensors", "metrics.csv", "metrics.jsonl", "steps"]);
    assert_eq!(fs::read_to_string(run.join("metrics.csv")).unwrap().lines().count(), 3);
    let config = fs::read_to_string(run.join("config.toml")).unwrap();
    assert!(config.contains("widths = [4, 8]") && config.contains("time_steps = 2") && config.contains("vth = 2.0"), "{config}");

    // The resolved settings make the same run, and the next folder is free.
    ok(folder.path(), &format!("train -q --config {}", run.join("config.toml").display()));
    let next = folder.path().join("runs/digits-8x8-preact-resnet-4-8-if-T2-2/last.safetensors");
    assert_eq!(fs::read(next).unwrap(), fs::read(run.join("last.safetensors")).unwrap());
}

#[test]
fn json_output_is_one_object() {
    let folder = tempdir().unwrap();
    let output = dsr(folder.path(), &format!("{TINY} --neuron lif --out run --seed 3 --output json"));
    assert!(text(&output.stderr).contains("epoch 1/1 "), "the lines go to stderr");
    let result = json(&text(&output.stdout));
    assert_eq!((&result["epochs"], &result["seed"], &result["checkpoint"]), (&1.into(), &3.into(), &"run/last.safetensors".into()));
    for key in ["test_accuracy", "best_accuracy", "mean_firing_rate"] {
        assert!((0.0..=1.0).contains(&result[key].as_f64().unwrap()), "{key}: {result}");
    }
    for key in ["seconds", "images_per_second"] {
        assert!(result[key].as_f64().unwrap() > 0.0, "{key}: {result}");
    }
    let table = ok(folder.path(), "eval --checkpoint run/last.safetensors -o csv --rates -T 2,5");
    let mut reader = csv::Reader::from_reader(table.as_bytes());
    let heads = reader.headers().unwrap().clone();
    let records: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    assert_eq!((records.len(), heads.len(), &heads[4], &heads[8]), (14, 34, "layer", "energy_j"), "{table}");
    assert!(records.iter().all(|record| &record[17] == "digits-8x8" && &record[19] == "3"), "{table}");
    let evaluation = json(&ok(folder.path(), "eval --checkpoint run/last.safetensors --output json --per-class --rates -T 2,5 -b 7"));
    assert_eq!((&evaluation["n"], &evaluation["neuron"]), (&360.into(), &"lif".into()));
    let rows = evaluation["results"].as_array().unwrap();
    assert_eq!(rows.iter().map(|row| row["time_steps"].as_u64().unwrap()).collect::<Vec<_>>(), [2, 5]);
    assert_eq!(rows[0]["top1"], result["test_accuracy"], "evaluation repeats the number of the training");
    for row in rows {
        let [low, high] = [0, 1].map(|end| row["top1_interval"][end].as_f64().unwrap());
        let (top1, top5) = (row["top1"].as_f64().unwrap(), row["top5"].as_f64().unwrap());
        assert!(low < top1 && top1 < high && top1 <= top5, "{row}");
        let classes = row["per_class"].as_array().unwrap();
        let sum = |key: &str| classes.iter().map(|class| class[key].as_u64().unwrap()).sum::<u64>();
        assert_eq!((classes.len(), sum("n"), sum("correct")), (10, 360, (top1 * 360.0).round() as u64));
        let layers = row["layers"].as_array().unwrap();
        assert_eq!(layers.len(), 7);
        assert!(layers.iter().all(|layer| layer["operations"].as_f64() <= layer["dense_operations"].as_f64()), "{row}");
        let energy = |value: &Value| value["energy"]["float32"]["joules"].as_f64().unwrap();
        let sum: f64 = layers.iter().map(energy).sum();
        assert!((sum / energy(&row["total"]) - 1.0).abs() < 1e-9 && sum > 0.0, "layers add up to the total: {row}");
        let operations: f64 = layers.iter().map(|layer| layer["operations"].as_f64().unwrap()).sum();
        let counts = &row["total"]["counts"];
        assert!((operations - counts["ac"].as_f64().unwrap() - counts["mac"].as_f64().unwrap()).abs() < 1e-6 * operations, "{row}");
    }
}

#[test]
fn eval_prints_a_table_and_writes_predictions() {
    let folder = tempdir().unwrap();
    ok(folder.path(), TINY);
    let stdout = ok(folder.path(), "eval --per-class --rates --predictions out.csv");
    let in_one_line = stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    for words in [
        "best.safetensors (chosen on the test split): preact-resnet-4-8 on digits-8x8, 360 test images",
        "top-5",
        "layer2.0.relu1",
        "correct",
        "ANN uJ",
        "Horowitz",
        "seed 0",
    ] {
        assert!(in_one_line.contains(words), "{words:?} is missing in {stdout}");
    }
    assert!(stdout.lines().all(|line| line.chars().count() <= 80), "{stdout}");
    let mut reader = csv::Reader::from_path(folder.path().join("out.csv")).unwrap();
    let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    assert_eq!((rows.len(), rows[0].len()), (360, 13));
    let right = rows.iter().filter(|row| row[1] == row[2]).count();
    assert!(stdout.contains(&format!("{:.1}", 100.0 * right as f64 / 360.0)), "{right} of 360 are right in the file: {stdout}");
}

/// With two steps a logit has one of three values, so that many predictions are ties.
#[test]
fn ties_are_counted_and_told_apart() {
    let folder = trained();
    let eval = "eval --checkpoint run/last.safetensors --predictions";
    let output = dsr(folder.path(), &format!("{eval} first.csv -o json"));
    assert!(text(&output.stderr).contains("% of the predictions are ties of logits; --ties current"), "{}", text(&output.stderr));
    let first = json(&text(&output.stdout));
    let output = dsr(folder.path(), &format!("{eval} current.csv -o json --ties current"));
    assert!(!text(&output.stderr).contains("ties"), "{}", text(&output.stderr));
    assert!(ok(folder.path(), "eval --checkpoint run --ties current").contains("360 test images, ties by current"));
    let current = json(&text(&output.stdout));
    assert_eq!((&first["ties"], &current["ties"]), (&"first".into(), &"current".into()));

    let read = |name: &str| -> Vec<Vec<f64>> {
        let mut reader = csv::Reader::from_path(folder.path().join(name)).unwrap();
        reader.records().map(|record| record.unwrap().iter().map(|field| field.parse().unwrap()).collect()).collect()
    };
    let (by_number, by_current) = (read("first.csv"), read("current.csv"));
    let (mut ties, mut changed) = (0, 0);
    for (first, row) in by_number.iter().zip(&by_current) {
        let (logits, currents) = (&row[3..13], &row[13..23]);
        assert_eq!(&first[3..], logits, "the logits are the same");
        let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let best: Vec<usize> = (0..10).filter(|&class| logits[class] == largest).collect();
        let of_largest_current = best.iter().copied().max_by(|a, b| currents[*a].total_cmp(&currents[*b]));
        assert_eq!((first[2] as usize, Some(row[2] as usize)), (best[0], of_largest_current), "{row:?}");
        ties += usize::from(best.len() > 1);
        changed += usize::from(first[2] != row[2]);
    }
    assert!(ties > 36 && changed > 9, "{ties} ties, {changed} predictions changed");
    for (table, rows) in [(&first, &by_number), (&current, &by_current)] {
        let (row, n) = (&table["results"][0], rows.len() as f64);
        let right = rows.iter().filter(|row| row[1] == row[2]).count();
        assert_eq!((row["tied"].as_f64().unwrap(), row["top1"].as_f64().unwrap()), (ties as f64 / n, right as f64 / n));
    }
}

#[test]
fn a_plain_state_dict_is_evaluated_and_trained_on() {
    let folder = trained();
    let bytes = fs::read(folder.path().join("run/last.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let plain = tensors.tensors().into_iter().filter(|(name, _)| !name.starts_with("optimizer."));
    fs::write(folder.path().join("plain.safetensors"), safetensors::serialize(plain, None).unwrap()).unwrap();
    let flags = "-d digits-8x8 --widths 4,8 --blocks 1,1";
    let theirs = json(&ok(folder.path(), &format!("eval --checkpoint plain.safetensors {flags} --readout spikes -T 2 --output json")));
    let ours = json(&ok(folder.path(), "eval --checkpoint run/last.safetensors --output json"));
    assert_eq!(theirs["results"][0]["top1"], ours["results"][0]["top1"]);
    ok(folder.path(), &format!("{TINY} --init-from plain.safetensors --out more"));
    fails(folder.path(), "train --resume plain.safetensors", 1, &["plain.safetensors", "--init-from"]);
}

/// Twice the same command, and any way of stopping and resuming it, give the same bytes.
#[test]
fn a_run_is_a_function_of_its_settings() {
    let cases = [
        "--dropout 0.1 --flip",
        "--neuron lif --optimizer adam --lr 0.01 --weight-gradient unrolled --warmup 60 --lr-decay step --weight-bits 8",
    ];
    for (case, flags) in cases.into_iter().enumerate() {
        let folder = tempdir().unwrap();
        let line = format!("{TINY} --epochs 2 -q {flags}");
        ok(folder.path(), &format!("{line} --out whole"));
        let files = |run: &str| ["last.safetensors", "best.safetensors"].map(|name| fs::read(folder.path().join(run).join(name)).unwrap());
        let whole = files("whole");
        ok(folder.path(), &format!("{line} --out again"));
        assert!(files("again") == whole, "case {case}: the same command gave other bytes");
        ok(folder.path(), &format!("{line} --out threads --threads 3"));
        assert!(files("threads") == whole, "case {case}: another number of threads gave other bytes");
        ok(folder.path(), &format!("{line} --out other --seed 1"));
        assert!(files("other") != whole, "case {case}: the seed has no effect");
        // In the middle of the first epoch, at its end, in the middle of the second one (twice), at the very end.
        for stops in [&[17][..], &[45], &[50, 11], &[90]] {
            let run = format!("stopped-{}", stops[0]);
            for (index, stop) in stops.iter().enumerate() {
                let resume = if index == 0 { "" } else { " --resume auto" };
                let output = dsr(folder.path(), &format!("{line} --out {run}{resume} --stop-after-steps {stop}"));
                assert_eq!(output.status.code(), Some(1));
                let stderr = text(&output.stderr);
                assert!(stderr.contains(&format!("continue with: dsr train --resume auto --out {run}")), "{stderr}");
            }
            ok(folder.path(), &format!("train --resume auto --out {run} -q"));
            assert!(files(&run) == whole, "case {case}: stopped after {stops:?} steps and resumed gave other bytes");
            let epochs = fs::read_to_string(folder.path().join(&run).join("metrics.csv")).unwrap();
            assert_eq!(epochs.lines().count(), 3, "{epochs}");
        }
    }
}

/// The rate of an epoch's last step stands in its record.
#[test]
fn the_learning_rate_goes_down_between_epochs_or_after_every_step() {
    let folder = tempdir().unwrap();
    let rates = |flags: &str, run: &str| -> Vec<f64> {
        ok(folder.path(), &format!("{TINY} --epochs 2 --lr 0.1 --warmup 0 {flags} -q --out {run}"));
        let lines = fs::read_to_string(folder.path().join(run).join("metrics.jsonl")).unwrap();
        lines.lines().map(|line| json(line)["lr"].as_f64().unwrap()).collect()
    };
    let half_cosine = |epochs: f64| 0.05 * (1.0 + (std::f64::consts::PI * epochs / 2.0).cos());
    assert_eq!(rates("", "epoch"), [0.0, 1.0].map(half_cosine));
    // Steps of an epoch: 45.
    assert_eq!(rates("--lr-decay step", "step"), [44.0 / 45.0, 1.0 + 44.0 / 45.0].map(half_cosine));
}

#[test]
fn a_resumed_run_may_be_longer_but_not_another_one() {
    let folder = trained();
    fails(folder.path(), "train --resume auto --out run -T 3", 2, &["time-steps 2 (asked for: 3)", "--init-from"]);
    fails(folder.path(), "train --resume auto --out run --seed 1", 2, &["seed"]);
    fails(folder.path(), "train --resume auto --out run --lr-decay step", 2, &["lr-decay \"epoch\" (asked for: \"step\")", "--init-from"]);
    fails(folder.path(), "train --resume run/last.safetensors --recipe cifar10-if", 2, &["dataset", "digits-8x8", "cifar10"]);
    let stdout = ok(folder.path(), "train --resume run/last.safetensors --epochs 2 --threads 1");
    assert!(stdout.starts_with("epoch 2/2 "), "{stdout}");
    ok(folder.path(), &format!("{TINY} --resume auto --out fresh"));
    assert!(folder.path().join("fresh/last.safetensors").exists(), "auto begins a run where there is none");
}

/// Starts a long run in `run` and waits until its first epoch is done.
fn long_run(folder: &Path) -> Child {
    let line = format!("{TINY} --epochs 100000 --out run");
    let mut child = command(folder, &line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut first).unwrap();
    assert!(first.starts_with("epoch 1/100000 "), "{first:?}");
    child
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_a_checkpoint_and_a_used_folder_is_refused() {
    let folder = tempdir().unwrap();
    let child = long_run(folder.path());
    let process = child.id().to_string();
    fails(folder.path(), &format!("{TINY} --out run"), 1, &["run: ", "already holds a run", "--out"]);
    fails(folder.path(), "train --resume auto --out run", 1, &["run: ", "in use", &process]);
    assert!(std::process::Command::new("kill").args(["-INT", &process]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("continue with: dsr train --resume auto --out run"), "{stderr}");
    let output = dsr(folder.path(), "train --resume auto --out run --stop-after-steps 1");
    assert!(text(&output.stderr).contains("stopped in epoch "), "{}", text(&output.stderr));
    assert!(!folder.path().join("run/lock").exists(), "the folder is free again");
}

#[cfg(unix)]
#[test]
fn a_closed_reader_does_not_stop_the_training() {
    let folder = tempdir().unwrap();
    let mut child = command(folder.path(), &format!("{TINY} --out run")).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(folder.path().join("run/last.safetensors").exists());
}

#[test]
fn wrong_lines_say_what_is_wrong() {
    let folder = tempdir().unwrap();
    fs::write(folder.path().join("typo.toml"), "learning_rate = 0.1\n").unwrap();
    let cases: [(&str, i32, &[&str]); 21] = [
        ("train --nonsense", 2, &["--nonsense"]),
        ("train --time-steps 0", 2, &["time-steps", "0", "1..=255"]),
        ("train --timesteps 256", 2, &["time-steps", "256"]),
        ("train -T two", 2, &["two"]),
        ("train -d digits-8x8 --train-batch 1438", 2, &["batch", "1438", "1437"]),
        ("train -b 0", 2, &["batch"]),
        ("train --lr -1", 2, &["lr", "-1"]),
        ("train --Vth 0", 2, &["vth"]),
        ("train --weight-decay nan", 2, &["weight-decay"]),
        ("train --widths 4,8 --blocks 1", 2, &["widths", "[4, 8]", "[1]"]),
        ("train -d cifar11", 2, &["cifar11", "fashion-mnist-3k"]),
        ("train --model preact-resnet19", 2, &["preact-resnet19", "preact-resnet18"]),
        ("train --recipe cifar10", 2, &["cifar10", "cifar10-lif"]),
        ("train --widths 4,x", 2, &["4,x"]),
        ("train --betas 0.9", 2, &["betas", "0.9,0.999"]),
        ("train --neuron izhikevich", 2, &["izhikevich"]),
        ("train --config typo.toml", 2, &["typo.toml", "learning_rate"]),
        ("train --config absent.toml", 1, &["absent.toml"]),
        ("train --device cuda", 1, &["cuda", "--device cpu"]),
        ("train --threads 0", 2, &["threads"]),
        ("eval", 2, &["--checkpoint"]),
    ];
    for (line, code, words) in cases {
        fails(folder.path(), line, code, words);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "a wrong line leaves nothing behind");
}

/// A CIFAR-10 folder of two records a file, with the bytes of one file replaced.
fn cifar(folder: &Path, name: &str, replaced: &str, bytes: &[u8]) {
    let data = folder.join(name);
    fs::create_dir(&data).unwrap();
    let files = ["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin", "test_batch.bin"];
    for file in files {
        fs::write(data.join(file), if file == replaced { bytes } else { &[1; 2 * 3073] }).unwrap();
    }
    fs::write(data.join("batches.meta.txt"), "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n").unwrap();
}

#[test]
fn broken_data_is_named() {
    let folder = tempdir().unwrap();
    cifar(folder.path(), "short", "data_batch_3.bin", &[1; 3073 + 100]);
    let mut label = vec![1; 2 * 3073];
    label[3073] = 12;
    cifar(folder.path(), "label", "test_batch.bin", &label);
    let line = "train -d cifar10 --widths 4 --blocks 1 -T 1 -b 2 --epochs 1";
    fails(folder.path(), &format!("{line} --data-dir absent"), 1, &["absent"]);
    fails(folder.path(), &format!("{line} --data-dir short"), 1, &["data_batch_3.bin", "3073"]);
    fails(folder.path(), &format!("{line} --data-dir label"), 1, &["test_batch.bin", "12"]);
    assert!(!folder.path().join("runs").exists(), "broken data leaves no run folder behind");
}

#[test]
fn broken_checkpoints_are_named() {
    let folder = trained();
    let good = fs::read(folder.path().join("run/last.safetensors")).unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
    write("cut.safetensors", &good[..good.len() - 10]);
    write("header.safetensors", &good[..100]);
    write("empty.safetensors", b"");
    write("text.safetensors", b"this is no checkpoint at all");
    let version = b"\"version\":\"1\"";
    let at = good.windows(version.len()).position(|window| window == version).unwrap();
    let mut later = good.clone();
    later[at + version.len() - 2] = b'9';
    write("later.safetensors", &later);
    let mut nan = good.clone();
    let end = nan.len();
    nan[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    write("flipped.safetensors", &nan);
    // As a program writes it that knows no checksum.
    let checksum = b"\"crc32c\"";
    let at = good.windows(checksum.len()).position(|window| window == checksum).unwrap();
    nan[at + 1] = b'C';
    write("nan.safetensors", &nan);
    let cases = [
        ("cut.safetensors", "cut off"),
        ("header.safetensors", "cut off"),
        ("empty.safetensors", "empty"),
        ("text.safetensors", "not a safetensors file"),
        ("later.safetensors", "later dsr"),
        ("flipped.safetensors", "its checksum is another one"),
        ("nan.safetensors", "NaN"),
        ("absent.safetensors", "no such checkpoint"),
    ];
    for (name, words) in cases {
        for line in ["eval --checkpoint", "train --out new --resume", &format!("{TINY} --out new --init-from")] {
            if name != "nan.safetensors" || line.starts_with("train --out") {
                fails(folder.path(), &format!("{line} {name}"), 1, &[name, words]);
            }
        }
    }
    fails(folder.path(), "eval --checkpoint run --widths 4,4", 1, &["run/best.safetensors", "another network"]);
    fails(folder.path(), &format!("{TINY} --widths 8,8 --init-from run/best.safetensors"), 1, &["run/best.safetensors", "another network"]);
    assert_eq!(fs::read(folder.path().join("run/last.safetensors")).unwrap(), good);
}

#[test]
fn a_loss_that_is_no_number_stops_the_run() {
    let folder = trained();
    let new = folder.path().join("new");
    // Statistics overflow a step before weights and loss do. The run has taken no step to keep: another may begin in its place.
    let words = ["not finite at step 2", "the running statistics of layer1.0.bn1", "--lr", "last good checkpoint", "new/last.safetensors"];
    fails(folder.path(), &format!("{TINY} --out new --lr 1e30"), 1, &words);
    assert!(!new.join("metrics.csv").exists());
    ok(folder.path(), &format!("{TINY} --out new"));

    // Parameters that overflow in the next step: the checkpoint before it stays, and is named.
    let run = folder.path().join("run/last.safetensors");
    let good = fs::read(&run).unwrap();
    let header = u64::from_le_bytes(*good.first_chunk().unwrap()) as usize;
    let (head, data) = good.split_at(8 + header);
    let tensors = safetensors::SafeTensors::deserialize(&good).unwrap();
    let momentum = tensors.tensor("optimizer.first/conv1.weight").unwrap().data();
    let start = momentum.as_ptr() as usize - data.as_ptr() as usize;
    let mut huge = data.to_vec();
    huge[start..start + 4].copy_from_slice(&f32::MAX.to_le_bytes());
    huge[start + 4..start + 8].copy_from_slice(&f32::MIN.to_le_bytes());
    // Changed on purpose, so without its checksum.
    let head = String::from_utf8(head[8..].to_vec()).unwrap().replace("\"crc32c\"", "\"CRC32C\"");
    let bytes = [&good[..8], head.as_bytes(), &huge].concat();
    fs::write(&run, &bytes).unwrap();
    fails(folder.path(), "train --resume auto --out run --epochs 5", 1, &["not finite", "last good checkpoint", "run/last.safetensors"]);
    // It knows now that the run is to have five epochs.
    assert!(fs::read(&run).unwrap().ends_with(&huge));
}

/// A file-size limit stands in for a full disk: the write fails half-way, as it does there.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_costs_nothing_that_was_there() {
    let folder = tempdir().unwrap();
    ok(folder.path(), &format!("{TINY} --widths 16,32 --out run"));
    let run = folder.path().join("run");
    let files = |run: &Path| ["last.safetensors", "best.safetensors"].map(|name| fs::read(run.join(name)).unwrap());
    let before = files(&run);
    let limit = 64; // blocks of 512 bytes: more than the records of an epoch, less than a checkpoint
    assert!(before[0].len() > 2 * 512 * limit, "{} bytes", before[0].len());
    let binary: PathBuf = cargo_bin("dsr");
    let script = format!("trap '' XFSZ; ulimit -f {limit}; exec '{}' train --resume auto --out run --epochs 2", binary.display());
    let output = std::process::Command::new("sh").arg("-c").arg(script).current_dir(folder.path()).output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.lines().any(|line| line.starts_with("error: ") && line.contains("safetensors") && line.contains("unchanged")),
        "{stderr}"
    );
    assert!(files(&run) == before, "the old checkpoints are as they were");
    assert!(fs::read_dir(&run).unwrap().all(|e| !e.unwrap().file_name().to_string_lossy().contains("tmp")), "no half-written file is left");
    let stdout = ok(folder.path(), "train --resume auto --out run --epochs 2");
    assert!(stdout.starts_with("epoch 2/2 "), "{stdout}");
}

#[test]
fn info_lists_what_there_is() {
    let folder = tempdir().unwrap();
    let info = json(&ok(folder.path(), "info --output json"));
    let has = |key: &str, name: &str| info[key].as_array().unwrap().iter().any(|v| v == name);
    assert!(has("datasets", "fashion-mnist-3k") && has("models", "preact-resnet18") && has("recipes", "cifar10-lif-t5"), "{info}");
    assert!(has("instruction_sets", info["instruction_set"].as_str().unwrap()), "{info}");
    let text = ok(folder.path(), "info");
    assert!(text.contains("instruction set") && text.contains("digits-8x8"), "{text}");
    assert!(ok(folder.path(), "--version").starts_with("dsr "));
    assert!(ok(folder.path(), "train --help").contains("--resume"));
}
