//! The folder of a training run: settings, one record an epoch in four forms, and checkpoints; one process at a time.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::atomic_file;
use crate::error::{Error, Result};
use crate::network::ChosenThreshold;
use crate::regular_file;
use crate::training::curves;
use crate::training::metrics::{EpochMetrics, LayerMetrics};
use crate::training::run_lock::Lock;
use crate::training::tensorboard;

/// Newest checkpoint.
pub const LAST: &str = "last.safetensors";
/// Checkpoint of the highest test accuracy.
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
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    metrics: Vec<EpochMetrics>,
    /// TensorBoard's file of this process; none before the first epoch.
    events: Option<PathBuf>,
    _lock: Lock,
}

impl RunFolder {
    /// Begins a run at `path`, which need not exist, and writes its resolved settings.
    ///
    /// # Errors
    /// [`Error::File`] if another process uses the folder, if it already holds results, or if it cannot be written.
    pub fn create(path: &Path, resolved_config_toml: &str) -> Result<RunFolder> {
        if path.exists() && !path.is_dir() {
            return Err(Error::file(path, "is a file, but a folder is needed for the run: choose another --out"));
        }
        fs::create_dir_all(path).map_err(|e| atomic_file::refused(path, e))?;
        let lock = Lock::take(path)?;
        if holds_results(path)? {
            return Err(Error::file(path, "already holds a run: use --resume auto or another --out"));
        }
        let run = RunFolder { path: path.to_path_buf(), metrics: Vec::new(), events: None, _lock: lock };
        run.write(CONFIG, resolved_config_toml.as_bytes())?;
        Ok(run)
    }

    /// Opens the run at `path` to go on with it. Load the checkpoint after this, since only then nobody else replaces it, and
    /// hand its history to [`RunFolder::restore`].
    ///
    /// # Errors
    /// [`Error::File`] if there is no such folder, or another process uses it.
    pub fn resume(path: &Path) -> Result<RunFolder> {
        if !path.is_dir() {
            return Err(Error::file(path, "there is no run to resume: check --out, or start without --resume"));
        }
        let lock = Lock::take(path)?;
        atomic_file::remove_leftovers(path);
        let metrics = read_jsonl(&path.join(JSONL));
        Ok(RunFolder { path: path.to_path_buf(), metrics, events: None, _lock: lock })
    }

    /// Makes the folder hold these settings and exactly the epochs of a checkpoint: later ones, which are about to be trained
    /// again, go away in all files. Times, which a checkpoint does not know, are kept from the folder's own records.
    ///
    /// # Errors
    /// [`Error`] with the path of a file that cannot be written.
    pub fn restore(&mut self, resolved_config_toml: &str, metrics: &[EpochMetrics]) -> Result<()> {
        let recorded = std::mem::take(&mut self.metrics);
        let with_times = |m: &EpochMetrics| {
            let same = |r: &&EpochMetrics| (r.epoch, r.train_loss.to_bits()) == (m.epoch, m.train_loss.to_bits());
            match recorded.iter().find(same) {
                Some(r) if m.seconds.is_nan() => EpochMetrics { seconds: r.seconds, images_per_second: r.images_per_second, ..m.clone() },
                _ => m.clone(),
            }
        };
        self.metrics = metrics.iter().map(with_times).collect();
        self.write(CONFIG, resolved_config_toml.as_bytes())?;
        self.write_records()?;
        self.write_events()
    }

    /// Records an epoch in `metrics.csv`, `metrics.jsonl`, `curves.svg` and TensorBoard's event file.
    ///
    /// # Errors
    /// [`Error`] with the path of a file that cannot be written; what it held before is unchanged.
    pub fn record(&mut self, metrics: &EpochMetrics) -> Result<()> {
        let before = self.metrics.len();
        self.metrics.retain(|m| m.epoch < metrics.epoch);
        let replaced = self.metrics.len() < before;
        self.metrics.push(metrics.clone());
        self.write_records()?;
        match &self.events {
            Some(events) if !replaced && events.exists() => tensorboard::append(events, &event(now(), metrics)),
            _ => self.write_events(),
        }
    }

    /// Writes what was chosen for each layer; nothing for a run whose thresholds are fixed.
    ///
    /// # Errors
    /// [`Error`] with the path of a file that cannot be written.
    pub fn record_thresholds(&self, chosen: &[ChosenThreshold]) -> Result<()> {
        let path = self.path.join(THRESHOLDS);
        if chosen.is_empty() {
            // A run that failed before its first epoch may have left one.
            return if path.exists() { fs::remove_file(&path).map_err(|e| atomic_file::refused(&path, e)) } else { Ok(()) };
        }
        self.write(THRESHOLDS, &jsonl(chosen).map_err(|e| Error::file(path, e.to_string()))?)
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

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        atomic_file::write(&self.path.join(name), bytes)
    }

    /// A run has a few hundred epochs: writing all of them each time costs little, and no file ever ends in half a line.
    fn write_records(&self) -> Result<()> {
        self.write(CSV, &csv(&self.metrics).map_err(|e| Error::file(self.path.join(CSV), e))?)?;
        self.write(JSONL, &jsonl(&self.metrics).map_err(|e| Error::file(self.path.join(JSONL), e.to_string()))?)?;
        self.write(CURVES, curves::svg(&self.metrics)?.as_bytes())
    }

    /// Replaces all event files by one that holds every epoch once.
    fn write_events(&mut self) -> Result<()> {
        let now = now();
        // Each epoch ended when the later ones had not yet begun.
        let mut ends: Vec<f64> = Vec::with_capacity(self.metrics.len());
        let mut end = now;
        for metrics in self.metrics.iter().rev() {
            ends.push(end);
            end -= if metrics.seconds.is_finite() { metrics.seconds } else { 0.0 };
        }
        let mut bytes = tensorboard::version_record(end);
        for (metrics, end) in self.metrics.iter().zip(ends.iter().rev()) {
            bytes.extend(event(*end, metrics));
        }
        let path = self.path.join(tensorboard::file_name(now as u64));
        atomic_file::write(&path, &bytes)?;
        for old in event_files(&self.path)?.into_iter().filter(|old| *old != path) {
            fs::remove_file(&old).map_err(|e| atomic_file::refused(&old, e))?;
        }
        self.events = Some(path);
        Ok(())
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// Whether a folder holds anything that a new run would destroy; settings alone, of a run that failed at once, do not count.
fn holds_results(folder: &Path) -> Result<bool> {
    Ok([LAST, BEST, CSV, JSONL].iter().any(|name| folder.join(name).exists()) || !event_files(folder)?.is_empty())
}

fn event_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let entry = entry.map_err(Error::io(folder))?;
        if entry.file_name().as_encoded_bytes().starts_with(b"events.out.tfevents.") {
            files.push(entry.path());
        }
    }
    Ok(files)
}

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
    let of_layer = |layer: &LayerMetrics| {
        let threshold = layer.threshold.map(|threshold| (format!("threshold/{}", layer.name), threshold));
        std::iter::once((format!("layer_rate/{}", layer.name), layer.firing_rate)).chain(threshold)
    };
    let of_layers: Vec<(String, f64)> = m.layers.iter().flat_map(of_layer).collect();
    let of_layers = of_layers.iter().map(|(tag, value)| (tag.as_str(), *value as f32));
    let scalars: Vec<(&str, f32)> = known.iter().map(|&(tag, value)| (tag, value as f32)).chain(of_layers).collect();
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
