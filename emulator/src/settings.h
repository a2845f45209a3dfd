// settings.h: what the environment says about the pretended device; emulator/README.md lists the variables.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

namespace standin {

// Which of the threads that can go on runs: the first of the block, the last, or one by random priorities of warps.
enum class Order { Fifo, Lifo, Random };

// When the work of streams runs: when somebody waits for it, and then only what the wait needs; when it is issued; or, at a wait, also
// what the wait does not need: copies between host and device first, or in a random order.
enum class Streams { Later, Now, CopiesFirst, Random };

struct Settings {
    Order order;
    uint64_t seed;
    unsigned os_threads;
    size_t memory_bytes;
    int devices;
    int driver_version;
    int capability_major, capability_minor;
    int multiprocessors;
    bool report_leaks;
    bool report_launches;                  // the first of each kernel
    Streams streams;
    std::map<std::string, unsigned> registers;
    std::string kernel_libraries;
    std::string ptx_architecture;          // as "80"; empty: the engine is the text
    std::string kernel_set;                // folder of kernel libraries beside this one
};

// Read from the environment at the first call.
Settings& settings();

// A line on stderr, marked as the stand-in's.
void report(const std::string& text);

std::string text(const char* format, ...) __attribute__((format(printf, 1, 2)));

}  // namespace standin
