//! `dsr profile --predict`: layers, exchanges and single images worked by hand, and what the stand-in counts beside what is predicted.

#[path = "support/device.rs"]
mod device;
#[path = "support/seeded.rs"]
mod seeded;

use dsr::bench::Work;
use dsr::device::{Device, Products};
use dsr::network::{Builder, Conv, Init, Input, Mode, Network, Samples, Source, WeightGradient, imagenet_resnet, preact_resnet, vgg};
use dsr::ops::neuron::Neuron;
use dsr::ops::optimizer::{Optimizer, Rule};
use dsr::ops::spike_conv::cost::Code;
use dsr::profile::predict::{GpuName, Training, predict, predict_shared};

const BY_RATE: Training = Training { gradient: WeightGradient::Rate, adam: false };
const UNROLLED: Training = Training { gradient: WeightGradient::Unrolled, adam: false };

/// 32x32 images of 3 channels into 64, and those into 64 by 3x3, no norm.
fn two_layers() -> Network {
    let mut builder = Builder::new([32, 32, 3], 1.0);
    let conv = Conv { cout: 64, kernel: 3, stride: 1, pad: 1, weight: Init::Normal(0.1), bias: None };
    let first = builder.conv("first", Source::Input, [1, 1, 0], conv);
    let first = builder.layer("first", vec![first], None, 0.0).unwrap();
    let second = builder.conv("second", first, [1, 1, 0], conv);
    builder.layer("second", vec![second], None, 0.0).unwrap();
    builder.finish(Neuron::If { alpha: 0.5 }, 20, 0.01, 0).unwrap()
}

/// The two layers of `docs/predict.md`, batch 128, T = 20, on an A100.
#[test]
fn predictions_worked_by_hand() {
    let near = |got: f64, expected: f64, what: &str| assert!((got / expected - 1.0).abs() < 1e-3, "{what}: {got}, by hand {expected}");
    let network = two_layers();
    let prediction = predict(GpuName::A100, &network, [128, 1], None);
    let [first, second] = [&prediction.layers[0].forward, &prediction.layers[1].forward];
    near(first.operations_s, 38.716e-6, "first, operations");
    near(first.bytes_s, 54.966e-6, "first, bytes");
    near(first.seconds, 58.966e-6, "first");
    near(second.operations_s, 0.66314e-3, "second, operations");
    near(second.bytes_s, 25.759e-6, "second, bytes");
    near(second.seconds, 0.66514e-3, "second");
    assert_eq!((first.bound(), second.bound(), first.launches, second.launches), ("bytes", "operations", 2, 1));
    near(prediction.seconds, first.seconds + second.seconds, "step");
    assert!(prediction.note.contains("not measured"));
    // Half the width of the weights is half the products, but the instructions are the bound, whose number is the compiler's.
    let mut narrow = two_layers();
    narrow.weight_bits = 8;
    let narrow = predict(GpuName::A100, &narrow, [128, 1], None).layers[1].forward.operations_s;
    // 203 blocks on the fullest multiprocessor, 9 stages, 6 positions; 0.4788 ms with the code of nvcc 13.0.
    let [Code { stage, step, .. }, _] = Code::of((8, 0), Products::Integer);
    near(narrow, 203.0 * (9.0 * stage + 64.0 * step + 3.0 * (33.0 + 48.0) + 200.0 + 450.0) / (624e12 / 2.0 / 108.0 / 2048.0), "8 bits");
    let train = |gpu| predict(gpu, &network, [128, 1], Some(BY_RATE));
    assert!(train(GpuName::A100).seconds > prediction.seconds && train(GpuName::A100).seconds > train(GpuName::B200).seconds);
    assert!(train(GpuName::H100).layers.iter().all(|layer| layer.backward.seconds > 0.0));
}

