//! The folder of a training run: settings, one record an epoch in four forms, and checkpoints; one process at a time.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::atomic_file::{self, refused};
use crate::error::{Error, Result};
use crate::network::ChosenThreshold;
use crate::regular_file;
use crate::training::metrics::{EpochMetrics, LayerMetrics};
use crate::training::run_lock::{Lock, is_lock};
use crate::training::step_losses::{STEPS, StepLosses};
use crate::training::tensorboard::{self, EVENTS, has_events, now};
use crate::training::{checkpoint, curves};

pub use crate::training::run_lock::{Access, LOCK};

/// Newest checkpoint.
pub const LAST: &str = "last.safetensors";
/// Checkpoint of the highest accuracy: on the validation split, or on the test split where there is none.
pub const BEST: &str = "best.safetensors";
/// Resolved settings.
pub const CONFIG: &str = "config.toml";
/// One line an epoch, with a header.
pub const CSV: &str = "metrics.csv";
/// One JSON object an epoch.
pub const JSONL: &str = "metrics.jsonl";
/// Thresholds chosen from data, one JSON object a layer; only with `--threshold-init auto`.
pub const THRESHOLDS: &str = "thresholds.jsonl";
/// Bytes that the records of a run may have.
const MOST_BYTES: u64 = 1 << 30;
/// Picture of the run so far.
pub const CURVES: &str = "curves.svg";

/// An open run folder; dropping it lets other processes in.
pub struct RunFolder {
    path: PathBuf,
    metrics: Vec<EpochMetrics>,
    /// TensorBoard's file of this process; none before the first epoch.
    events: Option<PathBuf>,
    losses: StepLosses,
    /// None where rank 0 has the folder: then nothing is written here.
    lock: Option<Lock>,
    note: fn(&str),
}

/// What a folder is to a new run. A folder holds a run if and only if it holds one of its checkpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Not there, or empty but for what processes that were killed leave behind.
    Free,
    /// A run that has not taken a step: nothing is lost if another begins in its place.
    Begun,
    /// A run that this checkpoint continues.
    Run(PathBuf),
    /// Records of a run whose checkpoints are gone.
    Records,
    /// Something else, of which this is one file.
    Foreign(PathBuf),
}

/// What `folder` is.
///
/// # Errors
/// [`Error::File`] if it is a file; [`Error::Io`] if it cannot be looked into.
pub fn standing(folder: &Path) -> Result<Standing> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Standing::Free),
        Err(e) if e.kind() == ErrorKind::NotADirectory => {
            return Err(Error::file(folder, "is a file, but a folder is needed for the run: choose another --out"));
        }
        Err(e) => return Err(Error::io(folder)(e)),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.map_err(Error::io(folder))?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    let has = |wanted: &str| names.iter().any(|name| name == wanted);
    let is_event = |name: &str| name.starts_with(EVENTS);
    // What a killed process leaves, and what NFS keeps of files that are still open somewhere.
    let is_leftover =
        |name: &str| (name == LOCK && is_lock(&folder.join(LOCK))) || atomic_file::is_temporary(name) || name.starts_with(".nfs");
    let is_ours =
        |name: &str| [LAST, BEST, CONFIG, CSV, JSONL, THRESHOLDS, CURVES, STEPS].contains(&name) || is_event(name) || is_leftover(name);
    let is_recorded = has(BEST) || has(CSV) || has(JSONL) || names.iter().any(|name| is_event(name));
    if has(LAST) {
        let path = folder.join(LAST);
        let is_begun = !is_recorded && names.iter().all(|name| is_ours(name)) && checkpoint::is_first(&path);
        return Ok(if is_begun { Standing::Begun } else { Standing::Run(path) });
    }
    if has(BEST) {
        return Ok(Standing::Run(folder.join(BEST)));
    }
    if is_recorded {
        return Ok(Standing::Records);
    }
    let foreign = names.iter().find(|name| !is_leftover(name));
    Ok(foreign.map_or(Standing::Free, |name| Standing::Foreign(folder.join(name))))
}

impl RunFolder {
    /// Takes `path`, which need not exist, for a new run. Its first checkpoint is what makes it a run; [`RunFolder::begin`] comes after.
    ///
    /// # Errors
    /// [`Error::File`] if another process uses the folder, if it holds a run or anything else, or if it cannot be written.
    pub fn create(path: &Path, access: &Access) -> Result<RunFolder> {
        check_free(path)?;
        fs::create_dir_all(path).map_err(|e| refused(path, e))?;
        let lock = Lock::take(path, access)?;
        check_free(path)?; // somebody may have been quicker
        atomic_file::remove_leftovers(path);
        let losses = StepLosses::of_run(path);
        Ok(RunFolder { path: path.to_path_buf(), metrics: Vec::new(), events: None, losses, lock: Some(lock), note: access.note })
    }

