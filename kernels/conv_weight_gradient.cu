// conv_weight_gradient.cu: the gradient of a convolution's weights, from spike counts, from the spikes of every step, or from real values.
//
// Equation   grad_w[tap][c][o] = factor * sum over rows m of source[row m at tap][c] * grad[m][o], here in parts of the rows
// Shapes     rows m = (b*P_out + p)*S + t, S steps: 1 for counts (`rate`), T for spikes (`unrolled`);  grad [m][cout] bf16: the gradient
//            of the current, or its normalised value at every step;  source: see `Source`;  grad_w [copies][tap][cin][cout] f32
//            partial [splits][tap][cin][cout] f32
// Units      source in spikes (or values of the input); factor = what one spike is worth: threshold on the device times a constant
// Launch     weight_gradient_*: tile of 128 (tap, c) times 64 channels o, block 128, grid (tiles of (tap, c), tiles of o, splits);
//            subtract_outer: block 256, a thread a weight
//            K, the rows, is cut into as many parts as give work to every multiprocessor; the shape alone decides how many
// Pipeline   a stage is 32 rows, two stages. The gradient comes by copy_async; the source waits in registers while the stage before is
//            multiplied, and becomes bf16 on its way to shared memory. ldmatrix transposes both: K is the slow index of each.
// Costs      of a stage: 128 mma.m16n8k16 = 256 cycles of an SM of sm_80; shared memory 12 KiB written, 24 KiB read = 288 cycles of 128
//            bytes; about 310 instructions of a warp (bits 235), and as many cycles of a scheduler; 8 KiB from L2 (bits 4.5)
// Traffic    reads each tile of the gradient once for every 128 (tap, c) and each of the source once for every 64 o, mostly from L2;
//            writes 4 bytes a weight and part, which neuron_reduction.cu reads once
// Exactness  counts to 256 and bits are exact in bf16 (pooled totals above that round to 8 bits); products are exact; sums are f32 in the
//            order of rows, 16 at a time, within a part, then parts in order: the same bits in every run and on every device of a kind
// Tests      tests/conv_weight_gradient_cuda.rs

#include "include/device.cuh"
#include "include/geometry.cuh"

constexpr int ROWS = 128;                            // (tap, c) of a tile
constexpr int COLUMNS = 64;                          // o of a tile
constexpr int DEPTH = 32;                            // rows m of a stage
constexpr int SOURCE_PITCH = ROWS + 8;               // elements from m to m: ldmatrix meets no conflict
constexpr int GRAD_PITCH = COLUMNS + 8;

// How the source lies in memory. BITS: words of 32 channels. COUNTS_*: u8 or u16, loaded 16 channels at a time, so cin is a multiple
// of 16; BF16: the same of activations. ANY: one by one, see `Element`.
enum Kind { BITS, COUNTS_8, COUNTS_16, BF16, ANY };

// What ANY reads.
enum Element { ELEMENT_U8 = 1, ELEMENT_U16 = 2, ELEMENT_BF16 = 3, ELEMENT_F32 = 4 };

// Field for field `Source` in src/ops/conv/cuda_weight_gradient.rs: element (b, position, t, c) lies at
// b*of_sample + position*of_position + t*of_step + c, in elements (BITS: words, c/32).
struct Source {
    int of_sample;
    int of_position;
    int of_step;
};

// Field for field `WeightGradient` in src/ops/conv/cuda_weight_gradient.rs.
struct WeightGradient {
    Source source;
    Geometry geometry;
    int element;         // an `Element`, for ANY
    int steps;           // S
    int rows;            // B*P_out*S
    int rows_a_split;    // a multiple of DEPTH
    int summed;          // ANY: steps of the source that are added up for a row, in their order; else 1
};
static_assert(sizeof(WeightGradient) == 92, "WeightGradient is one layout on both sides");

// --- Rows ---------------------------------------------------------------------------------------------------------------------------

// A number of rows, or the row of this number, in digits.
struct Digits {
    int t, x, y, b;
};

__device__ __forceinline__ Digits digits_of(int row, const WeightGradient& p) {
    const Geometry& g = p.geometry;
    Digits d;
    d.t = row % p.steps, row /= p.steps;
    d.x = row % g.out_w, row /= g.out_w;
    d.y = row % g.out_h;
    d.b = row / g.out_h;
    return d;
}

