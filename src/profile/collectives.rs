//! What the collectives of a training step should cost where several GPUs share a batch: their numbers and bytes by the table of
//! `docs/distributed.md`, links by data sheets, latencies by NCCL's own model. It is arithmetic; nothing was measured.
//!
//! ```text
//! seconds = base + (ranks - 1) · hop + bytes that a rank sends / (share · bandwidth)
//! ```
//! Sources, and a case worked by hand, are in `docs/predict.md`.

use serde::Serialize;

use super::predict::{GpuName, Prediction};
use crate::network::{Kind, Network, Source};

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
    /// Of these, what can be hidden behind backward at the most: weight gradients but for the layer that comes last.
    pub hidden_s: f64,
    /// Seconds of a step with all exchanges, and with those that can be hidden left away.
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

/// The exchanges of a training step on so many ranks, one node of the tree each: the table of `docs/distributed.md`.
pub fn exchanges(network: &Network, ranks: usize) -> Vec<Exchanges> {
    let (mut statistics, mut sums) = ([0usize; 2], [0usize; 2]);
    let add = |into: &mut [usize; 2], bytes: usize| *into = [into[0] + 1, into[1] + bytes];
    for (index, layer) in network.layers.iter().enumerate() {
        let channels = layer.shape[2];
        let reads_input = index == 0 || layer.connections.iter().any(|c| c.source == Source::Input);
        match (layer.norm, network.neuron.is_real(), reads_input) {
            (None, ..) => {}
            (_, true, _) => add(&mut statistics, 24 + 40 * channels),
            (_, false, true) => add(&mut statistics, 24 + 16 * channels),
            (_, false, false) => add(&mut statistics, 80 * channels),
        }
        add(&mut sums, 24 + 24 * channels);
        for connection in &layer.connections {
            let has_bias = matches!(connection.kind, Kind::Conv { bias: Some(_), .. });
            (0..usize::from(connection.norm.is_some()) + usize::from(has_bias)).for_each(|_| add(&mut sums, 24 + 16 * channels));
        }
    }
    let of = |what, [count, bytes]: [usize; 2]| Exchanges { what, count, bytes_to_each: bytes as f64, is_large: false };
    let weights = 24.0 + 2.0 * 4.0 * network.len() as f64 / ranks as f64;
    vec![
        of("statistics of layers", statistics),
        of("gradient sums", sums),
        of("loss, rates, stop", [4, 16 * network.layers.len() + 32 + 16 + 1]),
        Exchanges { what: "weight gradients", count: 2, bytes_to_each: weights, is_large: true },
    ]
}

/// What `ranks` GPUs cost that share a batch: `of_part` predicts the step of one rank with `samples` samples, `alone_s` is that of one
/// GPU with all of them.
pub fn group(gpu: GpuName, ranks: usize, samples: usize, network: &Network, of_part: &Prediction, alone_s: f64) -> Group {
    let exchanges = exchanges(network, ranks);
    let others = (ranks - 1) as f64;
    let on_link = |link: Link| {
        let of = |kind: &Exchanges| {
            let ([base, hop], share) = if kind.is_large { (link.large, OF_LINK) } else { (link.small, OF_LINK_SMALL) };
            kind.count as f64 * (base + others * hop) + kind.bytes_to_each * others / (share * link.bandwidth)
        };
        let seconds: Vec<f64> = exchanges.iter().map(of).collect();
        // Gradients of the first layer come last, when there is nothing left to hide them behind; those of the last have all the rest.
        let first = network
            .layers
            .first()
            .map_or(0, |layer| layer.connections.iter().map(|c| c.geometry.taps() * c.geometry.cin * c.geometry.cout).sum());
        let large: f64 = exchanges.iter().zip(&seconds).filter(|(kind, _)| kind.is_large).map(|(_, seconds)| seconds).sum();
        let behind: f64 = of_part.layers.iter().rev().skip(1).map(|layer| layer.backward.seconds).sum();
        let hidden_s = (large * (1.0 - first as f64 / network.len().max(1) as f64)).min(behind);
        let all = of_part.seconds + seconds.iter().sum::<f64>();
        let step_s = [all, all - hidden_s];
        OnLink { link, seconds, hidden_s, step_s, efficiency: step_s.map(|step| alone_s / (ranks as f64 * step)) }
    };
    let links = [inside(gpu), NETWORK].map(on_link).to_vec();
    let note = "arithmetic from numbers of exchanges, bytes, data sheets and NCCL's own latencies, not measured";
    Group { note, ranks, samples, alone_s, exchanges, links }
}
