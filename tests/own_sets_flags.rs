//! Sets of one's own: which flags each command takes for them, and which it refuses. The real binary.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::tempdir;

#[path = "support/lines.rs"]
mod lines;
use lines::{dsr, in_one_line, json, ok};
#[path = "support/own_sets.rs"]
mod own_sets;
use own_sets::npz;
#[path = "support/recordings.rs"]
mod formats;
#[path = "support/small_sets.rs"]
mod small_sets;
use small_sets::{pictures, recordings, twins};

const TINY: &str = "--image-size 12 --widths 4,8 --blocks 1,1 -T 4 --epochs 1 -b 8 --crop-pad 1 --device cpu";
const ONCE: &str = "-b 4 --warmup 0 --repeats 1";

/// A file of parameters as PyTorch's users have it: without settings.
fn without_settings(checkpoint: &Path, plain: &Path) {
    let bytes = fs::read(checkpoint).unwrap();
    let length = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    header.as_object_mut().unwrap().remove("__metadata__");
    let header = header.to_string();
    fs::write(plain, [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &bytes[8 + length..]].concat()).unwrap();
}

#[test]
fn loaders_are_timed_with_the_flags_of_training() {
    let folder = pictures();
    let root = folder.path();
    recordings(&root.join("events"));
    let cases = [
        ("-d images --data-dir heap --val-share 0.25 --image-size 20 --channels 1 --image-fit pad", "20x20x1", [18, 6]),
        ("-d images --data-dir photos --image-size 14 --image-resize 16 --crop-scale 0.3,1 --crop-pad 0", "14x14x3", [15, 6]),
        ("-d images --data-dir photos --image-size 14 --mean 0,0,0 --std 1,1,1 --auto-augment cifar10 --cutout 3", "14x14x3", [15, 6]),
        ("-d events --data-dir events --val-share 0.25 --sensor 34x34 --frame-size 17x34 --frame-ms 1 -T 3", "3x17x34x2", [12, 4]),
        ("-d events --data-dir events --val-share 0.25 --sensor 34x34 --event-frames time -T 1 --event-drop 0.1", "34x34x2", [12, 4]),
    ];
    for (flags, image, samples) in cases {
        let result = json(&ok(root, &format!("bench data {flags} {ONCE} -o json")).0);
        let found: Vec<(&Value, &Value)> =
            result["cases"].as_array().unwrap().iter().map(|case| (&case["image"], &case["images"])).collect();
        assert_eq!(found, samples.map(|n| (Value::from(image), Value::from(n))).each_ref().map(|(image, n)| (image, n)), "{flags}");
    }
    let refused = [
        (
            "-d images --data-dir heap",
            "val-share: heap has no test split: give --val-share 0.2 to test on a fifth of the pictures of each class",
        ),
        ("-d images --data-dir photos --val-share 0.2", "val-share: has no effect here: images photos has a test split of its own"),
        ("-d digits-8x8 --sensor 34x34", "sensor: digits-8x8 has no such setting, only events has; leave --sensor out"),
        ("-d images,digits-8x8 --data-dir photos --channels 1", "channels: digits-8x8 has no such setting, only images has"),
        ("-d images --data-dir photos --image-size 8 --crop-pad 9", "crop-pad: a padding of 9 pixels could cut an image of 8x8 away"),
    ];
    for (flags, problem) in refused {
        let (code, _, stderr) = dsr(root, &format!("bench data {flags} {ONCE}"));
        assert!(code == 2 && in_one_line(&stderr).contains(problem), "{flags}: {code} {stderr}");
    }
}

