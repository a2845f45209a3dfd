//! IDX, the format of the MNIST family: two zero bytes, the type (08: unsigned byte), the number of dimensions, the sizes as
//! big-endian u32, then the values, row-major. Plain or gzip, told by the first bytes.

use std::cmp::Ordering;
use std::io::{BufReader, Cursor, ErrorKind, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use super::{Images, MAX_FILE_BYTES, Split};
use crate::error::{Error, Result};
use crate::regular_file;

/// Reads images, `[N][H][W]`, as grey images. `path` is what errors name.
///
/// # Errors
/// [`Error::File`] says what about the file is wrong, [`Error::Io`] that it could not be read.
pub fn images(path: &Path, source: impl Read) -> Result<Images> {
    let (sizes, pixels) = values(path, source, 3, "images")?;
    Ok(Images { shape: [sizes[1], sizes[2], 1], pixels })
}

/// Reads labels, `[N]`, of which each must be below `classes`. `path` is what errors name.
///
/// # Errors
/// [`Error::File`] says what about the file is wrong, [`Error::Io`] that it could not be read.
pub fn labels(path: &Path, source: impl Read, classes: usize) -> Result<Vec<u32>> {
    let (_, labels) = values(path, source, 1, "labels")?;
    if let Some(record) = labels.iter().position(|&label| usize::from(label) >= classes) {
        let problem = format!("record {record} has label {}, but the classes are 0..={}", labels[record], classes.saturating_sub(1));
        return Err(Error::file(path, problem));
    }
    Ok(labels.into_iter().map(u32::from).collect())
}

/// Images and their labels; each source comes with the path that errors name.
///
/// # Errors
/// As [`images`] and [`labels`]; also if there is not one label an image.
pub fn split(from: (&Path, impl Read), labels_from: (&Path, impl Read), classes: usize) -> Result<Split> {
    let images = images(from.0, from.1)?;
    let labels = labels(labels_from.0, labels_from.1, classes)?;
    if labels.len() != images.len() {
        let problem = format!("has {} labels for the {} images of {}", labels.len(), images.len(), from.0.display());
        return Err(Error::file(labels_from.0, problem));
    }
    Ok(Split { images, labels })
}

/// Training and test split of a folder that holds the four files of the MNIST family, or where torchvision puts them below it:
/// in `raw`, or `own/raw`. `hint` says how to get them.
///
/// # Errors
/// [`Error::File`] for a missing file (says which and where it was looked for), a damaged one, or splits of unequal image size.
pub fn read_folder(folder: &Path, own: &str, classes: usize, hint: &str) -> Result<[Split; 2]> {
    if !folder.is_dir() {
        let hint = format!("the IDX files were looked for there: {hint}, and name their folder by --data-dir");
        return Err(Error::no_folder(folder, hint));
    }
    let place = place(folder, own);
    let path = |[stem, ending]: [&str; 2]| {
        let missing = |spellings: [String; 4]| {
            let problem =
                format!("has no {} (nor {}): {hint}, and name their folder by --data-dir", spellings[0], spellings[1..].join(", "));
            Error::file(&place, problem)
        };
        find(&place, stem, ending).map_err(missing)
    };
    let read = |[images, labels]: [[&str; 2]; 2]| {
        let (images_path, labels_path) = (path(images)?, path(labels)?);
        let open = |path: &Path| regular_file::open(path).map(BufReader::new);
        let split = split((&images_path, open(&images_path)?), (&labels_path, open(&labels_path)?), classes)?;
        Ok((split, images_path))
    };
    let (train, _) = read([NAMES[0], NAMES[1]])?;
    let (test, test_path) = read([NAMES[2], NAMES[3]])?;
    let ([height, width, _], [test_height, test_width, _]) = (train.images.shape, test.images.shape);
    if (height, width) != (test_height, test_width) {
        let problem = format!("has images of {test_height}x{test_width}, the training images are {height}x{width}");
        return Err(Error::file(test_path, problem));
    }
    Ok([train, test])
}

/// Those of the four files that are there, in the folder that [`read_folder`] reads.
pub fn files(folder: &Path, own: &str) -> Vec<PathBuf> {
    let place = place(folder, own);
    NAMES.iter().filter_map(|[stem, ending]| find(&place, stem, ending).ok()).collect()
}

/// The folder of the files. All four come from one: files of two sets are never mixed.
fn place(folder: &Path, own: &str) -> PathBuf {
    let places = [folder.to_path_buf(), folder.join("raw"), folder.join(own).join("raw")];
    let has_one = |place: &&PathBuf| NAMES.iter().any(|[stem, ending]| find(place, stem, ending).is_ok());
    places.iter().find(has_one).unwrap_or(&places[0]).clone()
}

/// Stems and endings of the four files.
const NAMES: [[&str; 2]; 4] =
    [["train-images", "idx3-ubyte"], ["train-labels", "idx1-ubyte"], ["t10k-images", "idx3-ubyte"], ["t10k-labels", "idx1-ubyte"]];

/// The file `stem` in `folder`, in any of its usual spellings, or else these.
fn find(folder: &Path, stem: &str, ending: &str) -> std::result::Result<PathBuf, [String; 4]> {
    let spellings = [format!("{stem}-{ending}"), format!("{stem}-{ending}.gz"), format!("{stem}.{ending}"), format!("{stem}.{ending}.gz")];
    spellings.iter().map(|spelling| folder.join(spelling)).find(|path| path.is_file()).ok_or(spellings)
}

/// Sizes and values of an IDX file with `dimensions` dimensions, plain or gzip.
fn values(path: &Path, mut source: impl Read, dimensions: usize, what: &str) -> Result<(Vec<usize>, Vec<u8>)> {
    let mut start = Vec::with_capacity(2);
    source.by_ref().take(2).read_to_end(&mut start).map_err(|e| unreadable(path, e))?;
    let zipped = start == [0x1f, 0x8b];
    let whole = Cursor::new(start).chain(source);
    if zipped { plain_values(path, MultiGzDecoder::new(whole), dimensions, what) } else { plain_values(path, whole, dimensions, what) }
}

/// Holds never more than the header promises (of which there is a limit) and never much more than the file has.
fn plain_values(path: &Path, mut source: impl Read, dimensions: usize, what: &str) -> Result<(Vec<usize>, Vec<u8>)> {
    let mut header = Vec::with_capacity(4 + 4 * dimensions);
    source.by_ref().take(4 + 4 * dimensions as u64).read_to_end(&mut header).map_err(|e| unreadable(path, e))?;
    let magic = [0, 0, 8, dimensions as u8];
    match header.get(..4) {
        Some([0, 0, 8, found]) if usize::from(*found) != dimensions => {
            let problem = format!("has {found} dimensions, {what} have {dimensions}: is it the file of something else?");
            return Err(Error::file(path, problem));
        }
        Some([0, 0, kind, _]) if *kind != 8 => {
            let problem = format!("has values of type {kind:#04x}; only unsigned bytes (type 0x08) are supported");
            return Err(Error::file(path, problem));
        }
        Some(found) if found != magic => {
            let problem = format!("is no IDX file: begins with bytes {found:02x?} instead of {magic:02x?}; download it again");
            return Err(Error::file(path, problem));
        }
        _ if header.len() < 4 + 4 * dimensions => {
            let problem = format!("ends in the header, after {} of {} bytes; download it again", header.len(), 4 + 4 * dimensions);
            return Err(Error::file(path, problem));
        }
        _ => {}
    }
    let sizes: Vec<u32> = header[4..].chunks_exact(4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]])).collect();
    if sizes.contains(&0) {
        return Err(Error::file(path, format!("holds no {what}: its sizes are {sizes:?}")));
    }
    let promised = sizes.iter().try_fold(1u64, |product, &size| product.checked_mul(u64::from(size))).filter(|&n| n <= MAX_FILE_BYTES);
    let Some(promised) = promised else {
        let problem = format!("promises sizes {sizes:?}, more than the {MAX_FILE_BYTES} bytes that are supported; the header is damaged");
        return Err(Error::file(path, problem));
    };
    // A header may lie: room beyond this is only taken as the values arrive. One byte more than promised shows that there is more,
    // and, for gzip, a read past the end is what checks the checksum.
    let mut values = Vec::with_capacity((promised as usize).min(1 << 16));
    source.take(promised + 1).read_to_end(&mut values).map_err(|e| unreadable(path, e))?;
    match (values.len() as u64).cmp(&promised) {
        Ordering::Less => {
            let problem = format!("is truncated: sizes {sizes:?} need {promised} bytes, it has {}; download it again", values.len());
            Err(Error::file(path, problem))
        }
        Ordering::Greater => {
            Err(Error::file(path, format!("goes on after the {promised} bytes that its sizes {sizes:?} need; download it again")))
        }
        Ordering::Equal => {
            values.shrink_to_fit();
            Ok((sizes.into_iter().map(|size| size as usize).collect(), values))
        }
    }
}

/// Tells a damaged gzip stream from a file that the operating system does not give.
fn unreadable(path: &Path, error: std::io::Error) -> Error {
    match error.kind() {
        ErrorKind::UnexpectedEof => Error::file(path, "is truncated: the gzip stream has no end; download it again"),
        ErrorKind::InvalidData | ErrorKind::InvalidInput => {
            Error::file(path, format!("is damaged: its gzip stream cannot be read ({error}); download it again"))
        }
        _ => Error::io(path)(error),
    }
}
