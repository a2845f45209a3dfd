//! Launch geometry and arguments of `kernels/batch_norm.cu`; no arithmetic lives here.

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};

pub use super::device::{DeviceContribution, DeviceInner, DeviceNorm, DeviceStatistics, LayerNorms};
use crate::device::{Arg, Gpu, Memory, Slice, kernels, scalars};
use crate::error::{Error, Result};
use crate::ops::neuron::{LANES, Neuron};
use crate::ops::spike_conv::{DeviceNormalizer, Summand};

/// Rows of a normalizer are padded to a multiple of this.
pub const PADDING: usize = 64;
/// Threads of a block of `kernels/include/columns.cuh`.
const COLUMN_BLOCK: usize = 256;
/// Blocks that keep every multiprocessor busy; more would only make more partial sums.
const BLOCKS_WANTED: usize = 1024;

/// How a kernel goes over rows of channels; field for field `struct Columns` in `kernels/include/columns.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Columns {
    rows: i32,
    channels: i32,
    quads: i32,
    rows_a_block: i32,
}
const _: () = assert!(size_of::<Columns>() == 16);

impl Columns {
    /// Depends on the shape alone, and with it the order of every sum.
    pub fn new(rows: usize, channels: usize) -> Self {
        let quads = channels.div_ceil(4).next_power_of_two().min(16);
        let lanes = COLUMN_BLOCK / quads;
        let across = channels.div_ceil(4 * quads);
        let rows_a_block = rows.div_ceil(BLOCKS_WANTED.div_ceil(across)).next_multiple_of(lanes).max(4 * lanes);
        Columns { rows: rows as i32, channels: channels as i32, quads: quads as i32, rows_a_block: rows_a_block as i32 }
    }

    /// Blocks of rows: partial sums a channel.
    pub fn blocks(&self) -> usize {
        (self.rows as usize).div_ceil(self.rows_a_block as usize)
    }

    /// Most blocks of any number of rows up to this one: a smaller number may take more of them.
    pub fn most_blocks(rows: usize, channels: usize) -> usize {
        let columns = Columns::new(rows, channels);
        let (lanes, across) = (COLUMN_BLOCK / columns.quads as usize, channels.div_ceil(4 * columns.quads as usize));
        rows.div_ceil(4 * lanes).min(BLOCKS_WANTED.div_ceil(across))
    }

    pub(crate) fn grid(&self) -> [u32; 3] {
        [self.blocks() as u32, (self.channels as usize).div_ceil(4 * self.quads as usize) as u32, 1]
    }
}

/// A summand as kernels take it; field for field `struct IntegerSummand` and `struct AnySummand` in `kernels/include/summand.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub(crate) struct StoredSummand {
    values: u64,
    pitch: i32,
    kind: i32,
}
const _: () = assert!(size_of::<StoredSummand>() == 16);

impl StoredSummand {
    /// Of a layer with these channels; a convolution has to be stored before.
    pub fn new(op: &str, summand: &Summand, channels: usize) -> Result<Self> {
        let (stride, words) = (channels.next_multiple_of(LANES) as i32, channels.div_ceil(32) as i32);
        match summand {
            Summand::None => Ok(StoredSummand::zeroed()),
            Summand::Sums { sums } => Ok(StoredSummand { values: sums.address(), pitch: stride, kind: 0 }),
            Summand::Bits { spikes } => Ok(StoredSummand { values: spikes.address(), pitch: words, kind: 1 }),
            Summand::Real { sums, .. } => Ok(StoredSummand { values: sums.address(), pitch: stride, kind: 2 }),
            Summand::Conv { .. } => Err(Error::shape(op, "stored sums, bits or real values", "a convolution")),
        }
    }

    /// The same of integers only.
    pub fn integers(op: &str, summand: &Summand, channels: usize) -> Result<Self> {
        match summand {
            Summand::Real { .. } => Err(Error::shape(op, "stored sums or bits", "real values")),
            _ => StoredSummand::new(op, summand, channels),
        }
    }
}

