//! Cross-entropy against its formula in f64.

#[path = "support/seeded.rs"]
mod seeded;

use approx::assert_relative_eq;
use dsr::ops::cross_entropy::{Blend, Targets, cross_entropy, cross_entropy_of};

fn run(logits: &[f32], labels: &[u32], classes: usize) -> (f64, Vec<f32>) {
    let mut grad = vec![f32::NAN; logits.len()];
    (cross_entropy(logits, labels, classes, &mut grad), grad)
}

#[test]
fn loss_and_gradient_match_the_formula() {
    for (classes, batch, range) in [(1, 1, 1.0f32), (2, 5, 1.0), (10, 7, 20.0), (1000, 3, 5.0)] {
        let logits = seeded::values(classes as u64, classes * batch, -range..range);
        let labels: Vec<u32> = (0..batch).map(|b| (b * 7 % classes) as u32).collect();
        let (loss, grad) = run(&logits, &labels, classes);
        let mut expected_loss = 0.0;
        for (b, row) in logits.chunks_exact(classes).enumerate() {
            let total: f64 = row.iter().map(|&v| f64::from(v).exp()).sum();
            expected_loss -= (f64::from(row[labels[b] as usize]).exp() / total).ln() / batch as f64;
            let mut sum = 0.0;
            for (class, &logit) in row.iter().enumerate() {
                let target = if class == labels[b] as usize { 1.0 } else { 0.0 };
                let expected = (f64::from(logit).exp() / total - target) / batch as f64;
                let got = f64::from(grad[b * classes + class]);
                assert_relative_eq!(got, expected, max_relative = 1e-5, epsilon = 1e-8);
                sum += got;
            }
            assert!(sum.abs() <= 1e-6 / batch as f64, "{classes} classes, sample {b}: the gradient sums to {sum}");
        }
        assert_relative_eq!(loss, expected_loss, max_relative = 1e-6, epsilon = 1e-12);
    }
}

const LOGITS: [f32; 12] = [1.0, -2.0, 0.5, 3.0, 0.25, 0.0, -1.5, 0.75, 2.0, 2.0, -3.0, 1.0];

/// Numbers of PyTorch 2.15 in float64, from
/// ```python
/// loss = torch.nn.CrossEntropyLoss(label_smoothing=0.1)(torch.tensor(LOGITS, dtype=torch.float64).view(3, 4), torch.tensor([2, 0, 3]))
/// ```
#[test]
fn smoothed_targets_are_those_of_pytorch() {
    let expected = [
        2.851791679e-02,
        -6.498617624e-03,
        -2.859819203e-01,
        2.639626211e-01,
        -2.157740620e-01,
        6.375189966e-02,
        7.751056248e-03,
        1.442711061e-01,
        1.320401580e-01,
        1.320401580e-01,
        -7.387504189e-03,
        -2.566928118e-01,
    ];
    let mut grad = [f32::NAN; 12];
    let loss = cross_entropy_of(&LOGITS, &Targets { labels: &[2, 0, 3], blends: &[], smoothing: 0.1 }, 4, &mut grad);
    assert_relative_eq!(loss, 1.974461184125516, max_relative = 1e-14);
    for (got, expected) in grad.iter().zip(expected) {
        assert_relative_eq!(f64::from(*got), expected, max_relative = 1e-7); // f32
    }
}

/// The same with the loss of another class beside it:
/// ```python
/// loss = 0.25 * smoothed(logits, torch.tensor([2, 0, 3])) + 0.75 * smoothed(logits, torch.tensor([0, 3, 3]))
/// ```
#[test]
fn mixed_targets_are_those_of_pytorch() {
    let expected = [
        -1.964820832e-01,
        -6.498617624e-03,
        -6.098192029e-02,
        2.639626211e-01,
        9.225937993e-03,
        6.375189966e-02,
        7.751056248e-03,
        -8.072889390e-02,
        1.320401580e-01,
        1.320401580e-01,
        -7.387504189e-03,
        -2.566928118e-01,
    ];
    let blends = [0, 3, 3].map(|other| Blend { other, share: 0.25 });
    let mut grad = [f32::NAN; 12];
    let loss = cross_entropy_of(&LOGITS, &Targets { labels: &[2, 0, 3], blends: &blends, smoothing: 0.1 }, 4, &mut grad);
    assert_relative_eq!(loss, 1.7494611841255159, max_relative = 1e-14);
    for (got, expected) in grad.iter().zip(expected) {
        assert_relative_eq!(f64::from(*got), expected, max_relative = 1e-7); // f32
    }
}

