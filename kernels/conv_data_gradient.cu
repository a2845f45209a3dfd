// conv_data_gradient.cu: the gradient of a convolution's source.
//
// Equation   out[b][y][x][n] (+)= sum over taps (ky, kx) and channels o of grad[b][(y + pad - ky)/stride][(x + pad - kx)/stride][o]
//            * w[tap][n][o], over those taps for which both divisions leave no rest and the result lies inside
// Shapes     grad [B][P_out][cout] bf16;  out [B][P_pooled][cin] f32;  weights: the transposed ones of spike_conv_weights.cu
// Rows       positions of one class (y % stride, x % stride) after the other: all rows of a tile have the same taps, and a stride of 2
//            costs a quarter of the products for a quarter of them, not all of them
// Launch     block 128, ROWS rows times 64 input channels; grid (row tiles of all classes, ceil(cin/64)); 64 rows where 128 would leave
//            multiprocessors without work: the order of every sum is the same
// Pipeline   bf16_tile.cuh
// Traffic    reads each gradient once a tap and 64 input channels, 2 bytes, mostly from L2; writes 4 bytes a neuron of the source, and
//            reads them first where it adds
// Costs      those of bf16_tile.cuh a stage; ceil(cout/32) stages a tap
// Exactness  products of bf16 are exact, sums are f32 in the order of (tap, channel), 16 at a time, whatever ROWS is: the same bits in
//            every run; the CPU, which adds in another order, differs in the last bits
// Tests      tests/conv_data_gradient_cuda.rs

#include "include/bf16_tile.cuh"
#include "include/geometry.cuh"

// Field for field `Backward` in src/ops/conv/sizes.rs.
struct DataGradient {
    Geometry geometry;
    int batch;
    int add;             // to what is there, or overwrite it
};
static_assert(sizeof(DataGradient) == 68, "DataGradient is one layout on both sides");

// Positions with the same remainders of y and x by the stride, and the taps that reach them.
struct Class {
    int first_y, first_x;    // the remainders
    int height, width;       // positions
    int ky, kx;              // the first tap; the others follow at distances of the stride
    int taps_y, taps_x;
};

__device__ __forceinline__ Class class_of(const Geometry& g, int index) {
    Class c;
    c.first_y = index / g.stride;
    c.first_x = index % g.stride;
    c.height = (g.pooled_h - c.first_y + g.stride - 1) / g.stride;
    c.width = (g.pooled_w - c.first_x + g.stride - 1) / g.stride;
    c.ky = (c.first_y + g.pad) % g.stride;
    c.kx = (c.first_x + g.pad) % g.stride;
    c.taps_y = max(0, (g.kernel_h - c.ky + g.stride - 1) / g.stride);
    c.taps_x = max(0, (g.kernel_w - c.kx + g.stride - 1) / g.stride);
    return c;
}

__device__ __forceinline__ Place place_of(const Geometry& g, const Class& c, int row, int batch) {
    const int b = row / (c.height * c.width);
    if (b >= batch) return {INT32_MIN / 2, INT32_MIN / 2, 0, -1};
    const int y = c.first_y + row / c.width % c.height * g.stride, x = c.first_x + row % c.width * g.stride;
    const int from_y = (y + g.pad) / g.stride, from_x = (x + g.pad) / g.stride;
    const int from = ((b * g.out_h + from_y) * g.out_w + from_x) * g.cout;
    return {from_y, from_x, from, ((b * g.pooled_h + y) * g.pooled_w + x) * g.cin};
}

template <int ROWS, bool VECTOR>
__device__ __forceinline__ void data_gradient(float* __restrict__ out, const uint16_t* __restrict__ grad, const uint4* __restrict__ packed,
                                              const DataGradient& p) {
    SHARED(Stage<ROWS>, stages, STAGES);
    SHARED(Place, places, ROWS);
    const Geometry& g = p.geometry;
    Class c;
    int tile = blockIdx.x;
    for (int index = 0;; ++index) {                  // the grid has the tiles of all classes, one class behind the other
        c = class_of(g, index);
        const int tiles = (p.batch * c.height * c.width + ROWS - 1) / ROWS;
        if (tile < tiles) break;
        tile -= tiles;
    }
    if (threadIdx.x < ROWS) places[threadIdx.x] = place_of(g, c, tile * ROWS + threadIdx.x, p.batch);
    __syncthreads();
    const View view = {g.out_h, g.out_w, g.cout, c.taps_y, c.taps_x, c.ky * g.kernel_w + c.kx, g.stride * g.kernel_w, g.stride,
                       g.kernel_h * g.kernel_w};
    float acc[ROWS / 32][4][4] = {};
    convolve<ROWS, VECTOR, -1>(acc, stages, grad, packed, places, view);
    store<ROWS>(out, acc, places, g.cin, p.add);
}

// `vector`: cout is a multiple of 8, so that rows of the gradient are copied 16 bytes at a time.
extern "C" __global__ void __launch_bounds__(128)
data_gradient_128_vector(float* __restrict__ out,              // [B][P_pooled][cin]
                         const uint16_t* __restrict__ grad,    // [B][P_out][cout] bf16
                         const uint4* __restrict__ packed,
                         DataGradient p) {
    data_gradient<128, true>(out, grad, packed, p);
}

extern "C" __global__ void __launch_bounds__(128)
data_gradient_64_vector(float* __restrict__ out, const uint16_t* __restrict__ grad, const uint4* __restrict__ packed, DataGradient p) {
    data_gradient<64, true>(out, grad, packed, p);
}

extern "C" __global__ void __launch_bounds__(128)
data_gradient_64_any(float* __restrict__ out, const uint16_t* __restrict__ grad, const uint4* __restrict__ packed, DataGradient p) {
    data_gradient<64, false>(out, grad, packed, p);
}

KERNEL(data_gradient_128_vector, 128)
KERNEL(data_gradient_64_vector, 128)
KERNEL(data_gradient_64_any, 128)
