//! Convolutions of spikes: exact sums and statistics, and the neurons behind them.

use std::sync::Arc;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::inputs::{IF, LIF, NO_POOL, bits, floats, identity, spikes, window};
use super::neurons;
use super::weights::OnDevice;
use super::{Check, Outcome, Output, Size};
use crate::device::{Gpu, Isa, Memory, Products, Slice};
use crate::error::Result;
use crate::ops::batch_norm::Normalizer;
use crate::ops::neuron::{LANES, Neuron, NeuronArgs};
use crate::ops::rate::cuda::DeviceReadout;
use crate::ops::spike_conv::{
    self, Events, Geometry, LayerSums, PartsRoom, QuantizedWeights, Source, Summand, WeightTable, conv_at, identity_at, quantize_weights,
};
use crate::spikes::Spikes;

/// A summand of a layer.
#[derive(Clone, Copy, Debug)]
enum Kind {
    None,
    /// Its `cout` is that of the layer.
    Conv(Geometry),
    Bits,
    /// Spikes of a 2x2 pool, counted.
    Pooled,
}

#[derive(Clone, Copy, Debug)]
struct Layer {
    summands: [Kind; 2],
    /// Height and width.
    out: [usize; 2],
    channels: usize,
    time_steps: usize,
    batch: usize,
    bits: u8,
    neuron: Neuron,
    drops: bool,
}

impl Layer {
    fn positions(&self) -> usize {
        self.batch * self.out[0] * self.out[1]
    }

    fn stride(&self) -> usize {
        self.channels.next_multiple_of(LANES)
    }

    fn shape(&self) -> String {
        let name = |kind: &Kind| match kind {
            Kind::None => String::new(),
            Kind::Conv(geometry) => window(geometry),
            Kind::Bits => "bits".into(),
            Kind::Pooled => "pooled bits".into(),
        };
        let [first, second] = self.summands.each_ref().map(name);
        let plus = if second.is_empty() { "" } else { " + " };
        let Layer { channels, time_steps, batch, bits, neuron, .. } = self;
        format!("{first}{plus}{second} -> {channels}, T{time_steps} B{batch}, {bits} bits, {}", neuron.name())
    }
}

fn layers(size: Size) -> Vec<Layer> {
    let window =
        |cin, source, kernel, stride, pad| Kind::Conv(Geometry { cin, cout: 0, source, pool: NO_POOL, kernel: [kernel; 2], stride, pad });
    let conv3 = |cin, source| window(cin, source, 3, 1, 1);
    let pooled =
        |cin, source, pool, kernel, stride, pad| Kind::Conv(Geometry { cin, cout: 0, source, pool, kernel: [kernel; 2], stride, pad });
    let layer = |summands: [Kind; 2], out, channels, time_steps, batch, bits| {
        let summands = summands.map(|kind| match kind {
            Kind::Conv(geometry) => Kind::Conv(Geometry { cout: channels, ..geometry }),
            other => other,
        });
        Layer { summands, out, channels, time_steps, batch, bits, neuron: IF, drops: false }
    };
    let lif = |layer: Layer| Layer { neuron: LIF, ..layer };
    let dropped = |layer: Layer| Layer { drops: true, ..layer };
    let none = Kind::None;
    let mut layers = vec![
        layer([conv3(1, [1, 1]), none], [1, 1], 1, 1, 1, 16),
        lif(layer([conv3(3, [5, 7]), none], [5, 7], 16, 5, 1, 16)),
        layer([conv3(31, [4, 3]), none], [4, 3], 33, 5, 3, 16),
        lif(dropped(layer([conv3(64, [3, 3]), none], [3, 3], 64, 33, 1, 8))),
        layer([window(33, [7, 5], 3, 2, 1), none], [4, 3], 96, 5, 1, 8),
        layer([window(130, [3, 5], 1, 2, 0), none], [2, 3], 16, 1, 3, 16),
        // two summands: the shortcuts of residual blocks, in either place
        lif(layer([conv3(32, [3, 3]), window(16, [5, 5], 1, 2, 0)], [3, 3], 31, 33, 1, 8)),
        layer([conv3(32, [3, 5]), Kind::Bits], [3, 5], 32, 5, 1, 16),
        lif(dropped(layer([Kind::Bits, conv3(33, [3, 3])], [3, 3], 70, 5, 1, 16))),
        layer([Kind::Pooled, conv3(16, [2, 2])], [2, 2], 16, 33, 3, 16),
        // two groups of 64 channels, of two convolutions
        lif(layer([window(33, [7, 9], 3, 2, 1), window(16, [7, 9], 1, 2, 0)], [4, 5], 70, 20, 1, 8)),
        // an odd number of steps of the product, and a second tile of channels behind it
        layer([conv3(31, [4, 3]), none], [4, 3], 70, 5, 1, 16),
        // linear layers cover their input; pools are counted
        layer([window(33, [7, 7], 7, 1, 0), none], [1, 1], 10, 5, 3, 16),
        layer([pooled(33, [6, 10], [2, 2, 0], 3, 1, 1), none], [3, 5], 31, 5, 1, 16),
        lif(layer([pooled(64, [7, 7], [3, 2, 1], 2, 2, 0), none], [2, 2], 33, 5, 1, 8)),
        // of realistic width
        layer([conv3(64, [8, 8]), none], [8, 8], 64, 5, 1, 16),
    ];
    if size == Size::Full {
        layers.extend([
            layer([conv3(64, [32, 32]), Kind::Bits], [32, 32], 64, 5, 4, 16),
            // so many tiles that a block of Hopper's kernel takes two groups of channels
            lif(layer([window(64, [32, 32], 3, 2, 1), window(64, [32, 32], 1, 2, 0)], [16, 16], 128, 5, 32, 8)),
            layer([conv3(128, [16, 16]), Kind::Bits], [16, 16], 128, 5, 32, 8),
            lif(layer([conv3(256, [8, 8]), none], [8, 8], 256, 20, 2, 16)),
            dropped(layer([conv3(512, [4, 4]), Kind::Bits], [4, 4], 512, 33, 2, 8)),
            layer([pooled(512, [4, 4], [4, 4, 0], 1, 1, 0), none], [1, 1], 1000, 20, 8, 16),
        ]);
    }
    layers
}

