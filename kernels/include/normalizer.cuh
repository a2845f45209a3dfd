// normalizer.cuh: the constants of a layer, a channel a thread, from the statistics of a batch or from running ones.
//
// Equation   batch_norm.cu
// Use        batch_constants(normalizer, inner, correlation, args, c, read) for each c below args.padded; `read(i)` gives statistic i of
//            integer sums. A kernel that collects such statistics ends with finish_statistics, so that its last block does it.
// Exactness  f64, operation by operation as ops/batch_norm/normalizer.rs
#pragma once
#include "device.cuh"

constexpr double EPS = 1e-5;
constexpr double MOMENTUM = 0.1;

// What one connection contributes; field for field `ContributionArgs` in src/ops/batch_norm/cuda.rs.
struct Contribution {
    const float* threshold;        // of the source layer; null for real values, whose unit is 1
    const float* weight_scale;     // [C] power-of-two scale of fixed-point weights; null where there are none
    const float* bias;             // [C]; null without
    float keep;                    // 1 - dropout of the source in training, else 1
    int area;                      // of the pool window
};

// Parameters and running statistics of a batch norm; all null where there is none.
struct NormState {
    const float* gamma;            // [C]
    const float* beta;             // [C]
    float* running_mean;           // [C]
    float* running_var;            // [C], unbiased
};

// Field for field `NormalizerArgs` in src/ops/batch_norm/cuda.rs.
struct NormalizerArgs {
    Contribution connections[2];
    NormState norm;
    NormState inner;               // of connection `inner_at` alone
    const long long* integers;     // [8][C] statistics of integer sums, or
    const double* reals;           // [samples][2][C] of real ones, or
    const double* pair;            // [5][C] of real values of an ANN: batch_norm_values.cu
    long long values;              // values a channel that the statistics saw: B*P*frames
    double n;                      // values a channel: B*P*T
    int samples;
    int count;                     // connections: 1 or 2
    int channels;
    int inner_at;
    int padded;
    float delta_t;                 // LIF; 0 for IF
};
static_assert(sizeof(Contribution) == 32 && sizeof(NormState) == 32, "one layout on both sides");
static_assert(sizeof(NormalizerArgs) == 192, "NormalizerArgs is one layout on both sides");

// Rounds to nearest, ties to even, as every conversion here; written out because no library promises it for 128 bits.
__device__ double to_double(__int128 value) {
    const bool negative = value < 0;
    const unsigned __int128 magnitude = negative ? -(unsigned __int128)value : (unsigned __int128)value;
    const unsigned long long high = (unsigned long long)(magnitude >> 64), low = (unsigned long long)magnitude;
    const int width = high ? 128 - __clzll((long long)high) : low ? 64 - __clzll((long long)low) : 0;
    double result;
    if (width <= 53) {
        result = (double)low;
    } else {
        const int shift = width - 53;
        const unsigned __int128 rest = magnitude & (((unsigned __int128)1 << shift) - 1);
        const unsigned __int128 half = (unsigned __int128)1 << (shift - 1);
        unsigned long long mantissa = (unsigned long long)(magnitude >> shift);
        if (rest > half || (rest == half && (mantissa & 1))) mantissa += 1;
        // At most 2^53 times two powers of two: exact.
        result = (double)mantissa * (double)(1ull << (shift / 2)) * (double)(1ull << (shift - shift / 2));
    }
    return negative ? -result : result;
}

// Value of one unit of each connection's sum, summed biases; as `contribution` in ops/batch_norm/normalizer.rs.
struct Units {
    double unit[2];
    double constant;
    double inner_bias;
};

__device__ Units units_of(const NormalizerArgs& p, int c) {
    Units units = {};
#pragma unroll
    for (int k = 0; k < 2; ++k) {
        const Contribution& connection = p.connections[k];
        if (k >= p.count) continue;
        double unit = 1.0;
        if (connection.threshold) {
            const float threshold = *connection.threshold;
            const float value = (p.delta_t > 0.0f ? threshold / p.delta_t : threshold) / connection.keep;
            unit = (double)value / (double)connection.area;
        }
        if (connection.weight_scale) unit *= (double)connection.weight_scale[c];
        if (connection.bias) {
            const double bias = connection.bias[c];
            if (p.inner.gamma && p.inner_at == k) {
                units.inner_bias += bias;
            } else {
                units.constant += bias;
            }
        }
        units.unit[k] = unit;
    }
    return units;
}

