//! `dsr eval`: accuracy against T, per class, firing rates and synaptic operations per layer, predictions.

mod predictions;
mod table;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use serde_json::{Value, json};

use crate::atomic_file;
use crate::data::{Batch, Dataset, Stream};
use crate::device::machine::machine;
use crate::error::{Error, Result};
use crate::evaluation::energy::{self, Counts, Model};
use crate::evaluation::synaptic::{Operations, add_operations};
use crate::evaluation::{Evaluation, Ties, evaluate, wilson_interval};
use crate::network::{Forward, Network, SpikingLayer};
use crate::settings::{Config, NeuronKind, ReadoutKind, Use};
use crate::spelling::one_line;
use crate::training::checkpoint;
use crate::training::run_folder::BEST;

use super::confusion;
use super::outputs::Written;
use super::progress::Progress;
use super::settings::{self, NetworkFlags};
use super::{DONE, Global, Output, complain, dataset, say, say_lines};

/// Measures a trained network on the test split.
///
/// Settings come from the checkpoint; for a PyTorch state_dict saved through safetensors, from --dataset, --model, … and the
/// data set's recipe.
#[derive(Args)]
#[command(allow_negative_numbers = true)]
pub struct EvalArgs {
    #[command(flatten)]
    network: NetworkFlags,
    /// Checkpoint or run folder [default: the newest runs/*/best.safetensors].
    #[arg(long, value_name = "FILE", help_heading = "Evaluation")]
    checkpoint: Option<PathBuf>,
    /// Numbers of time steps T, such as 5,10,20 [default: that of the training].
    #[arg(short = 'T', long, value_name = "N,N,…", value_delimiter = ',', visible_alias = "timesteps", alias = "time_steps")]
    #[arg(help_heading = "Evaluation")]
    time_steps: Vec<usize>,
    /// Batch size: samples computed at once; changes no prediction [default: that of the training].
    #[arg(short, long, value_name = "N", visible_aliases = ["batch-size", "test-batch"], alias = "test_batch", help_heading = "Evaluation")]
    batch: Option<usize>,
    /// Accuracy of every class.
    #[arg(long, help_heading = "Evaluation")]
    per_class: bool,
    /// How many samples of each class were taken for which: rows are true classes, columns predicted ones.
    #[arg(long, help_heading = "Evaluation")]
    confusion: bool,
    /// Firing rate, synaptic operations and estimated energy of every layer.
    #[arg(long, help_heading = "Evaluation")]
    rates: bool,
    /// Which of several classes with the same logit is predicted: that of lower number (first), or that with the larger mean current
    /// of its output neuron (current).
    #[arg(long, value_enum, default_value = "first", help_heading = "Evaluation")]
    ties: Ties,
    /// Measures the moving average of the weights that a run with --ema keeps, instead of the weights.
    #[arg(long, help_heading = "Evaluation")]
    ema: bool,
    /// Writes index, label, prediction and logits of every sample (CSV), the currents with --ties current, and the file where each
    /// sample has one.
    #[arg(long, value_name = "FILE", help_heading = "Evaluation")]
    predictions: Option<PathBuf>,
}

/// Flags that are refused here whatever the network is.
pub const REFUSED: [&str; 4] = {
    let [vth, pooled, logits] = settings::THRESHOLDS;
    [vth, pooled, logits, CROP[0]]
};
const CROP: [&str; 1] = ["crop_scale"];

/// What one number of time steps gave.
struct Measured {
    time_steps: usize,
    evaluation: Evaluation,
    firing_rate: f64,
    operations: Vec<Operations>,
    seconds: f64,
}

