// faulty.cu: a kernel for each fault that the stand-in should find, for tests/standin/faults.rs. `to` and `from` have 256 elements.
#include "include/device.cuh"

#define FAULTY(name) extern "C" __global__ void __launch_bounds__(256) name(float* __restrict__ to, const float* __restrict__ from, int n)

FAULTY(reads_past_the_end) { if (threadIdx.x == 3) to[0] = from[n]; }
FAULTY(writes_past_the_end) { if (threadIdx.x == 3) to[n] = 1.0f; }
FAULTY(writes_before_the_start) { if (threadIdx.x == 3) to[-1] = from[0]; }
FAULTY(writes_far_before_the_start) { if (threadIdx.x == 3) to[-100000] = from[0]; }
FAULTY(follows_null) { if (threadIdx.x == 3) to[0] = *(const float*)(size_t)(n - 256); }

// The pointer is where no type shows it.
struct Hidden { const float* from; int n; };
extern "C" __global__ void __launch_bounds__(256) reads_by_struct(float* __restrict__ to, Hidden hidden) { to[threadIdx.x] = hidden.from[threadIdx.x]; }

FAULTY(loads_misaligned_vector) {
    if (threadIdx.x == 3) {
        const float4 four = *(const float4*)(from + n % 4 + 1);
        to[0] = four.x + four.w;
    }
}
FAULTY(stores_misaligned_vector) { if (threadIdx.x == 3) *(float2*)(to + n % 4 + 1) = make_float2(1.0f, 2.0f); }
FAULTY(copies_misaligned) {
    SHARED(float, tile, 64);
    copy_async<16>(tile, from + n % 4 + 1);
    copy_async_commit();
    copy_async_wait<0>();
    to[0] = tile[0];
}
FAULTY(copies_beside_shared_memory) {
    DYNAMIC_SHARED(tile);
    copy_async<16>(tile + n * 16, from);
}

FAULTY(indexes_past_a_shared_array) {
    SHARED(float, tile, 64);
    tile[threadIdx.x % 64] = 0.0f;
    if (threadIdx.x == 3) tile[n / 4] = from[0];
    to[threadIdx.x] = tile[threadIdx.x % 64];
}
FAULTY(overruns_a_shared_array) {
    SHARED(float, tile, 64);
    SHARED(float, next, 64);
    float* at = tile;
    if (threadIdx.x == 3) at[n / 4] = from[0];
    next[0] = tile[0];
    to[0] = next[0];
}
FAULTY(overruns_dynamic_memory) {
    DYNAMIC_SHARED(bytes);
    if (threadIdx.x == 3) ((float*)bytes)[n] = from[0];
}
FAULTY(reads_past_dynamic_memory) {
    DYNAMIC_SHARED(bytes);
    if (threadIdx.x == 3) to[0] = ((float*)bytes)[n + 256];
}
FAULTY(overruns_a_local_array) {
    float local[4] = {from[0], from[1], from[2], from[3]};
    to[threadIdx.x] = local[n / 64];
}
FAULTY(uses_much_local_memory) {
    volatile char local[100000];
    for (int i = 0; i < 100000; i += 1000) local[i] = (char)n;
    to[threadIdx.x] = local[threadIdx.x * 1000 % 100000];
}

FAULTY(barrier_in_a_branch) {
    if (threadIdx.x < 100) __syncthreads();
    to[threadIdx.x] = from[threadIdx.x] + n;
}
FAULTY(barriers_at_two_lines) {
    if (threadIdx.x < 128) {
        __syncthreads();
    } else {
        __syncthreads();
    }
    to[threadIdx.x] = from[threadIdx.x] + n;
}
FAULTY(barrier_after_a_return) {
    if (threadIdx.x >= 128) return;
    __syncthreads();
    to[threadIdx.x] = from[threadIdx.x] + n;
}
FAULTY(shuffle_in_a_branch) {
    float value = from[threadIdx.x];
    if (threadIdx.x % 2 == 0) value = __shfl_down_sync(0xffffffffu, value, 2);
    to[threadIdx.x] = value + n;
}
FAULTY(shuffles_at_two_lines) {
    float value = from[threadIdx.x];
    if (threadIdx.x % 2 == 0) {
        value = __shfl_xor_sync(0xffffffffu, value, 1);
    } else {
        value = __shfl_xor_sync(0xffffffffu, value, 1);
    }
    to[threadIdx.x] = value + n;
}
FAULTY(shuffle_from_outside_of_the_mask) {
    float value = from[threadIdx.x];
    if (threadIdx.x % 32 < 16) value = __shfl_down_sync(0x0000ffffu, value, 1);
    to[threadIdx.x] = value + n;
}
FAULTY(shuffle_without_itself_in_the_mask) { to[threadIdx.x] = __shfl_xor_sync(0x0000ffffu, from[threadIdx.x], 1) + n; }
FAULTY(shuffle_and_barrier) {
    if (threadIdx.x < 16) to[threadIdx.x] = __shfl_xor_sync(0xffffffffu, from[threadIdx.x], 1) + n;
    __syncthreads();
}
FAULTY(part_of_a_warp_multiplies) {
    const uint32_t a[4] = {};
    int c[4] = {};
    if (threadIdx.x < 16) mma_u8s8(c, a, 0, 0);
    to[threadIdx.x] = from[threadIdx.x] + n + c[0];
}

