//! Evaluations of few samples, whose deep layers have tiles that several blocks share: the bits of the CPU, by launches and by graphs.

#[path = "support/device.rs"]
mod device;
#[path = "support/seeded.rs"]
mod seeded;

use dsr::device::{Device, Products};
use dsr::network::{Input, Mode, preact_resnet};
use dsr::ops::neuron::Neuron;
use dsr::ops::spike_conv::cost::{LayerWork, Machine};
use dsr::ops::spike_conv::parts;

const FRAME: usize = 64;

/// Two layers of 256 channels on 4x4 positions: one with a shortcut of 8 channels, which is a second convolution.
#[test]
fn evaluations_in_parts_have_the_bits_of_the_cpu() {
    let shared = device::gpu();
    for (neuron, products) in
        [(Neuron::If { alpha: 0.5 }, Products::Integer), (Neuron::Lif { alpha: 0.3, tau: 1.0, delta_t: 0.05 }, Products::Bf16)]
    {
        let gpu = shared.multiplying(products).unwrap();
        let machine = Machine::of(&gpu).unwrap();
        let deep =
            |batch: usize| LayerWork { positions: batch * 16, time_steps: 5, channels: 256, k_steps: 72, convolutions: 1, weight_bits: 16 };
        println!("parts by batch: {:?}", [1, 2, 3, 40].map(|batch| parts::choose(&deep(batch), &machine)));
        if !device::is_real() {
            assert!(parts::choose(&deep(1), &machine) > 1, "nothing is shared here");
        }
        let mut cpu = preact_resnet([8, 8, 1], 10, &[8, 256], &[1, 1], 4, 0.0, 0.25).unwrap().finish(neuron, 5, 0.01, 11).unwrap();
        let mut network = cpu.clone();
        network.place(&Device::Cuda(gpu)).unwrap();
        // Larger and smaller batches in the same memory; each twice, and other images every time.
        for (n, batch) in [1, 3, 1, 2, 3, 1].into_iter().enumerate() {
            let images = seeded::values(n as u64, batch * FRAME, -1.0..2.0);
            let input = Input { data: &images, batch, frames: 1 };
            let expected = cpu.forward(&input, Mode::Eval, |_| true).unwrap();
            let got = network.forward(&input, Mode::Eval, |_| true).unwrap();
            assert!(got.spikes == expected.spikes, "{}, pass {n}", neuron.name());
            assert_eq!((&got.logits, &got.rates), (&expected.logits, &expected.rates), "{}, pass {n}", neuron.name());
            for replays in [true, false] {
                assert_eq!(network.logits_on_device(&input, replays).unwrap(), expected.logits, "{}, pass {n}", neuron.name());
            }
            assert!(expected.rates[..5].iter().all(|&rate| rate > 0.0), "a silent layer shows little: {:?}", expected.rates);
        }
        assert_eq!(network.stray_bytes().unwrap(), 0);
    }
}
