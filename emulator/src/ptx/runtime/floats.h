// floats.h: floating point and conversions (PTX ISA 9.7.3, 9.7.9).
#pragma once
#include "ptx/runtime/bits.h"

namespace ptx {

// ---- 9.7.3 Floating point: one rounding to nearest even, subnormals kept (no .ftz)

#define PTX_X(name, T, FMA, SQRT)                                                                                                     \
    inline T add_rn_##name(T a, T b) { return canonical(a + b); }                                                                     \
    inline T sub_rn_##name(T a, T b) { return canonical(a - b); }                                                                     \
    inline T mul_rn_##name(T a, T b) { return canonical(a * b); }                                                                     \
    inline T div_rn_##name(T a, T b) { return canonical(a / b); }                                                                     \
    inline T fma_rn_##name(T a, T b, T c) { return canonical(FMA(a, b, c)); }                                                         \
    inline T rcp_rn_##name(T a) { return canonical(T(1) / a); }                                                                       \
    inline T sqrt_rn_##name(T a) { return canonical(SQRT(a)); }                                                                       \
    inline bool setp_eq_##name(T a, T b) { return a == b; }               /* ordered: false where one is no number */                 \
    inline bool setp_ne_##name(T a, T b) { return a < b || a > b; }                                                                   \
    inline bool setp_lt_##name(T a, T b) { return a < b; }                                                                            \
    inline bool setp_le_##name(T a, T b) { return a <= b; }                                                                           \
    inline bool setp_gt_##name(T a, T b) { return a > b; }                                                                            \
    inline bool setp_ge_##name(T a, T b) { return a >= b; }                                                                           \
    inline bool setp_nan_##name(T a, T b) { return a != a || b != b; }                                                                \
    inline bool setp_num_##name(T a, T b) { return a == a && b == b; }                                                                \
    inline bool setp_equ_##name(T a, T b) { return setp_nan_##name(a, b) || a == b; }     /* unordered: true there */                 \
    inline bool setp_neu_##name(T a, T b) { return !(a == b); }                                                                       \
    inline bool setp_ltu_##name(T a, T b) { return !(a >= b); }                                                                       \
    inline bool setp_leu_##name(T a, T b) { return !(a > b); }                                                                        \
    inline bool setp_gtu_##name(T a, T b) { return !(a <= b); }                                                                       \
    inline bool setp_geu_##name(T a, T b) { return !(a < b); }
PTX_X(f32, float, __builtin_fmaf, __builtin_sqrtf)
PTX_X(f64, double, __builtin_fma, __builtin_sqrt)
#undef PTX_X

inline float abs_f32(float a) { return f32_of(bits(a) & 0x7fffffffu); }
inline float neg_f32(float a) { return f32_of(bits(a) ^ 0x80000000u); }
inline double abs_f64(double a) { return f64_of(bits(a) & 0x7fffffffffffffffull); }
inline double neg_f64(double a) { return f64_of(bits(a) ^ 0x8000000000000000ull); }

// 9.7.3.11, 9.7.3.12: the other operand where one is no number; +0 is above -0.
template <typename T>
inline T max_of(T a, T b) {
    if (a != a) return canonical(b);
    if (b != b) return canonical(a);
    if (a == b) return (bits(a) >> (8 * sizeof(T) - 1)) != 0 ? b : a;
    return a < b ? b : a;
}
template <typename T>
inline T min_of(T a, T b) {
    if (a != a) return canonical(b);
    if (b != b) return canonical(a);
    if (a == b) return (bits(a) >> (8 * sizeof(T) - 1)) != 0 ? a : b;
    return b < a ? b : a;
}
inline float max_f32(float a, float b) { return max_of(a, b); }
inline float min_f32(float a, float b) { return min_of(a, b); }
inline double max_f64(double a, double b) { return max_of(a, b); }
inline double min_f64(double a, double b) { return min_of(a, b); }

// 9.7.3.14: of the operand's upper 32 bits, subnormals as zeros; the lower 32 bits of the result are zeros. How near it is no document
// says; -DPTX_RCP_OFF=N adds N units of the last of the 20 bits, which nothing may depend on.
#ifndef PTX_RCP_OFF
#define PTX_RCP_OFF 0
#endif
inline double rcp_approx_ftz_f64(double a) {
    if (a != a) return f64_of(0x7fffffff00000000ull);
    uint64_t upper = bits(a) & 0xffffffff00000000ull;
    if ((upper >> 52 & 0x7ff) == 0) upper &= 0x8000000000000000ull;
    uint64_t result = bits(1.0 / f64_of(upper)) & 0xffffffff00000000ull;
    if ((result >> 52 & 0x7ff) == 0) return f64_of(result & 0x8000000000000000ull);
    if ((result >> 52 & 0x7ff) != 0x7ff) result += static_cast<uint64_t>(static_cast<int64_t>(PTX_RCP_OFF)) << 32;
    return f64_of(result);
}

// ---- 9.7.9 Conversion

template <typename To, typename From>
inline To cvt(From a) { return static_cast<To>(a); }                  // integers: cut or extended by a's sign; f32 to f64: exact
template <typename To, typename From>
inline To cvt_rn(From a) { return canonical(static_cast<To>(a)); }    // the host rounds to nearest even
inline float cvt_rni_f32_f32(float a) { return canonical(__builtin_rintf(a)); }
inline double cvt_rni_f64_f64(double a) { return canonical(__builtin_rint(a)); }

// 9.7.9.21: out of range goes to the nearest end, and a NaN to 0.
inline int32_t cvt_rzi_s32_f32(float a) {
    if (a != a) return 0;
    if (a >= 2147483648.0f) return INT32_MAX;
    return a < -2147483648.0f ? INT32_MIN : static_cast<int32_t>(a);
}
inline int32_t cvt_rni_s32_f32(float a) { return cvt_rzi_s32_f32(__builtin_rintf(a)); }

// 9.7.9.21: a NaN becomes 0x7fff. Value and remainder in integers: bf16 is the upper half of an f32.
inline uint16_t cvt_rn_bf16_f32(float a) {
    if (a != a) return 0x7fff;
    const uint32_t whole = bits(a), kept = whole >> 16, rest = whole & 0xffff;
    return static_cast<uint16_t>(kept + (rest > 0x8000 || (rest == 0x8000 && (kept & 1) != 0) ? 1 : 0));
}
// The first source goes into the upper half.
inline uint32_t cvt_rn_bf16x2_f32(float a, float b) { return static_cast<uint32_t>(cvt_rn_bf16_f32(a)) << 16 | cvt_rn_bf16_f32(b); }

// 9.7.4.3: rounded to f32 first, which is the same where the result is a bf16; the kernels promise that.
inline uint32_t fma_rn_bf16x2(uint32_t a, uint32_t b, uint32_t c) {
    const uint32_t upper = 0xffff0000u;
    const float low = __builtin_fmaf(f32_of(a << 16), f32_of(b << 16), f32_of(c << 16));
    return cvt_rn_bf16x2_f32(__builtin_fmaf(f32_of(a & upper), f32_of(b & upper), f32_of(c & upper)), low);
}

inline uint64_t cvta_to_global_u64(uint64_t a) { return a; }          // generic addresses of global memory are its addresses
inline uint64_t cvta_global_u64(uint64_t a) { return a; }

}  // namespace ptx
