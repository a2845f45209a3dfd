//! One error type: what happened, where, and what to do.

use std::path::{Path, PathBuf};

use crate::spelling::one_line;

/// Everything the library can fail with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting is outside what it may be.
    #[error("{name}: {problem}")]
    Config { name: String, problem: String },
    /// An operation got a shape that it cannot work on.
    #[error("{op}: expected {expected}, got {got}")]
    ShapeMismatch { op: String, expected: String, got: String },
    /// A data or checkpoint file is not what it should be.
    #[error("{}: {problem}", one_line(path.display()))]
    File { path: PathBuf, problem: String },
    /// A file or folder that was named is not there.
    #[error("{}: {problem}", one_line(path.display()))]
    Missing { path: PathBuf, problem: String },
    /// The operating system refused a file.
    #[error("{}: {source}{}", one_line(path.display()), hint(path, source))]
    Io { path: PathBuf, r#source: std::io::Error }, // written so, it is not told a second time as the cause
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

/// What to do about an error of the system, where that is known.
fn hint(path: &Path, source: &std::io::Error) -> &'static str {
    use std::io::ErrorKind;
    let is_dead_link = || path.is_symlink() && !path.exists();
    match source.kind() {
        ErrorKind::NotFound | ErrorKind::AlreadyExists if is_dead_link() => {
            "; it is a link that leads to nothing: mend it, or name another"
        }
        ErrorKind::NotFound => "; check the path",
        ErrorKind::PermissionDenied => "; allow reading it, or name another",
        _ => "",
    }
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
            Error::Io { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
            _ => false,
        }
    }

    /// Adds the path to an operating-system error.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Error::Io { path, source }
    }
}
