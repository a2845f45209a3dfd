// spike_conv.cu: the convolution of spikes over all time steps on tensor cores, alone or with the neurons behind it.
//
// Equation   acc[m][o] = sum over taps k and channels c of spikes[position of m and k][t][c] * q[k][c][o],  q = 256*hi + lo
//            neurons: neuron.cuh, from acc of up to two summands
// Shapes     rows m = (b*P + p)*T + t;  spikes [B][P][T][words] u32, or counts of a pool [B][P][T][32*words] u8;
//            sums [B][P][T][stride] i32, stride = C rounded up to 16;  weights: spike_conv_weights.cu;  statistics: tile_statistics.cuh
// Units      acc in units of the weights' scale 2^-e (spike_conv_weights.cu): integers, below 2^31 by the choice of e
// Launch     grid (row tiles, ceil(cout/64)), of neurons times parts of K (parts.cuh), block 128, dynamic shared memory: see `Tiles` in
//            src/ops/spike_conv/tiles.rs
//            Time lies inside the tile. `sums`: 128 consecutive m. `neurons`: `tile_positions` positions times `tile_steps` steps,
//            as many as fit 128 rows; where T takes several tiles, the block goes through them in order and keeps the potentials in
//            shared memory in between. So a weight is read once for all steps of a tile, and a potential never leaves the block.
// Traffic    per tile and K step: spike_tile.cuh. `sums` writes 4 bytes a row and channel; `neurons` 1/8, and 1 to 9 a neuron in training.
//            Statistics: 6 to 16 atomic additions a column and tile; where asked, the last block of 64 channels turns them into constants
//            (normalizer.cuh), for which every block waits once until its additions have arrived.
// Products   of integers; the kernels called *_bf16 multiply in bf16 (spike_bf16.cuh), with the same sums: `Gpu::products` decides
// Exactness  sums and statistics are integers: equal to ops/spike_conv/cpu.rs in any order; neurons as in neuron.cuh
// Tests      tests/spike_conv_cuda.rs

#include "include/dependent.cuh"
#include "include/geometry.cuh"
#include "include/neuron.cuh"
#include "include/normalizer.cuh"
#include "include/parts.cuh"
#include "include/readout.cuh"
#include "include/spike_bf16.cuh"
#include "include/spike_neurons.cuh"
#include "include/spike_tile.cuh"
#include "include/tile_statistics.cuh"

// Stages of the convolution of tile `index` that this block takes; those of both are counted on.
__device__ __forceinline__ Stages part_of(const SpikeConv& layer, int index) {
    const int of_first = is_conv(layer.first.kind) ? stages_of(layer.first.geometry) : 0;
    const int of_second = is_conv(layer.second.kind) ? stages_of(layer.second.geometry) : 0;
    const bool is_second = index == 1 || of_first == 0;
    return stages_of_part(is_second ? of_first : 0, is_second ? of_second : of_first, of_first + of_second);
}

// Sums of every convolution of the layer, a tile each, the first one's at `shared`. With IN_PARTS those of this block's stages.
// Ends with a barrier.
template <int WEIGHT_BITS, class Sum, bool IN_PARTS>
__device__ __forceinline__ void convolve_summands(unsigned char* shared, const SpikeConv& layer, Row row,
                                                  const unsigned char* first_source, const uint4* first_weights,
                                                  const unsigned char* second_source, const uint4* second_weights) {
    const int last = convolutions_of(layer) - 1;
    unsigned char* stages = shared + last * TILE_BYTES;   // in the place of the last tile, which comes when the stages have gone
#pragma unroll 1
    for (int index = 0; index <= last; ++index) {
        const bool is_second = index == 1 || !is_conv(layer.first.kind);
        const Summand summand = is_second ? layer.second : layer.first;
        const unsigned char* source = is_second ? second_source : first_source;
        const uint4* weights = is_second ? second_weights : first_weights;
        const Stages part = IN_PARTS ? part_of(layer, index) : Stages{0, stages_of(summand.geometry)};
        Accumulators<WEIGHT_BITS, Sum> acc = {};
        if (summand.kind == CONV_OF_BITS) {
            convolve<WEIGHT_BITS, false>(acc, stages, source, weights, summand.geometry, row, layer.time_steps, part);
        } else {
            convolve<WEIGHT_BITS, true>(acc, stages, source, weights, summand.geometry, row, layer.time_steps, part);
        }
        store_tile<WEIGHT_BITS>(reinterpret_cast<int*>(shared + index * TILE_BYTES), acc);
    }
    __syncthreads();
}

