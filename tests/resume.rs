//! Where a run begins and goes on, on the real binary: which folder, which settings, which checkpoint, and what is refused.

#[path = "support/command.rs"]
mod command;

use std::fs;
use std::path::Path;

use command::{dsr, ok};
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

const TINY: &str = "train -d digits-8x8 --widths 4,8 --blocks 1,1 -T 2";

/// Runs a line that must fail with `code` and one line on stderr that has all `words`.
fn fails(folder: &Path, line: &str, code: i32, words: &[&str]) {
    let output = dsr(folder, line);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "dsr {line}: {stderr}");
    let errors: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "dsr {line}: {stderr}");
    words.iter().for_each(|word| assert!(errors[0].contains(word), "dsr {line}: {word:?} is missing in {:?}", errors[0]));
}

/// Every file of a folder with its bytes, but for the lock.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let mut files: Vec<_> =
        entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap_or_default())).collect();
    files.sort();
    files
}

/// Two epochs in `run`.
fn trained() -> TempDir {
    let folder = tempdir().unwrap();
    ok(folder.path(), &format!("{TINY} --epochs 2 --seed 5 --out run"));
    folder
}

#[test]
fn nothing_of_the_users_own_is_overwritten() {
    for (name, line) in [
        ("config.toml", "--config own/config.toml --out own"),
        ("config.toml", "--out own"),
        ("curves.svg", "--out own"),
        ("thresholds.jsonl", "--out own"),
        ("notes.txt", "--out own --resume auto"),
    ] {
        let folder = tempdir().unwrap();
        let own = folder.path().join("own");
        fs::create_dir(&own).unwrap();
        fs::write(own.join(name), "lr = 0.05\n").unwrap();
        fails(folder.path(), &format!("{TINY} {line}"), 1, &["own: holds", name, "new or empty folder", "--out"]);
        assert_eq!(files(&own), [(name.to_string(), b"lr = 0.05\n".to_vec())]);
    }
}

/// A run that was killed in its first epoch goes on with its own settings, not with the defaults.
#[test]
fn the_folder_decides_what_is_trained() {
    let folder = tempdir().unwrap();
    ok(folder.path(), &format!("{TINY} --epochs 1 --lr 0.02 --threshold-init auto --out whole -q"));
    let stopped = dsr(folder.path(), &format!("{TINY} --epochs 1 --lr 0.02 --threshold-init auto --out run --stop-after-steps 1"));
    assert_eq!(stopped.status.code(), Some(1));
    fails(folder.path(), "train --resume auto --out run --momentum 0.5", 2, &["momentum 0.9 (asked for: 0.5)"]);
    ok(folder.path(), "train --resume auto --out run -q");
    let last = |run: &str| fs::read(folder.path().join(run).join("last.safetensors")).unwrap();
    assert!(last("run") == last("whole"));
}

#[test]
fn a_run_without_its_last_checkpoint_goes_on_from_its_best() {
    let folder = trained();
    let run = folder.path().join("run");
    let whole = files(&run);
    fs::remove_file(run.join("last.safetensors")).unwrap();
    let (_, stderr) = ok(folder.path(), "train --resume auto --out run");
    assert!(stderr.contains("run has no last.safetensors: going on from best.safetensors"), "{stderr}");
    let checkpoints =
        |files: &[(String, Vec<u8>)]| files.iter().filter(|file| file.0.ends_with("safetensors")).cloned().collect::<Vec<_>>();
    assert!(checkpoints(&files(&run)) == checkpoints(&whole));
    for name in ["last.safetensors", "best.safetensors"] {
        fs::remove_file(run.join(name)).unwrap();
    }
    let records = files(&run);
    let words = ["run: holds records of a run, but neither last.safetensors nor best.safetensors"];
    fails(folder.path(), "train --resume auto --out run", 1, &words);
    fails(folder.path(), &format!("{TINY} --out run"), 1, &words);
    assert!(files(&run) == records);
}

#[test]
fn a_finished_run_is_left_alone() {
    let folder = trained();
    let run = folder.path().join("run");
    let before = files(&run);
    fails(folder.path(), "train --resume auto --out run --epochs 1", 2, &["epochs: 1: the checkpoint has begun 2 already"]);
    assert!(files(&run) == before);
    for flags in ["", " --threads 1", " --cache-dir elsewhere"] {
        let (stdout, _) = ok(folder.path(), &format!("train --resume auto --out run --output json{flags}"));
        let result: Value = serde_json::from_str(stdout.trim()).unwrap();
        assert_eq!(result["checkpoint"], json!("run/last.safetensors"));
        assert!(files(&run) == before, "{flags}: nothing to do changed something");
    }
}

