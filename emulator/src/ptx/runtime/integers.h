// integers.h: integers, bits and shifts (PTX ISA 9.7.1, 9.7.2, 9.7.6, 9.7.8): what each instruction does.
#pragma once
#include "ptx/runtime/bits.h"

namespace ptx {

// ---- 9.7.1 Integer arithmetic: modulo 2^N

#define PTX_INTEGERS(X) X(s16, int16_t, uint16_t, int32_t) X(u16, uint16_t, uint16_t, uint32_t) X(s32, int32_t, uint32_t, int64_t) \
    X(u32, uint32_t, uint32_t, uint64_t) X(s64, int64_t, uint64_t, __int128) X(u64, uint64_t, uint64_t, unsigned __int128)

[[noreturn]] inline void divided_by_zero(const char* what) { standin::fail_launch("%s by zero", what); }

#define PTX_X(name, T, U, W)                                                                                                          \
    inline T add_##name(T a, T b) { return static_cast<T>(static_cast<U>(a) + static_cast<U>(b)); }                                   \
    inline T sub_##name(T a, T b) { return static_cast<T>(static_cast<U>(a) - static_cast<U>(b)); }                                   \
    inline T mul_lo_##name(T a, T b) { return static_cast<T>(static_cast<W>(a) * b); }                                                \
    inline T mul_hi_##name(T a, T b) { return static_cast<T>((static_cast<W>(a) * b) >> (8 * sizeof(T))); }                           \
    inline T mad_lo_##name(T a, T b, T c) { return add_##name(mul_lo_##name(a, b), c); }                                              \
    inline T mad_hi_##name(T a, T b, T c) { return add_##name(mul_hi_##name(a, b), c); }                                              \
    inline T div_##name(T a, T b) {                                                                                                   \
        if (b == 0) divided_by_zero("div." #name);                                                                                    \
        return static_cast<T>(static_cast<W>(a) / static_cast<W>(b));                                                                 \
    }                                                                                                                                 \
    inline T rem_##name(T a, T b) {                                                                                                   \
        if (b == 0) divided_by_zero("rem." #name);                                                                                    \
        return static_cast<T>(static_cast<W>(a) % static_cast<W>(b));                                                                 \
    }                                                                                                                                 \
    inline T min_##name(T a, T b) { return b < a ? b : a; }                                                                           \
    inline T max_##name(T a, T b) { return a < b ? b : a; }
PTX_INTEGERS(PTX_X)
#undef PTX_X

inline int32_t mul_wide_s16(int16_t a, int16_t b) { return static_cast<int32_t>(a) * b; }
inline uint32_t mul_wide_u16(uint16_t a, uint16_t b) { return static_cast<uint32_t>(a) * b; }
inline int64_t mul_wide_s32(int32_t a, int32_t b) { return static_cast<int64_t>(a) * b; }
inline uint64_t mul_wide_u32(uint32_t a, uint32_t b) { return static_cast<uint64_t>(a) * b; }
inline int64_t mad_wide_s32(int32_t a, int32_t b, int64_t c) { return add_s64(mul_wide_s32(a, b), c); }
inline uint64_t mad_wide_u32(uint32_t a, uint32_t b, uint64_t c) { return mul_wide_u32(a, b) + c; }

inline int16_t abs_s16(int16_t a) { return a < 0 ? sub_s16(0, a) : a; }
inline int16_t neg_s16(int16_t a) { return sub_s16(0, a); }
inline int32_t abs_s32(int32_t a) { return a < 0 ? sub_s32(0, a) : a; }
inline int64_t abs_s64(int64_t a) { return a < 0 ? sub_s64(0, a) : a; }
inline int32_t neg_s32(int32_t a) { return sub_s32(0, a); }
inline int64_t neg_s64(int64_t a) { return sub_s64(0, a); }
inline uint32_t clz_b32(uint32_t a) { return a == 0 ? 32 : static_cast<uint32_t>(__builtin_clz(a)); }
inline uint32_t clz_b64(uint64_t a) { return a == 0 ? 64 : static_cast<uint32_t>(__builtin_clzll(a)); }
inline uint32_t popc_b32(uint32_t a) { return static_cast<uint32_t>(__builtin_popcount(a)); }
inline uint32_t popc_b64(uint64_t a) { return static_cast<uint32_t>(__builtin_popcountll(a)); }

// 9.7.1.20: the field of a goes into b at `position`; what does not fit is left out.
inline uint32_t bfi_b32(uint32_t a, uint32_t b, uint32_t position, uint32_t length) {
    uint32_t result = b;
    for (uint32_t i = 0; i < (length & 0xff) && (position & 0xff) + i <= 31; ++i) {
        const uint32_t at = (position & 0xff) + i;
        result = (result & ~(1u << at)) | (a >> i & 1u) << at;
    }
    return result;
}

// ---- 9.7.2 Extended precision: the carry flag CC.CF

inline int64_t add_cc_s64(int64_t a, int64_t b, bool& carry) {
    const unsigned __int128 sum = static_cast<unsigned __int128>(static_cast<uint64_t>(a)) + static_cast<uint64_t>(b);
    carry = (sum >> 64) != 0;
    return static_cast<int64_t>(static_cast<uint64_t>(sum));
}
inline int64_t addc_cc_s64(int64_t a, int64_t b, bool& carry) {
    const unsigned __int128 sum = static_cast<unsigned __int128>(static_cast<uint64_t>(a)) + static_cast<uint64_t>(b) + carry;
    carry = (sum >> 64) != 0;
    return static_cast<int64_t>(static_cast<uint64_t>(sum));
}
inline int64_t addc_s64(int64_t a, int64_t b, bool& carry) { bool unused = carry; return addc_cc_s64(a, b, unused); }
inline int64_t sub_cc_s64(int64_t a, int64_t b, bool& carry) {                        // the flag is the borrow
    carry = static_cast<uint64_t>(a) < static_cast<uint64_t>(b);
    return sub_s64(a, b);
}
inline int64_t subc_cc_s64(int64_t a, int64_t b, bool& carry) {
    const unsigned __int128 taken = static_cast<unsigned __int128>(static_cast<uint64_t>(b)) + carry;
    carry = static_cast<uint64_t>(a) < taken;
    return static_cast<int64_t>(static_cast<uint64_t>(a) - static_cast<uint64_t>(taken));
}

// ---- 9.7.6 Comparison and selection

#define PTX_X(name, T, U, W)                                                                                                          \
    inline bool setp_eq_##name(T a, T b) { return a == b; }                                                                           \
    inline bool setp_ne_##name(T a, T b) { return a != b; }                                                                           \
    inline bool setp_lt_##name(T a, T b) { return a < b; }                                                                            \
    inline bool setp_le_##name(T a, T b) { return a <= b; }                                                                           \
    inline bool setp_gt_##name(T a, T b) { return a > b; }                                                                            \
    inline bool setp_ge_##name(T a, T b) { return a >= b; }
PTX_INTEGERS(PTX_X)
#undef PTX_X
inline bool setp_eq_b16(uint16_t a, uint16_t b) { return a == b; }
inline bool setp_eq_b32(uint32_t a, uint32_t b) { return a == b; }
inline bool setp_eq_b64(uint64_t a, uint64_t b) { return a == b; }
inline bool setp_ne_b16(uint16_t a, uint16_t b) { return a != b; }
inline bool setp_ne_b32(uint32_t a, uint32_t b) { return a != b; }
inline bool setp_ne_b64(uint64_t a, uint64_t b) { return a != b; }
template <typename T>
inline T selp(T a, T b, bool first) { return first ? a : b; }

// ---- 9.7.8 Logic and shift: amounts above N count as N

#define PTX_X(BITS, T)                                                                                                                \
    inline T and_b##BITS(T a, T b) { return static_cast<T>(a & b); }                                                                  \
    inline T or_b##BITS(T a, T b) { return static_cast<T>(a | b); }                                                                   \
    inline T xor_b##BITS(T a, T b) { return static_cast<T>(a ^ b); }                                                                  \
    inline T not_b##BITS(T a) { return static_cast<T>(~a); }                                                                          \
    inline T shl_b##BITS(T a, uint32_t n) { return n >= BITS ? T(0) : static_cast<T>(a << n); }                                       \
    inline T shr_b##BITS(T a, uint32_t n) { return n >= BITS ? T(0) : static_cast<T>(a >> n); }                                       \
    inline T shr_u##BITS(T a, uint32_t n) { return n >= BITS ? T(0) : static_cast<T>(a >> n); }                                       \
    inline int##BITS##_t shr_s##BITS(int##BITS##_t a, uint32_t n) { return static_cast<int##BITS##_t>(a >> (n >= BITS ? BITS - 1 : n)); }
PTX_X(16, uint16_t)
PTX_X(32, uint32_t)
PTX_X(64, uint64_t)
#undef PTX_X
inline bool and_pred(bool a, bool b) { return a && b; }
inline bool or_pred(bool a, bool b) { return a || b; }
inline bool xor_pred(bool a, bool b) { return a != b; }
inline bool not_pred(bool a) { return !a; }

// 9.7.8.8: the pair {b, a}, b above.
inline uint32_t shf_l(uint32_t a, uint32_t b, uint32_t n) { return static_cast<uint32_t>(((static_cast<uint64_t>(b) << 32 | a) << n) >> 32); }
inline uint32_t shf_r(uint32_t a, uint32_t b, uint32_t n) { return static_cast<uint32_t>((static_cast<uint64_t>(b) << 32 | a) >> n); }
inline uint32_t shf_l_wrap_b32(uint32_t a, uint32_t b, uint32_t c) { return shf_l(a, b, c & 31); }
inline uint32_t shf_r_wrap_b32(uint32_t a, uint32_t b, uint32_t c) { return shf_r(a, b, c & 31); }
inline uint32_t shf_l_clamp_b32(uint32_t a, uint32_t b, uint32_t c) { return shf_l(a, b, c > 32 ? 32 : c); }
inline uint32_t shf_r_clamp_b32(uint32_t a, uint32_t b, uint32_t c) { return shf_r(a, b, c > 32 ? 32 : c); }

// 9.7.9.7: bytes 0..3 are those of a, 4..7 of b; bit 3 of a selector spreads the byte's sign.
inline uint32_t prmt_b32(uint32_t a, uint32_t b, uint32_t c) {
    const uint64_t source = static_cast<uint64_t>(b) << 32 | a;
    uint32_t result = 0;
    for (uint32_t i = 0; i < 4; ++i) {
        const uint32_t select = c >> (4 * i) & 15, byte = source >> (8 * (select & 7)) & 0xff;
        result |= ((select & 8) != 0 ? (byte >> 7 != 0 ? 0xffu : 0u) : byte) << (8 * i);
    }
    return result;
}

}  // namespace ptx
