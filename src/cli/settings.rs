//! Flags that are hyper-parameters. Each has the name of its field in `Config`; those that were given become a layer of settings.

use std::path::{Path, PathBuf};

use crate::data::{AutoAugment, Dataset, EventSplit, FrameRule, ImageFit, Layout, Orientation, Size};
use crate::error::{Error, Result};
use crate::regular_file;
use crate::settings::recipes::{self, Layer};
use crate::settings::{
    Config, DecayOn, GradientKind, LrDecay, NeuronKind, OptimizerKind, ReadoutKind, ScheduleKind, SyncBatchNorm, ThresholdInit,
};
use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::{ArgAction, Args};
use serde::Serialize;
use toml::Table;

use super::{Global, complain};
pub use crate::training::choice::{
    THRESHOLDS, checkpoint_file, fresh, of_checkpoint, refuse_foreign, refuse_idle, refuse_other_readout, refuse_without_output_neurons,
};
use crate::training::{self, choice};

/// Bytes that a file of settings may have.
const MOST_BYTES: u64 = 1 << 20;

/// Headings of flags whose values come from elsewhere where they are not given.
pub const NETWORK: &str = "Network and data [default: the checkpoint's, or the recipe's]";
const TRAINING: &str = "Training [default: the recipe's]";
const FILES: &str = "Files of a data set [default: the checkpoint's, or the recipe's]";

/// What the network is.
#[derive(Args, Serialize)]
#[command(next_help_heading = NETWORK)]
pub struct NetworkFlags {
    /// Data set by name; `dsr info` lists them [default: fashion-mnist-3k].
    #[arg(short = 'd', long, value_name = "NAME")]
    dataset: Option<String>,
    /// Folder or archive of a data set that is not shipped.
    #[arg(long, value_name = "PATH", visible_alias = "path", alias = "data_dir", value_parser = text_path())]
    data_dir: Option<PathBuf>,
    /// Network by name; `dsr info` lists them.
    #[arg(long, value_name = "NAME", visible_alias = "arch")]
    model: Option<String>,
    /// Neuron model; with relu the network is an ANN.
    #[arg(long, value_enum, ignore_case = true)]
    neuron: Option<NeuronKind>,
    #[command(flatten)]
    #[serde(flatten)]
    layers: LayerFlags,
    /// Width of the weights in the forward pass: 16 or 8 [default: 16].
    #[arg(long, value_name = "BITS", alias = "weight_bits")]
    weight_bits: Option<u8>,
    // Last: the heading of a flattened group holds for all flags behind it.
    #[command(flatten)]
    #[serde(flatten)]
    reading: ReadingFlags,
}

