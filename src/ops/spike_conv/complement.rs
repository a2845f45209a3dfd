//! Neurons that fire at most steps are told by their silence: their weight row is added once for all steps, and its negative where they
//! are silent. Sums of integers stay the same, from fewer rows: in trained networks neurons at the upper end of the clamp mapping fire
//! at nearly every step, and a third to a half of the rows is saved at T = 20.

use crate::device::Isa;
use crate::per_isa;
use crate::spikes::pair_of;

/// Number of the negative of row 0, behind the row of zeros; `None` where the negatives of so many rows have no numbers.
pub fn first_negative(rows: usize) -> Option<u16> {
    (2 * rows <= usize::from(u16::MAX)).then_some(rows as u16 + 1)
}

/// Spikes from which on silence is told: once for all steps and a negative for each silent one are fewer rows than spikes.
fn least_spikes(time_steps: usize) -> usize {
    time_steps.div_ceil(2) + 1
}

/// Positions from one that is looked at to the next, for an estimate of what is saved.
const EVERY: usize = 8;
/// Rows that have to be saved to make up for the work of telling silence: one of so many.
const WORTH: usize = 5;

/// Whether telling silence saves enough of the rows that spikes `[positions][T][words]` name.
pub fn is_worth_it(isa: Isa, bits: &[u32], time_steps: usize, words: usize) -> bool {
    let mut rows = [0; 2];
    count_rows(isa, bits, time_steps, words, &mut rows);
    let [spikes, saved] = rows;
    saved * WORTH > spikes
}

per_isa! {
    /// Of every [`EVERY`]th position, the spikes and the rows that telling silence saves.
    pub fn count_rows(bits: &[u32], time_steps: usize, words: usize, rows: &mut [usize; 2]) {
        let [spikes, saved] = rows;
        for position in bits.chunks_exact(time_steps * words).step_by(EVERY) {
            for word in (0..words).step_by(2) {
                let often = fires_often(position, word, words);
                let mut of_often = 0;
                for step in position.chunks_exact(words) {
                    let fire = pair(step, word, words);
                    *spikes += fire.count_ones() as usize;
                    of_often += (fire & often).count_ones() as usize;
                }
                *saved += 2 * of_often - (time_steps + 1) * often.count_ones() as usize;
            }
        }
    }
}

per_isa! {
    /// From `[positions][T][words]`, `[positions][1 + T][2][words]`: first neurons told by their silence, then for every step the others
    /// that fire, and those of the former that do not.
    pub fn tell_silence(bits: &[u32], time_steps: usize, words: usize, told: &mut [u32]) {
        // Compilers make a better loop where they know the number of words.
        match words {
            1 => tell_silence_of(bits, time_steps, 1, told),
            2 => tell_silence_of(bits, time_steps, 2, told),
            _ => tell_silence_of(bits, time_steps, words, told),
        }
    }
}

#[inline(always)]
fn tell_silence_of(bits: &[u32], time_steps: usize, words: usize, told: &mut [u32]) {
    let positions = bits.chunks_exact(time_steps * words).zip(told.chunks_exact_mut((1 + time_steps) * 2 * words));
    for (position, told) in positions {
        for word in (0..words).step_by(2) {
            let often = fires_often(position, word, words);
            let steps = position.chunks_exact(words).map(|step| pair(step, word, words));
            let of_steps = steps.map(|fire| [fire & !often, !fire & often]);
            for (told, halves) in told.chunks_exact_mut(2 * words).zip(std::iter::once([often, 0]).chain(of_steps)) {
                for (told, half) in told.chunks_exact_mut(words).zip(halves) {
                    told[word] = half as u32;
                    if let Some(told) = told.get_mut(word + 1) {
                        *told = (half >> 32) as u32;
                    }
                }
            }
        }
    }
}

/// Words `word` and `word + 1`, if there is one, of the first step.
#[inline(always)]
fn pair(steps: &[u32], word: usize, words: usize) -> u64 {
    pair_of(&steps[word..words.min(word + 2)])
}

