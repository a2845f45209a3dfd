//! `dsr bench decision`: accuracy and latency against the time step at which the prediction is read.

use std::path::{Path as File, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde::Serialize;

use super::axes::NetworkKey;
use super::baseline::BaselineFlags;
use super::latency::{LatencyResults, LimitFlags};
use super::report::{Entry, Report};
use crate::bench::decision::{AfterStep, Decisions};
use crate::bench::latency::{Latency, Path, of_network};
use crate::bench::times::{Limits, Times};
use crate::bench::{Case, RandomImages, Trained, Work, usual_shape};
use crate::cli::dataset;
use crate::cli::numbers::count;
use crate::cli::progress::Progress;
use crate::cli::settings::{self, NetworkFlags};
use crate::cli::tables::{Table, four_digits, milli, optional, percent};
use crate::cli::{Global, stop, use_threads};
use crate::device::Device;
use crate::device::machine::machine;
use crate::error::{Error, Result};
use crate::evaluation::{not_finite, wilson_interval};
use crate::network::{Input, Network};
use crate::settings::recipes;
use crate::settings::{Config, ReadoutKind, Use};
use crate::training::checkpoint;

const SCHEMA: &str = "dsr-bench-decision";
/// Samples that are run at once to see their predictions; it changes none of them.
const AT_ONCE: usize = 64;

/// Samples whose predictions are read.
const MAX_SAMPLES: usize = 1 << 20;

/// Accuracy and latency if the prediction is read after each time step, and when it stops changing.
///
/// One run over T steps shows the prediction after every t: its first t steps give the same logits, bit for bit, as
/// `dsr eval -T t`. With --checkpoint the samples are the test split of its data set; without, random images and a new network, and
/// there is no accuracy.
///
/// The engine goes through the network layer by layer, each with all T steps: a run with T steps takes its whole time, however early
/// its samples are decided. The latency beside t is that of a run of its own with T = t, which is how an early decision saves time.
///
/// The decision of a sample is the first step after which its prediction never changes again.
#[derive(Args)]
#[command(allow_negative_numbers = true, args_override_self = true)]
pub struct DecisionArgs {
    #[command(flatten)]
    network: NetworkFlags,
    /// Checkpoint or run folder.
    #[arg(long, value_name = "FILE", help_heading = "Decision")]
    checkpoint: Option<PathBuf>,
    /// Most steps T [default: that of the training].
    #[arg(short = 'T', long, value_name = "N", visible_alias = "timesteps", alias = "time_steps", help_heading = "Decision")]
    time_steps: Option<u32>,
    /// Samples of a timed run.
    #[arg(short, long, value_name = "N", default_value_t = 1, visible_alias = "batch-size", help_heading = "Decision")]
    batch: u32,
    /// Samples whose predictions are read: the first of the test split (all without this), or random ones (256 without this).
    #[arg(long, value_name = "N", value_parser = count::<MAX_SAMPLES>, help_heading = "Decision")]
    samples: Option<usize>,
    /// Steps t whose latency is measured; all of them without this.
    #[arg(long, value_name = "N,…", value_delimiter = ',', help_heading = "Decision")]
    at: Vec<usize>,
    #[command(flatten)]
    limits: LimitFlags,
    #[command(flatten)]
    baseline: BaselineFlags,
}

#[derive(Serialize)]
struct Plan {
    seed: u64,
    warmup: usize,
    repeats: usize,
    seconds: f64,
    checkpoint: Option<PathBuf>,
    /// Samples whose predictions were read.
    samples: usize,
    /// Mean first step after which a prediction never changes again.
    mean_decision_step: f64,
    /// Mean step of the first spike in the last layer, over the samples that have one.
    mean_first_spike_step: Option<f64>,
}

#[derive(Serialize)]
struct Read {
    /// Steps after which the prediction is read, and T of the timed run.
    t: usize,
    /// None for random images.
    dataset: Option<String>,
}

/// `time_steps` of the network is T of the run whose predictions were read.
type AtStep = Entry<(Read, NetworkKey), Results>;

/// What is known after t steps; shares of the samples.
#[derive(Serialize)]
struct Results {
    accuracy: Option<f64>,
    /// Ends of the 95 % interval.
    accuracy_low: Option<f64>,
    accuracy_high: Option<f64>,
    /// The prediction is that after T steps.
    agreeing: f64,
    /// The prediction does not change any more.
    decided: f64,
    /// No spike in the last layer so far.
    silent: Option<f64>,
    threads: usize,
    ms_per_sample: Option<f64>,
    ms_per_step: Option<f64>,
    kernels_median_s: Option<f64>,
}

/// A network with what it is shown.
struct Shown {
    network: Network,
    dataset: Option<String>,
    shape: [usize; 3],
    /// `[N][frames][H][W][C]`.
    images: Vec<f32>,
    frames: usize,
    /// `[N]`, or empty.
    labels: Vec<u32>,
}

/// Reads the predictions of one run after every step, and times runs of every length.
pub fn run(global: &Global, args: &DecisionArgs) -> anyhow::Result<u8> {
    let limits = args.limits.limits(100, 2.0)?;
    let path = args.checkpoint.as_deref().map(settings::checkpoint_file);
    let config = config(global, args, path.as_deref())?;
    settings::check_spiking(&config, "step of a decision")?;
    use_threads(config.threads)?;
    let at: Vec<usize> = if args.at.is_empty() { (1..=config.time_steps).collect() } else { args.at.clone() };
    if let Some(wrong) = at.iter().find(|t| !(1..=config.time_steps).contains(*t)) {
        return Err(Error::config("at", format!("{wrong} is not in 1..={}", config.time_steps)).into());
    }
    let machine = machine();
    let mut plan = Plan {
        seed: config.seed,
        warmup: limits.warmup,
        repeats: limits.repeats,
        seconds: limits.seconds,
        checkpoint: path.clone(),
        samples: 0,
        mean_decision_step: 0.0,
        mean_first_spike_step: None,
    };
    let against = args.baseline.open(SCHEMA, &machine, &plan)?;
    let device = global.open_device()?;
    let mut shown = match &path {
        Some(path) => of_checkpoint(global, args, &config, &device, path)?,
        None => random(&config, args.samples.unwrap_or(256))?,
    };
    shown.network.place(&device)?;
    let decisions = shown.decisions()?;
    if let (Some(index), Some(path)) = (decisions.not_finite, &path) {
        return Err(not_finite(path, &format!("test sample {index}")).into());
    }
    plan.samples = decisions.len();
    plan.mean_decision_step = decisions.mean_decision();
    plan.mean_first_spike_step = decisions.mean_first_spike();
    let progress = Progress::new(global, config.time_steps);
    let mut entries = Vec::new();
    for after in decisions.curve() {
        progress.at("after step", after.t, config.time_steps, "");
        let path = Path::of(&device)[0];
        let latency = if at.contains(&after.t) && !stop::is_asked() {
            shown.latency(after.t, config.batch, path, &limits)?
        } else {
            Latency::default()
        };
        entries.push(entry(&config, &shown, &device, &decisions, after, &latency, machine.threads));
    }
    drop(progress);
    let spikes = config.readout == ReadoutKind::Spikes;
    let first_spike = if spikes {
        format!(", mean first spike of the last layer in step {}", optional(plan.mean_first_spike_step))
    } else {
        String::new()
    };
    let silent = if spikes { "; silent: no spike of the last layer yet" } else { "" };
    let notes = vec![
        format!(
            "predictions of {} samples, read after each step t of one run with T = {}; mean decision after step {}{first_spike}",
            plan.samples,
            config.time_steps,
            four_digits(plan.mean_decision_step),
        ),
        format!("ms of runs of their own with T = t, batch {}: of n runs after {} warm-up runs", config.batch, limits.warmup),
        format!("agree: predicts what it will after T; decided: will not change any more{silent}"),
    ];
    let tables = vec![table(&entries)];
    Report { schema: SCHEMA, machine, plan, entries, notes, tables }.print(global, against)
}

/// Settings of the checkpoint, or those of a recipe; flags win over both.
fn config(global: &Global, args: &DecisionArgs, path: Option<&File>) -> Result<Config> {
    let mut flags = settings::table(&args.network)?;
    let network_flags = flags.clone();
    if let Some(time_steps) = args.time_steps {
        flags.insert("time_steps".into(), i64::from(time_steps).into());
    }
    flags.insert("batch".into(), i64::from(args.batch).into());
    let layers = settings::layers(global, flags)?;
    if let Some(path) = path {
        let config = settings::of_checkpoint(path, layers)?;
        settings::refuse_untrained(&network_flags, &config, &["crop_scale"])?;
        settings::refuse_foreign(&network_flags, &config)?;
        settings::refuse_other_readout(&config, path)?;
        return Ok(config);
    }
    if recipes::last(&layers, "dataset").is_some() {
        return Err(Error::config("dataset", "an untrained network has no accuracy; give --checkpoint, or no data set for random images"));
    }
    let is_lif = recipes::last(&layers, "neuron").and_then(toml::Value::as_str) == Some("lif");
    let config = settings::fresh(Some(if is_lif { "cifar10-lif" } else { "cifar10-if" }), layers)?;
    settings::refuse_idle(&network_flags, std::slice::from_ref(&config))?;
    Ok(config)
}

/// The network of a checkpoint and the first samples of the test split of its data set.
fn of_checkpoint(global: &Global, args: &DecisionArgs, config: &Config, device: &Device, path: &File) -> Result<Shown> {
    let dataset = Arc::new(dataset::ready(global, config)?);
    settings::tell_division(global, path, config, &dataset)?;
    settings::refuse_idle_share(&settings::table(&args.network)?, &dataset)?;
    settings::refuse_idle_seed(global, &dataset)?;
    config.check_memory(Use::Evaluate, dataset.shape, dataset.classes.len(), [config.batch, dataset.frames], device)?;
    let mut network = config.network(dataset.shape, dataset.classes.len())?;
    checkpoint::load(path, &mut network, None)?;
    settings::tell_unchosen(global, path, config)?;
    let Trained { images, labels, frames, .. } = Trained::first(path, &dataset, args.samples.unwrap_or(usize::MAX))?;
    Ok(Shown { network, dataset: Some(dataset.label()), shape: dataset.shape, images, frames, labels })
}

/// A new network, and random images.
fn random(config: &Config, samples: usize) -> Result<Shown> {
    let shape = usual_shape(&config.model);
    let case = Case { work: Work::Infer, config: config.clone(), shape, device: Device::Cpu, trained: None };
    case.check()?;
    case.check_memory(Use::Evaluate)?;
    let RandomImages { network, images, frames } = RandomImages::new(&case, samples)?;
    Ok(Shown { network, dataset: None, shape, images, frames, labels: Vec::new() })
}

impl Shown {
    fn sample(&self) -> usize {
        self.frames * self.shape.iter().product::<usize>()
    }

    fn decisions(&mut self) -> Result<Decisions> {
        let (sample, frames) = (self.sample(), self.frames);
        let mut decisions = Decisions::new(self.network.time_steps);
        for (index, images) in self.images.chunks(AT_ONCE * sample).enumerate() {
            let input = Input { data: images, batch: images.len() / sample, frames };
            let labels = if self.labels.is_empty() { &[] } else { &self.labels[index * AT_ONCE..][..input.batch] };
            decisions.add(&mut self.network, &input, labels)?;
        }
        Ok(decisions)
    }

    /// Times runs of the first samples with T = `t`; the images are repeated where there are fewer than `batch`.
    fn latency(&mut self, t: usize, batch: usize, path: Path, limits: &Limits) -> Result<Latency> {
        let frame = self.shape.iter().product::<usize>();
        let frames = if self.frames == 1 { 1 } else { t };
        let samples = self.images.chunks_exact(self.sample()).cycle().take(batch);
        let data: Vec<f32> = samples.flat_map(|sample| &sample[..frames * frame]).copied().collect();
        let whole = std::mem::replace(&mut self.network.time_steps, t);
        let latency = of_network(&mut self.network, &Input { data: &data, batch, frames }, path, limits);
        self.network.time_steps = whole;
        latency
    }
}

fn entry(
    config: &Config,
    shown: &Shown,
    device: &Device,
    decisions: &Decisions,
    after: AfterStep,
    latency: &Latency,
    threads: usize,
) -> AtStep {
    let network = NetworkKey::new(config, shown.shape, device);
    let n = decisions.len();
    let share = |count: usize| count as f64 / n as f64;
    let interval = after.correct.map(|correct| wilson_interval(correct, n));
    let times = Times::of(&latency.host);
    let LatencyResults { ms_per_sample, ms_per_step, kernels_median_s, .. } =
        LatencyResults::new(latency, &times, [config.batch, after.t], threads);
    Entry {
        key: (Read { t: after.t, dataset: shown.dataset.clone() }, network),
        times,
        results: Results {
            accuracy: after.correct.map(share),
            accuracy_low: interval.map(|[low, _]| low),
            accuracy_high: interval.map(|[_, high]| high),
            agreeing: share(after.agreeing),
            decided: share(after.decided),
            silent: (config.readout == ReadoutKind::Spikes).then(|| share(after.silent)),
            threads,
            ms_per_sample,
            ms_per_step,
            kernels_median_s,
        },
        config: config.clone(),
    }
}

fn table(entries: &[AtStep]) -> Table {
    let title = entries.first().map_or(String::new(), |Entry { key: (read, key), .. }| {
        let images = read.dataset.clone().unwrap_or_else(|| "random images".into());
        format!("{}, {}, {images} {}, {}", key.model, key.neuron, key.image, key.device)
    });
    let columns =
        vec!["t", "top-1", "95 % interval", "agree", "decided", "silent", "n", "p50 ms", "p95 ms", "min ms", "kernels", "ms/step"];
    let rows = entries.iter().map(|Entry { key: (read, _), times, results, .. }| {
        let interval = results.accuracy_low.zip(results.accuracy_high);
        vec![
            read.t.to_string(),
            percent(results.accuracy),
            interval.map_or("-".into(), |(low, high)| format!("{:.1}-{:.1}", 100.0 * low, 100.0 * high)),
            percent(Some(results.agreeing)),
            percent(Some(results.decided)),
            percent(results.silent),
            times.n.to_string(),
            milli(times.median_s),
            milli(times.p95_s),
            milli(times.min_s),
            milli(results.kernels_median_s),
            optional(results.ms_per_step),
        ]
    });
    Table { title, columns, words: 0, rows: rows.collect() }
}
