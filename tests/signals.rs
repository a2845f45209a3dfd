//! Signals to commands that keep nothing: one line, exit code 1, and results that are whole as far as they were printed. `train` and `bench`
//! finish something first: `endings.rs`, `cli.rs`.
#![cfg(unix)]

#[path = "support/command.rs"]
mod command;
#[path = "support/own_sets.rs"]
mod own_sets;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use assert_cmd::cargo::cargo_bin;
use command::ok;
use tempfile::tempdir;

/// Starts a line of some seconds, sends a signal when its first line has come, and gives exit code, stdout and stderr.
fn interrupted(folder: &Path, line: &str, signal: &str, comes_on_stdout: bool) -> (Option<i32>, String, String) {
    let mut command = Command::new(cargo_bin("dsr"));
    command.current_dir(folder).args(line.split_whitespace()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let stream: Box<dyn Read> = match comes_on_stdout {
        true => Box::new(child.stdout.take().unwrap()),
        false => Box::new(child.stderr.take().unwrap()),
    };
    let (mut stream, mut seen) = (BufReader::new(stream), String::new());
    stream.read_line(&mut seen).unwrap();
    assert!(Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap().success());
    stream.read_to_string(&mut seen).unwrap();
    let output = child.wait_with_output().unwrap();
    let other = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    let (stdout, stderr) = if comes_on_stdout { (seen, other) } else { (other, seen) };
    (output.status.code(), stdout, stderr)
}

#[test]
fn a_command_that_keeps_nothing_ends_with_a_line() {
    let folder = tempdir().unwrap();
    let at = folder.path();
    ok(at, "train -d digits-8x8 --widths 32,64 --blocks 1,1 -T 1 -b 500 --epochs 1 -q --out run");
    own_sets::heap(&at.join("new"), 4);
    let classify = format!("classify {} --checkpoint run -b 1 -T 255 -q", "new ".repeat(40));
    let cases = [
        (classify.as_str(), "INT", true),
        (classify.as_str(), "HUP", true),
        ("eval --checkpoint run -b 4 -T 255 --progress-every 0", "TERM", false),
        ("profile --widths 16 --blocks 1 -T 100 -b 8 --steps 1000 --progress-every 0", "USR1", false),
    ];
    for (line, signal, comes_on_stdout) in cases {
        let (code, stdout, stderr) = interrupted(at, line, signal, comes_on_stdout);
        let last = stderr.lines().last().unwrap_or_default();
        assert_eq!((code, last), (Some(1), "stopped before the end; results that were printed are whole"), "{line}: {stdout} {stderr}");
        if comes_on_stdout {
            let is_whole = |line: &str| line.starts_with("new/") && line.ends_with(" %)");
            assert!(stdout.ends_with('\n') && stdout.lines().all(is_whole) && stdout.lines().count() < 480, "{stdout}");
            assert_eq!(stderr.lines().count(), 1, "{stderr}");
        } else {
            assert_eq!(stdout, "", "{line}");
        }
    }
}
