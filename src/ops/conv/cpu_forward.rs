//! Forward of a whole batch as matrix products, for networks whose layers exchange real values.

use rayon::prelude::*;

use super::cpu::{matmul, rows_at_once};
use crate::ops::spike_conv::Geometry;

/// Most rows of one product: enough to pack the weights once for many, few enough that one image keeps several threads busy.
const MOST_ROWS: usize = 512;

/// Convolution of a (pooled) source: `input` `[B][P_pooled][C_in]`, weights `[tap][cin][cout]`, `out` `[B][P_out][C_out]`.
///
/// Tasks are cut by shapes and each product runs on one thread, so the bits do not depend on the number of threads. They do depend
/// on the processor, whose kernel the matrix product picks.
pub fn conv(input: &[f32], weights: &[f32], geometry: &Geometry, out: &mut [f32]) {
    let (cin, cout, columns) = (geometry.cin, geometry.cout, geometry.taps() * geometry.cin);
    let [height, width] = geometry.pooled();
    let (positions, out_width) = (geometry.positions(), geometry.out()[1]);
    // A receptive field that lies in one piece is a row of the product as it is.
    let in_place = geometry.pad == 0 && (geometry.kernel == [height, width] || (geometry.kernel == [1, 1] && geometry.stride == 1));
    let at_once = rows_at_once(columns).min(MOST_ROWS);
    out.par_chunks_mut(at_once * cout).enumerate().for_each_init(Vec::new, |gathered: &mut Vec<f32>, (task, out)| {
        let (first, rows) = (task * at_once, out.len() / cout);
        if in_place {
            matmul([rows, cout, columns], out, false, &input[first * columns..][..rows * columns], [columns, 1], weights, [cout, 1]);
            return;
        }
        gathered.resize(at_once * columns, 0.0);
        for (row, field) in gathered.chunks_exact_mut(columns).take(rows).enumerate() {
            let (sample, position) = ((first + row) / positions, (first + row) % positions);
            let sample = &input[sample * height * width * cin..][..height * width * cin];
            gather(sample, geometry, position / out_width, position % out_width, field);
        }
        matmul([rows, cout, columns], out, false, gathered, [columns, 1], weights, [cout, 1]);
    });
}

/// The receptive field of output (`y`, `x`), `[tap][cin]`, zero where it is padding; a row of the kernel lies in one piece.
fn gather(sample: &[f32], geometry: &Geometry, y: usize, x: usize, field: &mut [f32]) {
    let [height, width] = geometry.pooled();
    let (cin, kernel_width) = (geometry.cin, geometry.kernel[1]);
    let left = x * geometry.stride;
    let begin = geometry.pad.saturating_sub(left).min(kernel_width);
    let end = (width + geometry.pad).saturating_sub(left).clamp(begin, kernel_width);
    for (ky, field) in field.chunks_exact_mut(kernel_width * cin).enumerate() {
        let row = (y * geometry.stride + ky).wrapping_sub(geometry.pad);
        if row >= height || begin == end {
            field.fill(0.0);
            continue;
        }
        field[..begin * cin].fill(0.0);
        let from = row * width + left + begin - geometry.pad;
        field[begin * cin..end * cin].copy_from_slice(&sample[from * cin..][..(end - begin) * cin]);
        field[end * cin..].fill(0.0);
    }
}
