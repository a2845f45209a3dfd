//! `dsr train`: settings, run folder, progress, results.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::devices::resolved;
use super::notes::{lag_note, memory_note, rate_note, silence_note, single_note, warmup_note};
pub use super::plan::TrainArgs;
use super::plan::asked;
use super::ported;
use super::progress::Progress;
use super::records::Records;
use super::settings;
use super::tables::{LINE, fitted};
use super::{DONE, FAILED, Global, Output, Wanted, complain, dataset, processes, ranks, recipe, say, say_lines, stop};
use crate::device::Device;
use crate::device::machine::machine;
use crate::error::Error;
use crate::error::Result;
use crate::network::ChosenThreshold;
use crate::ranks::{Cost, Ranks};
use crate::settings::NeuronKind;
use crate::spelling::one_line;
use crate::training::checkpoint;
use crate::training::metrics::EpochMetrics;
use crate::training::plan::{Out, plan, run_folders};
use crate::training::run_folder::{self, Access, RunFolder};
use crate::training::{self, End, Hooks, Origin, Run, THRESHOLD_SAMPLES};

/// Trains as asked.
///
/// # Errors
/// One line that says what is wrong with settings, data, checkpoint or disk.
pub fn run(global: &Global, args: TrainArgs) -> anyhow::Result<u8> {
    match (&args.devices, args.rank) {
        (_, Some(_)) => processes::obey()?,
        (Some(_), None) if global.device != Wanted::Auto => {
            return Err(Error::config("device", "--devices says where each process computes; leave --device out").into());
        }
        (Some(wanted), None) => match &resolved(wanted)?[..] {
            [(device, _)] => {
                let global = Global { device: Wanted::Cuda(Some(*device)), ..global.clone() };
                return run(&global, TrainArgs { devices: None, ..args });
            }
            devices => return processes::run(devices),
        },
        (None, None) => {}
    }
    let ranks = ranks::join(global, args.rank_timeout, args.rank)?;
    let outcome = run_as(&ranks, &ranks::voice(global, &ranks), args);
    ranks::leave(&ranks, outcome)
}

