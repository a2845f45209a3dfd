//! What kernels are given of a connection and a layer, and the launches of `kernels/spike_conv.cu`.

use bytemuck::{Pod, Zeroable};

use super::{DeviceGeometry, Geometry, PackedWeights, PartsRoom, cuda_hopper, products};
use crate::device::{Gpu, Products, Slice, kernels, scalars};
use crate::error::{Error, Result};
use crate::ops::batch_norm::cuda::{BatchConstants, Finish};
use crate::ops::neuron::{DeviceNeurons, LANES, NeuronInputs, NeuronOutputs};
use crate::ops::rate::cuda::DeviceReadout;

/// One summand of a layer's current.
#[derive(Clone, Copy, Debug)]
pub enum Summand {
    None,
    /// Convolution of spikes or of the counts of a pool.
    Conv {
        source: Source,
        weights: PackedWeights,
        geometry: Geometry,
    },
    /// Identity without pool, `[B][P][T][words]`.
    Bits {
        spikes: Slice<u32>,
    },
    /// Stored integers, `[B][P][T][stride]`.
    Sums {
        sums: Slice<i32>,
    },
    /// `[B][P][1 or T][stride]`, only as the single summand.
    Real {
        sums: Slice<f32>,
        frames: usize,
    },
}

/// What a convolution reads.
#[derive(Clone, Copy, Debug)]
pub enum Source {
    /// Spikes `[B][P][T][words]`.
    Bits(Slice<u32>),
    /// Spikes of each pool window, `[B][P pooled][T][C rounded up to 32]`.
    Counts(Slice<u8>),
}

/// The summands of a layer, at least one of them a convolution.
#[derive(Clone, Copy, Debug)]
pub struct LayerSums {
    pub summands: [Summand; 2],
    /// Batch B.
    pub batch: usize,
    /// Positions P of the layer.
    pub positions: usize,
    /// T.
    pub time_steps: usize,
    /// Channels C of the layer.
    pub channels: usize,
}

/// Field for field `struct Summand` in `kernels/spike_conv.cu`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct DeviceSummand {
    kind: i32,
    geometry: DeviceGeometry,
}

/// Field for field `struct SpikeConv` in `kernels/spike_conv.cu`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct SpikeConv {
    first: DeviceSummand,
    second: DeviceSummand,
    positions: i32,
    time_steps: i32,
    channels: i32,
    stride: i32,
}
const _: () = assert!(size_of::<SpikeConv>() == 144);

/// Field for field `struct SpikeConvNeurons` in `kernels/spike_conv.cu`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct SpikeConvNeurons {
    layer: SpikeConv,
    neurons: DeviceNeurons,
    tile_positions: i32,
    tile_steps: i32,
}
const _: () = assert!(size_of::<SpikeConvNeurons>() == 176);

/// Rows and columns of a tile, as in `kernels/spike_conv.cu`.
pub(super) const TILE: [usize; 2] = [128, 64];
/// Bytes of a tile of sums.
pub(super) const TILE_BYTES: usize = 128 * (64 + 8) * 4;
/// Bytes that the neurons of a position carry from tile to tile.
const CARRIED_BYTES: usize = 64 * 16;

/// A layer ready for launch.
struct Prepared {
    scalars: SpikeConv,
    sources: [u64; 2],
    weights: [Slice<u32>; 2],
    bits: u8,
    k_steps: usize,
    /// Bytes of the tiles and of the stages in flight.
    shared: usize,
}

impl LayerSums {
    fn rows(&self) -> usize {
        self.batch * self.positions * self.time_steps
    }

    /// Distance of two rows of stored sums.
    pub fn stride(&self) -> usize {
        self.channels.next_multiple_of(LANES)
    }

