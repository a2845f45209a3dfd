//! What `dsr export` writes is what `dsr` computes with: the fixtures hold the spikes of plain float64 PyTorch with these files
//! (`benches/peers/exported.py fixture`), with batch norms and with folded ones.

#[path = "support/command.rs"]
mod command;

use std::fs;
use std::path::PathBuf;

use command::{dsr, ok};
use dsr::checkpoint::{self, About};
use dsr::network::{Input, Kind, Mode};
use safetensors::SafeTensors;
use tempfile::tempdir;

const CASES: [&str; 2] = ["if", "lif"];

fn fixture(case: &str, name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/export")).join(case).join(name)
}

fn floats(tensors: &SafeTensors, name: &str) -> Vec<f64> {
    let view = tensors.tensor(name).unwrap();
    match view.dtype() {
        safetensors::Dtype::F32 => view.data().as_chunks().0.iter().map(|&b| f64::from(f32::from_le_bytes(b))).collect(),
        _ => view.data().as_chunks().0.iter().map(|&b| f64::from_le_bytes(b)).collect(),
    }
}

#[test]
fn pytorch_has_the_spikes_of_the_engine() {
    for case in CASES {
        let (config, card, mut network) = checkpoint::open(&fixture(case, "checkpoint.safetensors")).unwrap();
        let bytes = fs::read(fixture(case, "spikes.safetensors")).unwrap();
        let theirs = SafeTensors::deserialize(&bytes).unwrap();
        let [batch, channels, height, width] = theirs.tensor("images").unwrap().shape().try_into().unwrap();
        assert_eq!(card.shape, [height, width, channels]);
        let images = floats(&theirs, "images");
        let at = |b: usize, y: usize, x: usize, c: usize| images[((b * channels + c) * height + y) * width + x] as f32;
        let pixels = (0..batch * height * width * channels).map(|i| {
            let (c, x, y, b) = (i % channels, i / channels % width, i / channels / width % height, i / channels / width / height);
            at(b, y, x, c)
        });
        let data: Vec<f32> = pixels.collect();
        let forward = network.forward(&Input { data: &data, batch, frames: 1 }, Mode::Eval, |_| true).unwrap();
        let logits = floats(&theirs, "logits");
        assert!(
            forward.logits.iter().zip(&logits).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-6),
            "{case}: {:?} {logits:?}",
            forward.logits
        );
        let mut compared = 0;
        for (layer, spikes) in network.layers.iter().zip(&forward.spikes) {
            let (spikes, view) = (spikes.as_ref().unwrap(), theirs.tensor(&format!("spikes.{}", layer.name)).unwrap());
            let [height, width, channels] = layer.shape;
            assert!(spikes.unpacked().iter().map(|&fired| u8::from(fired)).eq(view.data().iter().copied()), "{case}: {}", layer.name);
            let mut fired = 0;
            for (i, &theirs) in view.data().iter().enumerate() {
                let (x, y) = (i % width, i / width % height);
                let (c, b) = (i / width / height % channels, i / width / height / channels % batch);
                let t = i / width / height / channels / batch;
                assert_eq!(u8::from(spikes.get(t, b, y * width + x, c)), theirs, "{case}: {} at {:?}", layer.name, [t, b, c, y, x]);
                fired += usize::from(theirs);
                compared += 1;
            }
            assert!(fired > 0, "{case}: {} is silent", layer.name);
        }
        assert!(compared > 10_000 && config.time_steps > 1, "{case}: {compared} spikes compared");
    }
}

#[test]
fn the_files_are_those_that_pytorch_ran() {
    let folder = tempdir().unwrap();
    for case in CASES {
        for (name, flags) in [("exported.safetensors", ""), ("folded.safetensors", "--fold-norms")] {
            let checkpoint = fixture(case, "checkpoint.safetensors");
            ok(folder.path(), &format!("export --checkpoint {} --out {name} {flags}", checkpoint.display()));
            assert!(fs::read(folder.path().join(name)).unwrap() == fs::read(fixture(case, name)).unwrap(), "{case}: {name}");
        }
    }
}

/// Rounded weights round to themselves: a network that starts from an exported file computes the same bits.
#[test]
fn an_exported_file_comes_back() {
    for case in CASES {
        let (config, card, mut network) = checkpoint::open(&fixture(case, "checkpoint.safetensors")).unwrap();
        let mut again = config.network(card.shape, card.classes.len()).unwrap();
        assert!(checkpoint::load_start(&fixture(case, "exported.safetensors"), &mut again, false).unwrap().has_thresholds);
        let data: Vec<f32> = (0..3 * card.shape.iter().product::<usize>()).map(|i| (i % 17) as f32 / 8.0 - 1.0).collect();
        let logits = [&mut network, &mut again]
            .map(|network| network.forward(&Input { data: &data, batch: 3, frames: 1 }, Mode::Eval, |_| false).unwrap().logits);
        assert!(logits[0].iter().any(|&v| v > 0.0) && logits[0] == logits[1], "{case}: {logits:?}");
        assert_ne!(network.values, again.values, "the checkpoint itself has unrounded weights");
    }
}

