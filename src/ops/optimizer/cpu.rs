//! The update of the whole arena on the CPU.

use rayon::prelude::*;

use super::Rule;

/// A rule and its state; weight decay applies to every parameter, thresholds and batch norm included.
#[derive(Clone, Debug)]
pub struct Optimizer {
    /// Update rule.
    pub rule: Rule,
    /// Factor of the parameter that is added to its gradient.
    pub weight_decay: f32,
    /// Momentum, or Adam's mean of gradients; one value a parameter.
    pub first: Vec<f32>,
    /// Adam's mean of squared gradients; empty for SGD.
    pub second: Vec<f32>,
    /// Steps taken.
    pub steps: u64,
}

impl Optimizer {
    /// For `len` parameters, none stepped yet.
    pub fn new(rule: Rule, weight_decay: f32, len: usize) -> Self {
        let second = match rule {
            Rule::Sgd { .. } => Vec::new(),
            Rule::Adam { .. } => vec![0.0; len],
        };
        Optimizer { rule, weight_decay, first: vec![0.0; len], second, steps: 0 }
    }

    /// Updates `values` by `grads`, both as long as the arena.
    pub fn step(&mut self, lr: f32, values: &mut [f32], grads: &[f32]) {
        const PART: usize = 1 << 14;
        self.steps += 1;
        let decay = self.weight_decay;
        match self.rule {
            Rule::Sgd { momentum, nesterov } => {
                let parts = values.par_chunks_mut(PART).zip(grads.par_chunks(PART)).zip(self.first.par_chunks_mut(PART));
                parts.for_each(|((values, grads), velocity)| {
                    for ((value, grad), velocity) in values.iter_mut().zip(grads).zip(velocity) {
                        let grad = grad + decay * *value;
                        *velocity = momentum * *velocity + grad;
                        *value -= lr * if nesterov { grad + momentum * *velocity } else { *velocity };
                    }
                });
            }
            Rule::Adam { beta1, beta2, eps } => {
                let (rate, root) = adam_rates(lr, beta1, beta2, self.steps);
                let state = self.first.par_chunks_mut(PART).zip(self.second.par_chunks_mut(PART));
                values.par_chunks_mut(PART).zip(grads.par_chunks(PART)).zip(state).for_each(|((values, grads), (first, second))| {
                    for (((value, grad), first), second) in values.iter_mut().zip(grads).zip(first).zip(second) {
                        let grad = grad + decay * *value;
                        *first = beta1 * *first + (1.0 - beta1) * grad;
                        *second = beta2 * *second + (1.0 - beta2) * grad * grad;
                        *value -= rate * *first / (second.sqrt() / root + eps);
                    }
                });
            }
        }
    }
}

/// Learning rate over the correction of Adam's first moment in step `steps` (the first is 1), and root of that of the second.
pub(super) fn adam_rates(lr: f32, beta1: f32, beta2: f32, steps: u64) -> (f32, f32) {
    let steps = steps.min(i32::MAX as u64) as i32;
    let correction = |beta: f32| 1.0 - f64::from(beta).powi(steps);
    ((f64::from(lr) / correction(beta1)) as f32, correction(beta2).sqrt() as f32)
}
