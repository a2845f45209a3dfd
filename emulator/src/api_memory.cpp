// api_memory.cpp: driver calls that allocate, copy, and fill.
#include <cstdint>
#include <cstring>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

#include "counts.h"
#include "cuda_codes.h"
#include "driver.h"
#include "memory.h"

using namespace standin;

namespace {

using Address = uint64_t;

char* pointer(Address address) { return reinterpret_cast<char*>(address); }

bool on_device(const void* at, size_t bytes) { return device_memory().find(at, bytes) != nullptr; }

int refuse(const char* call, const void* at, size_t bytes) {
    report(text("%s of %zu bytes at %p, ", call, bytes, at) + device_memory().describe(at));
    return CUDA_INVALID_VALUE;
}

// Checked again when the work is done: memory may be freed between.
Action copy_action(const char* call, char* to, const char* from, size_t bytes) {
    return [=]() -> Problem {
        for (const char* at : {static_cast<const char*>(to), from}) {
            if (device_memory().in_range(at) && !on_device(at, bytes)) {
                return {CUDA_ILLEGAL_ADDRESS, text("%s of %zu bytes at %p, ", call, bytes, static_cast<const void*>(at)) + device_memory().describe(at)};
            }
        }
        memmove(to, from, bytes);
        count_copy(device_memory().in_range(from), device_memory().in_range(to), bytes);
        return {};
    };
}

// A copy that is done when the call returns: on the default stream, and waited for.
int copy_now(const char* call, char* to, const char* from, size_t bytes) {
    if (int code = driver().refuse_in_capture(call)) return code;
    driver().issue(driver().default_stream, copy_action(call, to, from, bytes), call);
    return driver().wait_for_stream(driver().default_stream);
}

// Host memory that is not page-locked: a graph would keep the pointer, and the program may free what it points to.
int refuse_pageable_in_graph(const StreamPointer& stream, const char* call) {
    report(text("%s in a capture: the host memory is not page-locked", call));
    stream->capture->invalid = true;
    return CUDA_CAPTURE_UNSUPPORTED;
}

// Large zeros take no memory: the pages are given back, and come again as zeros when somebody touches them.
void fill_bytes(char* to, char value, size_t count) {
    constexpr size_t LARGE = 256ull << 20;
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    if (value != 0 || count < LARGE) {
        memset(to, value, count);
        return;
    }
    char* const first = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(to) + page - 1) / page * page);
    char* const end = reinterpret_cast<char*>(reinterpret_cast<uintptr_t>(to + count) / page * page);
    memset(to, 0, static_cast<size_t>(first - to));
    madvise(first, static_cast<size_t>(end - first), MADV_DONTNEED);
    memset(end, 0, static_cast<size_t>(to + count - end));
}

Action fill_action(char* to, std::vector<char> value, size_t count) {
    return [=]() -> Problem {
        const size_t bytes = value.size() * count;
        if (!on_device(to, bytes)) return {CUDA_ILLEGAL_ADDRESS, text("memset of %zu bytes at %p, ", bytes, static_cast<void*>(to)) + device_memory().describe(to)};
        ++counts().fills;
        if (value.size() == 1) {
            fill_bytes(to, value[0], count);
        } else {
            for (size_t i = 0; i < count; ++i) memcpy(to + i * value.size(), value.data(), value.size());
        }
        return {};
    };
}

template <typename T>
int fill(const char* call, Address to, T value, size_t count, void* stream_handle, bool wait) {
    Lock lock;
    if (int code = context_code()) return code;
    const StreamPointer stream = driver().stream(stream_handle);
    if (!stream) return CUDA_INVALID_HANDLE;
    if (count == 0) return CUDA_OK;
    if (to % sizeof(T) != 0 || !on_device(pointer(to), count * sizeof(T))) return refuse(call, pointer(to), count * sizeof(T));
    std::vector<char> bytes(sizeof(T));
    memcpy(bytes.data(), &value, sizeof(T));
    if (wait) {
        if (int code = driver().refuse_in_capture(call)) return code;
    }
    if (int code = driver().issue(stream, fill_action(pointer(to), bytes, count), call)) return code;
    return wait ? driver().wait_for_stream(stream) : CUDA_OK;
}

}  // namespace

DRIVER_CALL cuMemGetInfo_v2(size_t* free, size_t* total) {
    Lock lock;
    if (int code = context_code()) return code;
    *total = device_memory().total();
    *free = *total - device_memory().used();
    return CUDA_OK;
}

DRIVER_CALL cuMemAlloc_v2(Address* address, size_t bytes) {
    Lock lock;
    if (int code = context_code()) return code;
    if (int code = driver().refuse_in_capture("cuMemAlloc")) return code;
    char* start = nullptr;
    const int code = device_memory().allocate(bytes, &start);
    *address = reinterpret_cast<Address>(start);
    return code;
}

// Waits for all work, as a device does.
DRIVER_CALL cuMemFree_v2(Address address) {
    Lock lock;
    if (int code = driver().refuse_in_capture("cuMemFree")) return code;
    driver().wait_for_all();
    const int freed = device_memory().release(pointer(address));
    const int code = context_code();
    return code ? code : freed;
}

