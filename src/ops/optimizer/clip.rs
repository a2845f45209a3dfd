//! The factor that keeps the norm of all gradients within a bound.

use rayon::prelude::*;

/// Gradients of one partial sum: four a lane.
pub(super) const PART: usize = 4 * LANES;
/// Lanes of a sum; a block of the device has one thread for each.
const LANES: usize = 256;
/// Keeps the factor finite for gradients of zero. PyTorch: `clip_grad_norm_`.
const SMALL: f64 = 1e-6;

/// `min(1, most / (norm + 1e-6))` of the norm of all gradients. Sums have one order, whatever the number of threads; the device has the
/// same.
pub(super) fn factor(grads: &[f32], most: f32) -> f32 {
    let partial: Vec<f64> = grads.par_chunks(PART).map(squares).collect();
    let mut lanes = [0.0; LANES];
    for part in partial.chunks(LANES) {
        lanes.iter_mut().zip(part).for_each(|(lane, part)| *lane += part);
    }
    (f64::from(most) / (by_halves(lanes).sqrt() + SMALL)).min(1.0) as f32
}

/// Sum of the squares of up to [`PART`] gradients.
fn squares(grads: &[f32]) -> f64 {
    let mut lanes = [0.0; LANES];
    for (lane, four) in lanes.iter_mut().zip(grads.chunks(4)) {
        *lane = four.iter().fold(0.0, |sum, &grad| sum + f64::from(grad) * f64::from(grad));
    }
    by_halves(lanes)
}

fn by_halves(mut lanes: [f64; LANES]) -> f64 {
    let mut half = LANES / 2;
    while half > 0 {
        let (sums, others) = lanes.split_at_mut(half);
        sums.iter_mut().zip(others).for_each(|(sum, other)| *sum += *other);
        half /= 2;
    }
    lanes[0]
}
