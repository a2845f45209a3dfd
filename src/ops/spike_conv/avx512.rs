//! Lists of spikes with AVX-512 instructions: the channels of a word that fire are one compressed register.

use std::arch::x86_64::*;

/// As [`super::events::list_bits`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi2,popcnt")]
pub fn list_channels(bits: &[u32], [width, time_steps, words, cin]: [usize; 4], channels: &mut [u16], start: &mut [u32]) {
    let mut lanes = [0u16; 32];
    lanes.iter_mut().zip(0..).for_each(|(lane, i)| *lane = i);
    // SAFETY: 32 lanes of 16 bits are one register.
    let lanes = unsafe { _mm512_loadu_epi16(lanes.as_ptr().cast()) };
    let (mut len, mut list) = (0, 0);
    for row in bits.chunks_exact(width * time_steps * words) {
        for t in 0..time_steps {
            for x in 0..width {
                start[list] = len as u32;
                list += 1;
                for (&word, first) in row[(x * time_steps + t) * words..][..words].iter().zip((x * cin..).step_by(32)) {
                    let all = _mm512_add_epi16(lanes, _mm512_set1_epi16(first as i16));
                    let room: &mut [u16] = &mut channels[len..][..32];
                    // SAFETY: 32 lanes of 16 bits go where there is room for as many.
                    unsafe { _mm512_storeu_epi16(room.as_mut_ptr().cast(), _mm512_maskz_compress_epi16(word, all)) };
                    len += word.count_ones() as usize;
                }
            }
        }
    }
    start[list] = len as u32;
}