/// The case of docs/predict.md.
#[test]
fn exchanges_worked_by_hand() {
    let builder = preact_resnet([32, 32, 3], 10, &[64, 128, 256, 512], &[2, 2, 2, 2], 4, 0.0, 1.0).unwrap();
    let network = builder.finish(Neuron::If { alpha: 0.5 }, 5, 0.01, 1).unwrap();
    let predicted = predict_shared(GpuName::H100, 8, &network, [128, 1], BY_RATE);
    let group = predicted.group.as_ref().unwrap();
    assert_eq!((group.ranks, group.samples, network.len()), (8, 16, 11_176_945));
    assert!(group.note.contains("not measured"));
    let weights = group.exchanges.iter().position(|kind| kind.is_large).unwrap();
    let sent = 7.0 * group.exchanges[weights].bytes_to_each;
    assert!((sent / 78.24e6 - 1.0).abs() < 1e-3, "{sent}");
    let near = |got: f64, expected: f64| assert!((got / expected - 1.0).abs() < 1e-3, "{got}, by hand {expected}");
    assert_eq!(group.exchanges[weights].count, 14);
    near(group.links[0].seconds[weights], 668.1e-6);
    near(group.links[1].seconds[weights], 8882e-6);
    for on in &group.links {
        near(on.step_s[0], predicted.seconds + on.seconds.iter().sum::<f64>());
        assert!(on.hidden_s > 0.0 && on.step_s[1] < on.step_s[0] && on.efficiency[0] < on.efficiency[1] && on.efficiency[1] < 1.0);
    }
    // The slower link costs more; one GPU has no group.
    assert!(group.links[1].step_s[0] > group.links[0].step_s[0]);
    assert!(predict(GpuName::H100, &network, [128, 1], Some(BY_RATE)).group.is_none());
}

/// An estimate by hand from the machine code of every kernel, made apart from this model: both must tell the same story. Those of the H100
/// with batch 128 are for the neurons' loops of today, the others for those before. A single image took 0.31 ms in it, and was expected to
/// take 0.16 with one launch a layer and with K shared by blocks.
#[test]
fn predictions_are_near_an_estimate_of_another_hand() {
    // GPU, weight bits, batch, work, milliseconds
    let cases = [
        (GpuName::A100, 16, 128, Work::Infer, 10.8),
        (GpuName::H100, 16, 128, Work::Infer, 5.6),
        (GpuName::Rtx4090, 16, 128, Work::Infer, 9.9),
        (GpuName::B200, 16, 128, Work::Infer, 6.4),
        (GpuName::A100, 8, 128, Work::Infer, 7.4),
        (GpuName::H100, 8, 128, Work::Infer, 3.8),
        (GpuName::Rtx4090, 8, 128, Work::Infer, 5.8),
        (GpuName::B200, 8, 128, Work::Infer, 4.3),
        (GpuName::H100, 16, 128, Work::Train, 10.7),
        (GpuName::H100, 16, 1, Work::Infer, 0.16),
    ];
    let mut far = Vec::new();
    for (gpu, weight_bits, batch, work, expected) in cases {
        let builder = preact_resnet([32, 32, 3], 10, &[64, 128, 256, 512], &[2; 4], 4, 0.0, 2.0).unwrap();
        let mut network = builder.finish(Neuron::If { alpha: 0.5 }, 20, 0.01, 0).unwrap();
        network.weight_bits = weight_bits;
        let got = 1e3 * predict(gpu, &network, [batch, 1], (work == Work::Train).then_some(BY_RATE)).seconds;
        println!("| {gpu:?} | {weight_bits} | {batch} | {work:?} | {got:.2} | {expected} |");
        if (got / expected - 1.0).abs() > 0.25 {
            far.push((gpu, weight_bits, batch, got, expected));
        }
    }
    assert!(far.is_empty(), "{far:?}");
}

/// PreAct-ResNet-18 for one image with T = 20 on an H100: as many launches as the stand-in counts (`tests/step_costs.rs`), and blocks that
/// share tiles where these are few.
#[test]
fn a_single_image_is_predicted_by_launches_blocks_and_stages() {
    let builder = preact_resnet([32, 32, 3], 10, &[64, 128, 256, 512], &[2; 4], 4, 0.0, 2.0).unwrap();
    let network = builder.finish(Neuron::If { alpha: 0.5 }, 20, 0.01, 0).unwrap();
    let prediction = predict(GpuName::H100, &network, [1, 1], None);
    assert_eq!(prediction.layers.iter().map(|layer| layer.forward.launches).sum::<u32>(), 21);
    println!("| layer | blocks | parts | stages | us |");
    for layer in &prediction.layers {
        println!("| {} | {:?} | {:.2} |", layer.layer, layer.blocks, 1e6 * layer.forward.seconds);
    }
    println!("{} us", 1e6 * prediction.seconds);
    // All launches but the convolution of the input begin early: 20 times 0.96 us.
    let spared = prediction.seconds - prediction.seconds_early.unwrap();
    assert!((spared - 19.2e-6).abs() < 1e-12, "{spared}");
    let others = [(GpuName::A100, None), (GpuName::H100, Some(BY_RATE))];
    assert!(others.iter().all(|&(gpu, training)| predict(gpu, &network, [1, 1], training).seconds_early.is_none()));
    let blocks = |index: usize| prediction.layers[index].blocks.unwrap();
    assert!(prediction.layers[0].blocks.is_none(), "it reads the input");
    assert_eq!((blocks(1).blocks, blocks(1).parts, blocks(1).stages), (171, 1, 9));
    let last_conv = blocks(16);
    assert_eq!((last_conv.blocks, last_conv.stages), (24 * last_conv.parts, 72usize.div_ceil(last_conv.parts)));
    assert!(last_conv.parts > 1);
}

