//! `dsr bench`: how fast networks train and infer on this machine.

use std::fmt::Write;
use std::io::IsTerminal;
use std::num::NonZeroUsize;

use clap::{ArgAction, Args, Subcommand};
use serde::Serialize;
use toml::{Table, Value};

use crate::bench::{Case, Timing, Work, time_steps, usual_shape};
use crate::config::{Config, NeuronKind};
use crate::device::Device;
use crate::error::Result;
use crate::machine::{Machine, machine};
use crate::recipes;

use super::settings::{self, LayerFlags};
use super::{DONE, Global, Output, complain, say};

/// Measures the speed of networks on random images.
#[derive(Args)]
#[command(arg_required_else_help = true)]
pub struct BenchArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Throughput(Box<ThroughputArgs>),
}

/// Times training steps and inferences.
///
/// Every flag with a list is an axis: all combinations are measured, one after the other, each on a new network. A training step
/// is forward, cross-entropy, backward, update and the weights of the next forward; an inference runs with the batch-norm
/// statistics of its own images, so that it fires as training does. Constants are those of the recipes cifar10-if and cifar10-lif
/// unless given; --widths without --blocks has two blocks a stage. Images are 32x32x3, 48x48x2 frames for vgg, 224x224x3 for
/// imagenet.
///
/// Results have median, min and max of the timed steps, and the peak memory of the process during each case: measure one case
/// a process where that number matters.
#[derive(Args)]
#[command(allow_negative_numbers = true, args_override_self = true, next_help_heading = "Network and data")]
pub struct ThroughputArgs {
    /// What is timed.
    #[arg(long, value_enum, value_name = "MODE,…", value_delimiter = ',', action = ArgAction::Set, num_args = 1, default_value = "train,infer")]
    mode: Vec<Work>,
    /// Networks by name; `dsr info` lists them [default: preact-resnet18].
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', action = ArgAction::Set, num_args = 1, alias = "arch", conflicts_with_all = ["widths", "blocks"])]
    model: Option<Vec<String>>,
    /// Neuron models [default: if].
    #[arg(long, value_enum, value_name = "NEURON,…", value_delimiter = ',', action = ArgAction::Set, num_args = 1)]
    neuron: Option<Vec<NeuronKind>>,
    /// Widths of the weights in the forward pass, such as 16,8 [default: 16].
    #[arg(long, value_name = "BITS,…", value_delimiter = ',', action = ArgAction::Set, num_args = 1, alias = "weight_bits")]
    weight_bits: Option<Vec<u32>>,
    /// Numbers of time steps T, such as 1,5,20 [default: 20].
    #[arg(short = 'T', long, value_name = "N,…", value_delimiter = ',', action = ArgAction::Set, num_args = 1)]
    #[arg(aliases = ["timesteps", "time_steps"])]
    time_steps: Option<Vec<u32>>,
    /// Samples computed at once, such as 1,32,128 [default: 32].
    #[arg(short, long, value_name = "N,…", value_delimiter = ',', action = ArgAction::Set, num_args = 1, alias = "batch-size")]
    batch: Option<Vec<u32>>,
    #[command(flatten)]
    layers: LayerFlags,
    /// Learning rate of the training steps [default: 0.1].
    #[arg(long, value_name = "X", help_heading = "Measurement")]
    lr: Option<f64>,
    /// Size of the images instead of the usual one of the network, such as 28x28x1.
    #[arg(long, value_name = "HxWxC", value_parser = parse_shape, help_heading = "Measurement")]
    image: Option<Shape>,
    /// Steps before the timed ones.
    #[arg(long, value_name = "N", default_value_t = 2, help_heading = "Measurement")]
    warmup: usize,
    /// Timed steps.
    #[arg(long, value_name = "N", default_value = "5", help_heading = "Measurement")]
    repeats: NonZeroUsize,
}

#[derive(Clone, Debug)]
struct Shape([usize; 3]);

fn parse_shape(text: &str) -> std::result::Result<Shape, String> {
    let numbers: Option<Vec<usize>> = text.split('x').map(|n| n.parse().ok().filter(|n| (1..=4096).contains(n))).collect();
    let shape = numbers.and_then(|numbers| <[usize; 3]>::try_from(numbers).ok());
    shape.map(Shape).ok_or("give height, width and channels, each 1 to 4096, such as 32x32x3".into())
}

/// What was measured, for the results of all cases.
#[derive(Serialize)]
struct Header {
    #[serde(flatten)]
    machine: Machine,
    #[serde(flatten)]
    plan: Plan,
}

#[derive(Serialize)]
struct Plan {
    seed: u64,
    /// Steps before the timed ones.
    warmup: usize,
}

