// products.cpp: mma.sync, fragment by fragment as the PTX ISA lays them out (products.h). Part of the driver: it is the same for
// every kernel.
#include "ptx/runtime/products.h"

#include <cmath>
#include <cstdlib>

#include "ptx/runtime/floats.h"
#include "wide_vectors.h"

namespace ptx::inner {

namespace {

constexpr int MOST = 64;                             // different operands a (or b) of one meeting

// Element i of a lane's 8-bit operand.
int byte_of(const uint32_t* x, const uint16_t* registers, int i) { return x[registers[i / 4]] >> (8 * (i % 4)) & 0xff; }
// Element i of a lane's bf16 operand: the upper half of an f32.
float half_of(const uint32_t* x, const uint16_t* registers, int i) { return f32_of((x[registers[i / 2]] >> (16 * (i % 2)) & 0xffff) << 16); }

struct IntegerA { int at[16][32]; uint32_t any[16]; };          // [row][k]; bit k/4: four elements that are not all 0
struct IntegerB { alignas(32) int at[32][8]; };                 // [k][column]
struct FloatA { float at[16][16]; };
struct FloatB { alignas(32) float at[16][8]; };

void gather(IntegerA& to, void* const* records, const uint16_t* registers) {
    for (uint32_t& any : to.any) any = 0;
    for (int lane = 0; lane < 32; ++lane) {
        const uint32_t* x = lane_registers(records, lane);
        for (int i = 0; i < 16; ++i) {
            const int row = lane / 4 + ((0 <= i && i < 4) || (8 <= i && i < 12) ? 0 : 8);
            const int column = lane % 4 * 4 + (i & 3) + (i < 8 ? 0 : 16);
            to.at[row][column] = byte_of(x, registers, i);
            if (to.at[row][column] != 0) to.any[row] |= 1u << (column / 4);
        }
    }
}

void gather(IntegerB& to, void* const* records, const uint16_t* registers) {
    for (int lane = 0; lane < 32; ++lane) {
        const uint32_t* x = lane_registers(records, lane);
        for (int i = 0; i < 8; ++i) {
            const int row = lane % 4 * 4 + (i & 3) + (i < 4 ? 0 : 16);
            to.at[row][lane / 4] = static_cast<int8_t>(byte_of(x, registers, i));
        }
    }
}

void gather(FloatA& to, void* const* records, const uint16_t* registers) {
    for (int lane = 0; lane < 32; ++lane) {
        const uint32_t* x = lane_registers(records, lane);
        for (int i = 0; i < 8; ++i) {
            const int row = lane / 4 + ((0 <= i && i < 2) || (4 <= i && i < 6) ? 0 : 8);
            to.at[row][lane % 4 * 2 + (i & 1) + (i < 4 ? 0 : 8)] = half_of(x, registers, i);
        }
    }
}

void gather(FloatB& to, void* const* records, const uint16_t* registers) {
    for (int lane = 0; lane < 32; ++lane) {
        const uint32_t* x = lane_registers(records, lane);
        for (int i = 0; i < 4; ++i) to.at[lane % 4 * 2 + (i & 1) + (i < 2 ? 0 : 8)][lane / 4] = half_of(x, registers, i);
    }
}

// All operands of a meeting, then all products in their order: later ones may read sums of earlier ones.
template <typename A, typename B, typename Multiply>
void exchange(void* const* records, uint32_t mask, Multiply multiply) {
    need_warp(mask, "mma.sync");
    const Products& products = *static_cast<MmaRecord*>(records[0])->products;
    if (products.a_count > MOST || products.b_count > MOST) standin::fail_launch("more than %d operands of mma.sync at once", MOST);
    static thread_local A* const a = new A[MOST];       // once an OS thread, and never freed
    static thread_local B* const b = new B[MOST];
    for (int i = 0; i < products.a_count; ++i) gather(a[i], records, products.a[i]);
    for (int i = 0; i < products.b_count; ++i) gather(b[i], records, products.b[i]);
    for (int p = 0; p < products.count; ++p) {
        const Product& product = products.of[p];
        multiply(records, product, a[product.a], b[product.b]);
    }
}

FOR_WIDE_VECTORS void multiply_integers(void* const* records, const Product& product, const IntegerA& a, const IntegerB& b) {
    int sums[16][8] = {};
    for (int row = 0; row < 16; ++row) {
        for (uint32_t rest = a.any[row]; rest != 0; rest &= rest - 1) {
            const int first = __builtin_ctz(rest) * 4;
            for (int k = first; k < first + 4; ++k) {
                for (int column = 0; column < 8; ++column) sums[row][column] += a.at[row][k] * b.at[k][column];
            }
        }
    }
    for (int lane = 0; lane < 32; ++lane) {
        uint32_t* x = lane_registers(records, lane);
        for (int i = 0; i < 4; ++i) x[product.d[i]] = x[product.c[i]] + static_cast<uint32_t>(sums[d_row(lane, i)][d_column(lane, i)]);
    }
}

// How floats are added up. No document gives the hardware's way; code must hold for each of these.
enum class Sums { Ascending, Exact, Truncating };

Sums sums_of_environment() {
    const char* value = getenv("DSR_STANDIN_SUMS");
    if (value && strcmp(value, "exact") == 0) return Sums::Exact;
    if (value && strcmp(value, "truncating") == 0) return Sums::Truncating;
    return Sums::Ascending;
}

// Eight products and a sum as measured on tensor cores (Fasi, Higham, Mikaitis, Pranesh 2021): all are shifted to the largest exponent,
// bits below its 24 and one more are cut off, the sum is exact, and its rounding to f32 cuts again.
float truncating_sum(const float* a, const float (*b)[8], int column, float c) {
    double terms[9];
    int largest = -10000;
    for (int k = 0; k < 9; ++k) {
        terms[k] = k < 8 ? static_cast<double>(a[k]) * b[k][column] : c;
        if (!(std::fabs(terms[k]) <= 1e300)) {                       // an infinity or no number: plain arithmetic
            double sum = c;
            for (int i = 0; i < 8; ++i) sum += static_cast<double>(a[i]) * b[i][column];
            return canonical(static_cast<float>(sum));
        }
        if (terms[k] != 0.0 && std::ilogb(terms[k]) > largest) largest = std::ilogb(terms[k]);
    }
    if (largest == -10000) return 0.0f;
    double sum = 0.0;
    for (double term : terms) sum += std::ldexp(std::trunc(std::ldexp(term, 24 - largest)), largest - 24);
    const float rounded = static_cast<float>(sum);
    return std::fabs(static_cast<double>(rounded)) > std::fabs(sum) ? std::nextafterf(rounded, 0.0f) : rounded;
}

FOR_WIDE_VECTORS void multiply_floats(void* const* records, const Product& product, const FloatA& a, const FloatB& b) {
    static const Sums how = sums_of_environment();
    float sums[16][8] = {};
    if (how == Sums::Ascending) {
        for (int row = 0; row < 16; ++row) {
            for (int k = 0; k < 16; ++k) {
                for (int column = 0; column < 8; ++column) sums[row][column] += a.at[row][k] * b.at[k][column];
            }
        }
    }
    for (int lane = 0; lane < 32; ++lane) {
        uint32_t* x = lane_registers(records, lane);
        for (int i = 0; i < 4; ++i) {
            const int row = d_row(lane, i), column = d_column(lane, i);
            const float c = f32_of(x[product.c[i]]);
            float d;
            if (how == Sums::Ascending) {
                d = c + sums[row][column];
            } else if (how == Sums::Exact) {
                double sum = 0.0;
                for (int k = 0; k < 16; ++k) sum += static_cast<double>(a.at[row][k]) * b.at[k][column];
                d = static_cast<float>(c + sum);
            } else {
                d = truncating_sum(a.at[row] + 8, b.at + 8, column, truncating_sum(a.at[row], b.at, column, c));
            }
            x[product.d[i]] = bits(canonical(d));
        }
    }
}

}  // namespace

void exchange_u8s8(void* const* records, uint32_t mask) { exchange<IntegerA, IntegerB>(records, mask, multiply_integers); }
void exchange_bf16(void* const* records, uint32_t mask) { exchange<FloatA, FloatB>(records, mask, multiply_floats); }

}  // namespace ptx::inner