// Of the allocation that an address is in.
DRIVER_CALL cuMemGetAddressRange_v2(Address* start, size_t* bytes, Address address) {
    Lock lock;
    if (int code = context_code()) return code;
    const Allocation* found = device_memory().find(pointer(address), 1);
    if (!found) return CUDA_NOT_FOUND;
    if (start) *start = reinterpret_cast<Address>(found->start);
    if (bytes) *bytes = found->bytes;
    return CUDA_OK;
}

DRIVER_CALL cuCtxGetCurrent(void** context);

// What is known of an address: its context (1), whether it is of the host or of the device (2), and of which device (9).
DRIVER_CALL cuPointerGetAttribute(void* value, int attribute, Address address) {
    Lock lock;
    if (int code = context_code()) return code;
    const bool device = on_device(pointer(address), 1);
    if (!device && !pinned_memory().contains(pointer(address), 1)) return CUDA_INVALID_VALUE;
    switch (attribute) {
        case 1: return cuCtxGetCurrent(static_cast<void**>(value));
        case 2: *static_cast<unsigned*>(value) = device ? 2 : 1; return CUDA_OK;
        case 9: *static_cast<int*>(value) = driver().context.device; return CUDA_OK;
        default: return CUDA_NOT_SUPPORTED;
    }
}

DRIVER_CALL cuMemAllocAsync(Address* address, size_t bytes, void* stream) {
    Lock lock;
    if (int code = context_code()) return code;
    const StreamPointer on = driver().stream(stream);
    if (!on) return CUDA_INVALID_HANDLE;
    if (on->capture) return driver().spoil(on->capture, "cuMemAllocAsync");
    char* start = nullptr;
    const int code = device_memory().allocate(bytes, &start);
    *address = reinterpret_cast<Address>(start);
    return code;
}

DRIVER_CALL cuMemFreeAsync(Address address, void* stream) {
    Lock lock;
    const StreamPointer on = driver().stream(stream);
    if (!on) return CUDA_INVALID_HANDLE;
    if (on->capture) return driver().spoil(on->capture, "cuMemFreeAsync");
    if (driver().context.problem.code) {
        device_memory().release(pointer(address));
        return driver().context.problem.code;
    }
    if (int code = context_code()) return code;
    if (!on_device(pointer(address), 0)) return refuse("cuMemFreeAsync", pointer(address), 0);
    return driver().issue(on, [=]() -> Problem {
        const int code = device_memory().release(pointer(address));
        return code ? Problem{code, "cuMemFreeAsync of memory that is already free"} : Problem{};
    }, "cuMemFreeAsync");
}

DRIVER_CALL cuMemHostAlloc(void** start, size_t bytes, unsigned) {
    Lock lock;
    if (int code = context_code()) return code;
    if (int code = driver().refuse_in_capture("cuMemHostAlloc")) return code;
    return pinned_memory().allocate(bytes, start);
}

DRIVER_CALL cuMemAllocHost_v2(void** start, size_t bytes) { return cuMemHostAlloc(start, bytes, 0); }

DRIVER_CALL cuMemFreeHost(void* start) {
    Lock lock;
    if (int code = driver().refuse_in_capture("cuMemFreeHost")) return code;
    driver().wait_for_all();
    const int freed = pinned_memory().release(start);
    const int code = context_code();
    return code ? code : freed;
}

DRIVER_CALL cuMemHostRegister_v2(void* start, size_t bytes, unsigned) {
    Lock lock;
    if (int code = context_code()) return code;
    return pinned_memory().add(start, bytes);
}

DRIVER_CALL cuMemHostUnregister(void* start) {
    Lock lock;
    if (int code = context_code()) return code;
    driver().wait_for_all();
    return pinned_memory().remove(start);
}

DRIVER_CALL cuMemHostGetDevicePointer_v2(Address* address, void* start, unsigned) {
    Lock lock;
    if (int code = context_code()) return code;
    *address = reinterpret_cast<Address>(start);
    return pinned_memory().contains(start, 1) ? CUDA_OK : CUDA_INVALID_VALUE;
}

DRIVER_CALL cuMemcpyHtoD_v2(Address to, const void* from, size_t bytes) {
    Lock lock;
    if (int code = context_code()) return code;
    if (bytes == 0) return CUDA_OK;
    if (!on_device(pointer(to), bytes)) return refuse("cuMemcpyHtoD", pointer(to), bytes);
    if (device_memory().in_range(from)) return refuse("cuMemcpyHtoD from host memory", from, bytes);
    return copy_now("cuMemcpyHtoD", pointer(to), static_cast<const char*>(from), bytes);
}

DRIVER_CALL cuMemcpyDtoH_v2(void* to, Address from, size_t bytes) {
    Lock lock;
    if (int code = context_code()) return code;
    if (bytes == 0) return CUDA_OK;
    if (!on_device(pointer(from), bytes)) return refuse("cuMemcpyDtoH", pointer(from), bytes);
    if (device_memory().in_range(to)) return refuse("cuMemcpyDtoH to host memory", to, bytes);
    return copy_now("cuMemcpyDtoH", static_cast<char*>(to), pointer(from), bytes);
}

