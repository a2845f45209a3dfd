//! `dsr train` as one of several processes: who prints, what has to be the same on all, and how all end together.

use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use super::devices::Rank;
use super::{Global, Output, Wanted};
use crate::data::{Dataset, Part};
use crate::device::machine::machine;
use crate::device::{Device, Gpu, driver, nccl};
use crate::error::{Error, Result};
use crate::ranks::launch::{Launch, launched, local_rank};
use crate::ranks::{Nccl, Ranks, executable, handshake};
use crate::settings::Config;
use crate::training::{Run, checkpoint};

/// Where a run may lie differs from machine to machine, and it changes no bit.
const MAY_DIFFER: [&str; 1] = ["data_dir"];

/// So long another rank has to say what all have to say.
const COURTESY: Duration = Duration::from_secs(1);

/// The number of this process among several, before each of its lines but those of rank 0.
static NUMBER: OnceLock<usize> = OnceLock::new();

/// What stands before a line on stderr.
pub fn prefix() -> String {
    NUMBER.get().filter(|&&rank| rank > 0).map_or(String::new(), |rank| format!("rank {rank}: "))
}

/// The group that a launcher, or `--devices`, has put this process into; alone where there is none. A rank that keeps others waiting for
/// longer than `patience` ends all.
///
/// # Errors
/// [`Error::Config`] if there are no devices and this build has no MPI, or MPI sees another group than the launcher; on devices those of
/// [`Nccl::join`].
pub fn join(global: &Global, patience: f64, own: Option<Rank>) -> Result<Ranks> {
    let problem = || Error::config("rank-timeout", format!("{patience} is not a number of seconds above 0"));
    let patience = Duration::try_from_secs_f64(patience).ok().filter(|patience| !patience.is_zero()).ok_or_else(problem)?;
    let launch = match own {
        Some(Rank { rank, size }) => Some(Launch { launcher: "dsr train --devices", rank, size }),
        None => launched()?,
    };
    let Some(launch) = launch else { return Ok(Ranks::Alone) };
    let Some(device) = device_of(global.device, &launch)? else {
        let ranks = start(&launch, patience)?;
        let _ = NUMBER.set(ranks.rank()); // once a process
        return Ok(ranks);
    };
    let _ = NUMBER.set(launch.rank);
    if own.is_none() {
        know_the_meeting_place(&launch)?;
    }
    let joined = Gpu::open(device).and_then(|gpu| Nccl::join(&gpu, [launch.rank, launch.size], patience));
    if joined.is_err() {
        let_rank_0_speak(launch.rank);
    }
    joined
}

/// The device of a rank: the one that was asked for, or that of its number on this machine; none on CPUs.
fn device_of(wanted: Wanted, launch: &Launch) -> Result<Option<usize>> {
    let listed = match wanted {
        Wanted::Cpu => return Ok(None),
        Wanted::Cuda(Some(number)) => return Ok(Some(number)),
        Wanted::Cuda(None) => driver::devices()?.len(),
        Wanted::Auto => driver::devices().map_or(0, |devices| devices.len()),
    };
    let local = local_rank()?.unwrap_or(launch.rank);
    match (wanted, listed) {
        (Wanted::Auto, 0) => Ok(None),
        (_, 1) => Ok(Some(0)), // a launcher may show each process its own
        _ if local < listed => Ok(Some(local)),
        _ => {
            let problem = format!("process {local} of this machine has none, since it has {listed}: start one process for each device");
            Err(Error::config("device", problem))
        }
    }
}

