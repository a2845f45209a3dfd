//! A network is a list of spiking layers: each reads spikes of earlier layers (or the input) and emits spikes.

mod ann;
mod backward;
pub mod buckets;
mod builder;
mod cuda;
mod currents;
mod demand;
mod exported;
mod forward;
mod imagenet_resnet;
mod init;
mod kept;
mod normalizer;
mod potentials;
mod preact_resnet;
mod readout;
mod slice_norms;
mod step;
mod thresholds;
mod unrolled;
mod vgg;

pub use backward::{LogitsGradient, WeightGradient};
pub use builder::{Builder, Conv, MAX_CHANNELS, NO_POOL};
pub use cuda::SumsChoice;
pub use demand::{Purpose, Workload};
pub use exported::Exported;
pub use forward::{Forward, Input, Mode};
pub use imagenet_resnet::{imagenet_resnet, photo_resnet};
pub use init::Init;
pub use potentials::Moment;
pub use preact_resnet::{check_stages, preact_resnet};
pub use readout::Readout;
pub use step::{Samples, Staged, Step};
pub use thresholds::ChosenThreshold;
pub use vgg::vgg;

use kept::{LayerKept, Workspace};
use rayon::prelude::*;

use crate::device::{Device, Isa};
use crate::error::{Error, Result};
use crate::ops::neuron::Neuron;
use crate::ops::optimizer::Optimizer;
use crate::ops::spike_conv::{Geometry, QuantizedWeights};
use crate::ranks::Share;

/// Where a connection reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The input of the network: real values.
    Input,
    /// Spikes of the layer with this index.
    Layer(usize),
}

/// What a connection does with its (pooled) source.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Passes the values on.
    Identity,
    /// Convolution, or a linear layer as a convolution that covers its input; indices into [`Network::parameters`].
    Conv { weight: usize, bias: Option<usize> },
}

/// One summand of a layer's current.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Where it reads.
    pub source: Source,
    /// Pool, kernel, shapes.
    pub geometry: Geometry,
    /// Identity or convolution.
    pub kind: Kind,
    /// Batch norm of this connection alone (ImageNet downsample), index into [`Network::norms`].
    pub norm: Option<usize>,
    /// Copies of the source a linear layer sees: 49 where the reference replicates 1×1 to 7×7, else 1.
    pub replicate: usize,
}

/// Connections → (batch norm) → neuron.
#[derive(Clone, Debug)]
pub struct SpikingLayer {
    /// Name of the neuron in the reference's `state_dict`, such as `layer1.0.relu1`.
    pub name: String,
    /// One or two summands of the current.
    pub connections: Vec<Connection>,
    /// Batch norm, index into [`Network::norms`].
    pub norm: Option<usize>,
    /// Threshold, index into [`Network::parameters`]; an ANN has the parameter, too, but never reads it. None where the layer has no
    /// neurons: its mean current is the logits.
    pub threshold: Option<usize>,
    /// Share of neurons whose spikes are dropped while training, one mask for all time steps.
    pub dropout: f32,
    /// Height, width, channels.
    pub shape: [usize; 3],
}

impl SpikingLayer {
    /// Neurons of one sample.
    pub fn neurons(&self) -> usize {
        self.shape.iter().product()
    }

    /// H·W.
    pub fn positions(&self) -> usize {
        self.shape[0] * self.shape[1]
    }
}

/// A trainable tensor: a range of the arena.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Name in the reference's `state_dict`.
    pub name: String,
    /// PyTorch's shape; convolutions are OIHW there and `[tap][cin][cout]` in the arena.
    pub shape: Vec<usize>,
    /// How the arena stores it.
    pub layout: Layout,
    /// How it starts.
    pub init: Init,
    /// First element in the arena.
    pub start: usize,
    /// Number of elements.
    pub len: usize,
}

/// How the arena stores a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// As PyTorch does.
    Same,
    /// `[tap][cin][cout]` for PyTorch's `[cout][cin][tap]`.
    TapInOut { taps: usize, cin: usize, cout: usize },
}

/// Batch norm: its parameters and running statistics.
#[derive(Clone, Debug)]
pub struct NormState {
    /// Name in the reference's `state_dict`, such as `layer1.0.bn1`.
    pub name: String,
    /// γ, index into [`Network::parameters`].
    pub weight: usize,
    /// β.
    pub bias: usize,
    /// Running mean.
    pub running_mean: Vec<f32>,
    /// Running variance, unbiased.
    pub running_var: Vec<f32>,
    /// Batches seen.
    pub batches: i64,
}

impl NormState {
    /// What errors call its running mean and variance.
    pub fn statistics_name(&self) -> String {
        format!("the running statistics of {}", self.name)
    }
}

