// cross_entropy.cu: softmax cross-entropy of a batch, and the gradient that backward starts from.
//
// Equation   n_k = log(sum_j exp(z_j - max z)) - (z_k - max z)
//            t_k = (1 - smoothing) * (share * [k = label] + (1 - share) * [k = other]) + smoothing / K
//            loss = mean over b of sum_k t_k * n_k;  grad_k = (softmax_k - t_k) / B, times `factor`; B counts the samples of all ranks
// Shapes     logits and grad [B][classes] f32;  labels [B] u32;  blends [B] of (other, share), or null: then share is 1;
//            losses [B] f64
// Launch     cross_entropy: a warp = one sample, block 256, grid ceil(B / 8);  loss_reduce: one block of 256
// Traffic    reads 4 bytes a logit twice (with smoothing three times), writes 4; `factor` is the sum of the squared step weights, which
//            turns the gradient of a logit into its weighted mean over time
// Exactness  f64 as on the CPU, samples in their order, but exp, log and the order of the sum over classes differ in the last bits; the
//            same bits in every run
// Tests      tests/cross_entropy_cuda.rs

#include "include/step.cuh"

// Another class of a sample, and the share of its own one.
struct Blend {
    uint32_t other;
    float share;
};
static_assert(sizeof(Blend) == 8, "Blend in src/ops/cross_entropy/mod.rs");

struct CrossEntropy {
    int batch, classes;
    int total;                                       // samples of the batch on all ranks
    float factor;
};

extern "C" __global__ void __launch_bounds__(256)
cross_entropy(float* __restrict__ grad,              // [B][classes]
              double* __restrict__ losses,           // [B]
              StepResult* __restrict__ result,       // counts the samples whose first largest logit is that of their label
              const float* __restrict__ logits,      // [B][classes]
              const uint32_t* __restrict__ labels,   // [B]
              const Blend* __restrict__ blends,      // [B]
              CrossEntropy p,
              double smoothing) {                    // share of a target that all classes have in equal parts
    const int b = (blockIdx.x * 256 + threadIdx.x) / 32, lane = threadIdx.x % 32;
    if (b >= p.batch) return;
    const float* z = logits + (size_t)b * p.classes;
    float largest = __int_as_float(0xff800000);      // minus infinity
    int first = p.classes;
    for (int k = lane; k < p.classes; k += 32) {
        if (z[k] > largest) {
            largest = z[k];
            first = k;
        }
    }
    for (int offset = 16; offset > 0; offset /= 2) {
        const float other = __shfl_xor_sync(0xffffffffu, largest, offset);
        const int other_first = __shfl_xor_sync(0xffffffffu, first, offset);
        if (other > largest || (other == largest && other_first < first)) {
            largest = other;
            first = other_first;
        }
    }
    double total = 0.0;
    for (int k = lane; k < p.classes; k += 32) total += exp((double)(z[k] - largest));
    total = warp_sum(total);
    const int label = (int)labels[b];
    const int other = blends == nullptr ? label : (int)blends[b].other;
    const double part = blends == nullptr ? 1.0 : (double)blends[b].share;
    const double own = (1.0 - smoothing) * part, rest = (1.0 - smoothing) * (1.0 - part);
    const double each = smoothing / (double)p.classes, log_total = log(total);
#pragma unroll 1                                     // else what is live around the divisions does not fit the registers of sm_90
    for (int k = lane; k < p.classes; k += 32) {
        const double share = exp((double)(z[k] - largest)) / total;
        const double target = each + (k == label ? own : 0.0) + (k == other ? rest : 0.0);
        grad[(size_t)b * p.classes + k] = (float)((share - target) / (double)p.total) * p.factor;
    }
    double all = 0.0;
    if (smoothing > 0.0) {
#pragma unroll 1
        for (int k = lane; k < p.classes; k += 32) all += log_total - (double)(z[k] - largest);
        all = warp_sum(all);
    }
    if (lane == 0) {
        double loss = own * (log_total - (double)(z[label] - largest));
        if (rest > 0.0) loss += rest * (log_total - (double)(z[other] - largest));
        losses[b] = smoothing > 0.0 ? loss + each * all : loss;
        if (first == p.classes || z[0] != z[0]) first = 0;   // no number is larger than the first
        if (first == label) atomicAdd(&result->correct, 1u);
    }
}

// Mean of the losses of `total` samples, of which `batch` are here (or sums of slices), and are added in their order.
extern "C" __global__ void __launch_bounds__(256)
loss_reduce(StepResult* __restrict__ result, const double* __restrict__ losses, int batch, int total) {
    SHARED(double, part, 256);
    double sum = 0.0;
    for (int first = 0; first < batch; first += 256) {
        const int b = first + threadIdx.x;
        __syncthreads();
        if (b < batch) part[threadIdx.x] = losses[b];
        __syncthreads();
        for (int i = 0; threadIdx.x == 0 && i < min(256, batch - first); ++i) sum += part[i];
    }
    if (threadIdx.x == 0) result->loss = sum / (double)total;
}

KERNEL(cross_entropy, 256)
KERNEL(loss_reduce, 256)
