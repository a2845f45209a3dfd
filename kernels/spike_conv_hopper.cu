// spike_conv_hopper.cu: the convolution of spikes with the neurons behind it, by the tensor core instructions that only sm_90a has.
//
// Equation   that of spike_conv.cu
// Shapes     those of spike_conv.cu, where every convolution reads spikes (none of them counts of a pool), and has at most 32 taps or is not
//            padded; weights in blocks: [64 cout][stage][8 columns: 16 (8 bits: 8)][product: 4][2][lane], core matrices of 8 columns
//            and 16 bytes along K, as wgmma wants them (PTX ISA 9.7.15.5.1), K in the order of `Bits` in spike_hopper.cuh
// Launch     spike_conv_neurons_*: grid (row tiles, ceil(cout/64), of *_pairs half of that), block 256, dynamic shared memory:
//            src/ops/spike_conv/cuda_hopper.rs
//            order_spike_weights: grid (pieces of 512 bytes / 8), block 256, after each quantize_weights
// Traffic    per tile and stage of four K steps: 2 KiB of spikes and 16 KiB (8 bits: 8 KiB) of weights, from L2 for the most part; what the
//            neurons write as in spike_conv.cu. order_spike_weights reads and writes each packed weight once
// Targets    sm_90a; other targets have kernels that fail. `Products::Warpgroup` says when they are taken (src/device/products.rs)
// Exactness  integers: equal to spike_conv.cu
// Tests      tests/spike_conv_hopper_cuda.rs, and of all shapes tests/spike_conv_cuda.rs; on the host only: no GPU has run it

#include "include/dependent.cuh"
#include "include/parts.cuh"
#include "include/spike_hopper.cuh"
#include "include/spike_neurons.cuh"

#if defined(__CUDACC__)

// Sums of every convolution of the layer, a tile each, the first one's at `shared`. Ends with a barrier.
template <int WEIGHT_BITS>
__device__ __forceinline__ void convolve_summands_hopper(unsigned char* shared, HopperStages& stages, const SpikeConv& layer, Row row,
                                                         const unsigned char* first_source, const uint4* first_weights,
                                                         const unsigned char* second_source, const uint4* second_weights) {
    const int last = convolutions_of(layer) - 1;
    unsigned char* memory = shared + last * TILE_BYTES;   // in the place of the last tile, which comes when the stages have gone
#pragma unroll 1
    for (int index = 0; index <= last; ++index) {
        const bool is_second = index == 1 || !is_conv(layer.first.kind);
        int acc[HopperStage<WEIGHT_BITS, 1>::PRODUCT_COLUMNS / 2];
        convolve_hopper<WEIGHT_BITS, 1>(acc, memory, stages, is_second ? second_source : first_source,
                                        reinterpret_cast<const unsigned char*>(is_second ? second_weights : first_weights), blockIdx.y,
                                        is_second ? layer.second.geometry : layer.first.geometry, row, layer.time_steps);
        store_tile_hopper<WEIGHT_BITS, 1>(reinterpret_cast<int*>(shared + index * TILE_BYTES), acc);
    }
    __syncthreads();
}

// The row that a thread sees to, in the tile of the steps from `first` on: see SpikeRows.
__device__ __forceinline__ Row row_of_tile(const SpikeConvNeurons& p, int first) {
    const uint32_t of_tile = threadIdx.x / 32 * 16 + threadIdx.x % 2 * 8 + threadIdx.x % 32 / 4;
    const uint32_t tile_steps = p.tile_steps;
    const int at = of_tile / tile_steps;
    const int q = blockIdx.x * p.tile_positions + at;
    const int t = first + of_tile % tile_steps;
    return {at < p.tile_positions && q < p.layer.positions && t < p.layer.time_steps, q, t};
}

template <int WEIGHT_BITS>
__device__ __forceinline__ void neurons_body_hopper(const Outputs& to, const Inputs& from, const unsigned char* first_source,
                                                    const uint4* first_weights, const unsigned char* second_source,
                                                    const uint4* second_weights, const SpikeConvNeurons& p) {
    DYNAMIC_SHARED(shared);
    SHARED(HopperShared, of_block, 1);
    HopperStages stages = make_stages(of_block);
    const int time_steps = p.layer.time_steps;
    // Before the tiles, only where T takes several of them: what the neurons carry over, [tile_positions][COLUMNS].
    unsigned char* tiles = shared + (p.tile_steps < time_steps ? p.tile_positions * COLUMNS * sizeof(NeuronState) : 0);
#pragma unroll 1
    for (int first = 0; first < time_steps; first += p.tile_steps) {
        const Row row = row_of_tile(p, first);
        convolve_summands_hopper<WEIGHT_BITS>(tiles, stages, p.layer, row, first_source, first_weights, second_source, second_weights);
        run_neurons(to, from, p, reinterpret_cast<const int*>(tiles), reinterpret_cast<NeuronState*>(shared), first, blockIdx.y);
    }
}

