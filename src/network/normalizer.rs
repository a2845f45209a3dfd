//! From exact sums to currents: what the connections and norms of a layer give to `ops/batch_norm`.

use super::kept::InnerKept;
use super::{Kind, Network, Source};
use crate::ops::batch_norm::{self, BatchNormalizer, Contribution, Moments, Norm, Normalizer, update_running};

impl Network {
    fn contributions(&self, index: usize, training: bool) -> Vec<Contribution<'_>> {
        let of_connection = |(k, connection): (usize, &super::Connection)| {
            let is_real = connection.source == Source::Input || self.neuron.is_real();
            let (value, area) = match connection.source {
                Source::Layer(source) if !is_real => (self.spike_value(source, training), connection.geometry.area()),
                _ => (1.0, 1),
            };
            let (weight_scale, bias) = match connection.kind {
                Kind::Identity => (None, None),
                Kind::Conv { bias, .. } => {
                    let scale = (!is_real).then(|| &self.quantized[index][k].scale[..]);
                    (scale, bias.map(|bias| self.value(bias)))
                }
            };
            Contribution { value, area, weight_scale, bias }
        };
        self.layers[index].connections.iter().enumerate().map(of_connection).collect()
    }

    fn norm(&self, norm: usize) -> Norm<'_> {
        let state = &self.norms[norm];
        Norm {
            gamma: self.value(state.weight),
            beta: self.value(state.bias),
            running_mean: &state.running_mean,
            running_var: &state.running_var,
        }
    }

    /// The connection of a layer that has a norm of its own, and that norm.
    fn inner_norm(&self, index: usize) -> Option<(usize, usize)> {
        self.layers[index].connections.iter().enumerate().find_map(|(k, c)| Some((k, c.norm?)))
    }

    /// Constants of evaluation: running statistics.
    pub(super) fn running_normalizer(&self, index: usize) -> Normalizer {
        let layer = &self.layers[index];
        let inner = self.inner_norm(index).map(|(k, norm)| (k, self.norm(norm)));
        batch_norm::running_normalizer(layer.shape[2], &self.contributions(index, false), layer.norm.map(|norm| self.norm(norm)), inner)
    }

    /// Constants of training: statistics of this batch of `n` values a channel; updates the running statistics.
    pub(super) fn batch_normalizer(&mut self, index: usize, moments: &Moments, n: f64) -> (Normalizer, Option<InnerKept>) {
        let layer = &self.layers[index];
        let (norm, own) = (layer.norm, self.inner_norm(index));
        let BatchNormalizer { normalizer, statistics, inner } = batch_norm::batch_normalizer(
            layer.shape[2],
            &self.contributions(index, true),
            moments,
            norm.map(|norm| self.norm(norm)),
            own.map(|(k, norm)| (k, self.norm(norm))),
        );
        let own_statistics = inner.as_ref().map(|inner| &inner.statistics);
        for (norm, statistics) in [(norm, statistics.as_ref()), (own.map(|(_, norm)| norm), own_statistics)] {
            if let (Some(norm), Some(statistics)) = (norm, statistics) {
                let state = &mut self.norms[norm];
                update_running(&mut state.running_mean, &mut state.running_var, statistics, n);
                state.batches += 1;
            }
        }
        let inner = inner.map(|inner| InnerKept {
            factor: inner.factor,
            offset: inner.offset,
            scale: inner.scale,
            correlation: inner.correlation,
            ..InnerKept::default()
        });
        (normalizer, inner)
    }
}
