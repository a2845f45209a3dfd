//! Where a training run goes and what it continues.

use std::path::{Path, PathBuf};

use toml::Table;

use super::run_folder::{self, BEST, LAST, Standing};
use super::{checkpoint, choice};
use crate::error::{Error, Result};
use crate::settings::recipes::Layer;
use crate::settings::{Config, recipes};

/// What is asked of a run.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// Settings that were given one by one.
    pub given: Table,
    /// The same, behind those of a file if there is one.
    pub layers: Vec<Layer>,
    /// Name of a recipe; that of the data set without one.
    pub recipe: Option<String>,
    /// A checkpoint to go on from, or `auto`: the last one of `out`, or of the newest run of that name.
    pub resume: Option<PathBuf>,
    /// A file whose parameters a new run begins with.
    pub init_from: Option<PathBuf>,
    /// The run folder; the first free one under `runs/` without it.
    pub out: Option<PathBuf>,
}

/// Settings, folder and checkpoint of a run.
pub struct Plan {
    pub config: Config,
    pub out: Out,
    pub resume: Option<PathBuf>,
    /// What a user should know of it.
    pub notes: Vec<String>,
    /// What the run was trained with up to the checkpoint; none for a new run.
    pub trained: Option<Config>,
}

/// The run folder.
pub enum Out {
    /// A new one, of this name.
    New(PathBuf),
    /// A new one, of the first free name.
    FirstFree,
    /// That of the checkpoint.
    Same(PathBuf),
}

/// Settings, run folder and checkpoint to continue from, out of what was given, files and recipes. Nothing is written.
///
/// # Errors
/// [`Error::Config`] naming a setting; [`Error::File`] or [`Error::Missing`] for a checkpoint or folder that no run goes on from.
pub fn plan(asked: &Asked) -> Result<Plan> {
    let layers = asked.layers.clone();
    let mut notes = Vec::new();
    let source = match &asked.resume {
        None => None,
        Some(file) if file != Path::new("auto") && asked.init_from.is_some() => {
            let problem = format!("{} goes on with parameters of its own: leave --init-from out", file.display());
            return Err(Error::config("init-from", problem));
        }
        Some(file) if file != Path::new("auto") => Some(file.clone()),
        Some(_) => match &asked.out {
            Some(out) => automatic(out, &mut notes)?,
            None => newest(&choice::fresh(asked.recipe.as_deref(), layers.clone())?, &mut notes)?,
        },
    };
    let Some(source) = source else {
        let network = asked.init_from.as_deref().map_or(Ok(toml::Table::new()), choice::network_of)?;
        let config = choice::fresh_on(network, asked.recipe.as_deref(), layers)?;
        choice::refuse_without_output_neurons(&asked.given, &config)?;
        choice::refuse_idle(&asked.given, std::slice::from_ref(&config))?;
        if let Some(path) = &asked.init_from {
            choice::refuse_other_readout(&config, &choice::checkpoint_file(path))?;
        }
        return Ok(Plan { config, out: asked.out.clone().map_or(Out::FirstFree, Out::New), resume: None, notes, trained: None });
    };
    let text = checkpoint::config(&source)?
        .ok_or_else(|| Error::file(&source, "holds parameters but no settings; start a new run with --init-from"))?;
    checkpoint::progress(&source).map_err(|e| match e {
        Error::File { .. } if checkpoint::is_exported(&source) => {
            Error::file(&source, "holds parameters but no training state: start a new run with --init-from")
        }
        other => other,
    })?;
    let folder = source.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_path_buf();
    let out = match &asked.out {
        Some(out) if out.canonicalize().ok() != folder.canonicalize().ok() => Out::New(out.clone()),
        _ => {
            check_run_of(&source, &folder)?;
            Out::Same(asked.out.clone().unwrap_or(folder))
        }
    };
    let mut trained = recipes::trained(&source, &text)?;
    if let Out::Same(folder) = &out {
        trained.cache_dir = choice::cache_of(folder);
    }
    let mut wanted = layers;
    if let Some(name) = &asked.recipe {
        wanted.insert(0, recipes::recipe(name)?);
    }
    let config = recipes::resolve(&trained, &wanted)?;
    trained.check_resume(&config)?;
    Ok(Plan { config, out, resume: Some(source), notes, trained: Some(trained) })
}

/// Refuses to go on in a folder that is not that of the checkpoint's run, or whose run is further on.
fn check_run_of(source: &Path, folder: &Path) -> Result<()> {
    let elsewhere = "name a new folder with --out";
    if !source.ends_with(LAST) && !source.ends_with(BEST) {
        return Err(Error::file(source, format!("is not one of the checkpoints of a run folder, {LAST} or {BEST}: {elsewhere}")));
    }
    let last = folder.join(LAST);
    if source.ends_with(BEST) && last.exists() {
        let [best, last] = [source, &last].map(checkpoint::progress);
        if last.map(|last| last.iteration)? > best?.iteration {
            return Err(Error::file(source, format!("its run is further on in {LAST}, which would be lost: {elsewhere}")));
        }
    }
    Ok(())
}

/// The checkpoint of the newest run with the name that a run of this configuration has; none if there is no such run.
fn newest(config: &Config, notes: &mut Vec<String>) -> Result<Option<PathBuf>> {
    let Some(stem) = run_folders(config).next().and_then(|first| Some(first.to_str()?.strip_suffix('1')?.to_string())) else {
        return Ok(None);
    };
    let entries = std::fs::read_dir("runs").into_iter().flatten().flatten().map(|entry| Path::new("runs").join(entry.file_name()));
    let numbered = |path: PathBuf| Some((path.to_str()?.strip_prefix(&stem)?.parse::<u32>().ok()?, path));
    let mut runs: Vec<(u32, PathBuf)> = entries.filter_map(numbered).collect();
    runs.sort_by(|a, b| b.cmp(a));
    for (_, folder) in runs {
        if matches!(run_folder::standing(&folder), Ok(Standing::Run(_) | Standing::Begun)) {
            return automatic(&folder, notes);
        }
    }
    Ok(None)
}

/// The checkpoint that `--resume auto` goes on from; none where a new run can begin.
fn automatic(folder: &Path, notes: &mut Vec<String>) -> Result<Option<PathBuf>> {
    match run_folder::standing(folder)? {
        Standing::Run(checkpoint) => {
            if checkpoint.ends_with(BEST) {
                notes.push(format!("note: {} has no {LAST}: going on from {BEST}", folder.display()));
            }
            Ok(Some(checkpoint))
        }
        Standing::Begun => Ok(Some(folder.join(LAST))),
        Standing::Records => Err(Error::file(folder, run_folder::GONE)),
        Standing::Free | Standing::Foreign(_) => Ok(None),
    }
}

/// Default names of run folders, in order.
pub fn run_folders(config: &Config) -> impl Iterator<Item = PathBuf> {
    let stem = format!("{}-{}-{}-T{}", config.dataset, config.model_name(), config.neuron.name(), config.time_steps);
    (1..).map(move |n: u32| Path::new("runs").join(format!("{stem}-{n}")))
}
