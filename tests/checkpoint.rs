//! Checkpoints: what goes in comes out with the same bits, and a file that is not right changes nothing.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use dsr::data::DataCard;
use dsr::network::{Network, preact_resnet};
use dsr::ops::neuron::Neuron;
use dsr::ops::optimizer::{Optimizer, Rule};
use dsr::training::checkpoint::{About, EpochSums, Progress, config, data, load, save};
use dsr::training::metrics::{EpochMetrics, LayerMetrics, State, Warning};
use proptest::prelude::*;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

const SGD: Rule = Rule::Sgd { momentum: 0.9, nesterov: false };
const ADAM: Rule = Rule::Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8 };
const ABOUT: About = About { config_toml: CONFIG, data: None, is_first: false, is_calibrated: false, unchosen: &[] };
const CONFIG: &str = "# settings\nlr = 0.1\nname = \"größe\"\n";

fn network(widths: &[usize], seed: u64) -> Network {
    let blocks = vec![1; widths.len()];
    let pool = 8 >> (widths.len() - 1);
    let net = preact_resnet([8, 8, 1], 3, widths, &blocks, pool, 0.0, 1.0).unwrap();
    net.finish(Neuron::If { alpha: 0.5 }, 2, 0.01, seed).unwrap()
}

/// A network and an optimiser of which no two values are alike.
fn trained(rule: Rule, seed: u64) -> (Network, Optimizer) {
    let mut network = network(&[4, 6], seed);
    let mut optimizer = Optimizer::new(rule, 5e-4, network.values.len());
    for step in 1..=3 {
        let grads: Vec<f32> = (0..network.values.len()).map(|i| ((i * 37 + step) % 101) as f32 * 1e-3 - 0.05).collect();
        optimizer.step(0.1, &mut network.values, &grads);
        network.prepare();
    }
    for (index, norm) in network.norms.iter_mut().enumerate() {
        norm.batches = 1000 * index as i64 + 7;
        norm.running_mean.iter_mut().enumerate().for_each(|(c, v)| *v = (index + c) as f32 / 3.0);
        norm.running_var.iter_mut().enumerate().for_each(|(c, v)| *v = 1.0 + (index + c) as f32 / 7.0);
    }
    (network, optimizer)
}

fn metrics(epoch: usize) -> EpochMetrics {
    let x = epoch as f64;
    EpochMetrics {
        epoch,
        epochs: 200,
        lr: 0.1 / 3.0 + x,
        train_loss: 2.0f64.sqrt() * x,
        train_accuracy: 1.0 / (x + 3.0),
        test_loss: f64::from_bits(x.to_bits() + 1),
        test_accuracy: 0.1 + 0.2,
        best_accuracy: 5e-324,
        firing_rate: 0.07,
        images_per_second: 1204.5,
        seconds: 41.0,
        layers: vec![LayerMetrics { name: "relu1".into(), threshold: Some(1.0 / (x + 6.0)), firing_rate: 0.1 + 0.2 }],
        warnings: vec![Warning { layer: "relu1".into(), state: State::Saturated, firing_rate: 0.1 + 0.2, advice: "wake it".into() }],
        ..EpochMetrics::default()
    }
}

fn progress() -> Progress {
    Progress {
        epoch: 2,
        step: 17,
        iteration: u64::MAX,
        seed: u64::MAX - 1,
        best_accuracy: 1.0 / 3.0,
        sums: EpochSums { loss: 1e300 / 7.0, correct: 123, seen: 456, rates: vec![0.1 + 0.2, 1.0 / 3.0] },
        metrics: vec![metrics(1), metrics(2)],
    }
}

/// Everything of a network and an optimiser that a checkpoint holds, as bits.
fn state(network: &Network, optimizer: &Optimizer) -> Vec<u64> {
    let mut bits: Vec<u64> = network.values.iter().chain(&optimizer.first).chain(&optimizer.second).map(|v| v.to_bits().into()).collect();
    for norm in &network.norms {
        bits.extend(norm.running_mean.iter().chain(&norm.running_var).map(|v| u64::from(v.to_bits())));
        bits.push(norm.batches as u64);
    }
    bits.push(optimizer.steps);
    bits
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A checkpoint of a trained network, and its bytes.
    fn saved(&self, rule: Rule) -> (PathBuf, Vec<u8>) {
        let (network, optimizer) = trained(rule, 1);
        let path = self.path("saved.safetensors");
        save(&path, &network, &optimizer, &progress(), ABOUT).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        (path, bytes)
    }
}

