// augment.cu: a batch for the network from bytes: cut, mirrored, normalised, with squares of zeros.
//
// Equation   out[b][y][x][c] = table[c][byte of image b at (y + top - pad, column + left - pad)], column = flip ? W - 1 - x : x;
//            outside of the image the byte is 0; inside the hole of image b the value is 0
// Shapes     images [N][H][W][C] u8;  draws [B] of (image, top, left, flip), or null: then N = B and the images are taken as they are;
//            holes [B] of (top, left, bottom, right), or null;  table [C][256] f32;  out [B][1][H][W][C] f32
// Launch     one thread a value, block 256, grid ceil(B*H*W*C / 256)
// Traffic    reads 1 byte a value (and the table from cache), writes 4: memory-bound
// Exactness  a look-up: bit-equal to Pixels::append_drawn of src/data/augment.rs
// Tests      tests/augment_cuda.rs

#include "include/device.cuh"

struct Augment {
    int batch;
    int height, width, channels;
    int pad;                 // pixels of black around an image, before the cut
};

extern "C" __global__ void __launch_bounds__(256)
augment(float* __restrict__ out,                         // [B][1][H][W][C]
        const uint8_t* __restrict__ images,              // [N][H][W][C]
        const int4* __restrict__ draws,                  // [B] image, top, left, flip
        const int4* __restrict__ holes,                  // [B] top, left, bottom, right
        const float* __restrict__ table,                 // [C][256]
        Augment p) {
    const int value = blockIdx.x * 256 + threadIdx.x;
    const int c = value % p.channels, pixel = value / p.channels;
    const int x = pixel % p.width, y = pixel / p.width % p.height, b = pixel / p.width / p.height;
    if (b >= p.batch) return;
    const int4 draw = draws == nullptr ? make_int4(b, p.pad, p.pad, 0) : draws[b];
    const int row = y + draw.y - p.pad, column = (draw.w ? p.width - 1 - x : x) + draw.z - p.pad;
    const bool inside = (unsigned)row < (unsigned)p.height && (unsigned)column < (unsigned)p.width;
    const size_t at = (((size_t)draw.x * p.height + row) * p.width + column) * p.channels + c;
    const int4 hole = holes == nullptr ? make_int4(0, 0, 0, 0) : holes[b];
    const bool is_cut = y >= hole.x && y < hole.z && x >= hole.y && x < hole.w;
    out[value] = is_cut ? 0.0f : table[c * 256 + (inside ? images[at] : 0)];
}

KERNEL(augment, 256)
