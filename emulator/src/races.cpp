// races.cpp: the race check, and the functions that -fsanitize=thread calls.
#include "races.h"

#include "block.h"
#include "cuda_codes.h"
#include "faults.h"
#include "host/accesses.h"

namespace standin {

namespace {

// Readers beside a single thread's number.
constexpr uint16_t SEVERAL_WARPS = 0xffff, SEVERAL_LANES = 0x8000;

bool in_warp(uint16_t who, unsigned warp) {
    if (who == SEVERAL_WARPS) return false;
    return (who & SEVERAL_LANES ? who & ~SEVERAL_LANES : who / 32u) == warp;
}

// Whether what `who` did at `then` comes before what a thread of `warp` does now.
bool ordered(Moment then, uint16_t who, Moment now, unsigned thread) {
    return who == thread || then.barriers != now.barriers || (in_warp(who, thread / 32) && then.meetings != now.meetings);
}

std::string name(uint16_t who) {
    if (who == SEVERAL_WARPS) return "threads of several warps";
    return who & SEVERAL_LANES ? text("lanes of warp %u", who & ~SEVERAL_LANES) : text("thread %u", who);
}

std::string describe(Place place) { return place.file ? text(", at %s:%d", place.file, place.line) : source_line(place.instruction); }

}  // namespace

void RaceCheck::access(size_t offset, size_t count, bool is_write, Place place) {
    if (bytes_.size() < offset + count) bytes_.resize(offset + count);
    const unsigned thread = runner->running().number;
    const Moment now{barriers, runner->meetings_of_warp()};
    for (size_t i = offset; i < offset + count; ++i) {
        Byte& byte = bytes_[i];
        const bool after_write = ordered(byte.written, byte.writer, now, thread);
        if (!after_write || (is_write && !ordered(byte.read, byte.reader, now, thread))) {
            runner->fail(CUDA_LAUNCH_FAILED, text("race: %s shared memory that %s has %s, and nothing orders the two", is_write ? "writes" : "reads",
                                                  name(after_write ? byte.reader : byte.writer).c_str(), after_write ? "read" : "written") + describe(place));
        }
        if (is_write) {
            byte.written = now;
            byte.writer = static_cast<uint16_t>(thread);
            continue;
        }
        const bool first = byte.read.barriers != now.barriers;
        if (first || byte.reader == thread) {
            byte.reader = static_cast<uint16_t>(thread);
        } else {
            byte.reader = in_warp(byte.reader, thread / 32) ? static_cast<uint16_t>(SEVERAL_LANES | thread / 32) : SEVERAL_WARPS;
        }
        byte.read = now;
    }
}

GlobalRaces& global_races() {
    static GlobalRaces* const all = new GlobalRaces();   // never freed, as the driver
    return *all;
}

void GlobalRaces::begin_launch() {
    std::lock_guard<std::mutex> guard(lock_);
    pages_.clear();
}

std::string GlobalRaces::access(uintptr_t address, size_t bytes, bool is_write, unsigned block, Place place) {
    constexpr uint32_t SEVERAL = 0xffffffff;
    const uint32_t self = block + 1;
    std::lock_guard<std::mutex> guard(lock_);
    for (uintptr_t at = address; at < address + bytes; ++at) {
        auto& page = pages_[at / PAGE];
        if (!page) page = std::make_unique<Byte[]>(PAGE);
        Byte& byte = page[at % PAGE];
        const uint32_t other = byte.writer && byte.writer != self ? byte.writer : is_write && byte.reader && byte.reader != self ? byte.reader : 0;
        if (other) {
            const std::string who = other == SEVERAL ? "other blocks" : text("block number %u", other - 1);
            const char* did = byte.writer && byte.writer != self ? "written" : "read";
            return text("race: %s global memory at %p that %s of this launch %s %s", is_write ? "writes" : "reads", reinterpret_cast<void*>(at),
                        who.c_str(), other == SEVERAL ? "have" : "has", did) + describe(place);
        }
        if (is_write) {
            byte.writer = self;
        } else {
            byte.reader = byte.reader == 0 || byte.reader == self ? self : SEVERAL;
        }
    }
    return "";
}

void note_access(const void* address, size_t bytes, bool is_write, Place place) {
    if (runner && runner->check_races) runner->note(address, bytes, is_write, place);
}

void check_races(const void* address, uint32_t bytes, bool is_write, const char* file, int line) {
    if (!runner) return;
    runner->check_races = true;
    runner->note(address, bytes, is_write, {nullptr, file, line});
}

}  // namespace standin

