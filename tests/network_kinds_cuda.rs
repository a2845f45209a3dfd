//! Networks on a device that no built-in family is like: dropout, pools beside other connections.

#[path = "support/device.rs"]
mod device;
#[path = "support/placed.rs"]
mod placed;
#[path = "support/seeded.rs"]
mod seeded;

use dsr::network::{Builder, Conv, Init, Input, Mode, Network, Source, SumsChoice, vgg};
use dsr::ops::cross_entropy::cross_entropy;
use placed::{IF, LIF, bits, labels, mode, placed, small};

/// Gradients of all parameters are near those of the CPU.
fn assert_near(name: &str, cpu: &mut Network, gpu: &mut Network) {
    let length = |v: &[f32]| v.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt();
    for index in 0..cpu.parameters.len() {
        let parameter = cpu.parameters[index].name.clone();
        let (expected, got) = (cpu.grad_mut(index).to_vec(), gpu.grad_mut(index).to_vec());
        let apart: Vec<f32> = expected.iter().zip(&got).map(|(a, b)| a - b).collect();
        assert!(length(&apart) <= 0.02 * length(&expected) + 1e-5, "{name}: {parameter}: {} of {}", length(&apart), length(&expected));
    }
}

/// Forward in both modes has the bits of the CPU, and gradients are near, in spiking networks with dropout.
#[test]
fn dropout_in_spiking_networks() {
    let builder = || {
        let mut net = Builder::new([3, 3, 40], 1.0);
        let frames = net.identity(Source::Input, [1, 1, 0]);
        let first = net.layer("first", vec![frames], None, 0.4).unwrap();
        let conv =
            net.conv("conv", first, [1, 1, 0], Conv { cout: 33, kernel: 3, stride: 1, pad: 1, weight: Init::Uniform(0.2), bias: None });
        let second = net.layer("second", vec![conv], Some("bn"), 0.25).unwrap();
        let last =
            net.conv("last", second, [3, 1, 0], Conv { cout: 10, kernel: 1, stride: 1, pad: 0, weight: Init::Uniform(0.2), bias: None });
        net.layer("out", vec![last], None, 0.0).unwrap();
        net.finish(IF, 5, 0.01, 3).unwrap()
    };
    for (name, mut cpu, frame) in [
        ("preact", small(LIF, 0.3), 64),
        ("vgg", vgg([32, 32, 1], 10, &[&[4], &[5], &[6], &[8], &[33]], 0.5, 1.0).unwrap().finish(IF, 4, 0.01, 5).unwrap(), 1024),
        ("builder", builder(), 360),
    ] {
        cpu.bf16_products = true;
        let data = seeded::values(9, 4 * frame, 0.0..2.0);
        let input = Input { data: &data, batch: 4, frames: 1 };
        let mut gpu = placed(&cpu);
        gpu.choose_sums(SumsChoice::Cheapest);
        for at in [mode(4), Mode::Eval, mode(5)] {
            let (expected, got) = (cpu.forward(&input, at, |_| true).unwrap(), gpu.forward(&input, at, |_| true).unwrap());
            assert_eq!(bits(&got.logits), bits(&expected.logits), "{name}, {at:?}");
            for (layer, (got, expected)) in got.spikes.iter().zip(&expected.spikes).enumerate() {
                assert!(got.as_ref().unwrap().bits() == expected.as_ref().unwrap().bits(), "{name}, {at:?}: spikes of layer {layer}");
            }
        }
        let mut grad = vec![0.0; 40];
        cross_entropy(&gpu.forward(&input, mode(6), |_| false).unwrap().logits, &labels(1, 4), 10, &mut grad);
        cpu.forward(&input, mode(6), |_| false).unwrap();
        for network in [&mut cpu, &mut gpu] {
            network.grads.fill(0.0);
            network.backward(&input, &grad, None).unwrap();
        }
        assert_near(name, &mut cpu, &mut gpu);
    }
}

/// A pooled identity beside a convolution whose sums are stored, and two pooled convolutions of one source.
#[test]
fn pools_beside_other_connections() {
    let conv = |cout, kernel, stride| Conv { cout, kernel, stride, pad: kernel / 2, weight: Init::Uniform(0.3), bias: None };
    for neuron in [IF, LIF] {
        let mut net = Builder::new([6, 6, 33], if neuron == IF { 1.0 } else { 0.3 });
        let frames = net.identity(Source::Input, [1, 1, 0]);
        let first = net.layer("first", vec![frames], Some("bn1"), 0.0).unwrap();
        let (down, pooled) = (net.conv("down", first, [1, 1, 0], conv(33, 3, 2)), net.identity(first, [2, 2, 0]));
        let second = net.layer("second", vec![down, pooled], Some("bn2"), 0.0).unwrap();
        let (a, b) = (net.conv("a", second, [3, 1, 0], conv(10, 1, 1)), net.conv("b", second, [3, 3, 0], conv(10, 1, 1)));
        net.layer("out", vec![a, b], None, 0.0).unwrap();
        let mut cpu = net.finish(neuron, 5, 0.01, 3).unwrap();
        cpu.bf16_products = true;
        let data = seeded::values(9, 4 * 36 * 33, -1.0..2.0);
        let input = Input { data: &data, batch: 4, frames: 1 };
        for sums in [SumsChoice::Store, SumsChoice::Recompute] {
            let (mut cpu, mut gpu) = (cpu.clone(), placed(&cpu));
            gpu.choose_sums(sums);
            let (expected, got) = (cpu.forward(&input, mode(1), |_| true).unwrap(), gpu.forward(&input, mode(1), |_| true).unwrap());
            assert_eq!(bits(&got.logits), bits(&expected.logits), "{neuron:?}, {sums:?}");
            let grad = seeded::values(4, 40, -1.0..1.0);
            for network in [&mut cpu, &mut gpu] {
                network.grads.fill(0.0);
                network.backward(&input, &grad, None).unwrap();
            }
            assert_near(&format!("{neuron:?}, {sums:?}"), &mut cpu, &mut gpu);
        }
    }
}
