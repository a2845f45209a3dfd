// bf16_tile.cuh: one tile of a convolution of real values as a matrix product: ROWS rows times 64 columns, by a block of 4 warps.
//
// Equation   acc[row][n] = sum over taps (jy, jx) and channels k of source[y + SIGN*jy][x + SIGN*jx][k] * w[tap][n][k], over those taps
//            that lie inside of the source; (y, x) is the place of the row
// Shapes     source [..][height][width][channels] bf16;  weights as spike_conv_weights.cu packs them, bf16
//            [64 n][tap][32 k][16 k: 2][16 n: 4][lane]{b0, b1 of the first 8 n, b0, b1 of the second}, zeros where there is no channel
// Pipeline   a stage is 32 channels k of a tap: 64 bytes a row by copy_async, 4 KiB of weights; 3 stages, one barrier each
// Costs      of a stage of 128 x 64: 128 mma.m16n8k16 = 256 cycles of an SM of sm_80; 12 KiB written to shared memory and 24 KiB read
//            = 290 cycles of 128 bytes, so about as long; 12 KiB from L2 at 48 bytes a cycle
// Exactness  products of bf16 are exact, sums are f32 in the order of (tap, channel), 16 at a time: the same bits in every run
#pragma once
#include "device.cuh"

constexpr int COLUMNS = 64;                          // n of a tile
constexpr int DEPTH = 32;                            // channels k of a stage
constexpr int PITCH = DEPTH + 8;                     // elements from row to row: ldmatrix meets no conflict
constexpr int STAGES = 3;
constexpr int FRAGMENTS = DEPTH * COLUMNS / 8;       // uint4 of weights of a stage

// What the rows of a tile read: an image, and the taps of the kernel that reach it.
struct View {
    int height, width, channels;
    int taps_y, taps_x;
    int first_tap;           // in the weights; the others follow at these distances
    int tap_down, tap_right;
    int all_taps;            // that the weights have
};

// A row of the tile: where its first tap reads, and where its sums go.
struct Place {
    int y, x;
    int from;                // element of the source at (y, x)
    int to;                  // element of the output; -1 for a row past the end
};

template <int ROWS>
struct Stage {
    uint4 weights[FRAGMENTS];
    uint16_t source[ROWS * PITCH];
};

// What a stage holds: 32 channels of tap (jy, jx).
struct Step {
    int jy, jx, chunk;
};

__device__ __forceinline__ void advance(Step& step, const View& view, int chunks) {
    if (++step.chunk < chunks) return;
    step.chunk = 0;
    if (++step.jx < view.taps_x) return;
    step.jx = 0;
    ++step.jy;
}

template <int SIGN>
__device__ __forceinline__ bool is_inside(const Place& place, const Step& step, const View& view) {
    return (unsigned)(place.y + SIGN * step.jy) < (unsigned)view.height && (unsigned)(place.x + SIGN * step.jx) < (unsigned)view.width;
}

// Starts to copy a stage. `own` are rows threadIdx.x / 4 + 32*i, of which this thread copies 16 bytes each.
template <int ROWS, bool VECTOR, int SIGN>
__device__ __forceinline__ void load(Stage<ROWS>& stage, const uint16_t* source, const uint4* packed, const Place (&own)[ROWS / 32],
                                     const Place* places, const Step& step, const View& view) {
    const int chunks = (view.channels + DEPTH - 1) / DEPTH;
    const int tap = view.first_tap + step.jy * view.tap_down + step.jx * view.tap_right;
    const uint4* weights = packed + (((size_t)blockIdx.y * view.all_taps + tap) * chunks + step.chunk) * FRAGMENTS;
    copy_async<16>(&stage.weights[threadIdx.x], weights + threadIdx.x, true);
    copy_async<16>(&stage.weights[threadIdx.x + 128], weights + threadIdx.x + 128, true);
    const int of_step = step.chunk * DEPTH + SIGN * (step.jy * view.width + step.jx) * view.channels;
    if (VECTOR) {
        const int part = threadIdx.x % 4 * 8;
        const bool exists = step.chunk * DEPTH + part < view.channels;
#pragma unroll
        for (int i = 0; i < ROWS / 32; ++i) {
            const bool valid = exists && is_inside<SIGN>(own[i], step, view);
            uint16_t* to = &stage.source[(threadIdx.x / 4 + 32 * i) * PITCH + part];
            copy_async<16>(to, valid ? source + own[i].from + of_step + part : source, valid);
        }
    } else {
        const int k = threadIdx.x % 32;
        for (int row = threadIdx.x / 32; row < ROWS; row += 4) {
            const Place place = places[row];
            const bool valid = step.chunk * DEPTH + k < view.channels && is_inside<SIGN>(place, step, view);
            stage.source[row * PITCH + k] = valid ? source[place.from + of_step + k] : 0;
        }
    }
}