// Both are less than their radix in every digit but the last, so one subtraction carries.
__device__ __forceinline__ void add(Digits& d, const Digits& by, const WeightGradient& p) {
    d.t += by.t, d.x += by.x, d.y += by.y, d.b += by.b;
    if (d.t >= p.steps) d.t -= p.steps, ++d.x;
    if (d.x >= p.geometry.out_w) d.x -= p.geometry.out_w, ++d.y;
    if (d.y >= p.geometry.out_h) d.y -= p.geometry.out_h, ++d.b;
}

// Channel c of a tap, of which a thread loads one or more rows.
struct Column {
    int dy, dx;          // from the position that the kernel starts at
    int offset;          // of the channel in its position
    bool exists;
};

__device__ __forceinline__ Column column_of(int tap, int offset, const Geometry& g) {
    return {tap / g.kernel_w - g.pad, tap % g.kernel_w - g.pad, offset, tap < g.kernel_h * g.kernel_w};
}

// Element of the source that a row reads in a column; -1 outside of the image.
__device__ __forceinline__ long long element_of(const Digits& d, const Column& column, const WeightGradient& p) {
    const Geometry& g = p.geometry;
    const int y = d.y * g.stride + column.dy, x = d.x * g.stride + column.dx;
    const bool inside = column.exists && (unsigned)y < (unsigned)g.pooled_h && (unsigned)x < (unsigned)g.pooled_w;
    const long long at = (long long)d.b * p.source.of_sample + (y * g.pooled_w + x) * p.source.of_position;
    return inside ? at + d.t * p.source.of_step + column.offset : -1;
}

// --- From source to shared memory ---------------------------------------------------------------------------------------------------

struct Stage {
    uint16_t source[DEPTH * SOURCE_PITCH];           // [m][(tap, c)] bf16
    uint16_t grad[DEPTH * GRAD_PITCH];               // [m][o] bf16
};

// Two integers below 2^16 as bf16; those above 256 are rounded.
__device__ __forceinline__ uint32_t bf16_pair(uint32_t low, uint32_t high) {
    return pack_bf16(__uint_as_float(0x4b000000u | low) - 8388608.0f, __uint_as_float(0x4b000000u | high) - 8388608.0f);
}

// Two of the four bytes as bf16, exactly: 0x4b0000nn is the float 2^23 + n, whose difference to 2^23 has its digits in the upper half.
template <int FIRST>
__device__ __forceinline__ uint32_t bf16_of_bytes(uint32_t bytes) {
    const float low = __uint_as_float(__byte_perm(bytes, 0x4b000000u, 0x7440 + FIRST)) - 8388608.0f;
    const float high = __uint_as_float(__byte_perm(bytes, 0x4b000000u, 0x7441 + FIRST)) - 8388608.0f;
    return __byte_perm(__float_as_uint(low), __float_as_uint(high), 0x7632);
}

__device__ __forceinline__ uint4 bf16_of_bytes(uint32_t first, uint32_t second) {
    return make_uint4(bf16_of_bytes<0>(first), bf16_of_bytes<2>(first), bf16_of_bytes<0>(second), bf16_of_bytes<2>(second));
}

__device__ __forceinline__ uint4 bf16_of_shorts(const uint4& v) {
    return make_uint4(bf16_pair(v.x & 0xffffu, v.x >> 16), bf16_pair(v.y & 0xffffu, v.y >> 16),
                      bf16_pair(v.z & 0xffffu, v.z >> 16), bf16_pair(v.w & 0xffffu, v.w >> 16));
}

// Bits i..i+3 and i+16..i+19 of a word, in pairs, as bf16 0 or 1.
__device__ __forceinline__ uint4 bf16_of_bits(uint32_t word, int i) {
    word >>= i;
    return make_uint4((word & 0x00010001u) * 0x3f80u, (word >> 1 & 0x00010001u) * 0x3f80u, (word >> 2 & 0x00010001u) * 0x3f80u,
                      (word >> 3 & 0x00010001u) * 0x3f80u);
}

// Channel of a row of the tile: bits leave their word in pairs 16 apart.
template <int KIND>
__device__ __forceinline__ int channel_of(int row) {
    return KIND == BITS ? row / 32 * 32 + row % 2 * 16 + row % 32 / 2 : row;
}

// Channels that a tap has among the rows of the tiles.
template <int KIND>
__device__ __forceinline__ int channels_of_tap(const Geometry& g) {
    return KIND == BITS ? (g.cin + 31) / 32 * 32 : g.cin;
}

