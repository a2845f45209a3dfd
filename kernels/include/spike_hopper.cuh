// spike_hopper.cuh: a tile of the spiking convolution on sm_90a: 128 rows (position, step) times one or two groups of 64 output channels, by
// two warpgroups.
//
// Equation   as in spike_tile.cuh; the sums are the same integers. A spike is -1 here, and weights are negated
// Shapes     a warpgroup has 64 rows, a K step is 32 channels of a tap; a stage is four K steps and four wgmma of m64n128k32 (16-bit weights:
//            hi and lo of the 64 channels, eight and eight side by side), m64n64k32 (8 bits), or m64n128k32 (8 bits, two groups), each with 8
//            channels of every step: see Bits. A last stage of one or two steps has two wgmma. Weights in blocks (order_spike_weights in
//            spike_conv_hopper.cu), 16 (8) KiB a stage and group
// Pipeline   weights: 4 stages, each one range of memory that one thread has copied as a whole. Spikes: lane 4*g + j loads the words of step j
//            of a stage, of rows g and g + 8 of its warp, straight into registers, a stage ahead; where they are comes from a list of the
//            steps in shared memory. The products of a stage run while its warpgroup comes to the next one; one barrier a stage says that all
//            have waited for those of the stage before the last, whose place is then filled again.
// Bits       lane j takes the whole word of step j apart, into eight registers of A whose bytes are 0 or -1. PRMT looks bit e of the nibbles of
//            half a word up in a register: bits {0, 4, 8, 12} + e, e < 3, of either half; bit 3 of a nibble asks for the sign of a byte of 0
//            or -1, so it does not matter. Bits {7, 15, 23, 31} and {3, 11, 19, 27} are signs of bytes. Ten instructions for eight registers,
//            where a shift and a mask each would be fifteen. Of half a stage, lanes j and j + 2 have half of the word of step j each.
// Costs      of one stage by the machine code of sm_90a (nvcc 13.0); with 8-bit weights
//              tensor   512 cycles of an SM (256) at the 4096 multiply-adds a cycle of the data sheet: 256 (128) for each warp of a scheduler
//              issue    67 instructions of a warp, 17 for each wgmma; 24 more in the warp of thread 0, which copies the weights. So a
//                       scheduler issues in 0.26 (0.52) of what its tensor core takes, and the products are the limit with either width.
//                       Some 38 of them are for the integer pipe, which takes one every second cycle: 0.30 (0.59)
//              shared   392 cycles (200): 256 (128) to read weights, each warpgroup all of them, 128 (64) for what is copied, 8 for the list
//              L2       weights at 32 bytes a cycle and SM at this rate, more than mma.sync lets it ask for, and spikes at 4 (8), of which the
//                       first cache has what neighbours read: about what its L2 gives. Tiles of 256 rows would halve the weights
//            Two groups take twice of all but what is issued: 67 instructions of a warp, too, and 33 more in that of thread 0.
//            Around its stages a warp issues about 550 instructions: where rows and steps are, the tile of sums, constants of the neurons.
//            docs/predict.md has what both come to for the layers of PreAct-ResNet-18.
#pragma once
#include "geometry.cuh"
#include "hopper.cuh"
#include "spike_tile.cuh"

// Channel of a K step that byte b of register e has.
__device__ __forceinline__ int channel_of_byte(int e, int b) { return e < 6 ? e / 3 * 16 + 4 * b + e % 3 : 8 * b + (e == 6 ? 7 : 3); }

#if defined(__CUDACC__)

constexpr int HOPPER_STAGES = 4;                     // two more than are under way, so that ^ 2 is the one after the next

// Weights of a stage: [8 columns of the product][wgmma: 4][256 bytes], so that those of a second group follow the first one's.
template <int WEIGHT_BITS, int GROUPS>
struct HopperStage {
    static constexpr int PRODUCT_COLUMNS = GROUPS * COLUMNS * WEIGHT_BITS / 8;
    static constexpr int OF_PRODUCT = 256;           // from one wgmma's to the next one's
    static constexpr int BYTES = PRODUCT_COLUMNS / 8 * 4 * OF_PRODUCT;
};

