//! Gradients of currents on the device: given mean, k and the own norm's k, the bits of the CPU, rounded to bf16.

#[path = "support/backward_case.rs"]
#[allow(dead_code)] // this test uses a part of it
mod backward_case;
#[path = "support/device.rs"]
mod device;
#[path = "support/seeded.rs"]
mod seeded;
#[path = "support/stored.rs"]
#[allow(dead_code)] // this test uses a part of it
mod stored;

use std::sync::Arc;

use backward_case::{Case, assert_rounded, bits_of, cases, run_clamp};
use dsr::device::{Gpu, Isa, Memory};
use dsr::ops::batch_norm::cuda::{DeviceInner, PADDING};
use dsr::ops::batch_norm::cuda_backward::{CurrentGradient, InnerKept, current_gradient, inner_backward};
use dsr::ops::batch_norm::{center, subtract_scaled};
use dsr::ops::neuron::cuda::partial_len;
use half::bf16;

fn rounded(values: &[f32]) -> Vec<u16> {
    values.iter().map(|&v| bf16::from_f32(v).to_bits()).collect()
}

/// Outputs of a current's gradient, all of them asked for.
struct Outputs {
    halves: [Memory<u16>; 2],
    floats: [Memory<f32>; 2],
    biases: [Memory<f32>; 2],
    out: CurrentGradient,
}

fn outputs(gpu: &Arc<Gpu>, neurons: usize, channels: usize) -> Outputs {
    let halves = [(); 2].map(|()| gpu.zeroed::<u16>(neurons).unwrap());
    let floats = [(); 2].map(|()| gpu.zeroed::<f32>(neurons).unwrap());
    let biases = [(); 2].map(|()| gpu.zeroed::<f32>(channels).unwrap());
    let out = CurrentGradient {
        plain: halves[0].slice(),
        weighted: halves[1].slice(),
        plain_f32: floats[0].slice(),
        weighted_f32: floats[1].slice(),
        biases: biases.each_ref().map(|bias| bias.slice()),
        ..CurrentGradient::default()
    };
    Outputs { halves, floats, biases, out }
}

impl Outputs {
    fn assert(&self, plain: &[f32], weighted: &[f32], case: &Case, what: &str) {
        let name = format!("{}, {what}", case.name);
        for (at, expected) in [plain, weighted].into_iter().enumerate() {
            assert_eq!(bits_of(&self.floats[at].to_vec().unwrap()), bits_of(expected), "{name}: f32 {at}");
            assert_eq!(self.halves[at].to_vec().unwrap(), rounded(expected), "{name}: bf16 {at}");
        }
        let steps = case.device.layer.time_steps as f64;
        let (mut sum, mut magnitude) = (vec![0.0; case.channels], vec![0.0; case.channels]);
        for (i, &g) in plain.iter().enumerate() {
            sum[i % case.channels] += steps * f64::from(g);
            magnitude[i % case.channels] += steps * f64::from(g.abs());
        }
        for bias in &self.biases {
            assert_rounded(&bias.to_vec().unwrap(), &sum, &magnitude, &format!("{name}: bias"));
        }
    }
}

/// A, on the CPU, from what the device left in mean.
fn centered(case: &Case) -> Vec<f32> {
    let mut grad = case.device.grad.to_vec().unwrap();
    if case.has_norm {
        center(Isa::detect(), &case.norm.scale, &case.device.mean.to_vec().unwrap()[..case.channels], &mut grad);
    }
    grad
}

