//! One piece of device memory, cut into buffers before the first step.

use std::ops::Range;

use bytemuck::Pod;

use super::memory::Memory;
use super::slice::Slice;

/// What every buffer starts at a multiple of: a line of the cache, and more than any vector access needs.
const ALIGNMENT: usize = 256;

/// Lays buffers out one behind the other.
///
/// Run the same code twice: with [`Layout::measure`] for the number of bytes, then with [`Layout::of`] the memory of that size.
#[derive(Debug)]
pub struct Layout {
    start: u64,
    used: usize,
    capacity: usize,
    gaps: Vec<Range<usize>>,
}

impl Layout {
    /// Counts bytes; the slices that it gives are no memory.
    pub fn measure() -> Self {
        // A start other than 0 keeps measured buffers apart from `Slice::NONE`.
        Layout { start: ALIGNMENT as u64, used: 0, capacity: usize::MAX, gaps: Vec::new() }
    }

    /// Cuts buffers from `memory`.
    pub fn of(memory: &Memory<u8>) -> Self {
        let slice = memory.slice();
        Layout { start: slice.address(), used: 0, capacity: slice.len(), gaps: Vec::new() }
    }

    /// The next buffer, of `len` elements.
    ///
    /// # Panics
    /// If the memory is smaller than what was measured.
    pub fn take<T: Pod>(&mut self, len: usize) -> Slice<T> {
        // A gap behind every buffer, which no kernel has a reason to write to.
        let offset = if self.used == 0 { 0 } else { (self.used + ALIGNMENT).next_multiple_of(ALIGNMENT) };
        let end = offset + len * size_of::<T>();
        assert!(end <= self.capacity, "the arena of {} bytes ends before {end}: measure with the same code", self.capacity);
        if self.used > 0 {
            self.gaps.push(self.used..offset);
        }
        self.used = end;
        Slice::at(self.start + offset as u64, len)
    }

    /// Bytes between the buffers, as offsets: a kernel that has written there has left its buffer.
    pub fn gaps(&self) -> &[Range<usize>] {
        &self.gaps
    }

    /// Bytes of all buffers so far.
    pub fn bytes(&self) -> usize {
        self.used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_lie_behind_each_other_with_gaps_between() {
        let mut layout = Layout::measure();
        let (a, b, c) = (layout.take::<u8>(3), layout.take::<f32>(64), layout.take::<f64>(0));
        assert_eq!([a.address(), b.address(), c.address()], [256, 768, 1280]);
        assert_eq!([a.len(), b.len(), c.len()], [3, 64, 0]);
        let d = layout.take::<u16>(1);
        assert_eq!((d.address(), layout.bytes()), (1536, 1282));
        assert_eq!(layout.gaps(), [3..512, 768..1024, 1024..1280]);
    }
}
