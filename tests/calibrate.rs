//! The sketch of quantiles against sorted values, and the way from an ANN over `dsr calibrate` to a spiking network.

#[path = "support/command.rs"]
mod command;

use std::path::Path;
use std::sync::Arc;

use command::{dsr, ok};
use dsr::evaluation::calibrate::{Origin, activations, set_thresholds};
use dsr::evaluation::sketch::{QuantileSketch, RELATIVE_ERROR};
use dsr::ops::neuron::Neuron;
use dsr::settings::Config;
use dsr::settings::recipes;
use proptest::prelude::*;
use serde_json::Value;
use tempfile::tempdir;

fn sketch(values: &[f32]) -> QuantileSketch {
    let mut sketch = QuantileSketch::default();
    sketch.add(values);
    sketch
}

/// The ⌈share·n⌉-th smallest.
fn exact(values: &[f32], share: f64) -> f32 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f32::total_cmp);
    sorted[((share * sorted.len() as f64).ceil() as usize).clamp(1, sorted.len()) - 1]
}

/// Magnitudes from the smallest normal number to the largest, zeros, and values that crowd at one place.
fn values() -> impl Strategy<Value = Vec<f32>> {
    let value = prop_oneof![
        1 => Just(0.0f32),
        4 => 0.0f32..10.0,
        2 => 1.0f32..1.01,
        2 => (f32::MIN_POSITIVE.to_bits()..f32::INFINITY.to_bits()).prop_map(f32::from_bits),
        1 => Just(f32::MAX),
        1 => Just(f32::MIN_POSITIVE),
    ];
    prop::collection::vec(value, 1..400)
}

proptest! {
    #[test]
    fn a_quantile_is_within_the_bound(values in values(), share in 0.0f64..=1.0) {
        let sketch = sketch(&values);
        for share in [share, 0.0, 0.5, 0.999, 1.0] {
            let (got, expected) = (f64::from(sketch.quantile(share)), f64::from(exact(&values, share)));
            prop_assert!((got - expected).abs() <= RELATIVE_ERROR * expected, "{share}: {got} instead of {expected}");
        }
        prop_assert_eq!(sketch.max(), exact(&values, 1.0));
        prop_assert_eq!(sketch.len(), values.len() as u64);
        let zeros = values.iter().filter(|v| **v == 0.0).count();
        prop_assert_eq!(sketch.share_of_zeros(), zeros as f64 / values.len() as f64);
    }

    #[test]
    fn parts_in_any_order_give_the_whole(values in values(), cut in 0.0f64..1.0) {
        let whole = sketch(&values);
        let (a, b) = values.split_at((cut * values.len() as f64) as usize);
        prop_assert!(sketch(a).merged(sketch(b)) == whole);
        prop_assert!(sketch(b).merged(sketch(a)) == whole);
        let reversed: Vec<f32> = values.iter().rev().copied().collect();
        prop_assert!(sketch(&reversed) == whole);
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            prop_assert!(pool.install(|| QuantileSketch::of(&values)) == whole);
        }
    }
}

#[test]
fn values_at_the_edges() {
    let cases: [(&[f32], f64, f32); 7] = [
        (&[], 0.5, 0.0),
        (&[0.0, -1.0, -0.0], 1.0, 0.0),
        (&[1e-40, 1e-45], 1.0, 0.0), // below the smallest normal number
        (&[0.0, 0.0, 0.0, 7.0], 0.75, 0.0),
        (&[7.0], 0.0, 7.0), // the middle of a bucket is above its only value: the largest value is known
        (&[1.0], 1.0, 1.0),
        (&[1.0, 8.0], 0.5, 1.0 + 1.0 / 512.0), // a lower edge is off by the whole bound
    ];
    for (values, share, expected) in cases {
        assert_eq!(sketch(values).quantile(share), expected, "{values:?}, {share}");
    }
    let bad = sketch(&[f32::NAN, f32::INFINITY, -f32::INFINITY, 2.0]);
    assert_eq!((bad.not_finite(), bad.len(), bad.max(), bad.is_empty()), (3, 1, 2.0, false));
    assert!(QuantileSketch::default().is_empty());
}

