//! Neurons on the CPU: a group of channels of one position, all T steps, potentials in registers.

#[cfg(target_arch = "x86_64")]
use super::avx512;
use super::{Currents, NeuronArgs, NeuronOut};
use crate::device::Isa;
use crate::ops::batch_norm::Normalizer;
use crate::per_isa;

/// Lanes of the smallest group; rows of currents are padded to a multiple of it.
pub const LANES: usize = 16;

/// Runs the neurons of one position through all time steps.
///
/// Currents are `[T or 1][stride]` sums of up to two connections; `second` may be empty.
/// Nothing is added up for the counts and means that are not wanted.
pub fn neuron_at(isa: Isa, args: &NeuronArgs, norm: &Normalizer, first: Currents, second: &[i32], out: &mut NeuronOut) {
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Avx512 {
        // SAFETY: this value comes from `Isa::available`, which asked the CPU.
        return unsafe { avx512::neuron_at(args, norm, first, second, out) };
    }
    let mut c = 0;
    while c < args.channels {
        if args.channels - c > LANES {
            group::<32>(isa, args, norm, first, second, c, out);
            c += 32;
        } else {
            group::<LANES>(isa, args, norm, first, second, c, out);
            c += LANES;
        }
    }
}

/// `N` values from `at` on; what lies behind the end of a row belongs to no neuron.
#[inline(always)]
fn lanes<const N: usize, T: Copy + Default>(values: &[T], at: usize) -> [T; N] {
    match values[at..].first_chunk() {
        Some(lanes) => *lanes,
        None => {
            let mut padded = [T::default(); N];
            padded[..values.len() - at].copy_from_slice(&values[at..]);
            padded
        }
    }
}

per_isa! {
    /// One group of `N` channels from channel `c` on.
    ///
    /// Two `mul_add` to normalise (one more for a second connection), one for the affine part, one to charge, one subtraction to
    /// reset, sums in the order of t: bit-equal on every instruction set.
    pub fn group<const N: usize>(
        args: &NeuronArgs,
        norm: &Normalizer,
        first: Currents,
        second: &[i32],
        c: usize,
        out: &mut NeuronOut,
    ) {
        let live = N.min(args.channels - c);
        let [factor, other_factor] = [lanes::<N, f32>(&norm.factors[0], c), lanes::<N, f32>(&norm.factors[1], c)];
        let (offset, gamma, beta) = (lanes::<N, f32>(&norm.offset, c), lanes::<N, f32>(&norm.gamma, c), lanes::<N, f32>(&norm.beta, c));
        let (leak, charge) = (args.neuron.leak(), args.neuron.charge());
        let fire_at = args.neuron.alpha() * args.threshold;
        let frames = first.len() / args.stride;
        let words = args.channels.div_ceil(32);
        let is_weighted = !out.weighted_normed.is_empty();
        let (mut potential, mut sum, mut weighted) = ([0.0f32; N], [0.0f32; N], [0.0f32; N]);
        let mut count = [0u32; N];
        for t in 0..args.time_steps {
            let row = if frames == 1 { 0 } else { t } * args.stride + c;
            let mut x = [0.0f32; N];
            match first {
                Currents::Integer(acc) => {
                    // `map` of an array this long would be a call.
                    for (x, acc) in x.iter_mut().zip(lanes::<N, i32>(acc, row)) {
                        *x = acc as f32;
                    }
                }
                Currents::Real(real) => x = lanes(real, row),
            }
            let mut normed = offset;
            if !second.is_empty() {
                let other = lanes::<N, i32>(second, row);
                for i in 0..N {
                    normed[i] = other_factor[i].mul_add(other[i] as f32, normed[i]);
                }
            }
            let weight = args.step_weights[t];
            let mut fired = [0u32; N];
            for i in 0..N {
                normed[i] = factor[i].mul_add(x[i], normed[i]);
                sum[i] += normed[i];
                let current = gamma[i].mul_add(normed[i], beta[i]);
                potential[i] = leak.mul_add(potential[i], charge * current); // charge
                let fires = potential[i] >= fire_at; // fire
                potential[i] -= if fires { args.threshold } else { 0.0 }; // reset, soft
                fired[i] = u32::from(fires);
                count[i] += fired[i];
            }
            if is_weighted {
                for i in 0..N {
                    weighted[i] = weight.mul_add(normed[i], weighted[i]);
                }
            }
            let mut bits = 0u32;
            for (i, fired) in fired.iter().enumerate() {
                bits |= fired << i;
            }
            if live < 32 {
                bits &= (1 << live) - 1;
            }
            out.spikes[t * words + c / 32] = bits;
        }
        if !out.counts.is_empty() {
            for (out, count) in out.counts[c..c + live].iter_mut().zip(count) {
                *out = count as u8;
            }
        }
        if !out.mean_normed.is_empty() {
            let time_steps = args.time_steps as f32;
            for (out, sum) in out.mean_normed[c..c + live].iter_mut().zip(sum) {
                *out = sum / time_steps;
            }
        }
        if is_weighted {
            out.weighted_normed[c..c + live].copy_from_slice(&weighted[..live]);
        }
    }
}

