//! Operations of AutoAugment on pictures of one byte a value, with the bytes of torchvision 0.29 on PIL images (Pillow 13.0).
//!
//! Published recipes augment PIL images. Pillow computes with integers and single operations in a stated order, so its bytes are the same
//! everywhere; those of torchvision on tensors come from a matrix product.

/// What is done to a picture, by torchvision's names; what a magnitude is, see [`apply`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    ShearX,
    ShearY,
    TranslateX,
    TranslateY,
    Rotate,
    Brightness,
    Color,
    Contrast,
    Sharpness,
    Posterize,
    Solarize,
    AutoContrast,
    Equalize,
    Invert,
}

/// Changes a picture, `[H][W][C]` bytes, in place; C is 1 (grey) or 3 (RGB), and sides are below 32,768 pixels.
///
/// The magnitude is a slope for the shears, pixels (without their fraction) for the translations, degrees between −90 and 90, counter-
/// clockwise, for a rotation, the distance of the factor to 1 for brightness, color, contrast and sharpness, the bits that are kept, 1..=8,
/// for posterize, and the least value that is inverted for solarize; the others have none. What comes in from outside is black, and
/// the nearest pixel is taken. A grey picture has no colour to change.
pub fn apply(operation: Operation, magnitude: f64, picture: &mut [u8], shape: [usize; 3]) {
    let channels = shape[2];
    // As torchvision makes an angle of the slope, and the slope again of that.
    let angle = magnitude.atan().to_degrees().to_radians();
    let factor = (1.0 + magnitude) as f32;
    match operation {
        Operation::ShearX => warp(picture, shape, [1.0, angle.tan(), 0.0, 0.0, 1.0, 0.0]),
        Operation::ShearY => warp(picture, shape, [1.0, 0.0, 0.0, angle.sin() / angle.cos(), 1.0, 0.0]),
        Operation::TranslateX => warp(picture, shape, [1.0, 0.0, -magnitude.trunc(), 0.0, 1.0, 0.0]),
        Operation::TranslateY => warp(picture, shape, [1.0, 0.0, 0.0, 0.0, 1.0, -magnitude.trunc()]),
        Operation::Rotate => rotate(picture, shape, magnitude),
        Operation::Brightness => blend(picture, factor, |_, _| 0),
        Operation::Color if channels == 3 => {
            let greys: Vec<u8> = picture.chunks_exact(3).map(grey).collect();
            blend(picture, factor, |at, _| greys[at / 3]);
        }
        Operation::Color => {}
        Operation::Contrast => {
            let greys = picture.chunks_exact(channels).map(|pixel| u64::from(grey(pixel)));
            let mean = greys.sum::<u64>() as f64 / (picture.len() / channels) as f64;
            blend(picture, factor, |_, _| (mean + 0.5) as u8);
        }
        Operation::Sharpness => {
            let smooth = smoothed(picture, shape);
            blend(picture, factor, |at, _| smooth[at]);
        }
        Operation::Posterize => {
            let bits = (magnitude as u32).min(8);
            let mask = !((1u32 << (8 - bits)) - 1) as u8;
            picture.iter_mut().for_each(|value| *value &= mask);
        }
        Operation::Solarize => {
            picture.iter_mut().filter(|value| f64::from(**value) >= magnitude).for_each(|value| *value = 255 - *value);
        }
        Operation::AutoContrast => by_channel(picture, channels, stretched),
        Operation::Equalize => by_channel(picture, channels, equalized),
        Operation::Invert => picture.iter_mut().for_each(|value| *value = 255 - *value),
    }
}

/// Pillow's luma of a pixel.
fn grey(pixel: &[u8]) -> u8 {
    match *pixel {
        [red, green, blue] => ((u32::from(red) * 19595 + u32::from(green) * 38470 + u32::from(blue) * 7471 + 0x8000) >> 16) as u8,
        _ => pixel[0],
    }
}

/// Rotates about the middle, by Pillow's matrix, whose numbers have 15 decimals.
fn rotate(picture: &mut [u8], shape: [usize; 3], degrees: f64) {
    let degrees = degrees.rem_euclid(360.0);
    if degrees == 0.0 {
        return;
    }
    let angle = -degrees.to_radians();
    let rounded = |value: f64| format!("{value:.15}").parse().unwrap_or(value);
    let (cos, sin, minus_sin) = (rounded(angle.cos()), rounded(angle.sin()), rounded(-angle.sin()));
    let [y, x] = [shape[0] as f64 / 2.0, shape[1] as f64 / 2.0];
    warp(picture, shape, [cos, sin, cos * -x + sin * -y + x, minus_sin, cos, minus_sin * -x + cos * -y + y]);
}

