// batch_norm_backward.cu: from r(gradient of a normalised current) to the gradients of the currents, without a time axis.
//
// Equation   A = scale*(g - mean g);  gradient of the current at step t = A - k*xhat[t]      (mean g and k: neuron_reduction.cu)
//            a connection's own norm (uhat) below it: scale_u*(A - k*xhat[t]) - own_k*uhat[t]
//            own_k = scale_u * mean((A - k*xhat)*uhat) = scale_u * (mean(A * mean_t uhat) - k*correlation)
//            out: plain = time mean of the gradient (for the weights), weighted = r(gradient) (for the sources): xhat[t] becomes its mean;
//            an identity without pool gets it at once, added to the gradient of its source
// Shapes     gradients and means [B*P][C] f32, outputs [B*P][C] bf16 and, where asked, f32; normalizer [6][padded],
//            inner [5][padded] f32: factor, offset, scale, scale*k, own_k; padded = C rounded up to 64
// Units      gradients of the loss by the current of a neuron
// Launch     columns.cuh, grid (blocks of rows, ceil(C / 4 quads)); inner_reduce: block 256, grid ceil(C/32)
// Traffic    bytes a neuron: current_gradient reads 8 (LIF: 12), writes 2 (LIF: 4); inner_sums reads 8; inner_gradient reads 20,
//            writes 4, and with the shared gradient 2 (LIF: 4) more: memory-bound, one pass each
// Exactness  the f32 operations of src/network/backward.rs in its order, rounded to bf16 once; sums of a channel in f64 in an order that
//            shapes alone decide
// Tests      tests/batch_norm_backward_cuda.rs

#include "include/columns.cuh"

// Constants of four channels in the backward of batch norm; the identity where there is none.
struct NormColumns {
    float scale[4], mean[4], k[4];
    bool present;
};

__device__ __forceinline__ NormColumns norm_columns(const float* __restrict__ normalizer, const float* __restrict__ mean,
                                                    const float* __restrict__ k, int padded, int c) {
    NormColumns norm = {};
    norm.present = mean != nullptr;
    if (norm.present) {
        load_four(norm.scale, normalizer + 5 * padded + c, 4, true);
        load_four(norm.mean, mean + c, 4, true);
        load_four(norm.k, k + c, 4, true);
    }
    return norm;
}

// From g to A.
__device__ __forceinline__ void center(float (&g)[4], const NormColumns& norm) {
    if (!norm.present) return;
#pragma unroll
    for (int i = 0; i < 4; ++i) g[i] = norm.scale[i] * (g[i] - norm.mean[i]);
}

// g - k*m, the same operation as on the CPU.
__device__ __forceinline__ void subtract_scaled(float (&g)[4], const float (&k)[4], const float* __restrict__ m, int live, bool aligned) {
    float of_row[4];
    load_four(of_row, m, live, aligned);
#pragma unroll
    for (int i = 0; i < 4; ++i) g[i] = fmaf(-k[i], of_row[i], g[i]);
}

// Where the gradient of a current goes; what is null is not written.
struct CurrentGradient {
    uint16_t* plain;           // [B*P][C] bf16: for the weights
    uint16_t* weighted;        // [B*P][C] bf16: for the sources
    float* plain_f32;          // the same in f32
    float* weighted_f32;
    double* bias_partial;      // [blocks of rows][C] sums of plain, for neuron_reduction.cu
    int adds;                  // where weighted_f32 is the gradient of a source: to what is there
    int padding;
};
static_assert(sizeof(CurrentGradient) == 48, "CurrentGradient is one layout on both sides");

__device__ __forceinline__ void store_plain(const CurrentGradient& out, size_t at, const float (&g)[4], int live, bool aligned) {
    if (out.plain != nullptr) store_four_bf16(out.plain + at, g, live, aligned);
    if (out.plain_f32 != nullptr) store_four(out.plain_f32 + at, g, live, aligned);
}

// TO_SOURCE: in f32 as an identity passes it on (conv.cu `unpool`), added to what is there or to 0.
template <bool TO_SOURCE>
__device__ __forceinline__ void store_weighted(const CurrentGradient& out, size_t at, const float (&g)[4], int live, bool aligned) {
    if (out.weighted != nullptr) store_four_bf16(out.weighted + at, g, live, aligned);
    if (out.weighted_f32 == nullptr) return;
    if (!TO_SOURCE) return store_four(out.weighted_f32 + at, g, live, aligned);
    float sum[4] = {};
    if (out.adds) load_four(sum, out.weighted_f32 + at, live, aligned);
#pragma unroll
    for (int i = 0; i < 4; ++i) sum[i] += g[i];
    store_four(out.weighted_f32 + at, sum, live, aligned);
}