/// A summand on both sides.
struct Built {
    summand: Summand,
    /// `[B][P][T][stride]`.
    sums: Vec<i32>,
    /// Value of a unit of the sums, for currents of a sensible size.
    unit: f32,
    _memory: Option<Memory<u32>>,
    _weights: Option<OnDevice>,
}

/// Sums of all positions, by the CPU's function of one.
fn all_positions(layer: &Layer, at: impl Fn(&mut Events, usize, [usize; 2], &mut [i32]) + Sync) -> Vec<i32> {
    let [height, width] = layer.out;
    let mut sums = vec![0; layer.positions() * layer.time_steps * layer.stride()];
    let positions = sums.par_chunks_exact_mut(layer.time_steps * layer.stride()).enumerate();
    positions.for_each_init(Events::default, |events, (q, sums)| {
        at(events, q / (height * width), [q / width % height, q % width], sums);
    });
    sums
}

/// Spikes of each pool window, `[B][P pooled][T][C rounded up to 32]`.
fn pool_counts(spikes: &Spikes, geometry: &Geometry) -> Vec<u8> {
    let [height, width] = geometry.pooled();
    let stride = spikes.channels.next_multiple_of(32);
    let mut acc = vec![0; spikes.time_steps * stride];
    let mut counts = Vec::new();
    for q in 0..spikes.batch * height * width {
        acc.fill(0);
        identity_at(Isa::detect(), spikes, q / (height * width), geometry, [q / width % height, q % width], stride, &mut acc);
        counts.extend(acc.iter().map(|&count| count as u8));
    }
    counts
}

