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
//            statistics_of_real: block 64, grid (ceil(C/64), B); normalizers: block 64, grid padded/64, of running_normalizer
//            (widest padded/64, layers); where asked, the last block of statistics_of_sums and _pairs does what batch_normalizer would
//            (normalizer.cuh)
// Traffic    statistics_of_sums reads 4 bytes a value (bits: 1/8), of_pairs 8; normalize_rows reads 4 (pairs 8), writes 2:
//            memory-bound
// Exactness  integers in any order are the same bits; real sums in the order of positions, then samples; f64 per channel operation by
//            operation as ops/batch_norm/normalizer.rs: everything here equals the CPU bit for bit
// Tests      tests/batch_norm_cuda.rs

#include "include/columns.cuh"
#include "include/normalizer.cuh"
#include "include/summand.cuh"

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
                   IntegerSummand first, Columns p, Finish finish) {
    statistics_of_integers<false>(statistics, first, first, p);
    finish_statistics(finish);
}

extern "C" __global__ void __launch_bounds__(COLUMN_BLOCK)
statistics_of_pairs(unsigned long long* __restrict__ statistics,  // [8][C]
                    IntegerSummand first, IntegerSummand second, Columns p, Finish finish) {
    statistics_of_integers<true>(statistics, first, second, p);
    finish_statistics(finish);
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

// Training: constants from the statistics of this batch; updates the running statistics.
extern "C" __global__ void __launch_bounds__(64)
batch_normalizer(float* __restrict__ normalizer,      // [6][padded]
                 float* __restrict__ inner,           // [5][padded]: factor, offset, scale are written; null without an inner norm
                 double* __restrict__ correlation,    // [padded]: mean(xhat * uhat); null without an inner norm
                 NormalizerArgs p) {
    const int c = blockIdx.x * 64 + threadIdx.x;
    if (c >= p.padded) return;
    batch_constants(normalizer, inner, correlation, p, c, [&](size_t i) { return p.integers[i]; });
}

// A layer of `running_normalizer`, field for field `RunningLayer` in src/ops/batch_norm/cuda.rs.
struct RunningLayer {
    float* normalizer;                   // [6][padded]
    NormalizerArgs args;
};
static_assert(sizeof(RunningLayer) == 200, "RunningLayer is one layout on both sides");

// Evaluation: constants of all layers from the running statistics.
extern "C" __global__ void __launch_bounds__(64)
running_normalizer(const RunningLayer* __restrict__ layers) {
    float* normalizer = layers[blockIdx.y].normalizer;
    const NormalizerArgs& p = layers[blockIdx.y].args;
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
