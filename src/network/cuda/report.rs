//! What a step or a forward pass gives, on its way to page-locked memory: it is copied behind the kernels, and the host waits once.

use std::sync::Arc;

use super::buffers::Buffers;
use crate::device::{Arriving, Gpu};
use crate::error::Result;
use crate::ops::optimizer::cuda::StepResult;

/// Room for what the host reads of every batch.
#[derive(Debug)]
pub(super) struct Report {
    result: Arriving<StepResult>,
    /// Spikes of each layer.
    fired: Arriving<u64>,
    logits: Arriving<f32>,
    /// Bits of the last layer, whose spikes every forward pass gives.
    last: Arriving<u32>,
}

impl Report {
    pub fn new(gpu: &Arc<Gpu>, buffers: &Buffers) -> Result<Self> {
        let last = buffers.layers.last().map_or(0, |layer| layer.spikes.len());
        Ok(Report {
            result: Arriving::alloc(gpu, buffers.result.len())?,
            fired: Arriving::alloc(gpu, buffers.fired.len())?,
            logits: Arriving::alloc(gpu, buffers.logits.len())?,
            last: Arriving::alloc(gpu, last)?,
        })
    }

    /// Starts to bring what a training step gives.
    pub fn fetch_step(&mut self, gpu: &Gpu, buffers: &Buffers) -> Result<()> {
        gpu.fetch(buffers.result, &mut self.result)?;
        self.fetch_fired(gpu, buffers)
    }

    /// The numbers of spikes, which are cleared for the next pass behind the copy, where nobody waits for that.
    fn fetch_fired(&mut self, gpu: &Gpu, buffers: &Buffers) -> Result<()> {
        gpu.fetch(buffers.fired, &mut self.fired)?;
        gpu.fill_zero(buffers.fired)
    }

    /// Waits for it: the result, and the spikes of each layer.
    pub fn step(&mut self) -> Result<(StepResult, &[u64])> {
        let fired = self.fired.wait()?; // the last of all
        Ok((self.result.wait()?.first().copied().unwrap_or_default(), fired))
    }

    /// Starts to bring what a forward pass gives: so many logits, and words of the spikes of the last layer.
    pub fn fetch_forward(&mut self, gpu: &Gpu, buffers: &Buffers, [logits, words]: [usize; 2]) -> Result<()> {
        gpu.fetch(buffers.logits.part(0..logits), &mut self.logits)?;
        if let Some(layer) = buffers.layers.last() {
            gpu.fetch(layer.spikes.part(0..words), &mut self.last)?;
        }
        self.fetch_fired(gpu, buffers)
    }

    /// Waits for it: the logits, those words, and the spikes of each layer.
    pub fn forward(&mut self) -> Result<(&[f32], &[u32], &[u64])> {
        let fired = self.fired.wait()?; // the last of all
        Ok((self.logits.wait()?, self.last.wait()?, fired))
    }
}