/// A file without settings does not say which share of a heap is for testing.
#[test]
fn a_share_to_test_on_can_be_said_to_every_command() {
    let folder = pictures();
    let root = folder.path();
    let set = "-d images --data-dir heap --val-share 0.25";
    ok(root, &format!("train {set} {TINY} -q --out run"));
    without_settings(&root.join("run/last.safetensors"), &root.join("plain.safetensors"));
    let network = "--image-size 12 --widths 4,8 --blocks 1,1 -T 4 --device cpu";
    let result = |line: &str| json(&ok(root, &format!("eval {line} -o json")).0);
    let (ours, plain) =
        (result("--checkpoint run/last.safetensors --device cpu"), result(&format!("--checkpoint plain.safetensors {set} {network}")));
    assert_eq!((&ours["n"], &ours["results"][0]["loss"]), (&plain["n"], &plain["results"][0]["loss"]));
    let (code, _, stderr) = dsr(root, &format!("eval --checkpoint plain.safetensors -d images --data-dir heap {network}"));
    assert!(code == 2 && stderr.contains("give --val-share 0.2"), "{stderr}");
    // Another share may test on what was trained on.
    let (_, stderr) = ok(root, "eval --checkpoint run --val-share 0.5 --device cpu");
    let note = "was trained with --val-share 0.25 --seed 0: by --val-share 0.5 --seed 0, samples may be tested on that it was trained on";
    assert!(in_one_line(&stderr).contains(note), "{stderr}");
    let (_, stderr) = ok(root, "eval --checkpoint run --val-share 0.25 --device cpu");
    assert!(!stderr.contains("was trained with"), "{stderr}");
    ok(root, &format!("profile {set} {network} -b 4 --steps 1 --warmup 0 -q"));
    // An ANN without settings, too.
    ok(root, &format!("train {set} {} --neuron relu -q --out ann", TINY.replace("-T 4", "")));
    without_settings(&root.join("ann/last.safetensors"), &root.join("ann.safetensors"));
    let line = format!("calibrate --checkpoint ann.safetensors {set} {network} --out calibrated.safetensors -q");
    ok(root, &line);
    ok(root, "eval --checkpoint calibrated.safetensors --device cpu -q");
    ok(root, "train -d digits-8x8 --widths 4,8 --blocks 1,1 -T 2 --epochs 1 --device cpu -q --out digits");
    for line in ["eval --checkpoint digits", "profile --checkpoint digits --steps 1 --warmup 0", "bench decision --checkpoint digits"] {
        let (code, _, stderr) = dsr(root, &format!("{line} --val-share 0.2 --device cpu"));
        assert!(code == 2 && stderr.contains("val-share: has no effect here: digits-8x8 has a test split of its own"), "{line}: {stderr}");
    }
}

/// A file without settings does not say by which seed a heap was divided; and what a network was chosen on is a matter of its run, not
/// of the data that it is measured on.
#[test]
fn a_seed_counts_where_it_divides_a_set() {
    let folder = pictures();
    let root = folder.path();
    let set = "-d images --data-dir heap --val-share 0.25";
    ok(root, &format!("train {set} {TINY} --seed 3 -q --out run"));
    without_settings(&root.join("run/last.safetensors"), &root.join("plain.safetensors"));
    fs::write(root.join("seed.toml"), "seed = 3\n").unwrap();
    let files = |line: &str| {
        ok(root, &format!("eval {line} --device cpu -q --predictions tested.csv"));
        fs::read_to_string(root.join("tested.csv")).unwrap()
    };
    let plain = format!("--checkpoint plain.safetensors {set} --image-size 12 --widths 4,8 --blocks 1,1 -T 4");
    let trained = files("--checkpoint run/last.safetensors");
    assert_eq!(files(&format!("{plain} --seed 3")), trained);
    assert_eq!(files(&format!("{plain} --config seed.toml")), trained);
    assert_eq!(files("--checkpoint run/last.safetensors --seed 3"), trained);
    assert!(files(&format!("{plain} --seed 4")) != trained, "the seed has no effect");
    let (code, _, stderr) = dsr(root, "eval --checkpoint run --data-dir photos --seed 4 --device cpu");
    assert!(code == 2 && in_one_line(&stderr).contains("seed: has no effect here: images photos has a test split of its own"), "{stderr}");

    for data in ["", "--data-dir photos"] {
        let result = json(&ok(root, &format!("eval --checkpoint run {data} --device cpu -o json")).0);
        assert_eq!(result["chosen_on"], "test", "{data}");
    }
    ok(root, &format!("train -d images --data-dir photos --val-share 0.25 {TINY} -q --out other"));
    assert_eq!(json(&ok(root, "eval --checkpoint other --device cpu -o json").0)["chosen_on"], "validation");
    let result = json(&ok(root, "eval --checkpoint other --data-dir heap --device cpu -o json").0);
    assert_eq!(result["chosen_on"], "validation");
}

