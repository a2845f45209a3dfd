// spike_conv.cu: the convolution of spikes over all time steps on integer tensor cores, alone or with the neurons behind it.
//
// Equation   acc[m][o] = sum over taps k and channels c of spikes[position of m and k][t][c] * q[k][c][o],  q = 256*hi + lo
//            neurons: neuron.cuh, from acc of up to two summands
// Shapes     rows m = (b*P + p)*T + t;  spikes [B][P][T][words] u32, or counts of a pool [B][P][T][32*words] u8;
//            sums [B][P][T][stride] i32, stride = C rounded up to 16;  weights and statistics: weights.cu and `add_statistics` below
// Units      acc in units of the weights' scale 2^-e (weights.cu): integers, below 2^31 by the choice of e
// Launch     grid (row tiles, ceil(cout/64)), block 128, dynamic shared memory: see `Tiles` in src/ops/spike_conv/cuda.rs
//            Time lies inside the tile. `sums`: 128 consecutive m. `neurons`: `tile_positions` positions times `tile_steps` steps,
//            as many as fit 128 rows; where T takes several tiles, the block goes through them in order and keeps the potentials in
//            shared memory in between. So a weight is read once for all steps of a tile, and a potential never leaves the block.
// Pipeline   a stage is two K steps (32 channels of a tap each); 4 stages in flight (3 for counts), one barrier a stage
// Costs      of one K step of a tile of 128 x 64, two passes (one with 8 bits: half the tensor cycles and weights):
//              tensor   128 mma.m16n8k32 = 256 cycles of an SM of sm_80, 512 of sm_86, 89 and 120, at best 128 of sm_90
//              shared   116 cycles: 64 to read weights (each warp half of them), 16 to read spikes, 36 for the copies' writes
//              issue    about 90 of a scheduler: 32 mma, 32 to expand bits, 8 loads, the rest copies and their addresses
//              global   4096 bytes of weights and 512 of spikes: 18 bytes a cycle and SM on sm_80, nearly all from L1 and L2
//            `sums` then writes 4 bytes a row and channel; `neurons` writes 1/8 of a byte, and 1 to 9 a neuron in training.
//            Tensor-bound from 64 channels on; with fewer a tile is partly empty.
// Bits       word >> (2j + r) & 0x01010101 gives the bytes of register r of lane j: channels {0, 8, 16, 24} + 2j + r. The sum does not
//            depend on the order of K, so weights.cu packs the same order, and an operand register costs two instructions.
// Exactness  sums and statistics are integers: equal to ops/spike_conv/cpu.rs in any order; neurons as in neuron.cuh
// Tests      tests/spike_conv_cuda.rs      Bench  cargo bench --bench spike_conv

#include "include/geometry.cuh"
#include "include/neuron.cuh"
#include <climits>

constexpr int ROWS = 128;                            // of a tile; one thread copies one row
constexpr int COLUMNS = 64;                          // output channels of a tile
constexpr int PITCH = COLUMNS + 8;                   // words from row to row of a tile of sums: stores of fragments meet no conflict
constexpr int TILE_BYTES = ROWS * PITCH * 4;
constexpr int BYTES_PITCH = 64 + 16;                 // bytes from row to row of staged counts: ldmatrix meets no conflict

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
    int tile_steps;         // steps of a tile; tile_positions * tile_steps <= 128
};
static_assert(sizeof(SpikeConvNeurons) == 176, "SpikeConvNeurons is one layout on both sides");

// What one row of a tile is.
struct Row {
    bool live;
    int q, t;               // position of the batch, step
};

template <int WEIGHT_BITS>
struct Accumulators {
    int of[WEIGHT_BITS / 8][4][4][4];                // [hi, lo][16 rows][8 columns][fragment] of a warp's 64 x 32
};

// Two K steps of a tile in shared memory, the source's rows first.
template <int WEIGHT_BITS, bool OF_BYTES>
struct Stage {
    static constexpr int SOURCE = OF_BYTES ? ROWS * BYTES_PITCH : ROWS * 8;
    static constexpr int WEIGHTS = 2 * COLUMNS * 32 * WEIGHT_BITS / 8;
    static constexpr int COUNT = OF_BYTES ? 3 : 4;
};

