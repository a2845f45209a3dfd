//! `dsr bench` as a user runs it: the real binary, tiny networks. What is timed is another matter: no number of seconds is checked.

use std::fs;
use std::process::{Command, Output};

use assert_cmd::cargo::cargo_bin;
use dsr::bench::decision::Decisions;
use dsr::bench::peaks::{Adding, Copying, Product};
use dsr::bench::{Case, RandomImages, Timing, Work, time_steps, usual_shape};
use dsr::device::{Device, Isa};
use dsr::network::{Input, Mode};
use dsr::ops::cross_entropy::first_largest;
use dsr::ops::rate::readout;
use dsr::settings::{Config, NeuronKind};
use serde_json::Value;
use tempfile::tempdir;

/// One case takes milliseconds.
const TINY: &str = "bench throughput --widths 4,8 --blocks 1,1 --image 8x8x1 -b 2 -T 2 --vth 1 --warmup 1 --repeats 2";

fn dsr(line: &str) -> Output {
    Command::new(cargo_bin("dsr")).args(line.split_whitespace()).output().unwrap()
}

fn ok(line: &str) -> String {
    let output = dsr(line);
    assert_eq!(output.status.code(), Some(0), "dsr {line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn json(line: &str) -> Value {
    let text = ok(&format!("{line} -o json"));
    assert_eq!(text.trim_end().lines().count(), 1, "one object on one line: {text:?}");
    serde_json::from_str(&text).unwrap()
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn a_case_has_all_its_numbers() {
    let result = json(&format!("{TINY} --threads 2 --seed 5 --repeats 3"));
    assert_eq!(keys(&result), ["cases", "header", "schema"]);
    assert_eq!(result["schema"], serde_json::json!({ "name": "dsr-bench-throughput", "version": 1 }));
    let header = &result["header"];
    let expected = [
        "build",
        "checkpoint",
        "commit",
        "cores",
        "cpu",
        "cuda_driver",
        "isa",
        "load",
        "nvcc",
        "rustc",
        "seed",
        "target",
        "threads",
        "version",
        "warmup",
    ];
    assert_eq!(keys(header), expected);
    assert_eq!((&header["seed"], &header["threads"], &header["warmup"]), (&5.into(), &2.into(), &1.into()));
    assert_eq!(header["version"], env!("CARGO_PKG_VERSION"));
    let cases = result["cases"].as_array().unwrap();
    assert_eq!(cases.iter().map(|case| case["mode"].as_str().unwrap()).collect::<Vec<_>>(), ["train", "infer"]);
    for case in cases {
        let expected = [
            "batch",
            "config",
            "dataset",
            "device",
            "device_bytes",
            "image",
            "images_per_second",
            "kept_bytes",
            "max_s",
            "mean_firing_rate",
            "median_s",
            "min_s",
            "mode",
            "model",
            "ms_per_image_and_step",
            "n",
            "neuron",
            "p25_s",
            "p75_s",
            "p95_s",
            "p99_s",
            "peak_rss_bytes",
            "threads",
            "time_steps",
            "vth",
            "weight_bits",
        ];
        assert_eq!(keys(case), expected);
        let number = |key: &str| case[key].as_f64().unwrap();
        assert_eq!(["n", "batch", "time_steps", "weight_bits", "threads", "vth"].map(number), [3.0, 2.0, 2.0, 16.0, 2.0, 1.0]);
        assert_eq!((&case["model"], &case["image"], &case["neuron"]), (&"preact-resnet-4-8".into(), &"8x8x1".into(), &"if".into()));
        let (min, median, max) = (number("min_s"), number("median_s"), number("max_s"));
        assert!(0.0 < min && min <= median && median <= max, "{case}");
        assert!((number("images_per_second") * median - 2.0).abs() < 1e-9, "{case}");
        assert!((number("ms_per_image_and_step") - 1000.0 * median / 4.0).abs() < 1e-9, "{case}");
        assert!(number("mean_firing_rate") > 0.0 && number("mean_firing_rate") < 1.0, "{case}");
        assert_eq!(number("kept_bytes") > 0.0, case["mode"] == "train", "{case}");
        if cfg!(target_os = "linux") {
            assert!(number("peak_rss_bytes") > 1e6 && number("peak_rss_bytes") < 1e8, "{case}");
        }
    }
    let again = json(&format!("{TINY} --threads 1 --seed 5 --repeats 3"));
    let other = json(&format!("{TINY} --threads 1 --seed 6 --repeats 3"));
    let rates =
        |result: &Value| result["cases"].as_array().unwrap().iter().map(|case| case["mean_firing_rate"].clone()).collect::<Vec<_>>();
    assert_eq!(rates(&again), rates(&result), "the same seed, the same network and images");
    assert_ne!(rates(&other), rates(&result));
}

#[test]
fn lists_make_the_product_of_cases() {
    let result = json(&format!("{TINY} --mode infer,train --neuron lif,if --weight-bits 16,8 -T 1,3 -b 2,1 --repeats 1 --warmup 0"));
    let cases = result["cases"].as_array().unwrap();
    let mut expected = Vec::new();
    for neuron in ["lif", "if"] {
        for bits in [16, 8] {
            for (steps, batch) in [(1, 2), (1, 1), (3, 2), (3, 1)] {
                expected.extend(["infer", "train"].map(|mode| format!("{mode} {neuron} {bits} {steps} {batch}")));
            }
        }
    }
    let shown = |case: &Value| {
        let text = |key: &str| case[key].to_string().replace('"', "");
        ["mode", "neuron", "weight_bits", "time_steps", "batch"].map(text).join(" ")
    };
    assert_eq!(cases.iter().map(shown).collect::<Vec<_>>(), expected);
}

#[test]
fn settings_come_from_recipes_files_and_flags() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("config.toml");
    fs::write(&file, "widths = [4, 8]\nblocks = [1, 1]\nneuron = \"lif\"\ntime_steps = 3\nvth = 0.7\nbatch = 1\nseed = 9\n").unwrap();
    let fast = "--image 8x8x1 --mode train --repeats 1 --warmup 0";
    let case = |line: &str| json(&format!("bench throughput {line} {fast}"))["cases"][0].clone();
    let from_file = case(&format!("--config {}", file.display()));
    let shown =
        |case: &Value| ["neuron", "time_steps", "vth", "batch", "model"].map(|key| case[key].to_string().replace('"', "")).join(" ");
    assert_eq!(shown(&from_file), "lif 3 0.7 1 preact-resnet-4-8");
    assert_eq!(shown(&case(&format!("--config {} -T 2 --neuron if --Vth 3", file.display()))), "if 2 3.0 1 preact-resnet-4-8");
    let defaults = case("--widths 4,8 -T 2");
    assert_eq!(shown(&defaults), "if 2 6.0 32 preact-resnet-4-8");
    assert_eq!(shown(&case("--widths 4,8 --neuron lif -T 2 -b 32")), "lif 2 0.3 32 preact-resnet-4-8");
    // Two blocks a stage without --blocks; a flag given twice counts as given last.
    let (two, one) = (case("--widths 4,8 --blocks 1,1 --blocks 2,2 -T 2"), case("--widths 4,8 --blocks 1,1 -T 1 -T 2"));
    assert_eq!(two["kept_bytes"], defaults["kept_bytes"]);
    assert!(one["kept_bytes"].as_u64() < two["kept_bytes"].as_u64(), "{one} {two}");
}

#[test]
fn tables_in_every_form() {
    let line = format!("{TINY} -T 1,2,3");
    let text = ok(&line);
    let widest = text.lines().map(|line| line.chars().count()).max().unwrap();
    assert!(widest <= 80, "{widest} columns: {text}");
    assert!(text.contains("n = 2 after 1 warm-up steps") && text.contains("preact-resnet-4-8, images 8x8x1"), "{text}");
    assert_eq!(text.lines().filter(|line| line.starts_with("train ")).count(), 3, "{text}");

    let markdown = ok(&format!("{line} -o md"));
    let table: Vec<&str> = markdown.lines().filter(|line| line.starts_with('|')).collect();
    assert_eq!(table.len(), 2 + 6, "{markdown}");
    assert!(table.iter().all(|line| line.matches('|').count() == 14), "{markdown}");

    let mut reader = csv::Reader::from_reader(ok(&format!("{line} --output csv")).into_bytes().leak() as &[u8]);
    let names = reader.headers().unwrap().clone();
    for name in ["mode", "median_s", "n", "cpu", "version", "commit", "seed", "warmup"] {
        assert!(names.iter().any(|n| n == name), "{name} is missing in {names:?}");
    }
    let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    assert_eq!((rows.len(), rows[1].get(0)), (6, Some("infer")));
}

#[test]
fn wrong_lines_say_what_is_wrong() {
    let cases: [(&str, &[&str]); 18] = [
        ("-T 0", &["time-steps", "0", "1..=255"]),
        ("-T 5,256", &["time-steps", "256"]),
        ("-T 5,,6", &["--time-steps"]),
        ("-b 2,0", &["batch", "0"]),
        ("-b x", &["--batch", "x"]),
        ("--weight-bits 16,7", &["weight-bits", "7"]),
        ("--neuron if,relu", &["relu", "--neuron"]),
        ("--mode run", &["run", "--mode"]),
        ("--vth 0", &["vth"]),
        ("--alpha -1", &["alpha", "-1"]),
        ("--lr 0", &["lr"]),
        ("--repeats 0", &["--repeats", "0"]),
        ("--warmup -1", &["--warmup", "-1"]),
        ("--blocks 1", &["widths", "[4, 8]", "[1]"]),
        ("--widths 4,0", &["widths", "[4, 0]"]),
        ("--image 8x8", &["--image", "32x32x3"]),
        ("--model preact-resnet18", &["--model", "--widths"]),
        ("--output xml", &["xml"]),
    ];
    for (flags, words) in cases {
        let output = dsr(&format!("{TINY} {flags}"));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{flags}: {stderr}");
        let error = stderr.lines().find(|line| line.starts_with("error: ")).unwrap_or_else(|| panic!("{flags}: no error in {stderr:?}"));
        assert!(words.iter().all(|word| error.contains(word)), "{flags}: {words:?} in {error:?}");
        assert!(output.stdout.is_empty(), "{flags}: nothing is measured if one of the cases is wrong");
    }
    let small = "bench throughput --model vgg11 --image 8x8x2";
    for line in ["bench", "bench throughput --model resnet18", small, "info -o xml"] {
        assert_eq!(dsr(line).status.code(), Some(2), "{line}");
    }
}

fn case(work: Work, neuron: NeuronKind) -> Case {
    let config = Config { model: "preact-resnet".into(), widths: vec![8, 16], blocks: vec![1, 1], neuron, batch: 6, ..Config::default() };
    let vth = if neuron == NeuronKind::If { 2.0 } else { 0.1 };
    Case { work, config: Config { vth, time_steps: 5, ..config }, shape: [12, 12, 3], device: Device::Cpu, trained: None }
}

/// An untrained network would be silent, or fire all the time, with the running statistics that it starts with.
#[test]
fn inference_fires_as_training_does() {
    for neuron in [NeuronKind::If, NeuronKind::Lif] {
        let [train, infer] = [Work::Train, Work::Infer].map(|work| time_steps(&case(work, neuron), 0, 1).unwrap().mean_firing_rate);
        assert!((infer / train - 1.0).abs() < 0.02 && train > 0.07, "{neuron:?}: {infer} in inference, {train} in training");
    }
}

#[test]
fn every_timed_step_is_counted() {
    let timing = time_steps(&case(Work::Infer, NeuronKind::If), 3, 4).unwrap();
    assert_eq!(timing.seconds.len(), 4);
    let of = |seconds: &[f64]| {
        let times = Timing { seconds: seconds.to_vec(), ..timing.clone() }.times();
        [times.min_s, times.p25_s, times.median_s, times.p75_s, times.p95_s, times.max_s].map(Option::unwrap)
    };
    assert_eq!(of(&[3.0, 1.0, 2.0]), [1.0, 1.5, 2.0, 2.5, 2.9, 3.0]);
    assert_eq!(of(&[4.0, 1.0, 2.0, 8.0])[..4], [1.0, 1.75, 3.0, 5.0]);
    assert_eq!(of(&[5.0]), [5.0; 6]);
}

#[test]
fn networks_get_the_images_of_their_paper() {
    let shapes = [("preact-resnet18", [32, 32, 3]), ("vgg11", [48, 48, 2]), ("imagenet-resnet50", [224, 224, 3])];
    for (model, expected) in shapes {
        assert_eq!(usual_shape(model), expected);
        let config = Config { model: model.into(), ..Config::default() };
        Case { work: Work::Train, config, shape: usual_shape(model), device: Device::Cpu, trained: None }.check().unwrap();
    }
    // Events: a frame a step.
    let config = Config { model: "vgg11".into(), time_steps: 2, batch: 1, ..Config::default() };
    let timing = time_steps(&Case { work: Work::Infer, config, shape: [48, 48, 2], device: Device::Cpu, trained: None }, 0, 1).unwrap();
    assert!(timing.mean_firing_rate > 0.0 && timing.kept_bytes == 0);
}

/// The spikes of the last layer up to step t give the logits of a run with T = t, bit for bit.
#[test]
fn the_first_steps_of_a_run_are_a_shorter_run() {
    for neuron in [NeuronKind::If, NeuronKind::Lif] {
        let whole = case(Work::Infer, neuron);
        let RandomImages { mut network, images, frames } = RandomImages::new(&whole, 9).unwrap();
        let input = Input { data: &images, batch: 9, frames };
        let last = network.layers.len() - 1;
        let spikes = network.forward(&input, Mode::Eval, |layer| layer == last).unwrap().spikes[last].take().unwrap();
        assert!(spikes.count() > 0);
        let mut decisions = Decisions::new(5);
        decisions.add(&mut network, &input, &[]).unwrap();
        let threshold = network.threshold(&network.layers[last]);
        for t in 1..=5 {
            network.time_steps = t;
            let logits = network.forward(&input, Mode::Eval, |_| false).unwrap().logits;
            let of_prefix = readout(network.neuron, threshold, &network.neuron.step_weights(t), &spikes.first_steps(t));
            let bits = |logits: &[f32]| logits.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&of_prefix), bits(&logits), "{neuron:?}, t = {t}");
            let predictions: Vec<u32> = logits.chunks_exact(network.classes).map(|logits| first_largest(logits) as u32).collect();
            assert_eq!((0..9).map(|sample| decisions.predictions[sample * 5 + t - 1]).collect::<Vec<_>>(), predictions);
        }
        assert!(decisions.add(&mut network, &input, &[]).is_ok() && decisions.len() == 18);
        network.time_steps = 4;
        assert!(decisions.add(&mut network, &input, &[]).is_err(), "another T");
    }
}

