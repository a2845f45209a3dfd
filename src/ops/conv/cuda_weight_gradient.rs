//! Launch geometry and arguments of `kernels/conv_weight_gradient.cu`; no arithmetic lives here.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};

use super::sizes::{expect, int, weights_of};
use crate::device::{Arg, Gpu, Kernel, Slice, kernels, scalars};
use crate::error::{Error, Result};
use crate::ops::neuron::cuda::{Parts, WeightParts, reduce};
use crate::ops::spike_conv::{DeviceGeometry, Geometry};

/// What a convolution has read, for the gradient of its weights: one row a position, or one row a position and step.
#[derive(Clone, Copy, Debug)]
pub enum Operand {
    /// Spikes of each neuron, `[B][P][C]`.
    Counts(Slice<u8>),
    /// Spikes of each pool window, `[B][P_pooled][C]`; above 256 they are rounded to 8 significant bits.
    Totals(Slice<u16>),
    /// Activations of an ANN as bf16, or their means in pool windows, `[B][P_pooled][C]`.
    Rounded(Slice<u16>),
    /// Sum of all frames of the input `[B][F][H][W][C]`.
    RealSum { input: Slice<f32>, frames: usize },
    /// Spikes of every step, `[B][P][T][words]`.
    Bits { bits: Slice<u32>, steps: usize },
    /// Spikes of each pool window in every step, `[B][P_pooled][T][C rounded up to 32]`.
    PooledSteps { counts: Slice<u8>, steps: usize },
    /// Every frame of the input.
    Real { input: Slice<f32>, frames: usize },
}

/// Rows (tap, channel) and columns of a tile, and rows m of a stage.
const TILE: [usize; 2] = [128, 64];
const DEPTH: usize = 32;
/// Blocks that the sum over rows is cut into, at least: two for each place of a device of 144 multiprocessors with two places each.
const BLOCKS_WANTED: usize = 576;
/// Rows below which a part of the sum costs more to start than to compute.
const ROWS_AT_LEAST: usize = 256;

/// Field for field `struct Source` in `kernels/conv_weight_gradient.cu`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Source {
    of_sample: i32,
    of_position: i32,
    of_step: i32,
}

/// Field for field `struct WeightGradient` there.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct WeightGradient {
    source: Source,
    geometry: DeviceGeometry,
    element: i32,
    steps: i32,
    rows: i32,
    rows_a_split: i32,
    summed: i32,
}
const _: () = assert!(size_of::<WeightGradient>() == 92);

/// Field for field `struct SubtractOuter` there.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct SubtractOuter {
    len: i32,
    channels: i32,
    copies: i32,
}

/// Elements that are read one by one; `enum Element` there.
#[derive(Clone, Copy)]
enum Element {
    Byte = 1,
    Halfword = 2,
    Bf16 = 3,
    /// A float, or a word of bits.
    Word = 4,
}

/// How an operand lies in memory.
struct Reading {
    kernel: Kernel,
    address: u64,
    /// Elements that it has, and that are needed.
    lengths: [usize; 2],
    source: Source,
    element: Element,
    steps: usize,
    summed: usize,
}

impl Operand {
    /// What it is of some of the samples.
    pub fn of_samples(&self, samples: Range<usize>, geometry: &Geometry) -> Operand {
        let (cin, positions) = (geometry.cin, geometry.pooled().iter().product::<usize>());
        fn part<T>(slice: Slice<T>, samples: &Range<usize>, of_sample: usize) -> Slice<T> {
            slice.part(samples.start * of_sample..samples.end * of_sample)
        }
        match *self {
            Operand::Counts(counts) => Operand::Counts(part(counts, &samples, positions * cin)),
            Operand::Totals(totals) => Operand::Totals(part(totals, &samples, positions * cin)),
            Operand::Rounded(values) => Operand::Rounded(part(values, &samples, positions * cin)),
            Operand::RealSum { input, frames } => Operand::RealSum { input: part(input, &samples, frames * positions * cin), frames },
            Operand::Real { input, frames } => Operand::Real { input: part(input, &samples, frames * positions * cin), frames },
            Operand::Bits { bits, steps } => Operand::Bits { bits: part(bits, &samples, positions * steps * cin.div_ceil(32)), steps },
            Operand::PooledSteps { counts, steps } => {
                Operand::PooledSteps { counts: part(counts, &samples, positions * steps * cin.next_multiple_of(32)), steps }
            }
        }
    }

