//! Currents of a layer, position by position: what its connections read and how.

use std::borrow::Cow;
use std::cell::RefCell;
use std::ops::Range;

use super::{Connection, Input, Kind, Network, Source, SpikingLayer};
use crate::clock::{Op, Sampler};
use crate::device::lines::Line;
use crate::ops::conv::conv_at;
use crate::ops::neuron::{LANES, Neuron, NeuronArgs};
use crate::ops::spike_conv::{self, Events, identity_at, rows_together};
use crate::spikes::Spikes;

/// What a thread reuses between tasks, layers and steps: buffers that grow where needed.
#[derive(Default)]
pub(super) struct Worker {
    /// Of the first and the second connection.
    pub events: [Events; 2],
    pub first: Vec<Line>,
    pub second: Vec<Line>,
}

thread_local! {
    static WORKER: RefCell<Worker> = RefCell::default();
}

/// Runs a task, which starts no other, with the buffers of this thread.
pub(super) fn with_worker<R>(task: impl FnOnce(&mut Worker) -> R) -> R {
    WORKER.with_borrow_mut(task)
}

/// Some rows of one sample: the unit of parallel work.
#[derive(Clone, Debug)]
pub(super) struct Task {
    pub b: usize,
    pub rows: Range<usize>,
}

/// A layer and what it reads, ready to compute currents.
pub(super) struct Reader<'a> {
    pub network: &'a Network,
    pub index: usize,
    pub layer: &'a SpikingLayer,
    input: &'a Input<'a>,
    sources: &'a [Option<Spikes>],
    /// Real-valued weights of the connection from the input, `[tap][cin][cout]`.
    real: Cow<'a, [f32]>,
    /// Steps that the currents have: 1 where the input is static.
    pub frames: usize,
    /// Distance of two steps of the currents.
    pub stride: usize,
    /// Rows of a task.
    pub rows: usize,
    /// Positions of a task whose sums are computed together; the last ones may be fewer.
    pub strip: usize,
    /// Looks at the parts of the work at some strips.
    pub sampler: Sampler,
}

/// Rows of a sample that make a task, a divisor of the height and at most [`rows_together`].
///
/// A task costs its rows and an overhead: lists of rows that its neighbours make, too, and weights that come from afar for every task;
/// both in rows, as measured with 512 channels. The last tasks of a layer leave threads waiting for a part of their time.
fn rows_of_task(batch: usize, [height, width]: [usize; 2], time_steps: usize, threads: usize) -> usize {
    let overhead = 0.2 + 100.0 / (width * time_steps) as f64;
    let cost = |rows: usize| {
        let rounds = (batch * height / rows).div_ceil(threads);
        rounds as f64 * (rows as f64 + overhead) + 0.2 * rows as f64
    };
    let divisors = (1..=rows_together([height, width])).filter(|rows| height.is_multiple_of(*rows));
    divisors.min_by(|a, b| cost(*a).total_cmp(&cost(*b))).unwrap_or(1)
}

impl<'a> Reader<'a> {
    pub fn new(network: &'a Network, index: usize, input: &'a Input<'a>, sources: &'a [Option<Spikes>]) -> Self {
        let layer = &network.layers[index];
        let first = &layer.connections[0];
        let is_real = first.source == Source::Input;
        let frames = if is_real && input.frames == 1 { 1 } else { network.time_steps };
        let [height, width, channels] = layer.shape;
        let rows = rows_of_task(input.batch, [height, width], network.time_steps, rayon::current_num_threads());
        let real = if is_real { network.effective_weights(first) } else { (&[][..]).into() };
        Reader {
            network,
            index,
            layer,
            input,
            sources,
            real,
            frames,
            stride: channels.next_multiple_of(LANES),
            rows,
            strip: spike_conv::positions_together(network.time_steps).min(rows * width),
            sampler: Sampler::new(),
        }
    }

    /// Whether the layer reads the real-valued input.
    pub fn is_real(&self) -> bool {
        self.layer.connections[0].source == Source::Input
    }

    /// Whether the layer has a second connection.
    pub fn has_second(&self) -> bool {
        self.layer.connections.len() == 2
    }

    /// Task `index` of the batch.
    pub fn task(&self, index: usize) -> Task {
        let per_sample = self.layer.shape[0] / self.rows;
        let start = index % per_sample * self.rows;
        Task { b: index / per_sample, rows: start..start + self.rows }
    }

