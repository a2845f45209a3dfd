// hopper.cuh: what sm_90a has and no other target: products of a warpgroup that run by themselves, copies of whole ranges into shared
// memory, and the barriers that both are waited for by. Thin wrappers over PTX; the driver stand-in runs them as PTX only. g++ sees nothing of this.
//
// Order      A product reads its registers and shared memory at any time from its issue to the wait that lets it go, and writes its sums as
//            late. So: wgmma_fence after the last write to registers that it takes, fence_async_proxy after the last store to shared memory
//            that it reads, and no look at its sums before wgmma_wait.
// Source     PTX ISA: wgmma (9.7.15), cp.async.bulk (9.7.9.25.5), mbarrier (9.7.13.15), proxies (8.10)
#pragma once
#include "device.cuh"

#if defined(__CUDACC__)

// ---- Barriers in shared memory, 8 bytes aligned so. A phase ends when `arrivals` threads have arrived and all bytes that were announced
// have come; then the next one begins.

__device__ __forceinline__ void barrier_init(uint64_t* barrier, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}

__device__ __forceinline__ void barrier_arrive(uint64_t* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}

// Arrives, and announces bytes of this phase.
__device__ __forceinline__ void barrier_expect(uint32_t barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

// Waits for the end of the phase of this parity: 0 for the first one; 1 is over before it.
__device__ __forceinline__ void barrier_wait(uint32_t barrier, int parity) {
    int is_over;
    do {
        asm volatile("{\n.reg .pred %%over;\nmbarrier.try_wait.parity.shared::cta.b64 %%over, [%1], %2;\nselp.b32 %0, 1, 0, %%over;\n}\n"
                     : "=r"(is_over) : "r"(barrier), "r"(parity) : "memory");
    } while (is_over == 0);
}

// After barrier_init and after stores to shared memory, before copies and products that use them.
__device__ __forceinline__ void fence_async_proxy() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Copies bytes, a multiple of 16 as both addresses are, and says so to the barrier; one thread copies all.
__device__ __forceinline__ void copy_bulk(void* shared, const void* global, int bytes, uint32_t barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                 ::"r"(shared_address(shared)), "l"(global), "r"(bytes), "r"(barrier) : "memory");
}

// The same of a barrier that is no address yet.
__device__ __forceinline__ void barrier_expect(uint64_t* barrier, int bytes) { barrier_expect(shared_address(barrier), bytes); }
__device__ __forceinline__ void barrier_wait(uint64_t* barrier, int parity) { barrier_wait(shared_address(barrier), parity); }
__device__ __forceinline__ void copy_bulk(void* shared, const void* global, int bytes, uint64_t* barrier) {
    copy_bulk(shared, global, bytes, shared_address(barrier));
}

// ---- Products of a warpgroup: 128 threads from a multiple of 128 on, all of them at the same instruction.

__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Until at most the N latest groups are under way.
template <int N>
__device__ __forceinline__ void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory"); }

// Keeps the compiler from computing a register later, behind a fence, or from looking at it earlier, before a wait.
__device__ __forceinline__ void settle(uint32_t& value) { asm volatile("" : "+r"(value)::"memory"); }
__device__ __forceinline__ void settle(uint64_t& value) { asm volatile("" : "+l"(value)::"memory"); }
__device__ __forceinline__ void settle(int& value) { asm volatile("" : "+r"(value)::"memory"); }

// Byte i of the result is the one that nibble i of `which` names, of 0 .. 3 of a and 4 .. 7 of b; with 8 more, that byte's sign in all bits.
__device__ __forceinline__ uint32_t permute_bytes(uint32_t a, uint32_t b, uint32_t which) {
    uint32_t bytes;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(bytes) : "r"(a), "r"(b), "r"(which));
    return bytes;
}

// How a matrix lies in shared memory, rows of A or columns of B along K: rows of SWIZZLE bytes whose pieces of 16 bytes are swapped,
// eight_rows bytes from eight of them to the next; or, with 0, blocks of 8 rows of 16 bytes, `next_16` bytes from block to block along K.
enum Swizzle { SWIZZLE_NONE = 0, SWIZZLE_128 = 1, SWIZZLE_64 = 2, SWIZZLE_32 = 3 };

