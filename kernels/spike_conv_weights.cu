// spike_conv_weights.cu: the weights of all connections, rounded to fixed point (an ANN: to bf16) and laid out as tensor cores read them.
//
// Equation   q = rint(w * 2^e) for each output channel, e the largest up to 24 for which max|q| <= limit, then lowered until
//            max_count * sum|q| < 2^31: then no sum of spikes times weights overflows. scale = 2^-e.
//            w = sum over `replicate` copies in f64, in order, where a connection sees its source several times.
// Shapes     master [replicate][tap][cin][cout] f32;  scale [cout rounded up to 64] f32
//            packed, K = taps * ceil(cin/32) steps rounded up to even, 16 bytes a lane (q = 256*hi + lo, both i8):
//              16 bits  [64 cout][K step][8 cout: 8][lane]{hi b0, hi b1, lo b0, lo b1}
//              8 bits   [64 cout][K step][16 cout: 4][lane]{b0, b1 of the first 8, b0, b1 of the second}
//              b0, b1 are the operand of mma m16n8k32: byte b of register r of lane 4*g + j is output channel g of the 8 and input
//              channel 8*b + 2*j + r of the 32 (for counts of a pool 16*r + 4*j + b): the order that spike_conv.cu gives A
//            transposed, for the data gradient (conv_data_gradient.cu), N = cin and K = (tap, cout), bf16 pairs of mma m16n8k16:
//              [64 cin][tap][32 cout][16 cout: 2][16 cin: 4][lane]{b0, b1 of the first 8 cin, b0, b1 of the second}
//              half h of register r of lane 4*g + j is input channel g of the 8 and output channel 8*r + 2*j + h of the 16
//            rounded, for the forward pass of an ANN (conv_forward.cu): the same with cin and cout in each other's place
//            What lies behind the last channel or step is zero.
// Units      weight = q * scale; sums of spike_conv.cu are in units of scale
// Launch     one launch each for all connections: a table of jobs, each with the first block of its own
//            quantize_weights: 32 output channels a block of 512 (16 threads a channel), grid sum of 2*ceil(cout/64)
//            transpose_weights: 64 cin and 32 cout of a tap a block of 256, grid sum of ceil(cin/64) * taps * ceil(cout/32)
//            round_weights: 64 cout and 32 cin of a tap a block of 256, grid sum of ceil(cout/64) * taps * ceil(cin/32)
// Traffic    quantize reads 4 bytes a weight three times (twice from L2), writes 2 or 1; transposed and rounded read 4, write 2:
//            memory-bound
// Exactness  bit-equal to QuantizedWeights::quantize of src/ops/spike_conv/mod.rs: maxima and integer sums have no order
// Tests      tests/spike_conv_weights_cuda.rs

#include "include/device.cuh"

// One connection, field for field `WeightJob` in src/ops/spike_conv/cuda_weights.rs.
struct WeightJob {
    const float* master;
    uint4* packed;
    float* scale;
    uint4* transposed;
    int taps, cin, cout;
    int replicate;          // copies of the source that the connection sees
    int bits;               // 16 or 8
    int max_count;          // largest value of an input: the area of the pool
    int of_counts;          // whether the source is counts of a pool
    int first_block;        // of quantize_weights, or of round_weights
    int first_transposed;   // block of transpose_weights
    int copies_stride;      // elements from copy to copy: taps * cin * cout
};
static_assert(sizeof(WeightJob) == 72, "WeightJob is one layout on both sides");

constexpr int CHANNELS = 32;                         // output channels of a block of quantize_weights
constexpr int LANES = 16;                            // threads of a channel there
constexpr int LIMIT_16 = (1 << 14) - 1;
constexpr int LIMIT_8 = 127;
constexpr int LEAST_EXPONENT = -125;                 // so that 2^e and 2^-e are normal numbers

// The job that block `block` belongs to: the last one whose first block is not behind it.
template <class First>
__device__ __forceinline__ int find_job(int jobs, int block, First first) {
    int low = 0, high = jobs;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        if (first(middle) <= block) low = middle;
        else high = middle;
    }
    return low;
}

// Weight of row (tap * cin + input channel) and output channel o.
__device__ __forceinline__ float weight_at(const WeightJob& job, int row, int o) {
    const float* from = job.master + (size_t)row * job.cout + o;
    if (job.replicate == 1) return __ldg(from);
    double sum = 0.0;
    for (int copy = 0; copy < job.replicate; ++copy) sum += (double)__ldg(from + (size_t)copy * job.copies_stride);
    return (float)sum;
}

