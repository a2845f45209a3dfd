//! A thousand command lines, drawn from all flags with good, bad, huge and odd values and broken files, on the real binary with little
//! memory: each ends in time, with an exit code of its own, and none in a panic, an abort or a signal. `DSR_LINES_SEED` draws others.
#![cfg(target_os = "linux")]

#[path = "support/broken_files.rs"]
mod broken_files;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};

use assert_cmd::cargo::cargo_bin;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const LINES: usize = 1000;
/// kB of addresses that a process gets, and seconds.
const ADDRESSES: &str = "4000000";
const SECONDS: &str = "30";

/// What a flag takes: its usual values, and whether others of a kind are tried.
#[derive(Clone, Copy)]
enum Kind {
    Switch,
    Number(&'static [&'static str]),
    Word(&'static [&'static str]),
    /// A file that is read.
    File,
    /// A path that is written.
    Out,
}
use Kind::{File, Number, Out, Switch, Word};

const STRANGE_NUMBERS: [&str; 36] = [
    "0",
    "-1",
    "+2",
    "007",
    "1,2",
    "1,,2",
    ",",
    "1.5",
    "1e9",
    "0x10",
    "nan",
    "inf",
    "-inf",
    "1e300",
    "1e-300",
    "1e38",
    "1e-38",
    "1025",
    "1048577",
    "1000001",
    "99999999999",
    "4294967295",
    "4294967296",
    "4611686018427387904",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "-9223372036854775808",
    "340282366920938463463374607431768211456",
    "",
    "x",
    "٣",
    "1 ",
    "4611686018427387904,4611686018427387904",
    "4294967296,4294967296,4294967296",
];
const STRANGE_WORDS: [&str; 9] = ["", "x", "-", "--", "all", "IF", "relu,if", "../..", "cuda:99999999999999999999"];
const FILES: [&str; 21] = [
    "good.toml",
    "good.safetensors",
    "good.json",
    "run",
    "empty",
    "bytes",
    "long",
    "folder",
    "absent",
    "pipe",
    "loop",
    "unreadable/x",
    "huge.toml",
    "wide.toml",
    "many.toml",
    "huge.safetensors",
    "deep.safetensors",
    "cut.safetensors",
    "hollow.safetensors",
    "/dev/zero",
    "/proc/self/mem",
];
const OUTS: [&str; 6] = ["out", ".", "absent/out", "", "out/", "x\u{301}"];

type Flags = &'static [(&'static str, Kind)];