/// How samples are made from files.
#[derive(Args, Clone, Debug, Serialize)]
#[command(next_help_heading = FILES)]
pub struct ReadingFlags {
    /// Of images, arrays or events without a test split: the share of each class that is the test split, on which the best epoch is chosen,
    /// too. Of other sets: the share of training samples held out as a validation split, on which the best epoch is then chosen; without
    /// it the test split chooses, and its accuracy is optimistic.
    #[arg(long, value_name = "X", alias = "val_share")]
    val_share: Option<f64>,
    /// Recordings of dvs-cifar10 to test on: the last tenth of each class (dsr) or the first (spikingjelly).
    #[arg(long, value_enum, alias = "event_split")]
    event_split: Option<EventSplit>,
    /// Frames of dvs-cifar10, events and the sets like it hold equally many events (number) or take equally long (time).
    #[arg(long, value_enum, alias = "event_frames")]
    event_frames: Option<FrameRule>,
    /// Where a pixel lies in frames of dvs-cifar10: as in the paper (dsr), or a quarter turn from that (spikingjelly).
    #[arg(long, value_enum, alias = "event_orientation")]
    event_orientation: Option<Orientation>,
    /// Side of the frames of dvs-cifar10, pixels.
    #[arg(long, value_name = "N", alias = "event_size")]
    event_size: Option<usize>,
    /// Side of the pictures of imagenet and images, pixels.
    #[arg(long, value_name = "N", alias = "image_size")]
    image_size: Option<usize>,
    /// Shorter side of a picture of imagenet (test) or images before its middle is cut out, pixels; 0 for --image-size.
    #[arg(long, value_name = "N", alias = "image_resize")]
    image_resize: Option<usize>,
    /// Share of a training picture of imagenet or images that a random crop takes, such as 0.08,1; of images 1,1 takes whole pictures.
    #[arg(long, value_name = "X,X", value_parser = parse_pair, alias = "crop_scale")]
    crop_scale: Option<Pair>,
    /// Channels of the pictures of images: 3 for colour, 1 for grey.
    #[arg(long, value_name = "N")]
    channels: Option<usize>,
    /// How a picture of images becomes a square: its shorter side is resized and the middle cut out (crop), both sides are resized (fit), or the longer side is and black is put beside it (pad).
    #[arg(long, value_enum, alias = "image_fit")]
    image_fit: Option<ImageFit>,
    /// Order of the axes of arrays, where sizes do not tell it.
    #[arg(long, value_enum, ignore_case = true)]
    layout: Option<Layout>,
    /// Mean of each channel of images or arrays, in units of the largest value, such as 0.5,0.5,0.5 [default: measured].
    #[arg(long, value_name = "X,X,…", value_parser = parse_numbers, allow_negative_numbers = true)]
    mean: Option<Numbers>,
    /// Standard deviation of each channel, likewise [default: measured].
    #[arg(long, value_name = "X,X,…", value_parser = parse_numbers)]
    std: Option<Numbers>,
    /// Height and width of the camera of events in pixels, such as 480x640, where files do not state it.
    #[arg(long, value_name = "HxW")]
    sensor: Option<Size>,
    /// Height and width of the frames of events and the sets like it, pixels of the camera are added up; 0x0 for the camera's, divided by what leaves at most 64 a side.
    #[arg(long, value_name = "HxW", alias = "frame_size")]
    frame_size: Option<Size>,
    /// Milliseconds of a frame of events and the sets like it; what comes behind the last frame does not count; 0 for as --event-frames says.
    #[arg(long, value_name = "X", alias = "frame_ms")]
    frame_ms: Option<f64>,
    /// Columns of events and the sets like it from right to left.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set, alias = "flip_x")]
    flip_x: Option<bool>,
    /// Rows of events and the sets like it from bottom to top.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set, alias = "flip_y")]
    flip_y: Option<bool>,
    /// Columns of events and the sets like it become rows, before any flip.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    transpose: Option<bool>,
    /// Leave out up to N files that cannot be read, instead of stopping at the first [default: 0].
    #[arg(long, value_name = "N", alias = "skip_unreadable")]
    skip_unreadable: Option<usize>,
    /// Folder for what is made from the files [default: .dsr-cache in the data set].
    #[arg(long, value_name = "FOLDER", alias = "cache_dir", value_parser = text_path())]
    cache_dir: Option<PathBuf>,
}

/// Sizes and constants of its layers.
#[derive(Args, Serialize)]
#[command(next_help_heading = NETWORK)]
pub struct LayerFlags {
    /// Channels of each stage of a PreAct-ResNet, such as 16,32,64; at most 16 stages.
    #[arg(long, value_name = "N,N,…", value_parser = parse_sizes)]
    widths: Option<Sizes>,
    /// Blocks of each stage, such as 1,1,1; at most 1,000 together.
    #[arg(long, value_name = "N,N,…", value_parser = parse_sizes)]
    blocks: Option<Sizes>,
    /// What the logits are: rates of output neurons, as in the paper, or mean currents, which have more values with few time steps.
    #[arg(long, value_enum)]
    readout: Option<ReadoutKind>,
    /// Initial threshold of every layer.
    #[arg(long, value_name = "X", visible_alias = "Vth")]
    vth: Option<f64>,
    /// The same for neurons behind an average pool only [default: as --vth].
    #[arg(long, value_name = "X", alias = "vth_pooled")]
    vth_pooled: Option<f64>,
    /// The same for the last layer only, whose representation is the logits [default: as --vth].
    #[arg(long, value_name = "X", alias = "vth_logits")]
    vth_logits: Option<f64>,
    /// A neuron fires at alpha * Vth, alpha times its threshold.
    #[arg(long, value_name = "X")]
    alpha: Option<f64>,
    /// Membrane time constant (lif).
    #[arg(long, value_name = "X")]
    tau: Option<f64>,
    /// Length of a time step, in the unit of tau (lif).
    #[arg(long, value_name = "X", visible_alias = "dt", alias = "delta_t")]
    delta_t: Option<f64>,
    /// Lower bound of every threshold.
    #[arg(long, value_name = "X", visible_alias = "Vth_bound", aliases = ["Vth-bound", "vth_bound"])]
    vth_bound: Option<f64>,
}