#[test]
fn forward_weights_are_those_of_the_exported_file() {
    for case in CASES {
        let (_, _, network) = checkpoint::open(&fixture(case, "checkpoint.safetensors")).unwrap();
        let bytes = fs::read(fixture(case, "exported.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let mut compared = 0;
        for (index, layer) in network.layers.iter().enumerate() {
            for (at, connection) in layer.connections.iter().enumerate() {
                let ours = network.forward_weights(index, at);
                let Kind::Conv { weight, .. } = connection.kind else {
                    assert!(ours.is_empty());
                    continue;
                };
                let name = &network.parameters[weight].name;
                assert!(floats(&tensors, name).iter().map(|&v| v as f32).eq(ours), "{case}: {name}");
                compared += 1;
            }
        }
        assert!(compared > 3, "{case}: {compared} connections");
    }
}

/// An exported file says which network it holds: commands that take it build that one, whatever the recipe of its data set has.
#[test]
fn an_exported_file_is_measured_as_the_network_that_it_is() {
    let folder = tempdir().unwrap();
    let at = folder.path();
    let lif = "train -d digits-8x8 --widths 6 --blocks 1 --neuron lif --readout current --alpha 0.4 -T 3 --epochs 1 --seed 2";
    ok(at, &format!("{lif} --weight-bits 8 --delta-t 0.2 --device cpu -q --out run"));
    ok(at, "export --checkpoint run --out exported.safetensors");
    for (name, file) in [("theirs", "run"), ("ours", "exported.safetensors")] {
        ok(at, &format!("eval --checkpoint {file} --device cpu -q --predictions {name}.csv"));
    }
    let read = |name: &str| fs::read(at.join(name)).unwrap();
    assert!(read("theirs.csv") == read("ours.csv"));
    let (config, card, _) = checkpoint::open(&at.join("exported.safetensors")).unwrap();
    let (expected, of_run, _) = checkpoint::open(&at.join("run/best.safetensors")).unwrap();
    assert_eq!((config, card), (expected, of_run));

    let (stdout, _) = ok(at, "train -d digits-8x8 --init-from exported.safetensors --dry-run -o json");
    let settings: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&settings["widths"], &settings["readout"]), (&serde_json::json!([6]), &serde_json::json!("current")), "{settings}");
}

#[test]
fn no_checkpoint_is_overwritten_and_unknown_networks_are_named() {
    let folder = tempdir().unwrap();
    let at = folder.path();
    fs::copy(fixture("if", "checkpoint.safetensors"), at.join("best.safetensors")).unwrap();
    let before = fs::read(at.join("best.safetensors")).unwrap();
    for (line, words) in [
        (
            "export --checkpoint best.safetensors --out best.safetensors".to_string(),
            "best.safetensors: is a checkpoint: choose another --out",
        ),
        (format!("export --checkpoint {}", fixture("if", "spikes.safetensors").display()), "does not say which network it holds"),
        (format!("export --checkpoint {} --out a", fixture("if", "folded.safetensors").display()), "export without --fold-norms"),
        (format!("eval --checkpoint {}", fixture("if", "folded.safetensors").display()), "export without --fold-norms"),
        (
            format!("train --resume {} --out new", fixture("if", "exported.safetensors").display()),
            "holds parameters but no training state: start a new run with --init-from",
        ),
        ("export --checkpoint best.safetensors --seed 1".to_string(), "dsr export has no use for it"),
        ("export --checkpoint best.safetensors --out a.pth".to_string(), "out: a.pth: .pth means a pickle, such as PyTorch's, and what"),
        ("export --checkpoint best.safetensors --out a.CSV".to_string(), "call it a.safetensors"),
        ("eval --checkpoint best.safetensors --predictions p.npz".to_string(), ".npz means NumPy's arrays, and what is written is csv"),
    ] {
        let output = dsr(at, &line);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(matches!(output.status.code(), Some(1 | 2)) && stderr.contains(words), "dsr {line}: {stderr}");
    }
    assert!(fs::read(at.join("best.safetensors")).unwrap() == before);
    let (stdout, _) = ok(at, "export --checkpoint best.safetensors");
    assert_eq!(stdout, "wrote exported.safetensors: weights rounded to 16 bits, IF neurons, T = 4, batch\n  norms kept\n");

    // A network that no settings describe can be written by the library, and says so when it is opened.
    let (_, card, network) = checkpoint::open(&at.join("best.safetensors")).unwrap();
    checkpoint::export(&at.join("bare.safetensors"), &network, true, About { data: Some(&card), ..About::default() }).unwrap();
    assert!(checkpoint::open(&at.join("bare.safetensors")).unwrap_err().to_string().contains("does not say which network it holds"));
}
