//! Where a training run goes and what it continues.

use std::path::{Path, PathBuf};

use clap::Args;

use super::Global;
use super::devices::{Devices, Rank};
use super::notes::rate_note;
use super::ported::PortedFlags;
use super::settings::{self, NetworkFlags, TrainingFlags};
use crate::error::{Error, Result};
use crate::settings::{Config, recipes};
use crate::training::checkpoint;
use crate::training::run_folder::{self, BEST, LAST, Standing};

/// Trains a network and keeps a run folder: config.toml, metrics, curves, last.safetensors and best.safetensors.
///
/// `best` is the highest accuracy of an epoch on the validation split (--val-share). Without one it is chosen on the test split, so it
/// says more than the network can do.
///
/// Ctrl-C, SIGTERM, SIGHUP or SIGUSR1 finishes the step, writes last.safetensors and exits with 1; `--resume auto` then continues to the
/// same bits. A second one ends the program at once.
#[derive(Args)]
#[command(allow_negative_numbers = true, args_override_self = true)]
pub struct TrainArgs {
    #[command(flatten)]
    pub network: NetworkFlags,
    #[command(flatten)]
    pub training: TrainingFlags,
    /// Settings by name; `dsr recipe list` lists them [default: those of the data set].
    #[arg(long, value_name = "NAME", help_heading = "Run")]
    pub recipe: Option<String>,
    /// Continue a run: a checkpoint, or `auto` for the last one of --out, or of the newest run of that name (a new run if there is none).
    #[arg(long, value_name = "auto|FILE", help_heading = "Run")]
    pub resume: Option<PathBuf>,
    /// Start from the parameters of a checkpoint or run folder: a network of spikes, an ANN, or PyTorch's state_dict.
    #[arg(long, value_name = "FILE", alias = "init_from", help_heading = "Run")]
    pub init_from: Option<PathBuf>,
    /// With --init-from: start the last layer anew, for a data set with other classes.
    #[arg(long, requires = "init_from", alias = "new_head", help_heading = "Run")]
    pub new_head: bool,
    /// Run folder [default: runs/DATASET-MODEL-NEURON-T-N with the first free N].
    #[arg(long, value_name = "FOLDER", help_heading = "Run")]
    pub out: Option<PathBuf>,
    /// Name of the run: as --out runs/NAME.
    #[arg(long, value_name = "NAME", conflicts_with = "out", help_heading = "Run")]
    pub name: Option<PathBuf>,
    /// Print the resolved settings (TOML, or as --output says) and stop: no data is read, no file is written.
    #[arg(long, help_heading = "Run")]
    pub dry_run: bool,
    #[command(flatten)]
    pub ported: PortedFlags,
    /// Take the run folder from the process that has it; without this, a lock of another machine counts until it is a minute old.
    #[arg(long, help_heading = "Run")]
    pub break_lock: bool,
    /// Where several processes share the run: how long one of them may keep the others waiting, in seconds; then all end.
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0, alias = "rank_timeout", help_heading = "Run")]
    pub rank_timeout: f64,
    /// CUDA devices of this machine that share each batch, a process each: cuda:0,1, cuda:0-7, all; --slices has to be as many or more.
    #[arg(long, value_name = "DEVICES", value_parser = super::devices::parse, help_heading = "Run")]
    pub devices: Option<Devices>,
    /// This process is one of those, of how many.
    #[arg(long, value_name = "RANK/SIZE", value_parser = super::devices::parse_rank, hide = true)]
    pub rank: Option<Rank>,
    /// As if Ctrl-C came after this many steps; for tests.
    #[arg(long, value_name = "N", hide = true)]
    pub stop_after_steps: Option<u64>,
}

/// Settings, folder and checkpoint of a run.
pub struct Plan {
    pub config: Config,
    pub out: Out,
    pub resume: Option<PathBuf>,
    /// What a user should know of it.
    pub notes: Vec<String>,
    /// The same of a learning rate that is another one from here on, if steps are left.
    pub rate_note: Option<String>,
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

/// Settings, run folder and checkpoint to continue from, out of flags, files and recipes.
pub fn plan(global: &Global, args: &TrainArgs) -> Result<Plan> {
    let mut flags = settings::table(&args.network)?;
    flags.extend(settings::table(&args.training)?);
    let layers = settings::layers(global, flags.clone())?;
    let mut notes = Vec::new();
    let source = match &args.resume {
        None => None,
        Some(file) if file != Path::new("auto") && args.init_from.is_some() => {
            let problem = format!("{} goes on with parameters of its own: leave --init-from away", file.display());
            return Err(Error::config("init-from", problem));
        }
        Some(file) if file != Path::new("auto") => Some(file.clone()),
        Some(_) => match &args.out {
            Some(out) => automatic(out, &mut notes)?,
            None => newest(&settings::fresh(args.recipe.as_deref(), layers.clone())?, &mut notes)?,
        },
    };
    let Some(source) = source else {
        let network = args.init_from.as_deref().map_or(Ok(toml::Table::new()), settings::network_of)?;
        let config = settings::fresh_on(network, args.recipe.as_deref(), layers)?;
        settings::refuse_without_output_neurons(&flags, &config)?;
        if let Some(path) = &args.init_from {
            settings::refuse_other_readout(&config, &settings::checkpoint_file(path))?;
        }
        return Ok(Plan { config, out: args.out.clone().map_or(Out::FirstFree, Out::New), resume: None, notes, rate_note: None });
    };
    let text = checkpoint::config(&source)?
        .ok_or_else(|| Error::file(&source, "holds parameters but no settings; start a new run with --init-from"))?;
    let folder = source.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_path_buf();
    let out = match &args.out {
        Some(out) if out.canonicalize().ok() != folder.canonicalize().ok() => Out::New(out.clone()),
        _ => {
            check_run_of(&source, &folder)?;
            Out::Same(args.out.clone().unwrap_or(folder))
        }
    };
    let mut trained = recipes::trained(&source, &text)?;
    if let Out::Same(folder) = &out {
        trained.cache_dir = settings::cache_of(folder);
    }
    let mut wanted = layers;
    if let Some(name) = &args.recipe {
        wanted.insert(0, recipes::recipe(name)?);
    }
    let config = recipes::resolve(&trained, &wanted)?;
    trained.check_resume(&config)?;
    let rate_note = rate_note(&trained, &config);
    Ok(Plan { config, out, resume: Some(source), notes, rate_note })
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
