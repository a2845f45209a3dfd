//! Where the time, the memory and the spikes of a step go, layer by layer and operation by operation.

pub mod activity;
pub mod collectives;
pub mod page;
pub mod predict;
mod rows;
mod subject;
mod trace;
mod unrolled;
mod work;

use serde::Serialize;
use serde_json::Value;

use crate::bench::Work;
use crate::clock::{Name, Op, Phase, Span, listen};
use crate::device::Device;
use crate::device::machine::{Machine, machine};
use crate::error::{Error, Result};

use activity::rates_by_step;
pub use activity::{Accuracy, Activity};
pub use predict::{GpuName, Prediction};
pub use rows::{Row, rows};
pub use subject::{Images, Subject};
pub use trace::trace;
pub use work::Amount;
use work::Counted;

/// Name of the JSON form.
pub const SCHEMA: &str = "dsr-profile";
/// Version of the JSON form: changed with every field that changes its meaning or goes.
pub const SCHEMA_VERSION: u32 = 1;

/// Time and work of one operation in one layer and phase, in the step that is shown.
#[derive(Clone, Debug, Serialize)]
pub struct OpRow {
    pub phase: Option<Phase>,
    pub layer: Option<String>,
    pub op: Op,
    pub calls: usize,
    pub time_ns: u64,
    /// Of the wall time.
    pub share: f64,
    /// Whether the operation shared a parallel loop with others, so that its part of the loop's time is an estimate.
    pub shared_loop: bool,
    #[serde(flatten)]
    pub amount: Amount,
}

/// One layer.
#[derive(Clone, Debug, Serialize)]
pub struct LayerRow {
    pub layer: String,
    /// Height, width, channels.
    pub shape: [usize; 3],
    pub forward_ns: u64,
    pub backward_ns: u64,
    pub share: f64,
    /// Spikes per neuron and step.
    pub firing_rate: f64,
    /// Spikes a neuron at each step.
    pub rates_by_step: Vec<f64>,
    /// Synaptic operations of the forward pass.
    pub operations: u64,
    /// The same if every neuron fired at every step.
    pub dense_operations: u64,
    /// What backward needs; 0 in an inference, none on a device.
    pub kept_bytes: Option<u64>,
    pub spike_bytes: u64,
    /// Most memory of the process while the layer was computed, in a step of its own; none where the system does not tell.
    pub peak_rss_bytes: Option<u64>,
}

/// Wall time of all steps, nanoseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Wall {
    /// Of the step that is shown: the (lower) median of those with timers.
    pub shown: u64,
    pub with_timers: Vec<u64>,
    /// Of the steps between them.
    pub without_timers: Vec<u64>,
    /// Median over pairs of what the timers added, as a share of the step.
    pub overhead: f64,
    /// Largest less smallest step, as a share of the median, of the steps that vary more: with timers or without.
    pub spread: f64,
}

impl Wall {
    /// What the timers cost, where it is more than what steps vary by themselves.
    pub fn measured_overhead(&self) -> Option<f64> {
        let is_known = self.without_timers.len() > 1;
        (is_known && self.overhead > self.spread).then_some(self.overhead)
    }
}

/// A profile.
#[derive(Clone, Debug, Serialize)]
pub struct Profile {
    pub schema: &'static str,
    pub schema_version: u32,
    pub machine: Machine,
    pub device: String,
    pub mode: Work,
    pub model: String,
    /// `random`, or the name of a data set.
    pub images: String,
    pub seed: u64,
    /// All settings.
    pub config: toml::Table,
    pub warmup: usize,
    pub wall_ns: Wall,
    pub layers: Vec<LayerRow>,
    pub rows: Vec<OpRow>,
    /// With the rows it adds up to the wall time.
    pub not_accounted_ns: u64,
    pub activity: Option<Activity>,
    pub accuracy: Option<Vec<Accuracy>>,
    pub prediction: Option<Prediction>,
}

/// The step that is shown, for its trace.
pub struct Shown {
    pub spans: Vec<Span>,
    pub wall: u64,
}

impl Shown {
    /// As a Chrome trace.
    pub fn trace(&self, profile: &Profile) -> Value {
        let layers: Vec<String> = profile.layers.iter().map(|layer| layer.layer.clone()).collect();
        let mode = if profile.mode == Work::Train { "training step" } else { "inference" };
        trace(&self.spans, self.wall, &layers, &format!("{mode}, {}", profile.model))
    }
}

