//! Buffers that begin where a cache line does: a load or store of a whole register then never touches two lines.

use bytemuck::{Pod, Zeroable};

/// Sixty-four bytes that begin where a cache line does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct Line([u32; 16]);

/// The first `len` integers of a buffer that grows where needed and never shrinks.
pub fn grown(buffer: &mut Vec<Line>, len: usize) -> &mut [i32] {
    let lines = len.div_ceil(size_of::<Line>() / size_of::<i32>());
    if buffer.len() < lines {
        buffer.resize(lines, Line::zeroed());
    }
    &mut bytemuck::cast_slice_mut(buffer)[..len]
}
