// api_collective.cpp: what the stand-in of NCCL (src/nccl) asks of this driver, and no other program.
#include "cuda_codes.h"
#include "driver.h"
#include "memory.h"

using namespace standin;

namespace {

// A range of device memory that a collective reads or writes.
struct Range { const void* at; size_t bytes; };

Problem not_on_device(const char* name, const Range& range) {
    return {CUDA_ILLEGAL_ADDRESS, text("%s: %zu bytes at %p, ", name, range.bytes, range.at) + device_memory().describe(range.at)};
}

}  // namespace

// Puts work on a stream, or records it. `attempt` says 1 when it is done, and 0 as long as other processes have to do their part; it is
// asked until then, and for each replay anew. `release` gets `data` when neither a queue nor a graph has it any more.
extern "C" STANDIN_API int dsr_standin_collective(void* handle, const char* name, const Range* ranges, size_t count, int (*attempt)(void*),
                                                  void (*release)(void*), void* data) {
    Lock lock;
    if (int code = context_code()) return code;
    const StreamPointer stream = driver().stream(handle);
    if (!stream) return CUDA_INVALID_HANDLE;
    const std::shared_ptr<void> owner(data, release);
    const std::vector<Range> all(ranges, ranges + count);
    const std::string text(name);
    return driver().issue(stream, [=]() -> Problem {
        for (const Range& range : all) {
            if (range.bytes > 0 && !device_memory().find(range.at, range.bytes)) return not_on_device(text.c_str(), range);
        }
        return {attempt(owner.get()) ? CUDA_OK : CUDA_NOT_READY, ""};
    }, text);
}
