//! Locks of the system on files. The system gives them back when a process ends, however it ends, and it knows its own processes
//! whatever container they are in.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

/// What came of trying to lock a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// The lock is this file's until it is closed.
    Taken,
    /// Another process has it.
    Busy,
    /// The file system knows no locks (NFS without its lock service, Lustre mounted without them).
    Unknown,
}

/// Opens the file of a lock, which is made where there is none. NFS locks only what is opened for writing, too.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    // Before it is opened: a pipe keeps its reader waiting for ever.
    if std::fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "is a pipe, a device or a folder, and a file of this name is needed"));
    }
    File::options().read(true).write(true).create(true).truncate(false).open(path)
}

/// Tries to lock a file, without waiting.
pub(crate) fn attempt(file: &File) -> io::Result<Attempt> {
    match file.try_lock() {
        Ok(()) => Ok(Attempt::Taken),
        Err(TryLockError::WouldBlock) => Ok(Attempt::Busy),
        Err(TryLockError::Error(e)) if is_unknown(&e) => Ok(Attempt::Unknown),
        Err(TryLockError::Error(e)) => Err(e),
    }
}

#[cfg(unix)]
fn is_unknown(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Unsupported
        || error.raw_os_error().is_some_and(|code| [libc::ENOLCK, libc::ENOSYS, libc::EOPNOTSUPP, libc::ENOTSUP].contains(&code))
}

#[cfg(not(unix))]
fn is_unknown(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Unsupported
}