#[test]
fn gradients_of_currents_are_those_of_the_cpu() {
    let gpu = device::gpu();
    for case in cases(&gpu) {
        run_clamp(&gpu, &case);
        let base = centered(&case);
        let (mut plain, mut weighted) = (base.clone(), base.clone());
        if case.has_norm {
            let k = &case.device.k.to_vec().unwrap()[..case.channels];
            subtract_scaled(Isa::detect(), k, &case.mean_normed, &mut plain);
            subtract_scaled(Isa::detect(), k, &case.representation, &mut weighted);
        }
        for unrolled in [false, true] {
            let outputs = outputs(&gpu, base.len(), case.channels);
            current_gradient(&gpu, &outputs.out, case.device.grad.slice(), &case.device.layer, unrolled).unwrap();
            outputs.assert(if unrolled { &base } else { &plain }, &weighted, &case, if unrolled { "unrolled" } else { "rate" });
        }
        // As IF in `rate` mode asks: one output.
        let only = outputs(&gpu, base.len(), case.channels);
        let out = CurrentGradient { plain: only.halves[0].slice(), ..CurrentGradient::default() };
        current_gradient(&gpu, &out, case.device.grad.slice(), &case.device.layer, false).unwrap();
        assert_eq!(only.halves[0].to_vec().unwrap(), rounded(&plain), "{}: plain alone", case.name);
        assert!(only.biases[0].to_vec().unwrap().iter().all(|&v| v == 0.0), "{}", case.name);
    }
}

