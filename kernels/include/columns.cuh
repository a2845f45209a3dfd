// columns.cuh: work over rows of channels, `[rows][C]`: who takes which element, and sums of a channel in a fixed order.
//
// A block takes `rows_a_block` rows and 4*quads channels: threads lie as [256 / quads rows][quads], a thread owns four channels, so that
// a row of f32 or i32 is read by 16 bytes a thread where its start is aligned. What a thread adds up goes through shared memory in
// the order of its row, then to one partial sum a block; neuron_reduction.cu or another second kernel adds those in the order of
// blocks. Shapes alone decide the order, so the same step gives the same bits in every run.
#pragma once
#include "device.cuh"

constexpr int COLUMN_BLOCK = 256;

// Field for field `Columns` in src/ops/batch_norm/cuda.rs.
struct Columns {
    int rows;
    int channels;        // C
    int quads;           // groups of four channels a block takes: a power of two, at most 16
    int rows_a_block;
};
static_assert(sizeof(Columns) == 16, "Columns is one layout on both sides");

// Part of the rows that a thread goes through, and its channels c .. c + live.
struct Part {
    int c;
    int live;            // 0 where the thread has nothing to do
    int quad;
    int lane;
    int first, end, step;
};

__device__ __forceinline__ Part part_of_columns(const Columns& p) {
    Part part;
    part.quad = threadIdx.x % p.quads;
    part.lane = threadIdx.x / p.quads;
    part.c = (blockIdx.y * p.quads + part.quad) * 4;
    part.live = max(0, min(4, p.channels - part.c));
    part.first = blockIdx.x * p.rows_a_block + part.lane;
    part.end = part.live ? min(p.rows, (int)(blockIdx.x + 1) * p.rows_a_block) : 0;
    part.step = COLUMN_BLOCK / p.quads;
    return part;
}

// Whether rows of `channels` elements of four bytes start on 16 bytes.
__device__ __forceinline__ bool is_aligned(int channels) { return channels % 4 == 0; }

__device__ __forceinline__ void load_four(float (&to)[4], const float* __restrict__ from, int live, bool aligned) {
    if (aligned) {
        const float4 four = *(const float4*)from;
        to[0] = four.x, to[1] = four.y, to[2] = four.z, to[3] = four.w;
        return;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) to[i] = i < live ? from[i] : 0.0f;
}

__device__ __forceinline__ void store_four(float* __restrict__ to, const float (&from)[4], int live, bool aligned) {
    if (aligned) {
        *(float4*)to = make_float4(from[0], from[1], from[2], from[3]);
        return;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        if (i < live) to[i] = from[i];
    }
}

// The same, rounded to bf16: 8 bytes where aligned.
__device__ __forceinline__ void store_four_bf16(uint16_t* __restrict__ to, const float (&from)[4], int live, bool aligned) {
    if (aligned) {
        *(uint2*)to = make_uint2(pack_bf16(from[0], from[1]), pack_bf16(from[2], from[3]));
        return;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        if (i < live) to[i] = float_to_bf16(from[i]);
    }
}

// Adds up one quantity over the block: `own` of all rows of a thread, then the threads of a channel in the order of their lane.
// Channel i of the block (i = threadIdx.x < 4*quads) gets the sum; `between` holds COLUMN_BLOCK * 4 values. All threads must call it.
template <typename T>
__device__ __forceinline__ T sum_of_lanes(const T (&own)[4], T* between, const Part& part, const Columns& p) {
    const int width = p.quads * 4;
    __syncthreads();                                  // the sum before this one has been read
#pragma unroll
    for (int i = 0; i < 4; ++i) between[part.lane * width + part.quad * 4 + i] = own[i];
    __syncthreads();
    T sum = 0;
    if (threadIdx.x < width) {
        for (int lane = 0; lane < part.step; ++lane) sum += between[lane * width + threadIdx.x];
    }
    return sum;
}

// Partial sums of a block of rows, `[quantity][blocks of rows][C]`.
__device__ __forceinline__ void store_partial(double* partial, int quantity, const double (&own)[4], double* between, const Part& part,
                                              const Columns& p) {
    const double sum = sum_of_lanes(own, between, part, p);
    const int c = blockIdx.y * p.quads * 4 + threadIdx.x;
    if (threadIdx.x < p.quads * 4 && c < p.channels) partial[((size_t)quantity * gridDim.x + blockIdx.x) * p.channels + c] = sum;
}

// Channel c of the 32 of this block: the partial sums of one quantity, eight runs of blocks, each in order, then the runs in order.
// Threads 0..31 get it. All threads must call it; `between` holds 256 values.
__device__ __forceinline__ double sum_of_partials(const double* __restrict__ partial, int quantity, int blocks, int channels, int c,
                                                  double* between) {
    const int run = threadIdx.x / 32;
    double sum = 0.0;
    if (c < channels) {
        const int end = (int)((long long)blocks * (run + 1) / 8);
        for (int block = (int)((long long)blocks * run / 8); block < end; ++block) {
            sum += partial[((size_t)quantity * blocks + block) * channels + c];
        }
    }
    __syncthreads();
    between[threadIdx.x] = sum;
    __syncthreads();
    if (run == 0) {
        for (int other = 1; other < 8; ++other) sum += between[other * 32 + threadIdx.x];
    }
    return sum;
}
