// canary.cpp: fills and compares ranges of the bytes e5 ff, by address, so that any part of a range can be checked.
#include "canary.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace standin {

namespace {

constexpr size_t LENGTH = 64 * 1024;

const unsigned char* pattern() {
    static unsigned char* const bytes = [] {
        unsigned char* all = new unsigned char[LENGTH + 1];
        for (size_t i = 0; i <= LENGTH; ++i) all[i] = i % 2 == 0 ? 0xe5 : 0xff;
        return all;
    }();
    return bytes;
}

}  // namespace

void fill_canary(void* from, void* to) {
    for (unsigned char *at = static_cast<unsigned char*>(from), *end = static_cast<unsigned char*>(to); at < end;) {
        const size_t part = std::min(static_cast<size_t>(end - at), LENGTH);
        memcpy(at, pattern() + (reinterpret_cast<uintptr_t>(at) & 1), part);
        at += part;
    }
}

bool canary_is_whole(const void* from, const void* to) {
    for (const unsigned char *at = static_cast<const unsigned char*>(from), *end = static_cast<const unsigned char*>(to); at < end;) {
        const size_t part = std::min(static_cast<size_t>(end - at), LENGTH);
        if (memcmp(at, pattern() + (reinterpret_cast<uintptr_t>(at) & 1), part) != 0) return false;
        at += part;
    }
    return true;
}

}  // namespace standin
