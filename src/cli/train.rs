//! `dsr train`: settings, run folder, progress, results.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::device::machine::machine;
use crate::error::{Error, Result};
use crate::network::ChosenThreshold;
use crate::settings::recipes;
use crate::settings::{Config, NeuronKind};
use crate::training::checkpoint;
use crate::training::metrics::EpochMetrics;
use crate::training::run_folder::{self, Access, BEST, LAST, RunFolder, Standing};
use crate::training::{self, End, Hooks, Origin, Run, THRESHOLD_SAMPLES};
use clap::Args;

use super::ported::{self, PortedFlags};
use super::progress::Progress;
use super::records::Records;
use super::settings::{self, NetworkFlags, TrainingFlags};
use super::{DONE, FAILED, Global, Output, complain, dataset, recipe, say, stop};

/// Trains a network and keeps a run folder: config.toml, metrics, curves, last.safetensors and best.safetensors.
///
/// Ctrl-C, SIGTERM, SIGHUP or SIGUSR1 finishes the step, writes last.safetensors and exits with 1; `--resume auto` then continues to the
/// same bits. A second one ends the program at once.
#[derive(Args)]
#[command(allow_negative_numbers = true, args_override_self = true)]
pub struct TrainArgs {
    #[command(flatten)]
    network: NetworkFlags,
    #[command(flatten)]
    training: TrainingFlags,
    /// Settings by name; `dsr recipe list` lists them [default: those of the data set].
    #[arg(long, value_name = "NAME", help_heading = "Run")]
    recipe: Option<String>,
    /// Continue a run: a checkpoint, or `auto` for the last one of --out, or of the newest run of that name (a new run if there is none).
    #[arg(long, value_name = "auto|FILE", help_heading = "Run")]
    resume: Option<PathBuf>,
    /// Start from the parameters of a checkpoint or run folder: a network of spikes, an ANN, or PyTorch's state_dict.
    #[arg(long, value_name = "FILE", conflicts_with = "resume", alias = "init_from", help_heading = "Run")]
    init_from: Option<PathBuf>,
    /// With --init-from: start the last layer anew, for a data set with other classes.
    #[arg(long, requires = "init_from", alias = "new_head", help_heading = "Run")]
    new_head: bool,
    /// Run folder [default: runs/DATASET-MODEL-NEURON-T-N with the first free N].
    #[arg(long, value_name = "FOLDER", help_heading = "Run")]
    out: Option<PathBuf>,
    /// Name of the run: as --out runs/NAME.
    #[arg(long, value_name = "NAME", conflicts_with = "out", help_heading = "Run")]
    name: Option<PathBuf>,
    /// Print the resolved settings (TOML, or as --output says) and stop: no data is read, no file is written.
    #[arg(long, help_heading = "Run")]
    dry_run: bool,
    #[command(flatten)]
    ported: PortedFlags,
    /// Take the run folder from the process that has it; without this, a lock of another machine counts until it is a minute old.
    #[arg(long, help_heading = "Run")]
    break_lock: bool,
    /// As if Ctrl-C came after this many steps; for tests.
    #[arg(long, value_name = "N", hide = true)]
    stop_after_steps: Option<u64>,
}

/// Where a run goes and what it continues.
struct Plan {
    config: Config,
    out: Out,
    resume: Option<PathBuf>,
}

/// The run folder.
enum Out {
    /// A new one, of this name.
    New(PathBuf),
    /// A new one, of the first free name.
    FirstFree,
    /// That of the checkpoint.
    Same(PathBuf),
}

