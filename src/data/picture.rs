//! Files of photos as RGB pictures. The format is told by the first bytes: one `.JPEG` of ImageNet is a PNG.

use std::io::{Cursor, Read};
use std::path::Path;

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage};

pub use super::bounds::allowed_pixels;
use super::bounds::check_size;
use super::guard::guarded;
use super::jpeg;
use crate::error::{Error, Result};
use crate::regular_file;

/// What decodes files of samples. Which files cannot be read is remembered for these versions only.
pub const DECODERS: &str = "image 0.25.10, image-webp 0.2.4, png 0.18.1, zune-jpeg 0.5.16-rc3, lz4_flex 0.14.2, ruzstd 0.9.1; checks 3";

/// More bytes than a photo has.
const MAX_BYTES: u64 = 1 << 28;

/// Reads a picture. Grey, CMYK and 16-bit pictures become RGB of 8 bits, and transparency is dropped.
///
/// # Errors
/// [`Error::Io`] if the file could not be read, and what [`parse`] finds wrong.
pub fn read(path: &Path) -> Result<RgbImage> {
    parse(path, &contents(path)?)
}

/// Looks whether all of a picture is in its file; [`read`] takes pictures that are damaged inside as most programs do.
///
/// # Errors
/// As [`read`]; also for a JPEG that lacks bytes inside, or has what does not belong there.
pub fn check(path: &Path) -> Result<()> {
    check_bytes(path, &contents(path)?)
}

/// [`check`] of the bytes of a file.
///
/// # Errors
/// As [`check`].
pub fn check_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    if !matches!(image::guess_format(bytes), Ok(ImageFormat::Jpeg)) {
        return parse(path, bytes).map(drop); // the other formats have checksums, or nothing to tell damage by
    }
    let pixels = allowed_pixels(bytes.len());
    let problem = guarded(path, || {
        Ok(match jpeg::decode(bytes, pixels, true) {
            Err(problem) => Some(problem),
            Ok(picture) => jpeg::lacks_bytes(bytes, &picture, pixels).then(|| "bytes are missing inside; get it again".into()),
        })
    })?;
    let Some(problem) = problem else { return Ok(()) };
    parse(path, bytes)?; // what cannot be read at all says so
    Err(Error::file(path, format!("is a damaged JPEG: {problem}")))
}

fn contents(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    regular_file::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(Error::io(path))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Error::file(path, format!("has more than the {MAX_BYTES} bytes that are supported; make it smaller")));
    }
    Ok(bytes)
}

/// The picture in the bytes of a file. `path` is what errors name.
///
/// # Errors
/// [`Error::File`] for another format, a file that is cut off or damaged, and a picture larger than its file can hold.
pub fn parse(path: &Path, bytes: &[u8]) -> Result<RgbImage> {
    use ImageFormat::{Bmp, Jpeg, Png, Pnm, WebP};
    let format = match image::guess_format(bytes) {
        Ok(format @ (Bmp | Jpeg | Png | Pnm | WebP)) => format,
        _ if bytes.is_empty() => return Err(Error::file(path, "is empty; get it again")),
        _ => {
            let start = bytes[..bytes.len().min(4)].escape_ascii();
            let problem = format!("is no JPEG, PNG, WebP, BMP or PNM: begins with \"{start}\"; get it again or convert it");
            return Err(Error::file(path, problem));
        }
    };
    let pixels = allowed_pixels(bytes.len());
    guarded(path, || {
        let found = if format == Jpeg { jpeg::decode(bytes, pixels, false) } else { decode(bytes, format, pixels) };
        found.map_err(|problem| Error::file(path, problem))
    })
}

/// The picture in a file of another format than JPEG, of at most `pixels` pixels.
fn decode(bytes: &[u8], format: ImageFormat, pixels: u64) -> std::result::Result<RgbImage, String> {
    let in_words = |e: image::ImageError| format!("cannot be decoded ({}); get it again", e.to_string().replace(char::is_control, " "));
    let mut limits = Limits::no_limits();
    // The picture, the same once more inside the decoder, and what else a file may carry.
    limits.max_alloc = Some(8 * pixels + (1 << 22));
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(in_words)?;
    let (width, height) = decoder.dimensions();
    check_size(width.into(), height.into(), pixels)?;
    if decoder.total_bytes() > 4 * pixels {
        let problem =
            format!("unpacks to {} bytes, more than a file of its length may (docs/data.md); get it again", decoder.total_bytes());
        return Err(problem);
    }
    Ok(DynamicImage::from_decoder(decoder).map_err(in_words)?.into_rgb8())
}
