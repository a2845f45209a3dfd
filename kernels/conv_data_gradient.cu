// conv_data_gradient.cu: the gradient of a convolution's source.
//
// Equation   out[b][y][x][n] (+)= sum over taps (ky, kx) and channels o of grad[b][(y + pad - ky)/stride][(x + pad - kx)/stride][o]
//            * w[tap][n][o], over those taps for which both divisions leave no rest and the result lies inside
// Shapes     grad [B][P_out][cout] bf16;  out [B][P_pooled][cin] f32;  weights: the transposed ones of weights.cu, bf16
//            [64 n][tap][32 o][16 o: 2][16 n: 4][lane]{b0, b1 of the first 8 n, b0, b1 of the second}, zeros where there is no channel
// Rows       positions of one class (y % stride, x % stride) after the other: all rows of a tile have the same taps, and a stride of 2
//            costs a quarter of the products for a quarter of them, not all of them
// Launch     block 128, ROWS rows times 64 input channels; grid (row tiles of all classes, ceil(cin/64)); 64 rows where 128 would leave
//            multiprocessors without work: the order of every sum is the same
// Pipeline   a stage is 32 output channels of a tap: 64 bytes a row by copy_async, 4 KiB of weights; 3 stages, one barrier each
// Costs      of a stage of 128 x 64: 128 mma.m16n8k16 = 256 cycles of an SM of sm_80; 12 KiB written to shared memory and 24 KiB read
//            = 290 cycles of 128 bytes, so about as long; 12 KiB from L2 at 48 bytes a cycle
// Traffic    reads each gradient once a tap and 64 input channels, 2 bytes, mostly from L2; writes 4 bytes a neuron of the source, and
//            reads them first where it adds
// Exactness  products of bf16 are exact, sums are f32 in the order of (tap, channel), 16 at a time: the same bits in every run
// Tests      tests/conv_cuda.rs

#include "include/device.cuh"
#include "include/geometry.cuh"

constexpr int COLUMNS = 64;                          // input channels of a tile
constexpr int DEPTH = 32;                            // output channels of a stage
constexpr int PITCH = DEPTH + 8;                     // elements from row to row: ldmatrix meets no conflict
constexpr int STAGES = 3;
constexpr int FRAGMENTS = DEPTH * COLUMNS / 8;       // uint4 of weights of a stage

// Field for field `DataGradient` in src/ops/conv/cuda.rs.
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

// A row of the tile: the output that its first tap reads, and where its gradient goes.
struct Place {
    int y, x;            // tap (jy, jx) of the class reads output (y - jy, x - jx)
    int from;            // element of grad at (y, x)
    int to;              // element of out; -1 for a row past the end
};

__device__ __forceinline__ Place place_of(const Geometry& g, const Class& c, int row, int batch) {
    const int b = row / (c.height * c.width);
    if (b >= batch) return {INT32_MIN / 2, INT32_MIN / 2, 0, -1};
    const int y = c.first_y + row / c.width % c.height * g.stride, x = c.first_x + row % c.width * g.stride;
    const int from_y = (y + g.pad) / g.stride, from_x = (x + g.pad) / g.stride;
    const int from = ((b * g.out_h + from_y) * g.out_w + from_x) * g.cout;
    return {from_y, from_x, from, ((b * g.pooled_h + y) * g.pooled_w + x) * g.cin};
}

template <int ROWS>
struct Stage {
    uint4 weights[FRAGMENTS];
    uint16_t grad[ROWS * PITCH];
};

// What a stage holds: 32 output channels of tap (jy, jx) of the class.
struct Step {
    int jy, jx, chunk;
};

__device__ __forceinline__ void advance(Step& step, const Class& c, int chunks) {
    if (++step.chunk < chunks) return;
    step.chunk = 0;
    if (++step.jx < c.taps_x) return;
    step.jx = 0;
    ++step.jy;
}

__device__ __forceinline__ bool is_inside(const Place& place, const Step& step, const Geometry& g) {
    return (unsigned)(place.y - step.jy) < (unsigned)g.out_h && (unsigned)(place.x - step.jx) < (unsigned)g.out_w;
}

