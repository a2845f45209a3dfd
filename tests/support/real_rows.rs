//! Currents of an ANN's layer on the device, in awkward shapes.

use std::sync::Arc;

use dsr::device::{Gpu, Memory};
use dsr::ops::batch_norm::cuda_values::RealRows;

/// Rows and channels around every boundary: words, quads of channels, blocks of rows.
pub const SHAPES: [[usize; 2]; 7] = [[1, 1], [5, 31], [33, 32], [130, 33], [70, 100], [2100, 7], [300, 64]];

pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Rows `[rows][channels]` on the device with a pitch that may be larger; NaN between them, which nobody may use.
pub struct Rows {
    pub values: Vec<f32>,
    memory: Memory<f32>,
    pitch: usize,
}

impl Rows {
    pub fn new(gpu: &Arc<Gpu>, values: Vec<f32>, channels: usize, pitch: usize) -> Self {
        let mut padded = vec![f32::NAN; values.len() / channels * pitch];
        padded.chunks_exact_mut(pitch).zip(values.chunks_exact(channels)).for_each(|(to, from)| to[..channels].copy_from_slice(from));
        Rows { values, memory: gpu.memory_of(&padded).unwrap(), pitch }
    }

    pub fn on_device(&self) -> RealRows {
        RealRows { values: self.memory.slice(), pitch: self.pitch }
    }
}
