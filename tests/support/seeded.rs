//! Random values that are the same in every run.

use std::ops::Range;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

pub fn values(seed: u64, len: usize, range: Range<f32>) -> Vec<f32> {
    let mut rng = rng(seed);
    (0..len).map(|_| rng.random_range(range.clone())).collect()
}
