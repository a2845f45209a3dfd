// asynchronous.h: what runs by itself in a block of sm_90a. A copy lands, and a product reads, as late as it may, at once, or at random,
// by the order of threads; the sums of a product are handed out at the wait.
#pragma once
#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "host/asynchronous.h"
#include "settings.h"

namespace standin {

struct BlockThread;

class Asynchronous {
public:
    void start_block(Order order);
    // Lets one copy land; false where none is under way.
    bool land_one();
    // What is wrong with a block whose threads have all left, or with a thread that leaves; else empty.
    std::string at_end() const;
    std::string at_leave(unsigned thread) const;
    // What threads wait for, for the description of a deadlock.
    std::string waiting() const;

    void init(size_t barrier, uint32_t arrivals, const char* file, int line);
    void arrive(size_t barrier, uint32_t bytes, const char* file, int line);
    void wait(size_t barrier, uint32_t parity, const char* file, int line);
    void copy(unsigned char* to, const unsigned char* from, uint32_t bytes, size_t barrier, const char* file, int line);

    void fence_proxy();
    void store(size_t offset, size_t bytes, const char* file, int line);

    void issue(unsigned warp, LaneProduct* const* lanes, const char* file, int line);
    void commit(unsigned warp);
    void wait_products(unsigned warp, uint32_t groups_left);
    bool is_waited_for(unsigned warp, uint64_t number) const { return number <= products_[warp].waited_to; }
    uint32_t sum(unsigned warp, unsigned lane, uint64_t number, int index) const;

    // Which threads' plain stores the products have to be told of by a fence: only where stores are reported.
    bool watches_stores = false;

private:
    struct Barrier {
        size_t at;
        uint32_t arrivals, pending;
        int64_t bytes;                               // announced, and not come; below 0 while more has come than was announced
        uint32_t phase;
        unsigned thread;                             // that made it, and when
        uint64_t time;
        std::vector<BlockThread*> waiting;
    };
    struct Copy { unsigned char* to; const unsigned char* from; uint32_t bytes; size_t barrier; const char* file; int line; };
    // A warp's share of a product: 16 rows.
    struct Product {
        uint64_t number;
        int columns;
        bool has_a_registers, a_has_signs, adds, is_done;
        uint32_t a[32][4];
        uint64_t a_descriptor, b_descriptor;
        std::vector<uint32_t> sums;                  // [lane][columns/2]
        std::vector<uint64_t> from;                  // of the same, the product that it is a sum of so far, or 0
        const char* file;
        int line;
    };
    struct Products {
        std::deque<Product> of;
        std::vector<uint64_t> group_ends;            // number of the last product of each group that is not waited for
        uint64_t last = 0, done_to = 0, waited_to = 0;
    };
    // What all four warps of a warpgroup must agree on, product by product.
    struct Issued { const char* file; int line, columns; uint64_t a_descriptor, b_descriptor; bool adds; };
    // Who has last stored a word of shared memory, when, and after how many barriers of the block.
    struct Store { unsigned thread; uint32_t barriers; uint64_t time; };

    Barrier& find(size_t at, const char* what, const char* file, int line);
    void end_phase(Barrier& barrier);
    void land(size_t index);
    void run(unsigned warp, Product& product);
    void run_to(unsigned warp, uint64_t number);
    const Product& product(unsigned warp, uint64_t number) const;
    std::string fault_of_pieces(unsigned warp, const Product& product) const;
    bool reads(unsigned warp, const Product& product, size_t offset, size_t bytes) const;
    void refuse_overwriting(const char* what, size_t offset, size_t bytes, const char* file, int line) const;
    bool is_fenced(unsigned thread, uint64_t time, uint32_t barriers) const;
    bool by_chance();

    Order order_ = Order::Fifo;
    uint64_t random_ = 1, time_ = 0, started_ = 0;
    std::vector<Barrier> barriers_;
    std::vector<Copy> copies_;
    std::vector<Products> products_;                 // by warp
    std::vector<std::vector<Issued>> issued_;        // by warpgroup
    std::vector<Store> stores_;                      // by word
    std::vector<uint64_t> fences_;                   // by thread: when
    uint32_t fenced_barriers_ = 0;                   // barriers of the block before the latest fence of any thread
};

}  // namespace standin