// Gradient of the current that connections without a norm of their own share. A mean that is null is not subtracted: without batch
// norm none is; `unrolled` leaves the plain gradient at A, the part of it that is constant in time.
template <bool TO_SOURCE>
__device__ __forceinline__ void current_gradient_body(const CurrentGradient& out, const float* __restrict__ grad,
                                                      const float* __restrict__ normalizer, const float* __restrict__ mean,
                                                      const float* __restrict__ k, const float* mean_normed, const float* representation,
                                                      const Columns& p, int padded) {
    SHARED(double, between, COLUMN_BLOCK * 4);
    const Part part = part_of_columns(p);
    const bool aligned = is_aligned(p.channels);
    const bool has_weighted = out.weighted != nullptr || out.weighted_f32 != nullptr;
    double bias[4] = {};
    NormColumns norm = {};
    if (part.live) norm = norm_columns(normalizer, mean, k, padded, part.c);
    for (int row = part.first; row < part.end; row += part.step) {
        const size_t at = (size_t)row * p.channels + part.c;
        float plain[4], weighted[4];
        load_four(plain, grad + at, part.live, aligned);
        center(plain, norm);
        if (has_weighted) {
#pragma unroll
            for (int i = 0; i < 4; ++i) weighted[i] = plain[i];
            if (representation != nullptr) subtract_scaled(weighted, norm.k, representation + at, part.live, aligned);
            store_weighted<TO_SOURCE>(out, at, weighted, part.live, aligned);
        }
        if (mean_normed != nullptr) subtract_scaled(plain, norm.k, mean_normed + at, part.live, aligned);
        store_plain(out, at, plain, part.live, aligned);
#pragma unroll
        for (int i = 0; i < 4; ++i) bias[i] += (double)plain[i];
    }
    if (out.bias_partial != nullptr) store_partial(out.bias_partial, 0, bias, between, part, p);
}

extern "C" __global__ void __launch_bounds__(COLUMN_BLOCK)
current_gradient(CurrentGradient out,
                 const float* __restrict__ grad,               // [B*P][C] g
                 const float* __restrict__ normalizer,         // [6][padded]
                 const float* __restrict__ mean,               // [padded]; null without batch norm
                 const float* __restrict__ k,                  // [padded]
                 const float* mean_normed,                     // [B*P][C], or null
                 const float* representation,                  // [B*P][C], or null
                 Columns p, int padded) {
    current_gradient_body<false>(out, grad, normalizer, mean, k, mean_normed, representation, p, padded);
}

// The same where `weighted_f32` is the gradient of the source of an identity; apart, since it costs registers.
extern "C" __global__ void __launch_bounds__(COLUMN_BLOCK)
current_gradient_to_source(CurrentGradient out, const float* __restrict__ grad, const float* __restrict__ normalizer,
                           const float* __restrict__ mean, const float* __restrict__ k, const float* mean_normed,
                           const float* representation, Columns p, int padded) {
    current_gradient_body<true>(out, grad, normalizer, mean, k, mean_normed, representation, p, padded);
}

// --- Backward of a connection's own norm --------------------------------------------------------------------------------------------

// Partial sums of A * mean_t uhat.
extern "C" __global__ void __launch_bounds__(COLUMN_BLOCK)
inner_sums(double* __restrict__ partial,                       // [blocks of rows][C]
           const float* __restrict__ grad,                     // [B*P][C] g
           const float* __restrict__ normalizer,               // [6][padded]
           const float* __restrict__ mean,                     // [padded]
           const float* __restrict__ k,                        // [padded]
           const float* __restrict__ inner_mean_normed,        // [B*P][C] plain time mean of uhat
           Columns p, int padded) {
    SHARED(double, between, COLUMN_BLOCK * 4);
    const Part part = part_of_columns(p);
    const bool aligned = is_aligned(p.channels);
    double product[4] = {};
    NormColumns norm = {};
    if (part.live) norm = norm_columns(normalizer, mean, k, padded, part.c);
#pragma unroll 1                                           // two 16-byte loads a thread keep memory busy; more cost registers
    for (int row = part.first; row < part.end; row += part.step) {
        const size_t at = (size_t)row * p.channels + part.c;
        float g[4], u[4];
        load_four(g, grad + at, part.live, aligned);
        center(g, norm);
        load_four(u, inner_mean_normed + at, part.live, aligned);
#pragma unroll
        for (int i = 0; i < 4; ++i) product[i] = fma((double)g[i], (double)u[i], product[i]);
    }
    store_partial(partial, 0, product, between, part, p);
}

// Field for field `InnerReduceArgs` in src/ops/batch_norm/cuda_backward.rs.
struct InnerReduce {
    int time_steps;            // T
    int blocks;                // of rows, in the partial sums
    int rows;                  // B*P
    int channels;
    int padded;
};
static_assert(sizeof(InnerReduce) == 20, "InnerReduce is one layout on both sides");

