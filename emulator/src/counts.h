// counts.h: what a process has asked of the device, for tests of how much a step costs.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace standin {

// `struct Counts` of lib.rs, field for field.
struct Counts {
    std::atomic<uint64_t> launches{0};               // of kernels, those of graphs too
    std::atomic<uint64_t> graphs{0};                 // launches of graphs
    std::atomic<uint64_t> fills{0};
    std::atomic<uint64_t> copies_to_device{0}, bytes_to_device{0};
    std::atomic<uint64_t> copies_to_host{0}, bytes_to_host{0};
    std::atomic<uint64_t> copies_on_device{0}, bytes_on_device{0};
    std::atomic<uint64_t> dependent{0}, early{0};    // launches that may begin before the one before has ended; and that it has let begin
    std::atomic<uint64_t> waits{0};                  // calls that returned only when work was done that had not been done before
};

Counts& counts();

void count_copy(bool from_device, bool to_device, size_t bytes);

}  // namespace standin
