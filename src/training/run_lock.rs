//! One process at a time in a run folder.
//!
//! The system's lock on the file `lock` decides among the processes that share a kernel, in whatever container they are. Other machines
//! may not see that lock (many cluster file systems keep locks to one machine, some have none), so the holder also touches the file every
//! few seconds: a lock of another machine counts as long as it was touched a short while ago.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::atomic_file::{self, refused};
use crate::error::{Error, Result};
use crate::file_lock::{self, Attempt};
use crate::training::tensorboard::host;

/// Name of the lock file in a run folder: process, host, kernel, and when it was taken.
pub const LOCK: &str = "lock";

/// How often the holder touches the file.
const BEAT: Duration = Duration::from_secs(10);
/// A lock of another machine that was not touched for so long is nobody's.
const STALE: Duration = Duration::from_secs(60);
/// How often a lock is looked at while it is waited for.
const LOOK: Duration = Duration::from_millis(500);

/// How a folder is taken.
#[derive(Clone, Copy)]
pub struct Access {
    /// Takes it from whoever has it.
    pub break_lock: bool,
    /// Tells the user.
    pub note: fn(&str),
}

impl Default for Access {
    /// Waits its turn and tells nothing.
    fn default() -> Self {
        Access { break_lock: false, note: |_| () }
    }
}

/// Holds a run folder; dropping it lets the folder go.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    text: String,
    /// Whoever closes it gives the system's lock back.
    _file: File,
    stop: Option<Sender<()>>,
    beats: Option<JoinHandle<()>>,
}

impl Lock {
    /// Takes `folder`, from a process that is no longer alive too; waits up to a minute until the lock of another machine is stale.
    ///
    /// # Errors
    /// [`Error::File`] naming the process that is using the folder.
    pub fn take(folder: &Path, access: &Access) -> Result<Lock> {
        let path = folder.join(LOCK);
        if access.break_lock {
            fs::remove_file(&path).or_else(|e| if e.kind() == ErrorKind::NotFound { Ok(()) } else { Err(refused(&path, e)) })?;
        }
        let mut told = false;
        loop {
            check_ours(&path)?;
            let mut file = file_lock::open(&path).map_err(|e| refused(&path, e))?;
            let attempt = file_lock::attempt(&file).map_err(|e| refused(&path, e))?;
            let Some(text) = read(&mut file, &path)? else { continue }; // given back just now: the name is another file's or nobody's
            let holder = Holder::of(&text);
            let is_theirs = match attempt {
                Attempt::Busy => return Err(in_use(folder, &holder, None)),
                // Of this kernel, so the system's lock has spoken; or new, or emptied by a power cut.
                Attempt::Taken => holder.kernel != kernel() && !holder.kernel.is_empty(),
                Attempt::Unknown => {
                    if !told {
                        let shown = folder.display();
                        (access.note)(&format!(
                            "note: the file system of {shown} has no locks: only the age of its file {LOCK} keeps two runs apart there"
                        ));
                        told = true;
                    }
                    !holder.process.is_empty()
                }
            };
            if !is_theirs {
                return Self::hold(path, file);
            }
            wait_until_stale(folder, &path, &holder, access)?;
            // A new file in the place of the stale one: a holder that was only asleep then finds that it has lost its lock.
            if is_at(&file, &path).map_err(|e| refused(&path, e))? {
                fs::remove_file(&path).map_err(|e| refused(&path, e))?;
            }
        }
    }

    /// Writes who has the lock, and keeps saying so.
    fn hold(path: PathBuf, mut file: File) -> Result<Lock> {
        let taken = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
        let text = format!("{} {} {} {taken}\n", std::process::id(), host(), kernel());
        let written = file.set_len(0).and_then(|()| write(&mut file, &text)).and_then(|()| file.sync_all());
        if let Err(e) = written {
            let _ = fs::remove_file(&path); // a lock that names nobody would only puzzle
            return Err(refused(&path, e));
        }
        let (stop, stopped) = channel();
        let (mut own, beat_path, beat_text) = (file.try_clone().map_err(|e| refused(&path, e))?, path.clone(), text.clone());
        let beats = thread::Builder::new().name("run lock".into()).spawn(move || beat(&mut own, &beat_path, &beat_text, &stopped));
        let beats = beats.map_err(|e| {
            let _ = fs::remove_file(&path); // nobody holds it
            Error::file(&path, format!("the thread that touches it cannot be started ({e}): allow more threads or memory"))
        })?;
        Ok(Lock { path, text, _file: file, stop: Some(stop), beats: Some(beats) })
    }

