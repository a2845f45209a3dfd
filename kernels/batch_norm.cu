// batch_norm.cu: batch norm over T*B*H*W: statistics of a layer's sums, its constants per channel, its normalised currents.
//
// Equation   x = unit0*acc0 + unit1*acc1 + constant;  xhat = (x - mean x)/sqrt(var x + eps) = factor0*acc0 + factor1*acc1 + offset
//            the current is gamma*xhat + beta; a connection with a norm of its own only changes its unit and the constant
// Shapes     sums [B*P*T][stride] i32 or bits [B*P*T][words] u32; real sums [B][P*frames][stride] f32; stride = C rounded up to 16
//            statistics [8][C] i64: sums acc0, acc1; then for acc0^2, acc0*acc1, acc1^2 the sum of the low 32 bits (unsigned) and of
//            the high 32 bits (p >> 32) of every product; real statistics [B][2][C] f64: sums, squares
//            normalizer [6][padded] f32: factor0, factor1, offset, gamma, beta, scale = gamma/sigma; padded = C rounded up to 64
//            inner [5][padded] f32: factor, offset, scale of the connection's own norm, and two rows for batch_norm_backward.cu
// Launch     statistics_of_sums, _pairs, normalize_rows: columns.cuh, grid (blocks of rows, ceil(C / 4 quads))
//            statistics_of_real: block 64, grid (ceil(C/64), B); normalizers: block 64, grid padded/64
// Traffic    statistics_of_sums reads 4 bytes a value (bits: 1/8), of_pairs 8; normalize_rows reads 4 (pairs 8), writes 2:
//            memory-bound
// Exactness  integers in any order are the same bits; real sums in the order of positions, then samples; f64 per channel operation by
//            operation as ops/batch_norm/normalizer.rs: everything here equals the CPU bit for bit
// Tests      tests/batch_norm_cuda.rs

#include "include/columns.cuh"
#include "include/summand.cuh"

constexpr double EPS = 1e-5;
constexpr double MOMENTUM = 0.1;

// --- Statistics ---------------------------------------------------------------------------------------------------------------------

// Sum of products, none of which is lost: a product has less than 64 bits, low and high halves are added apart.
struct ProductSum {
    long long low[4], high[4];
};

__device__ __forceinline__ void add_products(ProductSum& sum, const int (&x)[4], const int (&y)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const long long product = (long long)x[i] * y[i];
        sum.low[i] += (uint32_t)product;
        sum.high[i] += product >> 32;
    }
}

__device__ __forceinline__ void add_to_statistics(unsigned long long* statistics, int row, const long long (&own)[4], long long* between,
                                                  const Part& part, const Columns& p) {
    const long long sum = sum_of_lanes(own, between, part, p);
    const int c = blockIdx.y * p.quads * 4 + threadIdx.x;
    if (threadIdx.x < p.quads * 4 && c < p.channels) atomicAdd(&statistics[row * (size_t)p.channels + c], (unsigned long long)sum);
}

template <bool PAIR>
__device__ __forceinline__ void statistics_of_integers(unsigned long long* __restrict__ statistics, const IntegerSummand& first,
                                                       const IntegerSummand& second, const Columns& p) {
    SHARED(long long, between, COLUMN_BLOCK * 4);
    const Part part = part_of_columns(p);
    long long sum0[4] = {}, sum1[4] = {};
    ProductSum square0 = {}, both = {}, square1 = {};
    for (int row = part.first; row < part.end; row += part.step) {
        int x[4], y[4];
        load_four_sums(x, first, row, part.c);
#pragma unroll
        for (int i = 0; i < 4; ++i) sum0[i] += x[i];
        add_products(square0, x, x);
        if (PAIR) {
            load_four_sums(y, second, row, part.c);
#pragma unroll
            for (int i = 0; i < 4; ++i) sum1[i] += y[i];
            add_products(both, x, y);
            add_products(square1, y, y);
        }
    }
    add_to_statistics(statistics, 0, sum0, between, part, p);
    add_to_statistics(statistics, 2, square0.low, between, part, p);
    add_to_statistics(statistics, 3, square0.high, between, part, p);
    if (PAIR) {
        add_to_statistics(statistics, 1, sum1, between, part, p);
        add_to_statistics(statistics, 4, both.low, between, part, p);
        add_to_statistics(statistics, 5, both.high, between, part, p);
        add_to_statistics(statistics, 6, square1.low, between, part, p);
        add_to_statistics(statistics, 7, square1.high, between, part, p);
    }
}

// Adds to statistics that were zeroed before; the rows of the second summand stay zero.
extern "C" __global__ void __launch_bounds__(COLUMN_BLOCK)
statistics_of_sums(unsigned long long* __restrict__ statistics,   // [8][C]
                   IntegerSummand first, Columns p) {
    statistics_of_integers<false>(statistics, first, first, p);
}

extern "C" __global__ void __launch_bounds__(COLUMN_BLOCK)
statistics_of_pairs(unsigned long long* __restrict__ statistics,  // [8][C]
                    IntegerSummand first, IntegerSummand second, Columns p) {
    statistics_of_integers<true>(statistics, first, second, p);
}

struct RealStatistics {
    int rows;            // P * frames of a sample
    int channels;
    int stride;
};

