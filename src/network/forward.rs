//! Forward over all layers and time steps: evaluation in one pass a layer; training takes exact statistics first.

use rayon::prelude::*;

use super::currents::{Reader, Worker, with_worker};
use super::kept::{LayerKept, Workspace};
use super::{Network, Readout, Samples, Source, SpikingLayer, WeightGradient};
use crate::clock::{self, Name, Op, Phase};
use crate::device::lines::grown;
use crate::error::{Error, Result};
use crate::ops::batch_norm::{IntegerSums, Moments, Normalizer, accumulate, time_means};
use crate::ops::dropout::draw_dropped;
use crate::ops::neuron::{Currents, NeuronOut, drop_spikes, neuron_at};
use crate::ops::rate::readout;
use crate::spikes::{Spikes, count_spikes};

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
#[derive(Clone, Debug)]
pub struct Forward {
    /// `[B][classes]`: the representation of the last layer; its outputs, of an ANN.
    pub logits: Vec<f32>,
    /// Spikes of each layer; only those asked for, and none of an ANN.
    pub spikes: Vec<Option<Spikes>>,
    /// Mean firing rate of each layer, spikes per neuron and step; of an ANN, the share of outputs above 0.
    pub rates: Vec<f32>,
}

/// Sums that a first pass has stored, `[B][P][frames][stride]`; empty where the neurons' pass computes them itself.
#[derive(Clone, Copy, Default)]
struct Stored<'a> {
    first: &'a [i32],
    second: &'a [i32],
}

impl Network {
    /// Runs a batch; `keep_spikes` names the layers whose spikes the caller wants.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] if the input does not fit the network.
    pub fn forward(&mut self, input: &Input, mode: Mode, keep_spikes: impl Fn(usize) -> bool) -> Result<Forward> {
        if self.session.is_some() {
            return self.forward_on_device(&Samples::Real(*input), mode, keep_spikes);
        }
        self.check_input(input)?;
        let _phase = clock::span(Name::Phase(Phase::Forward));
        if self.neuron.is_real() {
            return self.forward_real(input, mode, &mut |_, _| {});
        }
        let mut forward = Forward { logits: Vec::new(), spikes: Vec::new(), rates: Vec::new() };
        let mut fired_of: Vec<u64> = Vec::new();
        let mut workspace = std::mem::take(&mut self.workspace);
        for index in 0..self.layers.len() {
            let _layer = clock::span(Name::Layer(index));
            let [height, width, channels] = self.layers[index].shape;
            let is_last = index + 1 == self.layers.len();
            let bits = workspace.bits.pop().unwrap_or_default();
            let mut spikes = Spikes::reuse(bits, self.time_steps, input.batch, height * width, channels);
            let fired = match mode {
                Mode::Eval => {
                    let norm = clock::op(Op::Normalizer, || self.running_normalizer(index));
                    let reader = Reader::new(self, index, input, &forward.spikes);
                    let mut kept = LayerKept::default();
                    if is_last {
                        kept.keep_means(self.neuron, input.batch * height * width * channels);
                    }
                    let fired = clock::op(Op::Neurons, || neurons(&reader, &norm, Stored::default(), &mut spikes, &mut kept));
                    if is_last {
                        self.output_currents = norm.currents(kept.representation(), channels);
                    }
                    fired
                }
                Mode::Train { gradient, seed } => {
                    let fired = self.train_layer(index, input, &forward.spikes, &mut spikes, gradient, seed, &mut workspace)?;
                    if is_last {
                        let kept = &self.kept[index];
                        self.output_currents = kept.norm.currents(kept.representation(), channels);
                    }
                    fired
                }
            };
            fired_of.push(fired);
            if is_last {
                forward.logits = match self.readout() {
                    Readout::Spikes => clock::op(Op::Readout, || self.logits(&spikes)),
                    Readout::Current => clock::op(Op::Readout, || self.output_currents.clone()),
                };
            }
            forward.spikes.push(Some(spikes));
            // Spikes are let go once no later layer reads them.
            for source in 0..=index {
                let read_later = self.layers[index + 1..].iter().any(|l| l.connections.iter().any(|c| c.source == Source::Layer(source)));
                if !read_later && !keep_spikes(source) {
                    workspace.bits.extend(forward.spikes[source].take().map(Spikes::into_bits));
                }
            }
        }
        self.workspace = workspace;
        forward.rates = self.rates(mode, input.batch, fired_of)?;
        Ok(forward)
    }

