//! Blocks that share the K stages of a tile, for layers whose tiles are too few to fill a device (`kernels/include/parts.cuh`).
//!
//! Sums are integers, so the bits do not depend on the cut: it follows from shapes and the number of multiprocessors, and serves speed
//! only. Evaluations of few samples gain by it; the statistics of training want all of a tile in one block.

use bytemuck::{Pod, Zeroable};

use super::cost::{self, LayerWork, Machine};
use super::cuda::TILE;
use super::{LayerSums, Summand, Tiles};
use crate::device::{Layout, Slice};
use crate::error::{Error, Result};

/// Most blocks of a tile.
const MOST: usize = 32;
/// Sums of a tile, two in an element.
const PAIRS: usize = TILE[0] * TILE[1] / 2;
/// Share of its time that a layer must save by parts: what they cost is an estimate.
const LEAST_GAIN: f64 = 0.1;

/// Where the sums of parts meet: zero before a launch, and after it. Launches of one stream may share it.
#[derive(Clone, Copy, Debug, Default)]
pub struct PartsRoom {
    /// `[tiles][convolutions][128·64 / 2]`.
    pub sums: Slice<u64>,
    /// `[tiles]`: parts that have come.
    pub counters: Slice<u64>,
}

/// Field for field `struct Parts` in `kernels/include/parts.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub(super) struct DeviceParts {
    sums: u64,
    counters: u64,
}
const _: () = assert!(size_of::<DeviceParts>() == 16);

impl PartsRoom {
    /// Elements of the sums, and of the counters, of so many tiles with so many convolutions.
    pub fn len(tiles: usize, convolutions: usize) -> [usize; 2] {
        [tiles * convolutions * PAIRS, tiles]
    }

    /// Takes room for the largest of some layers, whose lengths are those of [`PartsRoom::len`].
    pub fn take(layout: &mut Layout, lengths: impl Iterator<Item = [usize; 2]>) -> Self {
        let [sums, counters] = lengths.fold([0; 2], |[sums, counters], len| [sums.max(len[0]), counters.max(len[1])]);
        if counters == 0 {
            return PartsRoom::default();
        }
        PartsRoom { sums: layout.take(sums), counters: layout.take(counters) }
    }
}

impl Tiles {
    /// The cut of a layer whose tiles have parts: all steps of a position in one tile. None for more steps than that has rows.
    pub fn in_parts(time_steps: usize) -> Option<Self> {
        (time_steps <= TILE[0]).then(|| Tiles { positions: TILE[0] / time_steps, steps: time_steps })
    }

    /// The cut of a layer with so many parts a tile, as [`choose`] gives them.
    pub fn of(work: &LayerWork, parts: usize) -> Self {
        let whole = || Tiles::new(work.time_steps, work.k_steps);
        if parts == 1 { whole() } else { Tiles::in_parts(work.time_steps).unwrap_or_else(whole) }
    }
}

/// Parts of each tile that an evaluation of a layer should take: 1, unless more save a tenth of its time by the model in `cost.rs`.
/// Only tiles that leave multiprocessors without a block have parts, which bounds the memory for their sums.
pub fn choose(work: &LayerWork, machine: &Machine) -> usize {
    let Some(tiles) = tiles(work).filter(|&tiles| tiles < machine.multiprocessors) else { return 1 };
    let most = work.stages().min(MOST).min((2 * machine.multiprocessors).div_ceil(tiles));
    let whole = cost::neurons_in_parts(work, machine, 1);
    let seconds = (2..=most).map(|parts| (parts, cost::neurons_in_parts(work, machine, parts)));
    let best = seconds.min_by(|(_, a), (_, b)| a.total_cmp(b));
    best.filter(|&(_, seconds)| seconds < (1.0 - LEAST_GAIN) * whole).map_or(1, |(parts, _)| parts)
}

/// Tiles of a layer that has parts; none where it cannot have them.
pub(super) fn tiles(work: &LayerWork) -> Option<usize> {
    let cut = Tiles::in_parts(work.time_steps)?;
    Some(work.positions.div_ceil(cut.positions) * work.channels.div_ceil(TILE[1]))
}

