// spike_hopper.cuh: one tile of the spiking convolution on sm_90a: 128 rows (position, step) times 64 output channels, by two warpgroups.
//
// Equation   as in spike_tile.cuh; the sums are the same integers
// Shapes     a warpgroup has 64 rows, a K step is 32 channels of a tap: one wgmma of m64n128k32 (16-bit weights: hi and lo of the 64 channels
//            side by side) or m64n64k32 (8 bits). Weights in blocks (order_spike_weights in spike_conv_hopper.cu), 4096 (2048) bytes a step
// Pipeline   a stage is two K steps; 4 stages. Its weights are one range of memory, which one thread has copied as a whole; its spikes are
//            copied by all threads, a word each. The products of a stage run while its warpgroup copies and loads for the next one; one
//            barrier a stage says that all have waited for those of the stage before the last, whose place is then filled again.
// Costs      of one stage (two K steps) by the machine code of sm_90a (nvcc 13.0); with 8-bit weights
//              tensor   256 cycles of an SM (128) at the 4096 multiply-adds a cycle of the data sheet: 128 (64) for each warp of a scheduler
//              issue    84 to 97 instructions of a warp (87 to 100), the more where the tap changes; 21 more in the warp of thread 0, which
//                       copies the weights. 42 to 50 for each wgmma: with 16 bits 0.66 to 0.76 of what its tensor core takes, so that the
//                       products are the limit; with 8 bits issue is, and leaves them at most 0.64 to 0.74 of their rate
//              shared   216 cycles (148): 128 (64) to read weights, each warpgroup all of them, 16 to read spikes, 72 (40) for what is copied
//              L2       as spike_tile.cuh at this rate: 36 bytes a cycle and SM (20), about what its L2 gives
//            Between its wait and its next product a warp issues some 30 instructions, in which the tensor cores have only the other block.
#pragma once
#include "hopper.cuh"
#include "spike_tile.cuh"

#if defined(__CUDACC__)

constexpr int HOPPER_STAGES = 4;                     // two more than are under way, so that ^ 2 is the one after the next
constexpr int BITS_OF_STAGE = ROWS * 8;              // bytes: two words a row

template <int WEIGHT_BITS>
struct HopperStage {
    static constexpr int PRODUCT_COLUMNS = COLUMNS * WEIGHT_BITS / 8;
    static constexpr int STEP = PRODUCT_COLUMNS * 32;
    static constexpr int BYTES = BITS_OF_STAGE + 2 * STEP;
};

// Copies the words of one row for every second K step, from the first or from the second on.
struct SpikeWords {
    const unsigned char* source;
    long long from;                                  // bytes from `source` to the word of the next of its steps
    int y, x;                                        // position that it reads; a row that is not live has none
    int height, width, kernel_w, words;
    int position_bytes;                              // of all steps of a position
    int kx, word, steps;                             // of the next of its K steps; K steps that are left from there

    __device__ __forceinline__ SpikeWords(const unsigned char* source, const Geometry& g, Row row, int time_steps, int first)
        : source(source), height(g.pooled_h), width(g.pooled_w), kernel_w(g.kernel_w), words((g.cin + 31) / 32), kx(0), word(0) {
        const int p = row.q % (g.out_h * g.out_w);
        const int b = row.q / (g.out_h * g.out_w);
        y = p / g.out_w * g.stride - g.pad;
        x = p % g.out_w * g.stride - g.pad;
        position_bytes = time_steps * words * 4;
        from = (((long long)b * height + y) * width + x) * position_bytes + row.t * words * 4;
        if (!row.live) y = INT_MIN / 2;
        steps = g.kernel_h * kernel_w * words;
        advance(first);
    }

    __device__ __forceinline__ void advance(int by) {
        from += by * 4;
        word += by;
        steps -= by;
        while (word >= words) {
            word -= words;
            from += position_bytes - words * 4;
            ++x;
            if (++kx < kernel_w) continue;
            kx = 0;
            from += (long long)(width - kernel_w) * position_bytes;
            x -= kernel_w;
            ++y;
        }
    }

    __device__ __forceinline__ void copy(unsigned char* to) {
        const bool inside = steps > 0 && (unsigned)y < (unsigned)height && (unsigned)x < (unsigned)width;
        copy_async<4>(to, inside ? source + from : source, inside);
        advance(2);
    }
};

// Where the ring of stages stands: the place of the next one, and the parity of its barrier's phase.
struct HopperStages {
    uint64_t* full;                                  // [HOPPER_STAGES]
    uint32_t place, parity;

    __device__ __forceinline__ void advance() {
        place = (place + 1) % HOPPER_STAGES;
        parity ^= place == 0;
    }
};

// Made once a block; a barrier of the block has to follow.
__device__ __forceinline__ HopperStages make_stages(uint64_t* full) {
    if (threadIdx.x == 0) {
        for (int place = 0; place < HOPPER_STAGES; ++place) barrier_init(full + place, 1);
        fence_async_proxy();
    }
    return {full, 0, 0};
}