// A K step: bytes from where a row's position begins to what it reads, and the bit of its tap among those inside of the image.
struct HopperStep {
    uint32_t offset, tap;
};

__device__ __forceinline__ int steps_of(const Geometry& g) { return g.kernel_h * g.kernel_w * ((g.cin + 31) / 32); }
__device__ __forceinline__ int whole_stages_of(int steps) { return (steps + 1) / 4; }

// Writes the K steps of a convolution, those of half a stage twice, and the four of a stage behind the last one, which are of no tap. Where
// nothing is padded, all taps are one.
__device__ __forceinline__ void list_steps(HopperStep* steps, const Geometry& g, int time_steps) {
    const uint32_t words = (g.cin + 31) / 32, all = steps_of(g), of_half = whole_stages_of(all) * 4;
    for (uint32_t at = threadIdx.x; at < (all + 7) / 4 * 4; at += blockDim.x) {
        const uint32_t k = at < of_half ? at : of_half + at % 2, tap = k / words, ky = tap / g.kernel_w;
        const uint32_t offset = (ky * g.pooled_w + tap % g.kernel_w) * time_steps * words + k % words;
        const bool is_one = k < all && at < (all + 3) / 4 * 4;
        steps[at] = is_one ? HopperStep{offset * 4, g.pad > 0 ? 1u << tap : 1u} : HopperStep{0, 0};
    }
}

// Bits first .. end - 1.
__device__ __forceinline__ uint32_t bits_between(int first, int end) {
    return first < end ? (uint32_t)((1ull << end) - (1ull << first)) : 0;
}

// Where a lane reads: rows g and g + 8 of its warp.
struct SpikeRows {
    uint64_t from[2];                                // addresses
    uint32_t inside[2];                              // taps

    // Each lane is given one of the two rows, an even one the first.
    __device__ __forceinline__ SpikeRows(const unsigned char* source, const Geometry& g, Row row, int time_steps) {
        const uint32_t positions = g.out_h * g.out_w, b = (uint32_t)row.q / positions, p = (uint32_t)row.q % positions;
        const int y = (int)(p / g.out_w) * g.stride - g.pad, x = (int)(p % g.out_w) * g.stride - g.pad;
        const int words = (g.cin + 31) / 32, position = (b * g.pooled_h + y) * g.pooled_w + x;
        const long long offset = ((long long)position * time_steps + row.t) * words * 4;
        uint32_t taps = g.pad > 0 ? 0 : 1;
        if (g.pad > 0) {
            const uint32_t across = bits_between(max(-x, 0), min(g.pooled_w - x, g.kernel_w));
#pragma unroll 1
            for (int ky = max(-y, 0); ky < min(g.pooled_h - y, g.kernel_h); ++ky) taps |= across << ky * g.kernel_w;
        }
        if (!row.live) taps = 0;
        const long long of_other = __shfl_xor_sync(0xffffffffu, offset, 1);
        const uint32_t taps_of_other = __shfl_xor_sync(0xffffffffu, taps, 1);
        const int own = threadIdx.x % 2;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            from[h] = reinterpret_cast<uint64_t>(source) + (own == h ? offset : of_other);
            inside[h] = own == h ? taps : taps_of_other;
            settle(from[h]);
        }
    }

    __device__ __forceinline__ void load(uint32_t (&words)[2], HopperStep step) const {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            words[h] = (inside[h] & step.tap) != 0 ? load_written(reinterpret_cast<const uint32_t*>(from[h] + step.offset)) : 0;
        }
    }
};

// Of all nibbles 0 .. 7, a byte that is -1 where bit 0 or bit 1 is set; for bit 2 it is 0 and -1 in halves.
struct Nibbles {
    uint32_t of_bit_0, of_bit_1;

