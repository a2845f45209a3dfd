//! A folder with a folder for each class, as data sets of single files come.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Names of the folders in `folder`, sorted by bytes; hidden ones do not count.
///
/// # Errors
/// [`Error::Io`] if it could not be read, [`Error::File`] for a name that is no text.
pub(super) fn folders(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        let entry = entry.map_err(Error::io(folder))?;
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if hidden || !entry.path().is_dir() {
            continue; // is_dir follows links, of which subsets are often made
        }
        let name = entry.file_name().into_string();
        names.push(name.map_err(|name| Error::file(folder.join(name), "has a name that is no UTF-8; rename it"))?);
    }
    names.sort_unstable();
    Ok(names)
}

/// Names of the files in `folder` that end in one of `extensions` (lower case, any case matches), sorted by bytes; hidden ones do
/// not count.
///
/// # Errors
/// [`Error::Io`] if it could not be read.
pub(super) fn files(folder: &Path, extensions: &[&str]) -> Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        let name = entry.map_err(Error::io(folder))?.file_name();
        let extension = Path::new(&name).extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
        if extensions.contains(&extension.as_str()) && !name.as_encoded_bytes().starts_with(b".") {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// What lies in a folder and the folders below it.
#[derive(Default)]
pub(super) struct Below {
    /// Files, as paths from the folder, sorted by their folder and then by name.
    pub files: Vec<OsString>,
    /// How many files end in something else that was asked for.
    pub others: usize,
}

/// The files in `folder` and below it that end in one of `extensions`, and how many end in one of `others`, as [`files`] has them.
///
/// # Errors
/// [`Error::Io`] if it could not be read, [`Error::File`] if folders do not come to an end.
pub(super) fn files_below(folder: &Path, extensions: &[&str], others: &[&str]) -> Result<Below> {
    const DEEPEST: usize = 16;
    let mut below = Below::default();
    let mut folders = vec![PathBuf::new()];
    let mut files: Vec<(PathBuf, OsString)> = Vec::new();
    while let Some(inner) = folders.pop() {
        let place = folder.join(&inner);
        if inner.components().count() > DEEPEST {
            return Err(Error::file(place, format!("lies more than {DEEPEST} folders deep; is there a link to a folder above it?")));
        }
        for entry in std::fs::read_dir(&place).map_err(Error::io(&place))? {
            let entry = entry.map_err(Error::io(&place))?;
            let name = entry.file_name();
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let extension = Path::new(&name).extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
            let kind = entry.file_type().map_err(Error::io(entry.path()))?;
            if !kind.is_dir() && extensions.contains(&extension.as_str()) {
                files.push((inner.clone(), name));
            } else if !kind.is_dir() && others.contains(&extension.as_str()) {
                below.others += 1;
            } else if kind.is_dir() || kind.is_symlink() && entry.path().is_dir() {
                folders.push(inner.join(name));
            }
        }
    }
    files.sort_unstable_by(|a, b| (a.0.as_os_str(), &a.1).cmp(&(b.0.as_os_str(), &b.1)));
    below.files = files.into_iter().map(|(inner, name)| inner.join(name).into_os_string()).collect();
    Ok(below)
}
