//! Cross-entropy on the device against that of the CPU: only exp, log and the order of a sample's sum may differ.

#[path = "support/device.rs"]
mod device;
#[path = "support/output.rs"]
mod output;
#[path = "support/seeded.rs"]
mod seeded;

use dsr::device::Slice;
use dsr::ops::cross_entropy::cuda::{self, DeviceTargets, Outputs};
use dsr::ops::cross_entropy::{Blend, Targets, cross_entropy, cross_entropy_of, first_largest};
use dsr::ops::optimizer::cuda::StepResult;
use emulator::Order;
use output::Output;

/// Loss, number of correct samples and gradient.
fn on_device(logits: &[f32], targets: &Targets, classes: usize, factor: f32) -> (f64, u32, Vec<f32>) {
    let (gpu, &Targets { labels, blends, smoothing }) = (device::gpu(), targets);
    let on_blends = (!blends.is_empty()).then(|| gpu.memory_of(blends).unwrap());
    let (grad, losses) = (Output::of(&gpu, &vec![f32::NAN; logits.len()]), Output::of(&gpu, &vec![f64::NAN; labels.len()]));
    let result = Output::of(&gpu, &[StepResult::default()]);
    let (logits, on_gpu) = (gpu.memory_of(logits).unwrap(), gpu.memory_of(labels).unwrap());
    let out = Outputs { grad: grad.slice(), losses: losses.slice(), result: result.slice() };
    let blends = on_blends.as_ref().map_or(Slice::NONE, |memory| memory.slice());
    let targets = DeviceTargets { labels: on_gpu.slice(), blends, smoothing };
    cuda::cross_entropy(&gpu, &out, logits.slice(), &targets, [labels.len(), classes], factor).unwrap();
    losses.values();
    let [result] = result.values().try_into().unwrap();
    assert_eq!(result.first_not_finite(), None);
    (result.loss, result.correct, grad.values())
}

fn on_cpu(logits: &[f32], targets: &Targets, classes: usize, factor: f32) -> (f64, u32, Vec<f32>) {
    let mut grad = vec![0.0; logits.len()];
    let loss = cross_entropy_of(logits, targets, classes, &mut grad);
    let right = logits.chunks_exact(classes).zip(targets.labels).filter(|(row, label)| first_largest(row) == **label as usize).count();
    (loss, right as u32, grad.iter().map(|g| g * factor).collect())
}

#[test]
fn loss_gradient_and_correct_samples_are_those_of_the_cpu() {
    // One sample and more than a block of them, one class, classes around a warp.
    for (classes, batch, range) in
        [(1, 1, 1.0f32), (2, 5, 1.0), (10, 257, 20.0), (31, 8, 3.0), (32, 9, 3.0), (33, 7, 100.0), (1000, 3, 5.0)]
    {
        let logits = seeded::values(classes as u64, classes * batch, -range..range);
        // Halves meet each other often.
        let logits: Vec<f32> = if classes == 33 { logits.iter().map(|v| (v / 20.0).round() / 2.0).collect() } else { logits };
        let labels: Vec<u32> = (0..batch).map(|b| (b * 7 % classes) as u32).collect();
        let blend = |(b, share): (usize, f32)| Blend { other: (b * 5 % classes) as u32, share };
        let blends: Vec<Blend> = seeded::values(2, batch, 0.0..1.0).into_iter().enumerate().map(blend).collect();
        for smoothing in [0.0, 0.1] {
            for blends in [&[], &blends[..]] {
                check(&logits, &Targets { labels: &labels, blends, smoothing }, classes);
            }
        }
    }
}

fn check(logits: &[f32], targets: &Targets, classes: usize) {
    let (loss, correct, grad) = on_device(logits, targets, classes, 0.3);
    let (expected_loss, expected_correct, expected) = on_cpu(logits, targets, classes, 0.3);
    let what = format!("{classes} classes, {} samples, {}, {} mixed", targets.labels.len(), targets.smoothing, targets.blends.len());
    assert!((loss - expected_loss).abs() <= 1e-13 * expected_loss.abs().max(1.0), "{what}: {loss} {expected_loss}");
    assert_eq!(correct, expected_correct, "{what}");
    for (got, expected) in grad.iter().zip(&expected) {
        // The f64 share keeps 15 digits but the difference to 1 may cancel most of them.
        let allowed = f64::from(expected.abs()) * 1.2e-7 + 1e-16;
        assert!((f64::from(*got) - f64::from(*expected)).abs() <= allowed, "{what}: {got} {expected}");
    }
    assert_eq!(on_device(logits, targets, classes, 0.3), (loss, correct, grad), "the same bits again: {what}");
}

#[test]
fn the_first_of_equal_logits_counts_and_a_nan_never_wins() {
    const NAN: f32 = f32::NAN;
    const LOW: f32 = f32::NEG_INFINITY;
    let cases: [(&[f32], usize); 8] = [
        (&[0.0, 2.0, 2.0], 1),
        (&[-0.0, 0.0, 0.0], 0),
        (&[1.0, NAN, 3.0], 2),
        (&[NAN, 5.0, 3.0], 0),
        (&[NAN, NAN, NAN], 0),
        (&[LOW, LOW, LOW], 0),
        (&[LOW, -1.0, LOW], 1),
        (&[1.0, f32::MAX, f32::INFINITY], 2),
    ];
    for (row, expected) in cases {
        for label in 0..3 {
            let (loss, correct, _) = on_device(row, &Targets::plain(&[label]), 3, 1.0);
            assert_eq!(correct == 1, label as usize == expected, "{row:?}: label {label}");
            assert_eq!(first_largest(row), expected, "{row:?} on the CPU");
            assert_eq!(loss.is_finite(), on_cpu(row, &Targets::plain(&[label]), 3, 1.0).0.is_finite(), "{row:?}: {loss}");
        }
    }
}

/// Three passes of `loss_reduce`, in the order of threads that shows a missing barrier; labels past a warp.
#[test]
fn losses_of_many_samples_in_every_order() {
    let gpu = device::gpu();
    let (classes, batch) = (40, 600);
    let logits = seeded::values(1, classes * batch, -5.0..5.0);
    let labels: Vec<u32> = (0..batch).map(|b| (b * 7 % classes) as u32).collect();
    let mut expected_grad = vec![0.0; logits.len()];
    let expected = cross_entropy(&logits, &labels, classes, &mut expected_grad);
    let (on_logits, on_labels) = (gpu.memory_of(&logits).unwrap(), gpu.memory_of(&labels).unwrap());
    let targets = DeviceTargets { labels: on_labels.slice(), blends: Slice::NONE, smoothing: 0.0 };
    for order in [Order::Fifo, Order::Lifo, Order::Random(1)] {
        let (grad, losses) = (Output::of(&gpu, &vec![0.0f32; logits.len()]), Output::of(&gpu, &vec![0.0f64; batch]));
        let result = Output::of(&gpu, &[StepResult::default()]);
        let out = Outputs { grad: grad.slice(), losses: losses.slice(), result: result.slice() };
        emulator::set_order(order);
        cuda::cross_entropy(&gpu, &out, on_logits.slice(), &targets, [batch, classes], 1.0).unwrap();
        let got = result.values()[0].loss;
        emulator::set_order(Order::Fifo);
        assert!((got - expected).abs() < 1e-12 * expected, "{order:?}: {got}, expected {expected}");
        assert!(grad.values().iter().zip(&expected_grad).all(|(a, b)| (a - b).abs() < 1e-8), "{order:?}");
    }
}
