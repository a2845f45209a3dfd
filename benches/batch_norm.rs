//! Sums of batch norm: exact statistics of the currents in the forward, and what the backward does per channel, on all threads.
//!
//! Bytes are those that must be read and written once: `GiB/s` compares with `copy` of `cargo bench --bench peak`.

#[path = "support/measure.rs"]
mod measure;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dsr::device::Isa;
use dsr::ops::batch_norm::{IntegerSums, center, gradient_sums, subtract_scaled};
use dsr::ops::neuron::LANES;
use rayon::prelude::*;

const TIME_STEPS: usize = 20;
const BATCH: usize = 8;
/// Height, width, channels of the layers of PreAct-ResNet-18 on CIFAR images.
const SHAPES: [[usize; 3]; 4] = [[32, 32, 64], [16, 16, 128], [8, 8, 256], [4, 4, 512]];
const LARGEST: i64 = 1 << 20;

fn statistics(criterion: &mut Criterion) {
    let isa = Isa::detect();
    for connections in [1, 2] {
        let mut group = criterion.benchmark_group(format!("statistics, {connections} connections"));
        for [height, width, channels] in SHAPES {
            let stride = channels.next_multiple_of(LANES);
            let sample = height * width * TIME_STEPS * stride;
            let sums = |seed| measure::values(seed, BATCH * sample, 1000.0).iter().map(|&v| v as i32).collect();
            let (first, second): (Vec<i32>, Vec<i32>) = (sums(1), sums(2));
            group.throughput(Throughput::Bytes((BATCH * sample * 4 * connections) as u64));
            group.bench_function(format!("{channels}x{height}x{width}"), |bencher| {
                bencher.iter(|| {
                    let zero = || IntegerSums::new(channels, LARGEST);
                    let parts = first.par_chunks(sample / height).zip(second.par_chunks(sample / height)).map(|(first, second)| {
                        let mut part = zero();
                        part.add(isa, first, if connections == 2 { second } else { &[] }, stride);
                        part
                    });
                    parts.reduce(zero, IntegerSums::merge)
                });
            });
        }
    }
}

fn backward(criterion: &mut Criterion) {
    let isa = Isa::detect();
    for (kind, bytes) in [("gradient sums", 8), ("center", 8), ("subtract scaled", 12)] {
        let mut group = criterion.benchmark_group(kind);
        for [height, width, channels] in SHAPES {
            let neurons = height * width * channels;
            let mean = measure::values(1, BATCH * neurons, 1.0);
            let mut grad = measure::values(2, BATCH * neurons, 1.0);
            let (one, small) = (vec![1.0; channels], vec![1e-3; channels]);
            group.throughput(Throughput::Bytes((BATCH * neurons * bytes) as u64));
            group.bench_function(format!("{channels}x{height}x{width}"), |bencher| {
                bencher.iter(|| {
                    grad.par_chunks_mut(neurons).zip(mean.par_chunks(neurons)).for_each(|(grad, mean)| match kind {
                        "gradient sums" => {
                            let (mut sum, mut product) = (vec![0.0; channels], vec![0.0; channels]);
                            gradient_sums(isa, grad, mean, &mut sum, &mut product);
                            black_box((sum, product));
                        }
                        "center" => center(isa, &one, &small, grad),
                        _ => subtract_scaled(isa, &small, mean, grad),
                    });
                });
            });
        }
    }
}

criterion_group!(name = benches; config = measure::short(); targets = statistics, backward);
criterion_main!(benches);