/// What a network was tested on by one seed it may have learned by another.
#[test]
fn a_seed_that_would_divide_a_set_anew_is_refused() {
    let folder = pictures();
    let root = folder.path();
    let set = "-d images --data-dir heap --val-share 0.25";
    ok(root, &format!("train {set} {} --neuron relu --seed 3 -q --out ann", TINY.replace("-T 4", "")));
    ok(root, &format!("train {set} {TINY} --seed 3 -q --out run"));
    fs::write(root.join("seed.toml"), "seed = 7\n").unwrap();
    let other = "would divide images anew, and ";
    for line in [
        "calibrate --checkpoint ann --seed 7 --out c.safetensors",
        "bench decision --checkpoint run --seed 7",
        "profile --checkpoint run --seed 7 --steps 1 --warmup 0 --html page.html",
        "eval --checkpoint run --config seed.toml",
        "bench decision --checkpoint run --seed 7 --data-dir ./heap/../heap",
    ] {
        let (code, _, stderr) = dsr(root, &format!("{line} --device cpu"));
        assert!(code == 2 && in_one_line(&stderr).contains(&format!("seed: 7 {other}")), "{line}: {code} {stderr}");
    }
    for line in [
        "bench decision --checkpoint run --limit-samples",
        "profile --checkpoint run --steps 1 --warmup 0",
        "calibrate --checkpoint ann --out other.safetensors",
    ] {
        let line = line.replace(" --limit-samples", "");
        let (_, stderr) = ok(root, &format!("{line} --val-share 0.5 --device cpu"));
        let note = "was trained with --val-share 0.25 --seed 3: by --val-share 0.5 --seed 3, samples may be tested on";
        assert!(in_one_line(&stderr).contains(note), "{line}: {stderr}");
    }
    assert!(!root.join("c.safetensors").exists() && !root.join("page.html").exists());
    ok(root, "calibrate --checkpoint ann --seed 3 --device cpu -q --out c.safetensors");
    ok(root, "profile --checkpoint run --seed 3 --device cpu --steps 1 --warmup 0 -q");
    // A batch of the training is more than the six test images.
    let infer = "profile --checkpoint run --mode infer --steps 1 --warmup 0 --device cpu";
    assert_eq!(json(&ok(root, &format!("{infer} -o json")).0)["config"]["batch"], 6);
    let (code, _, stderr) = dsr(root, &format!("{infer} -b 7"));
    assert!(code == 2 && stderr.contains("batch: 7 is more than the 6 test images of images heap; lower -b"), "{stderr}");
    // A further run may be what is wanted: it is told.
    for (seed, is_told) in [(3, false), (0, true)] {
        let (_, stderr) = ok(root, &format!("train {set} {TINY} --init-from c.safetensors --seed {seed} --out further{seed}"));
        let note = "was trained with --val-share 0.25 --seed 3: by --val-share 0.25 --seed 0, samples may be tested on";
        assert_eq!(in_one_line(&stderr).contains(note), is_told, "{stderr}");
    }
}

#[test]
fn lengths_and_numbers_of_frames_are_not_both_said() {
    let folder = tempdir().unwrap();
    let root = folder.path();
    twins(root);
    let set = "-d events --data-dir events/one --val-share 0.25 -T 4";
    let (code, _, stderr) = dsr(root, &format!("data info {set} --frame-ms 1 --event-frames time"));
    let problem = "frame-ms: says where frames end by their length, and --event-frames by their number; leave one of them out";
    assert!(code == 2 && stderr.contains(problem), "{stderr}");
    ok(root, &format!("data info {set} --frame-ms 0 --event-frames time"));
    ok(root, &format!("train {set} --frame-ms 1 --widths 4,8 --blocks 1,1 --epochs 1 -b 4 --device cpu -q --out run"));
    let (code, _, stderr) = dsr(root, "eval --checkpoint run --event-frames time --device cpu");
    assert!(code == 2 && stderr.contains("event-frames: has no effect on frames of 1 ms (--frame-ms): give --frame-ms 0"), "{stderr}");
    ok(root, "eval --checkpoint run --event-frames time --frame-ms 0 --device cpu");
    ok(root, "eval --checkpoint run --config run/config.toml --device cpu");
}

