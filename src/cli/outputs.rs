//! Files that a command writes: never over a checkpoint, a file of a run, or data.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::atomic_file;
use crate::error::{Error, Result};
use crate::training::run_folder::{BEST, CONFIG, CSV, CURVES, JSONL, LAST, LOCK, THRESHOLDS};
use crate::training::tensorboard::EVENTS;

/// Endings by which other programs take a file for what it is.
const FORMATS: [(&[&str], &str); 9] = [
    (&["csv"], "CSV"),
    (&["safetensors"], "safetensors"),
    (&["pt", "pth", "ckpt", "pkl", "pickle"], "a pickle, such as PyTorch's"),
    (&["npz", "npy"], "NumPy's arrays"),
    (&["json", "jsonl"], "JSON"),
    (&["onnx"], "ONNX"),
    (&["h5", "hdf5"], "HDF5"),
    (&["parquet", "feather", "arrow"], "a table of Arrow"),
    (&["xlsx", "xls", "ods"], "a spreadsheet"),
];

/// Refuses a name whose ending means another format than the one that is written.
///
/// # Errors
/// [`Error::Config`] naming the flag, the file and a name for it.
pub fn check_ending(flag: &str, path: &Path, writes: &str) -> Result<()> {
    let Some(ending) = path.extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase) else { return Ok(()) };
    let Some((endings, what)) = FORMATS.iter().find(|(endings, _)| endings.contains(&ending.as_str())) else { return Ok(()) };
    if endings.contains(&writes) {
        return Ok(());
    }
    let fitting = path.with_extension(writes);
    let problem = format!("{}: .{ending} means {what}, and what is written is {writes}: call it {}", path.display(), fitting.display());
    Err(Error::config(flag, problem))
}

/// Refuses to write results to `path`, as the flag `flag` asks, where a checkpoint or a file of a run is.
///
/// # Errors
/// [`Error::Config`] naming the flag and the file.
pub fn check(flag: &str, path: &Path) -> Result<()> {
    let is_checkpoint = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("safetensors")) && path.exists();
    if is_checkpoint {
        return Err(Error::config(flag, format!("{} is a checkpoint, which would be lost; give another name", path.display())));
    }
    check_run(flag, path)
}

/// Refuses to replace a file that does not begin as what the command writes, such as a file of the data set.
///
/// # Errors
/// [`Error::Config`] naming the flag and the file.
pub fn check_earlier(flag: &str, path: &Path, begins: &[u8]) -> Result<()> {
    let is_earlier = || {
        let mut first = vec![0; begins.len()];
        File::open(path).and_then(|mut file| file.read_exact(&mut first)).is_ok() && first == begins
    };
    if !atomic_file::is_stream(path) && path.is_file() && path.metadata().is_ok_and(|about| about.len() > 0) && !is_earlier() {
        let problem = format!("{} is there already, and is no earlier result of this; give another name", path.display());
        return Err(Error::config(flag, problem));
    }
    Ok(())
}

/// Refuses several results in one file: each flag with its path. Streams may take more than one.
///
/// # Errors
/// [`Error::Config`] naming both flags and the file.
pub fn check_apart(flags: &[(&str, Option<&Path>)]) -> Result<()> {
    let targets: Vec<(&str, &Path, PathBuf)> =
        flags.iter().filter_map(|&(flag, path)| Some((flag, path?, atomic_file::target(path?)?))).collect();
    for (index, (flag, path, target)) in targets.iter().enumerate() {
        if let Some((other, ..)) = targets[..index].iter().find(|(.., earlier)| earlier == target) {
            let problem = format!("{} is the file of --{other}, too, and one of the two would be lost; give another name", path.display());
            return Err(Error::config(*flag, problem));
        }
    }
    Ok(())
}

/// Refuses to replace one of `files`, those of a data set, and anything else below its folder `place`. Only a file in that folder itself with
/// the `usual` name of what is written may be replaced.
///
/// # Errors
/// [`Error::Config`] naming the flag and the file.
pub fn check_data(flag: &str, path: &Path, place: Option<&Path>, usual: &str, mut files: impl Iterator<Item = PathBuf>) -> Result<()> {
    let whole = |path: &Path| path.canonicalize().ok();
    let Some(replaced) = whole(path) else { return Ok(()) };
    let is_of_set = place.and_then(whole).is_some_and(|place| replaced.starts_with(&place) && replaced != place.join(usual));
    if is_of_set || files.any(|file| whole(&file).as_ref() == Some(&replaced)) {
        let problem = format!("{} is a file of the data set, which would be lost; give another name", path.display());
        return Err(Error::config(flag, problem));
    }
    Ok(())
}

/// The same of a network that `command` writes: it may replace what the command has written there before, as `is_own` tells.
///
/// # Errors
/// [`Error::Config`] naming the flag and the file.
pub fn check_network(flag: &str, path: &Path, command: &str, is_own: fn(&Path) -> bool) -> Result<()> {
    check_run(flag, path)?;
    if path.symlink_metadata().is_ok() && !is_own(path) {
        let problem = format!("{} is there already, and dsr {command} has not written it; give another name", path.display());
        return Err(Error::config(flag, problem));
    }
    Ok(())
}

/// Refuses a file of a run.
///
/// # Errors
/// [`Error::Config`] naming the flag and the file.
fn check_run(flag: &str, path: &Path) -> Result<()> {
    // Where a link leads to.
    let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let is_run = [LAST, BEST].iter().any(|name| folder.join(name).exists());
    let is_own = [LAST, BEST, CONFIG, CSV, JSONL, THRESHOLDS, CURVES, LOCK].contains(&name.as_ref()) || name.starts_with(EVENTS);
    if is_run && is_own {
        return Err(Error::config(flag, format!("{} belongs to the run in its folder; give another name", path.display())));
    }
    Ok(())
}