/// A run that goes on in another folder has both checkpoints there, and the records of all its epochs.
#[test]
fn another_folder_gets_both_checkpoints() {
    let folder = trained();
    let (stdout, _) = ok(folder.path(), "train --resume run/last.safetensors --out new --output json");
    let result: Value = serde_json::from_str(stdout.trim()).unwrap();
    for (key, name) in [("checkpoint", "last.safetensors"), ("best_checkpoint", "best.safetensors")] {
        assert_eq!(result[key], json!(format!("new/{name}")));
        assert!(
            fs::read(folder.path().join("new").join(name)).unwrap() == fs::read(folder.path().join("run").join(name)).unwrap(),
            "{name}"
        );
    }
    assert_eq!(fs::read_to_string(folder.path().join("new/metrics.csv")).unwrap().lines().count(), 3);
    // A best checkpoint of another run is none of this one; the last epoch is its best here, so that it is made anew.
    fs::create_dir(folder.path().join("mixed")).unwrap();
    ok(folder.path(), &format!("{TINY} --epochs 1 --seed 6 --out other -q"));
    fs::copy(folder.path().join("run/last.safetensors"), folder.path().join("mixed/last.safetensors")).unwrap();
    fs::copy(folder.path().join("other/best.safetensors"), folder.path().join("mixed/best.safetensors")).unwrap();
    let (stdout, _) = ok(folder.path(), "train --resume mixed/last.safetensors --out third --output json");
    let result: Value = serde_json::from_str(stdout.trim()).unwrap();
    assert_eq!(result["best_checkpoint"], "third/best.safetensors");
    let best = |run: &str| fs::read(folder.path().join(run).join("best.safetensors")).unwrap();
    assert!(best("third") == best("run"));
}

/// An epoch that was begun is not left out.
#[test]
fn fewer_epochs_than_begun_are_refused() {
    let folder = tempdir().unwrap();
    let stopped = dsr(folder.path(), &format!("{TINY} --epochs 2 --out run --stop-after-steps 50"));
    assert_eq!(stopped.status.code(), Some(1));
    let before = files(&folder.path().join("run"));
    fails(folder.path(), "train --resume auto --out run --epochs 1", 2, &["epochs: 1: the checkpoint has begun 2 already"]);
    assert!(files(&folder.path().join("run")) == before);
}

/// A checkpoint that is no run's own goes on in a folder of its own only; a run is not taken back to its best checkpoint.
#[test]
fn a_checkpoint_from_elsewhere_needs_a_folder() {
    let folder = trained();
    let (at, own) = (folder.path(), folder.path().join("own"));
    fs::create_dir(&own).unwrap();
    fs::copy(at.join("run/best.safetensors"), own.join("my.safetensors")).unwrap();
    for name in ["config.toml", "metrics.csv", "metrics.jsonl", "curves.svg", "last.safetensors", "best.safetensors"] {
        fs::write(own.join(name), "mine").unwrap();
    }
    let before = files(&own);
    for line in ["train --resume own/my.safetensors --epochs 3", "train --resume own/my.safetensors --out own --epochs 3"] {
        fails(at, line, 1, &["own/my.safetensors: is not one of the checkpoints of a run folder", "--out"]);
        assert!(files(&own) == before);
    }
    ok(at, "train --resume own/my.safetensors --epochs 3 --out new -q");

    // Its best checkpoint is older than its last one: then going on from it would lose the last.
    let steps = dsr(at, "train --resume auto --out run --epochs 9 --stop-after-steps 50");
    assert_eq!(steps.status.code(), Some(1));
    let before = files(&at.join("run"));
    fails(at, "train --resume run/best.safetensors", 1, &["is further on in last.safetensors", "--out"]);
    assert!(files(&at.join("run")) == before);
}

/// More epochs, and killed before the first of them is done: the checkpoint knows of them.
#[test]
fn what_a_resumed_run_is_to_be_is_kept() {
    let folder = trained();
    let stopped = dsr(folder.path(), "train --resume auto --out run --epochs 4 --stop-after-steps 1");
    assert_eq!(stopped.status.code(), Some(1));
    let (stdout, _) = ok(folder.path(), "train --resume auto --out run");
    assert!(stdout.contains("after 4 epochs"), "{stdout}");
}