// Writes one tile of sums to [m][stride], 16 bytes a thread.
__device__ __forceinline__ void write_sums(int* __restrict__ sums, const int* tile, int first_row, int rows, int stride) {
    const int first_column = blockIdx.y * COLUMNS;
    for (int at = threadIdx.x; at < ROWS * COLUMNS / 4; at += ROWS) {
        const int r = at / (COLUMNS / 4);
        const int column = at % (COLUMNS / 4) * 4;
        if (first_row + r >= rows || first_column + column >= stride) continue;
        const int4 values = *reinterpret_cast<const int4*>(tile + r * PITCH + column);
        *reinterpret_cast<int4*>(sums + (size_t)(first_row + r) * stride + first_column + column) = values;
    }
}

template <int WEIGHT_BITS, class Sum>
__device__ __forceinline__ void sums_body(int* first_sums, int* second_sums, unsigned long long* statistics,
                                          const unsigned char* first_source, const uint4* first_weights,
                                          const unsigned char* second_source, const uint4* second_weights, const SpikeConv& layer) {
    DYNAMIC_SHARED(shared);
    const int rows = layer.positions * layer.time_steps;
    const int first_row = blockIdx.x * ROWS;
    const int m = first_row + threadIdx.x;
    const Row row{m < rows, m / layer.time_steps, m % layer.time_steps};
    convolve_summands<WEIGHT_BITS, Sum, false>(shared, layer, row, first_source, first_weights, second_source, second_weights);
    const int* tile = reinterpret_cast<const int*>(shared);
    const bool first_is_conv = is_conv(layer.first.kind);
    const bool both = first_is_conv && is_conv(layer.second.kind);
    if (first_sums != nullptr && first_is_conv) write_sums(first_sums, tile, first_row, rows, layer.stride);
    if (second_sums != nullptr && is_conv(layer.second.kind)) {
        write_sums(second_sums, tile + (both ? TILE_BYTES / 4 : 0), first_row, rows, layer.stride);
    }
    if (statistics == nullptr) return;
    const int column = threadIdx.x % COLUMNS;
    const int c = blockIdx.y * COLUMNS + column;
    const int words = (layer.channels + 31) / 32;
    const int other = first_is_conv ? layer.second.kind : layer.first.kind;
    const unsigned char* other_source = first_is_conv ? second_source : first_source;
    // The sum of the other summand, which has no tile of its own unless it is a convolution.
    auto other_sum = [&](int r) {
        if (both) return tile[TILE_BYTES / 4 + r * PITCH + column];
        if (other == NONE || first_row + r >= rows || c >= layer.channels) return 0;
        const size_t of_row = first_row + r;
        if (other == BITS) return (int)(__ldg(reinterpret_cast<const uint32_t*>(other_source) + of_row * words + c / 32) >> c % 32 & 1u);
        return __ldg(reinterpret_cast<const int*>(other_source) + of_row * layer.stride + c);
    };
    add_statistics(statistics, layer.channels, other != NONE, [&](int r) {
        const int conv = tile[r * PITCH + column];
        const int second = other_sum(r);
        return first_is_conv ? make_int2(conv, second) : make_int2(second, conv);
    });
}

template <int WEIGHT_BITS, class Sum>
__device__ __forceinline__ void neurons_body(const Outputs& to, const Inputs& from, const unsigned char* first_source,
                                             const uint4* first_weights, const unsigned char* second_source, const uint4* second_weights,
                                             const SpikeConvNeurons& p, const Parts& parts) {
    DYNAMIC_SHARED(shared);
    const int time_steps = p.layer.time_steps;
    // Before the tiles, only where T takes several of them: what the neurons carry over, [tile_positions][COLUMNS].
    unsigned char* tiles = shared + (p.tile_steps < time_steps ? p.tile_positions * COLUMNS * sizeof(NeuronState) : 0);
#pragma unroll 1
    for (int first = 0; first < time_steps; first += p.tile_steps) {
        if (first > 0) __syncthreads();              // the tiles of the steps before have been read
        const int at = threadIdx.x / p.tile_steps;
        const int q = blockIdx.x * p.tile_positions + at;
        const int t = first + threadIdx.x % p.tile_steps;
        const Row row{at < p.tile_positions && q < p.layer.positions && t < time_steps, q, t};
        convolve_summands<WEIGHT_BITS, Sum, true>(tiles, p.layer, row, first_source, first_weights, second_source, second_weights);
        auto has_part = [&](int index) {
            const Stages part = part_of(p.layer, index);
            return part.begin < part.end;
        };
        if (!meet(parts, tiles, p.tile_positions * p.tile_steps, convolutions_of(p.layer), has_part)) return;
        run_neurons(to, from, p, reinterpret_cast<const int*>(tiles), reinterpret_cast<NeuronState*>(shared), first, blockIdx.y);
    }
}

