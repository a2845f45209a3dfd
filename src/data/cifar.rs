//! CIFAR-10 and CIFAR-100, binary version: records of one or two label bytes and 32×32 pixels as three planes R, G, B.
//! Read from a folder, or from the archive as downloaded; the version for Python is read from its folder.

use std::io::{BufReader, Cursor, ErrorKind, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use super::{Images, MAX_FILE_BYTES, Split};
use crate::error::{Error, Result};
use crate::regular_file;

pub mod python;

const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;
const CHANNELS: usize = 3;

/// Records that room is taken for at a time.
const AT_ONCE: usize = 1024;

/// More bytes than the names of 100 classes, or the path of a file in an archive, can be.
const MAX_NAMES_BYTES: u64 = 1 << 16;

/// What distinguishes the two sets.
#[derive(Debug)]
pub struct Layout {
    /// Number of classes of each label byte of a record, in order; the last label is the class of the image.
    pub labels: &'static [usize],
    /// Number of classes.
    pub classes: usize,
    /// Files of the training split, in order.
    pub train: &'static [&'static str],
    /// File of the test split.
    pub test: &'static str,
    /// File with a line a class.
    pub names: &'static str,
    /// Folder in the archive.
    pub folder: &'static str,
    /// File name of the archive.
    pub archive: &'static str,
    /// Folder and archive of the version for Python; the archive is not read.
    pub python: [&'static str; 2],
    /// Keys of the labels and of the names of the classes in its files, which are called as those above, without `.bin`.
    pub keys: [&'static str; 2],
    /// Its file with the names.
    pub meta: &'static str,
}

/// CIFAR-10.
pub static CIFAR10: Layout = Layout {
    labels: &[10],
    classes: 10,
    train: &["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"],
    test: "test_batch.bin",
    names: "batches.meta.txt",
    folder: "cifar-10-batches-bin",
    archive: "cifar-10-binary.tar.gz",
    python: ["cifar-10-batches-py", "cifar-10-python.tar.gz"],
    keys: ["labels", "label_names"],
    meta: "batches.meta",
};

/// CIFAR-100: a coarse label (one of 20), then the fine one, which is the class.
pub static CIFAR100: Layout = Layout {
    labels: &[20, 100],
    classes: 100,
    train: &["train.bin"],
    test: "test.bin",
    names: "fine_label_names.txt",
    folder: "cifar-100-binary",
    archive: "cifar-100-binary.tar.gz",
    python: ["cifar-100-python", "cifar-100-python.tar.gz"],
    keys: ["fine_labels", "fine_label_names"],
    meta: "meta",
};

impl Layout {
    /// Bytes of a record.
    pub fn record(&self) -> usize {
        self.labels.len() + PLANE * CHANNELS
    }

    /// How to get the files.
    pub fn hint(&self) -> String {
        format!("download {} (the binary version) from https://www.cs.toronto.edu/~kriz/cifar.html", self.archive)
    }
}

/// A split of 32×32 RGB images without any, for [`append_records`].
pub fn empty_split() -> Split {
    Split { images: Images { shape: [SIDE, SIDE, CHANNELS], pixels: Vec::new() }, labels: Vec::new() }
}

/// Appends the records of one file, of `length` bytes, to `split`. `path` is what errors name.
///
/// # Errors
/// [`Error::File`] for a length that is no multiple of the record, a label out of range (says record and value), or a source that
/// ends early; [`Error::Io`] if it could not be read. `split` may then have got a part of the records.
pub fn append_records(path: &Path, length: u64, mut source: impl Read, layout: &Layout, split: &mut Split) -> Result<()> {
    let size = layout.record();
    if length > MAX_FILE_BYTES {
        return Err(Error::file(path, format!("has {length} bytes, more than the {MAX_FILE_BYTES} that are supported")));
    }
    if length == 0 || !length.is_multiple_of(size as u64) {
        let problem = format!(
            "has {length} bytes, which is no multiple of a record ({size} bytes): it is truncated or of another set; download it again"
        );
        return Err(Error::file(path, problem));
    }
    let records = (length / size as u64) as usize;
    let mut record = vec![0; size];
    for index in 0..records {
        // The length may come from the header of an archive, which may lie: room is taken as records come.
        if index.is_multiple_of(AT_ONCE) {
            let room = (records - index).min(AT_ONCE);
            split.images.pixels.reserve_exact(room * PLANE * CHANNELS);
            split.labels.reserve_exact(room);
        }
        source.read_exact(&mut record).map_err(|e| match e.kind() {
            ErrorKind::UnexpectedEof => Error::file(path, format!("is truncated: ends in record {index} of {records}; download it again")),
            _ => unreadable(path, e),
        })?;
        let (labels, planes) = record.split_at(layout.labels.len());
        for (position, (&label, &classes)) in labels.iter().zip(layout.labels).enumerate() {
            if usize::from(label) >= classes {
                let which = if position + 1 < labels.len() { "coarse label" } else { "label" };
                let problem = format!("record {index} has {which} {label}, but the classes are 0..={}", classes - 1);
                return Err(Error::file(path, problem));
            }
        }
        split.labels.extend(labels.last().map(|&label| u32::from(label)));
        append_planes(planes, split);
    }
    Ok(())
}

/// Appends an image of three planes, R, G, B.
fn append_planes(planes: &[u8], split: &mut Split) {
    let (red, rest) = planes.split_at(PLANE);
    let (green, blue) = rest.split_at(PLANE);
    split.images.pixels.extend(red.iter().zip(green).zip(blue).flat_map(|((&r, &g), &b)| [r, g, b]));
}

/// Names of the classes: the lines of `text` that are not empty.
///
/// # Errors
/// [`Error::File`] unless there are as many as classes.
pub fn class_names(path: &Path, text: &str, classes: usize) -> Result<Vec<String>> {
    let names: Vec<String> = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(String::from).collect();
    if names.len() != classes {
        return Err(Error::file(path, format!("names {} classes, there are {classes}", names.len())));
    }
    Ok(names)
}

/// Names of the classes, if the set has them with it; training and test split.
pub type Contents = (Option<Vec<String>>, [Split; 2]);

/// Reads a set. `place` is the archive, or the folder that holds the files, the archive's folder or the archive.
///
/// # Errors
/// [`Error::File`] if a file is missing (says which, and where it was looked for) or damaged; [`Error::Io`] if it could not be read.
pub fn read(place: &Path, layout: &Layout) -> Result<Contents> {
    if let Some(archive) = archive(place, layout) {
        return read_archive(&archive, layout);
    }
    if !place.is_dir() {
        return Err(Error::no_folder(place, format!("{}, and name it or its folder by --data-dir", layout.hint())));
    }
    if let Some(folder) = folder(place, layout) {
        return read_folder(&folder, layout);
    }
    if let Some(folder) = python_folder(place, layout) {
        return python::read_folder(&folder, layout);
    }
    let python = layout.python.iter().find(|name| place.join(name).exists());
    let found =
        python.map(|name| format!(" ({name} is the version for Python, which is read when it is whole and unpacked)")).unwrap_or_default();
    let problem = format!(
        "has neither {}, nor {}/, nor {}{found}; {}, and name it or its folder by --data-dir",
        layout.train[0],
        layout.folder,
        layout.archive,
        layout.hint()
    );
    Err(Error::file(place, problem))
}

/// The archive that [`read`] reads, if it reads one: `place`, or the one in it where the files are not unpacked.
pub fn archive(place: &Path, layout: &Layout) -> Option<PathBuf> {
    let inside = || Some(place.join(layout.archive)).filter(|_| folder(place, layout).is_none());
    if place.is_file() { Some(place.to_path_buf()) } else { inside().filter(|archive| archive.is_file()) }
}

/// The folder at `place` with files of the set.
fn folder(place: &Path, layout: &Layout) -> Option<PathBuf> {
    let has_one = |folder: &PathBuf| layout.train.iter().chain([&layout.test]).any(|file| folder.join(file).is_file());
    [place.to_path_buf(), place.join(layout.folder)].into_iter().find(has_one)
}

/// The folder at `place` with files of the version for Python.
fn python_folder(place: &Path, layout: &Layout) -> Option<PathBuf> {
    let has_one = |folder: &PathBuf| folder.join(layout.meta).is_file() && folder.join(python::name(layout.test)).is_file();
    [place.to_path_buf(), place.join(layout.python[0])].into_iter().find(has_one)
}

/// The version for Python of either set, if `place` is its folder or holds that.
///
/// # Errors
/// As [`read`].
pub(super) fn read_python(place: &Path) -> Result<Option<(Vec<String>, [Split; 2])>> {
    for layout in [&CIFAR10, &CIFAR100] {
        if let Some(folder) = python_folder(place, layout) {
            let (names, splits) = python::read_folder(&folder, layout)?;
            return Ok(Some((names.unwrap_or_default(), splits)));
        }
    }
    Ok(None)
}

fn read_folder(folder: &Path, layout: &Layout) -> Result<Contents> {
    let append = |file: &str, split: &mut Split| {
        let path = folder.join(file);
        if !path.exists() {
            return Err(Error::file(path, format!("is missing, though its folder has other files of the set; {}", layout.hint())));
        }
        let source = regular_file::open(&path)?;
        let length = source.metadata().map_err(Error::io(&path))?.len();
        append_records(&path, length, BufReader::new(source), layout, split)
    };
    let (mut train, mut test) = (empty_split(), empty_split());
    for file in layout.train {
        append(file, &mut train)?;
    }
    append(layout.test, &mut test)?;
    let path = folder.join(layout.names);
    let names = if path.is_file() {
        let file = regular_file::open(&path)?;
        Some(read_names(&path, file, layout)?)
    } else {
        None
    };
    Ok((names, [train, test]))
}

/// Reads a `.tar` or `.tar.gz`, whichever it is, to its last byte, so that the checksum of its gzip stream is compared. The files
/// may come in any order and in any folder.
fn read_archive(path: &Path, layout: &Layout) -> Result<Contents> {
    let mut file = BufReader::new(regular_file::open(path)?);
    let mut start = Vec::with_capacity(2);
    file.by_ref().take(2).read_to_end(&mut start).map_err(Error::io(path))?;
    let zipped = start == [0x1f, 0x8b];
    let whole = Cursor::new(start).chain(file);
    let unpacked: Box<dyn Read> = if zipped { Box::new(BufReader::new(MultiGzDecoder::new(whole))) } else { Box::new(whole) };
    // Bounds what a small archive can unpack to.
    let mut archive = tar::Archive::new(unpacked.take(MAX_FILE_BYTES));
    let (parts, names) = read_entries(path, &mut archive, layout)?;

    let mut rest = archive.into_inner();
    std::io::copy(&mut rest, &mut std::io::sink()).map_err(|e| unreadable(path, e))?;
    if rest.limit() == 0 {
        return Err(Error::file(path, format!("unpacks to more than the {MAX_FILE_BYTES} bytes that are supported; {}", layout.hint())));
    }
    let (mut train, mut test) = (empty_split(), empty_split());
    for (part, name) in parts.into_iter().zip(layout.train.iter().chain([&layout.test])) {
        let Some(part) = part else {
            return Err(Error::file(path, format!("has no {name} in it; {}", layout.hint())));
        };
        let split = if *name == layout.test { &mut test } else { &mut train };
        split.images.pixels.reserve_exact(part.images.pixels.len());
        split.images.pixels.extend_from_slice(&part.images.pixels);
        split.labels.extend(part.labels);
    }
    Ok((names, [train, test]))
}

/// Records of the training files, in order, and of the test file, each if it is there; names of the classes.
type Entries = (Vec<Option<Split>>, Option<Vec<String>>);

/// Reads the files of an archive. Of other entries only the name of a file that is too long for its header is looked at: the crate
/// would read a name of any length.
fn read_entries<R: Read>(path: &Path, archive: &mut tar::Archive<R>, layout: &Layout) -> Result<Entries> {
    let wanted: Vec<&str> = layout.train.iter().copied().chain([layout.test]).collect();
    let mut parts: Vec<Option<Split>> = vec![None; wanted.len()];
    let mut names = None;
    let mut long_name: Option<PathBuf> = None;
    for entry in archive.entries().map_err(|e| unreadable(path, e))?.raw(true) {
        let mut entry = entry.map_err(|e| unreadable(path, e))?;
        let kind = entry.header().entry_type();
        if kind.is_gnu_longname() || kind.is_pax_local_extensions() {
            let mut bytes = Vec::new();
            entry.by_ref().take(MAX_NAMES_BYTES + 1).read_to_end(&mut bytes).map_err(|e| unreadable(path, e))?;
            if bytes.len() as u64 > MAX_NAMES_BYTES {
                let problem = format!("is damaged (a file in it has a name of {} bytes); download it again", entry.size());
                return Err(Error::file(path, problem));
            }
            long_name = if kind.is_gnu_longname() { text(bytes.split(|&byte| byte == 0).next()) } else { text(pax_path(&bytes)) };
            continue;
        }
        let short = entry.path().map_err(|e| unreadable(path, e))?.into_owned();
        let inside = long_name.take().unwrap_or(short);
        let Some(file) = inside.file_name().and_then(|file| file.to_str()).filter(|_| kind.is_file()) else { continue };
        let shown: PathBuf = path.join(&inside);
        if file == layout.names {
            names = Some(read_names(&shown, &mut entry, layout)?);
        } else if let Some(index) = wanted.iter().position(|&name| name == file) {
            let mut split = empty_split();
            append_records(&shown, entry.size(), &mut entry, layout, &mut split)?;
            parts[index] = Some(split);
        }
    }
    Ok((parts, names))
}

fn text(bytes: Option<&[u8]>) -> Option<PathBuf> {
    bytes.map(|bytes| PathBuf::from(String::from_utf8_lossy(bytes).into_owned()))
}

/// The path in a list of lines `LENGTH KEY=VALUE`.
fn pax_path(bytes: &[u8]) -> Option<&[u8]> {
    bytes.split(|&byte| byte == b'\n').find_map(|line| line.splitn(2, |&byte| byte == b' ').nth(1)?.strip_prefix(b"path="))
}

fn read_names(path: &Path, source: impl Read, layout: &Layout) -> Result<Vec<String>> {
    let mut bytes = Vec::new();
    source.take(MAX_NAMES_BYTES).read_to_end(&mut bytes).map_err(|e| unreadable(path, e))?;
    class_names(path, &String::from_utf8_lossy(&bytes), layout.classes)
}

/// Tells a damaged archive from a file that the operating system does not give.
fn unreadable(path: &Path, error: std::io::Error) -> Error {
    match error.kind() {
        ErrorKind::UnexpectedEof => Error::file(path, "is truncated; download it again"),
        ErrorKind::InvalidData | ErrorKind::InvalidInput | ErrorKind::Other => {
            // The crate quotes bytes of headers as they are.
            Error::file(path, format!("is damaged ({}); download it again", error.to_string().replace(char::is_control, " ")))
        }
        _ => Error::io(path)(error),
    }
}
