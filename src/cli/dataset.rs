//! The data set of a configuration, with progress on stderr while it is made ready.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::data::{self, Dataset, Told};
use crate::error::Result;
use crate::regular_file;
use crate::settings::Config;

use super::complain;

/// Opens the data set that `config` names; of a streamed set only the names of the files are read.
///
/// # Errors
/// As [`data::open`].
pub fn open(config: &Config) -> Result<Dataset> {
    // An archive; what is not there is told by the data set, which knows what it needs.
    if let Some(path) = config.data_dir.as_deref().filter(|path| path.exists() && !path.is_dir()) {
        regular_file::open(path)?;
    }
    data::open(&config.dataset, config.data_dir.as_deref(), &config.reading())
}

/// Opens the data set that `config` names and makes it ready for training.
///
/// # Errors
/// As [`data::open`] and [`data::prepare`].
pub fn ready(config: &Config, quiet: bool) -> Result<Dataset> {
    let mut dataset = open(config)?;
    let root = config.data_dir.clone().unwrap_or_default();
    with_progress(quiet, |tell| data::prepare(&mut dataset, &root, &config.preparation(), tell))?;
    Ok(dataset)
}

/// Runs a long piece of work with a bar, which is silent if stderr is no terminal, and with its notes, unless `quiet`.
pub fn with_progress<T>(quiet: bool, work: impl FnOnce(data::Listener) -> T) -> T {
    let target = if quiet || !std::io::stderr().is_terminal() { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let bar = ProgressBar::with_draw_target(None, target);
    if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
        bar.set_style(style);
    }
    let result = work(&|told: Told| match told {
        Told::Note(_) if quiet => {}
        Told::Note(text) => bar.suspend(|| complain(text)),
        Told::Done { what, done, total } => {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
            bar.set_message(what.to_string());
        }
    });
    bar.finish_and_clear();
    result
}

const TEMPLATE: &str = "{msg} {wide_bar} {pos}/{len} files, {per_sec}, eta {eta}";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_has_its_template() {
        assert!(ProgressStyle::with_template(TEMPLATE).is_ok());
    }
}
