//! The spans of a step as a Chrome trace, which Perfetto and chrome://tracing open.

use serde_json::{Value, json};

use super::rows::{shares, surroundings};
use crate::clock::{Name, Op, Span};

/// Complete events, nested as the spans are, around them one event for the step; times in microseconds.
///
/// The parts of a loop that several kinds of work share follow one another within it, in proportion to their time: in truth they
/// alternate position by position, on all threads.
pub fn trace(spans: &[Span], wall: u64, layers: &[String], title: &str) -> Value {
    let process = json!({ "ph": "M", "pid": 1, "name": "process_name", "args": { "name": "dsr profile" } });
    let thread = json!({ "ph": "M", "pid": 1, "tid": 1, "name": "thread_name", "args": { "name": title } });
    let mut events = vec![process, thread, event("step", "step", 0, wall, json!({ "nanoseconds": wall }))];
    for (index, span) in spans.iter().enumerate() {
        let (phase, layer) = surroundings(spans, index);
        let name = match span.name {
            Name::Phase(phase) => format!("{phase:?}").to_lowercase(),
            Name::Layer(layer) => layers[layer].clone(),
            Name::Op(op) => op.name().into(),
        };
        let time = span.end - span.start;
        let phase = phase.map(|phase| format!("{phase:?}").to_lowercase());
        let args = json!({ "phase": phase, "layer": layer.map(|layer| &layers[layer]), "nanoseconds": time });
        events.push(event(&name, category(span.name), span.start, time, args));
        let Name::Op(op) = span.name else { continue };
        if span.seen.iter().any(|part| part.0 != op) {
            let mut start = span.start;
            for (op, share) in shares(time, &span.seen) {
                events.push(event(op.name(), "share", start, share, json!({ "nanoseconds": share, "estimate": true })));
                start += share;
            }
        }
    }
    json!({ "displayTimeUnit": "ms", "traceEvents": events })
}

fn category(name: Name) -> &'static str {
    match name {
        Name::Phase(_) => "phase",
        Name::Layer(_) => "layer",
        Name::Op(Op::Wait) => "data",
        Name::Op(_) => "op",
    }
}

fn event(name: &str, category: &str, start: u64, time: u64, args: Value) -> Value {
    let microseconds = |nanoseconds: u64| nanoseconds as f64 / 1000.0;
    json!({ "ph": "X", "pid": 1, "tid": 1, "name": name, "cat": category, "ts": microseconds(start), "dur": microseconds(time), "args": args })
}
