// matrix.cpp: mma and ldmatrix over the records of a whole warp. The layout of fragments is in device.cuh.
//
// Integer products are exact. bf16 products are exact in f32 and added in f32, k ascending, then added to c: a fixed order,
// but not the one of a tensor core, whose rounding no document gives.
#include "host/matrix.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include <algorithm>

#include "block.h"
#include "cuda_codes.h"

namespace standin {

namespace {

constexpr uint32_t ALL = 0xffffffffu;

void need_whole_warp(uint32_t mask, const char* what) {
    if (mask != ALL) runner->fail(CUDA_LAUNCH_FAILED, text("%s needs all 32 lanes of a warp, and this one has %08x", what, mask));
}

struct MatrixLoad { uint32_t* r; const unsigned char* row; };

// Register i of lane l: elements 2*(l%4) and the next of row l/4 of matrix i, whose rows lanes 8i..8i+7 gave.
void exchange_load(void* const* records, uint32_t mask) {
    need_whole_warp(mask, "load_matrix");
    for (int matrix = 0; matrix < 4; ++matrix) {
        for (int lane = 0; lane < 32; ++lane) {
            const MatrixLoad& from = *static_cast<MatrixLoad*>(records[matrix * 8 + lane / 4]);
            memcpy(static_cast<MatrixLoad*>(records[lane])->r + matrix, from.row + lane % 4 * 4, 4);
        }
    }
}

// The same with rows and columns changed: elements l/4 of rows 2*(l%4) and the next.
void exchange_load_transposed(void* const* records, uint32_t mask) {
    need_whole_warp(mask, "load_matrix");
    for (int matrix = 0; matrix < 4; ++matrix) {
        for (int lane = 0; lane < 32; ++lane) {
            uint16_t pair[2];
            for (int i = 0; i < 2; ++i) {
                const MatrixLoad& from = *static_cast<MatrixLoad*>(records[matrix * 8 + lane % 4 * 2 + i]);
                memcpy(&pair[i], from.row + lane / 4 * 2, 2);
            }
            memcpy(static_cast<MatrixLoad*>(records[lane])->r + matrix, pair, 4);
        }
    }
}

template <typename C>
struct Product { C* c; const uint32_t *a, *b; int m, n; };

// Operands of one product for the host: a by rows, b so that the eight columns lie side by side.
// Integers: pairs of neighbours along k, 16 bits each, in one word. Most spikes are zeros, so each row lists where its pairs
// are not: a loop over the list is faster than a test of each, which no processor predicts.
struct IntegerA {
    uint32_t pairs[16][16];
    unsigned char used[16][16], used_count[16];
};
struct alignas(16) IntegerB { uint32_t pairs[16][8]; };
struct FloatA { float values[16][16]; };
struct alignas(16) FloatB { float values[16][8]; };

void gather(IntegerA& to, void* const* records, int i) {
    for (int lane = 0; lane < 32; ++lane) {
        const uint32_t* a = static_cast<Product<int>*>(records[lane])->a + 4 * i;
        for (int part = 0; part < 4; ++part) {
            uint32_t* pairs = &to.pairs[lane / 4 + part % 2 * 8][lane % 4 * 2 + part / 2 * 8];
            pairs[0] = (a[part] & 0xff) | (a[part] & 0xff00) << 8;
            pairs[1] = (a[part] >> 16 & 0xff) | (a[part] >> 24) << 16;
        }
    }
    for (int row = 0; row < 16; ++row) {
        unsigned count = 0;
        for (int pair = 0; pair < 16; ++pair) {
            to.used[row][count] = static_cast<unsigned char>(pair);
            count += to.pairs[row][pair] != 0;
        }
        to.used_count[row] = static_cast<unsigned char>(count);
    }
}

uint32_t signed_pair(uint32_t first, uint32_t second) {
    return static_cast<uint16_t>(static_cast<int8_t>(first)) | static_cast<uint32_t>(static_cast<int8_t>(second)) << 16;
}

void gather(IntegerB& to, void* const* records, int j) {
    for (int lane = 0; lane < 32; ++lane) {
        const uint32_t* b = static_cast<Product<int>*>(records[lane])->b + 2 * j;
        for (int part = 0; part < 2; ++part) {
            const int pair = lane % 4 * 2 + part * 8;
            to.pairs[pair][lane / 4] = signed_pair(b[part], b[part] >> 8);
            to.pairs[pair + 1][lane / 4] = signed_pair(b[part] >> 16, b[part] >> 24);
        }
    }
}

float low_half(uint32_t pair) { return same_bits<float>(pair << 16); }
float high_half(uint32_t pair) { return same_bits<float>(pair & 0xffff0000u); }

void gather(FloatA& to, void* const* records, int i) {
    for (int lane = 0; lane < 32; ++lane) {
        const uint32_t* a = static_cast<Product<float>*>(records[lane])->a + 4 * i;
        for (int part = 0; part < 4; ++part) {
            float* values = &to.values[lane / 4 + part % 2 * 8][lane % 4 * 2 + part / 2 * 8];
            values[0] = low_half(a[part]);
            values[1] = high_half(a[part]);
        }
    }
}

void gather(FloatB& to, void* const* records, int j) {
    for (int lane = 0; lane < 32; ++lane) {
        const uint32_t* b = static_cast<Product<float>*>(records[lane])->b + 2 * j;
        for (int part = 0; part < 2; ++part) {
            const int k = lane % 4 * 2 + part * 8;
            to.values[k][lane / 4] = low_half(b[part]);
            to.values[k + 1][lane / 4] = high_half(b[part]);
        }
    }
}

#if defined(__SSE2__)
// The processor multiplies pairs of 16 bits and adds the two products.
void multiply_row(int (&sums)[8], const IntegerA& a, int row, const IntegerB& b) {
    __m128i low = _mm_setzero_si128(), high = _mm_setzero_si128();
    for (int i = 0; i < a.used_count[row]; ++i) {
        const int pair = a.used[row][i];
        const __m128i both = _mm_set1_epi32(static_cast<int>(a.pairs[row][pair]));
        const __m128i* columns = reinterpret_cast<const __m128i*>(b.pairs[pair]);
        low = _mm_add_epi32(low, _mm_madd_epi16(both, columns[0]));
        high = _mm_add_epi32(high, _mm_madd_epi16(both, columns[1]));
    }
    memcpy(sums, &low, sizeof(low));
    memcpy(sums + 4, &high, sizeof(high));
}
#else
void multiply_row(int (&sums)[8], const IntegerA& a, int row, const IntegerB& b) {
    memset(sums, 0, sizeof(sums));
    for (int i = 0; i < a.used_count[row]; ++i) {
        const int pair = a.used[row][i];
        const int first = static_cast<int16_t>(a.pairs[row][pair]), second = static_cast<int16_t>(a.pairs[row][pair] >> 16);
        for (int column = 0; column < 8; ++column) {
            sums[column] += first * static_cast<int16_t>(b.pairs[pair][column]) + second * static_cast<int16_t>(b.pairs[pair][column] >> 16);
        }
    }
}
#endif

// Four floats for one instruction, of whatever processor.
typedef float Four __attribute__((vector_size(16)));

void multiply_row(float (&sums)[8], const FloatA& a, int row, const FloatB& b) {
    Four low = {}, high = {};
    for (int k = 0; k < 16; ++k) {
        const Four* columns = reinterpret_cast<const Four*>(b.values[k]);
        low += a.values[row][k] * columns[0];
        high += a.values[row][k] * columns[1];
    }
    memcpy(sums, &low, sizeof(low));
    memcpy(sums + 4, &high, sizeof(high));
}

template <typename C>
void scatter(void* const* records, const C (&sums)[16][8], int i, int j, int n) {
    for (int lane = 0; lane < 32; ++lane) {
        C* c = static_cast<Product<C>*>(records[lane])->c + 4 * (i * n + j);
        const int row = lane / 4, column = lane % 4 * 2;
        c[0] += sums[row][column];
        c[1] += sums[row][column + 1];
        c[2] += sums[row + 8][column];
        c[3] += sums[row + 8][column + 1];
    }
}

// All products of one meeting. Some operands a at a time are kept, so that each b is put together once for all of them.
template <typename C, typename A, typename B>
void exchange_product(void* const* records, uint32_t mask) {
    need_whole_warp(mask, "mma");
    const Product<C>& shape = *static_cast<Product<C>*>(records[0]);
    constexpr int AT_ONCE = 4;
    A a[AT_ONCE];
    B b;
    C sums[16][8];
    for (int first = 0; first < shape.m; first += AT_ONCE) {
        const int end = std::min(first + AT_ONCE, shape.m);
        for (int i = first; i < end; ++i) gather(a[i - first], records, i);
        for (int j = 0; j < shape.n; ++j) {
            gather(b, records, j);
            for (int i = first; i < end; ++i) {
                for (int row = 0; row < 16; ++row) multiply_row(sums[row], a[i - first], row, b);
                scatter(records, sums, i, j, shape.n);
            }
        }
    }
}

}  // namespace

void load_matrix(uint32_t* r, const void* row, bool transposed, const char* file, int line) {
    if (reinterpret_cast<uintptr_t>(row) & 15) {
        runner->fail(CUDA_MISALIGNED_ADDRESS, text("load_matrix at %s:%d: a row that is not aligned to 16 bytes", file, line));
    }
    if (!runner->shared.contains(row, 16)) {
        runner->fail(CUDA_ILLEGAL_ADDRESS, text("load_matrix at %s:%d: a row that is not in shared memory", file, line));
    }
    note_access(row, 16, false, {nullptr, file, line});
    MatrixLoad record{r, static_cast<const unsigned char*>(row)};
    runner->meet(ALL, transposed ? exchange_load_transposed : exchange_load, &record, "load_matrix", file, line);
}

void multiply_u8s8(int* c, const uint32_t* a, const uint32_t* b, int m, int n, const char* file, int line) {
    Product<int> record{c, a, b, m, n};
    runner->meet(ALL, exchange_product<int, IntegerA, IntegerB>, &record, "mma_u8s8", file, line);
}

void multiply_bf16(float* c, const uint32_t* a, const uint32_t* b, int m, int n, const char* file, int line) {
    Product<float> record{c, a, b, m, n};
    runner->meet(ALL, exchange_product<float, FloatA, FloatB>, &record, "mma_bf16", file, line);
}

}  // namespace standin
