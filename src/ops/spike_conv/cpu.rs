//! Event-driven convolution: for every spike of a receptive field, add one row of integer weights.
//!
//! The unit of work is one output position with all its time steps: the weight rows that a receptive field needs change
//! little from step to step, so they stay in the first caches.

use super::{Geometry, QuantizedWeights};
use crate::device::Isa;
use crate::ops::neuron::LANES;
use crate::per_isa;
use crate::spikes::Spikes;

/// The weight rows that the spikes of one receptive field name, step by step; a pooled channel once for every spike.
#[derive(Default)]
pub struct Events {
    rows: Vec<u16>,
    row_start: Vec<u32>,
    /// Positions that the receptive field reads, each with the first weight row of its tap.
    taps: Vec<(u32, u16)>,
}

/// Visits the source positions in the pool window of pooled position (`y`, `x`).
#[inline(always)]
pub fn for_each_in_window(geometry: &Geometry, y: usize, x: usize, mut visit: impl FnMut(usize)) {
    let [height, width] = geometry.source;
    let [window, stride, pad] = geometry.pool;
    for iy in (y * stride).saturating_sub(pad)..(y * stride + window).saturating_sub(pad).min(height) {
        for ix in (x * stride).saturating_sub(pad)..(x * stride + window).saturating_sub(pad).min(width) {
            visit(iy * width + ix);
        }
    }
}

impl Events {
    /// Lists the spikes of sample `b` that output (`y`, `x`) reads.
    fn gather(&mut self, isa: Isa, spikes: &Spikes, b: usize, geometry: &Geometry, y: usize, x: usize) {
        let Events { taps, rows, row_start } = self;
        taps.clear();
        let width = geometry.source[1];
        let is_pooled = geometry.pool != [1, 1, 0];
        geometry.for_each_tap(y, x, |tap, row, column| {
            let base = (tap * geometry.cin) as u16;
            if is_pooled {
                for_each_in_window(geometry, row, column, |position| taps.push((position as u32, base)));
            } else {
                taps.push(((row * width + column) as u32, base));
            }
        });
        let len = spikes.positions * spikes.time_steps * spikes.words();
        let bits = &spikes.bits()[b * len..][..len];
        let most = taps.len() * spikes.words() * 32 * spikes.time_steps + 2 * 64;
        if rows.len() < most {
            rows.resize(most, 0);
        }
        row_start.resize(spikes.time_steps + 1, 0);
        if geometry.cin < 64 && 64 % geometry.cin == 0 && !is_pooled {
            list_joined_rows(isa, bits, taps, rows, row_start);
        } else {
            list_rows(isa, bits, taps, spikes.words(), rows, row_start);
        }
    }
}

per_isa! {
    /// For every step, lists the set bits at the positions of `taps`, each as its channel plus the first row of the tap.
    pub fn list_rows(bits: &[u32], taps: &[(u32, u16)], words: usize, rows: &mut [u16], row_start: &mut [u32]) {
        let time_steps = row_start.len() - 1;
        let mut len = 0;
        for t in 0..time_steps {
            for &(position, base) in taps {
                let mut first = base;
                for pair in bits[(position as usize * time_steps + t) * words..][..words].chunks(2) {
                    let word = u64::from(pair[0]) | pair.get(1).map_or(0, |&high| u64::from(high) << 32);
                    len += list_word(word, first, &mut rows[len..]);
                    first = first.wrapping_add(64);
                }
            }
            row_start[t + 1] = len as u32;
        }
    }
}

per_isa! {
    /// The same for at most 32 channels a number of which makes 64: each tap once, in order, one word a position.
    ///
    /// Few channels make short lists; joining taps first leaves fewer of them.
    pub fn list_joined_rows(bits: &[u32], taps: &[(u32, u16)], rows: &mut [u16], row_start: &mut [u32]) {
        let time_steps = row_start.len() - 1;
        let mut len = 0;
        for t in 0..time_steps {
            let (mut word, mut first) = (0u64, 0u16);
            for &(position, base) in taps {
                let at = base & !63;
                if at != first {
                    len += list_word(word, first, &mut rows[len..]);
                    (word, first) = (0, at);
                }
                word |= u64::from(bits[position as usize * time_steps + t]) << (base - at);
            }
            len += list_word(word, first, &mut rows[len..]);
            row_start[t + 1] = len as u32;
        }
    }
}

