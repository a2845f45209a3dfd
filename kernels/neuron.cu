// neuron.cu: IF and LIF neurons over all time steps from stored sums, and the way of their gradient back to the current.
//
// Equation   forward: neuron.cuh.  Below, r(.) is the (weighted) mean over time, g in and out are r(gradient), one a neuron.
//            clamp mapping  m = fmaf(gamma, r(xhat), beta);  g = slope*g where lower <= m <= upper, else 0   (LIF: <)
//            batch norm     A = scale*(g - mean g);  k = scale*mean(g*mean_t xhat);  gradient at step t = A - k*xhat[t]
//            a norm of one connection's own (uhat) below it: scale_u*(A - k*xhat[t]) - own_k*uhat[t]
//            current        plain = time mean of the gradient (weights), weighted = r(gradient) (sources)
// Shapes     sums [B*P][T or 1][stride], spikes [B*P][T][words] u32, counts [B*P][C] u8, means and gradients [B*P][C]
//            normalizer [6][padded], inner [5][padded] f32: factor, offset, scale, scale*k, own_k; padded = C rounded up to 64
// Units      potential, current and threshold share one unit; gradients are those of the loss a neuron
// Launch     neurons: a warp = 32 channels of a position, block 256, grid ceil(B*P*words / 8)
//            time_means: a thread = 4 channels of a position, block 256
//            backward: columns.cuh, grid (blocks of rows, ceil(C / 4 quads)); *_reduce: block 256, grid ceil(C/32) (+ 1, see there)
// Traffic    neurons reads 4*T a sum (bits: T/8), writes T/8 + 5 (LIF: 9) bytes a neuron; time_means reads 4*T, writes 8
//            clamp_mapping_backward reads 8 (LIF: 12), writes 4; current_gradient reads 8 (12), writes 2 (4);
//            inner_sums reads 8, inner_gradient reads 20, writes 4: all memory-bound, one pass each
// Exactness  forward bit-equal to src/ops/neuron/cpu.rs and time_means of src/ops/batch_norm/cpu.rs; backward the same f32 operations;
//            sums of a channel in f64 in an order of its own, which shapes alone decide
// Tests      tests/neuron_cuda.rs

#include "include/columns.cuh"
#include "include/neuron.cuh"
#include "include/summand.cuh"

// --- Forward ------------------------------------------------------------------------------------------------------------------------

// One summand over time, for the channel of a lane; four steps are loaded ahead, since a warp has little else to wait for.
struct Train {
    BitTrain bits;
    const int* values;   // of this channel at step 0
    int pitch;           // 0 where one step stands for all
    int kind;            // as AnySummand
    int end;
    bool live;
    int ahead[4];

    // Value of this lane's channel at step t, in the order of t; the whole warp calls.
    __device__ __forceinline__ float at(int t) {
        if (kind == 1) return (float)bits.at(t);
        const int slot = t % 4;
        if (slot == 0) {
#pragma unroll
            for (int i = 0; i < 4; ++i) ahead[i] = live && t + i < end ? __ldg(values + (size_t)(t + i) * pitch) : 0;
        }
        const int value = slot == 0 ? ahead[0] : slot == 1 ? ahead[1] : slot == 2 ? ahead[2] : ahead[3];
        return kind == 2 ? __int_as_float(value) : (float)value;
    }
};

__device__ __forceinline__ Train train_of(const AnySummand& from, size_t q, int frames, int word, const Neurons& layer) {
    const int c = word * 32 + threadIdx.x % 32;
    Train train = {};
    train.kind = from.kind;
    train.bits = {(const uint32_t*)from.values + q * layer.time_steps * from.pitch + word, from.pitch, 0, layer.time_steps, 0u};
    train.values = (const int*)from.values + q * frames * from.pitch + c;
    train.pitch = frames == 1 ? 0 : from.pitch;
    train.end = layer.time_steps;
    train.live = c < layer.channels;
    return train;
}

