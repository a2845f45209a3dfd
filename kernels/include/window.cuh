// window.cuh: the positions of a pool window, in the order in which every device adds them up.
#pragma once
#include "device.cuh"
#include "geometry.cuh"

// Rows and columns of the source in a pool window.
struct Window {
    int first_y, end_y, first_x, end_x;
};

__device__ __forceinline__ Window window_of(const Geometry& g, int pooled) {
    const int y = pooled / g.pooled_w * g.pool_stride - g.pool_pad, x = pooled % g.pooled_w * g.pool_stride - g.pool_pad;
    return {max(y, 0), min(y + g.pool, g.source_h), max(x, 0), min(x + g.pool, g.source_w)};
}

// Calls visit(p) for the source positions of a window.
template <typename Visit>
__device__ __forceinline__ void for_each_in_window(const Geometry& g, int pooled, Visit visit) {
    const Window window = window_of(g, pooled);
    for (int y = window.first_y; y < window.end_y; ++y) {
        for (int x = window.first_x; x < window.end_x; ++x) visit(y * g.source_w + x);
    }
}
