// wrong_bound.cu: takes the place of the product's kernel and moves the last threshold too far, for tests/check.rs.
#include "include/device.cuh"

extern "C" __global__ void __launch_bounds__(64)
bound_thresholds(float* __restrict__ values, const uint32_t* __restrict__ places, float bound, int layers) {
    const int layer = blockIdx.x * 64 + threadIdx.x;
    if (layer >= layers) return;
    float& threshold = values[places[layer]];
    threshold = fmaxf(threshold - bound, 0.0f) + (layer == layers - 1 ? 2.0f * bound : bound);
}

KERNEL(bound_thresholds, 64)
