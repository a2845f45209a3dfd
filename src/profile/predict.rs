//! What a step should cost on a GPU that is not at hand, from shapes, data sheets and the machine code. Nothing is measured.
//!
//! ```text
//! seconds = max(arithmetic, bytes / (0.8 · bandwidth)) + launches · 2 µs
//! ```
//! The arithmetic of spike convolutions is that of `ops/spike_conv/cost.rs`. The formulas, the sources of the peaks and two layers worked
//! by hand are in `docs/predict.md`.

use clap::ValueEnum;
use serde::Serialize;

use super::collectives::{Group, group};
use crate::device::Products;
use crate::device::kernels::{self, Kernel};
use crate::device::limits::Limits;
use crate::device::occupancy::occupancy;
use crate::network::{Connection, Kind, Network, Source, WeightGradient};
use crate::ops::neuron::Neuron;
use crate::ops::spike_conv::cost::{self, Code, Machine, OF_BANDWIDTH};
use crate::ops::spike_conv::{Tiles, has_few_blocks, parts};

/// Shares that products of floats are expected to reach: of the peak in f32, and of what `mma.sync` reaches in bf16; assumptions.
const OF_PEAK: f64 = 0.6;
const OF_BF16: f64 = 0.75;
/// Seconds between two kernels of a graph; an assumption.
const LAUNCH: f64 = 2e-6;
/// Seconds of them that are spared where the latter kernel may begin before the former has ended (`DSR_DEPENDENT_LAUNCH`): what a published
/// calibration found between two empty kernels of a graph (docs/predict.md).
const SPARED: f64 = 0.96e-6;

/// A GPU by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum GpuName {
    A100,
    H100,
    Rtx4090,
    B200,
}

/// Peaks by the vendor's data sheet, without sparsity.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct DataSheet {
    pub name: &'static str,
    pub source: &'static str,
    /// As the kernels' targets are called.
    pub target: &'static str,
    #[serde(skip)]
    pub capability: (u32, u32),
    pub multiprocessors: u32,
    /// 8-bit integer operations of the tensor cores a second; a multiply-add is two.
    pub int8: f64,
    /// The same in bf16 with sums in f32.
    pub bf16: f64,
    /// 32-bit floating-point operations a second, outside of the tensor cores.
    pub fp32: f64,
    /// Bytes of device memory a second.
    pub bandwidth: f64,
}

impl GpuName {
    /// What its data sheet says.
    pub fn data_sheet(self) -> DataSheet {
        match self {
            GpuName::A100 => DataSheet {
                name: "A100 SXM 80 GB",
                source: "NVIDIA A100 data sheet",
                target: "sm_80",
                capability: (8, 0),
                multiprocessors: 108,
                int8: 624e12,
                bf16: 312e12,
                fp32: 19.5e12,
                bandwidth: 2039e9,
            },
            GpuName::H100 => DataSheet {
                name: "H100 SXM 80 GB",
                source: "NVIDIA H100 data sheet",
                target: "sm_90",
                capability: (9, 0),
                multiprocessors: 132,
                int8: 1979e12,
                bf16: 989.5e12,
                fp32: 67e12,
                bandwidth: 3350e9,
            },
            GpuName::Rtx4090 => DataSheet {
                name: "GeForce RTX 4090",
                source: "NVIDIA Ada GPU architecture white paper, appendix A",
                target: "sm_89",
                capability: (8, 9),
                multiprocessors: 128,
                int8: 660.6e12,
                bf16: 165.2e12,
                fp32: 82.6e12,
                bandwidth: 1008e9,
            },
            GpuName::B200 => DataSheet {
                name: "B200 (HGX)",
                source: "NVIDIA Blackwell data sheet, HGX B200",
                target: "sm_100",
                capability: (10, 0),
                multiprocessors: 148,
                int8: 4500e12,
                bf16: 2250e12,
                fp32: 75e12,
                bandwidth: 7700e9,
            },
        }
    }
}

impl DataSheet {
    /// What bounds the spike convolutions there, at the clock of the sheet's peak.
    fn machine(&self) -> Machine {
        let (rate, share) = cost::sheet_rate(self.capability);
        Machine {
            multiprocessors: self.multiprocessors as usize,
            clock: self.int8 / 2.0 / (f64::from(self.multiprocessors) * rate),
            rate: rate * share,
            bandwidth: self.bandwidth,
            code: Code::of(self.capability, Products::Integer),
        }
    }