    fn prepare(&self, op: &str) -> Result<Prepared> {
        let rows = self.rows();
        if rows > i32::MAX as usize - TILE[0] || !(1..=255).contains(&self.time_steps) {
            return Err(Error::shape(op, "up to 2^31 rows of 1 to 255 steps", [self.batch, self.positions, self.time_steps]));
        }
        let zero = DeviceSummand::zeroed();
        let (mut summands, mut sources, mut weights) = ([zero; 2], [0; 2], [Slice::NONE; 2]);
        let (mut bits, mut convs, mut k_steps, mut stages) = (0, 0, 0, 0);
        for (k, summand) in self.summands.iter().enumerate() {
            match summand {
                Summand::None => {}
                Summand::Bits { spikes } => {
                    expect(op, "spikes of an identity", rows * self.channels.div_ceil(32), spikes.len())?;
                    (summands[k].kind, sources[k]) = (3, spikes.address());
                }
                Summand::Sums { sums } => {
                    expect(op, "stored sums", rows * self.stride(), sums.len())?;
                    (summands[k].kind, sources[k]) = (4, sums.address());
                }
                Summand::Conv { source, weights: packed, geometry } => {
                    let from = self.check_conv(op, source, packed, geometry)?;
                    let of_counts = matches!(source, Source::Counts(_));
                    summands[k] = DeviceSummand { kind: if of_counts { 2 } else { 1 }, geometry: geometry.into() };
                    (sources[k], weights[k], bits) = (from, packed.packed, packed.bits);
                    let of_weights = 2 * TILE[1] * 32 * usize::from(packed.bits) / 8;
                    stages = stages.max(if of_counts { 3 * (TILE[0] * 80 + of_weights) } else { 4 * (TILE[0] * 8 + of_weights) });
                    k_steps += geometry.taps() * geometry.cin.div_ceil(32);
                    convs += 1;
                }
                Summand::Real { .. } => return Err(Error::shape(op, "summands of spikes", "real values")),
            }
        }
        if convs == 0 || matches!(self.summands, [Summand::None, _]) {
            return Err(Error::shape(op, "a convolution among the summands, none before the first", self.summands));
        }
        let scalars = SpikeConv {
            first: summands[0],
            second: summands[1],
            positions: (self.batch * self.positions) as i32,
            time_steps: self.time_steps as i32,
            channels: self.channels as i32,
            stride: self.stride() as i32,
        };
        let shared = (convs - 1) * TILE_BYTES + TILE_BYTES.max(stages);
        Ok(Prepared { scalars, sources, weights, bits, k_steps, shared })
    }

    /// Whether a convolution fits the layer and its buffers; gives the address of its source.
    fn check_conv(&self, op: &str, source: &Source, packed: &PackedWeights, geometry: &Geometry) -> Result<u64> {
        if [geometry.cout, geometry.positions()] != [self.channels, self.positions] {
            return Err(Error::shape(op, [self.channels, self.positions], [geometry.cout, geometry.positions()]));
        }
        let other_width = self.summands.iter().any(|s| matches!(s, Summand::Conv { weights, .. } if weights.bits != packed.bits));
        if !matches!(packed.bits, 8 | 16) || other_width {
            return Err(Error::shape(op, "weights of 8 or of 16 bits in a layer", packed.bits));
        }
        let steps = (geometry.taps() * geometry.cin.div_ceil(32)).next_multiple_of(2);
        let len = geometry.cout.div_ceil(64) * steps * 64 * 32 * usize::from(packed.bits) / 32;
        expect(op, "packed weights", len, packed.packed.len())?;
        let read = self.batch * geometry.pooled().iter().product::<usize>() * self.time_steps * geometry.cin.div_ceil(32);
        match source {
            Source::Bits(spikes) if !geometry.is_pooled() => {
                expect(op, "spikes of a source", read, spikes.len())?;
                Ok(spikes.address())
            }
            Source::Counts(counts) if geometry.is_pooled() && geometry.area() <= 255 => {
                expect(op, "counts of a source", read * 32, counts.len())?;
                Ok(counts.address())
            }
            _ => Err(Error::shape(op, "bits of a source without pool, or counts of at most 255 of one with a pool", geometry.pool)),
        }
    }
}

/// A buffer holds at least what will be touched.
fn expect(op: &str, what: &str, expected: usize, got: usize) -> Result<()> {
    if got >= expected { Ok(()) } else { Err(Error::shape(format!("{op}: {what}"), expected, got)) }
}

/// The same for a buffer that may be absent.
fn expect_unless_none<T>(op: &str, what: &str, expected: usize, slice: Slice<T>) -> Result<()> {
    if slice.is_none() { Ok(()) } else { expect(op, what, expected, slice.len()) }
}

