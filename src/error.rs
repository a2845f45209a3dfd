//! One error type: what happened, where, and what to do.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::spelling::one_line;

/// Everything the library can fail with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting is outside what it may be.
    #[error("{}: {}", one_line(name), one_line(problem))]
    Config { name: String, problem: String },
    /// An operation got a shape that it cannot work on.
    #[error("{op}: expected {expected}, got {got}")]
    ShapeMismatch { op: String, expected: String, got: String },
    /// A data or checkpoint file is not what it should be.
    #[error("{}: {}", one_line(path.display()), one_line(problem))]
    File { path: PathBuf, problem: String },
    /// A file or folder that was named is not there.
    #[error("{}: {}", one_line(path.display()), one_line(problem))]
    Missing { path: PathBuf, problem: String },
    /// The operating system refused a file.
    #[error("{}: {source}{hint}", one_line(path.display()))]
    Io { path: PathBuf, r#source: std::io::Error, hint: &'static str }, // written so, it is not told a second time as the cause
    /// A CUDA device, its driver or a kernel failed.
    #[error("{device}: {problem}")]
    Device { device: String, problem: String },
    /// Another process that shares the run is gone, late, or at something else.
    #[error("rank {rank}: {problem}")]
    Ranks { rank: usize, problem: String },
    /// Training produced a value that is no number.
    #[error("training is not finite at step {step}: the first bad value is in {layer}: lower --lr; {}", kept(checkpoint))]
    NotFinite { step: u64, layer: String, checkpoint: Option<PathBuf> },
}

const DEAD_LINK: &str = "; it is a link that leads to nothing: mend it, or name another";

/// Whether a link leads to nothing, where the system says that there is nothing, or that a name is taken.
fn is_dead_link(path: &Path, source: &std::io::Error) -> bool {
    matches!(source.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists) && path.is_symlink() && !path.exists()
}

/// What to do about a file that the system did not let be read, where that is known.
fn reading_hint(path: &Path, source: &std::io::Error) -> &'static str {
    match source.kind() {
        _ if is_dead_link(path, source) => DEAD_LINK,
        _ if is_circle(source) => "; a link leads back to itself: mend it, or name another",
        ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidFilename => "; check the path",
        ErrorKind::PermissionDenied => "; allow reading it, or name another",
        // The rest is what became of the disk, or of a file of the system's that is none.
        _ if source.raw_os_error().is_some() => "; get it again, or name another",
        _ => "",
    }
}

/// Whether following links came to no end. The standard library has no stable name for this.
#[cfg(unix)]
fn is_circle(source: &std::io::Error) -> bool {
    source.raw_os_error() == Some(libc::ELOOP)
}

#[cfg(not(unix))]
fn is_circle(_source: &std::io::Error) -> bool {
    false
}

fn kept(checkpoint: &Option<PathBuf>) -> String {
    checkpoint
        .as_ref()
        .map_or("no checkpoint was written yet".into(), |path| format!("the last good checkpoint is kept: {}", one_line(path.display())))
}

/// Result of the library.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A setting with its problem.
    pub fn config(name: impl Into<String>, problem: impl Into<String>) -> Self {
        Error::Config { name: name.into(), problem: problem.into() }
    }

    /// A file with its problem.
    pub fn file(path: impl Into<PathBuf>, problem: impl Into<String>) -> Self {
        Error::File { path: path.into(), problem: problem.into() }
    }

    /// A file or folder that is not there.
    pub fn missing(path: impl Into<PathBuf>, problem: impl Into<String>) -> Self {
        Error::Missing { path: path.into(), problem: problem.into() }
    }

    /// A place that should be a folder and is none, or is not there at all; `hint` says what belongs there.
    pub fn no_folder(path: impl Into<PathBuf>, hint: impl std::fmt::Display) -> Self {
        Error::wrong_kind(path, "is no folder", hint)
    }

    /// A place with something else than it should have: `problem` says what, unless nothing is there; `hint` says what belongs there.
    pub fn wrong_kind(path: impl Into<PathBuf>, problem: &str, hint: impl std::fmt::Display) -> Self {
        let path = path.into();
        match path.try_exists() {
            Ok(false) => Error::missing(path, format!("does not exist; {hint}")),
            Ok(true) | Err(_) => Error::file(path, format!("{problem}; {hint}")),
        }
    }

    /// A shape that does not fit.
    pub fn shape(op: impl Into<String>, expected: impl std::fmt::Debug, got: impl std::fmt::Debug) -> Self {
        Error::ShapeMismatch { op: op.into(), expected: format!("{expected:?}"), got: format!("{got:?}") }
    }

    /// A device with its problem.
    pub fn device(device: impl Into<String>, problem: impl Into<String>) -> Self {
        Error::Device { device: device.into(), problem: problem.into() }
    }

    /// Whether a file or folder that was named is not there.
    pub fn is_missing(&self) -> bool {
        match self {
            Error::Missing { .. } => true,
            Error::Io { source, .. } => source.kind() == ErrorKind::NotFound,
            _ => false,
        }
    }

    /// Adds the path, and what to do, to an error of the system about what was to be read. What to do is what holds now, not when the error
    /// is shown.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Error::Io { hint: reading_hint(&path, &source), path, source }
    }

    /// The same about what was to be written, of which the system's own words say what to do, but for a link to nothing.
    pub(crate) fn io_of_write(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        let path = path.into();
        Error::Io { hint: if is_dead_link(&path, &source) { DEAD_LINK } else { "" }, path, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn what_to_do_is_told_as_it_was_when_it_happened() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("nothing", &link).unwrap();
        let missing = || std::io::Error::from(ErrorKind::NotFound);
        let errors = [Error::io(&link)(missing()), Error::io_of_write(&link, ErrorKind::AlreadyExists.into())];
        std::fs::remove_file(&link).unwrap();
        assert!(errors.iter().all(|error| error.to_string().ends_with(DEAD_LINK)), "{errors:?}");
        assert!(Error::io(&link)(missing()).to_string().ends_with("; check the path"));
        // Of what is to be written nobody has to allow the reading.
        let denied = || std::io::Error::from(ErrorKind::PermissionDenied);
        assert!(Error::io(&link)(denied()).to_string().contains("allow reading it"));
        assert!(!Error::io_of_write(&link, denied()).to_string().contains("reading"));
    }

    #[test]
    fn every_name_is_one_line() {
        let name = "a\nb";
        for error in [Error::config(name, name), Error::file(name, name), Error::missing(name, name)] {
            assert_eq!(error.to_string(), "a\\nb: a\\nb");
        }
    }
}
