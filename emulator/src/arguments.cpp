// arguments.cpp: pointers among the arguments of a launch that no device could follow.
//
// On a device such a launch fails when the pointer is followed; here host memory could be read, so it is refused before.
#include <sys/mman.h>
#include <unistd.h>
#include <cstdint>
#include <cstring>

#include "arguments.h"
#include "cuda_codes.h"
#include "memory.h"

namespace standin {

namespace {

bool device_reaches(const void* pointer) {
    return pointer == nullptr || device_memory().find(pointer, 0) || pinned_memory().contains(pointer, 0);
}

// Whether the host has a page there: a number that only looks like an address hardly ever hits one.
bool host_has(const void* address) {
    const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    unsigned char present;
    void* start = reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(address) & ~(page - 1));
    return mincore(start, 1, &present) == 0;
}

const void* pointer_at(const Launch& launch, size_t offset) {
    const void* pointer;
    memcpy(&pointer, launch.bytes.data() + offset, sizeof(pointer));
    return pointer;
}

// A struct does not say which of its members are pointers, so every aligned word counts as one that leads to freed memory or to a page of
// the host.
const void* wrong_pointer_in_struct(const Launch& launch, const Parameter& parameter) {
    for (size_t offset = (parameter.offset + 7) / 8 * 8; offset + 8 <= parameter.offset + parameter.size; offset += 8) {
        const void* word = pointer_at(launch, offset);
        if (device_reaches(word)) continue;
        // Two small integers can look like an address of the reserved range.
        if (device_memory().was_freed(word) || (!device_memory().in_range(word) && host_has(word))) return word;
    }
    return nullptr;
}

}  // namespace

Problem check_arguments(const Launch& launch) {
    for (unsigned i = 0; i < launch.kernel->parameter_count; ++i) {
        const Parameter& parameter = launch.kernel->parameters[i];
        const void* wrong = nullptr;
        if (parameter.is_pointer) {
            const void* pointer = pointer_at(launch, parameter.offset);
            if (!device_reaches(pointer)) wrong = pointer;
        } else if (parameter.may_hold_pointers) {
            wrong = wrong_pointer_in_struct(launch, parameter);
        }
        if (wrong) {
            return {CUDA_ILLEGAL_ADDRESS, text("kernel %s: argument %u points to %p, ", launch.kernel->name, i, wrong) + device_memory().describe(wrong)};
        }
    }
    return {};
}

}  // namespace standin