#[test]
fn state_comes_back_with_the_same_bits() {
    for rule in [SGD, ADAM] {
        let folder = Folder::new();
        let (saved, optimizer) = trained(rule, 1);
        let path = folder.path("last.safetensors");
        save(&path, &saved, &optimizer, &progress(), ABOUT).unwrap();
        let (mut other, mut other_optimizer) = (network(&[4, 6], 2), Optimizer::new(rule, 5e-4, saved.values.len()));
        assert_ne!(state(&saved, &optimizer), state(&other, &other_optimizer));
        let found = load(&path, &mut other, Some(&mut other_optimizer)).unwrap().unwrap();
        assert_eq!(state(&saved, &optimizer), state(&other, &other_optimizer), "{rule:?}");
        assert_eq!(config(&path).unwrap().unwrap(), CONFIG);
        let mut expected = progress();
        assert!(found.metrics.iter().all(|m| m.seconds.is_nan() && m.images_per_second.is_nan()), "wall times are no part of the state");
        expected.metrics = expected.metrics.iter().map(EpochMetrics::without_times).collect();
        assert_eq!(serde_json::to_string(&found).unwrap(), serde_json::to_string(&expected).unwrap());
        assert_eq!(found.metrics[1].train_loss.to_bits(), expected.metrics[1].train_loss.to_bits());
        assert_eq!(found.sums, expected.sums);
    }
}

/// What follows from a loaded network is what follows from the saved one: the fixed-point weights were refreshed too.
#[test]
fn a_loaded_network_computes_the_same() {
    use dsr::network::{Input, Mode};
    let folder = Folder::new();
    let (path, _) = folder.saved(SGD);
    let (mut saved, _) = trained(SGD, 1);
    let mut other = network(&[4, 6], 2);
    load(&path, &mut other, None).unwrap();
    let data: Vec<f32> = (0..2 * 64).map(|i| (i % 13) as f32 / 3.0 - 1.0).collect();
    let input = Input { data: &data, batch: 2, frames: 1 };
    let logits = |network: &mut Network| network.forward(&input, Mode::Eval, |_| false).unwrap().logits;
    assert_eq!(logits(&mut saved), logits(&mut other));
}

#[test]
fn equal_states_give_equal_bytes() {
    let folder = Folder::new();
    let (_, first) = folder.saved(ADAM);
    for _ in 0..20 {
        assert!(folder.saved(ADAM).1 == first);
    }
    let (network, optimizer) = trained(ADAM, 1);
    let mut slower = progress();
    slower.metrics[0].seconds = 99.0;
    slower.metrics[0].images_per_second = 3.0;
    let path = folder.path("slower.safetensors");
    save(&path, &network, &optimizer, &slower, ABOUT).unwrap();
    assert!(std::fs::read(path).unwrap() == first, "a slower machine must write the same bytes");
}