// Copies the stages of one summand, in order; each thread its row and its share of the weights.
template <int WEIGHT_BITS, bool OF_BYTES>
struct Loader {
    using Size = Stage<WEIGHT_BITS, OF_BYTES>;
    static constexpr int UNIT = OF_BYTES ? 32 : 4;   // bytes of 32 channels
    const unsigned char* source;
    const uint4* weights;                            // this thread's share of the next stage
    long long from;                                  // bytes from `source` to what the next K step reads
    int y, x;                                        // pooled position that it reads; a row that is not live has none
    int pooled_h, pooled_w, kernel_w, words;
    int position_bytes;                              // of all steps of a position
    int kx, word, steps;                             // of the next K step; K steps that are left

    __device__ __forceinline__ Loader(const unsigned char* source, const uint4* weights, const Geometry& g, Row row, int time_steps)
        : source(source), pooled_h(g.pooled_h), pooled_w(g.pooled_w), kernel_w(g.kernel_w), words((g.cin + 31) / 32), kx(0), word(0) {
        const int p = row.q % (g.out_h * g.out_w);
        const int b = row.q / (g.out_h * g.out_w);
        y = p / g.out_w * g.stride - g.pad;
        x = p % g.out_w * g.stride - g.pad;
        position_bytes = time_steps * words * UNIT;
        from = (((long long)b * pooled_h + y) * pooled_w + x) * position_bytes + row.t * words * UNIT;
        if (!row.live) y = INT_MIN / 2;
        steps = g.kernel_h * kernel_w * words;
        this->weights = weights + (size_t)blockIdx.y * ((steps + 1) / 2) * (Size::WEIGHTS / 16) + threadIdx.x;
    }

    __device__ __forceinline__ bool inside() const {
        return steps > 0 && (unsigned)y < (unsigned)pooled_h && (unsigned)x < (unsigned)pooled_w;
    }

    __device__ __forceinline__ void advance(int by) {
        from += by * UNIT;
        word += by;
        steps -= by;
        if (word < words) return;
        word = 0;
        from += position_bytes - words * UNIT;
        ++x;
        if (++kx < kernel_w) return;
        kx = 0;
        from += (long long)(pooled_w - kernel_w) * position_bytes;
        x -= kernel_w;
        ++y;
    }

    __device__ __forceinline__ void copy(unsigned char* stage) {
        constexpr int PIECES = Size::WEIGHTS / 16 / ROWS;
#pragma unroll
        for (int piece = 0; piece < PIECES; ++piece) {
            copy_async<16>(stage + Size::SOURCE + (piece * ROWS + threadIdx.x) * 16, weights + piece * ROWS, true);
        }
        weights += PIECES * ROWS;
        unsigned char* of_row = stage + threadIdx.x * (OF_BYTES ? BYTES_PITCH : 8);
        if (!OF_BYTES && words % 2 == 0) {           // both steps in one copy
            copy_async<8>(of_row, inside() ? source + from : source, inside());
            advance(2);
            return;
        }
#pragma unroll
        for (int step = 0; step < 2; ++step) {
            const bool valid = inside();
            const unsigned char* next = valid ? source + from : source;
            if (OF_BYTES) {
                copy_async<16>(of_row + step * 32, next, valid);
                copy_async<16>(of_row + step * 32 + 16, next + 16, valid);
            } else {
                copy_async<4>(of_row + step * 4, next, valid);
            }
            advance(1);
        }
    }
};