// Field for field `Place` in src/ops/neuron/cuda.rs.
struct Place {
    int positions;       // B*P
    int frames;          // steps that the first summand has: T, or 1 that stands for all
};

// Neurons of a layer from its stored sums. An output that is null is not written; `fired` is added to.
extern "C" __global__ void __launch_bounds__(256)
neurons(uint32_t* __restrict__ spikes,                   // [B*P][T][words]
        uint8_t* __restrict__ counts,                    // [B*P][C]
        float* __restrict__ mean_normed,                 // [B*P][C]
        float* __restrict__ weighted_normed,             // [B*P][C]
        unsigned long long* __restrict__ fired,          // [1] spikes of the layer, or null
        const float* __restrict__ normalizer,            // [6][padded]
        const float* __restrict__ threshold,             // [1]
        const float* __restrict__ step_weights,          // [T]
        const uint32_t* __restrict__ dropped,            // [B*P][words]
        AnySummand first, AnySummand second, Neurons layer, Place p) {
    const int words = (layer.channels + 31) / 32;
    const int warp = blockIdx.x * 8 + threadIdx.x / 32;
    int spikes_of_thread = 0;
    if (warp < p.positions * words) {                    // whole warps, so that the ballots stay full
        const size_t q = warp / words;
        const int word = warp % words;
        const int c = word * 32 + threadIdx.x % 32;
        const NeuronChannel channel = neuron_channel(normalizer, threshold, layer.padded, c);
        const uint32_t keep = kept_channels(dropped, q, word, layer);
        uint32_t* train = spikes + q * layer.time_steps * words + word;
        const float* shares = weighted_normed == nullptr ? nullptr : step_weights;
        NeuronState state{};
        Train x = train_of(first, q, p.frames, word, layer);
        if (second.values == nullptr) {
            neuron_steps(state, train, keep, layer, channel, shares, 0, layer.time_steps,
                         [&](int t) { return normalize(channel, x.at(t)); });
        } else {
            Train y = train_of(second, q, layer.time_steps, word, layer);
            neuron_steps(state, train, keep, layer, channel, shares, 0, layer.time_steps, [&](int t) {
                const float value = x.at(t);
                return normalize(channel, value, y.at(t));
            });
        }
        spikes_of_thread = neuron_finish(state, counts, mean_normed, weighted_normed, q, c, keep, layer);
    }
    if (fired == nullptr) return;
    const int spikes_of_block = block_sum<256>(spikes_of_thread);
    if (threadIdx.x == 0) atomicAdd(fired, (unsigned long long)spikes_of_block);
}

struct TimeMeans {
    int positions;       // B*P
    int time_steps;
    int channels;
    int padded;
};

// Plain and weighted time mean of uhat = fmaf(factor, acc, offset), for the connection that has a norm of its own.
extern "C" __global__ void __launch_bounds__(256)
time_means(float* __restrict__ plain,                    // [B*P][C]
           float* __restrict__ weighted,                 // [B*P][C]
           const float* __restrict__ inner,              // [5][padded]
           const float* __restrict__ step_weights,       // [T]
           IntegerSummand sums, TimeMeans p) {
    const int quads = (p.channels + 3) / 4;
    const size_t thread = (size_t)blockIdx.x * 256 + threadIdx.x;
    const size_t q = thread / quads;
    if (q >= p.positions) return;
    const int c = (int)(thread % quads) * 4;
    float factor[4], offset[4];
    load_four(factor, inner + c, 4, true);
    load_four(offset, inner + p.padded + c, 4, true);
    float sum[4] = {}, weighted_sum[4] = {};
    for (int t = 0; t < p.time_steps; ++t) {
        int acc[4];
        load_four_sums(acc, sums, q * p.time_steps + t, c);
        const float share = __ldg(step_weights + t);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float normed = fmaf(factor[i], (float)acc[i], offset[i]);
            sum[i] += normed;
            weighted_sum[i] = fmaf(share, normed, weighted_sum[i]);
        }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) sum[i] /= (float)p.time_steps;
    const size_t at = q * p.channels + c;
    const int live = min(4, p.channels - c);
    store_four(plain + at, sum, live, is_aligned(p.channels));
    store_four(weighted + at, weighted_sum, live, is_aligned(p.channels));
}

