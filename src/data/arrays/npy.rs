//! NumPy's `.npy`: a magic number, a version, a header that is a dictionary of Python in text (type, order, sizes), and the values.

use std::io::{ErrorKind, Read};
use std::path::Path;

use super::{Array, Kind, MOST_BYTES};
use crate::device::room::{Bytes, Room};
use crate::error::{Error, Result};

/// Bytes that a header may have; NumPy itself reads no longer one.
const MOST_HEADER: usize = 10_000;

/// Reads an array; `path` is what errors name, and `there` how many bytes there are: room is taken for no more at once. They may unpack to
/// `unpacked`; of values that could come, the room is looked at before the first is read.
///
/// # Errors
/// [`Error::File`] for what is no array of plain numbers in C order (pickled objects are never read), or has not the length that its header
/// says; [`Error::Io`] if it could not be read.
pub fn read(path: &Path, mut source: impl Read, there: u64, unpacked: u64) -> Result<Array> {
    let bad = |problem: String| Error::file(path, problem);
    let (kind, sizes, promised) = head(path, &mut source)?;
    if promised.min(unpacked) > 1 << 28 {
        Room::now().check(Bytes { written: promised, reserved: 0 }, &path.display().to_string(), "take a part of it")?;
    }
    let mut bytes = Vec::with_capacity(promised.min(there) as usize);
    source.take(promised + 1).read_to_end(&mut bytes).map_err(|e| unreadable(path, e))?;
    if bytes.len() as u64 != promised {
        let how = if (bytes.len() as u64) < promised { "is truncated: its" } else { "goes on behind the last value: its" };
        return Err(bad(format!("{how} sizes {sizes:?} need {promised} bytes; get it again")));
    }
    Ok(Array { kind, sizes, bytes })
}

/// Type and sizes of an array, and the bytes that its values have by them; none of the values is read.
///
/// # Errors
/// As [`read`], of what a header says.
pub fn head(path: &Path, mut source: impl Read) -> Result<(Kind, Vec<usize>, u64)> {
    let bad = |problem: String| Error::file(path, problem);
    let mut start = Vec::with_capacity(12);
    source.by_ref().take(10).read_to_end(&mut start).map_err(|e| unreadable(path, e))?;
    if !start.starts_with(b"\x93NUMPY") || start.len() < 10 {
        let problem = match start.first() {
            Some(0x80) => "is a pickle, of which nothing is read; save the array with np.save(FILE, array, allow_pickle=False)".into(),
            _ => format!("is no .npy file: begins with \"{}\"; get it again", start[..start.len().min(6)].escape_ascii()),
        };
        return Err(bad(problem));
    }
    let length = match start[6] {
        1 => usize::from(u16::from_le_bytes([start[8], start[9]])),
        2 | 3 => {
            source.by_ref().take(2).read_to_end(&mut start).map_err(|e| unreadable(path, e))?;
            let &[.., a, b, c, d] = &start[..] else { return Err(bad("ends in its header; get it again".into())) };
            u32::from_le_bytes([a, b, c, d]) as usize
        }
        version => return Err(bad(format!("is of version {version} of its format; 1 to 3 are known"))),
    };
    if length > MOST_HEADER {
        return Err(bad(format!("has a header of {length} bytes; {MOST_HEADER} are the most that NumPy reads, too")));
    }
    let mut header = Vec::with_capacity(length);
    source.by_ref().take(length as u64).read_to_end(&mut header).map_err(|e| unreadable(path, e))?;
    if header.len() < length {
        return Err(bad("ends in its header; get it again".into()));
    }
    let (kind, sizes) = parse(&header).map_err(bad)?;
    let promised = sizes.iter().try_fold(kind.bytes() as u64, |bytes, &size| bytes.checked_mul(size as u64));
    let Some(promised) = promised.filter(|&promised| promised <= MOST_BYTES) else {
        return Err(bad(format!("promises sizes {sizes:?}, more than the {MOST_BYTES} bytes that are supported")));
    };
    Ok((kind, sizes, promised))
}