/// Trains as asked.
///
/// # Errors
/// One line that says what is wrong with settings, data, checkpoint or disk.
pub fn run(global: &Global, mut args: TrainArgs) -> anyhow::Result<u8> {
    let begin = Instant::now();
    args.ported.answer(global.quiet)?;
    if let Some(name) = args.name.take() {
        args.out = Some(ported::run_folder(&name)?);
    }
    let plan = plan(global, &args)?;
    if args.dry_run {
        plan.config.check()?;
        return recipe::print_settings(global.output, &plan.config).map(|()| DONE);
    }
    super::use_threads(plan.config.threads)?;
    let device = global.open_device()?;
    let init_from = args.init_from.as_deref().map(settings::checkpoint_file).unwrap_or_default();
    if args.init_from.is_some() {
        // A wrong file is told before a large data set is listed or converted.
        checkpoint::config(&init_from)?;
    }
    let dataset = Arc::new(dataset::ready(global, &plan.config)?);
    let origin = match (&args.init_from, &plan.resume) {
        (Some(_), _) => Origin::Parameters { path: &init_from, new_head: args.new_head },
        (None, Some(_)) => Origin::Checkpoint,
        (None, None) => Origin::Seed,
    };
    let mut run = training::start(plan.config, dataset, &device, origin)?;
    if let (false, Origin::Parameters { path, .. }) = (global.quiet, origin) {
        thresholds_note(path, &run)?.iter().chain(&head_note(&run)).for_each(|note| complain(note));
    }
    stop::catch("this step")?;
    let access = Access { break_lock: args.break_lock, note: if global.quiet { |_| () } else { complain } };
    let mut folder = match &plan.out {
        Out::New(path) => RunFolder::create(path, &access)?,
        Out::FirstFree => RunFolder::create_first(run_folders(&run.config), &access)?,
        Out::Same(path) => RunFolder::resume(path, &access)?,
    };
    match &plan.resume {
        Some(path) => training::resume(&mut run, &mut folder, path)?,
        None => training::begin(&mut run, &folder)?,
    }
    if !global.quiet {
        if let Some(note) = memory_note(&run.config) {
            complain(&note);
        }
        complain(&headline(&run, folder.path(), plan.resume.as_deref()));
        if !run.chosen.is_empty() {
            complain(&threshold_table(&run.chosen));
        }
    }
    if global.verbose {
        complain(run.config.to_toml()?.trim_end());
    }
    let end = go(global, &args, &mut run, &mut folder)?;
    if end == End::Stopped {
        let (epoch, step, steps) = (run.progress.epoch + 1, run.progress.step, training::steps_per_epoch(&run));
        let out = folder.path().display();
        complain(&format!("stopped in epoch {epoch} after step {step} of {steps}; continue with: dsr train --resume auto --out {out}"));
        return Ok(FAILED);
    }
    report(global, &run, &folder, begin.elapsed())?;
    Ok(DONE)
}

/// What a user should know about the thresholds of a run that starts from the parameters in a file; nothing if all is as one expects.
fn thresholds_note(path: &Path, run: &Run) -> Result<Option<String>> {
    let (file, config) = (path.display(), &run.config);
    if config.neuron == NeuronKind::Relu || !run.chosen.is_empty() {
        return Ok(None);
    }
    if !run.started.has_thresholds {
        let note =
            format!("note: {file} holds an ANN without thresholds: they start as the settings say (--vth); dsr calibrate measures them");
        return Ok(Some(note));
    }
    let Some(text) = checkpoint::config(path)? else { return Ok(None) };
    let theirs = recipes::trained(path, &text)?;
    let unit = |config: &Config| if config.neuron == NeuronKind::Lif { (config.neuron, config.delta_t) } else { (config.neuron, 1.0) };
    if unit(&theirs) == unit(config) {
        return Ok(None);
    }
    let [ours, theirs] = [config, &theirs].map(|config| match config.neuron {
        NeuronKind::Lif => format!("LIF neurons with delta-t {}", config.delta_t),
        kind => format!("{} neurons", kind.name().to_uppercase()),
    });
    Ok(Some(format!("note: the thresholds in {file} are in units of {theirs}, this run has {ours}")))
}

/// Which parameters of the last layer start anew; nothing if none does.
fn head_note(run: &Run) -> Option<String> {
    let new = &run.started.new;
    (!new.is_empty()).then(|| format!("note: the last layer starts anew for {} classes: {}", run.dataset.classes.len(), new.join(", ")))
}

