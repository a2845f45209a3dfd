//! Backward on a CUDA device: one pass over the layers in reverse; the formulas are those of `network/backward.rs`.

use std::cell::Cell;

use super::buckets::Buckets;
use super::pass::{Pass, own_norm};
use super::settle;
use crate::clock::{self, Name, Op, Phase};
use crate::device::Slice;
use crate::error::{Error, Result};
use crate::network::{Connection, Kind, LogitsGradient, Network, Source, WeightGradient};
use crate::ops::augment::strided_values;
use crate::ops::batch_norm::cuda_backward::{CurrentGradient, InnerKept, current_gradient_parts, inner_backward_parts};
use crate::ops::conv::cuda as conv;
use crate::ops::neuron::Neuron;
use crate::ops::neuron::cuda::{LayerBackward, NeuronGradients, Parts, clamp_mapping_parts, reduce};
use crate::ops::rate::cuda as rate;

impl Network {
    /// [`Network::backward`] on the device: adds to the gradients on the host.
    pub(in crate::network) fn backward_on_device(
        &mut self,
        [batch, frames]: [usize; 2],
        grad_logits: &LogitsGradient,
        input_grad: Option<&mut Vec<f32>>,
    ) -> Result<()> {
        let Some((session, resident)) = self.session.as_ref().and_then(|s| Some((s, s.resident.as_ref()?))) else {
            return Err(Error::shape("backward", "a forward pass in training mode", "none"));
        };
        let (gpu, buffers, training) = (session.gpu.clone(), resident.buffers.clone(), resident.demand.training);
        let squares = self.squares();
        let representation = buffers.layers[buffers.layers.len() - 1].grad.part(0..batch * self.classes);
        match grad_logits {
            LogitsGradient::Host(grad) => {
                let scaled: Vec<f32> = grad.iter().map(|g| g * squares).collect();
                gpu.upload(&scaled, representation)?;
            }
            LogitsGradient::OnDevice(grad) => {
                gpu.after_copies()?; // whoever lends it has made them wait for what writes it
                strided_values(&gpu, representation, grad, squares)?;
            }
        }
        gpu.fill_zero(buffers.grads)?;
        let stores = self.stores(training);
        let spent = &Cell::default();
        gpu.fill_zero(buffers.slices.grads)?;
        let pass = Pass { network: self, gpu: &gpu, buffers: &buffers, batch, frames, training, stores: &stores, spent };
        pass.enqueue_backward(input_grad.is_some())?;
        let mut grads = vec![0.0; self.grads.len()];
        gpu.download(buffers.grads, &mut grads)?;
        self.grads.iter_mut().zip(&grads).for_each(|(into, grad)| *into += grad);
        if let Some(into) = input_grad {
            let len = batch * self.input.iter().product::<usize>();
            let mut grad = vec![0.0; len];
            gpu.download(buffers.input_grad.part(0..len), &mut grad)?;
            into.resize(len, 0.0);
            into.iter_mut().zip(&grad).for_each(|(into, grad)| *into += grad);
        }
        Ok(())
    }

    /// `Σ_t w²` of the step weights: from the gradient of the logits to its weighted mean.
    pub(super) fn squares(&self) -> f32 {
        self.neuron.step_weights(self.time_steps).iter().map(|w| w * w).sum()
    }
}

