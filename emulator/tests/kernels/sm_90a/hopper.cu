// hopper.cu: products of a warpgroup, as tests/standin/hopper.rs wants them: right ones, and with one mistake each. PTX of sm_90a only.
#include "include/hopper.cuh"

// As wgmma_s8s8 there, in forms that no kernel takes: bytes of A without a sign, few columns, and an `a` of 64 bits that is a descriptor.
__device__ __forceinline__ void wgmma_u8s8(int (&d)[4], const uint32_t (&a)[4], uint64_t b, bool adds) {
    asm volatile("{\n.reg .pred %%adds;\nsetp.ne.b32 %%adds, %9, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n8k32.s32.u8.s8 {"
                 "%0, %1, %2, %3"
                 "}, {%4, %5, %6, %7}, %8, %%adds;\n}\n"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)adds));
}

__device__ __forceinline__ void wgmma_u8s8(int (&d)[32], const uint32_t (&a)[4], uint64_t b, bool adds) {
    asm volatile("{\n.reg .pred %%adds;\nsetp.ne.b32 %%adds, %37, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k32.s32.u8.s8 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
                 "}, {%32, %33, %34, %35}, %36, %%adds;\n}\n"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3]), "+r"(d[4]), "+r"(d[5]), "+r"(d[6]), "+r"(d[7]),
                   "+r"(d[8]), "+r"(d[9]), "+r"(d[10]), "+r"(d[11]), "+r"(d[12]), "+r"(d[13]), "+r"(d[14]), "+r"(d[15]),
                   "+r"(d[16]), "+r"(d[17]), "+r"(d[18]), "+r"(d[19]), "+r"(d[20]), "+r"(d[21]), "+r"(d[22]), "+r"(d[23]),
                   "+r"(d[24]), "+r"(d[25]), "+r"(d[26]), "+r"(d[27]), "+r"(d[28]), "+r"(d[29]), "+r"(d[30]), "+r"(d[31])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)adds));
}

__device__ __forceinline__ void wgmma_u8s8(int (&d)[32], uint64_t a, uint64_t b, bool adds) {
    asm volatile("{\n.reg .pred %%adds;\nsetp.ne.b32 %%adds, %34, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k32.s32.u8.s8 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
                 "}, %32, %33, %%adds;\n}\n"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3]), "+r"(d[4]), "+r"(d[5]), "+r"(d[6]), "+r"(d[7]),
                   "+r"(d[8]), "+r"(d[9]), "+r"(d[10]), "+r"(d[11]), "+r"(d[12]), "+r"(d[13]), "+r"(d[14]), "+r"(d[15]),
                   "+r"(d[16]), "+r"(d[17]), "+r"(d[18]), "+r"(d[19]), "+r"(d[20]), "+r"(d[21]), "+r"(d[22]), "+r"(d[23]),
                   "+r"(d[24]), "+r"(d[25]), "+r"(d[26]), "+r"(d[27]), "+r"(d[28]), "+r"(d[29]), "+r"(d[30]), "+r"(d[31])
                 : "l"(a), "l"(b), "r"((int)adds));
}

constexpr int K = 128;                               // bytes along K, four products

enum Mistake {
    NOTHING_WRONG, LOOKS_BEFORE_THE_WAIT, NO_FENCE_OF_REGISTERS, NO_FENCE_OF_PROXIES, EXPECTS_TOO_MUCH, EXPECTS_TOO_LITTLE, FREES_TOO_EARLY,
    WAITS_FOR_TOO_FEW, ONE_WARP_LESS, LOOKS_INTO_AN_OPEN_STAGE, WRONG_STRIDE, NO_FENCE_OF_BARRIERS, LEAVES_A_COPY, OTHER_MATRIX
};

// Registers of A for the bytes first_k .. first_k+31 of a row-major matrix of K bytes a row.
__device__ void load_a(uint32_t (&a)[4], const uint32_t* rows, int first_k) {
    const int lane = threadIdx.x % 32;
    for (int r = 0; r < 4; ++r) a[r] = rows[((threadIdx.x / 32 * 16 + lane / 4 + r % 2 * 8) * K + first_k + lane % 4 * 4 + r / 2 * 16) / 4];
}

