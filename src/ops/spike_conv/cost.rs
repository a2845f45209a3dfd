//! How long the kernels of the spiking convolution should take on a CUDA device, and which of two ways through a training layer takes
//! less time; both give the same bits. `profile/predict.rs` predicts with the same model.
//!
//! *Store*: one pass computes the sums, their statistics, and stores them; a second reads them and runs the neurons.
//! *Recompute*: one pass computes the sums for their statistics alone; a second computes them again and runs the neurons.
//!
//! A block takes tiles of 128 rows and 64 channels by four warps, one for each scheduler of a multiprocessor. With `s` stages of two
//! K steps, `w` the bytes of a weight, `M` multiprocessors, and `b` blocks of `t` tiles:
//! ```text
//! tensor   = s · 128·64·64 · w / rate             cycles of the tensor cores for a tile
//! issue    = s · stage + behind + 450             of a scheduler: instructions of a warp, as the machine code has them
//! alone    = s · (max(tensor / s, stage) + 60) + behind + 1500         of a tile that has its multiprocessor to itself
//! cycles   = ⌈b/M⌉ · t · max(tensor, issue), and at least t · alone · ⌈⌈b/M⌉ / 2⌉
//! ```
//! `rate` is multiply-adds of a byte of a weight a cycle and multiprocessor that `mma.sync` reaches, in what the device multiplies
//! ([`Products`]). In 8-bit integers: that of the data sheet on compute capability 8.x and 12.0, 0.63 of it on 9.0 and about 0.23 on
//! 10.0, whose sheets count newer instructions; on 10.3 a thirtieth of that of FP8. In bf16: half of the sheet's integers, a quarter
//! where there are 1024 of them, and as much on 10.3 as on 10.0. A layer of 10.3 that is beyond the bound of bf16 is taken for one
//! within. What comes behind the sums is the statistics of 64 rows, for which 47 instructions each are assumed, or neurons of `p` positions,
//! of which a warp runs half and stores `g` at once (`kernels/include/neuron.cuh`):
//! ```text
//! behind   = 64 · row + p / 2 · (position + 48 / g) + 200
//! ```
//! `row` is a step of them and `position` what is left of a position beside its steps: 33, and 86 in training. 450 is what surrounds the
//! loop over stages. All this is counted in the machine code of sm_80. 60 is a barrier and the first loads of a stage, 1500 the first loads
//! of a block: assumptions. Two blocks share a multiprocessor.
//!
//! With rows `m = B·P·T`, `n` output channels and `c` convolutions, memory at 0.8 of its bandwidth:
//! ```text
//! moved      = 4 · m · n₁₆ · c                    bytes; n₁₆: n rounded up to 16
//! outputs    = m·n/8 + 9·m/T·n                    spikes, counts and two means
//! store      = max(sums, moved) + moved + outputs
//! recompute  = sums + max(neurons, outputs)
//! ```
//!
//! In an evaluation `p` blocks may share the stages of each of `n` tiles (`parts.rs`). Each then has ⌈s/p⌉ stages and no neurons, there are
//! p·n of them, and then come, with `c` convolutions, cycles of
//! ```text
//! last     = 32768 · (n · (p + c − 1) / M + c) / 16 + 2500 + behind
//! ```
//! That is what all parts add to 4 bytes a sum and what the last one of a tile fetches, at 16 bytes a cycle and multiprocessor, about a
//! third of what the L2 of an A100 gives to reads; a fence, the count and ways to the L2 and back; the neurons. All of it assumptions.
//!
//! None of this was measured on a device.

use super::{Tiles, parts, products};
use crate::device::limits::Limits;
use crate::device::{Gpu, Products, kernels};
use crate::error::Result;
use crate::ops::neuron::positions_at_once;

/// Share of the bandwidth of the memory that kernels are expected to reach.
pub const OF_BANDWIDTH: f64 = 0.8;
/// Instructions around the loop over the stages of a tile; cycles between two stages, and before the first one.
const AROUND: f64 = 450.0;
const BETWEEN: f64 = 60.0;
const BEFORE: f64 = 1500.0;
/// Instructions of a warp for the statistics of a row.
const STATISTICS: f64 = 47.0;
/// Instructions of a warp around its neurons, for a position beside its steps in evaluation and in training, and for what is stored at once.
const AROUND_NEURONS: f64 = 200.0;
const POSITION: f64 = 33.0;
const TRAINING_POSITION: f64 = 86.0;
const STORED_AT_ONCE: f64 = 48.0;
/// Bytes of sums that atomics move a cycle and multiprocessor, and cycles that the last part of a tile waits for what the others did.
const OF_ATOMICS: f64 = 16.0;
const MEETING: f64 = 2500.0;
/// Blocks that share a multiprocessor.
const TOGETHER: usize = 2;