/// Lists the set bits of one word, each plus `first`; `rows` has room for 64 more than there are.
///
/// Whole groups are written: their number is easier to predict than that of bits, and the next list overwrites what is too much.
#[inline(always)]
fn list_word(mut word: u64, first: u16, rows: &mut [u16]) -> usize {
    const GROUP: usize = 4;
    let count = word.count_ones() as usize;
    let rows = &mut rows[..64 + GROUP];
    let mut at = 0;
    while at < count {
        for row in &mut rows[at..at + GROUP] {
            *row = first.wrapping_add(word.trailing_zeros() as u16);
            word &= word.wrapping_sub(1);
        }
        at += GROUP;
    }
    count
}

/// Exact sums of a convolution at output (`y`, `x`) of sample `b`, all steps: `acc` is `[T][stride]`, `stride` being `cout` rounded
/// up to [`LANES`]; what lies behind `cout` becomes 0.
pub fn conv_at(
    isa: Isa,
    events: &mut Events,
    spikes: &Spikes,
    b: usize,
    weights: &QuantizedWeights,
    geometry: &Geometry,
    [y, x]: [usize; 2],
    stride: usize,
    acc: &mut [i32],
) {
    events.gather(isa, spikes, b, geometry, y, x);
    let per_block = geometry.taps() * geometry.cin * weights.block;
    for (block, table) in weights.data.chunks_exact(per_block).enumerate() {
        let first = block * weights.block;
        let live = weights.block.min(stride - first);
        let acc = &mut acc[first..];
        let (rows, row_start) = (&events.rows, &events.row_start);
        match (weights.bits, weights.block) {
            (8, 16) => add_narrow_rows::<16>(isa, rows, row_start, table, live, stride, acc),
            (8, 32) => add_narrow_rows::<32>(isa, rows, row_start, table, live, stride, acc),
            (8, _) => add_narrow_rows::<64>(isa, rows, row_start, table, live, stride, acc),
            (_, 16) => add_rows::<16>(isa, rows, row_start, table, live, stride, acc),
            (_, 32) => add_rows::<32>(isa, rows, row_start, table, live, stride, acc),
            _ => add_rows::<64>(isa, rows, row_start, table, live, stride, acc),
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

/// Rows of 8-bit weights whose sum fits an i16: 256 · 127 < 2^15.
const NARROW_ROWS: usize = 256;

per_isa! {
    /// The same for 8-bit weights: sums of up to [`NARROW_ROWS`] rows stay in i16, which needs no widening and half the registers.
    pub fn add_narrow_rows<const BLOCK: usize>(
        rows: &[u16],
        row_start: &[u32],
        table: &[i16],
        live: usize,
        stride: usize,
        out: &mut [i32],
    ) {
        let (table, _) = table.as_chunks::<BLOCK>();
        for (t, range) in row_start.windows(2).enumerate() {
            let mut acc = [0i32; BLOCK];
            for rows in rows[range[0] as usize..range[1] as usize].chunks(NARROW_ROWS) {
                let mut narrow = [0i16; BLOCK];
                for &row in rows {
                    let row = &table[usize::from(row)];
                    for i in 0..BLOCK {
                        narrow[i] = narrow[i].wrapping_add(row[i]); // cannot wrap: see `NARROW_ROWS`
                    }
                }
                for i in 0..BLOCK {
                    acc[i] += i32::from(narrow[i]);
                }
            }
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
    let mut is_first = true;
    for_each_in_window(geometry, y, x, |position| {
        expand_bits(isa, spikes.position(b, position), spikes.words(), spikes.channels, stride, is_first, acc);
        is_first = false;
    });
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

/// Adds `value · Σ_t x[t] ⊗ o[t]` to `outer`, the `[cin][cout]` part of one tap.
///
/// `x` is `[T][stride]` at one output position, `bits` `[T][words]` at a position that the tap reads.
pub fn spike_outer(isa: Isa, bits: &[u32], x: &[f32], stride: usize, value: f32, cout: usize, outer: &mut [f32]) {
    let words = bits.len() / (x.len() / stride);
    for (x, step) in x.chunks_exact(stride).zip(bits.chunks_exact(words)) {
        for (word, &bits) in step.iter().enumerate() {
            let mut rest = bits;
            while rest != 0 {
                let c = word * 32 + rest.trailing_zeros() as usize;
                add_scaled(isa, value, &x[..cout], &mut outer[c * cout..][..cout]);
                rest &= rest - 1;
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
