//! Ranks of a test: each is a process of its own, on stand-ins of the driver and of NCCL.
//!
//! A test starts its binary again for every rank, which runs the test `in_rank`; there the case of the environment is done, and what a
//! rank has to say is printed or is its panic.

#![allow(dead_code)] // each test uses a part of it

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytemuck::Pod;
use dsr::device::nccl::{Communicator, Id};
use dsr::device::{Gpu, Memory};

use super::seeded;

const CASE: &str = "NCCL_TEST_CASE";
const RANK: &str = "NCCL_TEST_RANK";
const SIZE: &str = "NCCL_TEST_SIZE";

/// Long enough for a busy machine.
pub const PATIENT: Duration = Duration::from_secs(120);
/// For ranks that never come.
pub const IMPATIENT: Duration = Duration::from_millis(700);

/// What a rank has left.
pub struct Ended {
    pub code: Option<i32>,
    pub text: String,
}

/// A port of this machine that nobody has at the moment.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub fn library_path(folders: &[&Path]) -> std::ffi::OsString {
    std::env::join_paths(folders).unwrap()
}

pub fn start(case: &str, rank: usize, size: usize, port: u16, environment: &[(&str, &str)]) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "in_rank", "--nocapture", "--test-threads=1"])
        .envs([(CASE, case), (RANK, &rank.to_string()), (SIZE, &size.to_string())])
        .env("LD_LIBRARY_PATH", library_path(&[emulator::directory(), emulator::nccl_directory()]))
        .env("NCCL_COMM_ID", format!("127.0.0.1:{port}"))
        .envs([("DSR_STANDIN_DEVICES", "4"), ("DSR_STANDIN_THREADS", "1"), ("DSR_STANDIN_LEAKS", "1")])
        .envs(environment.iter().copied());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits for a rank, whose input ends now.
pub fn end(child: Child) -> Ended {
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    Ended { code: output.status.code(), text }
}

/// Runs all ranks of a case; those who read their input stand still until the ranks before them have ended.
pub fn run(case: &str, size: usize, environment: &[(&str, &str)]) -> Vec<Ended> {
    let port = free_port();
    let children: Vec<Child> = (0..size).map(|rank| start(case, rank, size, port, environment)).collect();
    children.into_iter().map(end).collect()
}

pub fn assert_all_pass(case: &str, size: usize, environment: &[(&str, &str)]) {
    for (rank, ended) in run(case, size, environment).iter().enumerate() {
        assert_eq!(ended.code, Some(0), "{case}, rank {rank} of {size}, {environment:?}: {}", ended.text);
        assert!(!ended.text.contains("dsr stand-in:"), "{case}, rank {rank} of {size}: {}", ended.text);
    }
}

/// What a rank did that had to fail: one line that says so.
pub fn told(ended: &Ended) -> &str {
    assert_eq!(ended.code, Some(0), "{}", ended.text);
    ended.text.lines().find_map(|line| line.strip_prefix("told: ")).unwrap_or_else(|| panic!("nothing was told: {}", ended.text))
}

pub fn assert_words(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is missing in {text:?}");
    }
}

/// This process as a rank.
pub struct Rank {
    pub gpu: Arc<Gpu>,
    pub rank: usize,
    pub size: usize,
    pub communicator: Communicator,
}

impl Rank {
    pub fn join(rank: usize, size: usize, timeout: Duration) -> dsr::Result<Rank> {
        let gpu = Gpu::open(rank)?;
        let communicator = Communicator::new(&gpu, rank, size, Id::of_environment()?, timeout)?;
        Ok(Rank { gpu, rank, size, communicator })
    }

    /// Runs collectives behind what is on the compute stream, and what comes later behind them.
    pub fn run(&self, body: impl FnOnce(&Communicator) -> dsr::Result<()>) -> dsr::Result<()> {
        self.communicator.after_compute()?;
        body(&self.communicator)?;
        self.communicator.before_compute()
    }

    /// The values of a rank; any rank can know those of another.
    pub fn values<T: Pod>(&self, rank: usize, len: usize) -> Vec<T> {
        let bytes = seeded::values(rank as u64 + 1, (len * size_of::<T>()).div_ceil(4), -1e3..1e3);
        bytemuck::pod_collect_to_vec(&bytemuck::cast_slice::<f32, u8>(&bytes)[..len * size_of::<T>()])
    }

    pub fn memory<T: Pod>(&self, values: &[T]) -> Memory<T> {
        self.gpu.memory_of(values).unwrap()
    }
}

/// The case of this process, its rank and their number; none if it is no rank.
pub fn own_case() -> Option<(String, usize, usize)> {
    let [rank, size] = [RANK, SIZE].map(|name| std::env::var(name).ok().and_then(|number| number.parse().ok()));
    Some((std::env::var(CASE).ok()?, rank?, size?))
}
