//! A network for other programs: its parameters as the forward pass uses them, with batch norms or folded.

use super::{Kind, Network, NormState, Source};
use crate::ops::batch_norm::EPS;

/// A tensor by name, in PyTorch's shape and order of elements.
#[derive(Clone, Debug, PartialEq)]
pub struct Exported {
    pub name: String,
    pub shape: Vec<usize>,
    pub values: Vec<f64>,
}

impl Network {
    /// All parameters as the forward pass uses them, in the order of the arena: weights that spikes are multiplied with are rounded to
    /// fixed point, q·2^-e; of the copies of a replicated layer the first is their rounded sum, the others are 0. The network is one on
    /// the CPU.
    pub fn forward_values(&self) -> Vec<f32> {
        let mut values = self.values.clone();
        if self.neuron.is_real() {
            return values;
        }
        for (layer, quantized) in self.layers.iter().zip(&self.quantized) {
            for (connection, weights) in layer.connections.iter().zip(quantized) {
                let (Source::Layer(_), Kind::Conv { weight, .. }) = (connection.source, &connection.kind) else { continue };
                let parameter = &self.parameters[*weight];
                let own = &mut values[parameter.start..parameter.start + parameter.len];
                let cout = connection.geometry.cout;
                for (at, value) in own.iter_mut().enumerate() {
                    let (row, o) = (at / cout, at % cout);
                    *value = if row < weights.rows { weights.integer(row, o) as f32 * weights.scale[o] } else { 0.0 };
                }
            }
        }
        values
    }

    /// Weights of one connection of a layer as the forward pass uses them, in PyTorch's order, `[out][in][height][width]`: q·2^-e, exact
    /// in f32, where spikes are multiplied with them; the copies of a replicated layer are added up. Empty for an identity. The network
    /// is one on the CPU.
    pub fn forward_weights(&self, layer: usize, connection: usize) -> Vec<f32> {
        let of = &self.layers[layer].connections[connection];
        let (cin, cout, taps) = (of.geometry.cin, of.geometry.cout, of.geometry.taps());
        let master = self.effective_weights(of);
        let is_rounded = matches!(of.source, Source::Layer(_)) && !self.neuron.is_real() && !master.is_empty();
        let quantized = self.quantized.get(layer).and_then(|of_layer| of_layer.get(connection)).filter(|_| is_rounded);
        let mut weights = vec![0.0; master.len()];
        for (at, &value) in master.iter().enumerate() {
            let (row, o) = (at / cout, at % cout);
            let rounded = quantized.map(|quantized| quantized.integer(row, o) as f32 * quantized.scale[o]);
            weights[(o * cin + row % cin) * taps + row / cin] = rounded.unwrap_or(value);
        }
        weights
    }

    /// The tensors of a `state_dict` with the parameters of [`Network::forward_values`] and the running statistics of batch norms.
    pub fn exported(&self) -> Vec<Exported> {
        let values: Vec<f64> = self.forward_values().iter().map(|&v| f64::from(v)).collect();
        let mut tensors: Vec<Exported> = self.parameters_of(&values, |_| true);
        for norm in &self.norms {
            for (what, statistics) in [("running_mean", &norm.running_mean), ("running_var", &norm.running_var)] {
                let values = statistics.iter().map(|&v| f64::from(v)).collect();
                tensors.push(Exported { name: format!("{}.{what}", norm.name), shape: vec![statistics.len()], values });
            }
        }
        tensors
    }

