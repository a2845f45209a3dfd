// neuron.cuh: the time loop of IF and LIF neurons, for kernels in which a warp owns 32 channels of one position.
//
// Equation   x = fmaf(f0, acc0, fmaf(f1, acc1, offset));  I = fmaf(gamma, x, beta)
//            charge  V = fmaf(leak, V, charge*I);  fire  s = V >= alpha*threshold;  reset  V -= threshold*s
// Use        warp = (position q, word of 32 channels), lane = channel; all lanes call, also those behind the last channel
//              NeuronState state{};
//              neuron_steps(state, spikes of q and word, keep, layer, channel, step_weights or null, 0, T, x of step t);
//              fired += neuron_finish(state, counts, mean_normed, weighted_normed, q, c, keep, layer);
//            A kernel that cuts time into pieces keeps `state` between the calls of neuron_steps.
// Exactness  bit-equal to src/ops/neuron/cpu.rs `group`: the same operations on the same values in the same order
#pragma once
#include "device.cuh"

// Constants of a layer's neurons, field for field `DeviceNeurons` in src/ops/neuron/device.rs.
struct Neurons {
    float leak;        // exp(-delta_t / tau), 1 for IF
    float charge;      // 1 - leak, 1 for IF
    float alpha;       // fires at alpha * threshold
    int time_steps;    // T, 1..=255, so that a count fits a byte
    int channels;      // C
    int padded;        // channels of one row of the normalizer: C rounded up to 64
};
static_assert(sizeof(Neurons) == 24, "Neurons and DeviceNeurons are one layout");

// Constants of the neurons of one channel.
struct NeuronChannel {
    float factor, other_factor, offset;  // of the two sums
    float gamma, beta;
    float threshold;
};

// `normalizer` is [6][padded]: factor of the first sum, of the second, offset, gamma, beta, scale (only backward wants the last).
__device__ __forceinline__ NeuronChannel neuron_channel(const float* __restrict__ normalizer, const float* __restrict__ threshold,
                                                        int padded, int c) {
    const float* of_channel = normalizer + c;
    return {__ldg(of_channel), __ldg(of_channel + padded), __ldg(of_channel + 2 * padded), __ldg(of_channel + 3 * padded),
            __ldg(of_channel + 4 * padded), threshold == nullptr ? __int_as_float(0x7f800000) : __ldg(threshold)};
}

// Normalised current of one sum.
__device__ __forceinline__ float normalize(const NeuronChannel& channel, float first) {
    return fmaf(channel.factor, first, channel.offset);
}

// Normalised current of two sums; the second enters first, as on the CPU.
__device__ __forceinline__ float normalize(const NeuronChannel& channel, float first, float second) {
    return fmaf(channel.factor, first, fmaf(channel.other_factor, second, channel.offset));
}

// What a neuron carries from step to step; zero before the first.
struct NeuronState {
    float potential;
    float sum;         // of the normalised currents
    float weighted;    // the same, each times the share of its step
    int count;         // spikes so far
};

// Channels of this word that exist and are not dropped, one bit each. `dropped` is [B][P][words], or null without dropout.
__device__ __forceinline__ uint32_t kept_channels(const uint32_t* __restrict__ dropped, size_t q, int word, const Neurons& layer) {
    const int live = layer.channels - word * 32;
    const uint32_t exists = live >= 32 ? 0xffffffffu : (1u << live) - 1u;
    return dropped == nullptr ? exists : exists & ~dropped[q * ((layer.channels + 31) / 32) + word];
}

// Runs the steps first..end of one warp's neurons. `normed(t)` gives x of this lane's channel; the whole warp calls it, t in order.
// `spikes` is this word of this position at step 0 ([T][words] follow). Without `step_weights` no weighted sum is taken.
template <class Normed>
__device__ __forceinline__ void neuron_steps(NeuronState& state, uint32_t* __restrict__ spikes, uint32_t keep, const Neurons& layer,
                                             const NeuronChannel& channel, const float* __restrict__ step_weights, int first, int end,
                                             Normed normed) {
    const int lane = threadIdx.x % 32;
    const int words = (layer.channels + 31) / 32;
    const float fire_at = layer.alpha * channel.threshold;
    uint32_t mine = 0;                                          // the word of step first + 32*i + lane: stored 32 steps at a time
    for (int t = first; t < end; ++t) {
        const float x = normed(t);
        state.sum += x;
        if (step_weights != nullptr) state.weighted = fmaf(__ldg(step_weights + t), x, state.weighted);
        const float current = fmaf(channel.gamma, x, channel.beta);
        state.potential = fmaf(layer.leak, state.potential, layer.charge * current);   // charge
        const bool fires = state.potential >= fire_at;                                 // fire
        state.potential -= fires ? channel.threshold : 0.0f;                           // reset, soft
        state.count += fires;
        const uint32_t word = __ballot_sync(0xffffffffu, fires) & keep;
        const int slot = (t - first) % 32;
        if (slot == lane) mine = word;
        if ((slot == 31 || t + 1 == end) && lane <= slot) spikes[(size_t)(t - slot + lane) * words] = mine;
    }
}

// Writes what is left of a neuron after its last step, each output unless null; all are [B][P][C]. Returns its spikes, none if dropped.
__device__ __forceinline__ int neuron_finish(const NeuronState& state, uint8_t* __restrict__ counts, float* __restrict__ mean_normed,
                                             float* __restrict__ weighted_normed, size_t q, int c, uint32_t keep, const Neurons& layer) {
    if (c >= layer.channels) return 0;
    const size_t neuron = q * layer.channels + c;
    const int count = keep >> (c % 32) & 1 ? state.count : 0;
    if (counts != nullptr) counts[neuron] = (uint8_t)count;
    if (mean_normed != nullptr) mean_normed[neuron] = state.sum / (float)layer.time_steps;
    if (weighted_normed != nullptr) weighted_normed[neuron] = state.weighted;
    return count;
}

// Bits of 32 channels over time as integers, for an identity connection: each lane loads one step, the warp shares them by shuffle.
struct BitTrain {
    const uint32_t* train;   // this word at step 0 ([T][words] follow)
    int words;
    int first, end;          // the steps that will be asked for, in order
    uint32_t loaded;

    // Bit of this lane's channel at step t; the whole warp calls.
    __device__ __forceinline__ int at(int t) {
        const int lane = threadIdx.x % 32;
        const int slot = (t - first) % 32;
        if (slot == 0) loaded = t + lane < end ? __ldg(train + (size_t)(t + lane) * words) : 0u;
        return (int)(__shfl_sync(0xffffffffu, loaded, slot) >> lane & 1u);
    }
};
