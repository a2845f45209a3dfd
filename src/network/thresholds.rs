//! Initial thresholds from data: layer by layer, so that no layer starts silent.

use serde::Serialize;

use super::{Input, Network, WeightGradient};
use crate::error::{Error, Result};
use crate::spikes::Spikes;

/// What was chosen for a layer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChosenThreshold {
    /// Name of the layer.
    pub layer: String,
    /// The threshold, not below the network's bound.
    pub threshold: f32,
    /// Spikes per neuron and step with it, over the samples it was chosen from.
    pub firing_rate: f32,
}

/// Mean currents that are looked at in a layer; more of them change the choice by little and its time by much.
const CURRENTS: usize = 1 << 17;
/// Candidates an octave and octaves, from twice the largest current down.
const CANDIDATES: [u32; 2] = [12, 8];
/// The range of the logits is so many times the one that fits them at the start: it bounds how sure the network can become, so it
/// needs room. Measured: docs/thresholds.md.
const LOGITS_ROOM: f64 = 4.0;

impl Network {
    /// Chooses the threshold of every layer from a batch in training mode (batch statistics, dropout drawn from `seed`), each with
    /// those of earlier layers in place: the one whose representation comes nearest to the ReLU of the mean current; for the logits
    /// four times as much.
    /// Leaves everything but thresholds as it was; has the same bits for any number of threads.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] if the input does not fit the network, or if the network is on a device.
    pub fn choose_thresholds(&mut self, input: &Input, seed: u64) -> Result<Vec<ChosenThreshold>> {
        self.choose_thresholds_where(input, seed, |_| true)
    }

    /// The same for those thresholds that `is_wanted` says yes to by their places in [`Network::parameters`]; the others stay.
    ///
    /// # Errors
    /// As [`Network::choose_thresholds`].
    pub fn choose_thresholds_where(&mut self, input: &Input, seed: u64, is_wanted: impl Fn(usize) -> bool) -> Result<Vec<ChosenThreshold>> {
        self.check_input(input)?;
        if self.session.is_some() {
            return Err(Error::shape("choose_thresholds", "a network on the CPU", "one on a device"));
        }
        let norms = self.norms.clone();
        let mut workspace = std::mem::take(&mut self.workspace);
        let mut sources: Vec<Option<Spikes>> = Vec::new();
        let mut chosen = Vec::new();
        for index in 0..self.firing_layers().count() {
            let [height, width, channels] = self.layers[index].shape;
            let neurons = input.batch * height * width * channels;
            let mut spikes = Spikes::reuse(Vec::new(), self.time_steps, input.batch, height * width, channels);
            if let Some(parameter) = self.layers[index].threshold.filter(|&place| is_wanted(place)) {
                self.train_layer(index, input, &sources, &mut spikes, WeightGradient::Rate, seed, &mut workspace)?;
                let currents = self.mean_currents(index);
                if let Some(upper) = best_upper(&currents, self.time_steps, self.neuron.alpha()) {
                    let is_last = index + 1 == self.layers.len();
                    let upper = if is_last { with_room(upper, &currents, self.time_steps, self.neuron.alpha()) } else { upper };
                    // The upper end of the clamp mapping is proportional to the threshold.
                    let threshold = (upper / f64::from(self.neuron.upper(1.0))) as f32;
                    self.set_parameter(parameter, &[threshold.max(self.threshold_bound)]);
                }
            }
            let fired = self.train_layer(index, input, &sources, &mut spikes, WeightGradient::Rate, seed, &mut workspace)?;
            sources.push(Some(spikes));
            let layer = &self.layers[index];
            let firing_rate = (fired as f64 / (neurons * self.time_steps) as f64) as f32;
            chosen.push(ChosenThreshold { layer: layer.name.clone(), threshold: self.threshold(layer), firing_rate });
        }
        self.norms = norms;
        self.workspace = workspace;
        self.kept.clear();
        self.prepare();
        Ok(chosen)
    }

    /// (Weighted) mean currents over time of a layer that has just run in training mode: all, or every n-th of many.
    fn mean_currents(&self, index: usize) -> Vec<f64> {
        let kept = &self.kept[index];
        let (representation, channels) = (kept.representation(), self.layers[index].shape[2]);
        // An odd step meets every channel, as their number is mostly even.
        let step = representation.len().div_ceil(CURRENTS) | 1;
        let current = |at: usize| kept.norm.gamma[at % channels].mul_add(representation[at], kept.norm.beta[at % channels]);
        (0..representation.len()).step_by(step).map(|at| f64::from(current(at))).collect()
    }
}

/// The range of the logits: four times `upper`, but no more than leaves the first of T levels at half of the largest current, since with
/// few steps a wide range has no level left for the currents at the start.
fn with_room(upper: f64, currents: &[f64], time_steps: usize, alpha: f32) -> f64 {
    let largest = currents.iter().copied().fold(0.0, f64::max);
    let widest = time_steps as f64 * largest / (2.0 * f64::from(alpha));
    (LOGITS_ROOM * upper).min(widest).max(upper)
}

/// Upper end U of the clamp mapping that minimises the squared distance of what a neuron emits to the ReLU of its mean current.
///
/// With a constant current Ī a neuron fires n = ⌊T·Ī/U + 1 − α⌋ times in T steps, at least 0 and at most T times, and emits U·n/T, in
/// units of the current. A large U rounds small currents to nothing, a small one cuts off large currents.
/// None where no current is positive: such a layer is silent with every threshold.
fn best_upper(currents: &[f64], time_steps: usize, alpha: f32) -> Option<f64> {
    let largest = currents.iter().copied().fold(0.0, f64::max);
    if largest <= 0.0 || !largest.is_finite() {
        return None;
    }
    let (steps, alpha) = (time_steps as f64, f64::from(alpha));
    let distance = |upper: f64| -> f64 {
        let of_one = |&current: &f64| {
            let count = (steps * current / upper + 1.0 - alpha).floor().clamp(0.0, steps);
            (current.max(0.0) - upper * count / steps).powi(2)
        };
        currents.iter().map(of_one).sum()
    };
    let [in_octave, octaves] = CANDIDATES;
    let candidates = (0..=in_octave * octaves).map(|k| largest * (1.0 - f64::from(k) / f64::from(in_octave)).exp2());
    let distances = candidates.map(|upper| (upper, distance(upper)));
    distances.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(upper, _)| upper)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_upper_end_follows_the_currents() {
        // Levels 0, 1/4 … 1 of U: exact for U = 2, with currents that are multiples of a half up to 2.
        let currents: Vec<f64> = (-4..=4).map(|k| f64::from(k) / 2.0).collect();
        assert!((best_upper(&currents, 4, 0.5).unwrap() - 2.0).abs() < 1e-12);
        // In proportion to the currents, whatever their scale.
        let small: Vec<f64> = currents.iter().map(|current| current * 1e-6).collect();
        assert!((best_upper(&small, 4, 0.5).unwrap() - 2e-6).abs() < 1e-18);
        // One current far off does not stretch the range of a thousand others.
        let crowd: Vec<f64> = (0..1000).map(|k| f64::from(k) / 1000.0).chain([8.0]).collect();
        assert!(best_upper(&crowd, 4, 0.5).unwrap() < 4.0);
        // Nothing to choose from.
        for silent in [&[][..], &[0.0, -1.0], &[f64::INFINITY]] {
            assert_eq!(best_upper(silent, 4, 0.5), None, "{silent:?}");
        }
    }
}
