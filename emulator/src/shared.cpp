// shared.cpp: shared memory of a block, poisoned, with canaries; cp.async that lands as late as it may.
#include "shared.h"

#include <sys/mman.h>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "block.h"
#include "canary.h"
#include "cuda_codes.h"
#include "host/memory.h"

namespace standin {

namespace {

constexpr size_t GUARD = 64 * 1024;
constexpr size_t SIZE = 256 * 1024;                  // the limit, and room for canaries
constexpr size_t CANARY = 64;                        // bytes at least, between arrays
constexpr unsigned char POISON = 0xff;

size_t round_up(size_t value, size_t to) { return (value + to - 1) / to * to; }

}  // namespace

SharedMemory::SharedMemory() {
    void* pages = mmap(nullptr, GUARD + SIZE + GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED || mprotect(static_cast<char*>(pages) + GUARD, SIZE, PROT_READ | PROT_WRITE) != 0) {
        fprintf(stderr, "dsr stand-in: no memory for shared memory\n");
        abort();
    }
    mapping_ = static_cast<unsigned char*>(pages);
    memory_ = mapping_ + GUARD;
}

SharedMemory::~SharedMemory() { munmap(mapping_, GUARD + SIZE + GUARD); }

void SharedMemory::start_block(unsigned dynamic_bytes) {
    arrays_.clear();
    used_ = static_bytes_ = 0;
    dynamic_bytes_ = dynamic_bytes;
    dynamic_ = memory_ + SIZE - round_up(dynamic_bytes, 128);
    if (dynamic_bytes == 0) return;
    memset(dynamic_, POISON, dynamic_bytes);
    fill_canary(dynamic_ - CANARY, dynamic_);
    fill_canary(dynamic_ + dynamic_bytes, memory_ + SIZE);
}

void* SharedMemory::array(const void* key, size_t bytes, const char* name) {
    for (const Array& array : arrays_) {
        if (array.key == key) return memory_ + array.offset;
    }
    static_bytes_ += round_up(bytes, 128);
    const size_t end = round_up(used_ + bytes + CANARY, 128);
    if (static_bytes_ > SHARED_WITHOUT_OPT_IN || memory_ + end > dynamic_ - CANARY) return nullptr;
    const size_t offset = used_;
    memset(memory_ + offset, POISON, bytes);
    fill_canary(memory_ + offset + bytes, memory_ + end);
    arrays_.push_back({key, offset, bytes, name});
    used_ = end;
    return memory_ + offset;
}

bool SharedMemory::contains(const void* address, size_t bytes) const {
    const unsigned char* at = static_cast<const unsigned char*>(address);
    if (at >= dynamic_ && at + bytes <= dynamic_ + dynamic_bytes_) return true;
    for (const Array& array : arrays_) {
        const unsigned char* start = memory_ + array.offset;
        if (at >= start && at + bytes <= start + array.bytes) return true;
    }
    return false;
}

bool SharedMemory::near(const void* address) const {
    const unsigned char* at = static_cast<const unsigned char*>(address);
    return at >= mapping_ && at < mapping_ + GUARD + SIZE + GUARD;
}

std::string SharedMemory::overrun() const {
    for (size_t i = 0; i < arrays_.size(); ++i) {
        const unsigned char* end = memory_ + arrays_[i].offset + arrays_[i].bytes;
        const unsigned char* next = memory_ + (i + 1 < arrays_.size() ? arrays_[i + 1].offset : used_);
        if (!canary_is_whole(end, next)) return text("a write past the end of the shared array '%s' (%zu bytes)", arrays_[i].name, arrays_[i].bytes);
    }
    if (dynamic_bytes_ == 0) return "";
    if (!canary_is_whole(dynamic_ - CANARY, dynamic_)) return "a write before the start of dynamic shared memory";
    if (!canary_is_whole(dynamic_ + dynamic_bytes_, memory_ + SIZE)) return text("a write past the end of dynamic shared memory (%u bytes)", dynamic_bytes_);
    return "";
}

void* shared_array(const void* key, size_t bytes, const char* name) {
    if (void* array = runner->shared.array(key, bytes, name)) return array;
    runner->fail(CUDA_INVALID_VALUE, text("no room for the shared array '%s' of %zu bytes", name, bytes));
}

unsigned char* dynamic_shared() { return runner->shared.dynamic(); }

void start_copy(void* shared, const void* global, unsigned bytes, bool valid, const char* file, int line) {
    const uintptr_t mask = bytes - 1;
    if (reinterpret_cast<uintptr_t>(shared) & mask || (valid && reinterpret_cast<uintptr_t>(global) & mask)) {
        runner->fail(CUDA_MISALIGNED_ADDRESS, text("copy_async of %u bytes at %s:%d: an address that is no multiple of %u", bytes, file, line, bytes));
    }
    if (!runner->shared.contains(shared, bytes)) {
        runner->fail(CUDA_ILLEGAL_ADDRESS, text("copy_async of %u bytes at %s:%d: the destination is not in shared memory", bytes, file, line));
    }
    if (valid && runner->is_ahead()) {
        runner->fail(CUDA_ILLEGAL_ADDRESS, text("before it waits for the kernel before it: copy_async from global memory at %s:%d", file, line));
    }
    if (valid) (void)*static_cast<const volatile unsigned char*>(global);       // a wrong source shows here, not at the wait
    note_access(shared, bytes, true, {nullptr, file, line});
    memset(shared, POISON, bytes);                   // from now to the wait nobody may count on these bytes
    runner->running().copies.copies.push_back({static_cast<unsigned char*>(shared), valid ? global : nullptr, bytes, file, line});
}

void commit_copies() {
    CopyQueue& queue = runner->running().copies;
    queue.group_ends.push_back(queue.copies.size());
}

// Reads and writes at the last moment that the hardware might choose.
void wait_for_copies(unsigned groups_left) {
    CopyQueue& queue = runner->running().copies;
    if (queue.group_ends.size() <= groups_left) return;
    const size_t groups = queue.group_ends.size() - groups_left;
    const size_t landed = queue.group_ends[groups - 1];
    for (size_t i = 0; i < landed; ++i) {
        const CopyQueue::Copy& copy = queue.copies[i];
        note_access(copy.to, copy.bytes, true, {nullptr, copy.file, copy.line});
        if (runner->asynchronous.watches_stores) watch_store(copy.to, copy.bytes, copy.file, copy.line);
        if (copy.from) {
            memcpy(copy.to, copy.from, copy.bytes);
        } else {
            memset(copy.to, 0, copy.bytes);
        }
    }
    queue.copies.erase(queue.copies.begin(), queue.copies.begin() + static_cast<ptrdiff_t>(landed));
    queue.group_ends.erase(queue.group_ends.begin(), queue.group_ends.begin() + static_cast<ptrdiff_t>(groups));
    for (size_t& end : queue.group_ends) end -= landed;
}

}  // namespace standin
