//! Warnings about layers that carry nothing, as a user meets them: the real binary, tiny networks, real digits.

use std::fs;
use std::path::Path;
use std::process::Command;

use assert_cmd::cargo::cargo_bin;
use serde_json::Value;
use tempfile::tempdir;

/// A network that runs in a fraction of a second and hardly moves: its layers stay as their thresholds make them.
const TINY: &str = "train -d digits-8x8 --widths 4,8 --blocks 1,1 -T 2 --epochs 2 --lr 1e-6 --readout spikes";

/// Runs a line that must succeed: the warnings on stderr, and the records of its epochs.
fn train(folder: &Path, line: &str) -> (Vec<String>, Vec<Value>) {
    let output = Command::new(cargo_bin("dsr")).current_dir(folder).args(line.split_whitespace()).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "dsr {line}: {stderr}");
    let warnings = stderr.lines().filter(|line| line.starts_with("warning: ")).map(String::from).collect();
    let records = fs::read_to_string(folder.join("run/metrics.jsonl")).unwrap();
    (warnings, records.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

/// LIF neurons that forget most of a sample are named before training begins; nothing is said of settings like the paper's.
#[test]
fn neurons_that_forget_the_first_steps_are_named() {
    let folder = tempdir().unwrap();
    let cases = [
        ("if -T 8", None),
        ("lif -T 20 --delta-t 0.15", None), // three tau
        ("lif -T 20 --delta-t 0.25", Some("20 steps of delta-t 0.25 last 5.0 tau")),
        ("lif -T 20 --delta-t 0.25", Some("--delta-t 0.05, with thresholds in proportion")),
        ("lif -T 30 --delta-t 0.002 --tau 0.01", Some("--delta-t 0.00033, with thresholds")),
        ("lif -T 20 --delta-t 0.25 --tau 5", None),
    ];
    for (n, (neuron, expected)) in cases.into_iter().enumerate() {
        let line = format!("train -d digits-8x8 --widths 4 --blocks 1 --epochs 1 --out run{n} --neuron {neuron}");
        let output = Command::new(cargo_bin("dsr")).current_dir(folder.path()).args(line.split_whitespace()).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "dsr {line}: {stderr}");
        assert!(expected.map_or(!stderr.contains(" tau, so neurons"), |note| stderr.contains(note)), "dsr {line}: {stderr}");
    }
}

#[test]
fn a_layer_that_carries_nothing_is_named_once_an_epoch() {
    // Flags, the layers in question, their state, and what the line says to change.
    let cases: [(&str, &[&str], &str, &str); 6] = [
        ("", &[], "", ""),
        (
            "--vth 1000 --vth-pooled 1 --vth-logits 1",
            &["layer1.0.relu2", "layer2.0.relu1"],
            "silent",
            "lower --vth (the threshold is 1000.0",
        ),
        ("--vth-pooled 50", &["relu2"], "silent", "lower --vth-pooled"),
        ("--vth-logits 50", &["relu3"], "silent", "lower --vth-logits"),
        ("--vth 0.5 --vth-pooled 0.01", &["relu2"], "saturated", "raise --vth-pooled"),
        ("--vth-bound 1000 --threshold-init auto", &["layer1.0.relu2"], "silent", "at the bound, lower --vth-bound"),
    ];
    for (flags, layers, state, advice) in cases {
        let folder = tempdir().unwrap();
        let (warnings, records) = train(folder.path(), &format!("{TINY} {flags} --out run"));
        assert_eq!(records.len(), 2);
        if layers.is_empty() {
            assert!(warnings.is_empty() && records.iter().all(|record| record["warnings"].is_null()), "{warnings:?}");
        }
        let events = records.iter().filter_map(|record| record["warnings"].as_array());
        assert_eq!(events.map(Vec::len).sum::<usize>(), warnings.len(), "{flags}: one line an event: {warnings:?}");
        for layer in layers {
            for (record, epoch) in records.iter().zip(1..) {
                let start = format!("warning: epoch {epoch}: layer {layer} is {state} (firing rate ");
                let lines: Vec<&String> = warnings.iter().filter(|line| line.starts_with(&start)).collect();
                assert_eq!(lines.len(), 1, "{flags}: {start:?} in {warnings:?}");
                assert!(lines[0].contains(advice), "{flags}: {lines:?}");
                let event = record["warnings"].as_array().unwrap().iter().find(|event| event["layer"] == **layer).unwrap();
                assert_eq!(event["state"], state, "{flags}");
            }
        }
        // What a warning is about is in the record of every epoch, for every layer.
        for record in &records {
            let layers = record["layers"].as_array().unwrap();
            assert_eq!(layers.len(), 7);
            for layer in layers {
                let [threshold, rate] = ["threshold", "firing_rate"].map(|key| layer[key].as_f64().unwrap());
                let is_silent = rate < 0.001;
                let warned = record["warnings"].as_array().is_some_and(|all| all.iter().any(|w| w["layer"] == layer["name"]));
                assert!(threshold > 0.0 && warned == (is_silent || rate > 0.95), "{flags}: {layer}");
            }
        }
        let table = fs::read_to_string(folder.path().join("run/metrics.csv")).unwrap();
        assert!(table.starts_with("epoch,") && !table.contains("relu"), "{table}");
    }
}

/// A stop in the middle of an epoch and another number of threads change nothing in the records but times.
#[test]
fn records_of_layers_survive_a_stop() {
    let folder = tempdir().unwrap();
    let records = |line: &str| {
        let (_, mut records) = train(folder.path(), line);
        for record in &mut records {
            for time in ["seconds", "images_per_second"] {
                record.as_object_mut().unwrap().remove(time);
            }
        }
        fs::remove_dir_all(folder.path().join("run")).unwrap();
        records
    };
    let flags = format!("{TINY} --vth-pooled 50 --out run");
    let whole = records(&format!("{flags} --threads 1"));
    let stopped = Command::new(cargo_bin("dsr"))
        .current_dir(folder.path())
        .args(format!("{flags} --stop-after-steps 50").split_whitespace())
        .output()
        .unwrap();
    assert_eq!(stopped.status.code(), Some(1));
    assert_eq!(records("train --resume auto --out run"), whole);
}
