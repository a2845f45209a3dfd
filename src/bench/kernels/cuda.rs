//! The kernels on a CUDA device, by marks in its stream.
//!
//! Fused kernels are measured as they are: `spike_conv_neurons` is an evaluation's convolution with the neurons behind it. The ops
//! whose launchers need the buffers of a whole step are named without a time.

use std::sync::Arc;

use super::cpu::Sink;
use super::shapes::{self, LayerShape, Reads};
use super::{Bound, Cache, Measured, Op, Plan};
use crate::bench::times::{Limits, repeat};
use crate::device::{Gpu, Layout, Memory, Slice};
use crate::error::Result;
use crate::evaluation::synaptic::readers;
use crate::ops::batch_norm::cuda as batch_norm;
use crate::ops::conv::cuda as conv;
use crate::ops::neuron::{DeviceNeurons, LANES, NeuronInputs, NeuronOutputs, cuda as neuron};
use crate::ops::optimizer::Optimizer;
use crate::ops::optimizer::cuda::{self as update, Arenas, StepParameters, StepResult};
use crate::ops::rate::cuda as rate;
use crate::ops::spike_conv::{
    self, DeviceNormalizer, Geometry, LayerSums, PackedWeights, Source, Summand, WeightSource, WeightTable, quantize_weights,
    transpose_weights,
};

/// What has no launcher of its own that could be given random buffers.
const NOT_MEASURED: [&str; 5] = ["identity", "unpool", "rate_counts", "clamp_mapping_backward", "batch_norm_backward"];

/// Bytes read and written a second by a copy on the device, the best of its runs: what its memory can do at most.
///
/// # Errors
/// [`crate::error::Error::Device`] if the device fails or has no memory left.
pub fn copy_bytes_per_s(gpu: &Arc<Gpu>) -> Result<f64> {
    let bytes = (256 << 20).min(gpu.memory()?[0] / 8);
    let [from, to] = [gpu.zeroed::<u8>(bytes)?, gpu.zeroed::<u8>(bytes)?];
    let limits = Limits { warmup: 1, repeats: 20, seconds: 0.5 };
    let seconds = repeat(&limits, || gpu.time(|| gpu.copy(from.slice(), to.slice())))?;
    Ok(2.0 * bytes as f64 / seconds.iter().copied().fold(f64::INFINITY, f64::min))
}

/// Measures the kernels of a network that can be launched alone; the others come without times.
///
/// # Errors
/// [`crate::error::Error::Device`] if the device fails; those of `sink`.
pub fn on_cuda(plan: &Plan, gpu: &Arc<Gpu>, optimizer: &Optimizer, sink: Sink) -> Result<()> {
    let mut runner = Runner { plan, gpu, sink };
    for (geometry, layers) in shapes::geometries(plan.network, Reads::Input) {
        runner.conv_real(&geometry, layers)?;
    }
    for (geometry, layers) in shapes::geometries(plan.network, Reads::Spikes) {
        for &bits in plan.weight_bits {
            runner.convolution(&geometry, layers, bits)?;
        }
        runner.gradients(&geometry, layers)?;
    }
    for (shape, layers) in shapes::layers(plan.network) {
        runner.stored_sums(&shape, layers)?;
    }
    runner.readout()?;
    runner.optimizer(optimizer)?;
    for name in NOT_MEASURED.into_iter().filter(|name| plan.wants(name)) {
        let op = Op::moving(name, "all".into(), 0, 0);
        (runner.sink)(Measured { op, cache: Cache::Warm, seconds: Vec::new() })?;
    }
    Ok(())
}

/// Weights of one connection and what holds them.
struct Weights {
    packed: PackedWeights,
    table: WeightTable,
    _memory: (Memory<u8>, Memory<f32>),
}

/// What the neurons of a layer read and write beside their sums.
struct Neurons {
    inputs: NeuronInputs,
    outputs: NeuronOutputs,
    _memory: (Memory<f32>, Memory<u32>, Memory<u64>),
}

struct Runner<'a> {
    plan: &'a Plan<'a>,
    gpu: &'a Arc<Gpu>,
    sink: Sink<'a>,
}

