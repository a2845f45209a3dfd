// warpgroup.h: wgmma (PTX ISA 9.7.15), and registers that its products read and write while the thread goes on.
//
// Each register that wgmma takes has a state beside it: which product writes it, or reads it, or after how many wgmma.fence it was last
// written by an instruction of the thread. `mov` takes the state along: what nvcc moves, ptxas names anew.
#pragma once
#include "host/asynchronous.h"
#include "ptx/runtime/memory.h"

namespace ptx {

// IN_FLIGHT | number of the product << 8 | index of the sum; READ_BY | number; else the number of fences at the last write.
constexpr uint64_t IN_FLIGHT = 1ull << 63, READ_BY = 1ull << 62;

inline void settle(uint32_t& value, uint64_t& state) {
    if (!(state & IN_FLIGHT) || !standin::is_waited_for((state & ~IN_FLIGHT) >> 8)) return;
    value = standin::sum_of_product((state & ~IN_FLIGHT) >> 8, static_cast<int>(state & 0xff));
    state = 0;
}
inline uint32_t settled(uint32_t value, uint64_t state, const char* file) {
    if (state & IN_FLIGHT) standin::fail_launch("a sum of wgmma.mma_async is read before wgmma.wait_group (%s)", file);
    return value;
}
inline void before_write(uint64_t state, const char* file) {
    if (state & IN_FLIGHT) standin::fail_launch("a register is written that a wgmma.mma_async under way writes (%s)", file);
    if (state & READ_BY && !standin::is_waited_for(state & ~READ_BY)) {
        standin::fail_launch("a register is written that a wgmma.mma_async under way reads (%s)", file);
    }
}
// A sum under way may be forgotten: nvcc has another name for it by then.
inline void before_move(uint64_t state, const char* file) {
    if (!(state & IN_FLIGHT)) before_write(state, file);
}
inline uint64_t moved(uint64_t state) { return state & READ_BY ? 0 : state; }

// `fences` is how many there have been, from 1 on.
inline void need_fence(const uint64_t* states, int count, uint64_t fences, const char* file) {
    for (int i = 0; i < count; ++i) {
        if (states[i] == fences) standin::fail_launch("wgmma.mma_async: no wgmma.fence since a register that it takes was written (%s)", file);
    }
}

// 9.7.15.5: d[64][N] = a[64][32] * b[32][N] (+ d). `a_states` is null where A is in shared memory.
template <int N>
inline void wgmma(uint32_t* d, uint64_t* d_states, const uint32_t* a, uint64_t* a_states, uint64_t a_descriptor, bool a_has_signs,
                  uint64_t b_descriptor, bool adds, uint64_t fences, const char* what, const char* file, int line) {
    need_fence(d_states, N / 2, fences, file);
    if (a_states) need_fence(a_states, 4, fences, file);
    standin::LaneProduct product{N, d, d_states, a, a_descriptor, b_descriptor, a_has_signs, adds, 0};
    standin::issue_product(product, what, file, line);
    for (int i = 0; i < N / 2; ++i) {
        d[i] = 0xdededede;
        d_states[i] = IN_FLIGHT | product.number << 8 | static_cast<uint64_t>(i);
    }
    for (int i = 0; a_states && i < 4; ++i) a_states[i] = READ_BY | product.number;
}

}  // namespace ptx
