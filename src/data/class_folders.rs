//! A folder with a folder for each class, as data sets of single files come.

use std::ffi::OsString;
use std::path::Path;

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
