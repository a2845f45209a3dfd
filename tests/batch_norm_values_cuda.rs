//! Statistics of the currents of an ANN's layer on the device: the values of f64 sums, and the constants that follow from them.

#[path = "support/device.rs"]
mod device;
#[path = "support/output.rs"]
mod output;
#[path = "support/real_rows.rs"]
mod real_rows;
#[path = "support/seeded.rs"]
mod seeded;

use dsr::device::{Memory, Slice};
use dsr::ops::batch_norm::cuda::{DeviceContribution, DeviceInner, DeviceNorm, DeviceStatistics, LayerNorms, batch_normalizer};
use dsr::ops::batch_norm::cuda_values::{RealRows, partial_len, statistics_of_values};
use dsr::ops::batch_norm::{self, Contribution, Moments, Norm, Normalizer};
use dsr::ops::neuron::Neuron;
use dsr::ops::spike_conv::DeviceNormalizer;
use output::Output;
use real_rows::{Rows, SHAPES, bits};

/// Small integers have exact sums, so every order of them gives the same statistics, and the same constants as on the CPU.
#[test]
fn constants_follow_from_the_values() {
    let gpu = device::gpu();
    for [rows, channels] in SHAPES {
        for (pitch, second_pitch) in [(channels, 0), (channels.next_multiple_of(16), 0), (channels, channels)] {
            for inner_at in if second_pitch == 0 { vec![None] } else { vec![None, Some(0), Some(1)] } {
                let draw = |seed| seeded::values(seed, rows * channels, -8.0..8.0).iter().map(|v| v.round()).collect::<Vec<f32>>();
                let first = Rows::new(&gpu, draw(1), channels, pitch);
                let second = (second_pitch > 0).then(|| Rows::new(&gpu, draw(2), channels, second_pitch));
                let what = format!("{rows}x{channels}, pitches {pitch} {second_pitch}, own norm {inner_at:?}");
                let mut expected = vec![0.0f64; 5 * channels];
                for at in 0..rows * channels {
                    let (c, x, y) = (at % channels, f64::from(first.values[at]), second.as_ref().map_or(0.0, |s| f64::from(s.values[at])));
                    [x, y, x * x, x * y, y * y].iter().enumerate().for_each(|(row, v)| expected[row * channels + c] += v);
                }
                let sums = Output::of(&gpu, &vec![f64::NAN; 5 * channels]);
                let partial = Output::of(&gpu, &vec![f64::NAN; partial_len(rows, channels)]);
                let other = second.as_ref().map(Rows::on_device);
                statistics_of_values(&gpu, sums.slice(), partial.slice(), first.on_device(), other, [rows, channels]).unwrap();
                partial.values();
                assert_eq!(sums.values(), expected, "{what}");

                let row = |row: usize| &expected[row * channels..][..channels];
                let moments = Moments::of_real_pair([row(0), row(1)], [row(2), row(3), row(4)], rows as f64);
                let bias = seeded::values(3, channels, -0.5..0.5);
                let parameters = [[4, 5], [6, 7]].map(|seeds| seeds.map(|seed| seeded::values(seed, channels, 0.5..1.5)));
                let zeros = vec![0.0f32; channels];
                let norm = |k: usize| Norm { gamma: &parameters[k][0], beta: &parameters[k][1], running_mean: &zeros, running_var: &zeros };
                let count = if second.is_some() { 2 } else { 1 };
                let contribution = Contribution { value: 1.0, area: 1, weight_scale: None, bias: Some(&bias) };
                let inner = inner_at.map(|k| (k, norm(1)));
                let expected = batch_norm::batch_normalizer(channels, &vec![contribution; count], &moments, Some(norm(0)), inner);

                let memory: Vec<Memory<f32>> = [&bias, &parameters[0][0], &parameters[0][1], &parameters[1][0], &parameters[1][1]]
                    .into_iter()
                    .map(|values| gpu.memory_of(values).unwrap())
                    .collect();
                let running: Vec<Memory<f32>> = (0..4).map(|_| gpu.zeroed::<f32>(channels).unwrap()).collect();
                let device_norm = |k: usize| DeviceNorm {
                    gamma: memory[1 + 2 * k].slice(),
                    beta: memory[2 + 2 * k].slice(),
                    running_mean: running[2 * k].slice(),
                    running_var: running[2 * k + 1].slice(),
                };
                let none = Slice::NONE;
                let contribution = DeviceContribution { threshold: none, weight_scale: none, bias: memory[0].slice(), keep: 1.0, area: 9 };
                let connections = vec![contribution; count];
                let norms = LayerNorms {
                    connections: &connections,
                    norm: Some(device_norm(0)),
                    inner: inner_at.map(|k| (k, device_norm(1))),
                    neuron: Neuron::Relu,
                    channels,
                };
                let padded = channels.next_multiple_of(64);
                let (constants, own) = (gpu.zeroed::<f32>(6 * padded).unwrap(), gpu.zeroed::<f32>(5 * padded).unwrap());
                let correlation = gpu.zeroed::<f64>(padded).unwrap();
                let out = DeviceNormalizer { values: constants.slice(), padded };
                let inner = match inner_at {
                    Some(_) => DeviceInner { values: own.slice(), correlation: correlation.slice(), padded },
                    None => DeviceInner::default(),
                };
                batch_normalizer(&gpu, &out, &inner, &norms, DeviceStatistics::Values(sums.slice()), [rows, rows]).unwrap();
                let got = constants.to_vec().unwrap();
                let Normalizer { factors, offset, gamma, beta, scale } = &expected.normalizer;
                for (row, values) in [&factors[0], &factors[1], offset, gamma, beta, scale].into_iter().enumerate() {
                    assert_eq!(bits(&got[row * padded..][..channels]), bits(&values[..channels]), "{what}: row {row}");
                }
                if let Some(inner) = &expected.inner {
                    let got = own.to_vec().unwrap();
                    for (row, values) in [&inner.factor, &inner.offset, &inner.scale].into_iter().enumerate() {
                        assert_eq!(bits(&got[row * padded..][..channels]), bits(values), "{what}: own row {row}");
                    }
                    assert_eq!(correlation.to_vec().unwrap()[..channels], inner.correlation, "{what}");
                }
            }
        }
    }
}

