// optimizer.cu: SGD, Adam and AdamW over the arena of all parameters, and what guards them.
//
// Equation   g = clip*grad + decay*v;  SGD: m = momentum*m + g, v -= lr*(m, or g + momentum*m with Nesterov)
//            Adam: m = b1*m + (1-b1)*g, s = b2*s + (1-b2)*g*g, v -= rate*m / (sqrt(s)/root + eps)      (the formulas are PyTorch's)
//            AdamW: the same without decay in g, and v times `keep` before
//            clip = min(1, most / (norm of all gradients + 1e-6)), or 1;  average = share*average + (1 - share)*v
// Shapes     values, grads, first, second [len] f32, one arena each;  running [statistics] f32, mean and variance of each batch norm;
//            spared [ceil(len / 32)] bits of the parameters that do not decay, or none
// Launch     sgd_step, squares: one thread = 4 parameters, block 256, grid ceil(len / 1024);  adam_step, average, first_not_finite: a loop
//            over the arena by at most 2048 blocks of 256;  clip_factor: one block of 256;  bound_thresholds: one thread a layer
// Traffic    SGD reads 12 and writes 8 bytes a parameter, Adam reads 16 and writes 12; first_not_finite reads 8 (4 a statistic),
//            squares reads 4, average reads 8 and writes 4: memory-bound
// Exactness  bit-equal to src/ops/optimizer/cpu.rs: single operations in the same order, no fused multiply-add
// Tests      tests/optimizer_cuda.rs

#include "include/step.cuh"

// Lowest index of a value or gradient that is not finite, then of a running statistic (from `len` on), as StepResult wants it.
extern "C" __global__ void __launch_bounds__(256)
first_not_finite(StepResult* __restrict__ result, const float* __restrict__ values, const float* __restrict__ grads, int len,
                 const float* __restrict__ running, int statistics) {
    for (int i = blockIdx.x * 256 + threadIdx.x; i < len + statistics; i += gridDim.x * 256) {
        const bool finite = i < len ? is_finite(values[i]) && is_finite(grads[i]) : is_finite(running[i - len]);
        if (!finite) {
            atomicMax(&result->first_bad, 0xffffffffu - (uint32_t)i);
            return;                                  // later elements of this thread have higher indices
        }
    }
}

struct Sgd {
    float momentum, decay;
    int nesterov, len;
};

// Bits of the four parameters from `at` on, a multiple of 4: whether they are spared from weight decay.
__device__ __forceinline__ uint32_t spared_four(const uint32_t* __restrict__ spared, int at) {
    return spared == nullptr ? 0u : spared[at / 32] >> (at % 32) & 15u;
}

__device__ __forceinline__ void sgd(float& value, float& velocity, float grad, uint32_t spared, float lr, float clip, const Sgd& p) {
    grad = clip * grad + (spared & 1u ? 0.0f : p.decay) * value;
    velocity = p.momentum * velocity + grad;
    value -= lr * (p.nesterov ? grad + p.momentum * velocity : velocity);
}

extern "C" __global__ void __launch_bounds__(256)
sgd_step(float* __restrict__ values, float* __restrict__ first, const float* __restrict__ grads,
         const uint32_t* __restrict__ spared, const StepParameters* __restrict__ parameters,
         const StepResult* __restrict__ result, Sgd p) {
    if (is_bad(*result)) return;
    const int at = (blockIdx.x * 256 + threadIdx.x) * 4;
    if (at >= p.len) return;
    const float lr = parameters->lr, clip = parameters->clip;
    const uint32_t bits = spared_four(spared, at);
    if (at + 4 <= p.len) {
        float4 value = *(float4*)(values + at), velocity = *(float4*)(first + at);
        const float4 grad = *(const float4*)(grads + at);
        sgd(value.x, velocity.x, grad.x, bits, lr, clip, p);
        sgd(value.y, velocity.y, grad.y, bits >> 1, lr, clip, p);
        sgd(value.z, velocity.z, grad.z, bits >> 2, lr, clip, p);
        sgd(value.w, velocity.w, grad.w, bits >> 3, lr, clip, p);
        *(float4*)(values + at) = value;
        *(float4*)(first + at) = velocity;
        return;
    }
    for (int i = at; i < p.len; ++i) sgd(values[i], first[i], grads[i], bits >> (i - at), lr, clip, p);
}

