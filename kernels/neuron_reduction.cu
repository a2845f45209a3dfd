// neuron_reduction.cu: what backward of a layer leaves in parts, added up, all of it in one launch.
//
// Equation   clamp mapping  threshold += factor * T * sum of `above`;  beta += T * sum of g;  gamma += T * sum of g*mean_t xhat
//                           mean g = sum of g / (B*P),  k = scale * sum of g*mean_t xhat / (B*P)     (neuron.cu writes the parts)
//            bias           bias += T * sum of the gradient of the current                           (batch_norm_backward.cu)
//            weights        grad_w += factor * sum of parts, for each copy                           (conv_weight_gradient.cu)
// Shapes     parts of channels [quantity][blocks of rows][C] f64; parts of weights [splits][tap][cin][cout] f32; gradients f32
// Units      gradients of the loss
// Launch     block 256; a part of the grid for each job, one behind the other: ceil(C/32) blocks for channels, one for a threshold,
//            ceil(len/256) for weights. Nothing orders the jobs of a launch, and none reads what another writes: the constants of a
//            layer's batch norm are wanted at once, the gradients of the layer behind it only at the end of the step.
// Traffic    8 bytes a part of a channel, 4 a part of a weight, read once, mostly from L2; writes (and reads) 4 bytes a gradient
// Exactness  channels: f64, eight runs of blocks, each in order, then the runs in order; a threshold: f64 by a fixed tree; weights: f32,
//            parts in order. Shapes alone decide, so the bits are the same in every run, and whatever else is in the launch
// Tests      tests/neuron_reduction_cuda.rs

#include "include/columns.cuh"

// Field for field `ClampArgs` in src/ops/neuron/cuda_reduction.rs.
struct ClampJob {
    float* grad_threshold;     // [1]
    float* grad_gamma;         // [C]
    float* grad_beta;          // [C]
    float* mean;               // [padded]
    float* k;                  // [padded]
    const double* partial;     // [3][blocks][C]: sums of g above the range, of g, of g*mean_t xhat
    const float* normalizer;   // [6][padded]
    float threshold_factor;    // of the threshold gradient
    int time_steps;            // T
    int blocks;                // of rows, in the partial sums
    int rows;                  // B*P
    int channels;
    int padded;
    int grid;                  // blocks for channels; 0 without batch norm
    int threshold_grid;        // 1, or 0 where the layer has no neurons
};
static_assert(sizeof(ClampJob) == 88, "ClampJob is one layout on both sides");

// Field for field `BiasArgs` there.
struct BiasJob {
    float* grad;               // [C], or null
    float* other_grad;         // [C] of a second connection, or null
    const double* partial;     // [blocks][C]
    int blocks;
    int channels;
    int time_steps;
    int grid;                  // 0 for none
};
static_assert(sizeof(BiasJob) == 40, "BiasJob is one layout on both sides");

// Field for field `WeightArgs` there.
struct WeightJob {
    float* grad;               // [copies][len]
    const float* partial;      // [splits][len]
    const float* threshold;    // [1] of the source's neurons; null for real values
    float factor;              // of the sum, and of the threshold where there is one
    int splits;
    int len;                   // weights
    int copies;                // of the weights, each of which gets the gradient
    int grid;                  // 0 for none
    int padding;
};
static_assert(sizeof(WeightJob) == 48, "WeightJob is one layout on both sides");

// Jobs of a launch; an absent one has a grid of 0.
struct Reductions {
    ClampJob clamp;
    BiasJob bias, other_bias;
    WeightJob weights, other_weights;
};
static_assert(sizeof(Reductions) == 264, "Reductions is one layout on both sides");

// Gradients of gamma and beta of 32 channels, mean g and k.
__device__ __forceinline__ void reduce_channels(const ClampJob& p, int block, double* between) {
    const double steps = p.time_steps, rows = p.rows;
    const int c = block * 32 + threadIdx.x % 32;
    const double sum = sum_of_partials(p.partial, 1, p.blocks, p.channels, c, between);
    const double product = sum_of_partials(p.partial, 2, p.blocks, p.channels, c, between);
    if (threadIdx.x >= 32 || c >= p.channels) return;
    p.grad_beta[c] += (float)(steps * sum);
    p.grad_gamma[c] += (float)(steps * product);
    p.mean[c] = (float)(sum / rows);
    p.k[c] = (float)((double)p.normalizer[5 * p.padded + c] * product / rows);
}

__device__ __forceinline__ void reduce_threshold(const ClampJob& p) {
    const double steps = p.time_steps;
    double above = 0.0;
    for (size_t i = threadIdx.x; i < (size_t)p.blocks * p.channels; i += 256) above += p.partial[i];
    above = block_sum<256>(above);
    if (threadIdx.x == 0) *p.grad_threshold += (float)((double)p.threshold_factor * steps * above);
}

__device__ __forceinline__ void reduce_bias(const BiasJob& p, int block, double* between) {
    const int c = block * 32 + threadIdx.x % 32;
    const double sum = sum_of_partials(p.partial, 0, p.blocks, p.channels, c, between);
    if (threadIdx.x >= 32 || c >= p.channels) return;
    const float grad = (float)((double)p.time_steps * sum);
    if (p.grad != nullptr) p.grad[c] += grad;
    if (p.other_grad != nullptr) p.other_grad[c] += grad;
}

__device__ __forceinline__ void reduce_weights(const WeightJob& p, int block) {
    const int i = block * 256 + threadIdx.x;
    if (i >= p.len) return;
    float sum = 0.0f;
#pragma unroll 8
    for (int split = 0; split < p.splits; ++split) sum += p.partial[(size_t)split * p.len + i];
    sum *= p.threshold == nullptr ? p.factor : p.factor * *p.threshold;
    for (int copy = 0; copy < p.copies; ++copy) p.grad[(size_t)copy * p.len + i] += sum;
}

extern "C" __global__ void __launch_bounds__(256)
reduce_parts(Reductions p) {
    SHARED(double, between, 256);
    int block = blockIdx.x;
    if (block < p.clamp.grid) return reduce_channels(p.clamp, block, between);
    block -= p.clamp.grid;
    if (block < p.clamp.threshold_grid) return reduce_threshold(p.clamp);
    block -= p.clamp.threshold_grid;
    if (block < p.bias.grid) return reduce_bias(p.bias, block, between);
    block -= p.bias.grid;
    if (block < p.other_bias.grid) return reduce_bias(p.other_bias, block, between);
    block -= p.other_bias.grid;
    if (block < p.weights.grid) return reduce_weights(p.weights, block);
    reduce_weights(p.other_weights, block - p.weights.grid);
}

KERNEL(reduce_parts, 256)