#[test]
fn the_gradient_through_a_norm_of_its_own_is_that_of_the_cpu() {
    let gpu = device::gpu();
    for case in cases(&gpu).into_iter().filter(|case| case.has_norm) {
        run_clamp(&gpu, &case);
        let (channels, padded, neurons) = (case.channels, case.channels.next_multiple_of(PADDING), case.grad.len());
        let (plain_u, weighted_u) = (seeded::values(10, neurons, -2.0..2.0), seeded::values(11, neurons, -2.0..2.0));
        let correlation: Vec<f64> = seeded::values(12, padded, -1.0..1.0).into_iter().map(f64::from).collect();
        let inner_values = seeded::values(13, 5 * padded, 0.1..2.0);
        let values = gpu.memory_of(&inner_values).unwrap();
        let on_device = (gpu.memory_of(&correlation).unwrap(), gpu.memory_of(&plain_u).unwrap(), gpu.memory_of(&weighted_u).unwrap());
        let inner = DeviceInner { values: values.slice(), correlation: on_device.0.slice(), padded };
        let kept = InnerKept { inner, mean_normed: on_device.1.slice(), weighted_normed: on_device.2.slice() };
        let scale = &inner_values[2 * padded..][..channels];
        let k = case.device.k.to_vec().unwrap()[..channels].to_vec();
        let base = centered(&case);

        // The sums of channels, and what follows from them.
        let (mut product, mut magnitude) = (vec![0.0; channels], vec![0.0; channels]);
        for (i, (&g, &u)) in base.iter().zip(&plain_u).enumerate() {
            product[i % channels] += f64::from(g) * f64::from(u);
            magnitude[i % channels] += (f64::from(g) * f64::from(u)).abs();
        }
        let (steps, rows) = (case.device.layer.time_steps as f64, case.rows as f64);
        let covariance: Vec<f64> = (0..channels).map(|c| product[c] / rows - f64::from(k[c]) * correlation[c]).collect();
        let of_covariance: Vec<f64> = (0..channels).map(|c| magnitude[c] / rows + (f64::from(k[c]) * correlation[c]).abs()).collect();
        let times = |values: &[f64], factor: f64| -> Vec<f64> { values.iter().map(|v| v * factor).collect() };

        for unrolled in [false, true] {
            let what = if unrolled { "own norm, unrolled" } else { "own norm, rate" };
            let [outputs, mut shared] = [(); 2].map(|()| outputs(&gpu, neurons, channels));
            let room = gpu.zeroed::<f64>(partial_len(case.rows, channels)).unwrap();
            shared.out.bias_partial = room.slice();
            let grad_gamma = gpu.zeroed::<f32>(channels).unwrap();
            let (grad, layer) = (case.device.grad.slice(), &case.device.layer);
            inner_backward(&gpu, [&outputs.out, &shared.out], grad_gamma.slice(), grad, layer, &kept, unrolled).unwrap();
            let expected = times(&covariance, steps * rows);
            assert_rounded(
                &grad_gamma.to_vec().unwrap(),
                &expected,
                &times(&of_covariance, steps * rows),
                &format!("{}, {what}: gamma", case.name),
            );
            let left = values.to_vec().unwrap();
            let (scaled_k, own_k) = (&left[3 * padded..][..channels], &left[4 * padded..][..channels]);
            let expected_k: Vec<f32> = k.iter().zip(scale).map(|(k, scale)| k * scale).collect();
            assert_eq!(bits_of(scaled_k), bits_of(&expected_k), "{}, {what}: scaled k", case.name);
            for c in 0..channels {
                let expected = covariance[c] * f64::from(scale[c]);
                let allowed = 2.0 * f64::from(f32::EPSILON) * expected.abs() + 1e-12 * of_covariance[c] * f64::from(scale[c]);
                assert!((f64::from(own_k[c]) - expected).abs() <= allowed, "{}, {what}: own k {expected}, got {}", case.name, own_k[c]);
            }
            let mut scaled = base.clone();
            center(Isa::detect(), scale, &vec![0.0; channels], &mut scaled);
            let subtracted = |x: &[f32], u: &[f32]| {
                let mut out = scaled.clone();
                subtract_scaled(Isa::detect(), scaled_k, x, &mut out);
                subtract_scaled(Isa::detect(), own_k, u, &mut out);
                out
            };
            let weighted = subtracted(&case.representation, &weighted_u);
            let plain = if unrolled { scaled.clone() } else { subtracted(&case.mean_normed, &plain_u) };
            outputs.assert(&plain, &weighted, &case, what);
            // And what the other connections share, from the same pass.
            let (mut plain, mut weighted) = (base.clone(), base.clone());
            if !unrolled {
                subtract_scaled(Isa::detect(), &k, &case.mean_normed, &mut plain);
            }
            subtract_scaled(Isa::detect(), &k, &case.representation, &mut weighted);
            shared.assert(&plain, &weighted, &case, &format!("{what}: shared"));
            // Without others nothing is written there.
            let none = CurrentGradient::default();
            inner_backward(&gpu, [&outputs.out, &none], grad_gamma.slice(), grad, layer, &kept, unrolled).unwrap();
            let refused = inner_backward(&gpu, [&outputs.out, &outputs.out], grad_gamma.slice(), grad, layer, &kept, unrolled).unwrap_err();
            assert!(refused.to_string().contains("room of its own"), "{refused}");
        }
    }
}

/// An identity without pool: its gradient is added to what its source has from others, or is the first there.
#[test]
fn the_gradient_of_an_identity_goes_to_its_source() {
    let gpu = device::gpu();
    for case in cases(&gpu) {
        run_clamp(&gpu, &case);
        let mut weighted = centered(&case);
        if case.has_norm {
            let k = &case.device.k.to_vec().unwrap()[..case.channels];
            subtract_scaled(Isa::detect(), k, &case.representation, &mut weighted);
        }
        for adds in [false, true] {
            let before = seeded::values(20, weighted.len(), -1e-3..1e-3);
            let source = gpu.memory_of(&before).unwrap();
            let out = CurrentGradient { weighted_f32: source.slice(), source_adds: Some(adds), ..CurrentGradient::default() };
            current_gradient(&gpu, &out, case.device.grad.slice(), &case.device.layer, false).unwrap();
            let of_source = |(&before, &g): (&f32, &f32)| if adds { before + g } else { 0.0 + g };
            let expected: Vec<f32> = before.iter().zip(&weighted).map(of_source).collect();
            assert_eq!(bits_of(&source.to_vec().unwrap()), bits_of(&expected), "{}, adds {adds}", case.name);
        }
    }
}
