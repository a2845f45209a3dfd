//! Puts layers together; the three network families are written with it.

use std::collections::HashSet;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::{Connection, Init, Kind, Layout, Network, NormState, Parameter, Source, SpikingLayer};
use crate::device::Isa;
use crate::device::room::{Bytes, Room};
use crate::error::{Error, Result};
use crate::ops::neuron::Neuron;
use crate::ops::spike_conv::Geometry;
use crate::ranks::Share;

/// Settings of one convolution.
#[derive(Clone, Copy, Debug)]
pub struct Conv {
    /// Output channels.
    pub cout: usize,
    /// Kernel height and width.
    pub kernel: usize,
    /// Stride.
    pub stride: usize,
    /// Zero padding.
    pub pad: usize,
    /// How the weight starts.
    pub weight: Init,
    /// How the bias starts; none without.
    pub bias: Option<Init>,
}

/// Collects layers, parameters and norms.
pub struct Builder {
    /// Layers so far.
    pub layers: Vec<SpikingLayer>,
    parameters: Vec<Parameter>,
    norms: Vec<NormState>,
    pub(super) input: [usize; 3],
    threshold: f32,
    /// Values of all parameters; the largest number where they would be more.
    pub(super) len: usize,
}

/// Channels a layer may have.
pub const MAX_CHANNELS: usize = 1 << 16;

/// No pool.
pub const NO_POOL: [usize; 3] = [1, 1, 0];

impl Builder {
    /// For an input of height, width, channels; every neuron starts with `threshold`.
    pub fn new(input: [usize; 3], threshold: f32) -> Self {
        Builder { layers: Vec::new(), parameters: Vec::new(), norms: Vec::new(), input, threshold, len: 0 }
    }

    fn parameter(&mut self, name: String, shape: Vec<usize>, layout: Layout, init: Init) -> usize {
        let len = shape.iter().fold(1usize, |len, &n| len.saturating_mul(n));
        self.parameters.push(Parameter { name, shape, layout, init, start: self.len, len });
        self.len = self.len.saturating_add(len);
        self.parameters.len() - 1
    }

    /// Whether there is a parameter of this name already.
    pub fn has_parameter(&self, name: &str) -> bool {
        self.parameters.iter().any(|parameter| parameter.name == name)
    }

    /// Height, width, channels of a source.
    pub fn shape(&self, source: Source) -> [usize; 3] {
        match source {
            Source::Input => self.input,
            Source::Layer(layer) => self.layers[layer].shape,
        }
    }

    /// A batch norm over `channels`.
    pub fn norm(&mut self, name: &str, channels: usize) -> usize {
        let weight = self.parameter(format!("{name}.weight"), vec![channels], Layout::Same, Init::Constant(1.0));
        let bias = self.parameter(format!("{name}.bias"), vec![channels], Layout::Same, Init::Constant(0.0));
        self.norms.push(NormState {
            name: name.to_string(),
            weight,
            bias,
            running_mean: vec![0.0; channels],
            running_var: vec![1.0; channels],
            batches: 0,
        });
        self.norms.len() - 1
    }

    /// A connection that passes its (pooled) source on.
    pub fn identity(&self, source: Source, pool: [usize; 3]) -> Connection {
        let [height, width, channels] = self.shape(source);
        let geometry = Geometry { cin: channels, cout: channels, source: [height, width], pool, kernel: [1, 1], stride: 1, pad: 0 };
        Connection { source, geometry, kind: Kind::Identity, norm: None, replicate: 1 }
    }

    /// A convolution `name.weight` (and `name.bias`) of a (pooled) source.
    pub fn conv(&mut self, name: &str, source: Source, pool: [usize; 3], conv: Conv) -> Connection {
        let [height, width, cin] = self.shape(source);
        let geometry =
            Geometry { cin, cout: conv.cout, source: [height, width], pool, kernel: [conv.kernel; 2], stride: conv.stride, pad: conv.pad };
        let layout = Layout::TapInOut { taps: geometry.taps(), cin, cout: conv.cout };
        let shape = vec![conv.cout, cin, conv.kernel, conv.kernel];
        let weight = self.parameter(format!("{name}.weight"), shape, layout, conv.weight);
        let bias = conv.bias.map(|init| self.parameter(format!("{name}.bias"), vec![conv.cout], Layout::Same, init));
        Connection { source, geometry, kind: Kind::Conv { weight, bias }, norm: None, replicate: 1 }
    }