    /// Spikes of an earlier layer.
    pub fn spikes(&self, source: usize) -> Option<&Spikes> {
        self.sources[source].as_ref()
    }

    /// The batch.
    pub fn input(&self) -> &Input<'a> {
        self.input
    }

    /// The kind of work that the sums of connection `k` are.
    pub fn sums_op(&self, k: usize) -> Op {
        match &self.layer.connections[k] {
            Connection { kind: Kind::Identity, .. } => Op::Identity,
            Connection { source: Source::Input, .. } => Op::InputConvolution,
            Connection { source: Source::Layer(_), .. } => Op::SpikeConvolution,
        }
    }

    /// The strips of a task, in the order of rows: number in the batch, and positions within the task.
    pub fn strips(&self, index: usize) -> impl Iterator<Item = (usize, Range<usize>)> + use<> {
        let (positions, strip) = (self.rows * self.layer.shape[1], self.strip);
        let count = positions.div_ceil(strip);
        (0..count).map(move |n| (index * count + n, n * strip..((n + 1) * strip).min(positions)))
    }

    /// Elements of the currents of one position.
    pub fn position_len(&self) -> usize {
        self.frames * self.stride
    }

    /// Bound on the magnitude of every exact sum of this layer.
    pub fn largest_sum(&self) -> i64 {
        let of_connection = |k: usize| match self.layer.connections[k].kind {
            Kind::Identity => self.layer.connections[k].geometry.area() as i64,
            Kind::Conv { .. } => self.network.quantized[self.index][k].largest_sum,
        };
        (0..self.layer.connections.len()).map(of_connection).max().unwrap_or(0)
    }

    /// Lists the spikes that a task reads; its sums follow.
    pub fn list(&self, events: &mut [Events; 2], task: &Task) {
        for (connection, events) in self.layer.connections.iter().zip(events) {
            if let (Source::Layer(source), Kind::Conv { .. }) = (connection.source, &connection.kind)
                && let Some(spikes) = &self.sources[source]
            {
                let (isa, geometry) = (self.network.isa, &connection.geometry);
                self.sampler.time_once(Op::SpikeConvolution, || events.list(isa, spikes, task.b, geometry, task.rows.clone()));
            }
        }
    }

    /// Sums of connection `k` at some outputs of sample `b`, from `at` (row, column) on in the order of rows,
    /// `[positions][frames][stride]`; f32 in the bits of i32 from a real input.
    ///
    /// [`Reader::list`] must have seen their rows.
    pub fn sums_at(&self, k: usize, events: &mut [Events; 2], b: usize, at: [usize; 2], acc: &mut [i32]) {
        let connection = &self.layer.connections[k];
        let geometry = &connection.geometry;
        let isa = self.network.isa;
        if let (Source::Layer(_), Kind::Conv { .. }) = (connection.source, &connection.kind) {
            let weights = &self.network.quantized[self.index][k];
            return spike_conv::conv_at(isa, &mut events[k], weights, geometry, at, self.stride, acc);
        }
        let width = self.layer.shape[1];
        for (position, acc) in (at[0] * width + at[1]..).zip(acc.chunks_exact_mut(self.position_len())) {
            let at = [position / width, position % width];
            match (connection.source, &connection.kind) {
                (Source::Input, kind) => {
                    let channels = geometry.cout;
                    for (t, acc) in acc.chunks_exact_mut(self.stride).enumerate() {
                        let values: &mut [f32] = &mut bytemuck::cast_slice_mut(acc)[..channels];
                        let frame = self.input.frame(b, t);
                        match kind {
                            Kind::Identity => values.copy_from_slice(&frame[position * channels..][..channels]),
                            Kind::Conv { .. } => conv_at(isa, frame, &self.real, geometry, at, values),
                        }
                    }
                }
                (Source::Layer(source), _) => {
                    if let Some(spikes) = &self.sources[source] {
                        identity_at(isa, spikes, b, geometry, at, self.stride, acc);
                    }
                }
            }
        }
    }

    /// Constants of the layer's neurons.
    pub fn neuron_args(&self) -> NeuronArgs {
        let neuron: Neuron = self.network.neuron;
        NeuronArgs {
            neuron,
            threshold: self.network.threshold(self.layer),
            time_steps: self.network.time_steps,
            step_weights: neuron.step_weights(self.network.time_steps),
            channels: self.layer.shape[2],
            stride: self.stride,
        }
    }
}