template <int N>
__device__ void write_sums(int* to, const int (&d)[N / 2]) {
    const int lane = threadIdx.x % 32;
    for (int i = 0; i < N / 2; ++i) {
        to[(threadIdx.x / 32 * 16 + lane / 4 + i % 4 / 2 * 8) * N + i / 4 * 8 + lane % 4 * 2 + i % 2] = d[i];
    }
}

// Of a matrix in shared memory with rows of K bytes: where byte k of a row lies. Swizzled: parts of `width` bytes of all rows, one behind
// the other, each in rows of `width` bytes; else blocks of 8 rows of 16 bytes, those of a row's K side by side.
__device__ int place(int row, int k, int rows, int width) {
    if (width == 0) return row / 8 * (K * 8) + k / 16 * 128 + row % 8 * 16 + k % 16;
    const int at = row * width + k % width;
    return k / width * rows * width + (at ^ (at >> 7 & width / 16 - 1) << 4);
}

template <int WIDTH>
__device__ uint64_t descriptor(const unsigned char* matrix, int k, int rows, int stride) {
    if (WIDTH == 0) return matrix_descriptor(matrix + k / 16 * 128, SWIZZLE_NONE, 128, K * 8);
    const Swizzle swizzle = WIDTH == 128 ? SWIZZLE_128 : WIDTH == 64 ? SWIZZLE_64 : SWIZZLE_32;
    return matrix_descriptor(matrix + k / (WIDTH + (WIDTH == 0)) * rows * WIDTH + k % (WIDTH + (WIDTH == 0)), swizzle, 16, stride);
}

// Both matrices are stored by threads; A comes from registers, or from shared memory behind B. Of 128 columns A has signs.
template <int N, int WIDTH, bool SHARED_A>
__device__ void of_stores(int* to, const unsigned char* from, int mistake) {
    DYNAMIC_SHARED(shared);
    for (int i = threadIdx.x; i < (N + 64) * K / 4; i += 128) {
        const int row = i / (K / 4), k = i % (K / 4) * 4;
        const int at = row < 64 ? N * K + place(row, k, 64, WIDTH) : place(row - 64, k, N, WIDTH);
        *reinterpret_cast<uint32_t*>(shared + at) = reinterpret_cast<const uint32_t*>(from)[i];
    }
    if (mistake != NO_FENCE_OF_PROXIES) fence_async_proxy();
    __syncthreads();
    const int stride = 8 * WIDTH * (mistake == WRONG_STRIDE ? 2 : 1);
    if (mistake == ONE_WARP_LESS && threadIdx.x / 32 == 2) return;
    int d[N / 2];
    uint32_t a[4][4];
    for (int i = 0; i < N / 2; ++i) d[i] = 7, settle(d[i]);
#pragma unroll
    for (int step = 0; step < 4; ++step) {
        load_a(a[step], reinterpret_cast<const uint32_t*>(from), step * 32);
        for (int r = 0; r < 4; ++r) settle(a[step][r]);
    }
    if (mistake != NO_FENCE_OF_REGISTERS) wgmma_fence();
#pragma unroll
    for (int step = 0; step < 4; ++step) {
        const int k = mistake == OTHER_MATRIX && threadIdx.x / 32 == 1 ? 0 : step * 32;
        const uint64_t b = descriptor<WIDTH>(shared, k, N, stride);
        if constexpr (SHARED_A) {
            wgmma_u8s8(d, descriptor<WIDTH>(shared + N * K, step * 32, 64, 8 * WIDTH), b, step > 0);
        } else if constexpr (N == 128) {
            wgmma_s8s8(d, a[step], b, step > 0);
        } else {
            wgmma_u8s8(d, a[step], b, step > 0);
        }
    }
    wgmma_commit();
    int early = 0;
    if (mistake == LOOKS_BEFORE_THE_WAIT) early = d[1] & 1, settle(early);
    wgmma_wait<0>();
    for (int i = 0; i < N / 2; ++i) settle(d[i]);
    d[0] += early;
    write_sums<N>(to, d);
}

