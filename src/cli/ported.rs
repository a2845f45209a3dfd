//! Flags of the authors' PyTorch scripts that `dsr train` has another word for, or no use.

use std::path::{Path, PathBuf};

use clap::Args;

use super::complain;
use crate::error::{Error, Result};

/// Accepted, and answered.
#[derive(Args)]
pub struct PortedFlags {
    /// Processes that load data.
    #[arg(short = 'j', long, value_name = "N", hide = true)]
    workers: Option<usize>,
    /// Samples of a test at once.
    #[arg(long, value_name = "N", hide = true, alias = "test_batch")]
    test_batch: Option<usize>,
    /// Test a checkpoint instead of training.
    #[arg(short, long, hide = true)]
    evaluate: bool,
}

impl PortedFlags {
    /// Says what becomes of those that were given.
    ///
    /// # Errors
    /// [`Error::Config`] for `--evaluate`, which is a command of its own.
    pub fn answer(&self, quiet: bool) -> Result<()> {
        if self.evaluate {
            return Err(Error::config("evaluate", "dsr train only trains; measure a trained network with: dsr eval --checkpoint FILE"));
        }
        let notes = [
            (self.workers.is_some(), "--workers has no effect: --threads says how many threads read samples, too"),
            (
                self.test_batch.is_some(),
                "--test-batch has no effect: tests, too, take --batch samples at once, which changes no prediction",
            ),
        ];
        notes.iter().filter(|note| note.0 && !quiet).for_each(|note| complain(&format!("note: {}", note.1)));
        Ok(())
    }
}

/// The run folder of `--name`.
///
/// # Errors
/// [`Error::Config`] for a path.
pub fn run_folder(name: &Path) -> Result<PathBuf> {
    let is_name = name.file_name() == Some(name.as_os_str());
    let problem = || Error::config("name", format!("{} is no name of a folder; give --out FOLDER for a path", name.display()));
    if is_name { Ok(Path::new("runs").join(name)) } else { Err(problem()) }
}
