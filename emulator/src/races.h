// races.h: two threads of a block at one byte of shared memory, or two blocks of a launch at one byte of global memory, one of them
// writing, with nothing that orders them.
//
// Kernels that are compiled with -fsanitize=thread (DSR_STANDIN_RACES=1) report each access to this library, which
// stands in for libtsan.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

namespace standin {

// When an access was: after how many barriers of the block, and meetings of the thread's warp.
struct Moment { uint32_t barriers, meetings; };

// Where an access is in the source: an instruction, or a line where one is known.
struct Place { const void* instruction; const char* file; int line; };

// Who has last written and read each byte. Readers are one thread, several lanes of one warp, or several warps.
class RaceCheck {
public:
    // Barriers of the block's runner so far, over all its blocks; so what an earlier block did is always ordered.
    uint32_t barriers = 1;

    // Fails the launch if this access and an earlier one are not ordered. `offset` is in shared memory.
    void access(size_t offset, size_t bytes, bool is_write, Place place);

private:
    struct Byte {
        Moment written{}, read{};
        uint16_t writer = 0, reader = 0;
    };
    std::vector<Byte> bytes_;
};

// The same for the blocks of a launch and global memory. Nothing orders two blocks but atomics, which are not reported; so what a block
// writes plainly no other block of the launch may touch.
class GlobalRaces {
public:
    // Forgets what earlier launches did: they come before this one.
    void begin_launch();
    // Empty, or what is wrong.
    std::string access(uintptr_t address, size_t bytes, bool is_write, unsigned block, Place place);

private:
    static constexpr size_t PAGE = 4096;
    struct Byte {
        uint32_t writer = 0, reader = 0;             // blocks, counted from 1; SEVERAL readers
    };
    std::mutex lock_;
    std::unordered_map<uintptr_t, std::unique_ptr<Byte[]>> pages_;
};

GlobalRaces& global_races();

// For what the stand-in itself does in the name of a thread; no more than a test where kernels are not compiled for it.
void note_access(const void* address, size_t bytes, bool is_write, Place place);

}  // namespace standin