// B comes by copies, a stage of 32 bytes along K at a time, in the order of blocks; a warp of its own copies.
template <int N>
__device__ void of_copies(int* to, const unsigned char* from, int mistake) {
    constexpr int STAGES = 2, BYTES = N * 32;
    DYNAMIC_SHARED(shared);
    SHARED(uint64_t, barriers, 2 * STAGES);
    uint64_t *full = barriers, *empty = barriers + STAGES;
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < STAGES; ++stage) barrier_init(full + stage, 1), barrier_init(empty + stage, 128);
        if (mistake != NO_FENCE_OF_BARRIERS) fence_async_proxy();
    }
    __syncthreads();
    if (threadIdx.x >= 128) {
        if (threadIdx.x != 128) return;
        for (int step = 0; step < 4; ++step) {
            const int stage = step % STAGES;
            barrier_wait(empty + stage, step / STAGES % 2 ^ 1);
            const int wrong = mistake == EXPECTS_TOO_MUCH ? 16 : mistake == EXPECTS_TOO_LITTLE ? -16 : 0;
            barrier_expect(full + stage, BYTES + wrong);
            copy_bulk(shared + stage * BYTES, from + 64 * K + step * BYTES, BYTES, full + stage);
        }
        if (mistake == LEAVES_A_COPY) {
            barrier_wait(empty + 1, 1);
            copy_bulk(shared, from, BYTES, full);
        }
        return;
    }
    int d[N / 2];
#pragma unroll 1
    for (int step = 0; step < 4; ++step) {
        const int stage = step % STAGES;
        uint32_t a[4];
        load_a(a, reinterpret_cast<const uint32_t*>(from), step * 32);
        for (int r = 0; r < 4; ++r) settle(a[r]);
        if (mistake != LOOKS_INTO_AN_OPEN_STAGE) barrier_wait(full + stage, step / STAGES % 2);
        const uint64_t b = matrix_descriptor(shared + stage * BYTES, SWIZZLE_NONE, 128, 256);
        wgmma_fence();
        if constexpr (N == 128) {
            wgmma_s8s8(d, a, b, step > 0);
        } else {
            wgmma_u8s8(d, a, b, step > 0);
        }
        wgmma_commit();
        if (mistake == FREES_TOO_EARLY) barrier_arrive(empty + stage);
        if (mistake == WAITS_FOR_TOO_FEW) {
            wgmma_wait<1>();
        } else {
            wgmma_wait<0>();
        }
        if (mistake != FREES_TOO_EARLY) barrier_arrive(empty + stage);
    }
    wgmma_wait<0>();
    for (int i = 0; i < N / 2; ++i) settle(d[i]);
    write_sums<N>(to, d);
}

// to [64][N]; from A [64][K] u8 (s8 where N is 128), then B [N][K] s8: column by column, or for copies by steps of 32, in them by 8 columns, 16 bytes of K.
#define PRODUCT(name, threads, ...)                                                                                                           \
    extern "C" __global__ void __launch_bounds__(threads) name(int* __restrict__ to, const unsigned char* __restrict__ from, int mistake) { \
        __VA_ARGS__(to, from, mistake);                                                                                                     \
    }
PRODUCT(stored_8, 128, of_stores<8, 0, false>)
PRODUCT(stored_64, 128, of_stores<64, 0, false>)
PRODUCT(stored_128, 128, of_stores<128, 0, false>)
PRODUCT(stored_64_by_32, 128, of_stores<64, 32, false>)
PRODUCT(stored_64_by_64, 128, of_stores<64, 64, false>)
PRODUCT(stored_64_by_128, 128, of_stores<64, 128, false>)
PRODUCT(stored_64_both, 128, of_stores<64, 0, true>)
PRODUCT(stored_64_both_by_128, 128, of_stores<64, 128, true>)
PRODUCT(copied_8, 160, of_copies<8>)
PRODUCT(copied_64, 160, of_copies<64>)
PRODUCT(copied_128, 160, of_copies<128>)
