// sound.cu: kernels without a fault, for tests/standin.
#include "include/device.cuh"

struct Scaling { float factor; int count; };

extern "C" __global__ void __launch_bounds__(128) scale(float* __restrict__ to, const float* __restrict__ from, Scaling s) {
    const int i = blockIdx.x * 128 + threadIdx.x;
    if (i < s.count) to[i] = s.factor * from[i];
}

// One sum a block; `odd` counts the odd values of all blocks.
extern "C" __global__ void __launch_bounds__(256) sum_blocks(int* __restrict__ sums, unsigned* __restrict__ odd, const int* __restrict__ values, int count) {
    const int i = blockIdx.x * 256 + threadIdx.x;
    const int value = i < count ? values[i] : 0;
    const unsigned lanes = __ballot_sync(0xffffffffu, value & 1);
    if (threadIdx.x % 32 == 0) atomicAdd(odd, (unsigned)__popc(lanes));
    const int sum = block_sum<256>(value);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// What shuffles give, a row of 32 for each.
extern "C" __global__ void __launch_bounds__(32) shuffles(int* __restrict__ to) {
    const int lane = threadIdx.x;
    to[lane] = __shfl_sync(0xffffffffu, lane, 5);
    to[32 + lane] = __shfl_sync(0xffffffffu, lane, lane / 2, 8);
    to[64 + lane] = __shfl_xor_sync(0xffffffffu, lane, 3);
    to[96 + lane] = __shfl_down_sync(0xffffffffu, lane, 4);
    to[128 + lane] = __shfl_up_sync(0xffffffffu, lane, 1, 16);
    to[160 + lane] = lane < 16 ? __shfl_xor_sync(0x0000ffffu, lane, 1) : __shfl_down_sync(0xffff0000u, lane, 1, 16);
    to[192 + lane] = (int)(__shfl_sync(0xffffffffu, (unsigned long long)lane << 40, 31) >> 40);
}

// c[16][8] = a[16][32] * b[32][8], b given transposed.
extern "C" __global__ void __launch_bounds__(32) product_u8s8(int* __restrict__ c, const uint8_t* __restrict__ a, const int8_t* __restrict__ b) {
    const int g = threadIdx.x / 4, t = threadIdx.x % 4;
    const uint32_t* rows = (const uint32_t*)a;
    const uint32_t* columns = (const uint32_t*)b;
    const uint32_t fragment[4] = {rows[g * 8 + t], rows[(g + 8) * 8 + t], rows[g * 8 + 4 + t], rows[(g + 8) * 8 + 4 + t]};
    int sums[4] = {};
    mma_u8s8(sums, fragment, columns[g * 8 + t], columns[g * 8 + 4 + t]);
    c[g * 8 + 2 * t] = sums[0];
    c[g * 8 + 2 * t + 1] = sums[1];
    c[(g + 8) * 8 + 2 * t] = sums[2];
    c[(g + 8) * 8 + 2 * t + 1] = sums[3];
}

// c[32][16] = a[32][16*steps] * b[16][16*steps]^T in bf16, tiles through shared memory, the next pair of tiles on its way.
constexpr int ROW = 24;                              // elements of a row in shared memory, padded against bank conflicts

extern "C" __global__ void __launch_bounds__(32) product_bf16(float* __restrict__ c, const uint16_t* __restrict__ a, const uint16_t* __restrict__ b, int steps) {
    DYNAMIC_SHARED(bytes);
    uint16_t* tiles = (uint16_t*)bytes;              // [2][32 + 16][ROW]
    const int lane = threadIdx.x;
    auto load = [&](int step) {
        uint16_t* tile = tiles + step % 2 * 48 * ROW;
        for (int part = lane; part < 48 * 2; part += 32) {
            const int row = part / 2, half = part % 2 * 8;
            const uint16_t* from = row < 32 ? a + (row * steps + step) * 16 : b + ((row - 32) * steps + step) * 16;
            copy_async<16>(tile + row * ROW + half, from + half);
        }
        copy_async_commit();
    };
    float sums[2][2][4] = {};
    load(0);
    for (int step = 0; step < steps; ++step) {
        if (step + 1 < steps) load(step + 1); else copy_async_commit();
        copy_async_wait<1>();
        __syncwarp();
        const uint16_t* tile = tiles + step % 2 * 48 * ROW;
        uint32_t left[2][4], right[2][2], pair[4];
        for (int i = 0; i < 2; ++i) load_matrix_x4(left[i], tile + (i * 16 + lane % 16) * ROW + lane / 16 * 8);
        load_matrix_x4(pair, tile + (32 + lane % 8 + lane / 16 * 8) * ROW + lane / 8 % 2 * 8);
        for (int i = 0; i < 4; ++i) right[i / 2][i % 2] = pair[i];
        mma_bf16_tile(sums, left, right);
        __syncwarp();
    }
    for (int i = 0; i < 2; ++i) {
        for (int j = 0; j < 2; ++j) {
            for (int part = 0; part < 4; ++part) {
                const int row = i * 16 + lane / 4 + part / 2 * 8, column = j * 8 + lane % 4 * 2 + part % 2;
                c[row * 16 + column] = sums[i][j][part];
            }
        }
    }
}

// The 8x8 matrices of `from`, [4][8][8], transposed.
extern "C" __global__ void __launch_bounds__(32) transpose(uint16_t* __restrict__ to, const uint16_t* __restrict__ from) {
    SHARED(uint16_t, rows, 4 * 8 * 8);
    for (int i = threadIdx.x; i < 256; i += 32) rows[i] = from[i];
    __syncwarp();
    uint32_t r[4];
    load_matrix_x4_transposed(r, rows + threadIdx.x * 8);
    for (int matrix = 0; matrix < 4; ++matrix) {
        uint16_t* at = to + matrix * 64 + threadIdx.x / 4 * 8 + threadIdx.x % 4 * 2;
        at[0] = (uint16_t)r[matrix];
        at[1] = (uint16_t)(r[matrix] >> 16);
    }
}

// [0..n): bf16 of `from`; [n..2n): that as a float again, as bits.
extern "C" __global__ void __launch_bounds__(64) through_bf16(uint32_t* __restrict__ to, const float* __restrict__ from, int count) {
    const int i = threadIdx.x;
    if (i >= count) return;
    to[i] = float_to_bf16(from[i]);
    to[count + i] = __float_as_uint(bf16_to_float((uint16_t)(pack_bf16(0.0f, from[i]) >> 16)));
}

// 0..255 as signed bytes, by a difference of two bf16 that the byte's bits name; in the upper half of a pair, and 1 * 1 + 2 in the lower.
extern "C" __global__ void __launch_bounds__(256) differences(uint32_t* __restrict__ to) {
    const uint32_t byte = threadIdx.x;
    const uint32_t above = (byte & 0x7fu) | 0x4300u, base = (byte & 0x80u) | 0x4300u;
    to[byte] = fma_bf16x2(base << 16 | 0x3f80u, 0xbf803f80u, above << 16 | 0x4000u);
}

// Where each thread is, in one number, for a block and a grid of three dimensions.
extern "C" __global__ void __launch_bounds__(24) places(unsigned* __restrict__ to) {
    const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    to[block * blockDim.x * blockDim.y * blockDim.z + thread] = block * 1000 + threadIdx.x * 100 + threadIdx.y * 10 + threadIdx.z;
}

// Parameters of every size, for their offsets.
struct Odd { uint8_t bytes[5]; };
extern "C" __global__ void __launch_bounds__(1) parameters(double* to, uint8_t a, double b, uint16_t c, Odd d, const float* e, int f) {
    to[0] = a + b + c + d.bytes[4] + (e == nullptr ? 0 : 1) + f;
}

KERNEL(scale, 128)
KERNEL(sum_blocks, 256)
KERNEL(shuffles, 32)
KERNEL(product_u8s8, 32)
KERNEL(product_bf16, 32)
KERNEL(transpose, 32)
KERNEL(through_bf16, 64)
KERNEL(differences, 256)
KERNEL(places, 24)
KERNEL(parameters, 1)
