//! However a run ends, `--resume auto` takes it to the bytes of one that was not interrupted: killed or failed at any call that touches
//! its folder, told to stop at any moment, on file systems without locks.
//!
//! The calls are broken by `support/faults.c`, which is preloaded into the real binary. A sample of them is tried here;
//! `DSR_ENDINGS=all` tries every one.
#![cfg(target_os = "linux")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use assert_cmd::cargo::cargo_bin;
use rayon::prelude::*;
use tempfile::{TempDir, tempdir};

/// Two epochs of 45 steps, the second with another best checkpoint.
const TINY: &str = "train -d digits-8x8 --widths 4,8 --blocks 1,1 -T 2 --epochs 2 --threads 1";
const RESUME: &str = "train --resume auto --out run --threads 1";

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

fn dsr(folder: &Path, line: &str, environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(cargo_bin("dsr"));
    command.current_dir(folder).args(line.split_whitespace());
    if !environment.is_empty() {
        command.env("LD_PRELOAD", &FAULTS.1).env("FAULT_FOLDER", folder.join("run")).envs(environment.iter().copied());
    }
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a run leaves: both checkpoints, and the records without the times in them.
fn left(run: &Path) -> Vec<Vec<u8>> {
    let checkpoints = ["last.safetensors", "best.safetensors"].map(|name| fs::read(run.join(name)).unwrap_or_default());
    let csv = fs::read_to_string(run.join("metrics.csv")).unwrap_or_default();
    let records = csv.lines().map(|line| line.split(',').take(9).collect::<Vec<_>>().join(",").into_bytes());
    checkpoints.into_iter().chain(records).collect()
}

/// What a run leaves that nobody interrupts, and how many calls of each kind touch its folder.
static WHOLE: LazyLock<(Vec<Vec<u8>>, Vec<(&str, usize)>)> = LazyLock::new(|| {
    let mut calls = Vec::new();
    let mut whole = Vec::new();
    for call in ["open", "write", "sync", "rename", "unlink"] {
        let folder = tempdir().unwrap();
        let count = folder.path().join("count");
        let output = dsr(
            folder.path(),
            &format!("{TINY} --out run"),
            &[("FAULT", &format!("{call}:0:kill")), ("FAULT_COUNT", count.to_str().unwrap())],
        );
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        calls.push((call, fs::read_to_string(count).unwrap().trim().parse().unwrap()));
        whole = left(&folder.path().join("run"));
    }
    assert_eq!(whole.len(), 2 + 3, "two checkpoints, a header and two epochs");
    (whole, calls)
});

/// Resumes `folder`'s run until it is done, and compares.
fn assert_ends_whole(folder: &Path, what: &str) {
    // The first resume of a run of which nothing was written yet has to be told what it is.
    let line = if folder.join("run/last.safetensors").exists() { RESUME.into() } else { format!("{TINY} --resume auto --out run") };
    let output = dsr(folder, &line, &[]);
    assert_eq!(output.status.code(), Some(0), "{what}: {}", text(&output.stderr));
    assert!(left(&folder.join("run")) == WHOLE.0, "{what}: other bytes");
    let leftovers = fs::read_dir(folder.join("run")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let leftovers: Vec<String> = leftovers.filter(|name| name == "lock" || name.ends_with(".dsr-tmp")).collect();
    assert!(leftovers.is_empty(), "{what}: left {leftovers:?}");
}

/// Breaks each call in each way, or a sample of them.
fn for_each_fault(whats: &[&str], check: impl Fn(&Path, &str, i32) + Sync) {
    let all = std::env::var("DSR_ENDINGS").is_ok_and(|value| value == "all");
    let faults: Vec<String> = WHOLE
        .1
        .iter()
        .flat_map(|&(call, n)| (1..=n).map(move |at| (call, at)))
        .flat_map(|(call, at)| whats.iter().map(move |what| format!("{call}:{at}:{what}")))
        .collect();
    println!("{} faults", faults.len());
    assert!(faults.len() > 50 * whats.len(), "{} calls are few", faults.len() / whats.len());
    let step = if all { 1 } else { 5 };
    faults.par_iter().step_by(step).for_each(|fault| {
        let folder = tempdir().unwrap();
        let output = dsr(folder.path(), &format!("{TINY} --out run"), &[("FAULT", fault)]);
        assert!(!text(&output.stderr).contains("panicked"), "{fault}: {}", text(&output.stderr));
        check(folder.path(), fault, output.status.code().unwrap_or(-1));
    });
}

#[test]
fn killed_before_any_call() {
    for_each_fault(&["kill"], |folder, fault, code| {
        assert_eq!(code, -1, "{fault}: was not killed");
        assert_ends_whole(folder, fault);
    });
}

/// After a power cut, what was not synced may be gone: the contents of temporary files and of the lock.
#[test]
fn without_power_before_any_call() {
    for_each_fault(&["kill"], |folder, fault, _| {
        for entry in fs::read_dir(folder.join("run")).into_iter().flatten() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if name == "lock" || name.ends_with(".dsr-tmp") {
                fs::write(&path, "").unwrap();
            }
        }
        assert_ends_whole(folder, fault);
    });
}

/// ENOSPC, EIO and EINTR, once and from then on.
#[test]
fn failed_at_any_call() {
    for_each_fault(&["28", "5", "4", "28+", "5+"], |folder, fault, code| {
        assert!(code == 0 || code == 1, "{fault}: {code}");
        assert_ends_whole(folder, fault);
    });
}

/// A picture or an event file that cannot be written costs a note, not the run.
#[test]
fn a_run_goes_on_without_its_picture() {
    let folder = tempdir().unwrap();
    fs::create_dir_all(folder.path().join("run")).unwrap();
    let begun = dsr(folder.path(), &format!("{TINY} --out run --stop-after-steps 1"), &[]);
    assert_eq!(begun.status.code(), Some(1));
    fs::create_dir(folder.path().join("run/curves.svg")).unwrap();
    let output = dsr(folder.path(), RESUME, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("curves.svg: is a folder") && text(&output.stderr).contains("goes on without it"));
    assert!(left(&folder.path().join("run")) == WHOLE.0);
}

/// NFS refuses an exclusive lock on a file that is opened to read; other file systems have no locks at all.
#[test]
fn file_systems_without_locks() {
    for flock in ["readonly", "38", "37", "95"] {
        let folder = tempdir().unwrap();
        let environment = [("FLOCK", flock)];
        let output = dsr(folder.path(), &format!("{TINY} --out run --stop-after-steps 50"), &environment);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{flock}: {stderr}");
        assert_eq!(stderr.matches("has no locks").count(), usize::from(flock != "readonly"), "{flock}: {stderr}");
        let killed = dsr(folder.path(), RESUME, &[("FLOCK", flock), ("FAULT", "rename:1:kill")]);
        assert_eq!(killed.status.code(), None, "{flock}: {}", text(&killed.stderr));
        // Without locks only the age of the killed run's file tells; a minute has passed by now.
        let lock = fs::File::options().write(true).open(folder.path().join("run/lock")).unwrap();
        lock.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(61)).unwrap();
        let output = dsr(folder.path(), RESUME, &environment);
        assert_eq!(output.status.code(), Some(0), "{flock}: {}", text(&output.stderr));
        assert!(left(&folder.path().join("run")) == WHOLE.0, "{flock}: other bytes");
    }
}

