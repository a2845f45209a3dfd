//! Pools and readout on the device: integers and logits with the bits of the CPU.

#[path = "support/device.rs"]
mod device;
#[path = "support/seeded.rs"]
mod seeded;
#[path = "support/small_networks.rs"]
mod small_networks;

use dsr::device::Isa;
use dsr::network::Mode;
use dsr::ops::conv::pool_rates;
use dsr::ops::neuron::LANES;
use dsr::ops::rate::cuda;
use dsr::ops::spike_conv::{DeviceNormalizer, Geometry, identity_at};
use dsr::spikes::Spikes;
use rand::Rng;

/// Source height and width, channels, pool, batch, T.
type Case = ([usize; 2], usize, [usize; 3], usize, usize);

const CASES: [Case; 8] = [
    ([1, 1], 1, [1, 1, 0], 1, 1),
    ([5, 7], 33, [2, 2, 0], 2, 5),
    ([7, 5], 31, [3, 2, 1], 1, 20),
    ([7, 7], 64, [7, 7, 0], 3, 1),
    ([4, 4], 17, [2, 1, 1], 1, 33),
    ([6, 9], 70, [3, 3, 0], 1, 3),
    ([15, 16], 4, [15, 1, 0], 1, 2),
    ([3, 3], 32, [1, 1, 0], 2, 4),
];

fn geometry(source: [usize; 2], channels: usize, pool: [usize; 3]) -> Geometry {
    Geometry { cin: channels, cout: channels, source, pool, kernel: [1, 1], stride: 1, pad: 0 }
}

fn random_spikes(seed: u64, time_steps: usize, batch: usize, positions: usize, channels: usize) -> Spikes {
    let mut rng = seeded::rng(seed);
    let mut spikes = Spikes::reuse(Vec::new(), time_steps, batch, positions, channels);
    let words = spikes.words();
    for (i, word) in spikes.bits_mut().iter_mut().enumerate() {
        let live = channels - i % words * 32;
        *word = (rng.random::<u32>() | rng.random::<u32>()) & if live < 32 { (1 << live) - 1 } else { u32::MAX };
    }
    spikes
}

#[test]
fn spikes_in_a_window_are_those_of_the_cpu() {
    let gpu = device::gpu();
    for (source, channels, pool, batch, time_steps) in CASES {
        let geometry = geometry(source, channels, pool);
        let spikes = random_spikes(1, time_steps, batch, source[0] * source[1], channels);
        let [height, width] = geometry.pooled();
        let (stride, padded) = (channels.next_multiple_of(LANES), channels.next_multiple_of(32));
        let mut expected = vec![0i32; batch * height * width * time_steps * stride];
        for (at, sums) in expected.chunks_exact_mut(time_steps * stride).enumerate() {
            let (b, p) = (at / (height * width), at % (height * width));
            identity_at(Isa::detect(), &spikes, b, &geometry, [p / width, p % width], stride, sums);
        }
        let bits = gpu.memory_of(spikes.bits()).unwrap();
        let sums = gpu.memory_of(&vec![-1i32; expected.len()]).unwrap();
        cuda::pool_sums(&gpu, sums.slice(), bits.slice(), &geometry, [batch, time_steps]).unwrap();
        assert_eq!(sums.to_vec().unwrap(), expected, "sums, {source:?}, {channels} channels, pool {pool:?}");
        let counts = gpu.memory_of(&vec![255u8; expected.len() / stride * padded]).unwrap();
        cuda::pool_counts(&gpu, counts.slice(), bits.slice(), &geometry, [batch, time_steps]).unwrap();
        for (row, (got, expected)) in counts.to_vec().unwrap().chunks(padded).zip(expected.chunks(stride)).enumerate() {
            let mut expected: Vec<u8> = expected[..channels].iter().map(|&n| n as u8).collect();
            expected.resize(padded, 0);
            assert_eq!(got, expected, "counts, {source:?}, {channels} channels, pool {pool:?}, row {row}");
        }
    }
}

#[test]
fn totals_of_counts_are_those_of_the_cpu() {
    let gpu = device::gpu();
    for (source, channels, pool, batch, time_steps) in CASES {
        let geometry = geometry(source, channels, pool);
        let mut rng = seeded::rng(2);
        let sample = source[0] * source[1] * channels;
        let counts: Vec<u8> = (0..batch * sample).map(|_| rng.random_range(0..=time_steps as u8)).collect();
        let mut expected = Vec::new();
        for counts in counts.chunks(sample) {
            // A spike worth the area makes every product an integer.
            let mut rates = vec![0.0; geometry.pooled().iter().product::<usize>() * channels];
            pool_rates(counts, geometry.area() as f32, &geometry, &mut rates);
            expected.extend(rates.iter().map(|&total| total as u16));
        }
        let counts = gpu.memory_of(&counts).unwrap();
        let case = format!("{source:?}, {channels} channels, pool {pool:?}");
        let totals = gpu.zeroed::<u16>(expected.len()).unwrap();
        cuda::pool_totals(&gpu, totals.slice(), counts.slice(), &geometry, [batch, time_steps]).unwrap();
        assert_eq!(totals.to_vec().unwrap(), expected, "{case}");
    }
}

