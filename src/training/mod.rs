//! The training loop. A run is a function of configuration and data; stopping and resuming it changes nothing.

mod best;
pub mod checkpoint;
pub mod choice;
pub mod curves;
mod measure;
pub mod metrics;
pub mod plan;
mod replicas;
pub mod run_folder;
mod run_lock;
mod start_notes;
pub mod step_losses;
pub mod tensorboard;
pub mod watch;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use self::checkpoint::{About, EpochSums, Progress, Started};
pub(crate) use self::measure::layer_metrics;
use self::measure::{measure, measure_average};
use self::metrics::EpochMetrics;
use self::replicas::check_replicas;
use self::run_folder::RunFolder;
pub use self::start_notes::{start_notes, unchosen_note};
use crate::data::{self, Augment, Batch, Dataset, Form, Loader, check_batch, hold_out};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::evaluation::Evaluation;
use crate::network::{ChosenThreshold, Input, Mode, Network, Samples, Staged};
use crate::ops::optimizer::Optimizer;
use crate::ranks::{Cost, Ranks, Share};
use crate::settings::{Config, LrDecay, SyncBatchNorm, ThresholdInit, Use, models};

/// A run in memory: what a checkpoint holds, and the data.
pub struct Run {
    /// Settings.
    pub config: Config,
    /// Data, without what is held out.
    pub dataset: Arc<Dataset>,
    /// What is held out of the training split, as the test split of a set of its own; none without `val_share`.
    pub validation: Option<Arc<Dataset>>,
    /// The network being trained.
    pub network: Network,
    /// Its optimiser.
    pub optimizer: Optimizer,
    /// How far it is.
    pub progress: Progress,
    /// Thresholds that were chosen from data when the run began; empty for fixed ones and for a resumed run.
    pub chosen: Vec<ChosenThreshold>,
    /// What the run took from the file whose parameters it began with.
    pub started: Started,
    /// What the last step has cost in exchanges with other ranks.
    pub step_cost: Cost,
}

/// Hears of each batch of a pass that measures: the run, the split, and how many of its samples are done.
pub type Measuring<'a> = &'a mut dyn FnMut(&Progress, &'static str, [usize; 2]) -> Result<()>;

/// What the loop tells while it works, and how it is told to stop. An error of a listener ends the run as [`Hooks::stop`] does, with a
/// checkpoint, and is what [`train`] returns.
pub struct Hooks<'a> {
    /// Set from outside to stop the run after the step at work.
    pub stop: &'a AtomicBool,
    /// Stops the run after this many steps of this call.
    pub stop_after: Option<u64>,
    /// Every so many steps of the run its checkpoint is written, too, so that a run that is killed loses no more of them.
    pub checkpoint_every: Option<u64>,
    /// After every training step.
    pub step: &'a mut dyn FnMut(&Run) -> Result<()>,
    /// After every batch of the passes that measure.
    pub measured: Measuring<'a>,
    /// After every epoch, with the time that is left.
    pub epoch: &'a mut dyn FnMut(&EpochMetrics, Duration) -> Result<()>,
}

/// How a call of [`train`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All epochs are done.
    Done,
    /// Stopped on request; the checkpoint is written.
    Stopped,
}

/// Where the parameters of a run come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin<'a> {
    /// Drawn from the seed.
    Seed,
    /// From a file, its last layer too or not; apart from that the run is a new one.
    Parameters { path: &'a Path, new_head: bool },
    /// From a checkpoint that [`resume`] loads afterwards.
    Checkpoint,
}

/// Samples from which thresholds are chosen: the first ones of the first epoch.
pub const THRESHOLD_SAMPLES: usize = 32;

/// A run before its first step, on `device`, with all the memory it needs there.
///
/// Thresholds that are chosen from data are chosen on the CPU, so that a run starts from the same bits on every device.
///
/// # Errors
/// [`Error::Config`] if settings, network and data do not suit each other, [`Error::Device`] if the device has too little memory;
/// what [`checkpoint::load_start`] finds wrong, and that of a sample that cannot be read.
pub fn start(config: Config, dataset: Arc<Dataset>, device: &Device, origin: Origin) -> Result<Run> {
    start_as(config, dataset, device, origin, Ranks::Alone)
}