    /// The same of samples in the form that they have: the CPU takes real values.
    ///
    /// # Errors
    /// As [`Network::forward`]; [`Error::Device`] if the device fails.
    pub fn forward_of(&mut self, samples: &Samples, mode: Mode, keep_spikes: impl Fn(usize) -> bool) -> Result<Forward> {
        if self.session.is_some() {
            return self.forward_on_device(samples, mode, keep_spikes);
        }
        self.forward(samples.on_the_cpu()?, mode, keep_spikes)
    }

    /// Mean firing rate of each layer from what its neurons have fired for this rank's samples: over those of all ranks in training, where
    /// they share a batch.
    pub(super) fn rates(&self, mode: Mode, own: usize, mut fired: Vec<u64>) -> Result<Vec<f32>> {
        let mut batch = own;
        if mode != Mode::Eval && !self.share.ranks().is_alone() {
            let mut all: Vec<i128> = fired.iter().map(|&fired| i128::from(fired)).collect();
            self.share.add(|| "spikes of all layers".into(), &mut all)?;
            fired = all.iter().map(|&fired| fired as u64).collect();
            batch = self.share.total(own);
        }
        let values = |layer: &SpikingLayer| (batch * layer.neurons() * self.time_steps) as f64;
        Ok(self.layers.iter().zip(fired).map(|(layer, fired)| (fired as f64 / values(layer)) as f32).collect())
    }

    /// Begins an evaluation that [`Network::finish_evaluation`] ends: [`Network::forward`] in two halves. A device computes in between,
    /// and the host can prepare and [`Network::stage`] the next batch; the CPU does it all here.
    ///
    /// # Errors
    /// As [`Network::forward`]; [`Error::Device`] if the device fails.
    pub fn begin_evaluation(&mut self, samples: &Samples, keep_spikes: impl Fn(usize) -> bool) -> Result<()> {
        if self.session.is_some() {
            return self.begin_evaluation_on_device(samples, keep_spikes);
        }
        self.begun_evaluation = Some(self.forward(samples.on_the_cpu()?, Mode::Eval, keep_spikes)?);
        Ok(())
    }

    /// Waits for the evaluation that was begun, and gives what it has found.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] if none was begun, [`Error::Device`] if the device failed.
    pub fn finish_evaluation(&mut self) -> Result<Forward> {
        if self.session.is_some() {
            return self.finish_forward_on_device();
        }
        self.begun_evaluation.take().ok_or_else(|| Error::shape("finish_evaluation", "an evaluation that was begun", "none"))
    }

    /// Refuses a batch that does not fit the network.
    pub(super) fn check_input(&self, input: &Input) -> Result<()> {
        let Input { data, batch, frames } = *input;
        let frame: usize = self.input.iter().product();
        let is_missing = batch == 0 && self.share.ranks().is_alone(); // of a short batch, the last ranks have nothing
        if is_missing || !(frames == 1 || frames == self.time_steps) || data.len() != batch * frames * frame {
            let expected = format!("[B, 1 or {}, {:?}]", self.time_steps, self.input);
            return Err(Error::shape("forward", expected, (batch, frames, data.len())));
        }
        Ok(())
    }

    /// Representation of the last layer, `[B][classes]`.
    fn logits(&self, spikes: &Spikes) -> Vec<f32> {
        let threshold = self.threshold(&self.layers[self.layers.len() - 1]);
        readout(self.neuron, threshold, &self.neuron.step_weights(self.time_steps), spikes)
    }

