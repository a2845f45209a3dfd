//! What may be done around an update, on the real binary: an average of the parameters, bounded gradients, thresholds that stay, what
//! decays. A stopped run ends with the bytes of one that was not, on the CPU and on a device.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use assert_cmd::cargo::cargo_bin;
use safetensors::SafeTensors;
use serde_json::Value;
use tempfile::tempdir;

const RUN: &str = "train -d digits-8x8 --widths 4 --blocks 1 -T 2 --epochs 2 -b 256 --threads 1 -q";
const AIDS: &str = "--optimizer adamw --lr 0.01 --wd 0.05 --decay-on weights --clip-norm 0.5 --ema 0.9 --freeze-thresholds";

/// Runs the real binary, on the driver stand-in where the line asks for a device.
fn dsr(folder: &Path, line: &str) -> Output {
    let mut command = Command::new(cargo_bin("dsr"));
    if line.contains("--device cuda") {
        command.env("LD_LIBRARY_PATH", emulator::directory());
    }
    command.current_dir(folder).args(line.split_whitespace()).output().unwrap()
}

/// Stdout and stderr of a line that must succeed.
fn ok(folder: &Path, line: &str) -> (String, String) {
    let output = dsr(folder, line);
    let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert_eq!(output.status.code(), Some(0), "dsr {line}: {stderr}");
    (stdout, stderr)
}

fn bytes(at: &Path, run: &str) -> Vec<u8> {
    fs::read(at.join(run).join("last.safetensors")).unwrap()
}

fn floats(tensors: &SafeTensors, name: &str) -> Vec<f32> {
    tensors.tensor(name).unwrap().data().as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
}

#[test]
fn a_stopped_run_with_all_aids_ends_with_the_same_bytes() {
    let folder = tempdir().unwrap();
    let at = folder.path();
    for (device, stops) in [("cpu", &[3, 6, 8][..]), ("cuda", &[7])] {
        ok(at, &format!("{RUN} {AIDS} --device {device} --out whole-{device}"));
        for stop in stops {
            let line = format!("{RUN} {AIDS} --device {device} --stop-after-steps {stop} --out part-{device}-{stop}");
            assert_eq!(dsr(at, &line).status.code(), Some(1));
            ok(at, &format!("train --resume auto --out part-{device}-{stop} --device {device} -q"));
            assert!(bytes(at, &format!("part-{device}-{stop}")) == bytes(at, &format!("whole-{device}")), "{device}, stopped after {stop}");
        }
    }
}

#[test]
fn thresholds_stay_and_the_average_can_be_measured_and_exported() {
    let folder = tempdir().unwrap();
    let at = folder.path();
    let (stdout, stderr) = ok(at, &format!("{} {AIDS} --out run", RUN.replace(" -q", "")));
    assert!(stdout.contains(" ema ") && stdout.contains("of the averaged weights"), "{stdout}{stderr}");
    let data = bytes(at, "run");
    let tensors = SafeTensors::deserialize(&data).unwrap();
    let config = fs::read_to_string(at.join("run/config.toml")).unwrap();
    let vth = |key: &str| config.lines().find_map(|line| line.strip_prefix(&format!("{key} = "))?.parse::<f32>().ok());
    for name in tensors.names().iter().filter(|name| name.ends_with(".Vth") && !name.starts_with("optimizer.")) {
        let value = floats(&tensors, name)[0];
        assert!([vth("vth"), vth("vth_pooled"), vth("vth_logits")].contains(&Some(value)), "{name}: {value}");
        assert!((floats(&tensors, &format!("optimizer.average/{name}"))[0] / value - 1.0).abs() < 1e-6, "{name}");
    }
    assert_ne!(floats(&tensors, "linear.weight"), floats(&tensors, "optimizer.average/linear.weight"));
    let epochs = fs::read_to_string(at.join("run/metrics.jsonl")).unwrap();
    let last: Value = serde_json::from_str(epochs.lines().last().unwrap()).unwrap();
    let last_file = "--checkpoint run/last.safetensors";
    let eval = |flags: &str| {
        serde_json::from_str::<Value>(&ok(at, &format!("eval {last_file} {flags} --output json")).0).unwrap()["results"][0]["top1"].clone()
    };
    assert_eq!((eval(""), eval("--ema")), (last["test_accuracy"].clone(), last["ema_test_accuracy"].clone()));
    assert!(ok(at, &format!("eval {last_file} --ema --device cpu")).0.contains("last.safetensors, averaged weights:"));
    // What is exported is that average, too.
    ok(at, &format!("export {last_file} --ema --out averaged.safetensors"));
    let exported = fs::read(at.join("averaged.safetensors")).unwrap();
    let exported = SafeTensors::deserialize(&exported).unwrap();
    assert_eq!(floats(&exported, "linear.bias"), floats(&tensors, "optimizer.average/linear.bias"));
}

#[test]
fn an_average_that_is_not_there_is_named() {
    let folder = tempdir().unwrap();
    let at = folder.path();
    ok(at, &format!("{} --out run", RUN.replace("--epochs 2", "--epochs 1")));
    for command in ["eval --checkpoint run --ema", "export --checkpoint run --ema"] {
        let output = dsr(at, command);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("best.safetensors") && stderr.contains("holds no average of its weights"), "{stderr}");
    }
}

#[test]
fn values_that_no_run_can_have_are_refused() {
    let folder = tempdir().unwrap();
    for (flags, expected) in [
        ("--ema 1", "ema: 1 is not in 0 < ema < 1"),
        ("--ema 0.99999999", "ema: 0.99999999 is not in"),
        ("--clip-norm -1", "clip-norm: -1 is not a positive number"),
        ("--clip-norm inf", "clip-norm: inf is not a positive number"),
        ("--decay-on none", "decay-on"),
    ] {
        let output = dsr(folder.path(), &format!("{RUN} {flags}"));
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() != Some(0) && stderr.contains(expected), "{flags}: {stderr}");
    }
}

/// Another share, bound or choice is another run.
#[test]
fn a_resumed_run_keeps_its_aids() {
    let folder = tempdir().unwrap();
    let at = folder.path();
    assert_eq!(dsr(at, &format!("{RUN} {AIDS} --stop-after-steps 3 --out run")).status.code(), Some(1));
    for (flag, name) in [
        ("--ema 0.5", "ema 0.9"),
        ("--clip-norm 1", "clip-norm 0.5"),
        ("--freeze-thresholds=false", "freeze-thresholds true"),
        ("--decay-on all", "decay-on"),
    ] {
        let output = dsr(at, &format!("train --resume auto --out run {flag} -q"));
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && stderr.contains(name), "{flag}: {stderr}");
    }
}
