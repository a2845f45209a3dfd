//! What a data set holds, told in numbers and in a picture.

use image::{ImageFormat, Rgb, RgbImage};
use serde::Serialize;

use super::arrays::Spread;
use super::catalogue::{self, PerClass};
use super::{Dataset, Part, Split, Stream, moments};
use crate::error::{Error, Result};

/// A data set in numbers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Name of the set.
    pub dataset: String,
    /// Height, width, channels.
    pub shape: [usize; 3],
    /// Images of a sample.
    pub frames: usize,
    /// Byte that stands for 1.0.
    pub max_value: u8,
    /// Mean of each channel that is subtracted from the input.
    pub mean: Vec<f32>,
    /// Standard deviation of each channel that divides the input.
    pub std: Vec<f32>,
    /// Names of the classes.
    pub classes: Vec<String>,
    /// Training split.
    pub train: SplitSummary,
    /// Test split.
    pub test: SplitSummary,
}

/// A split in numbers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SplitSummary {
    /// Number of images.
    pub images: usize,
    /// Number of images of each class.
    pub per_class: Vec<usize>,
    /// Measured mean of each channel, in units of `max_value`; empty for a set whose files are not read for this.
    pub mean: Vec<f64>,
    /// Measured standard deviation of each channel, in units of `max_value`; empty for such a set.
    pub std: Vec<f64>,
    /// The smallest and the largest value, in units of `max_value`; of numbers and of several frames a sample only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range: Option<[f32; 2]>,
    /// CRC-32C of the pixels, `[N][H][W][C]` bytes, followed by the labels, one little-endian u32 each; none for a streamed set.
    #[serde(serialize_with = "hexadecimal")]
    pub crc32c: Option<u32>,
}

fn hexadecimal<S: serde::Serializer>(checksum: &Option<u32>, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    checksum.map(|checksum| format!("{checksum:08x}")).serialize(serializer)
}

/// Counts and measures a data set.
pub fn summarize(dataset: &Dataset) -> Summary {
    let split = |part: Part| {
        let split = dataset.split(part);
        let mut per_class = vec![0; dataset.classes.len()];
        for &label in &split.labels {
            if let Some(count) = per_class.get_mut(label as usize) {
                *count += 1;
            }
        }
        let images = split.len();
        match &dataset.stream {
            None => {
                let (mean, std) = moments(&split.images, dataset.max_value);
                SplitSummary { images, per_class, mean, std, range: None, crc32c: Some(split.checksum()) }
            }
            Some(Stream::Values(values)) => {
                let Spread { mean, std, range } = values.spread(part).clone();
                SplitSummary { images, per_class, mean, std, range: Some(range), crc32c: None }
            }
            Some(_) => SplitSummary { images, per_class, mean: Vec::new(), std: Vec::new(), range: None, crc32c: None },
        }
    };
    Summary {
        dataset: dataset.name.clone(),
        shape: dataset.shape,
        frames: dataset.frames,
        max_value: dataset.max_value,
        mean: dataset.mean.clone(),
        std: dataset.std.clone(),
        classes: dataset.classes.clone(),
        train: split(Part::Train),
        test: split(Part::Test),
    }
}

impl Split {
    /// CRC-32C of the pixels, followed by the labels; of a streamed set, of the labels alone.
    pub fn checksum(&self) -> u32 {
        let labels: Vec<u8> = self.labels.iter().flat_map(|label| label.to_le_bytes()).collect();
        crc32c::crc32c_append(crc32c::crc32c(&self.images.pixels), &labels)
    }
}

