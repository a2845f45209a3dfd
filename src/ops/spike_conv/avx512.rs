//! Lists of spikes with AVX-512 instructions: the channels of 64 that fire are one compressed register.

use std::arch::x86_64::*;

use crate::spikes::pair_of;

/// As [`super::events::list_bits`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi2,popcnt")]
pub fn list_channels(bits: &[u32], shape: [usize; 4], negative: Option<u16>, channels: &mut [u16], start: &mut [u32]) {
    // Compilers make a better loop where they know the number of words.
    match (shape[2], negative) {
        (2, None) => list_words::<2, 1, false>(bits, shape, 0, channels, start),
        // Both halves are one pair of words.
        (1, Some(negative)) => list_words::<2, 1, true>(bits, [shape[0], shape[1], 2, shape[3]], negative, channels, start),
        (2, Some(negative)) => list_words::<2, 2, false>(bits, shape, negative, channels, start),
        (_, None) => list_words::<0, 1, false>(bits, shape, 0, channels, start),
        (_, Some(negative)) => list_words::<0, 2, false>(bits, shape, negative, channels, start),
    }
}

/// The same for `WORDS` words, or any number where that is 0, in `HALVES` halves; or, `NARROW`, both halves as two words.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi2,popcnt")]
#[inline]
fn list_words<const WORDS: usize, const HALVES: usize, const NARROW: bool>(
    bits: &[u32],
    [width, lists, words, cin]: [usize; 4],
    negative: u16,
    channels: &mut [u16],
    start: &mut [u32],
) {
    const LANES: [u8; 64] = {
        let mut lanes = [0; 64];
        let mut i = 0;
        while i < 64 {
            lanes[i] = i as u8;
            i += 1;
        }
        lanes
    };
    // SAFETY: 64 lanes of 8 bits are one register.
    let lanes = unsafe { _mm512_loadu_epi8(LANES.as_ptr().cast()) };
    let words = if WORDS > 0 { WORDS } else { words };
    let (narrow, others) = (_mm512_set1_epi16(32), _mm512_set1_epi16(negative.wrapping_sub(32) as i16));
    let number = |lanes: __m512i| {
        if NARROW { _mm512_mask_add_epi16(lanes, _mm512_cmpge_epu16_mask(lanes, narrow), lanes, others) } else { lanes }
    };
    let (mut len, mut list) = (0, 0);
    for row in bits.chunks_exact(width * lists * HALVES * words) {
        for t in 0..lists {
            for x in 0..width {
                start[list] = len as u32;
                list += 1;
                for half in 0..HALVES {
                    let mut first = ((x * cin) as u16).wrapping_add(if half == 0 { 0 } else { negative });
                    for pair in row[((x * lists + t) * HALVES + half) * words..][..words].chunks(2) {
                        let word = pair_of(pair);
                        let fire = _mm512_maskz_compress_epi8(word, lanes);
                        let all = _mm512_set1_epi16(first as i16);
                        let room: &mut [u16] = &mut channels[len..][..64];
                        let count = word.count_ones() as usize;
                        // SAFETY: twice 32 lanes of 16 bits go where there is room for as many.
                        unsafe {
                            let low = number(_mm512_cvtepu8_epi16(_mm512_castsi512_si256(fire)));
                            _mm512_storeu_epi16(room.as_mut_ptr().cast(), _mm512_add_epi16(all, low));
                            if count > 32 {
                                let high = number(_mm512_cvtepu8_epi16(_mm512_extracti64x4_epi64::<1>(fire)));
                                _mm512_storeu_epi16(room.as_mut_ptr().add(32).cast(), _mm512_add_epi16(all, high));
                            }
                        }
                        len += count;
                        first = first.wrapping_add(64);
                    }
                }
            }
        }
    }
    start[list] = len as u32;
}