struct Adam {
    float beta1, beta2, eps, decay;
    int decoupled, len;                              // whether decay stays out of the gradient: AdamW
};

extern "C" __global__ void __launch_bounds__(256)
adam_step(float* __restrict__ values, float* __restrict__ first, float* __restrict__ second, const float* __restrict__ grads,
          const uint32_t* __restrict__ spared, const StepParameters* __restrict__ parameters,
          const StepResult* __restrict__ result, Adam p) {
    if (is_bad(*result)) return;
    const float rate = parameters->lr, root = parameters->root, keep = parameters->keep, clip = parameters->clip;
    for (int i = blockIdx.x * 256 + threadIdx.x; i < p.len; i += gridDim.x * 256) {
        const bool decays = spared == nullptr || (spared[i / 32] >> (i % 32) & 1u) == 0;
        const float value = p.decoupled && decays ? values[i] * keep : values[i];
        const float grad = clip * grads[i] + (p.decoupled || !decays ? 0.0f : p.decay) * value;
        const float mean = p.beta1 * first[i] + (1.0f - p.beta1) * grad;
        const float square = p.beta2 * second[i] + (1.0f - p.beta2) * grad * grad;
        first[i] = mean;
        second[i] = square;
        values[i] = value - rate * mean / (sqrtf(square) / root + p.eps);
    }
}

// Keeps every threshold above its bound (reference: relu(Vth - bound) + bound).
extern "C" __global__ void __launch_bounds__(64)
bound_thresholds(float* __restrict__ values, const uint32_t* __restrict__ places, float bound, int layers) {
    const int layer = blockIdx.x * 64 + threadIdx.x;
    if (layer >= layers) return;
    float& threshold = values[places[layer]];
    threshold = fmaxf(threshold - bound, 0.0f) + bound;
}

// Sum of 256 values, one a thread, by halves: for thread 0, others get nothing.
__device__ __forceinline__ double sum_by_halves(double own) {
    SHARED(double, lanes, 256);
    lanes[threadIdx.x] = own;
    for (int half = 128; half > 0; half /= 2) {
        __syncthreads();
        if ((int)threadIdx.x < half) lanes[threadIdx.x] += lanes[threadIdx.x + half];
    }
    return threadIdx.x == 0 ? lanes[0] : 0.0;
}

extern "C" __global__ void __launch_bounds__(256)
squares(double* __restrict__ partial, const float* __restrict__ grads, int len) {
    const int at = (blockIdx.x * 256 + threadIdx.x) * 4;
    double own = 0.0;
    for (int i = at; i < min(at + 4, len); ++i) own += (double)grads[i] * (double)grads[i];
    const double sum = sum_by_halves(own);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

extern "C" __global__ void __launch_bounds__(256)
clip_factor(StepParameters* __restrict__ parameters, const double* __restrict__ partial, int parts, float most) {
    double own = 0.0;
    for (int i = threadIdx.x; i < parts; i += 256) own += partial[i];
    const double sum = sum_by_halves(own);
    if (threadIdx.x == 0) parameters->clip = (float)fmin(1.0, (double)most / (sqrt(sum) + 1e-6));
}

// Takes values into their moving average.
extern "C" __global__ void __launch_bounds__(256)
average(float* __restrict__ average, const float* __restrict__ values, const StepParameters* __restrict__ parameters,
        const StepResult* __restrict__ result, int len) {
    if (is_bad(*result)) return;
    const float share = parameters->average;
    for (int i = blockIdx.x * 256 + threadIdx.x; i < len; i += gridDim.x * 256) {
        average[i] = share * average[i] + (1.0f - share) * values[i];
    }
}

KERNEL(first_not_finite, 256)
KERNEL(sgd_step, 256)
KERNEL(adam_step, 256)
KERNEL(bound_thresholds, 64)
KERNEL(squares, 256)
KERNEL(clip_factor, 256)
KERNEL(average, 256)
