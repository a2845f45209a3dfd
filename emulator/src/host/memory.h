// memory.h: shared memory and asynchronous copies into it.
#pragma once
#include "host/threads.h"

namespace standin {

// The array of the running block that belongs to `key`, made at its first use.
STANDIN_API void* shared_array(const void* key, size_t bytes, const char* name);
STANDIN_API unsigned char* dynamic_shared();

STANDIN_API void start_copy(void* shared, const void* global, unsigned bytes, bool valid, const char* file, int line);
STANDIN_API void commit_copies();
STANDIN_API void wait_for_copies(unsigned groups_left);

}  // namespace standin

#define SHARED(T, name, ...)                                                                                   \
    static const char standin_key_##name = 0;                                                                  \
    T(&name)[__VA_ARGS__] = *static_cast<T(*)[__VA_ARGS__]>(standin::shared_array(&standin_key_##name, sizeof(T[__VA_ARGS__]), #name))
#define DYNAMIC_SHARED(name) unsigned char* const name = standin::dynamic_shared()

template <int BYTES>
inline void copy_async(void* shared, const void* global, bool valid = true, STANDIN_HERE) {
    static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "cp.async copies 4, 8 or 16 bytes");
    standin::start_copy(shared, global, BYTES, valid, file, line);
}
inline void copy_async_commit() { standin::commit_copies(); }
template <int N>
inline void copy_async_wait() { standin::wait_for_copies(N); }
