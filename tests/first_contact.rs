//! `scripts/first_contact.sh` as somebody with a new card runs it: whole, on the driver stand-in, with small shapes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use assert_cmd::cargo::cargo_bin;
use tempfile::tempdir;

fn contact(out: &Path, variables: &[(&str, &str)], flags: &str) -> Output {
    contact_of(&cargo_bin("dsr"), out, variables, flags)
}

fn contact_of(program: &Path, out: &Path, variables: &[(&str, &str)], flags: &str) -> Output {
    let mut command = Command::new("scripts/first_contact.sh");
    command.args(["--small", "--binary"]).arg(program).arg("--out").arg(out).args(flags.split_whitespace());
    command.env("LD_LIBRARY_PATH", emulator::directory()).envs(variables.iter().copied()).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn every_part_passes_and_is_not_repeated() {
    let folder = tempdir().unwrap();
    let out = folder.path().join("card");
    // A card on which kernels may begin early.
    let card = [("DSR_STANDIN_CAPABILITY", "12.0")];
    let output = contact(&out, &card, "");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let parts = ["machine", "check", "latency", "throughput", "training", "early", "check-ptx", "kernels"];
    let summary = fs::read_to_string(out.join("summary.md")).unwrap();
    for part in parts {
        assert!(summary.contains(&format!("| {part} | passed | ")), "{part}: {summary}");
        assert!(out.join(part).with_extension("txt").is_file(), "{part} has no output");
    }
    for words in
        ["# First contact: dsr host stand-in", "checks passed", "are those of the CPU", "left out: no compute-sanitizer", "Small shapes"]
    {
        assert!(summary.contains(words), "{words}: {summary}");
    }
    let checks = fs::read_to_string(out.join("check.txt")).unwrap();
    assert!(checks.contains("evaluation, early launches"), "{checks}");
    // Given again it goes on: nothing is left to do.
    let again = stderr(&contact(&out, &card, ""));
    for part in parts {
        assert!(again.contains(&format!("{part}: passed before")), "{again}");
    }
    // What passed was another program: this one says what it is, and can do nothing.
    let fake = folder.path().join("another program");
    fs::write(&fake, format!("#!/bin/sh\n[ \"$1\" = info ] && exec '{}' \"$@\"\nexit 9\n", cargo_bin("dsr").display())).unwrap();
    fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).unwrap();
    let other = contact_of(&fake, &out, &[], "");
    assert_eq!(other.status.code(), Some(1), "{}", stderr(&other));
    assert!(!stderr(&other).contains("check: passed") && stderr(&other).contains("check: FAILED"), "{}", stderr(&other));
    for wrong in ["0", "1.5", "08", "x", "-5"] {
        let output = contact(&out, &[], &format!("--minutes {wrong}"));
        assert_eq!(output.status.code(), Some(2), "{wrong}: {}", stderr(&output));
    }
}

/// A part that fails is named, with what it said, and the others run all the same.
#[test]
fn a_part_that_fails_stops_nothing() {
    let folder = tempdir().unwrap();
    let kernels = emulator::test_kernels("far_loss");
    let output = contact(folder.path(), &[("DSR_STANDIN_KERNELS", kernels.to_str().unwrap())], "");
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let summary = fs::read_to_string(folder.path().join("summary.md")).unwrap();
    for row in [
        "| machine | passed ",
        "| check | FAILED ",
        "| latency | passed ",
        "| training | FAILED ",
        "| early | left out",
        "| kernels | passed ",
    ] {
        assert!(summary.contains(row), "{row}: {summary}");
    }
    let said = fs::read_to_string(folder.path().join("training.txt")).unwrap();
    assert!(said.contains("an earlier kernel failed"), "{said}");
}

#[test]
fn without_a_gpu_it_says_so() {
    let folder = tempdir().unwrap();
    let output = contact(&folder.path().join("none"), &[("DSR_STANDIN_DEVICES", "0")], "");
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("error: cuda: the CUDA driver finds no GPU"), "{}", stderr(&output));
    assert!(!folder.path().join("none").exists());
}
