//! Products of spikes in bf16 on the device: sums next to the bound under which they are exact, layers beyond it, and networks whose bits
//! do not depend on the products. `spike_conv_cuda.rs` has every shape of a layer with both.

#[path = "support/device.rs"]
mod device;
#[path = "support/packed_weights.rs"]
mod packed_weights;
#[path = "support/seeded.rs"]
mod seeded;
#[path = "support/small_networks.rs"]
mod small_networks;

use std::process::Command;

use assert_cmd::cargo::cargo_bin;
use dsr::device::{Device, Products, Slice};
use dsr::network::{Mode, Network, WeightGradient};
use dsr::ops::neuron::LANES;
use dsr::ops::optimizer::{Optimizer, Rule};
use dsr::ops::spike_conv::{Geometry, LayerSums, Source, Summand, WeightTable, quantize_weights, sums};
use packed_weights::on_device;
use small_networks::Small;

/// Counts of a 2x2 pool, nearly all of them 4, and weights that have 127 or -128 in their lower byte: what the bytes add up to is just
/// below 2^24, or, with more channels, an odd number above it, which is no f32.
#[test]
fn sums_next_to_the_bound_and_beyond_it_are_exact() {
    let gpu = device::gpu().multiplying(Products::Bf16).unwrap();
    // 256 * 63 + 127, and 256 * -63 - 128 where that is not too much in all.
    let cases = [(32_767, [16_255, -16_256], Products::Bf16), (33_027, [16_255, -16_255], Products::Integer)];
    for (cin, weights, products) in cases {
        let geometry = Geometry { cin, cout: 2, source: [2, 2], pool: [2, 2, 0], kernel: [1, 1], stride: 1, pad: 0 };
        let master: Vec<f32> = (0..2 * cin).map(|at| weights[at % 2] as f32 / 16_384.0).collect();
        let there = on_device(&gpu, &master, geometry, 1, 16);
        quantize_weights(&gpu, &WeightTable::new(&gpu, &[there.source]).unwrap()).unwrap();
        // One spike less than there could be, at another place in each step.
        let (time_steps, stride) = (3, cin.next_multiple_of(32));
        let count = |at: usize| if at % stride >= cin { 0 } else { 4 - u8::from(at % stride == 1000 * (at / stride)) };
        let counts: Vec<u8> = (0..time_steps * stride).map(count).collect();
        let source = gpu.memory_of(&counts).unwrap();
        let summand = Summand::Conv { source: Source::Counts(source.slice()), weights: there.weights, geometry };
        let layer = LayerSums { summands: [summand, Summand::None], batch: 1, positions: 1, time_steps, channels: 2 };
        assert_eq!(layer.products(gpu.products()), products, "{cin} channels");
        let lower_bytes = 127 * (4 * cin as i64 - 1);
        assert_eq!(lower_bytes < 1 << 24, products == Products::Bf16, "{cin} channels: {lower_bytes}");
        let stored = gpu.zeroed::<i32>(time_steps * LANES).unwrap();
        sums(&gpu, &layer, [stored.slice(), Slice::NONE], Slice::NONE).unwrap();
        for (t, step) in stored.to_vec().unwrap().chunks_exact(LANES).enumerate() {
            let expected = weights.map(|weight| weight * (4 * cin as i32 - 1));
            assert_eq!(step[..2], expected, "{cin} channels, step {t}");
        }
    }
}

/// 65536 inputs that all fire, the most that a neuron has: no layer without a pool is beyond the bound.
#[test]
fn the_widest_neurons_are_exact() {
    let gpu = device::gpu().multiplying(Products::Bf16).unwrap();
    let geometry = Geometry { cin: 1 << 14, cout: 3, source: [2, 2], pool: [1, 1, 0], kernel: [2, 2], stride: 1, pad: 0 };
    let weights = [16_383, -16_383, -16_256];
    let master: Vec<f32> = (0..3 << 16).map(|at| weights[at % 3] as f32 / 16_384.0).collect();
    let there = on_device(&gpu, &master, geometry, 1, 16);
    quantize_weights(&gpu, &WeightTable::new(&gpu, &[there.source]).unwrap()).unwrap();
    let spikes = gpu.memory_of(&vec![u32::MAX; 4 * 512]).unwrap();
    let summand = Summand::Conv { source: Source::Bits(spikes.slice()), weights: there.weights, geometry };
    let layer = LayerSums { summands: [summand, Summand::None], batch: 1, positions: 1, time_steps: 1, channels: 3 };
    assert_eq!(layer.products(gpu.products()), Products::Bf16);
    let stored = gpu.zeroed::<i32>(LANES).unwrap();
    sums(&gpu, &layer, [stored.slice(), Slice::NONE], Slice::NONE).unwrap();
    assert_eq!(stored.to_vec().unwrap()[..3], weights.map(|weight| weight << 16));
}