// One stage: two products of a warpgroup, which are under way when it returns. `rows` is this thread's first of two, `weights` the descriptor
// of those of the first step.
template <int WEIGHT_BITS>
__device__ __forceinline__ void multiply_stage(int (&acc)[HopperStage<WEIGHT_BITS>::PRODUCT_COLUMNS / 2], const uint2* rows, int shift,
                                               uint64_t weights) {
    using Size = HopperStage<WEIGHT_BITS>;
    uint32_t words[2][2];                            // [step][rows row, row + 8]
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        const uint2 both = rows[8 * h];
        words[0][h] = both.x >> shift, words[1][h] = both.y >> shift;
        settle(words[0][h]), settle(words[1][h]);
    }
    wgmma_wait<0>();                                 // products of the stage before
    uint32_t a[2][4];                                // [step][register]: of both rows, and in either half of the step's channels
#pragma unroll
    for (int step = 0; step < 2; ++step) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            a[step][i] = words[step][i % 2] >> (i / 2) & 0x01010101u;
            settle(a[step][i]);
        }
    }
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < 2; ++step) {
        wgmma_u8s8(acc, a[step], weights + step * (Size::STEP / 16), true);
    }
    wgmma_commit();
}

// All K steps of one summand; when it returns, the block has done with the stages, which begin at `memory`.
template <int WEIGHT_BITS>
__device__ __forceinline__ void convolve_hopper(int (&acc)[HopperStage<WEIGHT_BITS>::PRODUCT_COLUMNS / 2], unsigned char* memory,
                                                HopperStages& stages, const unsigned char* source, const unsigned char* weights,
                                                const Geometry& g, Row row, int time_steps) {
    using Size = HopperStage<WEIGHT_BITS>;
    const int count = (g.kernel_h * g.kernel_w * ((g.cin + 31) / 32) + 1) / 2;
    const int half = threadIdx.x / ROWS;
    SpikeWords words(source, g, row, time_steps, half);
    weights += (size_t)blockIdx.y * count * (2 * Size::STEP);
    unsigned char* to = memory + threadIdx.x % ROWS * 8 + half * 4;
    auto copy = [&](int stage, uint32_t place) {
        if (stage < count) {
            words.copy(to + place * Size::BYTES);
            if (threadIdx.x == 0) {
                barrier_expect(stages.full + place, 2 * Size::STEP);
                copy_bulk(memory + place * Size::BYTES + BITS_OF_STAGE, weights, 2 * Size::STEP, stages.full + place);
                weights += 2 * Size::STEP;
            }
        }
        copy_async_commit();
    };
    fence_async_proxy();                             // what was stored and read here before comes before the copies
    __syncthreads();
    copy(0, stages.place);
    copy(1, (stages.place + 1) % HOPPER_STAGES);
    const int lane = threadIdx.x % 32;
    const unsigned char* rows = memory + (threadIdx.x / 32 * 16 + lane / 4) * 8;
    uint64_t first = matrix_descriptor(memory + BITS_OF_STAGE, SWIZZLE_NONE, 128, 256);
    settle(first);
    int shift = 2 * (lane % 4);
    settle(shift);
#pragma unroll
    for (int& sum : acc) sum = 0, settle(sum);
#pragma unroll 1
    for (int stage = 0; stage < count; ++stage, stages.advance()) {
        copy_async_wait<1>();
        barrier_wait(stages.full + stages.place, stages.parity);
        __syncthreads();                             // the spikes of all, and nobody needs the stage before the last
        copy(stage + 2, stages.place ^ 2);
        multiply_stage<WEIGHT_BITS>(acc, reinterpret_cast<const uint2*>(rows + stages.place * Size::BYTES), shift,
                                    first + stages.place * (Size::BYTES / 16));
    }
    wgmma_wait<0>();
#pragma unroll
    for (int& sum : acc) settle(sum);
    copy_async_wait<0>();
    __syncthreads();
}

// Combines hi and lo and writes the tile [128][PITCH].
template <int WEIGHT_BITS>
__device__ __forceinline__ void store_tile_hopper(int* tile, const int (&acc)[HopperStage<WEIGHT_BITS>::PRODUCT_COLUMNS / 2]) {
    const int lane = threadIdx.x % 32;
    int* of_lane = tile + (threadIdx.x / 32 * 16 + lane / 4) * PITCH + lane % 4 * 2;
    constexpr int APART = WEIGHT_BITS / 2;           // registers from eight channels to the next eight
#pragma unroll
    for (int eight = 0; eight < COLUMNS / 8; ++eight) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            uint32_t sum[2];
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                sum[i] = (uint32_t)acc[eight * APART + 2 * h + i];
                if (WEIGHT_BITS == 16) sum[i] = sum[i] * 256u + (uint32_t)acc[eight * APART + APART / 2 + 2 * h + i];
            }
            *reinterpret_cast<int2*>(of_lane + h * 8 * PITCH + eight * 8) = make_int2((int)sum[0], (int)sum[1]);
        }
    }
}

#endif