/// IF takes the quantile, LIF the quantile times Δt; a layer whose quantile is 0 its largest value; a dead one keeps what it has.
#[test]
fn thresholds_of_a_network() {
    let config = Config { model: "preact-resnet".into(), widths: vec![2], blocks: vec![1], vth: 5.0, ..Config::default() };
    let lif = Neuron::Lif { alpha: 0.5, tau: 1.0, delta_t: 0.25 };
    for (neuron, factor) in [(Neuron::If { alpha: 0.5 }, 1.0), (lif, 0.25)] {
        let mut network = config.network([4, 4, 1], 3).unwrap();
        network.neuron = neuron;
        let mut sketches = vec![sketch(&[1.0; 1000]); network.layers.len()];
        sketches[0] = sketch(&[&[2.0; 999][..], &[100.0]].concat());
        sketches[1] = sketch(&[&[0.0; 1999][..], &[3.0]].concat());
        sketches[2] = sketch(&[0.0; 10]);
        sketches[3] = sketch(&[1e-6; 10]);
        let layers = set_thresholds(&mut network, &sketches, 0.999);
        let near = |got: f32, expected: f32| (got - expected).abs() <= RELATIVE_ERROR as f32 * expected;
        let expected = [(Origin::Quantile, 2.0 * factor), (Origin::Max, 3.0 * factor), (Origin::Settings, 5.0), (Origin::Quantile, 0.01)];
        for (index, (origin, threshold)) in expected.into_iter().enumerate() {
            let layer = &layers[index];
            assert_eq!(layer.layer, network.layers[index].name);
            assert_eq!(layer.origin, origin, "{layer:?}");
            assert!(near(layer.threshold, threshold), "{layer:?}, expected {threshold}");
            assert_eq!(layer.threshold, network.threshold(&network.layers[index]));
        }
        assert_eq!((layers[1].quantile, layers[1].max, layers[1].zeros), (0.0, 3.0, 0.9995));
    }
}

/// A pass sees what it was asked to, and gives the same sketches on any number of threads.
#[test]
fn sketches_do_not_depend_on_how_the_work_is_cut() {
    let layers = [recipes::recipe("digits-8x8").unwrap(), recipes::parse("neuron = \"relu\"\nwidths = [4, 8]", "test").unwrap()];
    let config = recipes::resolve(&Config::default(), &layers).unwrap();
    assert_eq!(config.time_steps, 1);
    let dataset = Arc::new(dsr::data::open("digits-8x8", None, &config.reading()).unwrap());
    let network = config.network(dataset.shape, dataset.classes.len()).unwrap();
    let run = |threads: usize, [batch, batches]: [usize; 2]| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut images = 0;
        let sketches = pool.install(|| activations(&mut network.clone(), &dataset, [batch, batches], 7, |seen| images = seen).unwrap());
        (sketches, images)
    };
    let (expected, images) = run(1, [32, 4]);
    assert_eq!(images, 128);
    assert_eq!(expected[0].len(), (128 * network.layers[0].neurons()) as u64);
    assert!(run(3, [32, 4]) == (expected, images));
    assert_eq!(run(2, [1000, usize::MAX]).1, dataset.train.labels.len());
}

#[test]
fn activations_that_are_not_finite_are_an_error() {
    let layers = [recipes::recipe("digits-8x8").unwrap(), recipes::parse("neuron = \"relu\"\nwidths = [4, 8]", "test").unwrap()];
    let config = recipes::resolve(&Config::default(), &layers).unwrap();
    let dataset = Arc::new(dsr::data::open("digits-8x8", None, &config.reading()).unwrap());
    let mut network = config.network(dataset.shape, dataset.classes.len()).unwrap();
    let beta = network.norms[0].bias;
    network.set_parameter(beta, &[f32::INFINITY; 4]);
    let error = activations(&mut network, &dataset, [32, 1], 0, |_| {}).unwrap_err().to_string();
    assert!(error.contains(&network.layers[0].name) && error.contains("not finite"), "{error}");
}

fn accuracy(folder: &Path, line: &str) -> f64 {
    let result: Value = serde_json::from_str(&ok(folder, line).0).unwrap();
    result["results"][0]["top1"].as_f64().unwrap()
}