/// The same as one of several processes that share the batches, each of which has the same run.
///
/// # Errors
/// As [`start`] and [`share_of`].
pub fn start_as(config: Config, dataset: Arc<Dataset>, device: &Device, origin: Origin, ranks: Ranks) -> Result<Run> {
    config.check()?;
    let config = config.normalised_as(&dataset);
    let (dataset, validation) = match config.val_share.filter(|_| !dataset.is_divided()) {
        None => (dataset, None),
        Some(share) => {
            let (rest, held) = hold_out(Arc::unwrap_or_clone(dataset), share, config.seed)?;
            (Arc::new(rest), Some(Arc::new(held)))
        }
    };
    check_batch(&dataset, config.batch)?;
    config.augment().check(dataset.shape)?;
    config.augment().check_pictures(&dataset)?;
    config.check_memory(Use::Train, dataset.shape, dataset.classes.len(), [config.batch, dataset.frames], device)?;
    let mut network = config.network(dataset.shape, dataset.classes.len())?;
    let started = match origin {
        Origin::Parameters { path, new_head } => checkpoint::load_start(path, &mut network, new_head)?,
        Origin::Seed | Origin::Checkpoint => Started { has_thresholds: true, ..Started::default() },
    };
    check_device(&config, device)?;
    let optimizer = config.optimizer(&network);
    let chosen = match (config.threshold_init, &origin) {
        (ThresholdInit::Auto, Origin::Seed | Origin::Parameters { .. }) => choose_thresholds(&config, &dataset, &mut network)?,
        (ThresholdInit::Fixed, _) | (_, Origin::Checkpoint) => Vec::new(),
    };
    network.share = share_of(&config, ranks)?;
    network.place(device)?;
    if dataset.stream.is_none() && config.augment().form(Form::Draws) == Form::Draws {
        network.hold_images(&dataset, config.crop_pad)?;
    }
    network.reserve(config.batch, dataset.frames, Some(config.gradient()), Some(&optimizer))?;
    let progress = Progress { seed: config.seed, ..Progress::default() };
    Ok(Run { config, dataset, validation, network, optimizer, progress, chosen, started, step_cost: Cost::default() })
}

/// Chooses thresholds from the first training samples.
fn choose_thresholds(config: &Config, dataset: &Arc<Dataset>, network: &mut Network) -> Result<Vec<ChosenThreshold>> {
    let samples = THRESHOLD_SAMPLES.min(dataset.train.len());
    // Whole samples: a single λ would stand for all of them.
    let augment = Augment { cutout: 0, mixup: 0.0, ..config.augment() };
    let mut batches = Loader::train(Arc::clone(dataset), samples, augment, config.seed, 0, 0);
    let Some(batch) = batches.next() else {
        batches.outcome()?;
        return Err(Error::config("threshold-init", "auto needs training samples, and there are none"));
    };
    let input = Input { data: &batch.data, batch: batch.labels.len(), frames: batch.frames };
    network.choose_thresholds(&input, dropout_seed(config.seed, 0))
}

/// Refuses what processes on the CPU do with a batch and those on devices do not do yet.
///
/// # Errors
/// [`Error::Config`] naming `sync-batch-norm`.
pub fn check_device(config: &Config, device: &Device) -> Result<()> {
    if !matches!(device, Device::Cpu) && config.sync_batch_norm == SyncBatchNorm::Slice {
        let problem = "slice: on a device batch norm has the statistics of the whole batch, so far; take --device cpu, or leave it out";
        return Err(Error::config("sync-batch-norm", problem));
    }
    Ok(())
}

/// Refuses a folder that the data set does not read, and a network, or changes of samples, that do not suit the size of the samples, where
/// settings alone tell it: before files are listed or converted.
///
/// # Errors
/// [`Error::Config`] naming the setting.
pub fn check_known(config: &Config) -> Result<()> {
    const CLASSES: usize = 10; // any number suits every network
    data::refuse_folder(&config.dataset, config.data_dir.as_deref())?;
    let Some(shape) = config.known_shape() else { return Ok(()) };
    config.augment().check(shape)?;
    models::build(&config.architecture(), shape, CLASSES).map(drop)
}