// Tile of a warp: ROWS/2 rows times 32 columns.
template <int ROWS>
__device__ __forceinline__ void multiply(float (&acc)[ROWS / 32][4][4], const Stage<ROWS>& stage) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int step = 0; step < 2; ++step) {
        uint32_t a[ROWS / 32][4], b[4][2];
#pragma unroll
        for (int i = 0; i < ROWS / 32; ++i) {
            const int row = warp / 2 * (ROWS / 2) + i * 16 + lane % 16;
            load_matrix_x4(a[i], &stage.source[row * PITCH + step * 16 + lane / 16 * 8]);
        }
#pragma unroll
        for (int pair = 0; pair < 2; ++pair) {
            const uint4 both = stage.weights[(step * 4 + warp % 2 * 2 + pair) * 32 + lane];
            b[2 * pair][0] = both.x, b[2 * pair][1] = both.y;
            b[2 * pair + 1][0] = both.z, b[2 * pair + 1][1] = both.w;
        }
        mma_bf16_tile(acc, a, b);
    }
}

// All taps and channels of a tile. `places` are those of its rows, in shared memory, and have been written before a barrier.
template <int ROWS, bool VECTOR, int SIGN>
__device__ __forceinline__ void convolve(float (&acc)[ROWS / 32][4][4], Stage<ROWS>* stages, const uint16_t* source, const uint4* packed,
                                         const Place* places, const View& view) {
    Place own[ROWS / 32];
#pragma unroll
    for (int i = 0; i < ROWS / 32; ++i) own[i] = places[threadIdx.x / 4 + 32 * i];
    const int chunks = (view.channels + DEPTH - 1) / DEPTH;
    const int steps = view.taps_y * view.taps_x * chunks;
    Step next = {};
#pragma unroll
    for (int i = 0; i < STAGES - 1; ++i) {
        if (i < steps) load<ROWS, VECTOR, SIGN>(stages[i], source, packed, own, places, next, view);
        copy_async_commit();
        advance(next, view, chunks);
    }
    int slot = 0;
    for (int step = 0; step < steps; ++step) {
        copy_async_wait<STAGES - 2>();
        __syncthreads();                             // the stage is there, and the one before is free
        const int free = slot == 0 ? STAGES - 1 : slot - 1;
        if (step + STAGES - 1 < steps) load<ROWS, VECTOR, SIGN>(stages[free], source, packed, own, places, next, view);
        copy_async_commit();
        advance(next, view, chunks);
        multiply<ROWS>(acc, stages[slot]);
        slot = slot == STAGES - 1 ? 0 : slot + 1;
    }
}

// Two neighbours of a row, `n` and `n + 1` of `columns`.
__device__ __forceinline__ void store_pair(float* __restrict__ to, float value, float next, int n, int columns, bool add) {
    if (columns % 2 == 0) {
        if (n >= columns) return;
        float2 pair = make_float2(value, next);
        if (add) {
            const float2 before = *(const float2*)to;
            pair.x += before.x, pair.y += before.y;
        }
        *(float2*)to = pair;
        return;
    }
    if (n < columns) to[0] = add ? to[0] + value : value;
    if (n + 1 < columns) to[1] = add ? to[1] + next : next;
}

// Sets the places of a tile in rows of `columns` values, or adds to them.
template <int ROWS>
__device__ __forceinline__ void store(float* __restrict__ out, const float (&acc)[ROWS / 32][4][4], const Place* places, int columns,
                                      bool add) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int i = 0; i < ROWS / 32; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int to = places[warp / 2 * (ROWS / 2) + i * 16 + half * 8 + lane / 4].to;
            if (to < 0) continue;
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const int n = blockIdx.y * COLUMNS + warp % 2 * 32 + j * 8 + lane % 4 * 2;
                store_pair(out + to + n, acc[i][j][2 * half], acc[i][j][2 * half + 1], n, columns, add);
            }
        }
    }
}