impl Pass<'_> {
    /// Launches backward of all layers. The gradient of the last layer's representation, times [`Network::squares`], is there already.
    pub fn enqueue_backward(&self, wants_input_grad: bool) -> Result<()> {
        let Pass { network, buffers, .. } = *self;
        let _phase = clock::span(Name::Phase(Phase::Backward));
        // The first reader of a layer sets its gradient, the others add to it.
        let mut is_begun = vec![false; network.layers.len()];
        is_begun[network.layers.len() - 1] = true;
        let mut input_is_begun = false;
        // Sums that kernels have left in parts. Those of weights and biases wait for the clamp mapping of the next layer, whose own are
        // wanted at once: one launch for all.
        let mut parts = Vec::new();
        let mut buckets = Buckets::new(&buffers.slices.buckets);
        for index in (0..network.layers.len()).rev() {
            if !is_begun[index] {
                continue; // no later layer reads this one
            }
            let _layer = clock::span(Name::Layer(index));
            let _op = clock::span(Name::Op(Op::Kernels));
            self.neurons_backward(index, &mut parts)?;
            let at_once = self.passed_at_once(index);
            let to_source = at_once.map(|[_, source]| (buffers.layers[source].grad, std::mem::replace(&mut is_begun[source], true)));
            self.current_gradients(index, to_source, &mut parts)?;
            self.exchange_bucket(&mut buckets, index)?; // of a later layer; the next collective is the sums of the next layer
            // The connection with a norm of its own first, so that a source that others read, too, gets its sums in the order of the CPU.
            let own = own_norm(&network.layers[index]);
            let order = own.into_iter().chain((0..network.layers[index].connections.len()).filter(|k| Some(*k) != own));
            for k in order {
                let connection = &network.layers[index].connections[k];
                self.weights_backward(index, k, &mut parts)?;
                let (target, begun) = match connection.source {
                    Source::Input if wants_input_grad => (buffers.input_grad, &mut input_is_begun),
                    Source::Input => continue,
                    Source::Layer(_) if at_once.is_some_and(|[identity, _]| identity == k) => continue,
                    Source::Layer(source) => (buffers.layers[source].grad, &mut is_begun[source]),
                };
                self.source_backward(index, k, target, std::mem::replace(begun, true))?;
            }
            self.close_buckets(&mut buckets, index)?;
            settle(self.gpu)?;
        }
        reduce(self.gpu, &parts)?;
        self.finish_buckets(buckets)?;
        settle(self.gpu)
    }

    /// The identity of a layer whose gradient goes to its source with the kernel that computes it, and that source: the only identity,
    /// without a pool, and the only connection to this source, so that nothing changes the order of the sums there.
    fn passed_at_once(&self, index: usize) -> Option<[usize; 2]> {
        let connections = &self.network.layers[index].connections;
        let mut identities = connections.iter().enumerate().filter(|(_, c)| matches!(c.kind, Kind::Identity));
        let (Some((k, identity)), None) = (identities.next(), identities.next()) else { return None };
        let Source::Layer(source) = identity.source else { return None };
        let is_alone = connections.iter().filter(|c| c.source == identity.source).count() == 1;
        let is_plain = !identity.geometry.is_pooled() && identity.norm.is_none() && !self.passes_unchanged(index);
        (is_alone && is_plain).then_some([k, source])
    }

    /// Whether the gradient of a layer's neurons is that of all its connections: identities without batch norm.
    fn passes_unchanged(&self, index: usize) -> bool {
        let layer = &self.network.layers[index];
        layer.norm.is_none() && layer.connections.iter().all(|c| matches!(c.kind, Kind::Identity) && c.norm.is_none())
    }

    fn of_layer(&self, index: usize) -> LayerBackward {
        let Pass { network, buffers, batch, .. } = *self;
        let (layer, own, scratch) = (&network.layers[index], &buffers.layers[index], &buffers.scratch);
        let of_norm = |slice: Slice<f32>| if layer.norm.is_some() { slice } else { Slice::NONE };
        LayerBackward {
            rows: batch * layer.positions(),
            channels: layer.shape[2],
            time_steps: network.time_steps,
            normalizer: own.normalizer,
            threshold: buffers.threshold(network, layer),
            mean_normed: own.mean_normed,
            representation: if own.weighted_normed.is_none() { own.mean_normed } else { own.weighted_normed },
            dropped: own.dropped,
            mean: of_norm(scratch.mean),
            k: of_norm(scratch.k),
            partial: scratch.partial,
        }
    }

    fn grad(&self, parameter: usize) -> Slice<f32> {
        self.buffers.parameter(self.network, self.buffers.grads, parameter)
    }

    /// Dropout and clamp mapping, in place; gradients of threshold, γ and β, and all that has waited in parts.
    fn neurons_backward(&self, index: usize, parts: &mut Vec<Parts>) -> Result<()> {
        let Pass { network, gpu, buffers, .. } = *self;
        let layer = &network.layers[index];
        let norm = layer.norm.map(|norm| &network.norms[norm]);
        let into = NeuronGradients {
            threshold: layer.threshold.map_or(Slice::NONE, |threshold| self.grad(threshold)),
            gamma: norm.map_or(Slice::NONE, |norm| self.grad(norm.weight)),
            beta: norm.map_or(Slice::NONE, |norm| self.grad(norm.bias)),
        };
        let (grad, scale) = (buffers.layers[index].grad, network.threshold_grad_scale);
        if !self.is_whole() {
            return self.clamp_mapping_of_slices(grad, &into, index, &self.of_layer(index));
        }
        let neuron = layer.threshold.map(|_| network.neuron);
        parts.push(Parts::Clamp(clamp_mapping_parts(gpu, grad, &into, &self.of_layer(index), neuron, scale, layer.dropout)?));
        self.reduce(parts)
    }

    /// Adds up all parts so far.
    fn reduce(&self, parts: &mut Vec<Parts>) -> Result<()> {
        reduce(self.gpu, parts)?;
        parts.clear();
        Ok(())
    }

    /// Outputs of the gradient of a current, for these connections of a layer: those that share it, or the one with a norm of its own.
    fn outputs<'b>(&self, connections: impl Iterator<Item = &'b Connection> + Clone) -> CurrentGradient {
        let scratch = &self.buffers.scratch;
        let is_conv = |c: &&Connection| matches!(c.kind, Kind::Conv { .. });
        let bias = |c: &Connection| if let Kind::Conv { bias: Some(bias), .. } = c.kind { self.grad(bias) } else { Slice::NONE };
        let mut biases = connections.clone().map(bias).filter(|bias| !bias.is_none());
        let has_conv = connections.clone().any(|c| is_conv(&c));
        let own = usize::from(connections.clone().any(|c| c.norm.is_some()));
        CurrentGradient {
            plain: if has_conv { scratch.plain[own] } else { Slice::NONE },
            weighted: if has_conv && (own == 1 || self.is_weighted()) { scratch.weighted[own] } else { Slice::NONE },
            plain_f32: Slice::NONE,
            weighted_f32: if connections.clone().any(|c| !is_conv(&c)) { scratch.weighted_f32[own] } else { Slice::NONE },
            source_adds: None,
            biases: [biases.next().unwrap_or(Slice::NONE), biases.next().unwrap_or(Slice::NONE)],
            bias_partial: scratch.bias_partial[own],
        }
    }

    /// Whether r(gradient) and its plain time mean differ.
    fn is_weighted(&self) -> bool {
        matches!(self.network.neuron, Neuron::Lif { .. }) || self.training == Some(WeightGradient::Unrolled)
    }

    /// Gradients of the current: that which connections without a norm of their own share, and that of the connection which has one. The
    /// gradient of an identity `to_source`, where it is given, is set or added to. Adds the gradient of that norm's γ; its β has that of
    /// the layer's current, which batch norm makes zero.
    fn current_gradients(&self, index: usize, to_source: Option<(Slice<f32>, bool)>, parts: &mut Vec<Parts>) -> Result<()> {
        let Pass { network, gpu, buffers, .. } = *self;
        if self.passes_unchanged(index) {
            return Ok(());
        }
        let (layer, own) = (&network.layers[index], &buffers.layers[index]);
        let unrolled = self.training == Some(WeightGradient::Unrolled);
        let mut shared = self.outputs(layer.connections.iter().filter(|c| c.norm.is_none()));
        if let Some((grad, adds)) = to_source {
            (shared.weighted_f32, shared.source_adds) = (grad, Some(adds));
        }
        let (of_layer, own_connection) = (self.of_layer(index), layer.connections.iter().find(|c| c.norm.is_some()));
        let (Some(connection), Some(inner)) = (own_connection, &own.inner) else {
            if !self.is_whole() {
                return self.current_gradient_of_slices(&shared, own.grad, index, &of_layer, unrolled);
            }
            parts.extend(current_gradient_parts(gpu, &shared, own.grad, &of_layer, unrolled)?);
            return Ok(());
        };
        let gamma = connection.norm.map_or(Slice::NONE, |norm| self.grad(network.norms[norm].weight));
        let weighted_normed = if inner.weighted_normed.is_none() { inner.mean_normed } else { inner.weighted_normed };
        let kept = InnerKept { inner: own.device_inner(), mean_normed: inner.mean_normed, weighted_normed };
        let outputs = [&self.outputs(std::iter::once(connection)), &shared];
        if !self.is_whole() {
            return self.inner_backward_of_slices(outputs, gamma, own.grad, index, &of_layer, &kept, unrolled);
        }
        parts.extend(inner_backward_parts(gpu, outputs, gamma, own.grad, &of_layer, &kept, unrolled)?.into_iter().flatten());
        Ok(())
    }

    /// Weight gradient of connection `k`, from its part of `scratch.plain`.
    fn weights_backward(&self, index: usize, k: usize, parts: &mut Vec<Parts>) -> Result<()> {
        let Pass { network, gpu, buffers, batch, frames, .. } = *self;
        let connection = &network.layers[index].connections[k];
        let Kind::Conv { weight, .. } = connection.kind else { return Ok(()) };
        let (scratch, geometry) = (&buffers.scratch, &connection.geometry);
        let (operand, (value, factor)) = match connection.source {
            Source::Input => {
                let copies = (network.time_steps / frames) as f32;
                (conv::Operand::RealSum { input: buffers.input, frames }, (Slice::NONE, copies))
            }
            Source::Layer(source) if network.neuron.is_real() => {
                (conv::Operand::Rounded(self.rounded(source, geometry)?), (Slice::NONE, 1.0))
            }
            Source::Layer(source) => {
                let counts = buffers.layers[source].counts;
                let operand = if geometry.is_pooled() {
                    rate::pool_totals(gpu, scratch.totals, counts, geometry, [batch, network.time_steps])?;
                    conv::Operand::Totals(scratch.totals)
                } else {
                    conv::Operand::Counts(counts)
                };
                (operand, self.spike_value(source, geometry.area()))
            }
        };
        let grad = scratch.plain[usize::from(connection.norm.is_some())];
        if !self.is_whole() {
            return self.weights_of_slices(index, k, weight, operand, grad, (value, factor));
        }
        let into = self.grad(weight);
        let (workspace, copies) = (scratch.workspace[k], connection.replicate);
        let of_weights = conv::weight_gradient_parts(gpu, into, operand, grad, geometry, copies, batch, value, factor, workspace)?;
        parts.push(Parts::Weights(of_weights));
        if self.training == Some(WeightGradient::Unrolled) && !buffers.layers[index].connections[k].outer.is_none() {
            self.reduce(parts)?; // what is subtracted comes last
        }
        self.subtract_outer(index, k, into, 0)
    }

    /// What connection `k` passes to its source: sets `target`, or adds to it.
    fn source_backward(&self, index: usize, k: usize, target: Slice<f32>, adds: bool) -> Result<()> {
        let Pass { network, gpu, buffers, batch, .. } = *self;
        let connection = &network.layers[index].connections[k];
        let (own, scratch, geometry) = (&buffers.layers[index], &buffers.scratch, &connection.geometry);
        let at = usize::from(connection.norm.is_some());
        if matches!(connection.kind, Kind::Identity) {
            let grad = if self.passes_unchanged(index) { own.grad } else { scratch.weighted_f32[at] };
            return conv::unpool_add(gpu, target, grad, geometry, batch, adds);
        }
        let grad = if self.is_weighted() || connection.norm.is_some() { scratch.weighted[at] } else { scratch.plain[at] };
        let weights = own.connections[k].packed.transposed;
        if geometry.is_pooled() {
            conv::data_gradient(gpu, scratch.pooled_grad, grad, weights, geometry, batch, false)?;
            return conv::unpool_add(gpu, target, scratch.pooled_grad, geometry, batch, adds);
        }
        conv::data_gradient(gpu, target, grad, weights, geometry, batch, adds)
    }
}
