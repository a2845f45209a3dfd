//! `dsr profile`: rows that add up, traces that nest, predictions worked by hand, potentials that fire when the engine does.

#[path = "support/command.rs"]
mod command;
#[path = "support/schema.rs"]
mod schema;

use std::fs;
use std::path::Path;

use command::dsr;
use dsr::bench::Work;
use dsr::clock::{Name, Op, Phase, Sampler, Span, listen, op, span};
use dsr::device::{Device, Products};
use dsr::network::{Builder, Conv, Init, Input, Mode, Network, Source, WeightGradient, preact_resnet};
use dsr::ops::neuron::Neuron;
use dsr::ops::spike_conv::cost::Code;
use dsr::profile::predict::{GpuName, predict};
use dsr::profile::{Images, Subject, profile, rows};
use dsr::settings::{Config, NeuronKind};
use serde_json::Value;
use tempfile::tempdir;

const TINY: &str = "profile -d digits-8x8 --widths 4,8 --blocks 1,1 -T 3 -b 8 --steps 2 --warmup 1 --device cpu";

fn ok(folder: &Path, line: &str) -> String {
    command::ok(folder, line).0
}

fn json(text: &str) -> Value {
    assert_eq!(text.trim_end().lines().count(), 1, "one object on one line: {text:?}");
    serde_json::from_str(text).unwrap()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("not a number: {value}"))
}

/// Rows and what is not accounted for are the wall time, to the nanosecond; so are layers, and work outside of them.
#[test]
fn rows_add_up_to_the_wall_time() {
    let folder = tempdir().unwrap();
    let cases = ["--mode train", "--mode infer", "--mode train --neuron lif --threads 2", "--mode infer --weight-bits 8 --threads 1"];
    for flags in cases {
        let profile = json(&ok(folder.path(), &format!("{TINY} {flags} -o json")));
        let rows = profile["rows"].as_array().unwrap();
        let of = |keep: &dyn Fn(&Value) -> bool| rows.iter().filter(|row| keep(row)).map(|row| number(&row["time_ns"])).sum::<u64>();
        let (wall, left) = (number(&profile["wall_ns"]["shown"]), number(&profile["not_accounted_ns"]));
        assert_eq!(of(&|_| true) + left, wall, "{flags}");
        let layers = profile["layers"].as_array().unwrap();
        let in_layers: u64 = layers.iter().map(|layer| number(&layer["forward_ns"]) + number(&layer["backward_ns"])).sum();
        assert_eq!(in_layers + of(&|row| row["layer"].is_null()) + left, wall, "{flags}");
        assert!(profile["wall_ns"]["with_timers"].as_array().unwrap().contains(&wall.into()), "{flags}: the step shown was taken");
        let has = |op: &str| rows.iter().any(|row| row["op"] == op);
        for op in ["wait", "input_convolution", "spike_convolution", "identity", "neurons", "normalizer", "readout"] {
            assert!(has(op), "{flags}: {op} is missing");
        }
        for op in ["cross_entropy", "clamp_mapping", "weight_gradient", "data_gradient", "update", "quantize", "statistics"] {
            assert_eq!(has(op), flags.contains("train"), "{flags}: {op}");
        }
        let kept: u64 = layers.iter().map(|layer| number(&layer["kept_bytes"])).sum();
        assert_eq!(kept > 0, flags.contains("train"), "{flags}");
        for layer in layers {
            let rates: Vec<f64> = layer["rates_by_step"].as_array().unwrap().iter().map(|rate| rate.as_f64().unwrap()).collect();
            let mean = rates.iter().sum::<f64>() / 3.0;
            let is_readout = layer["layer"].as_str().unwrap().ends_with(" (readout)"); // has no neurons
            assert!(is_readout || rates.len() == 3 && (mean - layer["firing_rate"].as_f64().unwrap()).abs() < 1e-6, "{flags}: {layer}");
            assert!(number(&layer["operations"]) <= number(&layer["dense_operations"]), "{flags}: {layer}");
        }
    }
}

