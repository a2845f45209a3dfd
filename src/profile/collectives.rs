//! What the collectives of a training step should cost where several GPUs share a batch: their numbers and bytes by the table of
//! `docs/distributed.md`, links by data sheets, latencies by NCCL's own model. It is arithmetic; nothing was measured.
//!
//! ```text
//! seconds = base + (ranks - 1) · hop + bytes that a rank sends / (share · bandwidth)
//! ```
//! Sources, and a case worked by hand, are in `docs/predict.md`.

use std::collections::VecDeque;

use serde::Serialize;

use super::predict::{GpuName, Prediction};
use crate::network::buckets::{Bucket, LEAST};
use crate::network::{Kind, Network, Source, SpikingLayer};

/// Share of a link's bandwidth that large messages are expected to reach; an assumption, the same as of memory.
const OF_LINK: f64 = 0.8;
/// The same of small ones, which NCCL sends with a flag beside every word: a third of it (`src/graph/tuning.cc`, protocol LL).
const OF_LINK_SMALL: f64 = OF_LINK / 3.0;

/// What connects the GPUs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Link {
    pub name: &'static str,
    /// Bytes a second in each direction.
    pub bandwidth: f64,
    /// Seconds of a small collective, and of each rank that it passes: NCCL's ring with protocol LL.
    pub small: [f64; 2],
    /// The same of a large one: protocol Simple.
    pub large: [f64; 2],
}

/// Between machines, each with one GPU.
const NETWORK: Link = Link { name: "100 Gbit/s", bandwidth: 12.5e9, small: [3.6e-6, 2.7e-6], large: [8.4e-6, 9.6e-6] };

/// Within a machine. Data sheets of NVLink count both directions.
fn inside(gpu: GpuName) -> Link {
    let nvlink = |name, bandwidth| Link { name, bandwidth, small: [3.6e-6, 0.47e-6], large: [8.4e-6, 3.4e-6] };
    match gpu {
        GpuName::A100 => nvlink("NVLink 3", 300e9),
        GpuName::H100 => nvlink("NVLink 4", 450e9),
        GpuName::B200 => nvlink("NVLink 5", 900e9),
        GpuName::Rtx4090 => Link { name: "PCIe 4.0 x16", bandwidth: 31.5e9, small: [3.6e-6, 1.0e-6], large: [8.4e-6, 5.7e-6] },
    }
}

/// Exchanges of one kind in a training step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Exchanges {
    pub what: &'static str,
    pub count: usize,
    /// Bytes that a rank sends to each of the others, all exchanges together.
    pub bytes_to_each: f64,
    /// Whether they are large messages.
    pub is_large: bool,
}

/// One link with what it costs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OnLink {
    pub link: Link,
    /// Seconds of each kind of exchanges, in the order of [`Group::exchanges`].
    pub seconds: Vec<f64>,
    /// Of these, what backward hides: weight gradients on their way while it goes on.
    pub hidden_s: f64,
    /// Seconds of a step with all exchanges, and with those that are hidden left out.
    pub step_s: [f64; 2],
    /// One GPU's time for the whole batch, over ranks times that of these steps.
    pub efficiency: [f64; 2],
}

/// Several GPUs that share a batch.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Group {
    /// Says that nothing here was measured.
    pub note: &'static str,
    pub ranks: usize,
    /// Samples of a rank.
    pub samples: usize,
    /// Seconds of a step of one GPU with the whole batch.
    pub alone_s: f64,
    pub exchanges: Vec<Exchanges>,
    pub links: Vec<OnLink>,
}

/// Bytes that a rank sends to each of the others, exchange by exchange, for a layer: its statistics, and the sums of its gradients.
fn of_layer(network: &Network, index: usize, ranks: usize) -> [Vec<f64>; 2] {
    let layer = &network.layers[index];
    let channels = layer.shape[2] as f64;
    let reads_input = layer.connections.iter().any(|c| c.source == Source::Input);
    let statistics = match (layer.norm, network.neuron.is_real(), reads_input) {
        (None, ..) => vec![],
        (_, true, _) => vec![40.0 * channels],
        (_, false, true) => vec![16.0 * channels],
        (_, false, false) => vec![all_reduce(64.0 * channels, ranks)],
    };
    let biases = layer.connections.iter().filter(|c| matches!(c.kind, Kind::Conv { bias: Some(_), .. })).count();
    let inner = layer.connections.iter().any(|c| c.norm.is_some());
    let mut sums = vec![24.0 * channels];
    match (inner, biases > 0) {
        (false, false) => {}
        (false, true) | (true, false) => sums.push(8.0 * channels),
        (true, true) => sums.extend([8.0 * channels, 16.0 * channels]),
    }
    [statistics, sums]
}

