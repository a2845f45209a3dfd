// grid.cpp: blocks handed out to the calling OS thread and a few others that wait for work.
#include "grid.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "arguments.h"
#include "counts.h"
#include "cuda_codes.h"
#include "dependent.h"
#include "faults.h"
#include "memory.h"
#include "watch.h"
#include "races.h"

namespace standin {

namespace {

// One launch at work. Blocks go out in order, a few at a time; the problem of the lowest of them is kept.
struct Work {
    const Launch& launch;
    std::vector<void*> arguments;
    std::vector<unsigned> sequence;                  // of block numbers; empty: ascending
    unsigned blocks, share;
    std::atomic<unsigned> next{0};
    std::atomic<bool> stop{false}, lets_next{true};
    bool ahead;                                      // to the wait for the kernel before, and no further
    std::mutex lock;
    Problem problem;
    unsigned problem_block = 0;
    size_t static_bytes = 0;

    Work(const Launch& of, bool ahead) : launch(of), arguments(of.arguments()), blocks(of.grid.x * of.grid.y * of.grid.z), share(1), ahead(ahead) {}
};

// Runners that no OS thread uses now. They outlive threads: a thread may launch work while it ends, after its own data is gone.
class Runners {
public:
    BlockRunner* take() {
        catch_faults();
        give_signal_stack();
        std::lock_guard<std::mutex> guard(lock_);
        if (free_.empty()) return new BlockRunner();
        BlockRunner* runner = free_.back();
        free_.pop_back();
        return runner;
    }

    void give_back(BlockRunner* runner) {
        std::lock_guard<std::mutex> guard(lock_);
        free_.push_back(runner);
    }

private:
    std::mutex lock_;
    std::vector<BlockRunner*> free_;
};

Runners& runners() {
    static Runners* const all = new Runners();
    return *all;
}

void take_part(Work& work) {
    BlockRunner& own = *runners().take();
    size_t static_bytes = 0;
    while (!work.stop) {
        const unsigned first = work.next.fetch_add(work.share);
        if (first >= work.blocks) break;
        const unsigned end = std::min(first + work.share, work.blocks);
        for (unsigned i = first; i < end && !work.stop; ++i) {
            const unsigned block = work.sequence.empty() ? i : work.sequence[i];
            const bool fine = own.run(work.launch, work.arguments.data(), block, work.ahead);
            if (!own.lets_next) work.lets_next = false;
            static_bytes = std::max(static_bytes, own.shared.static_bytes());
            if (fine) continue;
            std::lock_guard<std::mutex> guard(work.lock);
            if (!work.problem.code || block < work.problem_block) {
                work.problem = own.problem;
                work.problem_block = block;
            }
            work.stop = true;
        }
    }
    runners().give_back(&own);
    std::lock_guard<std::mutex> guard(work.lock);
    work.static_bytes = std::max(work.static_bytes, static_bytes);
}

// OS threads that help with one launch at a time. Never freed: they wait until the process ends.
class Helpers {
public:
    explicit Helpers(unsigned count) {
        for (unsigned i = 0; i < count; ++i) std::thread([this] { serve(); }).detach();
    }

    void run(Work& work) {
        {
            std::lock_guard<std::mutex> guard(lock_);
            offered_ = &work;
            ++offers_;
        }
        offer_.notify_all();
        take_part(work);
        std::unique_lock<std::mutex> guard(lock_);
        offered_ = nullptr;
        idle_.wait(guard, [this] { return busy_ == 0; });
    }

private:
    void serve() {
        std::unique_lock<std::mutex> guard(lock_);
        uint64_t last = 0;
        for (;;) {
            offer_.wait(guard, [&] { return offered_ && offers_ != last; });
            Work* work = offered_;
            last = offers_;
            ++busy_;
            guard.unlock();
            take_part(*work);
            guard.lock();
            if (--busy_ == 0) idle_.notify_all();
        }
    }

    std::mutex lock_;
    std::condition_variable offer_, idle_;
    Work* offered_ = nullptr;
    uint64_t offers_ = 0;
    unsigned busy_ = 0;
};

Helpers& helpers() {
    static Helpers* const all = new Helpers(std::min(settings().os_threads, 16u) - 1);
    return *all;
}

std::vector<unsigned> shuffled(unsigned blocks) {
    std::vector<unsigned> sequence(blocks);
    for (unsigned i = 0; i < blocks; ++i) sequence[i] = i;
    uint64_t state = settings().seed * 0x9e3779b97f4a7c15ull + 1;
    for (unsigned i = blocks; i > 1; --i) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        std::swap(sequence[i - 1], sequence[state % i]);
    }
    return sequence;
}

void order_blocks(Work& work) {
    if (settings().order == Order::Random) work.sequence = shuffled(work.blocks);
    if (settings().order != Order::Lifo) return;
    work.sequence.resize(work.blocks);
    for (unsigned i = 0; i < work.blocks; ++i) work.sequence[i] = work.blocks - 1 - i;
}

// All blocks, on several OS threads where the order allows it.
void run_blocks(Work& work) {
    order_blocks(work);
    const unsigned os_threads = settings().order == Order::Random ? 1 : settings().os_threads;
    work.share = std::max(1u, work.blocks / (os_threads * 8));
    if (os_threads == 1 || work.blocks == 1) {
        take_part(work);
    } else {
        helpers().run(work);
    }
    if (work.problem.code) work.problem.text = text("kernel %s, ", work.launch.kernel->name) + work.problem.text;
}

// What a launch does before its waits, if it may begin early.
Problem run_ahead(const Launch& launch) {
    count_dependent();
    const UntouchableMemory untouchable;
    Work work(launch, true);
    run_blocks(work);
    return work.problem;
}

}  // namespace

Problem run_grid(Function& function, const Launch& launch) {
    Problem wrong = check_arguments(launch);
    if (wrong.code) return wrong;
    if (settings().report_launches && !function.launched) report(text("first launch of %s%s", launch.kernel->name, launch.is_dependent ? ", early" : ""));
    function.launched = true;
    ++counts().launches;
    if (launch.is_dependent) {
        const Problem early = run_ahead(launch);
        if (early.code) return early;
    }
    global_races().begin_launch();
    Work work(launch, false);
    watch_launch(launch.is_dependent);
    run_blocks(work);
    note_end_of_grid(work.lets_next);
    function.static_bytes = std::max(function.static_bytes, (unsigned)work.static_bytes);
    if (!work.problem.code) {
        const std::string overrun = device_memory().overrun();
        if (!overrun.empty()) work.problem = {CUDA_ILLEGAL_ADDRESS, text("kernel %s, ", launch.kernel->name) + overrun};
    }
    return work.problem;
}

}  // namespace standin
