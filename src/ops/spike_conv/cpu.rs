//! Event-driven convolution: for every spike of a receptive field, add one row of integer weights.
//!
//! Spikes of some rows of a sample are listed once ([`Events::list`]); each output position then joins the parts that it reads.
//! The unit of work is one output position with all its time steps: the weight rows that a receptive field needs change
//! little from step to step, so they stay in the first caches.

use std::ops::Range;

use super::{BIAS_8, BIAS_16, Geometry, QuantizedWeights};
use crate::device::Isa;
use crate::ops::neuron::LANES;
use crate::per_isa;
use crate::spikes::Spikes;

/// Spikes of some rows of one sample as lists, and the weight rows that one receptive field names.
#[derive(Default)]
pub struct Events {
    /// First source row that is listed.
    first: usize,
    /// Columns of the source, steps.
    width: usize,
    time_steps: usize,
    /// For every row, step and column, the channels that fire, each plus `column · cin`, modulo 2^16.
    channels: Vec<u16>,
    /// Where the list of a row, step and column begins in `channels`, `[rows][T][width]` and the end.
    start: Vec<u32>,
    /// Weight rows of one output position, step by step; a pooled channel once for every spike.
    rows: Vec<u16>,
    row_start: Vec<u32>,
    segments: Vec<Segment>,
}

/// Columns of a source row that lie beside each other in the receptive field and in the weights.
#[derive(Clone, Copy)]
pub struct Segment {
    /// Index of the first column at step 0 in `Events::start`, and number of columns.
    start: usize,
    columns: usize,
    /// Added to a listed channel, gives its weight row, modulo 2^16.
    base: u16,
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
    /// Lists the spikes of sample `b` that the output rows `out_rows` read.
    pub fn list(&mut self, isa: Isa, spikes: &Spikes, b: usize, geometry: &Geometry, out_rows: Range<usize>) {
        let rows = geometry.source_rows(out_rows);
        let width = geometry.source[1];
        (self.first, self.width, self.time_steps) = (rows.start, width, spikes.time_steps);
        let lists = rows.len() * width * spikes.time_steps;
        grow(&mut self.channels, lists * geometry.cin + 2 * 64);
        grow(&mut self.start, lists + 1);
        let train = spikes.time_steps * spikes.words();
        let bits = &spikes.bits()[(b * spikes.positions + rows.start * width) * train..][..rows.len() * width * train];
        list_channels(isa, bits, [width, spikes.time_steps, spikes.words(), geometry.cin], &mut self.channels, &mut self.start[..=lists]);
    }

    /// Joins the lists that output (`y`, `x`) reads.
    fn gather(&mut self, isa: Isa, geometry: &Geometry, y: usize, x: usize) {
        let Events { segments, channels, start, .. } = self;
        segments.clear();
        let at = |row: usize, column: usize| (row - self.first) * self.time_steps * self.width + column;
        let base = |tap: usize, column: usize| tap.wrapping_sub(column).wrapping_mul(geometry.cin) as u16;
        if geometry.is_pooled() {
            geometry.for_each_tap(y, x, |tap, row, column| {
                for_each_in_window(geometry, row, column, |position| {
                    let (row, column) = (position / self.width, position % self.width);
                    segments.push(Segment { start: at(row, column), columns: 1, base: base(tap, column) });
                });
            });
        } else {
            let columns = x * geometry.stride..x * geometry.stride + geometry.kernel[1];
            let inside = columns.start.saturating_sub(geometry.pad)..columns.end.saturating_sub(geometry.pad).min(self.width);
            let first = geometry.pad.saturating_sub(columns.start); // tap of the first column inside
            for ky in 0..geometry.kernel[0] {
                let row = (y * geometry.stride + ky).wrapping_sub(geometry.pad);
                if row < geometry.source[0] && !inside.is_empty() {
                    let tap = ky * geometry.kernel[1] + first;
                    segments.push(Segment { start: at(row, inside.start), columns: inside.len(), base: base(tap, inside.start) });
                }
            }
        }
        // A step has at most every channel of every column.
        let columns: usize = segments.iter().map(|segment| segment.columns).sum();
        grow(&mut self.rows, columns * geometry.cin * self.time_steps + 2 * COPIED);
        grow(&mut self.row_start, self.time_steps + 1);
        join(isa, channels, start, segments, self.width, &mut self.rows, &mut self.row_start[..=self.time_steps]);
    }
}

