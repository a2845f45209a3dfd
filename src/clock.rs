//! Where the time of a step goes: spans that the code opens as it runs, kept while somebody listens on this thread.
//!
//! A phase holds layers, a layer holds operations, and an operation may be a parallel loop in which several kinds of work alternate.
//! Such a loop is one span; every fifth strip of positions is looked at closer, and the loop's time is shared out in the
//! proportion of what was seen there ([`Sampler`]). Without a listener a span is one look at a thread-local variable.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde::Serialize;

use crate::device::machine::{forget_peak_rss, peak_rss};

/// A part of a step that all layers go through together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Waiting for the batch.
    Data,
    /// From the input to the logits.
    Forward,
    /// Cross-entropy, and clearing the gradients of the step before.
    Loss,
    /// From the gradient of the logits to those of all parameters.
    Backward,
    /// The check for values that are no numbers, the update, and the weights of the next forward.
    Optimizer,
}

/// A kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    Wait,
    /// Of the batch, to a device.
    Copy,
    InputConvolution,
    SpikeConvolution,
    Identity,
    Statistics,
    Normalizer,
    Neurons,
    InnerMeans,
    OuterProducts,
    Readout,
    CrossEntropy,
    ClearGradients,
    ClampMapping,
    InnerGradient,
    CurrentGradient,
    WeightGradient,
    DataGradient,
    FiniteCheck,
    Update,
    Quantize,
    /// All kernels of a layer on a device.
    Kernels,
    /// What is left of a layer or phase.
    Rest,
}

/// Number of kinds.
const OPS: usize = Op::Rest as usize + 1;

impl Op {
    /// All kinds, in order.
    pub const ALL: [Op; OPS] = [
        Op::Wait,
        Op::Copy,
        Op::InputConvolution,
        Op::SpikeConvolution,
        Op::Identity,
        Op::Statistics,
        Op::Normalizer,
        Op::Neurons,
        Op::InnerMeans,
        Op::OuterProducts,
        Op::Readout,
        Op::CrossEntropy,
        Op::ClearGradients,
        Op::ClampMapping,
        Op::InnerGradient,
        Op::CurrentGradient,
        Op::WeightGradient,
        Op::DataGradient,
        Op::FiniteCheck,
        Op::Update,
        Op::Quantize,
        Op::Kernels,
        Op::Rest,
    ];

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Op::Wait => "wait for data",
            Op::Copy => "copy to the device",
            Op::InputConvolution => "input convolution",
            Op::SpikeConvolution => "spike convolution",
            Op::Identity => "identity",
            Op::Statistics => "statistics",
            Op::Normalizer => "normaliser",
            Op::Neurons => "neurons",
            Op::InnerMeans => "inner means",
            Op::OuterProducts => "outer products",
            Op::Readout => "readout",
            Op::CrossEntropy => "cross-entropy",
            Op::ClearGradients => "clear gradients",
            Op::ClampMapping => "clamp mapping",
            Op::InnerGradient => "inner norm gradient",
            Op::CurrentGradient => "current gradient",
            Op::WeightGradient => "weight gradient",
            Op::DataGradient => "data gradient",
            Op::FiniteCheck => "finite check",
            Op::Update => "update",
            Op::Quantize => "quantise",
            Op::Kernels => "kernels",
            Op::Rest => "rest",
        }
    }
}

/// What a span is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    Phase(Phase),
    /// By index.
    Layer(usize),
    Op(Op),
}

/// One stretch of time on the thread that listens.
#[derive(Clone, Debug)]
pub struct Span {
    pub name: Name,
    /// Index of the span around it.
    pub parent: Option<usize>,
    /// Nanoseconds since the listening began.
    pub start: u64,
    pub end: u64,
    /// Of a loop that several kinds of work share: nanoseconds seen of each, on all threads together; empty of others.
    pub seen: Vec<(Op, u64)>,
    /// Of a layer, while memory is watched: most memory of the process in the span, bytes.
    pub peak_rss: Option<u64>,
}

/// What is kept while somebody listens.
struct Recorder {
    zero: Instant,
    watches_memory: bool,
    spans: Vec<Span>,
    open: Vec<usize>,
    seen: Arc<Seen>,
}

/// Nanoseconds of each kind of work in the loop that runs now.
#[derive(Debug)]
struct Seen([AtomicU64; OPS]);

