// rate.cu: average pools over spikes and counts, and the logits: the representation of the last layer, or its mean current.
//
// Equation   pooled[t] = sum of s[t] over the window, as an integer: the division by the area is part of the current's unit
//            logits    IF: count*value/T;  LIF: value * sum of the shares of the steps with a spike;  value = Vth (IF), Vth/delta_t (LIF)
//                      by current: gamma * r(xhat) + beta
// Shapes     spikes [B][P][T][words] u32, counts [B][P][C] u8; pooled [B][P_pooled][T][C padded to 32] u8 (for spike_conv.cu) or
//            [B][P_pooled][T][stride] i32 (a summand of its own); r(xhat) [B][C] f32, normalizer [6][padded]; totals [B][P_pooled][C] u8 or
//            u16 (for the weight gradient)
// Units      spikes of a window (and step); padding of the pool has none
// Launch     block 256; a thread takes 16 channels (u8), 4 channels (i32, totals), or one logit
// Traffic    pooled reads window/stride^2 times 1/8 byte a neuron and step, writes 1 (i32: 4): memory-bound
// Exactness  integers; logits bit-equal to Network::logits in src/network/forward.rs, shares added in the order of t from -0 on
// Tests      tests/rate_cuda.rs

#include "include/dependent.cuh"
#include "include/device.cuh"
#include "include/readout.cuh"
#include "include/window.cuh"

// Field for field `PoolArgs` in src/ops/rate/cuda.rs.
struct Pool {
    Geometry geometry;
    int batch;
    int time_steps;
    int pitch;           // elements of a row of the output
};
static_assert(sizeof(Pool) == 72, "Pool is one layout on both sides");

// What a thread of a pool over spikes computes: channels c.. at step t of a pooled position.
struct PoolPlace {
    size_t row;          // (b, pooled position, t)
    size_t b;
    int pooled, t, c;
};

__device__ __forceinline__ PoolPlace pool_place(const Pool& p, int channels_a_thread, bool& exists) {
    const uint32_t thread = blockIdx.x * 256 + threadIdx.x;           // 32 bits, or dividing would take longer than counting
    const uint32_t a_row = p.pitch / channels_a_thread, pooled = p.geometry.pooled_h * p.geometry.pooled_w;
    const uint32_t row = thread / a_row, position = row / p.time_steps;
    PoolPlace place;
    place.row = row;
    place.c = (int)(thread % a_row) * channels_a_thread;
    place.t = (int)(row % p.time_steps);
    place.pooled = (int)(position % pooled);
    place.b = position / pooled;
    exists = place.b < (size_t)p.batch;
    return place;
}

// Word of 32 channels that holds channel c, at source position `position` and the step of this place.
__device__ __forceinline__ uint32_t word_at(const uint32_t* spikes, const Pool& p, const PoolPlace& place, int position) {
    const Geometry& g = p.geometry;
    const int words = (g.cin + 31) / 32;
    return load_written(spikes + ((place.b * g.source_h * g.source_w + position) * p.time_steps + place.t) * words + place.c / 32);
}

// Four bits as four bytes.
__device__ __forceinline__ uint32_t bytes_of_nibble(uint32_t nibble) { return nibble * 0x00204081u & 0x01010101u; }

// Windows of at most 255 positions, so that a count fits a byte.
extern "C" __global__ void __launch_bounds__(256)
pool_counts_8(uint8_t* __restrict__ pooled,              // [B][P_pooled][T][pitch], pitch = C rounded up to 32
              const uint32_t* __restrict__ spikes,       // [B][P][T][words]
              Pool p) {
    begin_dependent();
    bool exists;
    const PoolPlace place = pool_place(p, 16, exists);
    if (!exists) return;
    uint32_t counts[4] = {};
    for_each_in_window(p.geometry, place.pooled, [&](int position) {
        const uint32_t bits = word_at(spikes, p, place, position) >> (place.c % 32);
#pragma unroll
        for (int i = 0; i < 4; ++i) counts[i] += bytes_of_nibble(bits >> 4 * i & 15u);
    });
    *(uint4*)(pooled + place.row * p.pitch + place.c) = make_uint4(counts[0], counts[1], counts[2], counts[3]);
}

