// block.cpp: the threads of a block: who runs, who waits, and what is wrong when nobody can run.
#include "block.h"

#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <utility>

#include "cuda_codes.h"
#include "faults.h"
#include "memory.h"

namespace standin {

__thread Thread* current = nullptr;
__thread BlockRunner* runner = nullptr;

std::vector<void*> Launch::arguments() const {
    std::vector<void*> pointers(kernel->parameter_count);
    for (unsigned i = 0; i < kernel->parameter_count; ++i) {
        pointers[i] = const_cast<unsigned char*>(bytes.data()) + kernel->parameters[i].offset;
    }
    return pointers;
}

std::string where(const BlockThread& thread) {
    const uint3 b = thread.block->index, t = thread.index;
    return text("block (%u, %u, %u), thread (%u, %u, %u)", b.x, b.y, b.z, t.x, t.y, t.z);
}

BlockRunner::BlockRunner() : threads_(MAX_BLOCK) { memset(warps_, 0, sizeof(warps_)); }

bool BlockRunner::run(const Launch& launch, void* const* arguments, unsigned block_number, bool ahead) {
    launch_ = &launch;
    arguments_ = arguments;
    ahead_ = ahead;
    set_up(launch, block_number);
    runner = this;
    go_on(pick(), below_);                           // comes back when no thread can run
    runner = nullptr;
    current = nullptr;

    if (fault_.signal) describe_signal();
    if (ahead_) {
        if (!problem.code && given_up_ < live_) {
            problem = {CUDA_LAUNCH_FAILED, text("block (%u, %u, %u): %u threads of %u have come to their wait for the kernel before this one, and the others do not", place_.index.x, place_.index.y, place_.index.z, given_up_, live_) + waiting()};
        }
        abandon_fibers();                            // nothing that they have done can be seen by anybody
        return problem.code == 0;
    }
    if (!problem.code && live_ > 0) describe_deadlock();
    const std::string left = problem.code ? "" : asynchronous.at_end();
    if (!left.empty()) problem = {CUDA_LAUNCH_FAILED, text("block (%u, %u, %u): ", place_.index.x, place_.index.y, place_.index.z) + left};
    if (problem.code) {
        abandon_fibers();
        return false;
    }
    const std::string overrun = shared.overrun();
    if (!overrun.empty()) problem = {CUDA_ILLEGAL_ADDRESS, text("block (%u, %u, %u): ", place_.index.x, place_.index.y, place_.index.z) + overrun};
    return problem.code == 0;
}

void BlockRunner::set_up(const Launch& launch, unsigned block_number) {
    block_number_ = block_number;
    const dim3 grid = launch.grid, block = launch.block;
    place_.index = {block_number % grid.x, block_number / grid.x % grid.y, block_number / (grid.x * grid.y)};
    place_.size = block;
    place_.grid = grid;
    count_ = live_ = block.x * block.y * block.z;
    const bool same_shape = shape_.x == block.x && shape_.y == block.y && shape_.z == block.z;
    shape_ = block;
    for (unsigned i = 0; i < count_ && !same_shape; ++i) {
        BlockThread& thread = threads_[i];
        thread.number = i;
        thread.lane = i % 32;
        thread.index = {i % block.x, i / block.x % block.y, i / (block.x * block.y)};
        thread.block = &place_;
    }
    runnable_warps_ = 0;
    for (unsigned first = 0; first < count_; first += 32) {
        Warp& warp = warps_[first / 32];
        warp.exist = count_ - first >= 32 ? ~0u : (1u << (count_ - first)) - 1;
        warp.left = warp.runnable = 0;
        make_runnable(first / 32, warp.exist);
    }
    at_barrier_ = given_up_ = 0;
    lets_next = false;
    ++races_.barriers;
    check_races = false;
    problem = {};
    fault_ = {};
    shared.start_block(launch.dynamic_bytes);
    asynchronous.start_block(settings().order);
    order_ = settings().order;
    random_state_ = (settings().seed * 0x9e3779b97f4a7c15ull) ^ (block_number + 1);
    for (unsigned i = 0; i < MAX_WARPS; ++i) rank_[i] = static_cast<unsigned char>(i);
}

void BlockRunner::make_runnable(unsigned warp, uint32_t lanes) {
    warps_[warp].runnable |= lanes;
    runnable_warps_ |= 1u << warp;
}

uint64_t BlockRunner::random() {
    random_state_ ^= random_state_ << 13;
    random_state_ ^= random_state_ >> 7;
    random_state_ ^= random_state_ << 17;
    return random_state_;
}

// Random order keeps a ranking of the warps for a while: one warp far ahead of another is what shows a missing barrier.
unsigned BlockRunner::pick_warp() {
    if (order_ == Order::Fifo) return static_cast<unsigned>(__builtin_ctz(runnable_warps_));
    if (order_ == Order::Lifo) return 31u - static_cast<unsigned>(__builtin_clz(runnable_warps_));
    if (random() % 64 == 0) {
        for (unsigned i = MAX_WARPS - 1; i > 0; --i) std::swap(rank_[i], rank_[random() % (i + 1)]);
    }
    unsigned best = MAX_WARPS;
    for (uint32_t rest = runnable_warps_; rest; rest &= rest - 1) {
        const unsigned warp = static_cast<unsigned>(__builtin_ctz(rest));
        if (best == MAX_WARPS || rank_[warp] < rank_[best]) best = warp;
    }
    return best;
}

unsigned BlockRunner::pick_lane(uint32_t lanes) {
    if (order_ == Order::Fifo) return static_cast<unsigned>(__builtin_ctz(lanes));
    if (order_ == Order::Lifo) return 31u - static_cast<unsigned>(__builtin_clz(lanes));
    const unsigned turn = static_cast<unsigned>(random() % 32);
    const uint32_t turned = lanes >> turn | (turn ? lanes << (32 - turn) : 0);
    return (static_cast<unsigned>(__builtin_ctz(turned)) + turn) % 32;
}

// The next thread to run, or none.
BlockThread* BlockRunner::pick() {
    while (!runnable_warps_) {
        if (live_ == 0 || !asynchronous.land_one()) return nullptr;
    }
    const unsigned w = pick_warp();
    Warp& warp = warps_[w];
    const unsigned lane = pick_lane(warp.runnable);
    warp.runnable &= ~(1u << lane);
    if (!warp.runnable) runnable_warps_ &= ~(1u << w);
    return &threads_[w * 32 + lane];
}

// Leaves the stack `from` and goes on with `next` on its own, or below when there is none.
void BlockRunner::go_on(BlockThread* next, Context& from) {
    if (!next) {
        switch_context(from, below_);
        return;
    }
    current = next;
    if (!next->fiber) {
        next->fiber = free_fiber();
        next->fiber->handed_over = next;
    }
    switch_context(from, next->fiber->context);
}

// The running thread waits; returns when it is its turn again.
void BlockRunner::suspend() {
    BlockThread& self = running();
    BlockThread* next = pick();
    if (next == &self) return;
    go_on(next, self.fiber->context);
}

Fiber* BlockRunner::free_fiber() {
    if (free_fibers_.empty()) {
        fibers_.emplace_back(static_cast<unsigned>(fibers_.size()));
        fibers_.back().prepare(&BlockRunner::fiber_main);
        return &fibers_.back();
    }
    Fiber* fiber = free_fibers_.back();
    free_fibers_.pop_back();
    return fiber;
}

// After a problem: what waits on these stacks never goes on.
void BlockRunner::abandon_fibers() {
    for (BlockThread& thread : threads_) {
        thread.fiber = nullptr;
        thread.copies.clear();
    }
    for (Warp& warp : warps_) {
        warp.waiting = 0;
        for (Meeting& meeting : warp.meetings) meeting.arrived = 0;
    }
    free_fibers_.clear();
    for (Fiber& fiber : fibers_) {
        fiber.prepare(&BlockRunner::fiber_main);
        free_fibers_.push_back(&fiber);
    }
}

// A fiber runs thread after thread, as long as the next one has not started yet.
void BlockRunner::fiber_main() {
    BlockRunner& self = *runner;
    Fiber& fiber = *self.running().fiber;
    for (;;) {
        BlockThread* thread = static_cast<BlockThread*>(fiber.handed_over);
        self.launch_->kernel->run(self.arguments_);
        self.leave(*thread);
        BlockThread* next = self.pick();
        if (next && !next->fiber) {
            next->fiber = &fiber;
            fiber.handed_over = next;
            current = next;
            continue;
        }
        self.free_fibers_.push_back(&fiber);
        self.go_on(next, fiber.context);
    }
}

void BlockRunner::leave(BlockThread& thread) {
    if (ahead_) fail(CUDA_LAUNCH_FAILED, "leaves the kernel without a wait for the kernel before, which this one may begin before (griddepcontrol.wait)");
    if (at_barrier_ > 0) {
        fail(CUDA_LAUNCH_FAILED, text("leaves the kernel while %u threads wait in __syncthreads at %s:%d", at_barrier_, barrier_file_, barrier_line_));
    }
    Warp& warp = warps_[thread.number / 32];
    const uint32_t bit = 1u << thread.lane;
    for (const Meeting& meeting : warp.meetings) {
        if (!warp.waiting) break;
        if (meeting.arrived && meeting.mask & bit) {
            fail(CUDA_LAUNCH_FAILED, text("leaves the kernel while lanes %08x of its warp wait for it in %s at %s:%d", meeting.arrived, meeting.what, meeting.file, meeting.line));
        }
    }
    const std::string under_way = asynchronous.at_leave(thread.number);
    if (!under_way.empty()) fail(CUDA_LAUNCH_FAILED, under_way);
    warp.left |= bit;
    --live_;
    thread.fiber = nullptr;
    if (!thread.copies.empty()) thread.copies.clear();         // never waited for, and nobody can see them any more
}

void BlockRunner::barrier(const char* file, int line) {
    if (at_barrier_ > 0 && (line != barrier_line_ || (file != barrier_file_ && strcmp(file, barrier_file_) != 0))) {
        fail(CUDA_LAUNCH_FAILED, text("__syncthreads in divergent code: at %s:%d, while %u threads wait at %s:%d", file, line, at_barrier_, barrier_file_, barrier_line_));
    }
    if (live_ != count_) {
        fail(CUDA_LAUNCH_FAILED, text("__syncthreads in divergent code: at %s:%d, after %u threads of the block have left the kernel", file, line, count_ - live_));
    }
    barrier_file_ = file;
    barrier_line_ = line;
    if (++at_barrier_ == count_) {
        at_barrier_ = 0;
        ++races_.barriers;
        for (unsigned first = 0; first < count_; first += 32) make_runnable(first / 32, warps_[first / 32].exist);
    }
    suspend();
}

void BlockRunner::wait_for_previous() {
    if (!ahead_) return;                             // it has ended
    ++given_up_;
    suspend();                                       // for good
}

void BlockRunner::note(const void* address, size_t bytes, bool is_write, Place place) {
    if (shared.near(address)) {
        races_.access(shared.offset(address), bytes, is_write, place);
    } else if (device_memory().in_range(address)) {
        const std::string race = global_races().access(reinterpret_cast<uintptr_t>(address), bytes, is_write, block_number_, place);
        if (!race.empty()) fail(CUDA_LAUNCH_FAILED, race);
    }
}

void BlockRunner::fail(int code, const std::string& what) {
    problem = {code, where(running()) + ": " + what};
    Context nowhere;
    switch_context(nowhere, below_);
    __builtin_unreachable();
}

void BlockRunner::fail_at(int signal, const void* address, const void* instruction, int is_write) {
    fault_ = {signal, address, instruction, is_write, &running()};
    Context nowhere;
    switch_context(nowhere, below_);
    __builtin_unreachable();
}

void BlockRunner::describe_signal() {
    std::string what = describe_fault(fault_.signal, fault_.address, fault_.is_write, shared);
    if (ahead_) what = "before it waits for the kernel before it: " + what;
    for (const Fiber& fiber : fibers_) {
        if (fiber.guards(fault_.address)) what = "more local memory than the stand-in's stack of 64 KiB";
    }
    const int code = fault_.signal == SIGNAL_ARITHMETIC ? CUDA_LAUNCH_FAILED : CUDA_ILLEGAL_ADDRESS;
    problem = {code, where(*fault_.thread) + ": " + what + source_line(fault_.instruction)};
}

std::string BlockRunner::waiting() const {
    std::string waiting;
    for (unsigned w = 0; w * 32 < count_; ++w) {
        for (const Meeting& m : warps_[w].meetings) {
            if (!m.arrived) continue;
            waiting += text("; warp %u: lanes %08x of %08x wait in %s at %s:%d", w, m.arrived, m.mask, m.what, m.file, m.line);
            if (waiting.size() > 600) break;
        }
    }
    waiting += asynchronous.waiting();
    if (at_barrier_) waiting += text("; %u threads wait in __syncthreads at %s:%d", at_barrier_, barrier_file_, barrier_line_);
    return waiting;
}

void BlockRunner::describe_deadlock() {
    problem = {CUDA_LAUNCH_FAILED, text("block (%u, %u, %u): no thread can go on", place_.index.x, place_.index.y, place_.index.z) + waiting()};
}

void barrier(const char* file, int line) { runner->barrier(file, line); }

void fail_launch(const char* format, ...) {
    char buffer[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(buffer, sizeof(buffer), format, arguments);
    va_end(arguments);
    runner->fail(CUDA_LAUNCH_FAILED, buffer);
}

}  // namespace standin
