// warp.h: what lanes do together: shuffles, votes, ldmatrix (PTX ISA 9.7.9, 9.7.13, 9.7.14).
#pragma once
#include "host/dependent.h"
#include "ptx/runtime/memory.h"

namespace ptx {

// ---- 9.7.9.6 shfl.sync, 9.7.13.9 vote.sync

struct Shuffled { uint32_t value; bool inside; };

namespace inner {

struct Shuffle { uint32_t a, got; int from; };
inline void exchange_shuffle(void* const* records, uint32_t mask) {
    for (int lane = 0; lane < 32; ++lane) {
        if (!(mask >> lane & 1)) continue;
        Shuffle& own = *static_cast<Shuffle*>(records[lane]);
        if (!(mask >> own.from & 1)) standin::fail_launch("shfl.sync: lane %d reads lane %d, which does not take part (mask %08x)", lane, own.from, mask);
        own.got = static_cast<Shuffle*>(records[own.from])->a;
    }
}
inline Shuffled shuffle(uint32_t a, int j, bool inside, uint32_t mask, const char* what, const char* file, int line) {
    Shuffle record{a, 0, inside ? j : static_cast<int>(standin::current->lane)};
    standin::meet(mask, exchange_shuffle, &record, what, file, line);
    return {record.got, inside};
}

struct Vote { bool yes; uint32_t ballot; };
inline void exchange_vote(void* const* records, uint32_t mask) {
    uint32_t ballot = 0;
    for (int lane = 0; lane < 32; ++lane) {
        if (mask >> lane & 1 && static_cast<Vote*>(records[lane])->yes) ballot |= 1u << lane;
    }
    for (int lane = 0; lane < 32; ++lane) {
        if (mask >> lane & 1) static_cast<Vote*>(records[lane])->ballot = ballot;
    }
}
inline void exchange_nothing(void* const*, uint32_t) {}

}  // namespace inner

#define PTX_SHFL(mode, J, INSIDE)                                                                                                     \
    inline Shuffled shfl_##mode(uint32_t a, uint32_t b, uint32_t c, uint32_t membermask, const char* what, const char* file, int line) { \
        const int lane = static_cast<int>(standin::current->lane), bval = b & 31, cval = c & 31, segmask = c >> 8 & 31;               \
        const int maxLane = (lane & segmask) | (cval & ~segmask), minLane = lane & segmask;                                           \
        const int j = J;                                                                                                              \
        (void)minLane;                                                                                                                \
        return inner::shuffle(a, j, INSIDE, membermask, what, file, line);                                                            \
    }
PTX_SHFL(up, lane - bval, j >= maxLane)
PTX_SHFL(down, lane + bval, j <= maxLane)
PTX_SHFL(bfly, lane ^ bval, j <= maxLane)
PTX_SHFL(idx, minLane | (bval & ~segmask), j <= maxLane)
#undef PTX_SHFL

inline uint32_t vote_ballot(bool yes, uint32_t membermask, const char* what, const char* file, int line) {
    inner::Vote record{yes, 0};
    standin::meet(membermask, inner::exchange_vote, &record, what, file, line);
    return record.ballot;
}
inline void bar_warp_sync(uint32_t membermask, const char* what, const char* file, int line) {
    standin::meet(membermask, inner::exchange_nothing, nullptr, what, file, line);
}

// ---- 9.7.14.5.15 ldmatrix
//
// Lanes 8i .. 8i+7 give the addresses of rows 0..7 of matrix i: 8 elements of 16 bits. Lane l gets, of each matrix, elements
// 2*(l%4) and 2*(l%4)+1 of row l/4; with .trans, of the transposed matrix.

constexpr uint32_t WARP = 0xffffffffu;

namespace inner {

struct MatrixRow { uint32_t* to; const unsigned char* row; };

inline void need_warp(uint32_t mask, const char* what) {
    if (mask != WARP) standin::fail_launch("%s needs all lanes of a warp, and this one has %08x", what, mask);
}
inline uint32_t element(void* const* records, int matrix, int row, int column) {
    uint16_t value;
    memcpy(&value, static_cast<MatrixRow*>(records[8 * matrix + row])->row + 2 * column, 2);
    return value;
}
template <int MATRICES, bool TRANSPOSED>
void exchange_matrices(void* const* records, uint32_t mask) {
    need_warp(mask, "ldmatrix");
    for (int lane = 0; lane < 32; ++lane) {
        const int row = lane / 4, column = lane % 4 * 2;
        for (int i = 0; i < MATRICES; ++i) {
            const uint32_t low = TRANSPOSED ? element(records, i, column, row) : element(records, i, row, column);
            const uint32_t high = TRANSPOSED ? element(records, i, column + 1, row) : element(records, i, row, column + 1);
            static_cast<MatrixRow*>(records[lane])->to[i] = high << 16 | low;
        }
    }
}

}  // namespace inner

template <int MATRICES, bool TRANSPOSED>
inline void ldmatrix(uint32_t* to, const unsigned char* row, const char* what, const char* file, int line) {
    if (reinterpret_cast<uintptr_t>(row) % 16 != 0) standin::fail_launch("ldmatrix at %s:%d: a row that is not aligned to 16 bytes", file, line);
    PTX_RACING(row, 16, false, file, line);
    inner::MatrixRow record{to, row};
    standin::meet(WARP, inner::exchange_matrices<MATRICES, TRANSPOSED>, &record, what, file, line);
}

}  // namespace ptx
