//! Which layers may multiply in bf16, and the kernels of either kind of products.
//!
//! A weight is one or two bytes of -128..=127, an operand at most the area of the pool, and a sum in `f32` is exact while no partial
//! sum reaches 2^24. Shapes alone decide, so a layer takes the same kernels whatever its weights are:
//! ```text
//! taps · cin · area · 128 < 2^24
//! ```
//! Every convolution without a pool passes: a neuron has at most 65,536 inputs. Behind a pool, those pass that see less than 131,072
//! spikes in a step, which are all of the networks that have a name; the largest, 1000 classes behind a 7x7 pool of 2048 channels, sees
//! 100,352.

use super::{Geometry, LayerSums, Summand, cuda_hopper};
use crate::device::{Kernel, Products, kernels};

/// The first sum that may be rounded.
const END_OF_EXACT: usize = 1 << 24;
/// Largest magnitude of a byte of a weight.
const LARGEST_BYTE: usize = 128;

impl Geometry {
    /// Whether sums of bf16 products in `f32` are exact for any spikes and any weights.
    pub fn is_exact_in_bf16(&self) -> bool {
        self.taps() * self.cin * self.area() < END_OF_EXACT / LARGEST_BYTE
    }
}

impl LayerSums {
    /// What this layer multiplies on a device that prefers `preferred`: all its convolutions the same.
    pub fn products(&self, preferred: Products) -> Products {
        if preferred == Products::Warpgroup {
            return if cuda_hopper::takes(self) { preferred } else { Products::Integer };
        }
        let is_exact = |summand: &Summand| !matches!(summand, Summand::Conv { geometry, .. } if !geometry.is_exact_in_bf16());
        if self.summands.iter().all(is_exact) { preferred } else { Products::Integer }
    }
}

/// The kernel of sums and statistics.
pub(super) fn of_sums(bits: u8, products: Products) -> &'static Kernel {
    match (bits, products) {
        (8, Products::Integer | Products::Warpgroup) => &kernels::SPIKE_CONV_SUMS_8,
        (_, Products::Integer | Products::Warpgroup) => &kernels::SPIKE_CONV_SUMS_16,
        (8, Products::Bf16) => &kernels::SPIKE_CONV_SUMS_8_BF16,
        (_, Products::Bf16) => &kernels::SPIKE_CONV_SUMS_16_BF16,
    }
}

/// The kernel of neurons.
pub(super) fn of_neurons(bits: u8, products: Products) -> &'static Kernel {
    match (bits, products) {
        (8, Products::Integer) => &kernels::SPIKE_CONV_NEURONS_8,
        (_, Products::Integer) => &kernels::SPIKE_CONV_NEURONS_16,
        (8, Products::Warpgroup) => &kernels::SPIKE_CONV_NEURONS_8_HOPPER,
        (_, Products::Warpgroup) => &kernels::SPIKE_CONV_NEURONS_16_HOPPER,
        (8, Products::Bf16) => &kernels::SPIKE_CONV_NEURONS_8_BF16,
        (_, Products::Bf16) => &kernels::SPIKE_CONV_NEURONS_16_BF16,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_beyond_the_bound_takes_integers() {
        let conv = |cin, pool| Geometry { cin, cout: 8, source: [9, 9], pool, kernel: [1, 1], stride: 1, pad: 0 };
        let summand = |geometry| Summand::Conv {
            source: super::super::Source::Bits(crate::device::Slice::NONE),
            weights: super::super::PackedWeights::default(),
            geometry,
        };
        // channels, pool, exact
        let cases = [(65_536, 1, true), (131_071, 1, true), (131_072, 1, false), (32_767, 2, true), (32_768, 2, false), (2048, 7, true)];
        for (cin, window, exact) in cases {
            let geometry = conv(cin, [window, window, 0]);
            assert_eq!(geometry.is_exact_in_bf16(), exact, "{cin} channels, pool {window}");
            let near = summand(conv(1, [1, 1, 0]));
            for summands in [[summand(geometry), Summand::None], [near, summand(geometry)], [summand(geometry), near]] {
                let layer = LayerSums { summands, batch: 1, positions: 81, time_steps: 1, channels: 8 };
                let expected = if exact { Products::Bf16 } else { Products::Integer };
                assert_eq!(layer.products(Products::Bf16), expected, "{cin} channels, pool {window}");
                assert_eq!(layer.products(Products::Integer), Products::Integer);
            }
        }
    }
}
