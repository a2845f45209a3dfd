//! Which gradients travel together between the devices of several ranks, and which layer they wait for.

use std::ops::Range;

use super::{Kind, Network, SpikingLayer};

/// Fewest parameters of a bucket, 4 MiB of gradients. An exchange takes 10 to 20 µs and more before a byte is there, in which NVLink
/// (450 GB/s) carries 4 to 8 MB, as much as each of both exchanges sends of such a bucket: smaller ones would be latency for the most
/// part. Larger ones are closed later, and the exchanges of the last one, which nothing hides, are longer. By the arithmetic of
/// `profile/collectives.rs` this size leaves about the least of backward's exchanges unhidden; docs/predict.md has the table.
pub const LEAST: usize = 1 << 20;

/// Neighbouring parameters whose gradients are exchanged together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Place in the arena.
    pub parameters: Range<usize>,
    /// Their gradients are there when backward has done this layer: the first of the network that has one of them.
    pub layer: usize,
}

impl Network {
    /// Cuts the arena into buckets of at least so many parameters, in the order in which backward completes them; the last one, which
    /// the first layer completes, may have fewer. Every parameter is in one bucket, and none in two.
    pub fn buckets(&self, least: usize) -> Vec<Bucket> {
        let mut layer_of = vec![self.layers.len(); self.parameters.len()];
        for (index, layer) in self.layers.iter().enumerate().rev() {
            self.parameters_of_layer(layer).for_each(|parameter| layer_of[parameter] = index);
        }
        let (mut end, mut buckets) = (self.len(), Vec::new());
        for layer in (0..self.layers.len()).rev() {
            // From here to the end of the arena all gradients are there, in whatever order layers have their parameters.
            let there = self.parameters.iter().zip(&layer_of).rev().take_while(|(_, of)| **of >= layer);
            let start = there.last().map_or(end, |(parameter, _)| parameter.start).min(end);
            if end > start && (end - start >= least || layer == 0) {
                buckets.push(Bucket { parameters: start..end, layer });
                end = start;
            }
        }
        buckets
    }

    /// Indices of the parameters of a layer.
    fn parameters_of_layer<'n>(&'n self, layer: &'n SpikingLayer) -> impl Iterator<Item = usize> + 'n {
        let norms = layer.connections.iter().filter_map(|connection| connection.norm).chain(layer.norm);
        let weights = layer.connections.iter().filter_map(|connection| match connection.kind {
            Kind::Conv { weight, bias } => Some([Some(weight), bias]),
            Kind::Identity => None,
        });
        let of_norms = norms.flat_map(|norm| [self.norms[norm].weight, self.norms[norm].bias]);
        weights.flatten().flatten().chain(of_norms).chain(layer.threshold)
    }
}

impl SpikingLayer {
    /// Whether backward multiplies matrices for this layer.
    pub fn has_products(&self) -> bool {
        self.connections.iter().any(|connection| matches!(connection.kind, Kind::Conv { .. }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::{imagenet_resnet, preact_resnet, vgg};
    use crate::ops::neuron::Neuron;

    #[test]
    fn buckets_are_cuts_of_the_arena_that_backward_has_completed() {
        let builders = [
            preact_resnet([8, 8, 1], 10, &[8, 16], &[1, 2], 4, 0.0, 1.0).unwrap(),
            imagenet_resnet([33, 33, 3], 10, 2, &[1, 2, 1, 1], true, 1.0).unwrap(),
            vgg([32, 32, 2], 10, &[&[4], &[5], &[6, 7], &[8], &[33]], 0.0, 1.0).unwrap(),
        ];
        for builder in builders {
            let network = builder.finish(Neuron::If { alpha: 0.5 }, 2, 0.01, 1).unwrap();
            assert_eq!(network.buckets(usize::MAX), [Bucket { parameters: 0..network.len(), layer: 0 }]);
            for least in [1, 100, 5000, 100_000] {
                let buckets = network.buckets(least);
                let mut end = network.len();
                for (n, bucket) in buckets.iter().enumerate() {
                    assert_eq!(bucket.parameters.end, end);
                    assert!(bucket.parameters.len() >= least || n + 1 == buckets.len(), "{bucket:?} of at least {least}");
                    end = bucket.parameters.start;
                    // No layer before the one that completes it has a parameter of it, and that one has.
                    for (index, layer) in network.layers.iter().enumerate().take(bucket.layer + 1) {
                        let starts = network.parameters_of_layer(layer).map(|parameter| network.parameters[parameter].start);
                        let has = starts.filter(|start| bucket.parameters.contains(start)).count();
                        assert_eq!(has > 0, index == bucket.layer, "{bucket:?}, layer {index}");
                    }
                }
                assert_eq!(end, 0);
            }
            // The smallest ones end at every layer that has parameters of its own: nothing waits for a later one.
            assert_eq!(network.buckets(1).len(), network.layers.len());
        }
    }
}
