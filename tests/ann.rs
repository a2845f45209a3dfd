//! The networks with ReLU in place of neurons: forward and backward against plain loops in f64, the same bits on any number of
//! threads, and `--neuron relu` on the command line.

#[path = "support/anns.rs"]
mod anns;
#[path = "support/command.rs"]
mod command;
#[path = "support/plain_ann.rs"]
mod plain_ann;
#[path = "support/seeded.rs"]
mod seeded;
#[path = "support/small_networks.rs"]
mod small_networks;

use anns::all;
use command::{dsr, ok};
use dsr::network::{Builder, Conv, Init, Input, Mode, Network, Source};
use dsr::ops::conv::conv;
use dsr::ops::neuron::Neuron;
use dsr::ops::spike_conv::Geometry;
use plain_ann::{data_of, outputs, wide};
use rand::Rng;
use serde_json::Value;
use small_networks::TRAIN;
use tempfile::tempdir;

/// The seed in [`TRAIN`].
const SEED: u64 = 1;

fn labels(batch: usize, classes: usize) -> Vec<u32> {
    (0..batch).map(|b| (b * 7 % classes) as u32).collect()
}

fn on_threads<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}

/// Largest difference, in units of the largest value.
fn error(got: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let largest = expected.iter().fold(0.0f64, |largest, v| largest.max(v.abs()));
    got.iter().zip(expected).fold(0.0f64, |worst, (g, e)| worst.max((f64::from(*g) - e).abs())) / largest.max(1e-30)
}

/// Without activity, and without rest, a comparison would show little.
#[test]
fn every_layer_is_partly_active() {
    for small in all() {
        let (mut network, batch) = (small.network(), small.data());
        for mode in [Mode::Eval, TRAIN] {
            let forward = network.forward(&batch.input(), mode, |_| true).unwrap();
            assert!(forward.spikes.iter().all(Option::is_none));
            for (layer, rate) in network.layers.iter().zip(&forward.rates) {
                assert!(*rate > 0.0, "{}, {mode:?}: {} is dead", small.name, layer.name);
            }
            assert!(forward.rates.iter().any(|rate| *rate < 0.8), "{}, {mode:?}: {:?}", small.name, forward.rates);
        }
    }
}

/// f32 sums of up to a few thousand products: 1e-4 of the largest output leaves room for the norms of small batches behind them.
#[test]
fn forward_is_that_of_plain_loops() {
    for small in all() {
        let (mut network, batch) = (small.network(), small.data());
        let (values, data) = (wide(&network.values), data_of(&batch.input()));
        let expected = outputs(&network, &values, &data, batch.size, None);
        let mut worst = 0.0f64;
        let mut layers = 0;
        let forward = network
            .activations(&batch.input(), |layer, values| {
                worst = worst.max(error(values, &expected[layer]));
                layers += 1;
            })
            .unwrap();
        assert_eq!(layers, network.layers.len());
        worst = worst.max(error(&forward.logits, expected.last().unwrap()));
        assert!(worst < 1e-4, "{}: evaluation is off by {worst:e}", small.name);

        let expected = outputs(&network, &values, &data, batch.size, Some(SEED));
        let forward = network.forward(&batch.input(), TRAIN, |_| false).unwrap();
        let worst = error(&forward.logits, expected.last().unwrap());
        assert!(worst < 1e-4, "{}: training is off by {worst:e}", small.name);
    }
}

