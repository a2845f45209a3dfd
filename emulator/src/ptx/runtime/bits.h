// bits.h: values by their bits.
#pragma once
#include "host/kernel.h"
#include "host/threads.h"

namespace ptx {

// ---- Bits

inline uint32_t bits(float value) { uint32_t result; memcpy(&result, &value, 4); return result; }
inline uint64_t bits(double value) { uint64_t result; memcpy(&result, &value, 8); return result; }
inline float f32_of(uint32_t bits) { float result; memcpy(&result, &bits, 4); return result; }
inline double f64_of(uint64_t bits) { double result; memcpy(&result, &bits, 8); return result; }

// A result of an f32 instruction that is not a number has these bits, whatever the operands (CUDA C++ Programming Guide,
// "Floating-Point Standard"). Results in f64 keep the host's bits.
inline float canonical(float value) { return value != value ? f32_of(0x7fffffffu) : value; }
inline double canonical(double value) { return value; }

}  // namespace ptx
