//! Sets of the user's own: how their samples are divided and normalised, whatever they are read from.

pub mod table;
pub(super) mod told;
pub(super) mod tree;

use std::path::{Path, PathBuf};

use super::Part;
use crate::error::{Error, Result};

/// What a user may say of a set of their own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OwnReading {
    /// Share of each class to test on, where the set has no test split.
    pub share: Option<f64>,
    /// Seed of that choice.
    pub seed: u64,
    /// Mean of each channel, in units of the largest value; measured where it is empty.
    pub mean: Vec<f64>,
    /// Standard deviation of each channel, in units of the largest value; measured where it is empty.
    pub std: Vec<f64>,
}

/// What is known of a set of the user's own only.
#[derive(Clone, Debug, PartialEq)]
pub struct Own {
    /// Name of its folder or file.
    pub place: String,
    /// Share of each class that was taken out of one heap to test on; none where the set has a test split.
    pub share: Option<f64>,
    /// Whether mean and standard deviation are those of the set, measured or given.
    pub is_normalised: bool,
    /// What to know of arrays that are there and not read.
    pub note: Option<String>,
    /// The file that its pictures were taken from, already as squares.
    pub squares: Option<PathBuf>,
    /// The files of the test split, in its order, where their pictures lie in memory.
    pub tested: Vec<PathBuf>,
}

impl Own {
    /// The name of what is at `path`.
    pub(super) fn name(path: &Path) -> String {
        // The name of `.` or `..` is that of the folder it means.
        let whole = if path.file_name().is_some() { path.to_path_buf() } else { path.canonicalize().unwrap_or_else(|_| path.into()) };
        let name = whole.file_name().map_or_else(|| whole.display().to_string(), |name| name.to_string_lossy().into_owned());
        name.replace(char::is_control, "?")
    }
}

/// Mean and deviation as the user gives them, for so many channels of the set called `place`; none if they are to be measured.
///
/// # Errors
/// [`Error::Config`] naming `mean` for another number of channels.
pub(super) fn given(reading: &OwnReading, channels: usize, place: &str) -> Result<Option<[Vec<f32>; 2]>> {
    let OwnReading { mean, std, .. } = reading;
    if mean.is_empty() && std.is_empty() {
        return Ok(None);
    }
    if mean.len() != channels || std.len() != channels {
        let problem = format!("{} numbers, but samples of {place} have {channels} channels; give one for each", mean.len());
        return Err(Error::config("mean", problem));
    }
    Ok(Some([mean, std].map(|values| values.iter().map(|&value| value as f32).collect())))
}

/// What a split that is tested on is called; of several, the first one is taken.
pub(super) const TESTS: [&str; 5] = ["val", "valid", "validation", "test", "testing"];

/// The split that a word in a file or the name of a folder means, and its rank: of several that are tested on, the lowest rank is taken.
fn part_of(word: &str) -> Option<(Part, usize)> {
    let word = word.trim().to_ascii_lowercase();
    match word.as_str() {
        "train" | "training" => Some((Part::Train, 0)),
        word => TESTS.iter().position(|test| *test == word).map(|rank| (Part::Test, rank)),
    }
}

/// Classes in their order: by number where all of them are numbers, else by bytes.
fn in_order(mut names: Vec<String>) -> Vec<String> {
    let numbers: Option<Vec<u64>> = names.iter().map(|name| name.parse().ok()).collect();
    match numbers {
        Some(_) => names.sort_by_cached_key(|name| (name.parse::<u64>().unwrap_or(u64::MAX), name.clone())),
        None => names.sort_unstable(),
    }
    names.dedup();
    names
}
