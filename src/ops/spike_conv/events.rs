//! Which weight rows a receptive field names: spikes of some rows of a sample as lists, joined for some output positions.

use std::ops::Range;

use bytemuck::Zeroable;

use super::Geometry;
use super::complement::{first_negative, is_worth_it, tell_silence};
use crate::device::Isa;
use crate::device::lines::Line;
use crate::per_isa;
use crate::spikes::{Spikes, pair_of};

/// Spikes of some rows of one sample as lists, and what [`super::conv_at`] needs besides.
#[derive(Default)]
pub struct Events {
    /// First source row that is listed.
    first: usize,
    /// Columns of the source, steps.
    width: usize,
    time_steps: usize,
    /// Whether the first list of a position is what all its steps share ([`tell_silence`]).
    shares: bool,
    /// Spikes with some neurons told by their silence.
    told: Vec<u32>,
    /// For every row, list (a step, or what all share) and column, the channels that fire, each plus `column · cin`, modulo 2^16; those
    /// whose negative is wanted plus [`first_negative`], too.
    channels: Vec<u16>,
    /// Where the list of a row, step and column begins in `channels`, `[rows][lists][width]` and the end.
    start: Vec<u32>,
    segments: Vec<Segment>,
    part_ends: Vec<usize>,
    joined: Joined,
    /// Sums that some parts have come to.
    pub(super) partial: Vec<Line>,
}

/// Weight rows of some output positions, step by step and part by part; a pooled channel once for every spike.
///
/// A part is some taps whose rows fit the first cache together.
#[derive(Default)]
pub struct Joined {
    /// A multiple of four for every part, made so by the row of zeros: where a loop ends is easier to predict then. None is above
    /// `last` where a range of `start` lies.
    rows: Vec<u16>,
    /// `[positions][lists][parts]` and the end.
    start: Vec<u32>,
    /// Positions times lists.
    lanes: usize,
    /// Lanes of a position, if the first of them is what its steps share.
    shared_by: Option<usize>,
    /// Of every lane.
    parts: usize,
    /// The largest row there can be.
    last: u16,
}

