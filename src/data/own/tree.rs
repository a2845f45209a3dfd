//! Which files a set of the user's own has, of which class and split: folders of classes, or a list.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::table::{self, Row};
use super::{OwnReading, in_order, part_of, told};
use crate::data::hold_out::{drawn_by, lot};
use crate::data::{Part, class_folders};
use crate::error::{Error, Result};
use crate::regular_file;

/// What is taken for a sample.
pub struct Kinds {
    /// What one is called, in the plural.
    pub what: &'static str,
    /// Endings of files that are read, in lower case.
    pub read: &'static [&'static str],
    /// Endings of files that are of the same nature and not read.
    pub not_read: &'static [&'static str],
}

/// The samples of a set, as files.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tree {
    /// The folder that paths begin at.
    pub root: PathBuf,
    /// Names of the classes.
    pub classes: Vec<String>,
    /// Class and path of each sample, training and test.
    pub files: [Vec<(u32, OsString)>; 2],
    /// Files that are there and not read.
    pub not_read: usize,
    /// What to know of further splits and other folders that are not read, a line each.
    pub notes: Vec<String>,
    /// Share of each class that was taken out to test on, where the set has no test split.
    pub share: Option<f64>,
    /// Columns of a list that were asked for, beside each sample; empty rows for folders.
    pub others: [Vec<Vec<Option<String>>>; 2],
}

/// A file before classes have numbers.
struct Sample {
    class: String,
    file: OsString,
    others: Vec<Option<String>>,
}

/// What one split, or the whole set, was found to hold.
#[derive(Default)]
struct Found {
    samples: Vec<Sample>,
    not_read: usize,
    notes: Vec<String>,
}

/// Lists the samples at `place`: a folder with `train` and `val`, `valid` or `test`, each with a folder for each class; a folder with a
/// folder for each class, which is divided as `reading` says; or a CSV file, for which `others` are further columns that are wanted.
///
/// # Errors
/// [`Error::File`] for what is none of these, a class without samples, or one that is tested on alone; [`Error::Config`] naming
/// `val-share` where there is nothing to test on.
pub fn list(place: &Path, kinds: &Kinds, reading: &OwnReading, others: &[&str]) -> Result<Tree> {
    if !place.is_dir() {
        return table(place, kinds, reading, others);
    }
    let folders = class_folders::folders(place)?;
    let mut splits: Vec<(usize, usize, &str)> = Vec::new();
    splits.extend(folders.iter().filter_map(|name| part_of(name).map(|(part, rank)| (part as usize, rank, name.as_str()))));
    splits.sort_unstable();
    let named = |part: Part| splits.iter().filter(move |split| split.0 == part as usize).map(|split| split.2);
    let Some(train) = named(Part::Train).next() else {
        return divided(below(place, "", kinds)?, kinds, place, place, reading);
    };
    let test = named(Part::Test).next();
    let is_beside = |name: &&String| name.as_str() != train && Some(name.as_str()) != test;
    let beside = folders.iter().filter(is_beside).filter(|name| !is_of_runs(&place.join(name)));
    let beside: Vec<PathBuf> = beside.map(|name| PathBuf::from(format!("{name}/"))).collect();
    let notes: Vec<String> = told::note("not read", &beside).into_iter().chain(loose(place, kinds)?).collect();
    let found = below(place, train, kinds)?;
    let tree = match test {
        None => divided(found, kinds, place, place, reading)?,
        Some(test) => {
            let is_annotated = place.join(test).join(ANNOTATIONS).is_file();
            let test = if is_annotated { annotated(place, test)? } else { below(place, test, kinds)? };
            together(found, test, kinds, place, place)?
        }
    };
    Ok(Tree { notes: notes.into_iter().chain(tree.notes).collect(), ..tree })
}

/// Whether a folder is there because training was started here.
fn is_of_runs(folder: &Path) -> bool {
    class_folders::is_run(folder) || class_folders::has_runs(folder)
}

/// A note on samples that lie in no class folder.
fn loose(folder: &Path, kinds: &Kinds) -> Result<Option<String>> {
    let loose = class_folders::files(folder, kinds.read)?.len();
    Ok((loose > 0).then(|| format!("note: not read: {loose} {} beside the folders in {}", kinds.what, folder.display())))
}

