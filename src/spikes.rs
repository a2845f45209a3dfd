//! Bit-packed spike trains.

/// Spikes of one layer over all time steps: `[T][B][P][words]`, channel `c` is bit `c % 32` of word `c / 32`, tail bits are zero.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// A train without a spike.
    pub fn silent(time_steps: usize, batch: usize, positions: usize, channels: usize) -> Self {
        let words = channels.div_ceil(32);
        Spikes { time_steps, batch, positions, channels, bits: vec![0; time_steps * batch * positions * words] }
    }

    /// Words of 32 channels that a position takes.
    pub fn words(&self) -> usize {
        self.channels.div_ceil(32)
    }

    /// Spikes of sample `b` at step `t`, `[P][words]`.
    pub fn step(&self, t: usize, b: usize) -> &[u32] {
        let len = self.positions * self.words();
        let start = (t * self.batch + b) * len;
        &self.bits[start..start + len]
    }

    /// For every sample, its `T` slices `[P][words]`; lets samples be written in parallel.
    pub fn samples_mut(&mut self) -> Vec<Vec<&mut [u32]>> {
        let len = self.positions * self.words();
        let mut samples: Vec<Vec<&mut [u32]>> = (0..self.batch).map(|_| Vec::with_capacity(self.time_steps)).collect();
        for (index, step) in self.bits.chunks_mut(len.max(1)).enumerate() {
            samples[index % self.batch].push(step);
        }
        samples
    }

    /// Whether neuron (`b`, `p`, `c`) fired at step `t`.
    pub fn get(&self, t: usize, b: usize, p: usize, c: usize) -> bool {
        self.step(t, b)[p * self.words() + c / 32] >> (c % 32) & 1 == 1
    }

    /// All words, `[T][B][P][words]`.
    pub fn bits(&self) -> &[u32] {
        &self.bits
    }

    /// Number of spikes in the whole train.
    pub fn count(&self) -> u64 {
        self.bits.iter().map(|w| u64::from(w.count_ones())).sum()
    }

    /// Bytes this train takes.
    pub fn bytes(&self) -> usize {
        self.bits.len() * 4
    }
}
