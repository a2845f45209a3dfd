//! Event-driven convolution: for every spike of a receptive field, add one row of integer weights.
//!
//! Spikes of some rows of a sample are listed once ([`Events::list`]); some output positions then join the lists that they read.
//! Weight rows come from the second cache once for all these positions and their time steps: the rows of a part of the taps are
//! added for all of them before those of the next part are touched.

use super::events::{Events, Joined, for_each_in_window};
use super::{BIAS_8, BIAS_16, Geometry, QuantizedWeights};
use crate::device::Isa;
use crate::device::lines::{Line, grown};
use crate::ops::neuron::LANES;
use crate::per_isa;
use crate::spikes::Spikes;

/// Bytes of a block of weights that is not cut into parts: it stays in the second cache, and each part costs a loop of its own.
const WHOLE_BYTES: usize = 256 << 10;
/// Bytes of the weight rows of a part of a larger block: few enough to be in the first caches when the next lane wants them again.
const PART_BYTES: usize = 96 << 10;
/// Bytes of weights of which nothing is left in the second cache when the next positions begin.
const SECOND_CACHE: usize = 1 << 20;

/// Output positions that are best summed together: their steps use the weights often enough, and their sums are few.
pub fn positions_together(time_steps: usize) -> usize {
    160usize.div_ceil(time_steps)
}

/// Rows whose spikes are best listed together, a divisor of the height: more than about 96 positions would crowd the caches.
pub fn rows_together([height, width]: [usize; 2]) -> usize {
    (1..=height).find(|rows| height.is_multiple_of(*rows) && rows * width >= 96).unwrap_or(height)
}

/// Exact sums of a convolution at some outputs, from `at` (row, column) on in the order of rows, all steps, from listed spikes: `acc` is
/// `[positions][T][stride]`, `stride` being `cout` rounded up to [`LANES`]; what lies behind `cout` becomes 0.
///
/// [`Events::list`] must have seen their rows with the same geometry.
pub fn conv_at(
    isa: Isa,
    events: &mut Events,
    weights: &QuantizedWeights,
    geometry: &Geometry,
    at: [usize; 2],
    stride: usize,
    acc: &mut [i32],
) {
    let positions = acc.len() / (events.time_steps() * stride);
    let mut partial = std::mem::take(&mut events.partial);
    let bytes = if weights.rows * weights.bytes_of_row() <= WHOLE_BYTES { WHOLE_BYTES } else { PART_BYTES };
    let joined = events.gather(isa, geometry, at, positions, bytes / weights.bytes_of_row());
    let sums = grown(&mut partial, joined.lanes() * weights.block);
    let add = match (weights.bits, weights.block) {
        (8, 16) => add_bytes::<8>,
        (8, 32) => add_bytes::<16>,
        (8, 64) => add_bytes::<32>,
        (8, _) => add_bytes::<64>,
        (_, 16) => add_halves::<8>,
        (_, 32) => add_halves::<16>,
        _ => add_halves::<32>,
    };
    // Of a table that is small, nothing is asked for ahead.
    let is_large = weights.bytes() > SECOND_CACHE;
    let part_taps = if is_large { geometry.taps().div_ceil(joined.parts()) } else { 0 };
    let lines = weights.rows * weights.bytes_of_row() / size_of::<Line>() * part_taps / geometry.taps();
    let mut tables = weights.blocks().peekable();
    prefetch(lines_of_part(tables.peek().copied(), lines, 0));
    let mut first = 0;
    while let Some(table) = tables.next() {
        let live = weights.block.min(stride - first);
        for part in 0..joined.parts() {
            let (next, part_of_next) = if part + 1 < joined.parts() { (Some(table), part + 1) } else { (tables.peek().copied(), 0) };
            let ahead = lines_of_part(next, lines, part_of_next);
            add(isa, joined, part, table, ahead, sums, live, stride, &mut acc[first..]);
        }
        first += weights.block;
    }
    events.partial = partial;
}

/// Lines of a part of a table where each has `lines` of them; none where that is 0.
fn lines_of_part(table: Option<&[Line]>, lines: usize, part: usize) -> &[Line] {
    let Some(table) = table.filter(|_| lines > 0) else { return &[] };
    table.chunks(lines).nth(part).unwrap_or(&[])
}