    /// Sums of the whole batch and their statistics, then the neurons; keeps what backward needs. Returns the number of spikes.
    pub(super) fn train_layer(
        &mut self,
        index: usize,
        input: &Input,
        sources: &[Option<Spikes>],
        spikes: &mut Spikes,
        gradient: WeightGradient,
        seed: u64,
        workspace: &mut Workspace,
    ) -> Result<u64> {
        let batch = input.batch;
        self.kept.resize_with(self.layers.len(), LayerKept::default);
        let mut kept = std::mem::take(&mut self.kept[index]);
        let Workspace { first, second, .. } = workspace;

        let reader = Reader::new(self, index, input, sources);
        let positions = batch * reader.layer.positions();
        let len = positions * reader.position_len();
        let stores_second = reader.layer.connections.get(1).is_some_and(|c| matches!(c.kind, super::Kind::Conv { .. }));
        let (first, second) = (grown(first, len), grown(second, if stores_second { len } else { 0 }));
        let moments = clock::op(reader.sums_op(0), || sums(&reader, index, batch, first, second))?;
        drop(reader);
        let n = (self.share.total(batch) * self.layers[index].positions() * self.time_steps) as f64;
        let (norm, inner) = clock::op(Op::Normalizer, || self.batch_normalizer(index, &moments, n));

        let reader = Reader::new(self, index, input, sources);
        let (layer, neurons_of_batch) = (reader.layer, batch * reader.layer.neurons());
        kept.counts.resize(neurons_of_batch, 0);
        kept.keep_means(self.neuron, neurons_of_batch);
        draw_dropped(&mut kept.dropped, seed, index, self.share.first(), [batch, layer.positions(), layer.shape[2]], layer.dropout);
        let fired = clock::op(Op::Neurons, || neurons(&reader, &norm, Stored { first, second }, spikes, &mut kept));
        kept.norm = norm;
        kept.inner = inner.map(|mut inner| {
            let _op = clock::span(Name::Op(Op::InnerMeans));
            let weights = self.neuron.step_weights(self.time_steps);
            let channels = layer.shape[2];
            inner.mean_normed = vec![0.0; neurons_of_batch];
            inner.weighted_normed = vec![0.0; neurons_of_batch];
            let (factor, offset) = (&inner.factor, &inner.offset);
            let own = if layer.connections[0].norm.is_some() { &*first } else { &*second };
            let means = inner.mean_normed.par_chunks_mut(channels).zip(inner.weighted_normed.par_chunks_mut(channels));
            own.par_chunks(reader.position_len())
                .zip(means)
                .for_each(|(acc, (plain, weighted))| time_means(self.isa, factor, offset, &weights, acc, reader.stride, plain, weighted));
            inner
        });
        kept.outer.clear();
        if gradient == WeightGradient::Unrolled && layer.norm.is_some() {
            clock::op(Op::OuterProducts, || reader.keep_outer_products(first, second, &mut kept));
        }
        self.kept[index] = kept;
        Ok(fired)
    }
}

/// First pass of training: all sums of a layer, stored, and their mean and (co)variances.
fn sums(reader: &Reader, index: usize, batch: usize, first: &mut [i32], second: &mut [i32]) -> Result<Moments> {
    let (layer, isa, share) = (reader.layer, reader.network.isa, &reader.network.share);
    let name = || format!("statistics of layer {index}");
    let [height, width, channels] = layer.shape;
    let (position, stride) = (reader.position_len(), reader.stride);
    let values = (share.total(batch) * height * width * reader.frames) as u64;
    if reader.is_real() {
        // Sums of f32 depend on their order: positions within a sample, then samples, then slices.
        let parts: Vec<[Vec<f64>; 2]> = first
            .par_chunks_mut(height * width * position)
            .enumerate()
            .map(|(b, x)| {
                with_worker(|worker| {
                    for (at, x) in x.chunks_exact_mut(position).enumerate() {
                        let sums = || reader.sums_at(0, &mut worker.events, b, [at / width, at % width], x);
                        reader.sampler.time(b * height * width + at, reader.sums_op(0), sums);
                    }
                });
                let (mut sum, mut squares) = (vec![0.0; channels], vec![0.0; channels]);
                accumulate(isa, bytemuck::cast_slice(x), stride, &mut sum, &mut squares);
                [sum, squares]
            })
            .collect();
        if layer.norm.is_none() {
            return Ok(Moments::of_real(&[], &[], values as f64)); // nobody asks
        }
        let total = share.sum(name, batch, |samples| in_order(&parts[samples], channels))?;
        return Ok(Moments::of_real(&total[..channels], &total[channels..], values as f64));
    }
    let largest = reader.largest_sum();
    let chunk = reader.rows * width * position;
    let tasks = batch * height / reader.rows;
    let zero = || IntegerSums::new(channels, largest);
    let mut total = first
        .par_chunks_mut(chunk)
        .zip(chunks_or_empty(second, chunk, tasks))
        .enumerate()
        .map(|(index, (first, second))| {
            with_worker(|worker| {
                let task = reader.task(index);
                let Worker { events, second: buffer, .. } = worker;
                let mut sums = zero();
                reader.list(events, &task);
                for (number, strip) in reader.strips(index) {
                    let at = [task.rows.start + strip.start / width, strip.start % width];
                    let range = strip.start * position..strip.end * position;
                    let first = &mut first[range.clone()];
                    reader.sampler.time(number, reader.sums_op(0), || reader.sums_at(0, events, task.b, at, first));
                    let mut second: &mut [i32] = if second.is_empty() { &mut [] } else { &mut second[range] };
                    if reader.has_second() {
                        if second.is_empty() {
                            second = grown(buffer, first.len());
                        }
                        reader.sampler.time(number, reader.sums_op(1), || reader.sums_at(1, events, task.b, at, second));
                    }
                    if layer.norm.is_some() {
                        reader.sampler.time(number, Op::Statistics, || sums.add(isa, first, second, stride));
                    }
                }
                sums
            })
        })
        .reduce(zero, IntegerSums::merge);
    if layer.norm.is_some() && !share.ranks().is_alone() {
        let mut integers = total.to_integers();
        share.add(name, &mut integers)?;
        total.set_integers(&integers);
    }
    Ok(total.moments(values))
}