    /// A linear layer over the flattened (pooled) source; `replicate` copies of a 1×1 source stand for an adaptive pool to more positions.
    pub fn linear(&mut self, name: &str, source: Source, pool: [usize; 3], out: usize, replicate: usize, init: [Init; 2]) -> Connection {
        let [height, width, cin] = self.shape(source);
        let mut geometry = Geometry { cin, cout: out, source: [height, width], pool, kernel: [1, 1], stride: 1, pad: 0 };
        geometry.kernel = geometry.pooled();
        let taps = geometry.taps() * replicate;
        let layout = Layout::TapInOut { taps, cin, cout: out };
        let weight = self.parameter(format!("{name}.weight"), vec![out, cin * taps], layout, init[0]);
        let bias = self.parameter(format!("{name}.bias"), vec![out], Layout::Same, init[1]);
        Connection { source, geometry, kind: Kind::Conv { weight, bias: Some(bias) }, norm: None, replicate }
    }

    /// Closes a layer: sums `connections`, normalises where `norm` names a batch norm, fires.
    ///
    /// # Errors
    /// [`Error::Config`] if the input is too small for this layer, [`Error::ShapeMismatch`] if the connections do not fit each other.
    pub fn layer(&mut self, name: &str, connections: Vec<Connection>, norm: Option<&str>, dropout: f32) -> Result<Source> {
        let first = &connections[0].geometry;
        for connection in &connections {
            let geometry = &connection.geometry;
            let room = geometry.pooled().iter().zip(&geometry.kernel).all(|(n, k)| n + 2 * geometry.pad >= *k);
            if !room || geometry.source.iter().any(|n| n + 2 * geometry.pool[2] < geometry.pool[0]) {
                return Err(Error::config(
                    "input size",
                    format!("{:?} is too small: {name} would be left without positions", &self.input[..2]),
                ));
            }
            if (geometry.out(), geometry.cout) != (first.out(), first.cout) {
                return Err(Error::shape(format!("layer {name}"), (first.out(), first.cout), (geometry.out(), geometry.cout)));
            }
            if geometry.cout > MAX_CHANNELS {
                let problem = format!("{name} has {} channels; at most {MAX_CHANNELS} are supported", geometry.cout);
                return Err(Error::config("width", problem));
            }
            let inputs = geometry.cin.saturating_mul(geometry.taps());
            if inputs > 1 << 16 {
                return Err(Error::config("width", format!("{name} has {inputs} inputs a neuron; at most {} are supported", 1 << 16)));
            }
        }
        let from_input = connections.iter().any(|c| c.source == Source::Input);
        let own_norms = connections.iter().filter(|c| c.norm.is_some()).count();
        if connections.len() > 2 || own_norms > 1 || (own_norms == 1 && norm.is_none()) || (from_input && connections.len() > 1) {
            let expected = "one connection from the input, or one or two from spikes, of which one may have a norm of its own";
            return Err(Error::shape(format!("layer {name}"), expected, connections.iter().map(|c| c.source).collect::<Vec<_>>()));
        }
        let [height, width] = first.out();
        let channels = first.cout;
        let norm = norm.map(|norm| self.norm(norm, channels));
        let threshold = self.parameter(format!("{name}.Vth"), vec![], Layout::Same, Init::Constant(self.threshold));
        let (name, threshold) = (name.to_string(), Some(threshold));
        self.layers.push(SpikingLayer { name, connections, norm, threshold, dropout, shape: [height, width, channels] });
        Ok(Source::Layer(self.layers.len() - 1))
    }

    /// Takes parameters away that nothing reads any more: their values are constants, so the others are drawn as before.
    pub(super) fn without_parameters(&mut self, gone: &[usize]) {
        let before = |index: usize| index - gone.iter().filter(|&&gone| gone < index).count();
        let kept = std::mem::take(&mut self.parameters).into_iter().enumerate().filter(|(index, _)| !gone.contains(index));
        self.parameters = kept.map(|(_, parameter)| parameter).collect();
        self.len = 0;
        for parameter in &mut self.parameters {
            parameter.start = self.len;
            self.len = self.len.saturating_add(parameter.len);
        }
        for norm in &mut self.norms {
            (norm.weight, norm.bias) = (before(norm.weight), before(norm.bias));
        }
        for layer in &mut self.layers {
            layer.threshold = layer.threshold.map(before);
            for connection in &mut layer.connections {
                if let Kind::Conv { weight, bias } = &mut connection.kind {
                    (*weight, *bias) = (before(*weight), bias.map(before));
                }
            }
        }
    }