/// Asks for lines in their order, which memory answers sooner than for rows as spikes name them.
#[inline(always)]
fn prefetch(lines: &[Line]) {
    #[cfg(target_arch = "x86_64")]
    for line in lines {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a hint for memory that is there; it changes nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(std::ptr::from_ref(line).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = lines;
}

per_isa! {
    /// For every lane, sums the rows of a part and of one block of `2 · HALF` output channels; `live` of them are wanted, a multiple of
    /// [`LANES`], and go to the rows of `out`, one a lane but for those that others share. Asks for the lines `ahead`, which are wanted
    /// next, a few with every lane.
    ///
    /// An element holds two weights: 2^14 + one of the first half of the block in its low 16 bits, one of the second half above
    /// ([`QuantizedWeights`]). Adding whole elements and adding the upper halves needs neither widening nor a second load: the
    /// lower sum is what the upper sum leaves of the whole. Weights have 15 bits, so two elements are added before they are
    /// taken apart: neither half runs over.
    pub fn add_halves<const HALF: usize>(
        joined: &Joined,
        part: usize,
        table: &[Line],
        ahead: &[Line],
        sums: &mut [i32],
        live: usize,
        stride: usize,
        out: &mut [i32],
    ) {
        let table: &[i32] = bytemuck::cast_slice(table);
        let mut ahead = ahead.chunks(ahead.len().div_ceil(joined.lanes()).max(1));
        let (table, sums) = (&table.as_chunks::<HALF>().0[..=joined.last()], sums.as_chunks_mut::<HALF>().0);
        let mut share = Share::new(joined, out, live, stride);
        for lane in 0..joined.lanes() {
            prefetch(ahead.next().unwrap_or(&[]));
            let sums = &mut sums[2 * lane..2 * lane + 2];
            let [mut whole, mut upper] = if part == 0 { [[0i32; HALF]; 2] } else { [sums[0], sums[1]] };
            // SAFETY: `Joined` has no row above `last`, the last one of the table.
            let row = |row: u16| unsafe { table.get_unchecked(usize::from(row)) };
            let (fours, rest) = joined.part(lane, part).as_chunks::<4>();
            for rows in fours {
                // One load of four numbers: loads are what limits this loop.
                let rows: u64 = bytemuck::cast(*rows);
                let [a, b, c, d] = [0, 16, 32, 48].map(|shift| row((rows >> shift) as u16));
                for i in 0..HALF {
                    let pairs = [a[i].wrapping_add(b[i]), c[i].wrapping_add(d[i])];
                    whole[i] = whole[i].wrapping_add(pairs[0].wrapping_add(pairs[1]));
                    upper[i] = upper[i].wrapping_add((pairs[0] >> 16) + (pairs[1] >> 16));
                }
            }
            for one in rest.iter().map(|&one| row(one)) {
                for i in 0..HALF {
                    whole[i] = whole[i].wrapping_add(one[i]);
                    upper[i] = upper[i].wrapping_add(one[i] >> 16);
                }
            }
            if part + 1 < joined.parts() {
                [sums[0], sums[1]] = [whole, upper];
                continue;
            }
            let bias = joined.rows_of_lane(lane).wrapping_mul(BIAS_16);
            for i in 0..HALF {
                // Modulo 2^32, which the sum of the lower half fits: see `QuantizedWeights::quantize`.
                whole[i] = whole[i].wrapping_sub(upper[i] << 16).wrapping_sub(bias);
            }
            share.store([whole, upper]);
        }
    }
}

/// Rows of 8-bit weights whose biased sum fits 16 bits: 256 · 255 < 2^16.
const BYTE_ROWS: usize = 256;

per_isa! {
    /// The same for 8-bit weights: an element is 16 bits with 2^7 + one weight below and one above; sums of [`BYTE_ROWS`] rows stay there.
    pub fn add_bytes<const HALF: usize>(
        joined: &Joined,
        part: usize,
        table: &[Line],
        ahead: &[Line],
        sums: &mut [i32],
        live: usize,
        stride: usize,
        out: &mut [i32],
    ) {
        let table: &[i16] = bytemuck::cast_slice(table);
        let mut ahead = ahead.chunks(ahead.len().div_ceil(joined.lanes()).max(1));
        let (table, sums) = (&table.as_chunks::<HALF>().0[..=joined.last()], sums.as_chunks_mut::<HALF>().0);
        let mut share = Share::new(joined, out, live, stride);
        for lane in 0..joined.lanes() {
            prefetch(ahead.next().unwrap_or(&[]));
            let sums = &mut sums[2 * lane..2 * lane + 2];
            let mut acc = if part == 0 { [[0i32; HALF]; 2] } else { [sums[0], sums[1]] };
            for rows in joined.part(lane, part).chunks(BYTE_ROWS) {
                let [mut whole, mut upper] = [[0i16; HALF]; 2];
                // SAFETY: `Joined` has no row above `last`, the last one of the table.
                let row = |row: u16| unsafe { table.get_unchecked(usize::from(row)) };
                let (fours, rest) = rows.as_chunks::<4>();
                for rows in fours {
                    let rows: u64 = bytemuck::cast(*rows);
                    let [a, b, c, d] = [0, 16, 32, 48].map(|shift| row((rows >> shift) as u16));
                    for i in 0..HALF {
                        // Sums of two first: a long chain of additions would wait for each of them.
                        let all = a[i].wrapping_add(b[i]).wrapping_add(c[i].wrapping_add(d[i]));
                        let uppers = ((a[i] >> 8) + (b[i] >> 8)) + ((c[i] >> 8) + (d[i] >> 8));
                        whole[i] = whole[i].wrapping_add(all);
                        upper[i] = upper[i].wrapping_add(uppers);
                    }
                }
                for one in rest.iter().map(|&one| row(one)) {
                    for i in 0..HALF {
                        whole[i] = whole[i].wrapping_add(one[i]);
                        upper[i] = upper[i].wrapping_add(one[i] >> 8);
                    }
                }
                for i in 0..HALF {
                    let lower = whole[i].wrapping_sub(upper[i] << 8) as u16;
                    acc[0][i] += i32::from(lower);
                    acc[1][i] += i32::from(upper[i]);
                }
            }
            if part + 1 < joined.parts() {
                [sums[0], sums[1]] = acc;
                continue;
            }
            let bias = joined.rows_of_lane(lane) * BIAS_8;
            acc[0].iter_mut().for_each(|sum| *sum -= bias);
            share.store(acc);
        }
    }
}

/// Where finished sums go: those of lanes that others share are kept and added to these.
struct Share<'a, const HALF: usize> {
    rows: std::slice::ChunksMut<'a, i32>,
    live: usize,
    /// Lanes of a position where the first is shared, else 0.
    lanes: usize,
    /// Place of the next lane in its position.
    next: usize,
    sums: [[i32; HALF]; 2],
}

impl<'a, const HALF: usize> Share<'a, HALF> {
    #[inline(always)]
    fn new(joined: &Joined, out: &'a mut [i32], live: usize, stride: usize) -> Self {
        Share { rows: out.chunks_mut(stride), live, lanes: joined.shared_by().unwrap_or(0), next: 0, sums: [[0; HALF]; 2] }
    }

    /// Takes the sums of the next lane.
    #[inline(always)]
    fn store(&mut self, mut acc: [[i32; HALF]; 2]) {
        if self.lanes > 0 {
            let is_first = self.next == 0;
            self.next = if self.next + 1 == self.lanes { 0 } else { self.next + 1 };
            if is_first {
                self.sums = acc;
                return;
            }
            for (acc, sums) in acc.as_flattened_mut().iter_mut().zip(self.sums.as_flattened()) {
                *acc = acc.wrapping_add(*sums);
            }
        }
        let Some(row) = self.rows.next() else { return };
        // In pieces of a fixed size: a length known only at run time would keep the sums in memory while they grow.
        for (first, acc) in (0..self.live).step_by(LANES).zip(acc.as_flattened().chunks_exact(LANES)) {
            row[first..][..LANES].copy_from_slice(acc);
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
