// neuron.cuh: the time loop of IF and LIF neurons, for kernels in which a warp owns 32 channels of one position.
//
// Equation   x = fmaf(f0, acc0, fmaf(f1, acc1, offset));  I = fmaf(gamma, x, beta)
//            charge  V = fmaf(leak, V, charge*I);  fire  s = V >= alpha*threshold;  reset  V -= threshold*s
// Use        warp = (positions from q on, word of 32 channels), lane = channel; all lanes call, also those behind the last channel
//              fired += run_steps<ANY>(NeuronState{}, spikes of q and word, kept, Steps{positions, 0, T}, layer, channel, trains,
//                                 step_weights or null, currents, finish);
//              finish(i, state, keep) may neuron_finish(state, counts, mean_normed, weighted_normed, q + i, c, keep, layer);
//            A kernel that cuts time into pieces runs one position, and keeps `state` from `finish` to the next call.
// Costs      instructions per step of a warp by the SASS of sm_80 (others: at most 1.5 more), where the current is that of one tile:
//            IF 12.3 in evaluation and 14.3 in training, LIF 13.3 and 17.8. Four steps go together; up to three that are left over take 4 to
//            8 more. A position takes 33 more in evaluation and 86 in training, and what is stored at once 48: eight positions for T up to
//            4, four up to 8, two up to 16, else one.
// Exactness  bit-equal to src/ops/neuron/cpu.rs `group`: the same operations on the same values in the same order; an IF neuron adds its
//            current where the CPU has fmaf(1, V, 1*I), which is the same sum
#pragma once
#include "dependent.cuh"
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

// What the time loop takes besides spikes: for evaluation nothing, for training counts and the sum of the currents, with weights or not.
enum Taken { SPIKES, MEANS, WEIGHTED_MEANS };

// What a neuron carries from step to step; zero before the first.
struct NeuronState {
    float potential;   // the rest is for training alone
    float sum;         // of the normalised currents
    float weighted;    // the same, each times the share of its step
    float count;       // spikes so far, at most 255; a float, since the compiler adds to one in a single instruction where a neuron fires
};

// Channels of a word that exist and are not dropped, one bit each, of a warp's positions.
struct Kept {
    uint32_t exists;
    const uint32_t* dropped;   // this word of the first position ([B][P][words] follow), or null without dropout
    int words;

    __device__ __forceinline__ uint32_t of(int position) const {
        return dropped == nullptr ? exists : exists & ~__ldg(dropped + position * words);
    }
};

// `dropped` is [B][P][words], or null.
__device__ __forceinline__ Kept kept_channels(const uint32_t* __restrict__ dropped, size_t q, int word, const Neurons& layer) {
    const int live = layer.channels - word * 32;
    const int words = (layer.channels + 31) / 32;
    return {live >= 32 ? 0xffffffffu : (1u << live) - 1u, dropped == nullptr ? nullptr : dropped + q * words + word, words};
}

// Bits of 32 channels over time as integers, for an identity connection: each lane loads one step, the warp shares them by shuffle.
struct BitTrain {
    const uint32_t* train;   // this word at row 0
    int pitch;               // words from row to row
    uint32_t loaded;

    // Loads this lane's row; none has -1.
    __device__ __forceinline__ void open(int row) { loaded = row >= 0 ? load_written(train + row * pitch) : 0u; }

    // Whether this lane's channel has spiked in the row of another lane; the whole warp calls.
    __device__ __forceinline__ bool at(int lane) const {
        return (__shfl_sync(0xffffffffu, loaded, lane) & 1u << threadIdx.x % 32) != 0u;
    }
};

// N steps with the normalised currents `x`; `word` becomes the spikes of the warp's channels. `shares` are weights of these steps.
template <bool LEAKS, Taken TAKEN, int N>
__device__ __forceinline__ void neuron_group(uint32_t (&word)[N], NeuronState& state, const float (&x)[N], const Neurons& layer,
                                             const NeuronChannel& channel, float fire_at, const float* __restrict__ shares) {
    float share[N];
#pragma unroll
    for (int i = 0; i < N; ++i) share[i] = TAKEN == WEIGHTED_MEANS ? __ldg(shares + i) : 0.0f;
#pragma unroll
    for (int i = 0; i < N; ++i) {
        if (TAKEN != SPIKES) state.sum += x[i];
        const float current = fmaf(channel.gamma, x[i], channel.beta);
        state.potential = LEAKS ? fmaf(layer.leak, state.potential, layer.charge * current) : state.potential + current;   // charge
        const bool fires = state.potential >= fire_at;                                                                     // fire
        if (fires) {
            state.potential -= channel.threshold;                                                                          // reset, soft
            if (TAKEN != SPIKES) state.count += 1.0f;
        }
        if (TAKEN == WEIGHTED_MEANS) state.weighted = fmaf(share[i], x[i], state.weighted);
        word[i] = __ballot_sync(0xffffffffu, fires);
    }
}

// How many positions a warp runs: one, as many as are stored at once, or any number.
enum Many { ONE, AT_ONCE, ANY };

// What a warp runs: positions that follow one another, and the steps of each; of several positions all T of them.
struct Steps {
    int positions;
    int first, end;
};