/// Every signal of a batch system, at random moments from the first checkpoint on: the step is finished, a checkpoint is there, the
/// lock is not, and the run ends as if nobody had stopped it.
#[test]
fn told_to_stop_at_any_moment() {
    use rand::{Rng, SeedableRng};

    let all = std::env::var("DSR_ENDINGS").is_ok_and(|value| value == "all");
    let moments = if all { 50 } else { 5 };
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(3);
    let cases: Vec<(&str, u64)> = ["INT", "TERM", "HUP", "USR1"]
        .into_iter()
        .flat_map(|signal| (0..moments).map(move |_| signal))
        .map(|signal| (signal, rng.random_range(0..300)))
        .collect();
    let stopped = std::sync::atomic::AtomicUsize::new(0);
    cases.par_iter().for_each(|&(signal, wait)| {
        let folder = tempdir().unwrap();
        let run = folder.path().join("run");
        let mut child = Command::new(cargo_bin("dsr"));
        child.current_dir(folder.path()).args(TINY.split(' ')).args(["--out", "run"]).stderr(std::process::Stdio::piped());
        let child = child.stdout(std::process::Stdio::null()).spawn().unwrap();
        while !run.join("last.safetensors").exists() {
            std::thread::yield_now();
        }
        std::thread::sleep(std::time::Duration::from_millis(wait)); // the random moment
        assert!(Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        let (code, stderr) = (output.status.code(), text(&output.stderr));
        assert!(matches!(code, Some(0 | 1)), "{signal} after {wait} ms: {code:?} {stderr}");
        if code == Some(1) {
            stopped.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            assert!(stderr.contains("continue with: dsr train --resume auto --out run"), "{signal} after {wait} ms: {stderr}");
        }
        assert!(run.join("last.safetensors").exists() && !run.join("lock").exists(), "{signal} after {wait} ms");
        assert_ends_whole(folder.path(), &format!("{signal} after {wait} ms"));
    });
    println!("{} of {} stopped before their end", stopped.into_inner(), cases.len());
}

/// What nohup starts goes on when its terminal goes away.
#[test]
fn an_ignored_hang_up_stays_ignored() {
    let folder = tempdir().unwrap();
    let script = format!(
        "trap '' HUP; '{}' {TINY} --out run & sleep 0; while [ ! -e run/last.safetensors ]; do :; done; kill -HUP $!; wait $!",
        cargo_bin("dsr").display()
    );
    let output = Command::new("sh").current_dir(folder.path()).args(["-c", &script]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(left(&folder.path().join("run")) == WHOLE.0);
}

/// A limit on the size of files is an error like a full disk, not the end of the process.
#[test]
fn a_file_that_becomes_too_large_is_an_error_like_any_other() {
    let folder = tempdir().unwrap();
    let script = format!("ulimit -f 4; '{}' {TINY} --out run", cargo_bin("dsr").display());
    let output = Command::new("sh").current_dir(folder.path()).args(["-c", &script]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("ulimit -f"), "{}", text(&output.stderr));
    assert_ends_whole(folder.path(), "a small limit");
}
