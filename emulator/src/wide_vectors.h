// wide_vectors.h: inner loops also for AVX2, chosen when the library is loaded. No fused multiply-adds come of it: -ffp-contract=off.
#pragma once

#if defined(__x86_64__)
#define FOR_WIDE_VECTORS __attribute__((target_clones("avx2", "default")))
#else
#define FOR_WIDE_VECTORS
#endif
