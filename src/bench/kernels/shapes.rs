//! The shapes that a network has, each once.

use crate::network::{Connection, Kind, Network, Source};
use crate::ops::spike_conv::Geometry;

/// Something with the number of times that it occurs.
pub type Counted<T> = (T, usize);

/// A kind of connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    /// A convolution of the input.
    Input,
    /// A convolution of spikes.
    Spikes,
    /// Spikes passed on, through a pool or not.
    Identity,
}

/// A layer, as its neurons see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerShape {
    /// Height, width, channels.
    pub shape: [usize; 3],
    /// Connections from spikes: 1 or 2; 0 for the layer that reads the input.
    pub connections: usize,
    pub has_norm: bool,
}

impl LayerShape {
    /// `64x32x32 of 2 sums`.
    pub fn name(&self) -> String {
        let kind = ["input", "1 sum", "2 sums"][self.connections.min(2)];
        format!("{} of {kind}", map_name(self.shape))
    }
}

/// Geometries of one kind of connection.
pub fn geometries(network: &Network, reads: Reads) -> Vec<Counted<Geometry>> {
    let is_wanted = |c: &&Connection| match (c.source, &c.kind) {
        (Source::Input, Kind::Conv { .. }) => reads == Reads::Input,
        (Source::Layer(_), Kind::Conv { .. }) => reads == Reads::Spikes,
        (Source::Layer(_), Kind::Identity) => reads == Reads::Identity,
        (Source::Input, Kind::Identity) => false,
    };
    let connections = network.layers.iter().flat_map(|layer| &layer.connections);
    counted(connections.filter(is_wanted).map(|connection| connection.geometry))
}

/// What the gradients of the weights read, through a pool or not: sources of convolutions of spikes, as identities.
pub fn sources(network: &Network) -> Vec<Counted<Geometry>> {
    let convolutions = geometries(network, Reads::Spikes);
    let alone = |g: Geometry| Geometry { cout: g.cin, kernel: [1, 1], stride: 1, pad: 0, ..g };
    recounted(convolutions.into_iter().map(|(geometry, count)| (alone(geometry), count)))
}

/// Height, width and channels of layers, and whether they have a batch norm.
pub fn maps(network: &Network) -> Vec<Counted<([usize; 3], bool)>> {
    counted(network.layers.iter().map(|layer| (layer.shape, layer.norm.is_some())))
}

/// Layers of a network.
pub fn layers(network: &Network) -> Vec<Counted<LayerShape>> {
    counted(network.layers.iter().map(|layer| LayerShape {
        shape: layer.shape,
        connections: layer.connections.iter().filter(|c| matches!(c.source, Source::Layer(_))).count(),
        has_norm: layer.norm.is_some(),
    }))
}

fn counted<T: PartialEq>(all: impl Iterator<Item = T>) -> Vec<Counted<T>> {
    recounted(all.map(|item| (item, 1)))
}

fn recounted<T: PartialEq>(all: impl Iterator<Item = Counted<T>>) -> Vec<Counted<T>> {
    let mut found: Vec<Counted<T>> = Vec::new();
    for (item, more) in all {
        match found.iter_mut().find(|(other, _)| *other == item) {
            Some((_, count)) => *count += more,
            None => found.push((item, more)),
        }
    }
    found
}

/// `64x32x32 to 128 3x3 /2`, with the pool in front where there is one.
pub fn name(geometry: &Geometry) -> String {
    let Geometry { cin, cout, source: [height, width], pool, kernel: [ky, kx], stride, .. } = geometry;
    let pool = if geometry.is_pooled() { format!(" pool {}", pool[0]) } else { String::new() };
    let stride = if *stride == 1 { String::new() } else { format!(" /{stride}") };
    format!("{cin}x{height}x{width}{pool} to {cout} {ky}x{kx}{stride}")
}

/// `64x32x32`: channels, height, width.
pub fn map_name([height, width, channels]: [usize; 3]) -> String {
    format!("{channels}x{height}x{width}")
}
