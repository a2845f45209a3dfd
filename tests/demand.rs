//! The memory that is said to be needed is below what a run takes, or runs that fit would be refused, and not far below it, or others
//! would be aborted by the system.
#![cfg(target_os = "linux")]

use std::process::Command;

use dsr::Device;
use dsr::bench::{Bench, Case, Work};
use dsr::device::machine::{forget_peak_rss, peak_rss};
use dsr::network::{Input, Mode};
use dsr::settings::{Config, NeuronKind, OptimizerKind, Use};

/// Tells a process of this test which case it is to run.
const CASE: &str = "DSR_DEMAND_CASE";
const USES: [Use; 3] = [Use::Train, Use::Settle, Use::Evaluate];

fn config(model: &str, widths: &[usize], neuron: NeuronKind, time_steps: usize, batch: usize) -> Config {
    let blocks = vec![1; widths.len()];
    Config { model: model.into(), widths: widths.into(), blocks, neuron, time_steps, batch, ..Config::default() }
}

/// Settings, and height, width, channels of the images.
fn cases() -> Vec<(Config, [usize; 3])> {
    vec![
        (config("preact-resnet", &[32, 64], NeuronKind::If, 20, 32), [32, 32, 3]),
        (config("preact-resnet", &[33, 70], NeuronKind::Lif, 7, 50), [28, 28, 1]),
        (config("preact-resnet", &[8], NeuronKind::If, 2, 4096), [28, 28, 1]),
        (Config { optimizer: OptimizerKind::Adam, ..config("preact-resnet20", &[], NeuronKind::If, 1, 64) }, [32, 32, 3]),
        (Config { weight_bits: 8, dropout: 0.1, ..config("vgg11", &[], NeuronKind::Lif, 6, 8) }, [48, 48, 2]),
        (config("imagenet-resnet18", &[], NeuronKind::If, 3, 16), [96, 96, 3]),
        (config("preact-resnet", &[64, 128], NeuronKind::Relu, 1, 64), [32, 32, 3]),
        (config("imagenet-resnet18", &[], NeuronKind::Relu, 1, 16), [96, 96, 3]),
    ]
}

fn run(usage: Use, config: Config, shape: [usize; 3]) {
    let case = |work| Case { work, config: config.clone(), shape, device: Device::Cpu, trained: None };
    match usage {
        Use::Train => {
            let mut bench = Bench::new(&case(Work::Train)).unwrap();
            (0..2).for_each(|_| assert!(bench.step().unwrap() >= 0.0));
        }
        Use::Settle => drop(Bench::new(&case(Work::Infer)).unwrap()),
        Use::Evaluate | Use::Ops => {
            let (frames, classes) = (case(Work::Infer).frames(), case(Work::Infer).classes());
            let mut network = config.network(shape, classes).unwrap();
            let data = vec![1.0; config.batch * frames * shape.iter().product::<usize>()];
            network.forward(&Input { data: &data, batch: config.batch, frames }, Mode::Eval, |_| false).unwrap();
        }
    }
}

/// What a case takes in a process of its own, beyond what it had before, bytes.
fn taken(index: usize) -> u64 {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "what_is_needed_is_a_little_below_what_is_taken", "--nocapture"]).env(CASE, index.to_string());
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text} {}", String::from_utf8_lossy(&output.stderr));
    text.split("bytes taken: ").nth(1).and_then(|rest| rest.lines().next()).unwrap().trim().parse().unwrap()
}

#[test]
fn what_is_needed_is_a_little_below_what_is_taken() {
    if let Ok(index) = std::env::var(CASE) {
        let index: usize = index.parse().unwrap();
        let (config, shape) = cases().swap_remove(index / USES.len());
        forget_peak_rss();
        let before = peak_rss().unwrap();
        run(USES[index % USES.len()], config, shape);
        return println!("bytes taken: {}", peak_rss().unwrap() - before);
    }
    for (index, (config, shape)) in cases().into_iter().enumerate() {
        let case = Case { work: Work::Train, config: config.clone(), shape, device: Device::Cpu, trained: None };
        for (at, usage) in USES.into_iter().enumerate() {
            let needed = config.demand(usage, shape, case.classes(), [config.batch, case.frames()]).unwrap().written;
            let taken = taken(index * USES.len() + at);
            let share = needed as f64 / taken as f64;
            let name = format!("{} {:?} {usage:?}: {needed} bytes needed, {taken} taken, {share:.2}", config.model_name(), config.neuron);
            println!("{name}");
            assert!(needed <= taken, "{name}: a run that fits would be refused");
            assert!(share > 0.5, "{name}: too few");
        }
    }
}