/// Silences dropped neurons of one position: `dropped` is `[words]`, one bit a neuron, the same at every step.
pub fn drop_spikes(dropped: &[u32], out: &mut NeuronOut) {
    for step in out.spikes.chunks_exact_mut(dropped.len()) {
        step.iter_mut().zip(dropped).for_each(|(word, dropped)| *word &= !dropped);
    }
    for (c, count) in out.counts.iter_mut().enumerate() {
        if dropped[c / 32] >> (c % 32) & 1 == 1 {
            *count = 0;
        }
    }
}

/// Constants of the clamp mapping of one layer.
#[derive(Clone, Copy, Debug)]
pub struct ClampMapping {
    /// Lower end, in units of the mean current.
    pub lower: f32,
    /// Upper end.
    pub upper: f32,
    /// Slope inside.
    pub slope: f32,
    /// Whether both ends belong to the inside (IF) or neither does (LIF).
    pub closed: bool,
}

impl ClampMapping {
    /// No clamp: the gradient of a mean current that is read as it is.
    pub const NONE: ClampMapping = ClampMapping { lower: f32::NEG_INFINITY, upper: f32::INFINITY, slope: 1.0, closed: true };
}

per_isa! {
    /// Backward of the clamp mapping over rows `[n][C]`, in place: `grad` holds r(gradient of the output) and becomes the gradient
    /// of the current; the sum of it over the neurons above the clamp goes to `above`, `Σ g` to `sum` and `Σ g·x̂` to `product`, `[C]`.
    ///
    /// The mean current is `fmaf(γ, r(x̂), β)`. Source: DSR, section 4.2; method: `grad_I = G/T · slope · [inside]`.
    pub fn clamp_mapping_backward(
        map: ClampMapping,
        norm: &Normalizer,
        representation: &[f32],
        mean_normed: &[f32],
        grad: &mut [f32],
        above: &mut [f64],
        sum: &mut [f64],
        product: &mut [f64],
    ) {
        let channels = sum.len();
        let (gamma, beta) = (&norm.gamma[..channels], &norm.beta[..channels]);
        let rows = representation.chunks_exact(channels).zip(mean_normed.chunks_exact(channels));
        for (grad, (representation, mean_normed)) in grad.chunks_exact_mut(channels).zip(rows) {
            for c in 0..channels {
                let mean_current = gamma[c].mul_add(representation[c], beta[c]);
                let g = grad[c];
                let inside_closed = (mean_current >= map.lower) & (mean_current <= map.upper);
                let inside_open = (mean_current > map.lower) & (mean_current < map.upper);
                let inside = if map.closed { inside_closed } else { inside_open };
                above[c] += if mean_current > map.upper { f64::from(g) } else { 0.0 };
                let g = if inside { map.slope * g } else { 0.0 };
                grad[c] = g;
                sum[c] += f64::from(g);
                product[c] = f64::from(g).mul_add(f64::from(mean_normed[c]), product[c]);
            }
        }
    }
}
