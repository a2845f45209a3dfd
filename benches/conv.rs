//! Data and weight gradient of every convolution at batch 32, on all threads.
//!
//! Elements are multiply-accumulates: `Gelem/s` compares with `f32 gemm` of `cargo bench --bench peak`.

#[path = "support/layers.rs"]
mod layers;
#[path = "support/measure.rs"]
mod measure;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dsr::ops::conv::{data_gradient, weight_gradient};

const BATCH: usize = 32;

fn gradients(criterion: &mut Criterion) {
    for kind in ["data gradient", "weight gradient"] {
        let mut group = criterion.benchmark_group(kind);
        for (name, geometry) in layers::convolutions() {
            let grad = measure::values(1, BATCH * geometry.positions() * geometry.cout, 1.0);
            let mut source = measure::values(2, BATCH * geometry.pooled().iter().product::<usize>() * geometry.cin, 1.0);
            let mut weights = measure::values(3, geometry.taps() * geometry.cin * geometry.cout, 0.05);
            group.throughput(Throughput::Elements(geometry.dense_macs() * BATCH as u64));
            group.bench_function(name, |bencher| {
                bencher.iter(|| match kind {
                    "data gradient" => data_gradient(&grad, &weights, &geometry, &mut source),
                    _ => weight_gradient(&source, &grad, &geometry, &mut weights),
                });
            });
        }
    }
}

criterion_group!(name = benches; config = measure::short(); targets = gradients);
criterion_main!(benches);
