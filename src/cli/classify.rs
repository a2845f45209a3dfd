//! `dsr classify`: what a trained network takes new pictures for.

use std::path::{Path, PathBuf};

use clap::Args;
use rayon::prelude::*;
use serde_json::{Value, json};
use toml::Table;

use crate::data::{DataCard, PhotoReading, Pixels, unlabelled};
use crate::device::machine::machine;
use crate::error::{Error, Result};
use crate::evaluation::{Evaluation, Ties};
use crate::network::{Input, Network, Samples};
use crate::settings::{Config, NeuronKind, Use};
use crate::spelling::one_line;
use crate::training::checkpoint;

use super::eval::{check_ties, newest_best, ties_note};
use super::numbers::count;
use super::progress::Progress;
use super::records::Records;
use super::{DONE, FAILED, Global, Output, Unused, complain, say, say_lines, settings};

/// More classes than any network has.
const MAX_TOP: usize = 1_000_000;

/// Says what a trained network takes new pictures for.
///
/// A line a picture: its file, the class that comes first, and the softmax of the logits as a percentage, which is what the loss of the
/// training takes for the share of a class; it is not calibrated. Predictions are those of `dsr eval`. With --quiet these lines are all.
///
/// A picture is brought to the size and the channels that the network was trained on: as its settings say for imagenet and images, else the
/// shorter side is resized and the middle cut out. One that cannot be read is named on stderr, the others are classified, and the exit
/// code is 1.
#[derive(Args)]
pub struct ClassifyArgs {
    /// Pictures, and folders of which all pictures are taken, those of folders inside, too.
    #[arg(required = true, value_name = "FILE|FOLDER")]
    places: Vec<PathBuf>,
    /// Checkpoint or run folder [default: the newest runs/*/best.safetensors].
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// Number of time steps T [default: that of the training].
    #[arg(short = 'T', long, value_name = "N", visible_alias = "timesteps", alias = "time_steps")]
    time_steps: Option<u32>,
    /// Batch size: pictures computed at once; changes no prediction [default: that of the training].
    #[arg(short, long, value_name = "N", visible_aliases = ["batch-size", "test-batch"], alias = "test_batch")]
    batch: Option<u32>,
    /// Classes that are shown of each picture, the first and the next.
    #[arg(long, value_name = "K", default_value = "1", value_parser = count::<MAX_TOP>)]
    top: usize,
    /// Which of several classes with the same logit comes first: that of lower number (first), or that with the larger mean current of its
    /// output neuron (current).
    #[arg(long, value_enum, default_value = "first")]
    ties: Ties,
    /// Takes the moving average of the weights that a run with --ema keeps, instead of the weights.
    #[arg(long)]
    ema: bool,
}

/// A class that a picture may be of.
struct Class {
    /// Its number.
    label: usize,
    /// Its share by the softmax of the logits.
    softmax: f64,
    logit: f32,
}

/// A picture with its first classes, or with why it could not be read.
struct Classified {
    path: PathBuf,
    first: Result<Vec<Class>>,
}

/// Classifies as asked.
///
/// # Errors
/// One line that says what is wrong with settings, files or checkpoint.
pub fn run(global: &Global, args: &ClassifyArgs) -> anyhow::Result<u8> {
    global.refuse("classify", &[Unused::Config, Unused::Seed])?;
    let path = match &args.checkpoint {
        Some(path) => settings::checkpoint_file(path),
        None => newest_best(Path::new("runs"))?,
    };
    let (_, card) = checkpoint::described(&path)?;
    let given = [("time_steps", args.time_steps), ("batch", args.batch)];
    let flags = given.into_iter().filter_map(|(key, number)| Some((key.to_string(), i64::from(number?).into())));
    let config = settings::of_checkpoint(&path, settings::layers(global, Table::from_iter(flags))?)?;
    check_ties(args.ties, &config)?;
    let reading = config.picture_reading(&card)?;
    let found = unlabelled::list(&args.places)?;
    if !global.quiet {
        found.notes.iter().for_each(|note| complain(note));
    }
    super::use_threads(config.threads)?;
    let device = global.open_device()?;
    let batch = config.batch.min(found.files.len());
    config.check_memory(Use::Evaluate, card.shape, card.classes.len(), [batch, 1], &device)?;
    let mut network = config.network(card.shape, card.classes.len())?;
    checkpoint::load_weights(&path, &mut network, args.ema)?;
    settings::tell_unchosen(global, &path, &config)?;
    network.place(&device)?;
    global.tell_settings(&config)?;
    let shown = Shown { args, path: &path, config: &config, card: &card, device: device.to_string() };
    let (pictures, ties) = shown.classify(global, &mut network, &reading, &found.files, batch)?;
    let (n, unreadable) = (pictures.len(), pictures.iter().filter(|picture| picture.first.is_err()).count());
    match global.output {
        Output::Json => say(&shown.json(&pictures, unreadable)?.to_string()),
        Output::Text => {} // they have been told one by one
        output => say(shown.records(&pictures).shown(output)?.trim_end()),
    }
    if !global.quiet && args.ties == Ties::First {
        ties_note([ties, n - unreadable], config.time_steps, &config).iter().for_each(|note| complain(note));
    }
    if unreadable == 0 {
        return Ok(DONE);
    }
    complain(&format!("error: {unreadable} of {n} pictures could not be read"));
    Ok(FAILED)
}