/// Central differences in f64 along a random direction in each parameter and in the input, against the engine's gradients: 1e-3 of the
/// norm of the gradient, for f32 sums; thresholds have none. The step is so small that no neuron crosses 0 on its way.
#[test]
fn gradients_are_those_of_finite_differences() {
    const STEP: f64 = 1e-8;
    for small in all() {
        let (mut network, batch) = (small.network(), small.data());
        let input = batch.input();
        let labels = labels(batch.size, network.classes);
        let (values, data) = (wide(&network.values), data_of(&input));
        network.gradients(&input, &labels, TRAIN).unwrap();
        let mut rng = seeded::rng(3);
        let mut check = |name: &str, grad: &[f32], loss: &dyn Fn(&[f64]) -> f64| {
            let direction: Vec<f64> = grad.iter().map(|_| if rng.random() { 1.0 } else { -1.0 }).collect();
            let at = |sign: f64| loss(&direction.iter().map(|d| sign * STEP * d).collect::<Vec<f64>>());
            let expected = (at(1.0) - at(-1.0)) / (2.0 * STEP);
            let got: f64 = grad.iter().zip(&direction).map(|(&g, d)| f64::from(g) * d).sum();
            let norm = grad.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
            // What cancels exactly in theory, such as a bias in front of a norm, leaves rounding: hence the second term.
            assert!((got - expected).abs() < 1e-3 * norm + 2e-5, "{}: {name}: {got} instead of {expected} (norm {norm})", small.name);
            norm
        };
        let mut norms = 0.0;
        for (index, parameter) in network.parameters.iter().enumerate() {
            let grad = &network.grads[parameter.start..parameter.start + parameter.len];
            if network.layers.iter().any(|layer| layer.threshold == Some(index)) {
                assert_eq!(grad, [0.0], "{}: {}", small.name, parameter.name);
                continue;
            }
            norms += check(&parameter.name, grad, &|change| {
                let mut values = values.clone();
                values[parameter.start..].iter_mut().zip(change).for_each(|(v, change)| *v += change);
                plain_ann::loss(&network, &values, &data, &labels, SEED)
            });
        }
        assert!(batch.size == 1 || norms > 0.01, "{}: gradients vanish", small.name);

        let forward = network.forward(&input, TRAIN, |_| false).unwrap();
        let mut grad_logits = vec![0.0; forward.logits.len()];
        dsr::ops::cross_entropy::cross_entropy(&forward.logits, &labels, network.classes, &mut grad_logits);
        let mut input_grad = Vec::new();
        network.backward(&input, &grad_logits, Some(&mut input_grad)).unwrap();
        check("input", &input_grad, &|change| {
            let data: Vec<f64> = data.iter().zip(change).map(|(v, change)| v + change).collect();
            plain_ann::loss(&network, &values, &data, &labels, SEED)
        });
    }
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let bits = |network: &Network, batch: &small_networks::Batch| {
        let mut network = network.clone();
        let labels = labels(batch.size, network.classes);
        let (loss, forward) = network.gradients(&batch.input(), &labels, TRAIN).unwrap();
        let mut all = vec![loss.to_bits()];
        let mut add = |values: &[f32]| all.extend(values.iter().map(|v| u64::from(v.to_bits())));
        add(&forward.logits);
        add(&forward.rates);
        add(&network.grads);
        network.norms.iter().for_each(|norm| add(&[&norm.running_mean[..], &norm.running_var].concat()));
        add(&network.activations(&batch.input(), |_, _| {}).unwrap().logits);
        all
    };
    for small in all() {
        let (network, batch) = (small.network(), small.data());
        let expected = on_threads(1, || bits(&network, &batch));
        for threads in [2, 5] {
            assert!(on_threads(threads, || bits(&network, &batch)) == expected, "{} on {threads} threads", small.name);
        }
    }
}

/// Kernels that are larger than the image, strides that skip its end, more rows than one product takes.
#[test]
fn convolution_of_awkward_shapes() {
    let geometry =
        |[cin, cout]: [usize; 2], source, kernel, stride, pad| Geometry { cin, cout, source, pool: [1, 1, 0], kernel, stride, pad };
    let cases = [
        (geometry([1, 1], [1, 1], [1, 1], 1, 0), 1),
        (geometry([3, 5], [7, 4], [3, 3], 2, 1), 3),
        (geometry([2, 17], [2, 3], [5, 5], 1, 2), 2),
        (geometry([1, 3], [1, 1], [7, 7], 2, 3), 2),
        (geometry([33, 4], [3, 5], [3, 5], 1, 0), 4),
        (geometry([5, 2], [5, 5], [1, 1], 2, 0), 3),
        (geometry([2, 3], [40, 33], [3, 3], 1, 1), 2),
        (geometry([4, 6], [4, 4], [2, 3], 3, 4), 1),
    ];
    for (geometry, batch) in cases {
        let [height, width] = geometry.source;
        let (cin, cout) = (geometry.cin, geometry.cout);
        let input = seeded::values(1, batch * height * width * cin, -1.0..1.0);
        let weights = seeded::values(2, geometry.taps() * cin * cout, -1.0..1.0);
        let mut got = vec![f32::NAN; batch * geometry.positions() * cout];
        conv(&input, &weights, &geometry, &mut got);
        let out_width = geometry.out()[1];
        for (row, got) in got.chunks_exact(cout).enumerate() {
            let (sample, at) = (row / geometry.positions(), row % geometry.positions());
            let mut expected = vec![0.0f64; cout];
            geometry.for_each_tap(at / out_width, at % out_width, |tap, y, x| {
                for (c, o) in (0..cin).flat_map(|c| (0..cout).map(move |o| (c, o))) {
                    let value = input[((sample * height + y) * width + x) * cin + c];
                    expected[o] += f64::from(value) * f64::from(weights[(tap * cin + c) * cout + o]);
                }
            });
            for (got, expected) in got.iter().zip(expected) {
                assert!((f64::from(*got) - expected).abs() < 1e-4, "{geometry:?}: row {row}: {got} instead of {expected}");
            }
        }
    }
}

