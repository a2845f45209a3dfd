//! What this machine can do at most, measured: f32 multiply-accumulates in a large matrix product, and bytes in a large copy.
//!
//! Both run on all threads. An element of `f32 gemm` is one multiply-accumulate, two floating-point operations.

use std::time::Duration;

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use gemm::Parallelism;
use rayon::prelude::*;

fn gemm_f32(criterion: &mut Criterion) {
    const N: usize = 1536;
    let (a, b, mut c) = (vec![1.0f32; N * N], vec![0.5f32; N * N], vec![0.0f32; N * N]);
    let mut group = criterion.benchmark_group("peak");
    group.sampling_mode(SamplingMode::Flat);
    group.throughput(Throughput::Elements((N * N * N) as u64));
    group.bench_function("f32 gemm", |bencher| {
        bencher.iter(|| {
            let (n, columns, rows) = (N as isize, 1, N as isize);
            // SAFETY: all three matrices are N x N with these strides, and `c` is borrowed mutably.
            unsafe {
                gemm::gemm(
                    N,
                    N,
                    N,
                    c.as_mut_ptr(),
                    columns,
                    n,
                    false,
                    a.as_ptr(),
                    columns,
                    rows,
                    b.as_ptr(),
                    columns,
                    rows,
                    0.0f32,
                    1.0f32,
                    false,
                    false,
                    false,
                    Parallelism::Rayon(0),
                );
            }
        });
    });
    assert_eq!(c[N + 1], N as f32 / 2.0);
}

fn copy(criterion: &mut Criterion) {
    const LEN: usize = 64 << 20; // 256 MB a buffer: more than any cache
    const PART: usize = 1 << 18;
    let (from, mut to) = (vec![1.0f32; LEN], vec![0.0f32; LEN]);
    let mut group = criterion.benchmark_group("peak");
    group.sampling_mode(SamplingMode::Flat);
    group.throughput(Throughput::Bytes(8 * LEN as u64)); // read and written
    group.bench_function("copy", |bencher| {
        bencher.iter(|| to.par_chunks_mut(PART).zip(from.par_chunks(PART)).for_each(|(to, from)| to.copy_from_slice(from)));
    });
    assert_eq!(to[LEN - 1], 1.0);
}

fn short() -> Criterion {
    Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2))
}

criterion_group!(name = benches; config = short(); targets = gemm_f32, copy);
criterion_main!(benches);
