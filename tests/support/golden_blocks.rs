//! Golden cases below a whole network: one neuron, a block, the readout.

use dsr::device::Isa;
use dsr::ops::neuron::{Neuron, NeuronArgs, clamp_mapping_backward, neuron_forward};

use super::golden_file::{Case, distance, representation};

/// Spikes equal to f64, gradients within 1e-6.
pub fn neuron(case: &Case) {
    let neuron = case.neuron();
    let time_steps = case.size("T");
    let batch = case.size("B");
    let x = case.tensor("x");
    let bound = case.number("Vth_bound") as f32;
    let threshold = (case.number("Vth_init") as f32 - bound).max(0.0) + bound;
    let used = case.tensor("f64/Vth_used").data[0];
    assert!((f64::from(threshold) - used).abs() <= 1e-6 * used, "{}: threshold {threshold}, expected {used}", case.name);
    let channels = x.shape[1];
    let current: Vec<f32> = x.channels_last().iter().map(|&v| v as f32).collect();
    let expected = case.tensor("f64/spikes").channels_last();
    let len = current.len() / time_steps / batch; // neurons of a sample
    let grad_out = representation(neuron, &case.tensor("grad_out").channels_last(), time_steps);
    let grad_x = case.tensor("f64/grad_x").channels_last();
    let args = NeuronArgs { neuron, threshold, time_steps, channels, scale: &[], shift: &[], mean: &[], inv_std: &[] };
    let words = channels.div_ceil(32);
    for isa in Isa::available() {
        let mut grad_threshold = 0.0;
        for b in 0..batch {
            let steps: Vec<&[f32]> = (0..time_steps).map(|t| &current[(t * batch + b) * len..][..len]).collect();
            let mut bits = vec![0u32; time_steps * len / channels * words];
            let mut spikes: Vec<&mut [u32]> = bits.chunks_mut(len / channels * words).collect();
            let (mut counts, mut range) = (vec![0; len], vec![0; len]);
            neuron_forward(isa, &args, &steps, &mut spikes, &mut counts, &mut range, &mut [], &mut []);
            for t in 0..time_steps {
                for i in 0..len {
                    let fired = spikes[t][i / channels * words + i % channels / 32] >> (i % channels % 32) & 1 == 1;
                    assert_eq!(f64::from(u8::from(fired)), expected[(t * batch + b) * len + i], "{}: step {t} neuron {i}", case.name);
                }
            }
            let rates = case.tensor("f64/rate").channels_last();
            if matches!(neuron, Neuron::If { .. }) {
                for i in 0..len {
                    let rate = f64::from(counts[i]) * used / time_steps as f64;
                    assert!((rate - rates[b * len + i]).abs() <= 1e-9, "{}: rate {rate}, expected {}", case.name, rates[b * len + i]);
                }
            }
            let mut grad: Vec<f32> = grad_out[b * len..][..len].iter().map(|&v| v as f32).collect();
            grad_threshold += clamp_mapping_backward(isa, &mut grad, &range, neuron.slope(), time_steps);
            for t in 0..time_steps {
                let distance = distance(&grad, &grad_x[(t * batch + b) * len..][..len]);
                assert!(distance <= 1e-6, "{}: gradient of the current, step {t}: off by {distance:.2e}", case.name);
            }
        }
        let got = grad_threshold * f64::from(neuron.threshold_grad_factor());
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
