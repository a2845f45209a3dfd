//! Mixup: each sample of a training batch is mixed with another one (Zhang et al., arXiv:1710.09412).

use rand_chacha::ChaCha8Rng;

use super::augment::{Purpose, below, generator, uniform};
use crate::device::Isa;
use crate::per_isa;

/// How a batch is mixed.
#[derive(Clone, Debug, PartialEq)]
pub struct Mix {
    /// Share λ that each sample keeps of itself, 0..=1; the rest is its partner's.
    pub share: f32,
    /// Partner of each sample, a permutation of the batch.
    pub partners: Vec<usize>,
}

impl Mix {
    /// That of the batch of step `step` of `epoch`: λ ~ Beta(α, α), one for the batch, and partners by a Fisher-Yates shuffle.
    pub fn draw(alpha: f64, batch: usize, seed: u64, epoch: u64, step: u64) -> Self {
        let mut rng = generator(seed, Purpose::Mixup, epoch, step);
        let share = beta(&mut rng, alpha) as f32;
        let mut partners: Vec<usize> = (0..batch).collect();
        for last in (1..batch).rev() {
            partners.swap(last, below(&mut rng, last as u64 + 1) as usize);
        }
        Mix { share, partners }
    }

    /// Mixes a batch in place, `[B][values]`: λ·sample + (1 − λ)·partner. It takes the memory of one sample, since it follows the
    /// cycles of the permutation: a sample is overwritten when the one whose partner it is has been mixed.
    pub fn mix(&self, data: &mut [f32], values: usize) {
        let isa = Isa::detect();
        let mut is_mixed = vec![false; self.partners.len()];
        for start in 0..self.partners.len() {
            if is_mixed[start] || values == 0 {
                continue;
            }
            let first = data[start * values..][..values].to_vec();
            let mut at = start;
            loop {
                is_mixed[at] = true;
                let partner = self.partners[at];
                if partner == start {
                    mix_into(isa, &mut data[at * values..][..values], &first, self.share);
                    break;
                }
                let [sample, other] = two(data, values, at, partner);
                mix_into(isa, sample, other, self.share);
                at = partner;
            }
        }
    }

    /// Mixes the first `own` values with those of their partners, which lie behind them in the same order, and leaves these away: the same
    /// bits as [`Mix::mix`].
    pub fn mix_with(&self, data: &mut Vec<f32>, own: usize) {
        let (samples, partners) = data.split_at_mut(own);
        mix_into(Isa::detect(), samples, partners, self.share);
        data.truncate(own);
    }
}

/// Two different samples of a batch, the first one to be written.
fn two(data: &mut [f32], values: usize, at: usize, partner: usize) -> [&mut [f32]; 2] {
    let (low, high) = data.split_at_mut(at.max(partner) * values);
    let (low, high) = (&mut low[at.min(partner) * values..][..values], &mut high[..values]);
    if at < partner { [low, high] } else { [high, low] }
}

per_isa! {
    /// One product and one fused operation a value: the same bits with every instruction set.
    pub fn mix_into(sample: &mut [f32], other: &[f32], share: f32) {
        let rest = 1.0 - share;
        for (value, other) in sample.iter_mut().zip(other) {
            *value = share.mul_add(*value, rest * *other);
        }
    }
}

/// A number of the distribution Beta(α, α).
fn beta(rng: &mut ChaCha8Rng, alpha: f64) -> f64 {
    loop {
        let [u, v] = [0; 2].map(|_| 1.0 - uniform(rng, [0.0, 1.0])); // in (0, 1]
        if alpha > 1.0 {
            // Rejection under the mode: the density is (4x(1 − x))^(α − 1) of it.
            if v <= (4.0 * u * (1.0 - u)).powf(alpha - 1.0) {
                return u;
            }
        } else {
            // Jöhnk: x / (x + y) of x = u^(1/α) and y = v^(1/α) with x + y ≤ 1, in logarithms, since x and y may be too small.
            let (x, y) = (u.ln() / alpha, v.ln() / alpha);
            if x.exp() + y.exp() <= 1.0 {
                return 1.0 / (1.0 + (y - x).exp());
            }
        }
    }
}
