//! `dsr bench latency`, `decision`, `kernels` and `data`, and `dsr info --peaks`, as a user runs them: the real binary, tiny networks.
//! No number of seconds is checked.

#[path = "support/command.rs"]
mod command;
#[path = "support/recordings.rs"]
mod recordings;
#[path = "support/schema.rs"]
mod schema;

use std::path::Path;

use command::dsr;
use serde_json::{Value, json};
use tempfile::tempdir;

const NETWORK: &str = "--widths 4,8 --blocks 1,1 --image 8x8x1 --vth 1";
const FEW: &str = "--warmup 0 --repeats 3 --seconds 0.05";

fn ok_in(folder: &Path, line: &str) -> String {
    command::ok(folder, line).0
}

fn ok(line: &str) -> String {
    ok_in(Path::new("."), line)
}

/// The result as JSON, which fits the schema.
fn json_in(folder: &Path, line: &str) -> Value {
    let value: Value = serde_json::from_str(&ok_in(folder, &format!("{line} -o json"))).unwrap();
    assert_eq!(schema::problems("bench", &value), Vec::<String>::new(), "dsr {line}");
    value
}

fn json(line: &str) -> Value {
    json_in(Path::new("."), line)
}

fn cases(value: &Value) -> &[Value] {
    value["cases"].as_array().unwrap()
}

fn number(case: &Value, key: &str) -> f64 {
    case[key].as_f64().unwrap_or_else(|| panic!("{key} in {case}"))
}

/// Values of a field, in the order of the cases.
fn column<'a>(value: &'a Value, key: &str) -> Vec<&'a Value> {
    cases(value).iter().map(|case| &case[key]).collect()
}

/// Text of at most 100 columns, a Markdown table with a line a case, and CSV with a record a case.
fn every_form(line: &str, names: &[&str]) {
    let text = ok(line);
    let wide: Vec<&str> = text.lines().filter(|line| line.chars().count() > 100).collect();
    assert!(wide.is_empty(), "{line}: {wide:#?}");
    assert!(text.contains("settings of all cases:") && text.contains("seed=7"), "{line}: {text}");
    let cases = cases(&json(line)).len();
    let markdown = ok(&format!("{line} -o md"));
    let rows = markdown.lines().filter(|line| line.starts_with('|')).count();
    let tables = markdown.lines().filter(|line| line.starts_with("|--")).count();
    assert_eq!(rows - 2 * tables, cases, "{markdown}");
    let csv = ok(&format!("{line} -o csv"));
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    let header = reader.headers().unwrap().clone();
    for name in names.iter().chain(&["n", "median_s", "p99_s", "config", "version", "commit", "cpu", "seed", "warmup"]) {
        assert_eq!(header.iter().filter(|n| n == name).count(), 1, "{name} in {header:?}");
    }
    let records: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    assert_eq!(records.len(), cases);
    let config = header.iter().position(|name| name == "config").unwrap();
    assert!(records.iter().all(|r| serde_json::from_str::<Value>(&r[config]).unwrap()["seed"] == 7), "{csv}");
}

#[test]
fn latency_has_a_case_for_every_combination() {
    let result =
        json(&format!("bench latency {NETWORK} {FEW} -T 1,3 -b 1,2 --neuron lif --vth 0.01 --weight-bits 16,8 --threads 2 --device cpu"));
    let shown: Vec<String> =
        cases(&result).iter().map(|c| ["weight_bits", "time_steps", "batch"].map(|key| c[key].to_string()).join(" ")).collect();
    assert_eq!(shown, ["16 1 1", "16 1 2", "16 3 1", "16 3 2", "8 1 1", "8 1 2", "8 3 1", "8 3 2"]);
    for case in cases(&result) {
        let (batch, steps, median) = (number(case, "batch"), number(case, "time_steps"), 1e3 * number(case, "median_s"));
        assert!((number(case, "ms_per_sample") * batch / median - 1.0).abs() < 1e-9, "{case}");
        assert!((number(case, "ms_per_step") * steps / median - 1.0).abs() < 1e-9, "{case}");
        let order = ["min_s", "p25_s", "median_s", "p75_s", "p95_s", "p99_s", "max_s"].map(|key| number(case, key));
        assert!(order.is_sorted() && order[0] > 0.0, "{case}");
        assert!((1..=3).contains(&case["n"].as_u64().unwrap()) && case["path"] == "cpu" && case["kernels_n"] == 0, "{case}");
        assert!(case["kernels_median_s"].is_null() && number(case, "mean_firing_rate") > 0.0, "{case}");
        assert_eq!((&case["config"]["neuron"], &case["config"]["vth"]), (&json!("lif"), &json!(0.01)));
    }
    every_form(&format!("bench latency {NETWORK} {FEW} -T 1,2 --seed 7 --devices cpu"), &["path", "ms_per_step", "kernels_median_s"]);
}

