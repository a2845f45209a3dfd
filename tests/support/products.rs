//! Products of convolutions with operands of 16 bits: cases with awkward sizes, and how near a result has to be.

use dsr::ops::spike_conv::Geometry;
use half::bf16;

use super::convolutions::{ONE_BY_ONE, geometry};

pub fn to_bf16(values: &[f32]) -> Vec<u16> {
    values.iter().map(|&v| bf16::from_f32(v).to_bits()).collect()
}

pub fn rounded(values: &[f32]) -> Vec<f32> {
    values.iter().map(|&v| bf16::from_f32(v).to_f32()).collect()
}

/// Every (pooled source position, output position, tap) that a convolution multiplies.
pub fn products(geometry: &Geometry) -> Vec<[usize; 3]> {
    let [_, width] = geometry.pooled();
    let [out_height, out_width] = geometry.out();
    let mut found = Vec::new();
    for to in 0..out_height * out_width {
        geometry.for_each_tap(to / out_width, to % out_width, |tap, row, column| found.push([row * width + column, to, tap]));
    }
    found
}

/// Whether `got` is near `exact`: at most twice as far as `plain`, in the worst element and on the average.
#[track_caller]
pub fn assert_as_near(what: &str, got: &[f32], plain: &[f32], exact: &[f64]) {
    let errors = |values: &[f32]| {
        let off: Vec<f64> = values.iter().zip(exact).map(|(v, e)| (f64::from(*v) - e).abs()).collect();
        (off.iter().copied().fold(0.0, f64::max), (off.iter().map(|e| e * e).sum::<f64>() / off.len() as f64).sqrt())
    };
    assert_eq!(got.len(), exact.len(), "{what}");
    assert!(got.iter().all(|v| v.is_finite()), "{what}: not finite");
    let ((worst, mean), (plain_worst, plain_mean)) = (errors(got), errors(plain));
    assert!(worst <= 2.0 * plain_worst && mean <= 2.0 * plain_mean, "{what}: {worst:e} {mean:e}, plain {plain_worst:e} {plain_mean:e}");
}

/// Odd maps, strides that leave positions without any tap, channels around tiles and vectors, linear layers, replicated weights.
pub fn gradient_cases() -> Vec<(Geometry, usize, usize)> {
    vec![
        (ONE_BY_ONE, 1, 1),
        (geometry(3, 31, [5, 7], 3, 1, 1), 2, 1),
        (geometry(31, 64, [5, 7], 3, 2, 1), 1, 1),
        (geometry(64, 64, [9, 9], 3, 1, 1), 1, 1),
        (geometry(64, 130, [5, 4], 3, 1, 1), 2, 1),
        (geometry(130, 64, [7, 5], 1, 2, 0), 3, 1),
        (geometry(3, 64, [9, 11], 7, 2, 3), 1, 1),
        (geometry(16, 40, [7, 8], 2, 3, 0), 2, 1),
        (Geometry { kernel: [2, 3], ..geometry(64, 10, [2, 3], 1, 1, 0) }, 5, 1),
        (Geometry { pool: [2, 2, 0], ..geometry(48, 10, [5, 3], 1, 1, 0) }, 3, 4),
    ]
}