// Visits every LANES-th weight of output channel o, from row `first` on.
template <class Visit>
__device__ __forceinline__ void for_each_weight(const WeightJob& job, int first, int o, Visit visit) {
    const int rows = job.taps * job.cin;
    if (job.replicate > 1) {
        for (int row = first; row < rows; row += LANES) visit(weight_at(job, row, o));
        return;
    }
    const float* from = job.master + (size_t)first * job.cout + o;
    const size_t pitch = (size_t)LANES * job.cout;
#pragma unroll 4
    for (int row = first; row < rows; row += LANES, from += pitch) visit(__ldg(from));
}

__device__ __forceinline__ float power_of_two(int e) { return __int_as_float((e + 127) << 23); }

__device__ __forceinline__ int quantized(float weight, float up) { return (int)rintf(weight * up); }

// Largest e <= 24 for which largest * 2^e, rounded, is at most the limit; scaling by 2 is exact in f64.
__device__ __forceinline__ int largest_exponent(float largest, int limit) {
    int e = 24;
    double scaled = (double)largest * 16777216.0;
    while (e > LEAST_EXPONENT && !(rint(scaled) <= (double)limit)) {
        --e;
        scaled *= 0.5;
    }
    return e;
}

// One register of the operand B: a byte of four weights, high and low.
struct Halves {
    uint32_t hi, lo;
};

// Weights of output channel o for lane j and register r, in the order of the header; `first` is the first row of the 32 channels.
__device__ __forceinline__ Halves pack_register(const WeightJob& job, int first, int channels, int o, int j, int r, float up) {
    Halves packed = {};
#pragma unroll
    for (int b = 0; b < 4; ++b) {
        const int channel = job.of_counts ? 16 * r + 4 * j + b : 8 * b + 2 * j + r;
        if (channel >= channels) continue;
        const int q = quantized(weight_at(job, first + channel, o), up);
        const int lo = (int)(signed char)(q & 255);
        packed.lo |= (uint32_t)(lo & 255) << 8 * b;
        packed.hi |= (uint32_t)((q - lo) >> 8 & 255) << 8 * b;
    }
    return packed;
}

extern "C" __global__ void __launch_bounds__(512)
quantize_weights(const WeightJob* __restrict__ jobs,  // [count]
                 int count) {
    SHARED(float, largest_of_lane, LANES * CHANNELS);
    SHARED(unsigned, total, CHANNELS);                // sum of |q|; no more than 2^16 rows of at most 2^15 each
    SHARED(int, exponent, CHANNELS);
    SHARED(int, too_large, 1);
    const WeightJob& job = jobs[find_job(count, blockIdx.x, [&](int index) { return jobs[index].first_block; })];
    const int first = (blockIdx.x - job.first_block) * CHANNELS;
    const int column = threadIdx.x % CHANNELS;
    const int first_row = threadIdx.x / CHANNELS;
    const int o = first + column;

    float largest = 0.0f;
    if (o < job.cout) for_each_weight(job, first_row, o, [&](float weight) { largest = fmaxf(largest, fabsf(weight)); });
    largest_of_lane[threadIdx.x] = largest;
    __syncthreads();
    if (threadIdx.x < CHANNELS) {
#pragma unroll
        for (int lane = 1; lane < LANES; ++lane) largest = fmaxf(largest, largest_of_lane[lane * CHANNELS + threadIdx.x]);
        exponent[threadIdx.x] = largest_exponent(largest, job.bits == 8 ? LIMIT_8 : LIMIT_16);
    }
    for (;;) {                                        // the same way for the whole block
        if (threadIdx.x < CHANNELS) total[threadIdx.x] = 0;
        if (threadIdx.x == 0) too_large[0] = 0;
        __syncthreads();
        if (o < job.cout) {
            const float up = power_of_two(exponent[column]);
            unsigned sum = 0;
            for_each_weight(job, first_row, o, [&](float weight) {
                const int q = quantized(weight, up);
                sum += (unsigned)(q < 0 ? -q : q);
            });
            atomicAdd(&total[column], sum);
        }
        __syncthreads();
        if (threadIdx.x < CHANNELS && (long long)total[threadIdx.x] * job.max_count > 0x7fffffffLL && exponent[threadIdx.x] > LEAST_EXPONENT) {
            --exponent[threadIdx.x];
            atomicExch(&too_large[0], 1);
        }
        __syncthreads();
        const bool fits = too_large[0] == 0;
        __syncthreads();                              // before the next round sets it again
        if (fits) break;
    }
    if (threadIdx.x < CHANNELS) job.scale[first + threadIdx.x] = power_of_two(-exponent[threadIdx.x]);

    const int words = (job.cin + 31) / 32;
    const int steps = (job.taps * words + 1) / 2 * 2;
    const int tile = first / 64;
    for (int piece = threadIdx.x; piece < steps * 128; piece += LANES * CHANNELS) {
        const int step = piece / 128;
        const int of_tile = first % 64 / 8 + piece / 32 % 4;       // which 8 of the 64 output channels
        const int lane = piece % 32;
        const int channel = tile * 64 + of_tile * 8 + lane / 4;
        const int tap = step / words;
        const int of_tap = step % words * 32;                      // the first input channel
        const int channels = tap < job.taps && channel < job.cout ? job.cin - of_tap : 0;
        const float up = power_of_two(exponent[channel - first]);
        const Halves b0 = pack_register(job, tap * job.cin + of_tap, channels, channel, lane % 4, 0, up);
        const Halves b1 = pack_register(job, tap * job.cin + of_tap, channels, channel, lane % 4, 1, up);
        const size_t of_step = (size_t)tile * steps + step;
        if (job.bits == 16) {
            job.packed[(of_step * 8 + of_tile) * 32 + lane] = make_uint4(b0.hi, b1.hi, b0.lo, b1.lo);
        } else {
            uint2* halves = reinterpret_cast<uint2*>(job.packed);
            halves[((of_step * 4 + of_tile / 2) * 32 + lane) * 2 + of_tile % 2] = make_uint2(b0.lo, b1.lo);
        }
    }
}