/// What a user should know about LIF neurons that forget most of a sample, which training by representation suffers from.
fn memory_note(config: &Config) -> Option<String> {
    let Config { time_steps, tau, delta_t, .. } = *config;
    let times_tau = time_steps as f64 * delta_t / tau;
    (config.neuron == NeuronKind::Lif && times_tau > 3.0).then(|| {
        format!(
            "note: {time_steps} steps of delta-t {delta_t} last {times_tau:.1} tau, so neurons have forgotten the first when the last comes; \
             --delta-t {}, with thresholds in proportion, lets all of them count (docs/thresholds.md)",
            two_digits(tau / time_steps as f64)
        )
    })
}

/// What a user should know about a test accuracy far below that of training while the rate is above half of `highest`: at such rates
/// the running statistics of batch norms, which only tests use, lag behind the weights.
fn lag_note(metrics: &EpochMetrics, highest: f64) -> Option<String> {
    (metrics.train_accuracy - metrics.test_accuracy > 0.2 && metrics.lr > 0.5 * highest).then(|| {
        format!(
            "note: epoch {}: test accuracy is {:.1} % and that of training {:.1} %: while the learning rate is high, running statistics of \
             batch norms lag behind the weights; a test at a low rate tells more, and --lr-decay step ends a short run at one \
             (docs/training.md)",
            metrics.epoch,
            100.0 * metrics.test_accuracy,
            100.0 * metrics.train_accuracy
        )
    })
}

/// Runs the loop with a progress bar and a line an epoch.
fn go(global: &Global, args: &TrainArgs, run: &mut Run, folder: &mut RunFolder) -> Result<End> {
    let steps = training::steps_per_epoch(run);
    let bar = Progress::new(global, steps);
    let highest_rate = run.config.lr;
    let mut on_step = |run: &Run| {
        let progress = &run.progress;
        let sums = &run.progress.sums;
        let (loss, accuracy) = (sums.loss / sums.seen as f64, sums.correct as f64 / sums.seen as f64);
        let what = format!("epoch {}/{} step", progress.epoch + 1, run.config.epochs);
        bar.at(&what, progress.step, steps, &format!("loss {loss:.3} train {:.1}", 100.0 * accuracy));
    };
    let mut on_epoch = |metrics: &EpochMetrics, left: Duration| {
        let line = epoch_line(metrics, left);
        match (global.quiet, global.output) {
            (true, _) => {}
            (false, Output::Text) => bar.suspend(|| say(&line)),
            (false, _) => bar.suspend(|| complain(&line)),
        }
        if !global.quiet {
            bar.suspend(|| {
                metrics.warnings.iter().for_each(|warning| complain(&format!("warning: epoch {}: {}", metrics.epoch, warning.line())));
                lag_note(metrics, highest_rate).iter().for_each(|note| complain(note));
            });
        }
        bar.reset();
    };
    let hooks = Hooks { stop: &stop::STOP, stop_after: args.stop_after_steps, step: &mut on_step, epoch: &mut on_epoch };
    training::train(run, folder, hooks)
}

/// Settings, run folder and checkpoint to continue from, out of flags, files and recipes.
fn plan(global: &Global, args: &TrainArgs) -> Result<Plan> {
    let mut flags = settings::table(&args.network)?;
    flags.extend(settings::table(&args.training)?);
    let layers = settings::layers(global, flags)?;
    let source = match &args.resume {
        None => None,
        Some(file) if file != Path::new("auto") => Some(file.clone()),
        Some(_) => {
            let folder = match &args.out {
                Some(out) => Some(out.clone()),
                None => {
                    let config = settings::fresh(args.recipe.as_deref(), layers.clone())?;
                    run_folders(&config).take_while(|folder| folder.exists()).last()
                }
            };
            folder.map_or(Ok(None), |folder| automatic(global, &folder))?
        }
    };
    let Some(source) = source else {
        let network = args.init_from.as_deref().map_or(Ok(toml::Table::new()), settings::network_of)?;
        let config = settings::fresh_on(network, args.recipe.as_deref(), layers)?;
        return Ok(Plan { config, out: args.out.clone().map_or(Out::FirstFree, Out::New), resume: None });
    };
    let text = checkpoint::config(&source)?
        .ok_or_else(|| Error::file(&source, "holds parameters but no settings; start a new run with --init-from"))?;
    let folder = source.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_path_buf();
    let out = match &args.out {
        Some(out) if out.canonicalize().ok() != folder.canonicalize().ok() => Out::New(out.clone()),
        _ => Out::Same(args.out.clone().unwrap_or(folder)),
    };
    let mut trained = recipes::trained(&source, &text)?;
    if let Out::Same(folder) = &out {
        trained.cache_dir = settings::cache_of(folder);
    }
    let mut wanted = layers;
    if let Some(name) = &args.recipe {
        wanted.insert(0, recipes::recipe(name)?);
    }
    let config = recipes::resolve(&trained, &wanted)?;
    trained.check_resume(&config)?;
    Ok(Plan { config, out, resume: Some(source) })
}

