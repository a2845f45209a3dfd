// spike_tile.cuh: one tile of the spiking convolution: 128 rows (position, step) times 64 output channels, by 4 warps.
//
// Equation   acc[row][o] += sum over K of source[row][k] * q[k][o],  q = 256*hi + lo in two passes (8 bits: one)
// Shapes     a K step is 32 channels of a tap; weights in the order of spike_conv_weights.cu, 4096 (2048) bytes a step
// Pipeline   a stage is two K steps; 4 stages (3 of counts) in flight by copy_async, one barrier a stage
// Costs      of one K step with 16-bit weights (8 bits: half the tensor cycles, half the weights):
//              tensor   128 mma.m16n8k32 = 256 cycles of an SM of sm_80, 512 of sm_86, 89 and 120, at best 128 of sm_90
//              shared   116 cycles: 64 to read weights (each warp half of them), 16 to read spikes, 36 for what the copies write
//              issue    110 of a scheduler by the SASS of sm_80 (8 bits: 91; of counts: 92), 14 more where channels in are no multiple of
//                       64: 32 mma, 32 to expand bits, 8 loads, the rest copies and their addresses
//              L2       4096 bytes of weights and 512 of spikes: 18 bytes a cycle and SM on sm_80; on sm_90 at its full rate 36, about
//                       what its L2 gives
//            With two blocks an SM the tensor cores are the limit; below 64 output channels a tile is partly empty.
// Bits       word >> (2*j + r) & 0x01010101 gives the bytes of register r of lane 4*g + j: channels {0, 8, 16, 24} + 2*j + r. A sum does
//            not depend on the order of K, so spike_conv_weights.cu packs the same order, and an operand register costs two instructions.
#pragma once
#include <climits>
#include "device.cuh"
#include "geometry.cuh"

constexpr int ROWS = 128;                            // of a tile; one thread copies one row
constexpr int COLUMNS = 64;                          // output channels of a tile
constexpr int PITCH = COLUMNS + 8;                   // words from row to row of a tile of sums: stores of fragments meet no conflict
constexpr int TILE_BYTES = ROWS * PITCH * 4;
constexpr int BYTES_PITCH = 64 + 16;                 // bytes from row to row of staged counts: ldmatrix meets no conflict

// K stages of a convolution that a block takes: two K steps each, of which the last may be half empty.
struct Stages {
    int begin, end;
};

__device__ __forceinline__ int stages_of(const Geometry& g) { return (g.kernel_h * g.kernel_w * ((g.cin + 31) / 32) + 1) / 2; }

// What one row of a tile is.
struct Row {
    bool live;
    int q, t;               // position of the batch, step
};

// `Sum` is int, or float where products are those of spike_bf16.cuh.
template <int WEIGHT_BITS, class Sum = int>
struct Accumulators {
    Sum of[WEIGHT_BITS / 8][4][4][4];                // [hi, lo][16 rows][8 columns][fragment] of a warp's 64 x 32
};

// Two K steps of a tile in shared memory, the source's rows first.
template <int WEIGHT_BITS, bool OF_BYTES>
struct Stage {
    static constexpr int SOURCE = OF_BYTES ? ROWS * BYTES_PITCH : ROWS * 8;
    static constexpr int WEIGHTS = 2 * COLUMNS * 32 * WEIGHT_BITS / 8;
    static constexpr int COUNT = OF_BYTES ? 3 : 4;
};

// Copies the stages of one summand, in order; each thread its row and its share of the weights.
template <int WEIGHT_BITS, bool OF_BYTES>
struct Loader {
    using Size = Stage<WEIGHT_BITS, OF_BYTES>;
    static constexpr int UNIT = OF_BYTES ? 32 : 4;   // bytes of 32 channels
    const unsigned char* source;
    const uint4* weights;                            // this thread's share of the next stage
    long long from;                                  // bytes from `source` to what the next K step reads
    int y, x;                                        // pooled position that it reads; a row that is not live has none
    int pooled_h, pooled_w, kernel_w, words;
    int position_bytes;                              // of all steps of a position
    int kx, word, steps;                             // of the next K step; K steps that are left