    // Registers of A of a word, see `Bits` above.
    __device__ __forceinline__ void spread(uint32_t (&a)[8], uint32_t word) const {
        constexpr uint32_t SIGNS = 0xba98;
        const uint32_t halves[2] = {word, word >> 16};
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            a[3 * half] = permute_bytes(of_bit_0, of_bit_0, halves[half]);
            a[3 * half + 1] = permute_bytes(of_bit_1, of_bit_1, halves[half]);
            a[3 * half + 2] = permute_bytes(0, 0xffffffffu, halves[half]);
        }
        a[6] = permute_bytes(word, 0, SIGNS);
        a[7] = permute_bytes(word << 4, 0, SIGNS);
#pragma unroll
        for (uint32_t& eight : a) settle(eight);
    }

    // The same of the lower half of a word.
    __device__ __forceinline__ void spread_half(uint32_t (&a)[4], uint32_t half) const {
        a[0] = permute_bytes(of_bit_0, of_bit_0, half);
        a[1] = permute_bytes(of_bit_1, of_bit_1, half);
        a[2] = permute_bytes(0, 0xffffffffu, half);
        a[3] = permute_bytes(0, 0xffffffffu, half >> 1);
#pragma unroll
        for (uint32_t& eight : a) settle(eight);
    }
};

// What a block keeps in shared memory beside its stages. What is loaded from there stays in a register; a constant would be made anew
// each time.
struct HopperShared {
    uint64_t full[HOPPER_STAGES];                    // barriers
    uint32_t barriers;                               // their address
    Nibbles nibbles;
};

// The ring of stages; the place of one, and the parity of its barrier's phase, follow from how many there were before.
struct HopperStages {
    const HopperShared* shared;
    uint32_t begun;
};

// Made once a block; a barrier of the block has to follow.
__device__ __forceinline__ HopperStages make_stages(HopperShared* shared) {
    if (threadIdx.x == 0) {
        for (int place = 0; place < HOPPER_STAGES; ++place) barrier_init(shared->full + place, 1);
        shared->barriers = shared_address(shared->full);
        shared->nibbles = {0xff00ff00u, 0xffff0000u};
        fence_async_proxy();
    }
    return {shared, 0};
}