#[test]
fn names_and_shapes_are_those_of_pytorch() {
    let folder = Folder::new();
    let (_, bytes) = folder.saved(ADAM);
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let cases: [(&str, Dtype, &[usize]); 12] = [
        ("conv1.weight", Dtype::F32, &[4, 1, 3, 3]),
        ("layer1.0.relu1.Vth", Dtype::F32, &[]),
        ("layer2.0.shortcut.weight", Dtype::F32, &[6, 4, 1, 1]),
        ("layer2.0.shortcut.bias", Dtype::F32, &[6]),
        ("linear.weight", Dtype::F32, &[3, 6]),
        ("bn2.weight", Dtype::F32, &[3]),
        ("bn1.running_mean", Dtype::F32, &[6]),
        ("bn1.running_var", Dtype::F32, &[6]),
        ("bn1.num_batches_tracked", Dtype::I64, &[]),
        ("optimizer.first/layer2.0.conv1.weight", Dtype::F32, &[6, 4, 3, 3]),
        ("optimizer.second/layer2.0.conv1.weight", Dtype::F32, &[6, 4, 3, 3]),
        ("optimizer.second/relu3.Vth", Dtype::F32, &[]),
    ];
    for (name, dtype, shape) in cases {
        let tensor = file.tensor(name).unwrap();
        assert_eq!((tensor.dtype(), tensor.shape()), (dtype, shape), "{name}");
    }
    let (network, _) = trained(ADAM, 1);
    let index = network.parameter("layer2.0.conv1.weight").unwrap();
    let expected: Vec<u8> = network.in_torch_order(index, &network.values).iter().flat_map(|v| v.to_le_bytes()).collect();
    assert_eq!(file.tensor("layer2.0.conv1.weight").unwrap().data(), expected);
    let (header_length, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(header_length % 8, 0, "tensors are aligned");
    let metadata = metadata.metadata().clone().unwrap();
    assert_eq!((metadata["format"].as_str(), metadata["version"].as_str()), ("dsr", "1"));
}

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// The tensors of a checkpoint that a PyTorch `state_dict` would have.
fn state_dict(bytes: &[u8]) -> Tensors {
    let file = SafeTensors::deserialize(bytes).unwrap();
    let own = |(name, t): (String, TensorView)| (name, (t.dtype(), t.shape().to_vec(), t.data().to_vec()));
    file.tensors().into_iter().map(own).filter(|(name, _)| !name.starts_with("optimizer.")).collect()
}

fn serialized(tensors: &Tensors, metadata: Option<HashMap<String, String>>) -> Vec<u8> {
    let views = tensors.iter().map(|(name, (dtype, shape, data))| (name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
    safetensors::serialize(views, metadata).unwrap()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

#[test]
fn a_state_dict_of_pytorch_loads() {
    let folder = Folder::new();
    let (_, bytes) = folder.saved(SGD);
    let plain = state_dict(&bytes);
    let wrapped = plain.iter().map(|(name, t)| (format!("module.{name}"), t.clone())).collect();
    let in_f64 = plain.iter().map(|(name, (dtype, shape, data))| {
        if *dtype == Dtype::I64 {
            return (name.clone(), (*dtype, shape.clone(), data.clone()));
        }
        (name.clone(), (Dtype::F64, shape.clone(), floats(data).iter().flat_map(|v| f64::from(*v).to_le_bytes()).collect()))
    });
    let pytorch = HashMap::from([("format".to_string(), "pt".to_string())]);
    let cases = [
        ("plain", plain.clone(), None),
        ("with PyTorch's metadata", plain.clone(), Some(pytorch)),
        ("DataParallel", wrapped, None),
        ("in f64", in_f64.collect(), None),
    ];
    let (saved, _) = trained(SGD, 1);
    for (case, tensors, metadata) in cases {
        let path = folder.path("plain.safetensors");
        std::fs::write(&path, serialized(&tensors, metadata)).unwrap();
        let (mut other, mut optimizer) = (network(&[4, 6], 2), Optimizer::new(SGD, 0.0, saved.values.len()));
        optimizer.first.fill(3.0);
        assert_eq!(load(&path, &mut other, Some(&mut optimizer)).unwrap(), None, "{case}");
        assert_eq!(config(&path).unwrap(), None);
        assert!(optimizer.first.iter().all(|&v| v == 3.0) && optimizer.steps == 0, "{case}: no optimiser state inside");
        let fresh = Optimizer::new(SGD, 0.0, saved.values.len());
        assert_eq!(state(&other, &fresh), state(&saved, &fresh), "{case}");
    }
}

#[test]
fn sixteen_bit_weights_load() {
    let folder = Folder::new();
    let (_, bytes) = folder.saved(SGD);
    // -1.5, 0.25 and 2 have the same value in every format.
    let cases = [(Dtype::BF16, [0xbfc0u16, 0x3e80, 0x4000]), (Dtype::F16, [0xbe00, 0x3400, 0x4000])];
    for (dtype, bits) in cases {
        let mut tensors = state_dict(&bytes);
        tensors.insert("bn2.bias".to_string(), (dtype, vec![3], bits.iter().flat_map(|b| b.to_le_bytes()).collect()));
        let path = folder.path("half.safetensors");
        std::fs::write(&path, serialized(&tensors, None)).unwrap();
        let mut other = network(&[4, 6], 2);
        load(&path, &mut other, None).unwrap();
        assert_eq!(other.value(other.parameter("bn2.bias").unwrap()), [-1.5, 0.25, 2.0], "{dtype:?}");
    }
}

/// Loads `path` into a network with a history of its own; the error, after checking that nothing was changed.
fn refused(path: &Path, rule: Rule) -> Option<String> {
    let (mut network, mut optimizer) = trained(rule, 9);
    let before = state(&network, &optimizer);
    let error = load(path, &mut network, Some(&mut optimizer)).err()?.to_string();
    assert!(state(&network, &optimizer) == before, "changed the network, then failed with {error}");
    assert!(error.starts_with(&path.display().to_string()), "no path in {error}");
    assert!(!error.contains(['\n', '\r']), "more than a line: {error}");
    Some(error)
}

/// The file with its metadata changed, tensors as they are.
fn with_metadata(bytes: &[u8], change: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
    let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: serde_json::Value = serde_json::from_slice(&bytes[8..end]).unwrap();
    change(&mut header["__metadata__"]);
    let header = header.to_string();
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &bytes[end..]].concat()
}

#[test]
fn bad_files_are_told_apart() {
    let folder = Folder::new();
    let (_, good) = folder.saved(SGD);
    let meta = |key: &'static str, value: &'static str| with_metadata(&good, |m| m[key] = value.into());
    let edited = |edit: &dyn Fn(&mut Tensors)| {
        let mut tensors = state_dict(&good);
        edit(&mut tensors);
        serialized(&tensors, None)
    };
    let set = |name: &'static str, dtype: Dtype, shape: &'static [usize], data: Vec<u8>| {
        edited(&|t| drop(t.insert(name.to_string(), (dtype, shape.to_vec(), data.clone()))))
    };
    let three = |v: f32| [1.0, v, 1.0].iter().flat_map(|v: &f32| v.to_le_bytes()).collect::<Vec<u8>>();
    let header_end = 8 + u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    let huge = |header: &str| [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    let cases: Vec<(&str, Vec<u8>, &[&str])> = vec![
        ("empty", vec![], &["is empty"]),
        ("five bytes", good[..5].to_vec(), &["only 5 bytes"]),
        ("length alone", good[..8].to_vec(), &["cut off inside its header", "missing"]),
        ("zip", b"PK\x03\x04 what torch.save writes".to_vec(), &["not a safetensors file", "save_file"]),
        ("text", b"{\"lr\": 0.1, \"epochs\": 3}".to_vec(), &["not a safetensors file"]),
        ("wrong first byte", [&good[..8], b"x", &good[9..]].concat(), &["not a safetensors file"]),
        ("half a header", good[..header_end - 100].to_vec(), &["cut off inside its header", "at least 100 are missing"]),
        ("half the data", good[..good.len() - 1000].to_vec(), &["cut off: 1000 of its"]),
        ("one byte less", good[..good.len() - 1].to_vec(), &["cut off: 1 of its"]),
        ("one byte more", [&good[..], b"!"].concat(), &["1 bytes after its last tensor"]),
        ("header no JSON", [&good[..9], &[b'?'; 20], &good[29..]].concat(), &["damaged header"]),
        (
            "size beyond all memory",
            huge(r#"{"x":{"dtype":"U8","shape":[1152921504606846976],"data_offsets":[0,1152921504606846976]}}"#),
            &["cut off"],
        ),
        ("size that overflows", huge(r#"{"x":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}"#), &["damaged header"]),
        ("later version", meta("version", "3"), &["written by a later dsr: version 3, this one reads up to 1"]),
        ("no version", meta("version", "new"), &["no valid version", "\"new\""]),
        ("version 0", meta("version", "0"), &["no valid version"]),
        ("progress no JSON", meta("progress", "{\"epoch\": 1"), &["damaged metadata \"progress\""]),
        ("negative epoch", meta("progress", "{\"epoch\": -1}"), &["damaged metadata \"progress\"", "-1"]),
        ("optimizer unknown", meta("optimizer", "{\"rule\":{\"kind\":\"lamb\"},\"steps\":1}"), &["damaged metadata \"optimizer\"", "lamb"]),
        ("no tensor", serialized(&Tensors::new(), None), &["another network", "missing bn1.bias, bn1.running_mean, bn1.running_var and"]),
        ("one missing", edited(&|t| drop(t.remove("relu3.Vth"))), &["missing relu3.Vth;"]),
        ("one unexpected", set("fc.weight", Dtype::F32, &[], vec![0; 4]), &["unexpected fc.weight;"]),
        ("name with a line break", set("a\nb", Dtype::F32, &[], vec![0; 4]), &["unexpected a\\nb"]),
        ("other shape", set("linear.weight", Dtype::F32, &[6, 3], vec![0; 72]), &["linear.weight has shape [6, 3]", "needs [3, 6]"]),
        ("scalar as vector", set("relu3.Vth", Dtype::F32, &[2], vec![0; 8]), &["relu3.Vth has shape [2]", "needs []"]),
        ("integer weights", set("bn2.weight", Dtype::I32, &[3], vec![0; 12]), &["bn2.weight holds I32", "F16"]),
        (
            "half a batch",
            set("bn2.num_batches_tracked", Dtype::F32, &[], 1.5f32.to_le_bytes().to_vec()),
            &["bn2.num_batches_tracked is no whole number"],
        ),
        ("counter as bytes", set("bn2.num_batches_tracked", Dtype::U8, &[], vec![0]), &["bn2.num_batches_tracked holds U8", "I64"]),
        ("NaN", set("bn2.weight", Dtype::F32, &[3], three(f32::NAN)), &["bn2.weight holds NaN (element 1)"]),
        ("infinity", set("bn2.running_mean", Dtype::F32, &[3], three(f32::NEG_INFINITY)), &["bn2.running_mean holds -inf (element 1)"]),
        ("too large for f32", set("relu3.Vth", Dtype::F64, &[], 1e300f64.to_le_bytes().to_vec()), &["relu3.Vth holds inf"]),
        ("half infinity", set("relu3.Vth", Dtype::F16, &[], 0x7c00u16.to_le_bytes().to_vec()), &["relu3.Vth holds inf"]),
        ("negative variance", set("bn2.running_var", Dtype::F32, &[3], three(-0.5)), &["bn2.running_var holds a negative variance"]),
    ];
    let path = folder.path("bad.safetensors");
    let mut failures = Vec::new();
    for (case, bytes, words) in cases {
        std::fs::write(&path, &bytes).unwrap();
        match refused(&path, SGD) {
            Some(error) if words.iter().all(|w| error.contains(w)) => println!("{case}: {error}"),
            got => failures.push(format!("{case}: {got:?}, expected {words:?}")),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn paths_and_other_runs_are_told_apart() {
    let folder = Folder::new();
    let (path, _) = folder.saved(SGD);
    assert!(refused(&folder.path("absent"), SGD).unwrap().contains("no such checkpoint"));
    assert!(refused(folder.0.path(), SGD).unwrap().contains("is a folder"));
    assert!(refused(&path, ADAM).unwrap().contains("was trained with sgd, but this run uses adam"));
    let mut wider = network(&[8, 6], 2);
    let before = wider.values.clone();
    let error = load(&path, &mut wider, None).unwrap_err().to_string();
    assert!(error.contains("another network") && wider.values == before, "{error}");
    let mut deeper = network(&[4, 6, 6], 2);
    let error = load(&path, &mut deeper, None).unwrap_err().to_string();
    assert!(error.contains("missing layer3.0.") && error.contains("more"), "{error}");
}

#[test]
fn a_state_that_is_not_finite_does_not_replace_a_good_checkpoint() {
    let folder = Folder::new();
    let (path, good) = folder.saved(ADAM);
    type Spoil = fn(&mut Network, &mut Optimizer);
    let cases: [(Spoil, &str); 4] = [
        (|n, _| *n.values.last_mut().unwrap() = f32::NAN, "relu3.Vth"),
        (|_, o| o.first[0] = f32::INFINITY, "the optimiser state of conv1.weight"),
        (|_, o| o.second[0] = f32::NAN, "the optimiser state of conv1.weight"),
        (|n, _| n.norms[0].running_var[1] = f32::NAN, "the running statistics of layer1.0.bn1"),
    ];
    for (spoil, words) in cases {
        let (mut network, mut optimizer) = trained(ADAM, 1);
        spoil(&mut network, &mut optimizer);
        let error = save(&path, &network, &optimizer, &progress(), ABOUT).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        assert!(std::fs::read(&path).unwrap() == good);
    }
}

#[test]
fn progress_with_values_that_are_no_numbers_comes_back() {
    let folder = Folder::new();
    let (mut network, mut optimizer) = trained(SGD, 1);
    let mut progress = progress();
    progress.metrics[0].test_loss = f64::INFINITY;
    progress.metrics[1].test_loss = f64::NAN;
    let path = folder.path("x");
    save(&path, &network, &optimizer, &progress, ABOUT).unwrap();
    let found = load(&path, &mut network, Some(&mut optimizer)).unwrap().unwrap();
    assert_eq!(found.metrics[0].test_loss, f64::INFINITY);
    assert!(found.metrics[1].test_loss.is_nan());
}

/// What no run can have said of itself is refused, whoever wrote it.
#[test]
fn progress_that_no_run_can_have_made_is_refused() {
    let folder = Folder::new();
    let (mut network, mut optimizer) = trained(SGD, 1);
    let path = folder.path("x");
    let cases: [(&str, fn(&mut Progress)); 8] = [
        ("epoch 18446744073709551615", |p| p.epoch = usize::MAX),
        ("epoch 1 with the records of 2 epochs", |p| p.epoch = 1),
        ("best accuracy of inf", |p| p.best_accuracy = f64::INFINITY),
        ("best accuracy of NaN", |p| p.best_accuracy = f64::NAN),
        ("best accuracy of -0.5", |p| p.best_accuracy = -0.5),
        ("iteration 0", |p| p.iteration = 0),
        ("samples right", |p| p.sums.correct = p.sums.seen + 1),
        ("samples right after 0 steps", |p| p.step = 0),
    ];
    for (words, spoil) in cases {
        let mut progress = progress();
        spoil(&mut progress);
        save(&path, &network, &optimizer, &progress, ABOUT).unwrap();
        let error = load(&path, &mut network, Some(&mut optimizer)).unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("use another checkpoint"), "{words}: {error}");
    }
    // Of other data or another seed.
    let plain = progress();
    // Two epochs of twenty steps, and 17 steps of 32 samples.
    let good = Progress { iteration: 57, sums: EpochSums { seen: 544, ..plain.sums.clone() }, ..plain };
    let of_run = |seed, layers, samples| good.check_run(&path, seed, layers, [samples, 32]).map_err(|e| e.to_string());
    let (layers, samples) = (good.sums.rates.len(), 640);
    of_run(good.seed, layers, samples).unwrap();
    for (seed, layers, samples, words) in [
        (good.seed + 1, layers, samples, "seed"),
        (good.seed, layers + 1, samples, "firing rates"),
        (good.seed, layers, samples + 32, "with these data"),
        (good.seed, layers, 1, "with these data"),
    ] {
        let error = of_run(seed, layers, samples).unwrap_err();
        assert!(error.contains(words), "{error}");
    }
}

/// A flipped bit is an error, or makes a file that is none of ours, or changes nothing that is read.
#[test]
fn a_flipped_bit_is_seen() {
    let folder = Folder::new();
    let (path, good) = folder.saved(SGD);
    let header = 8 + u64::from_le_bytes(*good.first_chunk().unwrap()) as usize;
    let (mut network, mut optimizer) = trained(SGD, 1);
    let (wanted, mut read) = (state(&network, &optimizer), 0);
    for at in (0..header).step_by(3).chain((header..good.len()).step_by(37)) {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (at % 8);
        std::fs::write(&path, &bytes).unwrap();
        if let Ok(found) = load(&path, &mut network, Some(&mut optimizer)) {
            assert!(at < header, "byte {at} of the tensors");
            assert!(
                found.is_none_or(|found| format!("{found:?}") == format!("{:?}", without_times(progress()))),
                "byte {at} of the header"
            );
            assert_eq!(state(&network, &optimizer), wanted, "byte {at} of the header");
            read += 1;
        }
    }
    assert!(read < 100, "{read} files were read");
}

fn without_times(progress: Progress) -> Progress {
    Progress { metrics: progress.metrics.iter().map(EpochMetrics::without_times).collect(), ..progress }
}

/// A `state_dict` as PyTorch programs leave it: without counters or with counters of another type, thresholds with an axis, and names
/// with the wrappers of modules in front.
#[test]
fn what_pytorch_loads_is_read() {
    let folder = Folder::new();
    let (path, _) = folder.saved(SGD);
    let (whole, _) = trained(SGD, 1);
    let bytes = std::fs::read(&path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let parameters = || tensors.iter().filter(|(name, _)| !name.starts_with("optimizer."));
    let counters: HashMap<String, f32> =
        whole.norms.iter().map(|norm| (format!("{}.num_batches_tracked", norm.name), norm.batches as f32)).collect();
    for prefix in ["", "module.", "_orig_mod.", "model.", "net.", "module._orig_mod.", "a.b.c."] {
        for counter in ["kept", "missing", "float"] {
            let views =
                parameters().filter(|(name, _)| counter != "missing" || !name.ends_with("num_batches_tracked")).map(|(name, view)| {
                    let name_there = format!("{prefix}{name}");
                    if name.ends_with("num_batches_tracked") && counter == "float" {
                        let number = bytemuck::bytes_of(&counters[name]);
                        return (name_there, TensorView::new(Dtype::F32, vec![1], number).unwrap());
                    }
                    let shape = if name.ends_with("Vth") { vec![1] } else { view.shape().to_vec() };
                    (name_there, TensorView::new(view.dtype(), shape, view.data()).unwrap())
                });
            let file = folder.path("theirs.safetensors");
            std::fs::write(&file, safetensors::serialize(views.collect::<Vec<_>>(), None).unwrap()).unwrap();
            let (mut network, _) = trained(SGD, 2);
            let batches: Vec<i64> = network.norms.iter().map(|norm| norm.batches).collect();
            assert_eq!(load(&file, &mut network, None).unwrap_or_else(|e| panic!("{prefix:?}, {counter}: {e}")), None);
            assert_eq!(network.values, whole.values, "{prefix:?}, {counter}");
            let expected = if counter == "missing" { batches } else { whole.norms.iter().map(|norm| norm.batches).collect() };
            assert_eq!(network.norms.iter().map(|norm| norm.batches).collect::<Vec<_>>(), expected, "{prefix:?}, {counter}");
        }
    }
}

/// What the network was trained on travels with it.
#[test]
fn data_are_described() {
    let folder = Folder::new();
    let (network, optimizer) = trained(SGD, 1);
    let path = folder.path("x");
    let card = DataCard {
        name: "cats and dogs".into(),
        shape: [9, 7, 3],
        frames: 1,
        classes: vec!["cat".into(), "dög\u{1b}".into()],
        max_value: 255,
        mean: vec![0.1, 0.2, 0.3],
        std: vec![1.0, 2.0, 3.0],
    };
    save(&path, &network, &optimizer, &progress(), About { data: Some(&card), ..ABOUT }).unwrap();
    assert_eq!(data(&path).unwrap(), Some(card));
    save(&path, &network, &optimizer, &progress(), ABOUT).unwrap();
    assert_eq!(data(&path).unwrap(), None);
}

/// A file that ends at any byte is refused and changes nothing.
#[test]
fn a_file_cut_at_any_byte_is_refused() {
    let folder = Folder::new();
    let (path, good) = folder.saved(SGD);
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    let (mut network, mut optimizer) = trained(SGD, 9);
    let before = state(&network, &optimizer);
    for length in (0..good.len()).rev() {
        file.set_len(length as u64).unwrap();
        assert!(load(&path, &mut network, Some(&mut optimizer)).is_err(), "{length} of {} bytes", good.len());
    }
    assert!(state(&network, &optimizer) == before);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Damaged bytes never panic; where they are noticed, nothing was changed. Half of the damage goes to the header.
    #[test]
    fn damaged_files_do_not_panic(damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 1..4)) {
        static GOOD: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| Folder::new().saved(SGD).1);
        let mut bytes = GOOD.clone();
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        for (place, value, in_header) in damage {
            let length = if in_header { header } else { bytes.len() };
            bytes[place.index(length)] = value;
        }
        let folder = Folder::new();
        let path = folder.path("damaged");
        std::fs::write(&path, &bytes).unwrap();
        let _ = config(&path);
        refused(&path, SGD);
    }

    /// Progress keeps every bit of its numbers.
    #[test]
    fn progress_is_exact(bits in any::<[u64; 3]>(), seed in any::<u64>()) {
        let [best_accuracy, loss, test_loss] = bits.map(f64::from_bits);
        let mut progress = progress();
        progress.seed = seed;
        progress.best_accuracy = best_accuracy;
        progress.sums = EpochSums { loss, ..progress.sums.clone() };
        progress.metrics[0].test_loss = test_loss;
        let found: Progress = serde_json::from_str(&serde_json::to_string(&progress).unwrap()).unwrap();
        let pairs = [(best_accuracy, found.best_accuracy), (loss, found.sums.loss), (test_loss, found.metrics[0].test_loss)];
        for (saved, found) in pairs {
            prop_assert!(saved.to_bits() == found.to_bits() || saved.is_nan() && found.is_nan(), "{} became {}", saved, found);
        }
        prop_assert_eq!(found.seed, seed);
    }
}