thread_local! {
    static RECORDER: RefCell<Option<Recorder>> = const { RefCell::new(None) };
}

/// Runs `work` and returns its result with the spans that it opened on this thread, and how long it took, nanoseconds.
///
/// `watches_memory` asks the system for the peak of every layer, which takes time.
pub fn listen<R>(watches_memory: bool, work: impl FnOnce() -> R) -> (R, Vec<Span>, u64) {
    let seen = Arc::new(Seen(std::array::from_fn(|_| AtomicU64::new(0))));
    let zero = Instant::now();
    let recorder = Recorder { zero, watches_memory, spans: Vec::with_capacity(1024), open: Vec::new(), seen };
    RECORDER.with_borrow_mut(|slot| *slot = Some(recorder));
    let result = work();
    let wall = nanoseconds(zero);
    let spans = RECORDER.take().map_or_else(Vec::new, |recorder| recorder.spans);
    (result, spans, wall)
}

/// Whether somebody listens on this thread.
pub fn is_listening() -> bool {
    RECORDER.with_borrow(Option::is_some)
}

/// Opens a span that ends where the returned value is dropped.
#[must_use = "the span ends where this is dropped"]
pub fn span(name: Name) -> Guard {
    RECORDER.with_borrow_mut(|slot| {
        let Some(recorder) = slot else { return Guard { is_open: false } };
        let parent = recorder.open.last().copied();
        if recorder.watches_memory && matches!(name, Name::Layer(_)) {
            forget_peak_rss();
        }
        recorder.open.push(recorder.spans.len());
        let start = nanoseconds(recorder.zero);
        recorder.spans.push(Span { name, parent, start, end: start, seen: Vec::new(), peak_rss: None });
        Guard { is_open: true }
    })
}

/// Runs one operation in a span.
pub fn op<R>(op: Op, work: impl FnOnce() -> R) -> R {
    let _span = span(Name::Op(op));
    work()
}

/// An open span.
pub struct Guard {
    is_open: bool,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.is_open {
            return;
        }
        RECORDER.with_borrow_mut(|slot| {
            let Some(recorder) = slot else { return };
            let Some(span) = recorder.open.pop().map(|index| &mut recorder.spans[index]) else { return };
            span.end = nanoseconds(recorder.zero);
            if recorder.watches_memory && matches!(span.name, Name::Layer(_)) {
                span.peak_rss = peak_rss();
            }
            if matches!(span.name, Name::Op(_)) {
                let seen = Op::ALL.map(|op| (op, recorder.seen.0[op as usize].swap(0, Ordering::Relaxed)));
                span.seen = seen.into_iter().filter(|&(_, time)| time > 0).collect();
            }
        });
    }
}

fn nanoseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// Every how many strips of a loop are looked at: a prime, so that it is not always the same part of an image.
const EVERY: usize = 5;

/// Looks at some strips of a parallel loop; made on the thread that listens, used on all.
#[derive(Clone, Debug)]
pub struct Sampler {
    seen: Option<Arc<Seen>>,
}

impl Sampler {
    /// For the listener of this thread, if there is one.
    pub fn new() -> Self {
        Sampler { seen: RECORDER.with_borrow(|slot| slot.as_ref().map(|recorder| recorder.seen.clone())) }
    }

    /// Runs the part `op` of the work of a strip, or of a position where there are none; `number` is its place in the batch.
    #[inline(always)]
    pub fn time<R>(&self, number: usize, op: Op, work: impl FnOnce() -> R) -> R {
        match &self.seen {
            Some(seen) if number.is_multiple_of(EVERY) => {
                let begin = Instant::now();
                let result = work();
                seen.0[op as usize].fetch_add(nanoseconds(begin), Ordering::Relaxed);
                result
            }
            _ => work(),
        }
    }

    /// Runs a part of the work that is done once for many strips. Every such part is looked at, and counts as much as the looks at
    /// strips do: one in [`EVERY`].
    pub fn time_once<R>(&self, op: Op, work: impl FnOnce() -> R) -> R {
        let Some(seen) = &self.seen else { return work() };
        let begin = Instant::now();
        let result = work();
        seen.0[op as usize].fetch_add(nanoseconds(begin) / EVERY as u64, Ordering::Relaxed);
        result
    }
}

impl Default for Sampler {
    fn default() -> Self {
        Sampler::new()
    }
}
