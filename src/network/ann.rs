//! Forward of the network as an ANN: ReLU in place of its neurons, real values between its layers, one step.
//!
//! Backward is that of the spiking network (`backward.rs`). With one step, a firing rate times the value of a spike is an activation,
//! and a clamp mapping without an upper end has the gradient of ReLU. So what is kept has the same meaning and the same names.

use std::borrow::Cow;
use std::ops::Range;

use rayon::prelude::*;

use super::backward::to_bf16;
use super::forward::{Forward, Input, Mode};
use super::kept::{InnerKept, LayerKept};
use super::{Connection, Kind, Network, Source};
use crate::error::{Error, Result};
use crate::ops::batch_norm::{Moments, Normalizer, accumulate, accumulate_products};
use crate::ops::conv::{conv, pool_values};
use crate::ops::dropout::draw_dropped;
use crate::ops::relu::{activate, drop_values, scale_and_shift};

impl Network {
    /// Evaluates an ANN and shows the outputs of every layer, index and `[B][P][C]`, as they are computed.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] if the input does not fit the network, or if it is a spiking one; [`Error::Device`] if a device fails.
    pub fn activations(&mut self, input: &Input, mut visit: impl FnMut(usize, &[f32])) -> Result<Forward> {
        self.check_input(input)?;
        if !self.neuron.is_real() {
            return Err(Error::shape("activations", "an ANN (relu)", format!("a network of {} neurons", self.neuron.name())));
        }
        if self.on_device() {
            return self.activations_on_device(input, visit);
        }
        self.forward_real(input, Mode::Eval, &mut visit)
    }

    /// [`Network::forward`] of an ANN.
    pub(super) fn forward_real(&mut self, input: &Input, mode: Mode, visit: &mut dyn FnMut(usize, &[f32])) -> Result<Forward> {
        let mut forward = Forward { logits: Vec::new(), spikes: vec![None; self.layers.len()], rates: Vec::new() };
        let mut storage = std::mem::take(&mut self.workspace.values);
        let mut kept = std::mem::take(&mut self.kept);
        kept.resize_with(self.layers.len(), LayerKept::default);
        let mut outputs: Vec<Vec<f32>> = Vec::new();
        let mut active_of = Vec::new();
        // What a product gives may depend on how many rows it has.
        let products = if mode == Mode::Eval { vec![(0, 0..input.batch)] } else { self.share.slices(input.batch) };
        for index in 0..self.layers.len() {
            let len = input.batch * self.layers[index].neurons();
            let kept = &mut kept[index];
            let (mut x, mut out) = match mode {
                Mode::Train { .. } => (std::mem::take(&mut kept.mean_normed), std::mem::take(&mut kept.activations)),
                Mode::Eval => (storage.pop().unwrap_or_default(), storage.pop().unwrap_or_default()),
            };
            x.resize(len, 0.0);
            out.resize(len, 0.0);
            let has_second = self.layers[index].connections.len() == 2;
            let mut second = if has_second { storage.pop().unwrap_or_default() } else { Vec::new() };
            second.resize(if has_second { len } else { 0 }, 0.0);
            for (connection, x) in self.layers[index].connections.iter().zip([&mut x, &mut second]) {
                self.current(connection, input, &outputs, &products, x);
            }
            let (norm, inner) = match mode {
                Mode::Eval => (self.running_normalizer(index), None),
                Mode::Train { .. } => {
                    let moments = self.real_moments(index, input.batch, &x, &second)?;
                    self.batch_normalizer(index, &moments, (self.share.total(input.batch) * self.layers[index].positions()) as f64)
                }
            };
            let inner = inner.map(|inner| self.inner_normed(index, inner, &x, &second));
            let active = self.activate_layer(index, &norm, &mut x, &second, &mut out);
            if !self.layers[index].fires() {
                out = norm.currents(&x, self.layers[index].shape[2]);
            }
            active_of.push(active);
            if has_second {
                storage.push(second);
            }
            match mode {
                Mode::Eval => storage.push(x),
                Mode::Train { seed, .. } => {
                    let layer = &self.layers[index];
                    draw_dropped(
                        &mut kept.dropped,
                        seed,
                        index,
                        self.share.first(),
                        [input.batch, layer.positions(), layer.shape[2]],
                        layer.dropout,
                    );
                    self.drop_outputs(index, &kept.dropped, &mut out);
                    *kept = LayerKept { mean_normed: x, norm, inner, dropped: std::mem::take(&mut kept.dropped), ..LayerKept::default() };
                }
            }
            visit(index, &out);
            if index + 1 == self.layers.len() {
                forward.logits.extend_from_slice(&out);
            }
            outputs.push(out);
            if mode == Mode::Eval {
                for (source, values) in outputs.iter_mut().enumerate() {
                    let read_later =
                        self.layers[index + 1..].iter().any(|l| l.connections.iter().any(|c| c.source == Source::Layer(source)));
                    if !read_later && values.capacity() > 0 {
                        storage.push(std::mem::take(values));
                    }
                }
            }
        }
        if mode != Mode::Eval {
            kept.iter_mut().zip(outputs).for_each(|(kept, out)| kept.activations = out);
        }
        self.kept = kept;
        self.workspace.values = storage;
        forward.rates = self.rates(mode, input.batch, active_of)?;
        Ok(forward)
    }

