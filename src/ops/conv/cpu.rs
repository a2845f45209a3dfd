//! Forward by one `mul_add` a tap in declared order (bit-equal everywhere); gradients by GEMM in fixed tasks.

use gemm::Parallelism;
use rayon::prelude::*;

use crate::ops::spike_conv::{Geometry, for_each_in_window};
use crate::per_isa;

per_isa! {
    /// Real-valued convolution at output (`y`, `x`): `input` is `[P_in][C_in]`, weights `[tap][cin][cout]`, `out` `[C_out]`.
    ///
    /// Products are added in the order of the weights, one `mul_add` each.
    pub fn conv_at(input: &[f32], weights: &[f32], geometry: &Geometry, at: [usize; 2], out: &mut [f32]) {
        let (cin, cout) = (geometry.cin, geometry.cout);
        out.fill(0.0);
        let width = geometry.pooled()[1];
        geometry.for_each_tap(at[0], at[1], |tap, row, column| {
            let values = &input[(row * width + column) * cin..][..cin];
            for (&value, row) in values.iter().zip(weights[tap * cin * cout..].chunks_exact(cout)) {
                for (out, weight) in out.iter_mut().zip(row) {
                    *out = value.mul_add(*weight, *out);
                }
            }
        });
    }
}

/// `rates = value · pooled counts / area`, one sample: counts `[P][C]` to `[P_pooled][C]`.
pub fn pool_rates(counts: &[u8], value: f32, geometry: &Geometry, rates: &mut [f32]) {
    let channels = geometry.cin;
    let scale = value / geometry.area() as f32;
    if geometry.pool == [1, 1, 0] {
        for (rate, &count) in rates.iter_mut().zip(counts) {
            *rate = scale * f32::from(count);
        }
        return;
    }
    rates.fill(0.0);
    for_each_pooled(geometry, |pooled, position| {
        for (rate, &count) in rates[pooled * channels..][..channels].iter_mut().zip(&counts[position * channels..][..channels]) {
            *rate += scale * f32::from(count);
        }
    });
}

/// The means of real values in the windows of a pool, one sample: `[P][C]` to `[P_pooled][C]`.
pub fn pool_values(values: &[f32], geometry: &Geometry, means: &mut [f32]) {
    let channels = geometry.cin;
    let scale = 1.0 / geometry.area() as f32;
    means.fill(0.0);
    for_each_pooled(geometry, |pooled, position| {
        for (mean, &value) in means[pooled * channels..][..channels].iter_mut().zip(&values[position * channels..][..channels]) {
            *mean += scale * value;
        }
    });
}

/// Adds the gradient of a pooled sample `[P_pooled][C]` to that of its source `[P][C]`.
pub fn unpool_add(pooled_grad: &[f32], geometry: &Geometry, grad: &mut [f32]) {
    let channels = geometry.cin;
    let scale = 1.0 / geometry.area() as f32;
    for_each_pooled(geometry, |pooled, position| {
        for (grad, &from) in grad[position * channels..][..channels].iter_mut().zip(&pooled_grad[pooled * channels..][..channels]) {
            *grad += scale * from;
        }
    });
}

fn for_each_pooled(geometry: &Geometry, mut visit: impl FnMut(usize, usize)) {
    let [height, width] = geometry.pooled();
    for pooled in 0..height * width {
        for_each_in_window(geometry, pooled / width, pooled % width, |position| visit(pooled, position));
    }
}

/// `dst[m][n] (+)= Σ_k lhs[m][k]·rhs[k][n]` on one thread, all strides in elements.
pub(super) fn matmul(
    dims: [usize; 3],
    dst: &mut [f32],
    accumulate: bool,
    lhs: &[f32],
    lhs_strides: [usize; 2],
    rhs: &[f32],
    rhs_strides: [usize; 2],
) {
    let [m, n, k] = dims;
    assert!(dst.len() >= m * n);
    assert!(m * k == 0 || lhs.len() > (m - 1) * lhs_strides[0] + (k - 1) * lhs_strides[1]);
    assert!(n * k == 0 || rhs.len() > (k - 1) * rhs_strides[0] + (n - 1) * rhs_strides[1]);
    // SAFETY: the three asserts above bound every index that the strides can reach.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst.as_mut_ptr(),
            1,
            n as isize,
            accumulate,
            lhs.as_ptr(),
            lhs_strides[1] as isize,
            lhs_strides[0] as isize,
            rhs.as_ptr(),
            rhs_strides[1] as isize,
            rhs_strides[0] as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// Adds the gradient of the (pooled) source: `grad` `[B][P_out][C_out]`, `out` `[B][P_pooled][C_in]`; weights `[tap][cin][cout]`.
///
/// A fixed number of samples a task, so the bits do not depend on the number of threads.
pub fn data_gradient(grad: &[f32], weights: &[f32], geometry: &Geometry, out: &mut [f32]) {
    let pooled: usize = geometry.pooled().iter().product();
    let group = 256usize.div_ceil(geometry.positions());
    let chunks = out.par_chunks_mut(group * pooled * geometry.cin).zip(grad.par_chunks(group * geometry.positions() * geometry.cout));
    if geometry.stride == 1 {
        let weights = taps_transposed(weights, geometry);
        chunks.for_each_init(Vec::new, |columns, (out, grad)| gather_gradient(grad, &weights, geometry, columns, out));
    } else {
        chunks.for_each_init(Vec::new, |columns, (out, grad)| scatter_gradient(grad, weights, geometry, columns, out));
    }
}

/// Rows of gathered or scattered columns at once: few enough for the second cache, enough to pack the weights once for many.
pub(super) fn rows_at_once(columns: usize) -> usize {
    ((1usize << 17) / columns).max(128)
}

/// Sample, row and column of `samples` images, in the order of memory.
fn places(samples: usize, [height, width]: [usize; 2]) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..samples).flat_map(move |sample| (0..height).flat_map(move |y| (0..width).map(move |x| (sample, y, x))))
}

