// dependent.cuh: kernels that may begin while the one before them in their stream still runs (programmatic dependent launch; sm_90 and
// newer, elsewhere and in any other launch these calls do nothing).
//
// Use        a kernel calls begin_dependent() before all else, in every thread, and is declared by DEPENDENT_KERNEL(name, block) in the
//            place of KERNEL: only such a kernel is ever launched early (src/device/dependent.rs). One that does not wait, and so is not
//            launched early, may call let_next_begin() for those behind it.
// Rule       before wait_for_previous no access to global memory: the kernel before may not have written what would be read, and may
//            still read what would be overwritten. Behind it that kernel has ended and what it wrote is seen; and since that one has
//            waited as well, or was launched behind all others, so has every kernel before it. Memory then is as in any other launch.
// Reads      what another kernel of the chain has written is read by load_written, never by __ldg: ld.global.nc takes memory for the same
//            from the first to the last moment of a kernel, and the one before may write in between. A plain load of what is __restrict__
//            might become one, and no clobber keeps it behind the wait. Weights and constants, which no kernel of an inference writes,
//            stay as they are.
// Trigger    right behind the wait. The next kernel then begins when all blocks of this one have, in what they leave free, and its launch,
//            of about a microsecond, lies beside the whole of this kernel; nothing is taken from a block that has not begun. Before the
//            wait it would let a third kernel wait on the multiprocessors, which nothing gains by.
#pragma once
#include "device.cuh"

#if defined(__CUDACC__)
#define DEPENDENT_KERNEL(name, block)

__device__ __forceinline__ void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ __forceinline__ void let_next_begin() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// From the second cache, past what the first one may still hold. Volatile, or the compiler might move it to before the wait. Cards that
// have no wait take it as any constant.
__device__ __forceinline__ uint32_t load_written(const uint32_t* from) {
#if __CUDA_ARCH__ >= 900
    uint32_t value;
    asm volatile("ld.global.cg.u32 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
    return value;
#else
    return __ldg(from);
#endif
}
#endif

__device__ __forceinline__ void begin_dependent() {
    wait_for_previous();
    let_next_begin();
}
