// watch.h: what kernels say of their accesses to global memory, where they are compiled for the watch.
#pragma once
#include "host/types.h"

namespace standin {

// ReadConstant: by ld.global.nc, which promises that nobody writes there for as long as the kernel runs.
enum class Access { Read, ReadConstant, Write, Atomic };

STANDIN_API void watch(const void* address, uint32_t bytes, Access access, const char* file, int line);

}  // namespace standin
