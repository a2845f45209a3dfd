//! Time from a batch in memory to its logits.
//!
//! The engine goes through a network layer by layer, each with all its T time steps; so a run has one latency, and a share of `1 / T`
//! of it for a step. There is no step that would be done before the others.

use std::time::Instant;

use serde::Serialize;

use super::throughput::Bench;
use super::times::{Limits, repeat};
use super::{Case, Work};
use crate::device::Device;
use crate::error::Result;
use crate::network::{Input, Mode, Network};

/// How the work gets to the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Path {
    /// Calls on the CPU.
    Cpu,
    /// A recorded graph, as `eval` uses it.
    Graph,
    /// Kernel by kernel.
    Launches,
}

impl Path {
    /// The ways that there are on a device.
    pub fn of(device: &Device) -> &'static [Path] {
        match device {
            Device::Cpu => &[Path::Cpu],
            Device::Cuda(_) => &[Path::Graph, Path::Launches],
        }
    }

    /// As in the results.
    pub fn name(self) -> &'static str {
        match self {
            Path::Cpu => "cpu",
            Path::Graph => "graph",
            Path::Launches => "launches",
        }
    }
}

/// Seconds of every timed run.
#[derive(Clone, Debug, Default)]
pub struct Latency {
    /// On the host: from the batch in memory to the logits in memory.
    pub host: Vec<f64>,
    /// On a CUDA device, between marks before the first and behind the last kernel; empty on the CPU. Runs of their own.
    pub device: Vec<f64>,
    /// Spikes per neuron and step.
    pub mean_firing_rate: f32,
}

/// Times inferences of a case's network on its images.
///
/// # Errors
/// What [`Bench::new`] refuses, and [`crate::error::Error::Device`] if the device fails.
pub fn of_case(case: &Case, path: Path, limits: &Limits) -> Result<Latency> {
    let mut bench = Bench::new(&Case { work: Work::Infer, ..case.clone() })?;
    let (network, input) = bench.parts();
    of_network(network, &input, path, limits)
}

/// Times inferences of one batch.
///
/// # Errors
/// [`crate::error::Error::ShapeMismatch`] if the input does not fit, [`crate::error::Error::Device`] if the device fails.
pub fn of_network(network: &mut Network, input: &Input, path: Path, limits: &Limits) -> Result<Latency> {
    let replays = path == Path::Graph;
    let forward = network.forward(input, Mode::Eval, |_| false)?;
    let mean_firing_rate = network.mean_rate(&forward.rates);
    let host = repeat(limits, || {
        let begin = Instant::now();
        let logits = match path {
            Path::Cpu => network.forward(input, Mode::Eval, |_| false)?.logits,
            Path::Graph | Path::Launches => network.logits_on_device(input, replays)?,
        };
        std::hint::black_box(logits);
        Ok(begin.elapsed().as_secs_f64())
    })?;
    let device = match path {
        Path::Cpu => Vec::new(),
        Path::Graph | Path::Launches => repeat(limits, || network.kernel_seconds(input, replays))?,
    };
    Ok(Latency { host, device, mean_firing_rate })
}
