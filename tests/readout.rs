//! The readout by current: what the logits are without output neurons. That they have the same bits for any instruction set, number of
//! threads and split, and on a CUDA device, is for `tests/network.rs` and `network_cuda.rs`, whose small networks have such readouts, too.

#[path = "support/command.rs"]
mod command;
#[path = "support/seeded.rs"]
mod seeded;
#[path = "support/small_networks.rs"]
mod small_networks;

use std::path::Path;

use command::{dsr, ok};
use dsr::network::{Input, Mode, Network, Readout, preact_resnet};
use small_networks::{IF, LIF, Small};
use tempfile::tempdir;

/// Copies what two networks share by name.
fn copy_parameters(from: &Network, to: &mut Network) {
    for index in 0..to.parameters.len() {
        let source = from.parameter(&to.parameters[index].name).unwrap();
        to.set_parameter(index, &from.in_torch_order(source, &from.values));
    }
    for norm in &mut to.norms {
        let source = from.norms.iter().find(|other| other.name == norm.name).unwrap();
        (norm.running_mean, norm.running_var) = (source.running_mean.clone(), source.running_var.clone());
    }
    to.prepare();
}

/// VGG has no neurons behind its last pool, so the mean currents are those that its output neurons get.
#[test]
fn logits_are_the_currents_of_output_neurons() {
    let all = small_networks::all();
    for neuron in [IF, LIF] {
        let of = |name: &str| Small { neuron, ..*all.iter().find(|small| small.name == name).unwrap() };
        let (small, mut spiking) = (of("vgg"), of("vgg").network());
        let mut current = of("vgg, readout by current").network();
        copy_parameters(&spiking, &mut current);
        let data = small.data();
        spiking.forward(&data.input(), Mode::Eval, |_| false).unwrap();
        let logits = current.forward(&data.input(), Mode::Eval, |_| false).unwrap().logits;
        assert!(logits.iter().any(|&logit| logit < 0.0) && logits.iter().any(|&logit| logit > 0.0), "{neuron:?}: {logits:?}");
        assert_eq!(logits, spiking.output_currents(data.size).unwrap());
        assert_eq!(logits, current.output_currents(data.size).unwrap());
    }
}

/// The network loses the neurons behind the pool and at the output with their thresholds, and nothing else.
#[test]
fn two_thresholds_are_gone() {
    let build = || preact_resnet([8, 8, 1], 3, &[4, 8], &[1, 1], 4, 0.0, 1.0).unwrap();
    let spiking = build().finish(IF, 4, 0.01, 3).unwrap();
    let current = build().read_current().unwrap().finish(IF, 4, 0.01, 3).unwrap();
    assert_eq!((spiking.readout(), current.readout()), (Readout::Spikes, Readout::Current));
    let gone: Vec<&str> = spiking.parameters.iter().map(|p| p.name.as_str()).filter(|name| current.parameter(name).is_none()).collect();
    assert_eq!(gone, ["relu2.Vth", "relu3.Vth"]);
    assert_eq!((spiking.layers.len(), current.layers.len(), current.firing_layers().count()), (7, 6, 5));
    // Drawn from the same seed, the others start the same.
    for (index, parameter) in current.parameters.iter().enumerate() {
        let other = spiking.parameter(&parameter.name).unwrap();
        assert_eq!(current.value(index), spiking.value(other), "{}", parameter.name);
    }
}

/// After step t the logits are those of a run with T = t, bit for bit.
#[test]
fn logits_after_each_step_are_those_of_shorter_runs() {
    for neuron in [IF, LIF] {
        let network = |time_steps| {
            let builder = preact_resnet([9, 8, 2], 5, &[8, 12], &[1, 1], 4, 0.0, 0.4).unwrap();
            builder.read_current().unwrap().finish(neuron, time_steps, 0.01, 3).unwrap()
        };
        let data = seeded::values(9, 3 * 144, -1.0..2.0);
        let input = Input { data: &data, batch: 3, frames: 1 };
        let mut whole = network(7);
        let before = whole.layers.len() - 2;
        let forward = whole.forward(&input, Mode::Eval, |layer| layer == before).unwrap();
        let by_step = whole.currents_by_step(&input, &forward).unwrap();
        for t in 1..=7 {
            let expected = network(t).forward(&input, Mode::Eval, |_| false).unwrap().logits;
            for (b, expected) in expected.chunks_exact(5).enumerate() {
                assert_eq!(&by_step[(b * 7 + t - 1) * 5..][..5], expected, "{neuron:?}, step {t}, sample {b}");
            }
        }
        assert!(network(7).currents_by_step(&input, &network(7).forward(&input, Mode::Eval, |_| false).unwrap()).is_err());
    }
}

/// What a file without settings has to be told.
const FOREIGN: &str = "-d digits-8x8 --widths 4,8 --blocks 1,1 --device cpu";
const TINY: &str = "-d digits-8x8 --widths 4,8 --blocks 1,1 -T 2 --epochs 1 -b 64 --device cpu --quiet";

/// The tensors of an export `name.safetensors` without what it says of itself, as another program would write them.
fn tensors_alone(folder: &Path, name: &str) {
    let bytes = std::fs::read(folder.join(format!("{name}.safetensors"))).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let alone = safetensors::serialize(tensors.tensors(), None).unwrap();
    std::fs::write(folder.join(format!("{name}-alone.safetensors")), alone).unwrap();
}

fn refused(folder: &Path, line: &str, words: &[&str]) {
    let output = dsr(folder, line);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(matches!(output.status.code(), Some(1 | 2)), "dsr {line}: {stderr}");
    assert!(words.iter().all(|word| stderr.contains(word)), "dsr {line}: {stderr}");
}