/// Adds the sums and products of stored integer summands over `rows` = B·P·T to `statistics`, `[8][C]`, which were zeroed before.
///
/// The layout is that of `spike_conv`'s statistics: acc₀, acc₁, then low and high halves of acc₀², acc₀·acc₁, acc₁².
///
/// # Errors
/// [`Error::ShapeMismatch`] for another kind of summand, [`Error::Device`] if the launch fails; so do all functions below.
pub fn statistics_of_sums(
    gpu: &Gpu,
    statistics: Slice<u64>,
    first: &Summand,
    second: &Summand,
    rows: usize,
    channels: usize,
) -> Result<()> {
    launch_statistics(gpu, statistics, first, second, rows, channels, None)
}

/// The same, and the constants that follow: the last block computes them.
pub fn statistics_of_sums_and_constants(
    gpu: &Gpu,
    statistics: Slice<u64>,
    first: &Summand,
    second: &Summand,
    rows: usize,
    channels: usize,
    constants: &BatchConstants,
) -> Result<()> {
    launch_statistics(gpu, statistics, first, second, rows, channels, Some(constants))
}

fn launch_statistics(
    gpu: &Gpu,
    statistics: Slice<u64>,
    first: &Summand,
    second: &Summand,
    rows: usize,
    channels: usize,
    constants: Option<&BatchConstants>,
) -> Result<()> {
    let op = "statistics_of_sums";
    let columns = Columns::new(rows, channels);
    let first = StoredSummand::integers(op, first, channels)?;
    let finish = Finish::of(op, constants, statistics, channels)?;
    if matches!(second, Summand::None) {
        let args: [&dyn Arg; 4] = [&statistics, &scalars(&first), &scalars(&columns), &scalars(&finish)];
        return gpu.launch(&kernels::STATISTICS_OF_SUMS, columns.grid(), 0, &args);
    }
    let second = StoredSummand::integers(op, second, channels)?;
    let args: [&dyn Arg; 5] = [&statistics, &scalars(&first), &scalars(&second), &scalars(&columns), &scalars(&finish)];
    gpu.launch(&kernels::STATISTICS_OF_PAIRS, columns.grid(), 0, &args)
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct RealStatistics {
    rows: i32,
    channels: i32,
    stride: i32,
}

/// Sums and squares of real sums, `[B][rows][stride]` with `rows` = P·frames of a sample, to `statistics`, `[B][2][C]`.
pub fn statistics_of_real(gpu: &Gpu, statistics: Slice<f64>, sums: Slice<f32>, batch: usize, rows: usize, channels: usize) -> Result<()> {
    if batch == 0 {
        return Ok(());
    }
    let p = RealStatistics { rows: rows as i32, channels: channels as i32, stride: channels.next_multiple_of(LANES) as i32 };
    let grid = [channels.div_ceil(64) as u32, batch as u32, 1];
    gpu.launch(&kernels::STATISTICS_OF_REAL, grid, 0, &[&statistics, &sums, &scalars(&p)])
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
struct ContributionArgs {
    threshold: u64,
    weight_scale: u64,
    bias: u64,
    keep: f32,
    area: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
struct NormArgs {
    gamma: u64,
    beta: u64,
    running_mean: u64,
    running_var: u64,
}

/// Field for field `struct NormalizerArgs` in `kernels/include/normalizer.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
struct NormalizerArgs {
    connections: [ContributionArgs; 2],
    norm: NormArgs,
    inner: NormArgs,
    integers: u64,
    reals: u64,
    pair: u64,
    values: i64,
    n: f64,
    samples: i32,
    count: i32,
    channels: i32,
    inner_at: i32,
    padded: i32,
    delta_t: f32,
}
const _: () = assert!(size_of::<ContributionArgs>() == 32 && size_of::<NormArgs>() == 32);
const _: () = assert!(size_of::<NormalizerArgs>() == 192);

fn normalizer_args(layer: &LayerNorms, padded: usize) -> Result<NormalizerArgs> {
    let LayerNorms { connections, norm, inner, neuron, channels } = *layer;
    if connections.is_empty() || connections.len() > 2 {
        return Err(Error::shape("normalizer", "one or two connections", connections.len()));
    }
    let norm_args = |norm: DeviceNorm| NormArgs {
        gamma: norm.gamma.address(),
        beta: norm.beta.address(),
        running_mean: norm.running_mean.address(),
        running_var: norm.running_var.address(),
    };
    let mut args = NormalizerArgs {
        count: connections.len() as i32,
        channels: channels as i32,
        padded: padded as i32,
        norm: norm_args(norm.unwrap_or_default()),
        ..NormalizerArgs::zeroed()
    };
    for (into, from) in args.connections.iter_mut().zip(connections) {
        *into = ContributionArgs {
            threshold: from.threshold.address(),
            weight_scale: from.weight_scale.address(),
            bias: from.bias.address(),
            keep: from.keep,
            area: from.area as i32,
        };
    }
    if let Some((at, norm)) = inner {
        (args.inner_at, args.inner) = (at as i32, norm_args(norm));
    }
    if let Neuron::Lif { delta_t, .. } = neuron {
        args.delta_t = delta_t;
    }
    Ok(args)
}

fn normalizer_grid(padded: usize) -> [u32; 3] {
    [padded.div_ceil(PADDING) as u32, 1, 1]
}

/// What computes the constants of a layer in training, from the statistics of a batch: a kernel of its own, or the last block of the one
/// that collects integer statistics.
#[derive(Clone, Copy, Debug)]
pub struct BatchConstants {
    finish: Finish,
    counters: usize,
}

/// Field for field `struct Finish` in `kernels/include/normalizer.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub(crate) struct Finish {
    normalizer: u64,
    inner: u64,
    correlation: u64,
    counters: u64,
    args: NormalizerArgs,
}
const _: () = assert!(size_of::<Finish>() == 224);

impl Finish {
    /// For a kernel that adds to `statistics`; without constants nothing is to be finished.
    pub fn of(op: &str, constants: Option<&BatchConstants>, statistics: Slice<u64>, channels: usize) -> Result<Self> {
        let Some(BatchConstants { finish, counters }) = constants else { return Ok(Finish::zeroed()) };
        let expected = (statistics.address(), channels as i32, channels.div_ceil(PADDING));
        let got = (finish.args.integers, finish.args.channels, *counters);
        if got != expected {
            return Err(Error::shape(format!("{op}: constants of these statistics, with a counter for 64 channels"), expected, got));
        }
        Ok(*finish)
    }
}

impl BatchConstants {
    /// `values` is B·P·frames, what the statistics saw of a channel; `n` is B·P·T. `counters`, one for 64 channels and zero before, are
    /// for the kernels that finish integer statistics; none for [`BatchConstants::launch`].
    pub fn new(
        out: &DeviceNormalizer,
        inner: &DeviceInner,
        layer: &LayerNorms,
        statistics: DeviceStatistics,
        [values, n]: [usize; 2],
        counters: Slice<u64>,
    ) -> Result<Self> {
        let mut args = normalizer_args(layer, out.padded)?;
        (args.values, args.n) = (values as i64, n as f64);
        match statistics {
            DeviceStatistics::None if layer.norm.is_some() => {
                return Err(Error::shape("batch_normalizer", "statistics for the batch norm", "none"));
            }
            DeviceStatistics::None => {}
            DeviceStatistics::Integers(sums) => args.integers = sums.address(),
            DeviceStatistics::Reals { sums, batch } => (args.reals, args.samples) = (sums.address(), batch as i32),
            DeviceStatistics::Values(sums) => args.pair = sums.address(),
        }
        let [normalizer, inner, correlation] = [out.values.address(), inner.values.address(), inner.correlation.address()];
        let finish = Finish { normalizer, inner, correlation, counters: counters.address(), args };
        Ok(BatchConstants { finish, counters: counters.len() })
    }

    /// Computes them in a launch of its own; updates the running statistics (the count of batches is the host's).
    pub fn launch(&self, gpu: &Gpu) -> Result<()> {
        let Finish { normalizer, inner, correlation, args, .. } = &self.finish;
        let grid = normalizer_grid(args.padded as usize);
        gpu.launch(&kernels::BATCH_NORMALIZER, grid, 0, &[normalizer, inner, correlation, &scalars(args)])
    }
}

/// [`BatchConstants::launch`] of constants that no other kernel computes.
pub fn batch_normalizer(
    gpu: &Gpu,
    out: &DeviceNormalizer,
    inner: &DeviceInner,
    layer: &LayerNorms,
    statistics: DeviceStatistics,
    [values, n]: [usize; 2],
) -> Result<()> {
    BatchConstants::new(out, inner, layer, statistics, [values, n], Slice::NONE)?.launch(gpu)
}

/// A layer whose constants of evaluation are wanted; field for field `struct RunningLayer` in `kernels/batch_norm.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct RunningLayer {
    normalizer: u64,
    args: NormalizerArgs,
}
const _: () = assert!(size_of::<RunningLayer>() == 200);

impl RunningLayer {
    /// Constants in `out`, from the running statistics that `layer` names.
    pub fn new(out: &DeviceNormalizer, layer: &LayerNorms) -> Result<Self> {
        Ok(RunningLayer { normalizer: out.values.address(), args: normalizer_args(layer, out.padded)? })
    }
}

/// The constants of evaluation of some layers: one launch computes all of them.
#[derive(Debug)]
pub struct RunningConstants {
    layers: Memory<u8>,
    grid: [u32; 3],
}

impl RunningConstants {
    /// Uploads what they follow from; it stays valid as long as the buffers that the layers name.
    pub fn new(gpu: &Arc<Gpu>, layers: &[RunningLayer]) -> Result<Self> {
        let widest = layers.iter().map(|layer| layer.args.padded).max().unwrap_or(0);
        let [across, ..] = normalizer_grid(widest as usize);
        Ok(RunningConstants { layers: gpu.memory_of(bytemuck::cast_slice(layers))?, grid: [across, layers.len() as u32, 1] })
    }

    /// Computes them.
    pub fn launch(&self, gpu: &Gpu) -> Result<()> {
        gpu.launch(&kernels::RUNNING_NORMALIZER, self.grid, 0, &[&self.layers.slice()])
    }
}

/// Normalised currents x̂ of `rows` = B·P·(T, or 1 frame) as bf16, `[rows][C]`.
pub fn normalize_rows(
    gpu: &Gpu,
    normed: Slice<u16>,
    normalizer: &DeviceNormalizer,
    first: &Summand,
    second: &Summand,
    rows: usize,
    channels: usize,
) -> Result<()> {
    let row = |row: usize| normalizer.values.part(row * normalizer.padded..(row + 1) * normalizer.padded);
    normalize(gpu, normed, [row(0), row(1), row(2)], first, second, rows, channels)
}

/// The same of û, the current of the connection with a norm of its own, from its sums.
pub fn normalize_inner_rows(
    gpu: &Gpu,
    normed: Slice<u16>,
    inner: &DeviceInner,
    sums: &Summand,
    rows: usize,
    channels: usize,
) -> Result<()> {
    normalize(gpu, normed, [inner.row(0), Slice::NONE, inner.row(1)], sums, &Summand::None, rows, channels)
}

fn normalize(
    gpu: &Gpu,
    normed: Slice<u16>,
    [factor, other_factor, offset]: [Slice<f32>; 3],
    first: &Summand,
    second: &Summand,
    rows: usize,
    channels: usize,
) -> Result<()> {
    let op = "normalize_rows";
    let (first, second) = (StoredSummand::new(op, first, channels)?, StoredSummand::integers(op, second, channels)?);
    let columns = Columns::new(rows, channels);
    let args: [&dyn Arg; 7] = [&normed, &factor, &other_factor, &offset, &scalars(&first), &scalars(&second), &scalars(&columns)];
    gpu.launch(&kernels::NORMALIZE_ROWS, columns.grid(), 0, &args)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A batch of 65 rows of 1024 positions takes fewer blocks than one of 64; room for the larger one has to do for both.
    #[test]
    fn fewer_rows_take_no_more_than_the_most_blocks() {
        assert!(Columns::new(65 << 10, 64).blocks() < Columns::new(64 << 10, 64).blocks());
        for channels in [1, 3, 4, 33, 64, 65, 512, 2048] {
            let mut most = 0;
            for rows in (1..2000).chain((1..700).map(|k| k * 211)).chain((60..140).map(|k| k << 10)) {
                let blocks = Columns::new(rows, channels).blocks();
                assert!(blocks <= Columns::most_blocks(rows, channels), "{rows} rows of {channels}");
                most = most.max(blocks);
            }
            assert!(most <= Columns::most_blocks(139 << 10, channels).max(Columns::most_blocks(699 * 211, channels)), "{channels}");
        }
    }
}