/// Where a set differs from the published set of its name, a line each: image size, counts and, for the sets that are built in,
/// checksums. Empty if it is what it should be, and for a set of the user's own.
///
/// # Errors
/// [`Error::Config`] if the set has a name that is not known.
pub fn problems(summary: &Summary) -> Result<Vec<String>> {
    let Some(published) = &catalogue::find(&summary.dataset)?.published else { return Ok(Vec::new()) };
    let mut problems = Vec::new();
    if let Some(shape) = published.shape.filter(|&shape| shape != summary.shape) {
        problems.push(format!("images are {:?} (height, width, channels), published are {shape:?}", summary.shape));
    }
    for (index, (split, which)) in [(&summary.train, "training"), (&summary.test, "test")].into_iter().enumerate() {
        if split.images != published.images[index] {
            problems.push(format!("{} {which} images, published are {}", split.images, published.images[index]));
        }
        let each = split.images / split.per_class.len().max(1);
        match published.per_class {
            PerClass::Equal if split.per_class.iter().any(|&count| count != each) => {
                problems.push(format!("{which} images of each class are {:?}, published are equally many", split.per_class));
            }
            PerClass::Counts(counts) if split.images == published.images[index] && split.per_class != counts[index] => {
                problems.push(format!("{which} images of each class are {:?}, published are {:?}", split.per_class, counts[index]));
            }
            _ => {}
        }
        let checksums = published.crc32c.map(|expected| expected[index]).zip(split.crc32c);
        if let Some((expected, found)) = checksums.filter(|(expected, found)| expected != found) {
            problems.push(format!("{which} split has checksum {found:08x}, published is {expected:08x}"));
        }
    }
    Ok(problems)
}

/// A picture (PNG) with a row a class and the first `columns` images of each class in it, small images enlarged.
///
/// # Errors
/// [`Error::Config`] for 0 columns or a picture too large to be one; that of a sample that cannot be read.
pub fn contact_sheet(dataset: &Dataset, part: Part, columns: usize) -> Result<Vec<u8>> {
    const GAP: usize = 2;
    const MAX_PIXELS: usize = 1 << 26;
    let split = dataset.split(part);
    let picture = |index: usize| match &dataset.stream {
        Some(stream) => stream.thumbnail(part, index),
        None => Ok((dataset.shape, split.images.image(index).to_vec())),
    };
    if columns == 0 {
        return Err(Error::config("per-class", "a sheet needs at least one image a class"));
    }
    let mut rows = vec![Vec::new(); dataset.classes.len()];
    for (index, &label) in split.labels.iter().enumerate() {
        if let Some(row) = rows.get_mut(label as usize).filter(|row| row.len() < columns) {
            row.push(index);
        }
    }
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let ([height, width, channels], _) = picture(0)?;
    let scale = (32 / height.max(width).max(1)).max(1);
    let (cell_height, cell_width) = (height * scale + GAP, width * scale + GAP);
    let (sheet_height, sheet_width) = (rows.len() * cell_height + GAP, columns * cell_width + GAP);
    if sheet_height * sheet_width > MAX_PIXELS {
        let problem = format!("a sheet of {sheet_width}x{sheet_height} has more than {MAX_PIXELS} pixels; ask for fewer images a class");
        return Err(Error::config("per-class", problem));
    }
    // Thumbnails use the whole range.
    let most = if dataset.stream.is_some() { u8::MAX } else { dataset.max_value.max(1) };
    let level = |value: u8| (u32::from(value) * 255 / u32::from(most)).min(255) as u8;
    let mut sheet = RgbImage::from_pixel(sheet_width as u32, sheet_height as u32, Rgb([255, 255, 255]));
    for (row, indices) in rows.iter().enumerate() {
        for (column, &index) in indices.iter().enumerate() {
            let (_, image) = picture(index)?;
            for y in 0..height * scale {
                for x in 0..width * scale {
                    let pixel = &image[(y / scale * width + x / scale) * channels..][..channels];
                    // Grey is three times the same; of two channels (events) the third is the first.
                    let color = Rgb(std::array::from_fn(|c| level(pixel[c % channels])));
                    let (left, top) = (GAP + column * cell_width + x, GAP + row * cell_height + y);
                    sheet.put_pixel(left as u32, top as u32, color);
                }
            }
        }
    }
    let mut png = std::io::Cursor::new(Vec::new());
    sheet.write_to(&mut png, ImageFormat::Png).map_err(|e| Error::config("sheet", format!("cannot be encoded: {e}")))?;
    Ok(png.into_inner())
}
