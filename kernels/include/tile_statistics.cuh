// tile_statistics.cuh: exact statistics of the sums of a tile, added to those of all tiles by atomics.
//
// Equation   batch_norm.cu
// Traffic    6 to 16 atomic additions a column and half a tile
// Exactness  integers in any order: equal to IntegerSums in ops/batch_norm/cpu.rs
#pragma once
#include "spike_tile.cuh"

// Sum of products below 2^62 in magnitude: two of them fit 64 bits, then low and high halves go separate ways.
struct ProductSum {
    unsigned long long low, high;

    __device__ __forceinline__ void add(long long pair) {
        low += (uint32_t)pair;
        high += (unsigned long long)(pair >> 32);
    }
};

// Adds the sums of one tile to `statistics` [8][C]: acc0, acc1, then low and high halves of acc0*acc0, acc0*acc1, acc1*acc1.
// A product's sum is (high << 32) + low in 128 bits. `value(r, both)` gives the two sums of row r; a thread takes a column and 64 rows.
template <class Value>
__device__ __forceinline__ void add_statistics(unsigned long long* __restrict__ statistics, int channels, bool has_second, Value value) {
    const int c = blockIdx.y * COLUMNS + threadIdx.x % COLUMNS;
    const int first_row = threadIdx.x / COLUMNS * (ROWS / 2);
    long long sum[2] = {};
    ProductSum squares = {}, products = {}, second_squares = {};
#pragma unroll 2
    for (int r = first_row; r < first_row + ROWS / 2; r += 2) {
        const int2 a = value(r);
        const int2 b = value(r + 1);
        sum[0] += (long long)a.x + b.x;
        squares.add((long long)a.x * a.x + (long long)b.x * b.x);
        if (has_second) {
            sum[1] += (long long)a.y + b.y;
            products.add((long long)a.x * a.y + (long long)b.x * b.y);
            second_squares.add((long long)a.y * a.y + (long long)b.y * b.y);
        }
    }
    if (c >= channels) return;
    unsigned long long* of_channel = statistics + c;
    atomicAdd(of_channel, (unsigned long long)sum[0]);
    atomicAdd(of_channel + 2 * channels, squares.low);
    atomicAdd(of_channel + 3 * channels, squares.high);
    if (!has_second) return;
    atomicAdd(of_channel + channels, (unsigned long long)sum[1]);
    atomicAdd(of_channel + 4 * channels, products.low);
    atomicAdd(of_channel + 5 * channels, products.high);
    atomicAdd(of_channel + 6 * channels, second_squares.low);
    atomicAdd(of_channel + 7 * channels, second_squares.high);
}
