//! ImageNet PreAct-ResNet (reference `imagenet/preresnet_snn.py`): basic (18, 34) and bottleneck (50) blocks; the same for photos of
//! another size.

use super::builder::NO_POOL;
use super::{Builder, Conv, Init, Source};
use crate::error::Result;

fn conv(cout: usize, kernel: usize, stride: usize) -> Conv {
    let std = (2.0 / (kernel * kernel * cout) as f32).sqrt();
    Conv { cout, kernel, stride, pad: kernel / 2, weight: Init::Normal(std), bias: None }
}

/// What comes before the first stage.
#[derive(Clone, Copy)]
enum Stem {
    /// 3×3, of this stride; the first stage reads its current.
    Plain(usize),
    /// 7×7/2 → neuron → average pool 3/2.
    Pooled,
}

/// Stem 7×7/2 → neuron → average pool 3/2 → four stages → global pool → linear.
///
/// # Errors
/// [`crate::error::Error::Config`] if the input is too small.
pub fn imagenet_resnet(
    input: [usize; 3],
    classes: usize,
    base: usize,
    blocks: &[usize],
    bottleneck: bool,
    threshold: f32,
) -> Result<Builder> {
    residual(input, classes, Stem::Pooled, base, blocks, bottleneck, threshold)
}

/// The same network with a stem that leaves the first stage 24 to 56 pixels a side, whatever the pictures have: 3×3 below 48 pixels, 3×3/2
/// below 96, from there on that of ImageNet.
///
/// # Errors
/// [`crate::error::Error::Config`] if the input is too small.
pub fn photo_resnet(input: [usize; 3], classes: usize, base: usize, blocks: &[usize], threshold: f32) -> Result<Builder> {
    let stem = match input[0].min(input[1]) {
        ..48 => Stem::Plain(1),
        48..96 => Stem::Plain(2),
        _ => Stem::Pooled,
    };
    residual(input, classes, stem, base, blocks, false, threshold)
}

fn residual(
    input: [usize; 3],
    classes: usize,
    stem: Stem,
    base: usize,
    blocks: &[usize],
    bottleneck: bool,
    threshold: f32,
) -> Result<Builder> {
    let mut net = Builder::new(input, threshold);
    let mut current = match stem {
        Stem::Plain(stride) => vec![net.conv("conv1", Source::Input, NO_POOL, conv(base, 3, stride))],
        Stem::Pooled => {
            let stem = net.conv("conv1", Source::Input, NO_POOL, conv(base, 7, 2));
            let relu1 = net.layer("relu1", vec![stem], Some("bn1"), 0.0)?;
            vec![net.identity(relu1, [3, 2, 1])]
        }
    };
    let expansion = if bottleneck { 4 } else { 1 };
    let mut cin = base;
    for (stage, &count) in blocks.iter().enumerate() {
        let planes = base << stage;
        for block in 0..count {
            let name = format!("layer{}.{block}", stage + 1);
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let part = |part: &str| format!("{name}.{part}");
            let relu1 = net.layer(&part("relu1"), current, Some(&part("bn1")), 0.0)?;
            let last = if bottleneck {
                let conv1 = net.conv(&part("conv1"), relu1, NO_POOL, conv(planes, 1, 1));
                let relu2 = net.layer(&part("relu2"), vec![conv1], Some(&part("bn2")), 0.0)?;
                let conv2 = net.conv(&part("conv2"), relu2, NO_POOL, conv(planes, 3, stride));
                let relu3 = net.layer(&part("relu3"), vec![conv2], Some(&part("bn3")), 0.0)?;
                net.conv(&part("conv3"), relu3, NO_POOL, conv(planes * 4, 1, 1))
            } else {
                let conv1 = net.conv(&part("conv1"), relu1, NO_POOL, conv(planes, 3, stride));
                let relu2 = net.layer(&part("relu2"), vec![conv1], Some(&part("bn2")), 0.0)?;
                net.conv(&part("conv2"), relu2, NO_POOL, conv(planes, 3, 1))
            };
            let shortcut = if stride != 1 || cin != planes * expansion {
                let mut shortcut = net.conv(&part("downsample.0"), relu1, NO_POOL, conv(planes * expansion, 1, stride));
                shortcut.norm = Some(net.norm(&part("downsample.1"), planes * expansion));
                shortcut
            } else {
                net.identity(relu1, NO_POOL)
            };
            current = vec![last, shortcut];
            cin = planes * expansion;
        }
    }
    let relu2 = net.layer("relu2", current, Some("bn2"), 0.0)?;
    let [height, width, _] = net.shape(relu2);
    let side = height.min(width);
    let pooled = net.identity(relu2, [side, side, 0]);
    let relu3 = net.layer("relu3", vec![pooled], None, 0.0)?;
    let bound = 1.0 / (cin as f32).sqrt();
    let fc = net.linear("fc", relu3, NO_POOL, classes, 1, [Init::Uniform(bound), Init::Uniform(bound)]);
    net.layer("relu4", vec![fc], Some("bn3"), 0.0)?;
    Ok(net)
}