// All K steps of one summand, for the groups of 64 output channels from `group` on; when it returns, the block has done with the stages,
// which begin at `memory`. The list of steps is behind these, and behind as many tiles, which others may still read when it is written.
template <int WEIGHT_BITS, int GROUPS>
__device__ __forceinline__ void convolve_hopper(int (&acc)[HopperStage<WEIGHT_BITS, GROUPS>::PRODUCT_COLUMNS / 2], unsigned char* memory,
                                                HopperStages& stages, const unsigned char* source, const unsigned char* weights, int group,
                                                const Geometry& g, Row row, int time_steps) {
    using Size = HopperStage<WEIGHT_BITS, GROUPS>;
    constexpr int OF_GROUP = Size::BYTES / GROUPS;
    const int count = (steps_of(g) + 3) / 4;         // stages, of which the last one may be half
    HopperStep* steps = reinterpret_cast<HopperStep*>(memory + max(GROUPS * TILE_BYTES, HOPPER_STAGES * Size::BYTES));
    list_steps(steps, g, time_steps);
    fence_async_proxy();                             // what was stored and read here before comes before the copies
    __syncthreads();
    const uint32_t full = stages.shared->barriers;
    const Nibbles nibbles{stages.shared->nibbles.of_bit_0, stages.shared->nibbles.of_bit_1};
    const int whole = whole_stages_of(steps_of(g));
    uint32_t begun = 0;                              // one in all lanes: what the compiler knows of a ballot keeps descriptors out of vectors
#pragma unroll
    for (int bit = 0; bit < 3; ++bit) begun |= __ballot_sync(0xffffffffu, stages.begun >> bit & 1) & 1u << bit;
    const size_t of_all = (size_t)count * OF_GROUP;  // a group's bytes
    weights += group * of_all;
    const bool copies = threadIdx.x == 0;
    auto copy = [&](uint32_t place) {
        barrier_expect(full + place * 8, Size::BYTES);
#pragma unroll
        for (int i = 0; i < GROUPS; ++i) {
            copy_bulk(memory + place * Size::BYTES + i * OF_GROUP, weights + i * of_all, OF_GROUP, full + place * 8);
        }
        weights += OF_GROUP;
    };
    for (int ahead = 0; ahead < 2 && ahead < count && copies; ++ahead) copy((begun + ahead) % HOPPER_STAGES);
    const SpikeRows rows(source, g, row, time_steps);
    const HopperStep* next = steps + threadIdx.x % 4;
    uint32_t words[2];
    rows.load(words, *next);
    uint64_t first = matrix_descriptor(memory, SWIZZLE_NONE, 128, 4 * Size::OF_PRODUCT);
    settle(first);
#pragma unroll
    for (int& sum : acc) sum = 0, settle(sum);
    auto wait = [&](int stage) {
        const uint32_t number = begun + stage;
        barrier_wait(full + number % HOPPER_STAGES * 8, number / HOPPER_STAGES % 2);
    };
    auto multiply = [&](int stage, int k, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3) {
        const uint32_t a[4] = {a0, a1, a2, a3};
        wgmma_s8s8(acc, a, first + (begun + stage) % HOPPER_STAGES * (Size::BYTES / 16) + k * (Size::OF_PRODUCT / 16), true);
    };
#pragma unroll 1
    for (int stage = 0; stage < whole; ++stage) {
        next += 4;
        const HopperStep step = *next;
        wait(stage);
        __syncthreads();                             // nobody needs the stage before the last
        if (copies && stage + 2 < count) copy((begun + stage) % HOPPER_STAGES ^ 2);
        wgmma_wait<0>();                             // products of the stage before
        uint32_t a[2][8];                            // of both rows
#pragma unroll
        for (int h = 0; h < 2; ++h) nibbles.spread(a[h], words[h]);
        rows.load(words, step);                      // of the next stage
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < 4; ++k) multiply(stage, k, a[0][2 * k], a[1][2 * k], a[0][2 * k + 1], a[1][2 * k + 1]);
        wgmma_commit();
    }
    if (whole < count) {
        wait(whole);
        wgmma_wait<0>();
        uint32_t a[2][4];
#pragma unroll
        for (int h = 0; h < 2; ++h) nibbles.spread_half(a[h], threadIdx.x % 4 < 2 ? words[h] : words[h] >> 16);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < 2; ++k) multiply(whole, k, a[0][2 * k], a[1][2 * k], a[0][2 * k + 1], a[1][2 * k + 1]);
        wgmma_commit();
    }
    stages.begun += count;
    wgmma_wait<0>();
#pragma unroll
    for (int& sum : acc) settle(sum);
    __syncthreads();
}

// Combines hi and lo and writes the tile [128][PITCH] of each group, one behind the other.
template <int WEIGHT_BITS, int GROUPS>
__device__ __forceinline__ void store_tile_hopper(int* tile, const int (&acc)[HopperStage<WEIGHT_BITS, GROUPS>::PRODUCT_COLUMNS / 2]) {
    const int lane = threadIdx.x % 32;
    int* of_lane = tile + (threadIdx.x / 32 * 16 + lane / 4) * PITCH + lane % 4 * 2;
    constexpr int APART = WEIGHT_BITS / 2;           // registers from eight channels to the next eight
#pragma unroll
    for (int eight = 0; eight < GROUPS * (COLUMNS / 8); ++eight) {
        int* of_group = of_lane + eight / (COLUMNS / 8) * (TILE_BYTES / 4) + eight % (COLUMNS / 8) * 8;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            uint32_t sum[2];
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                sum[i] = (uint32_t)acc[eight * APART + 2 * h + i];
                if (WEIGHT_BITS == 16) sum[i] = sum[i] * 256u + (uint32_t)acc[eight * APART + APART / 2 + 2 * h + i];
            }
            *reinterpret_cast<int2*>(of_group + h * 8 * PITCH) = make_int2((int)sum[0], (int)sum[1]);
        }
    }
}

#endif
