//! JPEG files as RGB pictures, and whether all of a picture is in its file.

use image::RgbImage;
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

const END_OF_PICTURE: u8 = 0xd9;
const START_OF_SCAN: u8 = 0xda;
const RESTART_INTERVAL: u8 = 0xdd;

/// The picture in the bytes of a JPEG of at most `pixels` pixels. Without `strict`, damage inside shows as wrong or grey pixels, as
/// with most programs.
///
/// # Errors
/// What is wrong with it and what to do, in words.
pub(super) fn decode(bytes: &[u8], pixels: u64, strict: bool) -> Result<RgbImage, String> {
    // The decoder paints what is missing grey and says nothing.
    if !has_end(bytes) {
        return Err("is a JPEG that is cut off; get it again".into());
    }
    if is_misread(bytes) {
        return Err("is a JPEG with restart markers in scans of single colours, a rare kind that is not read; convert it".into());
    }
    let in_words = |e: zune_jpeg::errors::DecodeErrors| {
        format!("cannot be decoded ({}); get it again", format!("{e:?}").trim_matches('"').replace(char::is_control, " "))
    };
    let options = DecoderOptions::default().set_strict_mode(strict).set_max_width(usize::MAX).set_max_height(usize::MAX);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(in_words)?;
    let (Some((width, height)), Some(stored)) = (decoder.dimensions(), decoder.input_colorspace()) else {
        return Err("cannot be decoded (its header says no size); get it again".into());
    };
    super::bounds::check_size(width as u64, height as u64, pixels)?;
    let grey = stored == ColorSpace::Luma;
    decoder.set_options(decoder.options().jpeg_set_out_colorspace(if grey { ColorSpace::Luma } else { ColorSpace::RGB }));
    let found = decoder.decode().map_err(in_words)?;
    let rgb = if grey { found.iter().flat_map(|&level| [level; 3]).collect() } else { found };
    let size = "cannot be decoded (it is not as large as its header says); get it again";
    RgbImage::from_raw(width as u32, height as u32, rgb).ok_or_else(|| size.into())
}

/// Whether a JPEG, of which `picture` was decoded, lacks bytes inside. A decoder that runs out of bits before the picture is full takes
/// what comes next, so such a picture depends on what stands behind its bits; a whole one does not.
pub(super) fn lacks_bytes(bytes: &[u8], picture: &RgbImage, pixels: u64) -> bool {
    padded(bytes).is_some_and(|padded| decode(&padded, pixels, false).ok().as_ref() != Some(picture))
}

/// The file with bytes that mean something behind the bits of each scan; none for what is not coded by Huffman's method, where an
/// encoder may leave out the last bits.
fn padded(bytes: &[u8]) -> Option<Vec<u8>> {
    const PADDING: [u8; 32] = [
        0x5a, 0xc3, 0x17, 0xe8, 0x91, 0x2d, 0x76, 0xb4, 0x0f, 0xd2, 0x69, 0x3c, 0x85, 0xfa, 0x4b, 0xa7, 0x1e, 0x93, 0x58, 0xcd, 0x24, 0xb1,
        0x6f, 0x0a, 0xe5, 0x7c, 0x32, 0x99, 0x47, 0xd8, 0x13, 0xae,
    ];
    let mut out = Vec::with_capacity(bytes.len() + 16 * PADDING.len());
    let (mut done, mut huffman) = (0, false);
    for segment in segments(bytes) {
        huffman |= matches!(segment.marker, 0xc0..=0xc2);
        if segment.marker == START_OF_SCAN {
            out.extend_from_slice(&bytes[done..segment.end]);
            out.extend_from_slice(&PADDING);
            done = segment.end;
        }
    }
    out.extend_from_slice(&bytes[done..]);
    huffman.then_some(out)
}

/// A piece of a JPEG between two markers.
struct Segment<'a> {
    marker: u8,
    body: &'a [u8],
    /// Byte behind it and behind the bits that may follow.
    end: usize,
}

/// The segments of a JPEG, up to its end or to what is none.
fn segments(bytes: &[u8]) -> impl Iterator<Item = Segment<'_>> {
    // Within bits, FF is followed by 0, by a restart marker, or by the next marker.
    let ends_bits = |pair: &[u8]| pair[0] == 0xff && !matches!(pair[1], 0 | 0xd0..=0xd7 | 0xff);
    let mut at = 2;
    std::iter::from_fn(move || {
        while bytes.get(at..)?.starts_with(&[0xff, 0xff]) {
            at += 1; // padding
        }
        let &[0xff, marker, high, low] = bytes.get(at..)?.first_chunk()? else { return None };
        if marker == END_OF_PICTURE {
            return None;
        }
        let end = at + 2 + usize::from(u16::from_be_bytes([high, low]));
        let (body, behind) = (bytes.get(at + 4..end)?, bytes.get(end..)?);
        let bits = if marker == START_OF_SCAN { behind.windows(2).position(ends_bits).unwrap_or(behind.len()) } else { 0 };
        at = end + bits;
        Some(Segment { marker, body, end: at })
    })
}

/// Whether the picture of a JPEG comes to its end: a marker D9 behind the segments of the header, which may hold a thumbnail with
/// an end of its own.
fn has_end(bytes: &[u8]) -> bool {
    // Where the header is odd, the decoder has to say so.
    let before = segments(bytes).take_while(|segment| segment.marker != START_OF_SCAN).last().map_or(2, |segment| segment.end);
    bytes.get(before..).is_some_and(|rest| rest.windows(2).any(|pair| pair == [0xff, END_OF_PICTURE]))
}

/// Whether the decoder is known to make wrong pixels of it: a sequential JPEG with restart markers whose scans have not all
/// components.
fn is_misread(bytes: &[u8]) -> bool {
    let (mut components, mut restarts) = (0, false);
    segments(bytes).any(|Segment { marker, body, .. }| {
        match marker {
            0xc0 | 0xc1 => components = body.get(5).copied().unwrap_or(0),
            RESTART_INTERVAL => restarts = body.iter().any(|&byte| byte != 0),
            _ => {}
        }
        marker == START_OF_SCAN && restarts && body.first().is_some_and(|&found| found < components)
    })
}