/// What bounds the kernels of a device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Machine {
    pub multiprocessors: usize,
    /// Cycles a second.
    pub clock: f64,
    /// Multiply-adds of a byte of a weight a cycle and multiprocessor that `mma.sync` reaches.
    pub rate: f64,
    /// Bytes of device memory a second.
    pub bandwidth: f64,
    /// Instructions with 8-bit and with 16-bit weights.
    pub code: [Code; 2],
}

/// Instructions of a warp in the loops of a spike convolution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Code {
    /// Of a stage, of which the channels in are a multiple of 64; others take some 30 more.
    pub stage: f64,
    /// Of a step of its neurons in evaluation.
    pub step: f64,
    /// The same in training.
    pub training_step: f64,
}

/// What nvcc 13.0 made for sm_80, where a build has no code for the device.
const SM_80: [Code; 2] = [of_sm_80(178.0), of_sm_80(219.0)];
/// The same with products in bf16.
const SM_80_BF16: [Code; 2] = [of_sm_80(453.0), of_sm_80(699.0)];

const fn of_sm_80(stage: f64) -> Code {
    Code { stage, step: 13.0, training_step: 15.0 }
}

impl Code {
    /// For 8-bit and 16-bit weights on a device: the code of the latest target of its generation that is not above it runs there.
    pub fn of((major, minor): (u32, u32), products: Products) -> [Code; 2] {
        let runs = |target: &&&str| {
            let digits = target.trim_start_matches("sm_").trim_end_matches(char::is_alphabetic);
            digits.parse().is_ok_and(|number: u32| number / 10 == major && number % 10 <= minor)
        };
        let target = kernels::TARGETS.iter().filter(runs).max().copied().unwrap_or_default();
        let of = |(bits, usual): (u8, Code)| {
            let limits = Limits::of(products::of_neurons(bits, products), target);
            let found = |of: fn(&Limits) -> Option<u32>, usual: f64| limits.and_then(of).map_or(usual, f64::from);
            Code {
                stage: found(|l| l.stage_instructions, usual.stage),
                step: found(|l| l.step_instructions, usual.step),
                training_step: found(|l| l.training_step_instructions, usual.training_step),
            }
        };
        let [of_8, of_16] = if products == Products::Bf16 { SM_80_BF16 } else { SM_80 };
        [(8, of_8), (16, of_16)].map(of)
    }
}

/// Multiply-adds of 8-bit integers a cycle and multiprocessor by the data sheets, and the share of them that `mma.sync` reaches: all on
/// Ampere, Ada and the small Blackwells; 0.63 on Hopper (arXiv 2402.13499, table of mma); about 0.23 on the large Blackwells, which
/// is an assumption. Of B300 (10.3), which has about a thirtieth of its rate of FP8, all is assumed to be reached.
pub fn sheet_rate(capability: (u32, u32)) -> (f64, f64) {
    match capability {
        (8, 0) => (2048.0, 1.0),
        (8, _) | (12, _) => (1024.0, 1.0),
        (9, _) => (4096.0, 0.63),
        (10, 3) => (8192.0 / 30.0, 1.0),
        _ => (8192.0, 0.23),
    }
}

/// What `mma.sync` reaches of multiply-adds with a byte of a weight, a cycle and multiprocessor.
pub fn reached_rate(capability: (u32, u32), products: Products) -> f64 {
    let integers = |capability| {
        let (rate, share) = sheet_rate(capability);
        rate * share
    };
    match (products, capability) {
        (Products::Integer | Products::Warpgroup, _) => integers(capability),
        (Products::Bf16, (8, 1..) | (12, _)) => integers(capability) / 4.0,
        (Products::Bf16, (10, _)) => integers((10, 0)) / 2.0,
        (Products::Bf16, _) => integers(capability) / 2.0,
    }
}

impl Machine {
    /// An open device.
    ///
    /// # Errors
    /// [`crate::error::Error::Device`] if the driver does not say.
    pub fn of(gpu: &Gpu) -> Result<Self> {
        let [clock, memory_clock, bus] = gpu.clocks()?;
        Ok(Machine::new(gpu.capability(), gpu.products(), gpu.multiprocessors(), [clock, memory_clock, bus]))
    }