#[test]
fn a_window_that_overflows_its_count_is_refused() {
    let gpu = device::gpu();
    let (none, geometry) = (dsr::device::Slice::NONE, geometry([16, 16], 1, [16, 16, 0]));
    let error = cuda::pool_counts(&gpu, none, dsr::device::Slice::NONE, &geometry, [1, 1]).unwrap_err();
    assert_eq!(error.to_string(), r#"pool_counts: expected "a window of at most 255 positions", got [16, 16, 0]"#);
    let totals = |time_steps| cuda::pool_totals(&gpu, dsr::device::Slice::NONE, dsr::device::Slice::NONE, &geometry, [0, time_steps]);
    let error = totals(256).unwrap_err(); // 65,536 spikes
    assert_eq!(error.to_string(), r#"pool_totals: expected "at most 65535 spikes a window", got 65536"#);
}

/// Every small network, with a threshold at which the order of multiplications shows, and with one that is never reached (LIF: -0).
#[test]
fn logits_are_those_of_the_network() {
    let gpu = device::gpu();
    for small in small_networks::all() {
        let mut network = small.network();
        let data = small.data();
        let last = network.layers.len() - 1;
        let Some(parameter) = network.layers[last].threshold else { continue };
        for threshold in [0.37, 1e30] {
            network.set_parameter(parameter, &[threshold]);
            network.prepare();
            let forward = network.forward(&data.input(), Mode::Eval, |layer| layer == last).unwrap();
            let spikes = forward.spikes[last].as_ref().unwrap();
            let bits = gpu.memory_of(spikes.bits()).unwrap();
            let threshold = gpu.memory_of(&[network.threshold(&network.layers[last])]).unwrap();
            let step_weights = gpu.memory_of(&network.neuron.step_weights(network.time_steps)).unwrap();
            let logits = gpu.zeroed::<f32>(forward.logits.len()).unwrap();
            let shape = [small.batch, spikes.positions, spikes.channels];
            cuda::readout(&gpu, logits.slice(), bits.slice(), threshold.slice(), step_weights.slice(), network.neuron, shape).unwrap();
            let (got, expected): (Vec<u32>, Vec<u32>) =
                (logits.to_vec().unwrap().iter().map(|v| v.to_bits()).collect(), forward.logits.iter().map(|v| v.to_bits()).collect());
            assert_eq!(got, expected, "{}", small.name);
        }
    }
}

/// A readout by current: `fmaf(γ, r(x̂), β)`, channels that are no multiple of the normaliser's rows, more logits than a block.
#[test]
fn currents_are_those_of_the_cpu() {
    let gpu = device::gpu();
    for [batch, channels] in [[1usize, 1usize], [3, 10], [2, 64], [5, 101]] {
        let padded = channels.next_multiple_of(64);
        let (means, constants) = (seeded::values(1, batch * channels, -3.0..3.0), seeded::values(2, 6 * padded, -2.0..2.0));
        let [on_device, normalizer] = [&means, &constants].map(|values| gpu.memory_of(values).unwrap());
        let logits = gpu.zeroed::<f32>(batch * channels).unwrap();
        let norm = DeviceNormalizer { values: normalizer.slice(), padded };
        cuda::readout_current(&gpu, logits.slice(), on_device.slice(), &norm, [batch, channels]).unwrap();
        let expected = means.iter().enumerate().map(|(at, mean)| {
            let c = at % channels;
            constants[3 * padded + c].mul_add(*mean, constants[4 * padded + c]).to_bits()
        });
        let got: Vec<u32> = logits.to_vec().unwrap().iter().map(|v| v.to_bits()).collect();
        assert_eq!(got, expected.collect::<Vec<u32>>(), "{batch} samples, {channels} classes");
    }
}

/// 16 positions of 20 spikes each: more than a byte holds.
#[test]
fn totals_of_more_than_a_byte() {
    let gpu = device::gpu();
    for channels in [3, 8] {
        let geometry = Geometry { cin: channels, cout: channels, source: [8, 8], pool: [4, 4, 0], kernel: [1, 1], stride: 1, pad: 0 };
        let counts = gpu.memory_of(&vec![20u8; 64 * channels]).unwrap();
        let totals = gpu.zeroed::<u16>(4 * channels).unwrap();
        cuda::pool_totals(&gpu, totals.slice(), counts.slice(), &geometry, [1, 20]).unwrap();
        assert_eq!(totals.to_vec().unwrap(), vec![320u16; 4 * channels]);
    }
}
