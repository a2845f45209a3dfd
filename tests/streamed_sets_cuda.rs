//! DVS-CIFAR10 and ImageNet on a CUDA device: their batches come from the host, T frames a sample.

use std::fs;
use std::path::Path;
use std::process::Command;

use assert_cmd::cargo::cargo_bin;
use serde_json::Value;
use tempfile::tempdir;

#[path = "support/streamed_sets.rs"]
mod streamed_sets;
use streamed_sets::{photos, recordings};

fn ok(folder: &Path, line: &str) -> String {
    let mut command = Command::new(cargo_bin("dsr"));
    command.current_dir(folder).args(line.split_whitespace()).env("LD_LIBRARY_PATH", emulator::directory());
    let output = command.output().unwrap();
    assert!(output.status.success(), "dsr {line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_checkpoint_of_a_streamed_set_says_the_same_on_both_devices() {
    let folder = tempdir().unwrap();
    let root = folder.path();
    recordings(&root.join("events"), &[0, 899, 900]);
    photos(&root.join("photos"));
    let sets =
        ["-d dvs-cifar10 --data-dir events --event-size 8 --crop-pad 1", "-d imagenet --data-dir photos --image-size 8 --image-resize 9"];
    for (set, run) in sets.into_iter().zip(["events-run", "photos-run"]) {
        ok(root, &format!("train {set} --widths 4 --blocks 1 -T 2 -b 8 --epochs 1 --device cuda --quiet --out {run}"));
        let [on_cuda, on_cpu] = ["cuda", "cpu"].map(|device| {
            let table = ok(root, &format!("eval --checkpoint {run} -b 4 --rates --device {device} --predictions {device}.csv -o json"));
            let result = serde_json::from_str::<Value>(&table).unwrap()["results"][0].clone();
            (
                result["top1"].clone(),
                result["loss"].clone(),
                result["layers"].clone(),
                fs::read(root.join(format!("{device}.csv"))).unwrap(),
            )
        });
        assert!(on_cuda == on_cpu, "{set}: {:?} {:?}", (&on_cuda.0, &on_cuda.1), (&on_cpu.0, &on_cpu.1));
    }
}
