// settings.cpp: reads the environment variables DSR_STANDIN_*.
#include "settings.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "host/types.h"

namespace standin {

namespace {

const char* variable(const char* name) {
    const char* value = getenv(name);
    return value && *value ? value : nullptr;
}

uint64_t number(const char* name, uint64_t otherwise) {
    const char* value = variable(name);
    if (!value) return otherwise;
    char* end;
    const uint64_t result = strtoull(value, &end, 10);
    if (*end == 0) return result;
    report(text("%s=%s is not a number; it is ignored", name, value));
    return otherwise;
}

Order order() {
    const char* value = variable("DSR_STANDIN_ORDER");
    if (!value || strcmp(value, "fifo") == 0) return Order::Fifo;
    if (strcmp(value, "lifo") == 0) return Order::Lifo;
    if (strcmp(value, "random") == 0) return Order::Random;
    report(text("DSR_STANDIN_ORDER=%s is none of fifo, lifo, random; it is ignored", value));
    return Order::Fifo;
}

Streams streams() {
    const char* value = variable("DSR_STANDIN_STREAMS");
    if (!value || strcmp(value, "later") == 0) return Streams::Later;
    if (strcmp(value, "now") == 0) return Streams::Now;
    if (strcmp(value, "copies-first") == 0) return Streams::CopiesFirst;
    if (strcmp(value, "random") == 0) return Streams::Random;
    report(text("DSR_STANDIN_STREAMS=%s is none of later, now, copies-first, random; it is ignored", value));
    return Streams::Later;
}

// "kernel=registers,kernel=registers"
std::map<std::string, unsigned> registers(std::string rest) {
    std::map<std::string, unsigned> result;
    while (!rest.empty()) {
        const size_t comma = rest.find(',');
        const std::string entry = rest.substr(0, comma);
        rest = comma == std::string::npos ? "" : rest.substr(comma + 1);
        const size_t equals = entry.find('=');
        if (equals == std::string::npos) {
            report("registers: '" + entry + "' is not kernel=registers; it is ignored");
            continue;
        }
        result[entry.substr(0, equals)] = static_cast<unsigned>(atoi(entry.c_str() + equals + 1));
    }
    return result;
}

bool is_on(const char* name) {
    const char* value = variable(name);
    return value && strcmp(value, "1") == 0;
}

std::string ptx_architecture() {
    const char* engine = variable("DSR_STANDIN_ENGINE");
    if (!engine || strcmp(engine, "ptx") != 0) return "";
    const char* architecture = variable("DSR_STANDIN_PTX_ARCH");
    return architecture ? architecture : "80";
}

// As src/kernel_sets.rs, which makes them. Nothing is in the folder of an engine that there is not.
std::string kernel_set() {
    const char* engine = variable("DSR_STANDIN_ENGINE");
    std::string name = "kernels";
    if (engine && strcmp(engine, "text") != 0) name += std::string("-") + engine;
    if (!ptx_architecture().empty()) name += "-" + ptx_architecture();
    if (is_on("DSR_STANDIN_RACES")) name += "-races";
    if (is_on("DSR_STANDIN_WATCH")) name += "-watch";
    return name;
}

Settings read() {
    Settings s;
    s.order = order();
    s.seed = number("DSR_STANDIN_SEED", 1);
    s.os_threads = static_cast<unsigned>(number("DSR_STANDIN_THREADS", 0));
    if (s.os_threads == 0) s.os_threads = std::thread::hardware_concurrency();
    if (s.os_threads == 0) s.os_threads = 1;
    s.memory_bytes = number("DSR_STANDIN_MEMORY", 8ull << 30);
    s.devices = static_cast<int>(number("DSR_STANDIN_DEVICES", 1));
    s.driver_version = static_cast<int>(number("DSR_STANDIN_VERSION", 13000));
    s.capability_major = 8;
    s.capability_minor = 0;
    if (const char* capability = variable("DSR_STANDIN_CAPABILITY")) sscanf(capability, "%d.%d", &s.capability_major, &s.capability_minor);
    s.multiprocessors = static_cast<int>(number("DSR_STANDIN_MULTIPROCESSORS", 108));
    s.report_leaks = number("DSR_STANDIN_LEAKS", 0) != 0;
    s.report_launches = number("DSR_STANDIN_LAUNCHES", 0) != 0;
    s.streams = streams();
    const char* blocking = variable("CUDA_LAUNCH_BLOCKING");
    if (blocking && strcmp(blocking, "1") == 0) s.streams = Streams::Now;
    const char* of_kernels = variable("DSR_STANDIN_REGISTERS");
    s.registers = registers(of_kernels ? of_kernels : "");
    const char* libraries = variable("DSR_STANDIN_KERNELS");
    s.kernel_libraries = libraries ? libraries : "";
    s.ptx_architecture = ptx_architecture();
    s.kernel_set = kernel_set();
    return s;
}

}  // namespace

Settings& settings() {
    static Settings* const all = new Settings(read());       // never freed: threads may outlive static objects
    return *all;
}

void report(const std::string& line) {
    const std::string whole = "dsr stand-in: " + line + "\n";
    fwrite(whole.data(), 1, whole.size(), stderr);
    fflush(stderr);
}

std::string text(const char* format, ...) {
    char buffer[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(buffer, sizeof(buffer), format, arguments);
    va_end(arguments);
    return buffer;
}

}  // namespace standin

// For tests in this process, which cannot set the environment any more.
extern "C" STANDIN_API void dsr_standin_set_order(int order, uint64_t seed) {
    standin::settings().order = static_cast<standin::Order>(order);
    standin::settings().seed = seed;
}

extern "C" STANDIN_API void dsr_standin_set_streams(int streams, uint64_t seed) {
    standin::settings().streams = static_cast<standin::Streams>(streams);
    standin::settings().seed = seed;
}

extern "C" STANDIN_API void dsr_standin_set_registers(const char* registers) { standin::settings().registers = standin::registers(registers); }
