// watch.cpp: for each byte of global memory, which block of this launch has read it, written it, or changed it by atomics, and
// whether it was read by ld.global.nc (PTX ISA 9.7.9.9: memory that is read-only for as long as the kernel runs; the device may
// serve it from a cache that no store reaches).
//
// A launch that may begin before the one before has ended (dependent.h) does not read by ld.global.nc what that one has written.
//
// Threads of one block are not compared with each other, but for ld.global.nc.
#include "watch.h"

#include <memory>
#include <mutex>
#include <unordered_map>

#include "block.h"
#include "cuda_codes.h"

namespace standin {

namespace {

constexpr uint32_t NOBODY = 0, SEVERAL = ~0u;        // else a block's number + 1
constexpr uint64_t PAGE = 4096;

struct Byte { uint32_t reader, writer, changer; bool constant; uint32_t written; };           // `written`: by which launch; 0: none
struct Page { uint64_t launch = 0; Byte of[PAGE]{}; };

uint64_t launch = 0;
bool may_be_early = false;

Byte& byte_of(uint64_t address) {
    static auto* const pages = new std::unordered_map<uint64_t, std::unique_ptr<Page>>();
    static uint64_t last_number = ~0ull;
    static Page* last = nullptr;
    if (address / PAGE != last_number) {
        std::unique_ptr<Page>& slot = (*pages)[address / PAGE];
        if (!slot) slot = std::make_unique<Page>();
        last_number = address / PAGE;
        last = slot.get();
    }
    if (last->launch != launch) {
        last->launch = launch;
        for (Byte& byte : last->of) byte = {NOBODY, NOBODY, NOBODY, false, byte.written};
    }
    return last->of[address % PAGE];
}

void join(uint32_t& whom, uint32_t block) { whom = whom == NOBODY || whom == block ? block : SEVERAL; }
bool another(uint32_t who, uint32_t block) { return who != NOBODY && who != block; }

// What is wrong with an access to a byte, or null; then the byte knows of it.
const char* look(Byte& byte, Access access, uint32_t block) {
    switch (access) {
        case Access::ReadConstant:
            if (byte.writer != NOBODY || byte.changer != NOBODY) return "reads by ld.global.nc what this launch has written (a wrong __restrict__)";
            if (may_be_early && byte.written && byte.written + 1 == static_cast<uint32_t>(launch)) {
                return "reads by ld.global.nc what the kernel before has written, which may still run when this one begins";
            }
            byte.constant = true;
            [[fallthrough]];
        case Access::Read:
            if (another(byte.writer, block)) return "reads what another block has written";
            if (another(byte.changer, block)) return "reads what another block changes by atomics";
            join(byte.reader, block);
            return nullptr;
        case Access::Write:
            if (byte.constant) return "writes what this launch has read by ld.global.nc (a wrong __restrict__)";
            if (another(byte.reader, block)) return "writes what another block has read";
            if (another(byte.writer, block)) return "writes what another block has written";
            if (another(byte.changer, block)) return "writes what another block changes by atomics";
            join(byte.writer, block);
            byte.written = static_cast<uint32_t>(launch);
            return nullptr;
        case Access::Atomic:
            if (byte.constant) return "changes what this launch has read by ld.global.nc (a wrong __restrict__)";
            if (another(byte.writer, block)) return "changes by atomics what another block has written";
            if (another(byte.reader, block)) return "changes by atomics what another block has read";
            join(byte.changer, block);
            byte.written = static_cast<uint32_t>(launch);
    }
    return nullptr;
}

}  // namespace

void watch_launch(bool is_dependent) {
    ++launch;
    may_be_early = is_dependent;
}

void watch(const void* address, uint32_t bytes, Access access, const char* file, int line) {
    if (!runner || runner->shared.near(address)) return;
    const BlockPlace& place = *current->block;
    const uint32_t block = (place.index.z * place.grid.y + place.index.y) * place.grid.x + place.index.x + 1;
    const uint64_t first = reinterpret_cast<uint64_t>(address);
    const char* wrong = nullptr;
    {
        static std::mutex lock;                      // blocks run on several OS threads
        const std::lock_guard<std::mutex> guard(lock);
        for (uint64_t at = first; at < first + bytes && !wrong; ++at) wrong = look(byte_of(at), access, block);
    }
    if (wrong) runner->fail(CUDA_LAUNCH_FAILED, text("watch: %s: %p, at %s:%d", wrong, address, file, line));
}

}  // namespace standin