/// A share of 0 is the other class alone, and one of 1 the own class, in bits.
#[test]
fn a_sample_that_is_all_of_one_class_has_its_bits() {
    for (share, label) in [(1.0, 2), (0.0, 1)] {
        let mut grad = vec![f32::NAN; 4];
        let targets = Targets { labels: &[2], blends: &[Blend { other: 1, share }], smoothing: 0.0 };
        let loss = cross_entropy_of(&LOGITS[..4], &targets, 4, &mut grad);
        let plain = run(&LOGITS[..4], &[label], 4);
        assert_eq!((loss, grad), plain);
    }
}

/// An infinite logit of another class does not reach a loss that is not smoothed.
#[test]
fn without_smoothing_the_bits_are_those_of_the_plain_loss() {
    let plain = run(&[f32::NEG_INFINITY, 1.0, 0.3], &[1], 3);
    assert!(plain.0.is_finite());
    let mut grad = vec![0.0; 3];
    let loss = cross_entropy_of(&[f32::NEG_INFINITY, 1.0, 0.3], &Targets { labels: &[1], blends: &[], smoothing: 0.0 }, 3, &mut grad);
    assert_eq!((loss, grad), plain);
}

#[test]
fn gradient_matches_finite_differences() {
    let (logits, labels) = (seeded::values(3, 12, -2.0..2.0), [2, 0, 3]);
    let (_, grad) = run(&logits, &labels, 4);
    for i in 0..logits.len() {
        let at = |step: f32| {
            let mut moved = logits.clone();
            moved[i] += step;
            run(&moved, &labels, 4).0
        };
        let difference = (at(1.0 / 128.0) - at(-1.0 / 128.0)) * 64.0;
        assert_relative_eq!(f64::from(grad[i]), difference, epsilon = 1e-5); // third derivative times step squared
    }
}

#[test]
fn huge_logits_do_not_overflow() {
    // Logits of one sample, label, loss, gradient.
    let cases: [(&[f32], u32, f64, &[f32]); 6] = [
        (&[1e30, 0.0], 0, 0.0, &[0.0, 0.0]),
        (&[1e4, 0.0], 1, 1e4, &[1.0, -1.0]),
        (&[-1e30, -1e30], 0, 2f64.ln(), &[-0.5, 0.5]),
        (&[f32::MAX, f32::MAX, 0.0], 1, 2f64.ln(), &[0.5, -0.5, 0.0]),
        (&[-1000.0, -1001.0], 1, 1.0 + (1.0 + (-1f64).exp()).ln(), &[0.731_058_6, -0.731_058_6]),
        (&[0.0; 4], 3, 4f64.ln(), &[0.25, 0.25, 0.25, -0.75]),
    ];
    for (logits, label, expected_loss, expected_grad) in cases {
        let (loss, grad) = run(logits, &[label], logits.len());
        assert_relative_eq!(loss, expected_loss, max_relative = 1e-6);
        for (got, expected) in grad.iter().zip(expected_grad) {
            assert_relative_eq!(got, expected, epsilon = 1e-6);
        }
    }
}

/// A NaN among the logits must reach the loss, where training looks for it.
#[test]
fn nan_reaches_the_loss() {
    let (loss, grad) = run(&[0.0, f32::NAN, 1.0], &[0], 3);
    assert!(loss.is_nan() && grad.iter().all(|g| g.is_nan()), "{loss} {grad:?}");
}
