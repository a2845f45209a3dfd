//! Cutout: a square of a training image that is zero for the network (DeVries & Taylor, arXiv:1708.04552).

use bytemuck::{Pod, Zeroable};

use super::augment::{Purpose, below, generator};

/// Rows top..bottom and columns left..right of an image, inside of it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Hole {
    /// First row.
    pub top: i32,
    /// First column.
    pub left: i32,
    /// Row behind the last one.
    pub bottom: i32,
    /// Column behind the last one.
    pub right: i32,
}

impl Hole {
    /// That of image `index` of the training split in `epoch`: a square of `side` pixels around a pixel of the image, each as likely as
    /// any other, of which what lies outside is cut off. `shape` is height, width, channels.
    pub fn draw(side: usize, [height, width, _]: [usize; 3], seed: u64, epoch: u64, index: u64) -> Self {
        let mut rng = generator(seed, Purpose::Cutout, epoch, index);
        let mut ends = |size: usize| {
            let center = below(&mut rng, size as u64) as usize;
            let end = (center + side - side / 2).min(size);
            [center.saturating_sub(side / 2) as i32, end as i32]
        };
        let ([top, bottom], [left, right]) = (ends(height), ends(width));
        Hole { top, left, bottom, right }
    }

    /// Makes these pixels of each frame zero; `sample` is `[frames][H][W][C]`, normalised, so that zero is the mean.
    pub fn clear(self, sample: &mut [f32], [height, width, channels]: [usize; 3]) {
        let [top, left, bottom, right] = [self.top, self.left, self.bottom, self.right].map(|at| at as usize);
        for frame in sample.chunks_exact_mut(height * width * channels) {
            for row in top..bottom {
                frame[(row * width + left) * channels..(row * width + right) * channels].fill(0.0);
            }
        }
    }
}