/// Which of the neurons in two words of `[T][words]` have at least [`least_spikes`].
#[inline(always)]
fn fires_often(position: &[u32], word: usize, words: usize) -> u64 {
    match position.len() / words {
        0..8 => fires_often_in::<3>(position, word, words),
        8..32 => fires_often_in::<5>(position, word, words),
        _ => fires_often_in::<8>(position, word, words),
    }
}

/// The same for counts of `BITS` bits: bit k of 64 counts is one word.
#[inline(always)]
fn fires_often_in<const BITS: usize>(position: &[u32], word: usize, words: usize) -> u64 {
    let mut counts = [0u64; BITS];
    for two in position.chunks(2 * words) {
        let (a, b) = (pair(two, word, words), if two.len() > words { pair(&two[words..], word, words) } else { 0 });
        let (either, low) = (a ^ b, counts[0]);
        counts[0] = low ^ either;
        let mut carry = (low & either) | (a & b);
        for bit in &mut counts[1..] {
            (*bit, carry) = (*bit ^ carry, *bit & carry);
        }
    }
    let least = least_spikes(position.len() / words);
    let (mut above, mut equal) = (0, u64::MAX);
    for k in (0..BITS).rev() {
        if least >> k & 1 == 1 {
            equal &= counts[k];
        } else {
            above |= equal & counts[k];
            equal &= !counts[k];
        }
    }
    above | equal
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Neuron c of 70 fires at the first `c mod (T + 1)` steps.
    fn all_counts(time_steps: usize) -> Vec<u32> {
        let step = |t: usize| {
            (0..3).map(move |word| (0..32).filter(|c| 32 * word + c < 70).map(|c| fires(t, 32 * word + c, time_steps) << c).sum())
        };
        (0..time_steps).flat_map(step).collect()
    }

    fn fires(t: usize, c: usize, time_steps: usize) -> u32 {
        u32::from(t < c % (time_steps + 1))
    }

    #[test]
    fn neurons_are_told_by_what_is_fewer_rows() {
        for time_steps in [2, 3, 4, 5, 7, 8, 20, 31, 32, 69, 255] {
            let bits = all_counts(time_steps);
            for isa in Isa::available() {
                let mut told = vec![u32::MAX; (1 + time_steps) * 6];
                tell_silence(isa, &bits, time_steps, 3, &mut told);
                let bit = |list: usize, half: usize, c: usize| told[(list * 2 + half) * 3 + c / 32] >> (c % 32) & 1;
                for c in 0..70 {
                    let spikes = c % (time_steps + 1);
                    let by_silence = 1 + (time_steps - spikes) < spikes;
                    assert_eq!(bit(0, 0, c), u32::from(by_silence), "{spikes} of {time_steps} spikes");
                    assert_eq!(bit(0, 1, c), 0);
                    for t in 0..time_steps {
                        let fires = fires(t, c, time_steps);
                        let expected = if by_silence { [0, 1 - fires] } else { [fires, 0] };
                        assert_eq!([bit(1 + t, 0, c), bit(1 + t, 1, c)], expected, "{spikes} of {time_steps} spikes, step {t}");
                    }
                }
                let rows = |bits: &[u32]| bits.iter().map(|word| word.count_ones() as usize).sum::<usize>();
                let mut counted = [0; 2];
                count_rows(isa, &bits, time_steps, 3, &mut counted);
                assert_eq!(counted, [rows(&bits), rows(&bits) - rows(&told)]);
            }
        }
    }

    #[test]
    fn silence_is_told_where_it_saves_rows() {
        for isa in Isa::available() {
            assert!(is_worth_it(isa, &[u32::MAX; 40], 20, 2));
            assert!(!is_worth_it(isa, &[0; 40], 20, 2));
            let half: Vec<u32> = (0..20).map(|t| if t % 2 == 0 { u32::MAX } else { 0 }).collect();
            assert!(!is_worth_it(isa, &half, 20, 1));
        }
        assert_eq!((first_negative(32_767), first_negative(32_768)), (Some(32_768), None));
    }
}
