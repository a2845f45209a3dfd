// ptx.h: what each PTX instruction does, as a C++ function; translated kernels are calls of these. Numbers are sections of the
// PTX ISA 9.x; those of 9.7.9 to 9.7.14 move by one or two between releases of the document.
//
// Written from the PTX ISA alone: nothing here is taken from host/ or matrix.cpp, so that an error there, or in the inline PTX of
// kernels/include/device.cuh, cannot be made twice. Shared with the other engine are only stacks, barriers, meetings of lanes (who
// waits for whom), shared memory, and the queue of cp.async.
#pragma once
#include "ptx/runtime/floats.h"
#include "ptx/runtime/integers.h"
#include "ptx/runtime/memory.h"
#include "ptx/runtime/products.h"
#include "ptx/runtime/warp.h"
#include "ptx/runtime/warpgroup.h"