    /// From the driver's attributes: clocks in kHz, width of the memory's bus in bits.
    pub fn new(capability: (u32, u32), products: Products, multiprocessors: u32, [clock, memory_clock, bus]: [u32; 3]) -> Self {
        Machine {
            multiprocessors: multiprocessors as usize,
            clock: f64::from(clock) * 1e3,
            rate: reached_rate(capability, products),
            bandwidth: 2.0 * f64::from(memory_clock) * 1e3 * f64::from(bus) / 8.0, // two transfers a cycle
            code: Code::of(capability, products),
        }
    }

    /// Seconds that memory takes for some bytes.
    pub fn memory(&self, bytes: f64) -> f64 {
        bytes / (OF_BANDWIDTH * self.bandwidth)
    }
}

/// What a layer does in one forward pass.
#[derive(Clone, Copy, Debug)]
pub struct LayerWork {
    /// Positions of the batch, B·P.
    pub positions: usize,
    /// T.
    pub time_steps: usize,
    /// Output channels.
    pub channels: usize,
    /// K steps of all convolutions: taps · ⌈cin/32⌉ each.
    pub k_steps: usize,
    /// Convolutions: their sums are what is stored.
    pub convolutions: usize,
    /// 16 or 8.
    pub weight_bits: u8,
}

impl LayerWork {
    /// Stages of a tile.
    pub fn stages(&self) -> usize {
        self.k_steps.div_ceil(2)
    }
}

/// The two ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    Store,
    Recompute,
}

impl Machine {
    /// Instructions of the loops with weights of so many bits.
    fn code_of(&self, weight_bits: u8) -> Code {
        self.code[usize::from(weight_bits / 8) - 1]
    }
}

/// Seconds of the arithmetic of the kernel that runs the neurons of an evaluation on the sums of its own tiles.
pub fn neurons(work: &LayerWork, machine: &Machine) -> f64 {
    neurons_of(work, machine, [machine.code_of(work.weight_bits).step, POSITION])
}

/// The same where `parts` blocks share the stages of each tile. For one part these are the seconds of [`neurons`]; no end where a tile
/// does not hold all steps.
pub fn neurons_in_parts(work: &LayerWork, machine: &Machine, parts: usize) -> f64 {
    if parts == 1 {
        return neurons(work, machine);
    }
    let Some((tiles, cut)) = parts::tiles(work).zip(Tiles::in_parts(work.time_steps)) else { return f64::INFINITY };
    let of_part = LayerWork { k_steps: 2 * work.stages().div_ceil(parts), ..*work };
    let tile = (4 * 128 * 64) as f64 / OF_ATOMICS;
    // A part has stages of one convolution, but for those in which the next one begins.
    let added = (tiles * (parts + work.convolutions - 1)) as f64 / machine.multiprocessors as f64;
    let neurons = of_neurons(&cut, work.time_steps, [machine.code_of(work.weight_bits).step, POSITION]);
    let last = tile * (added + work.convolutions as f64) + MEETING + neurons;
    (cycles(&of_part, machine, parts * tiles, 0.0) + last) / machine.clock
}

/// Instructions of a warp for the neurons of a tile, of which those of a step and of a position are given.
fn of_neurons(cut: &Tiles, time_steps: usize, [step, position]: [f64; 2]) -> f64 {
    let stored = STORED_AT_ONCE / positions_at_once(time_steps) as f64;
    64.0 * step + cut.positions as f64 / 2.0 * (position + stored) + AROUND_NEURONS
}

fn neurons_of(work: &LayerWork, machine: &Machine, of_step_and_position: [f64; 2]) -> f64 {
    let cut = Tiles::new(work.time_steps, work.k_steps);
    let behind = of_neurons(&cut, work.time_steps, of_step_and_position);
    arithmetic(work, machine, work.positions.div_ceil(cut.positions), work.time_steps.div_ceil(cut.steps), behind)
}

/// The same of the kernel of sums and their statistics, whose blocks have a tile of 128 rows.
fn sums(work: &LayerWork, machine: &Machine) -> f64 {
    arithmetic(work, machine, (work.positions * work.time_steps).div_ceil(128), 1, 64.0 * STATISTICS)
}

fn arithmetic(work: &LayerWork, machine: &Machine, row_blocks: usize, tiles: usize, behind: f64) -> f64 {
    tiles as f64 * cycles(work, machine, row_blocks * work.channels.div_ceil(64), behind) / machine.clock
}