// Loads the source stage by stage; each thread always the same column.
template <int KIND>
struct Reader;

// A thread has a word of one row. Words go to shared memory in an order in which eight threads meet all banks.
template <>
struct Reader<BITS> {
    static constexpr int ROW_STEP = 32;
    const uint32_t* source;
    Column column;
    uint32_t word;

    static __device__ __forceinline__ int own_row() { return threadIdx.x / 4; }

    __device__ __forceinline__ void start(const void* from, const WeightGradient& p) {
        const int words = (p.geometry.cin + 31) / 32, index = blockIdx.x * (ROWS / 32) + threadIdx.x % 4;
        source = (const uint32_t*)from;
        column = column_of(index / words, index % words, p.geometry);
    }
    __device__ __forceinline__ void load(Stage&, Digits& d, const Digits& step, int row, int end, const WeightGradient& p) {
        const long long at = row < end ? element_of(d, column, p) : -1;
        word = at < 0 ? 0 : __ldg(source + at);
        add(d, step, p);
    }
    __device__ __forceinline__ void store(Stage& stage) const {
        const int part = threadIdx.x % 4;
        uint4* to = (uint4*)&stage.source[own_row() * SOURCE_PITCH + part * 32];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int quarter = (i + part / 2 * 2) % 4;
            to[quarter] = bf16_of_bits(word, quarter * 4);
        }
    }
};

// A thread has 16 channels of two rows; four threads a row and eight of two rows meet all banks.
template <typename Count, bool IS_BF16 = false>
struct CountReader {
    static constexpr int ROW_STEP = 16;
    static constexpr int LOADS = sizeof(Count);      // of 16 bytes a row
    const Count* source;
    Column column;
    uint4 counts[2][LOADS];

    static __device__ __forceinline__ int own_row() { return threadIdx.x / 16 * 2 + threadIdx.x / 4 % 2; }
    static __device__ __forceinline__ int own_part() { return threadIdx.x % 4 + threadIdx.x / 8 % 2 * 4; }

    __device__ __forceinline__ void start(const void* from, const WeightGradient& p) {
        const int row = blockIdx.x * ROWS + own_part() * 16;
        source = (const Count*)from;
        column = column_of(row / p.geometry.cin, row % p.geometry.cin, p.geometry);
    }
    __device__ __forceinline__ void load(Stage&, Digits& d, const Digits& step, int row, int end, const WeightGradient& p) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const long long at = row + i * ROW_STEP < end ? element_of(d, column, p) : -1;
#pragma unroll
            for (int part = 0; part < LOADS; ++part) {
                counts[i][part] = at < 0 ? make_uint4(0, 0, 0, 0) : __ldg((const uint4*)(source + at) + part);
            }
            add(d, step, p);
        }
    }
    __device__ __forceinline__ void store(Stage& stage) const {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            uint4* to = (uint4*)&stage.source[(own_row() + i * ROW_STEP) * SOURCE_PITCH + own_part() * 16];
            const uint4 first = counts[i][0];
            if (sizeof(Count) == 1) {
                to[0] = bf16_of_bytes(first.x, first.y);
                to[1] = bf16_of_bytes(first.z, first.w);
            } else if (IS_BF16) {
                to[0] = first;
                to[1] = counts[i][LOADS - 1];
            } else {
                to[0] = bf16_of_shorts(first);
                to[1] = bf16_of_shorts(counts[i][LOADS - 1]);
            }
        }
    }
};

template <>
struct Reader<COUNTS_8> : CountReader<uint8_t> {};
template <>
struct Reader<COUNTS_16> : CountReader<uint16_t> {};
template <>
struct Reader<BF16> : CountReader<uint16_t, true> {};

// A thread has one column of all rows, and takes it to shared memory at once.
template <>
struct Reader<ANY> {
    static constexpr int ROW_STEP = 1;
    static constexpr int AT_ONCE = 8;
    const void* source;
    Column column;

    static __device__ __forceinline__ int own_row() { return 0; }

