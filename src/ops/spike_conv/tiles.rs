//! How the kernel of convolutions with their neurons cuts a layer into tiles.

use super::cuda::TILE;

/// How the neurons' kernel cuts a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiles {
    /// Positions of a block.
    pub positions: usize,
    /// Steps of a tile; a block takes ⌈T / steps⌉ tiles one after the other.
    pub steps: usize,
}

impl Tiles {
    /// The cut with the least work for a row: a tile costs its K steps, and the time of about 8 more to fill the pipeline and to run
    /// the neurons. Rows that hold nothing cost as much as others, so a T that leaves many of them is cut, at most into 16 tiles.
    pub fn new(time_steps: usize, k_steps: usize) -> Self {
        const MOST_CARRYING: usize = 8; // positions; bounds the shared memory
        let cut = |passes: usize| {
            let steps = time_steps.div_ceil(passes);
            let fitting = TILE[0] / steps;
            Tiles { positions: if passes == 1 { fitting } else { fitting.min(MOST_CARRYING) }, steps }
        };
        let mut best: Option<(usize, Tiles)> = None;
        for passes in 1..=16.min(time_steps) {
            let tiles = cut(passes);
            if tiles.positions == 0 {
                continue;
            }
            // Work for a position, in units that keep the fractions.
            let work = time_steps.div_ceil(tiles.steps) * (k_steps + 8) * (1 << 16) / tiles.positions;
            if best.is_none_or(|(least, _)| work < least) {
                best = Some((work, tiles));
            }
        }
        best.map_or(Tiles { positions: 1, steps: 1 }, |(_, tiles)| tiles)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_leave_few_rows_empty() {
        // T, K steps, positions, steps
        let cases = [(1, 18, 128, 1), (4, 18, 32, 4), (5, 18, 25, 5), (20, 18, 6, 20), (20, 144, 6, 20), (128, 18, 1, 128)];
        for (time_steps, k_steps, positions, steps) in cases {
            assert_eq!(Tiles::new(time_steps, k_steps), Tiles { positions, steps }, "T = {time_steps}");
        }
        for time_steps in 1..=255 {
            for k_steps in [1, 9, 18, 144, 1000] {
                let Tiles { positions, steps } = Tiles::new(time_steps, k_steps);
                assert!(positions >= 1 && positions * steps <= TILE[0], "T = {time_steps}: {positions} x {steps}");
                let share = (positions * time_steps) as f64 / (time_steps.div_ceil(steps) * TILE[0]) as f64;
                assert!(share > 0.65, "T = {time_steps}, {k_steps} K steps: {share} of the rows are used");
            }
        }
    }
}