    /// What a connection makes of its source, without its bias: `[B][P][C]`. The samples of one of `products` are multiplied together.
    fn current(&self, connection: &Connection, input: &Input, outputs: &[Vec<f32>], products: &[(usize, Range<usize>)], x: &mut [f32]) {
        let geometry = &connection.geometry;
        let source: &[f32] = match connection.source {
            Source::Input => input.data,
            Source::Layer(source) => &outputs[source],
        };
        let pooled = if geometry.is_pooled() {
            let (from, to) = (geometry.source.iter().product::<usize>(), geometry.pooled().iter().product::<usize>());
            let mut means = vec![0.0; input.batch * to * geometry.cin];
            let samples = means.par_chunks_mut(to * geometry.cin).zip(source.par_chunks(from * geometry.cin));
            samples.for_each(|(means, values)| pool_values(values, geometry, means));
            Cow::Owned(means)
        } else {
            Cow::Borrowed(source)
        };
        let mut multiply = |pooled: &[f32], weights: &[f32]| {
            let (from, to) = (geometry.pooled().iter().product::<usize>() * geometry.cin, geometry.positions() * geometry.cout);
            for (_, samples) in products {
                let of = |values: usize| samples.start * values..samples.end * values;
                conv(&pooled[of(from)], weights, geometry, &mut x[of(to)]);
            }
        };
        match (&connection.kind, connection.source) {
            (Kind::Identity, _) => x.copy_from_slice(&pooled),
            (Kind::Conv { .. }, Source::Layer(_)) if self.bf16_products => {
                multiply(&to_bf16(&pooled), &to_bf16(&self.effective_weights(connection)));
            }
            (Kind::Conv { .. }, _) => multiply(&pooled, &self.effective_weights(connection)),
        }
    }

    /// Statistics of a layer's currents: f64, positions within a sample, then samples, then slices.
    fn real_moments(&self, index: usize, batch: usize, x: &[f32], second: &[f32]) -> Result<Moments> {
        let layer = &self.layers[index];
        let (isa, channels, neurons) = (self.isa, layer.shape[2], layer.neurons());
        let zero = || [(); 5].map(|()| vec![0.0; channels]);
        let of_sample = |b: usize| {
            let [mut x_sum, mut y_sum, mut xx, mut xy, mut yy] = zero();
            let x = &x[b * neurons..][..neurons];
            accumulate(isa, x, channels, &mut x_sum, &mut xx);
            if !second.is_empty() {
                let y = &second[b * neurons..][..neurons];
                accumulate(isa, y, channels, &mut y_sum, &mut yy);
                accumulate_products(isa, x, y, &mut xy);
            }
            [x_sum, y_sum, xx, xy, yy]
        };
        let mut total = zero().concat();
        if layer.norm.is_some() {
            // Without a norm nobody asks.
            let parts: Vec<[Vec<f64>; 5]> = (0..batch).into_par_iter().map(of_sample).collect();
            total = self.share.sum(
                || format!("statistics of layer {index}"),
                batch,
                |samples| {
                    let mut total = vec![0.0; 5 * channels];
                    for part in &parts[samples] {
                        total.iter_mut().zip(part.iter().flatten()).for_each(|(total, v)| *total += v);
                    }
                    total
                },
            )?;
        }
        let [x_sum, y_sum, xx, xy, yy] = [0, 1, 2, 3, 4].map(|kind| &total[kind * channels..(kind + 1) * channels]);
        Ok(Moments::of_real_pair([x_sum, y_sum], [xx, xy, yy], (self.share.total(batch) * layer.positions()) as f64))
    }

    /// û of the connection with a norm of its own, for backward.
    fn inner_normed(&self, index: usize, inner: InnerKept, x: &[f32], second: &[f32]) -> InnerKept {
        let layer = &self.layers[index];
        let own = if layer.connections[0].norm.is_some() { x } else { second };
        let mut normed = vec![0.0; own.len()];
        let rows = normed.par_chunks_mut(layer.neurons()).zip(own.par_chunks(layer.neurons()));
        rows.for_each(|(normed, own)| scale_and_shift(self.isa, &inner.factor, &inner.offset, own, normed));
        InnerKept { weighted_normed: normed.clone(), mean_normed: normed, ..inner }
    }

    /// From currents to x̂, in place, and outputs; returns how many of them are above 0.
    fn activate_layer(&self, index: usize, norm: &Normalizer, x: &mut [f32], second: &[f32], out: &mut [f32]) -> u64 {
        let layer = &self.layers[index];
        let (channels, rows) = (layer.shape[2], 256 * layer.shape[2]);
        let outputs = x.par_chunks_mut(rows).zip(out.par_chunks_mut(rows)).enumerate();
        let active = outputs.map(|(at, (x, out))| {
            let second = if second.is_empty() { second } else { &second[at * rows..][..x.len()] };
            let mut active = 0;
            activate(self.isa, norm, channels, x, second, out, &mut active);
            active
        });
        active.sum()
    }

    /// Dropout of a layer, `[B][P][C]`.
    fn drop_outputs(&self, index: usize, dropped: &[u32], out: &mut [f32]) {
        let layer = &self.layers[index];
        if layer.dropout > 0.0 {
            let words = layer.positions() * layer.shape[2].div_ceil(32);
            let samples = out.par_chunks_mut(layer.neurons()).zip(dropped.par_chunks(words));
            samples.for_each(|(out, dropped)| drop_values(dropped, layer.shape[2], 1.0 / (1.0 - layer.dropout), out));
        }
    }
}