/// From the ANN to a spiking network that classifies before its first training step; chance is 10 %.
#[test]
fn the_whole_way_from_ann_to_spiking_network() {
    let folder = tempdir().unwrap();
    let at = folder.path();
    ok(at, "train -d digits-8x8 --neuron relu --epochs 3 --out ann");
    let ann = accuracy(at, "eval --checkpoint ann/last.safetensors -o json");
    assert!(ann > 0.8, "{ann}");

    let calibrate = "calibrate --checkpoint ann/last.safetensors -T 16";
    let (table, stderr) = ok(at, calibrate);
    assert!(!stderr.contains("note:"), "{stderr}");
    for words in ["zeros %", "99.9 %", "relu1", "IF neurons", "written: ann/calibrated.safetensors"] {
        assert!(table.contains(words), "{words:?} is missing in {table}");
    }
    assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
    let start = accuracy(at, "eval --checkpoint ann/calibrated.safetensors -o json");
    assert!(start > 0.5, "the spiking network starts at {start}, its ANN has {ann}");

    let train = "train -d digits-8x8 -T 16 --epochs 1 --lr 0.01";
    let (_, stderr) = ok(at, &format!("{train} --init-from ann/calibrated.safetensors --out spiking"));
    assert!(!stderr.contains("note:"), "{stderr}");
    let end = accuracy(at, "eval --checkpoint spiking/last.safetensors -o json");
    assert!(end > 0.8, "{end}");

    // LIF: the same quantiles times Δt.
    let json = |line: &str| -> Value { serde_json::from_str(&ok(at, line).0).unwrap() };
    let results = [
        json(&format!("{calibrate} -o json --threads 1")),
        json("calibrate --checkpoint ann/last.safetensors -o json --neuron lif --delta-t 0.05 -T 20 --out lif.safetensors --threads 2"),
    ];
    assert_eq!(results[0]["config"]["time_steps"], 16);
    assert_eq!(results[0]["quantile"], 0.999);
    assert_eq!(results[0]["images"], 1437);
    assert!(results[1]["machine"]["version"].is_string());
    let layers = results.each_ref().map(|result| result["layers"].as_array().unwrap());
    assert_eq!(layers[0].len(), layers[1].len());
    for (of_if, lif) in layers[0].iter().zip(layers[1]) {
        assert_eq!(of_if["quantile"], lif["quantile"], "independent of threads");
        let [of_if, lif] = [of_if, lif].map(|layer| layer["threshold"].as_f64().unwrap());
        assert!((lif / of_if - 0.05).abs() < 1e-5, "{of_if}, {lif}");
    }
    assert!(accuracy(at, "eval --checkpoint lif.safetensors -o json") > 0.5);
}

#[test]
fn what_cannot_be_calibrated_is_said() {
    let folder = tempdir().unwrap();
    let at = folder.path();
    let tiny = "train -d digits-8x8 --widths 4,8 --blocks 1,1 --epochs 1";
    ok(at, &format!("{tiny} --neuron relu --out ann"));
    ok(at, &format!("{tiny} -T 2 --out spiking"));
    let cases: [(&str, i32, &[&str]); 7] = [
        ("calibrate --checkpoint spiking", 1, &["best.safetensors", "if neurons", "--neuron relu"]),
        ("calibrate --checkpoint nothing.safetensors", 1, &["nothing.safetensors"]),
        ("calibrate --checkpoint ann --quantile 0", 2, &["quantile", "0 is not in"]),
        ("calibrate --checkpoint ann --quantile 1.5", 2, &["quantile", "1.5"]),
        ("calibrate --checkpoint ann --neuron relu", 2, &["neuron", "if or lif"]),
        ("calibrate --checkpoint ann --widths 4", 2, &["widths"]),
        ("calibrate --checkpoint ann --batches 0", 2, &["--batches"]),
    ];
    for (line, code, words) in cases {
        let output = dsr(at, line);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "dsr {line}: {stderr}");
        for word in words {
            assert!(stderr.contains(word), "dsr {line}: {word:?} is missing in {stderr:?}");
        }
    }
}