// Runs one warp's neurons; the whole warp calls. Returns the spikes that this lane has stored for all channels: the sum over the warp is
// that of the word. `spikes` is this word of the first position at step 0 ([T][words] follow, then the next position); row r is step r % T
// of position r / T. `currents.open(row)` tells each lane its row, or -1, before those of at most 32 lanes, and `currents.load(x, row,
// lane)` gives x of this lane's channel in N rows from `row` on, which are those of the lanes from `lane` on.
// `state` is where the first position begins. `finish(position, state, channels that are kept)` comes behind the last step of each, but in
// evaluation only where steps are left for another call.
template <bool LEAKS, Taken TAKEN, Many MANY, class Currents, class Finish>
__device__ __forceinline__ int neuron_steps(NeuronState state, uint32_t* __restrict__ spikes, const Kept& kept, const Steps& steps,
                                            const Neurons& layer, const NeuronChannel& channel, const float* __restrict__ step_weights,
                                            Currents& currents, Finish finish) {
    const int lane = threadIdx.x % 32;
    const int time_steps = layer.time_steps;
    const float fire_at = layer.alpha * channel.threshold;
    const int spread = (time_steps + 3) / 4 * 4;         // lanes of a position, so that groups of four steps are those of four lanes
    const int together = spread <= 16 ? 32 / spread : 1; // positions whose steps are stored at once
    const int position = lane / spread, step = lane % spread;
    int fired = 0;
#pragma unroll 1
    for (int at = 0; at < (MANY == ANY ? steps.positions : 1); at += together) {
        const int here = MANY == ONE ? 1 : MANY == AT_ONCE ? steps.positions : min(together, steps.positions - at);
#pragma unroll 1
        for (int begin = steps.first; begin < steps.end; begin += 32) {
            const int count = min(steps.end - begin, 32);
            const bool has_row = position < here && step < count;
            const int row_of_lane = has_row ? (at + position) * time_steps + begin + step : -1;
            const uint32_t keep = has_row ? kept.of(at + position) : 0;
            currents.open(row_of_lane);
            uint32_t mine = 0;                           // the word of this lane's row
            int row = at * time_steps + begin;
#pragma unroll 1
            for (int i = 0; i < here; ++i) {
                int slot = i * spread;
                const int behind = slot + count;
                const float* shares = step_weights + begin;
#pragma unroll 1
                for (; slot + 4 <= behind; slot += 4, row += 4) {
                    float x[4];
                    uint32_t word[4];
                    currents.load(x, row, slot);
                    neuron_group<LEAKS, TAKEN>(word, state, x, layer, channel, fire_at, shares);
                    const uint32_t own = lane - slot;    // which of the steps is this lane's, if any
                    const uint32_t early = own & 1 ? word[1] : word[0], late = own & 1 ? word[3] : word[2];
                    if (own < 4) mine = own & 2 ? late : early;
                    if (TAKEN == WEIGHTED_MEANS) shares += 4;
                }
                if (slot + 2 <= behind) {
                    float x[2];
                    uint32_t word[2];
                    currents.load(x, row, slot);
                    neuron_group<LEAKS, TAKEN>(word, state, x, layer, channel, fire_at, shares);
                    const uint32_t own = lane - slot;
                    if (own < 2) mine = own == 1 ? word[1] : word[0];
                    if (TAKEN == WEIGHTED_MEANS) shares += 2;
                    slot += 2, row += 2;
                }
                if (slot < behind) {
                    float x[1];
                    uint32_t word[1];
                    currents.load(x, row, slot);
                    neuron_group<LEAKS, TAKEN>(word, state, x, layer, channel, fire_at, shares);
                    if (lane == slot) mine = word[0];
                    row += 1;
                }
                if (begin + count < steps.end) continue;
                if (TAKEN != SPIKES || steps.end < time_steps) finish(at + i, state, __shfl_sync(0xffffffffu, keep, i * spread));
                state = {};
            }
            mine &= keep;
            fired += __popc(mine);
            if (row_of_lane >= 0) spikes[row_of_lane * kept.words] = mine;
        }
    }
    return fired;
}

// The same for any layer: `trains` where counts or means are wanted, `step_weights` where weighted ones are, else null.
template <Many MANY, class Currents, class Finish>
__device__ __forceinline__ int run_steps(const NeuronState& state, uint32_t* __restrict__ spikes, const Kept& kept, const Steps& steps,
                                         const Neurons& layer, const NeuronChannel& channel, bool trains,
                                         const float* __restrict__ step_weights, Currents& currents, Finish finish) {
    const bool leaks = layer.leak != 1.0f || layer.charge != 1.0f;
    if (step_weights != nullptr) {                   // of IF, too: nobody asks for these but tests
        return neuron_steps<true, WEIGHTED_MEANS, MANY>(state, spikes, kept, steps, layer, channel, step_weights, currents, finish);
    }
    if (trains && leaks) return neuron_steps<true, MEANS, MANY>(state, spikes, kept, steps, layer, channel, step_weights, currents, finish);
    if (trains) return neuron_steps<false, MEANS, MANY>(state, spikes, kept, steps, layer, channel, step_weights, currents, finish);
    if (leaks) return neuron_steps<true, SPIKES, MANY>(state, spikes, kept, steps, layer, channel, step_weights, currents, finish);
    return neuron_steps<false, SPIKES, MANY>(state, spikes, kept, steps, layer, channel, step_weights, currents, finish);
}

// Writes what is left of a neuron after its last step, each output unless null; all are [B][P][C].
__device__ __forceinline__ void neuron_finish(const NeuronState& state, uint8_t* __restrict__ counts, float* __restrict__ mean_normed,
                                              float* __restrict__ weighted_normed, size_t q, int c, uint32_t keep, const Neurons& layer) {
    if (c >= layer.channels) return;
    const size_t neuron = q * layer.channels + c;
    if (counts != nullptr) counts[neuron] = keep >> (c % 32) & 1 ? (uint8_t)(int)state.count : 0;
    if (mean_normed != nullptr) mean_normed[neuron] = state.sum / (float)layer.time_steps;
    if (weighted_normed != nullptr) weighted_normed[neuron] = state.weighted;
}