    /// Fails unless the lock at its path is still this process's: another one may have taken the folder, or somebody may have removed or
    /// renamed it.
    ///
    /// # Errors
    /// [`Error::File`] naming who has it, if anybody; [`Error::Io`] if the lock cannot be read.
    pub fn check(&self) -> Result<()> {
        let found = match fs::read(&self.path) {
            Ok(found) => found,
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Vec::new(),
            Err(e) => return Err(Error::io(&self.path)(e)),
        };
        if found == self.text.as_bytes() {
            return Ok(());
        }
        let Holder { process, machine, .. } = Holder::of(&String::from_utf8_lossy(&found));
        let who = if process.is_empty() {
            "its lock is gone: another process took the folder, or it was renamed or removed".to_string()
        } else {
            format!("was taken over by process {process} on {machine} (--break-lock)")
        };
        Err(Error::file(self.path.parent().unwrap_or(Path::new(".")), format!("{who}; this run ends here and writes nothing more")))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(beats) = self.beats.take() {
            let _ = beats.join(); // it has nothing to report
        }
        if fs::read_to_string(&self.path).is_ok_and(|text| text == self.text) {
            let _ = fs::remove_file(&self.path); // if that fails, the next process finds the lock given back by the system
        }
    }
}

/// Touches the file until told to stop, as long as it is this process's own: on a network only its time of change tells others.
fn beat(file: &mut File, path: &Path, text: &str, stopped: &Receiver<()>) {
    while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(BEAT) {
        if fs::read_to_string(path).is_ok_and(|found| found == text) {
            let _ = write(file, text); // a disk that is full for a moment costs a beat
        }
    }
}

fn write(file: &mut File, text: &str) -> io::Result<()> {
    file.seek(SeekFrom::Start(0))?;
    file.write_all(text.as_bytes())?;
    file.sync_data() // on a network, others see it now
}

/// Refuses a file of somebody else that happens to have the name of a lock.
fn check_ours(path: &Path) -> Result<()> {
    if is_lock(path) {
        return Ok(());
    }
    Err(Error::file(path, "is no lock of dsr: move it away, or choose another --out"))
}

/// Whether a file is a lock, or not there, or empty as a power cut leaves it.
pub fn is_lock(path: &Path) -> bool {
    let Ok(found) = fs::symlink_metadata(path) else { return true };
    if !found.is_file() || found.len() > 1000 {
        return !found.is_file() && !found.is_symlink() && !found.is_dir(); // what else it is, opening it will say
    }
    let text = fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let words: Vec<&str> = text.split(|c: char| c.is_whitespace() || c == '\0').filter(|word| !word.is_empty()).collect();
    let is_number = |word: &&str| word.parse::<u128>().is_ok();
    let is_whole = words.len() == 4 && is_number(&words[0]) && is_number(&words[3]);
    let is_cut_off = words.len() <= 4 && words.first().is_some_and(is_number) && !text.ends_with('\n'); // by a power cut
    words.is_empty() || is_whole || is_cut_off
}

