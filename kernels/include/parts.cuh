// parts.cuh: the K stages of a tile shared by several blocks. Their sums meet in memory, and the block that comes last goes on with them.
//
// Equation   sum of a tile = sum over parts of the sum over the stages of a part
// Launch     parts are gridDim.z; what follows the sums runs in one block of a tile, so all rows of a position must be in that tile
// Use        convolutions take the stages that stages_of_part gives, tiles [convolutions][128][PITCH] lie in shared memory, then
//              if (!meet(parts, tiles, rows, convolutions, has_part)) return;       // all threads of the block call
// Traffic    of a tile and convolution each part adds 4 bytes a sum by atomics of two sums, and the last part exchanges as many for zeros;
//            they stay in L2. The last one waits for a fence, a count and the exchange; where there is one part, for nothing.
// Memory     sums and counters are zero before a launch and after it, so launches of one stream share them, a replayed graph, too;
//            streams that run at the same time must not
// Exactness  integers: any cut and any order give the same bits
#pragma once
#include "spike_tile.cuh"

constexpr int PAIRS = ROWS * COLUMNS / 2;            // of sums of a tile

// Field for field `DeviceParts` in src/ops/spike_conv/parts.rs. Both are null where a tile has one part.
struct Parts {
    unsigned long long* sums;                        // [tiles][convolutions][PAIRS]
    unsigned long long* counters;                    // [tiles]: parts that have come
};
static_assert(sizeof(Parts) == 16, "Parts is one layout on both sides");

// Which of `own` stages this block takes, where its tile has `all` and those come behind `before` others.
__device__ __forceinline__ Stages stages_of_part(int before, int own, int all) {
    const uint32_t part = blockIdx.z, parts = gridDim.z;
    if (parts == 1) return {0, own};
    const int begin = (uint32_t)all * part / parts, end = (uint32_t)all * (part + 1) / parts;
    return {min(max(begin - before, 0), own), min(max(end - before, 0), own)};
}

// Two sums as one integer, so that one addition adds both. A negative low one borrows from the high one, which `sums_of` gives back.
__device__ __forceinline__ unsigned long long pair_of(int2 sums) {
    return (unsigned long long)(long long)sums.x + ((unsigned long long)(uint32_t)sums.y << 32);
}

__device__ __forceinline__ int2 sums_of(unsigned long long pair) {
    const int low = (int)(uint32_t)pair;
    return make_int2(low, (int)(uint32_t)((pair - (unsigned long long)(long long)low) >> 32));
}

// Adds the first `rows` rows of this part's tiles to those of the others; `has_part(k)` says whether it has stages of convolution k.
// True in the block that comes last: its tiles then hold the sums of all parts.
template <class HasPart>
__device__ __forceinline__ bool meet(const Parts& p, unsigned char* tiles, int rows, int convolutions, HasPart has_part) {
    if (gridDim.z == 1) return true;
    SHARED(int, is_last, 1);
    const size_t tile = (size_t)blockIdx.y * gridDim.x + blockIdx.x;
    unsigned long long* sums = p.sums + tile * convolutions * PAIRS;
    auto place = [&](int k, int at) {
        int* tile_of = reinterpret_cast<int*>(tiles + k * TILE_BYTES);
        return reinterpret_cast<int2*>(tile_of + at / (COLUMNS / 2) * PITCH + at % (COLUMNS / 2) * 2);
    };
    const int pairs = rows * (COLUMNS / 2);
    for (int k = 0; k < convolutions; ++k) {
        if (!has_part(k)) continue;
#pragma unroll 4
        for (int at = threadIdx.x; at < pairs; at += ROWS) atomicAdd(sums + k * PAIRS + at, pair_of(*place(k, at)));
    }
    __syncthreads();                                 // every thread has added its sums
    if (threadIdx.x == 0) {
        __threadfence();                             // and they are there before the count
        is_last[0] = atomicAdd(p.counters + tile, 1ull) + 1 == gridDim.z;
        __threadfence();
    }
    __syncthreads();
    if (!is_last[0]) return false;
    for (int k = 0; k < convolutions; ++k) {
#pragma unroll 4
        for (int at = threadIdx.x; at < pairs; at += ROWS) *place(k, at) = sums_of(atomicExch(sums + k * PAIRS + at, 0ull));
    }
    if (threadIdx.x == 0) atomicExch(p.counters + tile, 0ull);
    __syncthreads();
    return true;
}
