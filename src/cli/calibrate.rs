//! `dsr calibrate`: from a trained ANN to a checkpoint that a spiking network starts from.

use std::fmt::Write;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde_json::json;
use toml::Table;

use crate::data::hold_out;
use crate::device::machine::machine;
use crate::error::{Error, Result};
use crate::evaluation::calibrate::{self, Calibrated, Origin};
use crate::evaluation::sketch::RELATIVE_ERROR;
use crate::settings::recipes;
use crate::settings::{Config, NeuronKind, Use};
use crate::spelling::one_line;
use crate::training::checkpoint::{self, About};

use super::numbers::count;
use super::progress::Progress;
use super::records::Records;
use super::settings::{self, NetworkFlags};
use super::{DONE, Global, Output, complain, dataset, outputs, say, say_lines};

/// Batches of the training split: more than any has.
const MAX_BATCHES: usize = 1_000_000_000;

/// Takes the thresholds of a spiking network from the activations of a trained ANN.
///
/// The ANN is one of `dsr train --neuron relu`, or a PyTorch state_dict saved through safetensors. It sees batches of the training
/// split; a quantile of each layer's activations becomes the value of a spike: the threshold, times Δt for LIF. The result has the
/// weights of the ANN and these thresholds; `dsr train --init-from` starts with it and `dsr eval` measures it as it is.
/// Settings of the spiking network come from the data set's recipe (--recipe) and from flags.
#[derive(Args)]
#[command(allow_negative_numbers = true)]
pub struct CalibrateArgs {
    #[command(flatten)]
    network: NetworkFlags,
    /// Number of time steps T of the spiking network.
    #[arg(short = 'T', long, value_name = "N", visible_alias = "timesteps", alias = "time_steps", help_heading = "Calibration")]
    time_steps: Option<usize>,
    /// Settings of the spiking network by name; without this, those of the data set.
    #[arg(long, value_name = "NAME", help_heading = "Calibration")]
    recipe: Option<String>,
    /// The ANN: a checkpoint or run folder.
    #[arg(long, value_name = "FILE", help_heading = "Calibration")]
    checkpoint: PathBuf,
    /// Share of a layer's activations that lies within its range.
    #[arg(long, value_name = "X", default_value_t = 0.999, help_heading = "Calibration")]
    quantile: f64,
    /// Batches of the training split, at most.
    #[arg(long, value_name = "N", default_value = "100", value_parser = count::<MAX_BATCHES>, help_heading = "Calibration")]
    batches: usize,
    /// Samples computed at once.
    #[arg(short, long, value_name = "N", visible_alias = "batch-size", help_heading = "Calibration")]
    batch: Option<NonZeroUsize>,
    /// Where to write [default: calibrated.safetensors beside the ANN].
    #[arg(long, value_name = "FILE", help_heading = "Calibration")]
    out: Option<PathBuf>,
}

/// Settings of an ANN that its spiking network shares: what it reads and how large it is.
const SHARED: [&str; 27] = [
    "dataset",
    "data_dir",
    "cache_dir",
    "skip_unreadable",
    "event_split",
    "event_frames",
    "event_orientation",
    "event_size",
    "image_size",
    "image_resize",
    "crop_scale",
    "channels",
    "image_fit",
    "layout",
    "mean",
    "std",
    "sensor",
    "frame_size",
    "frame_ms",
    "flip_x",
    "flip_y",
    "transpose",
    "model",
    "widths",
    "blocks",
    "readout",
    "seed",
];