/// From `[tap][cin][cout]` to `[tap][cout][cin]`.
fn taps_transposed(weights: &[f32], geometry: &Geometry) -> Vec<f32> {
    let (cin, cout) = (geometry.cin, geometry.cout);
    let mut transposed = vec![0.0; weights.len()];
    transposed.par_chunks_mut(cin * cout).zip(weights.par_chunks(cin * cout)).for_each(|(out, tap)| {
        for (o, row) in out.chunks_exact_mut(cin).enumerate() {
            for (c, out) in row.iter_mut().enumerate() {
                *out = tap[c * cout + o];
            }
        }
    });
    transposed
}

/// Stride 1: each source position gathers the gradients of all outputs that read it, one product with `[tap][cout][cin]`.
fn gather_gradient(grad: &[f32], weights: &[f32], geometry: &Geometry, columns: &mut Vec<f32>, out: &mut [f32]) {
    let [out_height, out_width] = geometry.out();
    let (cin, cout, taps) = (geometry.cin, geometry.cout, geometry.taps());
    let at_once = rows_at_once(taps * cout);
    columns.resize(at_once * taps * cout, 0.0);
    let mut places = places(grad.len() / (out_height * out_width * cout), geometry.pooled());
    for out in out.chunks_mut(at_once * cin) {
        let rows = out.len() / cin;
        for ((sample, y, x), columns) in places.by_ref().take(rows).zip(columns.chunks_exact_mut(taps * cout)) {
            let mut columns = columns.chunks_exact_mut(cout);
            for ky in 0..geometry.kernel[0] {
                let from_y = (y + geometry.pad).wrapping_sub(ky);
                for (kx, column) in columns.by_ref().take(geometry.kernel[1]).enumerate() {
                    let from_x = (x + geometry.pad).wrapping_sub(kx);
                    if from_y < out_height && from_x < out_width {
                        column.copy_from_slice(&grad[((sample * out_height + from_y) * out_width + from_x) * cout..][..cout]);
                    } else {
                        column.fill(0.0);
                    }
                }
            }
        }
        matmul([rows, cin, taps * cout], out, true, columns, [taps * cout, 1], weights, [cin, 1]);
    }
}

/// Any stride: one product with `[tap][cin][cout]` gives each output's share for all taps, which are added to the positions it reads.
fn scatter_gradient(grad: &[f32], weights: &[f32], geometry: &Geometry, columns: &mut Vec<f32>, out: &mut [f32]) {
    let [height, width] = geometry.pooled();
    let (cin, cout, taps) = (geometry.cin, geometry.cout, geometry.taps());
    let at_once = rows_at_once(taps * cin);
    columns.resize(at_once * taps * cin, 0.0);
    let mut places = places(out.len() / (height * width * cin), geometry.out());
    for grad in grad.chunks(at_once * cout) {
        let rows = grad.len() / cout;
        matmul([rows, taps * cin, cout], columns, false, grad, [cout, 1], weights, [1, cout]);
        for ((sample, y, x), columns) in places.by_ref().take(rows).zip(columns.chunks_exact(taps * cin)) {
            geometry.for_each_tap(y, x, |tap, row, column| {
                let out = &mut out[((sample * height + row) * width + column) * cin..][..cin];
                out.iter_mut().zip(&columns[tap * cin..][..cin]).for_each(|(out, from)| *out += from);
            });
        }
    }
}

/// Adds `Σ input ⊗ grad` to the weight gradient `[tap][cin][cout]`: input `[B][P_pooled][C_in]`, grad `[B][P_out][C_out]`.
///
/// One task for some input channels of a tap; samples are added in order.
pub fn weight_gradient(input: &[f32], grad: &[f32], geometry: &Geometry, weight_grad: &mut [f32]) {
    let [out_height, out_width] = geometry.out();
    let [height, width] = geometry.pooled();
    let positions = out_height * out_width;
    let (cin, cout) = (geometry.cin, geometry.cout);
    let group = 1024usize.div_ceil(positions);
    let most = if geometry.taps() < 4 { (cin / 4).max(16) } else { (cin / 2).clamp(32, 128) };
    let chunk = (1..=cin.min(most)).rev().find(|c| cin.is_multiple_of(*c)).unwrap_or(cin);
    weight_grad.par_chunks_mut(chunk * cout).enumerate().for_each_init(Vec::new, |gathered: &mut Vec<f32>, (task, out)| {
        let (tap, first_channel) = (task * chunk / cin, task * chunk % cin);
        let (ky, kx) = (tap / geometry.kernel[1], tap % geometry.kernel[1]);
        gathered.resize(group * positions * chunk, 0.0);
        for (input, grad) in input.chunks(group * height * width * cin).zip(grad.chunks(group * positions * cout)) {
            let rows = grad.len() / cout;
            let mut gathered_left = gathered.chunks_exact_mut(chunk);
            for sample in input.chunks_exact(height * width * cin) {
                for y in 0..out_height {
                    let row = (y * geometry.stride + ky).wrapping_sub(geometry.pad);
                    for (x, gathered) in gathered_left.by_ref().take(out_width).enumerate() {
                        let column = (x * geometry.stride + kx).wrapping_sub(geometry.pad);
                        if row < height && column < width {
                            gathered.copy_from_slice(&sample[(row * width + column) * cin + first_channel..][..chunk]);
                        } else {
                            gathered.fill(0.0);
                        }
                    }
                }
            }
            matmul([chunk, cout, rows], out, true, gathered, [1, chunk], grad, [cout, 1]);
        }
    });
}
