//! `dsr bench latency`: time from a batch in memory to its logits.

use clap::Args;
use serde::Serialize;

use super::axes::{self, Axes, NetworkKey};
use super::baseline::BaselineFlags;
use super::report::{Entry, Report};
use super::trained::{Of, TrainedFlags, dataset, note};
use crate::bench::latency::{Latency, Path, of_case};
use crate::bench::times::{Limits, Times};
use crate::bench::{Case, Work};
use crate::cli::Global;
use crate::cli::numbers::{MAX_REPEATS, MAX_WARMUP, count, up_to};
use crate::cli::progress::Progress;
use crate::cli::settings::check_spiking;
use crate::cli::tables::{Table, four_digits, milli, optional};
use crate::device::machine::machine;
use crate::error::{Error, Result};

const SCHEMA: &str = "dsr-bench-latency";

/// Times single inferences: milliseconds a sample and a time step, with percentiles.
///
/// Latency is the time from a batch in memory to its logits in memory. The engine goes through the network layer by layer, each with
/// all T time steps; so there is one latency for all of them, and the time a step is total / T. It is not the time until one step has
/// passed through all layers.
///
/// On a CUDA device every case is run as a recorded graph, as eval does it, and kernel by kernel; beside the time on the host there is
/// that of the kernels by marks in the device's stream, from runs of their own.
///
/// With --checkpoint the network is a trained one, which fires at other rates than a new one, on samples of its own data.
///
/// Every flag with a list is an axis. Timed runs end with --repeats or --seconds, whichever comes first; n says how many there were.
/// For the prediction after each time step see `dsr bench decision`.
#[derive(Args)]
#[command(allow_negative_numbers = true, args_override_self = true)]
pub struct LatencyArgs {
    #[command(flatten)]
    axes: Axes,
    #[command(flatten)]
    trained: TrainedFlags,
    #[command(flatten)]
    limits: LimitFlags,
    #[command(flatten)]
    baseline: BaselineFlags,
}

/// How often something is measured.
#[derive(Args)]
#[command(next_help_heading = "Measurement")]
pub struct LimitFlags {
    /// Runs before the timed ones.
    #[arg(long, value_name = "N", default_value = "3", value_parser = up_to::<MAX_WARMUP>)]
    warmup: usize,
    /// Most timed runs of a case [default: 100; kernels: 20].
    #[arg(long, value_name = "N", value_parser = count::<MAX_REPEATS>)]
    repeats: Option<usize>,
    /// No timed run of a case begins after this many seconds [default: 5; decision: 2; kernels: 1].
    #[arg(long, value_name = "X")]
    seconds: Option<f64>,
}

impl LimitFlags {
    /// The limits that were asked for, or these.
    ///
    /// # Errors
    /// [`Error::Config`] for a number of seconds that is none.
    pub fn limits(&self, repeats: usize, seconds: f64) -> Result<Limits> {
        let seconds = self.seconds.unwrap_or(seconds);
        if !(seconds > 0.0 && seconds.is_finite()) {
            return Err(Error::config("seconds", format!("{seconds} is not a positive number")));
        }
        Ok(Limits { warmup: self.warmup, repeats: self.repeats.unwrap_or(repeats), seconds })
    }
}

/// How cases are measured, for the header.
#[derive(Serialize)]
pub struct LimitPlan {
    pub seed: u64,
    pub warmup: usize,
    pub repeats: usize,
    pub seconds: f64,
}

impl LimitPlan {
    pub fn new(seed: u64, limits: &Limits) -> Self {
        LimitPlan { seed, warmup: limits.warmup, repeats: limits.repeats, seconds: limits.seconds }
    }
}

/// How the work got to the device, and what it was.
#[derive(Serialize)]
struct Way {
    path: Path,
    /// None for random images.
    dataset: Option<String>,
}

type Timed = Entry<(Way, NetworkKey), LatencyResults>;

/// What follows from the times, and the times of the kernels alone.
#[derive(Clone, Serialize)]
pub struct LatencyResults {
    threads: usize,
    /// Median over the batch.
    pub ms_per_sample: Option<f64>,
    /// Median over T.
    pub ms_per_step: Option<f64>,
    /// Times of the kernels on a CUDA device, from runs of their own; 0 runs on the CPU.
    kernels_n: usize,
    pub kernels_median_s: Option<f64>,
    kernels_min_s: Option<f64>,
    kernels_p95_s: Option<f64>,
    kernels_p99_s: Option<f64>,
    pub mean_firing_rate: f32,
}

