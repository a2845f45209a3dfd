//! Looks after every epoch whether each layer still works: one that never fires, or always does, carries nothing.

use super::metrics::{LayerMetrics, State, Warning};
use crate::network::{Network, SpikingLayer};
use crate::settings::{Config, ThresholdInit};

/// Below this firing rate a layer is silent.
const SILENT: f64 = 0.001;
/// Of the last layer about one neuron a class and sample fires, so with many classes its rate is small; this share of it is silence.
const SILENT_CLASS: f64 = 0.1;
/// Above this firing rate a layer is saturated.
const SATURATED: f64 = 0.95;

/// Samples of a batch that say something of a layer: of a single one, a small layer may be silent by chance.
pub const FEWEST: usize = 8;

/// What a forward pass in training mode has measured of each layer, by its firing rates.
pub fn of_rates(config: &Config, network: &Network, rates: &[f32]) -> Vec<Warning> {
    let measured = |(layer, &rate): (&SpikingLayer, &f32)| LayerMetrics {
        name: layer.name.clone(),
        threshold: layer.threshold.filter(|_| !network.neuron.is_real()).map(|threshold| f64::from(network.value(threshold)[0])),
        firing_rate: f64::from(rate),
    };
    let layers: Vec<LayerMetrics> = network.firing_layers().zip(rates).map(measured).collect();
    warnings(config, network, &layers)
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
            (Some(threshold), _, ThresholdInit::Auto) if config.freeze_thresholds => {
                format!("its threshold, chosen from data, stays at {threshold:.4}: leave --freeze-thresholds out")
            }
            (Some(threshold), _, ThresholdInit::Auto) => {
                format!("its threshold, chosen from data, has come to {threshold:.4}: lower --lr")
            }
        };
        Some(Warning { layer: measured.name.clone(), state, firing_rate: measured.firing_rate, advice })
    };
    layers.iter().enumerate().filter_map(of_layer).collect()
}