/// Counts of 0 to 225, each with weights of many bytes: operands of all magnitudes, whose largest are no signed bytes.
#[test]
fn counts_and_weights_of_every_magnitude_are_exact() {
    let gpu = device::gpu().multiplying(Products::Bf16).unwrap();
    let (cin, cout) = (226, 65);
    let geometry = Geometry { cin, cout, source: [15, 15], pool: [15, 15, 0], kernel: [1, 1], stride: 1, pad: 0 };
    for (bits, largest) in [(8, 127), (16, 16_383)] {
        // One of the largest magnitude, so that all are kept as they are.
        let weight =
            |c: usize, o: usize| if c == o { -largest } else { ((c * 7919 + o * 104_729) as i32 * 31) % (largest + 1) - largest / 2 };
        let master: Vec<f32> = (0..cin * cout).map(|at| weight(at / cout, at % cout) as f32 / (largest + 1) as f32).collect();
        let there = on_device(&gpu, &master, geometry, 1, bits);
        quantize_weights(&gpu, &WeightTable::new(&gpu, &[there.source]).unwrap()).unwrap();
        let counts: Vec<u8> =
            (0..2 * 256).map(|at| if at % 256 < cin { ((at % 256) * (1 + 2 * (at / 256)) % 226) as u8 } else { 0 }).collect();
        let source = gpu.memory_of(&counts).unwrap();
        let summand = Summand::Conv { source: Source::Counts(source.slice()), weights: there.weights, geometry };
        let layer = LayerSums { summands: [summand, Summand::None], batch: 2, positions: 1, time_steps: 1, channels: cout };
        assert_eq!(layer.products(gpu.products()), Products::Bf16);
        let stored = gpu.zeroed::<i32>(2 * layer.stride()).unwrap();
        sums(&gpu, &layer, [stored.slice(), Slice::NONE], Slice::NONE).unwrap();
        for (got, counts) in stored.to_vec().unwrap().chunks_exact(layer.stride()).zip(counts.chunks_exact(256)) {
            let expected: Vec<i32> = (0..cout).map(|o| (0..cin).map(|c| weight(c, o) * i32::from(counts[c])).sum()).collect();
            assert_eq!(got[..cout], expected, "{bits} bits");
        }
    }
}

/// Losses and parameters after two steps, in bits.
fn two_steps(small: &Small, network: &Network, products: Products) -> (Vec<u64>, Vec<u32>) {
    let (mut network, batch) = (network.clone(), small.data());
    network.place(&Device::Cuda(device::gpu().multiplying(products).unwrap())).unwrap();
    let mut optimizer = Optimizer::new(Rule::Sgd { momentum: 0.9, nesterov: true }, 5e-4, network.len());
    let labels: Vec<u32> = (0..batch.size).map(|b| (b % network.classes) as u32).collect();
    let mut step = |seed| {
        let mode = Mode::Train { gradient: WeightGradient::Rate, seed };
        network.train_step(&mut optimizer, 0.01, &batch.input(), &labels, mode).unwrap().loss.to_bits()
    };
    let losses = vec![step(0), step(1)];
    network.synchronize(&mut optimizer).unwrap();
    (losses, network.values.iter().map(|value| value.to_bits()).collect())
}

