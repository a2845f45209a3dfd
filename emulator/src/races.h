// races.h: two threads of a block at one byte of shared memory, one of them writing, with nothing that orders them.
//
// Kernels that are compiled with -fsanitize=thread (DSR_STANDIN_RACES=1) report each access to this library, which
// stands in for libtsan.
#pragma once
#include <cstddef>
#include <cstdint>
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

// For what the stand-in itself does in the name of a thread; no more than a test where kernels are not compiled for it.
void note_access(const void* address, size_t bytes, bool is_write, Place place);

}  // namespace standin