    /// The folder of a run that another rank keeps, without writing to it.
    pub fn of_another_rank(path: &Path) -> RunFolder {
        let losses = StepLosses::of_run(path);
        RunFolder { path: path.to_path_buf(), metrics: Vec::new(), events: None, losses, lock: None, note: |_| () }
    }

    /// Whether this process writes to it.
    pub fn is_ours(&self) -> bool {
        self.lock.is_some()
    }

    /// Takes the first of `paths` that does not exist yet: of several processes that ask at once, each gets one of its own.
    ///
    /// # Errors
    /// As [`RunFolder::create`].
    pub fn create_first(paths: impl Iterator<Item = PathBuf>, access: &Access) -> Result<RunFolder> {
        for path in paths {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent).map_err(|e| refused(parent, e))?;
            }
            match fs::create_dir(&path) {
                Ok(()) => {
                    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
                    atomic_file::sync_folder(parent).map_err(|e| refused(parent, e))?;
                    return Self::create(&path, access);
                }
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(refused(&path, e)),
            }
        }
        Err(Error::config("out", "no name for a run folder is free; give one"))
    }

    /// Opens the run at `path` to go on with it. Load the checkpoint after this, since only then nobody else replaces it, and
    /// hand its history to [`RunFolder::restore`].
    ///
    /// # Errors
    /// [`Error::Missing`] if there is no such folder, [`Error::File`] if another process uses it.
    pub fn resume(path: &Path, access: &Access) -> Result<RunFolder> {
        if !path.is_dir() {
            return Err(Error::missing(path, "there is no run to resume: check --out, or start without --resume"));
        }
        let lock = Lock::take(path, access)?;
        atomic_file::remove_leftovers(path);
        let metrics = read_jsonl(&path.join(JSONL));
        let losses = StepLosses::of_run(path);
        Ok(RunFolder { path: path.to_path_buf(), metrics, events: None, losses, lock: Some(lock), note: access.note })
    }

    /// Fails if another process has taken the folder with `--break-lock`.
    ///
    /// # Errors
    /// [`Error::File`] naming it.
    pub fn check_lock(&self) -> Result<()> {
        self.lock.as_ref().map_or(Ok(()), Lock::check)
    }

    /// Writes the resolved settings of a new run, and the thresholds that were chosen for it, if any.
    ///
    /// # Errors
    /// [`Error`] with the path of a file that cannot be written.
    pub fn begin(&self, resolved_config_toml: &str, chosen: &[ChosenThreshold]) -> Result<()> {
        if !self.is_ours() {
            return Ok(());
        }
        self.write(CONFIG, resolved_config_toml.as_bytes())?;
        let path = self.path.join(THRESHOLDS);
        if chosen.is_empty() {
            // A run that took no step may have left one.
            return if path.exists() { fs::remove_file(&path).map_err(|e| refused(&path, e)) } else { Ok(()) };
        }
        self.write(THRESHOLDS, &jsonl(chosen).map_err(|e| Error::file(path, e.to_string()))?)
    }

    /// Makes the folder hold exactly the epochs of a checkpoint, and these settings if any are given: later epochs, which are about to
    /// be trained again, go away in all files. Times, which a checkpoint does not know, are kept from the folder's own records. Files
    /// that say so already are not touched.
    ///
    /// # Errors
    /// [`Error`] with the path of a file that cannot be written.
    pub fn restore(&mut self, resolved_config_toml: Option<&str>, metrics: &[EpochMetrics]) -> Result<()> {
        if !self.is_ours() {
            return Ok(());
        }
        let recorded = std::mem::take(&mut self.metrics);
        let is_same = |a: &EpochMetrics, b: &EpochMetrics| (a.epoch, a.train_loss.to_bits()) == (b.epoch, b.train_loss.to_bits());
        let with_times = |m: &EpochMetrics| match recorded.iter().find(|r| is_same(r, m)) {
            Some(r) if m.seconds.is_nan() => EpochMetrics { seconds: r.seconds, images_per_second: r.images_per_second, ..m.clone() },
            _ => m.clone(),
        };
        self.metrics = metrics.iter().map(with_times).collect();
        if let Some(text) = resolved_config_toml {
            self.write(CONFIG, text.as_bytes())?;
        }
        // The epoch that a process was killed behind is in the checkpoint only; epochs that come again are in the records only.
        let agrees = recorded.len() == metrics.len() && recorded.iter().zip(metrics).all(|(a, b)| is_same(a, b));
        if !agrees {
            let written = self.write_events();
            self.note_of(written);
        }
        self.write_records()
    }

    /// Records an epoch in `metrics.csv`, `metrics.jsonl`, `curves.svg` and TensorBoard's event file. A picture or an event file that
    /// cannot be written costs a note.
    ///
    /// # Errors
    /// [`Error`] with the path of a record that cannot be written; what it held before is unchanged.
    pub fn record(&mut self, metrics: &EpochMetrics) -> Result<()> {
        if !self.is_ours() {
            return Ok(());
        }
        let before = self.metrics.len();
        self.metrics.retain(|m| m.epoch < metrics.epoch);
        let replaced = self.metrics.len() < before;
        self.metrics.push(metrics.clone());
        let written = match &self.events {
            Some(events) if !replaced && events.exists() => tensorboard::append(events, &event(now(), metrics)),
            _ => self.write_events(),
        };
        self.note_of(written);
        self.write_losses();
        self.write_records()
    }

    /// Records the loss of a step in TensorBoard's files of steps, at most once a second: `iteration` steps of the run and `step` of
    /// the `steps` of its epoch are done. What cannot be written costs a note.
    pub fn step(&mut self, iteration: u64, [step, steps]: [usize; 2], loss: f64) {
        if !self.is_ours() {
            return;
        }
        self.losses.add(iteration, step, steps, loss);
        if self.losses.is_due() {
            self.write_losses();
        }
    }

    /// Writes the losses of steps that are not written yet, unless another process has taken the folder.
    pub fn write_losses(&mut self) {
        if self.is_ours() && self.check_lock().is_ok() {
            let written = self.losses.write();
            self.note_of(written);
        }
    }

    /// Whether the folder has its resolved settings.
    pub fn has_settings(&self) -> bool {
        self.path.join(CONFIG).is_file()
    }

    /// Copies a checkpoint of another folder into this one.
    ///
    /// # Errors
    /// [`Error`] with the path of the file that cannot be read or written.
    pub fn copy(&self, from: &Path, to: &Path) -> Result<()> {
        if !self.is_ours() {
            return Ok(());
        }
        self.check_lock()?;
        let mut source = regular_file::open(from)?;
        atomic_file::write_with(to, |mut out| std::io::copy(&mut source, &mut out).map(drop))
    }

    /// Where the folder is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Path of the newest checkpoint.
    pub fn last(&self) -> PathBuf {
        self.path.join(LAST)
    }

    /// Path of the best checkpoint.
    pub fn best(&self) -> PathBuf {
        self.path.join(BEST)
    }

    /// The epochs recorded so far, with times where they are known.
    pub fn metrics(&self) -> &[EpochMetrics] {
        &self.metrics
    }

    /// Replaces a file, unless it holds these bytes already.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.check_lock()?;
        let path = self.path.join(name);
        if regular_file::read(&path, bytes.len() as u64).is_ok_and(|found| found == bytes) {
            return Ok(());
        }
        atomic_file::write(&path, bytes)
    }

    /// A run has a few hundred epochs: writing all of them each time costs little, and no file ever ends in half a line. The last file
    /// is the one that [`RunFolder::restore`] reads: an epoch that it has is in all others.
    fn write_records(&self) -> Result<()> {
        self.note_of(curves::svg(&self.metrics).and_then(|picture| self.write(CURVES, picture.as_bytes())));
        self.write(CSV, &csv(&self.metrics).map_err(|e| Error::file(self.path.join(CSV), e))?)?;
        self.write(JSONL, &jsonl(&self.metrics).map_err(|e| Error::file(self.path.join(JSONL), e.to_string()))?)
    }

    /// Tells the user.
    pub fn note(&self, text: &str) {
        (self.note)(&format!("note: {text}"));
    }

    /// What is nice to have is no reason to stop.
    fn note_of(&self, written: Result<()>) {
        if let Err(error) = written {
            (self.note)(&format!("note: {error}; the run goes on without it"));
        }
    }

    /// Begins an event file that holds every epoch once, and tells a TensorBoard at work to forget what earlier files said of them.
    fn write_events(&mut self) -> Result<()> {
        self.check_lock()?;
        let now = now();
        // Each epoch ended when the later ones had not yet begun.
        let mut ends: Vec<f64> = Vec::with_capacity(self.metrics.len());
        let mut end = now;
        for metrics in self.metrics.iter().rev() {
            ends.push(end);
            end -= if metrics.seconds.is_finite() { metrics.seconds } else { 0.0 };
        }
        let mut bytes = tensorboard::version_record(end);
        if has_events(&self.path)? {
            bytes.extend(tensorboard::session_record(end, self.metrics.first().map_or(0, |m| m.epoch as u64)));
        }
        for (metrics, end) in self.metrics.iter().zip(ends.iter().rev()) {
            bytes.extend(event(*end, metrics));
        }
        let path = tensorboard::free_name(&self.path, now);
        atomic_file::write(&path, &bytes)?;
        self.events = Some(path);
        Ok(())
    }
}

