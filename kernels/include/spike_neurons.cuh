// spike_neurons.cuh: a layer of convolutions of spikes, and its neurons on a tile of sums in shared memory: what the kernels of
// spike_conv.cu and spike_conv_hopper.cu share. The tile is [128][PITCH], of rows (position, step), one for each convolution.
#pragma once
#include "geometry.cuh"
#include "neuron.cuh"
#include "readout.cuh"
#include "spike_tile.cuh"

enum Kind { NONE, CONV_OF_BITS, CONV_OF_BYTES, BITS, SUMS };

// One summand of the current.
struct Summand {
    int kind;               // Kind
    Geometry geometry;      // of a convolution
};

// A layer, field for field `SpikeConv` in src/ops/spike_conv/cuda.rs.
struct SpikeConv {
    Summand first, second;
    int positions;          // B*P
    int time_steps;         // T
    int channels;           // C
    int stride;             // C rounded up to 16
};
static_assert(sizeof(SpikeConv) == 144, "SpikeConv is one layout on both sides");

// A layer with its neurons, field for field `SpikeConvNeurons` in src/ops/spike_conv/cuda.rs.
struct SpikeConvNeurons {
    SpikeConv layer;
    Neurons neurons;
    int tile_positions;     // positions of a block
    int tile_steps;         // steps of a tile; tile_positions * tile_steps <= 128. Where a tile has several parts, T
};
static_assert(sizeof(SpikeConvNeurons) == 176, "SpikeConvNeurons is one layout on both sides");

__device__ __forceinline__ bool is_conv(int kind) { return kind == CONV_OF_BITS || kind == CONV_OF_BYTES; }

__device__ __forceinline__ int convolutions_of(const SpikeConv& layer) {
    return is_conv(layer.first.kind) && is_conv(layer.second.kind) ? 2 : 1;
}

// What the neurons of a layer write; all but the spikes may be null.
struct Outputs {
    uint32_t* spikes;
    uint8_t* counts;
    float* mean_normed;
    float* weighted_normed;
    unsigned long long* fired;
    Readout readout;                     // of the last layer in evaluation
};

// What they read beside the sums of the convolutions.
struct Inputs {
    const unsigned char* other_source;   // of the summand that is no convolution
    const float* normalizer;
    const float* threshold;
    const float* step_weights;           // null where no weighted mean is wanted
    const uint32_t* dropped;             // null where none is
};

// Normalised currents of a tile's sums, for neuron_steps: of a convolution, and of a summand of kind OTHER.
template <int OTHER>
struct TileCurrents {
    const NeuronChannel& channel;
    const int* sums;         // of this column in row 0
    bool conv_is_first;      // of the two summands
    float without, with;     // BITS as the second summand: what it gives without and with a spike
    BitTrain bits;           // BITS
    const uint32_t* stored;  // SUMS: of this channel in row 0; a lane behind the last channel reads that of the first
    int stride;

    __device__ __forceinline__ void open(int row) {
        if (OTHER == BITS) bits.open(row);
    }

    template <int N>
    __device__ __forceinline__ void load(float (&x)[N], int row, int lane) const {
        const int* of_step = sums + row * PITCH;
        if (OTHER == NONE) {
#pragma unroll
            for (int i = 0; i < N; ++i) x[i] = normalize(channel, (float)of_step[i * PITCH]);
        } else if (OTHER == BITS && conv_is_first) {
#pragma unroll
            for (int i = 0; i < N; ++i) x[i] = fmaf(channel.factor, (float)of_step[i * PITCH], bits.at(lane + i) ? with : without);
        } else {
            float conv[N], other[N];
#pragma unroll
            for (int i = 0; i < N; ++i) {
                conv[i] = (float)of_step[i * PITCH];
                if (OTHER == BITS) other[i] = bits.at(lane + i) ? 1.0f : 0.0f;
                if (OTHER == SUMS) other[i] = (float)(int)load_written(stored + (row + i) * stride);
                if (OTHER == CONV_OF_BITS) other[i] = (float)of_step[i * PITCH + TILE_BYTES / 4];
            }
            if (conv_is_first) {
#pragma unroll
                for (int i = 0; i < N; ++i) x[i] = normalize(channel, conv[i], other[i]);
            } else {
#pragma unroll
                for (int i = 0; i < N; ++i) x[i] = normalize(channel, other[i], conv[i]);
            }
        }
    }
};

