//! SGD and Adam over the whole arena, and the learning-rate schedule. The formulas are PyTorch's.

mod cpu;
pub mod cuda;
pub use cpu::Optimizer;

use serde::{Deserialize, Serialize};

/// An update rule with its constants.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Rule {
    /// Stochastic gradient descent.
    Sgd { momentum: f32, nesterov: bool },
    /// Adam (Kingma & Ba, 2015).
    Adam { beta1: f32, beta2: f32, eps: f32 },
}

/// Learning rate: a cosine down to zero, times a linear warm-up over the first iterations.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Highest rate.
    pub lr: f64,
    /// Epochs of the whole run.
    pub epochs: usize,
    /// Iterations of the warm-up.
    pub warmup: usize,
}

impl Schedule {
    /// Rate of iteration `iteration` (counted over the whole run); `epochs` have passed before it, whole ones where the rate is to stay
    /// the same within an epoch.
    pub fn rate(&self, epochs: f64, iteration: usize) -> f64 {
        let cosine = 0.5 * self.lr * (1.0 + (std::f64::consts::PI * epochs / self.epochs as f64).cos());
        if iteration < self.warmup { cosine * (iteration + 1) as f64 / self.warmup as f64 } else { cosine }
    }
}
