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
    /// `64x32x32`, and ` x2` for two connections.
    pub fn name(&self) -> String {
        let [height, width, channels] = self.shape;
        let kind = ["input", "1 sum", "2 sums"][self.connections];
        format!("{channels}x{height}x{width}, {kind}")
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

/// Layers of a network.
pub fn layers(network: &Network) -> Vec<Counted<LayerShape>> {
    counted(network.layers.iter().map(|layer| LayerShape {
        shape: layer.shape,
        connections: layer.connections.iter().filter(|c| matches!(c.source, Source::Layer(_))).count(),
        has_norm: layer.norm.is_some(),
    }))
}

fn counted<T: PartialEq>(all: impl Iterator<Item = T>) -> Vec<Counted<T>> {
    let mut found: Vec<Counted<T>> = Vec::new();
    for item in all {
        match found.iter_mut().find(|(other, _)| *other == item) {
            Some((_, count)) => *count += 1,
            None => found.push((item, 1)),
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