#[test]
fn kernels_cover_every_op_at_every_shape() {
    let line = format!("bench kernels --widths 4,8 --blocks 1,1 --image 8x8x1 {FEW} -T 3 -b 2 --rate 0.25 --device cpu");
    let result = json(&line);
    for peak in ["gemm_flop", "memory_bytes", "adds_i32", "adds_i16"] {
        assert!(number(&result["header"], &format!("peak_{peak}_per_s")) > 1e6, "{peak}");
    }
    let ops: std::collections::BTreeSet<&str> = column(&result, "op").iter().map(|op| op.as_str().unwrap()).collect();
    let expected = [
        "batch_norm_backward",
        "clamp_mapping_backward",
        "conv_real",
        "data_gradient",
        "identity",
        "neuron",
        "optimizer",
        "pool",
        "quantize_weights",
        "rate_counts",
        "readout",
        "spike_conv",
        "statistics",
        "unpool",
        "weight_gradient",
    ];
    assert_eq!(ops.into_iter().collect::<Vec<_>>(), expected);
    let of = |op: &str| cases(&result).iter().filter(|case| case["op"] == op).collect::<Vec<_>>();
    // The 3x3 convolutions of the two blocks, the shortcut, the linear layer; two widths of weights, two states of the caches.
    let conv = of("spike_conv");
    let layers: u64 = conv.iter().map(|case| case["layers"].as_u64().unwrap()).sum();
    assert_eq!(layers, 4 * 6, "{conv:#?}");
    for case in cases(&result) {
        assert!(case["not_measured"].is_null() && number(case, "gb_per_s") > 0.0 && number(case, "share_of_peak") > 0.0, "{case}");
        let per_second = |key: &str| number(case, key) / number(case, "median_s") / 1e9;
        assert!((number(case, "gb_per_s") / per_second("bytes") - 1.0).abs() < 1e-9, "{case}");
        if case["operations"] != 0 {
            assert!((number(case, "gops_per_s") / per_second("operations") - 1.0).abs() < 1e-9, "{case}");
            assert!(number(case, "dense_operations") >= number(case, "operations"), "{case}");
        }
    }
    // A quarter of the spikes, and one addition where a dense evaluation multiplies and adds; less at the border.
    for case in conv.iter().filter(|case| case["shape"] == "4x8x8 to 4 3x3") {
        assert_eq!(case["dense_operations"], 2 * (2 * 3) * (64 * 9 * 4 * 4));
        let share = number(case, "operations") / number(case, "dense_operations");
        assert!((0.08..0.125).contains(&share), "{share}: {case}");
    }
    let some = json(&format!("{line} --op gradient,optim --cache warm"));
    let ops: std::collections::BTreeSet<&str> = column(&some, "op").iter().map(|op| op.as_str().unwrap()).collect();
    assert_eq!(ops.into_iter().collect::<Vec<_>>(), ["data_gradient", "optimizer", "weight_gradient"]);
    assert!(column(&some, "cache").iter().all(|cache| **cache == "warm"));
    every_form(&format!("{line} --op spike_conv,neuron --seed 7"), &["op", "shape", "cache", "share_of_peak", "peak_gemm_flop_per_s"]);
}

#[test]
fn data_counts_the_images_of_all_loaders() {
    let result = json(&format!("bench data -d digits-8x8 {FEW} --loaders 1,2 -b 100,7"));
    let shown: Vec<String> = cases(&result)
        .iter()
        .map(|c| ["split", "batch", "loaders", "images"].map(|key| c[key].to_string().replace('"', "")).join(" "))
        .collect();
    let expected = [
        "train 100 1 1437",
        "train 100 2 2874",
        "test 100 1 360",
        "test 100 2 720",
        "train 7 1 1437",
        "train 7 2 2874",
        "test 7 1 360",
        "test 7 2 720",
    ];
    assert_eq!(shown, expected);
    for case in cases(&result) {
        assert!((number(case, "images_per_second") * number(case, "median_s") / number(case, "images") - 1.0).abs() < 1e-9, "{case}");
    }
    every_form(&format!("bench data -d digits-8x8 {FEW} --seed 7"), &["dataset", "split", "loaders", "load_s"]);
}

