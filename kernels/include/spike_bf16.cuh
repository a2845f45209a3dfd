// spike_bf16.cuh: the products of a tile of the spiking convolution in bf16, for tensor cores that hardly multiply integers.
//
// Equation   as in spike_tile.cuh; what is added up is twice that: 2*source[row][k] * hi[k][o], and the same of lo
// Exactness  an operand is an integer of at most 8 bits, or twice one, and exact in bf16; products are exact in f32.
//            `Geometry::is_exact_in_bf16` of src/ops/spike_conv/products.rs lets only layers in here whose partial sums stay below 2^24 in
//            any order (here twice that, and even): each of them is an f32. Tensor cores line up the addends of a step at the largest and
//            keep the 24 bits of an f32, or more (Fasi et al. 2021, doi 10.7717/peerj-cs.330; V100 to B200: arXiv 2512.07004), so
//            nothing is cut off. `dsr check` has sums next to the bound; no device of capability 10.3 has run it.
// Shapes     the stages of spike_tile.cuh, byte for byte: weights become bf16 in registers. Each register of the operand of
//            m16n8k32 has the k of one m16n8k16: its bytes 0 and 2 are one pair, its bytes 1 and 3 the other; A has the same pairs.
// Bits       bf16 2.0 is the one bit 14, so a bit of a spike that is moved there is a value, and a pair costs two instructions, as the
//            bytes of integers do: that is why sums are doubled
// Costs      of one K step with 16-bit weights, in place of those of spike_tile.cuh (8 bits: half the tensor cycles):
//              tensor   256 mma.m16n8k16 = 512 cycles of an SM of sm_80, twice those of integers; where mma.sync reaches 942 multiply-adds
//                       a cycle, as cost.rs assumes for 10.x, 557, and integers at a thirtieth of the rate of FP8 take 1920
//              issue    350 of a scheduler by the SASS of sm_80 (8 bits: 227; of counts: 511): 64 mma, 112 to widen weights (7 for 4
//                       bytes; two warps widen the same ones), 56 to expand bits
//              memory   the same bytes, from L2 and in shared memory
//            On sm_80 the tensor cores are the limit; on 10.x, with its neurons, a tile takes four fifths of their time to issue.
#pragma once
#include "spike_tile.cuh"

constexpr uint32_t BF16_MINUS_1 = 0xbf80bf80u;       // pairs
constexpr uint32_t BF16_2 = 0x40004000u;
constexpr uint32_t BF16_128 = 0x43004300u;
constexpr uint32_t BF16_256 = 0x43804380u;

// Bytes 0 and 2 of four signed ones as a pair of bf16. From 128 to 255 the last place of a bf16 is worth 1, so the low seven bits below
// a 128 are 128 + byte, or 256 + byte for a negative one; its sign bit makes a 256 of the other 128, and a difference is left.
__device__ __forceinline__ uint32_t widen(uint32_t bytes) {
    const uint32_t above = (bytes & 0x007f007fu) | BF16_128;
    const uint32_t base = (bytes & 0x00800080u) | BF16_128;
    return fma_bf16x2(base, BF16_MINUS_1, above);
}

// The same of unsigned ones, doubled: 2*(byte - 128) + 256.
__device__ __forceinline__ uint32_t widen_counts(uint32_t bytes) { return fma_bf16x2(widen(bytes ^ 0x00800080u), BF16_2, BF16_256); }

// One stage: 2 x 32 (8 bits) or 2 x 64 (16 bits) mma of a warp.
template <int WEIGHT_BITS, bool OF_BYTES>
__device__ __forceinline__ void multiply(Accumulators<WEIGHT_BITS, float>& acc, const unsigned char* stage) {
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
                bits[m][h] = make_uint2(both.x << (6 - 2 * (lane % 4)), both.y << (6 - 2 * (lane % 4)));
            }
        }
    }
#pragma unroll
    for (int step = 0; step < 2; ++step) {
        uint32_t counts[4][4];
        if (OF_BYTES) {
#pragma unroll
            for (int m = 0; m < 4; ++m) {
                load_matrix_x4(counts[m], stage + (first_row + m * 16 + lane % 16) * BYTES_PITCH + step * 32 + lane / 16 * 16);
            }
        }
        // As in spike_tile.cuh.
        constexpr int OF_STEP = COLUMNS * WEIGHT_BITS / 128 * 32;
        constexpr int OF_WARP = OF_STEP / 2;
        const uint4* weights = reinterpret_cast<const uint4*>(stage + Stage<WEIGHT_BITS, OF_BYTES>::SOURCE);
        weights += step * OF_STEP + warp % 2 * OF_WARP + lane;
        uint4 loaded[OF_WARP / 32];
#pragma unroll
        for (int i = 0; i < OF_WARP / 32; ++i) loaded[i] = weights[i * 32];
#pragma unroll
        for (int r = 0; r < 2; ++r) {                // register of the operands of integers
            uint32_t a[4][4];
#pragma unroll
            for (int m = 0; m < 4; ++m) {
#pragma unroll
                for (int h = 0; h < 2; ++h) {
                    if (OF_BYTES) {
                        const uint32_t bytes = counts[m][2 * r + h];
                        a[m][h] = widen_counts(bytes);
                        a[m][2 + h] = widen_counts(bytes >> 8);
                    } else {                         // bit 8*b + r of the byte b is at 8*b + r + 6
                        const uint32_t word = step == 0 ? bits[m][h].x : bits[m][h].y;
                        a[m][h] = word << (8 - r) & BF16_2;
                        a[m][2 + h] = word >> r & BF16_2;
                    }
                }
            }
#pragma unroll
            for (int pass = 0; pass < WEIGHT_BITS / 8; ++pass) {
                uint32_t b[4][2];
#pragma unroll
                for (int n = 0; n < 4; ++n) {
                    const uint4 of_lane = loaded[WEIGHT_BITS == 16 ? n : n / 2];
                    const bool latter = WEIGHT_BITS == 16 ? pass == 1 : n % 2 == 1;
                    const uint2 registers = latter ? make_uint2(of_lane.z, of_lane.w) : make_uint2(of_lane.x, of_lane.y);
                    const uint32_t bytes = r == 0 ? registers.x : registers.y;
                    b[n][0] = widen(bytes);
                    b[n][1] = widen(bytes >> 8);
                }
                mma_bf16_tile(acc.of[pass], a, b);
            }
        }
    }
}

// What an accumulator stands for.
__device__ __forceinline__ int whole(float doubled) { return __float2int_rz(doubled * 0.5f); }
