//! What a kernel writes, between margins that it must leave alone.

use std::fmt::Debug;
use std::sync::Arc;

use bytemuck::Pod;

use super::Outcome;
use crate::device::{Gpu, Memory, Slice};
use crate::error::Result;

/// Bytes before and behind an output; keeps its alignment.
const MARGIN: usize = 256;
const UNTOUCHED: u8 = 0xa5;
/// Bytes of an output before it is written: floats that are no number, counts that no kernel gives.
const UNWRITTEN: u8 = 0xff;

/// Some values on the device with a margin on both sides.
pub struct Output<T> {
    memory: Memory<u8>,
    slice: Slice<T>,
}

impl<T: Pod + Debug> Output<T> {
    /// Starts as `values`; none for no values.
    pub fn of(gpu: &Arc<Gpu>, values: &[T]) -> Result<Self> {
        Self::between_margins(gpu, bytemuck::cast_slice(values))
    }

    /// `len` values that the kernel has to write.
    pub fn unwritten(gpu: &Arc<Gpu>, len: usize) -> Result<Self> {
        Self::between_margins(gpu, &vec![UNWRITTEN; len * size_of::<T>()])
    }

    fn between_margins(gpu: &Arc<Gpu>, bytes: &[u8]) -> Result<Self> {
        let margin = [UNTOUCHED; MARGIN];
        let memory = gpu.memory_of(&[&margin, bytes, &margin].concat())?;
        let slice = if bytes.is_empty() { Slice::NONE } else { memory.slice().part(MARGIN..MARGIN + bytes.len()).cast() };
        Ok(Output { memory, slice })
    }

    pub fn slice(&self) -> Slice<T> {
        self.slice
    }

    /// The values now. A byte that was written beside them is a fault.
    pub fn values(&self, name: &str, outcome: &mut Outcome) -> Result<Vec<T>> {
        let bytes = self.memory.to_vec()?;
        let (before, rest) = bytes.split_at(MARGIN);
        let (own, behind) = rest.split_at(rest.len() - MARGIN);
        for (margin, place) in [(before, "before"), (behind, "behind")] {
            if let Some(at) = margin.iter().position(|&byte| byte != UNTOUCHED) {
                let name = format!("bytes {place} the buffer of {name}");
                outcome.fail(&name, at, format!("{UNTOUCHED:#04x}, as they were"), format!("{:#04x}", margin[at]));
            }
        }
        Ok(bytemuck::pod_collect_to_vec(own))
    }

    /// Compares the bits with those of `expected`.
    pub fn expect(&self, name: &str, outcome: &mut Outcome, expected: &[T]) -> Result<()> {
        let got = self.values(name, outcome)?;
        outcome.bits(name, &got, expected);
        Ok(())
    }
}
