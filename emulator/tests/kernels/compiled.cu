// compiled.cu: what only shows in what nvcc makes of a kernel, for tests/standin/compiled.rs. As text they do no harm, or other harm.
#include "include/device.cuh"

#define KERNEL_OF_256(name) extern "C" __global__ void __launch_bounds__(256) name(float* __restrict__ to, const float* __restrict__ from, int n)

// Two loads of one place with a store between. Where load_matrix_x4 is not volatile and does not name memory, the second may be
// taken for the first.
KERNEL_OF_256(loads_twice) {
    SHARED(uint32_t, tile, 1024);
    uint32_t first[4], second[4];
    for (int i = threadIdx.x; i < 1024; i += 256) tile[i] = 1;
    __syncthreads();
    load_matrix_x4(first, &tile[threadIdx.x * 4]);
    __syncthreads();
    for (int i = threadIdx.x; i < 1024; i += 256) tile[i] = 2;
    __syncthreads();
    load_matrix_x4(second, &tile[threadIdx.x * 4]);
    to[threadIdx.x] = (float)(first[0] * 10 + second[0]) + 0.0f * from[n - 1];
}

// Always false where integers wrap; nvcc takes the overflow for impossible.
KERNEL_OF_256(overflows) {
    const int large = 0x7fffff00 + (int)from[threadIdx.x];
    to[threadIdx.x] = large + n > large ? 1.0f : 0.0f;
}

// Neighbours' elements: each thread would read what another writes, were `to` and `from` the same memory.
KERNEL_OF_256(reads_its_neighbour) { to[threadIdx.x] = from[(threadIdx.x + 1) % n]; }

// Of two blocks, each writes what the other writes, or adds to what the other adds to.
KERNEL_OF_256(writes_where_another_block_writes) { to[threadIdx.x] = from[threadIdx.x] + blockIdx.x; }
KERNEL_OF_256(adds_where_another_block_adds) { atomicAdd((int*)to + threadIdx.x, n + (int)from[threadIdx.x]); }

KERNEL(loads_twice, 256)
KERNEL(overflows, 256)
KERNEL(reads_its_neighbour, 256)
KERNEL(writes_where_another_block_writes, 256)
KERNEL(adds_where_another_block_adds, 256)
