//! The same neurons with AVX-512 instructions: a comparison gives its sixteen bits at once, which compilers make from them lane by lane.

use std::arch::x86_64::*;

use super::{Currents, NeuronArgs, NeuronOut};
use crate::ops::batch_norm::Normalizer;

/// Neurons of a register.
const WIDTH: usize = 16;
/// Registers of a group: as many as hide that charging, firing and resetting wait for each other.
const MOST: usize = 4;

/// As [`super::neuron_at`], bit for bit.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
pub fn neuron_at(args: &NeuronArgs, norm: &Normalizer, first: Currents, second: &[i32], out: &mut NeuronOut) {
    if out.counts.is_empty() && out.mean_normed.is_empty() && out.weighted_normed.is_empty() {
        groups::<false>(args, norm, first, second, out);
    } else {
        groups::<true>(args, norm, first, second, out);
    }
}

/// All neurons; `KEEPS` says whether anything but spikes is wanted.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
#[inline]
fn groups<const KEEPS: bool>(args: &NeuronArgs, norm: &Normalizer, first: Currents, second: &[i32], out: &mut NeuronOut) {
    for c in (0..args.channels).step_by(MOST * WIDTH) {
        match args.channels - c {
            64.. => group::<4, KEEPS, true>(args, norm, first, second, c, out),
            49.. => group::<4, KEEPS, false>(args, norm, first, second, c, out),
            33.. => group::<3, KEEPS, false>(args, norm, first, second, c, out),
            17.. => group::<2, KEEPS, false>(args, norm, first, second, c, out),
            _ => group::<1, KEEPS, false>(args, norm, first, second, c, out),
        }
    }
}

