//! The networks that have a name.

use crate::error::{Error, Result};
use crate::network::{Builder, check_stages, imagenet_resnet, photo_resnet, preact_resnet, vgg};
use crate::spelling::unknown;

/// A CIFAR PreAct-ResNet: name, widths and blocks of its stages.
///
/// 18 is the paper's network, 34 its deeper kin. The paper's depth study (20 to 110) does not publish widths; the thin
/// three-stage family of the original CIFAR ResNets is taken: widths 16, 32, 64 and n blocks a stage, depth = 6n + 2.
type Residual = (&'static str, &'static [usize], &'static [usize]);
const RESIDUAL: [Residual; 7] = [
    ("preact-resnet18", &[64, 128, 256, 512], &[2, 2, 2, 2]),
    ("preact-resnet34", &[64, 128, 256, 512], &[3, 4, 6, 3]),
    ("preact-resnet20", &[16, 32, 64], &[3, 3, 3]),
    ("preact-resnet32", &[16, 32, 64], &[5, 5, 5]),
    ("preact-resnet44", &[16, 32, 64], &[7, 7, 7]),
    ("preact-resnet56", &[16, 32, 64], &[9, 9, 9]),
    ("preact-resnet110", &[16, 32, 64], &[18, 18, 18]),
];

/// An event VGG: name and the widths of each stage's convolutions.
type Plain = (&'static str, [&'static [usize]; 5]);
const PLAIN: [Plain; 4] = [
    ("vgg11", [&[64], &[128], &[256, 256], &[512, 512], &[512, 512]]),
    ("vgg13", [&[64, 64], &[128, 128], &[256, 256], &[512, 512], &[512, 512]]),
    ("vgg16", [&[64, 64], &[128, 128], &[256, 256, 256], &[512, 512, 512], &[512, 512, 512]]),
    ("vgg19", [&[64, 64], &[128, 128], &[256, 256, 256, 256], &[512, 512, 512, 512], &[512, 512, 512, 512]]),
];

/// An ImageNet PreAct-ResNet: name, blocks of its stages, whether they are bottlenecks.
const IMAGENET: [(&str, [usize; 4], bool); 3] =
    [("imagenet-resnet18", [2, 2, 2, 2], false), ("imagenet-resnet34", [3, 4, 6, 3], false), ("imagenet-resnet50", [3, 4, 6, 3], true)];

/// A PreAct-ResNet for photos of any size: name and blocks of its stages.
const PHOTO: [(&str, [usize; 4]); 2] = [("photo-resnet18", [2, 2, 2, 2]), ("photo-resnet34", [3, 4, 6, 3])];

/// The name under which widths and blocks make a network.
pub const CUSTOM: &str = "preact-resnet";

/// All names, and [`CUSTOM`].
pub fn names() -> Vec<&'static str> {
    let residual = RESIDUAL.iter().map(|m| m.0);
    residual.chain(PLAIN.iter().map(|m| m.0)).chain(IMAGENET.iter().map(|m| m.0)).chain(PHOTO.iter().map(|m| m.0)).chain([CUSTOM]).collect()
}

/// What settings say of the layers of a network; neuron model and time steps come when it is built.
#[derive(Clone, Copy, Debug)]
pub struct Architecture<'a> {
    /// One of [`names`].
    pub model: &'a str,
    /// Channels of each stage of a [`CUSTOM`] network; empty for the others.
    pub widths: &'a [usize],
    /// Blocks of each stage, likewise.
    pub blocks: &'a [usize],
    /// Share of spikes dropped while training.
    pub dropout: f64,
    /// Initial threshold of every layer.
    pub vth: f64,
    /// Whether the logits are mean currents, without output neurons.
    pub reads_current: bool,
}

/// Refuses names and sizes that make no network.
///
/// # Errors
/// [`Error::Config`] naming `model`, `widths`, `blocks` or `dropout`.
pub fn check(architecture: &Architecture) -> Result<()> {
    let Architecture { model, widths, blocks, dropout, .. } = *architecture;
    if !names().contains(&model) {
        return Err(Error::config("model", unknown("network", model, &names())));
    }
    if model == CUSTOM {
        check_stages(widths, blocks)?;
    } else if !widths.is_empty() || !blocks.is_empty() {
        let problem = format!("{widths:?} with blocks {blocks:?} and model '{model}': give either a model or widths and blocks");
        return Err(Error::config("widths", problem));
    }
    let has_dropout = !IMAGENET.iter().map(|m| m.0).chain(PHOTO.iter().map(|m| m.0)).any(|name| name == model);
    if !has_dropout && dropout > 0.0 {
        return Err(Error::config("dropout", format!("{dropout}: {model} has none, set it to 0")));
    }
    Ok(())
}

/// Side of the last average pool of a CIFAR PreAct-ResNet.
///
/// The reference pools its last 4×4 map with 4, and so does this wherever 4 divides the map; any other map is pooled as a
/// whole: 28×28 images end at 7×7 after three stages, and the pool is 7.
pub fn last_pool(shape: [usize; 3], stages: usize) -> usize {
    let side = |n: usize| (1..stages).fold(n, |n, _| n.div_ceil(2));
    let (height, width) = (side(shape[0]), side(shape[1]));
    if height % 4 == 0 && width % 4 == 0 { 4 } else { height.min(width) }
}

/// The layers of the network that an architecture names.
///
/// # Errors
/// [`Error::Config`] if the name is unknown or images of `shape` (height, width, channels) do not suit it.
pub fn build(architecture: &Architecture, shape: [usize; 3], classes: usize) -> Result<Builder> {
    check(architecture)?;
    let builder = spiking(architecture, shape, classes)?;
    if architecture.reads_current { builder.read_current() } else { Ok(builder) }
}

/// The same with output neurons.
fn spiking(architecture: &Architecture, shape: [usize; 3], classes: usize) -> Result<Builder> {
    let Architecture { model, widths, blocks, dropout, vth, .. } = *architecture;
    let (dropout, vth) = (dropout as f32, vth as f32);
    if let Some((_, stages)) = PLAIN.iter().find(|m| m.0 == model) {
        return vgg(shape, classes, stages, dropout, vth);
    }
    if let Some((_, blocks, bottleneck)) = IMAGENET.iter().find(|m| m.0 == model) {
        return imagenet_resnet(shape, classes, 64, blocks, *bottleneck, vth);
    }
    if let Some((_, blocks)) = PHOTO.iter().find(|m| m.0 == model) {
        return photo_resnet(shape, classes, 64, blocks, vth);
    }
    let named = RESIDUAL.iter().find(|m| m.0 == model).map(|m| (m.1, m.2));
    let (widths, blocks) = named.unwrap_or((widths, blocks));
    preact_resnet(shape, classes, widths, blocks, last_pool(shape, widths.len()), dropout, vth)
}