/// How it is trained.
#[derive(Args, Serialize)]
#[command(next_help_heading = TRAINING)]
pub struct TrainingFlags {
    /// Number of time steps T.
    #[arg(short = 'T', long, value_name = "N", visible_alias = "timesteps", alias = "time_steps")]
    time_steps: Option<usize>,
    /// Epochs: passes over the training split, up to 1,000,000.
    #[arg(long, value_name = "N")]
    epochs: Option<usize>,
    /// Batch size: samples per training step, up to 1,048,576.
    #[arg(short, long, value_name = "N", visible_aliases = ["batch-size", "train-batch"], aliases = ["train_batch", "batch_size"])]
    batch: Option<usize>,
    /// Slices of a batch: as many processes at most can share one (docs/distributed.md), and their number changes no bit [default: 1].
    #[arg(long, value_name = "N")]
    slices: Option<usize>,
    /// Whether batch norm takes its statistics of the whole batch or of each slice [default: all].
    #[arg(long, value_enum, alias = "sync_batch_norm")]
    sync_batch_norm: Option<SyncBatchNorm>,
    /// Optimizer.
    #[arg(long, value_enum, ignore_case = true)]
    optimizer: Option<OptimizerKind>,
    /// Highest learning rate.
    #[arg(long, value_name = "X", visible_alias = "learning-rate", alias = "learning_rate")]
    lr: Option<f64>,
    /// How the learning rate changes over the run.
    #[arg(long, value_enum)]
    schedule: Option<ScheduleKind>,
    /// Shares of the run after which the learning rate is multiplied by gamma (multi-step), such as 0.5,0.75.
    #[arg(long, value_name = "X,X,…", value_parser = parse_numbers)]
    milestones: Option<Numbers>,
    /// What the learning rate is multiplied by at each milestone (multi-step); 0.1 without this.
    #[arg(long, value_name = "X")]
    gamma: Option<f64>,
    /// Share of the run after which the learning rate is highest (one-cycle); 0.3 without this.
    #[arg(long, value_name = "X", alias = "peak_share")]
    peak_share: Option<f64>,
    /// When the learning rate goes down (cosine, multi-step): between epochs, or after every step [default: epoch].
    #[arg(long, value_enum, alias = "lr_decay")]
    lr_decay: Option<LrDecay>,
    /// Factor of weight decay.
    #[arg(long = "wd", value_name = "X", visible_alias = "weight-decay", alias = "weight_decay")]
    weight_decay: Option<f64>,
    /// What decays: every parameter, or weights and not thresholds, batch norms and biases [default: all].
    #[arg(long, value_enum, alias = "decay_on")]
    decay_on: Option<DecayOn>,
    /// Largest norm of all gradients of a step; larger ones are made smaller together.
    #[arg(long, value_name = "X", visible_alias = "clip-grad", alias = "clip_norm")]
    clip_norm: Option<f64>,
    /// Keep a moving average of the parameters, of which a step keeps this share, such as 0.999; it is tested beside them.
    #[arg(long, value_name = "X", visible_alias = "model-ema-decay")]
    ema: Option<f64>,
    /// Leave thresholds what they are at the start.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set, alias = "freeze_thresholds")]
    freeze_thresholds: Option<bool>,
    /// Training steps of linear warm-up of the learning rate.
    #[arg(long, value_name = "N")]
    warmup: Option<usize>,
    /// Momentum (sgd).
    #[arg(long, value_name = "X")]
    momentum: Option<f64>,
    /// Nesterov momentum (sgd); `--nesterov=false` turns it off [default: false].
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    nesterov: Option<bool>,
    /// Adam beta1 and beta2, of adamw, too [default: 0.9,0.999].
    #[arg(long, value_name = "X,X", value_parser = parse_pair)]
    betas: Option<Pair>,
    /// Adam epsilon, of adamw, too [default: 1e-8].
    #[arg(long, value_name = "X")]
    eps: Option<f64>,
    /// Which gradient the weights get [default: rate].
    #[arg(long, value_enum, alias = "weight_gradient")]
    weight_gradient: Option<GradientKind>,
    /// Initial thresholds: those of --vth (fixed), or chosen from the first training samples so that no layer starts silent (auto) [default: fixed].
    #[arg(long, value_enum, alias = "threshold_init")]
    threshold_init: Option<ThresholdInit>,
    /// Further factor of threshold gradients.
    #[arg(long, value_name = "X", alias = "threshold_grad_scale")]
    threshold_grad_scale: Option<f64>,
    /// Dropout probability of a spike.
    #[arg(long, value_name = "X", visible_alias = "drop-rate", alias = "drop")]
    dropout: Option<f64>,
    /// Share of a training target that all classes have in equal parts; 0 without this.
    #[arg(long, value_name = "X", alias = "label_smoothing")]
    label_smoothing: Option<f64>,
    #[command(flatten)]
    #[serde(flatten)]
    changes: ChangeFlags,
}

