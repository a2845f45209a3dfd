//! Event-driven convolution: for every spike of a receptive field, add one row of integer weights.

use super::{Geometry, QuantizedWeights};
use crate::device::Isa;
use crate::per_isa;

/// The channels that fired at each (pooled) position of one sample at one step; a pooled channel stands once for every spike.
#[derive(Default)]
pub struct EventLists {
    channels: Vec<u16>,
    start: Vec<u32>,
    rows: Vec<u32>,
}

impl EventLists {
    /// Lists the spikes `[P][words]` of one sample and step.
    pub fn fill(&mut self, spikes: &[u32], geometry: &Geometry) {
        let words = geometry.cin.div_ceil(32);
        let [height, width] = geometry.source;
        let [pooled_height, pooled_width] = geometry.pooled();
        let [window, stride, pad] = geometry.pool;
        self.channels.clear();
        self.start.clear();
        self.start.push(0);
        for y in 0..pooled_height {
            for x in 0..pooled_width {
                for iy in (y * stride).saturating_sub(pad)..(y * stride + window).saturating_sub(pad).min(height) {
                    for ix in (x * stride).saturating_sub(pad)..(x * stride + window).saturating_sub(pad).min(width) {
                        let position = iy * width + ix;
                        for (word, &bits) in spikes[position * words..(position + 1) * words].iter().enumerate() {
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

    /// Channels that fired at a pooled position.
    pub fn at(&self, position: usize) -> &[u16] {
        &self.channels[self.start[position] as usize..self.start[position + 1] as usize]
    }

    /// Spikes in all lists.
    pub fn len(&self) -> usize {
        self.channels.len()
    }

    /// Whether no neuron fired.
    pub fn is_empty(&self) -> bool {
        self.channels.is_empty()
    }

    fn gather(&mut self, geometry: &Geometry, y: usize, x: usize) {
        self.rows.clear();
        for ky in 0..geometry.kernel[0] {
            for kx in 0..geometry.kernel[1] {
                let Some(position) = geometry.tap_position(y, x, ky, kx) else { continue };
                let base = ((ky * geometry.kernel[1] + kx) * geometry.cin) as u32;
                let (from, to) = (self.start[position] as usize, self.start[position + 1] as usize);
                self.rows.extend(self.channels[from..to].iter().map(|&c| base + u32::from(c)));
            }
        }
    }
}

/// Adds a connection's current to the output rows `rows`: `x` is `[rows·W_out][C_out]`, `x = fmaf(a, acc, x)`.
///
/// `acc` is the exact integer sum, `a` a factor per output channel.
pub fn current_rows(
    isa: Isa,
    events: &mut EventLists,
    weights: &QuantizedWeights,
    a: &[f32],
    geometry: &Geometry,
    rows: std::ops::Range<usize>,
    x: &mut [f32],
) {
    let width = geometry.out()[1];
    let positions = rows.flat_map(|y| (0..width).map(move |column| (y, column)));
    for ((y, column), out) in positions.zip(x.chunks_exact_mut(geometry.cout)) {
        events.gather(geometry, y, column);
        match weights.block {
            16 => add_rows::<16>(isa, &events.rows, &weights.data, a, out),
            32 => add_rows::<32>(isa, &events.rows, &weights.data, a, out),
            _ => add_rows::<64>(isa, &events.rows, &weights.data, a, out),
        }
    }
}

/// Adds an identity connection to the output rows `rows`: `x = fmaf(a, count, x)` for the spikes in the pool window.
pub fn identity_rows(events: &EventLists, a: f32, geometry: &Geometry, rows: std::ops::Range<usize>, counts: &mut Vec<u16>, x: &mut [f32]) {
    let width = geometry.out()[1];
    counts.clear();
    counts.resize(geometry.cin, 0);
    for (position, out) in (rows.start * width..rows.end * width).zip(x.chunks_exact_mut(geometry.cin)) {
        for &c in events.at(position) {
            counts[c as usize] += 1;
        }
        for &c in events.at(position) {
            let count = std::mem::take(&mut counts[c as usize]); // zero from its second visit on: adds nothing
            out[c as usize] = a.mul_add(f32::from(count), out[c as usize]);
        }
    }
}

per_isa! {
    /// Sums the listed weight rows of every block of output channels.
    pub fn add_rows<const BLOCK: usize>(rows: &[u32], weights: &[i16], a: &[f32], out: &mut [f32]) {
        let per_block = weights.len() / out.len().div_ceil(BLOCK);
        for (block, out) in weights.chunks_exact(per_block).zip(out.chunks_mut(BLOCK)).enumerate().map(|(i, (w, o))| ((i, w), o)) {
            let (index, weights) = block;
            let (table, _) = weights.as_chunks::<BLOCK>();
            let mut acc = [0i32; BLOCK];
            for &row in rows {
                let row = &table[row as usize];
                for i in 0..BLOCK {
                    acc[i] += i32::from(row[i]);
                }
            }
            let a = &a[index * BLOCK..];
            for i in 0..out.len() {
                out[i] = a[i].mul_add(acc[i] as f32, out[i]);
            }
        }
    }
}

/// Adds `value · Σ x ⊗ s` of one sample and step to `outer` `[tap][cin][cout]`, for the taps and channels of one task.
///
/// `x` is `[P_out][C_out]`, `outer` the `[cin][cout]` part of this tap; a tap is a task of its own, so that tasks do not overlap.
pub fn spike_outer(isa: Isa, events: &EventLists, geometry: &Geometry, tap: usize, x: &[f32], value: f32, outer: &mut [f32]) {
    let [height, width] = geometry.out();
    let (ky, kx) = (tap / geometry.kernel[1], tap % geometry.kernel[1]);
    for y in 0..height {
        for column in 0..width {
            let Some(position) = geometry.tap_position(y, column, ky, kx) else { continue };
            let row = &x[(y * width + column) * geometry.cout..][..geometry.cout];
            for &c in events.at(position) {
                add_scaled(isa, value, row, &mut outer[c as usize * geometry.cout..][..geometry.cout]);
            }
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
