// neuron.cu: IF and LIF neurons over all time steps from stored sums, and the backward of their clamp mapping.
//
// Equation   forward: neuron.cuh.  Backward, with r(.) the (weighted) mean over time and G = r(gradient of the spikes), one a neuron:
//            m = fmaf(gamma, r(xhat), beta);  g = slope*G where 0 <= m <= upper (LIF: <), else 0; ReLU: 0 < m
//            and in parts, for the gradients of threshold, gamma and beta and for batch norm: the sums of G where m > upper, of g, and
//            of g*mean_t xhat                                                                            (neuron_reduction.cu)
// Shapes     sums [B*P][T or 1][stride], bits and spikes [B*P][T][words] u32, counts [B*P][C] u8, means and gradients [B*P][C] f32
//            normalizer [6][padded] f32, see batch_norm.cu; padded = C rounded up to 64
// Units      potential, current and threshold share one unit; gradients are those of the loss by the current of a neuron
// Launch     neurons: a warp = 32 channels of `at_once` positions, block 256, grid ceil(ceil(B*P / at_once)*words / 8)
//            clamp_mapping_backward: columns.cuh, grid (blocks of rows, ceil(C / 4 quads))
// Traffic    neurons reads 4*T bytes a sum (bits: T/8), writes T/8 + 5 (LIF: 9) bytes a neuron; 6 operations a step;
//            neurons_with_means writes 8 bytes more
//            clamp_mapping_backward reads 8 (LIF: 12), writes 4 bytes a neuron: both memory-bound, one pass
// Exactness  forward bit-equal to src/ops/neuron/cpu.rs; backward the same f32 operations, and sums of a channel in f64 in an order that
//            shapes alone decide
// Tests      tests/neuron_cuda.rs

#include "include/columns.cuh"
#include "include/dependent.cuh"
#include "include/neuron.cuh"
#include "include/summand.cuh"

// --- Forward ------------------------------------------------------------------------------------------------------------------------

// One summand over time, for the channel of a lane.
struct Train {
    BitTrain words;      // of spikes; else `train` is this channel in row 0, and `pitch` 0 where one step stands for all
    int kind;            // as AnySummand

    __device__ __forceinline__ void open(int row) {
        if (kind == 1) words.open(row);
    }

    // Values of this lane's channel in the N rows from `row` on, which are those of the lanes from `lane` on; the whole warp calls.
    template <int N>
    __device__ __forceinline__ void load(float (&to)[N], int row, int lane) const {
        if (kind == 1) {
#pragma unroll
            for (int i = 0; i < N; ++i) to[i] = words.at(lane + i) ? 1.0f : 0.0f;
            return;
        }
        const uint32_t* of_step = words.train + row * words.pitch;
        if (words.pitch == 0) {                      // a static image: the same at each step
            const float all = __uint_as_float(load_written(of_step));
#pragma unroll
            for (int i = 0; i < N; ++i) to[i] = all;
        } else {
#pragma unroll
            for (int i = 0; i < N; ++i) to[i] = __uint_as_float(load_written(of_step + i * words.pitch));
        }
        if (kind == 2) return;
#pragma unroll
        for (int i = 0; i < N; ++i) to[i] = (float)__float_as_int(to[i]);
    }
};

// A lane behind the last channel reads the first one.
__device__ __forceinline__ Train train_of(const AnySummand& from, size_t q, int frames, int word, const Neurons& layer) {
    const int c = word * 32 + threadIdx.x % 32;
    const size_t rows = q * (from.kind == 1 ? layer.time_steps : frames);
    const int at = from.kind == 1 ? word : c < layer.channels ? c : 0;
    const int pitch = frames == 1 && from.kind != 1 ? 0 : from.pitch;
    return {{(const uint32_t*)from.values + rows * from.pitch + at, pitch, 0u}, from.kind};
}

// Field for field `Place` in src/ops/neuron/cuda.rs.
struct Place {
    int positions;       // B*P
    int frames;          // steps that the first summand has: T, or 1 that stands for all
    int at_once;         // positions of a warp: one for a single frame and for means of an own norm
};
static_assert(sizeof(Place) == 12, "Place is one layout on both sides");

// The time means of uhat = fmaf(factor, acc, offset), for the connection that has a norm of its own; field for field `OwnMeansArgs` in
// src/ops/neuron/cuda.rs.
struct OwnMeans {
    float* plain;                // [B*P][C]
    float* weighted;             // [B*P][C]
    const float* inner;          // [5][padded] constants of its norm; the first two rows are factor and offset
    const float* step_weights;   // [T]
    int is_second;               // whether its sums are the second summand
    int padding;
};
static_assert(sizeof(OwnMeans) == 40, "OwnMeans is one layout on both sides");

// What they add up for the channel of a lane.
struct OwnSums {
    float factor, offset;
    float sum, weighted;

    __device__ __forceinline__ void add(float acc, float share) {
        const float normed = fmaf(factor, acc, offset);
        sum += normed;
        weighted = fmaf(share, normed, weighted);
    }
};

