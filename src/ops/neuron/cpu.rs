//! Neurons on the CPU: 32 channels of one position at a time, all T steps with the potential in registers.

use super::{ABOVE, INSIDE, NeuronArgs};
use crate::device::Isa;
use crate::per_isa;

per_isa! {
    /// Runs the neurons of one position range of one sample through all steps.
    ///
    /// `x` holds for each step (or once, for a static input) `[P][C]`; `spikes` for each step `[P][words]`.
    /// Outputs are `[P][C]`; `mean_normed` and `weighted_normed` may be empty.
    /// One `mul_add` to normalise, one to charge, one subtraction to reset: bit-equal on every instruction set.
    pub fn neuron_forward(
        args: &NeuronArgs,
        x: &[&[f32]],
        spikes: &mut [&mut [u32]],
        counts: &mut [u8],
        range: &mut [u8],
        mean_normed: &mut [f32],
        weighted_normed: &mut [f32],
    ) {
        const LANES: usize = 32;
        let channels = args.channels;
        let words = channels.div_ceil(LANES);
        let positions = counts.len() / channels;
        let weights = args.neuron.step_weights(args.time_steps);
        let (leak, charge) = (args.neuron.leak(), args.neuron.charge());
        let fire_at = args.neuron.alpha() * args.threshold;
        let upper = args.neuron.upper(args.threshold);
        let share = 1.0 / args.time_steps as f32;
        for word in 0..words {
            let first = word * LANES;
            let live = LANES.min(channels - first);
            let (mut scale, mut shift, mut mean, mut inv_std) = ([1.0f32; LANES], [0.0f32; LANES], [0.0f32; LANES], [1.0f32; LANES]);
            if !args.scale.is_empty() {
                scale[..live].copy_from_slice(&args.scale[first..first + live]);
                shift[..live].copy_from_slice(&args.shift[first..first + live]);
                mean[..live].copy_from_slice(&args.mean[first..first + live]);
                inv_std[..live].copy_from_slice(&args.inv_std[first..first + live]);
            }
            for position in 0..positions {
                let at = position * channels + first;
                let (mut potential, mut average) = ([0.0f32; LANES], [0.0f32; LANES]);
                let (mut sum_x, mut weighted_x) = ([0.0f32; LANES], [0.0f32; LANES]);
                let mut count = [0u32; LANES];
                for t in 0..args.time_steps {
                    let row = if x.len() == 1 { x[0] } else { x[t] };
                    let mut input = [0.0f32; LANES];
                    input[..live].copy_from_slice(&row[at..at + live]);
                    let weight = weights[t];
                    let mut fired = [0u32; LANES];
                    for i in 0..LANES {
                        let current = input[i].mul_add(scale[i], shift[i]);
                        sum_x[i] += input[i];
                        weighted_x[i] = weight.mul_add(input[i], weighted_x[i]);
                        average[i] = weight.mul_add(current, average[i]);
                        potential[i] = leak.mul_add(potential[i], charge * current); // charge
                        let fires = potential[i] >= fire_at; // fire
                        potential[i] -= if fires { args.threshold } else { 0.0 }; // reset, soft
                        fired[i] = u32::from(fires);
                        count[i] += fired[i];
                    }
                    let mut bits = 0u32;
                    for (i, fired) in fired.iter().enumerate() {
                        bits |= fired << i;
                    }
                    if live < LANES {
                        bits &= (1u32 << live) - 1;
                    }
                    spikes[t][position * words + word] = bits;
                }
                for i in 0..live {
                    counts[at + i] = count[i] as u8;
                }
                if !range.is_empty() {
                    for i in 0..live {
                        let inside = args.neuron.inside(average[i], upper);
                        range[at + i] = if inside { INSIDE } else if average[i] > upper { ABOVE } else { 0 };
                    }
                }
                if !mean_normed.is_empty() {
                    for i in 0..live {
                        mean_normed[at + i] = (sum_x[i] * share - mean[i]) * inv_std[i];
                    }
                }
                if !weighted_normed.is_empty() {
                    for i in 0..live {
                        weighted_normed[at + i] = (weighted_x[i] - mean[i]) * inv_std[i];
                    }
                }
            }
        }
    }
}

/// Backward of the clamp mapping, in place: `grad` holds r(gradient of the output) and becomes the gradient of the current, `[B][P][C]`.
///
/// Returns `Σ T·grad` over the neurons above the clamp; the caller scales it (see [`super::Neuron::threshold_grad_factor`]).
/// Source: DSR, equations of section 4.2; method: `grad_I = G/T · slope · [inside]`.
pub fn clamp_mapping_backward(_isa: Isa, grad: &mut [f32], range: &[u8], slope: f32, time_steps: usize) -> f64 {
    let mut above = 0.0f64;
    for (grad, &range) in grad.iter_mut().zip(range) {
        if range & ABOVE != 0 {
            above += f64::from(*grad);
        }
        *grad = if range & INSIDE != 0 { slope * *grad } else { 0.0 };
    }
    above * time_steps as f64
}
