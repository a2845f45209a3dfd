//! What `--help` says, and the flags of the authors' PyTorch scripts.

#[path = "support/command.rs"]
mod command;

use std::path::Path;

use command::{dsr, ok};
use tempfile::tempdir;

const COMMANDS: [&str; 19] = [
    "",
    "train",
    "eval",
    "classify",
    "calibrate",
    "bench",
    "bench throughput",
    "bench latency",
    "bench decision",
    "bench kernels",
    "bench data",
    "profile",
    "data info",
    "data verify",
    "data sheet",
    "data convert",
    "recipe show",
    "info",
    "check",
];

fn help(command: &str) -> String {
    ok(Path::new("."), &format!("{command} --help")).0
}

/// Flags by heading: `(heading, flag)`.
fn flags(help: &str) -> Vec<(String, String)> {
    let (mut heading, mut found) = (String::new(), Vec::new());
    for line in help.lines() {
        if !line.starts_with(' ') && line.ends_with(':') {
            heading = line.trim_end_matches(':').into();
        }
        let words: Vec<&str> = line.split([' ', ',']).filter(|word| !word.is_empty()).take(2).collect();
        if let Some(flag) = words.iter().find(|word| word.starts_with("--")).filter(|_| words[0].starts_with('-')) {
            found.push((heading.clone(), flag.to_string()));
        }
    }
    found
}

#[test]
fn help_fits_80_columns() {
    for command in COMMANDS {
        let text = help(command);
        let long: Vec<&str> = text.lines().filter(|line| line.chars().count() > 80).collect();
        assert!(long.is_empty(), "dsr {command} --help: {long:?}");
    }
}

#[test]
fn a_flag_stands_under_its_heading() {
    let of_files = |flag: &str| {
        let starts =
            ["--val-share", "--image-", "--crop-scale", "--channels", "--layout", "--mean", "--std", "--skip-unreadable", "--cache-dir"];
        let of_recordings = ["--event-split", "--event-frames", "--event-orientation", "--event-size", "--sensor", "--frame-", "--flip-x"];
        starts.iter().chain(&of_recordings).chain(&["--flip-y", "--transpose"]).any(|start| flag.starts_with(start))
    };
    for command in ["train", "eval", "calibrate", "profile", "bench decision", "bench data", "data info"] {
        let flags = flags(&help(command));
        assert!(flags.iter().any(|(heading, _)| heading.starts_with("Files of a data set")), "{command}: {flags:?}");
        for (heading, flag) in flags {
            assert_eq!(heading.starts_with("Files of"), of_files(&flag), "dsr {command}: {flag} stands under {heading}");
        }
    }
    let train = help("train");
    let flags = flags(&train);
    let heading = |name: &str| &flags.iter().find(|(_, flag)| flag == name).unwrap().0;
    let network = "Network and data [default: the checkpoint's, or the recipe's]";
    assert!(["--model", "--neuron", "--vth", "--weight-bits"].iter().all(|flag| heading(flag) == network), "{train}");
    assert!(["--lr", "--epochs", "--eps"].iter().all(|flag| heading(flag) == "Training [default: the recipe's]"), "{train}");
    let words = [
        "Adam epsilon, of adamw, too [default: 1e-8]",
        "Adam beta1 and beta2",
        "Dropout probability",
        "Optimizer",
        "Output format",
        "--arch",
    ];
    assert!(words.iter().all(|word| train.contains(word)), "{train}");
    assert!(help("").contains("Shows build and hardware information"));
}

/// `dsr eval` takes thresholds from the checkpoint and does not crop at random; `tests/output_forms.rs` holds that it refuses these flags.
#[test]
fn help_has_no_flag_that_is_always_refused() {
    let train = help("train");
    let eval = help("eval");
    for flag in ["--vth <", "--vth-pooled", "--vth-logits", "--crop-scale"] {
        assert!(train.contains(flag) && !eval.contains(flag), "{flag}: {eval}");
    }
    assert!(["--alpha", "--vth-bound", "--tau"].iter().all(|flag| eval.contains(flag)), "{eval}");
    let short = ok(Path::new("."), "eval -h").0;
    assert!(!short.contains("--vth <"), "{short}");
}

#[test]
fn flags_of_the_authors_scripts_are_answered() {
    let folder = tempdir().unwrap();
    let tiny = "train -d digits-8x8 --widths 4 --blocks 1 -T 1 --epochs 1";
    let (_, stderr) = ok(folder.path(), &format!("{tiny} --arch preact-resnet --train-batch 64 --test-batch 9 -j 4 --name first"));
    assert!(stderr.contains("note: --workers has no effect") && stderr.contains("note: --test-batch has no effect"), "{stderr}");
    assert!(folder.path().join("runs/first/last.safetensors").is_file());
    let cases = [
        ("--evaluate", "dsr eval --checkpoint"),
        ("--name ../first", "--out FOLDER"),
        ("--name a/b", "--out FOLDER"),
        ("--name x --out y", "cannot be used with"),
    ];
    for (flags, words) in cases {
        let output = dsr(folder.path(), &format!("{tiny} {flags}"));
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && stderr.contains(words), "{flags}: {stderr}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}
