//! One random number a neuron, in the order of memory.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

/// Draws the masks `[B][P][words]` of layer `index` of the network; a share of `share` of its neurons is dropped. Empty without dropout.
/// The first sample has place `first` in the batch.
pub fn draw_dropped(dropped: &mut Vec<u32>, seed: u64, index: usize, first: usize, [batch, positions, channels]: [usize; 3], share: f32) {
    dropped.clear();
    if share == 0.0 {
        return;
    }
    let words = channels.div_ceil(32);
    dropped.resize(batch * positions * words, 0);
    dropped.par_chunks_mut(positions * words).enumerate().for_each(|(b, dropped)| {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream((index as u64) << 32 | (first + b) as u64);
        for position in dropped.chunks_exact_mut(words) {
            for c in 0..channels {
                position[c / 32] |= u32::from(rng.random::<f32>() < share) << (c % 32);
            }
        }
    });
}