// Sums of a layer's convolutions and the statistics of both summands; each output unless null. `statistics` is zero before.
// A source is spikes [B][P][T][words], counts of a pool [B][P][T][32*words], or stored sums [m][stride]: its summand's kind.
extern "C" __global__ void __launch_bounds__(128)
spike_conv_sums_16(int* __restrict__ first_sums,                    // [m][stride]
                   int* __restrict__ second_sums,                   // [m][stride]
                   unsigned long long* __restrict__ statistics,     // [8][C]
                   const unsigned char* __restrict__ first_source, const uint4* __restrict__ first_weights,
                   const unsigned char* __restrict__ second_source, const uint4* __restrict__ second_weights, SpikeConv layer,
                   Finish finish) {
    sums_body<16, int>(first_sums, second_sums, statistics, first_source, first_weights, second_source, second_weights, layer);
    finish_statistics(finish);
}

extern "C" __global__ void __launch_bounds__(128)
spike_conv_sums_8(int* __restrict__ first_sums,                     // as above
                  int* __restrict__ second_sums,
                  unsigned long long* __restrict__ statistics,
                  const unsigned char* __restrict__ first_source, const uint4* __restrict__ first_weights,
                  const unsigned char* __restrict__ second_source, const uint4* __restrict__ second_weights, SpikeConv layer,
                  Finish finish) {
    sums_body<8, int>(first_sums, second_sums, statistics, first_source, first_weights, second_source, second_weights, layer);
    finish_statistics(finish);
}

// A layer's neurons from the spikes of its sources, nothing stored in between. All outputs but `spikes` may be null.
extern "C" __global__ void __launch_bounds__(128)
spike_conv_neurons_16(uint32_t* __restrict__ spikes,                // [B][P][T][words]
                      uint8_t* __restrict__ counts,                 // [B][P][C]
                      float* __restrict__ mean_normed,              // [B][P][C]
                      float* __restrict__ weighted_normed,          // [B][P][C], with step_weights
                      unsigned long long* __restrict__ fired,       // spikes are added to it
                      const unsigned char* __restrict__ first_source, const uint4* __restrict__ first_weights,
                      const unsigned char* __restrict__ second_source, const uint4* __restrict__ second_weights,
                      const float* __restrict__ normalizer,         // [6][padded]
                      const float* __restrict__ threshold,          // [1]
                      const float* __restrict__ step_weights,       // [T], or null
                      const uint32_t* __restrict__ dropped,         // [B][P][words], or null
                      SpikeConvNeurons p, Parts parts, Readout readout) {
    begin_dependent();
    neurons_body<16, int>({spikes, counts, mean_normed, weighted_normed, fired, readout},
                          {is_conv(p.layer.first.kind) ? second_source : first_source, normalizer, threshold,
                           weighted_normed == nullptr ? nullptr : step_weights, dropped},
                          first_source, first_weights, second_source, second_weights, p, parts);
}

// Three blocks a multiprocessor: for sm_90 the compiler takes 128 registers otherwise, which are two too few.
extern "C" __global__ void __launch_bounds__(128, 3)
spike_conv_neurons_8(uint32_t* __restrict__ spikes,                 // as above
                     uint8_t* __restrict__ counts,
                     float* __restrict__ mean_normed,
                     float* __restrict__ weighted_normed,
                     unsigned long long* __restrict__ fired,
                     const unsigned char* __restrict__ first_source, const uint4* __restrict__ first_weights,
                     const unsigned char* __restrict__ second_source, const uint4* __restrict__ second_weights,
                     const float* __restrict__ normalizer,
                     const float* __restrict__ threshold,
                     const float* __restrict__ step_weights,
                     const uint32_t* __restrict__ dropped,
                     SpikeConvNeurons p, Parts parts, Readout readout) {
    begin_dependent();
    neurons_body<8, int>({spikes, counts, mean_normed, weighted_normed, fired, readout},
                         {is_conv(p.layer.first.kind) ? second_source : first_source, normalizer, threshold,
                          weighted_normed == nullptr ? nullptr : step_weights, dropped},
                         first_source, first_weights, second_source, second_weights, p, parts);
}

