//! Cross-entropy on the CPU.

/// Mean loss over the batch and its gradient, `logits` and `grad` are `[B][classes]`.
pub fn cross_entropy(logits: &[f32], labels: &[u32], classes: usize, grad: &mut [f32]) -> f64 {
    summed_cross_entropy(logits, labels, classes, labels.len(), grad) / labels.len() as f64
}

/// Sum of the losses of some samples of a batch of `batch`, and the gradient of the mean over the whole batch.
pub fn summed_cross_entropy(logits: &[f32], labels: &[u32], classes: usize, batch: usize, grad: &mut [f32]) -> f64 {
    let mut loss = 0.0f64;
    for ((logits, grad), &label) in logits.chunks_exact(classes).zip(grad.chunks_exact_mut(classes)).zip(labels) {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f64 = logits.iter().map(|&v| f64::from(v - largest).exp()).sum();
        loss += total.ln() - f64::from(logits[label as usize] - largest);
        for (class, (grad, &logit)) in grad.iter_mut().zip(logits).enumerate() {
            let share = f64::from(logit - largest).exp() / total;
            let target = f64::from(u8::from(class == label as usize));
            *grad = ((share - target) / batch as f64) as f32;
        }
    }
    loss
}

/// Index of the largest value, the first of equals.
pub fn first_largest(values: &[f32]) -> usize {
    values.iter().enumerate().fold(0, |best, (index, value)| if *value > values[best] { index } else { best })
}
