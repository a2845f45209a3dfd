//! A trained network on another data set, on the real binary: the network comes from the file, the last layer starts anew, and classes
//! that are others are said.

#[path = "support/command.rs"]
mod command;

use std::fs;
use std::path::Path;

use command::{dsr, ok};
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

#[test]
fn the_last_layer_starts_anew() {
    let folder = tempdir().unwrap();
    let at = folder.path();
    ok(at, &format!("train -d digits-8x8 {TINY} --out ten"));
    let bytes = fs::read(at.join("ten/best.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    // The same network with seven classes, as somebody else's file.
    let weight = tensors.tensor("linear.weight").unwrap();
    let (features, bias) = (weight.shape()[1], tensors.tensor("linear.bias").unwrap());
    let views = tensors.iter().filter(|(name, _)| !name.starts_with("optimizer.")).map(|(name, view)| {
        let view = match name {
            "linear.weight" => {
                safetensors::tensor::TensorView::new(view.dtype(), vec![7, features], &weight.data()[..4 * 7 * features]).unwrap()
            }
            "linear.bias" => safetensors::tensor::TensorView::new(view.dtype(), vec![7], &bias.data()[..28]).unwrap(),
            _ => view,
        };
        (name.to_string(), view)
    });
    fs::write(at.join("seven.safetensors"), safetensors::serialize(views.collect::<Vec<_>>(), None).unwrap()).unwrap();
    let line = format!("train -d digits-8x8 {TINY} --init-from seven.safetensors");
    let refused = dsr(at, &format!("{line} --out no"));
    assert_eq!(refused.status.code(), Some(1));
    let words = "seven.safetensors: has a last layer for 7 classes, and the data set has 10: --new-head starts that layer anew";
    assert!(text(&refused.stderr).contains(words), "{}", text(&refused.stderr));
    let (_, stderr) = ok(at, &line.replace(" -q", "").replace("--init-from", "--new-head --stop-after-steps 1000 --out yes --init-from"));
    assert!(stderr.contains("the last layer starts anew for 10 classes: linear.bias, linear.weight, relu3.Vth"), "{stderr}");
    let alone = dsr(at, &format!("train -d digits-8x8 {TINY} --new-head"));
    assert_eq!(alone.status.code(), Some(2), "--new-head is for --init-from");
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
