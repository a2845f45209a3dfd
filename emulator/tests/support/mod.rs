//! Runs a case in a process of its own, so that settings of the environment and broken contexts stay there.

use std::process::Command;

/// The name that the environment gives to a child's case.
const CASE: &str = "STANDIN_TEST_CASE";

/// What a child has printed.
pub struct Outcome {
    pub stdout: String,
    pub stderr: String,
    pub status: Option<i32>,
}

/// The case that this process should run, if it is a child.
pub fn own_case() -> Option<String> {
    std::env::var(CASE).ok()
}

/// Runs the test `in_child` of this test binary again, with a case and more environment.
pub fn run_child(case: &str, environment: &[(&str, &str)]) -> Outcome {
    let binary = std::env::current_exe().unwrap();
    let output = Command::new(binary)
        .args(["--exact", "in_child", "--nocapture", "--test-threads=1"])
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
