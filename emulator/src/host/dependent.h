// dependent.h: a kernel that may begin while the one before it still runs.
#pragma once
#include "host/kernel.h"
#include "host/threads.h"

namespace standin {

// griddepcontrol.wait and griddepcontrol.launch_dependents (PTX ISA 9.7.13.14).
STANDIN_API void wait_for_previous();
STANDIN_API void let_next_begin();

}  // namespace standin

#define DEPENDENT_KERNEL(name, block) KERNEL(name, block)

inline void wait_for_previous() { standin::wait_for_previous(); }
inline void let_next_begin() { standin::let_next_begin(); }
inline uint32_t load_written(const uint32_t* from) { return *from; }