// Runs the neurons of a tile, which are group `group` of 64 channels, from step `first` on. A warp takes one word of 32 channels, and half
// of the positions (of 256 threads: a quarter), which follow one another where the tile has all of their steps.
__device__ __forceinline__ void run_neurons(const Outputs& to, const Inputs& from, const SpikeConvNeurons& p, const int* tile,
                                            NeuronState* carried, int first, int group) {
    const SpikeConv& layer = p.layer;
    const int time_steps = layer.time_steps;
    const int end = min(first + p.tile_steps, time_steps);
    const int first_position = blockIdx.x * p.tile_positions;
    const int positions = min(p.tile_positions, layer.positions - first_position);
    const int column = settled(threadIdx.x % COLUMNS);   // or what follows from it is computed before the products of a tile
    const int c = group * COLUMNS + column;
    const int word = c / 32;
    const int words = (layer.channels + 31) / 32;
    if (word >= words) return;
    const bool first_is_conv = is_conv(layer.first.kind);
    const int other = first_is_conv ? layer.second.kind : layer.first.kind;
    const bool trains = to.counts != nullptr || to.mean_normed != nullptr || to.weighted_normed != nullptr;
    const NeuronChannel channel = neuron_channel(from.normalizer, from.threshold, p.neurons.padded, c);
    const bool reads_current = to.readout.logits != nullptr && to.readout.by_current;
    const uint32_t groups = blockDim.x / COLUMNS;
    const int share = p.tile_steps < time_steps ? 1 : (positions + groups - 1) / groups; // of a warp
    int fired = 0;
#pragma unroll 1
    for (int at = (int)(threadIdx.x / COLUMNS) * share; at < positions; at += (int)groups * share) {
        const size_t q = first_position + at;
        const Steps steps{min(share, positions - at), first, end};
        const Kept kept = kept_channels(from.dropped, q, word, p.neurons);
        const size_t train = q * time_steps * words + word;
        const int* sums = tile + (at * p.tile_steps - first) * PITCH + column;
        NeuronState state = {};
        if (first > 0) state = carried[at * COLUMNS + column];
        auto finish = [&](int i, const NeuronState& state, uint32_t keep) {
            if (end < time_steps) {
                carried[at * COLUMNS + column] = state;
                return;
            }
            neuron_finish(state, to.counts, to.mean_normed, to.weighted_normed, q + i, c, keep, p.neurons);
            if (!reads_current) return;
            const float mean = to.weighted_normed != nullptr ? state.weighted : state.sum / (float)time_steps;
            read_out_current(to.readout, mean, channel, q + i, c, p.neurons);
        };
        auto run = [&](auto currents) {
            fired += run_steps<ANY>(state, to.spikes + train, kept, steps, p.neurons, channel, trains, from.step_weights, currents, finish);
        };
        if (other == NONE) {
            run(TileCurrents<NONE>{channel, sums, first_is_conv});
        } else if (other == BITS) {
            const float without = fmaf(channel.other_factor, 0.0f, channel.offset), with = fmaf(channel.other_factor, 1.0f, channel.offset);
            const BitTrain bits{reinterpret_cast<const uint32_t*>(from.other_source) + train, words};
            run(TileCurrents<BITS>{channel, sums, first_is_conv, without, with, bits});
        } else if (other == SUMS) {
            const uint32_t* all = reinterpret_cast<const uint32_t*>(from.other_source);
            const uint32_t* stored = all + q * time_steps * layer.stride + (c < layer.stride ? c : 0);
            run(TileCurrents<SUMS>{channel, sums, first_is_conv, 0.0f, 0.0f, {}, stored, layer.stride});
        } else {
            run(TileCurrents<CONV_OF_BITS>{channel, sums, first_is_conv});
        }
        if (end < time_steps) continue;
        for (int i = 0; i < steps.positions; ++i) {
            read_out_spikes(to.readout, channel, to.spikes + train + (size_t)i * time_steps * words, q + i, c, p.neurons);
        }
    }
    if (to.fired == nullptr) return;
    const int of_warp = warp_sum(fired);
    if (threadIdx.x % 32 == 0 && of_warp > 0) atomicAdd(to.fired, (unsigned long long)of_warp);
}
