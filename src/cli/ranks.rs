//! `dsr train` as one of several processes: who prints, what has to be the same on all, and how all end together.

use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use super::{Global, Output};
use crate::data::Dataset;
use crate::device::machine::machine;
use crate::error::{Error, Result};
use crate::ranks::launch::{Launch, launched};
use crate::ranks::{Ranks, executable, handshake};
use crate::settings::Config;
use crate::training::{Run, checkpoint};

/// Where a run may lie differs from machine to machine, and it changes no bit.
const MAY_DIFFER: [&str; 1] = ["data_dir"];

/// The number of this process among several, before each of its lines but those of rank 0.
static NUMBER: OnceLock<usize> = OnceLock::new();

/// What stands before a line on stderr.
pub fn prefix() -> String {
    NUMBER.get().filter(|&&rank| rank > 0).map_or(String::new(), |rank| format!("rank {rank}: "))
}

/// The group that a launcher has put this process into; alone where there is none. A rank that keeps others waiting for longer than
/// `patience` ends all.
///
/// # Errors
/// [`Error::Config`] if this build has no MPI, or MPI sees another group than the launcher.
pub fn join(patience: f64) -> Result<Ranks> {
    let problem = || Error::config("rank-timeout", format!("{patience} is not a number of seconds above 0"));
    let patience = Duration::try_from_secs_f64(patience).ok().filter(|patience| !patience.is_zero()).ok_or_else(problem)?;
    let Some(launch) = launched()? else { return Ok(Ranks::Alone) };
    let ranks = start(&launch, patience)?;
    let _ = NUMBER.set(ranks.rank()); // once a process
    Ok(ranks)
}

#[cfg(feature = "mpi")]
fn start(launch: &Launch, patience: Duration) -> Result<Ranks> {
    crate::ranks::Mpi::start(launch, patience, super::complain)
}

#[cfg(not(feature = "mpi"))]
fn start(launch: &Launch, _patience: Duration) -> Result<Ranks> {
    let Launch { launcher, size, .. } = launch;
    let problem = format!(
        "{launcher} has started {size} processes, but this build has no MPI, and they would be {size} runs: build with --features mpi, or \
         start one"
    );
    Err(Error::config("ranks", problem))
}

/// What rank 0 says where a launcher has started several processes of a command that shares no work; none otherwise. Such a command
/// asks for no MPI, and variables that make no sense are none of its business.
pub fn alone_note(command: &str) -> Option<String> {
    let Launch { launcher, size, .. } = launched().ok().flatten().filter(|launch| launch.rank == 0)?;
    Some(format!("note: {launcher} has started {size} processes, and each does all of dsr {command}: only dsr train shares its work"))
}

/// How a rank speaks: those but 0 not at all, unless asked for by -v, and never on stdout.
pub fn voice(global: &Global, ranks: &Ranks) -> Global {
    let global = global.clone();
    if ranks.rank() == 0 { global } else { Global { quiet: !global.verbose, output: Output::Json, ..global } }
}

/// Compares program, settings, data and checkpoint of all ranks.
///
/// # Errors
/// [`Error::Ranks`] naming the first difference, on all of them.
pub fn greet(ranks: &Ranks, run: &Run, resume: Option<&Path>, checkpoint_every: Option<usize>) -> Result<()> {
    if ranks.is_alone() {
        return Ok(());
    }
    let machine = machine();
    let mut ours = vec![
        ("the version".to_string(), format!("{} ({}, {})", machine.version, machine.commit.unwrap_or("no commit"), machine.build)),
        ("the checksum of the program".into(), executable()),
        ("the instruction set".into(), machine.isa),
        ("the device".into(), run.network.device().to_string()),
    ];
    ours.extend(settings(&run.config)?);
    // Before a checkpoint all compare what they have.
    ours.push(("checkpoint-every".into(), checkpoint_every.map_or("not set".into(), |every| every.to_string())));
    ours.push(("the data".into(), fingerprint(&run.dataset)));
    let step = resume.map(checkpoint::progress).transpose()?.map_or("a new run".into(), |progress| format!("step {}", progress.iteration));
    ours.push(("the checkpoint to go on from".into(), step));
    handshake(ranks, &ours)
}

fn settings(config: &Config) -> Result<Vec<(String, String)>> {
    let table = config.without_machine().to_table()?;
    let told = table.into_iter().filter(|(key, _)| !MAY_DIFFER.contains(&key.as_str()));
    Ok(told.map(|(key, value)| (key.replace('_', "-"), value.to_string())).collect())
}

/// Checksums of the samples in memory; of a streamed set, of its labels.
fn fingerprint(dataset: &Dataset) -> String {
    let [train, test] = [&dataset.train, &dataset.test].map(|split| format!("{} images, CRC-32C {:08x}", split.len(), split.checksum()));
    format!("{} {:?} ({train}; {test})", dataset.title(), dataset.shape)
}

/// Ends the group: in good order, or at once after an error, which is told here then.
pub fn leave(ranks: &Ranks, outcome: anyhow::Result<u8>) -> anyhow::Result<u8> {
    #[cfg(feature = "mpi")]
    match (&outcome, ranks.is_alone()) {
        (Ok(_), _) => ranks.leave(),
        (Err(error), false) => crate::ranks::end_group(&super::error_line(error), super::complain),
        (Err(_), true) => {}
    }
    let _ = ranks;
    outcome
}
