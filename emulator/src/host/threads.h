// threads.h: where a thread is, barriers, and what the lanes of a warp do together.
//
// A warp operation is a meeting: each lane brings a record, the last one to come runs the exchange over all records.
#pragma once
#include "host/numbers.h"

namespace standin {

struct BlockPlace { uint3 index; dim3 size, grid; };

// What a kernel sees of the thread that runs.
struct Thread {
    uint3 index;
    unsigned lane;
    const BlockPlace* block;
};
extern STANDIN_API __thread Thread* current __attribute__((tls_model("initial-exec")));

// `records[lane]` is there for each lane of `mask`.
using Exchange = void (*)(void* const* records, uint32_t mask);

STANDIN_API void barrier(const char* file, int line);
STANDIN_API void meet(uint32_t mask, Exchange exchange, void* record, const char* what, const char* file, int line);
STANDIN_API uint64_t shuffle(uint32_t mask, uint64_t value, int source_lane, const char* what, const char* file, int line);
STANDIN_API uint32_t ballot(uint32_t mask, bool vote, const char* what, const char* file, int line);
[[noreturn]] STANDIN_API void fail_launch(const char* format, ...) __attribute__((format(printf, 1, 2)));

template <typename T>
inline T shuffle_value(uint32_t mask, T value, int source_lane, const char* what, const char* file, int line) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "a shuffle moves 4 or 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof(T));
    bits = shuffle(mask, bits, source_lane, what, file, line);
    memcpy(&value, &bits, sizeof(T));
    return value;
}

// First lane of the part of a warp, `width` lanes wide, that the current lane is in.
inline int first_lane(int width) { return (int)current->lane & ~(width - 1); }

}  // namespace standin

#define threadIdx (standin::current->index)
#define blockIdx (standin::current->block->index)
#define blockDim (standin::current->block->size)
#define gridDim (standin::current->block->grid)
#define warpSize 32

// Every call names its place in the source: lanes that meet must come from the same one.
#define STANDIN_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(STANDIN_HERE) { standin::barrier(file, line); }

inline void __syncwarp(uint32_t mask = 0xffffffffu, STANDIN_HERE) {
    standin::meet(mask, [](void* const*, uint32_t) {}, nullptr, "__syncwarp", file, line);
}

template <typename T>
inline T __shfl_sync(uint32_t mask, T value, int lane, int width = 32, STANDIN_HERE) {
    return standin::shuffle_value(mask, value, standin::first_lane(width) | (lane & (width - 1)), "__shfl_sync", file, line);
}

template <typename T>
inline T __shfl_xor_sync(uint32_t mask, T value, int lanes, int width = 32, STANDIN_HERE) {
    const int own = (int)standin::current->lane;
    const int source = own ^ lanes;
    const bool inside = source < standin::first_lane(width) + width;
    return standin::shuffle_value(mask, value, inside ? source : own, "__shfl_xor_sync", file, line);
}

template <typename T>
inline T __shfl_down_sync(uint32_t mask, T value, unsigned lanes, int width = 32, STANDIN_HERE) {
    const int own = (int)standin::current->lane;
    const int source = own + (int)lanes;
    const bool inside = source < standin::first_lane(width) + width;
    return standin::shuffle_value(mask, value, inside ? source : own, "__shfl_down_sync", file, line);
}

template <typename T>
inline T __shfl_up_sync(uint32_t mask, T value, unsigned lanes, int width = 32, STANDIN_HERE) {
    const int own = (int)standin::current->lane;
    const int source = own - (int)lanes;
    return standin::shuffle_value(mask, value, source >= standin::first_lane(width) ? source : own, "__shfl_up_sync", file, line);
}

inline uint32_t __ballot_sync(uint32_t mask, int vote, STANDIN_HERE) { return standin::ballot(mask, vote != 0, "__ballot_sync", file, line); }
inline int __any_sync(uint32_t mask, int vote, STANDIN_HERE) { return standin::ballot(mask, vote != 0, "__any_sync", file, line) != 0; }
inline int __all_sync(uint32_t mask, int vote, STANDIN_HERE) { return standin::ballot(mask, vote == 0, "__all_sync", file, line) == 0; }
