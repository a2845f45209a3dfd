// grid.h: runs the blocks of a launch on OS threads, and says beforehand what the pretended device could not run.
#pragma once
#include "block.h"

namespace standin {

// What the driver keeps of a kernel beside its entry.
struct Function {
    const KernelEntry* entry;
    unsigned static_bytes = 0;             // shared memory of its arrays, known after its first launch
    unsigned dynamic_limit = 0;            // the opt-in attribute; 0: not set
    bool launched = false;
    unsigned registers() const;            // of the real kernel, where the environment says it
};

// Null where no kernel has this name.
Function* find_function(const std::string& name);
// dlopens the kernel libraries: those beside this library, and those in DSR_STANDIN_KERNELS. False with a line on stderr.
bool load_kernel_libraries();

// Limits of the pretended device; a problem here is one that the launching call returns.
Problem check_launch(const Function& function, const Launch& launch);
// Most blocks that fit a multiprocessor.
unsigned blocks_per_multiprocessor(const Function& function, unsigned threads, size_t dynamic_bytes);

// Runs it to its end. A problem here is one that a later synchronisation returns.
Problem run_grid(Function& function, const Launch& launch);

}  // namespace standin