/// How training samples are changed at random.
#[derive(Args, Serialize)]
#[command(next_help_heading = TRAINING)]
pub struct ChangeFlags {
    /// Padding of the random crop, pixels; 0 for no crop.
    #[arg(long, value_name = "N", alias = "crop_pad")]
    crop_pad: Option<usize>,
    /// Random horizontal flip; `--flip=false` turns it off.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    flip: Option<bool>,
    /// Operations of AutoAugment on training pictures: those found on CIFAR-10 or on ImageNet; off without this.
    #[arg(long, value_enum, alias = "auto_augment")]
    auto_augment: Option<AutoAugment>,
    /// Side of a square of each training image that is zero for the network, at a random place, pixels; 0 without this.
    #[arg(long, value_name = "N")]
    cutout: Option<usize>,
    /// Roll training frames of events and the sets like it by up to N pixels, up or down, left or right; 0 without this.
    #[arg(long, value_name = "N", alias = "event_roll")]
    event_roll: Option<usize>,
    /// Rotate training frames of events and the sets like it by up to X degrees either way; 0 without this.
    #[arg(long, value_name = "X", alias = "event_rotate")]
    event_rotate: Option<f64>,
    /// Leave out each event of a training recording of events and the sets like it with probability X; 0 without this.
    #[arg(long, value_name = "X", alias = "event_drop")]
    event_drop: Option<f64>,
    /// Mix the samples of a training batch, and their targets, in shares of the distribution Beta(X, X); 0 without this.
    #[arg(long, value_name = "X")]
    mixup: Option<f64>,
}

/// A list in one argument: clap would add up the lists of a flag that is given twice, where the last one should win.
#[derive(Clone, Debug, Serialize)]
struct Sizes(Vec<usize>);

fn parse_sizes(text: &str) -> std::result::Result<Sizes, std::num::ParseIntError> {
    text.split(',').map(str::parse).collect::<std::result::Result<_, _>>().map(Sizes)
}

#[derive(Clone, Debug, Serialize)]
struct Numbers(Vec<f64>);

fn parse_numbers(text: &str) -> std::result::Result<Numbers, std::num::ParseFloatError> {
    text.split(',').map(str::parse).collect::<std::result::Result<_, _>>().map(Numbers)
}

#[derive(Clone, Debug, Serialize)]
struct Pair([f64; 2]);

fn parse_pair(text: &str) -> std::result::Result<Pair, String> {
    let numbers: Option<Vec<f64>> = text.split(',').map(|number| number.parse().ok()).collect();
    let pair = numbers.and_then(|numbers| <[f64; 2]>::try_from(numbers).ok());
    pair.map(Pair).ok_or("give two numbers, such as 0.9,0.999".into())
}

/// The settings of one group of flags: those that were given, by name.
pub fn table(flags: &impl Serialize) -> Result<Table> {
    Table::try_from(flags).map_err(|e| too_large(flags).unwrap_or_else(|| Error::config("flags", e.to_string())))
}

/// The flag with a number that TOML cannot hold.
fn too_large(flags: &impl Serialize) -> Option<Error> {
    let all = serde_json::to_value(flags).ok()?;
    let is_large = |value: &serde_json::Value| value.as_u64().is_some_and(|number| i64::try_from(number).is_err());
    let (key, value) = all.as_object()?.iter().find_map(|(key, value)| {
        let numbers = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        Some((key, numbers.iter().find(|number| is_large(number))?))
    })?;
    Some(Error::config(key.replace('_', "-"), format!("{value} is above {}", i64::MAX)))
}

/// A path that stands in settings, which are text.
pub fn text_path() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| {
        let problem = "settings are text, and this is no UTF-8; rename it, or make a link to it with another name";
        if path.to_str().is_some() { Ok(path) } else { Err(problem) }
    })
}