/// Cycles of one tile in each of so many blocks; `behind` are instructions behind its sums.
fn cycles(work: &LayerWork, machine: &Machine, blocks: usize, behind: f64) -> f64 {
    let bytes = usize::from(work.weight_bits / 8);
    let stage = machine.code_of(work.weight_bits).stage;
    let stages = work.stages() as f64;
    let tensor = (128 * 64 * 64 * bytes) as f64 / machine.rate;
    let issue = stages * stage + behind + AROUND;
    let alone = stages * (tensor.max(stage) + BETWEEN) + behind + BEFORE;
    // The multiprocessor with the most blocks ends last.
    let fullest = blocks.div_ceil(machine.multiprocessors);
    let busy = fullest as f64 * (stages * tensor).max(issue);
    busy.max(fullest.div_ceil(TOGETHER) as f64 * alone)
}

/// Seconds of a way: of all, and of its arithmetic and its memory alone.
#[derive(Clone, Copy, Debug)]
pub struct Seconds {
    pub all: f64,
    pub arithmetic: f64,
    pub memory: f64,
}

/// Both ways: store, recompute.
pub fn seconds(work: &LayerWork, machine: &Machine) -> [Seconds; 2] {
    let LayerWork { positions, time_steps, channels, convolutions, .. } = *work;
    let rows = positions * time_steps;
    let moved = machine.memory((4 * rows * channels.next_multiple_of(16) * convolutions) as f64);
    let outputs = machine.memory((rows * channels) as f64 / 8.0 + (9 * positions * channels) as f64);
    let code = machine.code_of(work.weight_bits);
    let (sums, neurons) = (sums(work, machine), neurons_of(work, machine, [code.training_step, TRAINING_POSITION]));
    [
        Seconds { all: sums.max(moved) + moved + outputs, arithmetic: sums, memory: 2.0 * moved + outputs },
        Seconds { all: sums + neurons.max(outputs), arithmetic: sums + neurons, memory: outputs },
    ]
}

