//! Event-driven convolution: for every spike of a receptive field, add one row of integer weights.
//!
//! The unit of work is one output position with all its time steps: the weight rows that a receptive field needs change
//! little from step to step, so they stay in the first caches.

use std::ops::Range;

use super::{Geometry, QuantizedWeights};
use crate::device::Isa;
use crate::ops::neuron::LANES;
use crate::per_isa;
use crate::spikes::Spikes;

/// Event numbers copied at once; lists end with as much slack.
const COPY: usize = 8;

/// The channels that fired at each (pooled) position of some rows of one sample, step by step.
///
/// A pooled channel stands once for every spike in its window.
#[derive(Default)]
pub struct Events {
    channels: Vec<u16>,
    start: Vec<u32>,
    first: usize,
    time_steps: usize,
    rows: Vec<u16>,
    row_start: Vec<u32>,
    taps: Vec<(usize, u16)>,
}

impl Events {
    /// Lists the spikes of sample `b` that output rows `rows` of the connection read.
    pub fn fill(&mut self, spikes: &Spikes, b: usize, geometry: &Geometry, rows: &Range<usize>) {
        let words = spikes.words();
        let [height, width] = geometry.source;
        let [pooled_height, pooled_width] = geometry.pooled();
        let [window, stride, pad] = geometry.pool;
        let from = (rows.start * geometry.stride).saturating_sub(geometry.pad);
        let to = ((rows.end - 1) * geometry.stride + geometry.kernel[0]).saturating_sub(geometry.pad).min(pooled_height);
        self.first = from * pooled_width;
        self.time_steps = spikes.time_steps;
        self.channels.clear();
        self.start.clear();
        self.start.push(0);
        for y in from..to {
            let window_y = (y * stride).saturating_sub(pad)..(y * stride + window).saturating_sub(pad).min(height);
            for x in 0..pooled_width {
                let window_x = (x * stride).saturating_sub(pad)..(x * stride + window).saturating_sub(pad).min(width);
                for t in 0..spikes.time_steps {
                    for iy in window_y.clone() {
                        for ix in window_x.clone() {
                            let step = &spikes.position(b, iy * width + ix)[t * words..(t + 1) * words];
                            for (word, &bits) in step.iter().enumerate() {
                                let mut rest = bits;
                                while rest != 0 {
                                    self.channels.push((word as u32 * 32 + rest.trailing_zeros()) as u16);
                                    rest &= rest - 1;
                                }
                            }
                        }
                    }
                    self.start.push(self.channels.len() as u32);
                }
            }
        }
        self.channels.extend([0; COPY]);
    }

    /// Channels that fired at step `t` at a pooled position within the listed rows.
    pub fn at(&self, position: usize, t: usize) -> &[u16] {
        let index = (position - self.first) * self.time_steps + t;
        &self.channels[self.start[index] as usize..self.start[index + 1] as usize]
    }

    /// Merges the lists of the receptive field of output (`y`, `x`) into one list of weight rows a step.
    fn gather(&mut self, geometry: &Geometry, y: usize, x: usize) {
        self.taps.clear();
        let mut most = 0;
        for tap in 0..geometry.taps() {
            let Some(position) = geometry.tap_position(y, x, tap / geometry.kernel[1], tap % geometry.kernel[1]) else { continue };
            let index = (position - self.first) * self.time_steps;
            most += (self.start[index + self.time_steps] - self.start[index]) as usize;
            self.taps.push((index, (tap * geometry.cin) as u16));
        }
        if self.rows.len() < most + COPY {
            self.rows.resize(most + COPY, 0);
        }
        self.row_start.clear();
        self.row_start.push(0);
        let mut len = 0;
        for t in 0..self.time_steps {
            for &(index, base) in &self.taps {
                let (from, to) = (self.start[index + t] as usize, self.start[index + t + 1] as usize);
                // Whole groups are copied; what lies behind the end is overwritten by the next list.
                for at in (from..to).step_by(COPY) {
                    let group = &self.channels[at..at + COPY];
                    for (row, channel) in self.rows[len + at - from..][..COPY].iter_mut().zip(group) {
                        *row = channel.wrapping_add(base);
                    }
                }
                len += to - from;
            }
            self.row_start.push(len as u32);
        }
    }
}