// --- Backward -----------------------------------------------------------------------------------------------------------------------

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

// Field for field `ClampMappingArgs` in src/ops/neuron/cuda.rs.
struct ClampMapping {
    Columns columns;
    float tau, delta_t;  // LIF
    float slope;         // 1 (IF), 1 / tau (LIF)
    float keep;          // 1 / (1 - dropout)
    int is_lif;
    int padded;
};
static_assert(sizeof(ClampMapping) == 40, "ClampMapping is one layout on both sides");

// In place from r(gradient of the spikes) to r(gradient of the current); partial sums of g above the range, of g, and of g*mean_t xhat.
extern "C" __global__ void __launch_bounds__(COLUMN_BLOCK)
clamp_mapping_backward(float* __restrict__ grad,                     // [B*P][C]
                       double* __restrict__ partial,                 // [3][blocks of rows][C]
                       const float* representation,                  // [B*P][C] r(xhat); the same as mean_normed for IF
                       const float* mean_normed,                     // [B*P][C]
                       const uint32_t* __restrict__ dropped,         // [B*P][words], or null
                       const float* __restrict__ normalizer,         // [6][padded]
                       const float* __restrict__ threshold,          // [1]
                       ClampMapping p) {
    SHARED(double, between, COLUMN_BLOCK * 4);
    const Part part = part_of_columns(p.columns);
    const int channels = p.columns.channels;
    const bool aligned = is_aligned(channels);
    const int words = (channels + 31) / 32;
    const float upper = p.is_lif ? *threshold / p.delta_t * p.tau : *threshold;
    double above[4] = {}, sum[4] = {}, product[4] = {};
    float gamma[4] = {}, beta[4] = {};
    if (part.live) {
        load_four(gamma, normalizer + 3 * p.padded + part.c, 4, true);
        load_four(beta, normalizer + 4 * p.padded + part.c, 4, true);
    }
    for (int row = part.first; row < part.end; row += part.step) {
        const size_t at = (size_t)row * channels + part.c;
        float g[4], mean[4], normed[4];
        load_four(g, grad + at, part.live, aligned);
        load_four(mean, mean_normed + at, part.live, aligned);
        if (representation == mean_normed) {
#pragma unroll
            for (int i = 0; i < 4; ++i) normed[i] = mean[i];
        } else {
            load_four(normed, representation + at, part.live, aligned);
        }
        if (dropped != nullptr) {
            const uint32_t bits = dropped[(size_t)row * words + part.c / 32] >> (part.c % 32);
#pragma unroll
            for (int i = 0; i < 4; ++i) g[i] = bits >> i & 1 ? 0.0f : g[i] * p.keep;
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float mean_current = fmaf(gamma[i], normed[i], beta[i]);
            const bool inside = p.is_lif ? mean_current > 0.0f && mean_current < upper : mean_current >= 0.0f && mean_current <= upper;
            above[i] += mean_current > upper ? (double)g[i] : 0.0;
            g[i] = inside ? p.slope * g[i] : 0.0f;
            sum[i] += (double)g[i];
            product[i] = fma((double)g[i], (double)mean[i], product[i]);
        }
        store_four(grad + at, g, part.live, aligned);
    }
    store_partial(partial, 0, above, between, part, p.columns);
    store_partial(partial, 1, sum, between, part, p.columns);
    store_partial(partial, 2, product, between, part, p.columns);
}

