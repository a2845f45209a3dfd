//! Flags that compare a result with an earlier one.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::report;
use crate::bench::baseline::{Against, Baseline};
use crate::cli::complain;
use crate::device::machine::Machine;
use crate::error::Result;

/// An earlier result and what may differ.
#[derive(Args)]
#[command(next_help_heading = "Comparison")]
pub struct BaselineFlags {
    /// An earlier result of the same command (-o json): prints both sides, and exits with 1 if a case has become slower.
    #[arg(long, value_name = "FILE.json")]
    baseline: Option<PathBuf>,
    /// Share by which a median may grow, in percent; it must also grow by more than the distance between the quartiles to fail.
    #[arg(long, value_name = "P%", default_value = "5%", value_parser = parse_percent, requires = "baseline")]
    fail_over: f64,
    /// Compare with a result of another machine or build, too.
    #[arg(long, requires = "baseline")]
    force: bool,
}

fn parse_percent(text: &str) -> std::result::Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim().parse::<f64>().ok();
    let share = number.filter(|percent| percent.is_finite() && *percent >= 0.0).map(|percent| percent / 100.0);
    share.ok_or("give a percentage, such as 5%".into())
}

impl BaselineFlags {
    /// Reads the earlier result before anything is measured; `None` if none was given.
    ///
    /// # Errors
    /// Those of [`Baseline::read`] and, without `--force`, of [`Baseline::check_machine`].
    pub fn open(&self, schema: &str, machine: &Machine, plan: &impl Serialize) -> Result<Option<Against>> {
        let Some(path) = &self.baseline else { return Ok(None) };
        let baseline = Baseline::read(path, schema, report::VERSION)?;
        match baseline.check_machine(&report::header(machine, plan)?) {
            Err(problem) if self.force => complain(&format!("note: {problem}")),
            other => other?,
        }
        Ok(Some(Against { baseline, fail_over: self.fail_over }))
    }
}