/// Trains as one of `ranks`: the first of them prints and keeps the run folder.
fn run_as(ranks: &Ranks, global: &Global, mut args: TrainArgs) -> anyhow::Result<u8> {
    let is_first = ranks.rank() == 0;
    let begin = Instant::now();
    args.ported.answer(global.quiet)?;
    if let Some(name) = args.name.take() {
        args.out = Some(ported::run_folder(&name)?);
    }
    let access = Access { break_lock: args.break_lock, note: if global.quiet { |_| () } else { complain } };
    let asked_for = asked(global, &args)?;
    let mut planned = plan(&asked_for)?;
    settings::refuse_foreign(&asked_for.given, &planned.config)?;
    // Told before data are read.
    training::share_of(&planned.config, ranks.clone())?;
    training::check_known(&planned.config)?;
    if args.dry_run {
        planned.config.check()?;
        if let Out::New(path) = &planned.out {
            run_folder::check_free(path)?;
        }
        if !is_first {
            return Ok(DONE);
        }
        return recipe::print_settings(global.output, &planned.config).map(|()| DONE);
    }
    ranks.meet("plan of the run")?;
    // A run that goes on is taken before anything else is done, and its settings are read again: until now it was somebody else's.
    let taken = match &planned.out {
        Out::Same(path) if is_first => Some(RunFolder::resume(path, &access)?),
        Out::Same(path) => Some(RunFolder::of_another_rank(path)),
        Out::New(_) | Out::FirstFree => None,
    };
    ranks.meet("run folder")?;
    if taken.is_some() {
        planned = plan(&asked(global, &args)?)?;
    }
    if !global.quiet {
        planned.notes.iter().for_each(|note| complain(note));
    }
    super::use_threads(ranks::threads(planned.config.threads, args.rank))?;
    let device = match ranks.nccl() {
        Some(nccl) => Device::Cuda(nccl.communicator().gpu().clone()),
        None => global.open_device()?,
    };
    training::check_device(&planned.config, &device)?;
    let init_from = args.init_from.as_deref().map(settings::checkpoint_file).unwrap_or_default();
    if planned.resume.is_none() && args.init_from.is_some() {
        // A wrong file is told before a large data set is listed or converted.
        checkpoint::config(&init_from)?;
    }
    let dataset = Arc::new(dataset::ready(global, &planned.config)?);
    let origin = match (&planned.resume, &args.init_from) {
        (Some(_), _) => Origin::Checkpoint,
        (None, Some(_)) => Origin::Parameters { path: &init_from, new_head: args.new_head },
        (None, None) => Origin::Seed,
    };
    let mut run = training::start_as(planned.config, dataset, &device, origin, ranks.clone())?;
    ranks::greet(ranks, &run, planned.resume.as_deref(), args.checkpoint_every)?;
    if let (false, Origin::Parameters { path, .. }) = (global.quiet, origin) {
        settings::tell_division(global, path, &run.config, &run.dataset)?;
        training::start_notes(path, &run)?.iter().for_each(|note| complain(note));
    }
    let mut folder = match (taken, &planned.out) {
        (Some(folder), _) => folder,
        (None, _) if !is_first => RunFolder::of_another_rank(Path::new("")),
        (None, Out::New(path)) => RunFolder::create(path, &access)?,
        (None, _) => RunFolder::create_first(run_folders(&run.config), &access)?,
    };
    // Before the first checkpoint there is nothing to keep: a signal ends the process.
    stop::catch("this step")?;
    match &planned.resume {
        Some(path) => training::resume(&mut run, &mut folder, path)?,
        None => training::begin(&mut run, &folder)?,
    }
    if !global.quiet {
        let trained = planned.trained.filter(|_| run.progress.epoch < run.config.epochs);
        let rate_note = trained.and_then(|trained| rate_note(&trained, &run.config));
        let notes = [rate_note, memory_note(&run.config), warmup_note(&run), single_note(&run)];
        notes.iter().flatten().for_each(|note| complain(note));
        complain(&fitted(&headline(&run, folder.path(), planned.resume.as_deref())));
        if !run.chosen.is_empty() {
            complain(&threshold_table(&run.chosen, THRESHOLD_SAMPLES.min(run.dataset.train.len())));
        }
    }
    if global.verbose {
        complain(run.config.to_complete_toml()?.trim_end());
    }
    if is_first && !ranks.is_alone() && !global.quiet {
        complain(&format!("{} processes share each batch, in {} slices", ranks.size(), run.config.slices));
    }
    let end = go(global, &args, &mut run, &mut folder)?;
    if global.verbose && !ranks.is_alone() {
        say_costs(run.step_cost, ranks.cost());
    }
    if end == End::Stopped && !is_first {
        return Ok(FAILED);
    }
    if end == End::Stopped {
        let (epoch, step, steps) = (run.progress.epoch + 1, run.progress.step, training::steps_per_epoch(&run));
        let out = quoted(folder.path());
        complain(&format!("stopped in epoch {epoch} after step {step} of {steps}; continue with: dsr train --resume auto --out {out}"));
        return Ok(FAILED);
    }
    if !is_first {
        return Ok(DONE);
    }
    report(global, &run, &folder, begin.elapsed())?;
    Ok(DONE)
}

/// What exchanges have cost: those of the last step, and the time that all of the run took.
fn say_costs(step: Cost, run: Cost) {
    let Cost { exchanges, bytes, .. } = step;
    complain(&format!("a step took {exchanges} exchanges, in which this process sent {bytes} bytes"));
    let (waited, moved) = (run.waited.as_secs_f64(), run.moved.as_secs_f64());
    complain(&format!("all exchanges: {waited:.2} s until others had come, {moved:.2} s to copy what they sent"));
}

