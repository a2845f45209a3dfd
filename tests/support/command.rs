//! The real binary on a command line.

use std::path::Path;
use std::process::{Command, Output};

use assert_cmd::cargo::cargo_bin;

/// Runs `dsr` in a folder; words of the line are separated by spaces.
pub fn dsr(folder: &Path, line: &str) -> Output {
    Command::new(cargo_bin("dsr")).current_dir(folder).args(line.split_whitespace()).output().unwrap()
}

/// Runs a line that must succeed and gives its stdout and stderr.
pub fn ok(folder: &Path, line: &str) -> (String, String) {
    let output = dsr(folder, line);
    let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert_eq!(output.status.code(), Some(0), "dsr {line}: {stderr}");
    (stdout, stderr)
}