/// Columns of a source row that lie beside each other in the receptive field and in the weights.
#[derive(Clone, Copy)]
pub struct Segment {
    /// Index of the first column of the first list in `Events::start`, and number of columns.
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
        let (time_steps, words, positions) = (spikes.time_steps, spikes.words(), rows.len() * width);
        let mut bits = &spikes.bits()[(b * spikes.positions + rows.start * width) * time_steps * words..][..positions * time_steps * words];
        let negative =
            first_negative(geometry.taps() * geometry.cin).filter(|_| time_steps > 1 && is_worth_it(isa, bits, time_steps, words));
        self.shares = negative.is_some();
        if self.shares {
            let len = positions * (1 + time_steps) * 2 * words;
            grow(&mut self.told, len);
            tell_silence(isa, bits, time_steps, words, &mut self.told[..len]);
            bits = &self.told[..len];
        }
        let lists = positions * self.lists_of_position();
        grow(&mut self.channels, lists * geometry.cin + 2 * COPIED.max(64));
        grow(&mut self.start, lists + 1);
        let shape = [width, self.lists_of_position(), words, geometry.cin];
        list_channels(isa, bits, shape, negative, &mut self.channels, &mut self.start[..=lists]);
    }

    /// Steps of what is listed.
    pub(super) fn time_steps(&self) -> usize {
        self.time_steps
    }

    /// One a step, and one for what they share.
    fn lists_of_position(&self) -> usize {
        self.time_steps + usize::from(self.shares)
    }

    /// Joins the lists that `positions` outputs from (`y`, `x`) on read, in parts of at most `part_rows` weight rows, or of one tap.
    pub(super) fn gather(&mut self, isa: Isa, geometry: &Geometry, [y, x]: [usize; 2], positions: usize, part_rows: usize) -> &Joined {
        let (taps, width) = (geometry.taps(), geometry.out()[1]);
        let wanted = (taps * geometry.cin).div_ceil(part_rows).clamp(1, taps);
        let part_taps = taps.div_ceil(wanted);
        let parts = taps.div_ceil(part_taps);
        let lists = self.lists_of_position();
        let lanes = positions * lists;
        (self.joined.lanes, self.joined.parts) = (lanes, parts);
        self.joined.shared_by = self.shares.then_some(lists);
        // With 2^16 inputs there is no number left for a row of zeros, and a part has the rows it has.
        let zero = u16::try_from(taps * geometry.cin).ok();
        let last_negative = zero.zip(first_negative(taps * geometry.cin)).map(|(rows, first)| first - 1 + rows);
        self.joined.last = last_negative.or(zero).unwrap_or(u16::MAX);
        grow(&mut self.joined.start, lanes * parts + 1);
        let mut len = 0;
        for position in 0..positions {
            self.find_segments(geometry, y + (x + position) / width, (x + position) % width, part_taps, parts);
            // A list has at most every channel of every column, and rows of zeros a part.
            let columns: usize = self.segments.iter().map(|segment| segment.columns).sum();
            grow(&mut self.joined.rows, len + (columns * geometry.cin + 3 * parts) * lists + 2 * COPIED);
            let Events { channels, start, segments, part_ends, joined: Joined { rows, start: starts, last, .. }, .. } = self;
            let starts = &mut starts[position * lists * parts..][..lists * parts];
            join(isa, channels, start, segments, part_ends, self.width, zero, *last, rows, &mut len, starts);
        }
        self.joined.start[lanes * parts] = len as u32;
        &self.joined
    }

    /// The parts of rows that output (`y`, `x`) reads, in the order of the taps, and where those of each part end.
    fn find_segments(&mut self, geometry: &Geometry, y: usize, x: usize, part_taps: usize, parts: usize) {
        let lists = self.lists_of_position();
        let Events { segments, part_ends, .. } = self;
        segments.clear();
        part_ends.clear();
        part_ends.resize(parts, 0);
        let at = |row: usize, column: usize| (row - self.first) * lists * self.width + column;
        let base = |tap: usize, column: usize| tap.wrapping_sub(column).wrapping_mul(geometry.cin) as u16;
        if geometry.is_pooled() {
            geometry.for_each_tap(y, x, |tap, row, column| {
                for_each_in_window(geometry, row, column, |position| {
                    let (row, column) = (position / self.width, position % self.width);
                    segments.push(Segment { start: at(row, column), columns: 1, base: base(tap, column) });
                });
                part_ends[tap / part_taps] = segments.len();
            });
        } else {
            let columns = x * geometry.stride..x * geometry.stride + geometry.kernel[1];
            let inside = columns.start.saturating_sub(geometry.pad)..columns.end.saturating_sub(geometry.pad).min(self.width);
            let first = geometry.pad.saturating_sub(columns.start); // tap of the first column inside
            for ky in 0..geometry.kernel[0] {
                let row = (y * geometry.stride + ky).wrapping_sub(geometry.pad);
                if row >= geometry.source[0] {
                    continue;
                }
                let mut tap = ky * geometry.kernel[1] + first;
                let mut column = inside.start;
                while column < inside.end {
                    let columns = (inside.end - column).min(part_taps - tap % part_taps);
                    segments.push(Segment { start: at(row, column), columns, base: base(tap, column) });
                    part_ends[tap / part_taps] = segments.len();
                    (tap, column) = (tap + columns, column + columns);
                }
            }
        }
        // A part that lies in the padding ends where the one before it does.
        let mut end = 0;
        for part_end in part_ends {
            end = end.max(*part_end);
            *part_end = end;
        }
    }
}

impl Joined {
    /// Of every lane.
    pub fn parts(&self) -> usize {
        self.parts
    }

    /// Positions times lists.
    pub fn lanes(&self) -> usize {
        self.lanes
    }

    /// Lanes of a position, if the first of them is what its steps share: they want its sums added to their own.
    pub fn shared_by(&self) -> Option<usize> {
        self.shared_by
    }

    /// Weight rows of a part of a lane, none above [`Joined::last`].
    #[inline(always)]
    pub fn part(&self, lane: usize, part: usize) -> &[u16] {
        let at = lane * self.parts + part;
        &self.rows[self.start[at] as usize..self.start[at + 1] as usize]
    }

