//! CIFAR's version for Python: the same images in pickles, which are read and not executed.

use std::path::Path;

use super::{CHANNELS, Contents, Layout, PLANE, append_planes, empty_split};
use crate::data::arrays::pickle::{self, Held};
use crate::data::{MAX_FILE_BYTES, Split};
use crate::error::{Error, Result};
use crate::regular_file;

/// The name of a file in this version.
pub fn name(binary: &str) -> &str {
    binary.strip_suffix(".bin").unwrap_or(binary)
}

/// Reads the files in `folder`.
///
/// # Errors
/// [`Error::File`] for a file that is missing or not laid out as these are; [`Error::Io`] if one could not be read.
pub(super) fn read_folder(folder: &Path, layout: &Layout) -> Result<Contents> {
    let contents = |file: &str| {
        let path = folder.join(name(file));
        if !path.exists() {
            return Err(Error::file(path, "is missing, though its folder has other files of the set; get them again"));
        }
        regular_file::read(&path, MAX_FILE_BYTES)
    };
    let (mut train, mut test) = (empty_split(), empty_split());
    for file in layout.train {
        append(&folder.join(name(file)), &contents(file)?, layout, &mut train)?;
    }
    append(&folder.join(name(layout.test)), &contents(layout.test)?, layout, &mut test)?;
    let names = names(&folder.join(layout.meta), &contents(layout.meta)?, layout)?;
    Ok((Some(names), [train, test]))
}

/// What `key` holds in the dictionary of a file.
fn held<'a>(path: &Path, pairs: &[(&[u8], Held<'a>)], key: &str) -> Result<Held<'a>> {
    let found = pairs.iter().find(|pair| pair.0 == key.as_bytes());
    found.map(|pair| pair.1.clone()).ok_or_else(|| Error::file(path, format!("has no {key:?} of that kind in it; get it again")))
}

/// Appends the images of a file to `split`. `path` is what errors name.
///
/// # Errors
/// [`Error::File`] for what is not laid out as these files are, or a label out of range (says image and value).
pub fn append(path: &Path, bytes: &[u8], layout: &Layout, split: &mut Split) -> Result<()> {
    let pairs = pickle::read(path, bytes)?;
    let bad = |problem: String| Error::file(path, problem);
    let Held::Bytes { rows, columns, bytes } = held(path, &pairs, "data")? else {
        return Err(bad("has data that are no array; get it again".into()));
    };
    let labels = match held(path, &pairs, layout.keys[0])? {
        Held::Numbers(labels) => labels,
        _ => return Err(bad(format!("has {} that are no numbers; get it again", layout.keys[0]))),
    };
    if columns != PLANE * CHANNELS || rows != labels.len() || rows == 0 {
        return Err(bad(format!("has {rows}x{columns} bytes and {} labels; expected are 3072 bytes a label; get it again", labels.len())));
    }
    split.images.pixels.reserve_exact(bytes.len());
    split.labels.reserve_exact(rows);
    for (index, (planes, &label)) in bytes.chunks_exact(columns).zip(&labels).enumerate() {
        let class = u32::try_from(label).ok().filter(|&class| (class as usize) < layout.classes);
        let most = layout.classes - 1;
        split.labels.push(class.ok_or_else(|| bad(format!("image {index} has label {label}, but the classes are 0..={most}")))?);
        append_planes(planes, split);
    }
    Ok(())
}

/// Names of the classes.
fn names(path: &Path, bytes: &[u8], layout: &Layout) -> Result<Vec<String>> {
    let pairs = pickle::read(path, bytes)?;
    let Held::Texts(names) = held(path, &pairs, layout.keys[1])? else {
        return Err(Error::file(path, format!("has {} that are no texts; get it again", layout.keys[1])));
    };
    if names.len() != layout.classes {
        return Err(Error::file(path, format!("names {} classes, there are {}", names.len(), layout.classes)));
    }
    Ok(names.into_iter().map(|name| String::from_utf8_lossy(name).replace(char::is_control, "?")).collect())
}
