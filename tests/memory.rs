//! What a training step takes: nothing it keeps has a time axis, and the whole step fits into a set amount of memory.
#![cfg(target_os = "linux")]

use dsr::network::{Input, Mode, Network, WeightGradient};
use dsr::settings::Config;

/// Most memory this process has had at once, bytes.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() * 1024
}

/// A whole training step on images that are no constant; returns the bytes kept for backward.
fn step(network: &mut Network, config: &Config, batch: usize, time_steps: usize) -> usize {
    network.time_steps = time_steps;
    let len = batch * network.input.iter().product::<usize>();
    let data: Vec<f32> = (0..len).map(|i| (i * 7919 % 1009) as f32 / 252.0 - 2.0).collect();
    let labels: Vec<u32> = (0..batch).map(|b| (b % network.classes) as u32).collect();
    let input = Input { data: &data, batch, frames: 1 };
    let mode = Mode::Train { gradient: WeightGradient::Rate, seed: 0 };
    let mut optimizer = config.optimizer(network);
    let (loss, forward) = network.gradients(&input, &labels, mode).unwrap();
    let rate = network.mean_rate(&forward.rates);
    assert!(loss.is_finite() && rate > 0.02, "a silent network would be no test: loss {loss}, firing rate {rate}");
    let kept = network.kept_bytes();
    optimizer.step(config.lr as f32, &mut network.values, &network.grads);
    network.prepare();
    kept
}

/// One test, so that nothing else runs in this process, whatever runs the tests.
#[test]
fn a_training_step_of_resnet18_is_small() {
    const START: usize = 100_000_000;
    assert!(peak() < START, "{} bytes before the test: something else runs in this process", peak());
    let config = Config { vth: 2.0, ..Config::default() };
    assert_eq!((config.model.as_str(), config.alpha), ("preact-resnet18", 0.5));
    let mut network = config.network([32, 32, 3], 10).unwrap();

    let kept = [5, 20].map(|time_steps| step(&mut network, &config, 2, time_steps) as f64);
    assert!((kept[1] / kept[0] - 1.0).abs() < 0.05, "{kept:?} bytes kept at T = 5 and 20: memory must not grow with T");

    step(&mut network, &config, 32, 20);
    assert!(peak() < 1_000_000_000, "{} bytes at batch 32, T = 20: more than 1.0 GB", peak());
    // Parameters, gradients and momentum alone are 134 MB: less would mean that the measurement is broken.
    assert!(peak() > 134_000_000, "{} bytes", peak());
}