    fn reading(&self, geometry: &Geometry, batch: usize) -> Reading {
        let (cin, positions) = (geometry.cin, geometry.pooled().iter().product::<usize>());
        // Rows of `pitch` elements, `steps` a position, one behind the other.
        let dense = |kernel: Kernel, address: u64, len: usize, pitch: usize, element: Element, steps: usize| Reading {
            kernel,
            address,
            lengths: [len, batch * positions * steps * pitch],
            source: Source { of_sample: (positions * steps * pitch) as i32, of_position: (steps * pitch) as i32, of_step: pitch as i32 },
            element,
            steps,
            summed: 1,
        };
        let of_frames = |input: Slice<f32>, frames: usize| Reading {
            source: Source { of_sample: (frames * positions * cin) as i32, of_position: cin as i32, of_step: (positions * cin) as i32 },
            ..dense(kernels::WEIGHT_GRADIENT_ANY, input.address(), input.len(), cin, Element::Word, frames)
        };
        // 16 channels at a time where a row has nothing else.
        let or_any = |kernel: Kernel| if cin.is_multiple_of(16) { kernel } else { kernels::WEIGHT_GRADIENT_ANY };
        let (bytes, halfwords) = (or_any(kernels::WEIGHT_GRADIENT_COUNTS_8), or_any(kernels::WEIGHT_GRADIENT_COUNTS_16));
        match *self {
            Operand::Counts(counts) => dense(bytes, counts.address(), counts.len(), cin, Element::Byte, 1),
            Operand::Totals(totals) => dense(halfwords, totals.address(), totals.len(), cin, Element::Halfword, 1),
            Operand::Rounded(values) => dense(or_any(kernels::WEIGHT_GRADIENT_BF16), values.address(), values.len(), cin, Element::Bf16, 1),
            Operand::PooledSteps { counts, steps } => {
                dense(bytes, counts.address(), counts.len(), cin.next_multiple_of(32), Element::Byte, steps)
            }
            Operand::Bits { bits, steps } => {
                dense(kernels::WEIGHT_GRADIENT_BITS, bits.address(), bits.len(), cin.div_ceil(32), Element::Word, steps)
            }
            Operand::Real { input, frames } => of_frames(input, frames),
            Operand::RealSum { input, frames } => Reading { steps: 1, summed: frames, ..of_frames(input, frames) },
        }
    }
}

/// Most parts that the sum over `rows` is cut into. Shapes alone decide, so every device adds in the same order.
fn most_parts(geometry: &Geometry, rows: usize) -> usize {
    let tiles = (geometry.taps() * geometry.cin).div_ceil(TILE[0]) * geometry.cout.div_ceil(TILE[1]);
    BLOCKS_WANTED.div_ceil(tiles).min(rows.div_ceil(ROWS_AT_LEAST)).max(1)
}

/// Elements of workspace for this geometry and up to `rows` = B·P_out, times the steps where each has a row of its own.
pub fn weight_gradient_workspace(geometry: &Geometry, rows: usize) -> usize {
    most_parts(geometry, rows) * weights_of(geometry)
}

