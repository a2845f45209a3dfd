// dependent.cu: kernels that may begin before the one before them has ended, sound and with a mistake each, for tests/standin.
#include "include/dependent.cuh"

// to[i] = from[i] + 1, in every kernel that ends.
extern "C" __global__ void __launch_bounds__(256) waits_first(uint32_t* __restrict__ to, const uint32_t* __restrict__ from) {
    begin_dependent();
    to[blockIdx.x * 256 + threadIdx.x] = load_written(from + blockIdx.x * 256 + threadIdx.x) + 1;
}

// As the one above, behind what needs no global memory.
extern "C" __global__ void __launch_bounds__(256) prepares_first(uint32_t* __restrict__ to, const uint32_t* __restrict__ from) {
    SHARED(uint32_t, turned, 256);
    turned[threadIdx.x] = blockIdx.x * 256 + (threadIdx.x + 1) % 256;
    __syncthreads();
    const uint32_t at = turned[(threadIdx.x + 255) % 256];
    begin_dependent();
    to[at] = load_written(from + at) + 1;
}

extern "C" __global__ void __launch_bounds__(256) lets_nobody(uint32_t* __restrict__ to, const uint32_t* __restrict__ from) {
    wait_for_previous();
    to[blockIdx.x * 256 + threadIdx.x] = load_written(from + blockIdx.x * 256 + threadIdx.x) + 1;
}

// Not for launches that may begin early.
extern "C" __global__ void __launch_bounds__(256) never_waits(uint32_t* __restrict__ to, const uint32_t* __restrict__ from) {
    let_next_begin();
    to[blockIdx.x * 256 + threadIdx.x] = from[blockIdx.x * 256 + threadIdx.x] + 1;
}

extern "C" __global__ void __launch_bounds__(256) does_nothing(uint32_t* __restrict__, const uint32_t* __restrict__) {}

extern "C" __global__ void __launch_bounds__(256) reads_first(uint32_t* __restrict__ to, const uint32_t* __restrict__ from) {
    const uint32_t value = load_written(from + blockIdx.x * 256 + threadIdx.x);
    begin_dependent();
    to[blockIdx.x * 256 + threadIdx.x] = value + 1;
}

// Without __restrict__, which would allow the compiler to leave the first store out.
extern "C" __global__ void __launch_bounds__(256) writes_first(uint32_t* to, const uint32_t* from) {
    to[blockIdx.x * 256 + threadIdx.x] = 1;
    begin_dependent();
    to[blockIdx.x * 256 + threadIdx.x] = load_written(from + blockIdx.x * 256 + threadIdx.x) + 1;
}

extern "C" __global__ void __launch_bounds__(256) adds_first(uint32_t* to, const uint32_t* from) {
    if (threadIdx.x == 3) atomicAdd(to, 1u);
    begin_dependent();
    to[blockIdx.x * 256 + threadIdx.x] = load_written(from + blockIdx.x * 256 + threadIdx.x) + 1;
}

extern "C" __global__ void __launch_bounds__(256) copies_first(uint32_t* __restrict__ to, const uint32_t* __restrict__ from) {
    SHARED(uint32_t, values, 256);
    copy_async<4>(values + threadIdx.x, from + blockIdx.x * 256 + threadIdx.x);
    copy_async_commit();
    begin_dependent();
    copy_async_wait<0>();
    to[blockIdx.x * 256 + threadIdx.x] = values[threadIdx.x] + 1;
}

// Right in every order here, and only the watch knows.
extern "C" __global__ void __launch_bounds__(256) reads_by_nc(uint32_t* __restrict__ to, const uint32_t* __restrict__ from) {
    begin_dependent();
    to[blockIdx.x * 256 + threadIdx.x] = __ldg(from + blockIdx.x * 256 + threadIdx.x) + 1;
}

// One thread waits for all: its block is behind it, and yet another thread might have read before it.
extern "C" __global__ void __launch_bounds__(256) one_thread_waits(uint32_t* __restrict__ to, const uint32_t* __restrict__ from) {
    if (threadIdx.x == 0) begin_dependent();
    __syncthreads();
    to[blockIdx.x * 256 + threadIdx.x] = load_written(from + blockIdx.x * 256 + threadIdx.x) + 1;
}

extern "C" __global__ void __launch_bounds__(256) one_block_leaves(uint32_t* __restrict__ to, const uint32_t* __restrict__ from) {
    if (blockIdx.x == 1) return;
    begin_dependent();
    to[blockIdx.x * 256 + threadIdx.x] = load_written(from + blockIdx.x * 256 + threadIdx.x) + 1;
}

DEPENDENT_KERNEL(waits_first, 256)
DEPENDENT_KERNEL(prepares_first, 256)
DEPENDENT_KERNEL(lets_nobody, 256)
KERNEL(never_waits, 256)
DEPENDENT_KERNEL(does_nothing, 256)
DEPENDENT_KERNEL(reads_first, 256)
DEPENDENT_KERNEL(writes_first, 256)
DEPENDENT_KERNEL(adds_first, 256)
DEPENDENT_KERNEL(copies_first, 256)
DEPENDENT_KERNEL(reads_by_nc, 256)
DEPENDENT_KERNEL(one_thread_waits, 256)
DEPENDENT_KERNEL(one_block_leaves, 256)
