//! Convolution of spikes at 8 % density, all time steps, on all threads.
//!
//! Elements are multiply-accumulates of a dense evaluation: `Gelem/s` beside `f32 gemm` of `cargo bench --bench peak` says how much
//! the events save.

#[path = "support/layers.rs"]
mod layers;
#[path = "support/measure.rs"]
mod measure;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dsr::device::Isa;
use dsr::device::lines::grown;
use dsr::ops::neuron::LANES;
use dsr::ops::spike_conv::{Events, QuantizedWeights, conv_at, positions_together, rows_together};
use dsr::spikes::Spikes;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

const TIME_STEPS: usize = 20;
const DENSITY: f64 = 0.08;
const BATCH: usize = 4;

fn random_spikes(positions: usize, channels: usize) -> Spikes {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut spikes = Spikes::reuse(Vec::new(), TIME_STEPS, BATCH, positions, channels);
    let words = spikes.words();
    for (index, word) in spikes.bits_mut().iter_mut().enumerate() {
        let channels = (channels - index % words * 32).min(32);
        *word = (0..channels).map(|bit| u32::from(rng.random_bool(DENSITY)) << bit).sum();
    }
    spikes
}

fn spike_conv(criterion: &mut Criterion) {
    let isa = Isa::detect();
    for bits in [16, 8] {
        let mut group = criterion.benchmark_group(format!("spike_conv, {bits} bits"));
        for (name, geometry) in layers::convolutions() {
            let [height, width] = geometry.out();
            let spikes = random_spikes(geometry.source.iter().product(), geometry.cin);
            let mut weights = QuantizedWeights::default();
            let master = measure::values(2, geometry.taps() * geometry.cin * geometry.cout, 0.05);
            weights.quantize(isa, &master, geometry.cout, bits, geometry.area());
            let stride = geometry.cout.next_multiple_of(LANES);
            group.throughput(Throughput::Elements(geometry.dense_macs() * (BATCH * TIME_STEPS) as u64));
            group.bench_function(name, |bencher| {
                bencher.iter(|| {
                    let (rows, strip) = (rows_together([height, width]), positions_together(TIME_STEPS));
                    let worker = || (Events::default(), Vec::new());
                    (0..BATCH * height / rows).into_par_iter().for_each_init(worker, |(events, buffer), task| {
                        let (b, first) = (task * rows / height, task * rows % height);
                        events.list(isa, &spikes, b, &geometry, first..first + rows);
                        for at in (0..rows * width).step_by(strip) {
                            let acc = grown(buffer, strip.min(rows * width - at) * TIME_STEPS * stride);
                            conv_at(isa, events, &weights, &geometry, [first + at / width, at % width], stride, acc);
                            black_box(&acc);
                        }
                    });
                });
            });
        }
    }
}

criterion_group!(name = benches; config = measure::short(); targets = spike_conv);
criterion_main!(benches);