/// What the lock file says; none if `file` is no longer the one at `path`.
fn read(file: &mut File, path: &Path) -> Result<Option<String>> {
    if !is_at(file, path).map_err(Error::io(path))? {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(1000).read_to_end(&mut bytes).map_err(Error::io(path))?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let own = file.metadata()?;
    match fs::metadata(path) {
        Ok(there) => Ok((own.dev(), own.ino()) == (there.dev(), there.ino())),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(not(unix))]
fn is_at(_file: &File, path: &Path) -> io::Result<bool> {
    path.try_exists()
}

/// Who a lock file names; empty where it does not say.
#[derive(Debug, Default)]
struct Holder {
    process: String,
    machine: String,
    kernel: String,
}

impl Holder {
    fn of(text: &str) -> Holder {
        let words = text.split(|c: char| c.is_whitespace() || c == '\0').filter(|word| !word.is_empty());
        let mut words = words.map(|word| word.escape_debug().to_string());
        let mut next = || words.next().unwrap_or_default();
        Holder { process: next(), machine: next(), kernel: next() }
    }
}

/// Waits until the lock of another machine has not been touched for [`STALE`].
fn wait_until_stale(folder: &Path, path: &Path, holder: &Holder, access: &Access) -> Result<()> {
    let touched = || fs::metadata(path).and_then(|metadata| metadata.modified());
    let first = touched().map_err(|e| refused(path, e))?;
    let (mut told, begin) = (false, Instant::now());
    loop {
        // A clock that was set back may say that the file is of tomorrow: what was seen here counts as well.
        let age = now_there(folder)?.duration_since(first).unwrap_or_default().max(begin.elapsed());
        if age >= STALE {
            return Ok(());
        }
        if !told {
            let Holder { process, machine, .. } = holder;
            let left = (STALE - age).as_secs() + 1;
            (access.note)(&format!(
                "note: {} has a lock of process {process} on {machine}, {} s old: waiting up to {left} s whether it still works there \
                 (--break-lock takes it at once)",
                folder.display(),
                age.as_secs()
            ));
            told = true;
        }
        thread::sleep(LOOK);
        match touched() {
            Ok(time) if time == first => {}
            Ok(_) => return Err(in_use(folder, holder, Some(Duration::ZERO))),
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(refused(path, e)),
        }
    }
}

/// The time by the clock that dates the files of `folder`, which may be another machine's.
fn now_there(folder: &Path) -> Result<SystemTime> {
    let path = folder.join(LOCK);
    let (temporary, file) = atomic_file::temporary_beside(&path).map_err(|e| refused(&path, e))?;
    let time = (&file).write_all(b"\n").and_then(|()| file.metadata()).and_then(|metadata| metadata.modified());
    let _ = fs::remove_file(&temporary); // a leftover does no harm
    time.map_err(|e| refused(&path, e))
}

fn in_use(folder: &Path, holder: &Holder, age: Option<Duration>) -> Error {
    let who = match (holder.process.as_str(), age) {
        ("", _) => "another process".into(),
        (process, None) if holder.kernel != kernel() && !holder.kernel.is_empty() => {
            format!("another process, which waits for the lock of process {process} on {} to grow old", holder.machine)
        }
        (process, None) => format!("process {process} on {}", holder.machine),
        (process, Some(age)) => format!("process {process} on {}, which was there {} s ago", holder.machine, age.as_secs()),
    };
    Error::file(folder, format!("in use by {who}: wait until it has finished, choose another --out, or take it over with --break-lock"))
}

/// What tells this running system from every other one, and is the same in all its containers.
fn kernel() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let id: String = id.trim().chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
    if id.is_empty() { host() } else { id }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(folder: &Path) -> Result<Lock> {
        Lock::take(folder, &Access::default())
    }

    #[test]
    fn a_second_taker_is_told_who_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let lock = take(folder.path()).unwrap();
        let error = take(folder.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("in use by process {} on {}", std::process::id(), host())), "{error}");
        assert!(error.contains("--break-lock"), "{error}");
        drop(lock);
        assert!(!folder.path().join(LOCK).exists());
        drop(take(folder.path()).unwrap());
    }

    /// The number of a process says nothing: a living one may have the number of a dead one, and a container has numbers of its own.
    #[test]
    fn the_system_decides_among_its_own() {
        let (me, here) = (std::process::id(), kernel());
        for text in
            [String::new(), "\u{0}\u{0}".into(), "17 \u{0}".into(), format!("{me} {} {here} 1\n", host()), format!("1 elsewhere {here} 5")]
        {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join(LOCK), &text).unwrap();
            drop(take(folder.path()).unwrap_or_else(|e| panic!("{text:?}: {e}")));
        }
    }

    fn set_age(folder: &Path, age: Duration) -> io::Result<()> {
        File::options().write(true).open(folder.join(LOCK))?.set_modified(SystemTime::now() - age)
    }

    #[test]
    fn a_lock_of_another_machine_counts_for_a_minute() {
        let folder = tempfile::tempdir().unwrap();
        let other = "7 elsewhere 0000-1111 5\n";
        fs::write(folder.path().join(LOCK), other).unwrap();
        set_age(folder.path(), STALE).unwrap();
        drop(take(folder.path()).unwrap());

        // One that is touched while it is looked at is held.
        fs::write(folder.path().join(LOCK), other).unwrap();
        set_age(folder.path(), STALE - Duration::from_secs(30)).unwrap();
        let toucher = folder.path().to_path_buf();
        let (started, start) = channel();
        let thread = thread::spawn(move || {
            start.recv().unwrap();
            set_age(&toucher, Duration::ZERO).unwrap();
        });
        static STARTED: std::sync::Mutex<Option<Sender<()>>> = std::sync::Mutex::new(None);
        *STARTED.lock().unwrap() = Some(started);
        let note = |text: &str| {
            assert!(text.contains("process 7 on elsewhere") && text.contains("--break-lock"), "{text}");
            STARTED.lock().unwrap().take().unwrap().send(()).unwrap();
        };
        let error = Lock::take(folder.path(), &Access { note, ..Access::default() }).unwrap_err().to_string();
        thread.join().unwrap();
        assert!(error.contains("in use by process 7 on elsewhere, which was there 0 s ago"), "{error}");
        assert_eq!(fs::read_to_string(folder.path().join(LOCK)).unwrap(), other, "somebody else's lock was changed");

        drop(Lock::take(folder.path(), &Access { break_lock: true, ..Access::default() }).unwrap());
    }

    #[test]
    fn who_lost_the_lock_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let first = take(folder.path()).unwrap();
        first.check().unwrap();
        let second = Lock::take(folder.path(), &Access { break_lock: true, ..Access::default() }).unwrap();
        let error = first.check().unwrap_err().to_string();
        assert!(error.contains("was taken over by process") && error.contains("writes nothing more"), "{error}");
        // The winner may be done before the loser looks.
        drop(second);
        let error = first.check().unwrap_err().to_string();
        assert!(error.contains("its lock is gone") && error.contains("writes nothing more"), "{error}");
        let third = take(folder.path()).unwrap();
        drop(first);
        third.check().unwrap();
        assert!(folder.path().join(LOCK).exists(), "the new holder's lock was removed");
    }

    /// A file or link of somebody else that is called `lock` stays what it is.
    #[test]
    fn only_locks_are_taken() {
        let folder = tempfile::tempdir().unwrap();
        let (path, own) = (folder.path().join(LOCK), folder.path().join("own"));
        for text in ["my secret\n", "1 2 3 x\n", "4 words that are none", &"5 ".repeat(600)] {
            fs::write(&path, text).unwrap();
            let error = take(folder.path()).unwrap_err().to_string();
            assert!(error.contains("is no lock of dsr"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        fs::remove_file(&path).unwrap();
        fs::write(&own, "mine").unwrap();
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(&own, &path).unwrap();
            assert!(take(folder.path()).unwrap_err().to_string().contains("is no lock of dsr"));
        }
        assert_eq!(fs::read_to_string(&own).unwrap(), "mine");
    }

    #[test]
    fn of_many_that_find_a_stale_lock_one_gets_it() {
        for _ in 0..20 {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join(LOCK), format!("{} {} {} 1", std::process::id(), host(), kernel())).unwrap();
            let ready = std::sync::Barrier::new(8);
            let take = || {
                ready.wait();
                take(folder.path())
            };
            let taken: Vec<_> = std::thread::scope(|scope| {
                let takers: Vec<_> = (0..8).map(|_| scope.spawn(take)).collect();
                takers.into_iter().map(|t| t.join().unwrap()).collect()
            });
            assert_eq!(taken.iter().filter(|t| t.is_ok()).count(), 1, "{taken:?}");
        }
    }
}
