//! Cross-entropy against its formula in f64.

#[path = "support/seeded.rs"]
mod seeded;

use approx::assert_relative_eq;
use dsr::ops::cross_entropy::cross_entropy;

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
