//! Runs a case in a process of its own, so that settings of the environment and broken contexts stay there.

use std::process::Command;

/// What the environment calls the case of a child: a kind, and its name.
const KIND: &str = "STANDIN_TEST_KIND";
const CASE: &str = "STANDIN_TEST_CASE";

pub const FAULT: &str = "fault";
pub const CALL: &str = "call";
pub const HOPPER: &str = "hopper";
pub const DEPENDENT: &str = "dependent";

/// What a child has printed.
pub struct Outcome {
    pub stdout: String,
    pub stderr: String,
    pub status: Option<i32>,
}

/// The case that this process should run, if it is a child.
pub fn own_case() -> Option<(&'static str, String)> {
    let kind = std::env::var(KIND).ok()?;
    let known = [FAULT, CALL, HOPPER, DEPENDENT].into_iter().find(|known| *known == kind)?;
    Some((known, std::env::var(CASE).ok()?))
}

/// Runs the test `in_child` of this test binary again, with a case and more environment.
pub fn run_child(kind: &str, case: &str, environment: &[(&str, &str)]) -> Outcome {
    let binary = std::env::current_exe().unwrap();
    let output = Command::new(binary)
        .args(["--exact", "in_child", "--nocapture", "--test-threads=1"])
        .env(KIND, kind)
        .env(CASE, case)
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    Outcome {
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        status: output.status.code(),
    }
}

impl Outcome {
    /// What follows `key=` in a line of the output.
    pub fn value(&self, key: &str) -> &str {
        let found = self.stdout.lines().find_map(|line| line.split(&format!("{key}=")).nth(1));
        found.unwrap_or_else(|| panic!("no {key}= in\n{}\n{}", self.stdout, self.stderr)).trim()
    }
}