/// Exact sums of a convolution at output (`y`, `x`), all steps: `acc` is `[T][stride]`, `stride` being `cout` rounded up to
/// [`LANES`]; what lies behind `cout` becomes 0.
///
/// `events` lists at least the rows that `y` reads.
pub fn conv_at(
    isa: Isa,
    events: &mut Events,
    weights: &QuantizedWeights,
    geometry: &Geometry,
    [y, x]: [usize; 2],
    stride: usize,
    acc: &mut [i32],
) {
    events.gather(geometry, y, x);
    let per_block = geometry.taps() * geometry.cin * weights.block;
    for (block, table) in weights.data.chunks_exact(per_block).enumerate() {
        let first = block * weights.block;
        let live = weights.block.min(stride - first);
        let acc = &mut acc[first..];
        match weights.block {
            16 => add_rows::<16>(isa, &events.rows, &events.row_start, table, live, stride, acc),
            32 => add_rows::<32>(isa, &events.rows, &events.row_start, table, live, stride, acc),
            _ => add_rows::<64>(isa, &events.rows, &events.row_start, table, live, stride, acc),
        }
    }
}

per_isa! {
    /// For every step, sums the listed rows of one block of output channels; `live` of them are wanted, a multiple of [`LANES`].
    pub fn add_rows<const BLOCK: usize>(rows: &[u16], row_start: &[u32], table: &[i16], live: usize, stride: usize, out: &mut [i32]) {
        let (table, _) = table.as_chunks::<BLOCK>();
        for (t, range) in row_start.windows(2).enumerate() {
            let mut acc = [0i32; BLOCK];
            for &row in &rows[range[0] as usize..range[1] as usize] {
                let row = &table[usize::from(row)];
                for i in 0..BLOCK {
                    acc[i] = acc[i].wrapping_add(i32::from(row[i])); // cannot wrap: see `QuantizedWeights::quantize`
                }
            }
            // Copied in pieces of a fixed size: a length known only here would keep `acc` in memory during the loop above.
            for first in (0..BLOCK).step_by(LANES) {
                if first < live {
                    out[t * stride + first..][..LANES].copy_from_slice(&acc[first..first + LANES]);
                }
            }
        }
    }
}

/// Spikes in the pool window of output (`y`, `x`), a channel and step: `acc` is `[T][stride]`.
pub fn identity_at(isa: Isa, spikes: &Spikes, b: usize, geometry: &Geometry, [y, x]: [usize; 2], stride: usize, acc: &mut [i32]) {
    let [height, width] = geometry.source;
    let [window, pool_stride, pad] = geometry.pool;
    let mut is_first = true;
    for iy in (y * pool_stride).saturating_sub(pad)..(y * pool_stride + window).saturating_sub(pad).min(height) {
        for ix in (x * pool_stride).saturating_sub(pad)..(x * pool_stride + window).saturating_sub(pad).min(width) {
            expand_bits(isa, spikes.position(b, iy * width + ix), spikes.words(), spikes.channels, stride, is_first, acc);
            is_first = false;
        }
    }
}

per_isa! {
    /// Adds (or, `overwrite`, writes) the bits `[T][words]` as integers `[T][stride]`.
    pub fn expand_bits(bits: &[u32], words: usize, channels: usize, stride: usize, overwrite: bool, acc: &mut [i32]) {
        for (step, acc) in bits.chunks_exact(words).zip(acc.chunks_mut(stride)) {
            for (&word, acc) in step.iter().zip(acc[..channels].chunks_mut(32)) {
                for (i, acc) in acc.iter_mut().enumerate() {
                    let bit = (word >> i & 1) as i32;
                    *acc = if overwrite { bit } else { *acc + bit };
                }
            }
        }
    }
}

/// Adds `value · Σ_t x[t] ⊗ o[t]` at one output position to `outer`, the `[cin][cout]` part of one tap.
///
/// `x` is `[T][stride]`; `position` is the pooled position that the tap reads.
pub fn spike_outer(isa: Isa, events: &Events, position: usize, x: &[f32], stride: usize, value: f32, cout: usize, outer: &mut [f32]) {
    for (t, x) in x.chunks_exact(stride).enumerate() {
        for &c in events.at(position, t) {
            add_scaled(isa, value, &x[..cout], &mut outer[usize::from(c) * cout..][..cout]);
        }
    }
}

per_isa! {
    /// `out = fmaf(value, x, out)`.
    pub fn add_scaled(value: f32, x: &[f32], out: &mut [f32]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = value.mul_add(*x, *out);
        }
    }
}