/// Pictures that are computed at once.
struct Batch<'a> {
    files: &'a [PathBuf],
    /// Why each file could not be read.
    errors: Vec<Option<Error>>,
    /// `[B][H][W][C]` of those that could.
    data: Vec<f32>,
}

impl<'a> Batch<'a> {
    fn read(files: &'a [PathBuf], reading: &PhotoReading, pixels: &Pixels) -> Self {
        let read: Vec<Result<Vec<u8>>> = files.par_iter().map(|file| unlabelled::read(file, reading)).collect();
        let mut batch = Batch { files, errors: Vec::new(), data: Vec::new() };
        for picture in read {
            if let Ok(picture) = &picture {
                pixels.append(picture, &mut batch.data);
            }
            batch.errors.push(picture.err());
        }
        batch
    }

    /// Number of pictures that could be read.
    fn len(&self) -> usize {
        self.errors.iter().filter(|error| error.is_none()).count()
    }
}

/// What bytes of a picture stand for. White is 255 in every picture, and mean and deviation are in units of white, whatever byte stands
/// for it in the files of the set: 16 in digits-8x8.
fn pixels(card: &DataCard) -> Pixels {
    Pixels::of_card(&DataCard { max_value: u8::MAX, ..card.clone() })
}

/// What results are shown with.
struct Shown<'a> {
    args: &'a ClassifyArgs,
    path: &'a Path,
    config: &'a Config,
    card: &'a DataCard,
    device: String,
}