    /// Operations a second in bf16 that products are expected to reach.
    pub(super) fn bf16_reached(&self) -> f64 {
        OF_BF16 * cost::sheet_rate(self.capability).1 * self.bf16
    }
}

/// Cost of some kernels that follow one another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Cost {
    /// Seconds that the arithmetic alone would take.
    pub operations_s: f64,
    /// Seconds that the memory alone would take.
    pub bytes_s: f64,
    pub launches: u32,
    pub seconds: f64,
}

impl Cost {
    fn new(operations_s: f64, bytes_s: f64, launches: u32) -> Cost {
        Cost { operations_s, bytes_s, launches, seconds: operations_s.max(bytes_s) + f64::from(launches) * LAUNCH }
    }

    pub(super) fn plus(self, other: Cost) -> Cost {
        Cost {
            operations_s: self.operations_s + other.operations_s,
            bytes_s: self.bytes_s + other.bytes_s,
            launches: self.launches + other.launches,
            seconds: self.seconds + other.seconds,
        }
    }

    /// What takes the most: `operations`, `bytes` or `launches`.
    pub fn bound(&self) -> &'static str {
        let launches = f64::from(self.launches) * LAUNCH;
        if launches > self.operations_s.max(self.bytes_s) {
            "launches"
        } else if self.operations_s > self.bytes_s {
            "operations"
        } else {
            "bytes"
        }
    }
}

/// How the kernel of a layer's spike convolutions and neurons goes over the device in an inference.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Blocks {
    pub blocks: usize,
    /// Blocks that share the stages of a tile.
    pub parts: usize,
    /// K stages that a block goes through, one after the other.
    pub stages: usize,
}

/// One layer.
#[derive(Clone, Debug, Serialize)]
pub struct LayerPrediction {
    pub layer: String,
    pub forward: Cost,
    /// In an inference, where there are spike convolutions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocks: Option<Blocks>,
    /// Nothing in an inference.
    pub backward: Cost,
}

/// A whole step.
#[derive(Clone, Debug, Serialize)]
pub struct Prediction {
    /// Says that nothing here was measured.
    pub note: &'static str,
    pub gpu: DataSheet,
    pub layers: Vec<LayerPrediction>,
    /// Update, and the weights of the next forward; nothing in an inference.
    pub optimizer: Cost,
    pub seconds: f64,
    /// The same where kernels may begin before the one before them has ended; in an inference on a GPU that has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds_early: Option<f64>,
    /// Share of a multiprocessor's warps that blocks of the spike convolution can fill; none in a build without kernels.
    pub occupancy: Option<f64>,
    /// Several GPUs that share the batch; then everything else here is for the samples of one of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<Group>,
}

/// How a training step computes, where that changes what it costs.
#[derive(Clone, Copy, Debug)]
pub struct Training {
    pub gradient: WeightGradient,
    /// For Adam and AdamW, which keep two values for each parameter.
    pub adam: bool,
}

/// Predicts a training step of `network` with batches of `batch` samples of `frames` frames, or an inference without `training`.
pub fn predict(gpu: GpuName, network: &Network, [batch, frames]: [usize; 2], training: Option<Training>) -> Prediction {
    let sheet = gpu.data_sheet();
    let shape = Shape { sheet, network, training, batch, frames };
    let layers: Vec<LayerPrediction> = (0..network.layers.len())
        .map(|index| LayerPrediction {
            layer: network.layers[index].name.clone(),
            forward: shape.forward(index).plus(shape.outer_products(index)),
            blocks: shape.blocks(index),
            backward: if training.is_some() { shape.backward(index).plus(shape.subtracted(index)) } else { Cost::default() },
        })
        .collect();
    let optimizer = match training {
        Some(Training { adam, .. }) => {
            let parameters = network.len() as f64 * if adam { 28.0 + 8.0 } else { 20.0 + 8.0 };
            let weights: f64 = network.layers.iter().flat_map(|layer| &layer.connections).map(weights_of).sum();
            Cost::new(0.0, (parameters + weights * 8.0) / (OF_BANDWIDTH * sheet.bandwidth), 5)
        }
        None => Cost::default(),
    };
    let seconds = layers.iter().map(|layer| layer.forward.seconds + layer.backward.seconds).sum::<f64>() + optimizer.seconds;
    let plain = network.layers.iter().flat_map(|layer| &layer.connections).filter(|c| c.source == Source::Input).count();
    let launches = layers.iter().map(|layer| layer.forward.launches).sum::<u32>() as usize;
    let has_early = training.is_none() && sheet.capability >= (9, 0);
    let seconds_early = has_early.then(|| seconds - SPARED * launches.saturating_sub(plain) as f64);
    let kernel = if network.weight_bits == 8 { &kernels::SPIKE_CONV_NEURONS_8 } else { &kernels::SPIKE_CONV_NEURONS_16 };
    let occupancy = spike_conv_occupancy(&sheet, kernel, network.weight_bits);
    Prediction {
        note: "predicted from shapes, data sheets and machine code, not measured",
        gpu: sheet,
        layers,
        optimizer,
        seconds,
        seconds_early,
        occupancy,
        group: None,
    }
}

