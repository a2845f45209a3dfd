// dropout.cu: draws which neurons are silent in this step, one mask for all time steps of a sample.
//
// Equation   dropped(b, i) = (word i of ChaCha8(key, stream) >> 8) * 2^-24 < share, stream = layer << 32 | b, i = position*C + c;
//            b is the place in the batch of all ranks
// Shapes     dropped [B][P][words] u32, bit c%32 of word c/32
// Launch     one thread = one word of the mask, block 256, grid ceil(P*words / 256) x B
// Traffic    writes 1/8 of a byte a neuron; about 3 blocks of ChaCha8 a thread, 10 operations a neuron
// Exactness  bit-equal to draw_dropped in src/ops/dropout/cpu.rs, which uses the crates rand and rand_chacha
// Tests      tests/dropout_cuda.rs

#include "include/step.cuh"

struct Dropout {
    int positions, channels;
    uint32_t layer;
    float share;
    uint32_t first_sample;                           // place of sample 0 in the batch of all ranks
};

__device__ __forceinline__ uint32_t rotate_left(uint32_t value, int by) { return value << by | value >> (32 - by); }

__device__ __forceinline__ void quarter_round(uint32_t& a, uint32_t& b, uint32_t& c, uint32_t& d) {
    a += b;
    d = rotate_left(d ^ a, 16);
    c += d;
    b = rotate_left(b ^ c, 12);
    a += b;
    d = rotate_left(d ^ a, 8);
    c += d;
    b = rotate_left(b ^ c, 7);
}

// Block `counter` of a stream: 16 words. Source: Bernstein, "ChaCha, a variant of Salsa20"; 8 rounds, 64-bit counter and stream.
__device__ __forceinline__ void chacha8(uint32_t (&words)[16], const uint32_t (&key)[8], uint32_t counter, uint32_t low, uint32_t high) {
    const uint32_t start[16] = {0x61707865u, 0x3320646eu, 0x79622d32u, 0x6b206574u, key[0], key[1], key[2], key[3],
                                key[4], key[5], key[6], key[7], counter, 0u, low, high};
#pragma unroll
    for (int i = 0; i < 16; ++i) words[i] = start[i];
#pragma unroll
    for (int round = 0; round < 4; ++round) {
        quarter_round(words[0], words[4], words[8], words[12]);
        quarter_round(words[1], words[5], words[9], words[13]);
        quarter_round(words[2], words[6], words[10], words[14]);
        quarter_round(words[3], words[7], words[11], words[15]);
        quarter_round(words[0], words[5], words[10], words[15]);
        quarter_round(words[1], words[6], words[11], words[12]);
        quarter_round(words[2], words[7], words[8], words[13]);
        quarter_round(words[3], words[4], words[9], words[14]);
    }
#pragma unroll
    for (int i = 0; i < 16; ++i) words[i] += start[i];
}

extern "C" __global__ void __launch_bounds__(256)
draw_dropped(uint32_t* __restrict__ dropped,                      // [B][P][words]
             const StepParameters* __restrict__ parameters, Dropout p) {
    const int words = (p.channels + 31) / 32;
    const int at = blockIdx.x * 256 + threadIdx.x;                // position, word
    if (at >= p.positions * words) return;
    const int first_channel = at % words * 32;
    const int first = at / words * p.channels + first_channel;   // element of the sample
    const int end = first + min(32, p.channels - first_channel);
    uint32_t key[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) key[i] = parameters->key[i];
    uint32_t mask = 0;
    for (int block = first / 16; block * 16 < end; ++block) {
        uint32_t drawn[16];
        chacha8(drawn, key, (uint32_t)block, p.first_sample + blockIdx.y, p.layer);
#pragma unroll
        for (int i = 0; i < 16; ++i) {
            const int element = block * 16 + i;
            const bool drops = (float)(drawn[i] >> 8) * 5.9604644775390625e-8f < p.share;
            if (element >= first && element < end && drops) mask |= 1u << (element - first);
        }
    }
    dropped[(size_t)blockIdx.y * p.positions * words + at] = mask;
}

KERNEL(draw_dropped, 256)
