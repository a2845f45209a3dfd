//! Pictures without classes, for a trained network: which files are meant, and each as a square of the size that the network takes.

use std::path::{Path, PathBuf};

use super::class_folders::files_below;
use super::images::square;
use super::own::told;
use super::photos::{EXTENSIONS, NOT_READ, not_read};
use super::{PhotoReading, picture};
use crate::error::{Error, Result};

/// The files that were meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unlabelled {
    /// Those that were named, and those of folders sorted by folder and name, in the order in which they were given; at least one.
    pub files: Vec<PathBuf>,
    /// What to know of files in folders that are left out, a line each.
    pub notes: Vec<String>,
}

/// Files as they are named, and all pictures in folders and below; decodes none.
///
/// # Errors
/// [`Error::Missing`] for a place where nothing is, [`Error::File`] for a folder without pictures, [`Error::Io`] if one could not be read.
pub fn list(places: &[PathBuf]) -> Result<Unlabelled> {
    let (mut files, mut others, mut runs, mut loops) = (Vec::new(), 0, Vec::new(), Vec::new());
    for place in places {
        if !place.is_dir() {
            // A link that leads to nothing says so when it is opened.
            if place.symlink_metadata().is_err() {
                return Err(Error::missing(place, "does not exist; give pictures, or folders of them"));
            }
            files.push(place.clone());
            continue;
        }
        let below = files_below(place, &EXTENSIONS, &NOT_READ)?;
        if below.files.is_empty() {
            let but = if below.others > 0 { format!(" but {}", not_read(below.others)) } else { String::new() };
            let (kinds, reasons) = (EXTENSIONS.join(", ."), told::reasons(&below.runs, &below.loops));
            return Err(Error::file(
                place,
                format!("has no pictures (.{kinds}){but}{reasons}; name another folder, or pictures one by one"),
            ));
        }
        files.extend(below.files.into_iter().map(|file| place.join(file)));
        others += below.others;
        runs.extend(below.runs);
        loops.extend(below.loops);
    }
    let pictures = (others > 0).then(|| format!("note: left out {}; convert them to PNG to use them", not_read(others)));
    let folders = [told::note(told::RUN, &runs), told::note(told::LOOP, &loops)];
    Ok(Unlabelled { files, notes: pictures.into_iter().chain(folders.into_iter().flatten()).collect() })
}

/// A picture, `[size][size][C]`, as pictures are tested on.
///
/// # Errors
/// What [`picture::read`] finds wrong.
pub fn read(path: &Path, reading: &PhotoReading) -> Result<Vec<u8>> {
    let image = picture::read(path)?;
    let (width, height) = image.dimensions();
    Ok(square(image.as_raw(), [height as usize, width as usize], reading))
}