// Field for field `ClampReduceArgs` in src/ops/neuron/cuda.rs.
struct ClampReduce {
    double steps;              // T
    double threshold_factor;   // factor of the threshold gradient, times T
    int blocks;                // of rows, in the partial sums
    int rows;                  // B*P
    int channels;
    int padded;
};
static_assert(sizeof(ClampReduce) == 32, "ClampReduce is one layout on both sides");

// Adds the gradients of threshold, gamma and beta; leaves mean g and k. The last block adds up the threshold's.
extern "C" __global__ void __launch_bounds__(256)
clamp_mapping_reduce(float* __restrict__ grad_threshold,      // [1]
                     float* __restrict__ grad_gamma,          // [C]; null without batch norm, as the next three
                     float* __restrict__ grad_beta,           // [C]
                     float* __restrict__ mean,                // [padded]
                     float* __restrict__ k,                   // [padded]
                     const double* __restrict__ partial,      // [3][blocks][C]
                     const float* __restrict__ normalizer,    // [6][padded]
                     ClampReduce p) {
    SHARED(double, between, 256);
    if (blockIdx.x + 1 == gridDim.x) {
        double above = 0.0;
        for (size_t i = threadIdx.x; i < (size_t)p.blocks * p.channels; i += 256) above += partial[i];
        above = block_sum<256>(above);
        if (threadIdx.x == 0) *grad_threshold += (float)(p.threshold_factor * above);
        return;
    }
    if (grad_gamma == nullptr) return;
    const int c = blockIdx.x * 32 + threadIdx.x % 32;
    const double sum = sum_of_partials(partial, 1, p.blocks, p.channels, c, between);
    const double product = sum_of_partials(partial, 2, p.blocks, p.channels, c, between);
    if (threadIdx.x >= 32 || c >= p.channels) return;
    const double rows = p.rows;
    grad_beta[c] += (float)(p.steps * sum);
    grad_gamma[c] += (float)(p.steps * product);
    mean[c] = (float)(sum / rows);
    k[c] = (float)((double)normalizer[5 * p.padded + c] * product / rows);
}

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
    double* bias_partial;      // [blocks of rows][C] sums of plain
};

__device__ __forceinline__ void store_gradient(uint16_t* to, float* to_f32, size_t at, const float (&g)[4], int live, bool aligned) {
    if (to != nullptr) store_four_bf16(to + at, g, live, aligned);
    if (to_f32 != nullptr) store_four(to_f32 + at, g, live, aligned);
}

// Gradient of the current that connections without a norm of their own share. A mean that is null is not subtracted: without batch
// norm none is; `unrolled` leaves the plain gradient at A, the part of it that is constant in time.
extern "C" __global__ void __launch_bounds__(COLUMN_BLOCK)
current_gradient(CurrentGradient out,
                 const float* __restrict__ grad,               // [B*P][C] g
                 const float* __restrict__ normalizer,         // [6][padded]
                 const float* __restrict__ mean,               // [padded]; null without batch norm
                 const float* __restrict__ k,                  // [padded]
                 const float* mean_normed,                     // [B*P][C], or null
                 const float* representation,                  // [B*P][C], or null
                 Columns p, int padded) {
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
            store_gradient(out.weighted, out.weighted_f32, at, weighted, part.live, aligned);
        }
        if (mean_normed != nullptr) subtract_scaled(plain, norm.k, mean_normed + at, part.live, aligned);
        store_gradient(out.plain, out.plain_f32, at, plain, part.live, aligned);
#pragma unroll
        for (int i = 0; i < 4; ++i) bias[i] += (double)plain[i];
    }
    if (out.bias_partial != nullptr) store_partial(out.bias_partial, 0, bias, between, part, p);
}

