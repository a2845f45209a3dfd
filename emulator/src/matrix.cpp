// matrix.cpp: mma and ldmatrix over the records of a whole warp. The layout of fragments is in device.cuh.
//
// Integer products are exact. bf16 products are exact in f32 and added in f32, k ascending, then added to c: a fixed order,
// but not the one of a tensor core, whose rounding no document gives.
#include "host/matrix.h"

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

// Pairs of neighbours along k in 16 bits, so that the compiler finds its multiply-add of pairs: a[row][pair], b[pair][column].
struct IntegerTile {
    int16_t a[16][32];
    int16_t b[16][8][2];
};

void gather_a(IntegerTile& tile, void* const* records, int i) {
    for (int lane = 0; lane < 32; ++lane) {
        const uint32_t* a = static_cast<Product<int>*>(records[lane])->a + 4 * i;
        for (int part = 0; part < 4; ++part) {
            int16_t* to = &tile.a[lane / 4 + part % 2 * 8][lane % 4 * 4 + part / 2 * 16];
            for (int byte = 0; byte < 4; ++byte) to[byte] = static_cast<uint8_t>(a[part] >> (8 * byte));
        }
    }
}

void gather_b(IntegerTile& tile, void* const* records, int j) {
    for (int lane = 0; lane < 32; ++lane) {
        const uint32_t* b = static_cast<Product<int>*>(records[lane])->b + 2 * j;
        for (int part = 0; part < 2; ++part) {
            for (int byte = 0; byte < 4; ++byte) {
                const int k = lane % 4 * 4 + part * 16 + byte;
                tile.b[k / 2][lane / 4][k % 2] = static_cast<int8_t>(b[part] >> (8 * byte));
            }
        }
    }
}

void multiply(int (&sums)[16][8], const IntegerTile& tile) {
    for (int row = 0; row < 16; ++row) {
        int sum[8] = {};
        for (int pair = 0; pair < 16; ++pair) {
            const int first = tile.a[row][2 * pair], second = tile.a[row][2 * pair + 1];
            if ((first | second) == 0) continue;     // most spikes are zeros
            for (int column = 0; column < 8; ++column) sum[column] += first * tile.b[pair][column][0] + second * tile.b[pair][column][1];
        }
        memcpy(sums[row], sum, sizeof(sum));
    }
}

struct FloatTile {
    float a[16][16];
    float b[16][8];
};

float low_half(uint32_t pair) { return same_bits<float>(pair << 16); }
float high_half(uint32_t pair) { return same_bits<float>(pair & 0xffff0000u); }

void gather_a(FloatTile& tile, void* const* records, int i) {
    for (int lane = 0; lane < 32; ++lane) {
        const uint32_t* a = static_cast<Product<float>*>(records[lane])->a + 4 * i;
        for (int part = 0; part < 4; ++part) {
            float* to = &tile.a[lane / 4 + part % 2 * 8][lane % 4 * 2 + part / 2 * 8];
            to[0] = low_half(a[part]);
            to[1] = high_half(a[part]);
        }
    }
}

void gather_b(FloatTile& tile, void* const* records, int j) {
    for (int lane = 0; lane < 32; ++lane) {
        const uint32_t* b = static_cast<Product<float>*>(records[lane])->b + 2 * j;
        for (int part = 0; part < 2; ++part) {
            tile.b[lane % 4 * 2 + part * 8][lane / 4] = low_half(b[part]);
            tile.b[lane % 4 * 2 + part * 8 + 1][lane / 4] = high_half(b[part]);
        }
    }
}

void multiply(float (&sums)[16][8], const FloatTile& tile) {
    for (int row = 0; row < 16; ++row) {
        float sum[8] = {};
        for (int k = 0; k < 16; ++k) {
            for (int column = 0; column < 8; ++column) sum[column] += tile.a[row][k] * tile.b[k][column];
        }
        memcpy(sums[row], sum, sizeof(sum));
    }
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

template <typename C, typename Tile>
void exchange_product(void* const* records, uint32_t mask) {
    need_whole_warp(mask, "mma");
    const Product<C>& shape = *static_cast<Product<C>*>(records[0]);
    Tile tile;
    C sums[16][8];
    for (int i = 0; i < shape.m; ++i) {
        gather_a(tile, records, i);
        for (int j = 0; j < shape.n; ++j) {
            gather_b(tile, records, j);
            multiply(sums, tile);
            scatter(records, sums, i, j, shape.n);
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
    MatrixLoad record{r, static_cast<const unsigned char*>(row)};
    runner->meet(ALL, transposed ? exchange_load_transposed : exchange_load, &record, "load_matrix", file, line);
}

void multiply_u8s8(int* c, const uint32_t* a, const uint32_t* b, int m, int n, const char* file, int line) {
    Product<int> record{c, a, b, m, n};
    runner->meet(ALL, exchange_product<int, IntegerTile>, &record, "mma_u8s8", file, line);
}

void multiply_bf16(float* c, const uint32_t* a, const uint32_t* b, int m, int n, const char* file, int line) {
    Product<float> record{c, a, b, m, n};
    runner->meet(ALL, exchange_product<float, FloatTile>, &record, "mma_bf16", file, line);
}

}  // namespace standin
