//! CIFAR PreAct-ResNet (reference `cifar/modules/preresnet.py`): any widths and block counts.

use super::builder::{MAX_CHANNELS, NO_POOL};
use super::{Builder, Conv, Init, Source};
use crate::error::{Error, Result};

fn conv(cin: usize, cout: usize, kernel: usize, stride: usize, bias: bool) -> Conv {
    let taps = kernel * kernel;
    Conv {
        cout,
        kernel,
        stride,
        pad: kernel / 2,
        weight: Init::Normal((2.0 / (cout * taps) as f32).sqrt()),
        bias: bias.then(|| Init::Uniform(1.0 / ((cin * taps) as f32).sqrt())),
    }
}

/// Stages that a network may have.
const MAX_STAGES: usize = 16;
/// Blocks of all stages together; the deepest known network of this kind has 600.
const MAX_BLOCKS: usize = 1000;

/// Refuses widths and blocks that make no network.
///
/// # Errors
/// [`Error::Config`] naming `widths` or `blocks`.
pub fn check_stages(widths: &[usize], blocks: &[usize]) -> Result<()> {
    let stages = widths.len().max(blocks.len());
    if stages > MAX_STAGES {
        return Err(Error::config("widths", format!("{stages} stages: at most {MAX_STAGES} are supported")));
    }
    if widths.is_empty() || widths.len() != blocks.len() || widths.contains(&0) || blocks.contains(&0) {
        return Err(Error::config("widths", format!("{widths:?} with blocks {blocks:?}: both need one positive number a stage")));
    }
    if let Some(width) = widths.iter().find(|&&width| width > MAX_CHANNELS) {
        return Err(Error::config("widths", format!("{width} is not in 1..={MAX_CHANNELS}")));
    }
    let all = blocks.iter().fold(0usize, |all, &count| all.saturating_add(count));
    if all > MAX_BLOCKS {
        return Err(Error::config("blocks", format!("{blocks:?} are more than {MAX_BLOCKS} blocks together; take fewer")));
    }
    Ok(())
}

/// Stem → stages of blocks (the first stage keeps the size, each further one halves it) → pool → linear.
///
/// `pool` is the side of the last average pool; the reference takes 4 for 32×32.
///
/// # Errors
/// [`Error::Config`] if widths and blocks do not pair up or the input is too small.
pub fn preact_resnet(
    input: [usize; 3],
    classes: usize,
    widths: &[usize],
    blocks: &[usize],
    pool: usize,
    dropout: f32,
    threshold: f32,
) -> Result<Builder> {
    check_stages(widths, blocks)?;
    let mut net = Builder::new(input, threshold);
    let stem = net.conv("conv1", Source::Input, NO_POOL, conv(input[2], widths[0], 3, 1, false));
    let mut current = vec![stem]; // what the next neuron will read
    let mut cin = widths[0];
    for (stage, (&width, &count)) in widths.iter().zip(blocks).enumerate() {
        for block in 0..count {
            let name = format!("layer{}.{block}", stage + 1);
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let relu1 = net.layer(&format!("{name}.relu1"), current, Some(&format!("{name}.bn1")), 0.0)?;
            let conv1 = net.conv(&format!("{name}.conv1"), relu1, NO_POOL, conv(cin, width, 3, stride, true));
            let relu2 = net.layer(&format!("{name}.relu2"), vec![conv1], Some(&format!("{name}.bn2")), dropout)?;
            let conv2 = net.conv(&format!("{name}.conv2"), relu2, NO_POOL, conv(width, width, 3, 1, true));
            let shortcut = if stride != 1 || cin != width {
                net.conv(&format!("{name}.shortcut"), relu1, NO_POOL, conv(cin, width, 1, stride, true))
            } else {
                net.identity(relu1, NO_POOL)
            };
            current = vec![conv2, shortcut];
            cin = width;
        }
    }
    let relu1 = net.layer("relu1", current, Some("bn1"), 0.0)?;
    let pooled = net.identity(relu1, [pool, pool, 0]);
    let relu2 = net.layer("relu2", vec![pooled], None, dropout)?;
    let features: usize = net.shape(relu2).iter().product();
    let bound = 1.0 / (features as f32).sqrt();
    let linear = net.linear("linear", relu2, NO_POOL, classes, 1, [Init::Uniform(bound), Init::Constant(0.0)]);
    net.layer("relu3", vec![linear], Some("bn2"), 0.0)?;
    Ok(net)
}
