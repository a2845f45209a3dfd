//! Checkpoints that say what no run can have written, whole in all else: each command names the file and ends with 1; none computes.

#[path = "support/command.rs"]
mod command;
#[path = "support/own_sets.rs"]
mod own_sets;

use std::fs;
use std::path::Path;

use command::{dsr, ok};
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

const TRAIN: &str = "train -d digits-8x8 --widths 4 --blocks 1 -T 2 -b 300 --epochs 1 -q";

/// Every command that reads a checkpoint, here `X`.
const READERS: [&str; 8] = [
    "classify p.png --checkpoint X",
    "eval --checkpoint X -q",
    "export --checkpoint X --out out.safetensors",
    "bench latency --checkpoint X --repeats 1 --warmup 0 -q",
    "bench decision --checkpoint X --repeats 1 --warmup 0 --samples 2 -q",
    "profile --mode infer --checkpoint X --steps 1 --warmup 0 -q",
    "train --resume X --out new -q",
    "train --init-from X -d digits-8x8 -T 2 --epochs 1 --out new -q",
];

/// A run in `run`, one as an ANN in `ann`, and a picture.
fn trained() -> TempDir {
    let folder = tempdir().unwrap();
    let at = folder.path();
    ok(at, &format!("{TRAIN} --out run"));
    ok(at, &format!("{} --neuron relu --out ann", TRAIN.replace("-T 2 ", "")));
    own_sets::picture(0, 1, [9, 9]).save(at.join("p.png")).unwrap();
    folder
}

/// Header and tensors of a checkpoint.
fn parts(file: &Path) -> (Value, Vec<u8>) {
    let bytes = fs::read(file).unwrap();
    let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    (serde_json::from_slice(&bytes[8..end]).unwrap(), bytes[end..].to_vec())
}

fn write(file: &Path, header: &Value, tensors: &[u8]) {
    let text = header.to_string();
    fs::write(file, [&(text.len() as u64).to_le_bytes()[..], text.as_bytes(), tensors].concat()).unwrap();
}

/// `x.safetensors`: the checkpoint of a run with other metadata, and no checksum that would tell.
fn with_metadata(at: &Path, run: &str, change: impl FnOnce(&mut Value)) {
    let (mut header, tensors) = parts(&at.join(run).join("last.safetensors"));
    let metadata = &mut header["__metadata__"];
    metadata.as_object_mut().unwrap().remove("crc32c");
    change(metadata);
    write(&at.join("x.safetensors"), &header, &tensors);
}

/// One line that names the file and all `words`, with exit code 1, and no result.
#[track_caller]
fn refused(at: &Path, line: &str, words: &[&str]) {
    let output = dsr(at, &line.replace('X', "x.safetensors"));
    let [stdout, stderr] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    let errors: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert!(output.status.code() == Some(1) && errors.len() == 1, "{line} {words:?}: {:?} {stdout} {stderr}", output.status.code());
    let all = ["x.safetensors: ", "use another checkpoint"];
    assert!(all.iter().chain(words).all(|word| errors[0].contains(word)), "{line} {words:?}: {stderr}");
}

fn set_card(metadata: &mut Value, key: &str, value: Value) {
    let mut card: Value = serde_json::from_str(metadata["data"].as_str().unwrap()).unwrap();
    card[key] = value;
    metadata["data"] = card.to_string().into();
}