// Without an index that is only known here, so that the units stay in registers.
__device__ __forceinline__ void set_inner_unit(Units& units, int k, double value) {
    if (k == 0) units.unit[0] = value;
    if (k == 1) units.unit[1] = value;
}

// Means of the two sums; variances and covariance of them, biased.
struct Moments {
    double mean[2];
    double var[3];
};

// `of_channel` gives a row of the statistics.
template <class OfChannel>
__device__ double covariance(const NormalizerArgs& p, int row, int x, int y, OfChannel of_channel) {
    const __int128 product = ((__int128)of_channel(row + 1) << 32) + of_channel(row);
    const __int128 both = (__int128)of_channel(x) * of_channel(y);
    return to_double((__int128)p.values * product - both) / (double)p.values / (double)p.values;
}

template <class Read>
__device__ Moments moments_of(const NormalizerArgs& p, int c, Read read) {
    Moments moments = {};
    const double values = (double)p.values;
    if (p.reals) {
        double sum = 0.0, squares = 0.0;
        for (int b = 0; b < p.samples; ++b) {
            sum += p.reals[(size_t)b * 2 * p.channels + c];
            squares += p.reals[((size_t)b * 2 + 1) * p.channels + c];
        }
        moments.mean[0] = sum / values;
        moments.var[0] = fmax(squares / values - moments.mean[0] * moments.mean[0], 0.0);
        return moments;
    }
    if (p.pair) {
        const double* sums = p.pair + c;
        const size_t channels = p.channels;
        const double x = sums[0] / values, y = sums[channels] / values;
        moments.mean[0] = x, moments.mean[1] = y;
        moments.var[0] = fmax(sums[2 * channels] / values - x * x, 0.0);
        moments.var[1] = sums[3 * channels] / values - x * y;
        moments.var[2] = fmax(sums[4 * channels] / values - y * y, 0.0);
        return moments;
    }
    auto of_channel = [&](int row) { return read(row * (size_t)p.channels + c); };
    moments.mean[0] = (double)of_channel(0) / values;
    moments.mean[1] = (double)of_channel(1) / values;
    moments.var[0] = covariance(p, 2, 0, 0, of_channel);
    moments.var[1] = covariance(p, 4, 0, 1, of_channel);
    moments.var[2] = covariance(p, 6, 1, 1, of_channel);
    return moments;
}

__device__ void blend(float& running, double value) { running = (float)((1.0 - MOMENTUM) * (double)running + MOMENTUM * value); }

__device__ void update_running(const NormState& norm, double mean, double var, double n, int c) {
    const double unbiased = n > 1.0 ? n / (n - 1.0) : 1.0;
    blend(norm.running_mean[c], mean);
    blend(norm.running_var[c], var * unbiased);
}

__device__ void write_normalizer(float* normalizer, const NormalizerArgs& p, int c, const double (&factor)[2], double offset, float gamma,
                                 float beta, double scale) {
    const size_t padded = p.padded;
    normalizer[c] = (float)factor[0];
    normalizer[padded + c] = (float)factor[1];
    normalizer[2 * padded + c] = (float)offset;
    normalizer[3 * padded + c] = gamma;
    normalizer[4 * padded + c] = beta;
    normalizer[5 * padded + c] = (float)scale;
}

// From mean and variance of a layer's current (mean without the constant) to its constants.
__device__ void write_normed(float* normalizer, const NormalizerArgs& p, const double (&unit)[2], double mean, double var, int c) {
    const float gamma = p.norm.gamma[c];
    const double inv = 1.0 / sqrt(var + EPS);
    const double factor[2] = {inv * unit[0], inv * unit[1]};
    write_normalizer(normalizer, p, c, factor, -inv * mean, gamma, p.norm.beta[c], inv * (double)gamma);
}