extern "C" __global__ void __launch_bounds__(256)
pool_counts_32(int* __restrict__ pooled,                 // [B][P_pooled][T][pitch], pitch = C rounded up to 16
               const uint32_t* __restrict__ spikes,      // [B][P][T][words]
               Pool p) {
    begin_dependent();
    bool exists;
    const PoolPlace place = pool_place(p, 4, exists);
    if (!exists) return;
    int counts[4] = {};
    for_each_in_window(p.geometry, place.pooled, [&](int position) {
        const uint32_t bits = word_at(spikes, p, place, position) >> (place.c % 32);
#pragma unroll
        for (int i = 0; i < 4; ++i) counts[i] += bits >> i & 1u;
    });
    *(int4*)(pooled + place.row * p.pitch + place.c) = make_int4(counts[0], counts[1], counts[2], counts[3]);
}

// Spikes of a window over all steps, for the weight gradient: T*area is at most 65535.
extern "C" __global__ void __launch_bounds__(256)
pool_totals(uint16_t* __restrict__ totals,               // [B][P_pooled][C]
            const uint8_t* __restrict__ counts,          // [B][P][C]
            Geometry g, int batch) {
    const uint32_t quads = (g.cin + 3) / 4, pooled = g.pooled_h * g.pooled_w;
    const uint32_t thread = blockIdx.x * 256 + threadIdx.x, row = thread / quads;
    const size_t b = row / pooled;
    if (b >= (size_t)batch) return;
    const int c = (int)(thread % quads) * 4;
    const int live = min(4, g.cin - c);
    const bool aligned = g.cin % 4 == 0;
    const uint8_t* sample = counts + b * g.source_h * g.source_w * g.cin + c;
    uint32_t sum[4] = {};
    for_each_in_window(g, (int)(row % pooled), [&](int position) {
        const uint8_t* at = sample + (size_t)position * g.cin;
        const uint32_t four = aligned ? *(const uint32_t*)at : 0u;
#pragma unroll
        for (int i = 0; i < 4; ++i) sum[i] += aligned ? four >> 8 * i & 255u : i < live ? at[i] : 0u;
    });
    uint16_t* out = totals + (size_t)row * g.cin + c;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        if (i < live) out[i] = (uint16_t)sum[i];
    }
}

// Field for field `ReadoutArgs` in src/ops/rate/cuda.rs.
struct ReadoutArgs {
    float delta_t;       // LIF; 0 for IF
    int batch;
    int positions;       // of the last layer
    int channels;
    int time_steps;
};

// Representation of the last layer, in training; in evaluation the kernel of the layer writes it (spike_conv.cu).
extern "C" __global__ void __launch_bounds__(256)
readout(float* __restrict__ logits,                      // [B][P*C]
        const uint32_t* __restrict__ spikes,             // [B][P][T][words]
        const float* __restrict__ threshold,             // [1]
        const float* __restrict__ step_weights,          // [T]
        ReadoutArgs p) {
    const int logit = blockIdx.x * 256 + threadIdx.x;
    if (logit >= p.batch * p.positions * p.channels) return;
    const int q = logit / p.channels, c = logit % p.channels, words = (p.channels + 31) / 32;
    const uint32_t* train = spikes + (size_t)q * p.time_steps * words + c / 32;
    logits[logit] = representation(train, words, c, p.time_steps, *threshold, step_weights, p.delta_t);
}

// Mean current of the last layer where it has no neurons.
extern "C" __global__ void __launch_bounds__(256)
readout_current(float* __restrict__ logits,              // [B][C]
                const float* __restrict__ means,         // [B][C] r(xhat)
                const float* __restrict__ normalizer,    // [6][padded]
                int batch, int channels, int padded) {
    const int logit = blockIdx.x * 256 + threadIdx.x;
    if (logit >= batch * channels) return;
    const int c = logit % channels;
    logits[logit] = fmaf(normalizer[3 * padded + c], means[logit], normalizer[4 * padded + c]);
}

DEPENDENT_KERNEL(pool_counts_8, 256)
DEPENDENT_KERNEL(pool_counts_32, 256)
KERNEL(pool_totals, 256)
KERNEL(readout, 256)
KERNEL(readout_current, 256)
