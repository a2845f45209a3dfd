//! From the spans of a step to rows that add up to its wall time.

use std::collections::BTreeMap;

use crate::clock::{Name, Op, Phase, Span};

/// Time of one kind of work in one layer and phase.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    /// None if no phase was open.
    pub phase: Option<Phase>,
    /// None for work that belongs to no layer.
    pub layer: Option<usize>,
    pub op: Op,
    /// How many spans it had a part in.
    pub calls: usize,
    pub nanoseconds: u64,
    /// Whether it shared a loop with other work, so that its part of the loop is an estimate.
    pub is_shared: bool,
}

/// Rows in the order in which they first appear, and what no span covers: all of them add up to `wall` exactly.
pub fn rows(spans: &[Span], wall: u64) -> (Vec<Row>, u64) {
    let mut own: Vec<u64> = spans.iter().map(|span| span.end - span.start).collect();
    let mut covered = 0;
    for span in spans {
        let time = span.end - span.start;
        match span.parent {
            Some(parent) => own[parent] -= time,
            None => covered += time,
        }
    }
    let mut rows = Vec::new();
    let mut places = BTreeMap::new();
    for (index, span) in spans.iter().enumerate() {
        let (phase, layer) = surroundings(spans, index);
        let parts = match span.name {
            Name::Op(op) if span.seen.len() > 1 || span.seen.iter().any(|part| part.0 != op) => shares(own[index], &span.seen),
            Name::Op(op) => vec![(op, own[index])],
            Name::Phase(_) | Name::Layer(_) => vec![(Op::Rest, own[index])],
        };
        let is_shared = parts.len() > 1;
        for (op, nanoseconds) in parts {
            let place = *places.entry((phase.map(|phase| phase as u8), layer, op)).or_insert_with(|| {
                rows.push(Row { phase, layer, op, calls: 0, nanoseconds: 0, is_shared: false });
                rows.len() - 1
            });
            let row: &mut Row = &mut rows[place];
            row.calls += 1;
            row.nanoseconds += nanoseconds;
            row.is_shared |= is_shared;
        }
    }
    (rows, wall - covered)
}

/// Phase and layer that span `index` lies in, itself included.
pub fn surroundings(spans: &[Span], index: usize) -> (Option<Phase>, Option<usize>) {
    let (mut phase, mut layer, mut at) = (None, None, Some(index));
    while let Some(index) = at {
        match spans[index].name {
            Name::Phase(name) => phase = phase.or(Some(name)),
            Name::Layer(name) => layer = layer.or(Some(name)),
            Name::Op(_) => {}
        }
        at = spans[index].parent;
    }
    (phase, layer)
}

/// `time` in the proportion of what was seen; the last part takes what rounding leaves.
pub fn shares(time: u64, seen: &[(Op, u64)]) -> Vec<(Op, u64)> {
    let total: u128 = seen.iter().map(|part| u128::from(part.1)).sum();
    let mut left = time;
    let mut parts = Vec::with_capacity(seen.len());
    for (place, &(op, part)) in seen.iter().enumerate() {
        let share = if place + 1 == seen.len() { left } else { (u128::from(time) * u128::from(part) / total.max(1)) as u64 };
        left -= share;
        parts.push((op, share));
    }
    parts
}