// A layer without batch norm: its current is the sum itself. Channels that do not exist become zeros.
__device__ bool is_without_norm(float* normalizer, const NormalizerArgs& p, const Units& units, int c) {
    if (c >= p.channels) {
        const double none[2] = {0.0, 0.0};
        write_normalizer(normalizer, p, c, none, 0.0, 0.0f, 0.0f, 0.0);
        return true;
    }
    if (!p.norm.gamma) {
        write_normalizer(normalizer, p, c, units.unit, units.constant, 1.0f, 0.0f, 1.0);
        return true;
    }
    return false;
}

// Training: constants of channel c from the statistics of this batch; updates the running statistics.
template <class Read>
__device__ __forceinline__ void batch_constants(float* normalizer, float* inner, double* correlation, const NormalizerArgs& p, int c,
                                                Read read) {
    Units units = {};
    if (c < p.channels) units = units_of(p, c);
    if (is_without_norm(normalizer, p, units, c)) return;
    const Moments moments = moments_of(p, c, read);
    const int k = p.inner_at;
    double inner_factor = 0.0;
    if (p.inner.gamma) {
        const double unit = k ? units.unit[1] : units.unit[0];
        const double mean = unit * (k ? moments.mean[1] : moments.mean[0]);
        const double var = unit * unit * (k ? moments.var[2] : moments.var[0]);
        update_running(p.inner, mean + units.inner_bias, var, p.n, c);
        const double inv = 1.0 / sqrt(var + EPS);
        inner_factor = inv * unit;
        const double scale = inv * (double)p.inner.gamma[c];
        set_inner_unit(units, k, unit * scale);
        units.constant += (double)p.inner.beta[c] - scale * mean;
        inner[c] = (float)inner_factor;
        inner[(size_t)p.padded + c] = (float)(-inv * mean);
        inner[2 * (size_t)p.padded + c] = (float)scale;
    }
    const double a = units.unit[0], b = units.unit[1];
    const double mean = a * moments.mean[0] + b * moments.mean[1];
    const double var = fmax(a * a * moments.var[0] + 2.0 * a * b * moments.var[1] + b * b * moments.var[2], 0.0);
    update_running(p.norm, mean + units.constant, var, p.n, c);
    if (p.inner.gamma) {
        // cov(x, u) / (sigma_x sigma_u), with cov(acc_j, acc_k) = var[j + k]
        const double of_first = k ? moments.var[1] : moments.var[0], of_second = k ? moments.var[2] : moments.var[1];
        correlation[c] = inner_factor * (a * of_first + b * of_second) / sqrt(var + EPS);
    }
    write_normed(normalizer, p, units.unit, mean, var, c);
}

// What the last block of a kernel needs that collects the statistics of integer sums; field for field `FinishArgs` in
// src/ops/batch_norm/cuda.rs. Without counters there is nothing to finish.
struct Finish {
    float* normalizer;                 // as batch_normalizer's
    float* inner;
    double* correlation;
    unsigned long long* counters;      // [64 channels], zero before: blocks that have added theirs
    NormalizerArgs args;
};
static_assert(sizeof(Finish) == 224, "Finish is one layout on both sides");

// Ends a kernel whose blocks (., y) have all added to the statistics of the channels 64y.. by atomics: the last of them computes their
// constants. Which one it is does not matter, since the sums are integers; they are read by atomics, too, where those of other blocks
// arrive. All threads of the block must call it.
__device__ __forceinline__ void finish_statistics(const Finish& p) {
    if (p.counters == nullptr) return;
    SHARED(int, is_last, 1);
    __syncthreads();                                     // every thread has added its sums
    if (threadIdx.x == 0) {
        __threadfence();                                 // and they are there before the count
        is_last[0] = atomicAdd(p.counters + blockIdx.y, 1ull) + 1 == gridDim.x;
        __threadfence();
    }
    __syncthreads();
    if (!is_last[0] || threadIdx.x >= 64) return;
    unsigned long long* statistics = (unsigned long long*)p.args.integers;
    batch_constants(p.normalizer, p.inner, p.correlation, p.args, blockIdx.y * 64 + threadIdx.x,
                    [&](size_t i) { return (long long)atomicAdd(statistics + i, 0ull); });
}
