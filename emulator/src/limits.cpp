// limits.cpp: the launch limits of compute capability 8.0.
#include <algorithm>

#include "cuda_codes.h"
#include "grid.h"

namespace standin {

namespace {

constexpr unsigned REGISTER_FILE = 65536;            // of a block, and of a multiprocessor
constexpr unsigned MOST_WARPS = 64, MOST_BLOCKS = 32;
constexpr size_t SHARED_OF_MULTIPROCESSOR = 164 * 1024, SHARED_RESERVED = 1024;

// Registers are given out to warps, 256 at a time.
unsigned registers_of_block(unsigned registers, unsigned threads) {
    const unsigned warps = (threads + 31) / 32;
    return warps * ((registers * 32 + 255) / 256 * 256);
}

}  // namespace

unsigned Function::registers() const {
    const auto& all = settings().registers;
    const auto found = all.find(entry->name);
    return found == all.end() ? 0 : found->second;
}

Problem check_launch(const Function& function, const Launch& launch) {
    const KernelEntry& kernel = *function.entry;
    const dim3 g = launch.grid, b = launch.block;
    const uint64_t threads = (uint64_t)b.x * b.y * b.z;
    auto refuse = [&](int code, const std::string& why) { return Problem{code, text("launch of %s refused: ", kernel.name) + why}; };

    if (g.x == 0 || g.y == 0 || g.z == 0 || b.x == 0 || b.y == 0 || b.z == 0) {
        return refuse(CUDA_INVALID_VALUE, text("an empty grid (%u, %u, %u) or block (%u, %u, %u)", g.x, g.y, g.z, b.x, b.y, b.z));
    }
    if (g.x > 0x7fffffffu || g.y > 65535 || g.z > 65535) {
        return refuse(CUDA_INVALID_VALUE, text("a grid of (%u, %u, %u) is above (2147483647, 65535, 65535)", g.x, g.y, g.z));
    }
    if (b.x > 1024 || b.y > 1024 || b.z > 64 || threads > MAX_BLOCK) {
        return refuse(CUDA_INVALID_VALUE, text("a block of (%u, %u, %u) is above (1024, 1024, 64) or 1024 threads", b.x, b.y, b.z));
    }
    if ((uint64_t)g.x * g.y * g.z > 0xffffffffu) return refuse(CUDA_INVALID_VALUE, "more blocks than the stand-in can count");
    if (threads > kernel.block) {
        return refuse(CUDA_LAUNCH_OUT_OF_RESOURCES, text("%u threads a block, but its launch bounds are %u", (unsigned)threads, kernel.block));
    }
    const size_t shared = function.static_bytes + (size_t)launch.dynamic_bytes;
    if (shared > SHARED_LIMIT) {
        return refuse(CUDA_INVALID_VALUE, text("%zu bytes of shared memory, and a block has at most %zu", shared, SHARED_LIMIT));
    }
    const size_t opted_in = std::max((size_t)function.dynamic_limit, SHARED_WITHOUT_OPT_IN - std::min((size_t)function.static_bytes, SHARED_WITHOUT_OPT_IN));
    if (launch.dynamic_bytes > opted_in) {
        return refuse(CUDA_INVALID_VALUE, text("%u bytes of dynamic shared memory, and its attribute MAX_DYNAMIC_SHARED_SIZE_BYTES allows %zu", launch.dynamic_bytes, opted_in));
    }
    const unsigned registers = registers_of_block(function.registers(), (unsigned)threads);
    if (registers > REGISTER_FILE) {
        return refuse(CUDA_LAUNCH_OUT_OF_RESOURCES, text("%u threads of %u registers take %u, and there are %u", (unsigned)threads, function.registers(), registers, REGISTER_FILE));
    }
    return {};
}

unsigned blocks_per_multiprocessor(const Function& function, unsigned threads, size_t dynamic_bytes) {
    if (threads == 0 || threads > function.entry->block) return 0;
    unsigned blocks = std::min(MOST_BLOCKS, MOST_WARPS / ((threads + 31) / 32));
    const size_t shared = function.static_bytes + dynamic_bytes + SHARED_RESERVED;
    blocks = (unsigned)std::min((size_t)blocks, SHARED_OF_MULTIPROCESSOR / shared);
    if (const unsigned registers = registers_of_block(function.registers(), threads)) blocks = std::min(blocks, REGISTER_FILE / registers);
    return blocks;
}

}  // namespace standin
