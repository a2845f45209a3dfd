//! Cross-entropy on the CPU.

use super::{Blend, Targets};

/// Mean loss over the batch and its gradient, `logits` and `grad` are `[B][classes]`.
pub fn cross_entropy(logits: &[f32], labels: &[u32], classes: usize, grad: &mut [f32]) -> f64 {
    cross_entropy_of(logits, &Targets::plain(labels), classes, grad)
}

/// The same for targets that are shared between classes.
pub fn cross_entropy_of(logits: &[f32], targets: &Targets, classes: usize, grad: &mut [f32]) -> f64 {
    let batch = targets.labels.len();
    summed_cross_entropy(logits, targets, classes, batch, grad) / batch as f64
}

/// Sum of the losses of some samples of a batch of `batch`, and the gradient of the mean over the whole batch.
pub fn summed_cross_entropy(logits: &[f32], targets: &Targets, classes: usize, batch: usize, grad: &mut [f32]) -> f64 {
    let &Targets { labels, blends, smoothing } = targets;
    let each = smoothing / classes as f64;
    let mut loss = 0.0f64;
    for (b, (logits, grad)) in logits.chunks_exact(classes).zip(grad.chunks_exact_mut(classes)).enumerate() {
        let Blend { other, share } = blends.get(b).copied().unwrap_or(Blend { other: labels[b], share: 1.0 });
        let (label, other) = (labels[b] as usize, other as usize);
        // What the target has beside the part that all classes have.
        let (own, rest) = ((1.0 - smoothing) * f64::from(share), (1.0 - smoothing) * (1.0 - f64::from(share)));
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f64 = logits.iter().map(|&v| f64::from(v - largest).exp()).sum();
        let log_total = total.ln();
        let of_class = |logit: f32| log_total - f64::from(logit - largest);
        let mut of_sample = own * of_class(logits[label]);
        if rest > 0.0 {
            of_sample += rest * of_class(logits[other]);
        }
        if smoothing > 0.0 {
            of_sample += each * logits.iter().map(|&logit| of_class(logit)).sum::<f64>();
        }
        loss += of_sample;
        for (class, (grad, &logit)) in grad.iter_mut().zip(logits).enumerate() {
            let share = f64::from(logit - largest).exp() / total;
            let [own, rest] = [(label, own), (other, rest)].map(|(which, part)| if class == which { part } else { 0.0 });
            let target = each + own + rest;
            *grad = ((share - target) / batch as f64) as f32;
        }
    }
    loss
}

/// Index of the largest value, the first of equals.
pub fn first_largest(values: &[f32]) -> usize {
    values.iter().enumerate().fold(0, |best, (index, value)| if *value > values[best] { index } else { best })
}