/// Refuses a folder that a new run could harm.
///
/// # Errors
/// [`Error::File`] saying what is in it.
pub fn check_free(path: &Path) -> Result<()> {
    match standing(path)? {
        Standing::Free | Standing::Begun => Ok(()),
        Standing::Run(_) => Err(Error::file(path, "already holds a run: use --resume auto or another --out")),
        Standing::Records => Err(Error::file(path, format!("{GONE}; or choose another --out"))),
        Standing::Foreign(file) => {
            let name = file.file_name().unwrap_or_default().display().to_string();
            Err(Error::file(path, format!("holds {name}, and a new run begins in a new or empty folder: choose another --out")))
        }
    }
}

/// What to do about [`Standing::Records`].
pub const GONE: &str = "holds records of a run, but neither last.safetensors nor best.safetensors: put one of them back";

/// TensorBoard's record of an epoch.
fn event(wall_time: f64, m: &EpochMetrics) -> Vec<u8> {
    let scalars = [
        ("loss/train", m.train_loss),
        ("loss/test", m.test_loss),
        ("accuracy/train", m.train_accuracy),
        ("accuracy/test", m.test_accuracy),
        ("accuracy/best", m.best_accuracy),
        ("firing_rate", m.firing_rate),
        ("learning_rate", m.lr),
        ("images_per_second", m.images_per_second),
    ];
    let known = if m.images_per_second.is_nan() { &scalars[..7] } else { &scalars[..] };
    let optional = [
        ("loss/val", m.val_loss),
        ("accuracy/val", m.val_accuracy),
        ("loss/ema", m.ema_test_loss),
        ("accuracy/ema", m.ema_test_accuracy),
        ("loss/ema_val", m.ema_val_loss),
        ("accuracy/ema_val", m.ema_val_accuracy),
    ];
    let optional = optional.into_iter().filter_map(|(tag, value)| Some((tag, value? as f32)));
    let of_layer = |layer: &LayerMetrics| {
        let threshold = layer.threshold.map(|threshold| (format!("threshold/{}", layer.name), threshold));
        std::iter::once((format!("layer_rate/{}", layer.name), layer.firing_rate)).chain(threshold)
    };
    let of_layers: Vec<(String, f64)> = m.layers.iter().flat_map(of_layer).collect();
    let of_layers = of_layers.iter().map(|(tag, value)| (tag.as_str(), *value as f32));
    let scalars: Vec<(&str, f32)> = known.iter().map(|&(tag, value)| (tag, value as f32)).chain(optional).chain(of_layers).collect();
    tensorboard::scalars_record(wall_time, m.epoch as u64, &scalars)
}

fn csv(metrics: &[EpochMetrics]) -> std::result::Result<Vec<u8>, String> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    for m in metrics {
        // A table has one column a number: what belongs to layers is in the other files.
        let scalars = EpochMetrics { layers: Vec::new(), warnings: Vec::new(), ..m.clone() };
        writer.serialize(scalars).map_err(|e| e.to_string())?;
    }
    writer.into_inner().map_err(|e| e.to_string())
}

fn jsonl(records: &[impl Serialize]) -> serde_json::Result<Vec<u8>> {
    let mut out = Vec::new();
    for record in records {
        serde_json::to_writer(&mut out, record)?;
        out.push(b'\n');
    }
    Ok(out)
}

/// The epochs that a file holds; lines that are none are passed over, as the file only adds to what a checkpoint says.
fn read_jsonl(path: &Path) -> Vec<EpochMetrics> {
    let text = regular_file::read(path, MOST_BYTES).unwrap_or_default();
    text.split(|&b| b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
}
