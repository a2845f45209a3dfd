// batch_norm_values.cu: statistics of the currents of a layer of an ANN, which are real values.
//
// Equation   sums of x, y, x^2, x*y, y^2 over all rows, a channel; y is the current of a second connection
// Shapes     x, y [rows][pitch] f32, rows = B*P;  partial [5][blocks of rows][C] f64;  sums [5][C] f64, rows 1, 3 and 4 zero without y
// Launch     statistics_of_values, _of_value_pairs: columns.cuh, grid (blocks of rows, ceil(C / 4 quads));
//            reduce_statistics: block 256, grid ceil(C/32)
// Traffic    reads 4 bytes a value (pairs 8): memory-bound
// Exactness  f32 values are added as f64 in an order that shapes alone decide: the same bits in every run; the CPU has another order
// Tests      tests/batch_norm_values_cuda.rs

#include "include/columns.cuh"
#include "include/summand.cuh"

template <bool PAIR>
__device__ __forceinline__ void statistics(double* __restrict__ partial, const RealRows& first, const RealRows& second, const Columns& p) {
    SHARED(double, between, COLUMN_BLOCK * 4);
    const Part part = part_of_columns(p);
    const bool aligned = is_aligned((int)first.pitch), other_aligned = is_aligned((int)second.pitch);
    double x_sum[4] = {}, y_sum[4] = {}, xx[4] = {}, xy[4] = {}, yy[4] = {};
#pragma unroll 1                                           // a 16-byte load a thread keeps memory busy; more cost registers
    for (int row = part.first; row < part.end; row += part.step) {
        float x[4], y[4];
        load_four(x, first.values + row * first.pitch + part.c, part.live, aligned);
        if (PAIR) load_four(y, second.values + row * second.pitch + part.c, part.live, other_aligned);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const double value = x[i];
            x_sum[i] += value;
            xx[i] = fma(value, value, xx[i]);
            if (PAIR) {
                const double other = y[i];
                y_sum[i] += other;
                xy[i] = fma(value, other, xy[i]);
                yy[i] = fma(other, other, yy[i]);
            }
        }
    }
    store_partial(partial, 0, x_sum, between, part, p);
    store_partial(partial, 2, xx, between, part, p);
    if (PAIR) {
        store_partial(partial, 1, y_sum, between, part, p);
        store_partial(partial, 3, xy, between, part, p);
        store_partial(partial, 4, yy, between, part, p);
    }
}

extern "C" __global__ void __launch_bounds__(COLUMN_BLOCK)
statistics_of_values(double* __restrict__ partial,             // [5][blocks of rows][C]
                     RealRows first, Columns p) {
    statistics<false>(partial, first, first, p);
}

extern "C" __global__ void __launch_bounds__(COLUMN_BLOCK)
statistics_of_value_pairs(double* __restrict__ partial,        // [5][blocks of rows][C]
                          RealRows first, RealRows second, Columns p) {
    statistics<true>(partial, first, second, p);
}

extern "C" __global__ void __launch_bounds__(256)
reduce_statistics(double* __restrict__ sums,                   // [5][C]
                  const double* __restrict__ partial,          // [5][blocks][C]
                  int blocks, int channels, int is_pair) {
    SHARED(double, between, 256);
    const int c = blockIdx.x * 32 + threadIdx.x % 32;
    for (int quantity = 0; quantity < 5; ++quantity) {
        const bool exists = is_pair || quantity == 0 || quantity == 2;     // the same for the whole block
        const double sum = exists ? sum_of_partials(partial, quantity, blocks, channels, c, between) : 0.0;
        if (threadIdx.x < 32 && c < channels) sums[(size_t)quantity * channels + c] = sum;
    }
}

KERNEL(statistics_of_values, 256)
KERNEL(statistics_of_value_pairs, 256)
KERNEL(reduce_statistics, 256)
