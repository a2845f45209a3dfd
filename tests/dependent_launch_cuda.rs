//! Kernels of an inference that may begin before the one before them has ended (`DSR_DEPENDENT_LAUNCH`): the same bits, every boundary of
//! the chain, and who gets it. The driver stand-in looks at what such a kernel does before its wait; no GPU has run it.

#[path = "support/device.rs"]
mod device;
#[path = "support/seeded.rs"]
mod seeded;
#[path = "support/small_networks.rs"]
mod small_networks;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use assert_cmd::cargo::cargo_bin;
use dsr::device::{Device, Gpu};
use dsr::network::{Input, Mode, preact_resnet};
use dsr::ops::neuron::Neuron;

/// A process in which the tests of this name are on a device that has it.
const ON_HOPPER: &str = "DSR_TEST_ON_HOPPER";

/// The device with such launches, in a child of a test and on a real device that has them; none elsewhere.
fn gpu() -> Option<Arc<Gpu>> {
    if std::env::var_os(ON_HOPPER).is_none() && !device::is_real() {
        return None;
    }
    let gpu = device::gpu();
    gpu.can_launch_early().then(|| gpu.launching_early(true).unwrap())
}

/// Runs a test of this file on a pretended Hopper, under each order of threads.
fn on_hopper(test: &str) {
    // What nvcc makes for older targets waits for nothing, and is refused.
    if device::is_real() || std::env::var("DSR_STANDIN_ENGINE").is_ok_and(|engine| engine == "ptx") && !is_for_hopper() {
        return;
    }
    for (order, seed) in [("fifo", "1"), ("lifo", "1"), ("random", "1")] {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", test, "--nocapture"]).env(ON_HOPPER, "1").env("DSR_STANDIN_CAPABILITY", "9.0");
        let output = child.env("DSR_STANDIN_ORDER", order).env("DSR_STANDIN_SEED", seed).output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success() && said.contains("1 passed"), "{order}: {said}");
    }
}

fn is_for_hopper() -> bool {
    std::env::var("DSR_STANDIN_PTX_ARCH").is_ok_and(|arch| arch.trim_end_matches('a').parse().is_ok_and(|number: u32| number >= 90))
}

#[test]
fn networks_have_the_bits_of_the_cpu() {
    let Some(gpu) = gpu() else { return on_hopper("networks_have_the_bits_of_the_cpu") };
    for small in small_networks::all() {
        let (mut network, batch) = (small.network(), small.data());
        let mut on_device = network.clone();
        on_device.place(&Device::Cuda(gpu.clone())).unwrap();
        let [got, expected] = [&mut on_device, &mut network].map(|network| network.forward(&batch.input(), Mode::Eval, |_| true).unwrap());
        assert!(got.logits == expected.logits && got.rates == expected.rates, "{}", small.name);
        for (layer, (got, expected)) in network.layers.iter().zip(got.spikes.iter().zip(&expected.spikes)) {
            assert!(got.as_ref().map(|s| s.bits()) == expected.as_ref().map(|s| s.bits()), "{}: spikes of {}", small.name, layer.name);
        }
        for replays in [true, false, true] {
            assert_eq!(on_device.logits_on_device(&batch.input(), replays).unwrap(), expected.logits, "{}: {replays}", small.name);
        }
    }
}

/// Of the 21 launches of a PreAct-ResNet-18 all but the first may begin early, and each kernel lets the next one.
#[test]
fn every_boundary_of_an_inference_is_early() {
    let Some(gpu) = gpu() else { return on_hopper("every_boundary_of_an_inference_is_early") };
    let builder = preact_resnet([32, 32, 3], 10, &[8; 4], &[2; 4], 4, 0.0, 1.0).unwrap();
    let mut network = builder.finish(Neuron::If { alpha: 0.5 }, 2, 0.01, 11).unwrap();
    let mut in_turn = network.clone();
    network.place(&Device::Cuda(gpu.clone())).unwrap();
    in_turn.place(&Device::Cuda(gpu.launching_early(false).unwrap())).unwrap();
    let image = seeded::values(1, 32 * 32 * 3, -1.0..1.0);
    let input = Input { data: &image, batch: 1, frames: 1 };
    let expected = in_turn.logits_on_device(&input, true).unwrap();
    for replays in [true, false, true] {
        let before = (!device::is_real()).then(emulator::counts);
        assert_eq!(network.logits_on_device(&input, replays).unwrap(), expected);
        let Some(before) = before else { continue };
        let counts = emulator::counts() - before;
        assert_eq!((counts.dependent, counts.early), (20, 20), "{counts:?}");
    }
    if !device::is_real() {
        let before = emulator::counts();
        in_turn.logits_on_device(&input, true).unwrap();
        assert_eq!((emulator::counts() - before).dependent, 0);
    }
}