    /// The same network without batch norms: each is a factor and an offset per channel in evaluation, which go into the weights and
    /// biases of the convolutions before it. An identity that ends in a batch norm becomes a convolution of 1×1 per channel,
    /// `LAYER.identity.weight`, `[C, 1, 1, 1]`, with a bias where the layer has no convolution.
    pub fn folded(&self) -> Vec<Exported> {
        let mut values: Vec<f64> = self.forward_values().iter().map(|&v| f64::from(v)).collect();
        let (mut new, mut gone) = (Vec::new(), Vec::new());
        for layer in &self.layers {
            let channels = layer.shape[2];
            let (scale, shift) = self.factor_and_offset(layer.norm, channels);
            let first_conv = layer.connections.iter().position(|connection| matches!(connection.kind, Kind::Conv { .. }));
            let mut offset = shift;
            let mut factors = Vec::new();
            for connection in &layer.connections {
                let (own_scale, own_shift) = self.factor_and_offset(connection.norm, channels);
                let bias = match connection.kind {
                    Kind::Conv { bias: Some(bias), .. } => self.value(bias).iter().map(|&v| f64::from(v)).collect(),
                    _ => vec![0.0; channels],
                };
                let factor: Vec<f64> = scale.iter().zip(&own_scale).map(|(outer, own)| outer * own).collect();
                for c in 0..channels {
                    offset[c] += bias[c] * factor[c] + own_shift[c] * scale[c];
                }
                factors.push(factor);
            }
            if layer.norm.is_none() && layer.connections.iter().all(|connection| connection.norm.is_none()) {
                continue; // nothing to fold
            }
            for (k, (connection, factor)) in layer.connections.iter().zip(&factors).enumerate() {
                // The offsets of all connections are added once.
                let own_offset = if k == first_conv.unwrap_or(0) { offset.clone() } else { vec![0.0; channels] };
                let name = match connection.kind {
                    Kind::Conv { weight, bias } => {
                        let parameter = &self.parameters[weight];
                        let own = &mut values[parameter.start..parameter.start + parameter.len];
                        own.iter_mut().enumerate().for_each(|(at, value)| *value *= factor[at % channels]);
                        gone.extend(bias);
                        parameter.name.trim_end_matches(".weight").to_string()
                    }
                    Kind::Identity => {
                        let name = format!("{}.identity", layer.name);
                        new.push(Exported { name: format!("{name}.weight"), shape: vec![channels, 1, 1, 1], values: factor.clone() });
                        name
                    }
                };
                if matches!(connection.kind, Kind::Conv { .. }) || first_conv.is_none() {
                    new.push(Exported { name: format!("{name}.bias"), shape: vec![channels], values: own_offset });
                }
            }
        }
        let of_norms: Vec<usize> = self.norms.iter().flat_map(|norm| [norm.weight, norm.bias]).collect();
        let mut tensors = self.parameters_of(&values, |index| !of_norms.contains(&index) && !gone.contains(&index));
        tensors.extend(new);
        tensors
    }

    /// The parameters that are wanted, of an arena; an ANN has no thresholds.
    fn parameters_of(&self, arena: &[f64], is_wanted: impl Fn(usize) -> bool) -> Vec<Exported> {
        let wanted = |index: &usize| is_wanted(*index) && !(self.neuron.is_real() && self.is_threshold(*index));
        let exported = |index: usize| Exported {
            name: self.parameters[index].name.clone(),
            shape: self.parameters[index].shape.clone(),
            values: self.in_torch_order(index, arena),
        };
        (0..self.parameters.len()).filter(wanted).map(exported).collect()
    }

    /// What a batch norm does in evaluation: x·factor + offset per channel; 1 and 0 without one.
    fn factor_and_offset(&self, norm: Option<usize>, channels: usize) -> (Vec<f64>, Vec<f64>) {
        let Some(norm) = norm else { return (vec![1.0; channels], vec![0.0; channels]) };
        let NormState { weight, bias, running_mean, running_var, .. } = &self.norms[norm];
        let (gamma, beta) = (self.value(*weight), self.value(*bias));
        let factor: Vec<f64> = (0..channels).map(|c| f64::from(gamma[c]) / (f64::from(running_var[c]) + EPS).sqrt()).collect();
        let offset = (0..channels).map(|c| f64::from(beta[c]) - f64::from(running_mean[c]) * factor[c]).collect();
        (factor, offset)
    }
}
