//! The ops on the CPU, on all threads, as the network calls them.

use std::hint::black_box;

use rayon::prelude::*;

use super::shapes::{self, LayerShape, Reads};
use super::{Bound, Cache, Measured, Op, Plan};
use crate::bench::peaks::beyond_caches;
use crate::bench::times::{repeat, timed};
use crate::device::lines::grown;
use crate::error::Result;
use crate::evaluation::synaptic::readers;
use crate::ops::batch_norm::{IntegerSums, Normalizer, center, subtract_scaled};
use crate::ops::conv;
use crate::ops::neuron::{Currents, LANES, Neuron, NeuronArgs, NeuronOut, clamp_mapping_backward, neuron_at};
use crate::ops::optimizer::Optimizer;
use crate::ops::rate::readout;
use crate::ops::spike_conv::{Events, Geometry, QuantizedWeights, conv_at, identity_at, positions_together, rows_together};

/// Bound on the magnitude of the random sums, for the statistics.
const LARGEST_SUM: i64 = 1 << 20;

/// Takes each result as soon as it is there.
pub type Sink<'a> = &'a mut dyn FnMut(Measured) -> Result<()>;

/// Measures every op of a network on the CPU; `optimizer` is one for its parameters.
///
/// # Errors
/// Those of `sink`.
pub fn on_cpu(plan: &Plan, optimizer: Optimizer, sink: Sink) -> Result<()> {
    let evicted = if plan.caches.contains(&Cache::Cold) { beyond_caches() / 8 } else { 0 };
    let mut runner = Runner { plan, sink, other: vec![0; evicted] };
    for (geometry, layers) in shapes::geometries(plan.network, Reads::Input) {
        runner.conv_real(&geometry, layers)?;
        runner.weight_gradient(&geometry, layers)?;
    }
    for (geometry, layers) in shapes::geometries(plan.network, Reads::Spikes) {
        for &bits in plan.weight_bits {
            runner.quantize_weights(&geometry, layers, bits)?;
            runner.spike_conv(&geometry, layers, bits)?;
        }
        runner.data_gradient(&geometry, layers)?;
        runner.weight_gradient(&geometry, layers)?;
        runner.unpool(&geometry, layers)?;
    }
    for (geometry, layers) in shapes::sources(plan.network) {
        runner.rate_counts(&geometry, layers)?;
    }
    for (geometry, layers) in shapes::geometries(plan.network, Reads::Identity) {
        runner.identity(&geometry, layers)?;
        runner.unpool(&geometry, layers)?;
    }
    for (shape, layers) in shapes::layers(plan.network) {
        runner.statistics(&shape, layers)?;
        runner.neuron(&shape, layers)?;
    }
    for ((shape, has_norm), layers) in shapes::maps(plan.network) {
        runner.clamp_mapping_backward(shape, layers)?;
        if has_norm {
            runner.batch_norm_backward(shape, layers)?;
        }
    }
    runner.readout()?;
    runner.optimizer(optimizer)
}

struct Runner<'a> {
    plan: &'a Plan<'a>,
    sink: Sink<'a>,
    /// What the caches hold before a cold run.
    other: Vec<u64>,
}