// Starts to copy a stage. `own` are rows threadIdx.x / 4 + 32*i, of which this thread copies 16 bytes each.
template <int ROWS, bool VECTOR>
__device__ __forceinline__ void load(Stage<ROWS>& stage, const uint16_t* grad, const uint4* packed, const Place (&own)[ROWS / 32],
                                     const Place* places, const Step& step, const Class& c, const Geometry& g) {
    const int chunks = (g.cout + DEPTH - 1) / DEPTH;
    const int tap = (c.ky + step.jy * g.stride) * g.kernel_w + c.kx + step.jx * g.stride;
    const uint4* weights = packed + (((size_t)blockIdx.y * g.kernel_h * g.kernel_w + tap) * chunks + step.chunk) * FRAGMENTS;
    copy_async<16>(&stage.weights[threadIdx.x], weights + threadIdx.x, true);
    copy_async<16>(&stage.weights[threadIdx.x + 128], weights + threadIdx.x + 128, true);
    const int of_step = step.chunk * DEPTH - (step.jy * g.out_w + step.jx) * g.cout;
    if (VECTOR) {
        const int part = threadIdx.x % 4 * 8;
        const bool exists = step.chunk * DEPTH + part < g.cout;
#pragma unroll
        for (int i = 0; i < ROWS / 32; ++i) {
            const bool valid = exists && is_inside(own[i], step, g);
            uint16_t* to = &stage.grad[(threadIdx.x / 4 + 32 * i) * PITCH + part];
            copy_async<16>(to, valid ? grad + own[i].from + of_step + part : grad, valid);
        }
    } else {
        const int o = threadIdx.x % 32;
        for (int row = threadIdx.x / 32; row < ROWS; row += 4) {
            const Place place = places[row];
            const bool valid = step.chunk * DEPTH + o < g.cout && is_inside(place, step, g);
            stage.grad[row * PITCH + o] = valid ? grad[place.from + of_step + o] : 0;
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
            load_matrix_x4(a[i], &stage.grad[row * PITCH + step * 16 + lane / 16 * 8]);
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

__device__ __forceinline__ void store(float* __restrict__ to, float value, float next, int n, int cin, bool add) {
    if (cin % 2 == 0) {
        if (n >= cin) return;
        float2 pair = make_float2(value, next);
        if (add) {
            const float2 before = *(const float2*)to;
            pair.x += before.x, pair.y += before.y;
        }
        *(float2*)to = pair;
        return;
    }
    if (n < cin) to[0] = add ? to[0] + value : value;
    if (n + 1 < cin) to[1] = add ? to[1] + next : next;
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
    Place own[ROWS / 32];
#pragma unroll
    for (int i = 0; i < ROWS / 32; ++i) own[i] = places[threadIdx.x / 4 + 32 * i];

    const int chunks = (g.cout + DEPTH - 1) / DEPTH;
    const int steps = c.taps_y * c.taps_x * chunks;
    Step next = {};
    float acc[ROWS / 32][4][4] = {};
#pragma unroll
    for (int i = 0; i < STAGES - 1; ++i) {
        if (i < steps) load<ROWS, VECTOR>(stages[i], grad, packed, own, places, next, c, g);
        copy_async_commit();
        advance(next, c, chunks);
    }
    int slot = 0;
    for (int step = 0; step < steps; ++step) {
        copy_async_wait<STAGES - 2>();
        __syncthreads();                             // the stage is there, and the one before is free
        const int free = slot == 0 ? STAGES - 1 : slot - 1;
        if (step + STAGES - 1 < steps) load<ROWS, VECTOR>(stages[free], grad, packed, own, places, next, c, g);
        copy_async_commit();
        advance(next, c, chunks);
        multiply<ROWS>(acc, stages[slot]);
        slot = slot == STAGES - 1 ? 0 : slot + 1;
    }

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
                store(out + to + n, acc[i][j][2 * half], acc[i][j][2 * half + 1], n, g.cin, p.add);
            }
        }
    }
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