/// Integers that all ranks add up: each sends twice what a rank has a share of.
fn all_reduce(bytes: f64, ranks: usize) -> f64 {
    2.0 * bytes / ranks as f64
}

/// The same of a bucket, both of its exchanges.
fn of_bucket(bucket: &Bucket, ranks: usize) -> f64 {
    2.0 * 4.0 * bucket.parameters.len().div_ceil(ranks) as f64
}

/// The exchanges of a training step on so many GPUs, one node of the tree each: the table of `docs/distributed.md`. Gradients go in
/// buckets of at least so many parameters.
pub fn exchanges(network: &Network, ranks: usize, least: usize) -> Vec<Exchanges> {
    let of = |what, bytes: &[f64]| Exchanges { what, count: bytes.len(), bytes_to_each: bytes.iter().sum(), is_large: false };
    let layers: Vec<[Vec<f64>; 2]> = (0..network.layers.len()).map(|index| of_layer(network, index, ranks)).collect();
    let all = |which: usize| layers.iter().flat_map(|of_layer| of_layer[which].clone()).collect::<Vec<f64>>();
    let buckets = network.buckets(least);
    let gradients = buckets.iter().map(|bucket| of_bucket(bucket, ranks)).sum();
    let step = [8.0, all_reduce(8.0 * network.layers.len() as f64, ranks), all_reduce(4.0, ranks), 1.0];
    vec![
        of("statistics of layers", &all(0)),
        of("gradient sums", &all(1)),
        of("loss, rates, right, stop", &step),
        Exchanges { what: "weight gradients", count: 2 * buckets.len(), bytes_to_each: gradients, is_large: true },
    ]
}

/// What `ranks` GPUs cost that share a batch: `of_part` predicts the step of one rank with `samples` samples, `alone_s` is that of one
/// GPU with all of them.
pub fn group(gpu: GpuName, ranks: usize, samples: usize, network: &Network, of_part: &Prediction, alone_s: f64) -> Group {
    let (exchanges, buckets) = (exchanges(network, ranks, LEAST), network.buckets(LEAST));
    let on_link = |link: Link| {
        let of = |kind: &Exchanges| link.seconds(ranks, kind.is_large, kind.count, kind.bytes_to_each);
        let seconds: Vec<f64> = exchanges.iter().map(of).collect();
        let hidden_s = hidden(&windows(network, of_part, &buckets, &link, ranks));
        let all = of_part.seconds + seconds.iter().sum::<f64>();
        let step_s = [all, all - hidden_s];
        OnLink { link, seconds, hidden_s, step_s, efficiency: step_s.map(|step| alone_s / (ranks as f64 * step)) }
    };
    let links = [inside(gpu), NETWORK].map(on_link).to_vec();
    let note = "arithmetic from numbers of exchanges, bytes, data sheets and NCCL's own latencies, not measured";
    Group { note, ranks, samples, alone_s, exchanges, links }
}

impl Link {
    /// Seconds of so many exchanges, in which a rank sends so many bytes to each of the others.
    fn seconds(&self, ranks: usize, is_large: bool, count: usize, bytes_to_each: f64) -> f64 {
        let others = (ranks - 1) as f64;
        let ([base, hop], share) = if is_large { (self.large, OF_LINK) } else { (self.small, OF_LINK_SMALL) };
        count as f64 * (base + others * hop) + bytes_to_each * others / (share * self.bandwidth)
    }
}

/// What backward does for a layer, as the two streams of `network/cuda/buckets.rs` have it.
struct Window {
    /// Seconds of its sums: they wait for compute and for the exchange on its way, and compute waits for them.
    sums_s: f64,
    /// Seconds of its kernels.
    backward_s: f64,
    /// Whether one exchange of a bucket goes beside them.
    has_products: bool,
    /// Seconds of the exchanges that are due from here on.
    due_s: Vec<f64>,
}