/// Evaluates as asked.
///
/// # Errors
/// One line that says what is wrong with settings, data or checkpoint.
pub fn run(global: &Global, args: EvalArgs) -> anyhow::Result<u8> {
    let path = match &args.checkpoint {
        Some(path) => settings::checkpoint_file(path),
        None => newest_best(Path::new("runs"))?,
    };
    if let Some(file) = &args.predictions {
        Written { flag: "predictions", ending: "csv", begins: b"index,label,prediction" }.check(file)?;
    }
    let mut flags = settings::table(&args.network)?;
    let network_flags = flags.clone();
    if let Some(batch) = args.batch {
        flags.insert("batch".into(), i64::try_from(batch).unwrap_or(i64::MAX).into());
    }
    let config = settings::of_checkpoint(&path, settings::layers(global, flags)?)?;
    settings::refuse_untrained(&network_flags, &config, &CROP)?;
    settings::refuse_foreign(&network_flags, &config)?;
    settings::refuse_other_readout(&config, &path)?;
    super::use_threads(config.threads)?;
    let mut steps = args.time_steps.clone();
    if steps.is_empty() {
        steps.push(config.time_steps);
    }
    for &time_steps in &steps {
        Config { time_steps, ..config.clone() }.check()?;
    }
    if args.predictions.is_some() && steps.len() > 1 {
        return Err(Error::config("predictions", format!("{} numbers of time steps; give one -T", steps.len())).into());
    }
    if args.confusion && (args.rates || args.per_class) && matches!(global.output, Output::Csv | Output::Md) {
        return Err(Error::config("confusion", "csv and md hold one table; leave --rates and --per-class out, or give -o json").into());
    }
    if args.rates {
        settings::check_spiking(&config, "--rates")?;
    }
    check_ties(args.ties, &config)?;
    let device = global.open_device()?;
    let mut dataset = Arc::new(dataset::ready(global, &Config { time_steps: steps[0], ..config.clone() })?);
    settings::refuse_idle_share(&network_flags, &dataset)?;
    settings::refuse_idle_seed(global, &dataset)?;
    let (classes, batch) = (dataset.classes.len(), config.batch.min(dataset.test.len()));
    for &time_steps in &steps {
        let frames = if dataset.has_frames() { time_steps } else { 1 };
        Config { time_steps, ..config.clone() }.check_memory(Use::Evaluate, dataset.shape, classes, [batch, frames], &device)?;
    }
    let mut network = config.network(dataset.shape, classes)?;
    settings::tell_division(global, &path, &config, &dataset)?;
    if let Some(differs) = checkpoint::data(&path)?.and_then(|card| card.classes_differ(&dataset)) {
        complain(&format!("note: {}: {differs}; predictions and labels are compared by number", path.display()));
    }
    checkpoint::load_weights(&path, &mut network, args.ema)?;
    settings::tell_unchosen(global, &path, &config)?;
    network.place(&device)?;
    global.tell_settings(&config)?;
    let mut results = Vec::new();
    for time_steps in steps {
        network.time_steps = time_steps;
        if dataset.has_frames() && dataset.frames != time_steps {
            dataset = Arc::new(dataset::ready(global, &Config { time_steps, ..config.clone() })?);
        }
        let measured = measure(&mut network, &dataset, config.batch, &args, &Progress::new(global, dataset.test.len()))?;
        measured.evaluation.check_logits(&path, |index| format!("test sample {index}"))?;
        results.push(measured);
    }
    if let Some(file) = &args.predictions {
        let table = predictions::csv(&results[0].evaluation, &dataset).map_err(|e| Error::file(file, e.to_string()))?;
        atomic_file::write_result(file, &table)?;
    }
    if !global.quiet && args.ties == Ties::First {
        let note = |measured: &Measured| {
            let evaluation = &measured.evaluation;
            ties_note([evaluation.ties(), evaluation.labels.len()], measured.time_steps, &config)
        };
        results.iter().filter_map(note).for_each(|note| complain(&note));
    }
    let shown = Shown { args: &args, path: &path, config: &config, dataset: &dataset, network: &network };
    match global.output {
        Output::Json => say(&shown.json(&results)?.to_string()),
        Output::Text => say_lines(&shown.text(&results)?),
        output => say(shown.records(&results).shown(output)?.trim_end()),
    }
    Ok(DONE)
}

/// Refuses currents between equal logits where there are none, or nothing else.
///
/// # Errors
/// [`Error::Config`] naming `neuron` or `ties`.
pub(super) fn check_ties(ties: Ties, config: &Config) -> Result<()> {
    if ties == Ties::First {
        return Ok(());
    }
    settings::check_spiking(config, "--ties current")?;
    if config.readout == ReadoutKind::Current {
        let problem = "current has no effect on a readout by current, whose logits are the currents; leave it out";
        return Err(Error::config("ties", problem));
    }
    Ok(())
}

