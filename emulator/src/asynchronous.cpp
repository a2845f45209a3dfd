// asynchronous.cpp: barriers of shared memory, bulk copies, and the fence between plain stores and what reads by itself
// (PTX ISA 9.7.13.15, 9.7.9.25, 8.10).
#include "asynchronous.h"

#include <algorithm>
#include <cstring>

#include "block.h"
#include "cuda_codes.h"

namespace standin {

namespace {

constexpr uint32_t MOST = (1u << 20) - 1;            // arrivals, and bytes, of a phase
constexpr unsigned char POISON = 0xff;

[[noreturn]] void refuse(const std::string& what, const char* file, int line) {
    runner->fail(CUDA_LAUNCH_FAILED, what + text(" (%s, line %d of the PTX)", file, line));
}

size_t offset_of(const void* shared) { return runner->shared.offset(shared); }

}  // namespace

void Asynchronous::start_block(Order order) {
    order_ = order;
    random_ = (settings().seed * 0x9e3779b97f4a7c15ull ^ time_) | 1;
    started_ = ++time_;
    barriers_.clear();
    copies_.clear();
    if (!products_.empty()) products_.assign(MAX_WARPS, {});
    if (!issued_.empty()) issued_.assign(MAX_WARPS / 4, {});
    fenced_barriers_ = 0;
}

bool Asynchronous::by_chance() {
    random_ ^= random_ << 13;
    random_ ^= random_ >> 7;
    random_ ^= random_ << 17;
    return random_ >> 20 & 1;
}

Asynchronous::Barrier& Asynchronous::find(size_t at, const char* what, const char* file, int line) {
    for (Barrier& barrier : barriers_) {
        if (barrier.at == at) return barrier;
    }
    refuse(text("%s: no barrier has been made here", what), file, line);
}

void Asynchronous::init(size_t at, uint32_t arrivals, const char* file, int line) {
    if (arrivals == 0 || arrivals > MOST) refuse(text("mbarrier.init: %u arrivals", arrivals), file, line);
    for (const Barrier& barrier : barriers_) {
        if (barrier.at == at) refuse("mbarrier.init: there is a barrier here", file, line);
    }
    barriers_.push_back({at, arrivals, arrivals, 0, 0, runner->running().number, ++time_, {}});
}

void Asynchronous::end_phase(Barrier& barrier) {
    if (barrier.pending != 0 || barrier.bytes > 0) return;
    barrier.pending = barrier.arrivals;
    ++barrier.phase;
    for (BlockThread* thread : barrier.waiting) runner->wake(*thread);
    barrier.waiting.clear();
}

void Asynchronous::arrive(size_t at, uint32_t bytes, const char* file, int line) {
    Barrier& barrier = find(at, "mbarrier.arrive", file, line);
    if (barrier.pending == 0) refuse("mbarrier.arrive: more arrivals than the barrier was made for", file, line);
    barrier.bytes += bytes;
    --barrier.pending;
    if (barrier.bytes > MOST) refuse("mbarrier.arrive.expect_tx: more bytes than a phase can count", file, line);
    if (barrier.pending == 0 && barrier.bytes < 0) {
        refuse(text("mbarrier: %lld bytes more have come than were announced", static_cast<long long>(-barrier.bytes)), file, line);
    }
    const bool wakes = barrier.pending == 0 && barrier.bytes == 0 && !barrier.waiting.empty();
    end_phase(barrier);
    // Who has waited is ahead, which shows what should have been done before the arrival.
    if (wakes && (order_ == Order::Lifo || (order_ == Order::Random && by_chance()))) runner->give_way();
}

void Asynchronous::wait(size_t at, uint32_t parity, const char* file, int line) {
    if (parity > 1) refuse(text("mbarrier.try_wait.parity: %u", parity), file, line);
    Barrier& barrier = find(at, "mbarrier.try_wait", file, line);
    if ((barrier.phase & 1) != parity) return;
    barrier.waiting.push_back(&runner->running());
    runner->sleep();
}

std::string Asynchronous::waiting() const {
    std::string all;
    for (const Barrier& barrier : barriers_) {
        if (barrier.waiting.empty()) continue;
        all += text("; %zu threads wait at a barrier in shared memory for %u arrivals and %lld bytes", barrier.waiting.size(), barrier.pending,
                    static_cast<long long>(barrier.bytes));
    }
    return all;
}

void Asynchronous::copy(unsigned char* to, const unsigned char* from, uint32_t bytes, size_t at, const char* file, int line) {
    if (bytes == 0 || bytes % 16 != 0 || reinterpret_cast<uintptr_t>(from) % 16 != 0 || offset_of(to) % 16 != 0) {
        runner->fail(CUDA_MISALIGNED_ADDRESS, text("cp.async.bulk of %u bytes: size and both addresses are multiples of 16 (%s)", bytes, file));
    }
    if (!runner->shared.contains(to, bytes)) {
        runner->fail(CUDA_ILLEGAL_ADDRESS, text("cp.async.bulk of %u bytes: the destination is not in shared memory (%s)", bytes, file));
    }
    if (runner->is_ahead()) refuse("before it waits for the kernel before it: cp.async.bulk from global memory", file, line);
    (void)*static_cast<const volatile unsigned char*>(from);                    // a wrong source shows here, not at the wait
    (void)*static_cast<const volatile unsigned char*>(from + bytes - 1);
    const Barrier& barrier = find(at, "cp.async.bulk", file, line);
    if (!is_fenced(barrier.thread, barrier.time, ~0u)) {
        refuse("cp.async.bulk: no fence.proxy.async between mbarrier.init and the copy", file, line);
    }
    for (const Copy& copy : copies_) {
        if (to < copy.to + copy.bytes && copy.to < to + bytes) refuse("cp.async.bulk: another copy to this place is under way", file, line);
    }
    refuse_overwriting("cp.async.bulk", offset_of(to), bytes, file, line);
    memset(to, POISON, bytes);                       // from now to the end of the phase nobody may count on these bytes
    copies_.push_back({to, from, bytes, at, file, line});
    if (order_ == Order::Lifo || (order_ == Order::Random && by_chance())) land(copies_.size() - 1);
}

void Asynchronous::land(size_t index) {
    const Copy copy = copies_[index];
    copies_.erase(copies_.begin() + static_cast<ptrdiff_t>(index));
    memcpy(copy.to, copy.from, copy.bytes);
    Barrier& barrier = find(copy.barrier, "cp.async.bulk", copy.file, copy.line);
    barrier.bytes -= copy.bytes;
    if (barrier.pending == 0 && barrier.bytes < 0) {
        refuse(text("cp.async.bulk: %lld bytes more have come than were announced", static_cast<long long>(-barrier.bytes)), copy.file, copy.line);
    }
    end_phase(barrier);
}

bool Asynchronous::land_one() {
    if (copies_.empty()) return false;
    land(order_ == Order::Random && copies_.size() > 1 && by_chance() ? copies_.size() - 1 : 0);
    return true;
}

std::string Asynchronous::at_end() const {
    if (!copies_.empty()) return text("the block ends while a copy into its shared memory is under way (%s)", copies_[0].file);
    for (unsigned group = 0; group < issued_.size(); ++group) {
        for (unsigned warp = 4 * group; warp < 4 * group + 4; ++warp) {
            if (products_[warp].last == issued_[group].size()) continue;
            const Issued& of_others = issued_[group][products_[warp].last];
            return text("warp %u has no part in a product of its warpgroup (%s)", warp, of_others.file);
        }
    }
    return "";
}

// ---- Plain stores, and what reads by itself

void Asynchronous::fence_proxy() {
    if (fences_.empty()) fences_.resize(MAX_BLOCK);
    fences_[runner->running().number] = ++time_;
    fenced_barriers_ = runner->barriers();
}

// By a fence of the thread itself, or of any thread behind a barrier of the block that came after.
bool Asynchronous::is_fenced(unsigned thread, uint64_t time, uint32_t barriers) const {
    return (!fences_.empty() && fences_[thread] > time) || barriers < fenced_barriers_;
}

void Asynchronous::store(size_t offset, size_t bytes, const char* file, int line) {
    watches_stores = true;
    refuse_overwriting("a store", offset, bytes, file, line);
    if (stores_.size() < (offset + bytes + 3) / 4) stores_.resize((offset + bytes + 3) / 4);
    ++time_;
    for (size_t word = offset / 4; word < (offset + bytes + 3) / 4; ++word) stores_[word] = {runner->running().number, runner->barriers(), time_};
}

void Asynchronous::refuse_overwriting(const char* what, size_t offset, size_t bytes, const char* file, int line) const {
    for (unsigned warp = 0; warp < products_.size(); ++warp) {
        for (const Product& product : products_[warp].of) {
            if (product.number <= products_[warp].waited_to || !reads(warp, product, offset, bytes)) continue;
            refuse(text("%s overwrites what a product of warp %u reads that has not been waited for (%s)", what, warp, product.file), file, line);
        }
    }
}

// ---- What kernels call

void phases_init(unsigned char* barrier, uint32_t arrivals, const char* file, int line) {
    runner->asynchronous.init(offset_of(barrier), arrivals, file, line);
}
void phases_arrive(unsigned char* barrier, uint32_t bytes, const char* file, int line) {
    runner->asynchronous.arrive(offset_of(barrier), bytes, file, line);
}
void phases_wait(unsigned char* barrier, uint32_t parity, const char* file, int line) {
    runner->asynchronous.wait(offset_of(barrier), parity, file, line);
}
void fence_async_proxy() { runner->asynchronous.fence_proxy(); }
void copy_bulk(unsigned char* to, const unsigned char* from, uint32_t bytes, unsigned char* barrier, const char* file, int line) {
    runner->asynchronous.copy(to, from, bytes, offset_of(barrier), file, line);
}
void watch_store(const void* address, uint32_t bytes, const char* file, int line) {
    if (runner && runner->shared.near(address)) runner->asynchronous.store(offset_of(address), bytes, file, line);
}

}  // namespace standin