/// The predictions of the first t steps are those of a run with T = t, as `eval` measures them.
#[test]
fn decisions_have_the_accuracy_of_eval_at_every_step() {
    let folder = tempdir().unwrap();
    let folder = folder.path();
    for (neuron, settings) in [("if", "--epochs 2"), ("lif", "--epochs 4 --vth 0.1 --lr 0.05")] {
        let run = format!("run-{neuron}");
        ok_in(folder, &format!("train -d digits-8x8 --widths 8 --blocks 1 --neuron {neuron} -T 4 -b 64 {settings} --quiet --out {run}"));
        let result = json_in(folder, &format!("bench decision --checkpoint {run} {FEW} --at 2,4 -b 3"));
        let eval: Value = serde_json::from_str(&ok_in(folder, &format!("eval --checkpoint {run} -T 1,2,3,4 -o json"))).unwrap();
        let expected: Vec<&Value> = eval["results"].as_array().unwrap().iter().map(|r| &r["top1"]).collect();
        assert_eq!(column(&result, "accuracy"), expected, "{neuron}");
        assert!(number(&cases(&result)[3], "accuracy") > 0.3, "{neuron}: the comparison needs a network that has learned something");
        assert_ne!(expected[0], expected[3], "{neuron}: and one whose predictions change");
        assert_eq!((&result["header"]["samples"], &cases(&result)[3]["dataset"]), (&json!(360), &json!("digits-8x8")));
        let last = &cases(&result)[3];
        assert_eq!((&last["agreeing"], &last["decided"]), (&json!(1.0), &json!(1.0)));
        let decided: Vec<f64> = cases(&result).iter().map(|case| number(case, "decided")).collect();
        assert!(decided.is_sorted(), "{decided:?}");
        let mean: f64 = 4.0 - decided[..3].iter().sum::<f64>();
        assert!((number(&result["header"], "mean_decision_step") - mean).abs() < 1e-9, "{mean}");
        let n: Vec<u64> = column(&result, "n").iter().map(|n| n.as_u64().unwrap()).collect();
        assert!(n[0] == 0 && n[1] > 0 && n[2] == 0 && n[3] > 0, "{n:?}: times where they were asked for");
    }
}