// Of two groups of 64 channels, for which rows are found and bits expanded once. A second convolution is computed for each of them, behind
// the tile of the first one: four tiles would leave a multiprocessor one block.
__device__ __forceinline__ void neurons_body_pairs(const Outputs& to, const Inputs& from, const unsigned char* first_source,
                                                   const uint4* first_weights, const unsigned char* second_source,
                                                   const uint4* second_weights, const SpikeConvNeurons& p) {
    DYNAMIC_SHARED(shared);
    SHARED(HopperShared, of_block, 1);
    HopperStages stages = make_stages(of_block);
    const int time_steps = p.layer.time_steps;
    const bool first_is_conv = is_conv(p.layer.first.kind);
    const int of_carried = p.tile_positions * COLUMNS;   // neurons of a group
    unsigned char* tiles = shared + (p.tile_steps < time_steps ? 2 * of_carried * sizeof(NeuronState) : 0);
#pragma unroll 1
    for (int first = 0; first < time_steps; first += p.tile_steps) {
        {
            int acc[HopperStage<8, 2>::PRODUCT_COLUMNS / 2];
            convolve_hopper<8, 2>(acc, tiles, stages, first_is_conv ? first_source : second_source,
                                  reinterpret_cast<const unsigned char*>(first_is_conv ? first_weights : second_weights), 2 * blockIdx.y,
                                  first_is_conv ? p.layer.first.geometry : p.layer.second.geometry, row_of_tile(p, first), time_steps);
            store_tile_hopper<8, 2>(reinterpret_cast<int*>(tiles), acc);
        }
        // The latter group first, so that its tile is free for the former one's second convolution.
#pragma unroll 1
        for (int of_pair = 1; of_pair >= 0; --of_pair) {
            const int group = 2 * blockIdx.y + of_pair;
            unsigned char* tile = tiles + of_pair * TILE_BYTES;
            __syncthreads();                             // tiles have been written, or, of the second convolution, read
            if (convolutions_of(p.layer) == 2) {
                int acc[HopperStage<8, 1>::PRODUCT_COLUMNS / 2];
                convolve_hopper<8, 1>(acc, tile + TILE_BYTES, stages, second_source, reinterpret_cast<const unsigned char*>(second_weights),
                                      group, p.layer.second.geometry, row_of_tile(p, settled(first)), time_steps);
                store_tile_hopper<8, 1>(reinterpret_cast<int*>(tile + TILE_BYTES), acc);
                __syncthreads();
            }
            NeuronState* carried = reinterpret_cast<NeuronState*>(shared) + of_pair * of_carried;
            run_neurons(to, from, p, reinterpret_cast<const int*>(tile), carried, first, group);
        }
    }
}

#endif

// Other targets.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define ON_HOPPER(...) __VA_ARGS__
#elif defined(__CUDACC__)
#define ON_HOPPER(...) __trap()
#else
#define ON_HOPPER(...) standin::fail_launch("a kernel of sm_90a alone")
#endif

// As spike_conv_neurons_16, where each tile has one part.
extern "C" __global__ void __launch_bounds__(256, 2)
spike_conv_neurons_16_hopper(uint32_t* __restrict__ spikes,               // [B][P][T][words]
                             uint8_t* __restrict__ counts,                // [B][P][C]
                             float* __restrict__ mean_normed,             // [B][P][C]
                             float* __restrict__ weighted_normed,         // [B][P][C], with step_weights
                             unsigned long long* __restrict__ fired,      // spikes are added to it
                             const unsigned char* __restrict__ first_source, const uint4* __restrict__ first_weights,
                             const unsigned char* __restrict__ second_source, const uint4* __restrict__ second_weights,
                             const float* __restrict__ normalizer,        // [6][padded]
                             const float* __restrict__ threshold,         // [1]
                             const float* __restrict__ step_weights,      // [T], or null
                             const uint32_t* __restrict__ dropped,        // [B][P][words], or null
                             SpikeConvNeurons p, Parts, Readout readout) {
    begin_dependent();
    ON_HOPPER(neurons_body_hopper<16>({spikes, counts, mean_normed, weighted_normed, fired, readout},
                                      {is_conv(p.layer.first.kind) ? second_source : first_source, normalizer, threshold,
                                       weighted_normed == nullptr ? nullptr : step_weights, dropped},
                                      first_source, first_weights, second_source, second_weights, p));
}

