// conv.cu: the layer that reads the real-valued input, and what pools and identities do to gradients.
//
// Equation   conv_real  sums[b][p][f][o] = sum over taps k and channels c, in this order, of input[b][f][position of k][c] * w[k][c][o]
//            copy_real  sums[b][p][f][c] = input[b][f][p][c]
//            unpool     grad[b][p][c] (+)= sum over the pool windows that hold p, in their order, of grad_pooled / window^2
// Shapes     input [B][F][H][W][C] f32, F = 1 or T;  weights [copies][tap][cin][cout] f32;  sums [B][P][F][stride] f32, stride = cout
//            rounded up to 16;  grad [B][P][C] and grad_pooled [B][P_pooled][C] f32
// Launch     conv_real: 64 rows (b, p, f) times 64 channels a block of 128, grid (ceil(rows/64), ceil(cout/64));
//            copy_real: block 256, a thread a value;  unpool: block 256, a thread 4 channels
// Traffic    conv_real: 2*taps*cin operations for 4 bytes written; from shared memory 3 loads for 32 fmaf of a warp: bound by fmaf;
//            unpool reads 4 bytes a window, writes 4 (and reads them to add); copy_real reads 4, writes 4: memory-bound
// Exactness  conv_real: one fmaf a product, taps outside the image left out: bit-equal to conv_at of ops/conv/cpu.rs; unpool: a product
//            and a sum a window in the order of windows: bit-equal to unpool_add there
// Tests      tests/conv_cuda.rs

#include "include/dependent.cuh"
#include "include/device.cuh"
#include "include/geometry.cuh"

constexpr int ROWS = 64;                             // of a tile
constexpr int COLUMNS = 64;                          // output channels of a tile
constexpr int DEPTH = 32;                            // products of a tile between two barriers: lanes of a warp
constexpr int PITCH = DEPTH + 4;                     // keeps float4 loads of different rows in different banks

// Field for field `RealConv` in src/ops/conv/cuda.rs.
struct RealConv {
    Geometry geometry;
    int batch;
    int frames;          // F
    int stride;          // floats from row to row of the sums
    int copies;          // of all weights; they are added up in f64, in their order
};
static_assert(sizeof(RealConv) == 76, "RealConv is one layout on both sides");

// Row (b, p, f) as the image it reads and the first position that its receptive field covers, which may be outside.
struct Receptive {
    const float* image;
    int y, x;
};

__device__ __forceinline__ Receptive receptive_of(const float* input, int row, const RealConv& p) {
    const Geometry& g = p.geometry;
    const int f = row % p.frames, position = row / p.frames % (g.out_h * g.out_w), b = row / p.frames / (g.out_h * g.out_w);
    const size_t image = ((size_t)b * p.frames + f) * g.source_h * g.source_w * g.cin;
    return {input + image, position / g.out_w * g.stride - g.pad, position % g.out_w * g.stride - g.pad};
}

// Weight `row` = (tap, c) to channel o.
__device__ __forceinline__ float weight_at(const float* __restrict__ weights, int row, int o, const RealConv& p) {
    const Geometry& g = p.geometry;
    const size_t at = (size_t)row * g.cout + o, len = (size_t)g.kernel_h * g.kernel_w * g.cin * g.cout;
    if (p.copies == 1) return weights[at];
    double sum = 0.0;
    for (int copy = 0; copy < p.copies; ++copy) sum += (double)weights[copy * len + at];
    return (float)sum;
}

// A thread has 8 rows and 4 channels. Bit i of `inside` says whether product i of a row exists.
extern "C" __global__ void __launch_bounds__(128)
conv_real(float* __restrict__ sums,                  // [B][P][F][stride]; channels past cout become 0
          const float* __restrict__ input,           // [B][F][H][W][C]
          const float* __restrict__ weights,         // [copies][tap][cin][cout]
          RealConv p) {
    let_next_begin();
    SHARED(float, values, ROWS * PITCH);
    SHARED(float, of_weights, DEPTH * COLUMNS);
    SHARED(uint32_t, inside, ROWS);
    SHARED(Receptive, receptive, ROWS);
    const Geometry& g = p.geometry;
    const int rows = p.batch * g.out_h * g.out_w * p.frames, products = g.kernel_h * g.kernel_w * g.cin;
    const int first_row = blockIdx.x * ROWS, first_channel = blockIdx.y * COLUMNS;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int own_row = threadIdx.x / 16 * 8, own_channel = threadIdx.x % 16 * 4;
    if (threadIdx.x < ROWS) receptive[threadIdx.x] = receptive_of(input, min(first_row + (int)threadIdx.x, rows - 1), p);
    float sum[8][4] = {};
    for (int first = 0; first < products; first += DEPTH) {
        const int product = first + lane, tap = product / g.cin, c = product % g.cin;
        const int ky = tap / g.kernel_w, kx = tap % g.kernel_w;
        __syncthreads();
        for (int row = warp; row < ROWS; row += 4) {
            const Receptive& from = receptive[row];
            const int y = from.y + ky, x = from.x + kx;
            const bool exists = product < products && (unsigned)y < (unsigned)g.source_h && (unsigned)x < (unsigned)g.source_w;
            values[row * PITCH + lane] = exists ? from.image[(y * g.source_w + x) * g.cin + c] : 0.0f;
            const uint32_t bits = __ballot_sync(0xffffffffu, exists);
            if (lane == 0) inside[row] = bits;
        }
        for (int i = threadIdx.x; i < DEPTH * COLUMNS; i += 128) {
            const int row = first + i / COLUMNS, channel = first_channel + i % COLUMNS;
            of_weights[i] = row < products && channel < g.cout ? weight_at(weights, row, channel, p) : 0.0f;
        }
        __syncthreads();
        uint32_t exists[8];
#pragma unroll
        for (int i = 0; i < 8; ++i) exists[i] = inside[own_row + i];
        for (int k = 0; k < min(DEPTH, products - first); k += 4) {
            float4 value[8];
#pragma unroll
            for (int i = 0; i < 8; ++i) value[i] = *(const float4*)&values[(own_row + i) * PITCH + k];
#pragma unroll
            for (int step = 0; step < 4; ++step) {
                const float4 w = *(const float4*)&of_weights[(k + step) * COLUMNS + own_channel];
#pragma unroll
                for (int i = 0; i < 8; ++i) {
                    if (!(exists[i] >> step & 1u)) continue;
                    const float v = step == 0 ? value[i].x : step == 1 ? value[i].y : step == 2 ? value[i].z : value[i].w;
                    sum[i][0] = fmaf(v, w.x, sum[i][0]);
                    sum[i][1] = fmaf(v, w.y, sum[i][1]);
                    sum[i][2] = fmaf(v, w.z, sum[i][2]);
                    sum[i][3] = fmaf(v, w.w, sum[i][3]);
                }
            }
#pragma unroll
            for (int i = 0; i < 8; ++i) exists[i] >>= 4;
        }
    }
    const int channel = first_channel + own_channel;
    if (channel >= p.stride) return;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        const int row = first_row + own_row + i;
        if (row >= rows) return;
        *(float4*)&sums[(size_t)row * p.stride + channel] = make_float4(sum[i][0], sum[i][1], sum[i][2], sum[i][3]);
    }
}