// Adds the bias gradients of up to two connections, either null.
extern "C" __global__ void __launch_bounds__(256)
bias_reduce(float* __restrict__ grad_bias,                     // [C]
            float* __restrict__ grad_other_bias,               // [C]
            const double* __restrict__ partial,                // [blocks][C]
            int blocks, int channels, float steps) {
    SHARED(double, between, 256);
    const int c = blockIdx.x * 32 + threadIdx.x % 32;
    const double sum = sum_of_partials(partial, 0, blocks, channels, c, between);
    if (threadIdx.x >= 32 || c >= channels) return;
    const float grad = (float)((double)steps * sum);
    if (grad_bias != nullptr) grad_bias[c] += grad;
    if (grad_other_bias != nullptr) grad_other_bias[c] += grad;
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
    for (int row = part.first; row < part.end; row += part.step) {
        const size_t at = (size_t)row * p.channels + part.c;
        float g[4], u[4];
        load_four(g, grad + at, part.live, aligned);
        load_four(u, inner_mean_normed + at, part.live, aligned);
        center(g, norm);
#pragma unroll
        for (int i = 0; i < 4; ++i) product[i] = fma((double)g[i], (double)u[i], product[i]);
    }
    store_partial(partial, 0, product, between, part, p);
}

// Adds the gradients of the own norm's gamma; leaves scale*k and own_k in rows 3 and 4 of `inner`.
extern "C" __global__ void __launch_bounds__(256)
inner_reduce(float* __restrict__ grad_gamma,                   // [C] of the own norm
             float* __restrict__ inner,                        // [5][padded]
             const double* __restrict__ partial,               // [blocks][C]
             const double* __restrict__ correlation,           // [padded]
             const float* __restrict__ k,                      // [padded]
             ClampReduce p) {
    SHARED(double, between, 256);
    const int c = blockIdx.x * 32 + threadIdx.x % 32;
    const double product = sum_of_partials(partial, 0, p.blocks, p.channels, c, between);
    if (threadIdx.x >= 32 || c >= p.channels) return;
    const double rows = p.rows;
    const double covariance = product / rows - (double)k[c] * correlation[c];
    const float scale = inner[2 * p.padded + c];
    grad_gamma[c] += (float)(p.steps * rows * covariance);
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

// Gradient of the current of the connection that has a norm of its own.
extern "C" __global__ void __launch_bounds__(COLUMN_BLOCK)
inner_gradient(CurrentGradient out,
               const float* __restrict__ grad,                 // [B*P][C] g
               const float* __restrict__ normalizer,           // [6][padded]
               const float* __restrict__ mean,                 // [padded]
               const float* __restrict__ k,                    // [padded]
               const float* __restrict__ inner,                // [5][padded]
               InnerMeans means, Columns p, int padded) {
    SHARED(double, between, COLUMN_BLOCK * 4);
    const Part part = part_of_columns(p);
    const bool aligned = is_aligned(p.channels);
    double bias[4] = {};
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
#pragma unroll
        for (int i = 0; i < 4; ++i) weighted[i] = plain[i] = scale[i] * plain[i];
        subtract_scaled(weighted, scaled_k, means.representation + at, part.live, aligned);
        subtract_scaled(weighted, own_k, means.inner_representation + at, part.live, aligned);
        store_gradient(out.weighted, out.weighted_f32, at, weighted, part.live, aligned);
        if (means.mean_normed != nullptr) {
            subtract_scaled(plain, scaled_k, means.mean_normed + at, part.live, aligned);
            subtract_scaled(plain, own_k, means.inner_mean_normed + at, part.live, aligned);
        }
        store_gradient(out.plain, out.plain_f32, at, plain, part.live, aligned);
#pragma unroll
        for (int i = 0; i < 4; ++i) bias[i] += (double)plain[i];
    }
    if (out.bias_partial != nullptr) store_partial(out.bias_partial, 0, bias, between, part, p);
}

KERNEL(neurons, 256)
KERNEL(time_means, 256)
KERNEL(clamp_mapping_backward, 256)
KERNEL(clamp_mapping_reduce, 256)
KERNEL(current_gradient, 256)
KERNEL(bias_reduce, 256)
KERNEL(inner_sums, 256)
KERNEL(inner_reduce, 256)
KERNEL(inner_gradient, 256)