/// The checkpoint that `--resume auto` goes on from; none where a new run can begin.
fn automatic(global: &Global, folder: &Path) -> Result<Option<PathBuf>> {
    match run_folder::standing(folder)? {
        Standing::Run(checkpoint) => {
            if checkpoint.ends_with(BEST) && !global.quiet {
                complain(&format!("note: {} has no {LAST}: going on from {BEST}", folder.display()));
            }
            Ok(Some(checkpoint))
        }
        Standing::Begun => Ok(Some(folder.join(LAST))),
        Standing::Records => Err(Error::file(folder, run_folder::GONE)),
        Standing::Free | Standing::Foreign(_) => Ok(None),
    }
}

/// Default names of run folders, in order.
fn run_folders(config: &Config) -> impl Iterator<Item = PathBuf> {
    let stem = format!("{}-{}-{}-T{}", config.dataset, config.model_name(), config.neuron.name(), config.time_steps);
    (1..).map(move |n: u32| Path::new("runs").join(format!("{stem}-{n}")))
}

fn headline(run: &Run, out: &Path, resume: Option<&Path>) -> String {
    let (config, dataset) = (&run.config, &run.dataset);
    let from = resume.map_or(String::new(), |path| format!(", continuing {}", path.display()));
    let parameters = run.network.len();
    let what = match config.neuron {
        NeuronKind::Relu => format!("{} parameters, as an ANN with ReLU", parameters - run.network.layers.len()), // without thresholds
        kind => format!("{parameters} parameters, {} neurons, T = {}", kind.name().to_uppercase(), config.time_steps),
    };
    format!(
        "{} on {} ({} + {} images)\n{what}\nrun folder {}{from}",
        config.model_name(),
        dataset.title(),
        dataset.train.labels.len(),
        dataset.test.labels.len(),
        out.display()
    )
}

/// What `--threshold-init auto` has chosen, a line a layer.
fn threshold_table(chosen: &[ChosenThreshold]) -> String {
    let width = chosen.iter().map(|layer| layer.layer.len()).max().unwrap_or(0).max("layer".len());
    let mut lines =
        vec![format!("thresholds from {THRESHOLD_SAMPLES} training samples:"), format!("{:width$}  threshold  firing rate", "layer")];
    lines.extend(
        chosen.iter().map(|c| format!("{:width$}  {:>9}  {:>9.2} %", c.layer, format!("{:.4}", c.threshold), 100.0 * c.firing_rate)),
    );
    lines.join("\n")
}

