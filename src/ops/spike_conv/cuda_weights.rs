//! Weights on the device: `kernels/spike_conv_weights.cu` rounds and packs those of all connections in one launch.

use bytemuck::{Pod, Zeroable};

use super::{Geometry, cuda_hopper};
use crate::device::{Gpu, Layout, Memory, Products, Slice, kernels};
use crate::error::{Error, Result};
use std::sync::Arc;

/// In place of the bits of fixed-point weights: those of an ANN.
pub const BF16: u8 = 0;

/// Weights of one connection as kernels read them; the layouts are in the head of `kernels/spike_conv_weights.cu`.
#[derive(Clone, Copy, Debug, Default)]
pub struct PackedWeights {
    /// Fixed-point weights in the order of the tensor cores' operands; bf16 ones for an ANN.
    pub packed: Slice<u32>,
    /// `2^-e` per output channel, padded to a multiple of 64; none for an ANN.
    pub scale: Slice<f32>,
    /// bf16 weights for the data gradient.
    pub transposed: Slice<u32>,
    /// The same in the order of `kernels/spike_conv_hopper.cu`; none where that does not read it.
    pub blocks: Slice<u32>,
    /// 16 or 8 of fixed-point weights, or [`BF16`].
    pub bits: u8,
}

impl PackedWeights {
    /// Cuts the buffers of one connection; `bits` is 16, 8 or [`BF16`].
    pub fn take(layout: &mut Layout, geometry: &Geometry, bits: u8) -> Self {
        PackedWeights::take_for(layout, geometry, bits, Products::Integer)
    }

    /// The same for a device that multiplies as `products`.
    pub fn take_for(layout: &mut Layout, geometry: &Geometry, bits: u8, products: Products) -> Self {
        let steps = (geometry.taps() * geometry.cin.div_ceil(32)).next_multiple_of(2);
        let (packed, scales) = match bits {
            BF16 => (rounded_pieces(geometry) * PIECE, 0),
            _ => (geometry.cout.div_ceil(64) * steps * 64 * 32 * usize::from(bits) / 32, geometry.cout.next_multiple_of(64)),
        };
        let has_blocks = products == Products::Warpgroup && bits != BF16;
        let blocks = if has_blocks { cuda_hopper::words_in_blocks(geometry, bits) } else { None };
        PackedWeights {
            packed: layout.take(packed),
            scale: if scales == 0 { Slice::NONE } else { layout.take(scales) },
            transposed: layout.take(transposed_pieces(geometry) * PIECE),
            blocks: blocks.map_or(Slice::NONE, |words| layout.take(words)),
            bits,
        }
    }
}

/// Words of a piece of bf16 weights: 64 channels times 32.
const PIECE: usize = 256 * 4;

/// Pieces of 64 input and 32 output channels that the transposed weights have.
fn transposed_pieces(geometry: &Geometry) -> usize {
    geometry.cin.div_ceil(64) * geometry.taps() * geometry.cout.div_ceil(32)
}

/// The same of 64 output and 32 input channels, for the forward pass of an ANN.
pub(crate) fn rounded_pieces(geometry: &Geometry) -> usize {
    geometry.cout.div_ceil(64) * geometry.taps() * geometry.cin.div_ceil(32)
}

/// One connection; field for field `struct WeightJob` in `kernels/spike_conv_weights.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
struct WeightJob {
    master: u64,
    packed: u64,
    scale: u64,
    transposed: u64,
    taps: i32,
    cin: i32,
    cout: i32,
    replicate: i32,
    bits: i32,
    max_count: i32,
    of_counts: i32,
    first_block: i32,
    first_transposed: i32,
    copies_stride: i32,
}
const _: () = assert!(size_of::<WeightJob>() == 72);

/// A connection whose weights are to be packed.
#[derive(Clone, Copy, Debug)]
pub struct WeightSource {
    /// `[replicate][tap][cin][cout]` in the arena of parameters.
    pub master: Slice<f32>,
    pub geometry: Geometry,
    /// Copies of the source that the connection sees; their weights are summed.
    pub replicate: usize,
    pub weights: PackedWeights,
}

/// The connections of a network, as the kernels look them up: all with fixed-point weights, or all of an ANN.
#[derive(Debug)]
pub struct WeightTable {
    jobs: Memory<u8>,
    count: i32,
    blocks: usize,
    transposed_blocks: usize,
    /// Those that have weights in blocks.
    in_blocks: Vec<WeightSource>,
}

impl WeightTable {
    /// Uploads the table; it stays valid as long as the buffers that it names.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] if a slice has not the size that its geometry asks for, or [`Error::Device`].
    pub fn new(gpu: &Arc<Gpu>, sources: &[WeightSource]) -> Result<Self> {
        let (mut blocks, mut transposed_blocks) = (0, 0);
        let mut jobs = Vec::with_capacity(sources.len());
        for source in sources {
            let WeightSource { master, geometry, replicate, weights } = source;
            let len = geometry.taps() * geometry.cin * geometry.cout;
            if master.len() != replicate * len {
                return Err(Error::shape("quantize_weights", replicate * len, master.len()));
            }
            jobs.push(WeightJob {
                master: master.address(),
                packed: weights.packed.address(),
                scale: weights.scale.address(),
                transposed: weights.transposed.address(),
                taps: geometry.taps() as i32,
                cin: geometry.cin as i32,
                cout: geometry.cout as i32,
                replicate: *replicate as i32,
                bits: i32::from(weights.bits),
                max_count: geometry.area() as i32,
                of_counts: i32::from(geometry.is_pooled()),
                first_block: blocks as i32,
                first_transposed: transposed_blocks as i32,
                copies_stride: len as i32,
            });
            blocks += if weights.bits == BF16 { rounded_pieces(geometry) } else { 2 * geometry.cout.div_ceil(64) };
            transposed_blocks += transposed_pieces(geometry);
        }
        let bytes = bytemuck::cast_slice(&jobs);
        let in_blocks = sources.iter().filter(|source| !source.weights.blocks.is_none()).copied().collect();
        Ok(WeightTable { jobs: gpu.memory_of(bytes)?, count: jobs.len() as i32, blocks, transposed_blocks, in_blocks })
    }
}

/// Rounds all weights to fixed point; the same integers and scales as [`super::QuantizedWeights::quantize`].
///
/// # Errors
/// [`Error::Device`] if the launch fails.
pub fn quantize_weights(gpu: &Gpu, table: &WeightTable) -> Result<()> {
    launch(gpu, &kernels::QUANTIZE_WEIGHTS, table.blocks, table)?;
    cuda_hopper::order(gpu, &table.in_blocks)
}

/// Rounds all weights of an ANN to bf16, for its forward pass.
///
/// # Errors
/// [`Error::Device`] if the launch fails.
pub fn round_weights(gpu: &Gpu, table: &WeightTable) -> Result<()> {
    launch(gpu, &kernels::ROUND_WEIGHTS, table.blocks, table)
}

/// Packs all weights for the data gradient.
///
/// # Errors
/// [`Error::Device`] if the launch fails.
pub fn transpose_weights(gpu: &Gpu, table: &WeightTable) -> Result<()> {
    launch(gpu, &kernels::TRANSPOSE_WEIGHTS, table.transposed_blocks, table)
}

fn launch(gpu: &Gpu, kernel: &kernels::Kernel, blocks: usize, table: &WeightTable) -> Result<()> {
    if blocks == 0 {
        return Ok(());
    }
    gpu.launch(kernel, [blocks as u32, 1, 1], 0, &[&table.jobs.slice(), &table.count])
}
