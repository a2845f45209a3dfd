//! `dsr train`, `eval` and `bench` on a CUDA device, as a user runs them: the real binary, on the driver stand-in.

#[path = "support/schema.rs"]
mod schema;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use assert_cmd::cargo::cargo_bin;
use serde_json::Value;
use tempfile::tempdir;

/// A network small enough for the stand-in: six steps an epoch, the last of them smaller.
const TINY: &str = "train -d digits-8x8 --widths 4 --blocks 1 -T 2 -b 256 --readout spikes --epochs 1 --quiet";

fn dsr(folder: &Path, line: &str, variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(cargo_bin("dsr"));
    command.current_dir(folder).args(line.split_whitespace()).env("LD_LIBRARY_PATH", emulator::directory());
    command.envs(variables.iter().copied()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn ok(folder: &Path, line: &str) -> String {
    let output = dsr(folder, line, &[]);
    assert_eq!(output.status.code(), Some(0), "dsr {line}: {}", text(&output.stderr));
    text(&output.stdout)
}

fn json(text: &str) -> Value {
    serde_json::from_str(text.trim()).unwrap_or_else(|e| panic!("{e}: {text:?}"))
}

/// A run on the device, stopped and resumed, leaves the bytes of one that was not; the checkpoint says the same on both devices.
#[test]
fn a_run_can_be_stopped_resumed_and_evaluated() {
    let folder = tempdir().unwrap();
    let folder = folder.path();
    ok(folder, &format!("{TINY} --device cuda --crop-pad 1 --out whole"));
    let stopped = dsr(folder, &format!("{TINY} --device cuda --crop-pad 1 --out parts --stop-after-steps 3"), &[]);
    assert_eq!(stopped.status.code(), Some(1), "{}", text(&stopped.stderr));
    ok(folder, "train --resume auto --out parts --device cuda --quiet");
    let last = |run: &str| fs::read(folder.join(run).join("last.safetensors")).unwrap();
    assert!(last("whole") == last("parts"), "a stop in the middle of an epoch changed the checkpoint");
    let numbers = |device: &str| {
        let mut table =
            json(&ok(folder, &format!("eval --checkpoint whole/last.safetensors --rates --ties current --device {device} -o json")));
        strip_times(&mut table);
        table
    };
    let on_cuda = numbers("cuda");
    assert!(on_cuda.to_string().contains("top1"), "{on_cuda}");
    assert_eq!(on_cuda, numbers("cpu"), "the same bits give the same table");
    ok(folder, "data sheet -d digits-8x8 --out sheet.png");
    let classified = |device: &str| {
        json(&ok(folder, &format!("classify sheet.png --checkpoint whole/last.safetensors --top 10 --device {device} -o json")))["pictures"]
            .take()
    };
    assert_eq!(classified("cuda"), classified("cpu"), "and of a picture the same logits");
}

/// As an ANN: the same bytes after a stop, the accuracy of the CPU, thresholds from the activations, and its throughput.
#[test]
fn an_ann_is_trained_evaluated_and_calibrated() {
    let folder = tempdir().unwrap();
    let folder = folder.path();
    let tiny = "train -d digits-8x8 --neuron relu --widths 4 --blocks 1 -b 64 --epochs 1 --crop-pad 0 --quiet --device cuda";
    ok(folder, &format!("{tiny} --out whole"));
    let stopped = dsr(folder, &format!("{tiny} --out parts --stop-after-steps 9"), &[]);
    assert_eq!(stopped.status.code(), Some(1), "{}", text(&stopped.stderr));
    ok(folder, "train --resume auto --out parts --neuron relu --device cuda --quiet");
    let read = |file: &str| fs::read(folder.join(file)).unwrap();
    assert!(read("whole/last.safetensors") == read("parts/last.safetensors"), "a stop in the middle of an epoch changed the checkpoint");

    let of = |device: &str| json(&ok(folder, &format!("eval --checkpoint whole/last.safetensors --device {device} -o json")));
    let (cuda, cpu) = (of("cuda"), of("cpu"));
    assert!(cuda["device"].as_str().unwrap().starts_with("cuda:0 ("), "{cuda}");
    let top1 = |table: &Value| table["results"][0]["top1"].as_f64().unwrap();
    // Operands of bf16 may decide a few of 360 images.
    assert!(top1(&cuda) > 0.2 && (top1(&cuda) - top1(&cpu)).abs() < 0.02, "{cuda} {cpu}");

    let of = |device: &str| json(&ok(folder, &format!("calibrate --checkpoint whole -b 256 --batches 2 --device {device} -o json")));
    let (cuda, cpu) = (of("cuda"), of("cpu"));
    assert_eq!(cuda["images"], 512);
    for (cuda, cpu) in cuda["layers"].as_array().unwrap().iter().zip(cpu["layers"].as_array().unwrap()) {
        assert_eq!(cuda["layer"], cpu["layer"]);
        let [cuda, cpu] = [cuda, cpu].map(|layer| layer["threshold"].as_f64().unwrap());
        assert!((cuda - cpu).abs() < 0.02 * cpu, "{cuda} on the device, {cpu} on the CPU");
    }

    let line = "bench throughput --neuron relu --mode train,infer --widths 4 --blocks 1 -b 2 --image 8x8x1 --warmup 1 --repeats 1 -o json";
    let result = json(&ok(folder, &format!("{line} --device cuda")));
    for case in result["cases"].as_array().unwrap() {
        assert!(case["device"].as_str().unwrap().starts_with("cuda:0 (") && case["median_s"].as_f64().unwrap() > 0.0, "{case}");
    }
}

/// Thresholds are chosen on the CPU before the network goes to the device, which starts from them.
#[test]
fn chosen_thresholds_are_those_of_the_cpu() {
    let folder = tempdir().unwrap();
    let folder = folder.path();
    let read = |run: &str, name: &str| fs::read_to_string(folder.join(run).join(name)).unwrap();
    for device in ["cpu", "cuda"] {
        // A learning rate of almost nothing: after the epoch the thresholds are still those of the start.
        ok(folder, &format!("{TINY} --device {device} --threshold-init auto --vth 6 --lr 1e-30 --wd 0 --out {device}"));
    }
    assert_eq!(read("cpu", "thresholds.jsonl"), read("cuda", "thresholds.jsonl"));
    let trained = json(&read("cuda", "metrics.jsonl"));
    let chosen = read("cuda", "thresholds.jsonl");
    let layers = trained["layers"].as_array().unwrap();
    assert_eq!(layers.len(), chosen.lines().count());
    for (layer, chosen) in layers.iter().zip(chosen.lines().map(json)) {
        assert_eq!(layer["name"], chosen["layer"]);
        let [is, was] = [&layer["threshold"], &chosen["threshold"]].map(|threshold| threshold.as_f64().unwrap());
        assert!((is - was).abs() < 1e-6 * was, "{layer} {chosen}");
    }
}

/// Removes what differs from run to run: times, and where it ran.
fn strip_times(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|key, _| !key.contains("second") && !key.contains("device") && !key.ends_with("_s"));
            map.values_mut().for_each(strip_times);
        }
        Value::Array(list) => list.iter_mut().for_each(strip_times),
        _ => {}
    }
}