/// Made-up spans: own time is what children leave, and a shared loop is split to the last nanosecond.
#[test]
fn spans_become_rows() {
    let of = |name, parent, start, end, seen: &[(Op, u64)]| Span { name, parent, start, end, seen: seen.to_vec(), peak_rss: None };
    let spans = [
        of(Name::Phase(Phase::Forward), None, 10, 110, &[]),
        of(Name::Layer(0), Some(0), 20, 100, &[]),
        of(Name::Op(Op::Neurons), Some(1), 30, 80, &[(Op::SpikeConvolution, 2), (Op::Neurons, 1)]),
        of(Name::Op(Op::Readout), Some(1), 80, 95, &[]),
        of(Name::Op(Op::Neurons), Some(1), 95, 98, &[(Op::Neurons, 7)]),
    ];
    let (rows, left) = rows(&spans, 120);
    let found: Vec<_> = rows.iter().map(|row| (row.layer, row.op, row.calls, row.nanoseconds, row.is_shared)).collect();
    let expected = [
        (None, Op::Rest, 1, 20, false),
        (Some(0), Op::Rest, 1, 12, false),
        (Some(0), Op::SpikeConvolution, 1, 33, true),
        (Some(0), Op::Neurons, 2, 20, true),
        (Some(0), Op::Readout, 1, 15, false),
    ];
    assert_eq!(found, expected);
    assert_eq!(left, 20);
    assert!(rows.iter().all(|row| row.phase == Some(Phase::Forward)));
}

#[test]
fn spans_are_kept_only_while_somebody_listens() {
    assert_eq!(op(Op::Update, || 3), 3);
    let (result, spans, wall) = listen(false, || {
        let _phase = span(Name::Phase(Phase::Forward));
        let sampler = Sampler::new();
        op(Op::Neurons, || (0..100).map(|position| sampler.time(position, Op::Statistics, || position)).sum::<usize>())
    });
    assert_eq!((result, spans.len()), (4950, 2));
    assert_eq!((spans[1].parent, spans[1].name), (Some(0), Name::Op(Op::Neurons)));
    assert!(spans[0].start <= spans[1].start && spans[1].end <= spans[0].end && spans[0].end <= wall, "{spans:?}");
    assert!(listen(false, || ()).1.is_empty(), "nothing of the last time is left");
}

/// Timers change nothing: the same parameters after the same steps.
#[test]
fn timers_change_no_result() {
    let config =
        Config { model: "preact-resnet".into(), widths: vec![4, 6], blocks: vec![1, 1], time_steps: 3, batch: 4, ..Config::default() };
    let images = Images::Random { shape: [6, 6, 2], classes: 3 };
    let run = |with_timers: bool| {
        let mut subject = Subject::new(Work::Train, config.clone(), images.clone(), None, &Device::Cpu).unwrap();
        for _ in 0..3 {
            if with_timers { listen(true, || subject.step()).0.unwrap() } else { subject.step().unwrap() }
        }
        subject.network.values
    };
    assert_eq!(run(true), run(false));
}