/// Exit code, stdout and stderr of `dsr` on a pretended device.
fn dsr(folder: &Path, variables: &[(&str, &str)], line: &str) -> (i32, String, String) {
    let mut command = Command::new(cargo_bin("dsr"));
    command.current_dir(folder).args(line.split(' ')).env_remove("DSR_DEPENDENT_LAUNCH");
    let output = command.env("LD_LIBRARY_PATH", emulator::directory()).envs(variables.iter().copied()).output().unwrap();
    let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    (output.status.code().unwrap(), stdout, stderr)
}

const ASKED: (&str, &str) = ("DSR_DEPENDENT_LAUNCH", "1");

#[test]
fn only_who_asks_has_it_and_only_where_it_is_to_be_had() {
    let folder = tempfile::tempdir().unwrap();
    let is_compiled = std::env::var("DSR_STANDIN_ENGINE").is_ok_and(|engine| engine == "ptx");
    if device::is_real() || is_compiled {
        return;
    }
    let asked = |capability, asked| {
        let variables = [("DSR_STANDIN_CAPABILITY", capability), ("DSR_DEPENDENT_LAUNCH", asked)];
        let (code, stdout, stderr) = dsr(folder.path(), &variables, "info --device cuda -o json");
        assert_eq!(code, 0, "{stderr}");
        let json: serde_json::Value = serde_json::from_str(&stdout).unwrap();
        json["cuda"]["launches_early"].as_bool().unwrap()
    };
    let found = [("9.0", ""), ("9.0", "0"), ("9.0", "1"), ("12.0", "1"), ("8.0", "")].map(|(capability, value)| asked(capability, value));
    assert_eq!(found, [false, false, true, true, false]);
    for (variables, problem) in [
        (&[ASKED][..], "1 needs a device of compute capability 9.0 or newer; the device has 8.0"),
        (&[ASKED, ("DSR_STANDIN_CAPABILITY", "8.9")], "the device has 8.9"),
        (&[ASKED, ("DSR_STANDIN_CAPABILITY", "9.0"), ("DSR_KERNELS", "ptx")], "1 needs machine code"),
        (&[("DSR_DEPENDENT_LAUNCH", "yes")], "\"yes\" is neither 0 nor 1"),
    ] {
        let (code, _, stderr) = dsr(folder.path(), variables, "info --device cuda");
        assert!(code == 2 && stderr.contains("error: DSR_DEPENDENT_LAUNCH") && stderr.contains(problem), "{code}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
}

#[test]
fn a_run_and_its_evaluation_have_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let is_compiled = std::env::var("DSR_STANDIN_ENGINE").is_ok_and(|engine| engine == "ptx");
    if device::is_real() || is_compiled {
        return;
    }
    let mut ends = Vec::new();
    for asked in ["0", "1"] {
        let variables = [("DSR_STANDIN_CAPABILITY", "9.0"), ("DSR_DEPENDENT_LAUNCH", asked), ("DSR_STANDIN_LAUNCHES", "1")];
        let run = |line: &str| {
            let (code, _, stderr) = dsr(folder.path(), &variables, line);
            assert_eq!(code, 0, "{line}: {stderr}");
            stderr
        };
        run(&format!("train -d digits-8x8 --widths 4 --blocks 1 -T 2 -b 256 --epochs 1 --device cuda --quiet --out run-{asked}"));
        let launches = run(&format!("eval --checkpoint run-{asked}/last.safetensors --device cuda --predictions {asked}.csv -o csv"));
        assert_eq!(launches.contains("first launch of spike_conv_neurons_16, early"), asked == "1", "{launches}");
        let read = |name: String| std::fs::read(folder.path().join(name)).unwrap();
        ends.push([read(format!("run-{asked}/last.safetensors")), read(format!("{asked}.csv"))]);
    }
    assert!(ends[0] == ends[1], "other bytes");
}
