//! Softmax cross-entropy over the batch.

mod cpu;
pub mod cuda;
pub use cpu::{cross_entropy, cross_entropy_of, first_largest, summed_cross_entropy};

use bytemuck::{Pod, Zeroable};

/// The other class of a sample that was mixed of two.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
pub struct Blend {
    /// Class of the other sample.
    pub other: u32,
    /// Share of the sample's own class, 0..=1; the rest is the other's.
    pub share: f32,
}

/// What the logits should say, sample by sample.
#[derive(Clone, Copy, Debug)]
pub struct Targets<'a> {
    /// Classes, `[B]`.
    pub labels: &'a [u32],
    /// The other class of each sample, `[B]`, or none: the loss is `share` times that for the own class, plus the rest for the other.
    pub blends: &'a [Blend],
    /// Share of a target, 0 ≤ share < 1, that all classes have in equal parts; its own class has the rest on top. As `label_smoothing`
    /// of `torch.nn.CrossEntropyLoss`.
    pub smoothing: f64,
}

impl<'a> Targets<'a> {
    /// Each sample is wholly of its class.
    pub fn plain(labels: &'a [u32]) -> Self {
        Targets { labels, blends: &[], smoothing: 0.0 }
    }
}
