//! Shapes of convolutions.

use std::sync::Arc;

use bytemuck::Pod;
use dsr::device::{Gpu, Memory};
use dsr::ops::spike_conv::Geometry;

pub const NO_POOL: [usize; 3] = [1, 1, 0];
pub const ONE_BY_ONE: Geometry = Geometry { cin: 1, cout: 1, source: [1, 1], pool: NO_POOL, kernel: [1, 1], stride: 1, pad: 0 };

pub fn geometry(cin: usize, cout: usize, source: [usize; 2], kernel: usize, stride: usize, pad: usize) -> Geometry {
    Geometry { cin, cout, source, kernel: [kernel; 2], stride, pad, ..ONE_BY_ONE }
}

pub fn upload<T: Pod>(gpu: &Arc<Gpu>, values: &[T]) -> Memory<T> {
    gpu.memory_of(values).unwrap()
}

pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}