/// Tiny-ImageNet's list of what its validation photos are of.
const ANNOTATIONS: &str = "val_annotations.txt";

/// The samples in the class folders of `root/inner`.
fn below(root: &Path, inner: &str, kinds: &Kinds) -> Result<Found> {
    let folder = if inner.is_empty() { root.to_path_buf() } else { root.join(inner) };
    let what = kinds.what;
    let classes = class_folders::folders(&folder)?;
    if classes.is_empty() {
        let loose = class_folders::files(&folder, kinds.read)?.len();
        let problem = if loose > 0 { format!("has {loose} {what} but no class folders") } else { "has no class folders in it".to_string() };
        let layout = format!("expected are {what} in train/CLASS/ and val/CLASS/, or in CLASS/, below --data-dir (docs/data.md)");
        return Err(Error::file(folder, format!("{problem}; {layout}")));
    }
    let look = |class: &String| {
        let place = folder.join(class);
        if class_folders::has_runs(&place) {
            return Ok(class_folders::Below { runs: vec![place], ..Default::default() });
        }
        if class_folders::leads_back(&place, &folder) {
            return Ok(class_folders::Below { loops: vec![place], ..Default::default() });
        }
        class_folders::files_below(&place, kinds.read, kinds.not_read)
    };
    let found: Vec<Result<class_folders::Below>> = classes.par_iter().map(look).collect();
    let (mut all, mut runs, mut loops, mut empty) = (Found::default(), Vec::new(), Vec::new(), Vec::new());
    for (class, found) in classes.iter().zip(found) {
        let found = found?; // of several errors, the first in order
        let reasons = told::reasons(&found.runs, &found.loops);
        runs.extend(found.runs);
        loops.extend(found.loops);
        if found.files.is_empty() {
            // Pictures that are not read are of a class that somebody means; a folder with nothing of the kind is something else.
            if found.others > 0 {
                let problem = format!("has no {what} (.{}){reasons}; put some there, or delete the folder", kinds.read.join(", ."));
                return Err(Error::file(folder.join(class), problem));
            }
            if reasons.is_empty() {
                empty.push(folder.join(class));
            }
            continue;
        }
        let sample = |file: OsString| {
            let file = Path::new(inner).join(class).join(file).into_os_string();
            Sample { class: class.clone(), file, others: Vec::new() }
        };
        all.samples.extend(found.files.into_iter().map(sample));
        all.not_read += found.others;
    }
    if all.samples.is_empty() {
        let (read, reasons) = (kinds.read.join(", ."), told::reasons(&runs, &loops));
        let problem = format!("has no {what} (.{read}) in its folders{reasons}; name the folder of a set by --data-dir");
        return Err(Error::file(folder, problem));
    }
    let notes = [
        told::note("left out, since runs of a training are in it", &runs),
        told::note(&format!("left out, with no {what} in it"), &empty),
        told::note(told::LOOP, &loops),
    ];
    all.notes = notes.into_iter().flatten().chain(loose(&folder, kinds)?).collect();
    Ok(all)
}

/// The validation photos of Tiny-ImageNet, all in one folder.
fn annotated(root: &Path, inner: &str) -> Result<Found> {
    let list = root.join(inner).join(ANNOTATIONS);
    let rows = table::annotations(&list, &regular_file::read(&list, table::MOST_BYTES)?)?;
    let images = Path::new(inner).join("images");
    let sample = |(file, class): (String, String)| Sample { class, file: images.join(file).into_os_string(), others: Vec::new() };
    Ok(Found { samples: rows.into_iter().map(sample).collect(), ..Found::default() })
}

