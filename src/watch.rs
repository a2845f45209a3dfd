//! Looks after every epoch whether each layer still works: one that never fires, or always does, carries nothing.

use serde::{Deserialize, Serialize};

use crate::config::{Config, ThresholdInit};
use crate::metrics::LayerMetrics;
use crate::network::Network;

/// Below this firing rate a layer is silent.
const SILENT: f64 = 0.001;
/// Of the last layer about one neuron a class and sample fires, so with many classes its rate is small; this share of it is silence.
const SILENT_CLASS: f64 = 0.1;
/// Above this firing rate a layer is saturated.
const SATURATED: f64 = 0.95;

/// What is wrong with a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It hardly fires.
    Silent,
    /// It hardly does anything else.
    Saturated,
}

/// A layer that carried nothing over an epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Warning {
    /// Name of the layer.
    pub layer: String,
    /// What is wrong with it.
    pub state: State,
    /// Spikes a neuron and step over the training samples of the epoch.
    pub firing_rate: f64,
    /// What to change.
    pub advice: String,
}

impl Warning {
    /// `layer relu2 is silent (firing rate 0.01 %): lower --vth-pooled …`
    pub fn line(&self) -> String {
        let state = match self.state {
            State::Silent => "silent",
            State::Saturated => "saturated",
        };
        format!("layer {} is {state} (firing rate {:.2} %): {}", self.layer, 100.0 * self.firing_rate, self.advice)
    }
}

/// The layers of `network` that were silent or saturated over an epoch; `layers` is what was measured of each, in the same order.
pub fn warnings(config: &Config, network: &Network, layers: &[LayerMetrics]) -> Vec<Warning> {
    let last = network.layers.len() - 1;
    let of_layer = |(index, measured): (usize, &LayerMetrics)| {
        let silent = if index == last { SILENT.min(SILENT_CLASS / network.classes as f64) } else { SILENT };
        let state = match measured.firing_rate {
            rate if rate < silent => State::Silent,
            rate if rate > SATURATED && measured.threshold.is_some() => State::Saturated, // a ReLU that is always active still says how much
            _ => return None,
        };
        let flag = match index {
            _ if index == last => "--vth-logits",
            _ if network.layers[index].norm.is_none() => "--vth-pooled",
            _ => "--vth",
        };
        let advice = match (measured.threshold, state, config.threshold_init) {
            (None, ..) => "no activation is above 0: lower --lr".into(),
            (Some(threshold), State::Silent, _) if threshold <= f64::from(network.threshold_bound) => {
                format!("its threshold of {threshold:.4} is at the bound, lower --vth-bound")
            }
            (Some(threshold), State::Silent, ThresholdInit::Fixed) => {
                format!("lower {flag} (the threshold is {threshold:.4}), or start with --threshold-init auto")
            }
            (Some(threshold), State::Saturated, ThresholdInit::Fixed) => {
                format!("raise {flag} (the threshold is {threshold:.4}), or start with --threshold-init auto")
            }
            (Some(threshold), _, ThresholdInit::Auto) => {
                format!("its threshold, chosen from data, has come to {threshold:.4}: lower --lr")
            }
        };
        Some(Warning { layer: measured.name.clone(), state, firing_rate: measured.firing_rate, advice })
    };
    layers.iter().enumerate().filter_map(of_layer).collect()
}
