//! Files that are read: regular ones only, since a pipe may keep its reader waiting for ever and a device need not have an end.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::error::{Error, Result};

/// Opens a regular file for reading.
///
/// # Errors
/// [`Error::File`] for a folder, a pipe or a device; [`Error::Io`] if there is no such file or it cannot be read.
pub fn open(path: &Path) -> Result<File> {
    // Before it is opened: to open a pipe is to wait for somebody who writes into it.
    let kind = std::fs::metadata(path).map_err(Error::io(path))?.file_type();
    if kind.is_dir() {
        return Err(Error::file(path, "is a folder: name a file inside it"));
    }
    if !kind.is_file() {
        return Err(Error::file(path, "is a pipe or a device, which cannot be read as a file: copy what it holds to a file and name that"));
    }
    File::open(path).map_err(Error::io(path))
}

/// The bytes of a regular file that has at most `most` of them.
///
/// # Errors
/// As [`open`]; [`Error::File`] for a larger file.
pub fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // A file may have another length than it says, as those of /proc do.
    open(path)?.take(most + 1).read_to_end(&mut bytes).map_err(Error::io(path))?;
    if bytes.len() as u64 > most {
        return Err(Error::file(
            path,
            format!("has more than {most} bytes, which is too large for what it should hold; name another file"),
        ));
    }
    Ok(bytes)
}

/// The same as text.
///
/// # Errors
/// As [`read`]; [`Error::File`] for bytes that are no UTF-8.
pub fn read_text(path: &Path, most: u64) -> Result<String> {
    String::from_utf8(read(path, most)?)
        .map_err(|e| Error::file(path, format!("is no text ({}): save it as UTF-8, or name another file", e.utf8_error())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_of_a_set_size_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text");
        std::fs::write(&path, "12345").unwrap();
        assert_eq!(read_text(&path, 5).unwrap(), "12345");
        let refused = |path: &Path, most: u64| read_text(path, most).unwrap_err().to_string();
        assert!(refused(&path, 4).contains("text: has more than 4 bytes"));
        assert!(refused(folder.path(), 9).contains("is a folder"));
        assert!(refused(Path::new("/dev/zero"), 9).contains("is a pipe or a device"));
        assert!(refused(&folder.path().join("absent"), 9).contains("No such file"));
        std::fs::write(&path, [0xff]).unwrap();
        assert!(refused(&path, 4).contains("utf-8"));
    }
}