/// Calibrates as asked.
///
/// # Errors
/// One line that says what is wrong with settings, data, checkpoint or disk.
pub fn run(global: &Global, args: CalibrateArgs) -> anyhow::Result<u8> {
    if !(args.quantile > 0.0 && args.quantile <= 1.0) {
        return Err(Error::config("quantile", format!("{} is not in 0 < quantile ≤ 1", args.quantile)).into());
    }
    let path = settings::checkpoint_file(&args.checkpoint);
    let (ann_config, config, held) = configs(global, &args, &path)?;
    let out = args.out.clone().unwrap_or_else(|| path.with_file_name("calibrated.safetensors"));
    outputs::check_network("out", &out, "calibrate", checkpoint::is_calibrated)?;
    super::use_threads(ann_config.threads)?;
    global.tell_settings(&config)?;
    let device = global.open_device()?;
    let mut dataset = dataset::ready(global, &ann_config)?;
    settings::tell_division(global, &path, &ann_config, &dataset)?;
    let mut held_out = 0;
    if let Some((share, seed)) = held.filter(|_| !dataset.is_divided()) {
        let (rest, validation) = hold_out(dataset, share, seed)?;
        (dataset, held_out) = (rest, validation.test.len());
    }
    let dataset = Arc::new(dataset);
    let mut config = config.normalised_as(&dataset);
    if dataset.is_divided() {
        (config.val_share, config.seed) = (ann_config.val_share, ann_config.seed); // what is tested on stays what it was
    }
    let batch = ann_config.batch.min(dataset.train.len());
    ann_config.check_memory(Use::Evaluate, dataset.shape, dataset.classes.len(), [batch, dataset.frames], &device)?;
    let mut ann = ann_config.network(dataset.shape, dataset.classes.len())?;
    checkpoint::load(&path, &mut ann, None)?;
    ann.place(&device)?;
    let most = dataset.train.len().min(batch * args.batches);
    let progress = Progress::new(global, most);
    let mut images = 0;
    let sketches = calibrate::activations(&mut ann, &dataset, [batch, args.batches], ann_config.seed, |seen| {
        images = seen;
        progress.at("image", seen, most, "");
    })?;
    drop(progress);

    let mut network = config.network(dataset.shape, dataset.classes.len())?;
    checkpoint::load_start(&path, &mut network, false)?;
    let layers = calibrate::set_thresholds(&mut network, &sketches, args.quantile);
    let progress = checkpoint::Progress { seed: config.seed, ..checkpoint::Progress::default() };
    let (config_toml, data) = (config.without_machine().to_toml()?, dataset.card());
    let about = About { config_toml: &config_toml, data: Some(&data), is_calibrated: true, ..About::default() };
    checkpoint::save(&out, &network, &config.optimizer(&network), &progress, about)?;
    if !global.quiet {
        notes(&layers).iter().for_each(|note| complain(note));
    }
    let shown = Shown { args: &args, ann: &path, out: &out, config: &config, images, held_out, layers: &layers };
    match global.output {
        Output::Json => say(&shown.json()?.to_string()),
        Output::Text => say_lines(&shown.text()?),
        output => say(shown.records().shown(output)?.trim_end()),
    }
    Ok(DONE)
}

/// The settings of the ANN and of the spiking network; share and seed of what the run of the ANN held out for validation.
fn configs(global: &Global, args: &CalibrateArgs, path: &Path) -> Result<(Config, Config, Option<(f64, u64)>)> {
    let trained = checkpoint::config(path)?.map(|text| recipes::trained(path, &text)).transpose()?;
    if let Some(trained) = trained.as_ref().filter(|trained| trained.neuron != NeuronKind::Relu) {
        let problem = format!("holds a network of {} neurons: give an ANN, from dsr train --neuron relu", trained.neuron.name());
        return Err(Error::file(path, problem));
    }
    let mut flags = settings::table(&args.network)?;
    // A share to test on is one of the flags that a file without settings needs, and belongs to no network.
    let is_of_ann = |key: &str| SHARED.contains(&key) || key == "val_share";
    let mut of_ann: Table = flags.iter().filter(|(key, _)| is_of_ann(key)).map(|(k, v)| (k.clone(), v.clone())).collect();
    if let Some(batch) = args.batch {
        of_ann.insert("batch".into(), i64::try_from(batch.get()).unwrap_or(i64::MAX).into());
    }
    let mut layers = settings::layers(global, of_ann)?;
    layers.push(recipes::given(Table::from_iter([("neuron".into(), NeuronKind::Relu.name().into()), ("time_steps".into(), 1.into())])));
    let ann = settings::of_checkpoint(path, layers)?;
    settings::refuse_other_readout(&ann, path)?;

    if let Some(time_steps) = args.time_steps {
        flags.insert("time_steps".into(), i64::try_from(time_steps).unwrap_or(i64::MAX).into());
    }
    let mut shared: Table = ann.to_table()?.into_iter().filter(|(key, _)| SHARED.contains(&key.as_str())).collect();
    shared.insert("readout".into(), ann.readout.name().into()); // not written where it is the usual one
    let mut layers = vec![recipes::given(shared)];
    layers.extend(settings::layers(global, flags.clone())?);
    let config = settings::fresh(args.recipe.as_deref(), layers)?;
    settings::refuse_without_output_neurons(&flags, &config)?;
    settings::refuse_foreign(&flags, &config)?;
    settings::refuse_other_readout(&config, path)?;
    if config.neuron == NeuronKind::Relu {
        return Err(Error::config("neuron", "relu: name the neurons of the spiking network, if or lif"));
    }
    settings::refuse_idle(&flags, std::slice::from_ref(&config))?;
    // Of another data set nothing was held out.
    let run = trained.as_ref().unwrap_or(&ann);
    let held = run.val_share.filter(|_| run.dataset == ann.dataset).map(|share| (share, run.seed));
    Ok((ann, config, held))
}

