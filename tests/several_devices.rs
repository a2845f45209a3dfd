//! `dsr train --devices` as a user runs it: the real binary, which starts one process a device, on stand-ins of the driver and of NCCL.
#![cfg(target_os = "linux")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;
use tempfile::{TempDir, tempdir};

/// Three steps an epoch, the last of them of 237 images: of four slices of 150 two are there, one of them short.
const TINY: &str =
    "train -d digits-8x8 --widths 4 --blocks 1 -T 2 --epochs 1 -b 600 --slices 4 --threads 1 --warmup 0 --threshold-init auto";

fn dsr(folder: &Path, line: &str) -> Command {
    let mut command = Command::new(cargo_bin("dsr"));
    let path = std::env::join_paths([emulator::directory(), emulator::nccl_directory()]).unwrap();
    command.current_dir(folder).args(line.split_whitespace()).env("LD_LIBRARY_PATH", path);
    command.envs([("DSR_STANDIN_DEVICES", "4"), ("DSR_STANDIN_THREADS", "1")]).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn ended(folder: &Path, line: &str, code: i32) -> String {
    let output = dsr(folder, line).output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{line}: {stderr}");
    assert!(!stderr.contains("dsr stand-in:") && !stderr.contains("panicked"), "{line}: {stderr}");
    stderr
}

fn checkpoints(run: &Path) -> [Vec<u8>; 2] {
    ["last.safetensors", "best.safetensors"].map(|name| fs::read(run.join(name)).unwrap())
}

/// Both checkpoints of a run that has to come to its end.
#[track_caller]
fn trained(devices: &str, line: &str) -> [Vec<u8>; 2] {
    let folder = tempdir().unwrap();
    ended(folder.path(), &format!("{line} --out run -q --devices {devices}"), 0);
    checkpoints(&folder.path().join("run"))
}

#[track_caller]
fn same_on(devices: &[&str], line: &str) {
    let expected = trained("cuda:0", line);
    for devices in devices {
        assert!(trained(devices, line) == expected, "{devices}, {line}: other bytes");
    }
}

/// Whether a process has ended; one that nobody has waited for yet has no command line any more.
fn is_gone(process: &Path) -> bool {
    fs::read(process.join("cmdline")).unwrap_or_default().is_empty()
}

#[test]
fn if_neurons_on_any_number_of_devices() {
    same_on(&["cuda:0,1", "cuda:3,1,2", "all"], TINY);
}

#[test]
fn lif_neurons_8_bits_and_dropout() {
    same_on(&["cuda:0-1", "cuda:0-3"], &format!("{TINY} --neuron lif --weight-bits 8 --dropout 0.1"));
}

#[test]
fn unrolled_gradients_adam_and_a_bounded_norm() {
    same_on(&["cuda:0-2"], &format!("{TINY} --weight-gradient unrolled --optimizer adam --lr 0.002 --clip-norm 1 --ema 0.9"));
}

#[test]
fn an_ann_and_a_validation_split() {
    let ann = TINY.replace("-T 2", "").replace("--threshold-init auto", "--neuron relu --val-share 0.1 --crop-pad 1 --flip");
    same_on(&["cuda:0,1", "all"], &ann);
}

/// A sample and its partner may be with two devices, and of the last batch some have none.
#[test]
fn mixed_samples_and_smoothed_targets() {
    same_on(&["cuda:0,1", "all"], &format!("{TINY} --mixup 0.4 --cutout 3 --label-smoothing 0.1"));
}

#[test]
fn devices_change_in_mid_run() {
    let line = TINY.replace("--epochs 1", "--epochs 2");
    let expected = trained("cuda:0", &line);
    let folder = tempdir().unwrap();
    let stderr = ended(folder.path(), &format!("{line} --out run --devices all --stop-after-steps 2"), 1);
    assert!(stderr.contains("4 processes share each batch, in 4 slices"), "{stderr}");
    assert_eq!(stderr.matches("stopped in epoch 1 after step 2 of 3").count(), 1, "{stderr}");
    ended(folder.path(), "train --resume auto --out run --threads 1 --devices cuda:0,1 --stop-after-steps 2", 1);
    ended(folder.path(), "train --resume auto --out run --threads 1 --device cuda:2", 0);
    assert!(checkpoints(&folder.path().join("run")) == expected, "other bytes");
}

/// A run of many epochs, in a folder of its own.
struct Long {
    folder: TempDir,
    first: Option<Child>,
}

impl Long {
    /// Started, and at work for at least one epoch.
    fn begin(flags: &str) -> Long {
        let folder = tempdir().unwrap();
        let first = dsr(folder.path(), &format!("{TINY} --epochs 1000 --out run {flags}")).spawn().unwrap();
        let mut long = Long { folder, first: Some(first) };
        let (begin, csv) = (Instant::now(), long.folder.path().join("run/metrics.csv"));
        while !csv.exists() {
            if let Some(ended) = long.first.as_mut().unwrap().try_wait().unwrap() {
                panic!("no first epoch: {ended}: {}", text(&long.end().stderr));
            }
            assert!(begin.elapsed() < Duration::from_secs(240), "no first epoch");
            std::thread::sleep(Duration::from_millis(20));
        }
        long
    }

    /// The process of a rank: the one with this flag that works in this folder.
    fn process(&self, flag: &str) -> PathBuf {
        let folder = self.folder.path().canonicalize().unwrap();
        let is_it = |process: &PathBuf| {
            let line = fs::read(process.join("cmdline")).unwrap_or_default();
            fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd == folder)
                && line.split(|&byte| byte == 0).any(|word| word == flag.as_bytes())
        };
        fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path()).find(is_it).expect("the process runs")
    }

    fn signal(&self, process: &Path, signal: i32) {
        let number: i32 = process.file_name().unwrap().to_str().unwrap().parse().unwrap();
        // SAFETY: a signal to a process that this test has started.
        assert_eq!(unsafe { libc::kill(number, signal) }, 0);
    }

    fn end(&mut self) -> Output {
        self.first.take().unwrap().wait_with_output().unwrap()
    }

    /// Goes on for two steps, on another number of devices, to the bytes of a run that nobody has touched.
    fn goes_on(&self, devices: &str) {
        let last = |run: &str| self.folder.path().join(run).join("last.safetensors");
        let done = dsr::checkpoint::progress(&last("run")).unwrap().iteration;
        ended(self.folder.path(), &format!("train --resume auto --out run --threads 1 --stop-after-steps 2 --devices {devices}"), 1);
        let whole = format!("{TINY} --epochs 1000 --out whole --device cuda --stop-after-steps {}", done + 2);
        ended(self.folder.path(), &whole, 1);
        assert!(fs::read(last("run")).unwrap() == fs::read(last("whole")).unwrap(), "other bytes after {done} steps and 2");
    }
}