/// Sums per channel of some samples, in the order of samples: one kind after the other, `[N][C]`.
pub(super) fn in_order<const N: usize>(samples: &[[Vec<f64>; N]], channels: usize) -> Vec<f64> {
    let kinds = (0..N).flat_map(|kind| (0..channels).map(move |c| (kind, c)));
    kinds.map(|(kind, c)| samples.iter().map(|sample| sample[kind][c]).sum()).collect()
}

/// All neurons of a layer; computes the sums where none are stored. Returns the number of spikes.
fn neurons(reader: &Reader, norm: &Normalizer, stored: Stored, spikes: &mut Spikes, kept: &mut LayerKept) -> u64 {
    let (layer, isa) = (reader.layer, reader.network.isa);
    let [height, width, channels] = layer.shape;
    let (batch, position, words) = (spikes.batch, reader.position_len(), spikes.words());
    let train = spikes.time_steps * words;
    let positions = reader.rows * width;
    let tasks = batch * height / reader.rows;
    let args = reader.neuron_args();
    let is_real = reader.is_real();
    let means = chunks_or_empty(&mut kept.mean_normed, positions * channels, tasks).zip(chunks_or_empty(
        &mut kept.weighted_normed,
        positions * channels,
        tasks,
    ));
    let dropped = &kept.dropped;
    spikes
        .bits_mut()
        .par_chunks_mut(positions * train)
        .zip(chunks_or_empty(&mut kept.counts, positions * channels, tasks))
        .zip(means)
        .enumerate()
        .map(|(index, ((spikes, counts), (mean, weighted)))| {
            with_worker(|worker| {
                let task = reader.task(index);
                let Worker { events, first: buffer, second: other_buffer } = worker;
                let mut fired = 0u64;
                if stored.first.is_empty() || (reader.has_second() && stored.second.is_empty()) {
                    reader.list(events, &task);
                }
                for (number, strip) in reader.strips(index) {
                    let at = [task.rows.start + strip.start / width, strip.start % width];
                    let range = (index * positions + strip.start) * position..(index * positions + strip.end) * position;
                    let first = if stored.first.is_empty() {
                        let first = grown(buffer, range.len());
                        reader.sampler.time(number, reader.sums_op(0), || reader.sums_at(0, events, task.b, at, first));
                        &*first
                    } else {
                        &stored.first[range.clone()]
                    };
                    let second: &[i32] = if !reader.has_second() {
                        &[]
                    } else if stored.second.is_empty() {
                        let second = grown(other_buffer, range.len());
                        reader.sampler.time(number, reader.sums_op(1), || reader.sums_at(1, events, task.b, at, second));
                        second
                    } else {
                        &stored.second[range]
                    };
                    reader.sampler.time(number, Op::Neurons, || {
                        for (p, at) in strip.enumerate() {
                            let neurons = at * channels..(at + 1) * channels;
                            let mut out = NeuronOut {
                                spikes: &mut spikes[at * train..(at + 1) * train],
                                counts: part_or_empty(counts, neurons.clone()),
                                mean_normed: part_or_empty(mean, neurons.clone()),
                                weighted_normed: part_or_empty(weighted, neurons),
                            };
                            let first = &first[p * position..][..position];
                            let second = if second.is_empty() { second } else { &second[p * position..][..position] };
                            let currents = if is_real { Currents::Real(bytemuck::cast_slice(first)) } else { Currents::Integer(first) };
                            neuron_at(isa, &args, norm, currents, second, &mut out);
                            if !dropped.is_empty() {
                                drop_spikes(&dropped[(index * positions + at) * words..][..words], &mut out);
                            }
                        }
                    });
                }
                count_spikes(isa, spikes, &mut fired);
                fired
            })
        })
        .sum()
}

/// A part of a buffer, or nothing of an absent buffer.
fn part_or_empty<T>(buffer: &mut [T], range: std::ops::Range<usize>) -> &mut [T] {
    if buffer.is_empty() { buffer } else { &mut buffer[range] }
}

/// Chunks of a buffer, or as many empty ones for an absent buffer.
fn chunks_or_empty<T: Send>(buffer: &mut [T], chunk: usize, count: usize) -> impl IndexedParallelIterator<Item = &mut [T]> {
    let chunks: Vec<&mut [T]> =
        if buffer.is_empty() { (0..count).map(|_| &mut [][..]).collect() } else { buffer.chunks_mut(chunk).collect() };
    chunks.into_par_iter()
}
