//! Forward over all layers and time steps, for evaluation (one pass a layer) and training (statistics, then neurons).

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::{Connection, Kind, Network, Source, SpikingLayer, WeightGradient};
use crate::error::{Error, Result};
use crate::ops::batch_norm::{MOMENTUM, Moments, Normalizer, accumulate, accumulate_product, normalize, scale_shift_add, time_means};
use crate::ops::conv::conv_rows;
use crate::ops::neuron::{NeuronArgs, NeuronKept, neuron_forward};
use crate::ops::spike_conv::{EventLists, add_scaled, current_rows, identity_rows, spike_outer};
use crate::spikes::Spikes;

/// A batch of inputs.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// `[B][1 or T][H][W][C]`: one frame is a static image, the same current at every step.
    pub data: &'a [f32],
    /// Samples B.
    pub batch: usize,
    /// Frames a sample: 1 or T.
    pub frames: usize,
}

impl Input<'_> {
    pub(super) fn frame(&self, b: usize, t: usize) -> &[f32] {
        let len = self.data.len() / (self.batch * self.frames);
        let t = if self.frames == 1 { 0 } else { t };
        &self.data[(b * self.frames + t) * len..][..len]
    }
}

/// What a forward pass is for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    /// Running statistics, no dropout, nothing kept for backward.
    Eval,
    /// Batch statistics, dropout drawn from `seed`; keeps what [`Network::backward`] needs.
    Train { gradient: WeightGradient, seed: u64 },
}

/// Result of a forward pass.
pub struct Forward {
    /// `[B][classes]`: the representation of the last layer.
    pub logits: Vec<f32>,
    /// Spikes of each layer; only those asked for.
    pub spikes: Vec<Option<Spikes>>,
    /// Mean firing rate of each layer, spikes a neuron and step.
    pub rates: Vec<f32>,
    /// What backward needs, a layer; empty in evaluation.
    pub kept: Vec<LayerKept>,
}

impl Forward {
    /// Bytes kept for backward.
    pub fn kept_bytes(&self) -> usize {
        self.kept.iter().map(LayerKept::bytes).sum()
    }

    /// Mean firing rate over all neurons of the network.
    pub fn mean_rate(&self, network: &Network) -> f32 {
        let neurons: usize = network.layers.iter().map(SpikingLayer::neurons).sum();
        let spikes: f64 = network.layers.iter().zip(&self.rates).map(|(l, &r)| l.neurons() as f64 * f64::from(r)).sum();
        (spikes / neurons as f64) as f32
    }
}

/// What one layer keeps for backward; no time axis.
pub struct LayerKept {
    pub(super) neuron: NeuronKept,
    pub(super) norm: Option<Normalizer>,
    pub(super) inner: Option<InnerKept>,
    /// Bits of the neurons whose spikes were dropped, `[B][P][words]`; empty without dropout.
    pub(super) dropped: Vec<u32>,
    /// `Σ_t x̂[t] ⊗ o[t]` a connection, in `unrolled` mode.
    pub(super) outer: Vec<Vec<f32>>,
}

/// The same for a connection with a batch norm of its own.
pub(super) struct InnerKept {
    pub norm: Normalizer,
    /// `[B][P][C]` plain and weighted time means of the normalised connection.
    pub mean_normed: Vec<f32>,
    pub weighted_normed: Vec<f32>,
    /// `mean(x̂ · û)` over T·B·H·W, per channel.
    pub correlation: Vec<f64>,
    /// `Σ_t û[t] ⊗ o[t]`, in `unrolled` mode.
    pub outer: Vec<f32>,
}

impl LayerKept {
    fn bytes(&self) -> usize {
        let floats = |v: &[f32]| v.len() * 4;
        let mut bytes = self.neuron.range.len() + self.neuron.counts.len() + self.dropped.len() * 4;
        bytes += floats(&self.neuron.mean_normed) + floats(&self.neuron.weighted_normed);
        bytes += self.outer.iter().map(|o| floats(o)).sum::<usize>();
        if let Some(inner) = &self.inner {
            bytes += floats(&inner.mean_normed) + floats(&inner.weighted_normed) + floats(&inner.outer);
        }
        bytes
    }
}