/// One case with its result.
#[derive(Serialize)]
struct Row {
    mode: Work,
    device: String,
    model: String,
    image: String,
    neuron: &'static str,
    /// Threshold before training.
    vth: f64,
    weight_bits: u8,
    time_steps: usize,
    batch: usize,
    threads: usize,
    n: usize,
    median_s: f64,
    min_s: f64,
    max_s: f64,
    images_per_second: f64,
    ms_per_image_and_step: f64,
    mean_firing_rate: f32,
    kept_bytes: usize,
    /// 0 on the CPU.
    device_bytes: usize,
    peak_rss_bytes: Option<u64>,
}

/// Measures as asked.
///
/// # Errors
/// One line that says what is wrong with a setting; all of them are checked before the first case is measured.
pub fn run(global: &Global, args: BenchArgs) -> anyhow::Result<u8> {
    let Command::Throughput(args) = args.command;
    let device = global.open_device()?;
    let cases = cases(global, &args, &device)?;
    cases.iter().try_for_each(Case::check)?;
    super::use_threads(cases.first().map_or(0, |case| case.config.threads))?;
    let seed = cases.first().map_or(0, |case| case.config.seed);
    let header = Header { machine: machine(), plan: Plan { seed, warmup: args.warmup } };
    let mut rows = Vec::new();
    for (index, case) in cases.iter().enumerate() {
        if !global.quiet && std::io::stderr().is_terminal() {
            complain(&format!("case {} of {}", index + 1, cases.len()));
        }
        let timing = time_steps(case, args.warmup, args.repeats.get())?;
        rows.push(row(case, &timing, header.machine.threads));
    }
    match global.output {
        Output::Json => say(&serde_json::json!({ "header": header, "cases": rows }).to_string()),
        Output::Csv => say(csv(&header, &rows)?.trim_end()),
        Output::Text => say(text(&header, &rows)?.trim_end()),
        Output::Md => say(markdown(&header, &rows)?.trim_end()),
    }
    Ok(DONE)
}

/// All combinations of the lists, each with its settings resolved: recipe, then `--config`, then flags.
fn cases(global: &Global, args: &ThroughputArgs, device: &Device) -> Result<Vec<Case>> {
    let mut flags = settings::table(&args.layers)?;
    if let (Some(Value::Array(widths)), None) = (flags.get("widths"), flags.get("blocks")) {
        let two = vec![Value::Integer(2); widths.len()]; // as in PreAct-ResNet-18
        flags.insert("blocks".into(), Value::Array(two));
    }
    if let Some(lr) = args.lr {
        flags.insert("lr".into(), lr.into());
    }
    let given = settings::layers(global, flags)?;
    let numbers = |list: &Option<Vec<u32>>| list.iter().flatten().map(|&n| Value::from(i64::from(n))).collect::<Vec<_>>();
    let axes = [
        ("model", args.model.iter().flatten().map(|name| Value::from(name.as_str())).collect()),
        ("neuron", args.neuron.iter().flatten().map(|neuron| Value::from(neuron.name())).collect()),
        ("weight_bits", numbers(&args.weight_bits)),
        ("time_steps", numbers(&args.time_steps)),
        ("batch", numbers(&args.batch)),
    ];
    let batch = Table::from_iter([("batch".into(), 32.into())]);
    let mut cases = Vec::new();
    for settings in product(&axes) {
        let mut layers = vec![recipes::given(batch.clone())];
        layers.extend(given.iter().cloned());
        layers.push(recipes::given(settings));
        let neuron = recipes::last(&layers, "neuron").and_then(Value::as_str).unwrap_or("if");
        layers.insert(0, recipes::recipe(if neuron == "lif" { "cifar10-lif" } else { "cifar10-if" })?);
        let config = recipes::resolve(&Config::default(), &layers)?;
        let shape = args.image.as_ref().map_or_else(|| usual_shape(&config.model), |shape| shape.0);
        cases.extend(args.mode.iter().map(|&work| Case { work, config: config.clone(), shape, device: device.clone() }));
    }
    Ok(cases)
}

/// A table for every combination of one value from each list; an empty list leaves its key out.
fn product(axes: &[(&str, Vec<Value>)]) -> Vec<Table> {
    axes.iter().filter(|axis| !axis.1.is_empty()).fold(vec![Table::new()], |tables, (key, values)| {
        let with = |table: &Table, value: &Value| {
            let mut table = table.clone();
            table.insert((*key).into(), value.clone());
            table
        };
        tables.iter().flat_map(|table| values.iter().map(move |value| with(table, value))).collect()
    })
}