// What the neurons of a layer write; all but the spikes may be null.
struct Outputs {
    uint32_t* spikes;
    uint8_t* counts;
    float* mean_normed;
    float* weighted_normed;
    unsigned long long* fired;
};

// Normalised currents of stored sums, for neuron_steps.
template <bool HAS_OWN, bool HAS_SECOND>
struct StoredCurrents {
    const NeuronChannel& channel;
    Train first, second;
    const float* step_weights;
    bool own_is_second;
    OwnSums own;

    __device__ __forceinline__ void open(int row) {
        first.open(row);
        if (HAS_SECOND) second.open(row);
    }

    template <int N>
    __device__ __forceinline__ void load(float (&x)[N], int row, int lane) {
        float value[N], other[N];
        first.load(value, row, lane);
        if (HAS_SECOND) second.load(other, row, lane);
#pragma unroll
        for (int i = 0; i < N; ++i) {
            if (HAS_OWN) own.add(HAS_SECOND && own_is_second ? other[i] : value[i], __ldg(step_weights + row + i));   // of one position
            x[i] = HAS_SECOND ? normalize(channel, value[i], other[i]) : normalize(channel, value[i]);
        }
    }
};

template <bool HAS_OWN>
__device__ __forceinline__ void neurons_body(const Outputs& to, const float* __restrict__ normalizer, const float* __restrict__ threshold,
                                             const float* __restrict__ step_weights, const uint32_t* __restrict__ dropped,
                                             const AnySummand& first, const AnySummand& second, const Neurons& layer, const Place& p,
                                             const OwnMeans& means) {
    const int words = (layer.channels + 31) / 32;
    const int warp = blockIdx.x * 8 + threadIdx.x / 32;
    int spikes_of_thread = 0;
    const int first_position = warp / words * p.at_once;
    if (first_position < p.positions) {                  // whole warps, so that the ballots stay full
        const size_t q = first_position;
        const int word = warp % words;
        const int c = word * 32 + threadIdx.x % 32;
        const NeuronChannel channel = neuron_channel(normalizer, threshold, layer.padded, c);
        const Kept kept = kept_channels(dropped, q, word, layer);
        uint32_t* train = to.spikes + q * layer.time_steps * words + word;
        const float* shares = to.weighted_normed == nullptr ? nullptr : step_weights;
        const bool trains = to.counts != nullptr || to.mean_normed != nullptr || to.weighted_normed != nullptr;
        OwnSums own{};
        if (HAS_OWN) own.factor = __ldg(means.inner + c), own.offset = __ldg(means.inner + layer.padded + c);
        auto finish = [&](int i, const NeuronState& state, uint32_t keep) {
            const size_t at = settled(first_position + i);
            neuron_finish(state, to.counts, to.mean_normed, to.weighted_normed, at, c, keep, layer);
        };
        auto run = [&](auto currents) {
            const Steps steps{min(p.at_once, p.positions - first_position), 0, layer.time_steps};
            spikes_of_thread = run_steps<HAS_OWN ? ONE : AT_ONCE>(NeuronState{}, train, kept, steps, layer, channel, trains, shares, currents, finish);
            own = currents.own;
        };
        const Train x = train_of(first, q, p.frames, word, layer);
        if (second.values == nullptr) {
            run(StoredCurrents<HAS_OWN, false>{channel, x, Train{}, means.step_weights, false, own});
        } else {
            const Train y = train_of(second, q, layer.time_steps, word, layer);
            run(StoredCurrents<HAS_OWN, true>{channel, x, y, means.step_weights, means.is_second != 0, own});
        }
        if (HAS_OWN && c < layer.channels) {
            means.plain[q * layer.channels + c] = own.sum / (float)layer.time_steps;
            means.weighted[q * layer.channels + c] = own.weighted;
        }
    }
    if (to.fired == nullptr) return;
    const int spikes_of_block = block_sum<256>(spikes_of_thread);
    if (threadIdx.x == 0) atomicAdd(to.fired, (unsigned long long)spikes_of_block);
}

// Neurons of a layer from its stored sums. An output that is null is not written; `fired` is added to.
extern "C" __global__ void __launch_bounds__(256)
neurons(uint32_t* __restrict__ spikes,                   // [B*P][T][words]
        uint8_t* __restrict__ counts,                    // [B*P][C]
        float* __restrict__ mean_normed,                 // [B*P][C]
        float* __restrict__ weighted_normed,             // [B*P][C]
        unsigned long long* __restrict__ fired,          // [1] spikes of the layer, or null
        const float* __restrict__ normalizer,            // [6][padded]
        const float* __restrict__ threshold,             // [1]
        const float* __restrict__ step_weights,          // [T]
        const uint32_t* __restrict__ dropped,            // [B*P][words]
        AnySummand first, AnySummand second, Neurons layer, Place p) {
    begin_dependent();
    neurons_body<false>({spikes, counts, mean_normed, weighted_normed, fired}, normalizer, threshold, step_weights, dropped, first, second,
                        layer, p, OwnMeans{});
}