FAULTY(shifts_by_32) { to[threadIdx.x] = from[0] + (1u << (n / 8)); }
FAULTY(casts_out_of_range) { to[threadIdx.x] = (float)(int)(from[0] * 1e10f + n * 1e10f); }
FAULTY(divides_by_zero) { to[threadIdx.x] = from[0] + 1000 / (n - 256); }

// What follows runs to its end, and its results show the fault.

// Each thread reads what its neighbour in the next warp has written, with no barrier between.
FAULTY(lacks_a_barrier) {
    SHARED(float, tile, 256);
    tile[threadIdx.x] = from[threadIdx.x];
    to[threadIdx.x] = tile[(threadIdx.x + 32) % n];
}
// Writes the next round while another warp still reads this one.
FAULTY(lacks_a_second_barrier) {
    SHARED(float, tile, 256);
    float sum = 0.0f;
    for (int round = 0; round < 4; ++round) {
        tile[threadIdx.x] = from[threadIdx.x] * round;
        __syncthreads();
        sum += tile[(threadIdx.x + 32) % n];
    }
    to[threadIdx.x] = sum;
}
FAULTY(lacks_a_warp_barrier) {
    SHARED(float, tile, 256);
    tile[threadIdx.x] = from[threadIdx.x];
    to[threadIdx.x] = tile[threadIdx.x ^ (n / 256)];
}
FAULTY(does_not_wait_for_a_copy) {
    DYNAMIC_SHARED(bytes);
    float* tile = (float*)bytes;
    copy_async<4>(tile + threadIdx.x, from + threadIdx.x);
    copy_async_commit();
    __syncthreads();
    to[threadIdx.x] = tile[(threadIdx.x + 1) % n];
}
FAULTY(waits_for_too_few_groups) {
    DYNAMIC_SHARED(bytes);
    float* tile = (float*)bytes;
    copy_async<4>(tile + threadIdx.x, from + threadIdx.x);
    copy_async_commit();
    copy_async_wait<1>();
    __syncthreads();
    to[threadIdx.x] = tile[(threadIdx.x + 1) % n];
}
FAULTY(reads_unwritten_shared_memory) {
    DYNAMIC_SHARED(bytes);
    to[threadIdx.x] = ((float*)bytes)[threadIdx.x] + n * from[0];
}
FAULTY(reads_unwritten_memory) { to[threadIdx.x] += from[0] + n; }

KERNEL(reads_past_the_end, 256)
KERNEL(writes_past_the_end, 256)
KERNEL(writes_before_the_start, 256)
KERNEL(writes_far_before_the_start, 256)
KERNEL(follows_null, 256)
KERNEL(reads_by_struct, 256)
KERNEL(loads_misaligned_vector, 256)
KERNEL(stores_misaligned_vector, 256)
KERNEL(copies_misaligned, 256)
KERNEL(copies_beside_shared_memory, 256)
KERNEL(indexes_past_a_shared_array, 256)
KERNEL(overruns_a_shared_array, 256)
KERNEL(overruns_dynamic_memory, 256)
KERNEL(reads_past_dynamic_memory, 256)
KERNEL(overruns_a_local_array, 256)
KERNEL(uses_much_local_memory, 256)
KERNEL(barrier_in_a_branch, 256)
KERNEL(barriers_at_two_lines, 256)
KERNEL(barrier_after_a_return, 256)
KERNEL(shuffle_in_a_branch, 256)
KERNEL(shuffles_at_two_lines, 256)
KERNEL(shuffle_from_outside_of_the_mask, 256)
KERNEL(shuffle_without_itself_in_the_mask, 256)
KERNEL(shuffle_and_barrier, 256)
KERNEL(part_of_a_warp_multiplies, 256)
KERNEL(shifts_by_32, 256)
KERNEL(casts_out_of_range, 256)
KERNEL(divides_by_zero, 256)
KERNEL(lacks_a_barrier, 256)
KERNEL(lacks_a_second_barrier, 256)
KERNEL(lacks_a_warp_barrier, 256)
KERNEL(does_not_wait_for_a_copy, 256)
KERNEL(waits_for_too_few_groups, 256)
KERNEL(reads_unwritten_shared_memory, 256)
KERNEL(reads_unwritten_memory, 256)