const GLOBAL: Flags = &[
    ("--device", Word(&["auto", "cpu", "cuda", "cuda:0", "cuda:7"])),
    ("--threads", Number(&["1", "2", "5", "64"])),
    ("--seed", Number(&["0", "7", "9223372036854775807"])),
    ("--config", File),
    ("-q", Switch),
    ("-v", Switch),
    ("-o", Word(&["text", "json", "md", "csv"])),
];
const NETWORK: Flags = &[
    ("--dataset", Word(&["digits-8x8", "mnist", "cifar10", "dvs-cifar10", "imagenet", "images", "arrays"])),
    ("--data-dir", File),
    ("--model", Word(&["preact-resnet", "preact-resnet20", "vgg11", "imagenet-resnet18", "photo-resnet18"])),
    ("--neuron", Word(&["if", "lif", "relu"])),
    ("--widths", Number(&["4", "2,3", "33", "65537"])),
    ("--blocks", Number(&["1", "1,2"])),
    ("--vth", Number(&["1", "0.01"])),
    ("--vth-pooled", Number(&["1"])),
    ("--vth-logits", Number(&["1"])),
    ("--alpha", Number(&["0.5", "1"])),
    ("--tau", Number(&["1", "0.1"])),
    ("--delta-t", Number(&["0.05"])),
    ("--vth-bound", Number(&["0.01"])),
    ("--weight-bits", Number(&["8", "16"])),
    ("-b", Number(&["1", "7", "64", "1437"])),
    ("-T", Number(&["1", "3", "17", "255"])),
];
const READING: Flags = &[
    ("--val-share", Number(&["0.1", "0.9"])),
    ("--event-split", Word(&["dsr", "spikingjelly"])),
    ("--event-frames", Word(&["number", "time"])),
    ("--event-size", Number(&["32", "128"])),
    ("--sensor", Number(&["8x8", "34x34", "0x0", "2048x2048"])),
    ("--frame-size", Number(&["8x8", "4x16", "0x0"])),
    ("--frame-ms", Number(&["0", "0.5", "1000"])),
    ("--flip-x", Switch),
    ("--flip-y", Switch),
    ("--transpose", Switch),
    ("--image-size", Number(&["32"])),
    ("--image-resize", Number(&["4096"])),
    ("--crop-scale", Number(&["0.5,1"])),
    ("--channels", Number(&["1", "3"])),
    ("--image-fit", Word(&["crop", "fit", "pad"])),
    ("--layout", Word(&["auto", "nhwc", "nchw", "nthw"])),
    ("--mean", Number(&["0.5", "0.5,0.5,0.5"])),
    ("--std", Number(&["1", "1,2,3"])),
    ("--skip-unreadable", Number(&["0", "3"])),
    ("--cache-dir", Out),
];
const TRAINING: Flags = &[
    ("--epochs", Number(&["1", "2"])),
    ("--optimizer", Word(&["sgd", "adam"])),
    ("--lr", Number(&["0.1", "10"])),
    ("--schedule", Word(&["cosine", "multi-step", "one-cycle"])),
    ("--milestones", Number(&["0.5,0.75"])),
    ("--gamma", Number(&["0.1", "1"])),
    ("--peak-share", Number(&["0.3", "0.9"])),
    ("--lr-decay", Word(&["epoch", "step"])),
    ("--wd", Number(&["0", "1"])),
    ("--warmup", Number(&["0", "10"])),
    ("--momentum", Number(&["0", "0.9"])),
    ("--nesterov", Switch),
    ("--betas", Number(&["0.9,0.99"])),
    ("--eps", Number(&["1e-8"])),
    ("--weight-gradient", Word(&["rate", "unrolled"])),
    ("--threshold-init", Word(&["fixed", "auto"])),
    ("--threshold-grad-scale", Number(&["0", "1"])),
    ("--dropout", Number(&["0", "0.5"])),
    ("--crop-pad", Number(&["0", "1", "7", "8", "4096"])),
    ("--flip", Switch),
    ("--label-smoothing", Number(&["0", "0.1"])),
    ("--auto-augment", Word(&["off", "cifar10", "imagenet"])),
    ("--cutout", Number(&["0", "1", "8", "9", "4096"])),
    ("--event-roll", Number(&["0", "1", "8", "4096"])),
    ("--event-rotate", Number(&["0", "15", "180"])),
    ("--event-drop", Number(&["0", "0.5"])),
    ("--mixup", Number(&["0", "0.2", "100"])),
    ("--slices", Number(&["1", "3", "300"])),
    ("--sync-batch-norm", Word(&["all", "slice"])),
    ("--checkpoint-every", Number(&["1", "4"])),
    ("--recipe", Word(&["digits-8x8", "cifar10-if", "imagenet-if"])),
    ("--resume", File),
    ("--init-from", File),
    ("--out", Out),
    ("--name", Out),
    ("--dry-run", Switch),
    ("--workers", Number(&["4"])),
];
const LIMITS: Flags = &[
    ("--warmup", Number(&["0", "1"])),
    ("--repeats", Number(&["1", "2"])),
    ("--seconds", Number(&["0.01"])),
    ("--baseline", File),
    ("--fail-over", Number(&["5%", "0"])),
    ("--force", Switch),
];
const TRAINED: Flags = &[("--checkpoint", File)];
const IMAGE: Flags = &[("--image", Number(&["8x8x1", "4x9x33", "1x1x1", "4096x4096x4096"])), ("--devices", Word(&["cpu", "cpu,cuda:1"]))];

/// A command: its words, flags that make it quick, and all its flags; how often it is drawn, and whether it takes a second if it is right.
struct Tried {
    words: &'static str,
    quick: &'static str,
    flags: &'static [Flags],
    weight: usize,
    is_slow: bool,
}

