// spike_conv_hopper.cu: the convolution of spikes with the neurons behind it, by the tensor core instructions that only sm_90a has.
//
// Equation   that of spike_conv.cu
// Shapes     those of spike_conv.cu, where every convolution reads spikes (none of them counts of a pool); weights in blocks:
//            [64 cout][K step][512 bytes: 8 (8 bits: 4)][4][lane], the words of a lane of spike_conv_weights.cu side by side with those of other
//            lanes: core matrices of 8 output channels and 16 bytes along K, as wgmma wants them (PTX ISA 9.7.15.5.1)
// Launch     spike_conv_neurons_*: grid (row tiles, ceil(cout/64)), block 256, dynamic shared memory as spike_conv.cu
//            order_spike_weights: grid (pieces of 512 bytes / 8), block 256, after each quantize_weights
// Traffic    per tile and stage of two K steps: 1 KiB of spikes and 8 KiB (8 bits: 4 KiB) of weights, from L2 for the most part; what the
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
        int acc[HopperStage<WEIGHT_BITS>::PRODUCT_COLUMNS / 2];
        convolve_hopper<WEIGHT_BITS>(acc, memory, stages, is_second ? second_source : first_source,
                                     reinterpret_cast<const unsigned char*>(is_second ? second_weights : first_weights),
                                     is_second ? layer.second.geometry : layer.first.geometry, row, layer.time_steps);
        store_tile_hopper<WEIGHT_BITS>(reinterpret_cast<int*>(shared + index * TILE_BYTES), acc);
    }
    __syncthreads();
}

template <int WEIGHT_BITS>
__device__ __forceinline__ void neurons_body_hopper(const Outputs& to, const Inputs& from, const unsigned char* first_source,
                                                    const uint4* first_weights, const unsigned char* second_source,
                                                    const uint4* second_weights, const SpikeConvNeurons& p) {
    DYNAMIC_SHARED(shared);
    SHARED(uint64_t, full, HOPPER_STAGES);
    HopperStages stages = make_stages(full);
    const int time_steps = p.layer.time_steps;
    // Before the tiles, only where T takes several of them: what the neurons carry over, [tile_positions][COLUMNS].
    unsigned char* tiles = shared + (p.tile_steps < time_steps ? p.tile_positions * COLUMNS * sizeof(NeuronState) : 0);
#pragma unroll 1
    for (int first = 0; first < time_steps; first += p.tile_steps) {
        const int of_tile = threadIdx.x % ROWS;
        const int at = of_tile / p.tile_steps;
        const int q = blockIdx.x * p.tile_positions + at;
        const int t = first + of_tile % p.tile_steps;
        const Row row{at < p.tile_positions && q < p.layer.positions && t < time_steps, q, t};
        convolve_summands_hopper<WEIGHT_BITS>(tiles, stages, p.layer, row, first_source, first_weights, second_source, second_weights);
        run_neurons(to, from, p, reinterpret_cast<const int*>(tiles), reinterpret_cast<NeuronState*>(shared), first);
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

// Packed weights in blocks: of each piece of 512 bytes, word r of lane l becomes word l of block r. On every target.
extern "C" __global__ void __launch_bounds__(256)
order_spike_weights(uint32_t* __restrict__ blocks,                        // [pieces][4][32]
                    const uint4* __restrict__ packed,                     // [pieces][32]
                    int pieces) {
    const int piece = blockIdx.x * 8 + threadIdx.x / 32;
    if (piece >= pieces) return;
    const int lane = threadIdx.x % 32;
    const uint4 words = packed[(size_t)piece * 32 + lane];
    uint32_t* to = blocks + (size_t)piece * 128 + lane;
    to[0] = words.x;
    to[32] = words.y;
    to[64] = words.z;
    to[96] = words.w;
}

DEPENDENT_KERNEL(spike_conv_neurons_16_hopper, 256)
DEPENDENT_KERNEL(spike_conv_neurons_8_hopper, 256)
KERNEL(order_spike_weights, 256)