extern "C" __global__ void __launch_bounds__(256, 2)
spike_conv_neurons_8_hopper(uint32_t* __restrict__ spikes,                // as above
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
                            SpikeConvNeurons p, Parts, Readout readout) {
    begin_dependent();
    ON_HOPPER(neurons_body_hopper<8>({spikes, counts, mean_normed, weighted_normed, fired, readout},
                                     {is_conv(p.layer.first.kind) ? second_source : first_source, normalizer, threshold,
                                      weighted_normed == nullptr ? nullptr : step_weights, dropped},
                                     first_source, first_weights, second_source, second_weights, p));
}

// Where each block has two groups of 64 channels, of which there are an even number.
extern "C" __global__ void __launch_bounds__(256, 2)
spike_conv_neurons_8_pairs_hopper(uint32_t* __restrict__ spikes,          // as above
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
                                  SpikeConvNeurons p, Parts, Readout readout) {
    begin_dependent();
    ON_HOPPER(neurons_body_pairs({spikes, counts, mean_normed, weighted_normed, fired, readout},
                                 {is_conv(p.layer.first.kind) ? second_source : first_source, normalizer, threshold,
                                  weighted_normed == nullptr ? nullptr : step_weights, dropped},
                                 first_source, first_weights, second_source, second_weights, p));
}

// Packed weights in blocks, negated, their bytes in the order of `Bits` in spike_hopper.cuh. Piece i of a K step of a stage is 16 columns of
// a product: hi and lo of eight channels, or sixteen channels. On every target.
extern "C" __global__ void __launch_bounds__(256)
order_spike_weights(uint32_t* __restrict__ blocks,                        // [ceil(cout/64)][stages][pieces][2][4][2][32]
                    const uint4* __restrict__ packed,                     // [ceil(cout/64)][steps][pieces][32]
                    int stages, int steps, int pieces,                    // pieces of a K step: 8, or 4 with 8 bits
                    int all) {                                            // pieces of the blocks
    const int piece = blockIdx.x * 8 + threadIdx.x / 32;
    if (piece >= all) return;
    const int lane = threadIdx.x % 32;
    const int of_stage = piece / pieces % 4;                              // which product
    const int stage = piece / (4 * pieces) % stages;
    const bool is_half = stage == stages - 1 && steps % 4 == 2;
    const int step = stage * 4 + (is_half ? lane % 2 : lane % 4);
    const uint4* from = packed + (((size_t)(piece / (4 * pieces * stages)) * steps + step) * pieces + piece % pieces) * 32 + lane / 4 * 4;
    const size_t of_columns = (size_t)(piece / (4 * pieces)) * pieces + piece % pieces;   // stages before this one, and pieces
    uint32_t* to = blocks + (of_columns * 8 + of_stage) * 64 + lane;
    for (int r = 0; r < 2; ++r) {
        uint32_t former = 0, latter = 0;
        for (int b = 0; b < 4 && step < steps && (!is_half || of_stage < 2); ++b) {
            const int e = 2 * of_stage + r;
            const int channel = is_half ? lane % 4 / 2 * 16 + 4 * b + e : channel_of_byte(e, b);
            const uint4 words = from[channel % 8 / 2];
            int high = (signed char)((channel % 2 == 0 ? words.x : words.y) >> channel / 8 * 8);
            int low = (signed char)((channel % 2 == 0 ? words.z : words.w) >> channel / 8 * 8);
            if (pieces == 8) {                                            // two bytes of one weight
                const int negated = -(256 * high + low);
                low = (signed char)(negated & 255);
                high = (negated - low) >> 8;
            } else {
                high = -high, low = -low;
            }
            former |= (uint32_t)(high & 255) << 8 * b;
            latter |= (uint32_t)(low & 255) << 8 * b;
        }
        to[r * 32] = former;
        to[4 * 64 + r * 32] = latter;
    }
}

DEPENDENT_KERNEL(spike_conv_neurons_16_hopper, 256)
DEPENDENT_KERNEL(spike_conv_neurons_8_hopper, 256)
DEPENDENT_KERNEL(spike_conv_neurons_8_pairs_hopper, 256)
KERNEL(order_spike_weights, 256)