#[test]
fn benchmarks_name_the_device() {
    let folder = tempdir().unwrap();
    let line =
        "bench throughput --mode train,infer --widths 4 --blocks 1 -b 2 -T 2 --image 8x8x1 --warmup 1 --repeats 1 -o json --device cuda";
    let result = json(&ok(folder.path(), line));
    let cases = result["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 2);
    for case in cases {
        assert!(case["device"].as_str().unwrap().starts_with("cuda:0 ("), "{case}");
        assert!(case["median_s"].as_f64().unwrap() > 0.0 && case["mean_firing_rate"].as_f64().unwrap() > 0.0, "{case}");
    }
}

/// Every case by graph and kernel by kernel, with the time of the kernels; what fires is what fires on the CPU.
#[test]
fn latency_is_that_of_the_host_and_of_the_kernels() {
    let folder = tempdir().unwrap();
    let line = "bench latency --devices cpu,cuda --widths 4 --blocks 1 -b 2 -T 1,2 --image 8x8x1 --warmup 1 --repeats 2 --vth 1 -o json";
    let result = json(&ok(folder.path(), line));
    assert_eq!(schema::problems("bench", &result), Vec::<String>::new());
    let cases = result["cases"].as_array().unwrap();
    let shown = |case: &Value| format!("{} {}", case["path"].as_str().unwrap(), case["time_steps"]);
    assert_eq!(cases.iter().map(shown).collect::<Vec<_>>(), ["cpu 1", "cpu 2", "graph 1", "launches 1", "graph 2", "launches 2"]);
    for case in &cases[2..] {
        assert_eq!((&case["n"], &case["kernels_n"]), (&2.into(), &2.into()), "{case}");
        assert!(case["kernels_median_s"].as_f64().unwrap() > 0.0, "{case}");
        let on_cpu = cases.iter().find(|cpu| cpu["path"] == "cpu" && cpu["time_steps"] == case["time_steps"]).unwrap();
        assert_eq!(case["mean_firing_rate"], on_cpu["mean_firing_rate"], "{case}");
    }
}

#[test]
fn decisions_are_those_of_the_cpu() {
    let folder = tempdir().unwrap();
    ok(folder.path(), &format!("{TINY} --device cpu --out run"));
    let of = |device: &str| {
        let line = format!("bench decision --checkpoint run -T 3 --samples 70 --at 2 --warmup 0 --repeats 1 -o json --device {device}");
        let result = json(&ok(folder.path(), &line));
        assert_eq!(schema::problems("bench", &result), Vec::<String>::new());
        result
    };
    let (cpu, cuda) = (of("cpu"), of("cuda"));
    assert!(cuda["cases"][1]["kernels_median_s"].as_f64().unwrap() > 0.0, "{cuda}");
    for key in ["mean_decision_step", "mean_first_spike_step", "samples"] {
        assert_eq!(cpu["header"][key], cuda["header"][key], "{key}");
    }
    for (cpu, cuda) in cpu["cases"].as_array().unwrap().iter().zip(cuda["cases"].as_array().unwrap()) {
        for key in ["t", "accuracy", "agreeing", "decided", "silent"] {
            assert_eq!(cpu[key], cuda[key], "{key}");
        }
    }
}

/// What can be launched alone has times; the rest is named.
#[test]
fn kernels_are_timed_or_named() {
    let folder = tempdir().unwrap();
    let line = "bench kernels --device cuda --widths 4,8 --blocks 1,1 --image 8x8x1 -b 2 -T 2 --warmup 0 --repeats 1 -o json";
    // The copy that shows the peak takes an eighth of the memory.
    let output = dsr(folder.path(), line, &[("DSR_STANDIN_MEMORY", "67108864")]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let result = json(&text(&output.stdout));
    assert_eq!(schema::problems("bench", &result), Vec::<String>::new());
    assert!(result["header"]["peak_cuda_memory_bytes_per_s"].as_f64().unwrap() > 0.0, "{}", result["header"]);
    let cases = result["cases"].as_array().unwrap();
    let named = |is_measured: bool| {
        let of = cases.iter().filter(|case| case["not_measured"].is_null() == is_measured);
        of.map(|case| case["op"].as_str().unwrap()).collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(" ")
    };
    let measured = "conv_real data_gradient neuron optimizer quantize_weights readout spike_conv_neurons spike_conv_statistics \
                    spike_conv_sums statistics transpose_weights weight_gradient";
    assert_eq!(named(true), measured);
    assert_eq!(named(false), "batch_norm_backward clamp_mapping_backward identity rate_counts unpool");
    for case in cases {
        assert_eq!(case["n"], if case["not_measured"].is_null() { 1 } else { 0 }, "{case}");
        let holds_against_memory = case["bound"] == "memory" && case["not_measured"].is_null();
        assert_eq!(case["share_of_peak"].is_number(), holds_against_memory, "{case}");
    }
    // A pool in front of a convolution has counts of its own.
    let vgg = "bench kernels --device cuda --model vgg11 --image 32x32x2 -b 1 -T 1 --warmup 0 --repeats 1 --op pool_counts -o json";
    let pools = json(&ok(folder.path(), vgg));
    assert!(!pools["cases"].as_array().unwrap().is_empty(), "{pools}");
}

/// Out of memory is said before the first step, in one line, and leaves no run folder with a checkpoint.
#[test]
fn too_little_memory_is_said_before_the_first_step() {
    let folder = tempdir().unwrap();
    for (line, memory) in
        [(format!("{TINY} --device cuda --out run"), "600000"), (format!("{TINY} --device cuda --out run -b 1000"), "9000000")]
    {
        let output = dsr(folder.path(), &line, &[("DSR_STANDIN_MEMORY", memory)]);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{line}: {stderr}");
        assert!(stderr.contains("out of memory: asked for") && stderr.contains("free"), "{line}: {stderr}");
        assert_eq!(stderr.lines().filter(|l| l.starts_with("error: ")).count(), 1, "{stderr}");
        assert!(!folder.path().join("run/last.safetensors").exists());
    }
}

/// Where stored sums do not fit, they are computed twice, with the same result.
#[test]
fn less_memory_takes_the_other_way_through_a_layer() {
    let folder = tempdir().unwrap();
    let line = "bench throughput --mode train --widths 32 --blocks 1 -b 2 -T 33 --image 8x8x1 --warmup 0 --repeats 1 -o json --device cuda";
    let case = |memory: usize| {
        let output = dsr(folder.path(), line, &[("DSR_STANDIN_MEMORY", &memory.to_string())]);
        assert_eq!(output.status.code(), Some(0), "{memory} bytes: {}", text(&output.stderr));
        json(&text(&output.stdout))["cases"][0].clone()
    };
    let plenty = case(1 << 30);
    let needed = plenty["device_bytes"].as_u64().unwrap() as usize;
    let less = case(needed - needed / 16);
    assert!(less["device_bytes"].as_u64().unwrap() < needed as u64 * 3 / 4, "{less}");
    assert_eq!(less["mean_firing_rate"], plenty["mean_firing_rate"]);
}

#[test]
fn a_device_that_is_not_there_is_one_line() {
    let folder = tempdir().unwrap();
    for command in [format!("{TINY} --out run"), "bench throughput --model preact-resnet18".into()] {
        let output = dsr(folder.path(), &format!("{command} --device cuda:7"), &[]);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("cuda:7") && stderr.contains("no such device"), "{stderr}");
        let output = dsr(folder.path(), &format!("{command} --device cuda"), &[("DSR_STANDIN_DEVICES", "0")]);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    }
    assert!(!folder.path().join("run").exists(), "nothing is written before the device is there");
}

/// On a device every layer of a profiled step has its time, and all rows add up.
#[test]
fn a_profile_has_the_layers_of_a_device() {
    let folder = tempdir().unwrap();
    for mode in ["train", "infer"] {
        let line =
            format!("profile -d digits-8x8 --widths 4 --blocks 1 -T 2 -b 4 --steps 1 --warmup 1 --mode {mode} --device cuda -o json");
        let profile = json(&ok(folder.path(), &line));
        assert!(profile["device"].as_str().unwrap().starts_with("cuda:0 ("), "{}", profile["device"]);
        let number = |value: &Value| value.as_u64().unwrap();
        let rows = profile["rows"].as_array().unwrap();
        let total: u64 = rows.iter().map(|row| number(&row["time_ns"])).sum();
        assert_eq!(total + number(&profile["not_accounted_ns"]), number(&profile["wall_ns"]["shown"]), "{mode}");
        for layer in profile["layers"].as_array().unwrap() {
            assert!(number(&layer["forward_ns"]) > 0, "{mode}: {layer}");
            assert_eq!(number(&layer["backward_ns"]) > 0, mode == "train", "{mode}: {layer}");
        }
        let has = |op: &str| rows.iter().any(|row| row["op"] == op);
        assert!(has("copy") && has("kernels") && has("update") == (mode == "train"), "{mode}: {rows:?}");
    }
}