/// Refuses a seed that a TOML file cannot hold.
///
/// # Errors
/// [`Error::Config`] naming `seed`.
pub fn checked_seed(seed: u64) -> Result<u64> {
    let most = i64::MAX.cast_unsigned();
    if seed <= most { Ok(seed) } else { Err(Error::config("seed", format!("{seed} is above {most}"))) }
}

/// The settings of `--config` and then of `flags`, which win.
pub fn layers(global: &Global, mut flags: Table) -> Result<Vec<Layer>> {
    let has_length = flags.get("frame_ms").and_then(toml::Value::as_float).is_some_and(|ms| ms != 0.0);
    if has_length && flags.contains_key("event_frames") {
        let problem = "says where frames end by their length, and --event-frames by their number; leave one of them out";
        return Err(Error::config("frame-ms", problem));
    }
    if let Some(seed) = global.seed {
        flags.insert("seed".into(), checked_seed(seed)?.cast_signed().into());
    }
    if let Some(threads) = global.threads {
        flags.insert("threads".into(), i64::try_from(threads.get()).unwrap_or(i64::MAX).into());
    }
    let mut layers = Vec::new();
    if let Some(path) = &global.config {
        let text = regular_file::read_text(path, MOST_BYTES)?;
        layers.push(recipes::parse(&text, &path.display().to_string())?);
    }
    layers.push(recipes::given(flags));
    Ok(layers)
}

/// Refuses an ANN where spikes are what is looked at.
///
/// # Errors
/// [`Error::Config`] naming `neuron`.
pub fn check_spiking(config: &Config, what: &str) -> Result<()> {
    if config.neuron != NeuronKind::Relu {
        return Ok(());
    }
    Err(Error::config("neuron", format!("relu: an ANN has no spikes, so there is no {what}; use if or lif")))
}

/// Refuses a share to test on, given as a flag, of a set that has a test split and is not trained on.
///
/// # Errors
/// [`Error::Config`] naming `val-share`.
pub fn refuse_idle_share(flags: &Table, dataset: &Dataset) -> Result<()> {
    if !flags.contains_key("val_share") || dataset.is_divided() {
        return Ok(());
    }
    Err(Error::config("val-share", format!("has no effect here: {} has a test split of its own; leave --val-share out", dataset.label())))
}

/// Refuses a seed, given as a flag, where nothing is drawn: neither a trained network nor a test split that is as it is.
///
/// # Errors
/// [`Error::Config`] naming `seed`.
pub fn refuse_idle_seed(global: &Global, dataset: &Dataset) -> Result<()> {
    if global.seed.is_none() || dataset.is_divided() {
        return Ok(());
    }
    Err(Error::config("seed", format!("has no effect here: {} has a test split of its own; leave --seed out", dataset.label())))
}

/// Tells of a network in a file that was trained on another division of the set.
///
/// # Errors
/// As [`choice::division_note`].
pub fn tell_division(global: &Global, path: &Path, config: &Config, dataset: &Dataset) -> Result<()> {
    let note = choice::division_note(path, config)?.filter(|_| dataset.is_divided() && !global.quiet);
    note.iter().for_each(|note| complain(note));
    Ok(())
}

/// Tells of a network in a file that is used as it is, though nobody has chosen its thresholds yet.
///
/// # Errors
/// As [`training::unchosen_note`].
pub fn tell_unchosen(global: &Global, path: &Path, config: &Config) -> Result<()> {
    let note = training::unchosen_note(path, config)?.filter(|_| !global.quiet);
    note.iter().for_each(|note| complain(note));
    Ok(())
}

/// Refuses flags that a trained network has no use for: its thresholds are in the checkpoint. `only_training` are flags without an effect
/// where it is not trained.
///
/// # Errors
/// [`Error::Config`] naming the flag.
pub fn refuse_untrained(flags: &Table, config: &Config, only_training: &[&str]) -> Result<()> {
    let (idle, why) = choice::idle(config.neuron);
    let Some(key) = idle.iter().chain(&THRESHOLDS).chain(only_training).find(|key| flags.contains_key(**key)) else {
        return Ok(());
    };
    let flag = key.replace('_', "-");
    let reason = match *key {
        key if idle.contains(&key) => why,
        key if THRESHOLDS.contains(&key) => "the thresholds are those of the checkpoint",
        _ => "only training samples are cropped so",
    };
    Err(Error::config(&flag, format!("has no effect on a trained network: {reason}; leave --{flag} out")))
}
