//! The training loss within an epoch, for TensorBoard: `loss/step`, about a hundred numbers an epoch at the most.
//!
//! They go by the steps of the run, and those of a run folder by epochs, so they have a folder of their own: a session that forgets
//! epochs would forget steps, too. They are in no checkpoint.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::atomic_file::{self, refused};
use crate::error::Result;
use crate::training::tensorboard::{self, has_events, now};

/// Folder of the event files, in the run folder.
pub const STEPS: &str = "steps";
/// Numbers an epoch, at the most.
const AN_EPOCH: usize = 100;
/// Between two writes within an epoch.
const PAUSE: Duration = Duration::from_secs(1);

/// Losses of steps on their way to a file.
pub struct StepLosses {
    folder: PathBuf,
    /// The event file of this process; none before its first number.
    file: Option<PathBuf>,
    /// Sum over the steps since the last number, and how many they are.
    sum: f64,
    count: u32,
    /// Records that are not written yet, and the step of the first one.
    pending: Vec<u8>,
    first: u64,
    written: Instant,
    /// Once a write has failed there is none any more.
    failed: bool,
}

impl StepLosses {
    /// Those of the run in `folder`.
    pub fn of_run(folder: &Path) -> Self {
        let folder = folder.join(STEPS);
        StepLosses { folder, file: None, sum: 0.0, count: 0, pending: Vec::new(), first: 0, written: Instant::now(), failed: false }
    }

    /// Takes the loss of a step: `iteration` steps of the run and `step` of the `steps` of its epoch are done.
    pub fn add(&mut self, iteration: u64, step: usize, steps: usize, loss: f64) {
        self.sum += loss;
        self.count += 1;
        if !step.is_multiple_of(steps.div_ceil(AN_EPOCH)) && step != steps {
            return;
        }
        if self.pending.is_empty() {
            self.first = iteration;
        }
        let mean = self.sum / f64::from(self.count);
        self.pending.extend(tensorboard::scalars_record(now(), iteration, &[("loss/step", mean as f32)]));
        (self.sum, self.count) = (0.0, 0);
    }

    /// Whether there is something to write, and the last time is long enough ago.
    pub fn is_due(&self) -> bool {
        !self.pending.is_empty() && self.written.elapsed() >= PAUSE
    }

    /// Writes what is not written yet.
    ///
    /// # Errors
    /// [`crate::error::Error`] with the path, once; nothing is written afterwards.
    pub fn write(&mut self) -> Result<()> {
        let pending = std::mem::take(&mut self.pending);
        if pending.is_empty() || self.failed {
            return Ok(());
        }
        self.written = Instant::now();
        let written = match &self.file {
            Some(file) => tensorboard::append(file, &pending),
            None => self.begin(&pending),
        };
        self.failed = written.is_err();
        written
    }

    /// Begins an event file, and tells a TensorBoard at work to forget what earlier files said of these steps and later ones.
    fn begin(&mut self, pending: &[u8]) -> Result<()> {
        std::fs::create_dir_all(&self.folder).map_err(|e| refused(&self.folder, e))?;
        let now = now();
        let mut bytes = tensorboard::version_record(now);
        if has_events(&self.folder)? {
            bytes.extend(tensorboard::session_record(now, self.first));
        }
        bytes.extend(pending);
        let path = tensorboard::free_name(&self.folder, now);
        atomic_file::write(&path, &bytes)?;
        self.file = Some(path);
        Ok(())
    }
}