/// What a user should know where only the number of a class decided `ties` of `n` predictions.
pub(super) fn ties_note([ties, n]: [usize; 2], time_steps: usize, config: &Config) -> Option<String> {
    (config.neuron != NeuronKind::Relu && config.readout == ReadoutKind::Spikes && ties * 50 > n).then(|| {
        let share = 100.0 * ties as f64 / n as f64;
        format!("note: T = {time_steps}: {share:.1} % of the predictions are ties of logits; --ties current tells them apart")
    })
}

/// The best checkpoint written last.
pub(super) fn newest_best(runs: &Path) -> Result<PathBuf> {
    let folders = std::fs::read_dir(runs).into_iter().flatten().flatten().map(|entry| entry.path().join(BEST));
    let newest = folders.filter_map(|path| Some((path.metadata().ok()?.modified().ok()?, path))).max();
    newest
        .map(|(_, path)| path)
        .ok_or_else(|| Error::config("checkpoint", "there is none under runs/; give --checkpoint FILE, or train first"))
}

fn measure(network: &mut Network, dataset: &Arc<Dataset>, batch: usize, args: &EvalArgs, progress: &Progress) -> Result<Measured> {
    let begin = Instant::now();
    let (mut seen, what) = (0, format!("T = {}, image", network.time_steps));
    let mut operations = vec![Operations::default(); network.layers.len()];
    let visit = &mut |network: &Network, forward: &Forward, batch: &Batch| {
        seen += batch.labels.len();
        progress.at(&what, seen, dataset.test.len(), "");
        if args.rates {
            add_operations(network, &forward.spikes, batch.labels.len(), batch.frames, &mut operations);
        }
        true
    };
    let evaluation = evaluate(network, dataset, batch, args.ties, args.rates, visit)?.unwrap_or_default();
    let firing_rate = evaluation.firing_rate(network);
    Ok(Measured { time_steps: network.time_steps, evaluation, firing_rate, operations, seconds: begin.elapsed().as_secs_f64() })
}

/// Everything a report needs beside the measurements.
struct Shown<'a> {
    args: &'a EvalArgs,
    path: &'a Path,
    config: &'a Config,
    dataset: &'a Dataset,
    network: &'a Network,
}

