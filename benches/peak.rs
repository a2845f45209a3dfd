//! What this machine can do at most, measured: see `src/bench/peaks.rs`, which `dsr info --peaks` and `dsr bench kernels` use, too.
//!
//! All run on all threads. An element of `f32 gemm` is one multiply-accumulate, two floating-point operations.

use std::time::Duration;

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use dsr::bench::peaks::{Adding, Copying, Product};
use dsr::device::Isa;

fn peaks(criterion: &mut Criterion) {
    let (mut product, mut copying, isa) = (Product::default(), Copying::default(), Isa::detect());
    let (wide, narrow) = (Adding::new(1i32), Adding::new(1i16));
    let mut group = criterion.benchmark_group("peak");
    group.sampling_mode(SamplingMode::Flat);
    group.throughput(Throughput::Elements(Product::OPERATIONS / 2));
    group.bench_function("f32 gemm", |bencher| bencher.iter(|| product.run()[0]));
    group.throughput(Throughput::Bytes(copying.bytes()));
    group.bench_function("copy", |bencher| bencher.iter(|| copying.run()[0]));
    group.throughput(Throughput::Elements(wide.operations()));
    group.bench_function("i32 adds", |bencher| bencher.iter(|| wide.run(isa)));
    group.throughput(Throughput::Elements(narrow.operations()));
    group.bench_function("i16 adds", |bencher| bencher.iter(|| narrow.run(isa)));
}

fn short() -> Criterion {
    Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2))
}

criterion_group!(name = benches; config = short(); targets = peaks);
criterion_main!(benches);
