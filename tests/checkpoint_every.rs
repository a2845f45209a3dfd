//! `--checkpoint-every`: a run that is killed within an epoch goes on from there to the bytes of one that nobody touched, on the real
//! binary. The same under mpirun is in `tests/ranks.rs`.
//!
//! The kill comes when a checkpoint is about to take its name, or has just taken it, by `support/faults.c`.
#![cfg(target_os = "linux")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use assert_cmd::cargo::cargo_bin;
use tempfile::{TempDir, tempdir};

#[path = "support/streamed_sets.rs"]
mod streamed_sets;
use streamed_sets::{photos, recordings};

/// 15 steps an epoch, two of which end at steps that are no multiple of 4.
const HELD: &str = "train -d digits-8x8 --widths 4,8 --blocks 1,1 -T 2 --epochs 2 -b 100 --warmup 0 --threads 1 --device cpu";
const EVENTS: &str = "train -d dvs-cifar10 --data-dir events --event-size 16 --widths 4,8 --blocks 1,1 -T 4 --epochs 2 -b 4 --device cpu";
const PHOTOS: &str =
    "train -d imagenet --data-dir photos --image-size 24 --image-resize 28 --widths 4,8 --blocks 1,1 -T 2 --epochs 2 -b 4 --device cpu";

/// The library that breaks calls.
static FAULTS: LazyLock<(TempDir, PathBuf)> = LazyLock::new(|| {
    let folder = tempdir().unwrap();
    let library = folder.path().join("faults.so");
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "g++".into());
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/faults.c");
    let mut command = Command::new(&compiler);
    command.args(["-x", "c", "-O1", "-shared", "-fPIC", "-o"]).args([&library, Path::new(source)]);
    assert!(command.status().unwrap().success(), "{compiler} compiles {source}");
    (folder, library)
});

fn dsr(folder: &Path, line: &str, fault: Option<&str>) -> Output {
    let mut command = Command::new(cargo_bin("dsr"));
    command.current_dir(folder).args(line.split_whitespace()).env("LD_LIBRARY_PATH", emulator::directory());
    if let Some(fault) = fault {
        command.env("LD_PRELOAD", &FAULTS.1).env("FAULT_FOLDER", folder.join("run")).env("FAULT", fault);
    }
    command.output().unwrap()
}

#[track_caller]
fn ok(folder: &Path, line: &str) -> String {
    let output = dsr(folder, line, None);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "dsr {line}: {stderr}");
    stderr
}

/// What a run leaves: both checkpoints, and the records without the times in them.
fn left(run: &Path) -> Vec<Vec<u8>> {
    let checkpoints = ["last.safetensors", "best.safetensors"].map(|name| fs::read(run.join(name)).unwrap());
    let csv = fs::read_to_string(run.join("metrics.csv")).unwrap();
    let records = csv.lines().map(|line| line.split(',').take(9).collect::<Vec<_>>().join(",").into_bytes());
    checkpoints.into_iter().chain(records).collect()
}

/// Step of its epoch, and of the run, at which the last checkpoint stands.
fn stands(run: &Path) -> (usize, u64) {
    let progress = dsr::checkpoint::progress(&run.join("last.safetensors")).unwrap();
    (progress.step, progress.iteration)
}