/// NCCL reads where ranks meet when it is loaded, and a program should not change its environment: so this one begins again where it was
/// started without `NCCL_COMM_ID`, with the address that its launcher gives.
fn know_the_meeting_place(launch: &Launch) -> Result<()> {
    let variable = |name: &str| std::env::var(name).ok();
    if variable(nccl::MEETING).is_some_and(|address| !address.is_empty()) {
        return Ok(());
    }
    let Some(address) = nccl::meeting_address(variable)? else {
        let problem = format!(
            "is not set, so the {} processes of {} do not know where to meet: set MASTER_ADDR to the machine of rank 0 and MASTER_PORT to a \
             port below a free one, the same for all; or take --device cpu, whose processes meet by MPI",
            launch.size, launch.launcher
        );
        return Err(Error::config(nccl::MEETING, problem));
    };
    begin_again(&address)
}

#[cfg(unix)]
fn begin_again(address: &str) -> Result<()> {
    use std::os::unix::process::CommandExt;
    let failed =
        |e: std::io::Error| Error::config(nccl::MEETING, format!("{address} could not be set by starting again: {e}; set it yourself"));
    let program = std::env::current_exe().map_err(failed)?;
    let problem = std::process::Command::new(program).args(std::env::args_os().skip(1)).env(nccl::MEETING, address).exec();
    Err(failed(problem))
}

#[cfg(not(unix))]
fn begin_again(address: &str) -> Result<()> {
    Err(Error::config(nccl::MEETING, format!("is not set: set it to {address} for all processes")))
}

/// What all ranks have to say is said by rank 0, which ends all where they belong together.
fn let_rank_0_speak(rank: usize) {
    if rank > 0 {
        std::thread::sleep(COURTESY);
    }
}

/// Threads of a process: where none are asked for (0), the processes of `--devices` share the cores.
pub fn threads(asked: usize, own: Option<Rank>) -> usize {
    match own {
        Some(Rank { size, .. }) if asked == 0 => (std::thread::available_parallelism().map_or(1, usize::from) / size).max(1),
        _ => asked,
    }
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
        (
            "the device".into(),
            match run.network.device() {
                Device::Cuda(gpu) => format!("{}, {} products", gpu.name(), gpu.products().name()),
                Device::Cpu => "cpu".into(),
            },
        ),
    ];
    ours.extend(settings(&run.config)?);
    // Before a checkpoint all compare what they have.
    ours.push(("checkpoint-every".into(), checkpoint_every.map_or("not set".into(), |every| every.to_string())));
    ours.push(("the data".into(), fingerprint(&run.dataset)));
    let held_out = run.validation.as_ref().map_or("none".into(), |validation| validation.fingerprint(Part::Test));
    ours.push(("what is held out for validation".into(), held_out));
    let step = resume.map(checkpoint::progress).transpose()?.map_or("a new run".into(), |progress| format!("step {}", progress.iteration));
    ours.push(("the checkpoint to go on from".into(), step));
    handshake(ranks, &ours)
}

fn settings(config: &Config) -> Result<Vec<(String, String)>> {
    let table = config.without_machine().to_table()?;
    let told = table.into_iter().filter(|(key, _)| !MAY_DIFFER.contains(&key.as_str()));
    Ok(told.map(|(key, value)| (key.replace('_', "-"), value.to_string())).collect())
}

fn fingerprint(dataset: &Dataset) -> String {
    let [train, test] = [Part::Train, Part::Test].map(|part| dataset.fingerprint(part));
    format!("{} {:?} ({train}; {test})", dataset.name, dataset.shape)
}

/// Ends the group: in good order, or at once after an error, which is told here then.
pub fn leave(ranks: &Ranks, outcome: anyhow::Result<u8>) -> anyhow::Result<u8> {
    if let Some(nccl) = ranks.nccl() {
        if outcome.is_ok() {
            ranks.meet("end of the run")?;
        } else {
            nccl.communicator().abort(); // nothing waits for others any more
            let_rank_0_speak(ranks.rank());
        }
        return outcome;
    }
    #[cfg(feature = "mpi")]
    match (&outcome, ranks.is_alone()) {
        (Ok(_), _) => ranks.leave(),
        (Err(error), false) => crate::ranks::end_group(&super::error_line(error), super::complain),
        (Err(_), true) => {}
    }
    let _ = ranks;
    outcome
}
