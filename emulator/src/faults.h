// faults.h: what the processor or a compiled-in check says of a kernel, as a problem of the launch instead of a crash.
#pragma once
#include <csignal>
#include <string>

namespace standin {

class SharedMemory;

constexpr int SIGNAL_ARITHMETIC = SIGFPE;

// Once a process; a fault outside kernels goes to whoever handled it before.
void catch_faults();
// Once an OS thread that runs kernels: handlers need a stack that a kernel cannot overflow.
void give_signal_stack();

// `is_write` is 1, 0, or -1 where the processor does not say.
std::string describe_fault(int signal, const void* address, int is_write, const SharedMemory& shared);

// ", file:line" of an instruction by addr2line, or its place in the library, or nothing.
std::string source_line(const void* instruction);

}  // namespace standin
