//! Frames of recordings, or squares of pictures, on disk, so that an epoch or a run does not make them again.
//!
//! A file holds the frames of all recordings for one choice of settings: its kind (8 bytes), the length of the header (u32), the
//! header (JSON: settings and a checksum of what the recordings are), frames `[N][T][H][W][2]` (f32) or squares `[N][H][W][C]` (bytes),
//! and a CRC-32C of each recording's frames (u32 each); all little-endian. A file whose header is not the wanted one, byte for byte, is
//! made again.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::stream::{Listener, Told};
use crate::atomic_file;
use crate::error::{Error, Result};
use crate::regular_file;

const KIND: &[u8; 8] = b"dsrframe";

/// An open file of frames.
#[derive(Debug)]
pub struct FrameCache {
    /// The file.
    pub path: PathBuf,
    file: Mutex<File>,
    /// Byte at which the frames begin.
    begin: u64,
    /// Bytes of a recording.
    size: usize,
    checksums: Vec<u32>,
}

impl FrameCache {
    /// Opens the file at `path`, which has so many bytes a recording; none if there is no such file, or one of other settings or
    /// recordings, or a damaged one.
    ///
    /// # Errors
    /// [`Error::Io`] if the system refuses it.
    pub fn open(path: &Path, header: &str, recordings: usize, size: usize) -> Result<Option<FrameCache>> {
        let mut file = match regular_file::open(path) {
            Ok(file) => file,
            Err(Error::Io { r#source, .. }) if r#source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let start = start(header);
        let (begin, frames) = (start.len() as u64, (recordings * size) as u64);
        if file.metadata().map_err(Error::io(path))?.len() != begin + frames + (recordings * size_of::<u32>()) as u64 {
            return Ok(None);
        }
        let mut found = vec![0; start.len()];
        file.read_exact(&mut found).map_err(Error::io(path))?;
        if found != start {
            return Ok(None);
        }
        let mut checksums = vec![0; recordings * size_of::<u32>()];
        file.seek(SeekFrom::Start(begin + frames)).and_then(|_| file.read_exact(&mut checksums)).map_err(Error::io(path))?;
        let checksums = checksums.as_chunks().0.iter().map(|&bytes| u32::from_le_bytes(bytes)).collect();
        Ok(Some(FrameCache { path: path.to_path_buf(), file: Mutex::new(file), begin, size, checksums }))
    }

    /// Writes the file at `path`, which is there whole or not at all. `make` gives the bytes of a recording; some are made at once.
    ///
    /// # Errors
    /// That of the first recording whose frames cannot be made, that of `tell`, and what the system refuses.
    pub fn create(
        path: &Path,
        header: &str,
        recordings: usize,
        make: impl Fn(usize) -> Result<Vec<u8>> + Sync,
        tell: Listener,
    ) -> Result<()> {
        let at_once = 4 * rayon::current_num_threads();
        let mut failed = None;
        let written = atomic_file::write_with(path, |out| {
            out.write_all(&start(header))?;
            let mut checksums = Vec::with_capacity(recordings);
            for first in (0..recordings).step_by(at_once) {
                let end = (first + at_once).min(recordings);
                let made: Vec<Result<Vec<u8>>> = (first..end).into_par_iter().map(&make).collect();
                for frames in made {
                    let frames = frames.map_err(|error| {
                        failed = Some(error);
                        std::io::ErrorKind::InvalidData
                    })?;
                    checksums.push(crc32c::crc32c(&frames));
                    out.write_all(&frames)?;
                }
                tell(Told::Done { what: "converted", done: end, total: recordings }).map_err(|error| {
                    failed = Some(error);
                    std::io::ErrorKind::Interrupted
                })?;
            }
            checksums.into_iter().try_for_each(|checksum| out.write_all(&checksum.to_le_bytes()))
        });
        failed.map_or(written, Err)
    }

    /// The frames of a recording, `[T][H][W][2]`.
    ///
    /// # Errors
    /// [`Error::Io`] if they could not be read, [`Error::File`] if they are not what was written.
    pub fn read(&self, recording: usize) -> Result<Vec<f32>> {
        Ok(self.read_bytes(recording)?.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect())
    }

    /// The bytes of a recording.
    ///
    /// # Errors
    /// As [`FrameCache::read`].
    pub fn read_bytes(&self, recording: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.size];
        {
            // A thread that broke off while reading leaves at most another place in the file, which is set here.
            let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
            let place = self.begin + recording as u64 * bytes.len() as u64;
            file.seek(SeekFrom::Start(place)).and_then(|_| file.read_exact(&mut bytes)).map_err(Error::io(&self.path))?;
        }
        if self.checksums.get(recording) != Some(&crc32c::crc32c(&bytes)) {
            let problem = format!("what it holds of sample {recording} is damaged; delete this file, it will be made again");
            return Err(Error::file(&self.path, problem));
        }
        Ok(bytes)
    }
}

/// What a file begins with.
fn start(header: &str) -> Vec<u8> {
    [&KIND[..], &(header.len() as u32).to_le_bytes(), header.as_bytes()].concat()
}

/// Frames as [`FrameCache::create`] takes them.
pub fn bytes(values: Vec<f32>) -> Vec<u8> {
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}