/// A network with its parameters; one arena each for values and gradients.
#[derive(Clone, Debug)]
pub struct Network {
    /// Layers in order.
    pub layers: Vec<SpikingLayer>,
    /// Neuron model of every layer.
    pub neuron: Neuron,
    /// Number of time steps T.
    pub time_steps: usize,
    /// Lower bound of every threshold.
    pub threshold_bound: f32,
    /// Further factor of threshold gradients (0.001 for the reference's ImageNet IF, else 1).
    pub threshold_grad_scale: f32,
    /// Share of a training target that all classes have in equal parts ([`crate::ops::cross_entropy::Targets`]); evaluation has none.
    pub label_smoothing: f64,
    /// 16 or 8: width of the weights in the forward pass.
    pub weight_bits: u8,
    /// Height, width, channels of the input.
    pub input: [usize; 3],
    /// Number of classes.
    pub classes: usize,
    /// Trainable tensors.
    pub parameters: Vec<Parameter>,
    /// Batch norms.
    pub norms: Vec<NormState>,
    /// Values of all parameters.
    pub values: Vec<f32>,
    /// Gradients of all parameters.
    pub grads: Vec<f32>,
    /// Whether products of real values round their operands to bf16, as a CUDA device does: all of backward, and those between the
    /// layers of an ANN. On the CPU that is no faster; it tells what the rounding does to a training.
    pub bf16_products: bool,
    /// The part of each training batch that this process works on; all of it, unless several share it.
    pub share: Share,
    /// Instruction set of the inner loops.
    pub isa: Isa,
    /// Fixed-point weights of every connection from spikes, refreshed when parameters change.
    quantized: Vec<Vec<QuantizedWeights>>,
    /// What the last forward pass in training mode left for backward, a layer.
    kept: Vec<LayerKept>,
    /// Of the last forward pass on the CPU, [`Network::output_currents`].
    output_currents: Vec<f32>,
    /// Buffers that a step would otherwise allocate anew.
    workspace: Workspace,
    /// The step that was begun, on the CPU.
    begun: Option<Step>,
    /// The evaluation that was begun, on the CPU.
    begun_evaluation: Option<Forward>,
    /// What lies on a CUDA device; none on the CPU. A copy of the network gets a session of its own, from the values on the host.
    session: Option<cuda::Session>,
}

impl Network {
    /// Values of parameter `index`.
    pub fn value(&self, index: usize) -> &[f32] {
        let p = &self.parameters[index];
        &self.values[p.start..p.start + p.len]
    }

    /// Gradient of parameter `index`.
    pub fn grad_mut(&mut self, index: usize) -> &mut [f32] {
        let p = &self.parameters[index];
        &mut self.grads[p.start..p.start + p.len]
    }

    /// Index of the parameter of this name.
    pub fn parameter(&self, name: &str) -> Option<usize> {
        self.parameters.iter().position(|p| p.name == name)
    }

    /// Threshold of a layer; infinite where it has no neurons, so that nothing fires.
    pub fn threshold(&self, layer: &SpikingLayer) -> f32 {
        layer.threshold.map_or(f32::INFINITY, |threshold| self.value(threshold)[0])
    }

    /// Number of trainable values.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// The parameters of the last layer, whose shape is that of the classes: weights, biases, those of its batch norms, threshold; indices.
    pub fn head(&self) -> Vec<usize> {
        let Some(last) = self.layers.last() else { return Vec::new() };
        let of_connection = |connection: &Connection| match connection.kind {
            Kind::Conv { weight, bias } => [Some(weight), bias],
            Kind::Identity => [None, None],
        };
        let of_norms = self.head_norms().into_iter().flat_map(|index| [self.norms[index].weight, self.norms[index].bias]);
        last.connections.iter().flat_map(of_connection).flatten().chain(of_norms).chain(last.threshold).collect()
    }

    /// The batch norms of the last layer, whose channels are the classes; indices.
    pub fn head_norms(&self) -> Vec<usize> {
        self.layers.last().map_or(Vec::new(), |last| last.connections.iter().filter_map(|c| c.norm).chain(last.norm).collect())
    }

    /// Whether the network has no parameter.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Name of the first parameter, in the order of layers, with a value or gradient that is not finite; or else of the first batch norm
    /// whose running statistics are not, which only tests would show.
    pub fn first_not_finite(&self) -> Option<String> {
        let is_bad = |p: &&Parameter| {
            let range = p.start..p.start + p.len;
            !self.values[range.clone()].iter().chain(&self.grads[range]).all(|v| v.is_finite())
        };
        let of_parameters = self.parameters.iter().find(is_bad).map(|p| p.name.clone());
        let of_norms = || self.norms.iter().find(|n| !n.running_mean.iter().chain(&n.running_var).all(|v| v.is_finite()));
        of_parameters.or_else(|| of_norms().map(NormState::statistics_name))
    }

