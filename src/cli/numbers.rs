//! Numbers on the command line. Each has an upper bound, far above what anybody needs and far below what a computation cannot hold.

use std::ops::RangeInclusive;

/// A number from 1 to `MOST`.
pub fn count<const MOST: usize>(text: &str) -> Result<usize, String> {
    within(text, 1..=MOST)
}

/// A number from 0 to `MOST`.
pub fn up_to<const MOST: usize>(text: &str) -> Result<usize, String> {
    within(text, 0..=MOST)
}

fn within(text: &str, range: RangeInclusive<usize>) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.ok_or(format!("give a number from {} to {}", range.start(), range.end()))
}

/// Steps, runs or passes before the measured ones.
pub const MAX_WARMUP: usize = 10_000;
/// Steps of a training run.
pub const MAX_STEPS: usize = 1_000_000_000;
/// Measured steps, runs or passes.
pub const MAX_REPEATS: usize = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_end_at_their_bounds() {
        assert_eq!((count::<5>("1"), count::<5>("5"), up_to::<5>("0")), (Ok(1), Ok(5), Ok(0)));
        for text in ["0", "6", "", "-1", "1.5", "18446744073709551616"] {
            assert_eq!(count::<5>(text).unwrap_err(), "give a number from 1 to 5", "{text}");
        }
    }
}