    __device__ __forceinline__ void start(const void* from, const WeightGradient& p) {
        const int row = blockIdx.x * ROWS + threadIdx.x;
        source = from;
        column = column_of(row / p.geometry.cin, row % p.geometry.cin, p.geometry);
    }
    __device__ __forceinline__ float value(long long at, int element) const {
        if (at < 0) return 0.0f;
        if (element == ELEMENT_F32) return ((const float*)source)[at];
        if (element == ELEMENT_U8) return (float)((const uint8_t*)source)[at];
        const uint16_t half = ((const uint16_t*)source)[at];
        return element == ELEMENT_BF16 ? bf16_to_float(half) : (float)half;
    }
    __device__ __forceinline__ float total(long long at, const WeightGradient& p) const {
        float sum = value(at, p.element);
        for (int step = 1; at >= 0 && step < p.summed; ++step) sum += value(at + (long long)step * p.source.of_step, p.element);
        return sum;
    }
    __device__ __forceinline__ void load(Stage& stage, Digits& d, const Digits& step, int row, int end, const WeightGradient& p) {
        for (int first = 0; first < DEPTH; first += AT_ONCE) {
            float values[AT_ONCE];
#pragma unroll
            for (int i = 0; i < AT_ONCE; ++i) {
                values[i] = total(row + first + i < end ? element_of(d, column, p) : -1, p);
                add(d, step, p);
            }
#pragma unroll
            for (int i = 0; i < AT_ONCE; ++i) stage.source[(first + i) * SOURCE_PITCH + threadIdx.x] = float_to_bf16(values[i]);
        }
    }
    __device__ __forceinline__ void store(Stage&) const {}
};

// Starts to copy the gradient of the rows of a stage.
__device__ __forceinline__ void load_grad(Stage& stage, const uint16_t* __restrict__ grad, int first_row, int end, int cout) {
    if (cout % 8 == 0) {                             // rows begin at multiples of 16 bytes
        const int row = threadIdx.x / 8, part = threadIdx.x % 8 * 8, o = blockIdx.y * COLUMNS + part;
#pragma unroll
        for (int i = 0; i < DEPTH; i += 16) {
            const int m = first_row + row + i;
            const bool valid = m < end && o < cout;
            copy_async<16>(&stage.grad[(row + i) * GRAD_PITCH + part], valid ? grad + (size_t)m * cout + o : grad, valid);
        }
        return;
    }
    const int column = threadIdx.x % COLUMNS, o = blockIdx.y * COLUMNS + column;
#pragma unroll 8
    for (int row = threadIdx.x / COLUMNS; row < DEPTH; row += 2) {
        const int m = first_row + row;
        stage.grad[row * GRAD_PITCH + column] = m < end && o < cout ? grad[(size_t)m * cout + o] : 0;
    }
}

// --- Product ------------------------------------------------------------------------------------------------------------------------

// Tile of a warp: 64 rows times 32 columns.
__device__ __forceinline__ void multiply(float (&acc)[4][4][4], const Stage& stage) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int step = 0; step < DEPTH; step += 16) {
        uint32_t a[4][4], b[4][2];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int m = step + lane % 8 + lane / 16 * 8, row = warp / 2 * 64 + i * 16 + lane / 8 % 2 * 8;
            load_matrix_x4_transposed(a[i], &stage.source[m * SOURCE_PITCH + row]);
        }
#pragma unroll
        for (int pair = 0; pair < 2; ++pair) {
            uint32_t both[4];
            const int m = step + lane % 16, column = warp % 2 * 32 + pair * 16 + lane / 16 * 8;
            load_matrix_x4_transposed(both, &stage.grad[m * GRAD_PITCH + column]);
            b[2 * pair][0] = both[0], b[2 * pair][1] = both[1];
            b[2 * pair + 1][0] = both[2], b[2 * pair + 1][1] = both[3];
        }
        mma_bf16_tile(acc, a, b);
    }
}

template <int KIND>
__device__ __forceinline__ void store_partial(float* __restrict__ partial, const float (&acc)[4][4][4], const Geometry& g) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, channels = channels_of_tap<KIND>(g), taps = g.kernel_h * g.kernel_w;
    float* of_split = partial + (size_t)blockIdx.z * taps * g.cin * g.cout;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = channel_of<KIND>(blockIdx.x * ROWS + warp / 2 * 64 + i * 16 + half * 8 + lane / 4);
            const int tap = row / channels, c = row % channels;
            if (tap >= taps || c >= g.cin) continue;
            float* to = of_split + ((size_t)tap * g.cin + c) * g.cout;
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const int o = blockIdx.y * COLUMNS + warp % 2 * 32 + j * 8 + lane % 4 * 2;
                if (g.cout % 2 == 0) {
                    if (o < g.cout) *(float2*)(to + o) = make_float2(acc[i][j][2 * half], acc[i][j][2 * half + 1]);
                } else {
                    if (o < g.cout) to[o] = acc[i][j][2 * half];
                    if (o + 1 < g.cout) to[o + 1] = acc[i][j][2 * half + 1];
                }
            }
        }
    }
}

