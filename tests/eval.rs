//! Accuracy, intervals and operation counts against values worked out by hand or by plain loops.

use dsr::evaluation::energy::{self, Counts};
use dsr::evaluation::synaptic::{Operations, add_operations, readers};
use dsr::evaluation::{Evaluation, wilson_interval};
use dsr::network::{Builder, Conv, Init, Input, Mode, Network, Source};
use dsr::ops::cross_entropy::first_largest;
use dsr::ops::neuron::Neuron;
use dsr::ops::spike_conv::Geometry;
use dsr::settings::Config;
use dsr::spikes::Spikes;

#[test]
fn ties_go_to_the_class_of_lower_number() {
    let logits = vec![1.0, 1.0, 0.0, /**/ 1.0, 1.0, 0.0, /**/ 0.0, 0.0, 0.0, /**/ -1.0, 2.0, 3.0];
    let evaluation = Evaluation { logits, labels: vec![0, 1, 2, 2], classes: 3, ..Evaluation::default() };
    assert_eq!([0, 1, 2, 3].map(|index| evaluation.rank(index)), [0, 1, 2, 0]);
    assert_eq!([0, 1, 2, 3].map(|index| evaluation.prediction(index)), [0, 0, 0, 2]);
    assert_eq!([0, 1, 2, 3].map(|index| evaluation.first(index, 2)), [[0, 1], [0, 1], [0, 1], [2, 1]]);
    assert_eq!((evaluation.first(3, 9), evaluation.first(3, 0)), (vec![2, 1, 0], vec![]));
    let (softmax, sum) = (evaluation.softmax(3), (-4f64).exp() + (-1f64).exp() + 1.0);
    assert!(softmax.iter().zip([-4f64, -1.0, 0.0]).all(|(share, power)| (share - power.exp() / sum).abs() < 1e-15), "{softmax:?}");
    assert_eq!([1, 2, 3].map(|k| evaluation.correct(k)), [2, 3, 4]);
    assert_eq!(evaluation.accuracy(), 0.5);
    assert_eq!(evaluation.per_class(), [[1, 1], [1, 0], [2, 1]]);
    assert_eq!(evaluation.confusion(), [[1, 0, 0], [1, 0, 0], [1, 0, 1]]);
    assert_eq!(evaluation.ties(), 3);
    assert_eq!(first_largest(&[f32::NAN, 1.0]), 0, "NaN loses to nothing, and is no panic");
}

/// Currents decide between equal logits, never against a larger one; where they are equal, too, the number of the class does.
#[test]
fn ties_go_to_the_larger_current() {
    let logits = vec![1.0, 1.0, 0.0, /**/ 1.0, 1.0, 0.0, /**/ 0.0, 0.0, 0.0, /**/ 1.0, 0.0, 0.0];
    let currents = vec![0.9, 1.1, 3.0, /**/ 1.0, 1.0, 0.5, /**/ -2.0, -1.0, -0.5, /**/ 1.0, 2.0, 2.0];
    let evaluation = Evaluation { logits, currents, labels: vec![0, 1, 2, 2], classes: 3, ..Evaluation::default() };
    assert_eq!([0, 1, 2, 3].map(|index| evaluation.rank(index)), [1, 1, 0, 2]);
    assert_eq!([0, 1, 2, 3].map(|index| evaluation.prediction(index)), [1, 0, 2, 0]);
    assert_eq!([0, 1, 2, 3].map(|index| evaluation.first(index, 3)), [[1, 0, 2], [0, 1, 2], [2, 1, 0], [0, 1, 2]]);
    assert_eq!((evaluation.ties(), evaluation.correct(1)), (3, 1));
}

/// Ends computed from the formula outside of Rust.
#[test]
fn wilson_intervals() {
    let cases =
        [(0, 10, [0.0, 0.277_533]), (10, 10, [0.722_467, 1.0]), (5, 10, [0.236_593, 0.763_407]), (425, 500, [0.816_039, 0.878_624])];
    for (hits, n, expected) in cases {
        let got = wilson_interval(hits, n);
        assert!(got.iter().zip(expected).all(|(g, e)| (g - e).abs() < 1e-5), "{hits} of {n}: {got:?}, expected {expected:?}");
    }
    assert_eq!(wilson_interval(0, 0), [0.0, 1.0]);
}

fn geometry(source: [usize; 2], pool: [usize; 3], kernel: usize, stride: usize, pad: usize) -> Geometry {
    Geometry { cin: 3, cout: 5, source, pool, kernel: [kernel; 2], stride, pad }
}

#[test]
fn readers_of_a_position() {
    let cases = [
        (geometry([3, 3], [1, 1, 0], 3, 1, 1), vec![4, 6, 4, 6, 9, 6, 4, 6, 4]),
        (geometry([2, 3], [1, 1, 0], 1, 2, 0), vec![1, 0, 1, 0, 0, 0]),
        (geometry([4, 4], [2, 2, 0], 1, 1, 0), vec![1; 16]),
        (geometry([2, 2], [3, 2, 1], 1, 1, 0), vec![1; 4]), // one window of 3×3 around four positions, padded
    ];
    for (geometry, expected) in cases {
        assert_eq!(readers(&geometry), expected, "{geometry:?}");
    }
}

