//! `--threshold-init auto` as a user runs it: the real binary, tiny networks, real digits.

#[path = "support/command.rs"]
mod command;

use std::fs;
use std::path::Path;

use command::dsr;
use dsr::network::{Init, Input, Network, preact_resnet};
use dsr::ops::neuron::Neuron;
use serde_json::Value;
use tempfile::tempdir;

/// A network that trains in a fraction of a second: 45 steps an epoch.
const TINY: &str = "train -d digits-8x8 --widths 4,8 --blocks 1,1 --epochs 1 --readout spikes";

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Runs a line that must succeed and gives its stderr.
fn ok(folder: &Path, line: &str) -> String {
    command::ok(folder, line).1
}

fn lines(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Thresholds that leave layers silent are put right: every layer fires, and the network learns.
#[test]
fn every_layer_starts_alive() {
    let folder = tempdir().unwrap();
    let folder = folder.path();
    let cases = [("if", 6.0, 1, 0.01), ("if", 1e-3, 4, 0.01), ("lif", 0.6, 4, 0.001), ("lif", 0.6, 20, 0.001), ("if", 6.0, 4, 5.0)];
    for (case, (neuron, vth, time_steps, bound)) in cases.into_iter().enumerate() {
        let line =
            format!("{TINY} --neuron {neuron} --vth {vth} -T {time_steps} --vth-bound {bound} --out run{case} --threshold-init auto");
        let stderr = ok(folder, &line);
        let chosen = lines(&folder.join(format!("run{case}/thresholds.jsonl")));
        assert_eq!(chosen.len(), 7, "{line}");
        for layer in &chosen {
            let [threshold, rate] = ["threshold", "firing_rate"].map(|key| layer[key].as_f64().unwrap());
            let name = layer["layer"].as_str().unwrap();
            let row = stderr.lines().find(|row| row.starts_with(&format!("{name} "))).unwrap_or_else(|| panic!("{line}: {stderr}"));
            assert!(row.contains(&format!("{threshold:.4}")), "{line}: {row}");
            assert!(threshold >= bound * (1.0 - 1e-6), "{line}: {layer}");
            // With a bound of 5 some layers cannot fire.
            assert!(bound > 1.0 || (0.02..0.9).contains(&rate), "{line}: {layer}");
        }
        if bound > 1.0 {
            assert!(chosen.iter().any(|layer| layer["threshold"] == 5.0), "{line}: {chosen:?}");
        }
    }
    ok(folder, &format!("{TINY} --out fixed"));
    assert!(!folder.join("fixed/thresholds.jsonl").exists());
}

/// The currents of a network and thus its thresholds do not depend on where it starts, and nothing else of it changes.
#[test]
fn only_thresholds_change() {
    let neuron = Neuron::If { alpha: 0.5 };
    let network = |vth: f32| preact_resnet([8, 8, 1], 10, &[4, 8], &[1, 1], 4, 0.1, vth).unwrap().finish(neuron, 4, 0.01, 7).unwrap();
    let data: Vec<f32> = (0..16 * 64).map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0).collect();
    let input = Input { data: &data, batch: 16, frames: 1 };
    let mut networks: Vec<Network> = [6.0, 0.1].map(network).into();
    let before = networks[0].clone();
    for network in &mut networks {
        network.choose_thresholds(&input, 3).unwrap();
    }
    assert_eq!(networks[0].values, networks[1].values);
    for (parameter, index) in before.parameters.iter().zip(0..) {
        let is_threshold = parameter.init == Init::Constant(6.0);
        assert_eq!(networks[0].value(index) != before.value(index), is_threshold, "{}", parameter.name);
    }
    for (norm, old) in networks[0].norms.iter().zip(&before.norms) {
        assert!(norm.running_mean == old.running_mean && norm.running_var == old.running_var && norm.batches == 0, "{}", norm.name);
    }
    let problem = networks[0].choose_thresholds(&Input { batch: 15, ..input }, 3).unwrap_err().to_string();
    assert!(problem.contains("[B, 1 or 4"), "{problem}");
}

/// The same bytes for other numbers of threads and for a run that was stopped and resumed, which does not choose again.
#[test]
fn a_run_is_the_same_however_it_is_run() {
    let folder = tempdir().unwrap();
    let folder = folder.path();
    let line = format!("{TINY} --neuron lif -T 4 --vth 0.6 --threshold-init auto");
    ok(folder, &format!("{line} --threads 1 --out one"));
    ok(folder, &format!("{line} --threads 3 --out three"));
    assert_eq!(dsr(folder, &format!("{line} --out parts --stop-after-steps 5")).status.code(), Some(1));
    let read = |run: &str, name: &str| fs::read(folder.join(run).join(name)).unwrap();
    let chosen = read("parts", "thresholds.jsonl");
    let stderr = ok(folder, "train --resume auto --out parts");
    assert!(!stderr.contains("thresholds from"), "{stderr}");
    for run in ["three", "parts"] {
        assert!(read("one", "last.safetensors") == read(run, "last.safetensors"), "{run} has another checkpoint");
        assert_eq!(text(&read("one", "thresholds.jsonl")), text(&read(run, "thresholds.jsonl")), "{run}");
    }
    assert_eq!(text(&chosen), text(&read("parts", "thresholds.jsonl")));

    // Another choice would be another run.
    let refused = dsr(folder, "train --resume auto --out parts --threshold-init fixed");
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("threshold-init \"auto\" (asked for: \"fixed\")"), "{}", text(&refused.stderr));

    // From given parameters thresholds are chosen again, for these.
    ok(folder, &format!("{line} --init-from one/best.safetensors --out next"));
    assert_ne!(text(&chosen), text(&read("next", "thresholds.jsonl")));
}