    /// The network, with parameters drawn from `seed`.
    ///
    /// # Errors
    /// [`Error::Config`] for constants that the equations do not take, an ANN with time steps, a name that two parameters would have, and
    /// more parameters than there is memory.
    pub fn finish(self, neuron: Neuron, time_steps: usize, threshold_bound: f32, seed: u64) -> Result<Network> {
        neuron.check()?;
        if !(1..=255).contains(&time_steps) {
            return Err(Error::config("time-steps", format!("{time_steps} is not in 1..=255")));
        }
        if neuron.is_real() && time_steps != 1 {
            return Err(Error::config("time-steps", format!("{time_steps}: a network of ReLUs is an ANN and has 1")));
        }
        // A file or a dict of parameters by name would have one of the two.
        let mut names = HashSet::new();
        if let Some(twice) = self.parameters.iter().find(|parameter| !names.insert(parameter.name.as_str())) {
            let problem = format!("more than one parameter is called '{}': give every connection, norm and layer its own name", twice.name);
            return Err(Error::config("layers", problem));
        }
        if self.threshold.is_nan() || self.threshold <= 0.0 || threshold_bound.is_nan() || threshold_bound <= 0.0 {
            return Err(Error::config("vth", "the threshold and its bound must be positive"));
        }
        let values = (self.len as u64).saturating_mul(4);
        let what = format!("a network of {} parameters", self.len);
        // Beside the values a copy of one parameter while it is drawn or rounded.
        let copy = self.parameters.iter().map(|parameter| (parameter.len as u64).saturating_mul(4)).max().unwrap_or(0);
        let bytes = Bytes { written: values.saturating_add(copy), reserved: values };
        Room::now().check(bytes, &what, "take a smaller network, such as lower --widths")?;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let classes = self.layers.last().map_or(0, SpikingLayer::neurons);
        let mut network = Network {
            layers: self.layers,
            neuron,
            time_steps,
            threshold_bound,
            threshold_grad_scale: 1.0,
            label_smoothing: 0.0,
            weight_bits: 16,
            input: self.input,
            classes,
            values: vec![0.0; self.len],
            grads: vec![0.0; self.len],
            parameters: self.parameters,
            norms: self.norms,
            bf16_products: false,
            share: Share::default(),
            isa: Isa::detect(),
            quantized: Vec::new(),
            kept: Vec::new(),
            output_currents: Vec::new(),
            workspace: Default::default(),
            begun: None,
            begun_evaluation: None,
            session: None,
        };
        for index in 0..network.parameters.len() {
            let mut values = vec![0.0; network.parameters[index].len];
            network.parameters[index].init.fill(&mut values, &mut rng);
            network.set_parameter(index, &values);
        }
        network.prepare();
        Ok(network)
    }
}

impl Network {
    /// Sets a parameter from PyTorch's order of elements; [`Network::prepare`] must follow.
    pub fn set_parameter(&mut self, index: usize, values: &[f32]) {
        let parameter = &self.parameters[index];
        let out = &mut self.values[parameter.start..parameter.start + parameter.len];
        match parameter.layout {
            Layout::Same => out.copy_from_slice(values),
            Layout::TapInOut { taps, cin, cout } => {
                for o in 0..cout {
                    for c in 0..cin {
                        for tap in 0..taps {
                            out[(tap * cin + c) * cout + o] = values[(o * cin + c) * taps + tap];
                        }
                    }
                }
            }
        }
    }

    /// A slice of an arena (values, gradients, optimiser state) in PyTorch's order of elements.
    pub fn in_torch_order<T: Copy + Default>(&self, index: usize, arena: &[T]) -> Vec<T> {
        let parameter = &self.parameters[index];
        let values = &arena[parameter.start..parameter.start + parameter.len];
        match parameter.layout {
            Layout::Same => values.to_vec(),
            Layout::TapInOut { taps, cin, cout } => {
                let mut out = vec![T::default(); values.len()];
                for o in 0..cout {
                    for c in 0..cin {
                        for tap in 0..taps {
                            out[(o * cin + c) * taps + tap] = values[(tap * cin + c) * cout + o];
                        }
                    }
                }
                out
            }
        }
    }
}
