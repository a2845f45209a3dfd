//! Mean and standard deviation of images.

use super::Images;

/// How often each byte occurs in each channel.
#[derive(Clone, Debug)]
pub(super) struct Levels(Vec<[u64; 256]>);

impl Levels {
    /// Of no pixel.
    pub fn none(channels: usize) -> Self {
        Levels(vec![[0; 256]; channels.max(1)])
    }

    /// Of pixels `[…][C]`.
    pub fn of(pixels: &[u8], channels: usize) -> Self {
        Levels::none(channels).and(pixels)
    }

    /// With further pixels.
    pub fn and(mut self, pixels: &[u8]) -> Self {
        for pixel in pixels.chunks_exact(self.0.len()) {
            for (count, &value) in self.0.iter_mut().zip(pixel) {
                count[usize::from(value)] += 1;
            }
        }
        self
    }

    /// Of the pixels of both.
    pub fn plus(mut self, other: Self) -> Self {
        for (count, more) in self.0.iter_mut().flatten().zip(other.0.iter().flatten()) {
            *count += more;
        }
        self
    }

    /// Mean and (population) standard deviation of each channel, in units of `max_value`. The sums are integers, hence exact.
    pub fn moments(&self, max_value: u8) -> (Vec<f64>, Vec<f64>) {
        let one = f64::from(max_value.max(1));
        let of_channel = |count: &[u64; 256]| {
            let sum = |power: u32| count.iter().zip(0u64..).map(|(n, value)| n * value.pow(power)).sum::<u64>() as f64;
            let n = sum(0).max(1.0);
            let mean = sum(1) / n;
            (mean / one, (sum(2) / n - mean * mean).max(0.0).sqrt() / one)
        };
        self.0.iter().map(of_channel).unzip()
    }

    /// What is subtracted from the input of a network, and what divides it.
    pub fn normalisation(&self, max_value: u8) -> (Vec<f32>, Vec<f32>) {
        let (mean, std) = self.moments(max_value);
        // A channel that never changes carries nothing; dividing it by 1 keeps it finite.
        let std = std.iter().map(|&s| if s > 0.0 { s as f32 } else { 1.0 }).collect();
        (mean.iter().map(|&m| m as f32).collect(), std)
    }
}

/// Mean and (population) standard deviation of each channel, in units of `max_value`.
pub fn moments(images: &Images, max_value: u8) -> (Vec<f64>, Vec<f64>) {
    Levels::of(&images.pixels, images.shape[2]).moments(max_value)
}