// The same where a connection has a norm of its own, whose time means backward wants: its sums are read once for both. Three blocks a
// multiprocessor: the compiler takes 64 registers otherwise, which are a few too few.
extern "C" __global__ void __launch_bounds__(256, 3)
neurons_with_means(uint32_t* __restrict__ spikes,        // as above
                   uint8_t* __restrict__ counts,
                   float* __restrict__ mean_normed,
                   float* __restrict__ weighted_normed,
                   unsigned long long* __restrict__ fired,
                   const float* __restrict__ normalizer,
                   const float* __restrict__ threshold,
                   const float* __restrict__ step_weights,
                   const uint32_t* __restrict__ dropped,
                   AnySummand first, AnySummand second, Neurons layer, Place p, OwnMeans means) {
    neurons_body<true>({spikes, counts, mean_normed, weighted_normed, fired}, normalizer, threshold, step_weights, dropped, first, second,
                       layer, p, means);
}

// --- Backward -----------------------------------------------------------------------------------------------------------------------

// Field for field `ClampMappingArgs` in src/ops/neuron/cuda.rs.
struct ClampMapping {
    Columns columns;
    float tau, delta_t;  // LIF
    float slope;         // 1 (IF, ReLU), 1 / tau (LIF)
    float keep;          // 1 / (1 - dropout)
    int kind;            // 0 IF, 1 LIF, 2 ReLU, whose range has no upper end, 3 a readout by current, whose range has no ends
    int padded;
};
static_assert(sizeof(ClampMapping) == 40, "ClampMapping is one layout on both sides");

// In place from r(gradient of the spikes) to r(gradient of the current); partial sums of g above the range, of g, and of g*mean_t xhat.
extern "C" __global__ void __launch_bounds__(COLUMN_BLOCK)
clamp_mapping_backward(float* __restrict__ grad,                     // [B*P][C]
                       double* __restrict__ partial,                 // [3][blocks of rows][C]
                       const float* representation,                  // [B*P][C] r(xhat); the same as mean_normed for IF
                       const float* mean_normed,                     // [B*P][C]
                       const uint32_t* __restrict__ dropped,         // [B*P][words], or null
                       const float* __restrict__ normalizer,         // [6][padded]
                       const float* __restrict__ threshold,          // [1]; null for a readout by current
                       ClampMapping p) {
    SHARED(double, between, COLUMN_BLOCK * 4);
    const Part part = part_of_columns(p.columns);
    const int channels = p.columns.channels;
    const bool aligned = is_aligned(channels);
    const int words = (channels + 31) / 32;
    const float upper = p.kind == 0 ? *threshold : p.kind == 1 ? *threshold / p.delta_t * p.tau : __int_as_float(0x7f800000);
    const float lower = p.kind == 3 ? __int_as_float(0xff800000) : 0.0f;
    const bool closed = p.kind == 0 || p.kind == 3;      // whether both ends belong to the inside
    double above[4] = {}, sum[4] = {}, product[4] = {};
    float gamma[4] = {}, beta[4] = {};
    if (part.live) {
        load_four(gamma, normalizer + 3 * p.padded + part.c, 4, true);
        load_four(beta, normalizer + 4 * p.padded + part.c, 4, true);
    }
    for (int row = part.first; row < part.end; row += part.step) {
        const size_t at = (size_t)row * channels + part.c;
        float g[4], mean[4], normed[4];
        load_four(g, grad + at, part.live, aligned);
        load_four(mean, mean_normed + at, part.live, aligned);
        if (representation == mean_normed) {
#pragma unroll
            for (int i = 0; i < 4; ++i) normed[i] = mean[i];
        } else {
            load_four(normed, representation + at, part.live, aligned);
        }
        if (dropped != nullptr) {
            const uint32_t bits = dropped[(size_t)row * words + part.c / 32] >> (part.c % 32);
#pragma unroll
            for (int i = 0; i < 4; ++i) g[i] = bits >> i & 1 ? 0.0f : g[i] * p.keep;
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float mean_current = fmaf(gamma[i], normed[i], beta[i]);
            const bool inside = closed ? mean_current >= lower && mean_current <= upper : mean_current > lower && mean_current < upper;
            above[i] += mean_current > upper ? (double)g[i] : 0.0;
            g[i] = inside ? p.slope * g[i] : 0.0f;
            sum[i] += (double)g[i];
            product[i] = fma((double)g[i], (double)mean[i], product[i]);
        }
        store_four(grad + at, g, part.live, aligned);
    }
    store_partial(partial, 0, above, between, part, p.columns);
    store_partial(partial, 1, sum, between, part, p.columns);
    store_partial(partial, 2, product, between, part, p.columns);
}

DEPENDENT_KERNEL(neurons, 256)
KERNEL(neurons_with_means, 256)
KERNEL(clamp_mapping_backward, 256)