    /// Bytes that the last forward pass in training mode kept for backward.
    pub fn kept_bytes(&self) -> usize {
        match &self.session {
            None => self.kept.iter().map(LayerKept::bytes).sum(),
            Some(session) => session.kept_bytes(),
        }
    }

    /// The same for each layer on its own; empty where they lie on a device.
    pub fn kept_bytes_by_layer(&self) -> Vec<usize> {
        self.kept.iter().map(LayerKept::bytes).collect()
    }

    /// Makes forward and backward run on a device. A network starts on the CPU.
    ///
    /// On a CUDA device `values`, `norms` and `grads` stay what the host sees, with one exception: steps of
    /// [`Network::train_step`] leave them behind until [`Network::synchronize`].
    ///
    /// # Errors
    /// [`Error::Device`] if values have to be fetched from the device that it leaves, and that fails.
    pub fn place(&mut self, device: &Device) -> Result<()> {
        self.fetch(None)?;
        self.session = match device {
            Device::Cpu => None,
            Device::Cuda(gpu) => Some(cuda::Session::new(gpu)),
        };
        self.kept.clear();
        self.prepare();
        Ok(())
    }

    /// Where forward and backward run.
    pub fn device(&self) -> Device {
        self.session.as_ref().map_or(Device::Cpu, |session| Device::Cuda(session.gpu().clone()))
    }

    /// Fetches parameters, running statistics and optimiser state from the device, where training steps have left them.
    ///
    /// # Errors
    /// [`crate::error::Error::Device`] if a copy or an earlier kernel has failed.
    pub fn synchronize(&mut self, optimizer: &mut Optimizer) -> Result<()> {
        self.fetch(Some(optimizer))
    }

    /// Of the last forward pass, which had `batch` samples, what its logits are the clamp of, in steps of a spike: the mean current of
    /// each output neuron, weighted for LIF, `[B][classes]`. Empty for an ANN.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] if no forward pass has left so many; [`Error::Device`] if a copy or an earlier kernel has failed.
    pub fn output_currents(&self, batch: usize) -> Result<Vec<f32>> {
        if self.neuron.is_real() {
            return Ok(Vec::new());
        }
        if self.session.is_some() {
            return self.output_currents_on_device(batch);
        }
        if self.output_currents.len() != batch * self.classes {
            return Err(Error::shape("output_currents", (batch, self.classes), self.output_currents.len()));
        }
        Ok(self.output_currents.clone())
    }

    /// What a spike of this layer is worth to its readers; `training` scales for dropout.
    pub fn spike_value(&self, layer: usize, training: bool) -> f32 {
        let layer = &self.layers[layer];
        let value = self.neuron.spike_value(self.threshold(layer));
        if training && layer.dropout > 0.0 { value / (1.0 - layer.dropout) } else { value }
    }

    /// Effective weights of a connection: replicated taps are one tap with their sum.
    fn effective_weights(&self, connection: &Connection) -> std::borrow::Cow<'_, [f32]> {
        let Kind::Conv { weight, .. } = connection.kind else { return (&[][..]).into() };
        let values = self.value(weight);
        if connection.replicate == 1 {
            return values.into();
        }
        let len = values.len() / connection.replicate;
        let mut sums = vec![0.0f64; len];
        for copy in values.chunks_exact(len) {
            for (sum, v) in sums.iter_mut().zip(copy) {
                *sum += f64::from(*v);
            }
        }
        sums.iter().map(|&s| s as f32).collect::<Vec<_>>().into()
    }

    /// Applies the threshold bound and refreshes the fixed-point weights; call after the parameters changed.
    pub fn prepare(&mut self) {
        for index in self.layers.iter().filter_map(|layer| layer.threshold) {
            let start = self.parameters[index].start;
            self.values[start] = (self.values[start] - self.threshold_bound).max(0.0) + self.threshold_bound;
        }
        if let Some(session) = &mut self.session {
            session.host_is_newer();
            return;
        }
        if self.neuron.is_real() {
            return; // reads the parameters as they are
        }
        let mut quantized = std::mem::take(&mut self.quantized);
        quantized.resize_with(self.layers.len(), Vec::new);
        for (layer, weights) in self.layers.iter().zip(&mut quantized) {
            weights.resize_with(layer.connections.len(), QuantizedWeights::default);
        }
        let connections = self.layers.iter().flat_map(|layer| &layer.connections);
        let work: Vec<(&Connection, &mut QuantizedWeights)> = connections.zip(quantized.iter_mut().flatten()).collect();
        work.into_par_iter().for_each(|(connection, weights)| {
            if let (Source::Layer(_), Kind::Conv { .. }) = (connection.source, &connection.kind) {
                let master = self.effective_weights(connection);
                weights.quantize(self.isa, &master, connection.geometry.cout, self.weight_bits, connection.geometry.area());
            }
        });
        self.quantized = quantized;
    }
}