    __device__ __forceinline__ Loader(const unsigned char* source, const uint4* weights, const Geometry& g, Row row, int time_steps)
        : source(source), pooled_h(g.pooled_h), pooled_w(g.pooled_w), kernel_w(g.kernel_w), words((g.cin + 31) / 32), kx(0), word(0) {
        const uint32_t positions = g.out_h * g.out_w;
        const int b = (uint32_t)row.q / positions;
        const uint32_t p = (uint32_t)row.q % positions;
        y = (int)(p / g.out_w) * g.stride - g.pad;
        x = (int)(p % g.out_w) * g.stride - g.pad;
        position_bytes = time_steps * words * UNIT;
        from = (((long long)b * pooled_h + y) * pooled_w + x) * position_bytes + row.t * words * UNIT;
        if (!row.live) y = INT_MIN / 2;
        steps = g.kernel_h * kernel_w * words;
        this->weights = weights + (size_t)blockIdx.y * ((steps + 1) / 2) * (Size::WEIGHTS / 16) + threadIdx.x;
    }

    // From the first stage to another one.
    __device__ __forceinline__ void skip(int stages) {
        const int tap = 2 * stages / words, ky = tap / kernel_w;
        word = 2 * stages % words;
        kx = tap % kernel_w;
        y += ky;
        x += kx;
        from += ((long long)ky * pooled_w + kx) * position_bytes + word * UNIT;
        steps -= 2 * stages;
        weights += stages * (Size::WEIGHTS / 16);
    }

    __device__ __forceinline__ bool inside() const {
        return steps > 0 && (unsigned)y < (unsigned)pooled_h && (unsigned)x < (unsigned)pooled_w;
    }

    __device__ __forceinline__ void advance(int by) {
        from += by * UNIT;
        word += by;
        steps -= by;
        if (word < words) return;
        word = 0;
        from += position_bytes - words * UNIT;
        ++x;
        if (++kx < kernel_w) return;
        kx = 0;
        from += (long long)(pooled_w - kernel_w) * position_bytes;
        x -= kernel_w;
        ++y;
    }

    __device__ __forceinline__ void copy(unsigned char* stage) {
        constexpr int PIECES = Size::WEIGHTS / 16 / ROWS;
#pragma unroll
        for (int piece = 0; piece < PIECES; ++piece) {
            copy_async<16>(stage + Size::SOURCE + (piece * ROWS + threadIdx.x) * 16, weights + piece * ROWS, true);
        }
        weights += PIECES * ROWS;
        unsigned char* of_row = stage + threadIdx.x * (OF_BYTES ? BYTES_PITCH : 8);
        if (!OF_BYTES && words % 2 == 0) {           // both steps in one copy
            copy_async<8>(of_row, inside() ? source + from : source, inside());
            advance(2);
            return;
        }
#pragma unroll
        for (int step = 0; step < 2; ++step) {
            const bool valid = inside();
            const unsigned char* next = valid ? source + from : source;
            if (OF_BYTES) {
                copy_async<16>(of_row + step * 32, next, valid);
                copy_async<16>(of_row + step * 32 + 16, next + 16, valid);
            } else {
                copy_async<4>(of_row + step * 4, next, valid);
            }
            advance(1);
        }
    }
};

// One stage: 2 x 16 (8 bits) or 2 x 32 (16 bits) mma of a warp.
template <int WEIGHT_BITS, bool OF_BYTES>
__device__ __forceinline__ void multiply(Accumulators<WEIGHT_BITS>& acc, const unsigned char* stage) {
    const int lane = threadIdx.x % 32;
    const int warp = threadIdx.x / 32;
    const int first_row = warp / 2 * 64;
    uint2 bits[4][2];                                // words of both steps, of rows 16*m + lane/4 (+ 8)
    if (!OF_BYTES) {
#pragma unroll
        for (int m = 0; m < 4; ++m) {
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const uint2 both = reinterpret_cast<const uint2*>(stage)[first_row + m * 16 + h * 8 + lane / 4];
                bits[m][h] = make_uint2(both.x >> (2 * (lane % 4)), both.y >> (2 * (lane % 4)));
            }
        }
    }