fn build(gpu: &Arc<Gpu>, rng: &mut ChaCha8Rng, layer: &Layer, kind: Kind) -> Result<Built> {
    let ([height, width], stride) = (layer.out, layer.stride());
    let random = |rng: &mut ChaCha8Rng, positions, channels| spikes(rng, layer.time_steps, layer.batch, positions, channels);
    let of_identity = |spikes: &Spikes, geometry: &Geometry| {
        all_positions(layer, |_, b, at, acc| identity_at(Isa::detect(), spikes, b, geometry, at, stride, acc))
    };
    match kind {
        Kind::None => Ok(Built { summand: Summand::None, sums: Vec::new(), unit: 0.0, _memory: None, _weights: None }),
        Kind::Bits => {
            let spikes = random(rng, height * width, layer.channels);
            let sums = of_identity(&spikes, &identity(layer.channels, layer.out, NO_POOL));
            let memory = gpu.memory_of(spikes.bits())?;
            let summand = Summand::Bits { spikes: memory.slice() };
            Ok(Built { summand, sums, unit: 0.5, _memory: Some(memory), _weights: None })
        }
        Kind::Pooled => {
            let spikes = random(rng, 4 * height * width, layer.channels);
            let sums = of_identity(&spikes, &identity(layer.channels, layer.out.map(|n| 2 * n), [2, 2, 0]));
            let memory = gpu.memory_of(bytemuck::cast_slice::<i32, u32>(&sums))?;
            let summand = Summand::Sums { sums: memory.slice().cast() };
            Ok(Built { summand, sums, unit: 0.2, _memory: Some(memory), _weights: None })
        }
        Kind::Conv(geometry) => {
            let spikes = random(rng, geometry.source.iter().product(), geometry.cin);
            let master = floats(rng, geometry.taps() * geometry.cin * geometry.cout, -1.0..1.0);
            let mut quantized = QuantizedWeights::default();
            quantized.quantize(Isa::detect(), &master, layer.channels, layer.bits, geometry.area());
            let sums = all_positions(layer, |events, b, at, acc| {
                events.list(Isa::detect(), &spikes, b, &geometry, at[0]..at[0] + 1);
                conv_at(Isa::detect(), events, &quantized, &geometry, at, stride, acc);
            });
            let weights = OnDevice::new(gpu, &master, geometry, 1, layer.bits)?;
            quantize_weights(gpu, &WeightTable::new(gpu, &[weights.source])?)?;
            let (memory, source) = if geometry.is_pooled() {
                let memory = gpu.memory_of(bytemuck::cast_slice::<u8, u32>(&pool_counts(&spikes, &geometry)))?;
                let source = Source::Counts(memory.slice().cast());
                (memory, source)
            } else {
                let memory = gpu.memory_of(spikes.bits())?;
                let source = Source::Bits(memory.slice());
                (memory, source)
            };
            let unit = quantized.scale[0] * 2.0 / (geometry.taps() as f32 * geometry.cin as f32 * geometry.area() as f32).sqrt();
            let summand = Summand::Conv { source, weights: weights.source.weights, geometry };
            Ok(Built { summand, sums, unit, _memory: Some(memory), _weights: Some(weights) })
        }
    }
}

fn on_device(layer: &Layer, built: &[Built; 2]) -> LayerSums {
    LayerSums {
        summands: built.each_ref().map(|built| built.summand),
        batch: layer.batch,
        positions: layer.out[0] * layer.out[1],
        time_steps: layer.time_steps,
        channels: layer.channels,
    }
}

/// Every layer with the products that the device has chosen, and some with the others.
pub fn checks(gpu: &Arc<Gpu>, size: Size) -> Vec<Check> {
    let of_layer = |layer: Layer| {
        let [of_sums, of_neurons] = [gpu.clone(), gpu.clone()];
        [
            Check::bits("spike_conv sums", layer.shape(), move |rng, outcome| check_sums(&of_sums, &layer, rng, outcome)),
            Check::bits("spike_conv neurons", layer.shape(), move |rng, outcome| check_neurons(&of_neurons, &layer, 1, rng, outcome)),
        ]
    };
    let (others, [op_of_sums, op_of_neurons]) = match gpu.products() {
        Products::Integer => (Products::Bf16, ["spike_conv sums in bf16", "spike_conv neurons in bf16"]),
        Products::Bf16 | Products::Warpgroup => (Products::Integer, ["spike_conv sums of integers", "spike_conv neurons of integers"]),
    };
    let of_others = |layer: Layer| {
        let [of_sums, of_neurons] = [gpu.clone(), gpu.clone()];
        let sums = move |rng: &mut _, outcome: &mut _| check_sums(&of_sums.multiplying(others)?, &layer, rng, outcome);
        let neurons = move |rng: &mut _, outcome: &mut _| check_neurons(&of_neurons.multiplying(others)?, &layer, 1, rng, outcome);
        [Check::bits(op_of_sums, layer.shape(), sums), Check::bits(op_of_neurons, layer.shape(), neurons)]
    };
    // Where the device has them and has not chosen them.
    let of_warpgroups = |layer: Layer| {
        let gpu = gpu.clone();
        let neurons = move |rng: &mut _, outcome: &mut _| check_neurons(&gpu.multiplying(Products::Warpgroup)?, &layer, 1, rng, outcome);
        Check::bits("spike_conv neurons by wgmma", layer.shape(), neurons)
    };
    let has_others = gpu.has_warpgroups() && gpu.products() != Products::Warpgroup;
    let of_warpgroups = layers(size).into_iter().filter(|_| has_others).map(of_warpgroups);
    let is_pooled = |kind: &Kind| matches!(kind, Kind::Conv(geometry) if geometry.is_pooled());
    let is_telling = |layer: &Layer| [31, 33].contains(&layer.channels) || layer.summands.iter().any(is_pooled);
    let largest = gpu.clone();
    let shape = format!("{LARGEST_CIN} 2x2 pool 2 -> 2, T2 B1, 16 bits, next to 2^24");
    let largest = Check::bits("spike_conv sums in bf16", shape, move |rng, outcome| check_largest(&largest, rng, outcome));
    let of_others = layers(Size::Small).into_iter().filter(is_telling).flat_map(of_others);
    // Whether the last part sees what the others have added is a question of the order of memory, so on a device it is asked often.
    let times = if size == Size::Full { 20 } else { 1 };
    let in_parts = layers(Size::Small).into_iter().filter(|layer| layer.time_steps <= 128).zip([2, 3, 5].into_iter().cycle());
    let in_parts = in_parts.map(|(layer, parts)| {
        let (gpu, shape) = (gpu.clone(), format!("{}, {parts} parts", layer.shape()));
        Check::bits("spike_conv neurons in parts", shape, move |rng, outcome| {
            (0..times).try_for_each(|_| check_neurons(&gpu, &layer, parts, rng, outcome))
        })
    });
    layers(size).into_iter().flat_map(of_layer).chain(in_parts).chain(of_others).chain(of_warpgroups).chain([largest]).collect()
}