/// The part of each batch that is this process's.
///
/// # Errors
/// [`Error::Config`] if the run has fewer slices than there are ranks, or more than a batch has samples.
pub fn share_of(config: &Config, ranks: Ranks) -> Result<Share> {
    if config.slices > config.batch {
        let problem = format!("{} is above {}: a slice has at least one sample of a batch", config.slices, config.batch);
        return Err(Error::config("slices", problem));
    }
    let share = Share::new(ranks, config.batch, config.slices)?;
    Ok(share.with_norms_by_slice(config.sync_batch_norm == SyncBatchNorm::Slice))
}

/// Begins a new run in `folder`. The checkpoint comes first: from then on the folder holds a run that can be resumed.
///
/// # Errors
/// What the checkpoint and the run folder cannot write.
pub fn begin(run: &mut Run, folder: &RunFolder) -> Result<()> {
    write(run, folder, &folder.last(), true)?;
    folder.begin(&run.config.to_complete_toml()?, &run.chosen)
}

/// Brings a run, and what `folder` says about it, to where the checkpoint at `path` left off. In a folder of its own the run gets both
/// checkpoints; a run with nothing left to do changes no file that is complete.
///
/// # Errors
/// What [`checkpoint::load`] finds wrong; [`Error::File`] for a file that holds parameters only, or for progress that no run with these
/// settings and data can have made; [`Error::Config`] if the checkpoint has more epochs than the run is to have.
pub fn resume(run: &mut Run, folder: &mut RunFolder, path: &Path) -> Result<()> {
    let progress = checkpoint::load(path, &mut run.network, Some(&mut run.optimizer))?
        .ok_or_else(|| Error::file(path, "holds parameters but no training state: start a new run with --init-from"))?;
    if !checkpoint::unchosen(path)?.is_empty() {
        let problem = "has thresholds that nobody has chosen yet, so no run has begun: start a new run with --init-from";
        return Err(Error::file(path, problem));
    }
    if let Some(differs) = checkpoint::data(path)?.and_then(|card| card.classes_differ(&run.dataset)) {
        return Err(Error::file(path, format!("{differs}; name its data set by --data-dir, or start a new run with --init-from")));
    }
    progress.check_run(path, run.config.seed, run.network.layers.len(), [run.dataset.train.labels.len(), run.config.batch])?;
    let (epochs, begun) = (run.config.epochs, progress.epoch + usize::from(progress.step > 0));
    if begun > epochs {
        return Err(Error::config("epochs", format!("{epochs}: the checkpoint has begun {begun} already; give at least as many")));
    }
    run.progress = progress;
    let is_done = run.progress.epoch == epochs;
    // What `last` says of the run is true from here on: it is what the run goes on from if this process is killed.
    let is_other = checkpoint::config(path)?.is_none_or(|text| run.config.without_machine().to_toml().is_ok_and(|ours| ours != text));
    if !folder.last().exists() || (is_other && !is_done) {
        save(run, folder, &folder.last())?;
    }
    best::keep(run, folder, path)?;
    let settings = if is_done && folder.has_settings() { None } else { Some(run.config.to_complete_toml()?) };
    folder.restore(settings.as_deref(), &run.progress.metrics)
}

/// Steps of one epoch; the last one may be smaller than the others.
pub fn steps_per_epoch(run: &Run) -> usize {
    run.dataset.train.labels.len().div_ceil(run.config.batch)
}

