//! A folder with a folder for each class, as data sets of single files come.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::training::run_folder::{BEST, CONFIG, LAST};

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

/// Whether a folder is that of a training run, which is no data however it came to lie among them.
pub(super) fn is_run(folder: &Path) -> bool {
    folder.join(CONFIG).is_file() && [LAST, BEST].iter().any(|checkpoint| folder.join(checkpoint).is_file())
}

/// Whether a folder has the name that training gives to the folder of its runs, and has some in it.
pub(super) fn has_runs(folder: &Path) -> bool {
    let inside = || std::fs::read_dir(folder).into_iter().flatten().flatten();
    folder.file_name().is_some_and(|name| name == "runs") && inside().any(|entry| is_run(&entry.path()))
}

/// Whether a link at `path`, in the folder `here`, leads to that folder or to one above it, and so to itself again.
pub(super) fn leads_back(path: &Path, here: &Path) -> bool {
    path.canonicalize().is_ok_and(|target| here.canonicalize().is_ok_and(|here| here.starts_with(target)))
}

/// What lies in a folder and the folders below it.
#[derive(Default)]
pub(super) struct Below {
    /// Files, as paths from the folder, sorted by their folder and then by name.
    pub files: Vec<OsString>,
    /// How many files end in something else that was asked for.
    pub others: usize,
    /// Folders of runs, which were not looked into.
    pub runs: Vec<PathBuf>,
    /// Links to a folder above them, which were not followed.
    pub loops: Vec<PathBuf>,
}

/// The files in `folder` and below it that end in one of `extensions`, and how many end in one of `others`, as [`files`] has them.
///
/// # Errors
/// [`Error::Io`] if it could not be read, [`Error::File`] for folders that lie too deep.
pub(super) fn files_below(folder: &Path, extensions: &[&str], others: &[&str]) -> Result<Below> {
    const DEEPEST: usize = 16;
    let mut below = Below::default();
    // Each with the folders that links were followed from on the way there.
    let mut folders = vec![(PathBuf::new(), Vec::new())];
    let mut files: Vec<(PathBuf, OsString)> = Vec::new();
    while let Some((inner, passed)) = folders.pop() {
        let place = if inner.as_os_str().is_empty() { folder.to_path_buf() } else { folder.join(&inner) };
        if is_run(&place) {
            below.runs.push(place);
            continue;
        }
        if inner.components().count() > DEEPEST {
            return Err(Error::file(place, format!("lies more than {DEEPEST} folders deep; move it up")));
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
            } else if kind.is_dir() {
                folders.push((inner.join(name), passed.clone()));
            } else if kind.is_symlink() && entry.path().is_dir() {
                let path = entry.path();
                if passed.iter().chain([&place]).any(|here| leads_back(&path, here)) {
                    below.loops.push(path);
                } else {
                    folders.push((inner.join(name), passed.iter().cloned().chain([place.clone()]).collect()));
                }
            }
        }
    }
    files.sort_unstable_by(|a, b| (a.0.as_os_str(), &a.1).cmp(&(b.0.as_os_str(), &b.1)));
    below.loops.sort_unstable(); // the system gives names in any order
    below.runs.sort_unstable();
    below.files = files.into_iter().map(|(inner, name)| inner.join(name).into_os_string()).collect();
    Ok(below)
}