// Where the matrix begins is 16 bytes aligned; a swizzled one begins at a multiple of 8 rows.
__device__ __forceinline__ uint64_t matrix_descriptor(const void* shared, Swizzle swizzle, int next_16, int eight_rows) {
    return (uint64_t)(shared_address(shared) >> 4 & 0x3fff) | (uint64_t)(next_16 >> 4) << 16 | (uint64_t)(eight_rows >> 4) << 32 |
           (uint64_t)swizzle << 62;
}

// d[64][N] = a[64][32] * b[32][N], and with `adds` + d. Warp w of the warpgroup has rows 16w .. 16w+15; within them a[] and d[] are those of
// mma_u8s8 in device.cuh, but that the bytes of A have a sign: d[4*j .. 4*j+3] are its c of columns 8*j .. 8*j+7.
__device__ __forceinline__ void wgmma_s8s8(int (&d)[32], const uint32_t (&a)[4], uint64_t b, bool adds) {
    asm volatile("{\n.reg .pred %%adds;\nsetp.ne.b32 %%adds, %37, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k32.s32.s8.s8 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
                 "}, {%32, %33, %34, %35}, %36, %%adds;\n}\n"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3]), "+r"(d[4]), "+r"(d[5]), "+r"(d[6]), "+r"(d[7]),
                   "+r"(d[8]), "+r"(d[9]), "+r"(d[10]), "+r"(d[11]), "+r"(d[12]), "+r"(d[13]), "+r"(d[14]), "+r"(d[15]),
                   "+r"(d[16]), "+r"(d[17]), "+r"(d[18]), "+r"(d[19]), "+r"(d[20]), "+r"(d[21]), "+r"(d[22]), "+r"(d[23]),
                   "+r"(d[24]), "+r"(d[25]), "+r"(d[26]), "+r"(d[27]), "+r"(d[28]), "+r"(d[29]), "+r"(d[30]), "+r"(d[31])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)adds));
}

__device__ __forceinline__ void wgmma_s8s8(int (&d)[64], const uint32_t (&a)[4], uint64_t b, bool adds) {
    asm volatile("{\n.reg .pred %%adds;\nsetp.ne.b32 %%adds, %69, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
                 "}, {%64, %65, %66, %67}, %68, %%adds;\n}\n"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3]), "+r"(d[4]), "+r"(d[5]), "+r"(d[6]), "+r"(d[7]),
                   "+r"(d[8]), "+r"(d[9]), "+r"(d[10]), "+r"(d[11]), "+r"(d[12]), "+r"(d[13]), "+r"(d[14]), "+r"(d[15]),
                   "+r"(d[16]), "+r"(d[17]), "+r"(d[18]), "+r"(d[19]), "+r"(d[20]), "+r"(d[21]), "+r"(d[22]), "+r"(d[23]),
                   "+r"(d[24]), "+r"(d[25]), "+r"(d[26]), "+r"(d[27]), "+r"(d[28]), "+r"(d[29]), "+r"(d[30]), "+r"(d[31]),
                   "+r"(d[32]), "+r"(d[33]), "+r"(d[34]), "+r"(d[35]), "+r"(d[36]), "+r"(d[37]), "+r"(d[38]), "+r"(d[39]),
                   "+r"(d[40]), "+r"(d[41]), "+r"(d[42]), "+r"(d[43]), "+r"(d[44]), "+r"(d[45]), "+r"(d[46]), "+r"(d[47]),
                   "+r"(d[48]), "+r"(d[49]), "+r"(d[50]), "+r"(d[51]), "+r"(d[52]), "+r"(d[53]), "+r"(d[54]), "+r"(d[55]),
                   "+r"(d[56]), "+r"(d[57]), "+r"(d[58]), "+r"(d[59]), "+r"(d[60]), "+r"(d[61]), "+r"(d[62]), "+r"(d[63])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)adds));
}

#endif
