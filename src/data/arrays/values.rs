//! Samples that are numbers with a point, or several frames: in memory, as a network takes them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::data::stream::Chance;
use crate::data::{Draw, Part};
use crate::error::{Error, Result};

/// Samples of several frames, or of values that are no bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Values {
    /// Height, width, channels.
    pub shape: [usize; 3],
    /// Images of a sample.
    pub frames: usize,
    /// What they were read from.
    path: PathBuf,
    /// `[samples][frames][H][W][C]`, normalised; training samples first.
    values: Arc<Vec<f32>>,
    /// What a value of 0 has become, for each channel.
    zero: Vec<f32>,
    /// Class of each sample and its place in `values`, training and test.
    samples: [Vec<(u32, usize)>; 2],
    /// What the values of both splits were before they were normalised.
    spread: [Spread; 2],
}

/// What values are like.
#[derive(Clone, Debug, PartialEq)]
pub struct Spread {
    /// Mean of each channel.
    pub mean: Vec<f64>,
    /// Standard deviation of each channel.
    pub std: Vec<f64>,
    /// The smallest and the largest.
    pub range: [f32; 2],
}

impl Values {
    /// Training and test samples, each with its labels, normalised by what is `given` or else by mean and deviation of the training
    /// samples, which come with it.
    pub(super) fn new(
        path: &Path,
        shape: [usize; 3],
        frames: usize,
        splits: [(Vec<f32>, Vec<u32>); 2],
        given: Option<[Vec<f32>; 2]>,
    ) -> Result<(Values, [Vec<f32>; 2])> {
        let channels = shape[2];
        let [(train, train_labels), (test, test_labels)] = splits;
        let spread = [Spread::of(&train, channels), Spread::of(&test, channels)];
        let [mean, std] = given.unwrap_or_else(|| spread[0].normalisation());
        let first_test = train_labels.len();
        let samples = [train_labels.into_iter().zip(0..).collect(), test_labels.into_iter().zip(first_test..).collect()];
        let mut values = train;
        values.extend_from_slice(&test);
        drop(test);
        for pixel in values.chunks_exact_mut(channels) {
            pixel.iter_mut().zip(mean.iter().zip(&std)).for_each(|(value, (mean, std))| *value = (*value - mean) / std);
        }
        if !values.iter().all(|value| value.is_finite()) {
            return Err(Error::file(path, "has values too far apart to be normalised; give --mean and --std, or scale them"));
        }
        let zero = mean.iter().zip(&std).map(|(mean, std)| (0.0 - mean) / std).collect();
        Ok((Values { shape, frames, path: path.to_path_buf(), values: Arc::new(values), zero, samples, spread }, [mean, std]))
    }

    /// Class of each sample.
    pub fn labels(&self, part: Part) -> Vec<u32> {
        self.samples[part as usize].iter().map(|sample| sample.0).collect()
    }

    /// Number of samples.
    pub fn len(&self, part: Part) -> usize {
        self.samples[part as usize].len()
    }

    /// What the values of a split were in their file, before samples were held out or normalised.
    pub fn spread(&self, part: Part) -> &Spread {
        &self.spread[part as usize]
    }

    /// The file they are from.
    pub fn path(&self) -> PathBuf {
        self.path.clone()
    }

    /// A sample, `[frames][H][W][C]`.
    fn sample(&self, part: Part, index: usize) -> &[f32] {
        let size = self.frames * self.shape.iter().product::<usize>();
        &self.values[self.samples[part as usize][index].1 * size..][..size]
    }

    /// Puts a sample into `out`: as it is tested on, or, with `chance`, as it is trained on. All frames are cut at the same place.
    pub(in crate::data) fn fill(&self, part: Part, index: usize, chance: Option<&Chance>, out: &mut [f32]) {
        let sample = self.sample(part, index);
        let Some(Chance { augment, seed, epoch }) = chance else { return out.copy_from_slice(sample) };
        let draw = augment.draw(*seed, *epoch, index as u64);
        let size = self.shape.iter().product();
        for (frame, out) in sample.chunks_exact(size).zip(out.chunks_exact_mut(size)) {
            self.cut(draw, frame, augment.crop_pad, out);
        }
    }

    /// The part of a frame that is drawn, with zeros, as they are before normalisation, around it.
    fn cut(&self, draw: Draw, frame: &[f32], pad: usize, out: &mut [f32]) {
        let [height, width, channels] = self.shape;
        for (at, pixel) in out.chunks_exact_mut(channels).enumerate() {
            let (y, x) = (at / width, at % width);
            let row = (y + draw.top).checked_sub(pad).filter(|&row| row < height);
            let column = if draw.flip { width - 1 - x } else { x };
            let column = (column + draw.left).checked_sub(pad).filter(|&column| column < width);
            let from = row.zip(column).map(|(row, column)| &frame[(row * width + column) * channels..][..channels]);
            pixel.copy_from_slice(from.unwrap_or(&self.zero));
        }
    }

    /// A small picture of a sample: the mean of its frames, from its least value to its largest.
    pub(in crate::data) fn thumbnail(&self, part: Part, index: usize) -> ([usize; 3], Vec<u8>) {
        let (sample, size) = (self.sample(part, index), self.shape.iter().product::<usize>());
        let total: Vec<f32> = (0..size).map(|place| sample.iter().skip(place).step_by(size).sum()).collect();
        let (least, most) = total.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(least, most), &v| (least.min(v), most.max(v)));
        let range = (most - least).max(f32::MIN_POSITIVE);
        (self.shape, total.iter().map(|&value| ((value - least) / range * 255.0) as u8).collect())
    }

    /// The set without the training samples that are `held` out, and one that is tested on these.
    pub(in crate::data) fn hold_out(&self, held: &[bool]) -> (Values, Values) {
        let [train, test] = &self.samples;
        let part = |wanted: bool| train.iter().zip(held).filter(|(_, is_held)| **is_held == wanted).map(|(sample, _)| *sample).collect();
        let rest = Values { samples: [part(false), test.clone()], ..self.clone() };
        (rest, Values { samples: [Vec::new(), part(true)], ..self.clone() })
    }
}

impl Spread {
    /// Sums are taken in 64 bits in the order of the values.
    fn of(values: &[f32], channels: usize) -> Spread {
        let n = (values.len() / channels).max(1) as f64;
        let of = |term: &dyn Fn(usize, f64) -> f64| {
            let mut sums = vec![0.0; channels];
            for pixel in values.chunks_exact(channels) {
                sums.iter_mut().zip(pixel).enumerate().for_each(|(channel, (sum, &value))| *sum += term(channel, f64::from(value)));
            }
            sums.iter().map(|sum| sum / n).collect::<Vec<f64>>()
        };
        let mean = of(&|_, value| value);
        let variance = of(&|channel, value| (value - mean[channel]).powi(2));
        let range = values.iter().fold([f32::INFINITY, f32::NEG_INFINITY], |[least, most], &v| [least.min(v), most.max(v)]);
        Spread { mean, std: variance.iter().map(|variance| variance.sqrt()).collect(), range }
    }

    /// Mean and deviation to normalise by; values that are all alike are divided by 1.
    fn normalisation(&self) -> [Vec<f32>; 2] {
        let std = |&std: &f64| if std as f32 > 0.0 { std as f32 } else { 1.0 };
        [self.mean.iter().map(|&mean| mean as f32).collect(), self.std.iter().map(std).collect()]
    }
}
