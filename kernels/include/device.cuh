// device.cuh: what every kernel file is written in. nvcc gets thin wrappers over PTX here; g++ gets host bodies of the same
// names from the driver stand-in (emulator/src/host), so that one text runs on both.
//
// A kernel is `extern "C" __global__ void __launch_bounds__(BLOCK) name(...)`, and its file ends with `KERNEL(name, BLOCK)`:
// build.rs reads that line into a Rust constant, the stand-in makes a trampoline of it, nvcc sees nothing.
#pragma once
#include <cstddef>
#include <cstdint>

#if !defined(__CUDACC__)
#include "host/host.h"
#else

#define KERNEL(name, block)
// A static shared array of N elements, aligned to 128 bytes.
#define SHARED(T, name, ...) __shared__ __align__(128) T name[__VA_ARGS__]
// The dynamic shared memory of the launch, aligned to 128 bytes.
#define DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char dynamic_shared_bytes[]; unsigned char* const name = dynamic_shared_bytes

__device__ __forceinline__ uint32_t shared_address(const void* shared) { return (uint32_t)__cvta_generic_to_shared(shared); }

// A value that the compiler knows nothing of: what follows from it is computed here, not ahead of a loop, where it would take registers.
__device__ __forceinline__ int settled(int value) {
    asm volatile("" : "+r"(value));
    return value;
}

// Copies 4, 8 or 16 aligned bytes to shared memory, or writes zeros where !valid (`global` is not read then, but must be a
// valid pointer). The bytes are there after copy_async_commit and copy_async_wait, for this thread; after a barrier, for all.
template <int BYTES>
__device__ __forceinline__ void copy_async(void* shared, const void* global, bool valid = true) {
    static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "cp.async copies 4, 8 or 16 bytes");
    const int source_bytes = valid ? BYTES : 0;
    if constexpr (BYTES == 16) {                     // past the first cache, which whole lines would only fill up
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(source_bytes) : "memory");
    } else {
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(shared)), "l"(global), "n"(BYTES), "r"(source_bytes) : "memory");
    }
}

// Closes the group of copies issued since the last commit; an empty group counts, too.
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most the N latest groups are under way.
template <int N>
__device__ __forceinline__ void copy_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

// Four 8x8 matrices of 16-bit elements from shared memory: lanes 8i..8i+7 give the rows of matrix i, 16 bytes each and
// aligned so; r[i] is elements 2*(lane%4) and the next of row lane/4 of matrix i.
__device__ __forceinline__ void load_matrix_x4(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}

// The same, each matrix transposed.
__device__ __forceinline__ void load_matrix_x4_transposed(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}

// c[16x8] += a[16x32] * b[32x8], integers, exact. With g = lane/4 and t = lane%4:
// a[0], a[1]: rows g, g+8, bytes k = 4t..4t+3; a[2], a[3]: the same at k + 16; b0, b1: column g, k = 4t..4t+3 and k + 16;
// c[0], c[1]: row g, columns 2t, 2t+1; c[2], c[3]: row g+8.
__device__ __forceinline__ void mma_u8s8(int (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// c[16x8] += a[16x16] * b[16x8], bf16 with f32 sums. With g = lane/4 and t = lane%4:
// a[0], a[1]: rows g, g+8, k = 2t, 2t+1; a[2], a[3]: the same at k + 8; b0, b1: column g, k = 2t, 2t+1 and k + 8; c as above.
__device__ __forceinline__ void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// M x N products at once: c[i][j] += a[i] * b[j]. The stand-in does all of them in one meeting of the warp, so a kernel that
// calls this instead of a loop over mma_* is many times faster to test; on the device it is that loop.
template <int M, int N>
__device__ __forceinline__ void mma_u8s8_tile(int (&c)[M][N][4], const uint32_t (&a)[M][4], const uint32_t (&b)[N][2]) {
#pragma unroll
    for (int i = 0; i < M; ++i) {
#pragma unroll
        for (int j = 0; j < N; ++j) mma_u8s8(c[i][j], a[i], b[j][0], b[j][1]);
    }
}

template <int M, int N>
__device__ __forceinline__ void mma_bf16_tile(float (&c)[M][N][4], const uint32_t (&a)[M][4], const uint32_t (&b)[N][2]) {
#pragma unroll
    for (int i = 0; i < M; ++i) {
#pragma unroll
        for (int j = 0; j < N; ++j) mma_bf16(c[i][j], a[i], b[j][0], b[j][1]);
    }
}

// Rounds to bf16, to nearest and ties to even; a NaN becomes 0x7fff.
__device__ __forceinline__ uint16_t float_to_bf16(float value) {
    uint16_t bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
    uint32_t bits;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    return bits;
}

// a*b + c of two pairs of bf16, rounded once. The stand-in rounds to f32 before: use it where the result is a bf16.
__device__ __forceinline__ uint32_t fma_bf16x2(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t bits;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(bits) : "r"(a), "r"(b), "r"(c));
    return bits;
}

#endif

__device__ __forceinline__ float bf16_to_float(uint16_t bits) { return __uint_as_float((uint32_t)bits << 16); }

// Sum over a warp by a fixed tree, the same in every lane. All 32 lanes must call it.
template <typename T>
__device__ __forceinline__ T warp_sum(T value) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
    return value;
}

// Sum over a block by a fixed tree, the same in every thread. All threads of the block must call it.
template <int BLOCK, typename T>
__device__ __forceinline__ T block_sum(T value) {
    static_assert(BLOCK % 32 == 0, "a block of whole warps");
    SHARED(T, of_warp, BLOCK / 32);
    value = warp_sum(value);
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = value;
    __syncthreads();
    T sum = of_warp[0];
#pragma unroll
    for (int warp = 1; warp < BLOCK / 32; ++warp) sum += of_warp[warp];
    __syncthreads();                                 // the next call overwrites of_warp
    return sum;
}