/// The pixel at (x, y) becomes that at (a·x + b·y + c, d·x + e·y + f), all taken in the middle of a pixel; in fixed point with 16 bits
/// behind the point, as Pillow.
fn warp(picture: &mut [u8], [height, width, channels]: [usize; 3], [a, b, c, d, e, f]: [f64; 6]) {
    let fixed = |value: f64| (value * 65536.0 + 0.5).floor() as i64;
    let ([a_x, a_y], [b_x, b_y]) = ([fixed(a), fixed(d)], [fixed(b), fixed(e)]);
    let (mut row_x, mut row_y) = (fixed(c + a * 0.5 + b * 0.5), fixed(f + d * 0.5 + e * 0.5));
    let before = picture.to_vec();
    for row in picture.chunks_exact_mut(width * channels) {
        let (mut x, mut y) = (row_x, row_y);
        for pixel in row.chunks_exact_mut(channels) {
            let inside = |at: i64, size: usize| usize::try_from(at >> 16).ok().filter(|&at| at < size);
            match inside(y, height).zip(inside(x, width)) {
                Some((y, x)) => pixel.copy_from_slice(&before[(y * width + x) * channels..][..channels]),
                None => pixel.fill(0),
            }
            (x, y) = (x + a_x, y + a_y);
        }
        (row_x, row_y) = (row_x + b_x, row_y + b_y);
    }
}

/// From another value, of place and value, to the picture's own: 0 is the other, 1 the own, and beyond both it goes on.
fn blend(picture: &mut [u8], factor: f32, other: impl Fn(usize, u8) -> u8) {
    for (at, value) in picture.iter_mut().enumerate() {
        let other = f32::from(other(at, *value));
        // A cast cuts off the fraction and ends at 0 and 255.
        *value = (other + factor * (f32::from(*value) - other)) as u8;
    }
}

/// Each pixel counts 5 and its 8 neighbours 1, of 13; pixels at the border stay. The order of the sum is Pillow's: rows from the last.
fn smoothed(picture: &[u8], [height, width, channels]: [usize; 3]) -> Vec<u8> {
    let mut out = picture.to_vec();
    let (one, five) = (1.0f32 / 13.0, 5.0f32 / 13.0);
    let line = width * channels;
    for y in 1..height.saturating_sub(1) {
        for x in channels..line.saturating_sub(channels) {
            let at = y * line + x;
            let row = |at: usize, middle: f32| {
                let [left, own, right] = [at - channels, at, at + channels].map(|at| f32::from(picture[at]));
                left * one + own * middle + right * one
            };
            out[at] = (0.5 + row(at + line, one) + row(at, five) + row(at - line, one)) as u8;
        }
    }
    out
}

/// Replaces the values of each channel by what a table, made of their histogram, has for them.
fn by_channel(picture: &mut [u8], channels: usize, table: impl Fn(&[usize; 256]) -> [u8; 256]) {
    for channel in 0..channels {
        let mut histogram = [0; 256];
        picture.iter().skip(channel).step_by(channels).for_each(|&value| histogram[usize::from(value)] += 1);
        let table = table(&histogram);
        picture.iter_mut().skip(channel).step_by(channels).for_each(|value| *value = table[usize::from(*value)]);
    }
}

fn unchanged() -> [u8; 256] {
    std::array::from_fn(|value| value as u8)
}

/// The least value becomes 0, the largest 255.
fn stretched(histogram: &[usize; 256]) -> [u8; 256] {
    let place = |count: &usize| *count > 0;
    let (Some(low), Some(high)) = (histogram.iter().position(place), histogram.iter().rposition(place)) else { return unchanged() };
    if high <= low {
        return unchanged();
    }
    let scale = 255.0 / (high - low) as f64;
    let offset = -(low as f64) * scale;
    std::array::from_fn(|value| (value as f64 * scale + offset) as u8)
}

/// Equally many pixels for equally long ranges of values.
fn equalized(histogram: &[usize; 256]) -> [u8; 256] {
    let Some(&last) = histogram.iter().rfind(|&&count| count > 0) else { return unchanged() };
    let step = (histogram.iter().sum::<usize>() - last) / 255;
    if step == 0 {
        return unchanged();
    }
    let mut before = step / 2;
    histogram.map(|count| {
        let value = (before / step).min(255) as u8;
        before += count;
        value
    })
}
