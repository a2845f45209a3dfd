//! What every command prints for people fits a terminal of 80 columns.

#[path = "support/command.rs"]
mod command;
#[path = "support/streamed_sets.rs"]
mod streamed_sets;

use std::path::Path;

use command::ok;
use tempfile::tempdir;

const NETWORK: &str = "--widths 4,8 --blocks 1,1";
const FEW: &str = "--repeats 1 --warmup 0 --seconds 0.01";

/// Lines of messages are one each, however long: a terminal wraps them, and a program finds them whole.
const MESSAGES: [&str; 3] = ["note: ", "warning: ", "error: "];

/// Names in a list of commands in `--help`.
fn commands(of: &str) -> Vec<String> {
    let (help, _) = ok(Path::new("."), &format!("{of} --help"));
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| line.starts_with("  "));
    let names = listed.filter(|line| !line.starts_with("   ")).filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(|name| format!("{of} {name}").trim().to_string()).collect()
}

/// Each command, in the forms that have rows of their own; a case of one row, and several whose cells all differ.
#[test]
fn every_line_for_people_fits() {
    let folder = tempdir().unwrap();
    streamed_sets::recordings(&folder.path().join("events"), &[0, 1, 898, 899, 900]);
    let run = "a-run-with-a-name-of-some-length";
    let lines = [
        format!("train -d digits-8x8 {NETWORK} -T 2 --readout spikes --epochs 2 --val-share 0.1 --out {run}"),
        format!("train -d digits-8x8 {NETWORK} -T 2 --epochs 2 --threshold-init auto --out chosen --progress-every 0"),
        format!("train --resume auto --out {run} --epochs 2"),
        format!("train -d digits-8x8 {NETWORK} --neuron relu --epochs 1 --val-share 0.1 --out ann"),
        "train --dry-run".into(),
        format!("eval --checkpoint {run} -T 2,255 --rates --per-class --confusion --ties current"),
        "train -d dvs-cifar10 --data-dir events --event-size 16 --widths 4,8 --blocks 1,1 -T 4 --epochs 1 -b 8 --crop-pad 0 --val-share 0.25".into(),
        "data info -d dvs-cifar10 --data-dir events".into(),
        "data convert -d dvs-cifar10 --data-dir events -T 2 --progress-every 0".into(),
        "data sheet -d dvs-cifar10 --data-dir events --out events.png".into(),
        "data verify -d digits-8x8".into(),
        "eval --checkpoint ann".into(),
        "calibrate --checkpoint ann --batches 2".into(),
        format!("export --checkpoint {run} --fold-norms"),
        format!("bench throughput {NETWORK} --image 8x8x1 -T 2 -b 1 --mode infer {}", FEW.replace(" --seconds 0.01", "")),
        format!(
            "bench throughput {NETWORK} --image 8x8x1 -T 1,12 -b 1,10 --neuron if,lif --weight-bits 16,8 {}",
            FEW.replace(" --seconds 0.01", "")
        ),
        format!("bench throughput {NETWORK} --image 8x8x1 -T 2 {}", FEW.replace(" --seconds 0.01", "")),
        format!("bench latency {NETWORK} --image 8x8x1 -T 2 -b 1 {FEW}"),
        format!("bench latency {NETWORK} --image 8x8x1 -T 1,12 -b 1,10 --neuron if,lif --weight-bits 16,8 {FEW}"),
        format!("bench decision --checkpoint {run} --at 1 {FEW}"),
        format!("bench decision {NETWORK} -T 3 --samples 9 {FEW}"),
        format!("bench kernels {NETWORK} --image 8x8x1 -T 2 -b 1 {FEW}"),
        format!("bench data -d digits-8x8 --split train {FEW}"),
        format!("bench data -d digits-8x8,photo-patches-10 --loaders 1,2 -b 16,32 {FEW}"),
        format!("profile --checkpoint {run} --steps 1 --warmup 0 --predict b200 --ranks 8"),
        format!("profile --checkpoint {run} --steps 1 --warmup 0 --mode infer --by op --predict h100"),
        "data info -d photo-patches-10".into(),
        "data verify".into(),
        "data sheet -d digits-8x8 --out a-picture-of-the-data-with-a-name-of-some-length.png".into(),
        "data convert -d digits-8x8".into(),
        format!("classify a-picture-of-the-data-with-a-name-of-some-length.png --checkpoint {run} --ties current"),
        format!("classify events.png --checkpoint {run} --top 3 --ties current"),
        "recipe list".into(),
        "recipe show cifar10-if".into(),
        "info".into(),
        "info --kernels".into(),
        "info --peaks".into(),
        "check --device cpu --size small".into(),
    ];
    let mut all = commands("");
    let groups: Vec<String> = all.iter().filter(|name| !commands(name).is_empty()).cloned().collect();
    all.retain(|name| !groups.contains(name));
    all.extend(groups.iter().flat_map(|group| commands(group)));
    assert!(all.len() >= 17, "{all:?}");
    for name in &all {
        assert!(lines.iter().any(|line| line.starts_with(&format!("{name} ")) || line == name), "dsr {name} is not tried");
    }
    // As its lines are laid out, of the sizes that would take long here.
    let shapes = dsr::check::checks(&dsr::Device::Cpu, dsr::check::Size::Full);
    assert!(shapes.iter().all(|check| check.shape.chars().count() + 16 <= 80));
    let mut long = Vec::new();
    for line in &lines {
        let (stdout, stderr) = ok(folder.path(), line);
        assert!(!stdout.trim().is_empty(), "dsr {line}");
        let of_people = stdout.lines().chain(stderr.lines()).filter(|text| !MESSAGES.iter().any(|start| text.starts_with(start)));
        long.extend(of_people.filter(|text| text.chars().count() > 80).map(|text| format!("dsr {line}:\n{text}")));
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
}