/// Sums of a layer's convolutions, `[B][P][T][stride]` each, and exact statistics of its summands: what is none is not written.
///
/// `statistics` `[8][C]` is added to: Σacc₀, Σacc₁, then for acc₀², acc₀·acc₁ and acc₁² the low and the high 32 bits; the sum of a
/// product is `(high << 32) + low` in 128 bits.
///
/// # Errors
/// [`Error::ShapeMismatch`] naming the buffer that does not fit, or [`Error::Device`].
pub fn sums(gpu: &Gpu, layer: &LayerSums, sums: [Slice<i32>; 2], statistics: Slice<u64>) -> Result<()> {
    launch_sums(gpu, layer, sums, statistics, None)
}

/// Blocks of a multiprocessor up to which the last block of all computes the constants. Each waits for its additions to arrive before it
/// counts itself, which should take about half a microsecond, and two share a multiprocessor: up to here that is less than the 2 µs of
/// another launch. An estimate; none of this was measured.
const FEW_BLOCKS: usize = 4;

/// The same, and the constants that follow from the statistics: where there are few blocks the last of them computes these, otherwise
/// a launch of its own does. The bits are the same.
///
/// # Errors
/// As [`sums`]; [`Error::ShapeMismatch`] for constants of other statistics.
pub fn sums_and_constants(
    gpu: &Gpu,
    layer: &LayerSums,
    sums: [Slice<i32>; 2],
    statistics: Slice<u64>,
    constants: &BatchConstants,
) -> Result<()> {
    let one_launch = has_few_blocks(layer.rows(), layer.channels, gpu.multiprocessors() as usize);
    sums_and_constants_in(gpu, layer, sums, statistics, constants, one_launch)
}

/// Whether the sums of a layer with `rows` = B·P·T take so few blocks that the last one computes the constants.
pub fn has_few_blocks(rows: usize, channels: usize, multiprocessors: usize) -> bool {
    rows.div_ceil(TILE[0]) * channels.div_ceil(TILE[1]) <= FEW_BLOCKS * multiprocessors
}

/// The same in one launch or in two: for speed only.
///
/// # Errors
/// As [`sums_and_constants`].
pub fn sums_and_constants_in(
    gpu: &Gpu,
    layer: &LayerSums,
    sums: [Slice<i32>; 2],
    statistics: Slice<u64>,
    constants: &BatchConstants,
    one_launch: bool,
) -> Result<()> {
    if one_launch {
        return launch_sums(gpu, layer, sums, statistics, Some(constants));
    }
    launch_sums(gpu, layer, sums, statistics, None)?;
    constants.launch(gpu)
}

fn launch_sums(
    gpu: &Gpu,
    layer: &LayerSums,
    sums: [Slice<i32>; 2],
    statistics: Slice<u64>,
    constants: Option<&BatchConstants>,
) -> Result<()> {
    const OP: &str = "spike_conv sums";
    let prepared = layer.prepare(OP)?;
    for sums in sums {
        expect_unless_none(OP, "sums", layer.rows() * layer.stride(), sums)?;
    }
    expect_unless_none(OP, "statistics", 8 * layer.channels, statistics)?;
    let kernel = products::of_sums(prepared.bits, layer.products(gpu.products()));
    let grid = [layer.rows().div_ceil(TILE[0]) as u32, layer.channels.div_ceil(TILE[1]) as u32, 1];
    let ([first, second], [first_weights, second_weights]) = (prepared.sources, prepared.weights);
    let finish = Finish::of(OP, constants, statistics, layer.channels)?;
    let (of_layer, finish) = (scalars(&prepared.scalars), scalars(&finish));
    gpu.launch(
        kernel,
        grid,
        prepared.shared,
        &[&sums[0], &sums[1], &statistics, &first, &first_weights, &second, &second_weights, &of_layer, &finish],
    )
}

/// Statistics alone: the first pass over a layer whose sums are cheaper to compute twice than to store.
///
/// # Errors
/// As [`sums`].
pub fn statistics(gpu: &Gpu, layer: &LayerSums, statistics: Slice<u64>) -> Result<()> {
    sums(gpu, layer, [Slice::NONE; 2], statistics)
}

/// Neurons of a layer straight from the spikes of its sources.
///
/// # Errors
/// As [`sums`].
pub fn neurons(gpu: &Gpu, layer: &LayerSums, from: &NeuronInputs, to: &NeuronOutputs) -> Result<()> {
    neurons_in_parts(gpu, layer, from, to, &DeviceReadout::default(), 1, &PartsRoom::default())
}

