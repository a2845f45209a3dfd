//! `dsr bench throughput`: training steps and inferences of lists of settings.

use clap::{ArgAction, Args};
use serde::Serialize;
use toml::Table as Settings;

use super::axes::{self, Axes, NetworkKey};
use super::baseline::BaselineFlags;
use super::report::{Entry, Report};
use super::trained::{Of, TrainedFlags, dataset, note};
use crate::bench::{Case, Timing, Work, time_steps};
use crate::cli::Global;
use crate::cli::numbers::{MAX_REPEATS, MAX_WARMUP, count, up_to};
use crate::cli::progress::Progress;
use crate::cli::tables::{Table, four_digits, optional};
use crate::device::machine::machine;
use crate::settings::Config;

const SCHEMA: &str = "dsr-bench-throughput";

/// Times training steps and inferences.
///
/// Every flag with a list is an axis: all combinations are measured, one after the other, each on a new network. A training step
/// is forward, cross-entropy, backward, update and the weights of the next forward; an inference runs with the batch-norm
/// statistics of its own images, so that it fires as training does. Constants are those of the recipes cifar10-if and cifar10-lif
/// unless given; --widths without --blocks has two blocks a stage. Images are 32x32x3, 48x48x2 frames for vgg, 224x224x3 for
/// imagenet. With --checkpoint the network is a trained one, with its own batch-norm statistics and settings, on samples of its own data.
///
/// Results have median, min and max of the timed steps, and the peak memory of the process during each case: measure one case
/// a process where that number matters.
#[derive(Args)]
#[command(allow_negative_numbers = true, args_override_self = true)]
pub struct ThroughputArgs {
    #[command(flatten)]
    axes: Axes,
    #[command(flatten)]
    trained: TrainedFlags,
    /// What is timed.
    #[arg(long, value_enum, value_name = "MODE,…", value_delimiter = ',', action = ArgAction::Set, num_args = 1, default_value = "train,infer")]
    #[arg(help_heading = "Measurement")]
    mode: Vec<Work>,
    /// Learning rate of the training steps [default: 0.1, or the checkpoint's].
    #[arg(long, value_name = "X", help_heading = "Measurement")]
    lr: Option<f64>,
    /// Steps before the timed ones.
    #[arg(long, value_name = "N", default_value = "2", value_parser = up_to::<MAX_WARMUP>, help_heading = "Measurement")]
    warmup: usize,
    /// Timed steps.
    #[arg(long, value_name = "N", default_value = "5", value_parser = count::<MAX_REPEATS>, help_heading = "Measurement")]
    repeats: usize,
    #[command(flatten)]
    baseline: BaselineFlags,
}

#[derive(Serialize)]
struct Plan {
    seed: u64,
    /// Steps before the timed ones.
    warmup: usize,
}

#[derive(Serialize)]
struct Mode {
    mode: Work,
    /// None for random images.
    dataset: Option<String>,
}

type Timed = Entry<(Mode, NetworkKey), Results>;

#[derive(Serialize)]
struct Results {
    threads: usize,
    images_per_second: Option<f64>,
    ms_per_image_and_step: Option<f64>,
    mean_firing_rate: f32,
    kept_bytes: usize,
    /// 0 on the CPU.
    device_bytes: usize,
    peak_rss_bytes: Option<u64>,
}

/// Measures all combinations.
pub fn run(global: &Global, args: &ThroughputArgs) -> anyhow::Result<u8> {
    let mut flags = Settings::new();
    if let Some(lr) = args.lr {
        flags.insert("lr".into(), lr.into());
    }
    let settings = args.trained.settings(global, &args.axes, flags, 32)?;
    let cases: Vec<Case> = settings.iter().flat_map(|setting| args.mode.iter().map(|&work| setting.case(work))).collect();
    cases.iter().try_for_each(Case::check)?;
    cases.iter().try_for_each(|case| case.check_memory(case.usage()))?;
    let seed = cases.first().map_or(0, |case| case.config.seed);
    let plan = (Plan { seed, warmup: args.warmup }, Of { checkpoint: args.trained.file() });
    let machine = machine();
    let against = args.baseline.open(SCHEMA, &machine, &plan)?;
    let progress = Progress::new(global, cases.len());
    let mut entries = Vec::new();
    for (index, case) in cases.iter().enumerate() {
        if !axes::goes_on(&progress, index, cases.len()) {
            break;
        }
        let timing = time_steps(case, args.warmup, args.repeats)?;
        entries.push(entry(case, &timing, machine.threads));
    }
    drop(progress);
    let (n, warmup) = (args.repeats, args.warmup);
    let mut notes =
        vec![format!("seconds per step: median, min and max of n = {n} after {warmup} warm-up steps; rate: spikes per neuron and step")];
    notes.extend(note(cases.first()));
    let tables = tables(&entries);
    Report { schema: SCHEMA, machine, plan, entries, notes, tables }.print(global, against)
}

fn entry(case: &Case, timing: &Timing, threads: usize) -> Timed {
    let (times, &Config { batch, time_steps, .. }) = (timing.times(), &case.config);
    Entry {
        key: (Mode { mode: case.work, dataset: dataset(case) }, NetworkKey::new(&case.config, case.shape, &case.device)),
        times,
        results: Results {
            threads,
            images_per_second: times.median_s.map(|median| batch as f64 / median),
            ms_per_image_and_step: times.median_s.map(|median| 1000.0 * median / (batch * time_steps) as f64),
            mean_firing_rate: timing.mean_firing_rate,
            kept_bytes: timing.kept_bytes,
            device_bytes: timing.device_bytes,
            peak_rss_bytes: timing.peak_rss_bytes,
        },
        config: case.config.clone(),
    }
}

/// A table a network, image size and device.
fn tables(entries: &[Timed]) -> Vec<Table> {
    let title = |entry: &Timed| entry.key.1.title();
    let groups = entries.chunk_by(|a, b| title(a) == title(b));
    let columns = ["mode", "neuron", "bits", "T", "batch", "median s", "min s", "max s", "img/s", "ms/img/T", "rate", "kept MB", "peak MB"];
    groups
        .map(|group| Table { title: title(&group[0]), columns: columns.into(), words: 2, rows: group.iter().map(cells).collect() })
        .collect()
}

fn cells(Entry { key: (Mode { mode, .. }, key), times, results, .. }: &Timed) -> Vec<String> {
    let megabytes = |bytes: u64| format!("{:.1}", bytes as f64 / 1e6);
    vec![
        if *mode == Work::Train { "train" } else { "infer" }.into(),
        key.neuron.into(),
        key.weight_bits.to_string(),
        key.time_steps.to_string(),
        key.batch.to_string(),
        optional(times.median_s),
        optional(times.min_s),
        optional(times.max_s),
        optional(results.images_per_second),
        optional(results.ms_per_image_and_step),
        four_digits(f64::from(results.mean_firing_rate)),
        megabytes(results.kept_bytes as u64),
        results.peak_rss_bytes.map_or("-".into(), megabytes),
    ]
}