/// `N` registers of neurons from channel `c` on; all their lanes are neurons where it is `FULL`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
#[inline]
fn group<const N: usize, const KEEPS: bool, const FULL: bool>(
    args: &NeuronArgs,
    norm: &Normalizer,
    first: Currents,
    second: &[i32],
    c: usize,
    out: &mut NeuronOut,
) {
    let live = if FULL { N * WIDTH } else { args.channels - c };
    let mut masks: [__mmask16; N] = [u16::MAX; N];
    if !FULL {
        masks[N - 1] >>= N * WIDTH - live;
    }
    // Not by a closure, which compilers leave a call of.
    let of = c..c + live;
    let [mut factor, mut other_factor, mut offset, mut gamma, mut beta] = [[_mm512_setzero_ps(); N]; 5];
    let [first_factors, second_factors] = &norm.factors;
    let constants = [
        (&mut factor, first_factors),
        (&mut other_factor, second_factors),
        (&mut offset, &norm.offset),
        (&mut gamma, &norm.gamma),
        (&mut beta, &norm.beta),
    ];
    for (lanes, values) in constants {
        *lanes = load(&values[of.clone()], &masks);
    }
    let (leak, charge) = (_mm512_set1_ps(args.neuron.leak()), _mm512_set1_ps(args.neuron.charge()));
    let (threshold, fire_at) = (_mm512_set1_ps(args.threshold), _mm512_set1_ps(args.neuron.alpha() * args.threshold));
    let one = _mm512_set1_epi32(1);
    let words = args.channels.div_ceil(32);
    let frames = first.len() / args.stride;
    let is_weighted = KEEPS && !out.weighted_normed.is_empty();
    let [mut potential, mut sum, mut weighted] = [[_mm512_setzero_ps(); N]; 3];
    let mut count = [_mm512_setzero_si512(); N];
    for (t, spikes) in out.spikes.chunks_exact_mut(words).enumerate() {
        let row = if frames == 1 { 0 } else { t } * args.stride + c;
        let x = match first {
            Currents::Integer(acc) => load_integers(&acc[row..row + live], &masks),
            Currents::Real(real) => load(&real[row..row + live], &masks),
        };
        let mut normed = offset;
        if !second.is_empty() {
            let other = load_integers::<N>(&second[row..row + live], &masks);
            for i in 0..N {
                normed[i] = _mm512_fmadd_ps(other_factor[i], other[i], normed[i]);
            }
        }
        let mut fired: [__mmask16; N] = [0; N];
        for i in 0..N {
            normed[i] = _mm512_fmadd_ps(factor[i], x[i], normed[i]);
            let current = _mm512_fmadd_ps(gamma[i], normed[i], beta[i]);
            let charged = _mm512_fmadd_ps(leak, potential[i], _mm512_mul_ps(charge, current));
            fired[i] = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(charged, fire_at);
            potential[i] = _mm512_mask_sub_ps(charged, fired[i], charged, threshold);
            if KEEPS {
                sum[i] = _mm512_add_ps(sum[i], normed[i]);
                count[i] = _mm512_mask_add_epi32(count[i], fired[i], count[i], one);
            }
        }
        if is_weighted {
            let weight = _mm512_set1_ps(args.step_weights[t]);
            for i in 0..N {
                weighted[i] = _mm512_fmadd_ps(weight, normed[i], weighted[i]);
            }
        }
        fired[N - 1] &= masks[N - 1];
        let (pairs, last) = fired.as_chunks::<2>();
        let spikes = &mut spikes[c / 32..][..N.div_ceil(2)];
        for (spikes, [low, high]) in spikes.iter_mut().zip(pairs) {
            *spikes = _mm512_kunpackw(u32::from(*high), u32::from(*low));
        }
        if let [last] = last {
            spikes[N / 2] = u32::from(*last);
        }
    }
    if !KEEPS {
        return;
    }
    if !out.counts.is_empty() {
        for (counts, (count, mask)) in out.counts[c..c + live].chunks_mut(WIDTH).zip(count.iter().zip(&masks)) {
            // SAFETY: the mask covers the lanes that `counts` has; WIDTH for all but the last.
            unsafe { _mm512_mask_cvtepi32_storeu_epi8(counts.as_mut_ptr().cast(), *mask, *count) };
        }
    }
    if !out.mean_normed.is_empty() {
        let time_steps = _mm512_set1_ps(args.time_steps as f32);
        store(&mut out.mean_normed[c..c + live], &masks, sum.map(|sum| _mm512_div_ps(sum, time_steps)));
    }
    if is_weighted {
        store(&mut out.weighted_normed[c..c + live], &masks, weighted);
    }
}

/// `values` in registers; `masks` cover as many lanes as there are values.
#[target_feature(enable = "avx512f")]
#[inline]
fn load<const N: usize>(values: &[f32], masks: &[__mmask16; N]) -> [__m512; N] {
    let mut lanes = [_mm512_setzero_ps(); N];
    for i in 0..N {
        // SAFETY: lanes outside of the mask are not read, and the lanes of all masks are the values, in their order.
        lanes[i] = unsafe { _mm512_maskz_loadu_ps(masks[i], values.as_ptr().add(i * WIDTH)) };
    }
    lanes
}

/// The same, converted.
#[target_feature(enable = "avx512f")]
#[inline]
fn load_integers<const N: usize>(values: &[i32], masks: &[__mmask16; N]) -> [__m512; N] {
    let mut lanes = [_mm512_setzero_ps(); N];
    for i in 0..N {
        // SAFETY: as in `load`.
        lanes[i] = _mm512_cvtepi32_ps(unsafe { _mm512_maskz_loadu_epi32(masks[i], values.as_ptr().add(i * WIDTH)) });
    }
    lanes
}

/// The reverse of [`load`].
#[target_feature(enable = "avx512f")]
#[inline]
fn store<const N: usize>(values: &mut [f32], masks: &[__mmask16; N], lanes: [__m512; N]) {
    for i in 0..N {
        // SAFETY: lanes outside of the mask are not written, and the lanes of all masks are the values, in their order.
        unsafe { _mm512_mask_storeu_ps(values.as_mut_ptr().add(i * WIDTH), masks[i], lanes[i]) };
    }
}