/// The samples of a CSV file; paths in it begin at its folder.
fn table(place: &Path, kinds: &Kinds, reading: &OwnReading, others: &[&str]) -> Result<Tree> {
    let what = kinds.what;
    if !place.exists() {
        return Err(Error::missing(place, format!("does not exist; name a folder of {what}, or a .csv that lists them, by --data-dir")));
    }
    if !place.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv")) {
        return Err(Error::file(place, format!("is neither a folder of {what} nor a .csv that lists them; see docs/data.md")));
    }
    let rows = table::rows(place, &regular_file::read(place, table::MOST_BYTES)?, others)?;
    let root = place.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let taken = rows.iter().filter_map(|row| row.part.filter(|part| part.0 == Part::Test)).map(|part| part.1).min();
    let has_train = rows.iter().any(|row| row.part.is_none_or(|part| part.0 == Part::Train));
    if !has_train {
        return Err(Error::file(place, "has no row with the split train; say which samples to train on"));
    }
    let (mut train, mut test, mut left_out) = (Found::default(), Found::default(), 0);
    for Row { path, label, part, others } in rows {
        let sample = Sample { class: label, file: path.into(), others };
        match part {
            None | Some((Part::Train, _)) => train.samples.push(sample),
            Some((Part::Test, rank)) if Some(rank) == taken => test.samples.push(sample),
            Some(_) => left_out += 1,
        }
    }
    let tree = if taken.is_some() { together(train, test, kinds, place, root)? } else { divided(train, kinds, place, root, reading)? };
    let notes = (left_out > 0).then(|| format!("note: not read: {left_out} rows of another split")).into_iter().collect();
    Ok(Tree { notes, ..tree })
}

/// A set with a test split of its own, at `place`, whose paths begin at `root`.
fn together(train: Found, test: Found, kinds: &Kinds, place: &Path, root: &Path) -> Result<Tree> {
    let mut tree = heap(train, root);
    let numbers: HashMap<&str, u32> = tree.classes.iter().map(String::as_str).zip(0..).collect();
    for Sample { class, file, others } in test.samples {
        let Some(&label) = numbers.get(class.as_str()) else {
            let class = class.chars().take(60).collect::<String>().replace(char::is_control, "?");
            let problem = format!("is of class '{class}', of which there are no {} to train on; see docs/data.md", kinds.what);
            return Err(Error::file(root.join(file), problem));
        };
        tree.files[1].push((label, file));
        tree.others[1].push(others);
    }
    if tree.files[1].is_empty() {
        return Err(Error::file(place, format!("has no {} to test on; see docs/data.md", kinds.what)));
    }
    tree.not_read += test.not_read;
    tree.notes.extend(test.notes);
    Ok(tree)
}

/// All samples to train on, with the classes that they are of.
fn heap(found: Found, root: &Path) -> Tree {
    let classes = in_order(found.samples.iter().map(|sample| sample.class.clone()).collect());
    let numbers: HashMap<&str, u32> = classes.iter().map(String::as_str).zip(0..).collect();
    let label = |class: &str| numbers.get(class).copied().unwrap_or_default(); // each one is there
    let mut tree = Tree { root: root.to_path_buf(), not_read: found.not_read, notes: found.notes, ..Tree::default() };
    for Sample { class, file, others } in found.samples {
        tree.files[0].push((label(&class), file));
        tree.others[0].push(others);
    }
    Tree { classes, ..tree }
}

/// A set of one heap, of which a share of each class is tested on.
fn divided(found: Found, kinds: &Kinds, place: &Path, root: &Path, reading: &OwnReading) -> Result<Tree> {
    let Some(share) = reading.share else {
        let problem =
            format!("{} has no test split: give --val-share 0.2 to test on a fifth of the {} of each class", place.display(), kinds.what);
        return Err(Error::config("val-share", problem));
    };
    let tree = heap(found, root);
    let labels: Vec<u32> = tree.files[0].iter().map(|file| file.0).collect();
    let lots: Vec<u64> = tree.files[0].iter().map(|(_, file)| lot(reading.seed, file.as_encoded_bytes())).collect();
    let held = drawn_by(&labels, tree.classes.len(), share, &lots)?;
    let [all, _] = tree.files;
    let [others, _] = tree.others;
    Ok(Tree { files: parted(all, &held), others: parted(others, &held), share: Some(share), ..tree })
}

/// What is not held, and what is, each in order.
fn parted<T>(all: Vec<T>, held: &[bool]) -> [Vec<T>; 2] {
    let mut parts = [Vec::new(), Vec::new()];
    all.into_iter().zip(held).for_each(|(one, &is_held)| parts[usize::from(is_held)].push(one));
    parts
}
