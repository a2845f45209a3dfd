// readout.cuh: logits of the last layer: the representation of a neuron, from its spikes, or its mean current.
//
// Equation   rate.cu
// Use        representation(...) for a neuron whose spikes are in memory; read_out_*(...) behind the time loop of neuron.cuh
// Traffic    reads T words of a warp's spikes again, which are in a cache
// Exactness  bit-equal to Network::logits in src/network/forward.rs, shares added in the order of t from -0 on
#pragma once
#include "neuron.cuh"

// Field for field `DeviceReadout` in src/ops/rate/cuda.rs.
struct Readout {
    float* logits;                       // [B][P*C]; null where none are wanted
    const float* step_weights;           // [T], by spikes
    float delta_t;                       // LIF; 0 for IF
    int by_current;
};
static_assert(sizeof(Readout) == 24, "Readout is one layout on both sides");

// `train` is the word that holds channel c at step 0; the next step is `words` further.
__device__ __forceinline__ float representation(const uint32_t* train, int words, int c, int time_steps, float threshold,
                                                const float* __restrict__ step_weights, float delta_t) {
    int count = 0;
    float share = -0.0f;                                 // what a sum of nothing is on the CPU
    for (int t = 0; t < time_steps; ++t) {
        if (train[(size_t)t * words] >> (c % 32) & 1u) {
            count += 1;
            share += step_weights[t];
        }
    }
    const bool is_lif = delta_t > 0.0f;
    const float value = is_lif ? threshold / delta_t : threshold;
    return is_lif ? value * share : (float)count * value / (float)time_steps;
}

// The logit of this lane's neuron from the mean of its normalised currents, where it is read by current.
__device__ __forceinline__ void read_out_current(const Readout& p, float mean, const NeuronChannel& channel, size_t q, int c,
                                                 const Neurons& layer) {
    if (c < layer.channels) p.logits[q * layer.channels + c] = fmaf(channel.gamma, mean, channel.beta);
}

// The same from its spikes in `train`. The whole warp calls, behind its last step.
__device__ __forceinline__ void read_out_spikes(const Readout& p, const NeuronChannel& channel, const uint32_t* train, size_t q, int c,
                                                const Neurons& layer) {
    if (p.logits == nullptr || p.by_current) return;
    __syncwarp();                                        // all lanes have written their steps
    if (c >= layer.channels) return;
    p.logits[q * layer.channels + c] =
        representation(train, (layer.channels + 31) / 32, c, layer.time_steps, channel.threshold, p.step_weights, p.delta_t);
}