const COMMANDS: [Tried; 19] = [
    Tried {
        words: "train",
        quick: "--dataset digits-8x8 --widths 4 --blocks 1 -T 1 -b 300 --epochs 1",
        flags: &[NETWORK, READING, TRAINING],
        weight: 6,
        is_slow: false,
    },
    Tried {
        words: "eval",
        quick: "--checkpoint good.safetensors",
        flags: &[
            NETWORK,
            READING,
            &[
                ("--checkpoint", File),
                ("--per-class", Switch),
                ("--rates", Switch),
                ("--ties", Word(&["first", "current"])),
                ("--predictions", Out),
            ],
        ],
        weight: 4,
        is_slow: false,
    },
    Tried {
        words: "classify .",
        quick: "--checkpoint good.safetensors",
        flags: &[&[
            ("--checkpoint", File),
            ("-T", Number(&["1", "255"])),
            ("-b", Number(&["1", "7"])),
            ("--top", Number(&["1", "1000000"])),
            ("--ties", Word(&["first", "current"])),
            ("--ema", Switch),
        ]],
        weight: 2,
        is_slow: false,
    },
    Tried {
        words: "calibrate",
        quick: "--checkpoint ann.safetensors --out calibrated",
        flags: &[
            NETWORK,
            READING,
            &[("--checkpoint", File), ("--quantile", Number(&["0.9", "1"])), ("--batches", Number(&["1", "1000000000"])), ("--out", Out)],
        ],
        weight: 3,
        is_slow: false,
    },
    Tried {
        words: "bench throughput",
        quick: "--widths 4 --blocks 1 -T 1 -b 1 --image 8x8x1 --repeats 1 --warmup 0",
        flags: &[NETWORK, IMAGE, LIMITS, TRAINED, &[("--mode", Word(&["train", "infer"])), ("--lr", Number(&["0.1"]))]],
        weight: 3,
        is_slow: false,
    },
    Tried {
        words: "bench latency",
        quick: "--widths 4 --blocks 1 -T 1 -b 1 --image 8x8x1 --repeats 1 --warmup 0",
        flags: &[NETWORK, IMAGE, LIMITS, TRAINED],
        weight: 3,
        is_slow: false,
    },
    Tried {
        words: "bench decision",
        quick: "--widths 4 --blocks 1 -T 2 --samples 3 --repeats 1 --warmup 0",
        flags: &[NETWORK, READING, LIMITS, &[("--checkpoint", File), ("--samples", Number(&["1", "9"])), ("--at", Number(&["1", "2"]))]],
        weight: 3,
        is_slow: false,
    },
    Tried {
        words: "bench kernels",
        quick: "--widths 4 --blocks 1 -T 1 -b 1 --image 8x8x1 --op readout --cache warm --repeats 1 --warmup 0",
        flags: &[
            NETWORK,
            IMAGE,
            LIMITS,
            &[("--rate", Number(&["0", "1"])), ("--cache", Word(&["warm", "cold"])), ("--op", Word(&["neuron", "conv"]))],
        ],
        weight: 2,
        is_slow: true,
    },
    Tried {
        words: "bench data",
        quick: "--dataset digits-8x8 --repeats 1 --warmup 0",
        flags: &[
            LIMITS,
            &[
                ("--dataset", Word(&["digits-8x8", "photo-patches-10,digits-8x8"])),
                ("--data-dir", File),
                ("--split", Word(&["train", "test"])),
                ("-b", Number(&["1", "1437"])),
                ("--loaders", Number(&["1", "3", "256"])),
                ("-T", Number(&["1", "4"])),
                ("--crop-pad", Number(&["0", "1", "4096"])),
                ("--cutout", Number(&["0", "9"])),
                ("--mixup", Number(&["0", "0.2"])),
            ],
        ],
        weight: 3,
        is_slow: false,
    },
    Tried {
        // A folder without pictures, so that flags for files are taken and a file is what is wrong.
        words: "bench data",
        quick: "--dataset images --data-dir . --val-share 0.2 --repeats 1 --warmup 0",
        flags: &[LIMITS, READING, &[("--data-dir", File)]],
        weight: 2,
        is_slow: false,
    },
    Tried {
        words: "profile",
        quick: "--dataset digits-8x8 --widths 4 --blocks 1 -T 2 -b 3 --steps 1 --warmup 0",
        flags: &[
            NETWORK,
            READING,
            &[
                ("--checkpoint", File),
                ("--mode", Word(&["train", "infer"])),
                ("--steps", Number(&["1", "2"])),
                ("--warmup", Number(&["0", "1"])),
                ("--by", Word(&["layer", "op"])),
                ("--trace", Out),
                ("--html", Out),
                ("--predict", Word(&["a100", "h100"])),
                ("--ranks", Number(&["1", "2", "4096"])),
            ],
        ],
        weight: 3,
        is_slow: false,
    },
    Tried { words: "data info", quick: "--dataset digits-8x8", flags: &[DATA, READING], weight: 1, is_slow: false },
    Tried { words: "data verify", quick: "--dataset digits-8x8", flags: &[DATA, READING], weight: 1, is_slow: false },
    Tried {
        words: "data sheet",
        quick: "--dataset digits-8x8 --out sheet.png",
        flags: &[DATA, READING, &[("--split", Word(&["train", "test"])), ("--per-class", Number(&["1", "200"])), ("--out", Out)]],
        weight: 2,
        is_slow: false,
    },
    Tried { words: "data convert", quick: "--dataset digits-8x8", flags: &[DATA, READING], weight: 1, is_slow: false },
    Tried { words: "recipe list", quick: "", flags: &[], weight: 1, is_slow: false },
    Tried { words: "recipe show digits-8x8", quick: "", flags: &[], weight: 1, is_slow: false },
    Tried { words: "info", quick: "", flags: &[&[("--kernels", Switch)]], weight: 2, is_slow: false },
    Tried { words: "check", quick: "--size small", flags: &[&[("--size", Word(&["small"]))]], weight: 1, is_slow: true },
];
const DATA: Flags = &[
    ("--dataset", Word(&["digits-8x8", "mnist", "cifar100", "dvs-cifar10", "imagenet"])),
    ("--data-dir", File),
    ("-T", Number(&["1", "10"])),
];