/// Profiles `steps` steps after `warmup` others, each beside one without timers; then one for the memory and a forward pass to count.
/// `tell` hears how many of the `warmup + 2 * steps` steps are done.
///
/// # Errors
/// [`Error::NotFinite`] if training diverges; what a device refuses.
pub fn profile(work: Work, subject: &mut Subject, warmup: usize, steps: usize, tell: &mut dyn FnMut(usize)) -> Result<(Profile, Shown)> {
    let machine = machine(); // with the load before the steps, which are a load themselves
    for step in 0..warmup {
        subject.step()?;
        tell(step + 1);
    }
    let (mut timed, mut without_timers) = (Vec::new(), Vec::new());
    for pair in 0..steps {
        // In turns, so that neither is always the first.
        for with_timers in if pair % 2 == 0 { [true, false] } else { [false, true] } {
            let begin = std::time::Instant::now();
            if with_timers {
                let (result, spans, wall) = listen(false, || subject.step());
                result?;
                timed.push(Shown { spans, wall });
            } else {
                subject.step()?;
                without_timers.push(begin.elapsed().as_nanos() as u64);
            }
        }
        tell(warmup + 2 * (pair + 1));
    }
    let with_timers: Vec<u64> = timed.iter().map(|shown| shown.wall).collect();
    let overhead = median(with_timers.iter().zip(&without_timers).map(|(&with, &without)| with as f64 / without as f64 - 1.0).collect());
    let spread = spread(&with_timers).max(spread(&without_timers));
    let mut order: Vec<usize> = (0..timed.len()).collect();
    order.sort_by_key(|&index| with_timers[index]);
    let Some(&middle) = order.get((order.len().max(1) - 1) / 2) else {
        return Err(Error::config("steps", "0: at least one is needed"));
    };
    let shown = timed.swap_remove(middle);
    let (result, memory, _) = listen(true, || subject.step());
    result?;
    let kept = subject.network.kept_bytes_by_layer();
    let forward = subject.forward_again()?;
    let wall_ns = Wall { shown: shown.wall, with_timers, without_timers, overhead, spread };

    let network = &subject.network;
    let batch = subject.batch();
    let counted =
        Counted { work, network, optimizer: subject.optimizer(), spikes: &forward.spikes, batch: batch.labels.len(), frames: batch.frames };
    let (rows, not_accounted_ns) = rows(&shown.spans, shown.wall);
    let share = |nanoseconds: u64| nanoseconds as f64 / shown.wall as f64;
    let on_device = matches!(network.device(), Device::Cuda(_));
    let of_layer = |index: usize, phase: Phase| {
        rows.iter().filter(|row| row.layer == Some(index) && row.phase == Some(phase)).map(|row| row.nanoseconds).sum::<u64>()
    };
    let layers = (0..network.layers.len()).map(|index| {
        let layer = &network.layers[index];
        let (forward_ns, backward_ns) = (of_layer(index, Phase::Forward), of_layer(index, Phase::Backward));
        let operations = counted.layer_operations(index);
        let peaks = memory.iter().filter(|span| span.name == Name::Layer(index)).filter_map(|span| span.peak_rss);
        LayerRow {
            layer: layer.name.clone(),
            shape: layer.shape,
            forward_ns,
            backward_ns,
            share: share(forward_ns + backward_ns),
            firing_rate: f64::from(forward.rates[index]),
            rates_by_step: forward.spikes[index].as_ref().filter(|_| layer.fires()).map_or_else(Vec::new, rates_by_step),
            operations: operations.actual,
            dense_operations: operations.dense,
            kept_bytes: if on_device { None } else { Some(kept.get(index).copied().unwrap_or(0) as u64) },
            spike_bytes: counted.spike_bytes(index),
            peak_rss_bytes: peaks.max(),
        }
    });
    let name = |index: usize| network.layers[index].name.clone();
    let op_row = |row: &Row| OpRow {
        phase: row.phase,
        layer: row.layer.map(name),
        op: row.op,
        calls: row.calls,
        time_ns: row.nanoseconds,
        share: share(row.nanoseconds),
        shared_loop: row.is_shared,
        amount: counted.amount(row),
    };
    let profile = Profile {
        schema: SCHEMA,
        schema_version: SCHEMA_VERSION,
        machine,
        device: network.device().to_string(),
        mode: work,
        model: subject.config.model_name(),
        images: subject.dataset().map_or_else(|| "random".into(), |dataset| dataset.label()),
        seed: subject.config.seed,
        config: subject.config.to_table()?,
        warmup,
        wall_ns,
        layers: layers.collect(),
        rows: rows.iter().map(op_row).collect(),
        not_accounted_ns,
        activity: None,
        accuracy: None,
        prediction: None,
    };
    Ok((profile, shown))
}

/// Largest less smallest, as a share of the median.
fn spread(times: &[u64]) -> f64 {
    let range = times.iter().max().zip(times.iter().min()).map_or(0, |(most, least)| most - least);
    range as f64 / median(times.iter().map(|&time| time as f64).collect()).max(1.0)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    if n == 0 { 0.0 } else { (values[(n - 1) / 2] + values[n / 2]) / 2.0 }
}
