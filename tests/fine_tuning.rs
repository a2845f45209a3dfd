//! A trained network on another data set, on the real binary: the network comes from the file, the last layer starts anew, and classes
//! that are others are said.

#[path = "support/command.rs"]
mod command;
#[path = "support/own_sets.rs"]
mod own_sets;

use std::fs;
use std::path::Path;

use command::{dsr, ok};
use dsr::network::{Builder, Network, imagenet_resnet, photo_resnet, preact_resnet, vgg};
use dsr::ops::neuron::Neuron;
use dsr::ops::optimizer::{Optimizer, Rule};
use dsr::training::checkpoint::{self, About, Progress};
use serde_json::Value;
use tempfile::tempdir;

const TINY: &str = "--widths 4,8 --blocks 1,2 -T 2 --epochs 1 --readout spikes -q";

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A copy of a checkpoint with other class names in its metadata.
fn with_classes(from: &Path, to: &Path, change: impl Fn(&mut Vec<Value>)) {
    let bytes = fs::read(from).unwrap();
    let header = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    let mut json: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let metadata = json["__metadata__"].as_object_mut().unwrap();
    metadata.remove("crc32c");
    let mut data: Value = serde_json::from_str(metadata["data"].as_str().unwrap()).unwrap();
    change(data["classes"].as_array_mut().unwrap());
    metadata.insert("data".into(), data.to_string().into());
    let mut head = json.to_string().into_bytes();
    head.resize(head.len().next_multiple_of(8), b' ');
    fs::write(to, [&(head.len() as u64).to_le_bytes()[..], &head, &bytes[8 + header..]].concat()).unwrap();
}

#[test]
fn a_network_goes_to_another_data_set() {
    let folder = tempdir().unwrap();
    let at = folder.path();
    ok(at, &format!("train -d photo-patches-10 {TINY} --out patches"));
    // The same number of classes: everything is taken; the network is that of the file.
    let (_, stderr) = ok(at, "train -d photo-patches-10 -T 2 --epochs 1 --init-from patches --out more");
    assert!(stderr.contains("preact-resnet-4-8"), "{stderr}");
    let settings = fs::read_to_string(at.join("more/config.toml")).unwrap();
    assert!(settings.contains("widths = [4, 8]") && settings.contains("blocks = [1, 2]"), "{settings}");
    // Flags still win.
    let other = dsr(at, "train -d photo-patches-10 -T 2 --epochs 1 --widths 8,8 --blocks 1,2 --init-from patches --out no");
    assert_eq!(other.status.code(), Some(1), "{}", text(&other.stderr));
}

/// Trained on two classes, begun anew for three: by output neurons, and by currents.
#[test]
fn the_last_layer_starts_anew() {
    let folder = tempdir().unwrap();
    let at = folder.path();
    own_sets::heap(&at.join("three"), 8);
    own_sets::heap(&at.join("two"), 8);
    fs::remove_dir_all(at.join("two/oak")).unwrap();
    let settings = "--val-share 0.25 --image-size 12 --widths 4,8 --blocks 1,1 -T 2 --epochs 1 -b 4 --threads 1 --device cpu";
    for (readout, threshold) in [("spikes", ", relu3.Vth"), ("current", "")] {
        let line = |set: &str| format!("train -d images --data-dir {set} {settings} --readout {readout}");
        ok(at, &format!("{} -q --out old-{readout}", line("two")));
        let line = format!("{} --init-from old-{readout}", line("three"));
        let refused = dsr(at, &format!("{line} --out no"));
        assert_eq!(refused.status.code(), Some(1));
        let words = "has a last layer for 2 classes, and the data set has 3: --new-head starts that layer anew";
        assert!(text(&refused.stderr).contains(words), "{}", text(&refused.stderr));
        let (_, stderr) = ok(at, &format!("{line} --new-head --out new-{readout}"));
        let words = format!(
            "the last layer starts anew for 3 classes: bn2.bias, bn2.num_batches_tracked, bn2.running_mean, bn2.running_var, bn2.weight, \
             linear.bias, linear.weight{threshold}\n"
        );
        assert!(stderr.contains(&words), "{stderr}");
        ok(at, &format!("eval --checkpoint new-{readout} --device cpu"));
    }
    let alone = dsr(at, &format!("train -d digits-8x8 {TINY} --new-head"));
    assert_eq!(alone.status.code(), Some(2), "--new-head is for --init-from");
}