fn row(case: &Case, timing: &Timing, threads: usize) -> Row {
    let (config, [min_s, median_s, max_s]) = (&case.config, timing.spread());
    Row {
        device: case.device.to_string(),
        mode: case.work,
        model: config.model_name(),
        image: case.shape.map(|n| n.to_string()).join("x"),
        neuron: config.neuron.name(),
        vth: config.vth,
        weight_bits: config.weight_bits,
        time_steps: config.time_steps,
        batch: config.batch,
        threads,
        n: timing.seconds.len(),
        median_s,
        min_s,
        max_s,
        images_per_second: config.batch as f64 / median_s,
        ms_per_image_and_step: 1000.0 * median_s / (config.batch * config.time_steps) as f64,
        mean_firing_rate: timing.mean_firing_rate,
        kept_bytes: timing.kept_bytes,
        device_bytes: timing.device_bytes,
        peak_rss_bytes: timing.peak_rss_bytes,
    }
}

/// Version, machine and what the numbers are, in lines.
fn headlines(header: &Header, rows: &[Row]) -> [String; 3] {
    let Machine { version, commit, build, target, cpu, isa, cores, threads } = &header.machine;
    let commit = commit.map_or(String::new(), |commit| format!(", commit {commit}"));
    let n = rows.first().map_or(0, |row| row.n);
    [
        format!("dsr {version} ({build}, {target}{commit}), seed {}", header.plan.seed),
        format!("{cpu}, {isa}, {threads} threads of {cores} cores"),
        format!(
            "seconds a step: median, min and max of n = {n} after {} warm-up steps; rate: spikes a neuron and step",
            header.plan.warmup
        ),
    ]
}

/// Rows of one network and image size: their title and themselves.
fn groups(rows: &[Row]) -> impl Iterator<Item = (String, &[Row])> {
    let same = |a: &Row, b: &Row| a.model == b.model && a.image == b.image;
    rows.chunk_by(same).map(|rows| (format!("{}, images {}", rows[0].model, rows[0].image), rows))
}

/// Names of the columns of text and Markdown, and their width in text: 99 in all.
const COLUMNS: [(&str, usize); 13] = [
    ("mode", 5),
    ("neuron", 7),
    ("bits", 5),
    ("T", 4),
    ("batch", 6),
    ("median s", 10),
    ("min s", 10),
    ("max s", 10),
    ("img/s", 9),
    ("ms/img/T", 10),
    ("rate", 7),
    ("kept MB", 8),
    ("peak MB", 8),
];

/// Values of [`COLUMNS`].
fn cells(row: &Row) -> [String; COLUMNS.len()] {
    let megabytes = |bytes: u64| format!("{:.1}", bytes as f64 / 1e6);
    [
        if row.mode == Work::Train { "train" } else { "infer" }.into(),
        row.neuron.into(),
        row.weight_bits.to_string(),
        row.time_steps.to_string(),
        row.batch.to_string(),
        four_digits(row.median_s),
        four_digits(row.min_s),
        four_digits(row.max_s),
        four_digits(row.images_per_second),
        four_digits(row.ms_per_image_and_step),
        format!("{:.4}", row.mean_firing_rate),
        megabytes(row.kept_bytes as u64),
        row.peak_rss_bytes.map_or("-".into(), megabytes),
    ]
}

/// A number with four significant digits, at least: 0.01234, 1.234, 12345.
fn four_digits(value: f64) -> String {
    let decimals = 3 - value.abs().max(1e-6).log10().floor() as i64;
    format!("{value:.*}", decimals.max(0) as usize)
}

fn text(header: &Header, rows: &[Row]) -> std::result::Result<String, std::fmt::Error> {
    let mut out = headlines(header, rows).join("\n") + "\n";
    for (title, rows) in groups(rows) {
        writeln!(out, "\n{title}")?;
        for line in std::iter::once(COLUMNS.map(|column| column.0.to_string())).chain(rows.iter().map(cells)) {
            let padded: String = line.iter().zip(COLUMNS).map(|(cell, (_, width))| format!("{cell:>width$}")).collect();
            writeln!(out, "{padded}")?;
        }
    }
    Ok(out)
}

fn markdown(header: &Header, rows: &[Row]) -> std::result::Result<String, std::fmt::Error> {
    let mut out = headlines(header, rows).join("  \n") + "\n";
    for (title, rows) in groups(rows) {
        writeln!(out, "\n**{title}**\n")?;
        writeln!(out, "| {} |", COLUMNS.map(|column| column.0).join(" | "))?;
        writeln!(out, "|---|---|{}", "--:|".repeat(COLUMNS.len() - 2))?;
        for row in rows {
            writeln!(out, "| {} |", cells(row).join(" | "))?;
        }
    }
    Ok(out)
}

/// A line a case, with the header in every line.
fn csv(header: &Header, rows: &[Row]) -> anyhow::Result<String> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    for row in rows {
        writer.serialize((row, &header.machine, &header.plan))?;
    }
    Ok(String::from_utf8(writer.into_inner()?)?)
}