/// The trace is one step, in which every event lies within another; phases and what is left over add up to it.
#[test]
fn traces_nest_and_add_up() {
    let folder = tempdir().unwrap();
    let profile = json(&ok(folder.path(), &format!("{TINY} --trace step.json -o json")));
    let trace: Value = serde_json::from_str(&fs::read_to_string(folder.path().join("step.json")).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let metadata: Vec<&str> = events.iter().filter(|e| e["ph"] == "M").map(|e| e["name"].as_str().unwrap()).collect();
    assert_eq!(metadata, ["process_name", "thread_name"]);
    let complete: Vec<&Value> = events.iter().filter(|e| e["ph"] == "X").collect();
    assert_eq!(complete.len() + 2, events.len(), "no other kind of event");
    let mut open: Vec<(f64, f64)> = Vec::new();
    for event in &complete {
        let (start, time) = (event["ts"].as_f64().unwrap(), event["dur"].as_f64().unwrap());
        assert!(event["pid"] == 1 && event["tid"] == 1 && time >= 0.0 && !event["name"].as_str().unwrap().is_empty(), "{event}");
        while open.last().is_some_and(|around| start >= around.1 - 1e-6 && around.1 < open[0].1) {
            open.pop();
        }
        if let Some(around) = open.last() {
            assert!(start >= around.0 - 1e-6 && start + time <= around.1 + 1e-6, "{event} is not within {around:?}");
        }
        open.push((start, start + time));
    }
    let total = |category: &str| complete.iter().filter(|e| e["cat"] == category).map(|e| number(&e["args"]["nanoseconds"])).sum::<u64>();
    let wall = number(&profile["wall_ns"]["shown"]);
    assert_eq!((total("step"), total("phase") + number(&profile["not_accounted_ns"])), (wall, wall));
    for layer in profile["layers"].as_array().unwrap() {
        let both = number(&layer["forward_ns"]) + number(&layer["backward_ns"]);
        let of_layer = complete.iter().filter(|e| e["cat"] == "layer" && e["name"] == layer["layer"]);
        assert_eq!(of_layer.map(|e| number(&e["args"]["nanoseconds"])).sum::<u64>(), both, "{layer}");
    }
}

/// Every line fits 80 columns, whatever is asked for.
#[test]
fn tables_fit_and_say_what_they_are() {
    let folder = tempdir().unwrap();
    for (flags, words) in [
        ("--by layer", &["not accounted for", "wall time", "training step of preact-resnet-4-8", "seed 0", "optimizer: quantise"][..]),
        ("--by op --mode infer", &["inference of preact-resnet-4-8", "spike convolution *", "neurons *", "GB/s"]),
        ("--by op --predict b200", &["Prediction for B200", "not measured", "optimiser"]),
    ] {
        let text = ok(folder.path(), &format!("{TINY} {flags}"));
        for word in words {
            assert!(text.contains(word), "{flags}: {word:?} is missing in\n{text}");
        }
        let long: Vec<&str> = text.lines().filter(|line| line.chars().count() > 80).collect();
        assert!(long.is_empty(), "{flags}: {long:?}");
    }
    let csv = ok(folder.path(), &format!("{TINY} --seed 7 -o csv"));
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    let column = |name: &str, heads: &csv::StringRecord| heads.iter().position(|head| head == name).unwrap();
    let heads = reader.headers().unwrap().clone();
    let records: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    let kinds: Vec<&str> = records.iter().map(|record| &record[column("row", &heads)]).collect();
    let time = |kind: &[&str]| -> u64 {
        let rows = records.iter().zip(&kinds).filter(|(_, found)| kind.contains(found));
        rows.map(|(record, _)| record[column("time_ns", &heads)].parse::<u64>().unwrap()).sum()
    };
    assert_eq!(kinds.iter().filter(|kind| **kind == "layer").count(), 12, "{csv}");
    assert_eq!(time(&["op", "not_accounted"]), time(&["wall_time"]), "{csv}");
    let csv = ok(folder.path(), &format!("{TINY} --predict h100 -o csv"));
    assert_eq!(csv.lines().filter(|line| line.starts_with("prediction,")).count(), 13, "{csv}");
    assert!(ok(folder.path(), &format!("{TINY} -o md")).contains("| row | phase |"));
    assert!(records.iter().all(|record| &record[column("seed", &heads)] == "7" && &record[column("time_steps", &heads)] == "3"));
}

/// The load stands beside the numbers, and what timers cost is said only where it is more than noise.
#[test]
fn noise_is_no_headline() {
    use dsr::profile::Wall;
    let wall = |overhead, spread, steps| Wall { shown: 1, with_timers: vec![1; steps], without_timers: vec![1; steps], overhead, spread };
    let cases = [(0.02, 0.01, 5, Some(0.02)), (0.02, 0.03, 5, None), (-0.1358, 0.01, 5, None), (0.02, 0.0, 1, None)];
    for (overhead, spread, steps, expected) in cases {
        assert_eq!(wall(overhead, spread, steps).measured_overhead(), expected, "{overhead} {spread} {steps}");
    }
    let folder = tempdir().unwrap();
    let text = ok(folder.path(), &format!("{TINY} --steps 1"));
    assert!(text.contains("timers cost less than can be measured here"), "{text}");
    assert!(!cfg!(target_os = "linux") || text.contains(" before\n"), "the load before: {text}");
}

#[test]
fn wrong_settings_are_one_line() {
    let folder = tempdir().unwrap();
    let cases = [
        ("profile --steps 0", 2, "--steps"),
        ("profile --predict v100", 2, "v100"),
        ("profile -d digits-8x8 -b 100000", 2, "training images"),
        ("profile -d digits-8x8 -b 1000 --mode infer", 2, "test images"),
        ("profile --checkpoint none.safetensors", 1, "none.safetensors"),
        ("profile -d nothing", 2, "nothing"),
        ("profile -o xml", 2, "xml"),
        ("profile --widths 4 -T 0", 2, "time-steps"),
    ];
    for (line, code, word) in cases {
        let output = dsr(folder.path(), line);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "dsr {line}: {stderr}");
        assert!(stderr.contains(word) && !stderr.contains("panicked"), "dsr {line}: {stderr}");
    }
    let output = dsr(folder.path(), &format!("{TINY} --trace missing/step.json"));
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What `docs/profile.schema.json` says of the JSON form holds, and it says something of every field.
#[test]
fn json_has_its_schema() {
    let folder = tempdir().unwrap();
    for flags in ["", "--mode infer --predict a100 --html page.html"] {
        let profile = json(&ok(folder.path(), &format!("{TINY} {flags} -o json")));
        assert_eq!(schema::problems("profile", &profile), [] as [String; 0]);
        let mut wrong = profile.clone();
        wrong["rows"][0]["time_ns"] = "soon".into();
        assert_eq!(schema::problems("profile", &wrong).len(), 1, "the check finds a wrong type");
    }
}

/// The plain loop fires exactly where the engine does.
#[test]
fn potentials_fire_as_the_engine_does() {
    for (neuron, vth) in [(NeuronKind::If, 1.0), (NeuronKind::Lif, 0.3)] {
        let config = Config {
            model: "preact-resnet".into(),
            widths: vec![5, 33],
            blocks: vec![1, 1],
            time_steps: 4,
            neuron,
            vth,
            ..Config::default()
        };
        let mut network = config.network([6, 5, 2], 3).unwrap();
        let data: Vec<f32> = (0..2 * 60).map(|v| ((v * 37) % 64) as f32 / 16.0 - 2.0).collect();
        let input = Input { data: &data, batch: 2, frames: 1 };
        network.forward(&input, Mode::Train { gradient: WeightGradient::Rate, seed: 0 }, |_| false).unwrap();
        let forward = network.forward(&input, Mode::Eval, |_| true).unwrap();
        let (mut seen, mut fired) = (0, 0);
        network
            .potentials(&input, &forward.spikes, 2, |moment| {
                let layer = &network.layers[moment.layer];
                let (b, p) = (moment.position / layer.positions(), moment.position % layer.positions());
                let spikes = forward.spikes[moment.layer].as_ref().unwrap();
                assert_eq!(moment.fires, spikes.get(moment.t, b, p, moment.channel), "{neuron:?}: {moment:?}");
                assert_eq!(moment.fires, moment.potential >= config.alpha as f32, "{neuron:?}: {moment:?}");
                (seen, fired) = (seen + 1, fired + usize::from(moment.fires));
            })
            .unwrap();
        let neurons: usize = network.layers.iter().map(|layer| layer.neurons()).sum();
        assert_eq!(seen, neurons * 2 * 4);
        assert!(fired > 0 && fired < seen, "{neuron:?}: {fired} of {seen}");
    }
}

/// What output neurons were given is what they fired and what is left in their potential.
#[test]
fn output_currents_are_spikes_and_what_is_left() {
    for (neuron, vth) in [(NeuronKind::If, 1.0), (NeuronKind::Lif, 0.3)] {
        let (mut seen, mut fired) = (0, 0);
        for batch in [1, 3] {
            let config = Config {
                model: "preact-resnet".into(),
                widths: vec![5, 33],
                blocks: vec![1, 1],
                time_steps: 4,
                neuron,
                vth,
                vth_pooled: Some(0.2 * vth),
                vth_logits: Some(0.2 * vth),
                delta_t: 0.5,
                ..Config::default()
            };
            let mut network = config.network([6, 5, 2], 3).unwrap();
            let data: Vec<f32> = (0..3 * 60).map(|v| ((v * 37) % 64) as f32 / 16.0 - 2.0).collect();
            let input = |batch: usize| Input { data: &data[..batch * 60], batch, frames: 1 };
            // Running statistics that have come to those of the data: output neurons fire.
            for _ in 0..30 {
                network.forward(&input(3), Mode::Train { gradient: WeightGradient::Rate, seed: 0 }, |_| false).unwrap();
            }
            let forward = network.forward(&input(batch), Mode::Eval, |_| true).unwrap();
            let (last, leak) = (network.layers.len() - 1, network.neuron.leak());
            let threshold = network.threshold(&network.layers[last]);
            // Potential before the reset of the last step, and spikes weighted by what is left of them then.
            let mut given = vec![[0.0f32; 2]; batch * 3];
            network
                .potentials(&input(batch), &forward.spikes, batch, |moment| {
                    if moment.layer == last {
                        let [potential, spikes] = &mut given[moment.position * 3 + moment.channel];
                        *spikes *= leak;
                        *potential = threshold * moment.potential;
                        *spikes += if moment.fires && moment.t < 3 { threshold } else { 0.0 };
                        (seen, fired) = (seen + 1, fired + usize::from(moment.fires));
                    }
                })
                .unwrap();
            let total: f32 = (0..4).map(|t| leak.powi(t)).sum::<f32>() * network.neuron.charge();
            let currents = network.output_currents(batch).unwrap();
            assert_eq!(currents.len(), given.len());
            assert!(network.output_currents(batch + 1).is_err(), "the pass had fewer samples");
            for ([potential, spikes], got) in given.iter().zip(currents) {
                let expected = (potential + spikes) / total;
                assert!((got - expected).abs() < 1e-5 * expected.abs().max(1.0), "{neuron:?}, batch {batch}: {got}, by hand {expected}");
            }
        }
        assert!(fired > 0 && fired < seen, "{neuron:?}: {fired} of {seen}");
    }
}

/// 32x32 images of 3 channels into 64, and those into 64 by 3x3, no norm.
fn two_layers() -> Network {
    let mut builder = Builder::new([32, 32, 3], 1.0);
    let conv = Conv { cout: 64, kernel: 3, stride: 1, pad: 1, weight: Init::Normal(0.1), bias: None };
    let first = builder.conv("first", Source::Input, [1, 1, 0], conv);
    let first = builder.layer("first", vec![first], None, 0.0).unwrap();
    let second = builder.conv("second", first, [1, 1, 0], conv);
    builder.layer("second", vec![second], None, 0.0).unwrap();
    builder.finish(Neuron::If { alpha: 0.5 }, 20, 0.01, 0).unwrap()
}

/// The two layers of `docs/predict.md`, batch 128, T = 20, on an A100.
#[test]
fn predictions_worked_by_hand() {
    let near = |got: f64, expected: f64, what: &str| assert!((got / expected - 1.0).abs() < 1e-3, "{what}: {got}, by hand {expected}");
    let network = two_layers();
    let prediction = predict(GpuName::A100, &network, Work::Infer, [128, 1], false);
    let [first, second] = [&prediction.layers[0].forward, &prediction.layers[1].forward];
    near(first.operations_s, 38.716e-6, "first, operations");
    near(first.bytes_s, 54.966e-6, "first, bytes");
    near(first.seconds, 58.966e-6, "first");
    near(second.operations_s, 0.66314e-3, "second, operations");
    near(second.bytes_s, 25.759e-6, "second, bytes");
    near(second.seconds, 0.66514e-3, "second");
    assert_eq!((first.bound(), second.bound(), first.launches, second.launches), ("bytes", "operations", 2, 1));
    near(prediction.seconds, first.seconds + second.seconds, "step");
    assert!(prediction.note.contains("not measured"));
    // Half the width of the weights is half the products, but the instructions are the bound, whose number is the compiler's.
    let mut narrow = two_layers();
    narrow.weight_bits = 8;
    let narrow = predict(GpuName::A100, &narrow, Work::Infer, [128, 1], false).layers[1].forward.operations_s;
    // 203 blocks on the fullest multiprocessor, 9 stages; 0.4515 ms with the code of nvcc 13.0.
    let [Code { stage, step, .. }, _] = Code::of((8, 0), Products::Integer);
    near(narrow, 203.0 * (9.0 * stage + 64.0 * step + 200.0) / (624e12 / 2.0 / 108.0 / 2048.0), "8 bits");
    let train = |gpu| predict(gpu, &network, Work::Train, [128, 1], false);
    assert!(train(GpuName::A100).seconds > prediction.seconds && train(GpuName::A100).seconds > train(GpuName::B200).seconds);
    assert!(train(GpuName::H100).layers.iter().all(|layer| layer.backward.seconds > 0.0));
}

/// The case of docs/predict.md.
#[test]
fn exchanges_worked_by_hand() {
    let builder = dsr::network::preact_resnet([32, 32, 3], 10, &[64, 128, 256, 512], &[2, 2, 2, 2], 4, 0.0, 1.0).unwrap();
    let network = builder.finish(dsr::ops::neuron::Neuron::If { alpha: 0.5 }, 5, 0.01, 1).unwrap();
    let predicted = dsr::profile::predict::predict_shared(GpuName::H100, 8, &network, [128, 1], false);
    let group = predicted.group.as_ref().unwrap();
    assert_eq!((group.ranks, group.samples, network.len()), (8, 16, 11_176_945));
    assert!(group.note.contains("not measured"));
    let weights = group.exchanges.iter().position(|kind| kind.is_large).unwrap();
    let sent = 7.0 * group.exchanges[weights].bytes_to_each;
    assert!((sent / 78.24e6 - 1.0).abs() < 1e-3, "{sent}");
    let near = |got: f64, expected: f64| assert!((got / expected - 1.0).abs() < 1e-3, "{got}, by hand {expected}");
    assert_eq!(group.exchanges[weights].count, 14);
    near(group.links[0].seconds[weights], 668.1e-6);
    near(group.links[1].seconds[weights], 8882e-6);
    for on in &group.links {
        near(on.step_s[0], predicted.seconds + on.seconds.iter().sum::<f64>());
        assert!(on.hidden_s > 0.0 && on.step_s[1] < on.step_s[0] && on.efficiency[0] < on.efficiency[1] && on.efficiency[1] < 1.0);
    }
    // The slower link costs more; one GPU has no group.
    assert!(group.links[1].step_s[0] > group.links[0].step_s[0]);
    assert!(predict(GpuName::H100, &network, Work::Train, [128, 1], false).group.is_none());
}

/// An estimate by hand from the machine code of every kernel, made apart from this model: both must tell the same story. Those of the H100
/// with batch 128 are for the neurons' loops of today, the others for those before. A single image took 0.31 ms in it, and was expected to
/// take 0.16 with one launch a layer and with K shared by blocks.
#[test]
fn predictions_are_near_an_estimate_of_another_hand() {
    // GPU, weight bits, batch, work, milliseconds
    let cases = [
        (GpuName::A100, 16, 128, Work::Infer, 10.8),
        (GpuName::H100, 16, 128, Work::Infer, 5.6),
        (GpuName::Rtx4090, 16, 128, Work::Infer, 9.9),
        (GpuName::B200, 16, 128, Work::Infer, 6.4),
        (GpuName::A100, 8, 128, Work::Infer, 7.4),
        (GpuName::H100, 8, 128, Work::Infer, 3.8),
        (GpuName::Rtx4090, 8, 128, Work::Infer, 5.8),
        (GpuName::B200, 8, 128, Work::Infer, 4.3),
        (GpuName::H100, 16, 128, Work::Train, 10.7),
        (GpuName::H100, 16, 1, Work::Infer, 0.16),
    ];
    let mut far = Vec::new();
    for (gpu, weight_bits, batch, work, expected) in cases {
        let builder = preact_resnet([32, 32, 3], 10, &[64, 128, 256, 512], &[2; 4], 4, 0.0, 2.0).unwrap();
        let mut network = builder.finish(Neuron::If { alpha: 0.5 }, 20, 0.01, 0).unwrap();
        network.weight_bits = weight_bits;
        let got = 1e3 * predict(gpu, &network, work, [batch, 1], false).seconds;
        println!("| {gpu:?} | {weight_bits} | {batch} | {work:?} | {got:.2} | {expected} |");
        if (got / expected - 1.0).abs() > 0.25 {
            far.push((gpu, weight_bits, batch, got, expected));
        }
    }
    assert!(far.is_empty(), "{far:?}");
}

/// PreAct-ResNet-18 for one image with T = 20 on an H100: as many launches as the stand-in counts (`tests/step_costs.rs`), and blocks that
/// share tiles where these are few.
#[test]
fn a_single_image_is_predicted_by_launches_blocks_and_stages() {
    let builder = preact_resnet([32, 32, 3], 10, &[64, 128, 256, 512], &[2; 4], 4, 0.0, 2.0).unwrap();
    let network = builder.finish(Neuron::If { alpha: 0.5 }, 20, 0.01, 0).unwrap();
    let prediction = predict(GpuName::H100, &network, Work::Infer, [1, 1], false);
    assert_eq!(prediction.layers.iter().map(|layer| layer.forward.launches).sum::<u32>(), 21);
    println!("| layer | blocks | parts | stages | us |");
    for layer in &prediction.layers {
        println!("| {} | {:?} | {:.2} |", layer.layer, layer.blocks, 1e6 * layer.forward.seconds);
    }
    println!("{} us", 1e6 * prediction.seconds);
    // All launches but the convolution of the input begin early: 20 times 0.96 us.
    let spared = prediction.seconds - prediction.seconds_early.unwrap();
    assert!((spared - 19.2e-6).abs() < 1e-12, "{spared}");
    let others = [(GpuName::A100, Work::Infer), (GpuName::H100, Work::Train)];
    assert!(others.iter().all(|&(gpu, work)| predict(gpu, &network, work, [1, 1], false).seconds_early.is_none()));
    let blocks = |index: usize| prediction.layers[index].blocks.unwrap();
    assert!(prediction.layers[0].blocks.is_none(), "it reads the input");
    assert_eq!((blocks(1).blocks, blocks(1).parts, blocks(1).stages), (171, 1, 9));
    let last_conv = blocks(16);
    assert_eq!((last_conv.blocks, last_conv.stages), (24 * last_conv.parts, 72usize.div_ceil(last_conv.parts)));
    assert!(last_conv.parts > 1);
}

/// Operations of a row are those of the spikes: a layer's rows add up to the layer.
#[test]
fn operations_of_rows_are_those_of_layers() {
    let config =
        Config { model: "preact-resnet".into(), widths: vec![4, 6], blocks: vec![1, 1], time_steps: 3, batch: 4, ..Config::default() };
    let images = Images::Random { shape: [6, 6, 2], classes: 3 };
    let mut subject = Subject::new(Work::Train, config, images, None, &Device::Cpu).unwrap();
    let (profile, _) = profile(Work::Train, &mut subject, 0, 1, &mut |_| ()).unwrap();
    for layer in &profile.layers {
        let rows = profile.rows.iter().filter(|row| row.layer.as_ref() == Some(&layer.layer) && row.phase == Some(Phase::Forward));
        let sums = rows.filter(|row| matches!(row.op, Op::InputConvolution | Op::SpikeConvolution | Op::Identity));
        let [mut actual, mut dense] = [0, 0];
        for row in sums {
            actual += row.amount.operations.unwrap();
            dense += row.amount.dense_operations.unwrap();
        }
        assert_eq!([actual, dense], [layer.operations, layer.dense_operations], "{}", layer.layer);
    }
}