impl LatencyResults {
    /// Of a batch that was run with T = `time_steps`.
    pub fn new(latency: &Latency, times: &Times, [batch, time_steps]: [usize; 2], threads: usize) -> Self {
        let kernels = Times::of(&latency.device);
        LatencyResults {
            threads,
            ms_per_sample: times.median_s.map(|median| 1e3 * median / batch as f64),
            ms_per_step: times.median_s.map(|median| 1e3 * median / time_steps as f64),
            kernels_n: kernels.n,
            kernels_median_s: kernels.median_s,
            kernels_min_s: kernels.min_s,
            kernels_p95_s: kernels.p95_s,
            kernels_p99_s: kernels.p99_s,
            mean_firing_rate: latency.mean_firing_rate,
        }
    }
}

/// Measures all combinations.
pub fn run(global: &Global, args: &LatencyArgs) -> anyhow::Result<u8> {
    let limits = args.limits.limits(100, 5.0)?;
    let settings = args.trained.settings(global, &args.axes, toml::Table::new(), 1)?;
    let cases: Vec<Case> = settings.iter().map(|setting| setting.case(Work::Infer)).collect();
    cases.iter().try_for_each(Case::check)?;
    cases.iter().try_for_each(|case| case.check_memory(case.usage()))?;
    cases.iter().try_for_each(|case| check_spiking(&case.config, "latency by step"))?;
    let limit_plan = LimitPlan::new(cases.first().map_or(0, |case| case.config.seed), &limits);
    let plan = (limit_plan, Of { checkpoint: args.trained.file() });
    let machine = machine();
    let against = args.baseline.open(SCHEMA, &machine, &plan)?;
    let progress = Progress::new(global, cases.len());
    let mut entries = Vec::new();
    for (index, case) in cases.iter().enumerate() {
        if !axes::goes_on(&progress, index, cases.len()) {
            break;
        }
        for &path in Path::of(&case.device) {
            let latency = of_case(case, path, &limits)?;
            entries.push(entry(case, path, &latency, machine.threads));
        }
    }
    drop(progress);
    let mut notes = vec![
        format!("ms from a batch in memory to its logits, all T steps: of n runs after {} warm-up runs", limits.warmup),
        "ms/sample: median / batch; ms/step: median / T; kernels: median on a CUDA device; rate: spikes per neuron and step".into(),
    ];
    notes.extend(note(cases.first()));
    let tables = tables(&entries);
    Report { schema: SCHEMA, machine, plan, entries, notes, tables }.print(global, against)
}

fn entry(case: &Case, path: Path, latency: &Latency, threads: usize) -> Timed {
    let times = Times::of(&latency.host);
    Entry {
        key: (Way { path, dataset: dataset(case) }, NetworkKey::new(&case.config, case.shape, &case.device)),
        times,
        results: LatencyResults::new(latency, &times, [case.config.batch, case.config.time_steps], threads),
        config: case.config.clone(),
    }
}

/// A table a network, image size and device.
fn tables(entries: &[Timed]) -> Vec<Table> {
    let title = |entry: &Timed| entry.key.1.title();
    let columns = ["path", "neuron", "bits", "T", "batch", "n", "p50", "p95", "p99", "min", "ms/sample", "ms/step", "kernels", "rate"];
    let groups = entries.chunk_by(|a, b| title(a) == title(b));
    groups
        .map(|group| Table { title: title(&group[0]), columns: columns.into(), words: 2, rows: group.iter().map(cells).collect() })
        .collect()
}

fn cells(Entry { key: (Way { path, .. }, key), times, results, .. }: &Timed) -> Vec<String> {
    vec![
        path.name().into(),
        key.neuron.into(),
        key.weight_bits.to_string(),
        key.time_steps.to_string(),
        key.batch.to_string(),
        times.n.to_string(),
        milli(times.median_s),
        milli(times.p95_s),
        milli(times.p99_s),
        milli(times.min_s),
        optional(results.ms_per_sample),
        optional(results.ms_per_step),
        milli(results.kernels_median_s),
        four_digits(f64::from(results.mean_firing_rate)),
    ]
}