// One stage: 2 x 16 (8 bits) or 2 x 32 (16 bits) mma of a warp.
template <int WEIGHT_BITS, bool OF_BYTES>
__device__ __forceinline__ void multiply(Accumulators<WEIGHT_BITS>& acc, const unsigned char* stage) {
    const int lane = threadIdx.x % 32;
    const int warp = threadIdx.x / 32;
    const int first_row = warp / 2 * 64;
    uint2 bits[4][2];                                // words of both steps, of rows 16*m + lane/4 (+ 8)
    if (!OF_BYTES) {
#pragma unroll
        for (int m = 0; m < 4; ++m) {
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const uint2 both = reinterpret_cast<const uint2*>(stage)[first_row + m * 16 + h * 8 + lane / 4];
                bits[m][h] = make_uint2(both.x >> (2 * (lane % 4)), both.y >> (2 * (lane % 4)));
            }
        }
    }
#pragma unroll
    for (int step = 0; step < 2; ++step) {
        uint32_t a[4][4];
#pragma unroll
        for (int m = 0; m < 4; ++m) {
            if (OF_BYTES) {
                load_matrix_x4(a[m], stage + (first_row + m * 16 + lane % 16) * BYTES_PITCH + step * 32 + lane / 16 * 16);
            } else {
#pragma unroll
                for (int r = 0; r < 4; ++r) {
                    const uint32_t word = step == 0 ? bits[m][r % 2].x : bits[m][r % 2].y;
                    a[m][r] = word >> (r / 2) & 0x01010101u;
                }
            }
        }
        // [step][8 columns][lane]{hi b0, hi b1, lo b0, lo b1}, or with 8 bits [step][16 columns][lane]{b0, b1 of 8, b0, b1 of the next 8}
        constexpr int OF_STEP = COLUMNS * WEIGHT_BITS / 128 * 32;
        constexpr int OF_WARP = OF_STEP / 2;
        const uint4* weights = reinterpret_cast<const uint4*>(stage + Stage<WEIGHT_BITS, OF_BYTES>::SOURCE);
        weights += step * OF_STEP + warp % 2 * OF_WARP + lane;
        uint32_t b[WEIGHT_BITS / 8][4][2];           // as the accumulators
#pragma unroll
        for (int i = 0; i < OF_WARP / 32; ++i) {
            const uint4 loaded = weights[i * 32];
            uint32_t(&former)[2] = b[0][WEIGHT_BITS == 16 ? i : 2 * i];
            uint32_t(&latter)[2] = WEIGHT_BITS == 16 ? b[WEIGHT_BITS / 8 - 1][i] : b[0][2 * i + 1];
            former[0] = loaded.x, former[1] = loaded.y;
            latter[0] = loaded.z, latter[1] = loaded.w;
        }
#pragma unroll
        for (int pass = 0; pass < WEIGHT_BITS / 8; ++pass) mma_u8s8_tile(acc.of[pass], a, b[pass]);
    }
}

// All K steps of one summand; when it returns, the block has done with `stages`.
template <int WEIGHT_BITS, bool OF_BYTES>
__device__ __forceinline__ void convolve(Accumulators<WEIGHT_BITS>& acc, unsigned char* stages, const unsigned char* source,
                                         const uint4* weights, const Geometry& g, Row row, int time_steps) {
    using Size = Stage<WEIGHT_BITS, OF_BYTES>;
    constexpr int STAGE_BYTES = Size::SOURCE + Size::WEIGHTS;
    const int count = (g.kernel_h * g.kernel_w * ((g.cin + 31) / 32) + 1) / 2;
    Loader<WEIGHT_BITS, OF_BYTES> loader(source, weights, g, row, time_steps);
#pragma unroll
    for (int stage = 0; stage < Size::COUNT - 1; ++stage) {
        if (stage < count) loader.copy(stages + stage * STAGE_BYTES);
        copy_async_commit();
    }
    int slot = 0;
#pragma unroll 1
    for (int stage = 0; stage < count; ++stage) {
        copy_async_wait<Size::COUNT - 2>();
        __syncthreads();                             // this stage has come, and all warps have done with the one before
        const int free = slot == 0 ? Size::COUNT - 1 : slot - 1;
        if (stage + Size::COUNT - 1 < count) loader.copy(stages + free * STAGE_BYTES);
        copy_async_commit();
        multiply<WEIGHT_BITS, OF_BYTES>(acc, stages + slot * STAGE_BYTES);
        slot = slot == Size::COUNT - 1 ? 0 : slot + 1;
    }
    copy_async_wait<0>();
    __syncthreads();
}

