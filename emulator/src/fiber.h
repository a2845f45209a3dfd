// fiber.h: stacks of their own for threads that wait, and the switch between them.
#pragma once
#include <cstddef>

// The switch is in assembly for x86-64, and by ucontext elsewhere, or with -DSTANDIN_UCONTEXT.
#if defined(__x86_64__) && !defined(STANDIN_UCONTEXT)
#define STANDIN_ASSEMBLY 1
#else
#define STANDIN_ASSEMBLY 0
#include <ucontext.h>
#endif

namespace standin {

// Where a fiber, or the OS thread below all fibers, goes on.
struct Context {
#if STANDIN_ASSEMBLY
    void* stack_pointer = nullptr;
#else
    ucontext_t state;
#endif
};

// Leaves `from` and goes on in `to`.
void switch_context(Context& from, Context& to);

// A stack between two pages that cannot be touched.
struct Fiber {
    explicit Fiber(unsigned number);
    ~Fiber();
    Fiber(const Fiber&) = delete;
    Fiber& operator=(const Fiber&) = delete;

    // Forgets what ran here; the next switch to `context` calls `entry`, which must not return.
    void prepare(void (*entry)());
    bool guards(const void* address) const;

    Context context;
    void* handed_over = nullptr;       // for `entry`, from the one who switches

private:
    char* mapping;
    size_t colour;
};

}  // namespace standin
