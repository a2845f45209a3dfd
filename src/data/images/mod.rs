//! Pictures of the user's own, in folders of classes or listed in a CSV file: how each becomes a square, and what of them is kept in
//! memory.
//!
//! Whether pictures lie in memory or are decoded for their batch changes no bit: both ways make the same square of a file, and training
//! cuts the same part out of it.

mod held;

use std::path::Path;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::own::Own;
use super::own::tree::{self, Kinds};
use super::photos::{EXTENSIONS, NOT_READ, middle};
use super::resample::{Area, bilinear};
use super::{Dataset, PhotoReading, Photos, Reading, Stream};
use crate::error::Result;

pub(super) use held::{cache, hold, in_order, normalise};

/// How a picture becomes a square.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ImageFit {
    /// The shorter side is resized and the middle cut out.
    #[default]
    Crop,
    /// Both sides are resized, so that shapes change.
    Fit,
    /// The longer side is resized, and what is missing is black, half of it on each side.
    Pad,
}

impl ImageFit {
    /// Whether it is the one that files do not name.
    pub fn is_default(&self) -> bool {
        *self == ImageFit::default()
    }
}

/// Lists the pictures at `place`, a folder or a CSV file; decodes none.
pub(super) fn open(name: &str, place: &Path, reading: &Reading) -> Result<Dataset> {
    let kinds = Kinds { what: "pictures", read: &EXTENSIONS, not_read: &NOT_READ };
    let tree = tree::list(place, &kinds, &reading.own, &[])?;
    let own = Own { place: Own::name(place), share: tree.share, is_normalised: false, note: None, squares: None, tested: Vec::new() };
    let (classes, photos) = (tree.classes.clone(), Photos::of(tree, reading.photos));
    Ok(Dataset { own: Some(own), ..Dataset::streamed(name, classes, Stream::Photos(photos)) })
}

/// A picture (`[rows][columns][3]`) as a square, `[size][size][C]`.
pub fn square(pixels: &[u8], picture: [usize; 2], reading: &PhotoReading) -> Vec<u8> {
    let size = reading.size;
    let whole = Area { pixels, stride: picture[1], at: [0, 0], size: picture };
    let square = match reading.fit {
        ImageFit::Crop => middle(pixels, picture, reading.resize, size),
        ImageFit::Fit => bilinear(&whole, [size; 2]),
        ImageFit::Pad => {
            let longer = picture[0].max(picture[1]).max(1);
            let [height, width] = picture.map(|side| (size * side / longer).max(1));
            let [top, left] = [height, width].map(|side| (size - side) / 2);
            let mut square = vec![0; size * size * 3];
            let rows = square.chunks_exact_mut(size * 3).skip(top);
            for (row, line) in rows.zip(bilinear(&whole, [height, width]).chunks_exact(width * 3)) {
                row[left * 3..][..width * 3].copy_from_slice(line);
            }
            square
        }
    };
    reading.in_channels(square)
}