/// Adds `factor · threshold · Σ source ⊗ grad` to each of the `replicate` copies of a weight gradient `[tap][cin][cout]`.
///
/// `grad` is bf16 `[B][P_out][steps][C_out]` with the steps of the operand (1 for counts, totals and the sum of frames); `threshold` is that
/// of the source's neurons, on the device, or none.
///
/// # Errors
/// [`Error::ShapeMismatch`] for a buffer that is too small, [`Error::Device`] if a launch fails.
pub fn weight_gradient(
    gpu: &Gpu,
    into: Slice<f32>,
    operand: Operand,
    grad: Slice<u16>,
    geometry: &Geometry,
    replicate: usize,
    batch: usize,
    threshold: Slice<f32>,
    factor: f32,
    workspace: Slice<f32>,
) -> Result<()> {
    let parts = weight_gradient_parts(gpu, into, operand, grad, geometry, replicate, batch, threshold, factor, workspace)?;
    reduce(gpu, &[Parts::Weights(parts)])
}

/// The same without the last step: the gradient is there when [`reduce`] has added up what this leaves in `workspace`.
///
/// # Errors
/// As [`weight_gradient`].
pub fn weight_gradient_parts(
    gpu: &Gpu,
    into: Slice<f32>,
    operand: Operand,
    grad: Slice<u16>,
    geometry: &Geometry,
    replicate: usize,
    batch: usize,
    threshold: Slice<f32>,
    factor: f32,
    workspace: Slice<f32>,
) -> Result<WeightParts> {
    const OP: &str = "weight_gradient";
    let reading = operand.reading(geometry, batch);
    let len = weights_of(geometry);
    let rows = batch * geometry.positions() * reading.steps;
    let rows_a_split = rows.div_ceil(most_parts(geometry, rows)).next_multiple_of(DEPTH);
    let splits = rows.div_ceil(rows_a_split);
    let [has, needs] = reading.lengths;
    if has < needs {
        return Err(Error::shape(format!("{OP}: source"), needs, has));
    }
    int(OP, "values of a sample", needs / batch.max(1))?;
    expect(OP, "gradient of the weights", replicate * len, into)?;
    expect(OP, "gradient", rows * geometry.cout, grad)?;
    expect(OP, "workspace", splits * len, workspace)?;
    int(OP, "weights", len)?;
    let p = WeightGradient {
        source: reading.source,
        geometry: geometry.into(),
        element: reading.element as i32,
        steps: reading.steps as i32,
        rows: int(OP, "rows", rows)?,
        rows_a_split: rows_a_split as i32,
        summed: reading.summed as i32,
    };
    // Words of bits fill whole groups of 32 rows.
    let cin = if matches!(operand, Operand::Bits { .. }) { geometry.cin.next_multiple_of(32) } else { geometry.cin };
    let grid = [(geometry.taps() * cin).div_ceil(TILE[0]) as u32, geometry.cout.div_ceil(TILE[1]) as u32, splits as u32];
    let args: [&dyn Arg; 4] = [&workspace, &reading.address, &grad, &scalars(&p)];
    gpu.launch(&reading.kernel, grid, 0, &args)?;
    Ok(WeightParts { into, partial: workspace, threshold, factor, splits, len, copies: replicate })
}

/// Subtracts `outer · k` from each copy of a weight gradient: `outer` `[tap][cin][cout]`, `k` a factor per output channel.
///
/// # Errors
/// As [`weight_gradient`].
pub fn subtract_outer(gpu: &Gpu, into: Slice<f32>, outer: Slice<f32>, k: Slice<f32>, geometry: &Geometry, replicate: usize) -> Result<()> {
    const OP: &str = "subtract_outer";
    let len = weights_of(geometry);
    expect(OP, "gradient of the weights", replicate * len, into)?;
    expect(OP, "outer", len, outer)?;
    expect(OP, "k", geometry.cout, k)?;
    let p = SubtractOuter { len: int(OP, "weights", len)?, channels: geometry.cout as i32, copies: replicate as i32 };
    let grid = [p.len.unsigned_abs().div_ceil(256), 1, 1];
    gpu.launch(&kernels::SUBTRACT_OUTER, grid, 0, &[&into, &outer, &k, &scalars(&p)])
}