/// What a worker thread reuses between samples.
#[derive(Default)]
struct Worker {
    events: Vec<EventLists>,
    counts: Vec<u16>,
    row: Vec<f32>,
}

/// A layer and what it reads, ready to compute currents.
struct Reader<'a> {
    network: &'a Network,
    index: usize,
    layer: &'a SpikingLayer,
    input: &'a Input<'a>,
    spikes: &'a [Option<Spikes>],
    /// Factor per output channel and connection: spike value / pool area · 2^-e.
    factors: Vec<Vec<f32>>,
    /// Summed biases.
    bias: Vec<f32>,
    /// Real-valued weights of connections from the input.
    real: Vec<std::borrow::Cow<'a, [f32]>>,
}

impl<'a> Reader<'a> {
    fn new(network: &'a Network, index: usize, input: &'a Input<'a>, spikes: &'a [Option<Spikes>], training: bool) -> Self {
        let layer = &network.layers[index];
        let mut bias = vec![0.0; layer.shape[2]];
        let (mut factors, mut real) = (Vec::new(), Vec::new());
        for (k, connection) in layer.connections.iter().enumerate() {
            let value = match connection.source {
                Source::Input => 1.0,
                Source::Layer(source) => network.spike_value(source, training) / connection.geometry.area() as f32,
            };
            real.push(match connection.source {
                Source::Input => network.effective_weights(connection),
                Source::Layer(_) => (&[][..]).into(),
            });
            factors.push(match connection.kind {
                Kind::Identity => vec![value],
                Kind::Conv { bias: b, .. } => {
                    if let Some(b) = b {
                        bias.iter_mut().zip(network.value(b)).for_each(|(sum, b)| *sum += b);
                    }
                    network.quantized[index][k].scale.iter().map(|s| value * s).collect()
                }
            });
        }
        Reader { network, index, layer, input, spikes, factors, bias, real }
    }

    /// Frames that the current has: 1 where every source is a static input.
    fn frames(&self) -> usize {
        let is_static = self.input.frames == 1 && self.layer.connections.iter().all(|c| c.source == Source::Input);
        if is_static { 1 } else { self.network.time_steps }
    }

    /// Adds connection `k` of sample `b`, step `t`, to output rows `rows`.
    fn add(
        &self,
        k: usize,
        b: usize,
        t: usize,
        events: &mut EventLists,
        counts: &mut Vec<u16>,
        rows: std::ops::Range<usize>,
        x: &mut [f32],
    ) {
        let connection = &self.layer.connections[k];
        let geometry = &connection.geometry;
        let isa = self.network.isa;
        match (connection.source, &connection.kind) {
            (Source::Input, Kind::Conv { .. }) => conv_rows(isa, self.input.frame(b, t), &self.real[k], geometry, &rows, x),
            (Source::Input, Kind::Identity) => {
                let width = geometry.out()[1] * geometry.cin;
                let from = &self.input.frame(b, t)[rows.start * width..rows.end * width];
                x.iter_mut().zip(from).for_each(|(x, v)| *x += v);
            }
            (Source::Layer(_), Kind::Conv { .. }) => {
                current_rows(isa, events, &self.network.quantized[self.index][k], &self.factors[k], geometry, rows, x);
            }
            (Source::Layer(_), Kind::Identity) => identity_rows(events, self.factors[k][0], geometry, rows, counts, x),
        }
    }

    fn fill_events(&self, connection: &Connection, b: usize, t: usize, events: &mut EventLists) {
        if let Source::Layer(source) = connection.source
            && let Some(spikes) = &self.spikes[source]
        {
            events.fill(spikes.step(t, b), &connection.geometry);
        }
    }
}

