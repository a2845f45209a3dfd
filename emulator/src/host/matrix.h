// matrix.h: tensor-core products and the loads of their operands, as meetings of a warp.
#pragma once
#include "host/threads.h"

namespace standin {

STANDIN_API void load_matrix(uint32_t* r, const void* row, bool transposed, const char* file, int line);
// m x n products c[i][j] += a[i] * b[j], the operands as mma_*_tile in device.cuh has them.
STANDIN_API void multiply_u8s8(int* c, const uint32_t* a, const uint32_t* b, int m, int n, const char* file, int line);
STANDIN_API void multiply_bf16(float* c, const uint32_t* a, const uint32_t* b, int m, int n, const char* file, int line);

}  // namespace standin

inline void load_matrix_x4(uint32_t (&r)[4], const void* row, STANDIN_HERE) { standin::load_matrix(r, row, false, file, line); }
inline void load_matrix_x4_transposed(uint32_t (&r)[4], const void* row, STANDIN_HERE) { standin::load_matrix(r, row, true, file, line); }

inline void mma_u8s8(int (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, STANDIN_HERE) {
    const uint32_t b[2] = {b0, b1};
    standin::multiply_u8s8(c, a, b, 1, 1, file, line);
}
inline void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, STANDIN_HERE) {
    const uint32_t b[2] = {b0, b1};
    standin::multiply_bf16(c, a, b, 1, 1, file, line);
}
template <int M, int N>
inline void mma_u8s8_tile(int (&c)[M][N][4], const uint32_t (&a)[M][4], const uint32_t (&b)[N][2], STANDIN_HERE) {
    standin::multiply_u8s8(&c[0][0][0], &a[0][0], &b[0][0], M, N, file, line);
}
template <int M, int N>
inline void mma_bf16_tile(float (&c)[M][N][4], const uint32_t (&a)[M][4], const uint32_t (&b)[N][2], STANDIN_HERE) {
    standin::multiply_bf16(&c[0][0][0], &a[0][0], &b[0][0], M, N, file, line);
}

// To nearest, ties to even; a NaN becomes 0x7fff, as on the device.
inline uint16_t float_to_bf16(float value) {
    if (value != value) return 0x7fff;
    const uint32_t bits = __float_as_uint(value);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline uint32_t pack_bf16(float low, float high) { return (uint32_t)float_to_bf16(high) << 16 | float_to_bf16(low); }
// Rounded to f32 first: device.cuh says where that is the same.
inline uint32_t fma_bf16x2(uint32_t a, uint32_t b, uint32_t c) {
    const float low = fmaf(__uint_as_float(a << 16), __uint_as_float(b << 16), __uint_as_float(c << 16));
    const uint32_t mask = 0xffff0000u;
    return pack_bf16(low, fmaf(__uint_as_float(a & mask), __uint_as_float(b & mask), __uint_as_float(c & mask)));
}
