//! Recipes by the real binary: each data set has its own, each says where it comes from, and the shipped ones learn.

#[path = "support/command.rs"]
mod command;

use command::{dsr, ok};
use serde_json::Value;
use tempfile::tempdir;

fn json(line: &str) -> Value {
    let folder = tempdir().unwrap();
    let (stdout, _) = ok(folder.path(), &format!("{line} -o json"));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "dsr {line} leaves nothing behind");
    serde_json::from_str(&stdout).unwrap()
}

#[test]
fn digits_are_not_mirrored() {
    let flip = |dataset: &str| json(&format!("train -d {dataset} --dry-run"))["flip"].as_bool().unwrap();
    let cases = [("mnist", false), ("digits-8x8", false), ("dvs-cifar10", false), ("fashion-mnist", true), ("fashion-mnist-3k", true)];
    for (dataset, expected) in cases {
        assert_eq!(flip(dataset), expected, "{dataset}");
    }
    let without = |dataset: &str| {
        let mut settings = json(&format!("train -d {dataset} --dry-run"));
        settings.as_object_mut().unwrap().retain(|key, _| key != "dataset" && key != "flip");
        settings
    };
    let shipped = without("fashion-mnist-3k");
    assert!(without("mnist") == shipped && without("fashion-mnist") == shipped, "they differ in nothing else");
}

#[test]
fn every_data_set_has_a_recipe_that_says_where_it_comes_from() {
    let info = json("info");
    for dataset in info["datasets"].as_array().unwrap() {
        let settings = json(&format!("train -d {} --dry-run", dataset.as_str().unwrap()));
        assert_eq!(&settings["dataset"], dataset);
    }
    let list = json("recipe list");
    let recipes = list["recipes"].as_array().unwrap();
    let names: Vec<&Value> = recipes.iter().map(|recipe| &recipe["name"]).collect();
    assert_eq!(names, info["recipes"].as_array().unwrap().iter().collect::<Vec<_>>());
    let folder = tempdir().unwrap();
    for recipe in recipes {
        let (name, source) = (recipe["name"].as_str().unwrap(), recipe["source"].as_str().unwrap());
        assert!(source.contains("paper") || source.starts_with("Ours"), "{name}: {source}");
        // What is shown is a file for --config.
        let (text, _) = ok(folder.path(), &format!("recipe show {name}"));
        assert!(text.starts_with("# "), "{text}");
        std::fs::write(folder.path().join("own.toml"), &text).unwrap();
        let dry = |from: &str| ok(folder.path(), &format!("train {from} --dry-run")).0;
        assert_eq!(dry("--config own.toml"), dry(&format!("--recipe {name}")), "{name}");
    }
    let (lines, _) = ok(folder.path(), "recipe list");
    assert!(lines.lines().all(|line| line.chars().count() <= 80), "{lines}");
    let unknown = dsr(folder.path(), "recipe show cifar11");
    assert_eq!(unknown.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("known are fashion-mnist-3k"));
}

#[test]
fn a_dry_run_resolves_and_touches_nothing() {
    let settings = json("train -d imagenet --data-dir /nowhere --batch 7 --seed 3 --out run --dry-run");
    let of = |key: &str| settings[key].as_f64().unwrap();
    assert_eq!((of("batch"), of("seed"), of("time_steps"), of("vth")), (7.0, 3.0, 50.0, 6.0));
    let folder = tempdir().unwrap();
    let (toml, _) = ok(folder.path(), "train --dry-run --neuron lif");
    assert!(toml.contains("neuron = \"lif\"") && toml.contains("delta_t = 0.25"), "{toml}");
    let wrong = dsr(folder.path(), "train --dry-run --lr -1");
    assert_eq!(wrong.status.code(), Some(2), "wrong settings are refused all the same");
    // With or without --dry-run, before any file is looked at.
    let cases = [
        ("-d imagenet --data-dir nowhere --slices 8 -b 7", "error: slices: 8 is above 7: "),
        ("-d imagenet --data-dir nowhere --cutout 225", "error: cutout: 225 is "),
        ("-d cifar10 --data-dir nowhere --cutout 33", "error: cutout: 33 is "),
        ("-d images --data-dir nowhere --image-size 64 --model vgg11", "error: input size: [64, 64]: "),
        ("-d digits-8x8 --data-dir .", "error: data-dir: digits-8x8 is built in and reads no folder: leave --data-dir . out"),
    ];
    for (flags, problem) in cases {
        for dry in ["--dry-run", ""] {
            let output = dsr(folder.path(), &format!("train {flags} {dry}"));
            let stderr = String::from_utf8(output.stderr).unwrap();
            let is_early = stderr.starts_with(problem) && !stderr.contains("nowhere") && stderr.lines().count() == 1;
            assert!(output.status.code() == Some(2) && is_early, "train {flags} {dry}: {stderr}");
        }
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    // A folder in which no new run begins.
    std::fs::write(folder.path().join("notes.txt"), "").unwrap();
    for dry in ["--dry-run", ""] {
        let output = dsr(folder.path(), &format!("train -d digits-8x8 --out . {dry}"));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(
            output.status.code() == Some(1) && stderr.starts_with("error: .: holds notes.txt, and a new run begins in"),
            "{dry}: {stderr}"
        );
    }
}

/// Chance is 10 %; the numbers of whole runs are in docs/thresholds.md.
#[test]
fn shipped_recipes_learn() {
    let folder = tempdir().unwrap();
    let cases = [
        ("digits-8x8", "if", 4, 0.8),
        ("digits-8x8", "lif", 4, 0.8),
        ("photo-patches-10", "lif", 6, 0.3),
        ("photo-patches-10", "if", 6, 0.3),
    ];
    for (dataset, neuron, epochs, least) in cases {
        let line = format!("train -d {dataset} --neuron {neuron} --epochs {epochs} --lr-decay step -q -o json --name {dataset}-{neuron}");
        let result: Value = serde_json::from_str(&ok(folder.path(), &line).0).unwrap();
        let accuracy = result["test_accuracy"].as_f64().unwrap();
        assert!(accuracy > least, "{dataset}, {neuron}: {accuracy}");
        assert_eq!(result["checkpoint"], format!("runs/{dataset}-{neuron}/last.safetensors"));
    }
}