/// Dense equals the loop over all outputs and taps; actual equals it when every neuron fires.
#[test]
fn operations_of_a_network() {
    let config = Config { model: "preact-resnet".into(), widths: vec![3, 5], blocks: vec![1, 1], time_steps: 3, ..Config::default() };
    let mut network = config.network([6, 6, 1], 4).unwrap();
    let data: Vec<f32> = (0..2 * 36).map(|v| v as f32 / 40.0).collect();
    let forward = network.forward(&Input { data: &data, batch: 2, frames: 1 }, Mode::Eval, |_| true).unwrap();
    let mut totals = vec![Operations::default(); network.layers.len()];
    add_operations(&network, &forward.spikes, 2, 1, &mut totals);
    for (layer, total) in network.layers.iter().zip(&totals) {
        assert!(total.actual <= total.dense, "{}: {total:?}", layer.name);
    }
    // The stem reads the image once, whatever T: 3×3 taps, 3 channels, less what hangs over the border.
    let taps = (6 * 6 * 9 - 4 * 6 * 3 + 4) * 3 * 2;
    assert_eq!(totals[0], Operations { actual: taps, dense: taps });
    // The linear layer reads the pooled layer: every spike once for each of 4 classes.
    let pooled = forward.spikes[totals.len() - 2].as_ref().unwrap();
    let last = totals[totals.len() - 1];
    assert_eq!(last.actual, pooled.count() * 4);
    assert_eq!(last.dense, (pooled.channels * pooled.positions * 4 * 2 * 3) as u64);
}

/// Images of 4x4 into 2 channels by 3x3, and those, pooled by 2x2, into 3 classes: no norm.
fn two_layers(time_steps: usize) -> Network {
    let mut builder = Builder::new([4, 4, 1], 1.0);
    let conv = |cout, kernel, pad| Conv { cout, kernel, stride: 1, pad, weight: Init::Constant(0.1), bias: None };
    let first = builder.conv("first", Source::Input, [1, 1, 0], conv(2, 3, 1));
    let first = builder.layer("first", vec![first], None, 0.0).unwrap();
    let second = builder.conv("second", first, [2, 2, 0], conv(3, 2, 0));
    builder.layer("second", vec![second], None, 0.0).unwrap();
    builder.finish(Neuron::If { alpha: 0.5 }, time_steps, 0.01, 0).unwrap()
}

/// By hand. First layer: 16 positions of 9 taps less what hangs over the border, 4·4 + 8·6 + 4·9 = 100 taps, times 2 channels: 200
/// MACs an image, once. Second: 5 spikes an image, each read by one tap of 3 channels: 15 accumulates. As an ANN: 200 MACs; a pool of
/// 4 positions times 4 values times 2 channels: 32 additions; 4 taps times 2 times 3: 24 MACs.
#[test]
fn energy_of_two_layers() {
    let network = two_layers(3);
    let mut first = Spikes::reuse(Vec::new(), 3, 2, 16, 2);
    // Image, position and step of ten spikes.
    for (spike, word) in [0, 1, 5, 20, 40, 48, 50, 60, 77, 95].into_iter().enumerate() {
        first.bits_mut()[word] = 1 << (spike % 2);
    }
    let mut operations = vec![Operations::default(); 2];
    add_operations(&network, &[Some(first), None], 2, 1, &mut operations);
    assert_eq!(operations, [Operations { actual: 400, dense: 400 }, Operations { actual: 30, dense: 2 * 3 * 16 * 2 * 3 }]);
    let counts = Counts::of_network(&network, &operations, 2);
    assert_eq!(counts[0], Counts { ac: 0.0, mac: 200.0, ann_ac: 0.0, ann_mac: 200.0, updates: 96.0 });
    assert_eq!(counts[1], Counts { ac: 15.0, mac: 0.0, ann_ac: 32.0, ann_mac: 24.0, updates: 9.0 });
    let total = Counts::total(&counts);
    let near = |got: f64, picojoules: f64| assert!((got * 1e12 / picojoules - 1.0).abs() < 1e-12, "{got} J, by hand {picojoules} pJ");
    near(total.joules(&energy::FLOAT), 200.0 * 4.6 + 15.0 * 0.9); // 933.5
    near(total.ann_joules(&energy::FLOAT), 224.0 * 4.6 + 32.0 * 0.9); // 1059.2
    near(total.joules(&energy::INTEGER), 200.0 * 4.6 + 15.0 * 0.1);
    near(total.ann_joules(&energy::INTEGER), 224.0 * 0.3 + 32.0 * 0.1);
}

/// A spike counts at its position, whatever its step: in a corner of 3x3 it has 4 readers, in the middle 9.
#[test]
fn a_spike_counts_at_its_position() {
    let mut builder = Builder::new([3, 3, 1], 1.0);
    let conv = Conv { cout: 5, kernel: 3, stride: 1, pad: 1, weight: Init::Constant(0.1), bias: None };
    let first = builder.conv("first", Source::Input, [1, 1, 0], conv);
    let first = builder.layer("first", vec![first], None, 0.0).unwrap();
    let second = builder.conv("second", first, [1, 1, 0], conv);
    builder.layer("second", vec![second], None, 0.0).unwrap();
    let network = builder.finish(Neuron::If { alpha: 0.5 }, 4, 0.01, 0).unwrap();
    for t in 0..4 {
        for (position, expected) in [(0, 4), (4, 9), (5, 6), (8, 4)] {
            let mut spikes = Spikes::reuse(Vec::new(), 4, 1, 9, 5);
            spikes.bits_mut()[position * 4 + t] = 1;
            let mut operations = vec![Operations::default(); 2];
            add_operations(&network, &[Some(spikes), None], 1, 1, &mut operations);
            assert_eq!(operations[1].actual, expected * 5, "position {position}, step {t}");
        }
    }
}
