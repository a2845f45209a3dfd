//! Several processes under mpirun, with the real binary: the same checkpoints on any number of them, and what happens when one of them is
//! other than the rest, dies, stands still, or is told to stop.
//!
//! Needs `--features mpi` and an mpirun: `cargo nextest run --features mpi --test ranks`.
#![cfg(target_os = "linux")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;
use tempfile::tempdir;

#[path = "support/streamed_sets.rs"]
mod streamed_sets;

/// 15 steps an epoch, the last of them of 37 images: eight slices of 13 are then three, and of eight ranks five have nothing.
const TINY: &str =
    "train --device cpu -d digits-8x8 --widths 4 --blocks 1 -T 2 --epochs 2 -b 100 --slices 8 --threads 1 --warmup 0 --threshold-init auto";

/// mpirun with what makes it run anywhere, root and few cores included; `groups` are numbers of ranks, each with its command.
fn mpirun(folder: &Path, groups: &[(usize, Vec<String>)]) -> Command {
    let mut command = Command::new("mpirun");
    command.current_dir(folder).args(["--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "--quiet"]);
    // Containers often forbid one process to read another's memory.
    command.env("OMPI_MCA_btl_vader_single_copy_mechanism", "none").env("OMPI_MCA_rmaps_base_oversubscribe", "1");
    for (at, (ranks, words)) in groups.iter().enumerate() {
        command.args((at > 0).then_some(":")).args(["-n", &ranks.to_string()]).args(words);
    }
    command
}

fn words(line: &str) -> Vec<String> {
    let program = cargo_bin("dsr").to_str().unwrap().to_string();
    std::iter::once(program).chain(line.split_whitespace().map(String::from)).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn on_ranks(folder: &Path, ranks: usize, line: &str) -> Output {
    mpirun(folder, &[(ranks, words(line))]).output().expect("mpirun is installed")
}

/// Both checkpoints of a run that has to come to its end.
#[track_caller]
fn trained(ranks: usize, line: &str) -> [Vec<u8>; 2] {
    let folder = tempdir().unwrap();
    let output = on_ranks(folder.path(), ranks, &format!("{line} --out run"));
    assert_eq!(output.status.code(), Some(0), "{ranks} ranks, {line}: {}", text(&output.stderr));
    checkpoints(&folder.path().join("run"))
}

fn checkpoints(run: &Path) -> [Vec<u8>; 2] {
    ["last.safetensors", "best.safetensors"].map(|name| fs::read(run.join(name)).unwrap())
}

#[track_caller]
fn same_on(ranks: &[usize], line: &str) {
    let expected = trained(1, line);
    for &ranks in ranks {
        assert!(trained(ranks, line) == expected, "{ranks} ranks, {line}: other bytes");
    }
}

#[test]
fn if_neurons_on_any_number_of_ranks() {
    same_on(&[2, 3, 4, 8], TINY);
}

#[test]
fn lif_neurons_8_bits_and_dropout() {
    same_on(&[2, 3], &format!("{TINY} --epochs 1 --neuron lif --weight-bits 8 --dropout 0.1"));
}

#[test]
fn unrolled_gradients_adam_and_a_bounded_norm() {
    same_on(&[3, 8], &format!("{TINY} --epochs 1 --weight-gradient unrolled --optimizer adam --lr 0.002 --clip-norm 1 --ema 0.9"));
}

#[test]
fn an_ann_and_a_validation_split() {
    let ann = TINY.replace("-T 2", "").replace("--threshold-init auto", "--neuron relu --val-share 0.1 --epochs 1 --crop-pad 1 --flip");
    same_on(&[2, 4], &ann);
}

#[test]
fn norms_of_slices_and_mixed_samples() {
    same_on(&[2, 3, 8], &format!("{TINY} --epochs 1 --sync-batch-norm slice --dropout 0.1"));
    same_on(&[3, 4], &format!("{TINY} --epochs 1 --mixup 0.4 --label-smoothing 0.1 --crop-pad 1"));
}

/// Sets that are read from disk, each rank its own samples: T frames, and norms below norms.
#[test]
fn event_frames_and_inner_norms() {
    let folder = tempdir().unwrap();
    streamed_sets::recordings(&folder.path().join("events"), &[0, 900]);
    streamed_sets::photos(&folder.path().join("photos"));
    let line = "train --epochs 1 -b 6 --slices 3 --threads 1 --warmup 0 -T 2 --crop-pad 0";
    let data = |name: &str| folder.path().join(name).display().to_string();
    same_on(&[2, 3], &format!("{line} -d dvs-cifar10 --data-dir {} --event-size 32 --model vgg11", data("events")));
    let photos = format!("{line} -d imagenet --data-dir {} --image-size 32 --image-resize 36 --model imagenet-resnet18", data("photos"));
    same_on(&[2, 3], &photos);
}

#[test]
fn ranks_change_in_mid_run() {
    let expected = trained(1, TINY);
    let folder = tempdir().unwrap();
    let stopped = |ranks: usize, line: &str| {
        let output = on_ranks(folder.path(), ranks, line);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    };
    stopped(4, &format!("{TINY} --out run --stop-after-steps 7"));
    stopped(3, "train --resume auto --out run --threads 1 --stop-after-steps 11");
    let output = on_ranks(folder.path(), 2, "train --resume auto --out run --threads 1");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(checkpoints(&folder.path().join("run")) == expected);
}

/// What each rank says: rank 0 as one process does, the others nothing.
#[test]
fn rank_0_speaks_for_all() {
    let folder = tempdir().unwrap();
    let output = on_ranks(folder.path(), 3, &format!("{TINY} --epochs 1 --out run --output json"));
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert_eq!(stdout.lines().count(), 1, "{stdout}");
    let result: serde_json::Value = serde_json::from_str(stdout.trim()).unwrap();
    assert_eq!(result["ranks"], 3);
    assert_eq!(stderr.matches("epoch 1/1").count(), 1, "{stderr}");
    assert_eq!(stderr.matches("3 processes share each batch, in 8 slices").count(), 1, "{stderr}");
    assert!(!stderr.contains("rank "), "{stderr}");
    // Another run with -v: the others are heard, with their number.
    let output = on_ranks(folder.path(), 2, &format!("{TINY} --epochs 1 --out other -v"));
    let stderr = text(&output.stderr);
    assert!(stderr.contains("rank 1: "), "{stderr}");
    assert!(stderr.lines().any(|line| line.starts_with("a step took ")), "{stderr}");
}

/// A command that differs on the last rank, and what is said of it.
#[track_caller]
fn differs(groups: &[(usize, Vec<String>)], expected: &str) {
    let folder = tempdir().unwrap();
    let output = mpirun(folder.path(), groups).output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains(expected), "{expected:?} is missing in {stderr}");
    assert_eq!(stderr.matches("error:").count(), 1, "{stderr}");
    assert!(!folder.path().join("run/last.safetensors").exists(), "nothing is written before ranks agree");
}

#[test]
fn a_rank_with_another_setting_program_or_data_is_told() {
    let line = format!("{TINY} --out run");
    differs(&[(2, words(&line)), (1, words(&format!("{line} --lr 0.25")))], "lr is 0.1 on rank 0 and 0.25 on rank 2");
    differs(&[(1, words(&line)), (1, words(&format!("{line} --slices 4")))], "slices is 8 on rank 0 and 4 on rank 1");
    let every = |steps: usize| words(&format!("{line} --checkpoint-every {steps}"));
    differs(&[(1, every(5)), (1, every(6))], "checkpoint-every is 5 on rank 0 and 6 on rank 1");
    // A program that is longer by a byte does the same, but who knows.
    let folder = tempdir().unwrap();
    let other = folder.path().join("dsr");
    let mut bytes = fs::read(cargo_bin("dsr")).unwrap();
    bytes.push(0);
    fs::write(&other, bytes).unwrap();
    fs::set_permissions(&other, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut changed = words(&line);
    changed[0] = other.to_str().unwrap().into();
    differs(&[(1, words(&line)), (1, changed)], "the checksum of the program is ");
    // The same set by name, one label of which is another.
    for (name, label) in [("a", 0u8), ("b", 1)] {
        let data = folder.path().join(name);
        fs::create_dir(&data).unwrap();
        for (prefix, images) in [("train", 60_000u32), ("t10k", 10_000)] {
            let labels: Vec<u8> = (0..images).map(|i| if i == 7 { label } else { (i % 10) as u8 }).collect();
            let header =
                |magic: u32, sizes: &[u32]| [&[magic][..], sizes].concat().iter().flat_map(|v| v.to_be_bytes()).collect::<Vec<u8>>();
            let pixels = vec![9u8; images as usize * 28 * 28];
            fs::write(data.join(format!("{prefix}-images-idx3-ubyte")), [header(0x803, &[images, 28, 28]), pixels].concat()).unwrap();
            fs::write(data.join(format!("{prefix}-labels-idx1-ubyte")), [header(0x801, &[images]), labels].concat()).unwrap();
        }
    }
    let line = |name| format!("{} --data-dir {}", line.replace("digits-8x8", "mnist"), folder.path().join(name).display());
    differs(&[(1, words(&line("a"))), (1, words(&line("b")))], "the data is mnist [28, 28, 1] (60000 images, CRC-32C ");
    // Pictures of the same names and labels, whose normalisation is given.
    for (name, shade) in [("c/set", 7u8), ("d/set", 8)] {
        for (part, class) in [("train", "x"), ("train", "y"), ("val", "x"), ("val", "y")] {
            let folder = folder.path().join(name).join(part).join(class);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("1.ppm"), [&b"P6 8 8 255\n"[..], &[shade; 192]].concat()).unwrap();
        }
    }
    let given = TINY
        .replace("digits-8x8", "images --image-size 8 --mean 0.5,0.5,0.5 --std 0.2,0.2,0.2")
        .replace("-b 100 --slices 8", "-b 2 --slices 2");
    let line = |name| format!("{given} --out run --data-dir {}", folder.path().join(name).display());
    differs(
        &[(1, words(&line("c/set"))), (1, words(&line("d/set")))],
        "the data is images [8, 8, 3] (2 samples, of which labels and some values have CRC-32C ",
    );
}

#[test]
fn more_ranks_than_slices_and_a_foreign_launcher_are_refused() {
    let folder = tempdir().unwrap();
    let output = on_ranks(folder.path(), 3, &format!("{} --out run", TINY.replace("--slices 8", "--slices 2")));
    let stderr = text(&output.stderr);
    assert_ne!(output.status.code(), Some(0), "{stderr}");
    assert!(stderr.contains("error: slices: 2: 3 processes need at least 3 slices; set --slices 3, or start fewer"), "{stderr}");
    // torchrun's variables, and MPI knows nothing of them: this would be as many runs of one rank.
    let mut command = Command::new(cargo_bin("dsr"));
    command.current_dir(folder.path()).args(words(TINY).drain(1..)).envs([("RANK", "1"), ("WORLD_SIZE", "2")]);
    let output = command.output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("torchrun has started 2 processes, this one as rank 1, but MPI sees 1"), "{stderr}");
}

/// What a launcher says is compared with what MPI sees, and who is missing is not waited for without an end.
#[test]
fn a_missing_rank_and_one_that_comes_twice_are_told() {
    let folder = tempdir().unwrap();
    let line = format!("{TINY} --out run");
    let with = |variable: &str| [vec!["env".to_string(), variable.to_string()], words(&line)].concat();
    let says = |groups: &[(usize, Vec<String>)], expected: &str| {
        let output = mpirun(folder.path(), groups).output().unwrap();
        let stderr = text(&output.stderr);
        assert_ne!(output.status.code(), Some(0), "{stderr}");
        assert!(stderr.contains(expected), "{expected:?} is missing in {stderr}");
        assert!(!folder.path().join("run").exists(), "nothing is written");
    };
    says(&[(2, with("OMPI_COMM_WORLD_SIZE=3"))], "mpirun has started 3 processes, this one as rank 0, but MPI sees 2, this one as rank 0");
    says(
        &[(1, words(&line)), (1, with("OMPI_COMM_WORLD_RANK=0"))],
        "mpirun has started 2 processes, this one as rank 0, but MPI sees 2, this one as rank 1",
    );
    let sleeps = vec!["sleep".to_string(), "300".to_string()];
    let begin = Instant::now();
    says(
        &[(2, words(&format!("{line} --rank-timeout 3"))), (1, sleeps)],
        "of the 3 processes that mpirun has started, not all have come within 3 s (--rank-timeout)",
    );
    assert!(begin.elapsed() < Duration::from_secs(120), "the sleeper is ended with the rest");
}

/// A run of many epochs on some ranks, in a folder of its own.
struct Long {
    folder: tempfile::TempDir,
    mpirun: Option<Child>,
}

impl Long {
    /// Started, and at work for at least one epoch.
    fn begin(ranks: usize, flags: &str) -> Long {
        let folder = tempdir().unwrap();
        let line = format!("{TINY} --epochs 1000 --out run {flags}");
        let mut command = mpirun(folder.path(), &[(ranks, words(&line))]);
        let mpirun = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut long = Long { folder, mpirun: Some(mpirun) };
        let csv = long.folder.path().join("run/metrics.csv");
        long.wait_until("a first epoch", || csv.exists());
        long
    }

    fn wait_until(&mut self, what: &str, is_so: impl Fn() -> bool) {
        let begin = Instant::now();
        while !is_so() {
            let ended = self.mpirun.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none() && begin.elapsed() < Duration::from_secs(120), "no {what}: {ended:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The process of a rank: the one of this number that works in this folder.
    fn process(&self, rank: usize) -> PathBuf {
        let (folder, wanted) = (self.folder.path().canonicalize().unwrap(), format!("OMPI_COMM_WORLD_RANK={rank}"));
        let is_it = |process: &PathBuf| {
            let environment = fs::read(process.join("environ")).unwrap_or_default();
            fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd == folder)
                && environment.split(|&byte| byte == 0).any(|variable| variable == wanted.as_bytes())
        };
        fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path()).find(is_it).expect("the rank runs")
    }

    fn signal(&self, rank: usize, signal: i32) {
        let number: i32 = self.process(rank).file_name().unwrap().to_str().unwrap().parse().unwrap();
        // SAFETY: a signal to a process that this test has started.
        assert_eq!(unsafe { libc::kill(number, signal) }, 0);
    }

    /// How it ends.
    fn end(&mut self) -> Output {
        self.mpirun.take().unwrap().wait_with_output().unwrap()
    }

    /// Goes on for some steps, on another number of ranks, to the bytes of a run that nobody has touched.
    fn goes_on(&self, ranks: usize) {
        let last = |run: &str| self.folder.path().join(run).join("last.safetensors");
        let done = dsr::checkpoint::progress(&last("run")).unwrap().iteration;
        let stopped = |ranks: usize, line: &str| {
            let output = on_ranks(self.folder.path(), ranks, line);
            assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
        };
        stopped(ranks, "train --resume auto --out run --threads 1 --stop-after-steps 25");
        stopped(1, &format!("{TINY} --epochs 1000 --out whole --stop-after-steps {}", done + 25));
        assert!(fs::read(last("run")).unwrap() == fs::read(last("whole")).unwrap(), "other bytes after {done} steps and 25");
    }
}

#[test]
fn a_rank_that_is_killed_ends_all_and_the_run_goes_on_with_fewer() {
    let mut long = Long::begin(3, "");
    long.signal(2, libc::SIGKILL);
    assert_ne!(long.end().status.code(), Some(0));
    long.goes_on(2);
}

/// Checkpoints every few steps: from the middle of an epoch, on another number of ranks.
#[test]
fn a_rank_is_killed_in_mid_epoch() {
    let folder = tempdir().unwrap();
    let line = format!("{TINY} -b 10 --epochs 40 --checkpoint-every 4");
    let mut mpirun = mpirun(folder.path(), &[(3, words(&format!("{line} --out run")))]).stderr(Stdio::null()).spawn().unwrap();
    let last = |run: &str| folder.path().join(run).join("last.safetensors");
    let begin = Instant::now();
    while dsr::checkpoint::progress(&last("run")).map_or(0, |progress| progress.step) < 8 {
        assert!(begin.elapsed() < Duration::from_secs(120), "no checkpoint in mid-epoch");
        std::thread::sleep(Duration::from_millis(5));
    }
    let long = Long { folder, mpirun: None };
    long.signal(2, libc::SIGKILL);
    assert_ne!(mpirun.wait().unwrap().code(), Some(0));
    let last = |run: &str| long.folder.path().join(run).join("last.safetensors");
    let stands = dsr::checkpoint::progress(&last("run")).unwrap();
    assert!(stands.step > 0 && stands.iteration.is_multiple_of(4), "within the epoch: {} of {}", stands.step, stands.iteration);
    for (ranks, line) in [
        (2, "train --resume auto --out run --threads 1 --stop-after-steps 9".to_string()),
        (1, format!("{line} --out whole --stop-after-steps {}", stands.iteration + 9)),
    ] {
        let output = on_ranks(long.folder.path(), ranks, &line);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    }
    assert!(fs::read(last("run")).unwrap() == fs::read(last("whole")).unwrap(), "other bytes from step {}", stands.iteration);
}

#[test]
fn a_rank_that_stands_still_is_named() {
    let mut long = Long::begin(2, "--rank-timeout 3");
    long.signal(1, libc::SIGSTOP);
    let stopped = long.process(1);
    let output = long.end();
    let stderr = text(&output.stderr);
    assert_ne!(output.status.code(), Some(0), "{stderr}");
    assert!(stderr.contains("error: rank 0: rank 1 has not answered for 3 s (--rank-timeout); this rank waits in '"), "{stderr}");
    assert!(stderr.contains("the last that came from rank 1 was '"), "{stderr}");
    assert!(!stopped.join("environ").exists() || fs::read(stopped.join("environ")).unwrap_or_default().is_empty(), "it is still there");
}

#[test]
fn a_signal_to_any_rank_stops_all_with_a_checkpoint() {
    let mut long = Long::begin(3, "");
    long.signal(2, libc::SIGTERM);
    let output = long.end();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(stderr.matches("stopped in epoch ").count(), 1, "{stderr}");
    assert!(!stderr.contains("error:"), "{stderr}");
    long.goes_on(1);
}

#[test]
fn an_error_of_rank_0_ends_all() {
    let folder = tempdir().unwrap();
    // A folder that holds something else is found by rank 0 alone.
    fs::create_dir(folder.path().join("run")).unwrap();
    fs::write(folder.path().join("run/letter.txt"), "dear").unwrap();
    let output = on_ranks(folder.path(), 2, &format!("{TINY} --out run"));
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(stderr.matches("error:").count(), 1, "{stderr}");
    assert!(stderr.contains("run: holds letter.txt"), "{stderr}");
}

#[test]
fn a_full_disk_of_rank_0_ends_all() {
    let folder = tempdir().unwrap();
    let library = folder.path().join("faults.so");
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "g++".into());
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/faults.c");
    let mut command = Command::new(&compiler);
    assert!(command.args(["-x", "c", "-O1", "-shared", "-fPIC", "-o"]).args([&library, Path::new(source)]).status().unwrap().success());
    let run = folder.path().join("run");
    // From the twentieth write on: the run has begun.
    let mut first = vec!["env".to_string(), format!("LD_PRELOAD={}", library.display()), format!("FAULT=write:20:{}+", libc::ENOSPC)];
    first.push(format!("FAULT_FOLDER={}", run.display()));
    first.extend(words(&format!("{TINY} --epochs 1000 --out run")));
    let output = mpirun(folder.path(), &[(1, first), (1, words(&format!("{TINY} --epochs 1000 --out run")))]).output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(stderr.matches("error:").count(), 1, "{stderr}");
    assert!(
        stderr.contains("error: run/last.safetensors: the disk is full")
            || stderr.contains("error: run/best.safetensors: the disk is full"),
        "{stderr}"
    );
    assert!(run.join("last.safetensors").exists(), "the checkpoint before stays");
}