/// The most channels behind a 2x2 pool that are multiplied in bf16.
const LARGEST_CIN: usize = (1 << 15) - 1;

/// Sums in bf16 whose bytes add up to nearly 2^24, odd ones and even ones: a device that keeps less than 24 bits of a sum shows it here.
fn check_largest(gpu: &Arc<Gpu>, rng: &mut ChaCha8Rng, outcome: &mut Outcome) -> Result<()> {
    let gpu = gpu.multiplying(Products::Bf16)?;
    let geometry = Geometry { cin: LARGEST_CIN, cout: 2, source: [2, 2], pool: [2, 2, 0], kernel: [1, 1], stride: 1, pad: 0 };
    // 256 * 63 + 127 and 256 * -63 - 128.
    let weights = [16_255, -16_256];
    let master: Vec<f32> = (0..2 * LARGEST_CIN).map(|at| weights[at % 2] as f32 / 16_384.0).collect();
    let weights_there = OnDevice::new(&gpu, &master, geometry, 1, 16)?;
    quantize_weights(&gpu, &WeightTable::new(&gpu, &[weights_there.source])?)?;
    let stride = LARGEST_CIN.next_multiple_of(32);
    let counts: Vec<u8> =
        (0..2 * stride).map(|at| if at % stride == LARGEST_CIN { 0 } else { 4 - u8::from(rng.random_ratio(1, 50)) }).collect();
    let there = gpu.memory_of(&counts)?;
    let summand = Summand::Conv { source: Source::Counts(there.slice()), weights: weights_there.source.weights, geometry };
    let layer = LayerSums { summands: [summand, Summand::None], batch: 1, positions: 1, time_steps: 2, channels: 2 };
    let stored = Output::unwritten(&gpu, 2 * LANES)?;
    spike_conv::sums(&gpu, &layer, [stored.slice(), Slice::NONE], Slice::NONE)?;
    let of_step = |counts: &[u8]| {
        let total: i32 = counts.iter().map(|&count| i32::from(count)).sum();
        (0..LANES).map(move |c| weights.get(c).map_or(0, |weight| weight * total))
    };
    let expected: Vec<i32> = counts.chunks_exact(stride).flat_map(of_step).collect();
    stored.expect("sums [B][P][T][stride]", outcome, &expected)
}

/// Sums, and their statistics with and without the sums.
fn check_sums(gpu: &Arc<Gpu>, layer: &Layer, rng: &mut ChaCha8Rng, outcome: &mut Outcome) -> Result<()> {
    let built = [build(gpu, rng, layer, layer.summands[0])?, build(gpu, rng, layer, layer.summands[1])?];
    let sums = on_device(layer, &built);
    let len = layer.positions() * layer.time_steps * layer.stride();
    let stored = [Output::unwritten(gpu, len)?, Output::unwritten(gpu, len)?];
    let counted = [Output::of(gpu, &vec![0u64; 8 * layer.channels])?, Output::of(gpu, &vec![0u64; 8 * layer.channels])?];
    spike_conv::sums(gpu, &sums, [stored[0].slice(), stored[1].slice()], counted[0].slice())?;
    spike_conv::statistics(gpu, &sums, counted[1].slice())?;
    for k in 0..2 {
        if matches!(layer.summands[k], Kind::Conv(_)) {
            stored[k].expect(&format!("sums {k} [B][P][T][stride]"), outcome, &built[k].sums)?;
        }
    }
    let expected = exact_sums(&built[0].sums, &built[1].sums, layer.stride(), layer.channels);
    for (counted, name) in counted.iter().zip(["statistics [5][C]", "statistics alone [5][C]"]) {
        let got = counted.values(name, outcome)?;
        outcome.bits(name, &decoded(&got, layer.channels), &expected);
    }
    Ok(())
}