/// Trains until all epochs are done or `hooks` say stop, and keeps `folder` up to date.
///
/// # Errors
/// [`Error::NotFinite`] at the first value that is no number; what the checkpoint and the run folder cannot write; what `hooks` return.
pub fn train(run: &mut Run, folder: &mut RunFolder, hooks: Hooks) -> Result<End> {
    let mut steps = 0;
    let ranks = run.network.share.ranks().clone();
    check_replicas(run, &ranks)?;
    while run.progress.epoch < run.config.epochs {
        let started = Instant::now();
        let (epoch, before) = (run.progress.epoch, run.progress.sums.seen);
        let augment = run.config.augment();
        let form = if run.network.holds_images() { Form::Draws } else { run.network.form_of(&run.dataset)? };
        let places = run.network.share.places();
        let (dataset, batch) = (Arc::clone(&run.dataset), run.config.batch);
        let mut batches = Loader::train_part(form, dataset, batch, places, augment, run.config.seed, epoch, run.progress.step);
        let mut next = batches.next();
        let mut staged = None;
        while let Some(batch) = next {
            let spent = ranks.cost();
            begin_step(run, &batch, staged)?;
            next = batches.next(); // while a device computes
            staged = match &next {
                Some(next) => run.network.stage(&Samples::of(next), &next.labels)?,
                None => None,
            };
            let loss = finish_step(run, folder)?;
            folder.step(run.progress.iteration, [run.progress.step, steps_per_epoch(run)], loss);
            saved_first((hooks.step)(run), run, folder)?;
            steps += 1;
            let is_stopped = ranks.any("whether to go on after the step", hooks.stop.load(Ordering::Relaxed))?;
            run.step_cost = ranks.cost() - spent;
            if is_stopped || hooks.stop_after.is_some_and(|n| steps >= n) {
                check_replicas(run, &ranks)?;
                save(run, folder, &folder.last())?;
                folder.write_losses();
                return Ok(End::Stopped);
            }
            // The step is whole here: what it changed and what it counted belong together.
            if hooks.checkpoint_every.is_some_and(|every| run.progress.iteration.is_multiple_of(every)) {
                check_replicas(run, &ranks)?;
                save(run, folder, &folder.last())?;
            }
        }
        saved_first(batches.outcome(), run, folder)?;
        check_replicas(run, &ranks)?;
        let images = (run.progress.sums.seen - before) as f64; // of this call: less than the split after a stop within the epoch
        let images_per_second = if images > 0.0 { images / started.elapsed().as_secs_f64() } else { f64::NAN };
        let measured = measure(run, hooks.stop, hooks.measured);
        let Some((validation, test)) = saved_first(measured, run, folder)? else {
            save(run, folder, &folder.last())?;
            folder.write_losses();
            return Ok(End::Stopped);
        };
        let averaged = measure_average(run, hooks.stop, hooks.measured);
        let Some(averaged) = saved_first(averaged, run, folder)? else {
            save(run, folder, &folder.last())?;
            folder.write_losses();
            return Ok(End::Stopped);
        };
        let judged = validation.as_ref().unwrap_or(&test).accuracy();
        run.network.synchronize(&mut run.optimizer)?; // a device has moved the thresholds
        let layers = layer_metrics(run);
        let warnings = watch::warnings(&run.config, &run.network, &layers);
        let lr = learning_rate(run, run.progress.step.saturating_sub(1), run.progress.iteration.saturating_sub(1));
        let progress = &mut run.progress;
        let improved = epoch == 0 || judged > progress.best_accuracy;
        progress.best_accuracy = progress.best_accuracy.max(judged);
        let metrics = EpochMetrics {
            epoch: epoch + 1,
            epochs: run.config.epochs,
            lr,
            train_loss: progress.sums.loss / progress.sums.seen as f64,
            train_accuracy: progress.sums.correct as f64 / progress.sums.seen as f64,
            test_loss: test.loss,
            test_accuracy: test.accuracy(),
            val_loss: validation.as_ref().map(|validation| validation.loss),
            val_accuracy: validation.as_ref().map(Evaluation::accuracy),
            ema_test_loss: averaged.as_ref().map(|(_, test)| test.loss),
            ema_test_accuracy: averaged.as_ref().map(|(_, test)| test.accuracy()),
            ema_val_loss: averaged.as_ref().and_then(|(validation, _)| Some(validation.as_ref()?.loss)),
            ema_val_accuracy: averaged.as_ref().and_then(|(validation, _)| Some(validation.as_ref()?.accuracy())),
            best_accuracy: progress.best_accuracy,
            firing_rate: test.firing_rate(&run.network),
            images_per_second,
            seconds: started.elapsed().as_secs_f64(),
            layers,
            warnings,
        };
        *progress = Progress { epoch: epoch + 1, step: 0, sums: EpochSums::default(), ..std::mem::take(progress) };
        progress.metrics.push(metrics.clone());
        // Checkpoints come before the records that speak of them: wherever this breaks off, the run goes on from `last`.
        if improved {
            save(run, folder, &folder.best())?;
        }
        save(run, folder, &folder.last())?;
        folder.record(&metrics)?;
        let left = (run.config.epochs - epoch - 1) as f64;
        (hooks.epoch)(&metrics, Duration::try_from_secs_f64(metrics.seconds * left).unwrap_or(Duration::MAX))?;
    }
    Ok(End::Done)
}