/// Makes the files that [`FILES`] names.
fn make_files(folder: &Path) {
    let at = |name: &str| folder.join(name);
    let write = |name: &str, bytes: &[u8]| fs::write(at(name), bytes).unwrap();
    let tiny = broken_files::TINY;
    let with = |more: &str| format!("{tiny}{more}");
    write("good.toml", tiny.as_bytes());
    let huge = "dataset = 'digits-8x8'\nepochs = 9223372036854775807\nbatch = 4611686018427387904\nthreads = 4294967296";
    let wide = "dataset = 'digits-8x8'\nwidths = [4611686018427387904]\nblocks = [1]";
    let many = "dataset = 'digits-8x8'\nwidths = [4]\nblocks = [1000000000]";
    write("huge.toml", huge.as_bytes());
    write("wide.toml", wide.as_bytes());
    write("many.toml", many.as_bytes());
    broken_files::checkpoint_with(&at("good.safetensors"), tiny);
    broken_files::checkpoint_with(&at("ann.safetensors"), &with("neuron = 'relu'").replace("time_steps = 2", "time_steps = 1"));
    broken_files::checkpoint_with(&at("huge.safetensors"), huge);
    broken_files::checkpoint_with(&at("deep.safetensors"), many);
    broken_files::hollow(&at("hollow.safetensors"), 1 << 38);
    let good = fs::read(at("good.safetensors")).unwrap();
    write("cut.safetensors", &good[..good.len() / 2]);
    write("good.json", b"{\"schema\":{\"name\":\"dsr-bench-latency\",\"version\":1},\"header\":{},\"cases\":[]}");
    write("empty", b"");
    let mut bytes = vec![0; 3000];
    ChaCha8Rng::seed_from_u64(5).fill(&mut bytes[..]);
    write("bytes", &bytes);
    write("long", &b"lr = 0.1\n".repeat(1 << 18));
    for name in ["folder", "run"] {
        fs::create_dir(at(name)).unwrap();
    }
    fs::copy(at("good.safetensors"), at("run/best.safetensors")).unwrap();
    broken_files::pipe(&at("pipe"));
    std::os::unix::fs::symlink(at("loop"), at("loop")).unwrap();
}