impl Runner<'_> {
    fn measure(&mut self, op: Op, body: impl Fn() -> Result<()>) -> Result<()> {
        if !self.plan.wants(op.name) {
            return Ok(());
        }
        let seconds = repeat(&self.plan.limits, || self.gpu.time(&body))?;
        (self.sink)(Measured { op, cache: Cache::Warm, seconds })
    }

    fn conv_real(&mut self, geometry: &Geometry, layers: usize) -> Result<()> {
        let (gpu, images, frames) = (self.gpu.clone(), self.plan.batch * self.plan.frames, self.plan.frames);
        if !self.plan.wants("conv_real") || geometry.is_pooled() {
            return Ok(());
        }
        let input = gpu.memory_of(&self.plan.values(2, images * geometry.source.iter().product::<usize>() * geometry.cin, 1.0))?;
        let weights = gpu.memory_of(&self.plan.values(3, geometry.taps() * geometry.cin * geometry.cout, 0.05))?;
        let sums = gpu.zeroed::<f32>(images * geometry.positions() * geometry.cout.next_multiple_of(LANES))?;
        let bytes = input.slice().bytes() + weights.slice().bytes() + sums.slice().bytes();
        let dense = 2 * geometry.dense_macs() * images as u64;
        let operations = 2 * readers(geometry).iter().sum::<u64>() * (geometry.cin * geometry.cout * images) as u64;
        let op = Op { dense, operations, ..Op::moving("conv_real", shapes::name(geometry), layers, bytes) };
        let batch = self.plan.batch;
        self.measure(op, || conv::conv_real(&gpu, sums.slice(), input.slice(), weights.slice(), geometry, 1, [batch, frames]))
    }

    fn readout(&mut self) -> Result<()> {
        let (gpu, network, batch) = (self.gpu.clone(), self.plan.network, self.plan.batch);
        let last = &network.layers[network.layers.len() - 1];
        let logits = gpu.zeroed::<f32>(batch * last.neurons())?;
        if !last.fires() {
            let padded = last.shape[2].next_multiple_of(64);
            let (means, constants) = (gpu.zeroed::<f32>(batch * last.neurons())?, gpu.zeroed::<f32>(6 * padded)?);
            let norm = DeviceNormalizer { values: constants.slice(), padded };
            let bytes = means.slice().bytes() + logits.slice().bytes();
            let shape = [batch, last.neurons()];
            return self.measure(Op::moving("readout_current", format!("{} classes", last.neurons()), 1, bytes), || {
                rate::readout_current(&gpu, logits.slice(), means.slice(), &norm, shape)
            });
        }
        let spikes = gpu.memory_of(self.plan.spikes(last.positions(), last.shape[2]).bits())?;
        let weights = gpu.memory_of(&network.neuron.step_weights(network.time_steps))?;
        let threshold = gpu.memory_of(&[network.threshold(last)])?;
        let bytes = spikes.slice().bytes() + logits.slice().bytes();
        let shape = [batch, last.positions(), last.shape[2]];
        self.measure(Op::moving("readout", format!("{} classes", last.neurons()), 1, bytes), || {
            rate::readout(&gpu, logits.slice(), spikes.slice(), threshold.slice(), weights.slice(), network.neuron, shape)
        })
    }

    fn optimizer(&mut self, optimizer: &Optimizer) -> Result<()> {
        if !self.plan.wants("optimizer") {
            return Ok(());
        }
        let (gpu, values) = (self.gpu.clone(), &self.plan.network.values);
        let (values, grads) = (gpu.memory_of(values)?, gpu.memory_of(&self.plan.values(9, values.len(), 1e-3))?);
        let (first, second) = (gpu.memory_of(&optimizer.first)?, gpu.memory_of(&optimizer.second)?);
        let parameters = gpu.memory_of(&[StepParameters::new(Some(optimizer), 1e-6, 0)])?;
        let result = gpu.memory_of(&[StepResult::default()])?;
        let arenas =
            Arenas { values: values.slice(), grads: grads.slice(), first: first.slice(), second: second.slice(), spared: Slice::NONE };
        let len = arenas.values.len();
        let bytes = 4 * (3 * len + 2 * (optimizer.first.len() + optimizer.second.len()));
        self.measure(Op::moving("optimizer", format!("{len} values"), 1, bytes), || {
            update::step(&gpu, optimizer.rule, optimizer.weight_decay, &arenas, parameters.slice(), result.slice())
        })
    }

    /// Weights, pool, sums, statistics, and the fused kernel of an evaluation.
    fn convolution(&mut self, geometry: &Geometry, layers: usize, bits: u8) -> Result<()> {
        let (gpu, batch, time_steps) = (self.gpu.clone(), self.plan.batch, self.plan.network.time_steps);
        let weights = self.weights(geometry, bits)?;
        let name = shapes::name(geometry);
        let len = geometry.taps() * geometry.cin * geometry.cout;
        let of_weights =
            |name, written: usize| Op { weight_bits: Some(bits), ..Op::moving(name, shapes::name(geometry), layers, 4 * len + written) };
        self.measure(of_weights("quantize_weights", len * usize::from(bits) / 8), || quantize_weights(&gpu, &weights.table))?;
        self.measure(of_weights("transpose_weights", 2 * len), || transpose_weights(&gpu, &weights.table))?;
        quantize_weights(&gpu, &weights.table)?; // also where its time is not wanted

        let host = self.plan.spikes(geometry.source.iter().product(), geometry.cin);
        let spikes = gpu.memory_of(host.bits())?;
        let pooled = batch * geometry.pooled().iter().product::<usize>() * time_steps * geometry.cin.next_multiple_of(32);
        let counts = gpu.zeroed::<u8>(if geometry.is_pooled() { pooled } else { 0 })?;
        let source = if geometry.is_pooled() {
            let op = Op::moving("pool_counts", name.clone(), layers, 4 * host.bits().len() + pooled);
            let pool = || rate::pool_counts(&gpu, counts.slice(), spikes.slice(), geometry, [batch, time_steps]);
            pool()?;
            self.measure(op, pool)?;
            Source::Counts(counts.slice())
        } else {
            Source::Bits(spikes.slice())
        };
        let channels = geometry.cout;
        let summands = [Summand::Conv { source, weights: weights.packed, geometry: *geometry }, Summand::None];
        let layer = LayerSums { summands, batch, positions: geometry.positions(), time_steps, channels };
        let rows = batch * geometry.positions() * time_steps;
        let sums = gpu.zeroed::<i32>(rows * layer.stride())?;
        let statistics = gpu.zeroed::<u64>(8 * channels)?;
        let neurons = self.neurons(batch * geometry.positions(), channels)?;
        let read = if geometry.is_pooled() { pooled } else { 4 * host.bits().len() } + len * usize::from(bits) / 8;
        let of_sums = |name, written: usize| Op {
            name,
            shape: shapes::name(geometry),
            layers,
            weight_bits: Some(bits),
            dense: 2 * geometry.dense_macs() * (batch * time_steps) as u64,
            operations: super::additions(geometry, &host),
            bytes: (read + written) as u64,
            bound: Bound::TensorCores,
        };
        let none = Slice::NONE;
        self.measure(of_sums("spike_conv_sums", 4 * rows * layer.stride()), || {
            spike_conv::sums(&gpu, &layer, [sums.slice(), none], statistics.slice())
        })?;
        self.measure(of_sums("spike_conv_statistics", 0), || spike_conv::statistics(&gpu, &layer, statistics.slice()))?;
        self.measure(of_sums("spike_conv_neurons", 4 * rows * channels.div_ceil(32)), || {
            spike_conv::neurons(&gpu, &layer, &neurons.inputs, &neurons.outputs)
        })
    }

    /// Data and weight gradient.
    fn gradients(&mut self, geometry: &Geometry, layers: usize) -> Result<()> {
        if !self.plan.wants("data_gradient") && !self.plan.wants("weight_gradient") {
            return Ok(());
        }
        let (gpu, batch) = (self.gpu.clone(), self.plan.batch);
        let weights = self.weights(geometry, 16)?;
        transpose_weights(&gpu, &weights.table)?;
        let (positions, pooled) = (batch * geometry.positions(), batch * geometry.pooled().iter().product::<usize>());
        let len = geometry.taps() * geometry.cin * geometry.cout;
        let halves: Vec<u16> =
            self.plan.values(4, positions * geometry.cout, 1.0).iter().map(|&v| half::bf16::from_f32(v).to_bits()).collect();
        let grad = gpu.memory_of(&halves)?;
        let out = gpu.zeroed::<f32>(pooled * geometry.cin)?;
        let operations = 2 * geometry.dense_macs() * batch as u64;
        let product = |name, bytes: usize| Op {
            name,
            shape: shapes::name(geometry),
            layers,
            weight_bits: None,
            dense: operations,
            operations,
            bytes: bytes as u64,
            bound: Bound::TensorCores,
        };
        self.measure(product("data_gradient", 2 * halves.len() + 2 * len + 4 * pooled * geometry.cin), || {
            conv::data_gradient(&gpu, out.slice(), grad.slice(), weights.packed.transposed, geometry, batch, false)
        })?;
        let (bytes, totals) = if geometry.is_pooled() { (0, pooled * geometry.cin) } else { (pooled * geometry.cin, 0) };
        let (counts, totals) = (gpu.memory_of(&vec![2u8; bytes])?, gpu.memory_of(&vec![2u16; totals])?);
        let operand = if geometry.is_pooled() { conv::Operand::Totals(totals.slice()) } else { conv::Operand::Counts(counts.slice()) };
        let read = counts.slice().bytes() + totals.slice().bytes();
        let into = gpu.zeroed::<f32>(len)?;
        let workspace = gpu.zeroed::<f32>(conv::weight_gradient_workspace(geometry, positions))?;
        self.measure(product("weight_gradient", 2 * halves.len() + read + 8 * len), || {
            conv::weight_gradient(&gpu, into.slice(), operand, grad.slice(), geometry, 1, batch, Slice::NONE, 1.0, workspace.slice())
        })
    }

    /// Statistics and neurons from stored sums.
    fn stored_sums(&mut self, shape: &LayerShape, layers: usize) -> Result<()> {
        if shape.connections == 0 || !(self.plan.wants("statistics") || self.plan.wants("neuron")) {
            return Ok(());
        }
        let (gpu, [height, width, channels]) = (self.gpu.clone(), shape.shape);
        let positions = self.plan.batch * height * width;
        let rows = positions * self.plan.network.time_steps;
        let len = rows * channels.next_multiple_of(LANES);
        let stored = [6, 7].map(|stream| if stream == 6 || shape.connections == 2 { self.plan.sums(stream, len) } else { Vec::new() });
        let [first, second] = [gpu.memory_of(&stored[0])?, gpu.memory_of(&stored[1])?];
        let second_summand = if stored[1].is_empty() { Summand::None } else { Summand::Sums { sums: second.slice() } };
        let summands = [Summand::Sums { sums: first.slice() }, second_summand];
        let statistics = gpu.zeroed::<u64>(8 * channels)?;
        let read = 4 * len * shape.connections;
        if shape.has_norm {
            self.measure(Op::moving("statistics", shape.name(), layers, read), || {
                batch_norm::statistics_of_sums(&gpu, statistics.slice(), &summands[0], &summands[1], rows, channels)
            })?;
        }
        let neurons = self.neurons(positions, channels)?;
        self.measure(Op::moving("neuron", shape.name(), layers, read + 4 * rows * channels.div_ceil(32)), || {
            neuron::neurons(&gpu, &neurons.inputs, &neurons.outputs, &summands, positions)
        })
    }

    /// Random weights with room for both packed forms; nothing is packed yet.
    fn weights(&self, geometry: &Geometry, bits: u8) -> Result<Weights> {
        let mut layout = Layout::measure();
        PackedWeights::take_for(&mut layout, geometry, bits, self.gpu.products());
        let memory = self.gpu.zeroed::<u8>(layout.bytes())?;
        let packed = PackedWeights::take_for(&mut Layout::of(&memory), geometry, bits, self.gpu.products());
        let master = self.gpu.memory_of(&self.plan.values(3, geometry.taps() * geometry.cin * geometry.cout, 0.05))?;
        let source = WeightSource { master: master.slice(), geometry: *geometry, replicate: 1, weights: packed };
        Ok(Weights { packed, table: WeightTable::new(self.gpu, &[source])?, _memory: (memory, master) })
    }

    /// Neurons that read currents of mean 0 and standard deviation 1 from sums around ±1000, and write spikes only, as an evaluation does.
    fn neurons(&self, positions: usize, channels: usize) -> Result<Neurons> {
        let (network, padded) = (self.plan.network, channels.next_multiple_of(64));
        let rows = [0.7e-3, 0.7e-3, 0.0, 1.0, 0.0, 1.0].map(|value| vec![value; padded]);
        // The threshold of the first layer lies behind the six rows.
        let mut constants = rows.concat();
        constants.push(network.threshold(&network.layers[0]));
        let constants = self.gpu.memory_of(&constants)?;
        let spikes = self.gpu.zeroed::<u32>(positions * network.time_steps * channels.div_ceil(32))?;
        let fired = self.gpu.zeroed::<u64>(1)?;
        let inputs = NeuronInputs {
            normalizer: DeviceNormalizer { values: constants.slice().part(0..6 * padded), padded },
            threshold: constants.slice().part(6 * padded..6 * padded + 1),
            step_weights: Slice::NONE,
            dropped: Slice::NONE,
            neurons: DeviceNeurons::new(network.neuron, network.time_steps, channels),
        };
        let outputs = NeuronOutputs {
            spikes: spikes.slice(),
            counts: Slice::NONE,
            mean_normed: Slice::NONE,
            weighted_normed: Slice::NONE,
            fired: fired.slice(),
        };
        Ok(Neurons { inputs, outputs, _memory: (constants, spikes, fired) })
    }
}
