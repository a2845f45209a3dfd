//! Softmax cross-entropy over the batch.

mod cpu;
pub mod cuda;
pub use cpu::{cross_entropy, cross_entropy_of, first_largest};

/// What the logits should say, sample by sample.
#[derive(Clone, Copy, Debug)]
pub struct Targets<'a> {
    /// Classes, `[B]`.
    pub labels: &'a [u32],
    /// Share of a target, 0 ≤ share < 1, that all classes have in equal parts; its own class has the rest on top. As `label_smoothing`
    /// of `torch.nn.CrossEntropyLoss`.
    pub smoothing: f64,
}

impl<'a> Targets<'a> {
    /// Each sample is wholly of its class.
    pub fn plain(labels: &'a [u32]) -> Self {
        Targets { labels, smoothing: 0.0 }
    }
}
