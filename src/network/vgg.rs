//! VGG for event data (reference `cifar/modules/vgg.py`): five stages, an average pool after each.

use super::builder::NO_POOL;
use super::{Builder, Conv, Init, Source};
use crate::error::{Error, Result};

/// `stages` lists the widths of each stage's convolutions; the last pool must leave 1×1, which the classifier sees 7×7 times.
///
/// # Errors
/// [`Error::Config`] if the input does not shrink to 1×1.
pub fn vgg(input: [usize; 3], classes: usize, stages: &[&[usize]], dropout: f32, threshold: f32) -> Result<Builder> {
    let mut net = Builder::new(input, threshold);
    let (mut source, mut pool) = (Source::Input, NO_POOL);
    for (stage, widths) in stages.iter().enumerate() {
        let mut index = 0; // of the module in the reference's Sequential: conv, norm, neuron, dropout
        for &width in *widths {
            let name = |offset: usize| format!("layer{}.{}", stage + 1, index + offset);
            let conv = Conv {
                cout: width,
                kernel: 3,
                stride: 1,
                pad: 1,
                weight: Init::Normal((2.0 / (9 * width) as f32).sqrt()),
                bias: Some(Init::Constant(0.0)),
            };
            let connection = net.conv(&name(0), source, pool, conv);
            source = net.layer(&name(2), vec![connection], Some(&name(1)), dropout)?;
            pool = NO_POOL;
            index += 4;
        }
        pool = [2, 2, 0];
    }
    let [height, width, _] = net.shape(source);
    if height / 2 != 1 || width / 2 != 1 {
        return Err(Error::config("input size", format!("{:?}: this VGG needs 32 to 63 pixels a side (48 in the paper)", &input[..2])));
    }
    let linear = net.linear("classifier.1", source, pool, classes, 49, [Init::Normal(0.01), Init::Constant(0.0)]);
    net.layer("classifier.3", vec![linear], Some("classifier.2"), 0.0)?;
    Ok(net)
}