// Combines hi and lo and writes the tile [128][PITCH].
template <int WEIGHT_BITS>
__device__ __forceinline__ void store_tile(int* tile, const Accumulators<WEIGHT_BITS>& acc) {
    const int lane = threadIdx.x % 32;
    const int warp = threadIdx.x / 32;
    int* of_lane = tile + (warp / 2 * 64 + lane / 4) * PITCH + warp % 2 * 32 + lane % 4 * 2;
#pragma unroll
    for (int m = 0; m < 4; ++m) {
#pragma unroll
        for (int n = 0; n < 4; ++n) {
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                uint32_t sum[2];
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    sum[i] = (uint32_t)acc.of[0][m][n][2 * h + i];
                    if (WEIGHT_BITS == 16) sum[i] = sum[i] * 256u + (uint32_t)acc.of[WEIGHT_BITS / 8 - 1][m][n][2 * h + i];
                }
                *reinterpret_cast<int2*>(of_lane + (m * 16 + h * 8) * PITCH + n * 8) = make_int2((int)sum[0], (int)sum[1]);
            }
        }
    }
}

__device__ __forceinline__ bool is_conv(int kind) { return kind == CONV_OF_BITS || kind == CONV_OF_BYTES; }

// Sums of every convolution of the layer, a tile each, the first one's at `shared`. Ends with a barrier.
template <int WEIGHT_BITS>
__device__ __forceinline__ void convolve_summands(unsigned char* shared, const SpikeConv& layer, Row row,
                                                  const unsigned char* first_source, const uint4* first_weights,
                                                  const unsigned char* second_source, const uint4* second_weights) {
    const int last = is_conv(layer.first.kind) && is_conv(layer.second.kind) ? 1 : 0;
    unsigned char* stages = shared + last * TILE_BYTES;   // in the place of the last tile, which comes when the stages have gone
#pragma unroll 1
    for (int index = 0; index <= last; ++index) {
        const bool is_second = index == 1 || !is_conv(layer.first.kind);
        const Summand summand = is_second ? layer.second : layer.first;
        const unsigned char* source = is_second ? second_source : first_source;
        const uint4* weights = is_second ? second_weights : first_weights;
        Accumulators<WEIGHT_BITS> acc = {};
        if (summand.kind == CONV_OF_BITS) {
            convolve<WEIGHT_BITS, false>(acc, stages, source, weights, summand.geometry, row, layer.time_steps);
        } else {
            convolve<WEIGHT_BITS, true>(acc, stages, source, weights, summand.geometry, row, layer.time_steps);
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

// Sum of products below 2^62 in magnitude: two of them fit 64 bits, then low and high halves go separate ways.
struct ProductSum {
    unsigned long long low, high;

    __device__ __forceinline__ void add(long long pair) {
        low += (uint32_t)pair;
        high += (unsigned long long)(pair >> 32);
    }
};

// Adds the sums of one tile to `statistics` [8][C]: acc0, acc1, then low and high halves of acc0*acc0, acc0*acc1, acc1*acc1.
// A product's sum is (high << 32) + low in 128 bits. `value(r, both)` gives the two sums of row r; a thread takes a column and 64 rows.
template <class Value>
__device__ __forceinline__ void add_statistics(unsigned long long* __restrict__ statistics, int channels, bool has_second, Value value) {
    const int c = blockIdx.y * COLUMNS + threadIdx.x % COLUMNS;
    const int first_row = threadIdx.x / COLUMNS * (ROWS / 2);
    long long sum[2] = {};
    ProductSum squares = {}, products = {}, second_squares = {};
#pragma unroll 2
    for (int r = first_row; r < first_row + ROWS / 2; r += 2) {
        const int2 a = value(r);
        const int2 b = value(r + 1);
        sum[0] += (long long)a.x + b.x;
        squares.add((long long)a.x * a.x + (long long)b.x * b.x);
        if (has_second) {
            sum[1] += (long long)a.y + b.y;
            products.add((long long)a.x * a.y + (long long)b.x * b.y);
            second_squares.add((long long)a.y * a.y + (long long)b.y * b.y);
        }
    }
    if (c >= channels) return;
    unsigned long long* of_channel = statistics + c;
    atomicAdd(of_channel, (unsigned long long)sum[0]);
    atomicAdd(of_channel + 2 * channels, squares.low);
    atomicAdd(of_channel + 3 * channels, squares.high);
    if (!has_second) return;
    atomicAdd(of_channel + channels, (unsigned long long)sum[1]);
    atomicAdd(of_channel + 4 * channels, products.low);
    atomicAdd(of_channel + 5 * channels, products.high);
    atomicAdd(of_channel + 6 * channels, second_squares.low);
    atomicAdd(of_channel + 7 * channels, second_squares.high);
}

template <int WEIGHT_BITS>
__device__ __forceinline__ void sums_body(int* first_sums, int* second_sums, unsigned long long* statistics,
                                          const unsigned char* first_source, const uint4* first_weights,
                                          const unsigned char* second_source, const uint4* second_weights, const SpikeConv& layer) {
    DYNAMIC_SHARED(shared);
    const int rows = layer.positions * layer.time_steps;
    const int first_row = blockIdx.x * ROWS;
    const int m = first_row + threadIdx.x;
    const Row row{m < rows, m / layer.time_steps, m % layer.time_steps};
    convolve_summands<WEIGHT_BITS>(shared, layer, row, first_source, first_weights, second_source, second_weights);
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

// What the neurons of a layer write; all but the spikes may be null.
struct Outputs {
    uint32_t* spikes;
    uint8_t* counts;
    float* mean_normed;
    float* weighted_normed;
    unsigned long long* fired;
};

// What they read beside the sums of the convolutions.
struct Inputs {
    const unsigned char* other_source;   // of the summand that is no convolution
    const float* normalizer;
    const float* threshold;
    const float* step_weights;           // null where no weighted mean is wanted
    const uint32_t* dropped;             // null where none is
};

// Runs the neurons of a tile from step `first` on. A warp takes every other position and one word of 32 channels.
__device__ __forceinline__ void run_neurons(const Outputs& to, const Inputs& from, const SpikeConvNeurons& p, const int* tile,
                                            NeuronState* carried, int first) {
    const SpikeConv& layer = p.layer;
    const int time_steps = layer.time_steps;
    const int end = min(first + p.tile_steps, time_steps);
    const int first_position = blockIdx.x * p.tile_positions;
    const int positions = min(p.tile_positions, layer.positions - first_position);
    const int column = threadIdx.x % COLUMNS;
    const int c = blockIdx.y * COLUMNS + column;
    const int word = c / 32;
    const int words = (layer.channels + 31) / 32;
    if (word >= words) return;
    const bool first_is_conv = is_conv(layer.first.kind);
    const int other = first_is_conv ? layer.second.kind : layer.first.kind;
    const NeuronChannel channel = neuron_channel(from.normalizer, from.threshold, p.neurons.padded, c);
    int fired = 0;
    for (int at = threadIdx.x / COLUMNS; at < positions; at += ROWS / COLUMNS) {
        const size_t q = first_position + at;
        const uint32_t keep = kept_channels(from.dropped, q, word, p.neurons);
        const size_t train = q * time_steps * words + word;
        const int* sums = tile + (at * p.tile_steps - first) * PITCH + column;
        NeuronState state = {};
        if (first > 0) state = carried[at * COLUMNS + column];
        auto run = [&](auto normed) {
            neuron_steps(state, to.spikes + train, keep, p.neurons, channel, from.step_weights, first, end, normed);
        };
        auto both = [&](int conv, int second) {
            return first_is_conv ? normalize(channel, (float)conv, (float)second) : normalize(channel, (float)second, (float)conv);
        };
        if (other == NONE) {
            run([&](int t) { return normalize(channel, (float)sums[t * PITCH]); });
        } else if (other == BITS) {
            BitTrain bits{reinterpret_cast<const uint32_t*>(from.other_source) + train, words, first, end, 0};
            run([&](int t) { return both(sums[t * PITCH], bits.at(t)); });
        } else if (other == SUMS) {
            const int* stored = reinterpret_cast<const int*>(from.other_source) + q * time_steps * layer.stride + c;
            const bool exists = c < layer.stride;
            run([&](int t) { return both(sums[t * PITCH], exists ? __ldg(stored + (size_t)t * layer.stride) : 0); });
        } else {
            run([&](int t) { return both(sums[t * PITCH], sums[t * PITCH + TILE_BYTES / 4]); });
        }
        if (end < time_steps) {
            carried[at * COLUMNS + column] = state;
        } else {
            fired += neuron_finish(state, to.counts, to.mean_normed, to.weighted_normed, q, c, keep, p.neurons);
        }
    }
    if (end < time_steps || to.fired == nullptr) return;
    const int of_warp = warp_sum(fired);
    if (threadIdx.x % 32 == 0 && of_warp > 0) atomicAdd(to.fired, (unsigned long long)of_warp);
}

template <int WEIGHT_BITS>
__device__ __forceinline__ void neurons_body(const Outputs& to, const Inputs& from, const unsigned char* first_source,
                                             const uint4* first_weights, const unsigned char* second_source, const uint4* second_weights,
                                             const SpikeConvNeurons& p) {
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
        convolve_summands<WEIGHT_BITS>(tiles, p.layer, row, first_source, first_weights, second_source, second_weights);
        run_neurons(to, from, p, reinterpret_cast<const int*>(tiles), reinterpret_cast<NeuronState*>(shared), first);
    }
}

// Sums of a layer's convolutions and the statistics of both summands; each output unless null. `statistics` is zero before.
// A source is spikes [B][P][T][words], counts of a pool [B][P][T][32*words], or stored sums [m][stride]: its summand's kind.
extern "C" __global__ void __launch_bounds__(128)
spike_conv_sums_16(int* __restrict__ first_sums,                    // [m][stride]
                   int* __restrict__ second_sums,                   // [m][stride]
                   unsigned long long* __restrict__ statistics,     // [8][C]
                   const unsigned char* __restrict__ first_source, const uint4* __restrict__ first_weights,
                   const unsigned char* __restrict__ second_source, const uint4* __restrict__ second_weights, SpikeConv layer) {
    sums_body<16>(first_sums, second_sums, statistics, first_source, first_weights, second_source, second_weights, layer);
}

extern "C" __global__ void __launch_bounds__(128)
spike_conv_sums_8(int* __restrict__ first_sums,                     // as above
                  int* __restrict__ second_sums,
                  unsigned long long* __restrict__ statistics,
                  const unsigned char* __restrict__ first_source, const uint4* __restrict__ first_weights,
                  const unsigned char* __restrict__ second_source, const uint4* __restrict__ second_weights, SpikeConv layer) {
    sums_body<8>(first_sums, second_sums, statistics, first_source, first_weights, second_source, second_weights, layer);
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
                      SpikeConvNeurons p) {
    neurons_body<16>({spikes, counts, mean_normed, weighted_normed, fired},
                     {is_conv(p.layer.first.kind) ? second_source : first_source, normalizer, threshold,
                      weighted_normed == nullptr ? nullptr : step_weights, dropped},
                     first_source, first_weights, second_source, second_weights, p);
}

extern "C" __global__ void __launch_bounds__(128)
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
                     SpikeConvNeurons p) {
    neurons_body<8>({spikes, counts, mean_normed, weighted_normed, fired},
                    {is_conv(p.layer.first.kind) ? second_source : first_source, normalizer, threshold,
                     weighted_normed == nullptr ? nullptr : step_weights, dropped},
                    first_source, first_weights, second_source, second_weights, p);
}

KERNEL(spike_conv_sums_16, 128)
KERNEL(spike_conv_sums_8, 128)
KERNEL(spike_conv_neurons_16, 128)
KERNEL(spike_conv_neurons_8, 128)
