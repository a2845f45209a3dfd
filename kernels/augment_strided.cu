// augment_strided.cu: values of an array that lies on the device already, of another program, say: its axes in any order, with steps
// between its elements.
//
// Equation   strided_values       out[i] = factor * in[at(i)]
//            strided_bytes        out[i] = table[c][in[at(i)]], c the index on the last axis
//            strided_not_finite   first = max(first, 2^32 - 1 - i) over all i for which in[at(i)] is not finite
//            at(i) = sum of index * step over the five axes, where i numbers the indices with the last axis fastest
// Shapes     in: the element whose indices are all 0, steps of elements that may be negative or 0;  out [values] f32, dense, for images
//            [B][frames][H][W][C];  table [C][256] f32;  first [1] u32, 0 before
// Launch     one thread a value, block 256, grid ceil(values / 256)
// Traffic    reads 4 bytes (1) a value, writes 4; with channels first, a warp reads C rows at once: memory-bound
// Exactness  a copy and a look-up, bit-equal to Pixels::append of src/data/augment.rs; one product where the factor is not 1
// Tests      tests/augment_strided_cuda.rs

#include "include/step.cuh"

// Field for field `StridedArgs` in src/ops/augment/cuda_strided.rs.
struct Strided {
    int64_t steps[5];
    int shape[5];
    int values;              // product of the shape
};
static_assert(sizeof(Strided) == 64, "Strided is one layout on both sides");

// Where value `i` lies, counted from the element whose indices are all 0; `last` is its index on the last axis.
__device__ __forceinline__ int64_t strided_at(const Strided& p, int i, int& last) {
    last = i % p.shape[4];
    int64_t at = 0;
    for (int axis = 4; axis >= 0; axis--) {
        at += i % p.shape[axis] * p.steps[axis];
        i /= p.shape[axis];
    }
    return at;
}

extern "C" __global__ void __launch_bounds__(256)
strided_values(float* __restrict__ out,                  // [values]
               const float* __restrict__ in,
               float factor,
               Strided p) {
    const uint32_t i = blockIdx.x * 256u + threadIdx.x;
    if (i >= (uint32_t)p.values) return;
    int last;
    out[i] = factor * in[strided_at(p, (int)i, last)];
}

extern "C" __global__ void __launch_bounds__(256)
strided_bytes(float* __restrict__ out,                   // [values]
              const uint8_t* __restrict__ in,
              const float* __restrict__ table,           // [C][256]
              Strided p) {
    const uint32_t i = blockIdx.x * 256u + threadIdx.x;
    if (i >= (uint32_t)p.values) return;
    int last;
    const uint8_t byte = in[strided_at(p, (int)i, last)];
    out[i] = table[last * 256 + byte];
}

// The lowest number of a value that is not finite, as the bits that are left of 2^32 - 1; 0 if all are.
extern "C" __global__ void __launch_bounds__(256)
strided_not_finite(uint32_t* __restrict__ first,         // [1]
                   const float* __restrict__ in,
                   Strided p) {
    const uint32_t i = blockIdx.x * 256u + threadIdx.x;
    if (i >= (uint32_t)p.values) return;
    int last;
    if (!is_finite(in[strided_at(p, (int)i, last)])) atomicMax(first, 0xffffffffu - i);
}

KERNEL(strided_values, 256)
KERNEL(strided_bytes, 256)
KERNEL(strided_not_finite, 256)
