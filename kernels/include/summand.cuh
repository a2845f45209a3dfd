// summand.cuh: what a kernel reads as one summand of a layer's current: stored sums, bits, or real values.
#pragma once
#include "device.cuh"

// Exact sums, [rows][pitch] i32, or spikes [rows][pitch] u32 of 32 channels a word; null values for an absent summand.
// Field for field `StoredSummand` in src/ops/batch_norm/cuda.rs.
struct IntegerSummand {
    const void* values;
    int pitch;           // elements of a row: a multiple of 16 for sums, the number of words for bits
    int is_bits;
};
static_assert(sizeof(IntegerSummand) == 16, "IntegerSummand is one layout on both sides");

// The same, or real values [rows][pitch] f32.
struct AnySummand {
    const void* values;
    int pitch;
    int kind;            // 0 sums, 1 bits, 2 real
};
static_assert(sizeof(AnySummand) == 16, "AnySummand is one layout on both sides");

// Real values [rows][pitch] f32 of any pitch; null for an absent summand. Field for field `RowsArgs` in
// src/ops/batch_norm/cuda_values.rs.
struct RealRows {
    const float* values;
    long long pitch;
};
static_assert(sizeof(RealRows) == 16, "RealRows is one layout on both sides");

// Sums of channels c .. c+3 of a row, c a multiple of 4: 16 bytes, or four bits. Channels behind the last are read but belong to nobody.
__device__ __forceinline__ void load_four_sums(int (&to)[4], const IntegerSummand& from, size_t row, int c) {
    if (from.is_bits) {
        const uint32_t bits = ((const uint32_t*)from.values)[row * from.pitch + c / 32] >> (c % 32);
#pragma unroll
        for (int i = 0; i < 4; ++i) to[i] = bits >> i & 1;
        return;
    }
    const int4 four = *(const int4*)((const int*)from.values + row * from.pitch + c);
    to[0] = four.x, to[1] = four.y, to[2] = four.z, to[3] = four.w;
}

// The same as f32; a sum is rounded to nearest, as in the neuron.
__device__ __forceinline__ void load_four_values(float (&to)[4], const AnySummand& from, size_t row, int c) {
    if (from.kind == 2) {
        const float4 four = *(const float4*)((const float*)from.values + row * from.pitch + c);
        to[0] = four.x, to[1] = four.y, to[2] = four.z, to[3] = four.w;
        return;
    }
    int sums[4];
    load_four_sums(sums, IntegerSummand{from.values, from.pitch, from.kind}, row, c);
#pragma unroll
    for (int i = 0; i < 4; ++i) to[i] = (float)sums[i];
}
