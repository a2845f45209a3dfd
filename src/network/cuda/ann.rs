//! Forward of an ANN on a CUDA device; the formulas are those of `network/ann.rs`.

use super::Session;
use super::pass::{Pass, own_norm};
use crate::device::Slice;
use crate::error::{Error, Result};
use crate::network::{Forward, Input, Kind, Mode, Network, Samples, Source};
use crate::ops::batch_norm::cuda::DeviceStatistics;
use crate::ops::batch_norm::cuda_values::{RealRows, statistics_of_values};
use crate::ops::conv::cuda as conv;
use crate::ops::dropout;
use crate::ops::neuron::LANES;
use crate::ops::relu::cuda::{self as relu, Activations};
use crate::ops::spike_conv::Geometry;

impl Network {
    /// [`Network::activations`] on the device.
    pub(in crate::network) fn activations_on_device(&mut self, input: &Input, mut visit: impl FnMut(usize, &[f32])) -> Result<Forward> {
        self.reserve_with(input.batch, input.frames, None, None, true)?;
        let forward = self.forward_on_device(&Samples::Real(*input), Mode::Eval, |_| false)?;
        let Some(Session { gpu, resident: Some(resident), .. }) = &self.session else {
            return Err(Error::shape("activations", "a network on a device", "none"));
        };
        let mut values = Vec::new();
        for (index, (layer, own)) in self.layers.iter().zip(&resident.buffers.layers).enumerate() {
            let len = input.batch * layer.neurons();
            values.resize(len, 0.0);
            gpu.download(own.values.part(0..len), &mut values)?;
            visit(index, &values);
        }
        Ok(forward)
    }

    /// Whether forward and backward run on a device.
    pub(in crate::network) fn on_device(&self) -> bool {
        self.session.is_some()
    }
}

impl Pass<'_> {
    /// Launches a layer of an ANN: currents, statistics and constants in training, outputs.
    pub(super) fn real_layer(&self, index: usize) -> Result<()> {
        let Pass { network, gpu, buffers, batch, .. } = *self;
        let (layer, own) = (&network.layers[index], &buffers.layers[index]);
        let [rows, channels] = [batch * layer.positions(), layer.shape[2]];
        let is_training = self.training.is_some();
        let drops = is_training && layer.dropout > 0.0;
        if drops {
            dropout::draw(
                gpu,
                own.dropped,
                buffers.parameters,
                index,
                network.share.first(),
                [batch, layer.positions(), channels],
                layer.dropout,
            )?;
        }
        let currents = self.currents(index)?;
        let mut statistics = DeviceStatistics::None;
        if let (true, [Some(first), second]) = (is_training && layer.norm.is_some(), currents) {
            let sums = buffers.scratch.real_statistics;
            let partial = buffers.scratch.partial;
            statistics = DeviceStatistics::Values(if self.is_whole() {
                statistics_of_values(gpu, sums, partial, first, second, [rows, channels])?;
                sums
            } else {
                self.sum_over_slices(5 * channels, |samples, room| {
                    let row = samples.start * layer.positions();
                    let (first, second) = (first.from_row(row), second.map(|second| second.from_row(row)));
                    statistics_of_values(gpu, room, partial, first, second, [samples.len() * layer.positions(), channels])
                })?
            });
        }
        if is_training {
            self.normalizer(index, statistics)?;
        }
        if let (Some(inner), Some(Some(from))) = (&own.inner, own_norm(layer).map(|k| currents[k]))
            && is_training
        {
            relu::scale_and_shift(gpu, inner.mean_normed, &own.device_inner(), from, [rows, channels])?;
        }
        let out = Activations {
            // A readout by current reads it, too.
            normed: if is_training || !layer.fires() { own.mean_normed } else { Slice::NONE },
            values: own.values,
            rounded: own.rounded,
            active: buffers.fired.part(index..index + 1),
        };
        let (dropped, dropout) = if drops { (own.dropped, layer.dropout) } else { (Slice::NONE, 0.0) };
        relu::activate(gpu, &out, &own.normalizer, currents, dropped, dropout, [rows, channels])
    }

    /// What the connections of a layer make of their sources, without biases.
    fn currents(&self, index: usize) -> Result<[Option<RealRows>; 2]> {
        let Pass { network, gpu, buffers, batch, frames, .. } = *self;
        let mut currents = [None; 2];
        for (k, connection) in network.layers[index].connections.iter().enumerate() {
            let geometry = &connection.geometry;
            let channels = geometry.cout;
            let sums = buffers.scratch.sums[k].cast::<f32>();
            currents[k] = Some(match (connection.source, &connection.kind) {
                (Source::Input, Kind::Conv { weight, .. }) => {
                    let weights = buffers.parameter(network, buffers.values, *weight);
                    conv::conv_real(gpu, sums, buffers.input, weights, geometry, connection.replicate, [batch, frames])?;
                    RealRows { values: sums, pitch: channels.next_multiple_of(LANES) }
                }
                (Source::Input, Kind::Identity) => RealRows { values: buffers.input, pitch: channels },
                (Source::Layer(source), Kind::Conv { .. }) => {
                    let weights = buffers.layers[index].connections[k].packed.packed;
                    conv::conv_forward(gpu, sums, self.rounded(source, geometry)?, weights, geometry, batch)?;
                    RealRows { values: sums, pitch: channels }
                }
                (Source::Layer(source), Kind::Identity) => {
                    let values = buffers.layers[source].values;
                    if geometry.is_pooled() {
                        relu::pool_values(gpu, sums, Slice::NONE, values, geometry, batch)?;
                    }
                    RealRows { values: if geometry.is_pooled() { sums } else { values }, pitch: channels }
                }
            });
        }
        Ok(currents)
    }

    /// The (pooled) outputs of layer `source` as bf16, for a convolution and for the gradient of its weights.
    pub(super) fn rounded(&self, source: usize, geometry: &Geometry) -> Result<Slice<u16>> {
        let own = &self.buffers.layers[source];
        if !geometry.is_pooled() {
            return Ok(own.rounded);
        }
        let pooled = self.buffers.scratch.totals;
        relu::pool_values(self.gpu, Slice::NONE, pooled, own.values, geometry, self.batch)?;
        Ok(pooled)
    }
}
