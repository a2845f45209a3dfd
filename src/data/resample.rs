//! Resizing of pictures as Pillow does it, bit for bit: bilinear, widened where a picture gets smaller, with weights of 22 bits
//! behind the point, columns and rows one after the other, each rounded to a byte.

use std::ops::Range;

/// Bits behind the point of a weight: 32 less 8 for a byte and 2 against overflow.
const PRECISION: u32 = 22;

const CHANNELS: usize = 3;

/// A rectangle of a picture, `[H][W][3]` bytes.
#[derive(Clone, Copy, Debug)]
pub struct Area<'a> {
    /// The whole picture.
    pub pixels: &'a [u8],
    /// Columns of the whole picture.
    pub stride: usize,
    /// First row and column.
    pub at: [usize; 2],
    /// Rows and columns.
    pub size: [usize; 2],
}

impl Area<'_> {
    /// One row, `[W][3]`.
    fn row(&self, y: usize) -> &[u8] {
        &self.pixels[((self.at[0] + y) * self.stride + self.at[1]) * CHANNELS..][..self.size[1] * CHANNELS]
    }
}

/// The area at another size (rows, columns), `[H][W][3]`. All sizes are at least 1.
pub fn bilinear(area: &Area, to: [usize; 2]) -> Vec<u8> {
    bilinear_part(area, to, [0, 0], to)
}

/// Of the area at another size, `to`, the `size` rows and columns that begin at `at`; only these are computed. They lie inside.
pub fn bilinear_part(area: &Area, to: [usize; 2], at: [usize; 2], size: [usize; 2]) -> Vec<u8> {
    let ([rows, columns], [height, width]) = (area.size, to);
    let (y, x) = (Axis::new(rows, height, at[0], size[0]), Axis::new(columns, width, at[1], size[1]));
    let seen = Area { at: [area.at[0] + y.begin, area.at[1] + x.begin], size: [y.len, x.len], ..*area };
    // The order matters, since a byte lies between: Pillow does rows first where there get fewer of them and more columns.
    if height < rows && width > columns {
        let pixels = with_rows(&seen, &y);
        return with_columns(&Area { pixels: &pixels, stride: x.len, at: [0, 0], size: [size[0], x.len] }, &x);
    }
    let pixels = with_columns(&seen, &x);
    with_rows(&Area { pixels: &pixels, stride: size[1], at: [0, 0], size: [y.len, size[1]] }, &y)
}

/// How places come from rows, or columns.
struct Axis {
    /// The first place that is seen.
    begin: usize,
    /// Places that are seen.
    len: usize,
    /// For each new place the first one that it sees, counted from `begin`, and weights; none where the size stays.
    taps: Option<Vec<(usize, Vec<i32>)>>,
}

impl Axis {
    /// `size` places from `at` on, when `from` places become `to`.
    fn new(from: usize, to: usize, at: usize, size: usize) -> Self {
        if from == to {
            return Axis { begin: at, len: size, taps: None };
        }
        let mut taps = weights(from, to, at..at + size);
        let begin = taps.first().map_or(0, |(first, _)| *first);
        let end = taps.iter().map(|(first, weights)| first + weights.len()).max().unwrap_or(begin);
        taps.iter_mut().for_each(|(first, _)| *first -= begin);
        Axis { begin, len: end - begin, taps: Some(taps) }
    }
}

/// The area with other columns.
fn with_columns(area: &Area, axis: &Axis) -> Vec<u8> {
    let rows = area.size[0];
    let Some(taps) = &axis.taps else {
        return (0..rows).flat_map(|y| area.row(y)).copied().collect();
    };
    let mut out = Vec::with_capacity(rows * taps.len() * CHANNELS);
    for y in 0..rows {
        let row = area.row(y);
        for (first, taps) in taps {
            let mut sums = [HALF; CHANNELS];
            for (pixel, &weight) in row[first * CHANNELS..].chunks_exact(CHANNELS).zip(taps) {
                for (sum, &byte) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(byte) * weight;
                }
            }
            out.extend(sums.map(rounded));
        }
    }
    out
}

/// The area with other rows.
fn with_rows(area: &Area, axis: &Axis) -> Vec<u8> {
    let [rows, columns] = area.size;
    let Some(taps) = &axis.taps else {
        return (0..rows).flat_map(|y| area.row(y)).copied().collect();
    };
    let mut out = Vec::with_capacity(taps.len() * columns * CHANNELS);
    let mut sums = vec![0; columns * CHANNELS];
    for (first, taps) in taps {
        sums.fill(HALF);
        for (y, weight) in (*first..).zip(taps) {
            for (sum, &byte) in sums.iter_mut().zip(area.row(y)) {
                *sum += i32::from(byte) * weight;
            }
        }
        out.extend(sums.iter().map(|&sum| rounded(sum)));
    }
    out
}

const HALF: i32 = 1 << (PRECISION - 1);

fn rounded(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// For some of `to` places the first of `from` places that each sees, and the weight of that and of those after it.
fn weights(from: usize, to: usize, places: Range<usize>) -> Vec<(usize, Vec<i32>)> {
    let scale = from as f64 / to as f64;
    let reach = scale.max(1.0);
    let of_place = |place: usize| {
        let center = (place as f64 + 0.5) * scale;
        // Halves round up, and what lies before the first place counts as the first.
        let first = (center - reach + 0.5).max(0.0) as usize;
        let end = ((center + reach + 0.5) as usize).min(from);
        let triangle = |seen: usize| (1.0 - ((seen as f64 - center + 0.5) * (1.0 / reach)).abs()).max(0.0);
        let weights: Vec<f64> = (first..end).map(triangle).collect();
        let total = weights.iter().fold(0.0, |total, weight| total + weight);
        let fixed = |weight: f64| (0.5 + weight / total * f64::from(1 << PRECISION)) as i32;
        (first, weights.into_iter().map(fixed).collect())
    };
    places.map(of_place).collect()
}