#[test]
fn data_that_no_set_is_like_are_refused() {
    let folder = trained();
    let at = folder.path();
    let cases: [(&str, Value, &str); 16] = [
        ("classes", json!([]), "no classes"),
        ("std", json!([0.0]), "mean 3.05"),
        ("std", json!([-1.0]), "deviation -1e0 of channel 0"),
        ("std", json!([1e-40]), "of channel 0"),
        ("std", json!([1e-300]), "deviation 0e0 of channel 0"),
        ("std", json!([]), "1 means and 0 deviations of 1 channels"),
        ("mean", json!([0.1, 0.2, 0.3, 0.4, 0.5]), "5 means and 1 deviations of 1 channels"),
        ("mean", json!([3e38]), "mean 3e38 and deviation"),
        ("mean", json!([]), "0 means"),
        ("frames", json!(0), "0 frames per sample"),
        ("frames", json!(1u64 << 60), "frames per sample"),
        ("max_value", json!(0), "max_value 0"),
        ("shape", json!([0, 0, 1]), "samples of 0x0 with 1 channels"),
        ("shape", json!([8, 8, 0]), "samples of 8x8 with 0 channels"),
        ("shape", json!([5_000_000_000u64, 8, 1]), "samples of 5000000000x8"),
        ("shape", json!([u64::MAX, u64::MAX, 1]), "samples of"),
    ];
    for (index, (key, value, words)) in cases.into_iter().enumerate() {
        with_metadata(at, "run", |metadata| set_card(metadata, key, value));
        let words = ["has damaged metadata \"data\" (", words];
        let readers = if index < 2 { &READERS[..] } else { &READERS[..1] };
        readers.iter().for_each(|line| refused(at, line, &words));
    }
    with_metadata(at, "ann", |metadata| set_card(metadata, "std", json!([0.0])));
    refused(at, "calibrate --checkpoint X --out out.safetensors", &["has damaged metadata \"data\" ("]);
    // A network that cannot be made for them.
    with_metadata(at, "run", |metadata| set_card(metadata, "classes", (0..70_000).map(|class| json!(class.to_string())).collect()));
    READERS[..1].iter().for_each(|line| refused(at, line, &["has damaged metadata \"data\" (", "70000"]));
    assert!(!at.join("new").exists() && !at.join("out.safetensors").exists());
    // As it is, it is read by all.
    with_metadata(at, "run", |_| {});
    for line in &READERS[..6] {
        ok(at, &line.replace('X', "x.safetensors"));
    }
}

#[test]
fn settings_in_a_checkpoint_are_no_flags_of_the_user() {
    let folder = trained();
    let at = folder.path();
    let cases = [
        ("vth", "nan", "vth: NaN is not a positive number"),
        ("time_steps", "256", "time-steps: 256 is not in 1..=255"),
        ("batch", "0", "batch: 0 is not in"),
        ("weight_bits", "3", "weight-bits: 3 is neither 16 nor 8"),
        ("threads", "5000", "threads: 5000 is above"),
        ("neuron", "\"relu\"", "time-steps: 2"),
        ("neuron", "\"relus\"", "line 1"),
        ("epoch", "3", "its settings: unknown setting 'epoch'"),
        ("batch", "", "its settings: line 1"),
    ];
    for (index, (key, value, words)) in cases.into_iter().enumerate() {
        with_metadata(at, "run", |metadata| {
            let text = metadata["config"].as_str().unwrap();
            let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with(&format!("{key} ="))).collect();
            metadata["config"] = format!("{key} = {value}\n{}\n", kept.join("\n")).into();
        });
        let words = if value == "\"relus\"" { "relus" } else { words };
        let words = ["has damaged metadata \"config\" (", words];
        let readers = if index == 0 { &READERS[..] } else { &READERS[..2] };
        readers.iter().for_each(|line| refused(at, line, &words));
    }
    // A flag of the user's is still the user's.
    with_metadata(at, "run", |_| {});
    let output = dsr(at, "eval --checkpoint x.safetensors -T 256");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && stderr.starts_with("error: time-steps: 256"), "{stderr}");
}

/// Parameters that are numbers may add up to none: what such a network says is no result.
#[test]
fn logits_that_are_no_numbers_are_no_results() {
    let folder = trained();
    let at = folder.path();
    for run in ["run", "ann"] {
        let (mut header, mut tensors) = parts(&at.join(run).join("last.safetensors"));
        header["__metadata__"].as_object_mut().unwrap().remove("crc32c");
        for name in ["linear.weight", "linear.bias"] {
            let range =
                header[name]["data_offsets"].as_array().unwrap().iter().map(|end| end.as_u64().unwrap() as usize).collect::<Vec<_>>();
            tensors[range[0]..range[1]].chunks_exact_mut(4).for_each(|value| value.copy_from_slice(&3e38f32.to_le_bytes()));
        }
        write(&at.join("x.safetensors"), &header, &tensors);
        for form in ["text", "json", "csv"] {
            refused(at, &format!("classify p.png --checkpoint X -q -o {form}"), &["gives p.png a logit that is no finite number"]);
        }
        refused(at, "eval --checkpoint X -q --predictions p.csv", &["gives test sample 0 a logit that is no finite number"]);
        assert!(!at.join("p.csv").exists());
        if run == "run" {
            refused(at, READERS[4], &["gives test sample 0 a logit that is no finite number"]);
            refused(at, &format!("{} --html page.html", READERS[5]), &["a logit that is no finite number"]);
        }
    }
}
