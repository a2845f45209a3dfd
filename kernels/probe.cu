// probe.cu: what a device has to show before anything else: launch, scalars by value, shared memory, a barrier, one rounding.
//
// Equation   y[b][j] = x[b][last - j] * scale + offset      (b a block of 256 elements, rounded once)
// Shapes     x, y [n] f32
// Launch     one thread an element, block 256, grid ceil(n / 256), dynamic shared memory 256*4 bytes or more
// Traffic    8 bytes an element
// Exactness  bit-equal to mul_add
// Tests      tests/device.rs

#include "include/device.cuh"

// Field for field `Probe` in tests/device.rs.
struct Probe {
    float scale;
    float offset;
    int n;
};
static_assert(sizeof(Probe) == 12, "Probe is one layout on both sides");

extern "C" __global__ void __launch_bounds__(256)
probe(float* __restrict__ y,             // [n]
      const float* __restrict__ x,       // [n]
      Probe p) {
    DYNAMIC_SHARED(bytes);
    float* const block = (float*)bytes;
    const int first = blockIdx.x * 256, i = first + threadIdx.x;
    const int last = min(256, p.n - first) - 1;
    block[threadIdx.x] = i < p.n ? x[i] : 0.0f;
    __syncthreads();
    if (i < p.n) y[i] = fmaf(block[last - threadIdx.x], p.scale, p.offset);
}

KERNEL(probe, 256)
