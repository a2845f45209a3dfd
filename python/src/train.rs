//! `dsr.train`: a whole run, as `dsr train` does it.
//!
//! The run has a thread of its own. The caller's thread waits for it, looks for Ctrl-C, and runs the callbacks.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dsr::data::{self, Told};
use dsr::device::{Device, threads as pools};
use dsr::training::choice::{self, refuse_foreign};
use dsr::training::plan::{Asked, Out, plan, run_folders};
use dsr::training::run_folder::{Access, RunFolder};
use dsr::training::{self, Hooks, Origin, Run};
use dsr::{Error, Result};
use pyo3::exceptions::{PyRuntimeError, PyUserWarning};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::errors::raised;
use crate::network::Network;
use crate::paths::UserPath;
use crate::{settings, threads};

/// How often the caller's thread looks for signals.
const LOOK: Duration = Duration::from_millis(50);

/// What the run tells the caller's thread, as JSON.
enum Said {
    Step(String),
    Epoch(String),
}

/// The ends of the run's thread: what it says, and the answers, false to stop.
struct Line {
    say: Sender<Said>,
    answers: Receiver<bool>,
}

impl Line {
    /// Says something and waits until the callback has returned.
    fn tell(&self, said: Said) -> Result<()> {
        let goes_on = self.say.send(said).is_ok() && self.answers.recv().unwrap_or(false);
        // The exception itself is with the caller's thread.
        if goes_on { Ok(()) } else { Err(Error::config("callback", "ended the run")) }
    }
}

/// What is asked beside settings.
struct Wishes {
    asked: Asked,
    new_head: bool,
    break_lock: bool,
    checkpoint_every: Option<std::num::NonZeroU64>,
    device: String,
    hears_steps: bool,
    hears_epochs: bool,
}

/// A note of the run as a warning.
fn note(text: &str) {
    let text = text.trim_start_matches("note: ").replace('\0', " ");
    let Ok(text) = std::ffi::CString::new(format!("dsr: {text}")) else { return };
    Python::attach(|py| {
        // A warning that is an error has no run to end here; it is printed.
        if let Err(raised) = PyErr::warn(py, &py.get_type::<PyUserWarning>(), &text, 1) {
            raised.print(py);
        }
    });
}