// Field for field `CopyReal` in src/ops/conv/cuda.rs.
struct CopyReal {
    int batch;
    int positions;       // P
    int frames;          // F
    int channels;        // C
    int stride;          // floats from row to row of the sums
};

// The input itself as the currents of a layer: frames go behind positions.
extern "C" __global__ void __launch_bounds__(256)
copy_real(float* __restrict__ sums,                  // [B][P][F][stride]; channels past C become 0
          const float* __restrict__ input,           // [B][F][P][C]
          CopyReal p) {
    let_next_begin();
    const int i = blockIdx.x * 256 + threadIdx.x;
    const int c = i % p.stride, row = i / p.stride;
    const int f = row % p.frames, position = row / p.frames % p.positions, b = row / p.frames / p.positions;
    if (b >= p.batch) return;
    sums[i] = c < p.channels ? input[(((size_t)b * p.frames + f) * p.positions + position) * p.channels + c] : 0.0f;
}

// Field for field `Unpool` in src/ops/conv/cuda.rs.
struct Unpool {
    Geometry geometry;
    int batch;
    int add;             // to what is there, or overwrite it
};
static_assert(sizeof(Unpool) == 68, "Unpool is one layout on both sides");


__device__ __forceinline__ void load_channels(float (&to)[4], const float* from, int live, bool aligned) {
    if (aligned) {
        const float4 four = *(const float4*)from;
        to[0] = four.x, to[1] = four.y, to[2] = four.z, to[3] = four.w;
        return;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) to[i] = i < live ? from[i] : 0.0f;
}

// Windows along one axis that hold position `at`: first..=last.
__device__ __forceinline__ void windows_of(int at, int pooled, const Geometry& g, int& first, int& last) {
    const int past = at + g.pool_pad - g.pool;       // windows that start at or before this end too early
    first = past < 0 ? 0 : past / g.pool_stride + 1;
    last = min((at + g.pool_pad) / g.pool_stride, pooled - 1);
}

// Without a pool: what an identity passes on.
extern "C" __global__ void __launch_bounds__(256)
unpool(float* __restrict__ grad,                     // [B][P][C]
       const float* __restrict__ pooled_grad,        // [B][P_pooled][C]
       Unpool p) {
    const Geometry& g = p.geometry;
    const int quads = (g.cin + 3) / 4;
    const size_t thread = (size_t)blockIdx.x * 256 + threadIdx.x;
    const int c = (int)(thread % quads) * 4;
    const int q = (int)(thread / quads), positions = g.source_h * g.source_w;
    const int b = q / positions, y = q % positions / g.source_w, x = q % g.source_w;
    if (b >= p.batch) return;
    const int live = min(4, g.cin - c);
    const bool aligned = g.cin % 4 == 0;
    const float scale = 1.0f / (float)(g.pool * g.pool);
    float* to = grad + (size_t)q * g.cin + c;
    float sum[4] = {};
    if (p.add) load_channels(sum, to, live, aligned);
    int first_y, last_y, first_x, last_x;
    windows_of(y, g.pooled_h, g, first_y, last_y);
    windows_of(x, g.pooled_w, g, first_x, last_x);
    for (int py = first_y; py <= last_y; ++py) {
        for (int px = first_x; px <= last_x; ++px) {
            float from[4];
            load_channels(from, pooled_grad + ((size_t)(b * g.pooled_h + py) * g.pooled_w + px) * g.cin + c, live, aligned);
#pragma unroll
            for (int i = 0; i < 4; ++i) sum[i] += scale * from[i];
        }
    }
    if (aligned) {
        *(float4*)to = make_float4(sum[0], sum[1], sum[2], sum[3]);
        return;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        if (i < live) to[i] = sum[i];
    }
}

KERNEL(conv_real, 128)
KERNEL(copy_real, 256)
KERNEL(unpool, 256)