/// `epoch 12/200 loss 0.412 train 86.1 test 85.2 rate 0.07 1204 img/s eta 0:41:10`; the learning rate and the best accuracy stand in metrics.csv
fn epoch_line(metrics: &EpochMetrics, left: Duration) -> String {
    let seconds = left.as_secs();
    format!(
        "epoch {}/{} loss {:.3} train {:.1} test {:.1} rate {:.2} {:.0} img/s eta {}:{:02}:{:02}",
        metrics.epoch,
        metrics.epochs,
        metrics.train_loss,
        100.0 * metrics.train_accuracy,
        100.0 * metrics.test_accuracy,
        metrics.firing_rate,
        metrics.images_per_second.max(0.0), // NaN where only the test split was left to do
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

/// A number with two significant digits: 0.049, 0.1, 0.00012.
fn two_digits(value: f64) -> String {
    format!("{value:.1e}").parse().unwrap_or(value).to_string()
}

/// The final result on stdout.
fn report(global: &Global, run: &Run, folder: &RunFolder, time: Duration) -> anyhow::Result<()> {
    let Some(end) = run.progress.metrics.last() else { return Ok(()) };
    let speeds: Vec<f64> = folder.metrics().iter().map(|m| m.images_per_second).filter(|speed| speed.is_finite()).collect();
    match global.output {
        Output::Json | Output::Csv | Output::Md => {
            let machine = machine();
            let result = serde_json::json!({
                "test_accuracy": end.test_accuracy,
                "best_accuracy": end.best_accuracy,
                "test_loss": end.test_loss,
                "epochs": run.progress.epoch,
                "seconds": time.as_secs_f64(),
                "mean_firing_rate": end.firing_rate,
                "images_per_second": speeds.iter().sum::<f64>() / speeds.len() as f64,
                "checkpoint": folder.last(),
                "best_checkpoint": Some(folder.best()).filter(|path| path.exists()),
                "seed": run.config.seed,
                "version": machine.version,
                "commit": machine.commit,
                "build": machine.build,
                "cpu": machine.cpu,
                "device": run.network.device().to_string(),
            });
            if global.output == Output::Json {
                say(&result.to_string());
            } else {
                say(Records::of_objects(&[result]).shown(global.output)?.trim_end());
            }
        }
        Output::Text => say(&format!(
            "test accuracy {:.1} (best {:.1}) after {} epochs in {:.0} s: {}",
            100.0 * end.test_accuracy,
            100.0 * end.best_accuracy,
            run.progress.epoch,
            time.as_secs_f64(),
            folder.last().display()
        )),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics() -> EpochMetrics {
        EpochMetrics {
            epoch: 12,
            epochs: 200,
            lr: 0.04918,
            train_loss: 0.4119,
            train_accuracy: 0.86149,
            test_loss: 1.0,
            test_accuracy: 0.852,
            best_accuracy: 0.8543,
            firing_rate: 0.0701,
            images_per_second: 1204.3,
            seconds: 13.1,
            layers: Vec::new(),
            warnings: Vec::new(),
        }
    }

    #[test]
    fn an_epoch_is_one_line() {
        let metrics = metrics();
        let line = "epoch 12/200 loss 0.412 train 86.1 test 85.2 rate 0.07 1204 img/s eta 0:41:10";
        assert_eq!(epoch_line(&metrics, Duration::from_secs(41 * 60 + 10)), line);
        let numbers = [(0.1, "0.1"), (1.0, "1"), (0.000123, "0.00012"), (1e-7, "0.0000001"), (12.7, "13"), (0.0, "0")];
        for (number, expected) in numbers {
            assert_eq!(two_digits(number), expected);
        }
    }

    #[test]
    fn a_test_accuracy_that_lags_is_named_while_the_rate_is_high() {
        // Test accuracy, training accuracy, rate of 0.05 at the most, and whether it is said.
        let cases = [(0.497, 0.777, 0.05, true), (0.57, 0.777, 0.026, true), (0.58, 0.777, 0.05, false), (0.497, 0.777, 0.025, false)];
        for (test_accuracy, train_accuracy, lr, is_said) in cases {
            let metrics = EpochMetrics { test_accuracy, train_accuracy, lr, ..metrics() };
            assert_eq!(lag_note(&metrics, 0.05).is_some(), is_said, "{test_accuracy} {train_accuracy} {lr}");
        }
        let note = lag_note(&EpochMetrics { test_accuracy: 0.497, train_accuracy: 0.777, lr: 0.05, ..metrics() }, 0.05).unwrap();
        assert!(note.starts_with("note: epoch 12: test accuracy is 49.7 % and that of training 77.7 %"), "{note}");
    }
}
