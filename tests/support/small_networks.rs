//! Small networks of every family, with awkward sizes, and a batch for each.

use dsr::error::Result;
use dsr::network::{Builder, Conv, Init, Input, Mode, Network, Source, WeightGradient, imagenet_resnet, photo_resnet, preact_resnet, vgg};
use dsr::ops::neuron::Neuron;

use super::seeded;

pub const IF: Neuron = Neuron::If { alpha: 0.5 };
pub const LIF: Neuron = Neuron::Lif { alpha: 0.3, tau: 1.0, delta_t: 0.05 };
pub const TRAIN: Mode = Mode::Train { gradient: WeightGradient::Rate, seed: 1 };

pub struct Small {
    pub name: &'static str,
    pub build: fn(f32) -> Result<Builder>,
    pub neuron: Neuron,
    pub time_steps: usize,
    pub bits: u8,
    pub batch: usize,
    /// Whether the input has a frame for every step.
    pub events: bool,
}

/// What a forward pass reads.
pub struct Batch {
    pub data: Vec<f32>,
    pub size: usize,
    pub frames: usize,
}

impl Batch {
    pub fn input(&self) -> Input<'_> {
        Input { data: &self.data, batch: self.size, frames: self.frames }
    }
}

/// All families, both neurons, both widths of weights; T of 1 and 33, one sample, odd sizes, channels around words of 32.
pub fn all() -> Vec<Small> {
    let small =
        |name, build, neuron, [time_steps, batch]: [usize; 2], bits, events| Small { name, build, neuron, time_steps, bits, batch, events };
    vec![
        small("preact", |v| preact_resnet([9, 7, 3], 10, &[8, 33], &[1, 1], 4, 0.0, v), IF, [5, 5], 16, false),
        small("preact, 48 channels, 2x2 in front of the linear layer", preact_wide, LIF, [33, 1], 16, false),
        small("preact in 8 bits", |v| preact_resnet([8, 8, 1], 3, &[10, 32], &[2, 1], 4, 0.0, v), LIF, [4, 5], 8, true),
        small("preact of one channel, one step", |v| preact_resnet([5, 5, 1], 2, &[1, 2], &[1, 1], 3, 0.0, v), IF, [1, 7], 16, false),
        small("vgg", |v| vgg([32, 32, 2], 10, &[&[4], &[5], &[6, 7], &[8], &[33]], 0.0, v), LIF, [4, 5], 16, true),
        small("vgg in 8 bits", |v| vgg([33, 40, 2], 11, &[&[3], &[4], &[5], &[6], &[7]], 0.0, v), IF, [5, 2], 8, false),
        small("imagenet, basic blocks", |v| imagenet_resnet([33, 33, 3], 10, 5, &[1, 1, 1, 1], false, v), LIF, [5, 5], 16, false),
        small("imagenet, basic blocks in 8 bits", |v| imagenet_resnet([33, 33, 3], 7, 3, &[2, 1, 1, 1], false, v), IF, [3, 2], 8, true),
        small("imagenet, bottleneck blocks", |v| imagenet_resnet([40, 40, 3], 10, 3, &[1, 1, 1, 1], true, v), IF, [5, 5], 16, false),
        small("imagenet, bottleneck in 8 bits", |v| imagenet_resnet([33, 33, 3], 10, 2, &[1, 1, 1, 1], true, v), LIF, [6, 2], 8, false),
        small("photo, a stem without a pool", |v| photo_resnet([49, 53, 3], 6, 2, &[1, 1, 1, 1], v), IF, [3, 2], 16, false),
        small("frames as currents, a sum of two connections at the end", sum_at_the_end, IF, [6, 5], 16, true),
        small(
            "preact, readout by current",
            |v| preact_resnet([9, 7, 3], 10, &[8, 33], &[1, 1], 4, 0.0, v)?.read_current(),
            IF,
            [5, 5],
            16,
            false,
        ),
        small("preact, readout by current of 2x2 pools", |v| preact_wide(v)?.read_current(), LIF, [6, 5], 8, false),
        small("vgg, readout by current", |v| small_vgg(v)?.read_current(), LIF, [4, 3], 16, true),
        small("imagenet, readout by current", |v| small_imagenet(v)?.read_current(), IF, [3, 2], 16, false),
        small("preact of twenty steps", |v| preact_resnet([5, 7, 2], 10, &[3, 40], &[1, 1], 3, 0.0, v), IF, [20, 2], 8, false),
    ]
}

fn small_vgg(threshold: f32) -> Result<Builder> {
    vgg([32, 32, 2], 10, &[&[4], &[5], &[6, 7], &[8], &[33]], 0.0, threshold)
}

fn small_imagenet(threshold: f32) -> Result<Builder> {
    imagenet_resnet([40, 40, 3], 10, 3, &[1, 1, 1, 1], true, threshold)
}

fn preact_wide(threshold: f32) -> Result<Builder> {
    preact_resnet([9, 8, 3], 10, &[10, 48], &[1, 1], 2, 0.0, threshold)
}

/// First layer without weights, last layer of 2×2 positions and two connections without batch norm.
fn sum_at_the_end(threshold: f32) -> Result<Builder> {
    let mut net = Builder::new([5, 4, 33], threshold);
    let conv = |cout, kernel, stride| {
        let (weight, bias) = (Init::Uniform(0.2), Some(Init::Uniform(0.3)));
        Conv { cout, kernel, stride, pad: kernel / 2, weight, bias }
    };
    let no_pool = [1, 1, 0];
    let frames = net.identity(Source::Input, no_pool);
    let first = net.layer("first", vec![frames], Some("bn"), 0.0)?;
    let conv1 = net.conv("conv1", first, no_pool, conv(5, 3, 2));
    let second = net.layer("second", vec![conv1], None, 0.0)?;
    let conv2 = net.conv("conv2", second, [2, 1, 0], conv(6, 1, 1));
    let pooled = net.conv("conv3", first, [3, 2, 1], Conv { pad: 0, ..conv(6, 2, 1) });
    net.layer("last", vec![conv2, pooled], None, 0.0)?;
    Ok(net)
}

impl Small {
    /// The network, its running statistics those of its own batch, so that evaluation fires about as often as training.
    pub fn network(&self) -> Network {
        let threshold = if matches!(self.neuron, Neuron::If { .. }) { 1.0 } else { 0.3 };
        let builder = (self.build)(threshold).unwrap();
        let mut network = builder.finish(self.neuron, self.time_steps, 0.0005, 7).unwrap();
        network.weight_bits = self.bits;
        for index in 0..network.norms.len() {
            let (gamma, beta) = (network.norms[index].weight, network.norms[index].bias);
            let channels = network.value(gamma).len();
            network.set_parameter(gamma, &seeded::values(index as u64, channels, 0.7..1.3));
            network.set_parameter(beta, &seeded::values(99 + index as u64, channels, -0.2..0.4));
        }
        network.prepare();
        for norm in &mut network.norms {
            norm.running_mean.fill(0.0);
            norm.running_var.fill(0.0);
        }
        network.forward(&self.data().input(), TRAIN, |_| false).unwrap();
        for norm in &mut network.norms {
            norm.running_mean.iter_mut().chain(&mut norm.running_var).for_each(|v| *v *= 10.0); // 1 / momentum
        }
        network
    }

    pub fn data(&self) -> Batch {
        let frames = if self.events { self.time_steps } else { 1 };
        let frame: usize = (self.build)(1.0).unwrap().shape(Source::Input).iter().product();
        Batch { data: seeded::values(5, self.batch * frames * frame, -1.0..2.0), size: self.batch, frames }
    }
}
