//! One process at a time in a run folder.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::atomic_file::refused;
use crate::error::{Error, Result};
use crate::regular_file;
use crate::training::tensorboard::host;

/// Name of the lock file in a run folder: process id, its start time, machine.
pub const LOCK: &str = "lock";

/// Holds a run folder; dropping it lets the folder go.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    text: String,
}

impl Lock {
    /// Takes `folder`, from a process that is no longer alive too.
    ///
    /// # Errors
    /// [`Error::File`] naming the process that is using the folder.
    pub fn take(folder: &Path) -> Result<Lock> {
        let path = folder.join(LOCK);
        let process = std::process::id();
        let text = format!("{process} {} {}\n", start_time(process).unwrap_or(0), host());
        loop {
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(mut file) => {
                    if let Err(e) = file.write_all(text.as_bytes()) {
                        let _ = fs::remove_file(&path); // an empty lock file would look like somebody else's
                        return Err(refused(&path, e));
                    }
                    return Ok(Lock { path, text });
                }
                Err(e) if e.kind() == ErrorKind::AlreadyExists => remove_stale(folder, &path)?,
                Err(e) => return Err(refused(&path, e)),
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if fs::read_to_string(&self.path).is_ok_and(|text| text == self.text) {
            let _ = fs::remove_file(&self.path); // if that fails, the next process finds the lock stale
        }
    }
}

/// Removes the lock of a dead process; an error if the process lives.
fn remove_stale(folder: &Path, path: &Path) -> Result<()> {
    let file = match regular_file::open(path) {
        Ok(file) => file,
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => return Ok(()), // given back just now
        Err(e) => return Err(e),
    };
    // Two processes may both find a stale lock; without this, the slower one would remove the faster one's new lock.
    file.lock().map_err(Error::io(path))?;
    let text = match fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io(path)(e)),
    };
    if let Some(problem) = in_use(&text, path) {
        return Err(Error::file(folder, problem));
    }
    fs::remove_file(path).or_else(|e| if e.kind() == ErrorKind::NotFound { Ok(()) } else { Err(refused(path, e)) })
}

/// What to tell a user who meets this lock; nothing if its process is dead.
fn in_use(text: &str, path: &Path) -> Option<String> {
    let mut words = text.split_whitespace();
    let Some(process) = words.next().and_then(|word| word.parse::<u32>().ok()) else {
        return Some(format!("has a lock file that names no process: delete {} if no other dsr works there", path.display()));
    };
    let started = words.next().and_then(|word| word.parse::<u64>().ok());
    let machine = words.next().unwrap_or_default();
    if !machine.is_empty() && machine != host() {
        let machine = machine.escape_debug();
        return Some(format!("in use by process {process} on {machine}: delete {} if it is no longer running there", path.display()));
    }
    // Only Linux tells here which processes live; elsewhere every lock counts as held.
    let known = start_time(std::process::id()).is_some();
    // A process that started at another time merely got the number of the dead one.
    let alive = start_time(process).is_some_and(|now| started.is_none_or(|then| then == now));
    if known && !alive {
        return None;
    }
    let hint = if known { String::new() } else { format!(" (if it is no longer running, delete {})", path.display()) };
    Some(format!("in use by process {process}: wait until it has finished, or choose another --out{hint}"))
}

/// When a living process was started, in clock ticks since the machine was; none for a dead one, for one that only waits to be
/// collected by its parent, and where there is no /proc.
fn start_time(process: u32) -> Option<u64> {
    let stat = fs::read(format!("/proc/{process}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    // The command's name, in brackets, may hold spaces and brackets itself; the state follows it.
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let state = *fields.first()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.get(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_taker_is_told_who_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let lock = Lock::take(folder.path()).unwrap();
        let error = Lock::take(folder.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("in use by process {}", std::process::id())), "{error}");
        drop(lock);
        assert!(!folder.path().join(LOCK).exists());
        drop(Lock::take(folder.path()).unwrap());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn only_a_living_holder_counts() {
        let me = std::process::id();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let dead = child.id();
        child.wait().unwrap();
        let started = start_time(me).unwrap();
        let cases = [
            (format!("{me}"), Some("in use by process")),
            (format!("{me} {started} {}\n", host()), Some("in use by process")),
            (format!("{me} {started} elsewhere"), Some("on elsewhere")),
            (format!("{me} {}", started + 1), None), // the number was used again
            (format!("{dead}"), None),
            (format!("{dead} 5 {}", host()), None),
            (format!("{dead} 5 elsewhere"), Some("on elsewhere")),
            (String::new(), Some("names no process")),
            ("\u{0}\u{fffd}".to_string(), Some("names no process")),
        ];
        for (text, expected) in cases {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join(LOCK), &text).unwrap();
            match (Lock::take(folder.path()), expected) {
                (Ok(_), None) => {}
                (Err(e), Some(words)) if e.to_string().contains(words) => {
                    assert_eq!(fs::read_to_string(folder.path().join(LOCK)).unwrap(), text, "somebody else's lock was changed");
                }
                (got, _) => panic!("{text:?}: {got:?}, expected {expected:?}"),
            }
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_process_that_only_waits_to_be_collected_is_dead() {
        let mut child = std::process::Command::new("true").stdout(std::process::Stdio::piped()).spawn().unwrap();
        let mut end = Vec::new();
        std::io::Read::read_to_end(child.stdout.as_mut().unwrap(), &mut end).unwrap(); // returns when it ends
        let dead = (0..1_000_000).any(|_| start_time(child.id()).is_none());
        child.wait().unwrap();
        assert!(dead);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn of_many_that_find_a_stale_lock_one_gets_it() {
        for _ in 0..20 {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join(LOCK), format!("{} 1", std::process::id())).unwrap();
            let ready = std::sync::Barrier::new(8);
            let take = || {
                ready.wait();
                Lock::take(folder.path())
            };
            let taken: Vec<_> = std::thread::scope(|scope| {
                let takers: Vec<_> = (0..8).map(|_| scope.spawn(take)).collect();
                takers.into_iter().map(|t| t.join().unwrap()).collect()
            });
            assert_eq!(taken.iter().filter(|t| t.is_ok()).count(), 1, "{taken:?}");
        }
    }
}
