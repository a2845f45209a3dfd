// step.cuh: what changes from step to step, and what a step reports. A step is replayed as a graph, so both lie in device memory.
#pragma once
#include "device.cuh"

// Field for field `StepParameters` in src/ops/optimizer/cuda.rs; the host writes it before every step.
struct StepParameters {
    float lr;            // learning rate; Adam: divided by the correction of the first moment
    float root;          // Adam: square root of the correction of the second moment
    float keep;          // AdamW: what weight decay leaves of a parameter, 1 - learning rate * decay
    float average;       // share of the average that an average of the parameters keeps
    uint32_t key[8];     // ChaCha8 key of the dropout masks
    float clip;          // factor of the gradients: 1 from the host, set by clip_factor where their norm is bounded
    uint32_t padding[3];
};
static_assert(sizeof(StepParameters) == 64, "StepParameters is one layout on both sides");

// Field for field `StepResult` in src/ops/optimizer/cuda.rs; cleared at the start of every step.
struct StepResult {
    double loss;             // mean over the batch
    uint32_t correct;        // samples
    uint32_t first_bad;      // 2^32 - 1 - index of the first value or gradient that is not finite; 0 if there is none
};
static_assert(sizeof(StepResult) == 16, "StepResult is one layout on both sides");

__device__ __forceinline__ bool is_finite(float value) { return (__float_as_uint(value) & 0x7f800000u) != 0x7f800000u; }

// Whether the update has to be left out.
__device__ __forceinline__ bool is_bad(const StepResult& result) { return result.first_bad != 0 || !(fabs(result.loss) <= 1.7976931348623157e308); }
