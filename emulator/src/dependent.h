// dependent.h: launches that may begin while the kernel before them still runs (programmatic dependent launch).
//
// On a device such a kernel may come to its griddepcontrol.wait at any moment since the kernel before it has let it begin. What it does
// until then must not depend on that moment, so here it may touch no global memory: before the launch itself, each thread runs to its wait
// on a device memory that nobody can touch, and is given up there.
#pragma once
#include "block.h"

namespace standin {

// While one lives, no thread can touch the memory of the device.
class UntouchableMemory {
public:
    UntouchableMemory();
    ~UntouchableMemory();
    UntouchableMemory(const UntouchableMemory&) = delete;
    UntouchableMemory& operator=(const UntouchableMemory&) = delete;
};

// A kernel has run to its end; `lets_next` says whether every block of it has let the next one begin.
void note_end_of_grid(bool lets_next);
// Counts a launch that may begin early, and whether the one before has let it.
void count_dependent();

}  // namespace standin