/// The faster way; `needs_sums` says that something else reads the stored sums (unrolled gradients, a norm of one connection).
pub fn choose(work: &LayerWork, machine: &Machine, needs_sums: bool) -> Variant {
    let [store, recompute] = seconds(work, machine);
    if needs_sums || store.all <= recompute.all { Variant::Store } else { Variant::Recompute }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 108 multiprocessors at 1.41 GHz, 5120 bits at 1.215 GHz; the code of nvcc 13.0, whatever this build has.
    fn a100() -> Machine {
        Machine { code: SM_80, ..Machine::new((8, 0), Products::Integer, 108, [1_410_000, 1_215_000, 5120]) }
    }

    /// 64 to 64 channels on 32x32 positions, batch 128, T = 20.
    fn wide(k_steps: usize) -> LayerWork {
        LayerWork { positions: 128 * 1024, time_steps: 20, channels: 64, k_steps, convolutions: 1, weight_bits: 16 }
    }

    #[test]
    fn the_code_of_sm_80_is_that_of_a_build_by_this_nvcc() {
        if !kernels::NVCC.is_some_and(|version| version.starts_with("13.0.")) || !kernels::TARGETS.contains(&"sm_80") {
            println!("skipped: this build has no kernels by nvcc 13.0 for sm_80");
            return;
        }
        assert_eq!(Code::of((8, 0), Products::Integer), SM_80);
        assert_eq!(Code::of((8, 0), Products::Bf16), SM_80_BF16);
    }

    #[test]
    fn machines_follow_from_attributes() {
        let Machine { multiprocessors, clock, rate, bandwidth, .. } = a100();
        assert!((multiprocessors as f64 * clock * rate / 311.87e12 - 1.0).abs() < 1e-4, "{rate}");
        assert!((bandwidth / 1555.2e9 - 1.0).abs() < 1e-4, "{bandwidth}");
        let cases = [
            ((8, 0), 2048.0, 1024.0),
            ((8, 6), 1024.0, 256.0),
            ((8, 9), 1024.0, 256.0),
            ((9, 0), 2580.48, 1290.24),
            ((10, 0), 1884.16, 942.08),
            ((10, 3), 8192.0 / 30.0, 942.08),
            ((12, 0), 1024.0, 256.0),
        ];
        for (capability, integer, bf16) in cases {
            let rate = |products| Machine::new(capability, products, 1, [1; 3]).rate;
            assert_eq!([rate(Products::Integer), rate(Products::Bf16)], [integer, bf16], "{capability:?}");
        }
    }

    /// A B300 of 1.9 GHz, 3x3 of 64 channels, cycles of a tile. In integers the tensor cores take 9 * 3840 = 34560; in bf16 9 * 1113.04 =
    /// 10017.4, and instructions 9 * 699 + 1275 + 450 = 8016, of which 64 * 13 + 3 * (33 + 48) + 200 = 1275 are those of neurons.
    #[test]
    fn b300_gains_by_bf16() {
        let seconds = |products| {
            let code = if products == Products::Bf16 { SM_80_BF16 } else { SM_80 };
            let b300 = Machine { code, ..Machine::new((10, 3), products, 148, [1_900_000, 4_000_000, 8192]) };
            neurons(&wide(18), &b300)
        };
        let gain = seconds(Products::Integer) / seconds(Products::Bf16);
        assert!((gain - 34_560.0 / 10_017.4).abs() < 1e-3, "{gain}");
    }

    /// By hand. 3x3: 9 stages of 512 cycles, 4608; issue 9 * 219 + 64 * 47 + 450 = 5429. Sums: 20480 blocks, 190 on the fullest:
    /// 190 * 5429 / 1.41e9 = 0.73157 ms; 671.09 MB of sums take 0.5394 ms, 96.47 MB of outputs 0.0775 ms. Neurons: 21846 blocks, 203 on
    /// the fullest, of 6 positions: 64 * 15 + 3 * (86 + 48) + 200 = 1562; issue 9 * 219 + 1562 + 450 = 3983 is less than 4608:
    /// 203 * 4608 / 1.41e9 = 0.66342 ms. 1x1: 1 stage; issue 219 + 3008 + 450 = 3677 is more than 512: 190 * 3677 / 1.41e9 = 0.49548 ms; a
    /// pair of blocks takes at least 512 + 60 + 3008 + 1500 = 5080: less than 2 * 3677. Of neurons at least 512 + 60 + 1562 + 1500 = 3634,
    /// which is less than 2 * 2231: 203 * 2231 / 1.41e9 = 0.32120 ms.
    #[test]
    fn seconds_of_two_layers() {
        let near = |got: f64, expected: f64| assert!((got / expected - 1.0).abs() < 1e-3, "{got} s, by hand {expected} s");
        let [store, recompute] = seconds(&wide(18), &a100()).map(|way| way.all);
        near(store, 0.73157e-3 + 0.5394e-3 + 0.0775e-3);
        near(recompute, 0.73157e-3 + 0.66342e-3);
        let [store, recompute] = seconds(&wide(2), &a100()).map(|way| way.all);
        near(store, 0.5394e-3 + 0.5394e-3 + 0.0775e-3);
        near(recompute, 0.49548e-3 + 0.32120e-3);
    }

    /// One sample of 4x4 positions, 512 channels: 3 * 8 blocks, each alone on a multiprocessor: 72 * (512 + 60) + 1275 + 1500 cycles.
    #[test]
    fn a_small_grid_takes_the_time_of_its_block() {
        let work = LayerWork { positions: 16, time_steps: 20, channels: 512, k_steps: 144, convolutions: 1, weight_bits: 16 };
        let expected = 43_959.0 / 1.41e9;
        assert!((neurons(&work, &a100()) / expected - 1.0).abs() < 1e-9);
    }

    /// By hand, of a warp: of 32 positions with four steps eight are stored at once, of two steps as well; of 6 positions with 20 steps one.
    #[test]
    fn positions_cost_beside_their_steps() {
        let of = |positions, steps| of_neurons(&Tiles { positions, steps }, steps, [13.0, 33.0]);
        assert_eq!(of(32, 4), 832.0 + 16.0 * 39.0 + 200.0);
        assert_eq!(of(64, 2), 832.0 + 32.0 * 39.0 + 200.0);
        assert_eq!(of(6, 20), 832.0 + 3.0 * 81.0 + 200.0);
    }

    #[test]
    fn deep_sums_are_stored_and_shallow_ones_computed_twice() {
        // K steps, weight bits, needs sums, expected
        let cases = [
            (18, 16, false, Variant::Store),
            (2, 16, false, Variant::Recompute),
            (2, 16, true, Variant::Store),
            (144, 16, false, Variant::Store),
            (36, 8, false, Variant::Store),
            (9, 8, false, Variant::Recompute),
            (4, 8, false, Variant::Recompute),
        ];
        for (k_steps, weight_bits, needs_sums, expected) in cases {
            let work = LayerWork { weight_bits, ..wide(k_steps) };
            assert_eq!(choose(&work, &a100(), needs_sums), expected, "{k_steps} K steps, {weight_bits} bits");
        }
    }
}
