// faults.cpp: signal handlers, and the handlers that -fsanitize=alignment,bounds,… of compile.rs calls in kernel code (this library
// is instead of libubsan).
#include "faults.h"

#include <dlfcn.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "block.h"
#include "cuda_codes.h"
#include "memory.h"

namespace standin {

namespace {

struct sigaction before_segv, before_bus, before_fpe;

const void* instruction_of(const ucontext_t* context) {
#if defined(__x86_64__)
    return reinterpret_cast<const void*>(context->uc_mcontext.gregs[REG_RIP]);
#elif defined(__aarch64__)
    return reinterpret_cast<const void*>(context->uc_mcontext.pc);
#else
    (void)context;
    return nullptr;
#endif
}

int is_write(const ucontext_t* context) {
#if defined(__x86_64__)
    return context->uc_mcontext.gregs[REG_ERR] & 2 ? 1 : 0;
#else
    (void)context;
    return -1;
#endif
}

void pass_on(int signal, siginfo_t* info, void* context) {
    struct sigaction& before = signal == SIGSEGV ? before_segv : signal == SIGBUS ? before_bus : before_fpe;
    if (before.sa_flags & SA_SIGINFO) {
        before.sa_sigaction(signal, info, context);
    } else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) {
        before.sa_handler(signal);
    } else {
        sigaction(signal, &before, nullptr);         // the instruction runs again, and now ends the process
    }
}

// The stack of the handler is given up when it leaves: the kernel looks at the stack pointer only.
void on_fault(int signal, siginfo_t* info, void* context) {
    if (!runner) return pass_on(signal, info, context);
    const ucontext_t* state = static_cast<const ucontext_t*>(context);
    runner->fail_at(signal, info->si_addr, instruction_of(state), signal == SIGSEGV ? is_write(state) : -1);
}

void install_handlers() {
    struct sigaction action;
    memset(&action, 0, sizeof(action));
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigaction(SIGSEGV, &action, &before_segv);
    sigaction(SIGBUS, &action, &before_bus);
    sigaction(SIGFPE, &action, &before_fpe);
}

}  // namespace

void catch_faults() {
    static std::once_flag once;
    std::call_once(once, install_handlers);
}

void give_signal_stack() {
    static thread_local bool done = false;
    if (done) return;
    done = true;
    stack_t present;
    if (sigaltstack(nullptr, &present) == 0 && !(present.ss_flags & SS_DISABLE)) return;
    constexpr size_t SIZE = 64 * 1024;
    stack_t stack;
    memset(&stack, 0, sizeof(stack));
    stack.ss_sp = mmap(nullptr, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    stack.ss_size = SIZE;
    if (stack.ss_sp != MAP_FAILED) sigaltstack(&stack, nullptr);
}

std::string describe_fault(int signal, const void* address, int write, const SharedMemory& shared) {
    if (signal == SIGNAL_ARITHMETIC) return "an integer is divided by zero";
    const char* access = write == 1 ? "writes to" : write == 0 ? "reads from" : "accesses";
    if (shared.near(address)) return text("%s %p, outside of shared memory", access, address);
    return text("%s %p, ", access, address) + device_memory().describe(address);
}

std::string source_line(const void* instruction) {
    Dl_info library;
    if (!instruction || dladdr(const_cast<void*>(instruction), &library) == 0 || !library.dli_fname) return "";
    const size_t offset = static_cast<size_t>(static_cast<const char*>(instruction) - static_cast<const char*>(library.dli_fbase));
    const std::string place = text(", at %s+0x%zx", library.dli_fname, offset);
    FILE* found = popen(text("addr2line -e '%s' 0x%zx 2>/dev/null", library.dli_fname, offset).c_str(), "r");
    if (!found) return place;
    char line[512] = "";
    const bool read = fgets(line, sizeof(line), found) != nullptr;
    pclose(found);
    line[strcspn(line, " \n")] = 0;                  // it may add "(discriminator 3)"
    return read && line[0] != '?' ? std::string(", at ") + line : place;
}

}  // namespace standin

// What the compiler passes; only the place is read, and the alignment where there is one.
struct CheckedPlace { const char* file; uint32_t line, column; };
struct CheckedAccess { CheckedPlace place; const void* type; unsigned char log_alignment, kind; };

static std::string at(const CheckedPlace& place) { return standin::text(", at %s:%u", place.file, place.line); }

[[noreturn]] static void overflows(const char* what, const CheckedPlace* place) {
    standin::runner->fail(standin::CUDA_LAUNCH_FAILED,
                          standin::text("the %s of signed integers is outside of their range (nvcc takes it for impossible)", what) + at(*place));
}

extern "C" {

[[noreturn]] STANDIN_API void __ubsan_handle_type_mismatch_v1_abort(const CheckedAccess* access, uintptr_t address) {
    const char* what = access->kind == 0 ? "reads from" : access->kind == 1 ? "writes to" : "accesses";
    standin::runner->fail(standin::CUDA_MISALIGNED_ADDRESS,
                          standin::text("%s %#zx, which is not aligned to %u bytes", what, static_cast<size_t>(address), 1u << access->log_alignment) + at(access->place));
}

[[noreturn]] STANDIN_API void __ubsan_handle_out_of_bounds_abort(const CheckedPlace* place, uintptr_t index) {
    standin::runner->fail(standin::CUDA_ILLEGAL_ADDRESS, standin::text("index %zd is outside of its array", static_cast<ssize_t>(index)) + at(*place));
}

[[noreturn]] STANDIN_API void __ubsan_handle_shift_out_of_bounds_abort(const CheckedPlace* place, uintptr_t, uintptr_t by) {
    standin::runner->fail(standin::CUDA_LAUNCH_FAILED, standin::text("a shift by %zd places, all of the number or more", static_cast<ssize_t>(by)) + at(*place));
}

[[noreturn]] STANDIN_API void __ubsan_handle_add_overflow_abort(const CheckedPlace* place, uintptr_t, uintptr_t) { overflows("sum", place); }
[[noreturn]] STANDIN_API void __ubsan_handle_sub_overflow_abort(const CheckedPlace* place, uintptr_t, uintptr_t) { overflows("difference", place); }
[[noreturn]] STANDIN_API void __ubsan_handle_mul_overflow_abort(const CheckedPlace* place, uintptr_t, uintptr_t) { overflows("product", place); }
[[noreturn]] STANDIN_API void __ubsan_handle_negate_overflow_abort(const CheckedPlace* place, uintptr_t) { overflows("negative", place); }
[[noreturn]] STANDIN_API void __ubsan_handle_divrem_overflow_abort(const CheckedPlace* place, uintptr_t, uintptr_t) { overflows("quotient", place); }

[[noreturn]] STANDIN_API void __ubsan_handle_float_cast_overflow_abort(const CheckedPlace* place, uintptr_t) {
    standin::runner->fail(standin::CUDA_LAUNCH_FAILED, "a float outside of the range of the integer that it becomes (a device saturates, a host does not)" + at(*place));
}

}