/// Runs the loop with a progress bar and a line an epoch.
fn go(global: &Global, args: &TrainArgs, run: &mut Run, folder: &mut RunFolder) -> Result<End> {
    let steps = training::steps_per_epoch(run);
    let is_first = run.network.share.ranks().rank() == 0;
    let bar = Progress::new(&Global { quiet: global.quiet || !is_first, ..global.clone() }, steps);
    let highest_rate = run.config.lr;
    let mut on_step = |run: &Run| {
        let progress = &run.progress;
        let sums = &run.progress.sums;
        let (loss, accuracy) = (sums.loss / sums.seen as f64, sums.correct as f64 / sums.seen as f64);
        if progress.iteration == 1 && !global.quiet {
            bar.suspend(|| silence_note(run).iter().for_each(|note| complain(note)));
        }
        let what = format!("epoch {}/{} step", progress.epoch + 1, run.config.epochs);
        bar.at(&what, progress.step, steps, &format!("loss {loss:.3} train {:.1}", 100.0 * accuracy));
        Ok(())
    };
    let epochs = run.config.epochs;
    let mut on_measured = |progress: &checkpoint::Progress, split: &'static str, [done, total]: [usize; 2]| {
        bar.at(&format!("epoch {}/{epochs} {split} image", progress.epoch + 1), done, total, "");
        Ok(())
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
        Ok(())
    };
    let hooks = Hooks {
        stop: stop::flag(),
        stop_after: args.stop_after_steps,
        checkpoint_every: args.checkpoint_every.map(|every| every as u64),
        step: &mut on_step,
        measured: &mut on_measured,
        epoch: &mut on_epoch,
    };
    training::train(run, folder, hooks)
}