impl Shown<'_> {
    /// Classifies batch by batch; text is printed on the way, and so is what could not be read. Also says how many predictions are ties.
    fn classify(
        &self,
        global: &Global,
        network: &mut Network,
        reading: &PhotoReading,
        files: &[PathBuf],
        batch: usize,
    ) -> Result<(Vec<Classified>, usize)> {
        let (pixels, progress) = (pixels(self.card), Progress::new(global, files.len()));
        let (mut all, mut ties) = (Vec::new(), 0);
        if global.output == Output::Text && !global.quiet {
            say_lines(&self.headline());
        }
        let mut batches = files.chunks(batch);
        let mut read = || batches.next().map(|files| Batch::read(files, reading, &pixels));
        let mut next = read();
        while let Some(batch) = next {
            let samples = batch.len();
            if samples > 0 {
                network.begin_evaluation(&Samples::Real(Input { data: &batch.data, batch: samples, frames: 1 }), |_| false)?;
            }
            next = read(); // while a device computes
            let mut evaluation = Evaluation { classes: network.classes, ..Evaluation::default() };
            if samples > 0 {
                evaluation.logits = network.finish_evaluation()?.logits;
                evaluation.currents = if self.args.ties == Ties::Current { network.output_currents(samples)? } else { Vec::new() };
            }
            let decoded = batch.files.iter().zip(&batch.errors).filter(|(_, error)| error.is_none());
            let name = |index| decoded.map(|(file, _)| file.display().to_string()).nth(index).unwrap_or_default();
            evaluation.check_logits(self.path, name)?;
            ties += evaluation.ties();
            let mut places = 0..samples;
            for (path, error) in batch.files.iter().zip(batch.errors) {
                let first = match error {
                    Some(error) => Err(error),
                    None => Ok(places.next().map_or(Vec::new(), |place| classes(&evaluation, place, self.args.top))),
                };
                let picture = Classified { path: path.clone(), first };
                progress.suspend(|| self.tell(global.output, &picture));
                all.push(picture);
            }
            progress.at("picture", all.len(), files.len(), "");
        }
        Ok((all, ties))
    }

    fn headline(&self) -> String {
        let averaged = if self.args.ema { ", averaged weights" } else { "" };
        let steps = if self.config.neuron == NeuronKind::Relu { "as an ANN".into() } else { format!("T = {}", self.config.time_steps) };
        let ties = if self.args.ties == Ties::Current { ", ties by current" } else { "" };
        let (path, model, dataset) = (one_line(self.path.display()), self.config.model_name(), one_line(&self.card.name));
        format!("{path}{averaged}: {model} trained on {dataset}, {steps}{ties}; %: softmax of the logits")
    }

    /// A line for people, whatever becomes of the results.
    fn tell(&self, output: Output, picture: &Classified) {
        match &picture.first {
            Err(error) => complain(&format!("error: {error}").replace('\n', " ")),
            Ok(first) if output == Output::Text => {
                let class = |class: &Class| format!("{} ({:.1} %)", one_line(self.name(class)), 100.0 * class.softmax);
                say(&format!("{}: {}", one_line(picture.path.display()), first.iter().map(class).collect::<Vec<_>>().join(", ")));
            }
            Ok(_) => {}
        }
    }

    /// The name of a class, or its number where the file has none.
    fn name(&self, class: &Class) -> String {
        self.card.classes.get(class.label).filter(|name| !name.is_empty()).cloned().unwrap_or_else(|| class.label.to_string())
    }

    fn json(&self, pictures: &[Classified], unreadable: usize) -> Result<Value> {
        let class =
            |class: &Class| json!({ "label": class.label, "class": self.name(class), "softmax": class.softmax, "logit": class.logit });
        let picture = |picture: &Classified| match &picture.first {
            Ok(first) => json!({ "path": picture.path.display().to_string(), "top": first.iter().map(class).collect::<Vec<_>>() }),
            Err(error) => json!({ "path": picture.path.display().to_string(), "error": error.to_string() }),
        };
        Ok(json!({
            "machine": machine(),
            "config": self.config.to_table()?,
            "device": self.device,
            "checkpoint": self.path.display().to_string(),
            "weights": if self.args.ema { "averaged" } else { "trained" },
            "dataset": self.card.name,
            "model": self.config.model_name(),
            "neuron": self.config.neuron.name(),
            "readout": self.config.readout.name(),
            "time_steps": self.config.time_steps,
            "ties": self.ties(),
            "n": pictures.len(),
            "unreadable": unreadable,
            "pictures": pictures.iter().map(picture).collect::<Vec<_>>(),
        }))
    }

    fn ties(&self) -> &'static str {
        if self.args.ties == Ties::Current { "current" } else { "first" }
    }

    /// A row a picture, with columns for each class that is shown.
    fn records(&self, pictures: &[Classified]) -> Records {
        let shown = self.args.top.min(self.card.classes.len());
        let numbered = |place: usize| if place == 0 { String::new() } else { format!("_{}", place + 1) };
        let of_class = |place: usize| ["label", "class", "softmax", "logit"].map(|head| format!("{head}{}", numbered(place)));
        let mut heads = vec!["path".to_string()];
        heads.extend((0..shown).flat_map(of_class));
        let last = ["error", "checkpoint", "dataset", "model", "neuron", "readout", "time_steps", "weight_bits", "ties", "device"];
        heads.extend(last.iter().chain(&["version", "commit"]).map(ToString::to_string));
        let (machine, config) = (machine(), self.config);
        let tail = [
            self.path.display().to_string(),
            self.card.name.clone(),
            config.model_name(),
            config.neuron.name().into(),
            config.readout.name().into(),
            config.time_steps.to_string(),
            config.weight_bits.to_string(),
            self.ties().into(),
            self.device.clone(),
            machine.version.into(),
            machine.commit.unwrap_or_default().into(),
        ];
        let cells = |class: &Class| [class.label.to_string(), self.name(class), class.softmax.to_string(), class.logit.to_string()];
        let mut records = Records::new(heads);
        for Classified { path, first } in pictures {
            let mut row = vec![path.display().to_string()];
            match first {
                Ok(first) => row.extend(first.iter().flat_map(cells).chain([String::new()])),
                Err(error) => row.extend(vec![String::new(); 4 * shown].into_iter().chain([error.to_string()])),
            }
            row.extend(tail.iter().cloned());
            records.push(row);
        }
        records
    }
}

/// The classes that come first for one picture of a batch.
fn classes(evaluation: &Evaluation, place: usize, top: usize) -> Vec<Class> {
    let (softmax, logits) = (evaluation.softmax(place), &evaluation.logits[place * evaluation.classes..]);
    let class = |label: usize| Class { label, softmax: softmax[label], logit: logits[label] };
    evaluation.first(place, top).into_iter().map(class).collect()
}
