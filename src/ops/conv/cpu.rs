//! Forward by one `mul_add` a tap in declared order (bit-equal everywhere); gradients by GEMM in fixed tasks.

use gemm::Parallelism;
use rayon::prelude::*;

use crate::ops::spike_conv::Geometry;
use crate::per_isa;

per_isa! {
    /// Real-valued convolution at output (`y`, `x`): `input` is `[P_in][C_in]`, weights `[tap][cin][cout]`, `out` `[C_out]`.
    ///
    /// Products are added in the order of the weights, one `mul_add` each.
    pub fn conv_at(input: &[f32], weights: &[f32], geometry: &Geometry, at: [usize; 2], out: &mut [f32]) {
        let (cin, cout) = (geometry.cin, geometry.cout);
        out.fill(0.0);
        for tap in 0..geometry.taps() {
            let (ky, kx) = (tap / geometry.kernel[1], tap % geometry.kernel[1]);
            let Some(position) = geometry.tap_position(at[0], at[1], ky, kx) else { continue };
            let values = &input[position * cin..(position + 1) * cin];
            for (&value, row) in values.iter().zip(weights[tap * cin * cout..].chunks_exact(cout)) {
                for (out, weight) in out.iter_mut().zip(row) {
                    *out = value.mul_add(*weight, *out);
                }
            }
        }
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
    let [height, width] = geometry.source;
    let [pooled_height, pooled_width] = geometry.pooled();
    let [window, stride, pad] = geometry.pool;
    for y in 0..pooled_height {
        for x in 0..pooled_width {
            for iy in (y * stride).saturating_sub(pad)..(y * stride + window).saturating_sub(pad).min(height) {
                for ix in (x * stride).saturating_sub(pad)..(x * stride + window).saturating_sub(pad).min(width) {
                    visit(y * pooled_width + x, iy * width + ix);
                }
            }
        }
    }
}

/// `dst[m][n] (+)= Σ_k lhs[m][k]·rhs[k][n]` on one thread, all strides in elements.
fn matmul(dims: [usize; 3], dst: &mut [f32], accumulate: bool, lhs: &[f32], lhs_strides: [usize; 2], rhs: &[f32], rhs_strides: [usize; 2]) {
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
    let [out_height, out_width] = geometry.out();
    let positions = out_height * out_width;
    let pooled: usize = geometry.pooled().iter().product();
    let (cin, cout, taps) = (geometry.cin, geometry.cout, geometry.taps());
    let group = 256usize.div_ceil(positions);
    let columns = taps * cin;
    out.par_chunks_mut(group * pooled * cin).zip(grad.par_chunks(group * positions * cout)).for_each_init(
        Vec::new,
        |scratch: &mut Vec<f32>, (out, grad)| {
            // Few rows at a time: the columns stay in cache between the product and their addition.
            let rows_at_once = (1usize << 16).div_ceil(columns).max(32);
            scratch.resize(rows_at_once * columns, 0.0);
            let rows = grad.len() / cout;
            for first in (0..rows).step_by(rows_at_once) {
                let count = rows_at_once.min(rows - first);
                matmul([count, columns, cout], scratch, false, &grad[first * cout..], [cout, 1], weights, [1, cout]);
                for row in 0..count {
                    let (sample, position) = ((first + row) / positions, (first + row) % positions);
                    let (y, x) = (position / out_width, position % out_width);
                    for tap in 0..taps {
                        let Some(source) = geometry.tap_position(y, x, tap / geometry.kernel[1], tap % geometry.kernel[1]) else {
                            continue;
                        };
                        let from = &scratch[row * columns + tap * cin..][..cin];
                        for (out, from) in out[(sample * pooled + source) * cin..][..cin].iter_mut().zip(from) {
                            *out += from;
                        }
                    }
                }
            }
        },
    );
}

/// Adds `Σ input ⊗ grad` to the weight gradient `[tap][cin][cout]`: input `[B][P_pooled][C_in]`, grad `[B][P_out][C_out]`.
///
/// One task a tap; samples are added in order.
pub fn weight_gradient(input: &[f32], grad: &[f32], geometry: &Geometry, weight_grad: &mut [f32]) {
    let [out_height, out_width] = geometry.out();
    let positions = out_height * out_width;
    let pooled: usize = geometry.pooled().iter().product();
    let (cin, cout) = (geometry.cin, geometry.cout);
    let batch = grad.len() / (positions * cout);
    let group = 1024usize.div_ceil(positions).min(batch.max(1));
    weight_grad.par_chunks_mut(cin * cout).enumerate().for_each_init(Vec::new, |gathered: &mut Vec<f32>, (tap, out)| {
        for first in (0..batch).step_by(group) {
            let samples = group.min(batch - first);
            gathered.clear();
            gathered.resize(samples * positions * cin, 0.0);
            for sample in 0..samples {
                for y in 0..out_height {
                    for x in 0..out_width {
                        let Some(source) = geometry.tap_position(y, x, tap / geometry.kernel[1], tap % geometry.kernel[1]) else {
                            continue;
                        };
                        let from = &input[((first + sample) * pooled + source) * cin..][..cin];
                        gathered[(sample * positions + y * out_width + x) * cin..][..cin].copy_from_slice(from);
                    }
                }
            }
            let rows = samples * positions;
            matmul([cin, cout, rows], out, true, gathered, [1, cin], &grad[first * positions * cout..][..rows * cout], [cout, 1]);
        }
    });
}