impl Shown<'_> {
    /// The `k` of top-k: 5 where that says something.
    fn top(&self) -> Vec<usize> {
        if self.network.classes > 5 { vec![1, 5] } else { vec![1] }
    }

    /// The split on which the checkpoint was chosen among the epochs of its run, as its own records say; none if it was not chosen.
    fn chosen_on(&self) -> Option<&'static str> {
        let progress = self.path.ends_with(BEST).then(|| checkpoint::progress(self.path).ok()).flatten()?;
        let last = progress.metrics.last()?;
        Some(if last.val_accuracy.is_some() { "validation" } else { "test" })
    }

    fn json(&self, results: &[Measured]) -> Result<Value> {
        let rows: Vec<Value> = results.iter().map(|measured| self.json_row(measured)).collect();
        let mut all = json!({
            "machine": machine(),
            "config": self.config.to_table()?,
            "device": self.network.device().to_string(),
            "checkpoint": self.path.display().to_string(),
            "chosen_on": self.chosen_on(),
            "weights": if self.args.ema { "averaged" } else { "trained" },
            "dataset": self.dataset.label(),
            "model": self.config.model_name(),
            "neuron": self.config.neuron.name(),
            "seed": self.config.seed,
            "n": self.dataset.test.labels.len(),
            "energy_models": MODELS,
            "ties": if self.args.ties == Ties::Current { "current" } else { "first" },
            "results": rows,
        });
        if self.args.confusion {
            all["classes"] = json!(self.dataset.classes);
        }
        if let Some(Stream::Events(events)) = &self.dataset.stream {
            all["event_split"] = json!(events.reading.split);
        }
        Ok(all)
    }

    fn json_row(&self, measured: &Measured) -> Value {
        let evaluation = &measured.evaluation;
        let n = evaluation.labels.len();
        let mut row = json!({
            "time_steps": measured.time_steps,
            "loss": evaluation.loss,
            "tied": evaluation.ties() as f64 / n as f64,
            "mean_firing_rate": measured.firing_rate,
            "seconds": measured.seconds,
        });
        for k in self.top() {
            let hits = evaluation.correct(k);
            row[format!("top{k}")] = json!(hits as f64 / n as f64);
            row[format!("top{k}_interval")] = json!(wilson_interval(hits, n));
        }
        if self.args.per_class {
            let class = |(name, [n, hits]): (&String, [usize; 2])| json!({ "class": name, "n": n, "correct": hits });
            row["per_class"] = self.dataset.classes.iter().zip(evaluation.per_class()).map(class).collect();
        }
        if self.args.confusion {
            row["confusion"] = json!(evaluation.confusion());
        }
        if self.args.rates {
            let counts = Counts::of_network(self.network, &measured.operations, n);
            let layers = self.network.layers.iter().zip(&evaluation.rates).zip(&measured.operations).zip(&counts);
            let layer = |(((layer, rate), operations), counts): (((&SpikingLayer, &f64), &Operations), &Counts)| {
                let mut row = energies(counts);
                row["layer"] = json!(layer.name);
                row["shape"] = json!(layer.shape);
                row["firing_rate"] = json!(layer.fires().then_some(rate));
                row["operations"] = json!(operations.actual as f64 / n as f64);
                row["dense_operations"] = json!(operations.dense as f64 / n as f64);
                row
            };
            row["layers"] = layers.map(layer).collect();
            row["total"] = energies(&Counts::total(&counts));
        }
        row
    }

    fn text(&self, results: &[Measured]) -> std::result::Result<String, std::fmt::Error> {
        let mut out = String::new();
        let (path, model, dataset) = (one_line(self.path.display()), self.config.model_name(), self.dataset);
        let ties = if self.args.ties == Ties::Current { ", ties by current" } else { "" };
        let chosen = self.chosen_on().map_or(String::new(), |split| format!(" (chosen on the {split} split)"));
        let averaged = if self.args.ema { ", averaged weights" } else { "" };
        writeln!(out, "{path}{chosen}{averaged}: {model} on {}, {} test images{ties}", dataset.title(), dataset.test.labels.len())?;
        let machine = machine();
        let commit = machine.commit.map_or(String::new(), |commit| format!(", commit {commit}"));
        let device = self.network.device();
        writeln!(out, "dsr {} ({}{commit}), {}, {device}, seed {}", machine.version, machine.build, machine.cpu, self.config.seed)?;
        write!(out, "{:>4}", "T")?;
        for k in self.top() {
            write!(out, "  {:>5}  {:<14}", format!("top-{k}"), "95 % interval")?;
        }
        writeln!(out, "  {:>6}  {:>6}  {:>7}", "loss", "rate", "img/s")?;
        for measured in results {
            let evaluation = &measured.evaluation;
            let n = evaluation.labels.len();
            write!(out, "{:>4}", measured.time_steps)?;
            for k in self.top() {
                let hits = evaluation.correct(k);
                let [low, high] = wilson_interval(hits, n).map(|end| 100.0 * end);
                write!(out, "  {:>5.1}  {:<14}", 100.0 * hits as f64 / n as f64, format!("{low:.1} .. {high:.1}"))?;
            }
            writeln!(out, "  {:>6.3}  {:>6.4}  {:>7.0}", evaluation.loss, measured.firing_rate, n as f64 / measured.seconds)?;
        }
        for measured in results {
            if self.args.per_class {
                writeln!(out, "\nT = {}\n{:20} {:>6} {:>8} {:>6}", measured.time_steps, "class", "n", "correct", "%")?;
                for (name, [n, hits]) in dataset.classes.iter().zip(measured.evaluation.per_class()) {
                    let name = one_line(name);
                    writeln!(out, "{name:20} {n:>6} {hits:>8} {:>6.1}", 100.0 * hits as f64 / n.max(1) as f64)?;
                }
            }
            if self.args.confusion {
                writeln!(out, "\nT = {}: how many of each class (rows) were taken for which (columns)", measured.time_steps)?;
                confusion::text(&mut out, &dataset.classes, &measured.evaluation.confusion())?;
            }
            if self.args.rates {
                self.layer_table(&mut out, measured)?;
                self.energy_table(&mut out, measured)?;
            }
        }
        Ok(out)
    }

    fn layer_table(&self, out: &mut String, measured: &Measured) -> std::fmt::Result {
        let millions = |operations: u64| operations as f64 / 1e6 / measured.evaluation.labels.len() as f64;
        writeln!(out, "\nT = {}: synaptic operations into each layer, millions per image", measured.time_steps)?;
        writeln!(out, "{:20} {:>12} {:>8} {:>12} {:>12} {:>6}", "layer", "H x W x C", "rate", "actual", "dense", "%")?;
        let mut row = |name: &str, shape: String, rate: Option<f64>, operations: Operations| {
            let rate = rate.map_or("-".into(), |rate| format!("{rate:.4}"));
            let share = 100.0 * operations.actual as f64 / operations.dense.max(1) as f64;
            let (actual, dense) = (millions(operations.actual), millions(operations.dense));
            writeln!(out, "{name:20} {shape:>12} {rate:>8} {actual:>12.3} {dense:>12.3} {share:>6.1}")
        };
        let mut total = Operations::default();
        for ((layer, &rate), &operations) in self.network.layers.iter().zip(&measured.evaluation.rates).zip(&measured.operations) {
            total.actual += operations.actual;
            total.dense += operations.dense;
            row(&layer.name, layer.shape.map(|n| n.to_string()).join("x"), layer.fires().then_some(rate), operations)?;
        }
        row("all", String::new(), Some(measured.firing_rate), total)
    }

    fn energy_table(&self, out: &mut String, measured: &Measured) -> std::fmt::Result {
        let n = measured.evaluation.labels.len();
        let counts = Counts::of_network(self.network, &measured.operations, n);
        let total = Counts::total(&counts);
        writeln!(out, "\nT = {}: operations (millions) and estimated energy (uJ) per image", measured.time_steps)?;
        let heads = ["AC", "MAC", "uJ", "ANN AC", "ANN MAC", "ANN uJ", "ANN/SNN"];
        writeln!(out, "{:17} {}", "layer", heads.map(|head| format!("{head:>8}")).join(" "))?;
        let names = self.network.layers.iter().map(|layer| layer.name.as_str()).chain(["all"]);
        for (name, counts) in names.zip(counts.iter().chain([&total])) {
            let [energy, ann] = [counts.joules(&energy::FLOAT), counts.ann_joules(&energy::FLOAT)];
            let numbers = [counts.ac / 1e6, counts.mac / 1e6, energy * 1e6, counts.ann_ac / 1e6, counts.ann_mac / 1e6, ann * 1e6];
            let numbers = numbers.map(|number| format!("{number:>8.3}")).join(" ");
            writeln!(out, "{name:17} {numbers} {:>8}", ratio(energy, ann))?;
        }
        for model in MODELS {
            let Model { name, source, ac_pj, mac_pj, ann_mac_pj, .. } = model;
            let [energy, ann] = [total.joules(&model), total.ann_joules(&model)];
            writeln!(
                out,
                "{name}: {:.3} uJ, ANN {:.3} uJ, ratio {}; AC {ac_pj}, MAC {mac_pj}, ANN MAC {ann_mac_pj} pJ",
                energy * 1e6,
                ann * 1e6,
                ratio(energy, ann)
            )?;
            if name == energy::FLOAT.name {
                writeln!(out, "  table above; energies by\n  {source}")?;
            }
        }
        writeln!(out, "ANN: the same network, one pass. Neglected: memory, batch norm, biases,")?;
        let updates = total.updates / 1e6;
        writeln!(out, "and {updates:.3} million neuron updates per image: {:.3} uJ at 0.9 pJ each.", updates * energy::FLOAT.ac_pj)
    }
}

/// The literature's convention, and what this engine's numbers are.
const MODELS: [Model; 2] = [energy::FLOAT, energy::INTEGER];

/// How many times the energy of the ANN is that of the spiking network.
fn ratio(energy: f64, ann: f64) -> String {
    if energy > 0.0 { format!("{:.2}", ann / energy) } else { "-".into() }
}

/// Counts an image, and both energies by each model.
fn energies(counts: &Counts) -> Value {
    let by_model = |model: Model| {
        let (energy, ann) = (counts.joules(&model), counts.ann_joules(&model));
        let ratio = if energy > 0.0 { json!(ann / energy) } else { Value::Null };
        (model.name.to_string(), json!({ "joules": energy, "ann_joules": ann, "ratio": ratio }))
    };
    json!({ "counts": counts, "energy": serde_json::Map::from_iter(MODELS.map(by_model)) })
}
