//! Neurons of a layer through all time steps, from sums of one or two connections, and their backward, on all threads.
//!
//! Bytes are those that must be read and written once: `GiB/s` compares with `copy` of `cargo bench --bench peak`.

#[path = "support/measure.rs"]
mod measure;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dsr::device::Isa;
use dsr::ops::batch_norm::Normalizer;
use dsr::ops::neuron::{Currents, LANES, Neuron, NeuronArgs, NeuronOut, clamp_mapping_backward, neuron_at};
use rayon::prelude::*;

const TIME_STEPS: usize = 20;
const BATCH: usize = 8;
/// Height, width, channels of the layers of PreAct-ResNet-18 on CIFAR images.
const SHAPES: [[usize; 3]; 4] = [[32, 32, 64], [16, 16, 128], [8, 8, 256], [4, 4, 512]];
const IF: Neuron = Neuron::If { alpha: 0.5 };
const LIF: Neuron = Neuron::Lif { alpha: 0.3, tau: 1.0, delta_t: 0.05 };

/// Currents of mean 0 and standard deviation 1 from sums around ±1000.
fn normalizer(channels: usize) -> Normalizer {
    let (factor, zero, one) = (vec![0.7e-3; channels], vec![0.0; channels], vec![1.0; channels]);
    Normalizer::new([&factor, &factor], &zero, &one.iter().map(|&v| v as f32).collect::<Vec<_>>(), &vec![0.0; channels], &one)
}

fn forward(criterion: &mut Criterion) {
    let isa = Isa::detect();
    for (model, neuron, threshold) in [("if", IF, 2.0), ("lif", LIF, 0.1)] {
        for connections in [1, 2] {
            let mut group = criterion.benchmark_group(format!("neuron {model}, {connections} connections"));
            for [height, width, channels] in SHAPES {
                let (stride, words, positions) = (channels.next_multiple_of(LANES), channels.div_ceil(32), BATCH * height * width);
                let step_weights = neuron.step_weights(TIME_STEPS);
                let args = NeuronArgs { neuron, threshold, time_steps: TIME_STEPS, step_weights, channels, stride };
                let norm = normalizer(channels);
                let sums = |seed| measure::values(seed, positions * TIME_STEPS * stride, 1000.0).iter().map(|&v| v as i32).collect();
                let (first, second): (Vec<i32>, Vec<i32>) = (sums(1), sums(2));
                let (mut spikes, mut counts) = (vec![0; positions * TIME_STEPS * words], vec![0; positions * channels]);
                let (mut mean, mut weighted) = (vec![0.0; positions * channels], vec![0.0; positions * channels]);
                let means = if model == "lif" { 2 } else { 1 };
                let bytes = positions * (TIME_STEPS * (4 * stride * connections + 4 * words) + channels * (1 + 4 * means));
                group.throughput(Throughput::Bytes(bytes as u64));
                group.bench_function(format!("{channels}x{height}x{width}"), |bencher| {
                    bencher.iter(|| {
                        let means = mean.par_chunks_mut(channels).zip(weighted.par_chunks_mut(channels));
                        let outputs = spikes.par_chunks_mut(TIME_STEPS * words).zip(counts.par_chunks_mut(channels)).zip(means);
                        outputs.enumerate().with_min_len(width).for_each(|(at, ((spikes, counts), (mean_normed, weighted)))| {
                            let weighted_normed: &mut [f32] = if model == "lif" { weighted } else { &mut [] };
                            let mut out = NeuronOut { spikes, counts, mean_normed, weighted_normed };
                            let range = at * TIME_STEPS * stride..(at + 1) * TIME_STEPS * stride;
                            let other: &[i32] = if connections == 2 { &second[range.clone()] } else { &[] };
                            neuron_at(isa, &args, &norm, Currents::Integer(&first[range]), other, &mut out);
                        });
                    });
                });
            }
        }
    }
}

fn backward(criterion: &mut Criterion) {
    let isa = Isa::detect();
    let mut group = criterion.benchmark_group("neuron backward");
    for [height, width, channels] in SHAPES {
        let neurons = height * width * channels;
        let norm = normalizer(channels);
        let map = IF.clamp_mapping(2.0);
        let mean = measure::values(1, BATCH * neurons, 1.0);
        let mut grad = measure::values(2, BATCH * neurons, 1.0);
        group.throughput(Throughput::Bytes((BATCH * neurons * 12) as u64)); // the mean, and the gradient twice
        group.bench_function(format!("{channels}x{height}x{width}"), |bencher| {
            bencher.iter(|| {
                grad.par_chunks_mut(neurons).zip(mean.par_chunks(neurons)).for_each(|(grad, mean)| {
                    let [mut above, mut sum, mut product] = [(); 3].map(|()| vec![0.0; channels]);
                    clamp_mapping_backward(isa, map, &norm, mean, mean, grad, &mut above, &mut sum, &mut product);
                    black_box((above, sum, product));
                });
            });
        });
    }
}

criterion_group!(name = benches; config = measure::short(); targets = forward, backward);
criterion_main!(benches);
