// memory.cpp: allocations that end at a page that cannot be touched.
#include "memory.h"

#include <sys/mman.h>
#include <unistd.h>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "canary.h"
#include "cuda_codes.h"
#include "settings.h"

namespace standin {

namespace {

constexpr size_t GUARD = 1 << 20;
constexpr size_t GRANULARITY = 512;                  // what a real allocation is rounded up to
constexpr size_t POISONED = 256ull << 20;
constexpr size_t REMEMBERED = 4096;                  // freed allocations

size_t page_bytes() {
    static const size_t bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    return bytes;
}

size_t round_up(size_t value, size_t to) { return (value + to - 1) / to * to; }

const Allocation* containing(const std::map<char*, Allocation>& map, const char* at, size_t bytes) {
    auto next = map.upper_bound(const_cast<char*>(at));
    if (next == map.begin()) return nullptr;
    const Allocation& allocation = std::prev(next)->second;
    const char* const end = allocation.start + allocation.bytes;
    return at <= end && bytes <= static_cast<size_t>(end - at) ? &allocation : nullptr;    // -1 is an address, too
}

std::string name(const Allocation& a) { return text("the allocation of %zu bytes at %p", a.bytes, static_cast<void*>(a.start)); }

}  // namespace

DeviceMemory::DeviceMemory() {
    void* const wanted = reinterpret_cast<void*>(0x100000000000ull);      // far from heap, stacks, and libraries
    for (size_t bytes = 1ull << 44; bytes >= 1ull << 34; bytes /= 4) {
        void* range = mmap(wanted, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (range == MAP_FAILED) continue;
        range_ = static_cast<char*>(range);
        range_end_ = range_ + bytes;
        next_ = reinterpret_cast<char*>(round_up(reinterpret_cast<size_t>(range_) + GUARD, GUARD));
        return;
    }
    report("no range of addresses for the memory of the device");
}

void DeviceMemory::protect(bool touchable) {
    for (const auto& [start, a] : live_) {
        mprotect(a.pages, static_cast<size_t>(a.pages_end - a.pages), touchable ? PROT_READ | PROT_WRITE : PROT_NONE);
    }
}

size_t DeviceMemory::total() const { return settings().memory_bytes; }

int DeviceMemory::allocate(size_t bytes, char** start) {
    if (bytes == 0) return CUDA_INVALID_VALUE;
    const size_t counted = round_up(bytes, GRANULARITY);
    if (counted < bytes || counted > total() - used_) return CUDA_OUT_OF_MEMORY;
    const size_t touchable = round_up(bytes, page_bytes());
    if (!next_ || static_cast<size_t>(range_end_ - next_) < touchable + GUARD) {
        report("the addresses for the memory of the device are used up");
        return CUDA_OUT_OF_MEMORY;
    }
    if (mprotect(next_, touchable, PROT_READ | PROT_WRITE) != 0) return CUDA_OUT_OF_MEMORY;
    Allocation a;
    a.pages = next_;
    a.pages_end = next_ + touchable;
    a.start = a.pages_end - round_up(bytes, 16);
    a.bytes = bytes;
    a.counted = counted;
    fill_canary(a.pages, a.start);
    fill_canary(a.start + bytes, a.pages_end);
    memset(a.start, 0xff, bytes < POISONED ? bytes : POISONED);
    next_ = a.pages_end + GUARD;
    used_ += counted;
    live_[a.start] = a;
    *start = a.start;
    return CUDA_OK;
}

int DeviceMemory::release(char* start) {
    if (!start) return CUDA_OK;
    auto found = live_.find(start);
    if (found == live_.end()) {
        report(text("free of %p, ", static_cast<void*>(start)) + describe(start));
        return CUDA_INVALID_VALUE;
    }
    const Allocation a = found->second;
    madvise(a.pages, static_cast<size_t>(a.pages_end - a.pages), MADV_DONTNEED);
    mprotect(a.pages, static_cast<size_t>(a.pages_end - a.pages), PROT_NONE);
    used_ -= a.counted;
    live_.erase(found);
    if (freed_.size() == REMEMBERED) freed_.erase(freed_.begin());
    freed_[a.start] = a;
    return CUDA_OK;
}

void DeviceMemory::release_all() {
    while (!live_.empty()) release(live_.begin()->first);
}

const Allocation* DeviceMemory::find(const void* address, size_t bytes) const {
    return containing(live_, static_cast<const char*>(address), bytes);
}

bool DeviceMemory::in_range(const void* address) const { return address >= range_ && address < range_end_; }

bool DeviceMemory::was_freed(const void* address) const { return containing(freed_, static_cast<const char*>(address), 1) != nullptr; }

std::string DeviceMemory::describe(const void* address) const {
    const char* at = static_cast<const char*>(address);
    if (address == nullptr) return "a null pointer (or an address that no processor has)";
    if (!in_range(address)) return pinned_memory().contains(address, 1) ? "page-locked host memory" : "host memory, which a device does not reach";
    if (const Allocation* a = containing(freed_, at, 1)) return "in freed memory: " + name(*a);
    if (const Allocation* a = containing(live_, at, 1)) return text("byte %zu of ", static_cast<size_t>(at - a->start)) + name(*a);
    auto next = live_.upper_bound(const_cast<char*>(at));
    const Allocation* below = next == live_.begin() ? nullptr : &std::prev(next)->second;
    const Allocation* above = next == live_.end() ? nullptr : &next->second;
    const size_t past = below ? static_cast<size_t>(at - (below->start + below->bytes)) : SIZE_MAX;
    const size_t before = above ? static_cast<size_t>(above->start - at) : SIZE_MAX;
    if (!below && !above) return "device memory that was never allocated";
    if (past <= before) return text("%zu bytes past the end of ", past) + name(*below);
    return text("%zu bytes before the start of ", before) + name(*above);
}

std::string DeviceMemory::overrun() {
    for (auto& [start, a] : live_) {
        if (!canary_is_whole(a.pages, a.start)) {
            fill_canary(a.pages, a.start);
            return "a write before the start of " + name(a);
        }
        if (!canary_is_whole(a.start + a.bytes, a.pages_end)) {
            fill_canary(a.start + a.bytes, a.pages_end);
            return "a write past the end of " + name(a);
        }
    }
    return "";
}

std::string DeviceMemory::list() const {
    std::string lines;
    for (const auto& [start, a] : live_) lines += "\n  " + name(a);
    return lines;
}

DeviceMemory& device_memory() {
    static DeviceMemory* const memory = new DeviceMemory();
    return *memory;
}

int PinnedMemory::allocate(size_t bytes, void** start) {
    void* block = nullptr;
    if (bytes == 0) return CUDA_INVALID_VALUE;
    if (posix_memalign(&block, 4096, bytes) != 0) return CUDA_OUT_OF_MEMORY;
    memset(block, 0xff, bytes);
    blocks_[static_cast<char*>(block)] = {bytes, true};
    *start = block;
    return CUDA_OK;
}

int PinnedMemory::release(void* start) {
    auto found = blocks_.find(static_cast<char*>(start));
    if (found == blocks_.end() || !found->second.own) return CUDA_INVALID_VALUE;
    blocks_.erase(found);
    free(start);
    return CUDA_OK;
}

int PinnedMemory::add(void* start, size_t bytes) {
    if (!start || bytes == 0) return CUDA_INVALID_VALUE;
    blocks_[static_cast<char*>(start)] = {bytes, false};
    return CUDA_OK;
}

int PinnedMemory::remove(void* start) {
    auto found = blocks_.find(static_cast<char*>(start));
    if (found == blocks_.end() || found->second.own) return CUDA_INVALID_VALUE;
    blocks_.erase(found);
    return CUDA_OK;
}

bool PinnedMemory::contains(const void* address, size_t bytes) const {
    char* at = static_cast<char*>(const_cast<void*>(address));
    auto next = blocks_.upper_bound(at);
    if (next == blocks_.begin()) return false;
    const auto& [start, block] = *std::prev(next);
    return at <= start + block.bytes && bytes <= static_cast<size_t>(start + block.bytes - at);
}

PinnedMemory& pinned_memory() {
    static PinnedMemory* const memory = new PinnedMemory();
    return *memory;
}

}  // namespace standin
