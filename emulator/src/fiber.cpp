// fiber.cpp: stacks, and the switch between them: a few instructions in assembly, a system call each by ucontext.
#include "fiber.h"

#include <sys/mman.h>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

namespace standin {

namespace {
constexpr size_t PAGE = 4096;                        // guards; a larger page size only rounds the mapping up
constexpr size_t GUARD = 16 * PAGE;                  // a multiple of every page size in use
constexpr size_t STACK = 16 * PAGE;
}  // namespace

#if STANDIN_ASSEMBLY
// Saves the registers that a callee must keep, then changes stacks. `ret` and not a jump: fibers in lockstep return to the
// same places, so the processor's return predictor stays right.
asm(R"(
.text
.p2align 4
.type standin_switch, @function
standin_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size standin_switch, . - standin_switch
)");
extern "C" void standin_switch(void** save, void* load) __attribute__((visibility("hidden")));

void switch_context(Context& from, Context& to) { standin_switch(&from.stack_pointer, to.stack_pointer); }
#else
void switch_context(Context& from, Context& to) { swapcontext(&from.state, &to.state); }
#endif

Fiber::Fiber(unsigned number) {
    void* pages = mmap(nullptr, GUARD + STACK + GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pages == MAP_FAILED || mprotect(static_cast<char*>(pages) + GUARD, STACK, PROT_READ | PROT_WRITE) != 0) {
        fprintf(stderr, "dsr stand-in: no memory for the stack of a thread\n");
        abort();
    }
    mapping = static_cast<char*>(pages);
    // Stacks that all start at the same place of a page would fight for the same lines of the first cache.
    colour = number % 32 * 192;
}

Fiber::~Fiber() { munmap(mapping, GUARD + STACK + GUARD); }

bool Fiber::guards(const void* address) const {
    const char* at = static_cast<const char*>(address);
    return (at >= mapping && at < mapping + GUARD) || (at >= mapping + GUARD + STACK && at < mapping + GUARD + STACK + GUARD);
}

void Fiber::prepare(void (*entry)()) {
#if STANDIN_ASSEMBLY
    void** top = reinterpret_cast<void**>(mapping + GUARD + STACK - colour);
    *--top = nullptr;                                // ends a backtrace, and aligns the stack as after a call
    *--top = reinterpret_cast<void*>(entry);
    for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
    context.stack_pointer = top;
#else
    getcontext(&context.state);
    context.state.uc_stack.ss_sp = mapping + GUARD;
    context.state.uc_stack.ss_size = STACK - colour;
    context.state.uc_link = nullptr;
    makecontext(&context.state, entry, 0);
#endif
}

}  // namespace standin
