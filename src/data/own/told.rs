//! What a user should know of files and folders that are not read, or are read twice, a line each.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::data::Part;

/// Names that a note has at most.
const SHOWN: usize = 5;

/// Why a folder was not looked into: it is that of a run, or of several.
pub const RUN: &str = "not read, with a training run in it";
/// Why a link was not followed.
pub const LOOP: &str = "not followed, a link to a folder above it";

/// Some paths, the first few by name.
pub fn named(paths: &[PathBuf]) -> String {
    let shown = paths.iter().take(SHOWN).map(|path| path.display().to_string().replace(char::is_control, "?"));
    let more = paths.len().saturating_sub(SHOWN);
    shown.chain((more > 0).then(|| format!("and {more} more"))).collect::<Vec<_>>().join(", ")
}

/// A note on some paths, if there are any.
pub fn note(about: &str, paths: &[PathBuf]) -> Option<String> {
    (!paths.is_empty()).then(|| format!("note: {about}: {}", named(paths)))
}

/// The same of folders of runs and of links that lead back, behind what is wrong with a folder in which there is nothing else.
pub fn reasons(runs: &[PathBuf], loops: &[PathBuf]) -> String {
    let reason = |about: &str, paths: &[PathBuf]| if paths.is_empty() { String::new() } else { format!("; {about}: {}", named(paths)) };
    reason(RUN, runs) + &reason(LOOP, loops)
}

/// A file, or a part of its time.
pub struct Used {
    pub part: Part,
    pub path: PathBuf,
    /// Microseconds of its clock.
    pub when: Range<i64>,
}

/// Says which files, or overlapping parts of them, are in both splits, and which are more than once in one, whatever they are called there.
pub fn twice(samples: &[Used], what: &str) -> Vec<String> {
    let files: Vec<Option<(u64, u64)>> = samples.par_iter().map(|sample| file(&sample.path)).collect();
    let mut places: HashMap<(u64, u64), Vec<usize>> = HashMap::new();
    for (place, file) in files.into_iter().enumerate() {
        if let Some(file) = file {
            places.entry(file).or_default().push(place);
        }
    }
    let (mut both, mut again) = (Vec::new(), Vec::new());
    for mut group in places.into_values().filter(|group| group.len() > 1) {
        group.sort_by_key(|&place| (samples[place].when.start, place));
        let mut ends = [i64::MIN; 2]; // up to where each split has used the file
        for place in group {
            let Used { part, when, .. } = &samples[place];
            let (own, other) = (*part as usize, 1 - *part as usize);
            if when.start < ends[other] {
                both.push(place);
            } else if when.start < ends[own] {
                again.push(place);
            }
            ends[own] = ends[own].max(when.end);
        }
    }
    let first =
        |places: &[usize]| places.iter().min().map(|&place| samples[place].path.display().to_string().replace(char::is_control, "?"));
    let both_note = first(&both)
        .map(|name| format!("note: {} {what} to test on are trained on, too, so a test says too much; the first: {name}", both.len()));
    let again_note = first(&again).map(|name| format!("note: {} {what} are in the set more than once; the first: {name}", again.len()));
    both_note.into_iter().chain(again_note).collect()
}

/// What tells a file from every other, also under another name; none where the system does not say.
#[cfg(unix)]
fn file(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    path.metadata().ok().map(|about| (about.dev(), about.ino()))
}

#[cfg(not(unix))]
fn file(_: &Path) -> Option<(u64, u64)> {
    None
}
