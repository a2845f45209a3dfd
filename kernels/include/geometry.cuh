// geometry.cuh: shapes of a connection, field for field `DeviceGeometry` in src/ops/spike_conv/device.rs.
#pragma once

// An average pool over the source ([1, 1, 0] for none), then a convolution; a linear layer is one that covers its input.
struct Geometry {
    int cin, cout;
    int source_h, source_w;
    int pool, pool_stride, pool_pad;    // window, stride, padding
    int pooled_h, pooled_w;             // after the pool
    int kernel_h, kernel_w, stride, pad;
    int out_h, out_w;
};
static_assert(sizeof(Geometry) == 60, "Geometry and DeviceGeometry are one layout");