/// Values of all sizes: within 1e-12 of the sum of magnitudes, since f64 adds them in another order; the same bits again.
#[test]
fn statistics_are_sums_in_f64() {
    let gpu = device::gpu();
    for [rows, channels] in SHAPES {
        let draw = |seed| seeded::values(seed, rows * channels, -2.0..3.0);
        let (first, second) = (Rows::new(&gpu, draw(1), channels, channels), Rows::new(&gpu, draw(2), channels, channels));
        let run = || {
            let (sums, partial) = (gpu.zeroed::<f64>(5 * channels).unwrap(), gpu.zeroed::<f64>(partial_len(rows, channels)).unwrap());
            let other = Some(second.on_device());
            statistics_of_values(&gpu, sums.slice(), partial.slice(), first.on_device(), other, [rows, channels]).unwrap();
            sums.to_vec().unwrap()
        };
        let got = run();
        let mut expected = vec![[0.0f64; 2]; 5 * channels];
        for (at, (x, y)) in first.values.iter().zip(&second.values).enumerate() {
            let (x, y) = (f64::from(*x), f64::from(*y));
            for (row, v) in [x, y, x * x, x * y, y * y].into_iter().enumerate() {
                let [sum, magnitude] = &mut expected[row * channels + at % channels];
                (*sum, *magnitude) = (*sum + v, *magnitude + v.abs());
            }
        }
        for (at, (got, [sum, magnitude])) in got.iter().zip(&expected).enumerate() {
            assert!((got - sum).abs() <= 1e-12 * magnitude, "{rows}x{channels}: {at}: {got} instead of {sum}");
        }
        assert_eq!(run(), got, "{rows}x{channels}: two runs");
    }
}

#[test]
fn buffers_that_are_too_small_are_refused() {
    let gpu = device::gpu();
    let (floats, doubles) = (gpu.zeroed::<f32>(11).unwrap(), gpu.zeroed::<f64>(14).unwrap());
    let rows = RealRows { values: floats.slice(), pitch: 3 };
    let problems = [
        statistics_of_values(&gpu, doubles.slice(), doubles.slice(), rows, None, [2, 3]),
        statistics_of_values(&gpu, gpu.zeroed::<f64>(15).unwrap().slice(), gpu.zeroed::<f64>(15).unwrap().slice(), rows, None, [4, 3]),
    ];
    for (at, problem) in problems.into_iter().enumerate() {
        let problem = problem.unwrap_err().to_string();
        assert!(problem.contains("expected") && problem.contains("got"), "call {at}: {problem}");
    }
}