/// The layers in the order of backward.
fn windows(network: &Network, of_part: &Prediction, buckets: &[Bucket], link: &Link, ranks: usize) -> Vec<Window> {
    let of = |(index, layer): (usize, &SpikingLayer)| Window {
        sums_s: of_layer(network, index, ranks)[1].iter().map(|bytes| link.seconds(ranks, false, 1, *bytes)).sum(),
        backward_s: of_part.layers[index].backward.seconds,
        has_products: layer.has_products(),
        due_s: buckets
            .iter()
            .filter(|bucket| bucket.layer == index)
            .flat_map(|bucket| [link.seconds(ranks, true, 1, of_bucket(bucket, ranks) / 2.0); 2])
            .collect(),
    };
    network.layers.iter().enumerate().rev().map(of).collect()
}

/// Seconds of the buckets' exchanges that backward hides.
fn hidden(windows: &[Window]) -> f64 {
    let (mut compute, mut collectives, mut due) = (0.0f64, 0.0f64, VecDeque::new());
    for window in windows {
        compute = compute.max(collectives) + window.sums_s;
        collectives = compute + if window.has_products { due.pop_front().unwrap_or(0.0) } else { 0.0 };
        compute += window.backward_s;
        due.extend(window.due_s.iter().copied());
    }
    let end = compute.max(collectives) + due.iter().sum::<f64>();
    let in_turn: f64 = windows.iter().map(|window| window.sums_s + window.backward_s + window.due_s.iter().sum::<f64>()).sum();
    (in_turn - end).max(0.0) // rounded
}

#[cfg(test)]
mod tests {
    use super::super::predict::{Training, predict};
    use super::*;
    use crate::network::{WeightGradient, imagenet_resnet, preact_resnet};
    use crate::ops::neuron::Neuron;

    #[test]
    fn what_backward_hides_by_hand() {
        let window = |backward_s, has_products, due_s: &[f64]| Window { sums_s: 1.0, backward_s, has_products, due_s: due_s.to_vec() };
        // 3 of the first exchange beside the second layer, whose end it delays by 1; the second beside the fourth; two when all is done.
        let layers = [window(10.0, true, &[4.0, 4.0]), window(3.0, true, &[]), window(9.0, false, &[]), window(5.0, true, &[2.0, 2.0])];
        assert_eq!(hidden(&layers), 3.0 + 4.0);
        assert_eq!(hidden(&layers[3..]), 0.0);
        assert_eq!(hidden(&[]), 0.0);
    }

    /// The table of docs/predict.md.
    #[test]
    fn buckets_of_the_chosen_size_leave_about_the_least() {
        let preact = preact_resnet([32, 32, 3], 10, &[64, 128, 256, 512], &[2; 4], 4, 0.0, 1.0).unwrap();
        let imagenet = imagenet_resnet([224, 224, 3], 1000, 64, &[3, 4, 6, 3], false, 1.0).unwrap();
        for (name, builder, batch) in [("PreAct-ResNet-18", preact, 1024), ("ResNet-34", imagenet, 256)] {
            let network = builder.finish(Neuron::If { alpha: 0.5 }, 4, 0.01, 1).unwrap();
            for (gpu, ranks) in [(GpuName::A100, 8), (GpuName::H100, 8), (GpuName::H100, 2)] {
                let training = Training { gradient: WeightGradient::Rate, adam: false };
                let of_part = predict(gpu, &network, [batch / ranks, 1], Some(training));
                let link = inside(gpu);
                let left = |least: usize| {
                    let windows = windows(&network, &of_part, &network.buckets(least), &link, ranks);
                    windows.iter().flat_map(|window| &window.due_s).sum::<f64>() - hidden(&windows)
                };
                let sizes = [1 << 18, 1 << 19, LEAST, 1 << 21, 1 << 22, 1 << 23, usize::MAX];
                let all: Vec<f64> = sizes.iter().map(|&least| left(least)).collect();
                println!("{name}, {ranks} {gpu:?}: {:.0?} us", all.iter().map(|seconds| 1e6 * seconds).collect::<Vec<_>>());
                let least = all.iter().copied().fold(f64::INFINITY, f64::min);
                assert!(left(LEAST) <= 1.1 * least, "{name}, {ranks} {gpu:?}: {all:?}");
            }
        }
    }
}