/// In every family: all but the last layer is the file's, and the last layer, with its norm and threshold, is that of a new network,
/// whether the number of classes is another or not.
#[test]
fn the_last_layer_of_every_family_is_as_in_a_new_network() {
    type Make = fn(usize) -> Builder;
    let families: [(&str, Make); 4] = [
        ("preact", |classes| preact_resnet([8, 8, 1], classes, &[4, 6], &[1, 1], 4, 0.0, 1.0).unwrap()),
        ("photo", |classes| photo_resnet([32, 32, 3], classes, 4, &[1, 1, 1, 1], 1.0).unwrap()),
        ("imagenet", |classes| imagenet_resnet([224, 224, 3], classes, 4, &[1, 1, 1, 1], true, 1.0).unwrap()),
        ("vgg", |classes| vgg([32, 32, 2], classes, &[&[4], &[4], &[4], &[4], &[8]], 0.0, 1.0).unwrap()),
    ];
    let folder = tempdir().unwrap();
    let path = folder.path().join("old.safetensors");
    for (family, make) in families {
        for reads_current in [false, true] {
            let network = |classes: usize, seed: u64| {
                let builder = make(classes);
                let builder = if reads_current { builder.read_current().unwrap() } else { builder };
                builder.finish(Neuron::If { alpha: 0.5 }, 2, 0.01, seed).unwrap()
            };
            let mut old = network(2, 1);
            (0..old.parameters.len()).for_each(|index| {
                let values = old.in_torch_order(index, &old.values).iter().map(|value| value + 0.25).collect::<Vec<f32>>();
                old.set_parameter(index, &values);
            });
            for (index, norm) in old.norms.iter_mut().enumerate() {
                norm.batches = 7;
                norm.running_mean.fill(0.5 + index as f32);
                norm.running_var.fill(2.0);
            }
            old.prepare();
            let optimizer = Optimizer::new(Rule::Sgd { momentum: 0.9, nesterov: false }, 0.0, old.len());
            checkpoint::save(&path, &old, &optimizer, &Progress::default(), About::default()).unwrap();
            for classes in [2, 4] {
                let (mut started, new) = (network(classes, 2), network(classes, 2));
                checkpoint::load_start(&path, &mut started, true).unwrap_or_else(|e| panic!("{family}, {classes} classes: {e}"));
                let values = |network: &Network, index: usize| network.in_torch_order(index, &network.values);
                let last = new.layers.last().unwrap();
                let norm = last.norm.expect("its last layer has a norm");
                for (index, parameter) in new.parameters.iter().enumerate() {
                    let is_new = started.head().contains(&index);
                    let expected = if is_new { values(&new, index) } else { values(&old, index) };
                    assert_eq!(values(&started, index), expected, "{family}: {}", parameter.name);
                    let is_of_classes = parameter.shape.first() == Some(&classes) && index + 7 > new.parameters.len();
                    assert_eq!(is_new, is_of_classes || last.threshold == Some(index), "{family}: {}", parameter.name);
                }
                for (index, found) in started.norms.iter().enumerate() {
                    let expected = if index == norm { &new.norms[index] } else { &old.norms[index] };
                    let of = |norm: &dsr::network::NormState| (norm.running_mean.clone(), norm.running_var.clone(), norm.batches);
                    assert_eq!(of(found), of(expected), "{family}: {}", found.name);
                }
            }
        }
    }
}

/// An accuracy on classes with other names, or in another order, is not what it looks like.
#[test]
fn other_classes_are_said() {
    let folder = tempdir().unwrap();
    let at = folder.path();
    ok(at, &format!("train -d digits-8x8 {TINY} --out run"));
    let best = at.join("run/best.safetensors");
    let (_, stderr) = ok(at, "eval --checkpoint run");
    assert!(!stderr.contains("trained on"), "{stderr}");
    let cases: [(&str, fn(&mut Vec<Value>), &str); 2] = [
        (
            "turned.safetensors",
            |classes| classes.swap(3, 4),
            "the same classes in another order: class 3 is '4' there and '3' in digits-8x8",
        ),
        ("other.safetensors", |classes| classes[9] = "cat".into(), "other classes: class 9 is 'cat' there and '9' in digits-8x8"),
    ];
    for (name, change, words) in cases {
        with_classes(&best, &at.join(name), change);
        let (_, stderr) = ok(at, &format!("eval --checkpoint {name}"));
        assert!(stderr.contains(&format!("note: {name}: it was trained on digits-8x8 with {words}")), "{stderr}");
    }
}
