//! Outputs on the device between margins that no kernel may touch.

use std::sync::Arc;

use bytemuck::Pod;
use dsr::device::{Gpu, Memory, Slice};

/// Bytes before and behind an output: keeps its alignment.
const MARGIN: usize = 256;
const UNTOUCHED: u8 = 0xa5;

/// Some values on the device, and a margin on both sides.
pub struct Output<T> {
    memory: Memory<u8>,
    slice: Slice<T>,
}

impl<T: Pod> Output<T> {
    /// Starts as `values`.
    pub fn of(gpu: &Arc<Gpu>, values: &[T]) -> Self {
        let margin = [UNTOUCHED; MARGIN];
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let memory = gpu.memory_of(&[&margin, bytes, &margin].concat()).unwrap();
        let slice = memory.slice().part(MARGIN..MARGIN + bytes.len()).cast();
        Output { memory, slice }
    }

    pub fn slice(&self) -> Slice<T> {
        self.slice
    }

    /// The values now; the margins must be as they were.
    pub fn values(&self) -> Vec<T> {
        let bytes = self.memory.to_vec().unwrap();
        let (before, rest) = bytes.split_at(MARGIN);
        let (own, behind) = rest.split_at(rest.len() - MARGIN);
        assert!(before.iter().chain(behind).all(|&byte| byte == UNTOUCHED), "a kernel wrote beside its output");
        bytemuck::pod_collect_to_vec(own)
    }
}