DRIVER_CALL cuMemcpyDtoD_v2(Address to, Address from, size_t bytes) {
    Lock lock;
    if (int code = context_code()) return code;
    if (bytes == 0) return CUDA_OK;
    if (!on_device(pointer(to), bytes)) return refuse("cuMemcpyDtoD", pointer(to), bytes);
    if (!on_device(pointer(from), bytes)) return refuse("cuMemcpyDtoD", pointer(from), bytes);
    return copy_now("cuMemcpyDtoD", pointer(to), pointer(from), bytes);
}

// From page-locked memory, the bytes are read when the copy runs; from other memory, before the call returns.
DRIVER_CALL cuMemcpyHtoDAsync_v2(Address to, const void* from, size_t bytes, void* stream_handle) {
    Lock lock;
    if (int code = context_code()) return code;
    const StreamPointer stream = driver().stream(stream_handle);
    if (!stream) return CUDA_INVALID_HANDLE;
    if (bytes == 0) return CUDA_OK;
    if (!on_device(pointer(to), bytes)) return refuse("cuMemcpyHtoDAsync", pointer(to), bytes);
    if (device_memory().in_range(from)) return refuse("cuMemcpyHtoDAsync from host memory", from, bytes);
    const char* host = static_cast<const char*>(from);
    if (pinned_memory().contains(from, bytes)) {
        return driver().issue(stream, copy_action("cuMemcpyHtoDAsync", pointer(to), host, bytes), "cuMemcpyHtoDAsync", true);
    }
    if (stream->capture) return refuse_pageable_in_graph(stream, "cuMemcpyHtoDAsync");
    auto staged = std::make_shared<std::vector<char>>(host, host + bytes);
    return driver().issue(stream, [=] { return copy_action("cuMemcpyHtoDAsync", pointer(to), staged->data(), bytes)(); }, "cuMemcpyHtoDAsync", true);
}

// To page-locked memory, the bytes arrive when somebody waits for them; to other memory, before the call returns.
DRIVER_CALL cuMemcpyDtoHAsync_v2(void* to, Address from, size_t bytes, void* stream_handle) {
    Lock lock;
    if (int code = context_code()) return code;
    const StreamPointer stream = driver().stream(stream_handle);
    if (!stream) return CUDA_INVALID_HANDLE;
    if (bytes == 0) return CUDA_OK;
    if (!on_device(pointer(from), bytes)) return refuse("cuMemcpyDtoHAsync", pointer(from), bytes);
    if (device_memory().in_range(to)) return refuse("cuMemcpyDtoHAsync to host memory", to, bytes);
    const bool pinned = pinned_memory().contains(to, bytes);
    if (stream->capture && !pinned) return refuse_pageable_in_graph(stream, "cuMemcpyDtoHAsync");
    auto action = copy_action("cuMemcpyDtoHAsync", static_cast<char*>(to), pointer(from), bytes);
    if (int code = driver().issue(stream, std::move(action), "cuMemcpyDtoHAsync", true)) return code;
    return pinned ? CUDA_OK : driver().wait_for_stream(stream);
}

DRIVER_CALL cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, void* stream_handle) {
    Lock lock;
    if (int code = context_code()) return code;
    const StreamPointer stream = driver().stream(stream_handle);
    if (!stream) return CUDA_INVALID_HANDLE;
    if (bytes == 0) return CUDA_OK;
    if (!on_device(pointer(to), bytes)) return refuse("cuMemcpyDtoDAsync", pointer(to), bytes);
    if (!on_device(pointer(from), bytes)) return refuse("cuMemcpyDtoDAsync", pointer(from), bytes);
    return driver().issue(stream, copy_action("cuMemcpyDtoDAsync", pointer(to), pointer(from), bytes), "cuMemcpyDtoDAsync");
}

DRIVER_CALL cuMemsetD8Async(Address to, unsigned char value, size_t count, void* stream) { return fill("cuMemsetD8Async", to, value, count, stream, false); }
DRIVER_CALL cuMemsetD16Async(Address to, unsigned short value, size_t count, void* stream) { return fill("cuMemsetD16Async", to, value, count, stream, false); }
DRIVER_CALL cuMemsetD32Async(Address to, unsigned value, size_t count, void* stream) { return fill("cuMemsetD32Async", to, value, count, stream, false); }
DRIVER_CALL cuMemsetD8_v2(Address to, unsigned char value, size_t count) { return fill("cuMemsetD8", to, value, count, nullptr, true); }
DRIVER_CALL cuMemsetD16_v2(Address to, unsigned short value, size_t count) { return fill("cuMemsetD16", to, value, count, nullptr, true); }
DRIVER_CALL cuMemsetD32_v2(Address to, unsigned value, size_t count) { return fill("cuMemsetD32", to, value, count, nullptr, true); }
