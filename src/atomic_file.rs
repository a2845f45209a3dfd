//! Files that are either wholly written or not touched at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::streams::{self, Stream};

/// Replaces the file at `path` by `bytes`.
///
/// # Errors
/// As [`write_with`].
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with(path, |out| out.write_all(bytes))
}

/// Replaces the file at `path` by what `fill` writes: into a temporary file of the same folder, synced, then renamed. A link stays, and
/// the file that it leads to is replaced.
///
/// # Errors
/// [`Error::File`] or [`Error::Io`] with the path; the temporary file is then gone and an old file at `path` is as it was.
pub fn write_with(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    match place(path)? {
        Place::File(target) => replace(path, &target, fill),
        Place::Stream(_) => Err(Error::file(path, "is not a regular file: choose another path")),
    }
}

/// Writes a result where the user has asked for it: as [`write`], but into what is no regular file, such as a pipe, a device or what
/// the shell has opened, the bytes go as they are.
///
/// # Errors
/// As [`write`]; [`Error::File`] for an open file that is not this process's, or not open for writing.
pub fn write_result(path: &Path, bytes: &[u8]) -> Result<()> {
    match place(path)? {
        Place::File(target) => replace(path, &target, |out| out.write_all(bytes)),
        Place::Stream(stream) => stream
            .open()
            .and_then(|mut file| file.write_all(bytes))
            .map_err(|source| Error::file(path, format!("cannot be written ({source}): choose another path"))),
    }
}

/// What a result at a path would do to the files that are there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// The file that the bytes go to, whatever links lead there; none for pipes and devices, and where nothing can be written.
    pub file: Option<PathBuf>,
    /// Whether the bytes go as they are into what is open or no regular file.
    pub is_stream: bool,
    /// Whether what that file holds now would be lost: all of it, or what lies behind the place where a shell has opened it.
    pub replaces: bool,
}

/// Looks where a result at `path` would go; nothing is written.
///
/// # Errors
/// As [`write_result`], as far as that is known before.
pub fn touched(path: &Path) -> Result<Touched> {
    Ok(match place(path)? {
        Place::File(target) => Touched { file: whole(&target), is_stream: false, replaces: true },
        Place::Stream(stream) => Touched { replaces: stream.replaces(), file: stream.file(), is_stream: true },
    })
}

/// A path without links in its folder.
fn whole(target: &Path) -> Option<PathBuf> {
    Some(folder_of(target).canonicalize().ok()?.join(target.file_name()?))
}

/// Where bytes go.
enum Place {
    /// A regular file, or a name that is free.
    File(PathBuf),
    /// Anything else that takes bytes. A rename would put a file in the place of it.
    Stream(Stream),
}

/// Links that lead on, as many as Linux follows.
const MAX_LINKS: usize = 40;

/// Follows links by hand: one to an open file of a process is written to as it is open, not by the name that the file once had.
fn place(path: &Path) -> Result<Place> {
    let mut target = path.to_path_buf();
    for _ in 0..=MAX_LINKS {
        if let Some(stream) = streams::opened(&target).map_err(|problem| Error::file(path, problem))? {
            return Ok(Place::Stream(stream));
        }
        match fs::symlink_metadata(&target) {
            Ok(found) if found.is_symlink() => {
                let next = fs::read_link(&target).map_err(|e| refused(path, e))?;
                target = folder_of(&target).join(next);
            }
            Ok(found) if found.is_dir() => return Err(Error::file(path, "is a folder, but a file is to be written: choose another path")),
            Ok(found) if !found.is_file() => return Ok(Place::Stream(Stream::Named(target))),
            _ => return Ok(Place::File(target)),
        }
    }
    Err(Error::file(path, "is a link that leads back to itself: choose another path"))
}

/// Replaces `target`, which errors call `path`.
fn replace(path: &Path, target: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let (temporary, file) = temporary_beside(target).map_err(|e| refused(path, e))?;
    let written = fill_and_sync(file, fill).and_then(|()| fs::rename(&temporary, target));
    if let Err(source) = written {
        let _ = fs::remove_file(&temporary); // the first error is the one to report
        return Err(refused(path, source));
    }
    sync_folder(folder_of(target)).map_err(|e| refused(path, e))
}

fn fill_and_sync(file: File, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 16, file);
    fill(&mut out)?;
    out.into_inner()?.sync_all()
}

/// The error of a write to `path` that the operating system refused, with what to do about it.
pub(crate) fn refused(path: &Path, source: io::Error) -> Error {
    match source.kind() {
        ErrorKind::StorageFull => Error::file(path, "the disk is full; what was there before is unchanged: free some space and run again"),
        ErrorKind::QuotaExceeded => {
            Error::file(path, "your disk quota is used up; what was there before is unchanged: free some space and run again")
        }
        ErrorKind::FileTooLarge => {
            Error::file(path, "the file would be larger than this system allows (see `ulimit -f`); what was there before is unchanged")
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            Error::file(path, format!("cannot be written ({source}): choose another folder, or allow writing to this one"))
        }
        ErrorKind::NotFound => Error::missing(path, "cannot be written: its folder does not exist"),
        _ => Error::io_of_write(path, source),
    }
}

pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

const SUFFIX: &str = ".dsr-tmp";

