//! How large a picture in a file may be.

/// Pixels that the picture in a file of so many bytes may have: a header that promises more is not believed. The larger a picture,
/// the less plain it may be; 512 pixels per byte are as many as a JPEG can have.
pub fn allowed_pixels(bytes: usize) -> u64 {
    const ANY: u64 = 1 << 20;
    const STEPS: [[u64; 2]; 3] = [[512, 1 << 22], [128, 1 << 24], [32, 1 << 27]];
    STEPS.iter().fold(ANY, |allowed, [per_byte, most]| allowed.max((per_byte * bytes as u64).min(*most)))
}

/// Holds a size against [`allowed_pixels`]; a picture has at least one, which not every format sees to.
pub(super) fn check_size(width: u64, height: u64, pixels: u64) -> std::result::Result<(), String> {
    if width == 0 || height == 0 {
        return Err(format!("has {width}x{height} pixels, so there is no picture in it; get it again"));
    }
    if width * height > pixels {
        return Err(format!(
            "promises {width}x{height} pixels, more than the {pixels} that a file of its length may have (docs/data.md); get it again"
        ));
    }
    Ok(())
}