/// One layer more by hand: 3x3, 512 to 512 channels on 8x8, batch 128, T = 2, on an A100: 128 * 64 * 2 rows. Sums, which are stored either
/// way, are 4 bytes for each channel, normalised currents 2, spikes 64 bytes a row; there are 9 * 512 * 512 weights.
#[test]
fn unrolled_gradients_worked_by_hand() {
    let near = |got: f64, expected: f64, what: &str| assert!((got / expected - 1.0).abs() < 1e-3, "{what}: {got}, by hand {expected}");
    let network = preact_resnet([8, 8, 3], 10, &[512], &[1], 4, 0.0, 1.0).unwrap().finish(Neuron::If { alpha: 0.5 }, 2, 0.01, 0).unwrap();
    let of = |training| predict(GpuName::A100, &network, [128, 1], Some(training));
    let [rate, unrolled] = [of(BY_RATE), of(UNROLLED)];
    let index = 1; // the first convolution of spikes, alone in its layer
    assert_eq!(network.layers[index].connections.len(), 1);
    let [rate, unrolled] = [&rate.layers[index], &unrolled.layers[index]];
    let [rows, weights] = [16_384.0, 2_359_296.0];
    // Two operations for each row and weight, over 0.75 * 312e12; bytes over 0.8 * 2039e9.
    near(unrolled.forward.operations_s - rate.forward.operations_s, rows * 2.0 * weights / 234e12, "products");
    let bytes = (rows * (1024.0 + 2048.0) + rows * (1024.0 + 64.0) + 8.0 * weights) / 1631.2e9;
    near(unrolled.forward.bytes_s - rate.forward.bytes_s, bytes, "bytes");
    assert_eq!(unrolled.forward.launches - rate.forward.launches, 3);
    near(unrolled.backward.bytes_s - rate.backward.bytes_s, 12.0 * weights / 1631.2e9, "subtraction");
    assert_eq!(unrolled.backward.launches - rate.backward.launches, 2);
    let inference = |network: &Network| predict(GpuName::A100, network, [128, 1], None).seconds;
    assert!(inference(&network) < of(BY_RATE).seconds);
}

/// What unrolled gradients launch beside those by rate, as the stand-in counts it in every kind of network.
#[test]
fn unrolled_gradients_launch_what_is_predicted() {
    const BATCH: usize = 4;
    let gpu = device::gpu();
    if device::is_real() {
        return;
    }
    let networks = [
        ("PreAct-ResNet", preact_resnet([8, 8, 1], 10, &[8, 16], &[1, 1], 4, 0.0, 1.0).unwrap(), 64, 1),
        ("ImageNet, inner norms", imagenet_resnet([33, 33, 3], 10, 2, &[1, 1, 1, 1], true, 1.0).unwrap(), 33 * 33 * 3, 1),
        ("VGG, frames", vgg([16, 16, 2], 10, &[&[4], &[8], &[8], &[8]], 0.0, 1.0).unwrap(), 16 * 16 * 2, 3),
    ];
    for (name, builder, values, frames) in networks {
        let mut network = builder.finish(Neuron::If { alpha: 0.5 }, 3, 0.01, 11).unwrap();
        network.place(&Device::Cuda(gpu.clone())).unwrap();
        let data = seeded::values(1, BATCH * frames * values, -1.0..1.0);
        let samples = Samples::Real(Input { data: &data, batch: BATCH, frames });
        let mut counted = |gradient| {
            let mut optimizer = Optimizer::new(Rule::Sgd { momentum: 0.9, nesterov: false }, 5e-4, network.len());
            let mut of_step = 0;
            for _ in 0..2 {
                let before = emulator::counts();
                network.begin_step(&mut optimizer, 0.02, &samples, &[0, 1, 2, 3], Mode::Train { gradient, seed: 1 }).unwrap();
                network.finish_step(&mut optimizer).unwrap();
                of_step = (emulator::counts() - before).launches; // of the second one
            }
            of_step
        };
        let more = counted(WeightGradient::Unrolled) - counted(WeightGradient::Rate);
        let launches = |training| {
            let layers = predict(GpuName::A100, &network, [BATCH, frames], Some(training)).layers;
            layers.iter().map(|layer| u64::from(layer.forward.launches + layer.backward.launches)).sum::<u64>()
        };
        assert_eq!(launches(UNROLLED) - launches(BY_RATE), more, "{name}");
    }
}
