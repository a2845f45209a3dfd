// memory.h: the memory of the pretended device, and page-locked host memory.
#pragma once
#include <cstddef>
#include <map>
#include <string>

namespace standin {

struct Allocation {
    char* start;
    size_t bytes;
    size_t counted;                        // what it takes of the pretended memory
    char *pages, *pages_end;               // what can be touched around it
};

// Every allocation lies in one reserved range of addresses, between pages that cannot be touched, and no address is used
// twice: what is in the range and not in a live allocation is a fault, also after a free.
class DeviceMemory {
public:
    DeviceMemory();

    // A CUDA code. Fresh memory holds 0xff bytes (up to 256 MiB; zeros after that).
    int allocate(size_t bytes, char** start);
    int release(char* start);
    void release_all();
    // Takes the right to touch any allocation, or gives it back.
    void protect(bool touchable);

    size_t total() const;
    size_t used() const { return used_; }
    size_t count() const { return live_.size(); }

    // The allocation that holds all of it, or null.
    const Allocation* find(const void* address, size_t bytes) const;
    bool in_range(const void* address) const;
    bool was_freed(const void* address) const;
    // Where an address is, for messages.
    std::string describe(const void* address) const;
    // Empty, or which allocation was written beside of, where no page could guard it. Each is told once.
    std::string overrun();
    std::string list() const;

private:
    char *range_ = nullptr, *range_end_ = nullptr, *next_ = nullptr;
    size_t used_ = 0;
    std::map<char*, Allocation> live_, freed_;
};

DeviceMemory& device_memory();

// Page-locked host memory, which copies reach late and kernels may read.
class PinnedMemory {
public:
    int allocate(size_t bytes, void** start);
    int release(void* start);
    int add(void* start, size_t bytes);    // of the caller
    int remove(void* start);
    bool contains(const void* address, size_t bytes) const;
    size_t count() const { return blocks_.size(); }

private:
    struct Block { size_t bytes; bool own; };
    std::map<char*, Block> blocks_;
};

PinnedMemory& pinned_memory();

}  // namespace standin