/// A new file next to `path`, for its new contents. Its name is free even if a killed process of the same id left one behind.
pub(crate) fn temporary_beside(path: &Path) -> io::Result<(PathBuf, File)> {
    let name = path.file_name().ok_or(ErrorKind::InvalidInput)?;
    let process = std::process::id();
    let mut attempt = 0u32;
    loop {
        let mut temporary = std::ffi::OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".{process}-{attempt}{SUFFIX}"));
        let temporary = folder_of(path).join(temporary);
        match OpenOptions::new().write(true).create_new(true).open(&temporary) {
            Err(taken) if taken.kind() == ErrorKind::AlreadyExists => attempt += 1,
            opened => return opened.map(|file| (temporary, file)),
        }
    }
}

/// Removes temporary files that killed processes left in `folder`; nobody else may be writing there.
pub(crate) fn remove_leftovers(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if is_temporary(&entry.file_name().to_string_lossy()) {
            let _ = fs::remove_file(entry.path()); // only tidying up: a leftover does no harm
        }
    }
}

/// Whether a file has a name as [`temporary_beside`] makes them: `.NAME.PROCESS-ATTEMPT.dsr-tmp`.
pub(crate) fn is_temporary(name: &str) -> bool {
    let numbers = |text: &str| text.split_once('-').is_some_and(|(process, attempt)| is_number(process) && is_number(attempt));
    let stem = name.strip_prefix('.').and_then(|name| name.strip_suffix(SUFFIX));
    stem.and_then(|stem| stem.rsplit_once('.')).is_some_and(|(name, end)| !name.is_empty() && numbers(end))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Makes the rename itself survive a power cut.
#[cfg(unix)]
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        // Some network file systems cannot sync a folder; the file is in place all the same.
        Err(e) if matches!(e.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        synced => synced,
    }
}

#[cfg(not(unix))]
pub(crate) fn sync_folder(_folder: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn replaces_and_leaves_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        write(&path, b"old").unwrap();
        write(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(folder.path()), ["a.bin"]);
    }

    #[test]
    fn a_failed_write_keeps_the_old_file() {
        let cases = [
            (ErrorKind::StorageFull, "the disk is full"),
            (ErrorKind::QuotaExceeded, "quota"),
            (ErrorKind::FileTooLarge, "ulimit"),
            (ErrorKind::BrokenPipe, "broken pipe"),
        ];
        for (kind, words) in cases {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("last.safetensors");
            write(&path, b"old").unwrap();
            let error = write_with(&path, |out| {
                out.write_all(&[7; 100_000])?; // more than the buffer: part of it is on disk already
                Err(kind.into())
            })
            .unwrap_err()
            .to_string();
            assert!(error.contains("last.safetensors") && error.contains(words) && !error.contains('\n'), "{error}");
            assert_eq!(fs::read(&path).unwrap(), b"old");
            assert_eq!(names(folder.path()), ["last.safetensors"]);
        }
    }

    #[test]
    fn a_failed_first_write_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new");
        assert!(write_with(&path, |_| Err(ErrorKind::StorageFull.into())).is_err());
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn a_temporary_file_of_a_killed_process_does_not_matter() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        fs::write(folder.path().join(format!(".x.{}-0{SUFFIX}", std::process::id())), b"half").unwrap();
        write(&path, b"whole").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(names(folder.path()).len(), 2);
        for name in ["mine.dsr-tmp", ".x.1-.dsr-tmp", ".1-0.dsr-tmp", ".x.1-0.dsr-tmp.bak"] {
            fs::write(folder.path().join(name), b"of somebody else").unwrap();
        }
        remove_leftovers(folder.path());
        assert_eq!(names(folder.path()), [".1-0.dsr-tmp", ".x.1-.dsr-tmp", ".x.1-0.dsr-tmp.bak", "mine.dsr-tmp", "x"]);
    }

    #[test]
    fn what_cannot_be_replaced_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(write(folder.path(), b"x").unwrap_err().to_string().contains("is a folder"));
        let error = write(&folder.path().join("absent/x"), b"x").unwrap_err().to_string();
        assert!(error.contains("absent/x") && error.contains("does not exist"), "{error}");
        #[cfg(unix)]
        assert!(write(Path::new("/dev/null"), b"x").unwrap_err().to_string().contains("not a regular file"));
        #[cfg(unix)]
        write_result(Path::new("/dev/null"), b"x").unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn a_link_stays_and_leads_to_the_new_file() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("deep")).unwrap();
        symlink("deep/b", at("a")).unwrap();
        symlink("../c", at("deep/b")).unwrap();
        for text in ["first", "second"] {
            // To nothing, then to an earlier file.
            write(&at("a"), text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(at("c")).unwrap(), text);
        }
        assert_eq!((names(folder.path()), names(&at("deep"))), (["a", "c", "deep"].map(String::from).into(), vec!["b".into()]));
        assert!(at("a").is_symlink() && at("deep/b").is_symlink());
        assert_eq!(touched(&at("a")).unwrap(), touched(&at("c")).unwrap());
        symlink("loop", at("loop")).unwrap();
        assert!(write(&at("loop"), b"x").unwrap_err().to_string().contains("leads back to itself"));
        symlink("absent/x", at("nowhere")).unwrap();
        assert!(write(&at("nowhere"), b"x").unwrap_err().to_string().contains("nowhere: cannot be written: its folder does not exist"));
    }
}
