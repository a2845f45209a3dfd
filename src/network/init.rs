//! How parameters start, as in the reference.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// Initial distribution of a parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Every element the same.
    Constant(f32),
    /// Normal with mean 0 and this standard deviation.
    Normal(f32),
    /// Uniform within ± this bound.
    Uniform(f32),
}

impl Init {
    /// Fills `values` from the generator, in PyTorch's order of elements.
    pub fn fill(self, values: &mut [f32], rng: &mut ChaCha8Rng) {
        match self {
            Init::Constant(value) => values.fill(value),
            Init::Uniform(bound) => values.iter_mut().for_each(|v| *v = rng.random_range(-bound..=bound)),
            Init::Normal(std) => values.iter_mut().for_each(|v| {
                // Box-Muller: one of the pair, so that every element takes two draws.
                let (a, b): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
                *v = std * ((-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()) as f32;
            }),
        }
    }
}