// Adds the gradients of the own norm's gamma; leaves scale*k and own_k in rows 3 and 4 of `inner`.
extern "C" __global__ void __launch_bounds__(256)
inner_reduce(float* __restrict__ grad_gamma,                   // [C] of the own norm
             float* __restrict__ inner,                        // [5][padded]
             const double* __restrict__ partial,               // [blocks][C]
             const double* __restrict__ correlation,           // [padded]
             const float* __restrict__ k,                      // [padded]
             InnerReduce p) {
    SHARED(double, between, 256);
    const int c = blockIdx.x * 32 + threadIdx.x % 32;
    const double product = sum_of_partials(partial, 0, p.blocks, p.channels, c, between);
    if (threadIdx.x >= 32 || c >= p.channels) return;
    const double steps = p.time_steps, rows = p.rows;
    const double covariance = product / rows - (double)k[c] * correlation[c];
    const float scale = inner[2 * p.padded + c];
    grad_gamma[c] += (float)(steps * rows * covariance);
    inner[3 * p.padded + c] = k[c] * scale;
    inner[4 * p.padded + c] = (float)covariance * scale;
}

// Means over time that the gradient before the own norm is made of; the plain ones are null in `unrolled` mode.
struct InnerMeans {
    const float* mean_normed;              // [B*P][C] of xhat
    const float* representation;           // [B*P][C]
    const float* inner_mean_normed;        // [B*P][C] of uhat
    const float* inner_representation;     // [B*P][C]
};

// Gradient of the current of the connection that has a norm of its own, and that which the others share: one pass over what both read.
extern "C" __global__ void __launch_bounds__(COLUMN_BLOCK)
inner_gradient(CurrentGradient out,
               CurrentGradient shared,                         // as current_gradient's; nothing is written where there is no other
               const float* __restrict__ grad,                 // [B*P][C] g
               const float* __restrict__ normalizer,           // [6][padded]
               const float* __restrict__ mean,                 // [padded]
               const float* __restrict__ k,                    // [padded]
               const float* __restrict__ inner,                // [5][padded]
               InnerMeans means, Columns p, int padded) {
    SHARED(double, between, COLUMN_BLOCK * 4);
    const Part part = part_of_columns(p);
    const bool aligned = is_aligned(p.channels);
    const bool has_shared = shared.plain != nullptr || shared.plain_f32 != nullptr || shared.bias_partial != nullptr;
    const bool has_weighted = shared.weighted != nullptr || shared.weighted_f32 != nullptr;
    double bias[4] = {}, shared_bias[4] = {};
    NormColumns norm = {};
    float scale[4] = {}, scaled_k[4] = {}, own_k[4] = {};
    if (part.live) {
        norm = norm_columns(normalizer, mean, k, padded, part.c);
        load_four(scale, inner + 2 * padded + part.c, 4, true);
        load_four(scaled_k, inner + 3 * padded + part.c, 4, true);
        load_four(own_k, inner + 4 * padded + part.c, 4, true);
    }
    for (int row = part.first; row < part.end; row += part.step) {
        const size_t at = (size_t)row * p.channels + part.c;
        float plain[4], weighted[4];
        load_four(plain, grad + at, part.live, aligned);
        center(plain, norm);
        if (has_weighted) {
#pragma unroll
            for (int i = 0; i < 4; ++i) weighted[i] = plain[i];
            subtract_scaled(weighted, norm.k, means.representation + at, part.live, aligned);
            store_weighted<true>(shared, at, weighted, part.live, aligned);
        }
        if (has_shared) {
#pragma unroll
            for (int i = 0; i < 4; ++i) weighted[i] = plain[i];
            if (means.mean_normed != nullptr) subtract_scaled(weighted, norm.k, means.mean_normed + at, part.live, aligned);
            store_plain(shared, at, weighted, part.live, aligned);
#pragma unroll
            for (int i = 0; i < 4; ++i) shared_bias[i] += (double)weighted[i];
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) weighted[i] = plain[i] = scale[i] * plain[i];
        subtract_scaled(weighted, scaled_k, means.representation + at, part.live, aligned);
        subtract_scaled(weighted, own_k, means.inner_representation + at, part.live, aligned);
        store_weighted<false>(out, at, weighted, part.live, aligned);
        if (means.mean_normed != nullptr) {
            subtract_scaled(plain, scaled_k, means.mean_normed + at, part.live, aligned);
            subtract_scaled(plain, own_k, means.inner_mean_normed + at, part.live, aligned);
        }
        store_plain(out, at, plain, part.live, aligned);
#pragma unroll
        for (int i = 0; i < 4; ++i) bias[i] += (double)plain[i];
    }
    if (out.bias_partial != nullptr) store_partial(out.bias_partial, 0, bias, between, part, p);
    if (shared.bias_partial != nullptr) store_partial(shared.bias_partial, 0, shared_bias, between, part, p);
}

KERNEL(current_gradient, 256)
KERNEL(current_gradient_to_source, 256)
KERNEL(inner_sums, 256)
KERNEL(inner_reduce, 256)
KERNEL(inner_gradient, 256)
