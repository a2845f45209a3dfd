//! The flags of a training run.

use std::path::PathBuf;

use clap::Args;

use super::Global;
use super::devices::{Devices, Rank};
use super::numbers::{MAX_STEPS, count};
use super::ported::PortedFlags;
use super::settings::{self, NetworkFlags, TrainingFlags};
use crate::error::Result;
use crate::training::plan::Asked;

/// Trains a network and keeps a run folder: config.toml, metrics, curves, last.safetensors and best.safetensors.
///
/// `best` is the highest accuracy of an epoch on the validation split (--val-share). Without one it is chosen on the test split, and
/// its accuracy there is optimistic.
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
    /// Write last.safetensors every so many steps of the run, too, and not only after each epoch: so much is lost at most when the
    /// process is killed. No other bit of the run changes.
    #[arg(long, value_name = "STEPS", alias = "checkpoint_every", value_parser = count::<MAX_STEPS>, help_heading = "Run")]
    pub checkpoint_every: Option<usize>,
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

/// What these flags ask of a run.
///
/// # Errors
/// As [`settings::layers`].
pub fn asked(global: &Global, args: &TrainArgs) -> Result<Asked> {
    let mut given = settings::table(&args.network)?;
    given.extend(settings::table(&args.training)?);
    let layers = settings::layers(global, given.clone())?;
    let TrainArgs { recipe, resume, init_from, out, .. } = args;
    let (recipe, resume, init_from, out) = (recipe.clone(), resume.clone(), init_from.clone(), out.clone());
    Ok(Asked { given, layers, recipe, resume, init_from, out })
}
