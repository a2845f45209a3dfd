//! What training remembers: for backward (no time axis), and between steps (buffers).

use crate::device::lines::Line;
use crate::ops::batch_norm::Normalizer;
use crate::ops::neuron::Neuron;

/// What one layer keeps for backward; no time axis.
#[derive(Clone, Debug, Default)]
pub(super) struct LayerKept {
    /// Spikes of each neuron over time, `[B][P][C]`; at most T.
    pub counts: Vec<u8>,
    /// What an ANN keeps instead: the outputs, `[B][P][C]`, after dropout.
    pub activations: Vec<f32>,
    /// Plain time mean of the normalised current, `[B][P][C]`.
    pub mean_normed: Vec<f32>,
    /// Weighted time mean of it (LIF); empty where it equals the plain one.
    pub weighted_normed: Vec<f32>,
    /// Constants of this batch.
    pub norm: Normalizer,
    /// The connection with a batch norm of its own.
    pub inner: Option<InnerKept>,
    /// Bits of the neurons whose spikes were dropped, `[B][P][words]`; empty without dropout.
    pub dropped: Vec<u32>,
    /// `Σ_t x̂[t] ⊗ o[t]` a connection, over each slice of the batch, in `unrolled` mode; empty otherwise.
    pub outer: Vec<Vec<f32>>,
}

/// The same for a connection with a batch norm of its own.
#[derive(Clone, Debug, Default)]
pub(super) struct InnerKept {
    /// From the exact sum of the connection to û: `factor·acc + offset`.
    pub factor: Vec<f32>,
    /// Offset.
    pub offset: Vec<f32>,
    /// `γ / σ`.
    pub scale: Vec<f32>,
    /// `mean(x̂ · û)` over T·B·H·W, per channel.
    pub correlation: Vec<f64>,
    /// Plain time mean of û, `[B][P][C]`.
    pub mean_normed: Vec<f32>,
    /// Weighted time mean of û.
    pub weighted_normed: Vec<f32>,
    /// `Σ_t û[t] ⊗ o[t]` over each slice, in `unrolled` mode.
    pub outer: Vec<f32>,
}

impl LayerKept {
    /// Makes room for the means of so many neurons.
    pub fn keep_means(&mut self, neuron: Neuron, neurons: usize) {
        self.mean_normed.resize(neurons, 0.0);
        self.weighted_normed.resize(if matches!(neuron, Neuron::Lif { .. }) { neurons } else { 0 }, 0.0);
    }

    /// (Weighted) time mean of the normalised current: decides the clamp mapping.
    pub fn representation(&self) -> &[f32] {
        if self.weighted_normed.is_empty() { &self.mean_normed } else { &self.weighted_normed }
    }

    /// Bytes of everything whose size depends on the batch.
    pub fn bytes(&self) -> usize {
        let floats = |v: &[f32]| v.len() * 4;
        let mut bytes = self.counts.len() + self.dropped.len() * 4;
        bytes += floats(&self.activations) + floats(&self.mean_normed) + floats(&self.weighted_normed);
        bytes += self.outer.iter().map(|o| floats(o)).sum::<usize>();
        if let Some(inner) = &self.inner {
            bytes += floats(&inner.mean_normed) + floats(&inner.weighted_normed) + floats(&inner.outer);
        }
        bytes
    }
}

/// Buffers that live from step to step.
#[derive(Clone, Debug, Default)]
pub(super) struct Workspace {
    /// Sums of a layer's first connection, `[B][P][T or 1][stride]`.
    pub first: Vec<Line>,
    /// Sums of its second connection where that is a convolution.
    pub second: Vec<Line>,
    /// Storage of spike trains that nobody reads any more.
    pub bits: Vec<Vec<u32>>,
    /// Storage of real values that nobody reads any more.
    pub values: Vec<Vec<f32>>,
    /// Gradients of weights by nodes of slices, each as long as the arena; zero where no weight is.
    pub of_slices: Vec<Vec<f32>>,
}