impl Network {
    /// Runs a batch; `keep_spikes` names the layers whose spikes the caller wants.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] if the input does not fit the network.
    pub fn forward(&mut self, input: &Input, mode: Mode, keep_spikes: impl Fn(usize) -> bool) -> Result<Forward> {
        let frame: usize = self.input.iter().product();
        if input.batch == 0
            || !(input.frames == 1 || input.frames == self.time_steps)
            || input.data.len() != input.batch * input.frames * frame
        {
            let expected = format!("[B, 1 or {}, {:?}]", self.time_steps, self.input);
            return Err(Error::shape("forward", expected, (input.batch, input.frames, input.data.len())));
        }
        let mut forward = Forward { logits: Vec::new(), spikes: Vec::new(), rates: Vec::new(), kept: Vec::new() };
        let mut scratch = std::mem::take(&mut self.scratch);
        for index in 0..self.layers.len() {
            let layer = &self.layers[index];
            let mut spikes = Spikes::silent(self.time_steps, input.batch, layer.positions(), layer.shape[2]);
            let counts = match mode {
                Mode::Eval => self.eval_layer(index, input, &forward.spikes, &mut spikes),
                Mode::Train { gradient, seed } => {
                    let kept = self.train_layer(index, input, &forward.spikes, &mut spikes, gradient, seed, &mut scratch);
                    forward.kept.push(kept);
                    Vec::new()
                }
            };
            let counts = forward.kept.last().map_or(&counts, |kept| &kept.neuron.counts);
            let total: u64 = counts.par_iter().map(|&n| u64::from(n)).sum();
            forward.rates.push((total as f64 / (counts.len() * self.time_steps) as f64) as f32);
            if index + 1 == self.layers.len() {
                forward.logits = self.logits(&spikes);
            }
            forward.spikes.push(Some(spikes));
            // Spikes are let go once no later layer reads them.
            for source in 0..=index {
                let read_later = self.layers[index + 1..].iter().any(|l| l.connections.iter().any(|c| c.source == Source::Layer(source)));
                if !read_later && !keep_spikes(source) {
                    forward.spikes[source] = None;
                }
            }
        }
        self.scratch = scratch;
        Ok(forward)
    }

    /// Representation of the last layer, `[B][classes]`.
    fn logits(&self, spikes: &Spikes) -> Vec<f32> {
        let layer = &self.layers[self.layers.len() - 1];
        let value = self.neuron.spike_value(self.threshold(layer));
        let weights = self.neuron.step_weights(self.time_steps);
        let is_if = matches!(self.neuron, crate::ops::neuron::Neuron::If { .. });
        let mut logits = Vec::with_capacity(spikes.batch * self.classes);
        for b in 0..spikes.batch {
            for class in 0..self.classes {
                let fired = |t: &usize| spikes.get(*t, b, class / layer.shape[2], class % layer.shape[2]);
                logits.push(if is_if {
                    (0..self.time_steps).filter(fired).count() as f32 * value / self.time_steps as f32
                } else {
                    value * (0..self.time_steps).filter(fired).map(|t| weights[t]).sum::<f32>()
                });
            }
        }
        logits
    }

    fn running(&self, norm: usize) -> Normalizer {
        let state = &self.norms[norm];
        let wide = |v: &[f32]| v.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
        Normalizer::new(&wide(&state.running_mean), &wide(&state.running_var), self.value(state.weight), self.value(state.bias))
    }

    /// Normaliser of this batch (`n` values a channel, of which the time axis may hold `copies` of each); updates the running statistics.
    fn batch_normalizer(&mut self, norm: usize, samples: &[Moments], values: usize, copies: usize) -> Normalizer {
        let total = Moments::total(samples, self.norms[norm].running_mean.len());
        let (mean, var) = total.mean_var(values as f64);
        let n = (values * copies) as f64;
        let state = &mut self.norms[norm];
        let unbiased = if n > 1.0 { n / (n - 1.0) } else { 1.0 };
        for c in 0..mean.len() {
            let blend = |old: f32, new: f64| ((1.0 - MOMENTUM) * f64::from(old) + MOMENTUM * new) as f32;
            state.running_mean[c] = blend(state.running_mean[c], mean[c]);
            state.running_var[c] = blend(state.running_var[c], var[c] * unbiased);
        }
        state.batches += 1;
        let state = &self.norms[norm];
        Normalizer::new(&mean, &var, self.value(state.weight), self.value(state.bias))
    }

