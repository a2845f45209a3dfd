//! Bit-packed spike trains.

use rayon::prelude::*;

use crate::device::Isa;
use crate::per_isa;

/// Spikes of one layer over all time steps: `[B][P][T][words]`, channel `c` is bit `c % 32` of word `c / 32`, tail bits are zero.
///
/// A position keeps its T steps together: it is the unit of work of every op, so any range of positions is one slice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spikes {
    /// Number of time steps T.
    pub time_steps: usize,
    /// Batch B.
    pub batch: usize,
    /// Positions P = H·W.
    pub positions: usize,
    /// Channels C.
    pub channels: usize,
    bits: Vec<u32>,
}

impl Spikes {
    /// A train of these sizes in the storage of `bits`; the content is undefined until an op has written it.
    pub fn reuse(mut bits: Vec<u32>, time_steps: usize, batch: usize, positions: usize, channels: usize) -> Self {
        bits.resize(batch * positions * time_steps * channels.div_ceil(32), 0);
        Spikes { time_steps, batch, positions, channels, bits }
    }

    /// Words of 32 channels that a position takes.
    pub fn words(&self) -> usize {
        self.channels.div_ceil(32)
    }

    /// Spikes at position `p` of sample `b`, `[T][words]`.
    pub fn position(&self, b: usize, p: usize) -> &[u32] {
        let len = self.time_steps * self.words();
        &self.bits[(b * self.positions + p) * len..][..len]
    }

    /// Whether neuron (`b`, `p`, `c`) fired at step `t`.
    pub fn get(&self, t: usize, b: usize, p: usize, c: usize) -> bool {
        self.position(b, p)[t * self.words() + c / 32] >> (c % 32) & 1 == 1
    }

    /// All words, `[B][P][T][words]`.
    pub fn bits(&self) -> &[u32] {
        &self.bits
    }

    /// All words, to be written by an op.
    pub fn bits_mut(&mut self) -> &mut [u32] {
        &mut self.bits
    }

    /// The storage, for [`Spikes::reuse`].
    pub fn into_bits(self) -> Vec<u32> {
        self.bits
    }

    /// The first `time_steps` steps of every neuron, at most all.
    pub fn first_steps(&self, time_steps: usize) -> Spikes {
        let (steps, words) = (time_steps.min(self.time_steps), self.words());
        let trains = self.bits.chunks_exact((self.time_steps * words).max(1));
        let bits = trains.flat_map(|train| &train[..steps * words]).copied().collect();
        Spikes { time_steps: steps, bits, ..*self }
    }

    /// Whether each neuron fired at each step, in PyTorch's order: `[T][B][C][P]`.
    pub fn unpacked(&self) -> Vec<bool> {
        let (words, plane) = (self.words(), self.channels * self.positions);
        let mut fired = vec![false; self.time_steps * self.batch * plane];
        fired.par_chunks_mut(plane.max(1)).enumerate().for_each(|(image, fired)| {
            let (t, b) = (image / self.batch, image % self.batch);
            let mut of_word = vec![0u32; self.positions];
            for (word, fired) in fired.chunks_mut(32 * self.positions).enumerate() {
                of_word.iter_mut().enumerate().for_each(|(p, bits)| *bits = self.position(b, p)[t * words + word]);
                for (bit, fired) in fired.chunks_exact_mut(self.positions).enumerate() {
                    fired.iter_mut().zip(&of_word).for_each(|(fired, bits)| *fired = bits >> bit & 1 == 1);
                }
            }
        });
        fired
    }

    /// Number of spikes in the whole train.
    pub fn count(&self) -> u64 {
        let mut total = 0;
        count_spikes(Isa::detect(), &self.bits, &mut total);
        total
    }
}

/// One word, or two with the first in the lower half.
#[inline(always)]
pub fn pair_of(words: &[u32]) -> u64 {
    u64::from(words[0]) | words.get(1).map_or(0, |&high| u64::from(high) << 32)
}

per_isa! {
    /// Adds the number of spikes in `bits` to `total`.
    pub fn count_spikes(bits: &[u32], total: &mut u64) {
        *total += bits.iter().map(|word| u64::from(word.count_ones())).sum::<u64>();
    }
}
