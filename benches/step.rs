//! Training steps and inferences of PreAct-ResNet-18 at batch 8; elements are images. `dsr bench throughput` measures any other case.

use std::time::Duration;

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use dsr::bench::{Bench, Case, Work};
use dsr::device::Device;
use dsr::settings::Config;

fn step(criterion: &mut Criterion) {
    for (name, work) in [("train", Work::Train), ("infer", Work::Infer)] {
        let mut group = criterion.benchmark_group(name);
        group.sampling_mode(SamplingMode::Flat);
        for time_steps in [5, 20] {
            let config = Config { vth: 2.0, batch: 8, time_steps, ..Config::default() };
            group.throughput(Throughput::Elements(config.batch as u64));
            let mut bench = Bench::new(&Case { work, config, shape: [32, 32, 3], device: Device::Cpu, trained: None }).unwrap();
            group.bench_function(format!("T = {time_steps}"), |bencher| bencher.iter(|| bench.step().unwrap()));
        }
    }
}

fn short() -> Criterion {
    Criterion::default().sample_size(10).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3))
}

criterion_group!(name = benches; config = short(); targets = step);
criterion_main!(benches);
