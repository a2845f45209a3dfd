// warpgroup.cpp: wgmma (PTX ISA 9.7.15), products of bytes whose second matrix, and on demand the first, lies in shared memory. Part of the
// driver: it is the same for every kernel.
//
// Each warp of a warpgroup runs its 16 rows of a product by itself, as its tensor core does. When: at the wait that needs it, which is as
// late as it may; at once, under the order lifo; or either, under random. Its sums are seen by nobody before the wait.
#include <cstring>

#include "asynchronous.h"
#include "block.h"
#include "cuda_codes.h"
#include "ptx/runtime/warpgroup.h"
#include "wide_vectors.h"

namespace standin {

namespace {

constexpr int MOST_COLUMNS = 256, K = 32, PIECE = 16;

[[noreturn]] void refuse(const std::string& what, const char* file, int line) {
    runner->fail(CUDA_LAUNCH_FAILED, what + text(" (%s, line %d of the PTX)", file, line));
}

// 9.7.15.5.1.2.2, the matrix descriptor: bits 0-13 the start, 16-29 the leading and 32-45 the stride dimension byte offset, each without its
// lowest 4 bits; 49-51 the base offset; 62-63 the swizzling: none, 128, 64 or 32 bytes.
struct Descriptor {
    uint32_t start, leading, stride, base, width;
    explicit Descriptor(uint64_t bits)
        : start((bits & 0x3fff) << 4), leading((bits >> 16 & 0x3fff) << 4), stride((bits >> 32 & 0x3fff) << 4), base(bits >> 49 & 7) {
        constexpr uint32_t WIDTHS[] = {0, 128, 64, 32};
        width = WIDTHS[bits >> 62];
    }
};

// 9.7.15.5.1.2, K-major: the address of 16 bytes along K of a row (of A; a column of B), modulo 2^18.
//   no swizzle   core matrices of 8 rows of 16 bytes, one behind the other within 128 bytes; `leading` is from one to the next along K,
//                `stride` from one to the next along rows
//   swizzle      rows of `width` bytes, `stride` from 8 rows to the next 8; pieces of 16 bytes change places within a row: bits 4 and up
//                of the address get, by exclusive or, as many of those from 7 on as number the pieces
uint32_t address_of(const Descriptor& d, int row, int piece) {
    const uint32_t eights = static_cast<uint32_t>(row / 8), in_eight = static_cast<uint32_t>(row % 8), along = static_cast<uint32_t>(piece);
    if (d.width == 0) return d.start + along * d.leading + eights * d.stride + in_eight * PIECE;
    const uint32_t plain = d.start + eights * d.stride + in_eight * d.width + along * PIECE;
    return plain ^ (plain >> 7 & (d.width / PIECE - 1)) << 4;
}

// Where an address of 18 bits is: the mapping of shared memory is not larger.
const unsigned char* at(uint32_t address) {
    const unsigned char* start = runner->shared.start();
    const uint32_t of_start = static_cast<uint32_t>(ptx::DYNAMIC_SHARED_AT + (start - runner->shared.dynamic()));
    return start + ((address - of_start) & 0x3ffff);
}

// The offsets of all pieces that a warp reads.
template <typename Each>
void each_piece(uint64_t descriptor, int first_row, int rows, Each each) {
    const Descriptor d(descriptor);
    for (int row = first_row; row < first_row + rows; ++row) {
        for (int piece = 0; piece < K / PIECE; ++piece) each(at(address_of(d, row, piece)));
    }
}

void need_a_layout(uint64_t descriptor, const char* file, int line) {
    const Descriptor d(descriptor);
    if (d.base != 0) refuse("wgmma.mma_async: a base offset in a descriptor is not modelled", file, line);
    if (d.width != 0 && d.start % (8 * d.width) >= d.width) refuse("wgmma.mma_async: a swizzled matrix that does not begin at 8 rows", file, line);
}

struct Operands {
    alignas(32) int a[16][K];                        // [row][k]
    alignas(32) int b[K][MOST_COLUMNS];              // [k][column]
    alignas(32) int sums[16][MOST_COLUMNS];
};

FOR_WIDE_VECTORS void multiply(Operands& of, int columns) {
    for (int row = 0; row < 16; ++row) {
        for (int k = 0; k < K; ++k) {
            const int factor = of.a[row][k];
            if (factor == 0) continue;
            for (int column = 0; column < columns; ++column) of.sums[row][column] += factor * of.b[k][column];
        }
    }
}

// 9.7.15.5.1.1, registers of a lane: row of 16 and byte along K of register r of A; row and column of sum i.
int a_row(int lane, int r) { return lane / 4 + r % 2 * 8; }
int a_byte(int lane, int r) { return lane % 4 * 4 + r / 2 * 16; }
int d_row(int lane, int i) { return lane / 4 + i % 4 / 2 * 8; }
int d_column(int lane, int i) { return i / 4 * 8 + lane % 4 * 2 + i % 2; }

}  // namespace

const Asynchronous::Product& Asynchronous::product(unsigned warp, uint64_t number) const {
    for (const Product& product : products_[warp].of) {
        if (product.number == number) return product;
    }
    runner->fail(CUDA_LAUNCH_FAILED, text("a sum of product %llu of this warp, which is long gone", static_cast<unsigned long long>(number)));
}

uint32_t Asynchronous::sum(unsigned warp, unsigned lane, uint64_t number, int index) const {
    const Product& of = product(warp, number);
    return of.sums[lane * static_cast<unsigned>(of.columns) / 2 + static_cast<unsigned>(index)];
}

bool Asynchronous::reads(unsigned warp, const Product& product, size_t offset, size_t bytes) const {
    bool found = false;
    const auto look = [&](const unsigned char* piece) {
        const size_t first = runner->shared.offset(piece);
        found = found || (first < offset + bytes && offset < first + PIECE);
    };
    each_piece(product.b_descriptor, 0, product.columns, look);
    if (!product.has_a_registers) each_piece(product.a_descriptor, static_cast<int>(warp % 4 * 16), 16, look);
    return found;
}

// What is wrong with the shared memory that a product is to read, or empty.
std::string Asynchronous::fault_of_pieces(unsigned warp, const Product& product) const {
    std::string fault;
    const auto look = [&](const unsigned char* piece) {
        if (!fault.empty()) return;
        if (!runner->shared.contains(piece, PIECE)) fault = "reads beside the block's shared memory: a wrong descriptor";
        for (const Copy& copy : copies_) {
            if (piece < copy.to + copy.bytes && copy.to < piece + PIECE) fault = "reads what a copy that is under way has not brought";
        }
        const size_t word = runner->shared.offset(piece) / 4;
        for (size_t at = word; at < word + PIECE / 4 && at < stores_.size(); ++at) {
            const Store& store = stores_[at];
            if (store.time > started_ && !is_fenced(store.thread, store.time, store.barriers)) {
                fault = text("reads what thread %u has stored, with no fence.proxy.async in between", store.thread);
            }
        }
    };
    each_piece(product.b_descriptor, 0, product.columns, look);
    if (!product.has_a_registers) each_piece(product.a_descriptor, static_cast<int>(warp % 4 * 16), 16, look);
    return fault;
}

void Asynchronous::issue(unsigned warp, LaneProduct* const* lanes, const char* file, int line) {
    if (products_.empty()) {
        products_.resize(MAX_WARPS);
        issued_.resize(MAX_WARPS / 4);
    }
    const LaneProduct& first = *lanes[0];
    Products& all = products_[warp];
    Product product{++all.last, first.columns, first.a != nullptr, first.a_has_signs, first.adds, false, {}, first.a_descriptor, first.b_descriptor, {}, {}, file, line};
    const int half = first.columns / 2;
    for (int lane = 0; lane < 32; ++lane) {
        const LaneProduct& own = *lanes[lane];
        const bool agrees = own.b_descriptor == first.b_descriptor && own.a_descriptor == first.a_descriptor && own.adds == first.adds;
        if (!agrees) refuse(text("wgmma.mma_async: lane %d has another descriptor or scale-d than lane 0", lane), file, line);
        if (own.a) memcpy(product.a[lane], own.a, sizeof(product.a[lane]));
        for (int i = 0; i < half; ++i) {
            const uint64_t state = own.d_states[i];
            const bool in_flight = state & ptx::IN_FLIGHT;
            product.sums.push_back(own.d[i]);
            product.from.push_back(in_flight ? state & ~ptx::IN_FLIGHT : 0);
        }
    }
    need_a_layout(product.b_descriptor, file, line);
    if (!product.has_a_registers) need_a_layout(product.a_descriptor, file, line);
    std::vector<Issued>& of_group = issued_[warp / 4];
    if (of_group.size() < all.last) {
        of_group.push_back({file, line, product.columns, product.a_descriptor, product.b_descriptor, product.adds});
    } else {
        const Issued& other = of_group[all.last - 1];
        const bool agrees = other.line == line && other.columns == product.columns && other.a_descriptor == product.a_descriptor &&
                            other.b_descriptor == product.b_descriptor && other.adds == product.adds;
        if (!agrees) refuse("wgmma.mma_async: another warp of the warpgroup has another product here", file, line);
    }
    const std::string fault = fault_of_pieces(warp, product);
    if (!fault.empty()) refuse("wgmma.mma_async " + fault, file, line);
    for (int lane = 0; lane < 32; ++lane) lanes[lane]->number = product.number;
    all.of.push_back(std::move(product));
    if (order_ == Order::Lifo || (order_ == Order::Random && by_chance())) run_to(warp, all.last);
}

void Asynchronous::run(unsigned warp, Product& product) {
    const std::string fault = fault_of_pieces(warp, product);
    if (!fault.empty()) refuse("wgmma.mma_async " + fault, product.file, product.line);
    static thread_local Operands* const of = new Operands;           // once an OS thread, and never freed
    memset(of->sums, 0, sizeof(of->sums));
    const Descriptor b(product.b_descriptor), a(product.a_descriptor);
    for (int column = 0; column < product.columns; ++column) {
        for (int k = 0; k < K; ++k) of->b[k][column] = static_cast<int8_t>(at(address_of(b, column, k / PIECE))[k % PIECE]);
    }
    const auto value_of = [&](uint32_t byte) { return product.a_has_signs ? static_cast<int8_t>(byte) : static_cast<int>(byte & 0xff); };
    if (product.has_a_registers) {
        for (int lane = 0; lane < 32; ++lane) {
            for (int i = 0; i < 16; ++i) {
                const uint32_t byte = product.a[lane][i / 4] >> (8 * (i % 4));
                of->a[a_row(lane, i / 4)][a_byte(lane, i / 4) + i % 4] = value_of(byte);
            }
        }
    } else {
        const int first = static_cast<int>(warp % 4 * 16);
        for (int row = 0; row < 16; ++row) {
            for (int k = 0; k < K; ++k) of->a[row][k] = value_of(at(address_of(a, first + row, k / PIECE))[k % PIECE]);
        }
    }
    multiply(*of, product.columns);
    const int half = product.columns / 2;
    for (int lane = 0; lane < 32; ++lane) {
        for (int i = 0; i < half; ++i) {
            const size_t place = static_cast<size_t>(lane * half + i);
            const uint64_t from = product.from[place];
            uint32_t former = product.sums[place];
            if (from != 0) former = sum(warp, static_cast<unsigned>(lane), from >> 8, static_cast<int>(from & 0xff));
            product.sums[place] = (product.adds ? former : 0) + static_cast<uint32_t>(of->sums[d_row(lane, i)][d_column(lane, i)]);
        }
    }
    product.is_done = true;
}

void Asynchronous::run_to(unsigned warp, uint64_t number) {
    for (Product& product : products_[warp].of) {
        if (product.number <= number && !product.is_done) run(warp, product);
    }
}

void Asynchronous::commit(unsigned warp) {
    if (!products_.empty()) products_[warp].group_ends.push_back(products_[warp].last);
}

void Asynchronous::wait_products(unsigned warp, uint32_t groups_left) {
    if (products_.empty()) return;
    Products& all = products_[warp];
    if (all.group_ends.size() <= groups_left) return;
    const size_t groups = all.group_ends.size() - groups_left;
    const uint64_t last = all.group_ends[groups - 1];
    // What lanes have read since the wait before this one is gone: they have all come here again.
    while (!all.of.empty() && all.of.front().number <= all.done_to && all.of.front().number < last) all.of.pop_front();
    run_to(warp, last);
    all.done_to = all.waited_to = last;
    all.group_ends.erase(all.group_ends.begin(), all.group_ends.begin() + static_cast<ptrdiff_t>(groups));
}

std::string Asynchronous::at_leave(unsigned thread) const {
    if (products_.empty()) return "";
    const Products& all = products_[thread / 32];
    return all.last > all.waited_to ? text("leaves the kernel without wgmma.wait_group for a product (%s)", all.of.back().file) : "";
}

// ---- What kernels call: meetings of a warp

namespace {

constexpr uint32_t WARP = 0xffffffffu;

struct Issue { LaneProduct* product; const char* file; int line; };
struct Wait { uint32_t groups_left; };

unsigned warp_of_runner() { return runner->running().number / 32; }

void need_warp(uint32_t mask) {
    if (mask != WARP) runner->fail(CUDA_LAUNCH_FAILED, text("wgmma needs all lanes of a warp, and this one has %08x", mask));
}
void exchange_issue(void* const* records, uint32_t mask) {
    need_warp(mask);
    LaneProduct* lanes[32];
    for (int lane = 0; lane < 32; ++lane) lanes[lane] = static_cast<Issue*>(records[lane])->product;
    const Issue& first = *static_cast<Issue*>(records[0]);
    runner->asynchronous.issue(warp_of_runner(), lanes, first.file, first.line);
}
void exchange_commit(void* const*, uint32_t mask) {
    need_warp(mask);
    runner->asynchronous.commit(warp_of_runner());
}
void exchange_wait(void* const* records, uint32_t mask) {
    need_warp(mask);
    runner->asynchronous.wait_products(warp_of_runner(), static_cast<Wait*>(records[0])->groups_left);
}
void exchange_fence(void* const*, uint32_t mask) { need_warp(mask); }

}  // namespace

void issue_product(LaneProduct& product, const char* what, const char* file, int line) {
    Issue record{&product, file, line};
    meet(WARP, exchange_issue, &record, what, file, line);
}
void commit_products(const char* what, const char* file, int line) { meet(WARP, exchange_commit, nullptr, what, file, line); }
void wait_for_products(uint32_t groups_left, const char* what, const char* file, int line) {
    Wait record{groups_left};
    meet(WARP, exchange_wait, &record, what, file, line);
}
void fence_products(const char* what, const char* file, int line) { meet(WARP, exchange_fence, nullptr, what, file, line); }
bool is_waited_for(uint64_t number) { return runner->asynchronous.is_waited_for(warp_of_runner(), number); }
uint32_t sum_of_product(uint64_t number, int index) { return runner->asynchronous.sum(warp_of_runner(), current->lane, number, index); }

}  // namespace standin