/// A value that is no number has to reach the check that stops a training.
#[test]
fn nan_passes_through() {
    let mut net = Builder::new([1, 1, 1], 1.0);
    let weight = Init::Constant(1.0);
    let connection = net.conv("conv", Source::Input, [1, 1, 0], Conv { cout: 2, kernel: 1, stride: 1, pad: 0, weight, bias: None });
    net.layer("last", vec![connection], None, 0.0).unwrap();
    let mut network = net.finish(Neuron::Relu, 1, 0.01, 0).unwrap();
    for (value, expected) in [(2.0, 2.0), (-2.0, 0.0), (0.0, 0.0)] {
        let forward = network.forward(&Input { data: &[value], batch: 1, frames: 1 }, Mode::Eval, |_| false).unwrap();
        assert_eq!(forward.logits, [expected; 2]);
    }
    let forward = network.forward(&Input { data: &[f32::NAN], batch: 1, frames: 1 }, Mode::Eval, |_| false).unwrap();
    assert!(forward.logits.iter().all(|v| v.is_nan()), "{:?}", forward.logits);
}

#[test]
fn activations_of_spiking_networks_are_refused() {
    let small = small_networks::all().remove(0);
    let error = small.network().activations(&small.data().input(), |_, _| {}).err().unwrap().to_string();
    assert!(error.contains("an ANN (relu)") && error.contains("if neurons"), "{error}");
}

const ANN: &str = "train -d digits-8x8 --widths 4,8 --blocks 1,1 --neuron relu";

/// The checkpoint is the same for any number of threads and after a stop, it has no thresholds, and a table of accuracy.
#[test]
fn an_ann_is_trained_resumed_and_evaluated() {
    let folder = tempdir().unwrap();
    let at = folder.path();
    let (stdout, stderr) = ok(at, &format!("{ANN} --epochs 2 --out whole --threads 1"));
    assert!(stdout.contains("epoch 2/2"), "{stdout}");
    assert!(stderr.contains("as an ANN"), "{stderr}");
    let stopped = dsr(at, &format!("{ANN} --epochs 2 --out parts --threads 2 --stop-after-steps 50"));
    assert_eq!(stopped.status.code(), Some(1));
    ok(at, "train --resume auto --out parts --neuron relu --threads 2");
    let [whole, parts] = ["whole", "parts"].map(|run| std::fs::read(at.join(run).join("last.safetensors")).unwrap());
    assert!(whole == parts, "the resumed run has other bytes");
    let tensors = safetensors::SafeTensors::deserialize(&whole).unwrap();
    assert!(tensors.names().iter().all(|name| !name.contains("Vth")), "{:?}", tensors.names());
    assert!(tensors.names().contains(&"layer1.0.conv1.weight"));

    let (stdout, _) = ok(at, "eval --checkpoint whole -o json");
    let result: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(result["neuron"], "relu");
    assert_eq!(result["results"][0]["time_steps"], 1);
    assert!(result["results"][0]["top1"].as_f64().unwrap() > 0.5, "{result}");
}

/// Weights travel both ways between a spiking network and an ANN; thresholds do not.
#[test]
fn weights_travel_between_ann_and_spiking_network() {
    let folder = tempdir().unwrap();
    let at = folder.path();
    ok(at, &format!("{ANN} --epochs 1 --out ann"));
    let spiking = "train -d digits-8x8 --widths 4,8 --blocks 1,1 --epochs 1 -T 4";
    let (_, stderr) = ok(at, &format!("{spiking} --init-from ann --out spiking"));
    assert!(stderr.contains("without thresholds") && stderr.contains("dsr calibrate"), "{stderr}");
    let (_, stderr) = ok(at, &format!("{ANN} --epochs 1 --init-from spiking/last.safetensors --out back"));
    assert!(!stderr.contains("note:"), "{stderr}");
    let (_, stderr) = ok(at, &format!("{spiking} --neuron lif --init-from spiking/last.safetensors --out lif"));
    assert!(stderr.contains("in units of IF neurons, this run has LIF"), "{stderr}");
    let (_, stderr) = ok(at, &format!("{spiking} --init-from spiking/last.safetensors --out again"));
    assert!(!stderr.contains("note:"), "{stderr}");
}

#[test]
fn what_an_ann_cannot_do_is_said() {
    let folder = tempdir().unwrap();
    let at = folder.path();
    ok(at, &format!("{ANN} --epochs 1 --out ann"));
    let cases: [(&str, i32, &[&str]); 8] = [
        ("train -d digits-8x8 --neuron relu --threshold-init auto", 2, &["threshold-init", "relu", "no thresholds"]),
        ("train -d digits-8x8 --neuron relu -T 4", 2, &["time-steps", "4", "relu", "-T"]),
        ("eval --checkpoint ann --rates", 2, &["neuron", "relu", "--rates"]),
        ("eval --checkpoint ann --ties current", 2, &["neuron", "relu", "--ties current"]),
        ("eval --checkpoint ann --neuron if", 1, &["best.safetensors", "ANN", "dsr calibrate", "--init-from"]),
        ("profile --neuron relu", 2, &["neuron", "relu", "profile"]),
        ("bench latency --neuron relu -T 1", 2, &["neuron", "relu", "latency"]),
        ("bench kernels --neuron relu -T 1", 2, &["neuron", "relu", "kernel"]),
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
