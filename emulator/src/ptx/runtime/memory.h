// memory.h: loads, stores, atomics and asynchronous copies (PTX ISA 5.1, 9.7.9, 9.7.13).
#pragma once
#include "host/memory.h"
#include "host/accesses.h"
#include "host/asynchronous.h"
#include "ptx/runtime/bits.h"

namespace ptx {

// ---- 5.1, 9.7.9.8 Memory
//
// An address of global memory is the host's. One of shared memory is an offset in a window that dynamic memory lies in at
// DYNAMIC_SHARED_AT, behind static arrays. Alignment is checked by -fsanitize=alignment: a type of N bytes lies at a multiple of N.

constexpr uint32_t DYNAMIC_SHARED_AT = 1u << 20, WINDOW_FIRST = DYNAMIC_SHARED_AT - (320u << 10), WINDOW_END = DYNAMIC_SHARED_AT + (320u << 10);

template <typename T, int N>
struct alignas(sizeof(T) * N) Vector { T of[N]; };

inline uint32_t shared_array(const void* key, uint32_t bytes, const char* name) {
    return static_cast<uint32_t>(static_cast<unsigned char*>(standin::shared_array(key, bytes, name)) - standin::dynamic_shared() + DYNAMIC_SHARED_AT);
}
inline unsigned char* shared(uint32_t address, uint32_t bytes) {
    if (address < WINDOW_FIRST || address > WINDOW_END - bytes) standin::fail_launch("address %#x is not in shared memory", address);
    return standin::dynamic_shared() + (static_cast<int64_t>(address) - DYNAMIC_SHARED_AT);
}
inline unsigned char* global(uint64_t address) { return reinterpret_cast<unsigned char*>(address); }
inline const unsigned char* parameter(uint64_t address) { return reinterpret_cast<const unsigned char*>(address); }

// Loads and stores are macros, so that a fault is placed in the .cu file, by the #line that stands before.
#define PTX_LD(space, at, ...) (PTX_READ_##space(at, sizeof(__VA_ARGS__)), *reinterpret_cast<const __VA_ARGS__*>(at))
#define PTX_ST(space, at, value, ...) (PTX_WRITTEN_##space(at, sizeof(__VA_ARGS__)), (void)(*reinterpret_cast<__VA_ARGS__*>(at) = value))

#define PTX_READ_param(at, bytes) (void)0
#define PTX_READ_shared(at, bytes) PTX_RACING(at, bytes, false, __FILE__, __LINE__)
#define PTX_WRITTEN_shared(at, bytes) (PTX_RACING(at, bytes, true, __FILE__, __LINE__), PTX_STORED(at, bytes, __FILE__, __LINE__))
#define PTX_READ_global(at, bytes) PTX_WATCHED(at, bytes, Read, __FILE__, __LINE__)
#define PTX_READ_nc(at, bytes) PTX_WATCHED(at, bytes, ReadConstant, __FILE__, __LINE__)      // read-only for as long as the kernel runs
#define PTX_READ_generic(at, bytes) PTX_WATCHED(at, bytes, Read, __FILE__, __LINE__)
#define PTX_WRITTEN_global(at, bytes) PTX_WATCHED(at, bytes, Write, __FILE__, __LINE__)
#define PTX_WRITTEN_generic(at, bytes) PTX_WATCHED(at, bytes, Write, __FILE__, __LINE__)

// With -DPTX_WATCH, watch.cpp sees every access to global memory, and where it is in the source.
#ifdef PTX_WATCH
#define PTX_WATCHED(at, bytes, access, file, line) standin::watch(at, bytes, standin::Access::access, file, line)
#define PTX_STORED(at, bytes, file, line) standin::watch_store(at, bytes, file, line)
#else
#define PTX_STORED(at, bytes, file, line) (void)0
#define PTX_WATCHED(at, bytes, access, file, line) (void)0
#endif

// With -DPTX_RACES, the race check sees every access to shared memory.
#ifdef PTX_RACES
#define PTX_RACING(at, bytes, is_write, file, line) standin::check_races(at, bytes, is_write, file, line)
#else
#define PTX_RACING(at, bytes, is_write, file, line) (void)0
#endif

// 9.7.13.5: relaxed; returns what was there. Of shared memory, too.
#define PTX_ATOMIC(name, NEW)                                                                                                         \
    template <typename T> inline T atom_##name(unsigned char* at, T b, STANDIN_HERE) {                                                \
        (void)file, (void)line;                                                                                                       \
        PTX_WATCHED(at, sizeof(T), Atomic, file, line);                                                                               \
        T* const place = reinterpret_cast<T*>(at);                                                                                    \
        if (reinterpret_cast<uintptr_t>(at) % sizeof(T) != 0) standin::fail_launch("atom: an address that is no multiple of %zu", sizeof(T)); \
        T old = __atomic_load_n(place, __ATOMIC_RELAXED);                                                                             \
        while (!__atomic_compare_exchange_n(place, &old, static_cast<T>(NEW), false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}          \
        return old;                                                                                                                   \
    }
PTX_ATOMIC(add, old + b)
PTX_ATOMIC(min, b < old ? b : old)
PTX_ATOMIC(max, old < b ? b : old)
PTX_ATOMIC(and, old & b)
PTX_ATOMIC(or, old | b)
PTX_ATOMIC(xor, old ^ b)
PTX_ATOMIC(exch, b)
#undef PTX_ATOMIC

// 9.7.9.25.3: bytes behind src-size are zeros; nothing is read where it is 0. It lands at the wait (shared.cpp).
template <uint32_t BYTES>
inline void cp_async(unsigned char* to, const unsigned char* from, uint32_t source_bytes, const char* file, int line) {
    if (source_bytes != 0 && source_bytes != BYTES) standin::fail_launch("cp.async of %u of %u bytes is not modelled (%s:%d)", source_bytes, BYTES, file, line);
    if (source_bytes != 0) PTX_WATCHED(from, BYTES, Read, file, line);
    PTX_STORED(to, BYTES, file, line);
    standin::start_copy(to, from, BYTES, source_bytes != 0, file, line);
}

// 9.7.9.25.4.1: lands when it likes, and says so to the barrier (asynchronous.cpp).
inline void cp_async_bulk(unsigned char* to, const unsigned char* from, uint32_t bytes, unsigned char* barrier, const char* file, int line) {
    PTX_WATCHED(from, bytes, Read, file, line);
    standin::copy_bulk(to, from, bytes, barrier, file, line);
}

}  // namespace ptx