#[test]
fn a_rank_that_is_killed_is_named_and_ends_all() {
    let mut long = Long::begin("--devices cuda:0-2");
    let (killed, other) = (long.process("2/3"), long.process("1/3"));
    long.signal(&killed, libc::SIGKILL);
    let output = long.end();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let expected =
        "error: rank 2: cuda:2 was killed (signal 9), and the other processes were ended; --resume auto goes on from the last checkpoint";
    assert_eq!(stderr.lines().filter(|line| line.starts_with("error: ")).collect::<Vec<_>>(), [expected], "{stderr}");
    assert!(is_gone(&other), "rank 1 is left over");
    long.goes_on("cuda:0,1");
}

#[test]
fn a_signal_to_any_process_stops_all_with_a_checkpoint() {
    for flag in ["1/2", "cuda:0,1"] {
        // The process that has started the others has their flag, and they have it no more.
        let mut long = Long::begin("--devices cuda:0,1");
        long.signal(&long.process(flag), libc::SIGTERM);
        let output = long.end();
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert_eq!(stderr.matches("stopped in epoch ").count(), 1, "{stderr}");
        assert!(!stderr.contains("error:"), "{stderr}");
        if flag == "1/2" {
            long.goes_on("cuda:0");
        }
    }
}

#[test]
fn nothing_is_left_over_when_the_first_process_is_killed() {
    let mut long = Long::begin("--devices cuda:0,1");
    let ranks = ["0/2", "1/2"].map(|rank| long.process(rank));
    long.signal(&long.process("cuda:0,1"), libc::SIGKILL);
    long.end();
    let begin = Instant::now();
    while !ranks.iter().all(|rank| is_gone(rank)) {
        assert!(begin.elapsed() < Duration::from_secs(60), "a rank is left over");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_rank_that_stands_still_ends_all() {
    let mut long = Long::begin("--devices cuda:0,1 --rank-timeout 20");
    let stopped = long.process("1/2");
    long.signal(&stopped, libc::SIGSTOP);
    let output = long.end();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(!stderr.contains("dsr stand-in:"), "{stderr}");
    let error = stderr.lines().find(|line| line.starts_with("error: ")).unwrap_or_else(|| panic!("{stderr}"));
    for word in ["error: rank 0: waits in '", "has not ended within 20.0 s: another rank did not come or stands still"] {
        assert!(error.contains(word), "{stderr}");
    }
    assert!(is_gone(&stopped), "it is still there");
}

/// As torchrun starts them: the program starts again with the place where ranks meet, and each takes the device of its number.
#[test]
fn a_launcher_starts_the_ranks() {
    let folder = tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let line = format!("{TINY} --out run -q");
    let start = |rank: &str| {
        let variables = [("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1")];
        dsr(folder.path(), &line).envs(variables).env("MASTER_PORT", (port - 1).to_string()).spawn().unwrap()
    };
    for child in [start("0"), start("1")] {
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    }
    assert!(checkpoints(&folder.path().join("run")) == trained("cuda:0", TINY), "other bytes");
    // Without an address nobody can meet.
    let output = dsr(folder.path(), TINY).envs([("RANK", "0"), ("WORLD_SIZE", "2")]).output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("error: NCCL_COMM_ID: is not set, so the 2 processes of torchrun do not know where to meet"), "{stderr}");
}

#[test]
fn what_cannot_be_is_one_line() {
    let folder = tempdir().unwrap();
    for (flags, code, expected) in [
        ("--devices cuda:0-2 --slices 2", 2, "error: slices: 2: 3 processes need at least 3 slices; set --slices 3, or start fewer"),
        ("--devices cuda:0,9", 1, "error: cuda:9: there is no such device; the driver lists 4 (dsr info)"),
        ("--devices cuda:0,1 --device cuda:0", 2, "error: device: --devices says where each process computes; leave --device out"),
        ("--devices cuda:0 --device cpu", 2, "error: device: --devices says where each process computes; leave --device out"),
    ] {
        let stderr = ended(folder.path(), &format!("{TINY} {flags}"), code);
        assert_eq!(stderr.lines().filter(|line| line.contains("error: ")).collect::<Vec<_>>(), [expected], "{flags}");
    }
    let output = dsr(folder.path(), &format!("{TINY} --devices cuda:0,1")).envs([("RANK", "0"), ("WORLD_SIZE", "2")]).output().unwrap();
    assert!(text(&output.stderr).contains("torchrun has started 2 processes, each of which would start its own"), "{output:?}");
    assert!(fs::read_dir(folder.path()).unwrap().next().is_none(), "nothing is written");
}
