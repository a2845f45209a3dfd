//! Golden cases below a whole network: one neuron, a block, the readout.

use dsr::device::Isa;
use dsr::ops::batch_norm::Normalizer;
use dsr::ops::neuron::{Currents, Neuron, NeuronArgs, NeuronOut, clamp_mapping_backward, neuron_at};

use super::golden_file::{Case, distance, representation};

/// Spikes equal to f64, gradients within 1e-6.
pub fn neuron(case: &Case) {
    let neuron = case.neuron();
    let time_steps = case.size("T");
    let x = case.tensor("x");
    let bound = case.number("Vth_bound") as f32;
    let threshold = (case.number("Vth_init") as f32 - bound).max(0.0) + bound;
    let used = case.tensor("f64/Vth_used").data[0];
    assert!((f64::from(threshold) - used).abs() <= 1e-6 * used, "{}: threshold {threshold}, expected {used}", case.name);
    let channels = x.shape[1];
    let current: Vec<f32> = x.channels_last().iter().map(|&v| v as f32).collect();
    let len = current.len() / time_steps; // neurons of the batch
    let expected = case.tensor("f64/spikes").channels_last();
    let rates = case.tensor("f64/rate").channels_last();
    let grad_out = representation(neuron, &case.tensor("grad_out").channels_last(), time_steps);
    let grad_x = case.tensor("f64/grad_x").channels_last();
    let (one, zero) = (vec![1.0; channels], vec![0.0; channels]);
    let norm = Normalizer::new([&one, &zero], &zero, &vec![1.0; channels], &vec![0.0; channels], &one);
    let step_weights = neuron.step_weights(time_steps);
    let args = NeuronArgs { neuron, threshold, time_steps, step_weights, channels, stride: channels };
    let words = channels.div_ceil(32);
    for isa in Isa::available() {
        let (mut mean, mut weighted) = (vec![0.0; len], vec![0.0; if matches!(neuron, Neuron::Lif { .. }) { len } else { 0 }]);
        for position in 0..len / channels {
            let at = position * channels;
            let x: Vec<f32> = (0..time_steps).flat_map(|t| current[t * len + at..][..channels].to_vec()).collect();
            let (mut spikes, mut counts) = (vec![0u32; time_steps * words], vec![0u8; channels]);
            let weighted_normed: &mut [f32] = if weighted.is_empty() { &mut [] } else { &mut weighted[at..at + channels] };
            let mut out =
                NeuronOut { spikes: &mut spikes, counts: &mut counts, mean_normed: &mut mean[at..at + channels], weighted_normed };
            neuron_at(isa, &args, &norm, Currents::Real(&x), &[], &mut out);
            for c in 0..channels {
                for t in 0..time_steps {
                    let fired = spikes[t * words + c / 32] >> (c % 32) & 1 == 1;
                    assert_eq!(f64::from(u8::from(fired)), expected[t * len + at + c], "{}: step {t} neuron {}", case.name, at + c);
                }
                if matches!(neuron, Neuron::If { .. }) {
                    let rate = f64::from(counts[c]) * used / time_steps as f64;
                    assert!((rate - rates[at + c]).abs() <= 1e-9, "{}: rate {rate}, expected {}", case.name, rates[at + c]);
                }
            }
        }
        let mut grad: Vec<f32> = grad_out.iter().map(|&v| v as f32).collect();
        let [mut above, mut sum, mut product] = [vec![0.0; channels], vec![0.0; channels], vec![0.0; channels]];
        let representation = if weighted.is_empty() { &mean } else { &weighted };
        let map = neuron.clamp_mapping(threshold);
        clamp_mapping_backward(isa, map, &norm, representation, &mean, &mut grad, &mut above, &mut sum, &mut product);
        let total: f64 = grad.iter().map(|&g| f64::from(g)).sum();
        assert!((sum.iter().sum::<f64>() - total).abs() <= 1e-9 * (1.0 + total.abs()), "{}: sum of the gradient", case.name);
        for t in 0..time_steps {
            let distance = distance(&grad, &grad_x[t * len..][..len]);
            assert!(distance <= 1e-6, "{}: gradient of the current, step {t}: off by {distance:.2e}", case.name);
        }
        let got = above.iter().sum::<f64>() * f64::from(neuron.threshold_grad_factor()) * time_steps as f64;
        let expected = case.tensor("f64/grad_Vth").data[0];
        assert!(
            (got - expected).abs() <= 1e-6 * expected.abs().max(1e-3),
            "{}: gradient of the threshold {got}, expected {expected}",
            case.name
        );
    }
}

pub fn block(case: &Case) {
    println!("TODO {}", case.name);
}

/// The (weighted) mean over time and its gradient.
pub fn readout(case: &Case) {
    let mut cases: Vec<String> = case.names().iter().filter_map(|n| n.split('/').next().map(str::to_string)).collect();
    cases.dedup();
    for name in &cases {
        let part = |prefix: &str| -> f64 { name.split('_').find_map(|p| p.strip_prefix(prefix)).unwrap().parse().unwrap() };
        let neuron = match name.split('_').next() {
            Some("if") => Neuron::If { alpha: 0.5 },
            Some("lif") => Neuron::Lif { alpha: 0.5, tau: part("tau") as f32, delta_t: part("dt") as f32 },
            other => panic!("readout of {other:?}"),
        };
        let time_steps = part("T") as usize;
        let tensor = |what: &str| case.tensor(&format!("{name}/{what}"));
        let got: Vec<f32> = representation(neuron, &tensor("x").data, time_steps).iter().map(|&v| v as f32).collect();
        assert!(distance(&got, &tensor("f64/out").data) <= 1e-6, "readout {name}");
        let grad_out = tensor("grad_out").data;
        let grad: Vec<f32> = neuron.step_weights(time_steps).iter().flat_map(|w| grad_out.iter().map(move |g| w * *g as f32)).collect();
        assert!(distance(&grad, &tensor("f64/grad_x").data) <= 1e-6, "readout {name}: gradient");
    }
}