/// Of step `step` of this epoch, which is iteration `iteration` of the run.
fn learning_rate(run: &Run, step: usize, iteration: u64) -> f64 {
    let of_epoch = match run.config.lr_decay {
        LrDecay::Epoch => 0.0,
        LrDecay::Step => step as f64 / steps_per_epoch(run) as f64,
    };
    run.config.schedule(steps_per_epoch(run)).rate(run.progress.epoch as f64 + of_epoch, iteration as usize)
}

/// Forward, loss, backward, update, of a batch that may be on a device already.
fn begin_step(run: &mut Run, batch: &Batch, staged: Option<Staged>) -> Result<()> {
    let (config, progress) = (&run.config, &run.progress);
    let lr = learning_rate(run, progress.step, progress.iteration);
    let mode = Mode::Train { gradient: config.gradient(), seed: dropout_seed(config.seed, progress.iteration) };
    let samples = staged.map_or_else(|| Samples::of(batch), Samples::Staged);
    run.network.share.begin_batch(samples_of_step(run));
    run.network.begin_step(&mut run.optimizer, lr as f32, &samples, &batch.labels, mode)
}

/// Waits for the step, adds it to the epoch and gives its loss.
fn finish_step(run: &mut Run, folder: &RunFolder) -> Result<f64> {
    let step = run.network.finish_step(&mut run.optimizer)?;
    let samples = samples_of_step(run);
    let progress = &mut run.progress;
    if let Some(place) = step.not_finite {
        return Err(not_finite(progress.iteration + 1, folder, place));
    }
    progress.sums.rates.resize(step.rates.len(), 0.0);
    for (sum, rate) in progress.sums.rates.iter_mut().zip(&step.rates) {
        *sum += f64::from(*rate) * samples as f64;
    }
    progress.sums.loss += step.loss * samples as f64;
    progress.sums.correct += step.correct;
    progress.sums.seen += samples as u64;
    progress.step += 1;
    progress.iteration += 1;
    Ok(step.loss)
}

/// Samples of the step at work, of all ranks.
fn samples_of_step(run: &Run) -> usize {
    run.config.batch.min(run.dataset.train.labels.len() - run.progress.step * run.config.batch)
}

/// Seed of the dropout masks of one iteration.
pub fn dropout_seed(seed: u64, iteration: u64) -> u64 {
    const ODD: u64 = 0x9E37_79B9_7F4A_7C15; // 2^64 / golden ratio: neighbouring iterations land far apart
    seed ^ (iteration + 1).wrapping_mul(ODD)
}

/// Writes a checkpoint before an error ends the run: a file that cannot be read should not cost an epoch.
fn saved_first<T>(result: Result<T>, run: &mut Run, folder: &RunFolder) -> Result<T> {
    if result.is_err() {
        let _ = save(run, folder, &folder.last()); // the first error is the one to report
    }
    result
}

/// Writes a checkpoint, unless the last update left a value that is no number: the checkpoint before it is worth more.
fn save(run: &mut Run, folder: &RunFolder, path: &Path) -> Result<()> {
    write(run, folder, path, false)
}

/// The same; says whether it is the first one of the run.
fn write(run: &mut Run, folder: &RunFolder, path: &Path, is_first: bool) -> Result<()> {
    run.network.synchronize(&mut run.optimizer)?;
    if let Some(layer) = run.network.first_not_finite() {
        return Err(not_finite(run.progress.iteration, folder, layer));
    }
    if !folder.is_ours() {
        return Ok(());
    }
    let (config_toml, data) = (run.config.without_machine().to_toml()?, run.dataset.card());
    let about = About { config_toml: &config_toml, data: Some(&data), is_first, ..About::default() };
    folder.check_lock()?;
    checkpoint::save(path, &run.network, &run.optimizer, &run.progress, about)
}

fn not_finite(step: u64, folder: &RunFolder, layer: String) -> Error {
    let last = folder.last();
    Error::NotFinite { step, layer, checkpoint: last.exists().then_some(last) }
}
