//! Which of two ways through a training layer takes less time on a CUDA device; both give the same bits.
//!
//! *Store*: one pass computes the sums, their statistics, and stores them; a second reads them and runs the neurons.
//! *Recompute*: one pass computes the sums for their statistics alone; a second computes them again and runs the neurons.
//!
//! With rows `m = B·P·T`, `n` output channels, `k` K steps (taps · ⌈cin/32⌉, all convolutions of the layer together), `w` the bytes of a
//! weight (1 or 2), and `s` stored sums a row (one for each convolution):
//! ```text
//! products   = 128·64·32 · ⌈m/128⌉ · ⌈n/64⌉ · k · w         multiply-adds of 8-bit integers, empty rows and columns included
//! conv       = products / (0.6 · multiprocessors · clock · rate)
//! moved      = 4 · m · n₁₆ · s / (0.8 · bandwidth)           n₁₆: n rounded up to 16
//! outputs    = (m·n/8 + 9·m/T·n) / (0.8 · bandwidth)         spikes, counts and two means
//! store      = max(conv, moved) + moved + outputs
//! recompute  = conv + max(conv · e, outputs)                 e: rows of the neurons' tiles over rows in use
//! ```
//! `rate` is multiply-adds a cycle and multiprocessor of the tensor cores for 8-bit integers, from the published peak of each
//! generation; 0.6 and 0.8 are shares of the peaks that such kernels may be expected to reach. None of this was measured on a device.

use super::Tiles;
use crate::device::Gpu;
use crate::error::Result;

/// Peaks of a device, from what its driver says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peaks {
    /// Multiply-adds of 8-bit integers a second.
    pub products: f64,
    /// Bytes of device memory a second.
    pub bytes: f64,
}

impl Peaks {
    /// Of an open device.
    ///
    /// # Errors
    /// [`crate::error::Error::Device`] if the driver does not say.
    pub fn of(gpu: &Gpu) -> Result<Self> {
        let [clock, memory_clock, bus] = gpu.clocks()?;
        Ok(Peaks::new(gpu.capability(), gpu.multiprocessors(), clock, memory_clock, bus))
    }

    /// From the driver's attributes: clocks in kHz, width of the memory's bus in bits.
    pub fn new(capability: (u32, u32), multiprocessors: u32, clock: u32, memory_clock: u32, bus: u32) -> Self {
        let rate = match capability {
            (8, 0) => 2048.0,
            (8, _) | (12, _) => 1024.0,
            _ => 4096.0,
        };
        Peaks {
            products: f64::from(multiprocessors) * f64::from(clock) * 1e3 * rate,
            bytes: 2.0 * f64::from(memory_clock) * 1e3 * f64::from(bus) / 8.0, // two transfers a cycle
        }
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

/// The two ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    Store,
    Recompute,
}

/// Seconds of both ways: store, recompute.
pub fn seconds(work: &LayerWork, peaks: &Peaks) -> [f64; 2] {
    let LayerWork { positions, time_steps, channels, k_steps, convolutions, weight_bits } = *work;
    let rows = positions * time_steps;
    let tiles = (rows.div_ceil(128) * channels.div_ceil(64)) as f64;
    let products = 128.0 * 64.0 * 32.0 * tiles * (k_steps * usize::from(weight_bits / 8)) as f64;
    let conv = products / (0.6 * peaks.products);
    let bytes = |n: f64| n / (0.8 * peaks.bytes);
    let moved = bytes((4 * rows * channels.next_multiple_of(16) * convolutions) as f64);
    let outputs = bytes((rows * channels) as f64 / 8.0 + (9 * positions * channels) as f64);
    let cut = Tiles::new(time_steps, k_steps);
    let excess = (time_steps.div_ceil(cut.steps) * 128) as f64 / (cut.positions * time_steps) as f64;
    [conv.max(moved) + moved + outputs, conv + (conv * excess).max(outputs)]
}

/// The faster way; `needs_sums` says that something else reads the stored sums (unrolled gradients, a norm of one connection).
pub fn choose(work: &LayerWork, peaks: &Peaks, needs_sums: bool) -> Variant {
    let [store, recompute] = seconds(work, peaks);
    if needs_sums || store <= recompute { Variant::Store } else { Variant::Recompute }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 108 multiprocessors at 1.41 GHz, 5120 bits at 1.215 GHz.
    const A100: ((u32, u32), u32, u32, u32, u32) = ((8, 0), 108, 1_410_000, 1_215_000, 5120);

    fn peaks() -> Peaks {
        let (capability, multiprocessors, clock, memory_clock, bus) = A100;
        Peaks::new(capability, multiprocessors, clock, memory_clock, bus)
    }

    /// 64 to 64 channels on 32x32 positions, batch 128, T = 20.
    fn wide(k_steps: usize) -> LayerWork {
        LayerWork { positions: 128 * 1024, time_steps: 20, channels: 64, k_steps, convolutions: 1, weight_bits: 16 }
    }

    #[test]
    fn peaks_follow_from_attributes() {
        let Peaks { products, bytes } = peaks();
        assert!((products / 311.87e12 - 1.0).abs() < 1e-4, "{products}");
        assert!((bytes / 1555.2e9 - 1.0).abs() < 1e-4, "{bytes}");
    }

    /// By hand: 20480 tiles of 262144 products, 2 bytes a weight; 671.09 MB of sums, 96.47 MB of outputs; 128/120 rows.
    #[test]
    fn seconds_of_two_layers() {
        let near = |got: f64, expected: f64| assert!((got / expected - 1.0).abs() < 1e-3, "{got} s, by hand {expected} s");
        let [store, recompute] = seconds(&wide(18), &peaks()); // 3x3: conv 1.0329 ms, moved 0.5394 ms, outputs 0.0775 ms
        near(store, 1.6498e-3);
        near(recompute, 2.1347e-3);
        let [store, recompute] = seconds(&wide(2), &peaks()); // 1x1: conv 0.1148 ms
        near(store, 1.1563e-3);
        near(recompute, 0.2372e-3);
    }

    #[test]
    fn deep_sums_are_stored_and_shallow_ones_computed_twice() {
        // K steps, weight bits, needs sums, expected
        let cases = [
            (18, 16, false, Variant::Store),
            (2, 16, false, Variant::Recompute),
            (2, 16, true, Variant::Store),
            (144, 16, false, Variant::Store),
            (9, 8, false, Variant::Recompute),
        ];
        for (k_steps, weight_bits, needs_sums, expected) in cases {
            let work = LayerWork { weight_bits, ..wide(k_steps) };
            assert_eq!(choose(&work, &peaks(), needs_sums), expected, "{k_steps} K steps, {weight_bits} bits");
        }
    }
}