/// What is unusual about a layer, a line each.
fn notes(layers: &[Calibrated]) -> Vec<String> {
    let of_layer = |layer: &Calibrated| match layer.origin {
        Origin::Quantile => None,
        Origin::Max => Some(format!("note: {}: that share of its activations is 0; its threshold is from the largest", layer.layer)),
        Origin::Settings => {
            Some(format!("note: {} is dead: all its activations are 0; its threshold is that of the settings", layer.layer))
        }
    };
    layers.iter().filter_map(of_layer).collect()
}

/// What a threshold was taken from.
fn from(origin: Origin) -> &'static str {
    match origin {
        Origin::Quantile => "quantile",
        Origin::Max => "max",
        Origin::Settings => "settings",
    }
}

/// Everything a report says.
struct Shown<'a> {
    args: &'a CalibrateArgs,
    ann: &'a Path,
    out: &'a Path,
    config: &'a Config,
    images: usize,
    /// Images that the run of the ANN held out for validation.
    held_out: usize,
    layers: &'a [Calibrated],
}

impl Shown<'_> {
    fn json(&self) -> Result<serde_json::Value> {
        Ok(json!({
            "machine": machine(),
            "config": self.config.to_table()?,
            "seed": self.config.seed,
            "ann": self.ann.display().to_string(),
            "checkpoint": self.out.display().to_string(),
            "quantile": self.args.quantile,
            "relative_error": RELATIVE_ERROR,
            "images": self.images,
            "held_out": self.held_out,
            "layers": self.layers,
        }))
    }

    /// A line a layer, with what they share in every line.
    fn records(&self) -> Records {
        let (config, machine) = (self.config, machine());
        let heads = ["layer", "threshold", "from", "quantile", "max", "zeros"];
        let tail = ["ann", "checkpoint", "share", "relative_error", "images", "held_out", "model", "dataset", "neuron", "delta_t", "seed"];
        let build = ["version", "commit", "build", "cpu"];
        let mut records = Records::new(heads.iter().chain(&tail).chain(&build));
        let shared = [
            self.ann.display().to_string(),
            self.out.display().to_string(),
            self.args.quantile.to_string(),
            RELATIVE_ERROR.to_string(),
            self.images.to_string(),
            self.held_out.to_string(),
            config.model_name(),
            config.dataset.clone(),
            config.neuron.name().into(),
            config.delta_t.to_string(),
            config.seed.to_string(),
            machine.version.into(),
            machine.commit.unwrap_or_default().into(),
            machine.build.into(),
            machine.cpu,
        ];
        for Calibrated { layer, threshold, origin, quantile, max, zeros } in self.layers {
            let numbers = [quantile.to_string(), max.to_string(), zeros.to_string()];
            let own = [layer.clone(), threshold.to_string(), from(*origin).into()].into_iter().chain(numbers);
            records.push(own.chain(shared.clone()).collect());
        }
        records
    }

    fn text(&self) -> std::result::Result<String, std::fmt::Error> {
        let mut out = String::new();
        let (config, machine) = (self.config, machine());
        let commit = machine.commit.map_or(String::new(), |commit| format!(", commit {commit}"));
        writeln!(
            out,
            "{}: {} on {} training images of {}",
            one_line(self.ann.display()),
            config.model_name(),
            self.images,
            config.dataset
        )?;
        if self.held_out > 0 {
            writeln!(out, "without the {} images that the run of the ANN held out for validation", self.held_out)?;
        }
        writeln!(out, "dsr {} ({}{commit}), {}, seed {}", machine.version, machine.build, machine.cpu, config.seed)?;
        let quantile = format!("{} %", 100.0 * self.args.quantile);
        writeln!(out, "{:18} {:>11} {:>11} {:>11} {:>8}  from", "layer", "threshold", quantile, "max", "zeros %")?;
        for Calibrated { layer, threshold, origin, quantile, max, zeros } in self.layers {
            let origin = from(*origin);
            writeln!(out, "{layer:18} {threshold:>11.5} {quantile:>11.5} {max:>11.5} {:>8.2}  {origin}", 100.0 * zeros)?;
        }
        let unit = match config.neuron {
            NeuronKind::Lif => format!("LIF neurons: times delta-t {}", config.delta_t),
            kind => format!("{} neurons", kind.name().to_uppercase()),
        };
        writeln!(out, "thresholds for {unit}; quantiles are within {:.2} % of the exact ones", 100.0 * RELATIVE_ERROR)?;
        writeln!(out, "written: {}", one_line(self.out.display()))?;
        Ok(out)
    }
}
