// block.h: runs the threads of one block, on one OS thread, one at a time.
//
// A thread is a plain call of the kernel until it has to wait; then its stack is left as it is and another thread goes on, on
// another stack. So a kernel without barriers and warp operations runs on one stack, as a loop over its threads.
#pragma once
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "asynchronous.h"
#include "fiber.h"
#include "host/kernel.h"
#include "host/threads.h"
#include "races.h"
#include "settings.h"
#include "shared.h"

namespace standin {

constexpr unsigned MAX_BLOCK = 1024;
constexpr unsigned MAX_WARPS = MAX_BLOCK / 32;

// What went wrong in a launch: CUDA's error code, and one line of text. No code, no problem.
struct Problem {
    int code = 0;
    std::string text;
};

struct Launch {
    const KernelEntry* kernel;
    dim3 grid, block;
    unsigned dynamic_bytes;
    bool is_dependent;                               // may begin before the kernel before it has ended (dependent.h)
    std::vector<unsigned char> bytes;                // the arguments, each at its parameter's offset

    // Pointers to the arguments, as KernelEntry::run wants them.
    std::vector<void*> arguments() const;
};

// Lanes of a warp that wait for one another.
struct Meeting {
    uint32_t mask, arrived;
    Exchange exchange;
    const char *what, *file;
    int line;
    void* records[32];
};

struct Warp {
    uint32_t exist, left, runnable;                  // lanes
    unsigned waiting;                                // meetings that have begun
    uint32_t met;                                    // meetings that are over
    Meeting meetings[4];                             // parts of a warp may meet at the same time
};

struct BlockThread : Thread {
    unsigned number;
    Fiber* fiber;                                    // null before it has started
    CopyQueue copies;
};

class BlockRunner {
public:
    BlockRunner();
    // False when something went wrong; `problem` then says what. `ahead`: every thread only to its wait for the kernel before.
    bool run(const Launch& launch, void* const* arguments, unsigned block_number, bool ahead = false);

    // Called by the thread that runs, on its own stack.
    void barrier(const char* file, int line);
    void wait_for_previous();
    void meet(uint32_t mask, Exchange exchange, void* record, const char* what, const char* file, int line);
    [[noreturn]] void fail(int code, const std::string& what);
    // The same from a signal handler: the text is made later.
    [[noreturn]] void fail_at(int signal, const void* address, const void* instruction, int is_write);

    // An access of the running thread, for the race check.
    void note(const void* address, size_t bytes, bool is_write, Place place);
    uint32_t meetings_of_warp() { return warps_[running().number / 32].met; }
    uint32_t barriers() const { return races_.barriers; }

    // The running thread waits until another one, or a copy that lands, wakes it.
    void sleep() { suspend(); }
    // Others may go on before the running thread does.
    void give_way() { wake(running()), suspend(); }
    void wake(BlockThread& thread) { make_runnable(thread.number / 32, 1u << thread.lane); }

    BlockThread& running() { return *static_cast<BlockThread*>(current); }

    Problem problem;
    SharedMemory shared;
    Asynchronous asynchronous;
    bool is_ahead() const { return ahead_; }
    bool lets_next = false;                          // this block has let the next kernel begin
    bool check_races = false;                        // the kernels at work report their accesses

private:
    void set_up(const Launch& launch, unsigned block_number);
    BlockThread* pick();
    unsigned pick_warp();
    unsigned pick_lane(uint32_t lanes);
    Meeting* find_meeting(Warp& warp, uint32_t mask, uint32_t bit, const char* what, const char* file, int line);
    void make_runnable(unsigned warp, uint32_t lanes);
    void suspend();
    void go_on(BlockThread* next, Context& from);
    void leave(BlockThread& thread);
    Fiber* free_fiber();
    void abandon_fibers();
    std::string waiting() const;
    void describe_deadlock();
    void describe_signal();
    uint64_t random();
    static void fiber_main();

    const Launch* launch_ = nullptr;
    void* const* arguments_ = nullptr;
    BlockPlace place_;
    unsigned block_number_ = 0;
    dim3 shape_{0, 0, 0};                            // of the thread indices in threads_
    unsigned count_ = 0, live_ = 0;
    std::vector<BlockThread> threads_;
    Warp warps_[MAX_WARPS];
    uint32_t runnable_warps_ = 0;
    unsigned at_barrier_ = 0;
    bool ahead_ = false;
    unsigned given_up_ = 0;                          // threads that have come to their wait for the kernel before
    const char* barrier_file_ = nullptr;
    int barrier_line_ = 0;

    RaceCheck races_;

    Context below_;                                  // the OS thread's own stack
    std::deque<Fiber> fibers_;
    std::vector<Fiber*> free_fibers_;

    Order order_ = Order::Fifo;
    uint64_t random_state_ = 1;
    unsigned char rank_[MAX_WARPS];                  // random order: the warp of the lowest rank runs

    struct Fault { int signal; const void *address, *instruction; int is_write; const BlockThread* thread; };
    Fault fault_{};
};

// The runner of this OS thread while it runs a block.
extern __thread BlockRunner* runner __attribute__((tls_model("initial-exec")));

std::string where(const BlockThread& thread);

}  // namespace standin
