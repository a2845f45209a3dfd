//! The readout on the CPU.

use crate::ops::neuron::Neuron;
use crate::spikes::Spikes;

/// Logits `[B][P·C]`: the representation of the last layer's spikes, its threshold and the share of each step given.
pub fn readout(neuron: Neuron, threshold: f32, step_weights: &[f32], spikes: &Spikes) -> Vec<f32> {
    let (value, is_if) = (neuron.spike_value(threshold), matches!(neuron, Neuron::If { .. }));
    let mut logits = Vec::with_capacity(spikes.batch * spikes.positions * spikes.channels);
    for b in 0..spikes.batch {
        for class in 0..spikes.positions * spikes.channels {
            let fired = |t: &usize| spikes.get(*t, b, class / spikes.channels, class % spikes.channels);
            logits.push(if is_if {
                (0..spikes.time_steps).filter(fired).count() as f32 * value / spikes.time_steps as f32
            } else {
                value * (0..spikes.time_steps).filter(fired).map(|t| step_weights[t]).sum::<f32>()
            });
        }
    }
    logits
}