/// What a run held out for validation is not looked at, whatever the seed of the calibration; another data set has nothing held out.
#[test]
fn the_validation_split_of_the_run_is_left_out() {
    let folder = tempdir().unwrap();
    let at = folder.path();
    ok(at, "train -d digits-8x8 --widths 4,8 --blocks 1,1 --epochs 1 --neuron relu --seed 3 --val-share 0.2 --out ann");
    let calibrate = "calibrate --checkpoint ann -o json";
    let result: Value = serde_json::from_str(&ok(at, calibrate).0).unwrap();

    let whole = dsr::data::open("digits-8x8", None, &Config::default().reading()).unwrap();
    let (rest, held) = dsr::data::hold_out(whole, 0.2, 3).unwrap();
    assert_eq!(result["images"], rest.train.len());
    assert_eq!(result["held_out"], held.test.len());
    let (_, _, mut ann) = dsr::checkpoint::open(&at.join("ann/best.safetensors")).unwrap();
    let sketches = activations(&mut ann, &Arc::new(rest), [128, usize::MAX], 0, |_| {}).unwrap();
    let layers = result["layers"].as_array().unwrap();
    for (layer, sketch) in layers.iter().zip(&sketches) {
        assert_eq!(layer["quantile"].as_f64().unwrap() as f32, sketch.quantile(0.999), "{layer}");
        assert_eq!(layer["max"].as_f64().unwrap() as f32, sketch.max(), "{layer}");
    }
    let other: Value = serde_json::from_str(&ok(at, &format!("{calibrate} --seed 9")).0).unwrap();
    assert_eq!(other["layers"], result["layers"]);

    let (text, _) = ok(at, "calibrate --checkpoint ann");
    let line = format!("without the {} images that the run of the ANN held out for validation", held.test.len());
    assert!(text.lines().any(|found| found == line) && text.lines().all(|line| line.chars().count() <= 80), "{text}");
}

/// Only an earlier result of the same command is replaced.
#[test]
fn a_file_of_somebody_else_is_not_replaced() {
    let folder = tempdir().unwrap();
    let at = folder.path();
    ok(at, "train -d digits-8x8 --widths 4,8 --blocks 1,1 --epochs 1 --neuron relu --out ann");
    let calibrate = "calibrate --checkpoint ann --batches 1 --out";
    ok(at, &format!("{calibrate} spiking.safetensors"));
    let first = std::fs::read(at.join("spiking.safetensors")).unwrap();
    ok(at, &format!("{calibrate} spiking.safetensors --quantile 0.5"));
    assert_ne!(std::fs::read(at.join("spiking.safetensors")).unwrap(), first);
    ok(at, "export --checkpoint spiking.safetensors --out network.safetensors");
    ok(at, "export --checkpoint spiking.safetensors --out network.safetensors --fold-norms");
    std::fs::copy(at.join("ann/best.safetensors"), at.join("mine.safetensors")).unwrap();
    std::fs::write(at.join("notes.txt"), "mine").unwrap();
    std::os::unix::fs::symlink("nowhere", at.join("link")).unwrap();
    std::fs::create_dir(at.join("folder")).unwrap();
    for (command, own, others) in [
        ("calibrate --checkpoint ann --batches 1", "calibrate", ["network.safetensors", "mine.safetensors", "notes.txt", "link", "folder"]),
        ("export --checkpoint spiking.safetensors", "export", ["spiking.safetensors", "mine.safetensors", "notes.txt", "link", "folder"]),
    ] {
        for name in others {
            let before = std::fs::read(at.join(name)).ok();
            let output = dsr(at, &format!("{command} --out {name}"));
            let stderr = String::from_utf8(output.stderr).unwrap();
            let words = format!("error: out: {name} is there already, and dsr {own} has not written it; give another name\n");
            let is_checkpoint = own == "export" && name.ends_with("safetensors");
            let is_said = if is_checkpoint { stderr.contains("is a checkpoint: choose another --out") } else { stderr == words };
            assert!(matches!(output.status.code(), Some(1 | 2)) && is_said, "{command} --out {name}: {stderr}");
            assert!(std::fs::read(at.join(name)).ok() == before, "{command} --out {name}");
        }
    }
    assert!(!at.join("nowhere").exists());
}
