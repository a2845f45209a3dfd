// optimizer.cu: SGD and Adam over the arena of all parameters, and what guards them.
//
// Equation   g = grad + decay*v;  SGD: m = momentum*m + g, v -= lr*(m, or g + momentum*m with Nesterov)
//            Adam: m = b1*m + (1-b1)*g, s = b2*s + (1-b2)*g*g, v -= rate*m / (sqrt(s)/root + eps)      (the formulas are PyTorch's)
// Shapes     values, grads, first, second [len] f32, one arena each;  running [statistics] f32, mean and variance of each batch norm
// Launch     one thread = 4 parameters, block 256, grid ceil(len / 1024);  bound_thresholds: one thread a layer
// Traffic    SGD reads 12 and writes 8 bytes a parameter, Adam reads 16 and writes 12; first_not_finite reads 8 (4 a statistic): memory-bound
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

__device__ __forceinline__ void sgd(float& value, float& velocity, float grad, float lr, const Sgd& p) {
    grad = grad + p.decay * value;
    velocity = p.momentum * velocity + grad;
    value -= lr * (p.nesterov ? grad + p.momentum * velocity : velocity);
}

extern "C" __global__ void __launch_bounds__(256)
sgd_step(float* __restrict__ values, float* __restrict__ first, const float* __restrict__ grads,
         const StepParameters* __restrict__ parameters, const StepResult* __restrict__ result, Sgd p) {
    if (is_bad(*result)) return;
    const int at = (blockIdx.x * 256 + threadIdx.x) * 4;
    const float lr = parameters->lr;
    if (at + 4 <= p.len) {
        float4 value = *(float4*)(values + at), velocity = *(float4*)(first + at);
        const float4 grad = *(const float4*)(grads + at);
        sgd(value.x, velocity.x, grad.x, lr, p);
        sgd(value.y, velocity.y, grad.y, lr, p);
        sgd(value.z, velocity.z, grad.z, lr, p);
        sgd(value.w, velocity.w, grad.w, lr, p);
        *(float4*)(values + at) = value;
        *(float4*)(first + at) = velocity;
        return;
    }
    for (int i = at; i < p.len; ++i) sgd(values[i], first[i], grads[i], lr, p);
}

struct Adam {
    float beta1, beta2, eps, decay;
    int len;
};

extern "C" __global__ void __launch_bounds__(256)
adam_step(float* __restrict__ values, float* __restrict__ first, float* __restrict__ second, const float* __restrict__ grads,
          const StepParameters* __restrict__ parameters, const StepResult* __restrict__ result, Adam p) {
    if (is_bad(*result)) return;
    const float rate = parameters->lr, root = parameters->root;
    for (int i = blockIdx.x * 256 + threadIdx.x; i < p.len; i += gridDim.x * 256) {
        const float value = values[i];
        const float grad = grads[i] + p.decay * value;
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

KERNEL(first_not_finite, 256)
KERNEL(sgd_step, 256)
KERNEL(adam_step, 256)
KERNEL(bound_thresholds, 64)
