//! Launch geometry and arguments of `kernels/batch_norm_values.cu`; no arithmetic lives here.

use bytemuck::{Pod, Zeroable};

use super::cuda::Columns;
use crate::device::{Gpu, Slice, kernels, scalars};
use crate::error::{Error, Result};

/// Real values, `[rows][pitch]`.
#[derive(Clone, Copy, Debug)]
pub struct RealRows {
    pub values: Slice<f32>,
    /// Elements from row to row.
    pub pitch: usize,
}

/// Field for field `struct RealRows` in `kernels/include/summand.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub(crate) struct RowsArgs {
    values: u64,
    pitch: i64,
}
const _: () = assert!(size_of::<RowsArgs>() == 16);

impl RealRows {
    /// Those from row `first` on.
    pub fn from_row(&self, first: usize) -> Self {
        let start = (first * self.pitch).min(self.values.len());
        RealRows { values: self.values.part(start..self.values.len()), pitch: self.pitch }
    }

    /// For a kernel that reads `channels` of each of `rows`.
    pub(crate) fn args(&self, op: &str, [rows, channels]: [usize; 2]) -> Result<RowsArgs> {
        let needed = if rows == 0 { 0 } else { (rows - 1) * self.pitch + channels };
        if channels > self.pitch || self.values.len() < needed {
            return Err(Error::shape(format!("{op}: real values"), (rows, channels), (self.values.len(), self.pitch)));
        }
        Ok(RowsArgs { values: self.values.address(), pitch: self.pitch as i64 })
    }
}

/// Partial sums that [`statistics_of_values`] needs room for, of up to so many rows.
pub fn partial_len(rows: usize, channels: usize) -> usize {
    5 * Columns::most_blocks(rows, channels) * channels
}

/// `Σx, Σy, Σx², Σxy, Σy²` of the currents of a layer, `[5][C]`, zero for an absent second; `partial` has [`partial_len`] values.
///
/// # Errors
/// [`Error::ShapeMismatch`] for a buffer that is too small, [`Error::Device`] if a launch fails.
pub fn statistics_of_values(
    gpu: &Gpu,
    sums: Slice<f64>,
    partial: Slice<f64>,
    first: RealRows,
    second: Option<RealRows>,
    [rows, channels]: [usize; 2],
) -> Result<()> {
    const OP: &str = "statistics_of_values";
    for (what, expected, got) in
        [("sums", 5 * channels, sums.len()), ("partial sums", 5 * Columns::new(rows, channels).blocks() * channels, partial.len())]
    {
        if got < expected {
            return Err(Error::shape(format!("{OP}: {what}"), expected, got));
        }
    }
    let columns = Columns::new(rows, channels);
    let first = first.args(OP, [rows, channels])?;
    match second {
        None => gpu.launch(&kernels::STATISTICS_OF_VALUES, columns.grid(), 0, &[&partial, &scalars(&first), &scalars(&columns)])?,
        Some(second) => {
            let second = second.args(OP, [rows, channels])?;
            let kernel = &kernels::STATISTICS_OF_VALUE_PAIRS;
            gpu.launch(kernel, columns.grid(), 0, &[&partial, &scalars(&first), &scalars(&second), &scalars(&columns)])?;
        }
    }
    let [blocks, is_pair] = [columns.blocks() as i32, i32::from(second.is_some())];
    let grid = [channels.div_ceil(32) as u32, 1, 1];
    gpu.launch(&kernels::REDUCE_STATISTICS, grid, 0, &[&sums, &partial, &blocks, &(channels as i32), &is_pair])
}