/// A checkpoint keeps its readout; every command reads it.
#[test]
fn a_run_keeps_its_readout() {
    let folder = tempdir().unwrap();
    let folder = folder.path();
    for neuron in ["if", "lif"] {
        ok(folder, &format!("train {TINY} --neuron {neuron} --readout current --out {neuron}"));
        let (table, _) = ok(folder, &format!("eval --checkpoint {neuron} -T 1,2,4 --rates --per-class --device cpu"));
        let of_readout = table.lines().find(|line| line.starts_with("relu3 (readout)")).unwrap_or_else(|| panic!("{table}"));
        assert!(of_readout.contains(" - "), "{of_readout}");
        let settings = std::fs::read_to_string(folder.join(neuron).join("config.toml")).unwrap();
        assert!(settings.contains("readout = \"current\""), "{settings}");
        ok(folder, &format!("bench decision --checkpoint {neuron} --device cpu"));
        ok(folder, &format!("profile --checkpoint {neuron} --steps 1 --warmup 0 --device cpu"));
        ok(folder, &format!("export --checkpoint {neuron} --out {neuron}.safetensors"));
    }
    // An export says what it reads; of tensors alone the flag says it. It is the same network.
    let top1 = |line: &str| {
        let table: serde_json::Value = serde_json::from_str(&ok(folder, line).0).unwrap();
        table["results"].as_array().unwrap().iter().map(|row| row["top1"].as_f64().unwrap()).collect::<Vec<f64>>()
    };
    let evaluated = top1("eval --checkpoint if -T 1,2,3,4 --device cpu -o json");
    assert_eq!(top1("eval --checkpoint if.safetensors -d digits-8x8 -T 1,2,3,4 --device cpu -o json"), evaluated);
    tensors_alone(folder, "if");
    assert_eq!(top1(&format!("eval --checkpoint if-alone.safetensors {FOREIGN} --readout current -T 1,2,3,4 -o json")), evaluated);
    // The first t steps of a run are a run with T = t, in accuracy, too.
    let (by_step, _) = ok(folder, "bench decision --checkpoint if -T 4 --device cpu --seconds 0.01 -o json");
    let by_step: serde_json::Value = serde_json::from_str(&by_step).unwrap();
    let steps = by_step["cases"].as_array().unwrap_or_else(|| panic!("{by_step}"));
    let accuracies: Vec<f64> = steps.iter().map(|entry| entry["accuracy"].as_f64().unwrap()).collect();
    assert_eq!(accuracies, evaluated);
    assert!(steps.iter().all(|entry| entry["silent"].is_null()), "{by_step}");
    ok(folder, &format!("train {TINY} --readout spikes --out spikes"));
    ok(folder, "export --checkpoint spikes --out spikes.safetensors");
    tensors_alone(folder, "spikes");
    for (line, words) in [
        (
            format!("train {TINY} --init-from if --readout spikes --out a"),
            &["readout: spikes", "readout by current", "leave --readout out"][..],
        ),
        (format!("train {TINY} --init-from spikes --readout current --out b"), &["readout: current", "readout by spikes"]),
        ("eval --checkpoint if --readout spikes --device cpu".into(), &["readout: spikes", "part of its network"]),
        ("eval --checkpoint if --ties current --device cpu".into(), &["ties: current has no effect"]),
        (format!("train {TINY} --readout current --vth-logits 3 --out e"), &["vth-logits", "no output neurons"]),
        (
            "bench throughput --widths 4 --blocks 1 --image 8x8x1 -b 2 -T 2 --readout current --vth-logits 3 --device cpu".into(),
            &["vth-logits", "no output neurons"],
        ),
        ("eval --checkpoint if.safetensors --readout spikes --device cpu".into(), &["readout: spikes", "part of its network"]),
        (
            format!("eval --checkpoint if-alone.safetensors {FOREIGN} --readout spikes"),
            &["no output neurons (relu3.Vth)", "pass --readout current"],
        ),
        (
            format!("eval --checkpoint spikes-alone.safetensors {FOREIGN} --readout current"),
            &["has output neurons (relu3.Vth)", "--readout spikes"],
        ),
    ] {
        refused(folder, &line, words);
    }
    // Without a word of it, the readout is the file's.
    ok(folder, &format!("train {TINY} --init-from if --out c").replace("--widths 4,8 --blocks 1,1 ", ""));
}

/// As an ANN, the logits of a readout by current are not cut off at 0, and thresholds come from its activations.
#[test]
fn an_ann_reads_currents_too() {
    let folder = tempdir().unwrap();
    let folder = folder.path();
    ok(folder, &format!("train {TINY} --neuron relu --readout current --out ann").replace("-T 2 ", ""));
    ok(folder, "eval --checkpoint ann --device cpu --predictions logits.csv");
    let logits = std::fs::read_to_string(folder.join("logits.csv")).unwrap();
    assert!(logits.contains(",-"), "no logit is negative: {}", &logits[..200]);
    // An ANN has no threshold that would show it, and a file may ask for what a flag may not.
    std::fs::write(folder.join("other.toml"), "readout = \"spikes\"\n").unwrap();
    for line in
        ["eval --checkpoint ann", "calibrate --checkpoint ann --batches 2", "train -d digits-8x8 -T 2 --epochs 1 --init-from ann --out no"]
    {
        refused(folder, &format!("{line} --device cpu --config other.toml"), &["readout: spikes", "readout by current"]);
    }
    ok(folder, "calibrate --checkpoint ann --device cpu --batches 2");
    ok(folder, "train -d digits-8x8 -T 2 --epochs 1 -b 64 --device cpu --quiet --init-from ann/calibrated.safetensors --out hybrid");
    let settings = std::fs::read_to_string(folder.join("hybrid/config.toml")).unwrap();
    assert!(settings.contains("readout = \"current\""), "{settings}");
}
