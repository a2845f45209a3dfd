//! Thresholds from the activations of an ANN: the step of hybrid training between the ANN and the spiking network.
//!
//! The output of a spiking layer reaches from 0 to the value of a spike, so that is set to a quantile of the activations that the
//! layer had as an ANN. Source: DSR, experiments on ImageNet (99.9 % quantile, times Δt for LIF).

use std::sync::Arc;

use serde::Serialize;

use crate::data::{Augment, Dataset, Loader};
use crate::error::{Error, Result};
use crate::evaluation::sketch::QuantileSketch;
use crate::network::{Input, Network};

/// Activations of every layer of `ann` over up to `batches` batches of the training split, in the order of the first epoch of
/// `seed`, neither cropped nor mirrored. Says after each batch how many images it has seen.
///
/// # Errors
/// [`Error::ShapeMismatch`] if network and data set do not fit; that of a sample that cannot be read; [`Error::Config`] naming the
/// layer whose activations are not finite.
pub fn activations(
    ann: &mut Network,
    dataset: &Arc<Dataset>,
    [batch, batches]: [usize; 2],
    seed: u64,
    mut seen: impl FnMut(usize),
) -> Result<Vec<QuantileSketch>> {
    let mut sketches = vec![QuantileSketch::default(); ann.layers.len()];
    let mut parts = Loader::train(Arc::clone(dataset), batch, Augment::default(), seed, 0, 0);
    let mut images = 0;
    for part in parts.by_ref().take(batches) {
        let input = Input { data: &part.data, batch: part.labels.len(), frames: part.frames };
        ann.activations(&input, |layer, values| {
            sketches[layer] = std::mem::take(&mut sketches[layer]).merged(QuantileSketch::of(values));
        })?;
        images += part.labels.len();
        seen(images);
    }
    parts.outcome()?;
    match sketches.iter().position(|sketch| sketch.not_finite() > 0) {
        None => Ok(sketches),
        Some(layer) => {
            let (name, values) = (&ann.layers[layer].name, sketches[layer].not_finite());
            Err(Error::config(
                "checkpoint",
                format!("{name} has {values} activations that are not finite; train the ANN with a lower --lr"),
            ))
        }
    }
}

/// Where a threshold comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The quantile that was asked for.
    Quantile,
    /// The largest activation: the quantile is 0.
    Max,
    /// The settings: every activation is 0.
    Settings,
}

/// What one layer got.
#[derive(Clone, Debug, Serialize)]
pub struct Calibrated {
    /// Name of the layer.
    pub layer: String,
    /// Threshold of the spiking layer, as it is used: not below the bound.
    pub threshold: f32,
    pub origin: Origin,
    /// Quantile of the activations, in units of the current.
    pub quantile: f32,
    /// Largest activation.
    pub max: f32,
    /// Share of activations that are 0.
    pub zeros: f64,
}

/// Sets the thresholds of a spiking network such that a spike is worth the `share`-quantile of the layer's activations as an ANN.
///
/// A layer whose quantile is 0 takes its largest activation; a layer that never was above 0 keeps the threshold it has.
pub fn set_thresholds(network: &mut Network, sketches: &[QuantileSketch], share: f64) -> Vec<Calibrated> {
    let per_threshold = network.neuron.spike_value(1.0); // of a spike: 1 for IF, 1/Δt for LIF
    let mut origins = Vec::new();
    let parameters: Vec<usize> = network.layers.iter().filter_map(|layer| layer.threshold).collect();
    for (&parameter, sketch) in parameters.iter().zip(sketches) {
        let (range, origin) = match (sketch.quantile(share), sketch.max()) {
            (quantile, _) if quantile > 0.0 => (quantile, Origin::Quantile),
            (_, max) if max > 0.0 => (max, Origin::Max),
            _ => (0.0, Origin::Settings),
        };
        if origin != Origin::Settings {
            network.set_parameter(parameter, &[range / per_threshold]);
        }
        origins.push(origin);
    }
    network.prepare();
    let of_layer = |((layer, sketch), origin): ((&crate::network::SpikingLayer, &QuantileSketch), Origin)| Calibrated {
        layer: layer.name.clone(),
        threshold: network.threshold(layer),
        origin,
        quantile: sketch.quantile(share),
        max: sketch.max(),
        zeros: sketch.share_of_zeros(),
    };
    network.firing_layers().zip(sketches).zip(origins).map(of_layer).collect()
}