/// The same with logits, where `readout` wants them, and with `parts` blocks for the K stages of each tile: for speed only.
///
/// # Errors
/// As [`sums`]; [`Error::ShapeMismatch`] for parts of more than 128 steps, and where `room` is too small.
pub fn neurons_in_parts(
    gpu: &Gpu,
    layer: &LayerSums,
    from: &NeuronInputs,
    to: &NeuronOutputs,
    readout: &DeviceReadout,
    parts: usize,
    room: &PartsRoom,
) -> Result<()> {
    const OP: &str = "spike_conv neurons";
    let prepared = layer.prepare(OP)?;
    let words = layer.channels.div_ceil(32);
    let of_layer = layer.batch * layer.positions;
    if [from.neurons.channels as usize, from.neurons.time_steps as usize] != [layer.channels, layer.time_steps] {
        return Err(Error::shape(OP, [layer.channels, layer.time_steps], from.neurons));
    }
    expect(OP, "normalizer", 6 * from.normalizer.padded, from.normalizer.values.len())?;
    expect(OP, "channels of the normalizer", layer.channels.next_multiple_of(64), from.normalizer.padded)?;
    expect_unless_none(OP, "threshold", 1, from.threshold)?;
    expect_unless_none(OP, "step weights", layer.time_steps, from.step_weights)?;
    expect_unless_none(OP, "dropped neurons", of_layer * words, from.dropped)?;
    expect(OP, "spikes", layer.rows() * words, to.spikes.len())?;
    expect_unless_none(OP, "counts", of_layer * layer.channels, to.counts)?;
    expect_unless_none(OP, "means", of_layer * layer.channels, to.mean_normed)?;
    expect_unless_none(OP, "weighted means", of_layer * layer.channels, to.weighted_normed)?;
    let (tiles, shared_parts) = layer.cut(OP, prepared.k_steps, parts, room)?;
    let carried = if tiles.steps < layer.time_steps { tiles.positions * CARRIED_BYTES } else { 0 };
    let mut grid = [of_layer.div_ceil(tiles.positions) as u32, layer.channels.div_ceil(TILE[1]) as u32, parts as u32];
    let in_pairs = cuda_hopper::in_pairs(layer, prepared.bits, (grid[0] * grid[1]) as usize, gpu.multiprocessors());
    let of_warpgroups = carried * if in_pairs { 2 } else { 1 } + cuda_hopper::shared(layer, in_pairs);
    let products = match layer.products(gpu.products()) {
        Products::Warpgroup if parts > 1 => Products::Integer, // whose kernel alone has parts
        Products::Warpgroup if of_warpgroups > gpu.shared_limit() => Products::Integer,
        products => products,
    };
    let (kernel, weights, shared) = match products {
        Products::Warpgroup if in_pairs => {
            grid[1] /= 2;
            (&kernels::SPIKE_CONV_NEURONS_8_PAIRS_HOPPER, cuda_hopper::weights(layer), of_warpgroups)
        }
        Products::Warpgroup => (products::of_neurons(prepared.bits, products), cuda_hopper::weights(layer), of_warpgroups),
        _ => (products::of_neurons(prepared.bits, products), prepared.weights, carried + prepared.shared),
    };
    let ([first, second], [first_weights, second_weights]) = (prepared.sources, weights);
    let of_neurons = SpikeConvNeurons {
        layer: prepared.scalars,
        neurons: DeviceNeurons { padded: from.normalizer.padded as i32, ..from.neurons },
        tile_positions: tiles.positions as i32,
        tile_steps: tiles.steps as i32,
    };
    gpu.launch(
        kernel,
        grid,
        shared,
        &[
            &to.spikes,
            &to.counts,
            &to.mean_normed,
            &to.weighted_normed,
            &to.fired,
            &first,
            &first_weights,
            &second,
            &second_weights,
            &from.normalizer.values,
            &from.threshold,
            &from.step_weights,
            &from.dropped,
            &scalars(&of_neurons),
            &scalars(&shared_parts),
            &scalars(readout),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_memory_fits_every_device() {
        const SMALLEST: usize = 99 << 10; // of compute capability 8.6, 8.9 and 12.0
        for (bits, stages) in [(16, 3 * (TILE[0] * 80 + 8192)), (8, 3 * (TILE[0] * 80 + 4096))] {
            let most = TILE_BYTES + TILE_BYTES.max(stages) + 8 * CARRIED_BYTES;
            assert!(most <= SMALLEST, "{bits} bits: {most} bytes");
        }
    }
}