/// The five sums of each channel, `[5][C]`: acc₀, acc₁, acc₀², acc₀·acc₁, acc₁².
pub fn exact_sums(first: &[i32], second: &[i32], stride: usize, channels: usize) -> Vec<i128> {
    let mut sums = vec![0; 5 * channels];
    for at in (0..first.len()).step_by(stride) {
        for c in 0..channels {
            let (x, y) = (i128::from(first[at + c]), second.get(at + c).map_or(0, |&y| i128::from(y)));
            for (k, v) in [x, y, x * x, x * y, y * y].into_iter().enumerate() {
                sums[k * channels + c] += v;
            }
        }
    }
    sums
}

/// The same from the device's `[8][C]`: products come as low and high halves.
pub fn decoded(statistics: &[u64], channels: usize) -> Vec<i128> {
    let row = |row: usize, c: usize| i128::from(statistics[row * channels + c] as i64);
    let value = |k: usize, c: usize| if k < 2 { row(k, c) } else { (row(2 * k - 1, c) << 32) + row(2 * k - 2, c) };
    (0..5).flat_map(|k| (0..channels).map(move |c| (k, c))).map(|(k, c)| value(k, c)).collect()
}

/// Constants with which some neurons fire often, some seldom.
fn normalizer(rng: &mut ChaCha8Rng, layer: &Layer, built: &[Built; 2]) -> Normalizer {
    let mut row = |range| -> Vec<f64> { floats(rng, layer.channels, range).into_iter().map(f64::from).collect() };
    let factors = built.each_ref().map(|built| row(0.5..2.0).iter().map(|v| v * f64::from(built.unit)).collect::<Vec<f64>>());
    let offset = row(-0.2..0.4);
    let [gamma, beta] = [floats(rng, layer.channels, 0.5..1.5), floats(rng, layer.channels, -0.1..0.3)];
    Normalizer::new([&factors[0], &factors[1]], &offset, &gamma, &beta, &vec![1.0; layer.channels])
}

/// `parts` blocks share each tile.
fn check_neurons(gpu: &Arc<Gpu>, layer: &Layer, parts: usize, rng: &mut ChaCha8Rng, outcome: &mut Outcome) -> Result<()> {
    let built = [build(gpu, rng, layer, layer.summands[0])?, build(gpu, rng, layer, layer.summands[1])?];
    let (sums, norm) = (on_device(layer, &built), normalizer(rng, layer, &built));
    let args = NeuronArgs {
        neuron: layer.neuron,
        threshold: 0.7,
        time_steps: layer.time_steps,
        step_weights: layer.neuron.step_weights(layer.time_steps),
        channels: layer.channels,
        stride: layer.stride(),
    };
    let dropped = if layer.drops { bits(rng, layer.positions(), layer.channels, 0.25) } else { Vec::new() };
    let both = [&built[0].sums[..], &built[1].sums[..]];
    let expected = neurons::on_cpu(Isa::detect(), &args, &norm, both, false, &dropped, layer.positions());
    let [sums_len, counters_len] = sums.parts_room().filter(|_| parts > 1).unwrap_or_default();
    let zeros = (vec![0u64; sums_len], vec![0u64; counters_len]);
    let (met, counted) = (Output::of(gpu, &zeros.0)?, Output::of(gpu, &zeros.1)?);
    let room = PartsRoom { sums: met.slice(), counters: counted.slice() };
    neurons::compare(gpu, outcome, &args, &norm, &dropped, &expected, |from, to| {
        spike_conv::neurons_in_parts(gpu, &sums, from, to, &DeviceReadout::default(), parts, &room)
    })?;
    met.expect("sums of parts, cleared", outcome, &zeros.0)?;
    counted.expect("counters of parts, cleared", outcome, &zeros.1)
}