/// Files that other commands write are no runs that have just begun, nor is a folder with somebody's files beside a checkpoint.
#[test]
fn only_a_runs_own_first_checkpoint_may_be_replaced() {
    let folder = tempdir().unwrap();
    let at = folder.path();
    ok(at, "train -d digits-8x8 --widths 4,8 --blocks 1,1 --neuron relu --epochs 1 -q --out ann");
    fs::create_dir(at.join("cal")).unwrap();
    ok(at, "calibrate --checkpoint ann --neuron if -T 2 --out cal/last.safetensors");
    let before = files(&at.join("cal"));
    fails(at, &format!("{TINY} --epochs 1 --out cal"), 1, &["cal: already holds a run"]);
    assert!(files(&at.join("cal")) == before);

    // A run that failed before its first step may be begun again, but not over a file that is not its own.
    fails(at, &format!("{TINY} --epochs 1 --lr 1e30 --out first"), 1, &["not finite"]);
    fs::write(at.join("first/notes.txt"), "mine").unwrap();
    fails(at, &format!("{TINY} --epochs 1 --out first"), 1, &["already holds a run"]);
    fs::remove_file(at.join("first/notes.txt")).unwrap();
    ok(at, &format!("{TINY} --epochs 1 --out first"));
}

/// Without --out the newest run of that name goes on, whatever folders are missing or empty beside it.
#[test]
fn the_newest_run_goes_on() {
    let folder = tempdir().unwrap();
    let at = folder.path();
    for _ in 0..3 {
        let stopped = dsr(at, &format!("{TINY} --epochs 1 --stop-after-steps 5"));
        assert_eq!(stopped.status.code(), Some(1));
    }
    let names = || {
        let mut names: Vec<String> =
            fs::read_dir(at.join("runs")).unwrap().map(|run| run.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let stem = names()[0].strip_suffix('1').unwrap().to_string();
    fs::remove_dir_all(at.join(format!("runs/{stem}1"))).unwrap();
    fs::create_dir(at.join(format!("runs/{stem}7"))).unwrap();
    let (stdout, _) = ok(at, &format!("{TINY} --epochs 1 --resume auto --output json"));
    let result: Value = serde_json::from_str(stdout.trim()).unwrap();
    assert_eq!(result["checkpoint"], json!(format!("runs/{stem}3/last.safetensors")));
    assert_eq!(names(), [2, 3, 7].map(|n| format!("{stem}{n}")));
}

/// The same line begins a run from given parameters and, later, goes on with it.
#[test]
fn a_line_with_init_from_can_be_queued_again() {
    let folder = trained();
    let line = "train -d digits-8x8 -T 2 --epochs 1 --init-from run --resume auto --out tuned";
    let stopped = dsr(folder.path(), &format!("{line} --stop-after-steps 20"));
    assert_eq!(stopped.status.code(), Some(1), "{}", String::from_utf8_lossy(&stopped.stderr));
    let (_, stderr) = ok(folder.path(), line);
    assert!(stderr.contains("continuing tuned/last.safetensors"), "{stderr}");
    fails(folder.path(), "train --resume run/last.safetensors --init-from run --out x", 2, &["init-from", "leave --init-from out"]);
}

/// A run that lost its folder stops before it writes, also if the one that took it is done and gone by then.
#[cfg(target_os = "linux")]
#[test]
fn who_lost_the_folder_writes_nothing() {
    let folder = tempdir().unwrap();
    let at = folder.path();
    let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin("dsr"));
    command.current_dir(at).args(TINY.split(' ')).args(["--epochs", "100000", "--out", "run"]);
    let loser = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    while !at.join("run/metrics.jsonl").exists() {
        std::thread::yield_now();
    }
    let signal = |name: &str| assert!(std::process::Command::new("kill").args([name, &loser.id().to_string()]).status().unwrap().success());
    signal("-STOP");
    let taken = dsr(at, "train --resume auto --out run --break-lock -q --stop-after-steps 7");
    assert_eq!(taken.status.code(), Some(1), "{}", String::from_utf8_lossy(&taken.stderr));
    assert!(!at.join("run/lock").exists(), "the winner is gone");
    let won = files(&at.join("run"));
    signal("-CONT");
    let output = loser.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("run: its lock is gone") && stderr.contains("writes nothing more"), "{stderr}");
    let kept = |files: &[(String, Vec<u8>)]| files.iter().filter(|file| !file.0.ends_with(".dsr-tmp")).cloned().collect::<Vec<_>>();
    assert!(kept(&files(&at.join("run"))) == kept(&won), "the loser wrote");
}

#[cfg(target_os = "linux")]
#[test]
fn runs_that_start_together_get_a_folder_each() {
    let folder = tempdir().unwrap();
    let start = |seed: u32| {
        let line = format!("{TINY} --epochs 1 -q --seed {seed}");
        let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin("dsr"));
        command.current_dir(folder.path()).args(line.split(' ')).stdout(std::process::Stdio::null()).spawn().unwrap()
    };
    let children: Vec<_> = (1..=4).map(start).collect();
    children.into_iter().for_each(|mut child| assert!(child.wait().unwrap().success()));
    let mut seeds: Vec<String> = fs::read_dir(folder.path().join("runs"))
        .unwrap()
        .map(|run| {
            let settings = fs::read_to_string(run.unwrap().path().join("config.toml")).unwrap();
            settings.lines().find(|line| line.starts_with("seed")).unwrap().to_string()
        })
        .collect();
    seeds.sort();
    assert_eq!(seeds, ["seed = 1", "seed = 2", "seed = 3", "seed = 4"]);
}