/// The same for one of `ranks` GPUs that share the batch in equal parts, with what their exchanges cost.
pub fn predict_shared(gpu: GpuName, ranks: usize, network: &Network, [batch, frames]: [usize; 2], training: Training) -> Prediction {
    let samples = batch.div_ceil(ranks);
    let alone = predict(gpu, network, [batch, frames], Some(training));
    let mut prediction = predict(gpu, network, [samples, frames], Some(training));
    prediction.group = Some(group(gpu, ranks, samples, network, &prediction, alone.seconds));
    prediction
}

/// With the shared memory of one convolution of bits: a tile of sums, or four stages of 8 bytes a row and the weights of two K steps.
fn spike_conv_occupancy(sheet: &DataSheet, kernel: &Kernel, weight_bits: u8) -> Option<f64> {
    let limits = Limits::of(kernel, sheet.target)?;
    let stages = 4 * (128 * 8 + 2 * 64 * 32 * u32::from(weight_bits) / 8);
    let dynamic = (128 * (64 + 8) * 4).max(stages);
    occupancy(sheet.target, kernel.block, limits.registers, limits.shared_bytes + dynamic)
}

pub(super) fn weights_of(connection: &Connection) -> f64 {
    match connection.kind {
        Kind::Conv { .. } => (connection.geometry.taps() * connection.geometry.cin * connection.geometry.cout) as f64,
        Kind::Identity => 0.0,
    }
}

/// What is predicted.
pub(super) struct Shape<'a> {
    pub sheet: DataSheet,
    pub network: &'a Network,
    pub training: Option<Training>,
    pub batch: usize,
    pub frames: usize,
}

