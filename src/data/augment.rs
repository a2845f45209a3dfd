//! From bytes to the input of a network: crop, flip, normalise. Each image has random numbers of its own.

use rand::RngCore;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};

use super::{AutoAugment, DataCard, Dataset, EventChange, Form, Hole, Stream};
use crate::error::{Error, Result};

/// Random changes of a training image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Augment {
    /// Pixels of black (byte 0, before normalisation) put around an image before a part of its old size is cut out.
    pub crop_pad: usize,
    /// Mirrors every second image, left to right.
    pub flip: bool,
    /// Pixels a side of the square that is zero for the network ([`Hole`]); 0 for none.
    pub cutout: usize,
    /// Operations on whole pictures, after crop and flip and before all else.
    pub auto_augment: AutoAugment,
    /// α of the distribution of shares in which the samples of a batch are mixed ([`super::Mix`]); 0 for none.
    pub mixup: f64,
    /// What else happens to recordings.
    pub events: EventChange,
}

/// What happens to one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    /// Row of the padded image at which the cut begins, 0..=2·`crop_pad`.
    pub top: usize,
    /// Column of the padded image at which the cut begins, 0..=2·`crop_pad`.
    pub left: usize,
    /// Mirrored after the cut.
    pub flip: bool,
}

impl Draw {
    /// The part of a frame, `[side][side][2]`, that is drawn, padded with 0 as in [`Pixels::append_drawn`], into `out` of that shape.
    pub fn cut(self, frame: &[f32], side: usize, pad: usize, out: &mut [f32]) {
        for (y, line) in out.chunks_exact_mut(2 * side).enumerate() {
            let row = (y + self.top).checked_sub(pad).filter(|&row| row < side);
            for (x, values) in line.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                let column = if self.flip { side - 1 - x } else { x };
                let column = (column + self.left).checked_sub(pad).filter(|&column| column < side);
                *values = row.zip(column).map_or([0.0; 2], |(row, column)| [0, 1].map(|c| frame[(row * side + column) * 2 + c]));
            }
        }
    }
}

impl Augment {
    /// Checks that a crop of images of this shape cannot miss them.
    ///
    /// # Errors
    /// [`Error::Config`] otherwise.
    pub fn check(&self, shape: [usize; 3]) -> Result<()> {
        if self.crop_pad >= shape[0].min(shape[1]) && self.crop_pad > 0 {
            let problem = format!("a padding of {} pixels could cut an image of {}x{} away; lower it", self.crop_pad, shape[0], shape[1]);
            return Err(Error::config("crop-pad", problem));
        }
        let most = shape[0].min(shape[1]);
        if self.cutout > most {
            let problem = format!("{} is not in 0..={most}: images are {}x{}", self.cutout, shape[0], shape[1]);
            return Err(Error::config("cutout", problem));
        }
        Ok(())
    }

    /// What happens to image `index` of the training split in `epoch`. Depends on nothing else, so neither the size of a batch,
    /// nor the thread, nor a resumed epoch changes it.
    pub fn draw(&self, seed: u64, epoch: u64, index: u64) -> Draw {
        let mut rng = generator(seed, Purpose::Augment, epoch, index);
        let offsets = 2 * self.crop_pad as u64 + 1;
        let (top, left) = (below(&mut rng, offsets), below(&mut rng, offsets));
        Draw { top: top as usize, left: left as usize, flip: self.flip && below(&mut rng, 2) == 1 }
    }

    /// Checks that a data set has pictures for [`AutoAugment`], whose magnitudes are for bytes up to 255.
    ///
    /// # Errors
    /// [`Error::Config`] otherwise.
    pub fn check_pictures(&self, dataset: &Dataset) -> Result<()> {
        let Dataset { name, shape, max_value, .. } = dataset;
        let problem = match (self.auto_augment, shape[2]) {
            (AutoAugment::Off, _) => return Ok(()),
            _ if matches!(dataset.stream, Some(Stream::Values(_))) => {
                format!("samples of {name} are numbers and not bytes, or several frames")
            }
            _ if !dataset.has_bytes() => format!("{name} has recordings of events"),
            (_, channels) if !matches!(channels, 1 | 3) => format!("pictures of {name} have {channels} channels"),
            _ if *max_value != u8::MAX => format!("pictures of {name} have bytes in 0..={max_value}"),
            _ => return Ok(()),
        };
        let name = self.auto_augment.name();
        Err(Error::config(
            "auto-augment",
            format!("{name}: {problem}, and it is for pictures, grey or RGB, of bytes in 0..=255; turn it off"),
        ))
    }

    /// The form of batches in which these changes can be made, where `wanted` is asked for: samples are mixed as values, and the host does
    /// the operations of AutoAugment.
    pub fn form(&self, wanted: Form) -> Form {
        match wanted {
            _ if self.mixup > 0.0 => Form::Values,
            Form::Draws if !self.auto_augment.is_off() => Form::Bytes,
            _ => wanted,
        }
    }

    /// The square of image `index` that is zero for the network; none without cutout.
    pub fn hole(&self, shape: [usize; 3], seed: u64, epoch: u64, index: u64) -> Option<Hole> {
        (self.cutout > 0).then(|| Hole::draw(self.cutout, shape, seed, epoch, index))
    }
}

/// What random numbers are for; each purpose has its own.
#[derive(Clone, Copy)]
pub(super) enum Purpose {
    Order = 0,
    Augment = 1,
    HoldOut = 2,
    Cutout = 3,
    Mixup = 4,
    AutoAugment = 5,
    Normalisation = 6,
    Events = 7,
}

