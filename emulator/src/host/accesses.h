// accesses.h: what kernels say of their accesses to memory, where they are compiled for a check.
#pragma once
#include "host/types.h"

namespace standin {

// ReadConstant: by ld.global.nc, which promises that nobody writes there for as long as the kernel runs.
enum class Access { Read, ReadConstant, Write, Atomic };

// Of global memory (watch.cpp); what lies in shared memory is passed over.
STANDIN_API void watch(const void* address, uint32_t bytes, Access access, const char* file, int line);
// Of shared memory (races.cpp).
STANDIN_API void check_races(const void* address, uint32_t bytes, bool is_write, const char* file, int line);

}  // namespace standin
