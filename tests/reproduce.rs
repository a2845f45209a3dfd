//! Every command of `docs/reproduce.md` that trains or calibrates, run by the real binary up to what is not there.

use std::process::Command;

use assert_cmd::cargo::cargo_bin;
use tempfile::tempdir;

const DOCUMENT: &str = include_str!("../docs/reproduce.md");

/// What begins with `start` and ends with its backquote or its line.
fn commands(start: &str) -> Vec<&'static str> {
    let starts = DOCUMENT.match_indices(start).map(|(at, _)| &DOCUMENT[at..]);
    starts.map(|text| text.split(['`', '\n', '#']).next().unwrap_or(text).trim()).collect()
}

/// Runs `commands` where no files are; each has to end by naming `missing`.
fn run_without_files(commands: &[&str], missing: &str) {
    let folder = tempdir().unwrap();
    let mut wrong = Vec::new();
    for command in commands {
        let arguments = command.split_whitespace().skip(1);
        let output = Command::new(cargo_bin("dsr")).current_dir(folder.path()).args(arguments).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        if output.status.code() != Some(1) || !stderr.contains(missing) {
            wrong.push(format!("{command}: {:?} {stderr}", output.status.code()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_training_gets_as_far_as_its_data() {
    let commands = commands("dsr train ");
    assert!(commands.len() >= 20 && commands.iter().all(|command| command.contains("--data-dir PATH")), "{commands:?}");
    let (from_ann, others): (Vec<&str>, Vec<&str>) = commands.iter().partition(|command| command.contains("--init-from"));
    run_without_files(&others, "PATH");
    assert_eq!(from_ann.len(), 1);
    run_without_files(&from_ann, "ann/calibrated.safetensors");
}

#[test]
fn calibration_gets_as_far_as_its_ann() {
    let commands = commands("dsr calibrate ");
    assert_eq!(commands.len(), 1);
    run_without_files(&commands, "ann");
}