/// Trains a network as the command `dsr train` does, into the same bytes.
///
/// Parameters
/// ----------
/// dataset : str, optional
///     Name of the data set [default: fashion-mnist-3k].
/// data_dir : path-like, optional
///     Folder or archive of a data set that is not shipped.
/// out : path-like, optional
///     Run folder [default: runs/DATASET-MODEL-NEURON-T-N with the first free N].
/// on_epoch : callable, optional
///     Called after every epoch with a dict of its metrics, in the thread of the caller.
/// on_step : callable, optional
///     Called after every training step with a dict: `epoch`, `epochs`, `step`, `steps`, `loss` and `accuracy` of the epoch so far.
/// recipe, resume, init_from, new_head, device, break_lock, checkpoint_every
///     As the flags of `dsr train`.
/// **settings
///     Every setting of the command line by its name: `time_steps=4`, `neuron="lif"`, `widths=[16, 32]`, `threads=2`, …
///
/// Returns
/// -------
/// Network
///     With the parameters of the last step; `folder` is the run folder.
///
/// Raises
/// ------
/// KeyboardInterrupt
///     After Ctrl-C: the step is finished and a checkpoint written; `resume="auto"` goes on.
/// ValueError, FileNotFoundError, OSError, FloatingPointError, dsr.DeviceError
///     One line that says what is wrong with settings, data, checkpoint or disk.
/// Exception
///     Whatever a callback raises, as it is, after a checkpoint.
#[pyfunction]
#[pyo3(signature = (
    dataset = None, data_dir = None, out = None, on_epoch = None, on_step = None, recipe = None, resume = None, init_from = None,
    new_head = false, device = "auto", break_lock = false, checkpoint_every = None, **settings
))]
pub fn train(
    py: Python<'_>,
    dataset: Option<String>,
    data_dir: Option<UserPath>,
    out: Option<UserPath>,
    on_epoch: Option<Bound<'_, PyAny>>,
    on_step: Option<Bound<'_, PyAny>>,
    recipe: Option<String>,
    resume: Option<UserPath>,
    init_from: Option<UserPath>,
    new_head: bool,
    device: &str,
    break_lock: bool,
    checkpoint_every: Option<std::num::NonZeroU64>,
    settings: Option<&Bound<'_, PyDict>>,
) -> PyResult<Network> {
    threads::refuse_forked()?;
    let [data_dir, out, resume, init_from] = [data_dir, out, resume, init_from].map(|path| path.map(|path| path.0));
    let mut given = settings::table(settings)?;
    given.extend(dataset.map(|name| ("dataset".to_string(), name.into())));
    if let Some(path) = data_dir {
        given.insert("data_dir".to_string(), settings::path_text("data_dir", path)?.into());
    }
    let layers = settings::layers(&given);
    let asked = Asked { given, layers, recipe, resume, init_from, out };
    let (hears_steps, hears_epochs) = (on_step.is_some(), on_epoch.is_some());
    let device = device.into();
    let wishes = Wishes { asked, new_head, break_lock, checkpoint_every, device, hears_steps, hears_epochs };
    let stop = AtomicBool::new(false);
    let ((say, hear), (answer, answers)) = (channel(), channel());
    let hear = Mutex::new(hear);
    let mut exception: Option<PyErr> = None;
    let outcome = std::thread::scope(|scope| {
        let run = scope.spawn(|| go(wishes, &stop, Line { say, answers }));
        loop {
            let heard = py.detach(|| hear.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(LOOK));
            let called = match heard {
                Ok(Said::Step(text)) => call(py, on_step.as_ref(), &text),
                Ok(Said::Epoch(text)) => call(py, on_epoch.as_ref(), &text),
                Err(RecvTimeoutError::Timeout) => {
                    if let Err(signal) = py.check_signals() {
                        stop.store(true, Ordering::Relaxed);
                        exception.get_or_insert(signal);
                    }
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            };
            // Ctrl-C may have come while a callback was at work, or between two that follow each other closely.
            let goes_on = called.and_then(|()| py.check_signals());
            let _ = answer.send(goes_on.is_ok() && exception.is_none());
            if let Err(raised) = goes_on {
                stop.store(true, Ordering::Relaxed);
                exception.get_or_insert(raised);
            }
        }
        py.detach(|| run.join())
    });
    match (exception, outcome) {
        (Some(exception), _) => Err(exception),
        (None, Ok(trained)) => trained.map_err(raised),
        (None, Err(_)) => Err(PyRuntimeError::new_err("dsr: the thread of the run has panicked; this is a bug")),
    }
}

fn call(py: Python<'_>, callback: Option<&Bound<'_, PyAny>>, text: &str) -> PyResult<()> {
    let Some(callback) = callback else { return Ok(()) };
    callback.call1((py.import("json")?.call_method1("loads", (text,))?,)).map(drop)
}

/// The run, from its plan to its end.
fn go(wishes: Wishes, stop: &AtomicBool, line: Line) -> Result<Network> {
    let access = Access { break_lock: wishes.break_lock, note };
    let mut planned = plan(&wishes.asked)?;
    refuse_foreign(&wishes.asked.given, &planned.config)?;
    // A run that goes on is taken before anything else is done, and its settings are read again: until now it was somebody else's.
    let taken = match &planned.out {
        Out::Same(path) => Some(RunFolder::resume(path, &access)?),
        Out::New(_) | Out::FirstFree => None,
    };
    if taken.is_some() {
        planned = plan(&wishes.asked)?;
    }
    planned.notes.iter().for_each(|text| note(text));
    // Of its own: while a callback is at work, a thread of the run waits for it, and the callback may call networks.
    let threads = match planned.config.threads {
        0 => threads::get_threads().map_err(|e| Error::config("threads", e.to_string()))?,
        threads => threads,
    };
    let pool = pools::pool(threads)?;
    let Wishes { asked, new_head, checkpoint_every, device, hears_steps, hears_epochs, .. } = wishes;
    // Before the first checkpoint there is nothing to go on from.
    let goes_on = || if stop.load(Ordering::Relaxed) { Err(Error::config("train", "was stopped before it began")) } else { Ok(()) };
    pool.install(move || {
        let device = Device::named(&device)?;
        let mut dataset = data::open(&planned.config.dataset, planned.config.data_dir.as_deref(), &planned.config.reading())?;
        let root = planned.config.data_dir.clone().unwrap_or_default();
        data::prepare(&mut dataset, &root, &planned.config.preparation(), &|told: Told| {
            if let Told::Note(text) = told {
                note(text);
            }
            goes_on()
        })?;
        let init_from = asked.init_from.as_deref().map(choice::checkpoint_file).unwrap_or_default();
        let origin = match (&planned.resume, &asked.init_from) {
            (Some(_), _) => Origin::Checkpoint,
            (None, Some(_)) => Origin::Parameters { path: &init_from, new_head },
            (None, None) => Origin::Seed,
        };
        let mut run = training::start(planned.config, Arc::new(dataset), &device, origin)?;
        if let Origin::Parameters { path, .. } = origin {
            training::start_notes(path, &run)?.iter().for_each(|text| note(text));
        }
        goes_on()?;
        let mut folder = match (taken, &planned.out) {
            (Some(folder), _) => folder,
            (None, Out::New(path)) => RunFolder::create(path, &access)?,
            (None, _) => RunFolder::create_first(run_folders(&run.config), &access)?,
        };
        match &planned.resume {
            Some(path) => training::resume(&mut run, &mut folder, path)?,
            None => training::begin(&mut run, &folder)?,
        }
        let mut on_step = |run: &Run| if hears_steps { line.tell(Said::Step(step(run))) } else { Ok(()) };
        let mut on_epoch = |metrics: &training::metrics::EpochMetrics, _: Duration| match serde_json::to_string(metrics) {
            Ok(text) if hears_epochs => line.tell(Said::Epoch(text)),
            _ => Ok(()),
        };
        let hooks = Hooks {
            stop,
            stop_after: None,
            checkpoint_every: checkpoint_every.map(|every| every.get()),
            step: &mut on_step,
            measured: &mut |_, _, _| Ok(()),
            epoch: &mut on_epoch,
        };
        training::train(&mut run, &mut folder, hooks)?;
        run.network.synchronize(&mut run.optimizer)?;
        let path: &Path = folder.path();
        Ok(Network::new(run.network, Some(run.config), run.dataset.card(), Some(path.to_path_buf())))
    })
}

/// How far the epoch is.
fn step(run: &Run) -> String {
    let progress = &run.progress;
    let (sums, seen) = (&progress.sums, progress.sums.seen.max(1) as f64);
    serde_json::json!({
        "epoch": progress.epoch + 1,
        "epochs": run.config.epochs,
        "step": progress.step,
        "steps": training::steps_per_epoch(run),
        "loss": sums.loss / seen,
        "accuracy": sums.correct as f64 / seen,
    })
    .to_string()
}