    /// Number of weight rows of a lane.
    #[inline(always)]
    pub fn rows_of_lane(&self, lane: usize) -> i32 {
        (self.start[(lane + 1) * self.parts] - self.start[lane * self.parts]) as i32
    }

    /// The largest row there can be.
    pub fn last(&self) -> usize {
        usize::from(self.last)
    }
}

pub(super) fn grow<T: Zeroable + Clone>(buffer: &mut Vec<T>, len: usize) {
    if buffer.len() < len {
        buffer.resize(len, T::zeroed());
    }
}

/// Lists the set bits of `[rows][width][lists][words]` (`shape`: width, lists, words, channels) in the order row, list, column, each as
/// its channel plus `column · cin`. With `negative` there are twice as many words, and those of the second half are listed with
/// `negative` added.
fn list_channels(isa: Isa, bits: &[u32], shape: [usize; 4], negative: Option<u16>, channels: &mut [u16], start: &mut [u32]) {
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Avx512 && is_x86_feature_detected!("avx512vbmi2") {
        // SAFETY: `Isa::available` and the line above asked the CPU.
        return unsafe { super::avx512::list_channels(bits, shape, negative, channels, start) };
    }
    list_bits(isa, bits, shape, negative, channels, start);
}

per_isa! {
    /// The same for any instruction set.
    pub fn list_bits(bits: &[u32], shape: [usize; 4], negative: Option<u16>, channels: &mut [u16], start: &mut [u32]) {
        let [width, lists, words, cin] = shape;
        let halves = 1 + usize::from(negative.is_some());
        let (mut len, mut list) = (0, 0);
        for row in bits.chunks_exact(width * lists * halves * words) {
            for t in 0..lists {
                for x in 0..width {
                    start[list] = len as u32;
                    list += 1;
                    let halves = row[(x * lists + t) * halves * words..][..halves * words].chunks_exact(words);
                    for (half, added) in halves.zip([0, negative.unwrap_or(0)]) {
                        let mut first = added.wrapping_add((x * cin) as u16);
                        for pair in half.chunks(2) {
                            len += list_word(pair_of(pair), first, &mut channels[len..]);
                            first = first.wrapping_add(64);
                        }
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
const COPIED: usize = 32;

per_isa! {
    /// For every list and part, the lists of its segments one after the other, as weight rows up to `last`; the row `zero`, where there
    /// is one, makes their number a multiple of four.
    /// Writes from `rows[len]` on, which has room for [`COPIED`] more than there are, and where each part begins.
    pub fn join(
        channels: &[u16],
        start: &[u32],
        segments: &[Segment],
        part_ends: &[usize],
        width: usize,
        zero: Option<u16>,
        last: u16,
        rows: &mut [u16],
        len: &mut usize,
        row_start: &mut [u32],
    ) {
        let (zero, fill) = (zero.unwrap_or(last), if zero.is_some() { 3 } else { 0 });
        let mut end = *len;
        for (t, row_start) in row_start.chunks_exact_mut(part_ends.len()).enumerate() {
            let mut first = 0;
            for (row_start, &part_end) in row_start.iter_mut().zip(part_ends) {
                *row_start = end as u32;
                for segment in &segments[first..part_end] {
                    let list = segment.start + t * width;
                    let (from, to) = (start[list] as usize, start[list + segment.columns] as usize);
                    let (copied, rows) = (channels[from..].as_chunks::<COPIED>().0, rows[end..].as_chunks_mut::<COPIED>().0);
                    let mut copy = |piece: usize| {
                        for (row, copied) in rows[piece].iter_mut().zip(&copied[piece]) {
                            // A list has no row behind `last`; that nothing here can be behind it is what sums rely on.
                            *row = copied.wrapping_add(segment.base).min(last);
                        }
                    };
                    // Most lists are one piece, which is easier to predict than how many there are.
                    copy(0);
                    for piece in 1..(to - from).div_ceil(COPIED) {
                        copy(piece);
                    }
                    end += to - from;
                }
                first = part_end;
                rows[end..end + 3].fill(zero);
                end += (*row_start as usize).wrapping_sub(end) & fill;
            }
        }
        *len = end;
    }
}
