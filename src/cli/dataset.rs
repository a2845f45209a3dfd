//! The data set of a configuration, with progress on stderr while it is made ready.

use std::path::Path;

use crate::data::{self, Dataset, Preparation, Stream, Told};
use crate::error::Result;
use crate::regular_file;
use crate::settings::Config;

use super::progress::Progress;
use super::tables::fitted;
use super::{Global, complain};

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

/// The same, and what to know of its files is told, which [`ready`] does, too; those of a list have to be there.
///
/// # Errors
/// As [`open`] and [`data::look_for_listed`].
pub fn told(global: &Global, config: &Config) -> Result<Dataset> {
    let dataset = open(config)?;
    let place = config.data_dir.as_deref().unwrap_or(Path::new(""));
    let missing = data::look_for_listed(&dataset, place, config.skip_unreadable)?;
    let mut notes =
        dataset.own.iter().filter_map(|own| own.note.clone()).chain(dataset.stream.iter().flat_map(Stream::notes)).chain(missing);
    with_progress(global, |tell| notes.try_for_each(|note| tell(Told::Note(&note))))?;
    Ok(dataset)
}

/// Opens the data set that `config` names and makes it ready for training.
///
/// # Errors
/// As [`data::open`] and [`data::prepare`].
pub fn ready(global: &Global, config: &Config) -> Result<Dataset> {
    prepared(global, config, config.preparation())
}

/// The same, and what saves later runs time is written.
///
/// # Errors
/// As [`ready`].
pub fn converted(global: &Global, config: &Config) -> Result<Dataset> {
    prepared(global, config, Preparation { converts: true, ..config.preparation() })
}

fn prepared(global: &Global, config: &Config, preparation: Preparation) -> Result<Dataset> {
    let mut dataset = open(config)?;
    let root = config.data_dir.clone().unwrap_or_default();
    with_progress(global, |tell| data::prepare(&mut dataset, &root, &preparation, tell))?;
    Ok(dataset)
}

/// Runs a long piece of work, with its progress and its notes, unless `--quiet`.
pub fn with_progress<T>(global: &Global, work: impl FnOnce(data::Listener) -> T) -> T {
    let progress = Progress::new(global, 0);
    work(&|told: Told| {
        match told {
            Told::Note(_) if global.quiet => {}
            // A note is one line, however long.
            Told::Note(text) if ["note: ", "warning: "].iter().any(|start| text.starts_with(start)) => progress.suspend(|| complain(text)),
            Told::Note(text) => progress.suspend(|| complain(&fitted(text))),
            Told::Done { what, done, total } => progress.at(&format!("{what}, file"), done, total, ""),
        }
        Ok(())
    })
}
