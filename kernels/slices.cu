// slices.cu: sums over the samples of each slice of a batch, and over slices in the order of one binary tree, whichever rank has which.
//
// Equation   slice_sums     sum over blocks of rows of what another kernel has left in parts, for one slice
//            sample_sums    sum over the samples of each slice, in their order
//            tree_f32, _f64 slices 0 and 1, 2 and 3, then pairs of pairs; where the right half has no slice nothing is added. Rank r of n
//                           has the slices from r*slices/n on, and adds what is its own; another launch adds what lies across ranks
// Shapes     parts [quantity][blocks][C] f64;  samples [B][len] f64;  sums [slices][len] f32 or f64, in place: that of a node of the tree
//            stands where its first slice stood;  into [len], added to
// Launch     slice_sums: block 256, grid (ceil(C/32), quantities);  sample_sums: block 256, grid (ceil(len/256), slices);
//            trees: one thread = one value of all slices, block 256, grid ceil(len/256)
// Traffic    trees read each slice once and write half of them: 4 or 8 bytes a value; the others are small
// Exactness  one order of additions for any number of ranks, that of src/ranks/tree.rs
// Tests      tests/slices_cuda.rs

#include "include/columns.cuh"

extern "C" __global__ void __launch_bounds__(256)
slice_sums(double* __restrict__ sums,                // [quantities][C]
           const double* __restrict__ parts,         // [quantities][blocks][C]
           int blocks, int channels) {
    SHARED(double, between, 256);
    const int c = blockIdx.x * 32 + threadIdx.x % 32;
    const double sum = sum_of_partials(parts, blockIdx.y, blocks, channels, c, between);
    if (threadIdx.x < 32 && c < channels) sums[(size_t)blockIdx.y * channels + c] = sum;
}

// Field for field `SampleArgs` in src/ops/slices/cuda.rs.
struct Samples {
    int batch;
    int slice;                                       // samples of a slice; of the last one there may be fewer
    int len;
};
static_assert(sizeof(Samples) == 12, "Samples is one layout on both sides");

extern "C" __global__ void __launch_bounds__(256)
sample_sums(double* __restrict__ sums,               // [slices][len]
            const double* __restrict__ samples,      // [B][len]
            Samples p) {
    const int i = blockIdx.x * 256 + threadIdx.x;
    if (i >= p.len) return;
    const int first = blockIdx.y * p.slice, end = min(first + p.slice, p.batch);
    double sum = 0.0;
    for (int b = first; b < end; ++b) sum += samples[(size_t)b * p.len + i];
    sums[(size_t)blockIdx.y * p.len + i] = sum;
}

// Field for field `TreeArgs` in src/ops/slices/cuda.rs.
struct Tree {
    long long len;                                   // values of a slice
    int slices;                                      // of a whole batch
    int present;                                     // of this batch
    int ranks;
    int rank;                                        // whose own slices are added; below 0: what lies across ranks
    int base;                                        // slice at the first place
    int padding;
};
static_assert(sizeof(Tree) == 32, "Tree is one layout on both sides");

// First slice of a rank.
__device__ __forceinline__ int border(const Tree& p, int rank) { return (int)((long long)rank * p.slices / p.ranks); }

// Whether one rank has all slices below a node of `width` slices that there are; that rank is the one with its first slice.
__device__ __forceinline__ bool has_all(const Tree& p, int rank, int node, int width) {
    return node >= border(p, rank) && min(node + width, p.present) <= border(p, rank + 1);
}

template <typename T>
__device__ __forceinline__ void add_slices(T* values, T* into, const Tree& p) {
    const long long i = (long long)blockIdx.x * 256 + threadIdx.x;
    if (i >= p.len) return;
    T* of_value = values + i;
#pragma unroll 1
    for (int half = 1; half < p.present; half *= 2) {
#pragma unroll 1
        for (int node = 0; node + half < p.present; node += 2 * half) {
            const int owner = (int)(((long long)(node + 1) * p.ranks - 1) / p.slices);
            const bool is_own = has_all(p, owner, node, 2 * half);
            if (p.rank < 0 ? is_own : !is_own || owner != p.rank) continue;
            of_value[(node - p.base) * p.len] += of_value[(node + half - p.base) * p.len];
        }
    }
    if (into != nullptr && p.present > 0) into[i] += of_value[0];
}

extern "C" __global__ void __launch_bounds__(256)
tree_f32(float* values, float* into, Tree p) { add_slices(values, into, p); }

extern "C" __global__ void __launch_bounds__(256)
tree_f64(double* values, double* into, Tree p) { add_slices(values, into, p); }

KERNEL(slice_sums, 256)
KERNEL(sample_sums, 256)
KERNEL(tree_f32, 256)
KERNEL(tree_f64, 256)
