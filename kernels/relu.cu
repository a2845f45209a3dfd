// relu.cu: what the layers of an ANN do with their currents: normalise, cut off below 0, pool.
//
// Equation   activate         xhat = fmaf(f0, x, fmaf(f1, y, offset));  out = max(fmaf(gamma, xhat, beta), 0), NaN where that is NaN;
//                             dropped values become 0, the others are multiplied by keep
//            scale_and_shift  uhat = fmaf(factor, x, offset), for a connection with a norm of its own
//            pool_values      mean over a pool window: sum of value / area, padding counts as 0
// Shapes     x, y [rows][pitch] f32, rows = B*P;  xhat, uhat and out [rows][C] f32, out also bf16;  dropped [rows][words] u32
//            normalizer [6][padded] and inner [5][padded] f32, see batch_norm.cu;  pooled [B][P_pooled][C] f32 or bf16
// Launch     activate, scale_and_shift: columns.cuh, grid (blocks of rows, ceil(C / 4 quads));  pool_values: block 256, a thread 4 channels
// Traffic    activate reads 4 bytes a value (a pair 8), writes 4 in training, 4 where an identity or a pool reads the output, and 2 where
//            a convolution does; pool_values reads window^2/stride^2 times 4: memory-bound, one pass each
// Exactness  bit-equal to src/ops/relu/cpu.rs, and pool_values to that of src/ops/conv/cpu.rs; bf16 is rounded to nearest, ties to even
// Tests      tests/relu_cuda.rs

#include "include/columns.cuh"
#include "include/summand.cuh"
#include "include/window.cuh"

// Field for field `ActivateArgs` in src/ops/relu/cuda.rs.
struct Activate {
    RealRows first, second;
    Columns columns;
    int padded;
    float keep;          // 1 / (1 - dropout)
};
static_assert(sizeof(Activate) == 56, "Activate is one layout on both sides");

// An output that is null is not written; `active` is added to.
extern "C" __global__ void __launch_bounds__(COLUMN_BLOCK)
activate(float* __restrict__ normed,                     // [B*P][C] xhat
         float* __restrict__ values,                     // [B*P][C]
         uint16_t* __restrict__ rounded,                 // [B*P][C] bf16
         unsigned long long* __restrict__ active,        // [1] outputs above 0, before dropout
         const float* __restrict__ normalizer,           // [6][padded]
         const uint32_t* __restrict__ dropped,           // [B*P][words], or null
         Activate p) {
    const Part part = part_of_columns(p.columns);
    const int channels = p.columns.channels, words = (channels + 31) / 32;
    const bool aligned = is_aligned(channels), x_aligned = is_aligned((int)p.first.pitch), y_aligned = is_aligned((int)p.second.pitch);
    float factor[4] = {}, other_factor[4] = {}, offset[4] = {}, gamma[4] = {}, beta[4] = {};
    if (part.live) {
        load_four(factor, normalizer + part.c, 4, true);
        load_four(other_factor, normalizer + p.padded + part.c, 4, true);
        load_four(offset, normalizer + 2 * p.padded + part.c, 4, true);
        load_four(gamma, normalizer + 3 * p.padded + part.c, 4, true);
        load_four(beta, normalizer + 4 * p.padded + part.c, 4, true);
    }
    int above = 0;
    for (int row = part.first; row < part.end; row += part.step) {
        float x[4], rest[4], out[4];
        load_four(x, p.first.values + row * p.first.pitch + part.c, part.live, x_aligned);
#pragma unroll
        for (int i = 0; i < 4; ++i) rest[i] = offset[i];
        if (p.second.values != nullptr) {
            float y[4];
            load_four(y, p.second.values + row * p.second.pitch + part.c, part.live, y_aligned);
#pragma unroll
            for (int i = 0; i < 4; ++i) rest[i] = fmaf(other_factor[i], y[i], offset[i]);
        }
        const uint32_t bits = dropped == nullptr ? 0u : dropped[(size_t)row * words + part.c / 32] >> (part.c % 32);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            x[i] = fmaf(factor[i], x[i], rest[i]);
            const float current = fmaf(gamma[i], x[i], beta[i]);
            out[i] = current <= 0.0f ? 0.0f : current;   // not fmaxf, which would turn NaN into 0
            above += i < part.live && current > 0.0f;
            if (dropped != nullptr) out[i] = bits >> i & 1u ? 0.0f : out[i] * p.keep;
        }
        const size_t at = (size_t)row * channels + part.c;
        if (normed != nullptr) store_four(normed + at, x, part.live, aligned);
        if (values != nullptr) store_four(values + at, out, part.live, aligned);
        if (rounded != nullptr) store_four_bf16(rounded + at, out, part.live, aligned);
    }
    const int above_of_block = block_sum<COLUMN_BLOCK>(above);
    if (threadIdx.x == 0) atomicAdd(active, (unsigned long long)above_of_block);
}

extern "C" __global__ void __launch_bounds__(COLUMN_BLOCK)
scale_and_shift(float* __restrict__ normed,              // [B*P][C] uhat
                const float* __restrict__ inner,         // [5][padded]
                RealRows from, Columns p, int padded) {
    const Part part = part_of_columns(p);
    if (!part.live) return;
    const bool aligned = is_aligned(p.channels), x_aligned = is_aligned((int)from.pitch);
    float factor[4], offset[4];
    load_four(factor, inner + part.c, 4, true);
    load_four(offset, inner + padded + part.c, 4, true);
    for (int row = part.first; row < part.end; row += part.step) {
        float x[4];
        load_four(x, from.values + row * from.pitch + part.c, part.live, x_aligned);
#pragma unroll
        for (int i = 0; i < 4; ++i) x[i] = fmaf(factor[i], x[i], offset[i]);
        store_four(normed + (size_t)row * p.channels + part.c, x, part.live, aligned);
    }
}

// One of the outputs is null.
extern "C" __global__ void __launch_bounds__(256)
pool_values(float* __restrict__ means,                   // [B][P_pooled][C]
            uint16_t* __restrict__ rounded,              // [B][P_pooled][C] bf16
            const float* __restrict__ values,            // [B][P][C]
            Geometry g, int batch) {
    const uint32_t quads = (g.cin + 3) / 4, pooled = g.pooled_h * g.pooled_w;
    const uint32_t thread = blockIdx.x * 256 + threadIdx.x, row = thread / quads;
    const size_t b = row / pooled;
    if (b >= (size_t)batch) return;
    const int c = (int)(thread % quads) * 4;
    const int live = min(4, g.cin - c);
    const bool aligned = is_aligned(g.cin);
    const float scale = 1.0f / (float)(g.pool * g.pool);
    const float* sample = values + b * g.source_h * g.source_w * g.cin + c;
    float sum[4] = {};
    const Window window = window_of(g, (int)(row % pooled));
    for (int y = window.first_y; y < window.end_y; ++y) {
#pragma unroll 2                                           // more would not fit the registers that are given
        for (int x = window.first_x; x < window.end_x; ++x) {
            float value[4];
            load_four(value, sample + (size_t)(y * g.source_w + x) * g.cin, live, aligned);
#pragma unroll
            for (int i = 0; i < 4; ++i) sum[i] += scale * value[i];
        }
    }
    const size_t at = (size_t)row * g.cin + c;
    if (means != nullptr) store_four(means + at, sum, live, aligned);
    if (rounded != nullptr) store_four_bf16(rounded + at, sum, live, aligned);
}

KERNEL(activate, 256)
KERNEL(scale_and_shift, 256)
KERNEL(pool_values, 256)