fn grow<T: Clone + Default>(buffer: &mut Vec<T>, len: usize) {
    if buffer.len() < len {
        buffer.resize(len, T::default());
    }
}

per_isa! {
    /// Lists the set bits of `[rows][width][T][words]` (`shape`: width, T, words, channels) in the order row, step, column, each as
    /// its channel plus `column · cin`.
    pub fn list_channels(bits: &[u32], shape: [usize; 4], channels: &mut [u16], start: &mut [u32]) {
        let [width, time_steps, words, cin] = shape;
        let (mut len, mut list) = (0, 0);
        for row in bits.chunks_exact(width * time_steps * words) {
            for t in 0..time_steps {
                for x in 0..width {
                    start[list] = len as u32;
                    list += 1;
                    let mut first = (x * cin) as u16;
                    for pair in row[(x * time_steps + t) * words..][..words].chunks(2) {
                        let word = u64::from(pair[0]) | pair.get(1).map_or(0, |&high| u64::from(high) << 32);
                        len += list_word(word, first, &mut channels[len..]);
                        first = first.wrapping_add(64);
                    }
                }
            }
        }
        start[list] = len as u32;
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

/// Channels that [`join`] copies at once; what is too much is overwritten by the next list.
const COPIED: usize = 16;

per_isa! {
    /// For every step, the lists of all segments one after the other, as weight rows; `rows` has room for [`COPIED`] more than there are.
    pub fn join(channels: &[u16], start: &[u32], segments: &[Segment], width: usize, rows: &mut [u16], row_start: &mut [u32]) {
        let mut len = 0;
        for (t, end) in row_start[1..].iter_mut().enumerate() {
            for segment in segments {
                let list = segment.start + t * width;
                let (from, to) = (start[list] as usize, start[list + segment.columns] as usize);
                for at in (0..to - from).step_by(COPIED) {
                    let (copied, rows) = (&channels[from + at..][..COPIED], &mut rows[len + at..][..COPIED]);
                    for i in 0..COPIED {
                        rows[i] = copied[i].wrapping_add(segment.base);
                    }
                }
                len += to - from;
            }
            *end = len as u32;
        }
    }
}

/// Exact sums of a convolution at output (`y`, `x`), all steps, from listed spikes: `acc` is `[T][stride]`, `stride` being `cout`
/// rounded up to [`LANES`]; what lies behind `cout` becomes 0.
///
/// [`Events::list`] must have seen the row `y` with the same geometry.
pub fn conv_at(
    isa: Isa,
    events: &mut Events,
    weights: &QuantizedWeights,
    geometry: &Geometry,
    [y, x]: [usize; 2],
    stride: usize,
    acc: &mut [i32],
) {
    events.gather(isa, geometry, y, x);
    let (rows, row_start) = (&events.rows, &events.row_start[..=events.time_steps]);
    for (block, table) in weights.blocks().enumerate() {
        let first = block * weights.block;
        let live = weights.block.min(stride - first);
        let acc = &mut acc[first..];
        match (weights.bits, weights.block) {
            (8, 16) => add_bytes::<8>(isa, rows, row_start, bytemuck::cast_slice(table), live, stride, acc),
            (8, 32) => add_bytes::<16>(isa, rows, row_start, bytemuck::cast_slice(table), live, stride, acc),
            (8, _) => add_bytes::<32>(isa, rows, row_start, bytemuck::cast_slice(table), live, stride, acc),
            (_, 16) => add_halves::<8>(isa, rows, row_start, bytemuck::cast_slice(table), live, stride, acc),
            (_, 32) => add_halves::<16>(isa, rows, row_start, bytemuck::cast_slice(table), live, stride, acc),
            _ => add_halves::<32>(isa, rows, row_start, bytemuck::cast_slice(table), live, stride, acc),
        }
    }
}

per_isa! {
    /// For every step, sums the listed rows of one block of `2 · HALF` output channels; `live` of them are wanted, a multiple of [`LANES`].
    ///
    /// An element holds two weights: 2^14 + one of the first half of the block in its low 16 bits, one of the second half above
    /// ([`QuantizedWeights`]). Adding whole elements and adding the upper halves needs neither widening nor a second load: the
    /// lower sum is what the upper sum leaves of the whole. Weights have 15 bits, so two elements are added before they are
    /// taken apart: neither half runs over.
    pub fn add_halves<const HALF: usize>(rows: &[u16], row_start: &[u32], table: &[i32], live: usize, stride: usize, out: &mut [i32]) {
        let (table, _) = table.as_chunks::<HALF>();
        for (t, range) in row_start.windows(2).enumerate() {
            let [mut whole, mut upper] = [[0i32; HALF]; 2];
            let rows = &rows[range[0] as usize..range[1] as usize];
            let (pairs, last) = rows.as_chunks::<2>();
            for &[one, other] in pairs {
                let (one, other) = (&table[usize::from(one)], &table[usize::from(other)]);
                for i in 0..HALF {
                    let pair = one[i].wrapping_add(other[i]);
                    whole[i] = whole[i].wrapping_add(pair);
                    upper[i] = upper[i].wrapping_add(pair >> 16);
                }
            }
            for &row in last {
                let row = &table[usize::from(row)];
                for i in 0..HALF {
                    whole[i] = whole[i].wrapping_add(row[i]);
                    upper[i] = upper[i].wrapping_add(row[i] >> 16);
                }
            }
            let bias = (rows.len() as i32).wrapping_mul(BIAS_16);
            for i in 0..HALF {
                // Modulo 2^32, which the sum of the lower half fits: see `QuantizedWeights::quantize`.
                whole[i] = whole[i].wrapping_sub(upper[i] << 16).wrapping_sub(bias);
            }
            store_live([whole, upper].as_flattened(), live, &mut out[t * stride..]);
        }
    }
}

/// Rows of 8-bit weights whose biased sum fits 16 bits: 256 · 255 < 2^16.
const BYTE_ROWS: usize = 256;

per_isa! {
    /// The same for 8-bit weights: an element is 16 bits with 2^7 + one weight below and one above; sums of [`BYTE_ROWS`] rows stay there.
    pub fn add_bytes<const HALF: usize>(rows: &[u16], row_start: &[u32], table: &[i16], live: usize, stride: usize, out: &mut [i32]) {
        let (table, _) = table.as_chunks::<HALF>();
        for (t, range) in row_start.windows(2).enumerate() {
            let mut acc = [[0i32; HALF]; 2];
            for rows in rows[range[0] as usize..range[1] as usize].chunks(BYTE_ROWS) {
                let [mut whole, mut upper] = [[0i16; HALF]; 2];
                for &row in rows {
                    let row = &table[usize::from(row)];
                    for i in 0..HALF {
                        whole[i] = whole[i].wrapping_add(row[i]);
                        upper[i] = upper[i].wrapping_add(row[i] >> 8);
                    }
                }
                let bias = rows.len() as i32 * BIAS_8;
                for i in 0..HALF {
                    let lower = whole[i].wrapping_sub(upper[i] << 8) as u16;
                    acc[0][i] += i32::from(lower) - bias;
                    acc[1][i] += i32::from(upper[i]);
                }
            }
            store_live(acc.as_flattened(), live, &mut out[t * stride..]);
        }
    }
}

/// Copies the first `live` sums in pieces of a fixed size: a length known only at run time would keep the sums in memory while they grow.
#[inline(always)]
fn store_live(acc: &[i32], live: usize, out: &mut [i32]) {
    for (first, acc) in (0..live).step_by(LANES).zip(acc.chunks_exact(LANES)) {
        out[first..][..LANES].copy_from_slice(acc);
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
