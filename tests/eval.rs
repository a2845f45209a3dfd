//! Accuracy, intervals and operation counts against values worked out by hand or by plain loops.

use dsr::config::Config;
use dsr::eval::{Evaluation, wilson_interval};
use dsr::network::{Input, Mode};
use dsr::ops::cross_entropy::first_largest;
use dsr::ops::spike_conv::Geometry;
use dsr::synaptic::{Operations, add_operations, readers};

#[test]
fn ties_go_to_the_class_of_lower_number() {
    let logits = vec![1.0, 1.0, 0.0, /**/ 1.0, 1.0, 0.0, /**/ 0.0, 0.0, 0.0, /**/ -1.0, 2.0, 3.0];
    let evaluation = Evaluation { logits, labels: vec![0, 1, 2, 2], classes: 3, loss: 0.0, rates: vec![] };
    assert_eq!([0, 1, 2, 3].map(|index| evaluation.rank(index)), [0, 1, 2, 0]);
    assert_eq!([0, 1, 2, 3].map(|index| evaluation.prediction(index)), [0, 0, 0, 2]);
    assert_eq!([1, 2, 3].map(|k| evaluation.correct(k)), [2, 3, 4]);
    assert_eq!(evaluation.accuracy(), 0.5);
    assert_eq!(evaluation.per_class(), [[1, 1], [1, 0], [2, 1]]);
    assert_eq!(first_largest(&[f32::NAN, 1.0]), 0, "NaN loses to nothing, and is no panic");
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
