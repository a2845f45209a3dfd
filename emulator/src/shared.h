// shared.h: the shared memory of a block, and asynchronous copies into it.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace standin {

constexpr size_t SHARED_LIMIT = 163 * 1024;          // a block of the pretended device, with the opt-in attribute
constexpr size_t SHARED_WITHOUT_OPT_IN = 48 * 1024;

// cp.async of one thread, in the order of issue; `group_ends[i]` is how many copies there are up to the end of group i.
struct CopyQueue {
    struct Copy { unsigned char* to; const void* from; unsigned bytes; const char* file; int line; };
    std::vector<Copy> copies;
    std::vector<size_t> group_ends;
    void clear() { copies.clear(); group_ends.clear(); }
    bool empty() const { return copies.empty() && group_ends.empty(); }
};

// Static arrays lie at the start, canaries between them; dynamic memory ends at a page that cannot be touched.
class SharedMemory {
public:
    SharedMemory();
    ~SharedMemory();
    SharedMemory(const SharedMemory&) = delete;
    SharedMemory& operator=(const SharedMemory&) = delete;

    // New contents for a new block: every byte 0xff, a NaN in f32 and bf16.
    void start_block(unsigned dynamic_bytes);
    // Null when there is no room.
    void* array(const void* key, size_t bytes, const char* name);
    unsigned char* dynamic() const { return dynamic_; }
    const unsigned char* start() const { return memory_; }     // of all, static arrays first; 256 KiB
    bool contains(const void* address, size_t bytes) const;
    bool near(const void* address) const;            // within the mapping, guards included
    size_t offset(const void* address) const { return static_cast<size_t>(static_cast<const unsigned char*>(address) - mapping_); }
    size_t static_bytes() const { return static_bytes_; }
    // Empty, or what was overwritten beside an array.
    std::string overrun() const;

private:
    struct Array { const void* key; size_t offset, bytes; const char* name; };
    unsigned char* mapping_;
    unsigned char* memory_;
    unsigned char* dynamic_ = nullptr;
    unsigned dynamic_bytes_ = 0;
    size_t used_ = 0, static_bytes_ = 0;
    std::vector<Array> arrays_;
};

}  // namespace standin