/// Room that any batch up to the one of `work`, of so many positions a sample, may want.
pub fn room(work: &LayerWork, positions: usize, machine: &Machine) -> [usize; 2] {
    let of_batch = |batch: usize| LayerWork { positions: batch * positions, ..*work };
    let batches = (1..=work.positions / positions.max(1)).map(of_batch);
    let few = batches.take_while(|work| tiles(work).is_some_and(|tiles| tiles < machine.multiprocessors));
    let most = few.filter(|work| choose(work, machine) > 1).filter_map(|work| tiles(&work)).max();
    PartsRoom::len(most.unwrap_or(0), work.convolutions)
}

impl LayerSums {
    /// Lengths of the room that this layer wants in parts, as [`PartsRoom::len`] gives them; none where it cannot have any.
    pub fn parts_room(&self) -> Option<[usize; 2]> {
        let tiles = Tiles::in_parts(self.time_steps)?;
        let blocks = (self.batch * self.positions).div_ceil(tiles.positions) * self.channels.div_ceil(TILE[1]);
        Some(PartsRoom::len(blocks, self.summands.iter().filter(|summand| matches!(summand, Summand::Conv { .. })).count()))
    }

    /// How the kernel of neurons cuts this layer, and what it is given of `parts` a tile.
    pub(super) fn cut(&self, op: &str, k_steps: usize, parts: usize, room: &PartsRoom) -> Result<(Tiles, DeviceParts)> {
        if parts == 1 {
            return Ok((Tiles::new(self.time_steps, k_steps), DeviceParts::zeroed()));
        }
        let wanted = Tiles::in_parts(self.time_steps).zip(self.parts_room()).filter(|_| (1..=usize::from(u16::MAX)).contains(&parts));
        let (tiles, expected) =
            wanted.ok_or_else(|| Error::shape(op, "1 to 65535 parts of at most 128 steps", [parts, self.time_steps]))?;
        let got = [room.sums.len(), room.counters.len()];
        if got[0] < expected[0] || got[1] < expected[1] {
            return Err(Error::shape(format!("{op}: room for the sums of parts"), expected, got));
        }
        Ok((tiles, DeviceParts { sums: room.sums.address(), counters: room.counters.address() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Products;

    /// Clocks and memory of an H100 SXM; the code of this build.
    fn h100() -> Machine {
        Machine::new((9, 0), Products::Integer, 132, [1_830_000, 2_619_000, 5120])
    }

    fn layer(batch: usize, positions: usize, channels: usize, k_steps: usize) -> LayerWork {
        LayerWork { positions: batch * positions, time_steps: 20, channels, k_steps, convolutions: 1, weight_bits: 16 }
    }

    #[test]
    fn deep_layers_of_few_samples_have_parts() {
        // batch, positions, channels, K steps, whether there are parts
        let cases = [
            (1, 1024, 64, 18, false), // 171 tiles
            (1, 64, 256, 72, true),   // 44 tiles
            (1, 16, 512, 144, true),  // 24 tiles
            (1, 1, 10, 16, false),    // as much to gather as to gain
            (32, 16, 512, 144, false),
            (32, 64, 256, 72, false),
        ];
        for (batch, positions, channels, k_steps, has_parts) in cases {
            let work = layer(batch, positions, channels, k_steps);
            assert_eq!(choose(&work, &h100()) > 1, has_parts, "{work:?}: {}", choose(&work, &h100()));
        }
        let many_steps = LayerWork { time_steps: 129, ..layer(1, 16, 512, 144) };
        assert_eq!((choose(&many_steps, &h100()), cost::neurons_in_parts(&many_steps, &h100(), 2)), (1, f64::INFINITY));
    }

    #[test]
    fn the_room_suffices_for_every_smaller_batch() {
        for (positions, channels, k_steps) in [(16, 512, 144), (64, 256, 72), (256, 128, 36), (1, 1000, 64), (1, 10, 1000)] {
            let [sums, counters] = room(&layer(40, positions, channels, k_steps), positions, &h100());
            let mut largest = 0;
            for batch in 1..=40 {
                let work = layer(batch, positions, channels, k_steps);
                if choose(&work, &h100()) > 1 {
                    largest = largest.max(tiles(&work).unwrap_or_default());
                }
            }
            assert_eq!([sums, counters], PartsRoom::len(largest, 1), "{positions} positions, {channels} channels");
            assert!(largest <= 132);
        }
    }
}