/// Kills `line` before each of some files takes its name, and lets it go on; at least once it then stands within an epoch.
#[track_caller]
fn goes_on_from(folder: &Path, line: &str, every: usize, renames: std::ops::RangeInclusive<usize>) {
    ok(folder, &format!("{line} --out whole -q"));
    let whole = left(&folder.join("whole"));
    let mut stood = Vec::new();
    for rename in renames {
        let output = dsr(folder, &format!("{line} --out run --checkpoint-every {every} -q"), Some(&format!("rename:{rename}:kill")));
        assert_eq!(output.status.code(), None, "{rename}: was not killed: {}", String::from_utf8_lossy(&output.stderr));
        stood.push(stands(&folder.join("run")));
        let device = &line[line.find("--device").unwrap()..];
        ok(folder, &format!("train --resume auto --out run --checkpoint-every {every} -q {device}"));
        assert!(left(&folder.join("run")) == whole, "{line}, rename {rename}, from {:?}: other bytes", stood.last());
        fs::remove_dir_all(folder.join("run")).unwrap();
    }
    fs::remove_dir_all(folder.join("whole")).unwrap();
    assert!(stood.iter().any(|(step, _)| *step > 0), "{line}: {stood:?} has no step within an epoch");
    assert!(stood.iter().all(|(step, iteration)| *step == 0 || iteration.is_multiple_of(every as u64)), "{line}: {stood:?}");
}

/// A checkpoint is a file that is renamed: the first one is of step 0, and behind config.toml come those of steps 4, 8 and so on (a file
/// of losses may come between them). Momentum, moments, averages, dropout and crops all go on from the middle of an epoch.
#[test]
fn a_held_set_in_mid_epoch() {
    let folder = tempdir().unwrap();
    let flags = "--ema 0.9 --optimizer adamw --lr 0.002 --dropout 0.1 --crop-pad 1 --flip";
    goes_on_from(folder.path(), &HELD.replace("--device", &format!("{flags} --device")), 4, 3..=6);
    goes_on_from(folder.path(), &HELD.replace("--device", "--neuron lif --val-share 0.1 --device"), 13, 5..=5);
}

#[test]
fn streamed_sets_in_mid_epoch() {
    let folder = tempdir().unwrap();
    recordings(&folder.path().join("events"), &[0, 1, 900]);
    photos(&folder.path().join("photos"));
    goes_on_from(folder.path(), EVENTS, 2, 4..=5);
    goes_on_from(folder.path(), PHOTOS, 1, 5..=5);
}

/// The host's parameters are fetched while the device has the next batch already.
#[test]
fn a_device_in_mid_epoch() {
    let folder = tempdir().unwrap();
    let line = "train -d digits-8x8 --widths 4 --blocks 1 -T 2 -b 256 --epochs 1 --crop-pad 1 --device cuda";
    goes_on_from(folder.path(), line, 2, 5..=5);
}

/// Another number of steps, or none, is the same run.
#[test]
fn checkpoints_change_no_bit() {
    let folder = tempdir().unwrap();
    let bytes = |flags: &str| {
        ok(folder.path(), &format!("{HELD} --epochs 1 --out run -q {flags}"));
        let left = left(&folder.path().join("run"));
        fs::remove_dir_all(folder.path().join("run")).unwrap();
        left
    };
    let expected = bytes("");
    for flags in ["--checkpoint-every 1", "--checkpoint-every 15", "--checkpoint-every 100"] {
        assert!(bytes(flags) == expected, "{flags}");
    }
    let refused = dsr(folder.path(), &format!("{HELD} --checkpoint-every 0"), None);
    let stderr = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("give a number from 1 to "), "{stderr}");
}

/// A value that is no number ends the run in its step; what was saved is of a step before.
#[test]
fn a_step_that_broke_off_is_not_saved() {
    let folder = tempdir().unwrap();
    let line = format!("{HELD} --lr 1e30 --epochs 1 --threshold-init fixed --checkpoint-every 1 --out run");
    let output = dsr(folder.path(), &line, None);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let (_, saved) = stands(&folder.path().join("run"));
    let broken: u64 =
        stderr.split("step ").filter_map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()).last().unwrap();
    assert!(saved < broken, "step {saved} is saved, {broken} broke off: {stderr}");
    // It is whole: a resume comes to the same step.
    let again = dsr(folder.path(), "train --resume auto --out run --device cpu", None);
    assert!(String::from_utf8(again.stderr).unwrap().contains(&format!("step {broken}")), "another step broke off");
}
