//! What the axes of an array mean, and its values in the order of this program: samples, frames, rows, columns, channels.

use std::path::Path;

use super::{Array, Kind, Layout};
use crate::error::{Error, Result};

/// Channels that tell an axis of channels by its size.
const CHANNELS: std::ops::RangeInclusive<usize> = 1..=4;
/// Pixels a side.
const MOST_SIDE: usize = 4096;

/// An array of samples.
#[derive(Clone, Debug)]
pub struct Axes {
    samples: usize,
    kind: Kind,
    /// `[samples][frames][H][W][C]`.
    bytes: Vec<u8>,
}

/// What the sizes of an array say, before any of its values is read.
#[derive(Clone, Copy, Debug)]
pub struct Meaning {
    /// Number of samples.
    pub samples: usize,
    /// Images of a sample.
    pub frames: usize,
    /// Height, width, channels.
    pub shape: [usize; 3],
    kind: Kind,
    /// Channels come before rows.
    is_first: bool,
}

impl Meaning {
    /// Finds out what the axes of an array of these sizes are.
    ///
    /// # Errors
    /// [`Error::File`] for sizes that are no images, or could be several, and for values of a type that is none.
    pub fn of(path: &Path, kind: Kind, sizes: &[usize], layout: Layout) -> Result<Meaning> {
        let bad = |problem: String| Err(Error::file(path, problem));
        if let Kind::Int(..) = kind {
            return bad("has integers of several bytes, or with a sign; images are u8, f32 or f64 (save array.astype('uint8'))".into());
        }
        let is_channels = |size: &usize| CHANNELS.contains(size);
        let first = match (layout, sizes) {
            (Layout::Auto | Layout::Nhwc | Layout::Nchw, [_, _, _]) | (Layout::Nthw, [_, _, _, _]) => false,
            (Layout::Nhwc, [_, _, _, _] | [_, _, _, _, _]) => false,
            (Layout::Nchw, [_, _, _, _] | [_, _, _, _, _]) => true,
            (Layout::Auto, [_, a, _, c] | [_, _, a, _, c]) => match (is_channels(a), is_channels(c)) {
                (true, false) => true,
                (false, true) => false,
                _ => {
                    let problem = "do not tell where the channels are; give --layout nhwc, nchw, or nthw for frames without channels";
                    return bad(format!("its sizes {sizes:?} {problem}"));
                }
            },
            _ => return bad(format!("has sizes {sizes:?}; images are [N][H][W], [N][H][W][C] or [N][C][H][W], frames have T behind N")),
        };
        let (samples, frames, [a, b, c]) = match (layout, sizes) {
            (Layout::Nthw, &[n, t, h, w]) => (n, t, [h, w, 1]),
            (_, &[n, h, w]) => (n, 1, [h, w, 1]),
            (_, &[n, a, b, c]) => (n, 1, [a, b, c]),
            (_, &[n, t, a, b, c]) => (n, t, [a, b, c]),
            _ => (0, 0, [0; 3]), // refused above
        };
        let shape = if first { [b, c, a] } else { [a, b, c] };
        if samples == 0 || shape.contains(&0) || !(1..=255).contains(&frames) {
            return bad(format!("has sizes {sizes:?}: nothing to learn from, or more than 255 frames"));
        }
        if shape[..2].iter().any(|&side| side > MOST_SIDE) || shape[2] > 64 {
            return bad(format!(
                "has images of {}x{} with {} channels; {MOST_SIDE} a side and 64 are the most",
                shape[0], shape[1], shape[2]
            ));
        }
        Ok(Meaning { samples, frames, shape, kind, is_first: first })
    }

    /// Sizes and type of a sample, for people.
    pub fn shown(&self) -> String {
        let [height, width, channels] = self.shape;
        let of = match self.kind {
            Kind::U8 => "bytes",
            _ => "numbers with a point",
        };
        format!("{} frames of {height}x{width}x{channels}, {of}", self.frames)
    }

    /// Whether samples are images of one byte a value.
    pub fn is_bytes(&self) -> bool {
        self.kind == Kind::U8 && self.frames == 1
    }
}

impl Axes {
    /// The samples of an array whose sizes have been understood.
    ///
    /// # Errors
    /// [`Error::File`] for values that are no numbers.
    pub fn of(path: &Path, array: Array, meaning: Meaning) -> Result<Axes> {
        let (Array { kind, bytes, .. }, Meaning { samples, shape, is_first, .. }) = (array, meaning);
        let bytes = if is_first { channels_last(&bytes, shape, kind.bytes()) } else { bytes };
        let axes = Axes { samples, kind, bytes };
        axes.check_numbers(path)?;
        Ok(axes)
    }

    /// Refuses values that are no numbers.
    fn check_numbers(&self, path: &Path) -> Result<()> {
        let not_finite = match self.kind {
            Kind::F32 => self.bytes.as_chunks().0.iter().position(|&bytes| !f32::from_le_bytes(bytes).is_finite()),
            Kind::F64 => self.bytes.as_chunks().0.iter().position(|&bytes| !(f64::from_le_bytes(bytes) as f32).is_finite()),
            _ => None,
        };
        let per_sample = (self.bytes.len() / self.kind.bytes() / self.samples).max(1);
        match not_finite {
            Some(at) => Err(Error::file(path, format!("sample {} has a value that is no finite number; mend it", at / per_sample))),
            None => Ok(()),
        }
    }

    /// The value that stands for 1.
    pub fn max_value(&self) -> u8 {
        if self.kind == Kind::U8 { u8::MAX } else { 1 }
    }

    /// What is not held, and what is.
    pub fn parted(self, held: &[bool]) -> [Axes; 2] {
        let size = self.bytes.len() / self.samples;
        [false, true].map(|wanted| {
            let rows = self.bytes.chunks_exact(size).zip(held).filter(|(_, is_held)| **is_held == wanted);
            let bytes: Vec<u8> = rows.flat_map(|(row, _)| row).copied().collect();
            Axes { samples: bytes.len() / size, bytes, ..self }
        })
    }

    /// `[samples][H][W][C]`.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// `[samples][frames][H][W][C]`, in units of [`Axes::max_value`].
    pub fn into_values(self) -> Vec<f32> {
        match self.kind {
            Kind::F32 => self.bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect(),
            Kind::F64 => self.bytes.as_chunks().0.iter().map(|&bytes| f64::from_le_bytes(bytes) as f32).collect(),
            _ => self.bytes.iter().map(|&byte| f32::from(byte) / f32::from(u8::MAX)).collect(),
        }
    }
}

/// Images with channels first, of values of so many bytes, with channels last.
fn channels_last(bytes: &[u8], [height, width, channels]: [usize; 3], value: usize) -> Vec<u8> {
    let plane = height * width * value;
    let mut out = Vec::with_capacity(bytes.len());
    for image in bytes.chunks_exact(plane * channels) {
        for pixel in (0..plane).step_by(value) {
            (0..channels).for_each(|channel| out.extend_from_slice(&image[channel * plane + pixel..][..value]));
        }
    }
    out
}