    fn neuron_args<'a>(&self, layer: &SpikingLayer, norm: Option<&'a Normalizer>) -> NeuronArgs<'a> {
        let empty: &[f32] = &[];
        NeuronArgs {
            neuron: self.neuron,
            threshold: self.threshold(layer),
            time_steps: self.time_steps,
            channels: layer.shape[2],
            scale: norm.map_or(empty, |n| &n.scale),
            shift: norm.map_or(empty, |n| &n.shift),
            mean: norm.map_or(empty, |n| &n.mean),
            inv_std: norm.map_or(empty, |n| &n.inv_std),
        }
    }

    /// Connections, norm and neuron of one layer, an image row at a time: the currents stay in cache.
    fn eval_layer(&self, index: usize, input: &Input, sources: &[Option<Spikes>], spikes: &mut Spikes) -> Vec<u8> {
        let layer = &self.layers[index];
        let reader = Reader::new(self, index, input, sources, false);
        let norm = layer.norm.map(|n| self.running(n));
        let inner: Vec<Option<Normalizer>> = layer.connections.iter().map(|c| c.norm.map(|n| self.running(n))).collect();
        let args = self.neuron_args(layer, norm.as_ref());
        let [height, width, channels] = layer.shape;
        let (frames, row, words) = (reader.frames(), width * channels, spikes.words());
        let mut counts = vec![0u8; input.batch * layer.neurons()];
        let samples = spikes.samples_mut();
        samples.into_par_iter().zip(counts.par_chunks_mut(layer.neurons())).enumerate().for_each_init(
            Worker::default,
            |worker, (b, (mut spikes, counts))| {
                let Worker { events, counts: channel_counts, row: buffer } = worker;
                let connections = layer.connections.len();
                events.resize_with(frames * connections, EventLists::default);
                for (k, connection) in layer.connections.iter().enumerate() {
                    for t in 0..frames {
                        reader.fill_events(connection, b, t, &mut events[t * connections + k]);
                    }
                }
                buffer.resize((frames + 1) * row, 0.0);
                let (x, u) = buffer.split_at_mut(frames * row);
                for y in 0..height {
                    for (t, x) in x.chunks_exact_mut(row).enumerate() {
                        x.chunks_exact_mut(channels).for_each(|x| x.copy_from_slice(&reader.bias));
                        for (k, inner) in inner.iter().enumerate() {
                            let events = &mut events[t * connections + k];
                            match inner {
                                None => reader.add(k, b, t, events, channel_counts, y..y + 1, x),
                                Some(norm) => {
                                    u[..row].fill(0.0);
                                    reader.add(k, b, t, events, channel_counts, y..y + 1, &mut u[..row]);
                                    scale_shift_add(self.isa, norm, &u[..row], x);
                                }
                            }
                        }
                    }
                    let steps: Vec<&[f32]> = x.chunks_exact(row).collect();
                    let mut out: Vec<&mut [u32]> = spikes.iter_mut().map(|s| &mut s[y * width * words..(y + 1) * width * words]).collect();
                    neuron_forward(self.isa, &args, &steps, &mut out, &mut counts[y * row..(y + 1) * row], &mut [], &mut [], &mut []);
                }
            },
        );
        counts
    }

    /// Currents of the whole batch, statistics, neurons; keeps what backward needs.
    #[allow(clippy::too_many_arguments)]
    fn train_layer(
        &mut self,
        index: usize,
        input: &Input,
        sources: &[Option<Spikes>],
        spikes: &mut Spikes,
        gradient: WeightGradient,
        seed: u64,
        scratch: &mut super::Scratch,
    ) -> LayerKept {
        let layer = self.layers[index].clone();
        let (isa, batch, time_steps) = (self.isa, input.batch, self.time_steps);
        let [height, width, channels] = layer.shape;
        let neurons = layer.neurons();
        let reader = Reader::new(self, index, input, sources, true);
        let frames = reader.frames();
        let inner_at = layer.connections.iter().position(|c| c.norm.is_some());
        let len = batch * frames * neurons;
        let inner_len = if inner_at.is_some() { len } else { 0 };
        grow(&mut scratch.x, len);
        grow(&mut scratch.u, inner_len);
        let (x, u) = (&mut scratch.x[..len], &mut scratch.u[..inner_len]);

        // Currents, and the statistics of a connection's own norm.
        let sample = frames * neurons;
        let inner_moments: Vec<Moments> = x
            .par_chunks_mut(sample)
            .zip(split(u, sample, batch))
            .enumerate()
            .map_init(Worker::default, |worker, (b, (x, u))| {
                worker.events.resize_with(1, EventLists::default);
                for t in 0..frames {
                    let x = &mut x[t * neurons..(t + 1) * neurons];
                    x.chunks_exact_mut(channels).for_each(|x| x.copy_from_slice(&reader.bias));
                    for (k, connection) in layer.connections.iter().enumerate() {
                        let target = if connection.norm.is_some() {
                            let u = &mut u[t * neurons..(t + 1) * neurons];
                            u.fill(0.0);
                            u
                        } else {
                            &mut *x
                        };
                        reader.fill_events(connection, b, t, &mut worker.events[0]);
                        reader.add(k, b, t, &mut worker.events[0], &mut worker.counts, 0..height, target);
                    }
                }
                let mut moments = Moments::zero(if u.is_empty() { 0 } else { channels });
                if !u.is_empty() {
                    accumulate(isa, u, &mut moments);
                }
                moments
            })
            .collect();
        drop(reader);
        let values = batch * frames * height * width;
        let copies = time_steps / frames;
        let inner_norm = inner_at.and_then(|k| layer.connections[k].norm).map(|n| self.batch_normalizer(n, &inner_moments, values, copies));

        // Statistics of the layer's norm.
        let norm = layer.norm.map(|n| {
            let moments: Vec<Moments> = x
                .par_chunks_mut(sample)
                .zip(split(u, sample, batch))
                .map(|(x, u)| {
                    if let Some(inner) = &inner_norm {
                        scale_shift_add(isa, inner, u, x);
                    }
                    let mut moments = Moments::zero(channels);
                    accumulate(isa, x, &mut moments);
                    moments
                })
                .collect();
            self.batch_normalizer(n, &moments, values, copies)
        });

        // Neurons.
        let weighted = matches!(self.neuron, crate::ops::neuron::Neuron::Lif { .. }) && norm.is_some();
        let mut neuron = NeuronKept {
            range: vec![0; batch * neurons],
            counts: vec![0; batch * neurons],
            mean_normed: vec![0.0; if norm.is_some() { batch * neurons } else { 0 }],
            weighted_normed: vec![0.0; if weighted { batch * neurons } else { 0 }],
        };
        let words = spikes.words();
        let mut dropped = vec![0u32; if layer.dropout > 0.0 { batch * height * width * words } else { 0 }];
        let args = self.neuron_args(&layer, norm.as_ref());
        spikes
            .samples_mut()
            .into_par_iter()
            .zip(x.par_chunks(sample))
            .zip(neuron.range.par_chunks_mut(neurons).zip(neuron.counts.par_chunks_mut(neurons)))
            .zip(split(&mut neuron.mean_normed, neurons, batch).zip(split(&mut neuron.weighted_normed, neurons, batch)))
            .zip(split(&mut dropped, height * width * words, batch))
            .enumerate()
            .for_each(|(b, ((((mut spikes, x), (range, counts)), (mean, weighted)), dropped))| {
                let steps: Vec<&[f32]> = x.chunks_exact(neurons).collect();
                neuron_forward(isa, &args, &steps, &mut spikes, counts, range, mean, weighted);
                if !dropped.is_empty() {
                    let mut rng = ChaCha8Rng::seed_from_u64(seed);
                    rng.set_stream((index as u64) << 32 | b as u64);
                    drop_spikes(&mut rng, layer.dropout, channels, dropped, &mut spikes, counts);
                }
            });

        // What does not collapse over time, while the currents are still here.
        let inner = inner_norm.map(|norm| {
            let mut kept = InnerKept {
                mean_normed: vec![0.0; batch * neurons],
                weighted_normed: vec![0.0; batch * neurons],
                correlation: vec![0.0; channels],
                outer: Vec::new(),
                norm,
            };
            let weights = self.neuron.step_weights(time_steps);
            u.par_chunks(sample)
                .zip(kept.mean_normed.par_chunks_mut(neurons))
                .zip(kept.weighted_normed.par_chunks_mut(neurons))
                .for_each(|((u, plain), weighted)| time_means(isa, &kept.norm, &weights, u, plain, weighted));
            kept
        });
        let mut kept = LayerKept { neuron, norm, inner, dropped, outer: Vec::new() };
        let unrolled = gradient == WeightGradient::Unrolled;
        if let Some(norm) = &kept.norm
            && (unrolled || kept.inner.is_some())
        {
            x.par_chunks_mut(sample).for_each(|x| normalize(isa, norm, x));
        }
        if let Some(inner) = &mut kept.inner {
            u.par_chunks_mut(sample).for_each(|u| normalize(isa, &inner.norm, u));
            let products: Vec<Vec<f64>> = x
                .par_chunks(sample)
                .zip(u.par_chunks(sample))
                .map(|(x, u)| {
                    let mut product = vec![0.0; channels];
                    accumulate_product(isa, x, u, &mut product);
                    product
                })
                .collect();
            for product in &products {
                inner.correlation.iter_mut().zip(product).for_each(|(sum, p)| *sum += p / values as f64);
            }
        }
        if unrolled && kept.norm.is_some() {
            for connection in &layer.connections {
                kept.outer.push(self.outer_products(connection, input, sources, frames, x));
                if let (Some(inner), Some(_)) = (&mut kept.inner, connection.norm) {
                    inner.outer = self.outer_products(connection, input, sources, frames, u);
                }
            }
        }
        kept
    }

    /// `Σ_t x[t] ⊗ o[t]` of one connection, `[tap][cin][cout]`; `x` is `[B][frames][P][C]`. A static input counts T times.
    fn outer_products(&self, connection: &Connection, input: &Input, sources: &[Option<Spikes>], frames: usize, x: &[f32]) -> Vec<f32> {
        if matches!(connection.kind, Kind::Identity) {
            return Vec::new();
        }
        let geometry = &connection.geometry;
        let neurons = geometry.positions() * geometry.cout;
        let value = match connection.source {
            Source::Input => (self.time_steps / frames) as f32,
            Source::Layer(source) => self.spike_value(source, true) / geometry.area() as f32,
        };
        let mut outer = vec![0.0; geometry.taps() * geometry.cin * geometry.cout];
        outer.par_chunks_mut(geometry.cin * geometry.cout).enumerate().for_each_init(EventLists::default, |events, (tap, outer)| {
            for b in 0..input.batch {
                for t in 0..frames {
                    let x = &x[(b * frames + t) * neurons..][..neurons];
                    match connection.source {
                        Source::Layer(source) => {
                            let Some(spikes) = &sources[source] else { continue };
                            events.fill(spikes.step(t, b), geometry);
                            spike_outer(self.isa, events, geometry, tap, x, value, outer);
                        }
                        Source::Input => {
                            let frame = input.frame(b, t);
                            let [height, width] = geometry.out();
                            for (y, column) in (0..height).flat_map(|y| (0..width).map(move |column| (y, column))) {
                                let (ky, kx) = (tap / geometry.kernel[1], tap % geometry.kernel[1]);
                                let Some(position) = geometry.tap_position(y, column, ky, kx) else { continue };
                                let row = &x[(y * width + column) * geometry.cout..][..geometry.cout];
                                for c in 0..geometry.cin {
                                    let factor = value * frame[position * geometry.cin + c];
                                    add_scaled(self.isa, factor, row, &mut outer[c * geometry.cout..][..geometry.cout]);
                                }
                            }
                        }
                    }
                }
            }
        });
        outer
    }
}

fn grow(buffer: &mut Vec<f32>, len: usize) {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
}

/// One slice a sample, or as many empty ones for an absent buffer.
fn split<T: Send>(buffer: &mut [T], sample: usize, batch: usize) -> impl IndexedParallelIterator<Item = &mut [T]> {
    let slices: Vec<&mut [T]> =
        if buffer.is_empty() { (0..batch).map(|_| &mut [][..]).collect() } else { buffer.chunks_mut(sample).collect() };
    slices.into_par_iter()
}

/// Draws one mask for all time steps of a sample, silences its neurons and forgets their counts.
fn drop_spikes(rng: &mut ChaCha8Rng, share: f32, channels: usize, dropped: &mut [u32], spikes: &mut [&mut [u32]], counts: &mut [u8]) {
    let words = channels.div_ceil(32);
    for (neuron, count) in counts.iter_mut().enumerate() {
        if rng.random::<f32>() < share {
            dropped[neuron / channels * words + neuron % channels / 32] |= 1 << (neuron % channels % 32);
            *count = 0;
        }
    }
    for step in spikes {
        step.iter_mut().zip(&*dropped).for_each(|(word, dropped)| *word &= !dropped);
    }
}
