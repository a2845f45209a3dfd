//! Where a training run stands, as a checkpoint says it, and whether a run can have come there.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::training::metrics::{EpochMetrics, float};

/// Where a training run stands. Shuffling, augmentation and dropout are functions of `seed`, `epoch` and `step`, so that these
/// three are the state of the generator too.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Epochs finished, which is the index from 0 of the epoch at work.
    pub epoch: usize,
    /// Steps finished in that epoch.
    pub step: usize,
    /// Steps finished in the whole run.
    pub iteration: u64,
    /// Seed of the run.
    pub seed: u64,
    /// Highest accuracy so far, 0..=1: on the validation split, or on the test split where there is none.
    #[serde(with = "float")]
    pub best_accuracy: f64,
    /// Sums over the finished steps of the epoch at work.
    pub sums: EpochSums,
    /// The finished epochs; [`super::save`] leaves out their wall times, which read as NaN.
    pub metrics: Vec<EpochMetrics>,
}

/// What an epoch's line is computed from, so that a run resumed in the middle of an epoch reports the same line.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EpochSums {
    /// Sum of the loss over samples.
    #[serde(with = "float")]
    pub loss: f64,
    /// Samples classified right.
    pub correct: u64,
    /// Samples trained on.
    pub seen: u64,
    /// Sum of each layer's firing rate over samples.
    #[serde(default)]
    pub rates: Vec<f64>,
}

impl Progress {
    /// Refuses what no run can say of itself; `path` is the file that says it.
    ///
    /// # Errors
    /// [`Error::File`] naming the value.
    pub fn check(&self, path: &Path) -> Result<()> {
        let Progress { epoch, step, iteration, best_accuracy, sums, metrics, .. } = self;
        let epochs = metrics.iter().map(|m| m.epoch);
        let says = if !epochs.eq(1..=*epoch) {
            Some(format!("epoch {epoch} with the records of {} epochs", metrics.len()))
        } else if !(0.0..=1.0).contains(best_accuracy) {
            Some(format!("a best accuracy of {best_accuracy}"))
        } else if *iteration < *step as u64 || (*iteration == 0) != (*epoch == 0 && *step == 0) {
            Some(format!("iteration {iteration} at step {step} of epoch {}", epoch.saturating_add(1)))
        } else if sums.correct > sums.seen || (*step == 0) != (sums.seen == 0) {
            Some(format!("{} of {} samples right after {step} steps", sums.correct, sums.seen))
        } else {
            None
        };
        says.map_or(Ok(()), |says| Err(damaged(path, says)))
    }

    /// Refuses what no run of this seed, with a network of so many layers and so many samples in batches of such a size, can have said.
    ///
    /// # Errors
    /// [`Error::File`] naming the value.
    pub fn check_run(&self, path: &Path, seed: u64, layers: usize, [samples, batch]: [usize; 2]) -> Result<()> {
        let steps = samples.div_ceil(batch.max(1)) as u64;
        let seen = (self.step as u64).saturating_mul(batch as u64).min(samples as u64);
        let whole = (self.epoch as u64).checked_mul(steps).and_then(|before| before.checked_add(self.step as u64));
        let says = if self.seed != seed {
            Some(format!("seed {} and has settings with seed {seed}", self.seed))
        } else if self.step as u64 > steps || whole != Some(self.iteration) || self.sums.seen != seen {
            Some(format!(
                "iteration {} at step {} of epoch {} after {} samples: with these data an epoch has {steps} steps",
                self.iteration,
                self.step,
                self.epoch.saturating_add(1),
                self.sums.seen
            ))
        } else if self.step > 0 && self.sums.rates.len() != layers {
            Some(format!("firing rates of {} layers of {layers}", self.sums.rates.len()))
        } else {
            None
        };
        says.map_or(Ok(()), |says| Err(damaged(path, says)))
    }
}

fn damaged(path: &Path, says: String) -> Error {
    Error::file(path, format!("says {says}: it is damaged, or of other data; use another checkpoint, or start anew with --init-from"))
}