#[test]
fn two_steps_of_training_have_the_same_bits_with_either_products() {
    // IF and LIF, 16 and 8 bits; residual blocks, counts of pools, norms of one connection.
    let names = ["preact", "preact in 8 bits", "vgg", "vgg in 8 bits", "imagenet, bottleneck blocks"];
    let chosen: Vec<Small> = small_networks::all().into_iter().filter(|small| names.contains(&small.name)).collect();
    assert_eq!(chosen.len(), names.len());
    for small in chosen {
        let network = small.network();
        let [(losses, parameters), in_bf16] = [Products::Integer, Products::Bf16].map(|products| two_steps(&small, &network, products));
        assert_eq!(losses, in_bf16.0, "{}: losses", small.name);
        assert!(parameters == in_bf16.1, "{}: parameters", small.name);
    }
}

/// Exit code, stdout and stderr of `dsr` on the driver stand-in.
fn dsr(folder: &std::path::Path, variables: &[(&str, &str)], line: &str) -> (i32, String, String) {
    let mut command = Command::new(cargo_bin("dsr"));
    command.current_dir(folder).args(line.split(' ')).env_remove("DSR_PRODUCTS");
    command.env("LD_LIBRARY_PATH", emulator::directory()).envs(variables.iter().copied());
    let output = command.output().unwrap();
    let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    (output.status.code().unwrap(), stdout, stderr)
}

/// The kernels of spike convolutions with neurons that a run on the stand-in has launched.
fn launched(stderr: &str) -> Vec<&str> {
    let names = stderr.lines().filter_map(|line| line.split_once("first launch of ")?.1.split([' ', ',', ':']).next());
    names.filter(|name| name.starts_with("spike_conv")).collect()
}

#[test]
fn the_device_decides_unless_it_is_told() {
    let folder = tempfile::tempdir().unwrap();
    for (capability, forced, products) in [
        ("8.0", "", "integer"),
        ("10.0", "", "integer"),
        ("10.3", "", "bf16"),
        ("12.0", "", "integer"),
        ("8.0", "bf16", "bf16"),
        ("10.3", "integer", "integer"),
    ] {
        let variables = [("DSR_STANDIN_CAPABILITY", capability), ("DSR_PRODUCTS", forced)];
        let (code, stdout, stderr) = dsr(folder.path(), &variables, "info --device cuda -o json");
        assert_eq!(code, 0, "{stderr}");
        let json: serde_json::Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!(json["cuda"]["products"], products, "{capability} {forced}");
    }
    let (code, _, stderr) = dsr(folder.path(), &[("DSR_PRODUCTS", "fp8")], "info --device cuda");
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("error: DSR_PRODUCTS") && stderr.contains("\"fp8\" is neither integer nor bf16"), "{stderr}");
}

/// A training run ends in the same bytes on a device that multiplies in bf16, by other kernels.
#[test]
fn a_run_ends_in_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let mut ends = Vec::new();
    for (capability, forced, bf16) in [("8.0", "", false), ("10.3", "", true), ("10.3", "integer", false)] {
        let variables = [("DSR_STANDIN_CAPABILITY", capability), ("DSR_PRODUCTS", forced), ("DSR_STANDIN_LAUNCHES", "1")];
        let run = format!("run-{}", ends.len());
        let line = format!("train -d digits-8x8 --widths 4 --blocks 1 -T 2 -b 256 --epochs 1 --device cuda --quiet --out {run}");
        let (code, _, stderr) = dsr(folder.path(), &variables, &line);
        assert_eq!(code, 0, "{stderr}");
        let launched = launched(&stderr);
        assert!(launched.len() >= 2 && launched.iter().all(|name| name.ends_with("_bf16") == bf16), "{capability} {forced}: {launched:?}");
        ends.push(std::fs::read(folder.path().join(run).join("last.safetensors")).unwrap());
    }
    assert!(ends[1] == ends[0] && ends[2] == ends[0], "other bytes");
}

/// What was measured names the products that are not of integers.
#[test]
fn reports_name_the_products() {
    let folder = tempfile::tempdir().unwrap();
    let line = "bench throughput --image 8x8x1 --widths 4 --blocks 1 -T 1 -b 2 --warmup 0 --repeats 1 --mode infer --device cuda -o json";
    for (forced, named) in [("bf16", true), ("integer", false)] {
        let (code, stdout, stderr) = dsr(folder.path(), &[("DSR_PRODUCTS", forced)], line);
        assert_eq!(code, 0, "{stderr}");
        assert_eq!(stdout.contains(", bf16 products"), named, "{stdout}");
    }
}