/// The firing rate is that of `eval` on the same samples; a new network has another.
#[test]
fn a_trained_network_is_timed_as_it_is() {
    let folder = tempdir().unwrap();
    let folder = folder.path();
    ok_in(folder, "train -d digits-8x8 --widths 4,8 --blocks 1,1 -T 2 -b 64 --epochs 2 -q --out run");
    let eval: Value = serde_json::from_str(&ok_in(folder, "eval --checkpoint run -T 1,2 -o json")).unwrap();
    let rate_of_eval = |steps: usize| number(&eval["results"][steps - 1], "mean_firing_rate");
    let latency = json_in(folder, &format!("bench latency --checkpoint run {FEW} -T 1,2 -b 1,360 --weight-bits 16,8"));
    assert_eq!((&latency["header"]["checkpoint"], cases(&latency).len()), (&json!("run/best.safetensors"), 8));
    for case in cases(&latency) {
        let named = ["dataset", "model", "image", "neuron"].map(|key| case[key].as_str().unwrap());
        assert_eq!(named, ["digits-8x8", "preact-resnet-4-8", "8x8x1", "if"]);
        if (&case["batch"], &case["weight_bits"]) == (&json!(360), &json!(16)) {
            let (rate, expected) = (number(case, "mean_firing_rate"), rate_of_eval(case["time_steps"].as_u64().unwrap() as usize));
            assert!((rate - expected).abs() < 1e-6, "{rate}, eval {expected}"); // means in 32 and 64 bits
        }
    }
    let throughput = json_in(folder, "bench throughput --checkpoint run/best.safetensors -b 360,400 --warmup 0 --repeats 1");
    assert_eq!(throughput["header"]["checkpoint"], "run/best.safetensors");
    let modes: Vec<&Value> = column(&throughput, "mode");
    assert_eq!(modes, ["train", "infer", "train", "infer"]);
    assert!((number(&cases(&throughput)[1], "mean_firing_rate") - rate_of_eval(2)).abs() < 1e-6, "{throughput}");
    let text = ok_in(folder, &format!("bench latency --checkpoint run {FEW}"));
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains("the network is that of run/best.safetensors, the images are the first test samples of digits-8x8"), "{text}");
    let csv = ok_in(folder, "bench throughput --checkpoint run --mode infer -b 3 --repeats 1 -o csv");
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    let row: std::collections::BTreeMap<String, String> = reader.deserialize().next().unwrap().unwrap();
    assert_eq!((row["checkpoint"].as_str(), row["dataset"].as_str()), ("run/best.safetensors", "digits-8x8"));
    // Beside the result of a new network, it is another case.
    std::fs::write(folder.join("new.json"), ok_in(folder, &format!("bench latency {NETWORK} {FEW} -T 2 -o json"))).unwrap();
    let compared = json_in(folder, &format!("bench latency --checkpoint run {FEW} --baseline new.json"));
    let count = |list: &str| compared["comparison"][list].as_array().unwrap().len();
    assert_eq!(["compared", "only_here", "only_in_baseline"].map(count), [0, 1, 1]);
    // Its thresholds are its own, whatever a file for new networks says: it is found again in an earlier result.
    std::fs::write(folder.join("c.toml"), "vth = 9.0\nvth_pooled = 8.0\n[if]\nvth_logits = 7.0\n").unwrap();
    std::fs::write(folder.join("own.json"), ok_in(folder, &format!("bench latency --checkpoint run {FEW} -o json"))).unwrap();
    for command in ["latency", "throughput --mode infer -b 3", "decision"] {
        let few = if command.starts_with("throughput") { "--warmup 0 --repeats 1" } else { FEW };
        let result = json_in(folder, &format!("bench {command} --checkpoint run {few} --config c.toml"));
        let own = |case: &Value| case["vth"] == 2.0 && case["config"]["vth"] == 2.0 && case["config"].get("vth_pooled").is_none();
        assert!(cases(&result).iter().all(own), "{command}: {result}");
    }
    let again = json_in(folder, &format!("bench latency --checkpoint run {FEW} --config c.toml --baseline own.json --fail-over 1000000%"));
    assert_eq!(again["comparison"]["compared"].as_array().unwrap().len(), 1, "{again}");
    for line in ["latency", "throughput", "throughput --mode infer", "decision"] {
        let output = dsr(folder, &format!("bench {line} --checkpoint run --seed 77"));
        let stderr = String::from_utf8(output.stderr).unwrap();
        let start = "error: seed: has no effect here: digits-8x8 has a test split of its own; leave --seed out\n";
        assert!(output.status.code() == Some(2) && stderr == start, "{line}: {stderr}");
    }

    ok_in(folder, "train -d digits-8x8 --neuron relu --widths 4 --blocks 1 -b 64 --epochs 1 -q --out ann");
    let refused = [
        ("--model vgg11", "error: model: network and images are those of the checkpoint; leave --model out"),
        ("--widths 4", "error: widths: "),
        ("--blocks 1", "error: blocks: "),
        ("--image 8x8x1", "error: image: "),
        ("--vth 1", "error: vth: has no effect on a trained network"),
        ("--tau 1", "error: tau: has no effect here: neurons of --neuron if do not leak"),
        ("--readout spikes", "error: readout: spikes: the checkpoint has a readout by current"),
        ("--data-dir .", "digits-8x8 is built in and reads no folder"),
        ("--checkpoint ann", "error: neuron: relu: an ANN has no spikes"),
        ("--checkpoint ann --neuron if", "error: neuron: if is not that of ann/best.safetensors, relu, "),
        ("--neuron if,lif", "error: neuron: lif is not that of run/best.safetensors, if, and a trained network is measured as it is"),
        ("--alpha 0.6", "error: alpha: 0.6 is not that of run/best.safetensors, 0.5, "),
        ("--checkpoint none", "error: none: there is no such checkpoint"),
    ];
    for (flags, start) in refused {
        let output = dsr(folder, &format!("bench latency --checkpoint run {flags}"));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() != Some(0) && stderr.contains(start) && stderr.lines().count() == 1, "{flags}: {stderr}");
    }
    ok_in(folder, "bench throughput --checkpoint ann -b 3 --repeats 1 --warmup 0");
}

