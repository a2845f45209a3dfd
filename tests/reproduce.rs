//! Every command of `docs/reproduce.md`, run by the real binary up to the data that are not there.

use std::process::Command;

use assert_cmd::cargo::cargo_bin;
use tempfile::tempdir;

const DOCUMENT: &str = include_str!("../docs/reproduce.md");

/// The commands of the document: whatever begins with `dsr train` and ends with its backquote or its line.
fn commands() -> Vec<&'static str> {
    let starts = DOCUMENT.match_indices("dsr train ").map(|(at, _)| &DOCUMENT[at..]);
    starts.map(|text| text.split(['`', '\n', '#']).next().unwrap_or(text).trim()).collect()
}

#[test]
fn every_command_gets_as_far_as_its_data() {
    let folder = tempdir().unwrap();
    let missing = folder.path().join("missing");
    let commands = commands();
    assert!(commands.len() >= 20, "{commands:?}");
    let mut wrong = Vec::new();
    for command in commands {
        let line = command.replace("PATH", missing.to_str().unwrap());
        let output = Command::new(cargo_bin("dsr")).current_dir(folder.path()).args(line.split_whitespace().skip(1)).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        if output.status.code() != Some(1) || !stderr.contains("missing") || !command.contains("PATH") {
            wrong.push(format!("{command}: {:?} {stderr}", output.status.code()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
