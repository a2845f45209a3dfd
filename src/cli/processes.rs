//! `dsr train --devices`: a process for each device. This one starts them, passes on what is to stop them, and ends them together.
//!
//! Each of them reads from this process: a line asks it to stop, and the end of the pipe says that this process is gone. So nothing is
//! left over however this one ends.

use std::ffi::OsString;
use std::io::{BufRead, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;

use super::devices::{free_address, this_program};
use super::{DONE, FAILED, complain, stop};
use crate::device::nccl;
use crate::error::{Error, Result};
use crate::ranks::launch::launched;

/// What asks a process to stop after its step.
const STOP: &str = "stop";
/// Between two looks at the processes.
const PAUSE: Duration = Duration::from_millis(20);
/// So long the others may take to end when one of them has ended with an error that rank 0 does not know of.
const GRACE: Duration = Duration::from_secs(10);

/// The processes; those that are left are ended with this.
struct Processes(Vec<Child>);

impl Drop for Processes {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // One that has ended already is no error.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts this program once for each device, with the flags of this one, and waits for the end of all.
///
/// # Errors
/// No NCCL, a launcher that has started several of this one, and a process that was killed.
pub fn run(devices: &[(usize, String)]) -> anyhow::Result<u8> {
    if let Some(launch) = launched()? {
        let problem =
            format!("{} has started {} processes, each of which would start its own; leave --devices out", launch.launcher, launch.size);
        return Err(Error::config("devices", problem).into());
    }
    nccl::load()?; // told once, and not by each process
    stop::catch("this step")?;
    let mut processes = start(devices)?;
    watch(&mut processes.0, devices)
}

fn start(devices: &[(usize, String)]) -> anyhow::Result<Processes> {
    let (program, meeting, size) = (this_program()?, free_address()?, devices.len());
    let flags = without_devices(std::env::args_os().skip(1));
    let mut processes = Processes(Vec::new());
    for (rank, (device, _)) in devices.iter().enumerate() {
        let mut command = Command::new(&program);
        command.args(&flags).args(["--device", &format!("cuda:{device}"), "--rank", &format!("{rank}/{size}")]);
        command.env(nccl::MEETING, &meeting).env("LOCAL_RANK", rank.to_string());
        command.stdin(Stdio::piped()).stdout(if rank == 0 { Stdio::inherit() } else { Stdio::null() });
        // What a terminal sends on Ctrl-C comes here, and is passed on once.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = command.spawn().with_context(|| format!("a process for cuda:{device} could not be started"))?;
        processes.0.push(child);
    }
    Ok(processes)
}

/// The flags of a process: those of this one, without `--devices`.
fn without_devices(flags: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut is_value = false;
    let is_kept = |flag: &OsString| {
        if std::mem::take(&mut is_value) {
            return false;
        }
        is_value = flag == "--devices";
        !is_value && !flag.to_string_lossy().starts_with("--devices=")
    };
    flags.filter(is_kept).collect()
}

/// Waits for all, and ends the others when one has failed.
fn watch(children: &mut [Child], devices: &[(usize, String)]) -> anyhow::Result<u8> {
    let mut ended: Vec<Option<ExitStatus>> = vec![None; children.len()];
    let mut failed: Option<(usize, ExitStatus, Instant)> = None;
    let mut is_passed_on = false;
    while ended.iter().any(Option::is_none) {
        if stop::is_asked() && !std::mem::replace(&mut is_passed_on, true) {
            for input in children.iter_mut().filter_map(|child| child.stdin.as_mut()) {
                // One that has ended already needs not be asked.
                let _ = writeln!(input, "{STOP}").and_then(|()| input.flush());
            }
        }
        for (rank, (child, ended)) in children.iter_mut().zip(&mut ended).enumerate() {
            if ended.is_none() {
                *ended = child.try_wait().context("a process cannot be waited for")?;
                let bad = ended.filter(|status| !status.success() && failed.is_none());
                failed = bad.map(|status| (rank, status, Instant::now())).or(failed);
            }
        }
        if let Some((rank, status, at)) = failed {
            if let Some(signal) = signal(status) {
                let problem = format!(
                    "cuda:{} was killed (signal {signal}), and the other processes were ended; --resume auto goes on from the last \
                     checkpoint",
                    devices[rank].0
                );
                return Err(Error::Ranks { rank, problem }.into());
            }
            // What rank 0 has to say it has said.
            if rank == 0 || ended[0].is_some_and(|status| !status.success()) {
                return Ok(code(ended[0].unwrap_or(status)));
            }
            if at.elapsed() >= GRACE {
                complain(&format!("rank {rank} (cuda:{}) has failed, and the other processes were ended", devices[rank].0));
                return Ok(FAILED);
            }
        }
        std::thread::sleep(PAUSE);
    }
    let of_first = ended[0].map_or(FAILED, code);
    Ok(if failed.is_some() { of_first.max(FAILED) } else { of_first })
}

fn code(status: ExitStatus) -> u8 {
    status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(if status.success() { DONE } else { FAILED })
}

#[cfg(unix)]
fn signal(status: ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(&status)
}

#[cfg(not(unix))]
fn signal(_status: ExitStatus) -> Option<i32> {
    None
}

/// In one of these processes: from now on it stops when it is asked to, and ends when the one that has started it is gone.
///
/// # Errors
/// [`Error::Config`] if the system gives no thread.
pub fn obey() -> Result<()> {
    let listen = || {
        for line in std::io::stdin().lock().lines().map_while(std::result::Result::ok) {
            if line == STOP {
                stop::ask();
            }
        }
        std::process::exit(i32::from(FAILED))
    };
    let thread = std::thread::Builder::new().name("parent".into()).spawn(listen);
    thread.map(drop).map_err(|e| Error::config("rank", format!("no thread to listen to the first process: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_stay_but_for_the_devices() {
        let of = |flags: &str| -> String {
            let kept = without_devices(flags.split_whitespace().map(OsString::from));
            kept.iter().map(|flag| flag.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(of("train --devices cuda:0,1 --slices 2"), "train --slices 2");
        assert_eq!(of("-q train --slices 2 --devices=all"), "-q train --slices 2");
        assert_eq!(of("train --devices all --device auto --devices cuda:1"), "train --device auto");
    }
}