/// Random numbers of one purpose, epoch and image: the first three are the key of ChaCha8, the last is its stream.
pub(super) fn generator(seed: u64, purpose: Purpose, epoch: u64, index: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&epoch.to_le_bytes());
    key[16] = purpose as u8;
    let mut rng = ChaCha8Rng::from_seed(key);
    rng.set_stream(index);
    rng
}

/// A number below `n`, by one multiplication: unlike a library's method it will never change, and with it never what a seed means.
/// Its bias is below n / 2⁶⁴.
pub(super) fn below(rng: &mut ChaCha8Rng, n: u64) -> u64 {
    ((u128::from(rng.next_u64()) * u128::from(n)) >> 64) as u64
}

/// A number in low..high, of which every one of 2⁵³ steps is as likely as any other.
pub(super) fn uniform(rng: &mut ChaCha8Rng, [low, high]: [f64; 2]) -> f64 {
    const STEP: f64 = 1.0 / (1u64 << 53) as f64;
    low + (high - low) * ((rng.next_u64() >> 11) as f64 * STEP)
}

/// What each byte of each channel is for the network.
#[derive(Clone, Debug, PartialEq)]
pub struct Pixels {
    shape: [usize; 3],
    /// `[C][256]`.
    table: Vec<[f32; 256]>,
}

impl Pixels {
    /// (byte / max_value − mean) / std, in the order and precision of torchvision's ToTensor and Normalize.
    pub fn of(dataset: &Dataset) -> Self {
        Self::of_card(&dataset.card())
    }

    /// The same for a network whose data are not there.
    pub fn of_card(card: &DataCard) -> Self {
        let one = f32::from(card.max_value);
        let channel = |(&mean, &std): (&f32, &f32)| std::array::from_fn(|byte| (byte as f32 / one - mean) / std);
        Pixels { shape: card.shape, table: card.mean.iter().zip(&card.std).map(channel).collect() }
    }

    /// Height, width, channels of a picture.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// The same as one piece, `[C][256]`.
    pub fn table(&self) -> Vec<f32> {
        self.table.concat()
    }

    /// Appends an image, `[H][W][C]` bytes, as it is.
    pub fn append(&self, image: &[u8], out: &mut Vec<f32>) {
        for pixel in image.chunks_exact(self.shape[2]) {
            out.extend(pixel.iter().zip(&self.table).map(|(&byte, table)| table[usize::from(byte)]));
        }
    }

    /// An image, `[H][W][C]` bytes, mirrored or not, into as many bytes.
    pub fn fill_bytes(&self, image: &[u8], flip: bool, out: &mut [u8]) {
        let [_, width, channels] = self.shape;
        if !flip {
            out.copy_from_slice(image);
            return;
        }
        for (line, row) in out.chunks_exact_mut(width * channels).zip(image.chunks_exact(width * channels)) {
            for (to, pixel) in line.chunks_exact_mut(channels).rev().zip(row.chunks_exact(channels)) {
                to.copy_from_slice(pixel);
            }
        }
    }

    /// An image, `[H][W][C]` bytes, mirrored or not, into as many values.
    pub fn fill(&self, image: &[u8], flip: bool, out: &mut [f32]) {
        let channels = self.table.len();
        let width = self.shape[1];
        for (line, row) in out.chunks_exact_mut(width * channels).zip(image.chunks_exact(width * channels)) {
            for (x, pixel) in row.chunks_exact(channels).enumerate() {
                let place = if flip { width - 1 - x } else { x };
                let values = line[place * channels..].iter_mut().zip(pixel).zip(&self.table);
                values.for_each(|((value, &byte), table)| *value = table[usize::from(byte)]);
            }
        }
    }

    /// Appends an image, `[H][W][C]` bytes, padded by `pad` pixels on each side, cut and mirrored as drawn.
    pub fn append_drawn(&self, image: &[u8], pad: usize, draw: Draw, out: &mut Vec<f32>) {
        self.each_drawn(image, pad, draw, |pixel| match pixel {
            Some(pixel) => self.append(pixel, out),
            None => out.extend(self.table.iter().map(|table| table[0])),
        });
    }

    /// The same as bytes: padding is black, which [`Pixels::append`] makes the same value of.
    pub fn append_drawn_bytes(&self, image: &[u8], pad: usize, draw: Draw, out: &mut Vec<u8>) {
        self.each_drawn(image, pad, draw, |pixel| match pixel {
            Some(pixel) => out.extend_from_slice(pixel),
            None => out.extend(self.table.iter().map(|_| 0)),
        });
    }

    /// Each pixel of what is drawn of an image, none for one of the padding.
    fn each_drawn(&self, image: &[u8], pad: usize, draw: Draw, mut take: impl FnMut(Option<&[u8]>)) {
        let [height, width, channels] = self.shape;
        for y in 0..height {
            // Row and columns of the image that the cut shows; what lies outside is padding.
            let row = (y + draw.top).checked_sub(pad).filter(|&row| row < height);
            for x in 0..width {
                let column = if draw.flip { width - 1 - x } else { x };
                let column = (column + draw.left).checked_sub(pad).filter(|&column| column < width);
                take(row.zip(column).map(|(row, column)| &image[(row * width + column) * channels..][..channels]));
            }
        }
    }
}