/// Recordings have as many frames as steps, so samples are others for another T.
#[test]
fn a_trained_network_of_recordings_is_timed_with_every_number_of_steps() {
    let folder = tempdir().unwrap();
    let folder = folder.path();
    for (class, name) in ["ball", "cup"].iter().enumerate() {
        for split in ["train", "test"] {
            let inside = folder.join("tree").join(split).join(name);
            std::fs::create_dir_all(&inside).unwrap();
            for seed in 0..4 {
                let events = recordings::of_class(class, seed, 200, [16, 16]);
                std::fs::write(inside.join(format!("{seed}.dat")), recordings::dat([16, 16], &events)).unwrap();
            }
        }
    }
    ok_in(folder, "train -d events --data-dir tree --widths 4 --blocks 1 -T 2 -b 4 --epochs 1 -q --out run");
    std::fs::rename(folder.join("tree"), folder.join("moved")).unwrap();
    assert_eq!(dsr(folder, "bench latency --checkpoint run").status.code(), Some(1));
    let result = json_in(folder, &format!("bench latency --checkpoint run --data-dir moved {FEW} -T 1,2,3 -b 2"));
    assert_eq!(column(&result, "image"), ["16x16x2"; 3]);
    assert!(column(&result, "dataset").iter().all(|dataset| **dataset == "events moved"), "{result}");
}

#[test]
fn random_images_have_decisions_without_accuracy() {
    let line = format!("bench decision --widths 4,8 --blocks 1,1 -T 3 {FEW} --samples 70 --seed 7 --vth 0.5");
    let result = json(&line);
    assert_eq!(cases(&result).len(), 3);
    assert!(column(&result, "accuracy").iter().all(|accuracy| accuracy.is_null()) && result["header"]["samples"] == 70, "{result}");
    assert!(column(&result, "dataset").iter().all(|dataset| dataset.is_null()));
    every_form(&line, &["t", "agreeing", "silent", "mean_decision_step", "samples"]);
}

#[test]
fn peaks_are_measured() {
    let info: Value = serde_json::from_str(&ok("info --peaks --device cpu -o json")).unwrap();
    for peak in ["gemm_flop_per_s", "memory_bytes_per_s", "adds_i32_per_s", "adds_i16_per_s"] {
        assert!(number(&info["peaks"], peak) > 1e6, "{info}");
    }
    let text = ok("info --peaks --device cpu");
    assert!(["peak, gemm", "GFLOP/s", "peak, memory", "GB/s", "peak, add32", "rustc"].iter().all(|word| text.contains(word)), "{text}");
    assert!(!ok("info").contains("peak,"), "measuring takes time that was not asked for");
}

#[test]
fn wrong_lines_say_what_is_wrong() {
    let latency = format!("bench latency {NETWORK}");
    let lines: [(String, &[&str]); 15] = [
        (format!("{latency} --seconds 0"), &["seconds", "0"]),
        (format!("{latency} --seconds nan"), &["seconds"]),
        (format!("{latency} --repeats 0"), &["--repeats"]),
        (format!("{latency} -T 0"), &["time-steps"]),
        (format!("{latency} --devices cpu,gpu"), &["--devices", "cuda:N"]),
        (format!("{latency} --fail-over 5%"), &["--baseline"]),
        (format!("{latency} --baseline none.json --fail-over much"), &["--fail-over", "5%"]),
        ("bench kernels --widths 4 --rate 1.5".into(), &["rate", "1.5", "0..=1"]),
        ("bench kernels --widths 4 --op nope".into(), &["op: no op has 'nope' in its name; known are conv_real, quantize_weights"]),
        ("bench kernels --widths 4 --op spike_conv,nope".into(), &["op: no op has 'nope'"]),
        ("bench kernels --widths 4 --cache hot".into(), &["--cache", "hot"]),
        ("bench data -d no-such-set".into(), &["no-such-set", "digits-8x8"]),
        ("bench decision -d digits-8x8".into(), &["dataset", "--checkpoint"]),
        ("bench decision --widths 4 --blocks 1 -T 3 --at 4".into(), &["at", "4", "1..=3"]),
        ("bench decision --widths 4 --blocks 1 --samples 0".into(), &["samples", "0"]),
    ];
    for (line, words) in lines {
        let output = dsr(Path::new("."), &line);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{line}: {stderr}");
        assert!(words.iter().all(|word| stderr.contains(word)) && output.stdout.is_empty(), "{line}: {words:?} in {stderr:?}");
    }
    let output = dsr(Path::new("."), "bench decision --checkpoint no-such.safetensors");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no-such.safetensors"));
}
