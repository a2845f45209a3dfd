//! The convolutions of PreAct-ResNet-18 on CIFAR images.

use dsr::network::{Kind, Source};
use dsr::ops::spike_conv::Geometry;
use dsr::settings::Config;
use dsr::settings::models;

/// Every shape of convolution that reads spikes, once, with a name such as `64x32x32 to 128 3x3 /2`.
pub fn convolutions() -> Vec<(String, Geometry)> {
    let layers = models::build(&Config::default().architecture(), [32, 32, 3], 10).unwrap().layers;
    let mut found: Vec<(String, Geometry)> = Vec::new();
    for connection in layers.iter().flat_map(|layer| &layer.connections) {
        let Geometry { cin, cout, source: [height, width], kernel: [ky, kx], stride, .. } = connection.geometry;
        let is_new = found.iter().all(|(_, geometry)| *geometry != connection.geometry);
        if is_new && matches!((connection.source, &connection.kind), (Source::Layer(_), Kind::Conv { .. })) {
            found.push((format!("{cin}x{height}x{width} to {cout} {ky}x{kx} /{stride}"), connection.geometry));
        }
    }
    found
}
