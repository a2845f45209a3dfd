//! Where results go that replace no file: pipes, devices, and what the shell has opened for this program.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use crate::atomic_file::folder_of;

/// What takes bytes as they come.
pub(crate) enum Stream {
    /// A pipe or a device.
    Named(PathBuf),
    /// An open file of this process, with the position that its other output has.
    Opened(Opened),
}

/// An open file of this process that can be written to.
pub(crate) struct Opened {
    number: i32,
    /// The regular file that it is, by the name that it has now.
    file: Option<PathBuf>,
    /// Whether bytes come in the place of others.
    replaces: bool,
}

impl Stream {
    /// The regular file that the bytes end up in.
    pub fn file(self) -> Option<PathBuf> {
        match self {
            Stream::Named(_) => None,
            Stream::Opened(opened) => opened.file,
        }
    }

    /// Whether bytes come in the place of others.
    pub fn replaces(&self) -> bool {
        matches!(self, Stream::Opened(Opened { replaces: true, .. }))
    }

    /// Opens it for writing.
    pub fn open(self) -> io::Result<File> {
        match self {
            Stream::Named(path) => OpenOptions::new().write(true).open(path),
            Stream::Opened(opened) => copied(opened.number),
        }
    }
}

/// A second handle of an open file: opened anew by its name it would have a position of its own, and what the shell writes next would come
/// in the place of the result.
#[cfg(unix)]
fn copied(number: i32) -> io::Result<File> {
    // SAFETY: the number is lent to the one call that copies it, and is no -1; of a file that was closed meanwhile that call says so.
    unsafe { std::os::fd::BorrowedFd::borrow_raw(number) }.try_clone_to_owned().map(File::from)
}

#[cfg(not(unix))]
fn copied(_number: i32) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

/// The open file that a path means by its number, as `/proc/self/fd/1` does, which `/dev/stdout` and `/dev/fd/1` are links to; none for
/// other paths. The error says why nothing can be written there.
#[cfg(unix)]
pub(crate) fn opened(path: &Path) -> Result<Option<Stream>, String> {
    let number = path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok()).and_then(|number| i32::try_from(number).ok());
    let (Some(number), Ok(folder)) = (number, folder_of(path).canonicalize()) else { return Ok(None) };
    if !folder.starts_with("/proc") || !folder.ends_with("fd") {
        return Ok(None);
    }
    let hint = format!("open it for writing (such as by {number}>FILE), or name a file");
    let is_own = folder.starts_with(Path::new("/proc").join(std::process::id().to_string()));
    let found = fs::metadata(path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound if is_own => format!("is not open: {hint}"),
        _ => format!("is no open file that can be written ({e}): name a file"),
    })?;
    if found.is_dir() {
        return Err("is a folder, but a file is to be written: choose another path".into());
    }
    if !is_own {
        let problem = "is a file that another process has open: name the file itself";
        return if found.is_file() { Err(problem.into()) } else { Ok(Some(Stream::Named(path.to_path_buf()))) };
    }
    let about =
        fs::read_to_string(format!("/proc/self/fdinfo/{number}")).map_err(|e| format!("says not how it is open ({e}): name a file"))?;
    let value = |name: &str| about.lines().find_map(|line| line.strip_prefix(name)).map(str::trim).unwrap_or_default();
    let flags = i32::from_str_radix(value("flags:"), 8).map_err(|_| "says not how it is open: name a file")?;
    if flags & libc::O_ACCMODE == libc::O_RDONLY {
        return Err(format!("is open for reading only: {hint}"));
    }
    let is_before_end = value("pos:").parse::<u64>().is_ok_and(|position| position < found.len());
    let replaces = found.is_file() && flags & libc::O_APPEND == 0 && is_before_end;
    let file = if found.is_file() { path.canonicalize().ok() } else { None };
    Ok(Some(Stream::Opened(Opened { number, file, replaces })))
}

#[cfg(not(unix))]
pub(crate) fn opened(_path: &Path) -> Result<Option<Stream>, String> {
    Ok(None)
}