/// Tells a damaged archive from a file that the system does not give.
pub(super) fn unreadable(path: &Path, error: std::io::Error) -> Error {
    match error.kind() {
        ErrorKind::UnexpectedEof | ErrorKind::InvalidData | ErrorKind::InvalidInput | ErrorKind::Other => {
            Error::file(path, format!("is damaged ({}); get it again", error.to_string().replace(char::is_control, " ")))
        }
        _ => Error::io(path)(error),
    }
}

/// Type and sizes in a header such as `{'descr': '|u1', 'fortran_order': False, 'shape': (60000, 28, 28), }`.
fn parse(header: &[u8]) -> std::result::Result<(Kind, Vec<usize>), String> {
    let odd = || "has a header that is not NumPy's; get it again".to_string();
    let text = std::str::from_utf8(header).ok().filter(|text| text.is_ascii()).ok_or_else(odd)?;
    let mut rest = text.trim().strip_prefix('{').and_then(|text| text.strip_suffix('}')).ok_or_else(odd)?.trim_start();
    let (mut kind, mut is_fortran, mut sizes) = (None, None, None);
    while !rest.is_empty() {
        let (key, behind) = quoted(rest).ok_or_else(odd)?;
        let value = behind.trim_start().strip_prefix(':').ok_or_else(odd)?.trim_start();
        let behind = match key {
            "descr" if kind.is_none() => {
                if value.starts_with('[') {
                    return Err("is an array of records; save one array of plain numbers for each field".into());
                }
                let (descr, behind) = quoted(value).ok_or_else(odd)?;
                kind = Some(kind_of(descr)?);
                behind
            }
            "fortran_order" if is_fortran.is_none() => {
                let is = value.starts_with("True");
                is_fortran = Some(is);
                value.strip_prefix(if is { "True" } else { "False" }).ok_or_else(odd)?
            }
            "shape" if sizes.is_none() => {
                let (inside, behind) = value.strip_prefix('(').and_then(|value| value.split_once(')')).ok_or_else(odd)?;
                let numbers = inside.split(',').map(str::trim).filter(|number| !number.is_empty());
                let found: Vec<usize> = numbers.map(|number| number.parse().map_err(|_| odd())).collect::<std::result::Result<_, _>>()?;
                sizes = Some(found);
                behind
            }
            _ => return Err(odd()),
        };
        let behind = behind.trim_start();
        rest = behind.strip_prefix(',').unwrap_or(behind).trim_start();
    }
    let (Some(kind), Some(is_fortran), Some(sizes)) = (kind, is_fortran, sizes) else { return Err(odd()) };
    if sizes.len() > 8 {
        return Err(format!("has {} axes; images have 3 or 4, frames 4 or 5", sizes.len()));
    }
    if is_fortran && sizes.iter().filter(|&&size| size > 1).count() > 1 {
        return Err("lies column by column (fortran_order); save np.ascontiguousarray(array)".into());
    }
    Ok((kind, sizes))
}

/// A text in quotes, and what follows.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|quote| matches!(quote, '\'' | '"'))?;
    text[1..].split_once(quote)
}

fn kind_of(descr: &str) -> std::result::Result<Kind, String> {
    let shown: String = descr.chars().take(20).collect::<String>().escape_default().to_string();
    let (order, name) = descr.split_at_checked(1).ok_or("has a type without a name; get it again")?;
    match (order, name) {
        (_, "O") => Err("holds Python objects, which are pickled and never read; save plain numbers (array.astype(...))".into()),
        (">", "u1" | "i1") => Kind::of(name).ok_or_else(|| "has an odd type".into()),
        (">", _) => Err(format!("has the type {shown}, of big-endian numbers; save array.astype(array.dtype.newbyteorder('<'))")),
        ("<" | "|" | "=", name) => {
            Kind::of(name).ok_or_else(|| format!("has values of the type {shown}; images are u1, f4 or f8, labels integers"))
        }
        _ => Err(format!("has values of the type {shown}; images are u1, f4 or f8, labels integers")),
    }
}