// One thread a sample and channel: f32 sums are added as f64 in the order of positions, which is the specification.
extern "C" __global__ void __launch_bounds__(64)
statistics_of_real(double* __restrict__ statistics,               // [B][2][C]
                   const float* __restrict__ sums,                // [B][rows][stride]
                   RealStatistics p) {
    const int c = blockIdx.x * 64 + threadIdx.x;
    if (c >= p.channels) return;
    const int b = blockIdx.y;
    const float* x = sums + (size_t)b * p.rows * p.stride + c;
    double sum = 0.0, squares = 0.0;
#pragma unroll 8
    for (int row = 0; row < p.rows; ++row) {
        const double v = x[(size_t)row * p.stride];
        sum += v;
        squares = fma(v, v, squares);
    }
    statistics[(size_t)b * 2 * p.channels + c] = sum;
    statistics[((size_t)b * 2 + 1) * p.channels + c] = squares;
}

// --- Constants per channel ----------------------------------------------------------------------------------------------------------

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

__device__ double covariance(const NormalizerArgs& p, int row, int x, int y, int c) {
    const long long* statistics = p.integers + c;
    const size_t channels = p.channels;
    const __int128 product = ((__int128)statistics[(row + 1) * channels] << 32) + statistics[row * channels];
    const __int128 both = (__int128)statistics[x * channels] * statistics[y * channels];
    return to_double((__int128)p.values * product - both) / (double)p.values / (double)p.values;
}

__device__ Moments moments_of(const NormalizerArgs& p, int c) {
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
    moments.mean[0] = (double)p.integers[c] / values;
    moments.mean[1] = (double)p.integers[p.channels + c] / values;
    moments.var[0] = covariance(p, 2, 0, 0, c);
    moments.var[1] = covariance(p, 4, 0, 1, c);
    moments.var[2] = covariance(p, 6, 1, 1, c);
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

// Training: constants from the statistics of this batch; updates the running statistics.
extern "C" __global__ void __launch_bounds__(64)
batch_normalizer(float* __restrict__ normalizer,      // [6][padded]
                 float* __restrict__ inner,           // [5][padded]: factor, offset, scale are written; null without an inner norm
                 double* __restrict__ correlation,    // [padded]: mean(xhat * uhat); null without an inner norm
                 NormalizerArgs p) {
    const int c = blockIdx.x * 64 + threadIdx.x;
    if (c >= p.padded) return;
    Units units = {};
    if (c < p.channels) units = units_of(p, c);
    if (is_without_norm(normalizer, p, units, c)) return;
    const Moments moments = moments_of(p, c);
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

// Evaluation: constants from the running statistics.
extern "C" __global__ void __launch_bounds__(64)
running_normalizer(float* __restrict__ normalizer,    // [6][padded]
                   NormalizerArgs p) {
    const int c = blockIdx.x * 64 + threadIdx.x;
    if (c >= p.padded) return;
    Units units = {};
    if (c < p.channels) units = units_of(p, c);
    if (c < p.channels && p.inner.gamma) {
        const double scale = (double)p.inner.gamma[c] / sqrt((double)p.inner.running_var[c] + EPS);
        set_inner_unit(units, p.inner_at, (p.inner_at ? units.unit[1] : units.unit[0]) * scale);
        units.constant += (double)p.inner.beta[c] + scale * (units.inner_bias - (double)p.inner.running_mean[c]);
    }
    if (is_without_norm(normalizer, p, units, c)) return;
    write_normed(normalizer, p, units.unit, (double)p.norm.running_mean[c] - units.constant, (double)p.norm.running_var[c], c);
}

// --- Normalised currents ------------------------------------------------------------------------------------------------------------

// The normalised current of every step as bf16, for the weight gradient that does not collapse over time.
extern "C" __global__ void __launch_bounds__(COLUMN_BLOCK)
normalize_rows(uint16_t* __restrict__ normed,         // [rows][C] bf16; rows = B*P*frames
               const float* __restrict__ factor0,     // [padded], as the next two
               const float* __restrict__ factor1,     // read where there is a second summand
               const float* __restrict__ offset,
               AnySummand first, IntegerSummand second, Columns p) {
    const Part part = part_of_columns(p);
    if (!part.live) return;
    const bool pair = second.values != nullptr;
    const bool aligned = is_aligned(p.channels);
    float factor[4], other_factor[4] = {}, rest[4];
    load_four(factor, factor0 + part.c, 4, true);
    load_four(rest, offset + part.c, 4, true);
    if (pair) load_four(other_factor, factor1 + part.c, 4, true);
    for (int row = part.first; row < part.end; row += part.step) {
        float x[4];
        int y[4];
        load_four_values(x, first, row, part.c);
        if (pair) load_four_sums(y, second, row, part.c);
#pragma unroll
        for (int i = 0; i < 4; ++i) x[i] = fmaf(factor[i], x[i], pair ? fmaf(other_factor[i], (float)y[i], rest[i]) : rest[i]);
        store_four_bf16(normed + (size_t)row * p.channels + part.c, x, part.live, aligned);
    }
}

KERNEL(statistics_of_sums, 256)
KERNEL(statistics_of_pairs, 256)
KERNEL(statistics_of_real, 64)
KERNEL(batch_normalizer, 64)
KERNEL(running_normalizer, 64)
KERNEL(normalize_rows, 256)