/// A lock of another machine is waited for until it is a minute old; `--break-lock` takes it at once, and who lost it writes no more.
#[test]
fn a_lock_of_another_machine() {
    let folder = trained();
    let lock = folder.path().join("run/lock");
    let age = |seconds: u64| {
        fs::write(&lock, "17 node-a 0000-1111 5\n").unwrap();
        let file = fs::File::options().write(true).open(&lock).unwrap();
        file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(seconds)).unwrap();
    };
    age(3600);
    ok(folder.path(), "train --resume auto --out run --epochs 3");
    age(58);
    let (_, stderr) = ok(folder.path(), "train --resume auto --out run --epochs 4");
    assert!(
        stderr.contains("has a lock of process 17 on node-a, 5") && stderr.contains("s old: waiting") && stderr.contains("--break-lock"),
        "{stderr}"
    );
    age(0);
    let (_, stderr) = ok(folder.path(), "train --resume auto --out run --epochs 5 --break-lock");
    assert!(!stderr.contains("node-a"), "{stderr}");
    assert!(!lock.exists());
}

/// What is printed is not lost in silence: a full disk is one line and exit code 1; a reader that goes away is neither.
#[cfg(target_os = "linux")]
#[test]
fn a_result_that_cannot_be_printed_is_an_error() {
    let folder = trained();
    let lines = [
        "eval --checkpoint run/last.safetensors -o json",
        "eval --checkpoint run/last.safetensors",
        "train --resume auto --out run",
        "info",
        "data info -d digits-8x8",
        "--help",
        "train --help",
    ];
    for line in lines {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin("dsr"));
        let output = command.current_dir(folder.path()).args(line.split(' ')).stdout(full).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "dsr {line}: {stderr}");
        assert_eq!(stderr.matches("error: standard output: No space left on device").count(), 1, "dsr {line}: {stderr}");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin("dsr"));
        let output = command.current_dir(folder.path()).args(line.split(' ')).stdout(writer).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "dsr {line}");
        assert!(!String::from_utf8_lossy(&output.stderr).contains("error"), "dsr {line}");
    }
}

/// The cases that are done are printed when a benchmark is told to stop.
#[cfg(target_os = "linux")]
#[test]
fn a_stopped_benchmark_prints_what_it_has() {
    use std::io::Read;
    let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin("dsr"));
    let line = "bench latency --widths 4,8 --blocks 1,1 -T 1,2,4,8,16,32,64,128 -b 1,2,4,8,16,32 --seconds 0.5 -o json";
    let mut child = command.args(line.split(' ')).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null()).spawn().unwrap();
    // It catches the signal before it measures; until then nothing has been read from the clock.
    let caught = |id: u32| {
        let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        mask.is_some_and(|mask| mask >> 14 & 1 == 1)
    };
    while !caught(child.id()) {
        std::thread::yield_now();
    }
    assert!(std::process::Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    let mut stdout = String::new();
    child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    let document: Value = serde_json::from_str(&stdout).unwrap();
    let cases = document["cases"].as_array().unwrap().len();
    assert!(cases < 48, "{cases} cases");
}

/// What names and files hold of control characters does not reach the terminal.
#[test]
fn control_characters_are_spelled_out() {
    let folder = tempdir().unwrap();
    fs::write(folder.path().join("a\u{1b}[2Jb.toml"), "lr = \"\\u001B[31m\"\n").unwrap();
    let lines: [&[&str]; 4] = [
        &["train", "--config", "a\u{1b}[2Jb.toml"],
        &["eval", "--checkpoint", "no\u{1b}[31mthing"],
        &["train", "--dataset", "x\u{9b}y"],
        &["train", "--lr", "\u{1b}]0;title\u{7}"],
    ];
    for line in lines {
        let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin("dsr"));
        let output = command.current_dir(folder.path()).args(line).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(matches!(output.status.code(), Some(1 | 2)), "{line:?}");
        assert!(!stderr.chars().any(|c| c.is_control() && c != '\n'), "{line:?}: {stderr:?}");
        // A wrong value of a flag is shown without what is no text.
        let is_shown = line[1] != "--lr";
        assert!(!is_shown || stderr.contains("\\u001b") || stderr.contains("\\u009b") || stderr.contains("\\u{"), "{line:?}: {stderr:?}");
    }
}
