//! Being told to stop: by Ctrl-C, by a batch system, by a terminal that goes away.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Once};

use crate::error::{Error, Result};

/// Set by the first signal.
static ASKED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Default::default);

/// Whether signals are caught.
static CAUGHT: Once = Once::new();

/// What the first signal sets.
pub fn flag() -> &'static AtomicBool {
    &ASKED
}

/// Whether it was told to stop.
pub fn is_asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}

/// Asks as the first signal does; before signals are caught it ends the process, as a signal would.
pub fn ask() {
    if CAUGHT.is_completed() {
        ASKED.store(true, Ordering::Relaxed);
    } else {
        std::process::exit(i32::from(super::FAILED));
    }
}

/// From now on the first signal only sets [`flag`], and is answered by "stopping after `what`"; the second one ends the process.
///
/// # Errors
/// [`Error::Config`] if the system lets nobody catch signals.
pub fn catch(what: &'static str) -> Result<()> {
    let mut outcome = Ok(());
    CAUGHT.call_once(|| outcome = listen(what));
    outcome.map_err(|e| Error::config("signals", format!("cannot be caught: {e}")))
}

#[cfg(unix)]
fn listen(what: &'static str) -> std::io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
    use signal_hook::iterator::Signals;

    // nohup has this one ignored, and means it.
    let wanted: Vec<i32> = [SIGINT, SIGTERM, SIGUSR1].into_iter().chain((!is_ignored(SIGHUP)).then_some(SIGHUP)).collect();
    // The second one ends the process whatever its threads are waiting for, a terminal that takes no text among them.
    for &signal in &wanted {
        signal_hook::flag::register_conditional_shutdown(signal, i32::from(super::FAILED), ASKED.clone())?;
        signal_hook::flag::register(signal, ASKED.clone())?;
    }
    let mut signals = Signals::new(wanted)?;
    let answer = move || {
        for _ in signals.forever().filter(|_| super::ranks::prefix().is_empty()) {
            super::complain(&format!("stopping after {what}; once more to stop at once"));
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(answer).map(drop)
}

#[cfg(not(unix))]
fn listen(_what: &'static str) -> std::io::Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};

    for signal in [SIGINT, SIGTERM] {
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
