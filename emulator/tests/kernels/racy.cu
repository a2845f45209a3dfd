// racy.cu: races in shared memory and between blocks, and what is none, for tests/standin/faults.rs; always compiled for the race check.
#include "include/device.cuh"

#define KERNEL_OF_256(name) extern "C" __global__ void __launch_bounds__(256) name(float* __restrict__ to, const float* __restrict__ from, int n)

// The neighbour on the left has written when threads run in order: the results are right.
KERNEL_OF_256(reads_the_left_neighbour) {
    SHARED(float, tile, 256);
    tile[threadIdx.x] = from[threadIdx.x];
    to[threadIdx.x] = tile[(threadIdx.x + n - 1) % 256];
}
KERNEL_OF_256(overwrites_what_is_read) {
    SHARED(float, tile, 256);
    tile[threadIdx.x] = from[threadIdx.x];
    __syncthreads();
    to[threadIdx.x] = tile[(threadIdx.x + 1) % 256];
    tile[threadIdx.x] = (float)n;
}
KERNEL_OF_256(writes_one_place) {
    SHARED(float, tile, 1);
    tile[0] = from[0] + n;
    __syncthreads();
    to[threadIdx.x] = tile[0];
}
KERNEL_OF_256(copies_over_what_is_read) {
    DYNAMIC_SHARED(bytes);
    float* tile = (float*)bytes;
    tile[threadIdx.x] = from[threadIdx.x];
    __syncthreads();
    to[threadIdx.x] = tile[(threadIdx.x + n - 1) % 256];
    copy_async<4>(tile + threadIdx.x, from + threadIdx.x);
    copy_async_commit();
    copy_async_wait<0>();
}
KERNEL_OF_256(lanes_without_a_warp_barrier) {
    SHARED(float, tile, 256);
    tile[threadIdx.x] = from[threadIdx.x];
    to[threadIdx.x] = tile[threadIdx.x ^ (n / 256)];
}

// With two blocks or more:
KERNEL_OF_256(adds_without_an_atomic) {
    if (threadIdx.x == 0) to[0] += from[blockIdx.x] + n;
}
KERNEL_OF_256(writes_what_another_block_reads) {
    float* shared_by_all = to;
    if (blockIdx.x == 0) shared_by_all[128 + threadIdx.x % 64] = shared_by_all[threadIdx.x % 64] + from[0] + n;
    if (blockIdx.x == 1) shared_by_all[threadIdx.x % 64] = 1.0f;
}
KERNEL_OF_256(writes_where_another_block_writes) {
    to[threadIdx.x] = from[threadIdx.x] + n;
}
KERNEL_OF_256(blocks_race_nowhere) {
    if (threadIdx.x < 100) to[blockIdx.x * 100 + threadIdx.x] = from[threadIdx.x] + n;
    if (threadIdx.x == 200) atomicAdd((int*)to + 255, 1);
}

KERNEL_OF_256(races_nowhere) {
    SHARED(float, tile, 256);
    SHARED(int, count, 1);
    if (threadIdx.x == 0) count[0] = 0;
    float sum = 0.0f;
    for (int round = 0; round < 3; ++round) {
        tile[threadIdx.x] = from[threadIdx.x] * round;
        __syncwarp();
        sum += tile[threadIdx.x ^ 1];
        __syncthreads();
        sum += tile[(threadIdx.x + 32) % n];
        atomicAdd(&count[0], 1);
        __syncthreads();
    }
    to[threadIdx.x] = sum + count[0] + block_sum<256>(0.0f);
}

KERNEL(reads_the_left_neighbour, 256)
KERNEL(overwrites_what_is_read, 256)
KERNEL(writes_one_place, 256)
KERNEL(copies_over_what_is_read, 256)
KERNEL(lanes_without_a_warp_barrier, 256)
KERNEL(adds_without_an_atomic, 256)
KERNEL(writes_what_another_block_reads, 256)
KERNEL(writes_where_another_block_writes, 256)
KERNEL(blocks_race_nowhere, 256)
KERNEL(races_nowhere, 256)
