// conv_forward.cu: a convolution of real values: the connections of an ANN.
//
// Equation   out[b][y][x][o] = sum over taps (ky, kx) and channels c of source[b][y*stride - pad + ky][x*stride - pad + kx][c]
//            * w[tap][c][o], over those taps that lie inside
// Shapes     source [B][P_pooled][cin] bf16;  out [B][P_out][cout] f32;  weights: the rounded ones of spike_conv_weights.cu
// Launch     block 128, ROWS rows (b, y, x) times 64 output channels; grid (ceil(B*P_out / ROWS), ceil(cout/64)); 64 rows where 128 would
//            leave multiprocessors without work: the order of every sum is the same
// Pipeline   bf16_tile.cuh
// Traffic    reads each value once a tap and 64 output channels, 2 bytes, mostly from L2; writes 4 bytes a value
// Costs      those of bf16_tile.cuh a stage; ceil(cin/32) stages a tap
// Exactness  products of bf16 are exact, sums are f32 in the order of (tap, channel), 16 at a time, whatever ROWS is: the same bits in
//            every run; the CPU, which adds in another order, differs in the last bits
// Tests      tests/conv_forward_cuda.rs

#include "include/bf16_tile.cuh"
#include "include/geometry.cuh"

// Field for field `ConvForward` in src/ops/conv/cuda_forward.rs.
struct ConvForward {
    Geometry geometry;
    int batch;
};
static_assert(sizeof(ConvForward) == 64, "ConvForward is one layout on both sides");

__device__ __forceinline__ Place place_of(const Geometry& g, int row, int batch) {
    const int b = row / (g.out_h * g.out_w);
    if (b >= batch) return {INT32_MIN / 2, INT32_MIN / 2, 0, -1};
    const int y = row / g.out_w % g.out_h * g.stride - g.pad, x = row % g.out_w * g.stride - g.pad;
    return {y, x, ((b * g.pooled_h + y) * g.pooled_w + x) * g.cin, row * g.cout};
}

template <int ROWS, bool VECTOR>
__device__ __forceinline__ void conv_forward(float* __restrict__ out, const uint16_t* __restrict__ source, const uint4* __restrict__ packed,
                                             const ConvForward& p) {
    SHARED(Stage<ROWS>, stages, STAGES);
    SHARED(Place, places, ROWS);
    const Geometry& g = p.geometry;
    if (threadIdx.x < ROWS) places[threadIdx.x] = place_of(g, blockIdx.x * ROWS + threadIdx.x, p.batch);
    __syncthreads();
    const View view = {g.pooled_h, g.pooled_w, g.cin, g.kernel_h, g.kernel_w, 0, g.kernel_w, 1, g.kernel_h * g.kernel_w};
    float acc[ROWS / 32][4][4] = {};
    convolve<ROWS, VECTOR, 1>(acc, stages, source, packed, places, view);
    store<ROWS>(out, acc, places, g.cout, false);
}

// `vector`: cin is a multiple of 8, so that rows of the source are copied 16 bytes at a time.
extern "C" __global__ void __launch_bounds__(128)
conv_forward_128_vector(float* __restrict__ out,                // [B][P_out][cout]
                        const uint16_t* __restrict__ source,    // [B][P_pooled][cin] bf16
                        const uint4* __restrict__ packed,
                        ConvForward p) {
    conv_forward<128, true>(out, source, packed, p);
}

extern "C" __global__ void __launch_bounds__(128)
conv_forward_64_vector(float* __restrict__ out, const uint16_t* __restrict__ source, const uint4* __restrict__ packed, ConvForward p) {
    conv_forward<64, true>(out, source, packed, p);
}

extern "C" __global__ void __launch_bounds__(128)
conv_forward_64_any(float* __restrict__ out, const uint16_t* __restrict__ source, const uint4* __restrict__ packed, ConvForward p) {
    conv_forward<64, false>(out, source, packed, p);
}

KERNEL(conv_forward_128_vector, 128)
KERNEL(conv_forward_64_vector, 128)
KERNEL(conv_forward_64_any, 128)
