//! JPEG and PNG files as RGB pictures. The format is told by the first bytes: one `.JPEG` of ImageNet is a PNG.

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

use image::{ImageFormat, ImageReader, RgbImage};

use super::MAX_FILE_BYTES;
use crate::error::{Error, Result};

/// Reads a picture. Grey, CMYK and 16-bit pictures become RGB of 8 bits, and transparency is dropped.
///
/// # Errors
/// [`Error::Io`] if the file could not be read, and what [`parse`] finds wrong.
pub fn read(path: &Path) -> Result<RgbImage> {
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(MAX_FILE_BYTES).read_to_end(&mut bytes)).map_err(Error::io(path))?;
    parse(path, &bytes)
}

/// The picture in the bytes of a file. `path` is what errors name.
///
/// # Errors
/// [`Error::File`] for another format, a file that is cut off or damaged, and a picture too large for memory.
pub fn parse(path: &Path, bytes: &[u8]) -> Result<RgbImage> {
    let format = match image::guess_format(bytes) {
        Ok(format @ (ImageFormat::Jpeg | ImageFormat::Png)) => format,
        _ if bytes.is_empty() => return Err(Error::file(path, "is empty; get it again")),
        _ => {
            let start = bytes[..bytes.len().min(4)].escape_ascii();
            return Err(Error::file(path, format!("is neither JPEG nor PNG: begins with \"{start}\"; get it again or convert it")));
        }
    };
    // The decoder paints what is missing grey and says nothing.
    if format == ImageFormat::Jpeg && !has_end(bytes) {
        return Err(Error::file(path, "is a JPEG that is cut off; get it again"));
    }
    let image = ImageReader::with_format(Cursor::new(bytes), format).decode();
    let image = image.map_err(|e| Error::file(path, format!("cannot be decoded ({}); get it again", e.to_string().replace('\n', " "))))?;
    Ok(image.into_rgb8())
}

/// Whether the picture of a JPEG comes to its end: a marker D9 behind the segments of the header, which may hold a thumbnail with
/// an end of its own. Within the picture, FF is followed by 0 or by a marker.
fn has_end(bytes: &[u8]) -> bool {
    const START_OF_SCAN: u8 = 0xda;
    let mut at = 2;
    while let Some(&[0xff, marker, high, low]) = bytes.get(at..).and_then(<[u8]>::first_chunk) {
        match marker {
            START_OF_SCAN => break,
            0xff => at += 1, // padding
            _ => at += 2 + usize::from(u16::from_be_bytes([high, low])),
        }
    }
    // Where the header is odd, the decoder has to say so.
    bytes.get(at..).is_some_and(|rest| rest.windows(2).any(|pair| pair == [0xff, 0xd9]))
}