impl Runner<'_> {
    /// Measures one op, with every state of the caches that is asked for.
    fn measure(&mut self, op: Op, mut body: impl FnMut()) -> Result<()> {
        for &cache in self.plan.caches {
            let other = &mut self.other;
            let seconds = repeat(&self.plan.limits, || {
                if cache == Cache::Cold {
                    other.par_chunks_mut(1 << 17).for_each(|part| part.iter_mut().for_each(|word| *word = word.wrapping_add(1)));
                }
                timed(|| {
                    body();
                    Ok(())
                })
            })?;
            (self.sink)(Measured { op: op.clone(), cache, seconds })?;
        }
        Ok(())
    }

    fn conv_real(&mut self, geometry: &Geometry, layers: usize) -> Result<()> {
        let name = "conv_real";
        if !self.plan.wants(name) {
            return Ok(());
        }
        let (batch, frames, isa) = (self.plan.batch, self.plan.frames, self.plan.network.isa);
        let (images, [height, width]) = (batch * frames, geometry.out());
        let pixels = geometry.source.iter().product::<usize>() * geometry.cin;
        let input = self.plan.values(2, images * pixels, 1.0);
        let weights = self.plan.values(3, geometry.taps() * geometry.cin * geometry.cout, 0.05);
        let mut out = vec![0.0; images * height * width * geometry.cout];
        let macs = readers(geometry).iter().sum::<u64>() * (geometry.cin * geometry.cout * images) as u64;
        let op = Op {
            name,
            shape: shapes::name(geometry),
            layers,
            weight_bits: None,
            dense: 2 * geometry.dense_macs() * images as u64,
            operations: 2 * macs,
            bytes: 4 * (input.len() + weights.len() + out.len()) as u64,
            bound: Bound::Gemm,
        };
        self.measure(op, || {
            out.par_chunks_mut(width * geometry.cout).enumerate().for_each(|(row, out)| {
                let input = &input[row / height * pixels..][..pixels];
                for (x, out) in out.chunks_exact_mut(geometry.cout).enumerate() {
                    conv::conv_at(isa, input, &weights, geometry, [row % height, x], out);
                }
            });
        })
    }

    fn quantize_weights(&mut self, geometry: &Geometry, layers: usize, bits: u8) -> Result<()> {
        let name = "quantize_weights";
        if !self.plan.wants(name) {
            return Ok(());
        }
        let isa = self.plan.network.isa;
        let master = self.plan.values(3, geometry.taps() * geometry.cin * geometry.cout, 0.05);
        let mut weights = QuantizedWeights::default();
        let op =
            Op { weight_bits: Some(bits), ..Op::moving(name, shapes::name(geometry), layers, (4 + usize::from(bits) / 8) * master.len()) };
        self.measure(op, || weights.quantize(isa, &master, geometry.cout, bits, geometry.area()))
    }

    fn spike_conv(&mut self, geometry: &Geometry, layers: usize, bits: u8) -> Result<()> {
        let name = "spike_conv";
        if !self.plan.wants(name) {
            return Ok(());
        }
        let (batch, isa, time_steps) = (self.plan.batch, self.plan.network.isa, self.plan.network.time_steps);
        let [height, width] = geometry.out();
        let spikes = self.plan.spikes(geometry.source.iter().product(), geometry.cin);
        let mut weights = QuantizedWeights::default();
        let master = self.plan.values(3, geometry.taps() * geometry.cin * geometry.cout, 0.05);
        weights.quantize(isa, &master, geometry.cout, bits, geometry.area());
        let stride = geometry.cout.next_multiple_of(LANES);
        let op = Op {
            name,
            shape: shapes::name(geometry),
            layers,
            weight_bits: Some(bits),
            dense: 2 * geometry.dense_macs() * (batch * time_steps) as u64,
            operations: super::additions(geometry, &spikes),
            bytes: (4 * spikes.bits().len() + weights.bytes()) as u64,
            bound: if bits == 8 { Bound::AddsI16 } else { Bound::AddsI32 },
        };
        self.measure(op, || {
            let (rows, strip) = (rows_together([height, width]), positions_together(time_steps));
            let worker = || (Events::default(), Vec::new());
            (0..batch * height / rows).into_par_iter().for_each_init(worker, |(events, buffer), task| {
                let (b, first) = (task * rows / height, task * rows % height);
                events.list(isa, &spikes, b, geometry, first..first + rows);
                for at in (0..rows * width).step_by(strip) {
                    let acc = grown(buffer, strip.min(rows * width - at) * time_steps * stride);
                    conv_at(isa, events, &weights, geometry, [first + at / width, at % width], stride, acc);
                    black_box(&acc);
                }
            });
        })
    }

    fn identity(&mut self, geometry: &Geometry, layers: usize) -> Result<()> {
        let name = if geometry.is_pooled() { "pool" } else { "identity" };
        if !self.plan.wants(name) {
            return Ok(());
        }
        let (batch, isa, time_steps) = (self.plan.batch, self.plan.network.isa, self.plan.network.time_steps);
        let [height, width] = geometry.out();
        let spikes = self.plan.spikes(geometry.source.iter().product(), geometry.cin);
        let stride = geometry.cout.next_multiple_of(LANES);
        let op = Op::moving(name, shapes::name(geometry), layers, 4 * spikes.bits().len());
        self.measure(op, || {
            (0..batch * height).into_par_iter().for_each_init(
                || vec![0; time_steps * stride],
                |acc, row| {
                    for x in 0..width {
                        identity_at(isa, &spikes, row / height, geometry, [row % height, x], stride, acc);
                        black_box(&acc);
                    }
                },
            );
        })
    }

    fn rate_counts(&mut self, geometry: &Geometry, layers: usize) -> Result<()> {
        let name = "rate_counts";
        if !self.plan.wants(name) {
            return Ok(());
        }
        let (batch, channels) = (self.plan.batch, geometry.cin);
        let [from, to] = [geometry.source, geometry.pooled()].map(|size| size.iter().product::<usize>() * channels);
        let counts = vec![2u8; batch * from];
        let mut rates = vec![0.0; batch * to];
        let op = Op::moving(name, shapes::name(geometry), layers, counts.len() + 4 * rates.len());
        self.measure(op, || {
            let samples = rates.par_chunks_mut(to).zip(counts.par_chunks(from));
            samples.for_each(|(rates, counts)| conv::pool_rates(counts, 0.05, geometry, rates));
        })
    }

    fn unpool(&mut self, geometry: &Geometry, layers: usize) -> Result<()> {
        let name = "unpool";
        if !self.plan.wants(name) || !geometry.is_pooled() {
            return Ok(());
        }
        let (batch, channels) = (self.plan.batch, geometry.cin);
        let [to, from] = [geometry.source, geometry.pooled()].map(|size| size.iter().product::<usize>() * channels);
        let pooled = self.plan.values(4, batch * from, 1.0);
        let mut grad = vec![0.0; batch * to];
        let op = Op::moving(name, shapes::name(geometry), layers, 4 * pooled.len() + 8 * grad.len());
        self.measure(op, || {
            let samples = grad.par_chunks_mut(to).zip(pooled.par_chunks(from));
            samples.for_each(|(grad, pooled)| conv::unpool_add(pooled, geometry, grad));
        })
    }

    fn data_gradient(&mut self, geometry: &Geometry, layers: usize) -> Result<()> {
        let name = "data_gradient";
        if !self.plan.wants(name) {
            return Ok(());
        }
        let grad = self.plan.values(4, self.plan.batch * geometry.positions() * geometry.cout, 1.0);
        let weights = self.plan.values(3, geometry.taps() * geometry.cin * geometry.cout, 0.05);
        let mut out = vec![0.0; self.plan.batch * geometry.pooled().iter().product::<usize>() * geometry.cin];
        let op = self.product_op(name, geometry, layers, grad.len() + weights.len() + 2 * out.len());
        self.measure(op, || conv::data_gradient(&grad, &weights, geometry, &mut out))
    }

    fn weight_gradient(&mut self, geometry: &Geometry, layers: usize) -> Result<()> {
        let name = "weight_gradient";
        if !self.plan.wants(name) {
            return Ok(());
        }
        let grad = self.plan.values(4, self.plan.batch * geometry.positions() * geometry.cout, 1.0);
        let input = self.plan.values(5, self.plan.batch * geometry.pooled().iter().product::<usize>() * geometry.cin, 1.0);
        let mut out = vec![0.0; geometry.taps() * geometry.cin * geometry.cout];
        let op = self.product_op(name, geometry, layers, grad.len() + input.len() + 2 * out.len());
        self.measure(op, || conv::weight_gradient(&input, &grad, geometry, &mut out))
    }

    /// A gradient of a convolution that moves `values` numbers.
    fn product_op(&self, name: &'static str, geometry: &Geometry, layers: usize, values: usize) -> Op {
        let operations = 2 * geometry.dense_macs() * self.plan.batch as u64;
        let bytes = 4 * values as u64;
        Op { name, shape: shapes::name(geometry), layers, weight_bits: None, dense: operations, operations, bytes, bound: Bound::Gemm }
    }

    fn statistics(&mut self, shape: &LayerShape, layers: usize) -> Result<()> {
        let name = "statistics";
        if !self.plan.wants(name) || shape.connections == 0 || !shape.has_norm {
            return Ok(());
        }
        let isa = self.plan.network.isa;
        let [height, width, channels] = shape.shape;
        let stride = channels.next_multiple_of(LANES);
        let row = width * self.plan.network.time_steps * stride;
        let len = self.plan.batch * height * row;
        let first = self.plan.sums(6, len);
        let second = if shape.connections == 2 { self.plan.sums(7, len) } else { Vec::new() };
        let op = Op::moving(name, shape.name(), layers, 4 * (first.len() + second.len()));
        self.measure(op, || {
            let zero = || IntegerSums::new(channels, LARGEST_SUM);
            let parts = first.par_chunks(row).enumerate().map(|(index, first)| {
                let mut part = zero();
                part.add(isa, first, if second.is_empty() { &[] } else { &second[index * row..][..row] }, stride);
                part
            });
            black_box(parts.reduce(zero, IntegerSums::merge));
        })
    }

    fn neuron(&mut self, shape: &LayerShape, layers: usize) -> Result<()> {
        let name = "neuron";
        if !self.plan.wants(name) {
            return Ok(());
        }
        let (network, time_steps) = (self.plan.network, self.plan.network.time_steps);
        let (isa, neuron) = (network.isa, network.neuron);
        let [height, width, channels] = shape.shape;
        let (stride, words, positions) = (channels.next_multiple_of(LANES), channels.div_ceil(32), self.plan.batch * height * width);
        // The standard deviation of the currents is 1; the threshold is that of the first layer.
        let threshold = network.threshold(&network.layers[0]);
        let args = NeuronArgs { neuron, threshold, time_steps, step_weights: neuron.step_weights(time_steps), channels, stride };
        let norm = unit_normalizer(channels);
        let frames = if shape.connections == 0 { self.plan.frames } else { time_steps };
        let len = positions * frames * stride;
        let first = if shape.connections == 0 { Vec::new() } else { self.plan.sums(6, len) };
        let real = if shape.connections == 0 { self.plan.values(6, len, 1000.0) } else { Vec::new() };
        let second = if shape.connections == 2 { self.plan.sums(7, len) } else { Vec::new() };
        let (mut spikes, mut counts) = (vec![0; positions * time_steps * words], vec![0; positions * channels]);
        let is_weighted = matches!(neuron, Neuron::Lif { .. });
        let (mut mean, mut weighted) = (vec![0.0; positions * channels], vec![0.0; positions * channels]);
        let values = first.len() + real.len() + second.len() + spikes.len() + mean.len() * (1 + usize::from(is_weighted));
        let op = Op::moving(name, shape.name(), layers, 4 * values + counts.len());
        self.measure(op, || {
            let means = mean.par_chunks_mut(channels).zip(weighted.par_chunks_mut(channels));
            let outputs = spikes.par_chunks_mut(time_steps * words).zip(counts.par_chunks_mut(channels)).zip(means);
            outputs.enumerate().with_min_len(width).for_each(|(at, ((spikes, counts), (mean_normed, weighted)))| {
                let weighted_normed: &mut [f32] = if is_weighted { weighted } else { &mut [] };
                let mut out = NeuronOut { spikes, counts, mean_normed, weighted_normed };
                let range = at * frames * stride..(at + 1) * frames * stride;
                let other: &[i32] = if second.is_empty() { &[] } else { &second[range.clone()] };
                let currents = if first.is_empty() { Currents::Real(&real[range]) } else { Currents::Integer(&first[range]) };
                neuron_at(isa, &args, &norm, currents, other, &mut out);
            });
        })
    }

    fn clamp_mapping_backward(&mut self, shape: [usize; 3], layers: usize) -> Result<()> {
        let name = "clamp_mapping_backward";
        if !self.plan.wants(name) {
            return Ok(());
        }
        let network = self.plan.network;
        let (isa, channels, neurons) = (network.isa, shape[2], shape.iter().product::<usize>());
        let norm = unit_normalizer(channels);
        let map = network.neuron.clamp_mapping(network.threshold(&network.layers[0]));
        let mean = self.plan.values(8, self.plan.batch * neurons, 1.0);
        let mut grad = self.plan.values(9, self.plan.batch * neurons, 1.0);
        let op = Op::moving(name, shapes::map_name(shape), layers, 12 * grad.len()); // the mean, and the gradient twice
        self.measure(op, || {
            grad.par_chunks_mut(neurons).zip(mean.par_chunks(neurons)).for_each(|(grad, mean)| {
                let [mut above, mut sum, mut product] = [(); 3].map(|()| vec![0.0; channels]);
                clamp_mapping_backward(isa, map, &norm, mean, mean, grad, &mut above, &mut sum, &mut product);
                black_box((above, sum, product));
            });
        })
    }

    fn batch_norm_backward(&mut self, shape: [usize; 3], layers: usize) -> Result<()> {
        let name = "batch_norm_backward";
        if !self.plan.wants(name) {
            return Ok(());
        }
        let (isa, channels, neurons) = (self.plan.network.isa, shape[2], shape.iter().product::<usize>());
        let mean = self.plan.values(8, self.plan.batch * neurons, 1.0);
        let mut grad = self.plan.values(9, self.plan.batch * neurons, 1.0);
        let (one, small) = (vec![1.0; channels], vec![1e-3; channels]);
        let op = Op::moving(name, shapes::map_name(shape), layers, 12 * grad.len());
        self.measure(op, || {
            grad.par_chunks_mut(neurons).for_each(|grad| center(isa, &one, &small, grad));
            grad.par_chunks_mut(neurons).zip(mean.par_chunks(neurons)).for_each(|(grad, mean)| subtract_scaled(isa, &small, mean, grad));
        })
    }

    fn readout(&mut self) -> Result<()> {
        let name = "readout";
        if !self.plan.wants(name) {
            return Ok(());
        }
        let network = self.plan.network;
        let last = &network.layers[network.layers.len() - 1];
        if !last.fires() {
            return Ok(()); // a line of the last layer's normaliser
        }
        let spikes = self.plan.spikes(last.positions(), last.shape[2]);
        let (weights, threshold) = (network.neuron.step_weights(network.time_steps), network.threshold(last));
        let bytes = 4 * (spikes.bits().len() + self.plan.batch * last.neurons());
        let op = Op::moving(name, format!("{} classes", last.neurons()), 1, bytes);
        self.measure(op, || {
            black_box(readout(network.neuron, threshold, &weights, &spikes));
        })
    }

    fn optimizer(&mut self, mut optimizer: Optimizer) -> Result<()> {
        let name = "optimizer";
        if !self.plan.wants(name) {
            return Ok(());
        }
        let mut values = self.plan.network.values.clone();
        let grads = self.plan.values(9, values.len(), 1e-3);
        // Values and state are read and written, gradients read.
        let touched = 3 * values.len() + 2 * (optimizer.first.len() + optimizer.second.len());
        let op = Op::moving(name, format!("{} values", values.len()), 1, 4 * touched);
        self.measure(op, || optimizer.step(1e-6, &mut values, &grads))
    }
}

/// Currents of mean 0 and standard deviation 1 from sums around ±1000.
fn unit_normalizer(channels: usize) -> Normalizer {
    let (factor, zero, one) = (vec![0.7e-3; channels], vec![0.0; channels], vec![1.0; channels]);
    Normalizer::new([&factor, &factor], &zero, &vec![1.0; channels], &vec![0.0; channels], &one)
}
