//! SGD, Adam and AdamW over the whole arena, what may be done around them, and learning-rate schedules. The formulas are PyTorch's.

mod average;
mod clip;
mod cpu;
pub mod cuda;
mod identity;
pub use average::Average;
pub use cpu::Optimizer;
pub use identity::Identity;

use serde::{Deserialize, Serialize};

/// An update rule with its constants.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Rule {
    /// Stochastic gradient descent.
    Sgd { momentum: f32, nesterov: bool },
    /// Adam (Kingma & Ba, 2015).
    Adam { beta1: f32, beta2: f32, eps: f32 },
    /// Adam with weight decay apart from the gradient (Loshchilov & Hutter, 2019).
    AdamW { beta1: f32, beta2: f32, eps: f32 },
}

impl Rule {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Rule::Sgd { .. } => "sgd",
            Rule::Adam { .. } => "adam",
            Rule::AdamW { .. } => "adamw",
        }
    }

    /// Whether it keeps a second value a parameter.
    pub fn has_second(self) -> bool {
        !matches!(self, Rule::Sgd { .. })
    }
}

/// What every step of an optimiser does; recorded launches hold it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// Update rule.
    pub rule: Rule,
    /// Factor of weight decay.
    pub weight_decay: f32,
    /// Bound of the norm of all gradients.
    pub clip_norm: Option<f32>,
    /// Whether some parameters are spared from weight decay.
    pub spares: bool,
    /// Whether averages are kept.
    pub averages: bool,
}

/// How the learning rate changes over a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shape<'a> {
    /// A cosine down to zero.
    Cosine,
    /// Times `gamma` at each of `milestones`, shares of the run in rising order. PyTorch: `MultiStepLR`.
    MultiStep { milestones: &'a [f64], gamma: f64 },
    /// Up along a cosine until `peak_share` of the run is done, and down along one, step by step. PyTorch: `OneCycleLR` with its usual
    /// factors, without its cycle of the momentum.
    OneCycle { peak_share: f64 },
}

/// Learning rate: a shape, times a linear warm-up over the first iterations.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule<'a> {
    /// How it changes.
    pub shape: Shape<'a>,
    /// Highest rate.
    pub lr: f64,
    /// Epochs of the whole run.
    pub epochs: usize,
    /// Steps of an epoch.
    pub steps: usize,
    /// Iterations of the warm-up.
    pub warmup: usize,
}

/// Highest rate of one cycle by its first one: `div_factor`.
const FIRST: f64 = 25.0;
/// First rate of one cycle by its last one: `final_div_factor`.
const LAST: f64 = 1e4;
/// Share of a run within which a milestone counts as reached: 0.55 of 100 epochs is a little more than 55 in floating point.
const ROUNDING: f64 = 1e-12;

impl Schedule<'_> {
    /// Rate of iteration `iteration` (counted over the whole run); `epochs` have passed before it, whole ones where the rate is to stay
    /// the same within an epoch.
    pub fn rate(&self, epochs: f64, iteration: usize) -> f64 {
        let shaped = match self.shape {
            Shape::Cosine => 0.5 * self.lr * (1.0 + (std::f64::consts::PI * epochs / self.epochs as f64).cos()),
            Shape::MultiStep { milestones, gamma } => {
                let done = epochs / self.epochs as f64 + ROUNDING;
                self.lr * gamma.powi(milestones.iter().filter(|&&milestone| milestone <= done).count() as i32)
            }
            Shape::OneCycle { peak_share } => one_cycle(self.lr, peak_share, iteration as f64, (self.epochs * self.steps) as f64),
        };
        if iteration < self.warmup { shaped * (iteration + 1) as f64 / self.warmup as f64 } else { shaped }
    }
}

/// Rate of step `step` of `steps`, from 0.
fn one_cycle(highest: f64, peak_share: f64, step: f64, steps: f64) -> f64 {
    let between = |from: f64, to: f64, share: f64| to + (from - to) / 2.0 * (1.0 + (std::f64::consts::PI * share).cos());
    let (first, peak, end) = (highest / FIRST, peak_share * steps - 1.0, steps - 1.0);
    if step <= peak && peak > 0.0 {
        return between(first, highest, step / peak);
    }
    between(highest, first / LAST, (step - peak) / (end - peak))
}