#[test]
fn a_decision_is_the_last_change() {
    let decisions = Decisions {
        time_steps: 4,
        #[rustfmt::skip]
        predictions: vec![
            2, 2, 2, 2,
            0, 1, 0, 1,
            0, 0, 3, 3,
        ],
        first_spikes: vec![Some(1), None, Some(3)],
        labels: vec![2, 0, 3],
        not_finite: None,
    };
    assert_eq!([0, 1, 2].map(|sample| decisions.decision(sample)), [1, 4, 3]);
    assert_eq!((decisions.mean_decision(), decisions.mean_first_spike()), (8.0 / 3.0, Some(2.0)));
    let curve: Vec<_> = decisions.curve().iter().map(|a| (a.t, a.correct.unwrap(), a.agreeing, a.decided, a.silent)).collect();
    assert_eq!(curve, [(1, 2, 1, 1, 2), (2, 1, 2, 1, 2), (3, 3, 2, 2, 1), (4, 2, 3, 3, 1)]);
    let unlabelled = Decisions { labels: Vec::new(), ..decisions };
    assert!(unlabelled.curve().iter().all(|after| after.correct.is_none()));
}

/// A peak counts only if the work was done.
#[test]
fn the_work_of_the_peaks_is_done() {
    let mut product = Product::default();
    assert!(product.run().iter().all(|v| *v == 512.0)); // 1024 products of 1 and 0.5, exact
    let mut copying = Copying::default();
    let bytes = copying.bytes();
    assert!(copying.run().iter().all(|v| *v == 1) && copying.update().iter().all(|v| *v == 2));
    assert_eq!(copying.run().len() as u64 * 8, bytes);
    for isa in Isa::available() {
        let (wide, narrow) = (Adding::new(3i32), Adding::new(3i16));
        // Every sum has as many summands as all additions have, over their number.
        let sums = wide.run(isa);
        let summands = wide.operations() / (sums.len() * 64) as u64;
        assert!(sums.iter().flatten().all(|sum| *sum as u64 == 3 * summands), "{isa:?}");
        assert!(narrow.run(isa).iter().flatten().all(|sum| *sum == (3 * summands) as i16), "{isa:?}");
        assert_eq!(narrow.operations(), wide.operations());
    }
}
