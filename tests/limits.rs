//! Numbers, files and flags that no command can work with, on the real binary: one line that says so, before anything is computed.
#![cfg(target_os = "linux")]

#[path = "support/broken_files.rs"]
mod broken_files;
#[path = "support/own_sets.rs"]
mod own_sets;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use assert_cmd::cargo::cargo_bin;
use broken_files::{TINY, checkpoint_with, hollow, pipe};
use tempfile::{TempDir, tempdir};

/// The smallest network, in flags.
const SMALL: &str = "-d digits-8x8 --widths 4 --blocks 1 -T 1 -b 300";

/// Runs `dsr` in a folder, with so many kB of addresses and half a minute of time.
fn limited(folder: &Path, addresses: &str, line: &str) -> Output {
    let script = format!("ulimit -v {addresses} && exec timeout -k 1 30 \"$0\" \"$@\"");
    Command::new("sh").args(["-c", &script]).arg(cargo_bin("dsr")).args(line.split(' ')).current_dir(folder).output().unwrap()
}

/// Runs a line that must fail with `code` and one line on stderr that has all `words`.
fn refused(folder: &Path, line: &str, code: i32, words: &[&str]) {
    check_refused(&limited(folder, "unlimited", line), line, code, words);
}

fn check_refused(output: &Output, line: &str, code: i32, words: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "dsr {line}: {stderr}");
    let errors: Vec<&str> = stderr.lines().filter(|text| text.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "dsr {line}: {stderr}");
    for word in words {
        assert!(errors[0].contains(word), "dsr {line}: {word:?} is missing in {:?}", errors[0]);
    }
    assert!(output.stdout.is_empty(), "dsr {line}: {}", String::from_utf8_lossy(&output.stdout));
}

