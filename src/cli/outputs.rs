//! Files that a command writes: never over a checkpoint, a file of a run, or data.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::atomic_file::{self, Touched};
use crate::error::{Error, Result};
use crate::training::run_folder::{BEST, CONFIG, CSV, CURVES, JSONL, LAST, LOCK, THRESHOLDS};
use crate::training::tensorboard::EVENTS;

/// Endings by which other programs take a file for what it is.
const FORMATS: [(&[&str], &str); 17] = [
    (&["csv"], "CSV"),
    (&["tsv"], "a table parted by tabs"),
    (&["safetensors"], "safetensors"),
    (&["pt", "pth", "ckpt", "pkl", "pickle"], "a pickle, such as PyTorch's"),
    (&["npz", "npy"], "NumPy's arrays"),
    (&["json"], "JSON"),
    (&["jsonl", "ndjson"], "JSON line by line"),
    (&["html", "htm"], "a web page"),
    (&["png"], "a PNG picture"),
    (&["jpg", "jpeg"], "a JPEG picture"),
    (&["gif", "webp", "bmp", "tif", "tiff", "svg"], "another kind of picture"),
    (&["pdf"], "PDF"),
    (&["onnx"], "ONNX"),
    (&["h5", "hdf5"], "HDF5"),
    (&["parquet", "feather", "arrow"], "a table of Arrow"),
    (&["xlsx", "xls", "ods"], "a spreadsheet"),
    (&["gz", "bz2", "xz", "zst", "zip", "tar"], "an archive"),
];

/// A result that a command writes.
#[derive(Clone, Copy, Debug)]
pub struct Written {
    /// The flag that says where.
    pub flag: &'static str,
    /// The ending of such files.
    pub ending: &'static str,
    /// How each of them begins.
    pub begins: &'static [u8],
}

impl Written {
    /// Refuses to write it to `path` where a checkpoint, a file of a run, or anything but an earlier result of the kind would be lost, and
    /// where the name means something else.
    ///
    /// # Errors
    /// [`Error::Config`] naming the flag and the file; [`Error::File`] where nothing can be written.
    pub fn check(&self, path: &Path) -> Result<()> {
        let touched = atomic_file::touched(path)?;
        check_checkpoint(self.flag, path, &touched)?;
        check_run(self.flag, path, &touched)?;
        self.check_earlier(path, &touched)?;
        check_ending(self.flag, path, &touched, self.ending)
    }

    /// Refuses to replace a file that does not begin as what the command writes, such as a file of the data set.
    fn check_earlier(&self, path: &Path, touched: &Touched) -> Result<()> {
        let is_earlier = |path: &Path| {
            let mut first = vec![0; self.begins.len()];
            File::open(path).and_then(|mut file| file.read_exact(&mut first)).is_ok() && first == self.begins
        };
        let has_bytes = |path: &&PathBuf| path.metadata().is_ok_and(|about| about.len() > 0);
        let found = touched.file.as_ref().filter(|_| touched.replaces).filter(has_bytes);
        if found.is_some_and(|file| !is_earlier(file)) {
            let problem = format!("{} is there already, and is no earlier result of this; give another name", path.display());
            return Err(Error::config(self.flag, problem));
        }
        Ok(())
    }
}

/// Refuses a name whose ending means another format than the one that is written, and a link to such a file. What is open, a pipe or a
/// device has no ending that says anything.
fn check_ending(flag: &str, path: &Path, touched: &Touched, writes: &str) -> Result<()> {
    if touched.is_stream {
        return Ok(());
    }
    for name in std::iter::once(path).chain(touched.file.as_deref()) {
        let Some(ending) = name.extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase) else { continue };
        let Some((endings, what)) = FORMATS.iter().find(|(endings, _)| endings.contains(&ending.as_str())) else { continue };
        if !endings.contains(&writes) {
            let fitting = name.with_extension(writes);
            let problem =
                format!("{}: .{ending} means {what}, and what is written is {writes}: call it {}", name.display(), fitting.display());
            return Err(Error::config(flag, problem));
        }
    }
    Ok(())
}

/// Refuses a checkpoint.
fn check_checkpoint(flag: &str, path: &Path, touched: &Touched) -> Result<()> {
    let is_checkpoint = |file: &PathBuf| file.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("safetensors")) && file.exists();
    if touched.file.as_ref().is_some_and(is_checkpoint) {
        return Err(Error::config(flag, format!("{} is a checkpoint, which would be lost; give another name", path.display())));
    }
    Ok(())
}

/// Refuses several results in one file: each flag with its path. What is open may take more than one.
///
/// # Errors
/// [`Error::Config`] naming both flags and the file; [`Error::File`] where nothing can be written.
pub fn check_apart(flags: &[(&str, Option<&Path>)]) -> Result<()> {
    let mut earlier: Vec<(&str, Touched)> = Vec::new();
    for &(flag, path) in flags {
        let Some(path) = path else { continue };
        let touched = atomic_file::touched(path)?;
        let is_same = |other: &Touched| other.file.is_some() && other.file == touched.file && !(other.is_stream && touched.is_stream);
        if let Some((other, _)) = earlier.iter().find(|(_, other)| is_same(other)) {
            let problem = format!("{} is the file of --{other}, too, and one of the two would be lost; give another name", path.display());
            return Err(Error::config(flag, problem));
        }
        earlier.push((flag, touched));
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
    let Some(replaced) = atomic_file::touched(path)?.file.filter(|file| file.exists()) else { return Ok(()) };
    let is_of_set = place.and_then(whole).is_some_and(|place| replaced.starts_with(&place) && replaced != place.join(usual));
    if is_of_set || files.any(|file| whole(&file).as_ref() == Some(&replaced)) {
        let problem = format!("{} is a file of the data set, which would be lost; give another name", path.display());
        return Err(Error::config(flag, problem));
    }
    Ok(())
}

/// Refuses to replace a file by a network that `command` writes, unless the command has written it before, as `is_own` tells.
///
/// # Errors
/// [`Error::Config`] naming the flag and the file; [`Error::File`] where nothing can be written.
pub fn check_network(flag: &str, path: &Path, command: &str, is_own: fn(&Path) -> bool) -> Result<()> {
    let is_foreign = path.symlink_metadata().is_ok() && !is_own(path);
    let touched = match atomic_file::touched(path) {
        Err(_) if is_foreign => Touched::default(), // what it is does not matter
        touched => touched?,
    };
    check_run(flag, path, &touched)?;
    if is_foreign {
        let problem = format!("{} is there already, and dsr {command} has not written it; give another name", path.display());
        return Err(Error::config(flag, problem));
    }
    check_ending(flag, path, &touched, "safetensors")
}

/// Refuses a file of a run, also one that is not there yet.
fn check_run(flag: &str, path: &Path, touched: &Touched) -> Result<()> {
    let Some(file) = &touched.file else { return Ok(()) };
    let folder = file.parent().unwrap_or(Path::new("/"));
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let is_run = [LAST, BEST].iter().any(|name| folder.join(name).exists());
    let is_own = [LAST, BEST, CONFIG, CSV, JSONL, THRESHOLDS, CURVES, LOCK].contains(&name.as_ref()) || name.starts_with(EVENTS);
    if is_run && is_own {
        return Err(Error::config(flag, format!("{} belongs to the run in its folder; give another name", path.display())));
    }
    Ok(())
}
