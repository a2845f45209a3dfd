//! `dsr profile`: where the time of a training step or an inference goes.

mod table;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, ValueEnum};

use crate::atomic_file;
use crate::bench::{Work, usual_shape};
use crate::clock::{Op, Phase};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::profile::activity::{accuracy_by_steps, activity};
use crate::profile::collectives::{Group, OnLink};
use crate::profile::predict::{Cost, LayerPrediction, Prediction, Training, predict, predict_shared};
use crate::profile::{Amount, GpuName, Images, Profile, Subject, page::page, profile};
use crate::settings::{Config, OptimizerKind};
use crate::settings::{models, recipes};

use super::numbers::{MAX_WARMUP, count, up_to};
use super::outputs::Written;
use super::progress::Progress;
use super::settings::{self, NetworkFlags};
use super::{DONE, Global, Output, complain, dataset, outputs, say, say_lines};

/// Steps with timers: the spans of all of them are in memory.
const MAX_STEPS: usize = 10_000;
/// GPUs that share a predicted batch.
const MAX_GPUS: usize = 4096;

/// Measures where the time of a training step or an inference goes, layer by layer and operation by operation.
///
/// Images are random and the settings those of `dsr bench throughput`, unless --dataset or --checkpoint is given. Several steps are
/// taken, with timers and without in turns; the one with the median time is shown, and its rows add up to its wall time. Operations
/// are counted from the spikes of one more forward pass on the last batch.
#[derive(Args)]
#[command(allow_negative_numbers = true, args_override_self = true)]
pub struct ProfileArgs {
    #[command(flatten)]
    network: NetworkFlags,
    /// Number of time steps T.
    #[arg(short = 'T', long, value_name = "N", visible_alias = "timesteps", alias = "time_steps")]
    #[arg(help_heading = "Measurement")]
    time_steps: Option<usize>,
    /// Samples computed at once [default: 32, or the data set's].
    #[arg(short, long, value_name = "N", visible_alias = "batch-size", help_heading = "Measurement")]
    batch: Option<usize>,
    /// Checkpoint or run folder: its network, settings and data set.
    #[arg(long, value_name = "FILE", help_heading = "Measurement")]
    checkpoint: Option<PathBuf>,
    /// What is profiled.
    #[arg(long, value_enum, default_value = "train", help_heading = "Measurement")]
    mode: Work,
    /// Steps with timers; as many without are taken between them.
    #[arg(long, value_name = "N", default_value = "5", value_parser = count::<MAX_STEPS>, help_heading = "Measurement")]
    steps: usize,
    /// Steps before them.
    #[arg(long, value_name = "N", default_value = "2", value_parser = up_to::<MAX_WARMUP>, help_heading = "Measurement")]
    warmup: usize,
    /// What a line of the table stands for.
    #[arg(long, value_enum, default_value = "layer", help_heading = "Results")]
    by: By,
    /// Writes the step as a Chrome trace (JSON), for ui.perfetto.dev.
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    trace: Option<PathBuf>,
    /// Writes a page with charts: time, memory, firing rates, potentials, and accuracy against T for a checkpoint. Spikes and
    /// potentials are those of an inference with the network as it was before the steps.
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    html: Option<PathBuf>,
    /// Adds what the step should cost on a GPU by its data sheet; nothing of it is measured.
    #[arg(long, value_enum, value_name = "GPU", help_heading = "Results")]
    predict: Option<GpuName>,
    /// With --predict: so many of these GPUs share the batch, with what their exchanges should cost on NVLink and on 100 Gbit/s.
    #[arg(long, value_name = "N", requires = "predict", value_parser = count::<MAX_GPUS>, help_heading = "Results")]
    ranks: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum By {
    Layer,
    Op,
}

/// Profiles as asked.
///
/// # Errors
/// One line that says what is wrong with settings, data or checkpoint.
pub fn run(global: &Global, args: ProfileArgs) -> anyhow::Result<u8> {
    let trace = Written { flag: "trace", ending: "json", begins: b"{\"displayTimeUnit\"" };
    let html = Written { flag: "html", ending: "html", begins: b"<!DOCTYPE html>" };
    args.trace.iter().try_for_each(|file| trace.check(file))?;
    args.html.iter().try_for_each(|file| html.check(file))?;
    outputs::check_apart(&[("html", args.html.as_deref()), ("trace", args.trace.as_deref())])?;
    let checkpoint = args.checkpoint.as_deref().map(settings::checkpoint_file);
    let (mut config, is_random) = config(global, &args, checkpoint.as_deref())?;
    config.check()?;
    if let Some(ranks) = args.ranks.filter(|&ranks| ranks > 1) {
        let problem = match args.mode {
            Work::Infer => format!("{ranks}: GPUs exchange nothing in an inference; leave it out, or take --mode train"),
            Work::Train => format!("{ranks} GPUs cannot share a batch of {}; give a larger -b, or fewer", config.batch),
        };
        if args.mode == Work::Infer || ranks > config.batch {
            return Err(Error::config("ranks", problem).into());
        }
    }
    settings::check_spiking(&config, "profile")?;
    global.tell_settings(&config)?;
    super::use_threads(config.threads)?;
    let device = global.open_device()?;
    let images = if is_random {
        let shape = usual_shape(&config.model);
        let classes = if config.model.starts_with("imagenet") { 1000 } else { 10 };
        models::build(&config.architecture(), shape, classes)?;
        Images::Random { shape, classes }
    } else {
        let dataset = dataset::ready(global, &config)?;
        settings::refuse_idle_share(&settings::table(&args.network)?, &dataset)?;
        if let Some(path) = &checkpoint {
            settings::tell_division(global, path, &config, &dataset)?;
            if args.mode == Work::Infer {
                settings::refuse_idle_seed(global, &dataset)?; // training steps take samples in the order of a seed
            }
        }
        if args.mode == Work::Infer && args.batch.is_none() {
            config.batch = config.batch.min(dataset.test.len()); // a batch of the training may be more
        }
        Images::Dataset(Arc::new(dataset))
    };
    let mut subject = Subject::new(args.mode, config, images.clone(), checkpoint.as_deref(), &device)?;
    checkpoint.iter().try_for_each(|path| settings::tell_unchosen(global, path, &subject.config))?;
    if matches!(device, Device::Cuda(_)) && !global.quiet {
        complain("note: on a device every layer is waited for, so kernels do not overlap; the steps without timers are replayed as usual");
    }
    let (progress, steps) = (Progress::new(global, 0), args.warmup + 2 * args.steps);
    let mut tell = |done: usize| progress.at("step", done, steps, "");
    let (mut profile, shown) = profile(args.mode, &mut subject, args.warmup, args.steps, &mut tell)?;
    drop(progress);
    if let Some(gpu) = args.predict {
        let shape = [subject.config.batch, subject.batch().frames];
        let training = Training { gradient: subject.config.gradient(), adam: subject.config.optimizer != OptimizerKind::Sgd };
        let ranks = args.ranks.filter(|&ranks| ranks > 1);
        profile.prediction = Some(match ranks {
            Some(ranks) => predict_shared(gpu, ranks, &subject.network, shape, training),
            None => predict(gpu, &subject.network, shape, (args.mode == Work::Train).then_some(training)),
        });
    }
    if args.html.is_some() {
        // Anew, since the steps that were profiled have trained the network; spikes have the same bits on every device.
        let most = subject.dataset().map_or(usize::MAX, |dataset| dataset.test.len());
        let config = Config { batch: subject.config.batch.min(most), ..subject.config.clone() };
        let mut fresh = Subject::new(Work::Infer, config, images, checkpoint.as_deref(), &Device::Cpu)?;
        profile.activity = Some(activity(&mut fresh)?);
        if let (Some(path), Some(dataset)) = (&checkpoint, subject.dataset()) {
            fresh.network.place(&device)?;
            profile.accuracy = Some(accuracy_by_steps(path, &mut fresh.network, dataset, fresh.config.batch)?);
        }
    }
    if let Some(file) = &args.trace {
        atomic_file::write_result(file, shown.trace(&profile).to_string().as_bytes())?;
    }
    if let Some(file) = &args.html {
        atomic_file::write_result(file, page(&profile).as_bytes())?;
    }
    match global.output {
        Output::Json => say(&serde_json::to_string(&profile)?),
        Output::Text => say_lines(&text(&profile, args.by)?),
        output => say(table::records(&profile).shown(output)?.trim_end()),
    }
    Ok(DONE)
}

/// The settings, and whether images are random.
fn config(global: &Global, args: &ProfileArgs, checkpoint: Option<&std::path::Path>) -> Result<(Config, bool)> {
    let mut flags = settings::table(&args.network)?;
    for (name, value) in [("time_steps", args.time_steps), ("batch", args.batch)] {
        if let Some(value) = value {
            flags.insert(name.into(), i64::try_from(value).unwrap_or(i64::MAX).into());
        }
    }
    if let Some(path) = checkpoint {
        let config = settings::of_checkpoint(path, settings::layers(global, flags)?)?;
        let given = settings::table(&args.network)?;
        settings::refuse_untrained(&given, &config, &[])?;
        settings::refuse_foreign(&given, &config)?;
        settings::refuse_other_readout(&config, path)?;
        return Ok((config, false));
    }
    if flags.contains_key("dataset") {
        let config = settings::fresh(None, settings::layers(global, flags.clone())?)?;
        settings::refuse_foreign(&flags, &config)?;
        settings::refuse_idle(&flags, std::slice::from_ref(&config))?;
        return Ok((config, false));
    }
    if let (Some(toml::Value::Array(widths)), None) = (flags.get("widths"), flags.get("blocks")) {
        let two = vec![toml::Value::Integer(2); widths.len()]; // as in PreAct-ResNet-18
        flags.insert("blocks".into(), toml::Value::Array(two));
    }
    let mut layers = settings::layers(global, flags.clone())?;
    let neuron = recipes::last(&layers, "neuron").and_then(toml::Value::as_str).unwrap_or("if");
    let recipe = recipes::recipe(if neuron == "lif" { "cifar10-lif" } else { "cifar10-if" })?;
    layers.insert(0, recipes::given(toml::Table::from_iter([("batch".into(), 32.into())])));
    layers.insert(0, recipe);
    let config = recipes::resolve(&Config::default(), &layers)?;
    settings::refuse_idle(&flags, std::slice::from_ref(&config))?;
    Ok((config, true))
}

fn milliseconds(nanoseconds: u64) -> String {
    format!("{:.3}", nanoseconds as f64 / 1e6)
}

/// Operations or bytes a nanosecond: G/s.
fn rate(amount: Option<u64>, nanoseconds: u64) -> String {
    match amount {
        Some(amount) if amount > 0 && nanoseconds > 0 => format!("{:.2}", amount as f64 / nanoseconds as f64),
        _ => "-".into(),
    }
}

/// Cuts a name to the width of its column.
fn fit(name: &str, width: usize) -> String {
    let count = name.chars().count();
    if count <= width { name.into() } else { name.chars().take(width - 1).chain(['~']).collect() }
}

fn text(profile: &Profile, by: By) -> std::result::Result<String, std::fmt::Error> {
    let mut out = String::new();
    let machine = &profile.machine;
    let commit = machine.commit.map_or(String::new(), |commit| format!(", commit {commit}"));
    let setting = |name: &str| profile.config.get(name).map_or_else(String::new, |value| value.to_string().replace('"', ""));
    let load = machine.load.map_or(String::new(), |load| format!(", load {load} before"));
    writeln!(out, "dsr {} ({}, {}{commit}), seed {}", machine.version, machine.build, machine.target, profile.seed)?;
    writeln!(out, "{}, {}, {} threads of {} cores, {}{load}", machine.cpu, machine.isa, machine.threads, machine.cores, profile.device)?;
    writeln!(
        out,
        "{} {}, {},\nT = {}, batch {}, {}-bit weights, images: {}",
        if profile.mode == Work::Train { "training step of" } else { "inference of" },
        profile.model,
        setting("neuron"),
        setting("time_steps"),
        setting("batch"),
        setting("weight_bits"),
        profile.images
    )?;
    let wall = &profile.wall_ns;
    let (least, most) = (wall.with_timers.iter().min(), wall.with_timers.iter().max());
    writeln!(
        out,
        "wall time {} ms: median of {} steps ({} .. {}), {} before them\n{}\n",
        milliseconds(wall.shown),
        wall.with_timers.len(),
        milliseconds(least.copied().unwrap_or(0)),
        milliseconds(most.copied().unwrap_or(0)),
        profile.warmup,
        match wall.measured_overhead() {
            Some(cost) => format!("timers cost {:.2} %", 100.0 * cost),
            None => "timers cost less than can be measured here".into(),
        }
    )?;
    match by {
        By::Layer => by_layer(&mut out, profile)?,
        By::Op => by_op(&mut out, profile)?,
    }
    if let Some(prediction) = &profile.prediction {
        predicted(&mut out, prediction)?;
    }
    Ok(out)
}

/// Lines of what no span covers, and of the whole.
fn ends(profile: &Profile) -> [(&'static str, u64); 2] {
    [("not accounted for", profile.not_accounted_ns), ("wall time", profile.wall_ns.shown)]
}

fn share(profile: &Profile, nanoseconds: u64) -> f64 {
    100.0 * nanoseconds as f64 / profile.wall_ns.shown as f64
}

fn by_layer(out: &mut String, profile: &Profile) -> std::fmt::Result {
    writeln!(out, "times in ms; Gop/s of forward: synaptic operations, actual and dense;\nkept: MB for backward; peak: MB of the process")?;
    writeln!(
        out,
        "{:14} {:>10} {:>6} {:>8} {:>8} {:>4} {:>6} {:>6} {:>5} {:>4}",
        "layer", "H x W x C", "rate", "forward", "backward", "%", "Gop/s", "dense", "kept", "peak"
    )?;
    for layer in &profile.layers {
        let megabytes = |bytes: Option<u64>| bytes.map_or("-".into(), |bytes| format!("{:.2}", bytes as f64 / 1e6));
        writeln!(
            out,
            "{:14} {:>10} {:>6.4} {:>8} {:>8} {:>4.1} {:>6} {:>6} {:>5} {:>4}",
            fit(&layer.layer, 14),
            layer.shape.map(|n| n.to_string()).join("x"),
            layer.firing_rate,
            milliseconds(layer.forward_ns),
            milliseconds(layer.backward_ns),
            100.0 * layer.share,
            rate(Some(layer.operations), layer.forward_ns),
            rate(Some(layer.dense_operations), layer.forward_ns),
            megabytes(layer.kept_bytes),
            layer.peak_rss_bytes.map_or("-".into(), |bytes| format!("{:.0}", bytes as f64 / 1e6))
        )?;
    }
    let total = |of: fn(&crate::profile::LayerRow) -> u64| profile.layers.iter().map(of).sum::<u64>();
    let (forward, backward) = (total(|layer| layer.forward_ns), total(|layer| layer.backward_ns));
    let all = format!(" {:>8} {:>8} {:>4.1}", milliseconds(forward), milliseconds(backward), share(profile, forward + backward));
    writeln!(out, "{:32}{all}", "all layers")?;
    let mut line = |name: &str, time: u64| writeln!(out, "{name:32} {:>17} {:>4.1}", milliseconds(time), share(profile, time));
    for row in profile.rows.iter().filter(|row| row.layer.is_none()) {
        let phase = row.phase.map_or_else(String::new, |phase| format!("{phase:?}: ").to_lowercase());
        line(&format!("{phase}{}", row.op.name()), row.time_ns)?;
    }
    ends(profile).into_iter().try_for_each(|(name, time)| line(name, time))
}

fn by_op(out: &mut String, profile: &Profile) -> std::fmt::Result {
    let mut ops: BTreeMap<(Option<u8>, Op), (Option<Phase>, usize, u64, bool, Amount)> = BTreeMap::new();
    for row in &profile.rows {
        let key = (row.phase.map(|phase| phase as u8), row.op);
        let entry = ops.entry(key).or_insert((row.phase, 0, 0, false, Amount::default()));
        entry.1 += row.calls;
        entry.2 += row.time_ns;
        entry.3 |= row.shared_loop;
        entry.4.add(row.amount);
    }
    writeln!(out, "* shared a parallel loop, split by looking at every fifth strip of positions")?;
    writeln!(out, "{:10} {:22}{:>6}{:>11}{:>6}{:>8}{:>8}{:>8}", "phase", "operation", "calls", "ms", "%", "Gop/s", "dense", "GB/s")?;
    for ((_, op), (phase, calls, time, is_shared, amount)) in &ops {
        let phase = phase.map_or_else(|| "-".into(), |phase| format!("{phase:?}").to_lowercase());
        writeln!(
            out,
            "{phase:10} {:22}{calls:>6}{:>11}{:>6.1}{:>8}{:>8}{:>8}",
            format!("{}{}", op.name(), if *is_shared { " *" } else { "" }),
            milliseconds(*time),
            share(profile, *time),
            rate(amount.operations, *time),
            rate(amount.dense_operations, *time),
            rate(amount.bytes, *time)
        )?;
    }
    ends(profile).into_iter().try_for_each(|(name, time)| writeln!(out, "{name:39}{:>11}{:>6.1}", milliseconds(time), share(profile, time)))
}

fn predicted(out: &mut String, prediction: &Prediction) -> std::fmt::Result {
    let gpu = &prediction.gpu;
    writeln!(out, "\nPrediction for {}, not measured:\nmicroseconds by data sheet and shapes (docs/predict.md)", gpu.name)?;
    match prediction.occupancy {
        Some(share) => writeln!(out, "{};\noccupancy of the spike convolution {:.0} % of the warps", gpu.source, 100.0 * share)?,
        None => writeln!(out, "{};\nthis build has no kernels, so their occupancy is not known", gpu.source)?,
    }
    if prediction.layers.iter().any(|layer| layer.blocks.is_some()) {
        return predicted_inference(out, prediction);
    }
    writeln!(out, "{:22}{:>12}{:>12}{:>12}  forward is bound by", "layer", "forward", "backward", "sum")?;
    let mut line = |name: &str, forward: &Cost, backward: &Cost| {
        let [forward_us, backward_us] = [forward, backward].map(|cost| 1e6 * cost.seconds);
        let (sum, bound) = (forward_us + backward_us, if forward_us > 0.0 { forward.bound() } else { "" });
        let line = format!("{:22}{forward_us:>12.1}{backward_us:>12.1}{sum:>12.1}  {bound}", fit(name, 21));
        writeln!(out, "{}", line.trim_end())
    };
    for layer in &prediction.layers {
        line(&layer.layer, &layer.forward, &layer.backward)?;
    }
    line("optimiser", &Cost::default(), &prediction.optimizer)?;
    writeln!(out, "{:46}{:>12.1}", "step", 1e6 * prediction.seconds)?;
    prediction.group.as_ref().map_or(Ok(()), |group| predicted_group(out, group, prediction.seconds))
}

/// What each layer launches in an inference, in how many blocks, and how many K stages a block goes through.
fn predicted_inference(out: &mut String, prediction: &Prediction) -> std::fmt::Result {
    writeln!(out, "{:22}{:>10}{:>10}{:>8}{:>8}{:>8}  bound by", "layer", "time", "launches", "blocks", "parts", "stages")?;
    for LayerPrediction { layer, forward, blocks, .. } in &prediction.layers {
        let numbers =
            blocks.map_or([String::new(), String::new(), String::new()], |b| [b.blocks, b.parts, b.stages].map(|n| n.to_string()));
        let [blocks, parts, stages] = numbers;
        let (us, launches, bound) = (1e6 * forward.seconds, forward.launches, forward.bound());
        writeln!(out, "{:22}{us:>10.1}{launches:>10}{blocks:>8}{parts:>8}{stages:>8}  {bound}", fit(layer, 21))?;
    }
    let launches: u32 = prediction.layers.iter().map(|layer| layer.forward.launches).sum();
    writeln!(out, "{:22}{:>10.1}{launches:>10}", "inference", 1e6 * prediction.seconds)?;
    let early = |seconds| writeln!(out, "{:22}{:>10.1}  DSR_DEPENDENT_LAUNCH=1", "with early launches", 1e6 * seconds);
    prediction.seconds_early.map_or(Ok(()), early)
}

fn predicted_group(out: &mut String, group: &Group, compute_s: f64) -> std::fmt::Result {
    let Group { ranks, samples, alone_s, exchanges, links, .. } = group;
    writeln!(out, "\n{ranks} of them share the batch, {samples} samples each: the table above is that of one.")?;
    writeln!(out, "Exchanges of a step by arithmetic, not measured, in microseconds:")?;
    let mut line = |what: &str, count: String, bytes: String, of_links: Vec<String>| {
        let columns: String = of_links.iter().map(|column| format!("{column:>14}")).collect();
        writeln!(out, "{what:30}{count:>6}{bytes:>12}{columns}")
    };
    let us = |seconds: f64| format!("{:.1}", 1e6 * seconds);
    let percent = |share: f64| format!("{:.0} %", 100.0 * share);
    let weights =
        |on: &OnLink| exchanges.iter().zip(&on.seconds).filter(|(kind, _)| kind.is_large).map(|(_, seconds)| seconds).sum::<f64>();
    let of = |value: &dyn Fn(&OnLink) -> String| links.iter().map(value).collect::<Vec<String>>();
    line("exchanges", "number".into(), "MB sent".into(), of(&|on| on.link.name.into()))?;
    for (at, kind) in exchanges.iter().enumerate() {
        let megabytes = kind.bytes_to_each * (ranks - 1) as f64 / 1e6;
        line(kind.what, kind.count.to_string(), format!("{megabytes:.3}"), of(&|on| us(on.seconds[at])))?;
    }
    let mut total = |what: &str, value: &dyn Fn(&OnLink) -> String| line(what, String::new(), String::new(), of(value));
    total("of these behind backward", &|on| us(on.hidden_s))?;
    total("share of weight gradients", &|on| percent(on.hidden_s / weights(on)))?;
    total("step, nothing hidden", &|on| us(on.step_s[0]))?;
    total("step, that hidden", &|on| us(on.step_s[1]))?;
    total("efficiency, nothing hidden", &|on| percent(on.efficiency[0]))?;
    total("efficiency, that hidden", &|on| percent(on.efficiency[1]))?;
    let times = "compute of one, of one with all";
    writeln!(out, "{times:48}{:>14}{:>14}", us(compute_s), us(*alone_s))
}
