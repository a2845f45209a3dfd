//! Being told to stop: by Ctrl-C, by a batch system, by a terminal that goes away.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};

use crate::error::{Error, Result};

/// Set by the first signal.
static ASKED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Default::default);

/// Whether signals could be caught, where that was tried.
static CAUGHT: OnceLock<io::Result<()>> = OnceLock::new();

/// What is finished before the end; without it the end is at once.
static FINISHED: OnceLock<&'static str> = OnceLock::new();

/// What the first signal sets.
pub fn flag() -> &'static AtomicBool {
    &ASKED
}

/// Whether it was told to stop.
pub fn is_asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}

/// Asks as the first signal does; where nothing is to be finished it ends the process, as a signal would.
pub fn ask() {
    if FINISHED.get().is_some() {
        ASKED.store(true, Ordering::Relaxed);
    } else {
        std::process::exit(i32::from(super::FAILED));
    }
}

/// From now on a signal ends the process with a line and the exit code of what was interrupted, between two results and not inside of
/// one. One that is ignored stays so, and where signals cannot be caught they end the process as ever.
pub fn end_with_a_line() {
    #[cfg(unix)]
    CAUGHT.get_or_init(|| {
        let wanted: Vec<i32> = SIGNALS.into_iter().filter(|&signal| !is_ignored(signal)).collect();
        listen(&wanted)
    });
}

/// From now on the first signal only sets [`flag`], and is answered by "stopping after `what`"; the second one ends the process.
///
/// # Errors
/// [`Error::Config`] if the system lets nobody catch signals.
pub fn catch(what: &'static str) -> Result<()> {
    let refused = |e: &io::Error| Error::config("signals", format!("cannot be caught: {e}"));
    end_with_a_line();
    if let Some(Err(e)) = CAUGHT.get() {
        return Err(refused(e));
    }
    listen(&others()).map_err(|e| refused(&e))?;
    FINISHED.get_or_init(|| what);
    Ok(())
}

/// Signals that ask for an end.
#[cfg(unix)]
const SIGNALS: [i32; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGUSR1, libc::SIGHUP];

/// Signals that [`end_with_a_line`] leaves alone and [`catch`] does not: a shell has the first one ignored in what it starts behind it. What
/// nohup ignores it means.
#[cfg(unix)]
fn others() -> Vec<i32> {
    SIGNALS.into_iter().filter(|&signal| signal != libc::SIGHUP && is_ignored(signal)).collect()
}

#[cfg(unix)]
fn listen(signals: &[i32]) -> io::Result<()> {
    // The second one ends the process whatever its threads are waiting for, a terminal that takes no text among them.
    for &signal in signals {
        signal_hook::flag::register_conditional_shutdown(signal, i32::from(super::FAILED), ASKED.clone())?;
        signal_hook::flag::register(signal, ASKED.clone())?;
    }
    if signals.is_empty() {
        return Ok(());
    }
    let mut signals = signal_hook::iterator::Signals::new(signals)?;
    let answer = move || {
        for _ in signals.forever() {
            match FINISHED.get() {
                Some(what) => tell(&format!("stopping after {what}; once more to stop at once")),
                None => end(),
            }
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(answer).map(drop)
}

/// One of several processes speaks for all.
#[cfg(unix)]
fn tell(text: &str) {
    if super::ranks::prefix().is_empty() {
        super::complain(text);
    }
}

/// Ends the process once no result is being printed.
#[cfg(unix)]
fn end() {
    let _printed = io::stdout().lock();
    let behind_bar = if io::IsTerminal::is_terminal(&io::stderr()) { "\n" } else { "" };
    tell(&format!("{behind_bar}stopped before the end; results that were printed are whole"));
    signal_hook::low_level::exit(i32::from(super::FAILED));
}

#[cfg(not(unix))]
fn others() -> Vec<i32> {
    vec![signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM]
}

#[cfg(not(unix))]
fn listen(signals: &[i32]) -> io::Result<()> {
    for &signal in signals {
        signal_hook::flag::register_conditional_shutdown(signal, i32::from(super::FAILED), ASKED.clone())?;
        signal_hook::flag::register(signal, ASKED.clone())?;
    }
    Ok(())
}

/// Whether this process was started with a signal ignored.
#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// A file that would be larger than `ulimit -f` allows is then an error of the write, as a full disk is, and not the end of the process.
pub fn survive_file_limits() {
    #[cfg(unix)]
    {
        let unused = std::sync::Arc::new(AtomicBool::new(false));
        let _ = signal_hook::flag::register(libc::SIGXFSZ, unused); // without it the process ends, as it would have
    }
}
