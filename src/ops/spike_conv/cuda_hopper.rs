//! What `kernels/spike_conv_hopper.cu` needs beside `cuda.rs`: which layers it takes, and weights in blocks.

use super::{LayerSums, PackedWeights, Source, Summand};
use crate::device::{Gpu, Slice, kernels};
use crate::error::Result;

/// Words of 16 bytes a lane, as fixed-point weights are packed.
const WORDS_OF_PIECE: usize = 128;

impl PackedWeights {
    /// Whether there are weights in blocks, for [`crate::device::Products::Warpgroup`].
    pub fn has_blocks(&self) -> bool {
        !self.blocks.is_none() && self.blocks.len() == self.packed.len()
    }
}

/// Whether the convolutions of a layer all read spikes, and have weights in blocks.
pub(super) fn takes(layer: &LayerSums) -> bool {
    layer.summands.iter().all(|summand| match summand {
        Summand::Conv { source, weights, .. } => matches!(source, Source::Bits(_)) && weights.has_blocks(),
        _ => true,
    })
}

/// The weights that it reads of each summand.
pub(super) fn weights(layer: &LayerSums) -> [Slice<u32>; 2] {
    layer.summands.map(|summand| if let Summand::Conv { weights, .. } = summand { weights.blocks } else { Slice::NONE })
}

/// Puts packed weights into blocks: pairs of what is written and what is read.
///
/// # Errors
/// [`crate::error::Error::Device`] if a launch fails.
pub(super) fn order(gpu: &Gpu, of_connections: &[[Slice<u32>; 2]]) -> Result<()> {
    of_connections.iter().try_for_each(|[blocks, packed]| {
        let pieces = packed.len() / WORDS_OF_PIECE;
        gpu.launch(&kernels::ORDER_SPIKE_WEIGHTS, [pieces.div_ceil(8) as u32, 1, 1], 0, &[blocks, packed, &(pieces as i32)])
    })
}