/// What a checkpoint says of one kind of set is not asked of another, which nobody could leave out.
#[test]
fn settings_of_a_kind_stay_with_it() {
    let folder = pictures();
    let root = folder.path();
    twins(root);
    fs::write(root.join("set.npz"), npz(&own_sets::arrays(), true)).unwrap();
    let heap = "-d images --data-dir heap --val-share 0.25 --image-fit pad --auto-augment cifar10";
    ok(root, &format!("train {heap} {} -q --out run", TINY.replace("--image-size 12", "--image-size 28 --channels 1")));
    let config = |line: &str| -> toml::Table { toml::from_str(&ok(root, &format!("{line} --dry-run")).0).unwrap() };
    let of_run = config("train --config run/config.toml");
    assert!(of_run["mean"].as_array().is_some_and(|mean| mean.len() == 1) && of_run["channels"].as_integer() == Some(1));
    for (set, is_folder) in
        [("-d arrays --data-dir set.npz", true), ("-d fashion-mnist-3k", false), ("-d events --data-dir events/one", true)]
    {
        let other = config(&format!("train --config run/config.toml {set}"));
        let is_empty = |key: &str| other.get(key).is_none_or(|value| value.as_array().is_some_and(|list| list.is_empty()));
        assert!(is_empty("mean") && is_empty("std") && other.contains_key("data_dir") == is_folder, "{set}: {other}");
        assert!(other.get("channels").is_none_or(|n| n.as_integer() == Some(3)), "{set}: {other}");
    }
    let same = config("train --config run/config.toml -d images --data-dir photos");
    assert_eq!((&same["mean"], same["channels"].as_integer()), (&of_run["mean"], Some(1)));
    // What is said of the other set is what holds.
    let said = config("train --config run/config.toml -d arrays --data-dir set.npz --mean 0.5,0.5,0.5 --std 1,1,1");
    assert_eq!(said["mean"].as_array().unwrap().len(), 3);
    let (code, _, stderr) = dsr(root, "eval --checkpoint run -d fashion-mnist-3k --device cpu -q");
    assert!(code == 1 && stderr.contains("belongs to another network"), "{stderr}");
}

/// A flag for the files of another kind has no effect, whatever is done with the set.
#[test]
fn flags_of_other_kinds_are_refused() {
    let folder = pictures();
    let root = folder.path();
    recordings(&root.join("events"));
    ok(root, &format!("train -d images --data-dir photos {TINY} -q --out run"));
    let events = "-d events --data-dir events --val-share 0.25 --sensor 34x34";
    let cases = [
        (format!("train {events} --event-size 16"), "event-size: events has no such setting, only dvs-cifar10 has; leave --event-size out"),
        (format!("data info {events} --event-split dsr"), "event-split: events has no such setting, only dvs-cifar10 has"),
        (format!("bench data {events} --image-size 16"), "image-size: events has no such setting, only imagenet and images have"),
        ("train -d digits-8x8 --image-size 16".into(), "image-size: digits-8x8 has no such setting, only imagenet and images have"),
        ("profile -d digits-8x8 --event-frames time".into(), "event-frames: digits-8x8 has no such setting, only dvs-cifar10, events"),
        ("eval --checkpoint run --event-orientation dsr".into(), "event-orientation: images has no such setting, only dvs-cifar10 has"),
        ("bench decision --checkpoint run --event-frames time".into(), "event-frames: images has no such setting"),
    ];
    for (line, problem) in cases {
        let (code, _, stderr) = dsr(root, &line);
        assert!(code == 2 && in_one_line(&stderr).contains(problem), "{line}: {code} {stderr}");
    }
}
