//! The update of the whole arena on the CPU.

use std::sync::Arc;

use rayon::prelude::*;

use super::average::Average;
use super::{Identity, Rule, Update, clip};

/// A rule, what is done around it, and its state.
#[derive(Clone, Debug)]
pub struct Optimizer {
    /// Update rule.
    pub rule: Rule,
    /// Factor of weight decay, of every parameter that is not spared, thresholds and batch norm included.
    pub weight_decay: f32,
    /// Bits of the parameters that are spared from weight decay, 32 a word; empty for none.
    pub spared: Arc<[u32]>,
    /// Bound of the norm of all gradients, which are made smaller together where it is above that.
    pub clip_norm: Option<f32>,
    /// Moving average of the parameters, if one is kept.
    pub average: Option<Average>,
    /// Momentum, or Adam's mean of gradients; one value a parameter.
    pub first: Vec<f32>,
    /// Adam's mean of squared gradients; empty for SGD.
    pub second: Vec<f32>,
    /// Steps taken.
    pub steps: u64,
    /// Which optimiser this is.
    pub identity: Identity,
}

/// Parameters that a thread takes at once.
const PART: usize = 1 << 14;

impl Optimizer {
    /// For `len` parameters, none stepped yet.
    pub fn new(rule: Rule, weight_decay: f32, len: usize) -> Self {
        let second = if rule.has_second() { vec![0.0; len] } else { Vec::new() };
        Optimizer {
            rule,
            weight_decay,
            spared: Arc::default(),
            clip_norm: None,
            average: None,
            first: vec![0.0; len],
            second,
            steps: 0,
            identity: Identity::default(),
        }
    }

    /// What a step does.
    pub fn update(&self) -> Update {
        let Optimizer { rule, weight_decay, clip_norm, .. } = *self;
        Update { rule, weight_decay, clip_norm, spares: !self.spared.is_empty(), averages: self.average.is_some() }
    }

    /// Whether there is an average that a step has set.
    pub fn has_average(&self) -> bool {
        self.average.as_ref().is_some_and(|average| !average.values.is_empty())
    }

    /// What changes from step to step: first and second value a parameter, averages of parameters and running statistics; empty for
    /// what it does not keep.
    pub fn arenas(&self) -> [&[f32]; 4] {
        let (values, running): (&[f32], &[f32]) = self.average.as_ref().map_or((&[], &[]), |average| (&average.values, &average.running));
        [&self.first, &self.second, values, running]
    }

    /// The same to change; none for what it does not keep.
    pub(crate) fn arenas_mut(&mut self) -> [Option<&mut Vec<f32>>; 4] {
        let second = self.rule.has_second().then_some(&mut self.second);
        let (values, running) = self.average.as_mut().map(|average| (&mut average.values, &mut average.running)).unzip();
        [Some(&mut self.first), second, values, running]
    }

    /// Updates `values` by `grads`, both as long as the arena.
    pub fn step(&mut self, lr: f32, values: &mut [f32], grads: &[f32]) {
        self.steps += 1;
        let clip = self.clip_norm.map_or(1.0, |most| clip::factor(grads, most));
        if self.spared.is_empty() {
            self.step_with(lr, values, grads, clip, |_| false);
        } else {
            let spared = self.spared.clone();
            self.step_with(lr, values, grads, clip, |at| spared[at / 32] >> (at % 32) & 1 == 1);
        }
    }

    fn step_with(&mut self, lr: f32, values: &mut [f32], grads: &[f32], clip: f32, spared: impl Fn(usize) -> bool + Sync) {
        let decay = self.weight_decay;
        match self.rule {
            Rule::Sgd { momentum, nesterov } => {
                let parts = values.par_chunks_mut(PART).zip(grads.par_chunks(PART)).zip(self.first.par_chunks_mut(PART)).enumerate();
                parts.for_each(|(part, ((values, grads), velocity))| {
                    for (at, ((value, grad), velocity)) in values.iter_mut().zip(grads).zip(velocity).enumerate() {
                        let grad = clip * grad + if spared(part * PART + at) { 0.0 } else { decay } * *value;
                        *velocity = momentum * *velocity + grad;
                        *value -= lr * if nesterov { grad + momentum * *velocity } else { *velocity };
                    }
                });
            }
            Rule::Adam { beta1, beta2, eps } | Rule::AdamW { beta1, beta2, eps } => {
                let (rate, root) = adam_rates(lr, beta1, beta2, self.steps);
                let (decay, keep) = match self.rule {
                    Rule::AdamW { .. } => (0.0, kept(lr, decay)),
                    _ => (decay, 1.0),
                };
                let state = self.first.par_chunks_mut(PART).zip(self.second.par_chunks_mut(PART));
                values.par_chunks_mut(PART).zip(grads.par_chunks(PART)).zip(state).enumerate().for_each(
                    |(part, ((values, grads), (first, second)))| {
                        for (at, (((value, grad), first), second)) in values.iter_mut().zip(grads).zip(first).zip(second).enumerate() {
                            let (decay, keep) = if spared(part * PART + at) { (0.0, 1.0) } else { (decay, keep) };
                            *value *= keep;
                            let grad = clip * grad + decay * *value;
                            *first = beta1 * *first + (1.0 - beta1) * grad;
                            *second = beta2 * *second + (1.0 - beta2) * grad * grad;
                            *value -= rate * *first / (second.sqrt() / root + eps);
                        }
                    },
                );
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

/// What weight decay apart from the gradient leaves of a parameter.
pub(super) fn kept(lr: f32, decay: f32) -> f32 {
    (1.0 - f64::from(lr) * f64::from(decay)) as f32
}