/// Runs a line that must succeed and gives its stdout.
fn ok(folder: &Path, line: &str) -> String {
    let output = limited(folder, "unlimited", line);
    assert_eq!(output.status.code(), Some(0), "dsr {line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn folder_with(files: &[(&str, &str)]) -> TempDir {
    let folder = tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

#[test]
fn data_commands_take_their_settings_from_a_file_and_flags_win() {
    let folder = folder_with(&[
        ("digits.toml", TINY),
        ("elsewhere.toml", "dataset = 'mnist'\ndata_dir = 'nowhere'"),
        ("events.toml", "dataset = 'dvs-cifar10'\ndata_dir = '.'\nevent_size = 999"),
        ("wrong.toml", "data_set = 'digits-8x8'"),
    ]);
    let at = folder.path();
    for command in ["data info", "data verify", "data sheet", "data convert"] {
        assert!(ok(at, &format!("{command} --config digits.toml")).contains("digits-8x8"), "{command}");
        assert!(ok(at, &format!("{command} --config digits.toml -d photo-patches-10")).contains("photo-patches-10"), "{command}");
        assert!(ok(at, command).contains("fashion-mnist-3k"), "{command}");
        refused(at, &format!("{command} --config elsewhere.toml"), 1, &["nowhere"]);
        refused(at, &format!("{command} --config events.toml"), 2, &["event-size", "999"]);
        refused(at, &format!("{command} --config wrong.toml"), 2, &["wrong.toml", "data_set"]);
        refused(at, &format!("{command} --config absent.toml"), 1, &["absent.toml"]);
    }
}

#[test]
fn flags_without_an_effect_are_refused() {
    let folder = folder_with(&[("digits.toml", TINY)]);
    checkpoint_with(&folder.path().join("tiny.safetensors"), TINY);
    let cases = [
        ("info --config digits.toml", "config", "dsr info"),
        ("info --config absent.toml", "config", "dsr info"),
        ("info --seed 1", "seed", "dsr info"),
        ("info --kernels --device cuda", "device", "dsr info --kernels"),
        ("info --kernels --threads 1", "threads", "dsr info --kernels"),
        ("check --config digits.toml", "config", "dsr check"),
        ("eval --checkpoint tiny.safetensors --seed 1", "seed", "has a test split of its own"),
        ("profile --checkpoint tiny.safetensors --mode infer --seed 1", "seed", "has a test split of its own"),
        ("bench decision --checkpoint tiny.safetensors --seed 1", "seed", "has a test split of its own"),
        ("data info --seed 1", "seed", "dsr data"),
        ("data sheet --device cuda:1", "device", "dsr data"),
        ("bench data --device cuda", "device", "dsr bench data"),
    ];
    for (line, flag, command) in cases {
        refused(folder.path(), line, 2, &[&format!("error: {flag}: "), command, &format!("leave --{flag} out")]);
    }
    // The CPU is where these work, so to ask for it is right.
    ok(folder.path(), "data info --device cpu");
}

/// A setting in TOML, and how the refusal begins.
const HUGE: [(&str, &str); 10] = [
    ("epochs = 9223372036854775807", "epochs: 9223372036854775807 is not in 1..=1000000"),
    ("batch = 4611686018427387904", "batch: 4611686018427387904 is not in 1..=1048576"),
    ("warmup = 9223372036854775807", "warmup: 9223372036854775807 is above 1000000000"),
    ("crop_pad = 9223372036854775807", "crop-pad: 9223372036854775807 is above 4096"),
    ("threads = 4294967296", "threads: 4294967296 is above 1024"),
    ("widths = [4611686018427387904]\nblocks = [1]", "widths: 4611686018427387904 is not in 1..=65536"),
    ("widths = [65537]\nblocks = [1]", "widths: 65537 is not in 1..=65536"),
    ("widths = [4]\nblocks = [1000000000]", "blocks: [1000000000] are more than 1000 blocks together"),
    ("widths = [4, 4]\nblocks = [9223372036854775807, 9223372036854775807]", "blocks: "),
    ("widths = [1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]\nblocks = [1]", "widths: 17 stages: at most 16 are supported"),
];

#[test]
fn numbers_end_at_their_bounds_wherever_they_come_from() {
    let folder = tempdir().unwrap();
    let at = folder.path();
    for (setting, problem) in HUGE {
        let problem = format!("error: {problem}");
        let names: Vec<&str> = setting.lines().map(|line| line.split(" = ").next().unwrap()).collect();
        let kept: Vec<&str> = TINY.lines().filter(|line| !names.iter().any(|name| line.starts_with(name))).collect();
        let settings = format!("{}\n{setting}\n", kept.join("\n"));
        fs::write(at.join("huge.toml"), &settings).unwrap();
        checkpoint_with(&at.join("huge.safetensors"), &settings);
        let flags: Vec<String> = setting.replace([' ', '[', ']'], "").lines().map(|line| format!("--{}", line.replace('_', "-"))).collect();
        let lines = [
            format!("train -d digits-8x8 {}", flags.join(" ")),
            "train --config huge.toml".into(),
            "data info --config huge.toml".into(),
            "profile --config huge.toml".into(),
            "bench throughput --config huge.toml".into(),
        ];
        lines.iter().for_each(|line| refused(at, line, 2, &[&problem]));
        // Of a file, they are no flag of the user's.
        let problem = problem.replace("error: ", "error: huge.safetensors: has damaged metadata \"config\" (");
        let lines = [
            "eval --checkpoint huge.safetensors",
            "train --resume huge.safetensors --out new",
            "bench decision --checkpoint huge.safetensors",
        ];
        lines.iter().for_each(|line| refused(at, line, 1, &[&problem, "use another checkpoint"]));
    }
}

#[test]
fn counts_on_the_command_line_have_bounds() {
    let folder = tempdir().unwrap();
    checkpoint_with(&folder.path().join("tiny.safetensors"), TINY);
    let cases = [
        ("bench throughput --repeats", "1000001", "--repeats"),
        ("bench throughput --warmup", "10001", "--warmup"),
        ("bench latency --repeats", "18446744073709551615", "--repeats"),
        ("bench kernels --warmup", "9223372036854775807", "--warmup"),
        ("bench data --loaders", "100000", "--loaders"),
        ("bench decision --samples", "4611686018427387904", "--samples"),
        ("bench throughput -b", "4294967295", "batch"),
        ("bench latency -T", "4294967295", "time-steps"),
        ("bench latency --image", "4097x1x1", "--image"),
        ("profile --steps", "18446744073709551615", "--steps"),
        ("profile --warmup", "18446744073709551615", "--warmup"),
        ("calibrate --checkpoint tiny.safetensors --batches", "18446744073709551615", "--batches"),
        ("data sheet --per-class", "18446744073709551615", "--per-class"),
        ("info --threads", "4294967296", "threads"),
        ("check --threads", "1025", "threads"),
        ("check --seed", "18446744073709551615", "seed"),
    ];
    for (line, number, name) in cases {
        refused(folder.path(), &format!("{line} {number}"), 2, &[name, number]);
    }
    let ones = vec!["1"; 200].join(",");
    refused(folder.path(), &format!("bench latency -b {ones} -T {ones}"), 2, &["lists: ", "40000 combinations", "at most 10000"]);
    refused(folder.path(), &format!("bench data -b {ones} --loaders {ones}"), 2, &["lists: "]);
}

#[test]
fn the_largest_number_of_epochs_is_only_a_long_run() {
    let folder = tempdir().unwrap();
    // Five steps an epoch: after the first one the time that is left is said.
    let line = format!("train {SMALL} --crop-pad 1 --epochs 1000000 --stop-after-steps 6 --out run");
    let output = limited(folder.path(), "unlimited", &line);
    let [stdout, stderr] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stdout.starts_with("epoch 1/1000000 ") && stderr.contains("stopped in epoch 2 after step 1 of 5"), "{stdout} {stderr}");
}

#[test]
fn the_environment_cannot_ask_for_threads_without_end() {
    let folder = tempdir().unwrap();
    let line = format!("train -q {SMALL} --crop-pad 1 --epochs 1");
    let mut command = Command::new("timeout");
    command.args(["-k", "1", "20"]).arg(cargo_bin("dsr")).args(line.split(' ')).env("RAYON_NUM_THREADS", "4294967296");
    assert_eq!(command.current_dir(folder.path()).output().unwrap().status.code(), Some(0));
}

#[test]
fn memory_is_asked_for_before_it_is_taken() {
    let folder = tempdir().unwrap();
    let at = folder.path();
    let huge = format!("{TINY}\n").replace("[4]", "[7000, 7000]").replace("[1]", "[500, 500]");
    checkpoint_with(&at.join("huge.safetensors"), &huge);
    checkpoint_with(&at.join("ann.safetensors"), &huge.replace("time_steps = 2", "time_steps = 1\nneuron = 'relu'"));
    hollow(&at.join("hollow.safetensors"), 1 << 42);
    let words = ["error: memory: ", " needs at least ", " are free: ", "lower -b, -T or the size of the network"];
    let lines = [
        "train -d digits-8x8 --widths 7000,7000 --blocks 500,500",
        "train -d digits-8x8 --widths 7000,7000 --blocks 500,500 --neuron relu",
        "eval --checkpoint huge.safetensors",
        "calibrate --checkpoint ann.safetensors",
        "bench throughput -b 1048576 -T 255",
        "bench throughput --mode infer --model imagenet-resnet18 --image 4096x4096x3 -b 1000",
        "bench latency -b 1048576",
        "bench kernels -b 1048576 -T 255",
        "bench decision --model imagenet-resnet50 -b 1048576",
        "profile -b 1048576",
        "profile --mode infer -b 1048576 --neuron lif",
    ];
    lines.iter().for_each(|line| refused(at, line, 2, &words));
    let hollow = "eval -d digits-8x8 --checkpoint hollow.safetensors";
    refused(at, hollow, 2, &["reading hollow.safetensors needs at least 4398.0 GB", "use another checkpoint"]);

    // Within a limit of the process: what fits runs, what does not is refused instead of aborted.
    let line =
        |batch: usize| format!("bench throughput --mode train --widths 64 --blocks 1 -T 20 -b {batch} --repeats 1 --warmup 0 --threads 1");
    assert_eq!(limited(at, "1500000", &line(4)).status.code(), Some(0));
    check_refused(&limited(at, "1500000", &line(400)), &line(400), 2, &["memory: training", "needs at least", "1.5 GB are free"]);
    check_refused(&limited(at, "1500000", "info --threads 1000"), "info --threads 1000", 2, &["memory: starting 1000 threads"]);
    let threads = limited(at, "1500000", "bench data -d digits-8x8 --loaders 256 --repeats 1 --warmup 0");
    check_refused(&threads, "--loaders 256", 2, &["loaders: 256", "take fewer"]);
}

/// The samples that a trained network is shown are not read where they do not fit.
#[test]
fn memory_is_asked_for_before_samples_are_read() {
    let folder = tempdir().unwrap();
    let at = folder.path();
    for (set, tested) in [("small", 4), ("large", 20_000)] {
        fs::create_dir(at.join(set)).unwrap();
        let array = |name: &str, sizes: &[usize], values: &[u8]| {
            let file = at.join(set).join(name);
            fs::write(&file, own_sets::npy("|u1", sizes, values)).unwrap();
            let zeros = sizes.iter().product::<usize>() - values.len(); // a hole
            let length = file.metadata().unwrap().len() + zeros as u64;
            fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(length).unwrap();
        };
        array("x_train.npy", &[2, 64, 64], &[9, 7]);
        array("y_train.npy", &[2], &[0, 1]);
        array("x_test.npy", &[tested, 64, 64], &[]);
        array("y_test.npy", &[tested], &[]);
    }
    ok(at, "train -d arrays --data-dir small --widths 4 --blocks 1 -T 1 -b 2 --crop-pad 0 --epochs 1 --threads 1 -q --out run");
    for (line, needed) in [
        ("latency --checkpoint run --data-dir large -b 20000", "with batch 20000 needs at least "),
        ("decision --checkpoint run --data-dir large", "20000 images needs at least 328 MB"),
    ] {
        let line = format!("bench {line} --repeats 1 --warmup 0 --threads 1 -q");
        check_refused(&limited(at, "350000", &line), &line, 2, &["memory: ", needed, " MB are free: "]);
    }
}

#[test]
fn only_regular_files_are_read() {
    let folder = folder_with(&[("long.toml", &"lr = 0.1\n".repeat(1 << 17)), ("bytes.toml", "\u{0}")]);
    let at = folder.path();
    pipe(&at.join("pipe"));
    fs::create_dir_all(at.join("run")).unwrap();
    pipe(&at.join("run/best.safetensors"));
    checkpoint_with(&at.join("tiny.safetensors"), TINY);
    for file in ["pipe", "/dev/zero", "/dev/stdin"] {
        for line in [
            "train --config",
            "data info --config",
            "bench data --config",
            "eval --checkpoint",
            "calibrate --checkpoint",
            "profile --checkpoint",
            "bench decision --checkpoint",
            "train --resume",
            "train --init-from",
            "data info -d cifar10 --data-dir",
            "eval --checkpoint tiny.safetensors -d mnist --data-dir",
        ] {
            refused(at, &format!("{line} {file}"), 1, &[file, "is a pipe or a device"]);
        }
        let line = format!("bench latency --widths 4 --blocks 1 -T 1 --image 8x8x1 --baseline {file}");
        refused(at, &line, 1, &[file, "is a pipe or a device"]);
    }
    refused(at, "eval --checkpoint run", 1, &["run/best.safetensors", "is a pipe or a device"]);
    refused(at, "train --config run", 1, &["run: is a folder"]);
    refused(at, "train --config long.toml", 1, &["long.toml: has more than 1048576 bytes"]);
    refused(at, "train --config bytes.toml", 2, &["bytes.toml: line 1"]);
    // What the system says is not all that is said.
    let bench = "bench latency --widths 4 --blocks 1 -T 1 --image 8x8x1 --repeats 1 --warmup 0 --baseline";
    std::os::unix::fs::symlink("loop.toml", at.join("loop.toml")).unwrap();
    fs::write(at.join("latin1"), b"{\"name\": \"\xe4\"}").unwrap();
    let circle = "loop.toml: Too many levels of symbolic links (os error 40); a link leads back to itself: mend it, or name another";
    for line in ["train --config", "eval --checkpoint", bench] {
        refused(at, &format!("{line} loop.toml"), 1, &[circle]);
    }
    refused(at, &format!("{bench} /proc/self/mem"), 1, &["/proc/self/mem: Input/output error (os error 5); get it again, or name another"]);
    refused(at, &format!("{bench} latin1"), 1, &["latin1: is no JSON", "give what the same command printed with -o json"]);
    refused(at, "train --config latin1", 1, &["latin1: is no text (invalid utf-8", "save it as UTF-8, or name another file"]);
    refused(at, "train --config long.toml/x", 1, &["long.toml/x: Not a directory (os error 20); check the path"]);
}

#[test]
fn a_pipe_in_a_run_folder_keeps_nobody_waiting() {
    let folder = tempdir().unwrap();
    let at = folder.path();
    ok(at, &format!("train -q {SMALL} --crop-pad 1 --epochs 1 --out run"));
    fs::remove_file(at.join("run/metrics.jsonl")).unwrap();
    pipe(&at.join("run/metrics.jsonl"));
    refused(
        at,
        &format!("train -q {SMALL} --crop-pad 1 --epochs 2 --out run --resume auto"),
        1,
        &["metrics.jsonl", "is not a regular file"],
    );
    pipe(&at.join("run/lock"));
    refused(at, &format!("train -q {SMALL} --crop-pad 1 --epochs 3 --out run --resume auto"), 1, &["run/lock", "is a pipe"]);
}
