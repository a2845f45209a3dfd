//! Files as they were published: by name and MD5, as torchvision lists them, and for CIFAR's binary archives its own page.

use std::fmt::Write;
use std::io::Read;
use std::path::{Path, PathBuf};

use md5::{Digest, Md5};
use serde::Serialize;

use super::catalogue;
use crate::error::{Error, Result};
use crate::regular_file;

/// A file beside the published one of its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PublishedFile {
    /// The file, as it is shown.
    pub file: String,
    /// Its MD5, in hexadecimal digits.
    pub md5: String,
    /// That of the published file.
    pub published: String,
}

impl PublishedFile {
    /// True if it is the published file.
    pub fn is_same(&self) -> bool {
        self.md5 == self.published
    }
}

/// The files that a set is read from, each beside the published one, as far as these are known. A file that is not as published may
/// be a good one: packed anew, it has another checksum.
///
/// # Errors
/// [`Error::Config`] if the set has a name that is not known; [`Error::Io`] if a file cannot be read.
pub fn published_files(name: &str, data_dir: Option<&Path>) -> Result<Vec<PublishedFile>> {
    let table = catalogue::find(name)?.published.as_ref().map_or(&[][..], |published| published.md5);
    compare(&catalogue::files(name, data_dir)?, table)
}

/// Compares files with a table of names and MD5. A file of another name counts if it has one of the checksums, and else is left out.
///
/// # Errors
/// [`Error::Io`] if a file cannot be read.
pub fn compare(files: &[PathBuf], table: &[(&str, &str)]) -> Result<Vec<PublishedFile>> {
    let mut found = Vec::new();
    for file in files {
        let md5 = md5_of(file)?;
        let by_name = table.iter().find(|(name, _)| file.file_name().is_some_and(|own| own == *name));
        if let Some((_, published)) = by_name.or_else(|| table.iter().find(|(_, published)| *published == md5)) {
            found.push(PublishedFile { file: file.display().to_string(), md5, published: published.to_string() });
        }
    }
    Ok(found)
}

/// The MD5 of a file, which is never in memory as a whole.
fn md5_of(path: &Path) -> Result<String> {
    let mut file = regular_file::open(path)?;
    let (mut hasher, mut buffer) = (Md5::new(), vec![0; 1 << 16]);
    loop {
        match file.read(&mut buffer).map_err(Error::io(path))? {
            0 => break,
            n => hasher.update(&buffer[..n]),
        }
    }
    let mut digits = String::new();
    for byte in hasher.finalize() {
        let _ = write!(digits, "{byte:02x}"); // writing to a String cannot fail
    }
    Ok(digits)
}
