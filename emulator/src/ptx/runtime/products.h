// products.h: mma.sync (PTX ISA 9.7.14.5).
#pragma once
#include "ptx/runtime/warp.h"

namespace ptx {

// ---- 9.7.14.5 mma.sync
//
// Fragments, with groupID = lane / 4 and t = lane % 4, element i of a lane (elements fill registers from the low end):
//   m16n8k32, 8 bits (9.7.14.5.10)   a_i: row groupID (0 <= i < 4, 8 <= i < 12) or groupID + 8, column 4t + i%4 (i < 8) or 4t + i%4 + 16
//                                    b_i: row 4t + i%4 (i < 4) or 4t + i%4 + 16, column groupID
//   m16n8k16, 16 bits (9.7.14.5.8)   a_i: row groupID (0 <= i < 2, 4 <= i < 6) or groupID + 8, column 2t + i%2 (i < 4) or 2t + i%2 + 8
//                                    b_i: row 2t + i%2 (i < 2) or 2t + i%2 + 8, column groupID
//   both                             c_i: row groupID (i < 2) or groupID + 8, column 2t + i%2
// Integers: exact, modulo 2^32 (no .satfinite). Floats: products are exact, the sum's order and rounding are the hardware's;
// DSR_STANDIN_SUMS chooses one.

// One of the products of a meeting; numbers are places in a lane's array of registers, a and b rows of the two lists.
struct Product { uint16_t d[4], c[4], a, b; };
struct Products {
    const Product* of;
    int count;
    const uint16_t (*a)[4];
    int a_count;
    const uint16_t (*b)[2];
    int b_count;
};

namespace inner {

struct MmaRecord { const Products* products; uint32_t* x; };

inline uint32_t* lane_registers(void* const* records, int lane) { return static_cast<MmaRecord*>(records[lane])->x; }
inline int d_row(int lane, int i) { return lane / 4 + (i < 2 ? 0 : 8); }
inline int d_column(int lane, int i) { return lane % 4 * 2 + i % 2; }

STANDIN_API void exchange_u8s8(void* const* records, uint32_t mask);
STANDIN_API void exchange_bf16(void* const* records, uint32_t mask);

}  // namespace inner

inline void mma_u8s8(const Products& products, uint32_t* x, const char* what, const char* file, int line) {
    inner::MmaRecord record{&products, x};
    standin::meet(WARP, inner::exchange_u8s8, &record, what, file, line);
}
inline void mma_bf16(const Products& products, uint32_t* x, const char* what, const char* file, int line) {
    inner::MmaRecord record{&products, x};
    standin::meet(WARP, inner::exchange_bf16, &record, what, file, line);
}

}  // namespace ptx