impl Shape<'_> {
    /// Some kernels whose arithmetic takes `operations_s` seconds.
    pub(super) fn cost(&self, operations_s: f64, bytes: f64, launches: u32) -> Cost {
        Cost::new(operations_s, self.bytes(bytes), launches)
    }

    fn bytes(&self, bytes: f64) -> f64 {
        self.sheet.machine().memory(bytes)
    }

    pub(super) fn spikes(&self, layer: usize) -> f64 {
        let layer = &self.network.layers[layer];
        (4 * self.batch * layer.positions() * self.network.time_steps * layer.shape[2].div_ceil(32)) as f64
    }

    fn is_weighted(&self) -> bool {
        matches!(self.network.neuron, Neuron::Lif { .. })
    }

    fn forward(&self, index: usize) -> Cost {
        let Shape { sheet, network, batch, frames, .. } = *self;
        let layer = &network.layers[index];
        let [positions, channels] = [batch * layer.positions(), layer.shape[2]];
        let padded = channels.next_multiple_of(16);
        let is_training = self.training.is_some();
        let kept = if is_training { (positions * channels) as f64 * (5.0 + if self.is_weighted() { 4.0 } else { 0.0 }) } else { 0.0 };
        let mut bytes = self.spikes(index) + kept;
        // Neurons, which read out in an inference; in training the normaliser, and behind the last layer the readout.
        let is_last = index + 1 == network.layers.len();
        let (mut float_macs, mut launches) = (0.0, 1 + u32::from(is_training) + u32::from(is_training && is_last));
        for connection in &layer.connections {
            let geometry = &connection.geometry;
            match (connection.source, &connection.kind) {
                (Source::Input, kind) => {
                    let values = (batch * frames * network.input.iter().product::<usize>()) as f64;
                    bytes += 4.0 * values + 4.0 * weights_of(connection) + 8.0 * (positions * frames * padded) as f64;
                    float_macs +=
                        if matches!(kind, Kind::Conv { .. }) { geometry.dense_macs() as f64 * (batch * frames) as f64 } else { 0.0 };
                    launches += 1;
                }
                (Source::Layer(source), _) => {
                    bytes += self.spikes(source) + weights_of(connection) * f64::from(network.weight_bits / 8);
                    launches += u32::from(geometry.is_pooled());
                }
            }
        }
        let has_statistics = is_training && layer.norm.is_some();
        launches += u32::from(has_statistics);
        // Statistics of few blocks come with the constants that follow from them.
        let work = network.layer_work(index, batch);
        let reads_input = layer.connections.iter().any(|c| c.source == Source::Input);
        let together = work.convolutions == 0 || has_few_blocks(positions * network.time_steps, channels, sheet.machine().multiprocessors);
        launches -= u32::from(has_statistics && !reads_input && together);
        if work.convolutions == 0 {
            return Cost::new(2.0 * float_macs / (OF_PEAK * sheet.fp32), self.bytes(bytes), launches);
        }
        if has_statistics {
            let [store, recompute] = cost::seconds(&work, &sheet.machine()); // of two kernels
            let needs_sums = self.is_unrolled(index) || layer.connections.iter().any(|c| c.norm.is_some());
            let taken = if needs_sums || store.all <= recompute.all { store } else { recompute };
            let bytes_s = self.bytes(bytes).max(taken.memory);
            let seconds = taken.all.max(bytes_s) + f64::from(launches) * LAUNCH;
            return Cost { operations_s: taken.arithmetic, bytes_s, launches, seconds };
        }
        let parts = self.blocks(index).map_or(1, |blocks| blocks.parts);
        Cost::new(cost::neurons_in_parts(&work, &sheet.machine(), parts), self.bytes(bytes), launches)
    }

    fn blocks(&self, index: usize) -> Option<Blocks> {
        let work = self.network.layer_work(index, self.batch);
        if self.training.is_some() || work.convolutions == 0 {
            return None;
        }
        let parts = parts::choose(&work, &self.sheet.machine());
        let cut = Tiles::of(&work, parts);
        let blocks = parts * work.positions.div_ceil(cut.positions) * work.channels.div_ceil(64);
        Some(Blocks { blocks, parts, stages: work.time_steps.div_ceil(cut.steps) * work.stages().div_ceil(parts) })
    }

    fn backward(&self, index: usize) -> Cost {
        let Shape { sheet, network, batch, .. } = *self;
        let layer = &network.layers[index];
        let neurons = (batch * layer.neurons()) as f64;
        let means = if self.is_weighted() { 8.0 } else { 4.0 };
        // Clamp mapping in place, the sums that batch norm wants (with those of the weights of the layer behind), then the gradient of the
        // current in bf16.
        let mut cost = Cost::new(0.0, self.bytes(neurons * (8.0 + means) + neurons * (4.0 + means + 2.0)), 3);
        for connection in &layer.connections {
            let geometry = &connection.geometry;
            let source = (batch * geometry.source.iter().product::<usize>() * geometry.cin) as f64;
            let is_conv = matches!(connection.kind, Kind::Conv { .. });
            let products = 2.0 * geometry.dense_macs() as f64 * batch as f64 / sheet.bf16_reached();
            let from_input = connection.source == Source::Input;
            if is_conv {
                let read = source * if from_input { 4.0 * self.frames as f64 } else { 1.0 };
                cost = cost.plus(Cost::new(products, self.bytes(2.0 * neurons + read + 8.0 * weights_of(connection)), 1));
            }
            if !from_input {
                let products = if is_conv { products } else { 0.0 };
                // What an identity without pool passes on comes with the gradient of the current.
                let launches = u32::from(is_conv || geometry.is_pooled());
                cost = cost.plus(Cost::new(products, self.bytes(2.0 * neurons + 4.0 * source + 2.0 * weights_of(connection)), launches));
            }
        }
        cost
    }
}
