// asynchronous.h: what runs by itself on sm_90a, for kernels that were translated from PTX: bulk copies, products of a warpgroup, and the
// barriers of shared memory (mbarrier) that copies are waited for by.
#pragma once
#include "host/threads.h"

namespace standin {

STANDIN_API void phases_init(unsigned char* barrier, uint32_t arrivals, const char* file, int line);
// Announces bytes of the phase, and arrives.
STANDIN_API void phases_arrive(unsigned char* barrier, uint32_t bytes, const char* file, int line);
// Returns when the phase of this parity is over.
STANDIN_API void phases_wait(unsigned char* barrier, uint32_t parity, const char* file, int line);
STANDIN_API void fence_async_proxy();
STANDIN_API void copy_bulk(unsigned char* to, const unsigned char* from, uint32_t bytes, unsigned char* barrier, const char* file, int line);

// A matrix in shared memory as products read it: pieces of 16 bytes along K, by row and piece (ptx/runtime/warpgroup.cpp).
struct SharedMatrix { uint64_t descriptor; int rows; };

// wgmma.mma_async of one lane. States of registers are those of ptx/runtime/warpgroup.h.
struct LaneProduct {
    int columns;
    uint32_t* d;
    uint64_t* d_states;
    const uint32_t* a;               // 4 registers, or null
    uint64_t a_descriptor, b_descriptor;
    bool a_has_signs, adds;
    uint64_t number;                 // out: of this product among those of the warp, from 1
};
STANDIN_API void issue_product(LaneProduct& product, const char* what, const char* file, int line);
STANDIN_API void commit_products(const char* what, const char* file, int line);
STANDIN_API void wait_for_products(uint32_t groups_left, const char* what, const char* file, int line);
STANDIN_API void fence_products(const char* what, const char* file, int line);
// Whether the running thread's warp has waited for the product.
STANDIN_API bool is_waited_for(uint64_t number);
// A sum of a product that has been waited for.
STANDIN_API uint32_t sum_of_product(uint64_t number, int index);

// A plain store of the running thread to shared memory; kernels say so where they are compiled with the watch.
STANDIN_API void watch_store(const void* address, uint32_t bytes, const char* file, int line);

}  // namespace standin