namespace {

void reported(const void* address, size_t bytes, bool is_write, const void* instruction) {
    if (!standin::runner) return;
    standin::runner->check_races = true;
    standin::runner->note(address, bytes, is_write, {instruction, nullptr, 0});
}

}  // namespace

#define CALLER __builtin_return_address(0)
#define READ_AND_WRITE(BYTES)                                                                                         \
    STANDIN_API void __tsan_read##BYTES(void* at) { reported(at, BYTES, false, CALLER); }                             \
    STANDIN_API void __tsan_write##BYTES(void* at) { reported(at, BYTES, true, CALLER); }                             \
    STANDIN_API void __tsan_unaligned_read##BYTES(void* at) { reported(at, BYTES, false, CALLER); }                   \
    STANDIN_API void __tsan_unaligned_write##BYTES(void* at) { reported(at, BYTES, true, CALLER); }                   \
    STANDIN_API void __tsan_volatile_read##BYTES(void* at) { reported(at, BYTES, false, CALLER); }                    \
    STANDIN_API void __tsan_volatile_write##BYTES(void* at) { reported(at, BYTES, true, CALLER); }                    \
    STANDIN_API void __tsan_unaligned_volatile_read##BYTES(void* at) { reported(at, BYTES, false, CALLER); }          \
    STANDIN_API void __tsan_unaligned_volatile_write##BYTES(void* at) { reported(at, BYTES, true, CALLER); }

// Atomics are ordered by themselves.
#define ATOMICS(BITS, T)                                                                                              \
    STANDIN_API T __tsan_atomic##BITS##_load(const volatile T* at, int) { return __atomic_load_n(at, 5); }            \
    STANDIN_API void __tsan_atomic##BITS##_store(volatile T* at, T value, int) { __atomic_store_n(at, value, 5); }    \
    STANDIN_API T __tsan_atomic##BITS##_exchange(volatile T* at, T value, int) { return __atomic_exchange_n(at, value, 5); } \
    STANDIN_API T __tsan_atomic##BITS##_fetch_add(volatile T* at, T value, int) { return __atomic_fetch_add(at, value, 5); } \
    STANDIN_API T __tsan_atomic##BITS##_fetch_sub(volatile T* at, T value, int) { return __atomic_fetch_sub(at, value, 5); } \
    STANDIN_API T __tsan_atomic##BITS##_fetch_and(volatile T* at, T value, int) { return __atomic_fetch_and(at, value, 5); } \
    STANDIN_API T __tsan_atomic##BITS##_fetch_or(volatile T* at, T value, int) { return __atomic_fetch_or(at, value, 5); }   \
    STANDIN_API T __tsan_atomic##BITS##_fetch_xor(volatile T* at, T value, int) { return __atomic_fetch_xor(at, value, 5); } \
    STANDIN_API int __tsan_atomic##BITS##_compare_exchange_strong(volatile T* at, T* expected, T value, int, int) {   \
        return __atomic_compare_exchange_n(at, expected, value, false, 5, 5);                                         \
    }                                                                                                                 \
    STANDIN_API int __tsan_atomic##BITS##_compare_exchange_weak(volatile T* at, T* expected, T value, int, int) {     \
        return __atomic_compare_exchange_n(at, expected, value, false, 5, 5);                                         \
    }

extern "C" {
READ_AND_WRITE(1)
READ_AND_WRITE(2)
READ_AND_WRITE(4)
READ_AND_WRITE(8)
READ_AND_WRITE(16)
STANDIN_API void __tsan_read_range(void* at, size_t bytes) { reported(at, bytes, false, CALLER); }
STANDIN_API void __tsan_write_range(void* at, size_t bytes) { reported(at, bytes, true, CALLER); }
ATOMICS(8, uint8_t)
ATOMICS(16, uint16_t)
ATOMICS(32, uint32_t)
ATOMICS(64, uint64_t)
STANDIN_API void __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
STANDIN_API void __tsan_init() {}
STANDIN_API void __tsan_func_entry(void*) {}
STANDIN_API void __tsan_func_exit() {}
STANDIN_API void __tsan_vptr_update(void**, void*) {}
STANDIN_API void __tsan_vptr_read(void**) {}
}
