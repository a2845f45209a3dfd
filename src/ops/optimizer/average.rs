//! Exponential moving average of the parameters, and of the running statistics that go with them.

use rayon::prelude::*;

use super::Optimizer;

/// After k steps the average keeps at most k / (k + 9) of itself, so that a short run does not average its start; the first step sets it.
const START: f64 = 9.0;

/// An average and how much of it each step keeps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Average {
    /// Share of the average that a step keeps, later in the run; above 0 and below 1.
    pub decay: f32,
    /// Steps that the optimiser had taken when the average began; 0 for a run that has one from its start.
    pub begun: u64,
    /// Average of the arena; empty before the first step.
    pub values: Vec<f32>,
    /// The same of the running statistics, mean and variance of one batch norm after the other.
    pub running: Vec<f32>,
}

impl Average {
    /// Share that the next step keeps, after `steps` of the optimiser.
    pub(super) fn share(&self, steps: u64) -> f32 {
        let steps = steps.saturating_sub(self.begun) as f64;
        f64::from(self.decay).min(steps / (steps + START)) as f32
    }
}

impl Optimizer {
    /// Takes what the last step left into the average, if one is kept: the arena, and the running statistics of all batch norms.
    pub fn average(&mut self, values: &[f32], running: &[f32]) {
        let steps = self.steps.saturating_sub(1);
        let Some(average) = &mut self.average else { return };
        let share = average.share(steps);
        for (into, from) in [(&mut average.values, values), (&mut average.running, running)] {
            into.resize(from.len(), 0.0);
            into.par_iter_mut().with_min_len(1 << 14).zip(from).for_each(|(into, from)| *into = share * *into + (1.0 - share) * from);
        }
    }
}