/// One command line, as words; files are those in `files`.
fn line(rng: &mut ChaCha8Rng, files: &Path) -> Vec<String> {
    let all: usize = COMMANDS.iter().map(|tried| tried.weight).sum();
    let mut at = rng.random_range(0..all);
    let tried = COMMANDS.iter().find(|tried| at.checked_sub(tried.weight).map(|rest| at = rest).is_none()).unwrap();
    let path = |name: &str| if name.starts_with('/') { name.into() } else { files.join(name).display().to_string() };
    let quick: Vec<&str> = tried.quick.split_whitespace().collect();
    let mut given: Vec<(&str, Option<String>)> = quick.chunks(2).map(|pair| (pair[0], Some(pair[1].to_string()))).collect();
    given.iter_mut().filter(|flag| flag.0 == "--checkpoint").for_each(|flag| flag.1 = flag.1.as_deref().map(path));
    let flags: Vec<(&str, Kind)> = tried.flags.iter().chain([&GLOBAL]).flat_map(|flags| flags.iter().copied()).collect();
    let changes = rng.random_range(1..4);
    for change in 0..changes {
        let &(name, kind) = flags.choose(rng).unwrap();
        let is_strange = rng.random_bool(0.4) || (tried.is_slow && change == 0);
        let value = match kind {
            Switch if is_strange => Some("x".to_string()),
            Switch => None,
            Number(usual) | Word(usual) if !is_strange => usual.choose(rng).map(|value| value.to_string()),
            Number(_) => STRANGE_NUMBERS.choose(rng).map(|value| value.to_string()),
            Word(_) => STRANGE_WORDS.choose(rng).map(|value| value.to_string()),
            File => FILES.choose(rng).map(|name| path(name)),
            Out => OUTS.choose(rng).map(|value| value.to_string()),
        };
        given.retain(|flag| flag.0 != name);
        given.push((name, value));
    }
    let mut words: Vec<String> = tried.words.split(' ').map(String::from).collect();
    for (name, value) in given {
        // Half of them in one word, without which a value such as -1 is a flag.
        match value {
            Some(value) if name.starts_with("--") && rng.random_bool(0.5) => words.push(format!("{name}={value}")),
            value => words.extend([Some(name.to_string()), value].into_iter().flatten()),
        }
    }
    words
}

fn run(words: &[String], folder: &Path) -> Output {
    let script = format!("ulimit -v {ADDRESSES} && exec timeout -k 1 {SECONDS} \"$0\" \"$@\"");
    let mut command = Command::new("sh");
    command.args(["-c", &script]).arg(cargo_bin("dsr")).args(words).current_dir(folder).env("RUST_BACKTRACE", "0");
    command.output().unwrap()
}

/// What is wrong with how a line ended.
fn fault(output: &Output) -> Option<String> {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let last = stderr.lines().last().unwrap_or_default();
    let errors = stderr.lines().filter(|line| line.starts_with("error: ")).count();
    match output.status.code() {
        None => Some(format!("killed: {last}")),
        Some(124 | 137) => Some(format!("not done after {SECONDS} s: {last}")),
        Some(code) if code > 2 => Some(format!("exit code {code}: {last}")),
        _ if stderr.contains("panicked") => Some(format!("a panic: {stderr}")),
        Some(2) if errors != 1 => Some(format!("{errors} lines with an error: {stderr}")),
        Some(_) => None,
    }
}

#[test]
fn every_command_line_ends_with_an_exit_code_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let files = folder.path().join("files");
    fs::create_dir(&files).unwrap();
    make_files(&files);
    let seed = std::env::var("DSR_LINES_SEED").map_or(16, |seed| seed.parse().unwrap());
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let lines: Vec<Vec<String>> = (0..LINES).map(|_| line(&mut rng, &files)).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let (mut faults, mut codes) = (Vec::new(), [0; 3]);
        while let Some(words) = lines.get(next.fetch_add(1, Ordering::Relaxed)) {
            let own = tempfile::tempdir_in(folder.path()).unwrap();
            let output = run(words, own.path());
            match fault(&output) {
                Some(problem) => faults.push(format!("dsr {words:?}: {problem}")),
                None => codes[output.status.code().unwrap_or(0) as usize] += 1,
            }
        }
        (faults, codes)
    };
    let parts: Vec<(Vec<String>, [usize; 3])> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let faults: Vec<&String> = parts.iter().flat_map(|part| &part.0).collect();
    assert!(faults.is_empty(), "{} of {LINES} lines: {faults:#?}", faults.len());
    // Some of every kind, or it would be no test of them.
    let codes = [0, 1, 2].map(|code| parts.iter().map(|part| part.1[code]).sum::<usize>());
    assert!(codes.iter().all(|&count| count > LINES / 20), "exit codes 0, 1, 2: {codes:?}");
}