/// A path as a shell reads it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+=@:,".contains(c);
    if text.chars().all(is_plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

fn headline(run: &Run, out: &Path, resume: Option<&Path>) -> String {
    let (config, dataset) = (&run.config, &run.dataset);
    let from = resume.map_or(String::new(), |path| format!(", continuing {}", one_line(path.display())));
    let parameters = run.network.len();
    let what = match config.neuron {
        NeuronKind::Relu => format!("{} parameters, as an ANN with ReLU", parameters - run.network.layers.len()), // without thresholds
        kind => format!("{parameters} parameters, {} neurons, T = {}", kind.name().to_uppercase(), config.time_steps),
    };
    let (train, test) = (dataset.train.len(), dataset.test.len());
    let held = run.validation.as_ref().map_or(String::new(), |held| format!(", {} more held out for validation", held.test.len()));
    let (model, title, out) = (config.model_name(), dataset.title(), one_line(out.display()));
    let gap = if held.is_empty() { ' ' } else { '\n' };
    format!("{model} on {title}{gap}({train} + {test} images{held})\n{what}\nrun folder {out}{from}")
}

/// What `--threshold-init auto` has chosen, a line for each layer.
fn threshold_table(chosen: &[ChosenThreshold], samples: usize) -> String {
    let width = chosen.iter().map(|layer| layer.layer.len()).max().unwrap_or(0).max("layer".len());
    let mut lines = vec![format!("thresholds from {samples} training samples:"), format!("{:width$}  threshold  firing rate", "layer")];
    lines.extend(
        chosen.iter().map(|c| format!("{:width$}  {:>9}  {:>9.2} %", c.layer, format!("{:.4}", c.threshold), 100.0 * c.firing_rate)),
    );
    lines.join("\n")
}

/// `epoch 12/200 loss 0.412 train 86.1 test 85.2 rate 0.07 1204 img/s eta 0:41:10`, with `val 84.9` before `test` if there is a validation
/// split, and `ema 85.9` behind it if the parameters are averaged. What does not fit, the speed first, stands in metrics.csv, as do the learning rate and the best accuracy.
fn epoch_line(metrics: &EpochMetrics, left: Duration) -> String {
    let seconds = left.as_secs();
    let mut words = vec![
        format!("epoch {}/{}", metrics.epoch, metrics.epochs),
        format!("loss {:.3} train {:.1}", metrics.train_loss, 100.0 * metrics.train_accuracy),
        metrics.val_accuracy.map_or(String::new(), |accuracy| format!("val {:.1}", 100.0 * accuracy)),
        format!("test {:.1}", 100.0 * metrics.test_accuracy),
        metrics.ema_test_accuracy.map_or(String::new(), |accuracy| format!("ema {:.1}", 100.0 * accuracy)),
        format!("eta {}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60),
    ];
    words.retain(|word| !word.is_empty());
    let rate = format!("rate {:.2}", metrics.firing_rate);
    let speed = format!("{:.0} img/s", metrics.images_per_second.max(0.0)); // NaN where only the test split was left to do
    for optional in [rate, speed] {
        let used = words.iter().map(|word| word.chars().count() + 1).sum::<usize>();
        if used + optional.len() <= LINE {
            words.insert(words.len() - 1, optional);
        }
    }
    words.join(" ")
}

/// The split on which the best epoch is chosen.
fn judge(run: &Run) -> &'static str {
    if run.validation.is_some() { "validation" } else { "test" }
}

/// The final result on stdout.
fn report(global: &Global, run: &Run, folder: &RunFolder, time: Duration) -> anyhow::Result<()> {
    let Some(end) = run.progress.metrics.last() else { return Ok(()) };
    let speeds: Vec<f64> = folder.metrics().iter().map(|m| m.images_per_second).filter(|speed| speed.is_finite()).collect();
    match global.output {
        Output::Json | Output::Csv | Output::Md => {
            let machine = machine();
            let mut result = serde_json::json!({
                "test_accuracy": end.test_accuracy,
                "best_accuracy": end.best_accuracy,
                "best_on": judge(run),
                "test_loss": end.test_loss,
                "epochs": run.progress.epoch,
                "seconds": time.as_secs_f64(),
                "mean_firing_rate": end.firing_rate,
                "images_per_second": speeds.iter().sum::<f64>() / speeds.len() as f64,
                "checkpoint": folder.last().display().to_string(),
                "best_checkpoint": Some(folder.best()).filter(|path| path.exists()).map(|path| path.display().to_string()),
                "seed": run.config.seed,
                "version": machine.version,
                "commit": machine.commit,
                "build": machine.build,
                "cpu": machine.cpu,
                "device": run.network.device().to_string(),
            });
            if let (Some(loss), Some(accuracy)) = (end.val_loss, end.val_accuracy) {
                result["val_loss"] = loss.into();
                result["val_accuracy"] = accuracy.into();
            }
            let ranks = run.network.share.ranks();
            if !ranks.is_alone() {
                result["ranks"] = ranks.size().into();
                result["step_exchanges"] = run.step_cost.exchanges.into();
                result["step_bytes_sent"] = run.step_cost.bytes.into();
                result["exchange_waited_s"] = ranks.cost().waited.as_secs_f64().into();
                result["exchange_moved_s"] = ranks.cost().moved.as_secs_f64().into();
            }
            let of_average = [
                ("ema_test_loss", end.ema_test_loss),
                ("ema_test_accuracy", end.ema_test_accuracy),
                ("ema_val_loss", end.ema_val_loss),
                ("ema_val_accuracy", end.ema_val_accuracy),
            ];
            for (key, value) in of_average.into_iter().filter_map(|(key, value)| Some((key, value?))) {
                result[key] = value.into();
            }
            if global.output == Output::Json {
                say(&result.to_string());
            } else {
                say(Records::of_objects(&[result]).shown(global.output)?.trim_end());
            }
        }
        Output::Text => say_lines(&format!(
            "test accuracy {:.1}{}{} (best {:.1} on the {} split) after {} epoch{} in {:.0} s: {}",
            100.0 * end.test_accuracy,
            end.val_accuracy.map_or(String::new(), |accuracy| format!(", validation {:.1}", 100.0 * accuracy)),
            end.ema_test_accuracy.map_or(String::new(), |accuracy| format!(", of the averaged weights {:.1}", 100.0 * accuracy)),
            100.0 * end.best_accuracy,
            judge(run),
            run.progress.epoch,
            if run.progress.epoch == 1 { "" } else { "s" },
            time.as_secs_f64(),
            one_line(folder.last().display())
        )),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::notes::tests::metrics;
    use super::*;

    #[test]
    fn an_epoch_is_one_line() {
        let metrics = metrics();
        let line = "epoch 12/200 loss 0.412 train 86.1 test 85.2 rate 0.07 1204 img/s eta 0:41:10";
        let left = Duration::from_secs(41 * 60 + 10);
        assert_eq!(epoch_line(&metrics, left), line);
        let held = EpochMetrics { val_accuracy: Some(0.849), ..metrics.clone() };
        assert_eq!(epoch_line(&held, left), "epoch 12/200 loss 0.412 train 86.1 val 84.9 test 85.2 rate 0.07 eta 0:41:10");
        let long = EpochMetrics { epoch: 999_999, epochs: 1_000_000, train_accuracy: 1.0, ..held };
        let line = "epoch 999999/1000000 loss 0.412 train 100.0 val 84.9 test 85.2 eta 0:41:10";
        assert_eq!(epoch_line(&long, left), line);
    }
}
