//! The build and machine that a measurement comes from, and the memory of this process.

use std::fs;
use std::thread::available_parallelism;

use serde::Serialize;

use crate::device::Isa;

/// What every measurement states beside its numbers.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Version of this crate.
    pub version: &'static str,
    /// Commit it was built from, with `-dirty` if files were changed: as git said, or the variable `DSR_COMMIT` of the build.
    pub commit: Option<&'static str>,
    /// Version of the compiler.
    pub rustc: &'static str,
    /// `release` or `debug`.
    pub build: &'static str,
    /// Architecture and operating system.
    pub target: String,
    /// Name of the processor; its architecture where the system does not tell.
    pub cpu: String,
    /// Instruction set of the inner loops.
    pub isa: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Threads that the work is shared among.
    pub threads: usize,
    /// Tasks of the whole system that wanted to run, the mean of the last minute: near 0 on a quiet machine that has just begun to
    /// measure. `None` where the system does not tell.
    pub load: Option<f64>,
}

/// This build on this machine.
pub fn machine() -> Machine {
    Machine {
        version: env!("CARGO_PKG_VERSION"),
        commit: option_env!("DSR_BUILT_FROM"),
        rustc: env!("DSR_RUSTC"),
        build: if cfg!(debug_assertions) { "debug" } else { "release" },
        target: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
        cpu: cpu_name().unwrap_or_else(|| std::env::consts::ARCH.into()),
        isa: format!("{:?}", Isa::detect()).to_lowercase(),
        cores: available_parallelism().map_or(1, usize::from),
        threads: rayon::current_num_threads(),
        load: load(),
    }
}

fn cpu_name() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let name = text.lines().find_map(|line| line.strip_prefix("model name"))?;
    Some(name.trim_start_matches([' ', '\t', ':']).trim_end().into())
}

fn load() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
}

/// Most memory that this process has had at once since its start or [`forget_peak_rss`], bytes; `None` where the system does not tell.
pub fn peak_rss() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(peak.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// Makes [`peak_rss`] begin anew. A system that cannot do this goes on counting from the start of the process.
pub fn forget_peak_rss() {
    let _ = fs::write("/proc/self/clear_refs", "5");
}