template <int KIND>
__device__ __forceinline__ void weight_gradient(float* __restrict__ partial, const void* __restrict__ source,
                                                const uint16_t* __restrict__ grad, const WeightGradient& p) {
    SHARED(Stage, stages, 2);
    Reader<KIND> reader;
    reader.start(source, p);
    const int first = blockIdx.z * p.rows_a_split, end = min(p.rows, first + p.rows_a_split);
    const Digits step = digits_of(Reader<KIND>::ROW_STEP, p);
    Digits next = digits_of(first + reader.own_row(), p);
    float acc[4][4][4] = {};

    load_grad(stages[0], grad, first, end, p.geometry.cout);
    copy_async_commit();
    reader.load(stages[0], next, step, first + reader.own_row(), end, p);
    reader.store(stages[0]);
    for (int row = first, slot = 0; row < end; row += DEPTH, slot ^= 1) {
        copy_async_wait<0>();
        __syncthreads();                             // this stage is there, and the other one is free
        const int following = row + DEPTH;
        if (following < end) {
            load_grad(stages[slot ^ 1], grad, following, end, p.geometry.cout);
            reader.load(stages[slot ^ 1], next, step, following + reader.own_row(), end, p);
        }
        copy_async_commit();
        multiply(acc, stages[slot]);
        if (following < end) reader.store(stages[slot ^ 1]);
    }
    store_partial<KIND>(partial, acc, p.geometry);
}

extern "C" __global__ void __launch_bounds__(128)
weight_gradient_bits(float* __restrict__ partial,              // [splits][tap][cin][cout]
                     const void* __restrict__ source,          // [B][P][T][words] u32
                     const uint16_t* __restrict__ grad,        // [B*P_out*T][cout] bf16
                     WeightGradient p) {
    weight_gradient<BITS>(partial, source, grad, p);
}

extern "C" __global__ void __launch_bounds__(128)
weight_gradient_counts_8(float* __restrict__ partial, const void* __restrict__ source, const uint16_t* __restrict__ grad,
                         WeightGradient p) {
    weight_gradient<COUNTS_8>(partial, source, grad, p);
}

extern "C" __global__ void __launch_bounds__(128)
weight_gradient_counts_16(float* __restrict__ partial, const void* __restrict__ source, const uint16_t* __restrict__ grad,
                          WeightGradient p) {
    weight_gradient<COUNTS_16>(partial, source, grad, p);
}

extern "C" __global__ void __launch_bounds__(128)
weight_gradient_bf16(float* __restrict__ partial, const void* __restrict__ source, const uint16_t* __restrict__ grad, WeightGradient p) {
    weight_gradient<BF16>(partial, source, grad, p);
}

extern "C" __global__ void __launch_bounds__(128)
weight_gradient_any(float* __restrict__ partial, const void* __restrict__ source, const uint16_t* __restrict__ grad, WeightGradient p) {
    weight_gradient<ANY>(partial, source, grad, p);
}

// --- What `rate` leaves out ----------------------------------------------------------------------------------------------------------

// Field for field `SubtractOuter` in src/ops/conv/cuda_weight_gradient.rs.
struct SubtractOuter {
    int len;             // weights
    int channels;        // cout
    int copies;
};

// What the gradient lacks in `unrolled` mode: minus the products of normalised currents and sources, times a factor per channel.
extern "C" __global__ void __launch_bounds__(256)
subtract_outer(float* __restrict__ grad,                       // [copies][len]
               const float* __restrict__ outer,                // [len]
               const float* __restrict__ k,                    // [cout]
               SubtractOuter p) {
    const int i = blockIdx.x * 256 + threadIdx.x;
    if (i >= p.len) return;
    const float part = outer[i] * k[i % p.channels];
    for (int copy = 0; copy < p.copies; ++copy) grad[(size_t)copy * p.len + i] -= part;
}

KERNEL(weight_gradient_bits, 128)
KERNEL(weight_gradient_counts_8, 128)
KERNEL(weight_gradient_counts_16, 128)
KERNEL(weight_gradient_bf16, 128)
KERNEL(weight_gradient_any, 128)
KERNEL(subtract_outer, 256)
