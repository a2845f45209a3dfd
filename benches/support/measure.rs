//! Random values, and how long criterion measures an op.

use std::time::Duration;

use criterion::Criterion;
use dsr::network::Init;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// Normal random values, the same in every run.
pub fn values(seed: u64, len: usize, std: f32) -> Vec<f32> {
    let mut values = vec![0.0; len];
    Init::Normal(std).fill(&mut values, &mut ChaCha8Rng::seed_from_u64(seed));
    values
}

/// About a second and a half for each benchmark.
pub fn short() -> Criterion {
    Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1))
}