// The same with products in bf16, for layers within their bound.
extern "C" __global__ void __launch_bounds__(128)
spike_conv_sums_16_bf16(int* __restrict__ first_sums,                     // as above
                        int* __restrict__ second_sums,
                        unsigned long long* __restrict__ statistics,
                        const unsigned char* __restrict__ first_source, const uint4* __restrict__ first_weights,
                        const unsigned char* __restrict__ second_source, const uint4* __restrict__ second_weights,
                        SpikeConv layer, Finish finish) {
    sums_body<16, float>(first_sums, second_sums, statistics, first_source, first_weights, second_source, second_weights, layer);
    finish_statistics(finish);
}

extern "C" __global__ void __launch_bounds__(128)
spike_conv_sums_8_bf16(int* __restrict__ first_sums,                     // as above
                       int* __restrict__ second_sums,
                       unsigned long long* __restrict__ statistics,
                       const unsigned char* __restrict__ first_source, const uint4* __restrict__ first_weights,
                       const unsigned char* __restrict__ second_source, const uint4* __restrict__ second_weights,
                       SpikeConv layer, Finish finish) {
    sums_body<8, float>(first_sums, second_sums, statistics, first_source, first_weights, second_source, second_weights, layer);
    finish_statistics(finish);
}

extern "C" __global__ void __launch_bounds__(128)
spike_conv_neurons_16_bf16(uint32_t* __restrict__ spikes,                 // as above
                           uint8_t* __restrict__ counts,
                           float* __restrict__ mean_normed,
                           float* __restrict__ weighted_normed,
                           unsigned long long* __restrict__ fired,
                           const unsigned char* __restrict__ first_source, const uint4* __restrict__ first_weights,
                           const unsigned char* __restrict__ second_source, const uint4* __restrict__ second_weights,
                           const float* __restrict__ normalizer,
                           const float* __restrict__ threshold,
                           const float* __restrict__ step_weights,
                           const uint32_t* __restrict__ dropped,
                           SpikeConvNeurons p, Parts parts, Readout readout) {
    begin_dependent();
    neurons_body<16, float>({spikes, counts, mean_normed, weighted_normed, fired, readout},
                            {is_conv(p.layer.first.kind) ? second_source : first_source, normalizer, threshold,
                             weighted_normed == nullptr ? nullptr : step_weights, dropped},
                            first_source, first_weights, second_source, second_weights, p, parts);
}

extern "C" __global__ void __launch_bounds__(128, 3)
spike_conv_neurons_8_bf16(uint32_t* __restrict__ spikes,                 // as above
                          uint8_t* __restrict__ counts,
                          float* __restrict__ mean_normed,
                          float* __restrict__ weighted_normed,
                          unsigned long long* __restrict__ fired,
                          const unsigned char* __restrict__ first_source, const uint4* __restrict__ first_weights,
                          const unsigned char* __restrict__ second_source, const uint4* __restrict__ second_weights,
                          const float* __restrict__ normalizer,
                          const float* __restrict__ threshold,
                          const float* __restrict__ step_weights,
                          const uint32_t* __restrict__ dropped,
                          SpikeConvNeurons p, Parts parts, Readout readout) {
    begin_dependent();
    neurons_body<8, float>({spikes, counts, mean_normed, weighted_normed, fired, readout},
                           {is_conv(p.layer.first.kind) ? second_source : first_source, normalizer, threshold,
                            weighted_normed == nullptr ? nullptr : step_weights, dropped},
                           first_source, first_weights, second_source, second_weights, p, parts);
}

KERNEL(spike_conv_sums_16, 128)
KERNEL(spike_conv_sums_8, 128)
DEPENDENT_KERNEL(spike_conv_neurons_16, 128)
DEPENDENT_KERNEL(spike_conv_neurons_8, 128)
KERNEL(spike_conv_sums_16_bf16, 128)
KERNEL(spike_conv_sums_8_bf16, 128)
DEPENDENT_KERNEL(spike_conv_neurons_16_bf16, 128)
DEPENDENT_KERNEL(spike_conv_neurons_8_bf16, 128)