#pragma unroll
    for (int step = 0; step < 2; ++step) {
        uint32_t a[4][4];
#pragma unroll
        for (int m = 0; m < 4; ++m) {
            if (OF_BYTES) {
                load_matrix_x4(a[m], stage + (first_row + m * 16 + lane % 16) * BYTES_PITCH + step * 32 + lane / 16 * 16);
            } else {
#pragma unroll
                for (int r = 0; r < 4; ++r) {
                    const uint32_t word = step == 0 ? bits[m][r % 2].x : bits[m][r % 2].y;
                    a[m][r] = word >> (r / 2) & 0x01010101u;
                }
            }
        }
        // [step][8 columns][lane]{hi b0, hi b1, lo b0, lo b1}, or with 8 bits [step][16 columns][lane]{b0, b1 of 8, b0, b1 of the next 8}
        constexpr int OF_STEP = COLUMNS * WEIGHT_BITS / 128 * 32;
        constexpr int OF_WARP = OF_STEP / 2;
        const uint4* weights = reinterpret_cast<const uint4*>(stage + Stage<WEIGHT_BITS, OF_BYTES>::SOURCE);
        weights += step * OF_STEP + warp % 2 * OF_WARP + lane;
        uint32_t b[WEIGHT_BITS / 8][4][2];           // as the accumulators
#pragma unroll
        for (int i = 0; i < OF_WARP / 32; ++i) {
            const uint4 loaded = weights[i * 32];
            uint32_t(&former)[2] = b[0][WEIGHT_BITS == 16 ? i : 2 * i];
            uint32_t(&latter)[2] = WEIGHT_BITS == 16 ? b[WEIGHT_BITS / 8 - 1][i] : b[0][2 * i + 1];
            former[0] = loaded.x, former[1] = loaded.y;
            latter[0] = loaded.z, latter[1] = loaded.w;
        }
#pragma unroll
        for (int pass = 0; pass < WEIGHT_BITS / 8; ++pass) mma_u8s8_tile(acc.of[pass], a, b[pass]);
    }
}

// The same in bf16, in spike_bf16.cuh.
template <int WEIGHT_BITS, bool OF_BYTES>
__device__ __forceinline__ void multiply(Accumulators<WEIGHT_BITS, float>& acc, const unsigned char* stage);

// K steps of one summand, of some of its stages; when it returns, the block has done with `stages`.
template <int WEIGHT_BITS, bool OF_BYTES, class Sum>
__device__ __forceinline__ void convolve(Accumulators<WEIGHT_BITS, Sum>& acc, unsigned char* stages, const unsigned char* source,
                                         const uint4* weights, const Geometry& g, Row row, int time_steps, Stages part) {
    using Size = Stage<WEIGHT_BITS, OF_BYTES>;
    constexpr int STAGE_BYTES = Size::SOURCE + Size::WEIGHTS;
    const int count = part.end - part.begin;
    Loader<WEIGHT_BITS, OF_BYTES> loader(source, weights, g, row, time_steps);
    if (part.begin > 0) loader.skip(part.begin);
#pragma unroll
    for (int stage = 0; stage < Size::COUNT - 1; ++stage) {
        if (stage < count) loader.copy(stages + stage * STAGE_BYTES);
        copy_async_commit();
    }
    int slot = 0;
#pragma unroll 1
    for (int left = count; left > 0; --left) {       // one number in a register, not two
        copy_async_wait<Size::COUNT - 2>();
        __syncthreads();                             // this stage has come, and all warps have done with the one before
        const int free = slot == 0 ? Size::COUNT - 1 : slot - 1;
        if (left > Size::COUNT - 1) loader.copy(stages + free * STAGE_BYTES);
        copy_async_commit();
        multiply<WEIGHT_BITS, OF_BYTES>(acc, stages + slot * STAGE_BYTES);
        slot = slot == Size::COUNT - 1 ? 0 : slot + 1;
    }
    __syncthreads();                                 // every stage has come and gone: the groups still open are empty
}

// What an accumulator stands for.
__device__ __forceinline__ int whole(int sum) { return sum; }
__device__ __forceinline__ int whole(float doubled);

// Combines hi and lo and writes the tile [128][PITCH].
template <int WEIGHT_BITS, class Sum>
__device__ __forceinline__ void store_tile(int* tile, const Accumulators<WEIGHT_BITS, Sum>& acc) {
    const int lane = threadIdx.x % 32;
    const int warp = threadIdx.x / 32;
    int* of_lane = tile + (warp / 2 * 64 + lane / 4) * PITCH + warp % 2 * 32 + lane % 4 * 2;
#pragma unroll
    for (int m = 0; m < 4; ++m) {
#pragma unroll
        for (int n = 0; n < 4; ++n) {
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                uint32_t sum[2];
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    sum[i] = (uint32_t)whole(acc.of[0][m][n][2 * h + i]);
                    if (WEIGHT_BITS == 16) sum[i] = sum[i] * 256u + (uint32_t)whole(acc.of[WEIGHT_BITS / 8 - 1][m][n][2 * h + i]);
                }
                *reinterpret_cast<int2*>(of_lane + (m * 16 + h * 8) * PITCH + n * 8) = make_int2((int)sum[0], (int)sum[1]);
            }
        }
    }
}