// This thread's share of piece `piece`: 64 channels N and 32 channels K of a tap as bf16. `weight(tap, n, k)` is asked for channels that
// exist.
template <class Weight>
__device__ __forceinline__ void pack_piece(uint4* packed, const WeightJob& job, int piece, int columns, int depth, Weight weight) {
    const int chunks = (depth + 31) / 32;
    const int tap = piece / chunks % job.taps;
    const int lane = threadIdx.x % 32;
    const int channel = piece / (chunks * job.taps) * 64 + threadIdx.x / 32 % 4 * 16 + lane / 4;
    const int first = piece % chunks * 32 + threadIdx.x / 128 * 16 + lane % 4 * 2;
    auto pair = [&](int n, int k) {
        float of[2];
#pragma unroll
        for (int h = 0; h < 2; ++h) of[h] = n < columns && k + h < depth ? weight(tap, n, k + h) : 0.0f;
        return pack_bf16(of[0], of[1]);
    };
    packed[(size_t)piece * 256 + threadIdx.x] =
        make_uint4(pair(channel, first), pair(channel, first + 8), pair(channel + 8, first), pair(channel + 8, first + 8));
}

extern "C" __global__ void __launch_bounds__(256)
transpose_weights(const WeightJob* __restrict__ jobs, // [count]
                  int count) {
    const WeightJob& job = jobs[find_job(count, blockIdx.x, [&](int index) { return jobs[index].first_transposed; })];
    auto weight = [&](int tap, int c, int o) { return weight_at(job, tap * job.cin + c, o); };
    pack_piece(job.transposed, job, blockIdx.x - job.first_transposed, job.cin, job.cout, weight);
}

// The bound on blocks keeps the compiler from aiming at more of them, for which it would spill.
extern "C" __global__ void __launch_bounds__(256, 4)
round_weights(const WeightJob* __restrict__ jobs,     // [count]
              int count) {
    const WeightJob& job = jobs[find_job(count, blockIdx.x, [&](int index) { return jobs[index].first_block; })];
    auto weight = [&](int tap, int o, int c) { return weight_at(job, tap * job.cin + c, o); };
    pack_piece(job.packed, job, blockIdx.x - job.first_block, job.cout, job.cin, weight);
}

KERNEL(quantize_weights, 512)
KERNEL(transpose_weights, 256)
KERNEL(round_weights, 256)
