//! Lines of the real binary for tests of data sets: what they say, and how they end.

use std::path::Path;
use std::process::Command;

use assert_cmd::cargo::cargo_bin;
use serde_json::Value;

/// The real binary on a line in a folder, with the stand-in of the driver at hand.
pub fn command(folder: &Path, line: &str) -> Command {
    let mut command = Command::new(cargo_bin("dsr"));
    command.current_dir(folder).args(line.split_whitespace()).env("LD_LIBRARY_PATH", emulator::directory());
    command
}

/// Exit code, stdout and stderr.
pub fn dsr(folder: &Path, line: &str) -> (i32, String, String) {
    let output = command(folder, line).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

#[track_caller]
pub fn ok(folder: &Path, line: &str) -> (String, String) {
    let (code, stdout, stderr) = dsr(folder, line);
    assert_eq!(code, 0, "dsr {line}: {stderr}");
    (stdout, stderr)
}

pub fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

pub fn in_one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
