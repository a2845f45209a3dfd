// api_module.cpp: driver calls about modules, kernels, and launches.
#include <algorithm>
#include <cstring>
#include <memory>

#include "cuda_codes.h"
#include "driver.h"

using namespace standin;

namespace {

// Attributes of a kernel by CUDA's number.
enum { MAX_THREADS = 0, STATIC_BYTES = 1, REGISTERS = 4, PTX_VERSION = 5, BINARY_VERSION = 6, DYNAMIC_LIMIT = 8, CARVEOUT = 9 };

Function* function_of(void* handle) { return static_cast<Function*>(handle); }

Launch launch_of(const Function& function, dim3 grid, dim3 block, unsigned dynamic_bytes, bool is_dependent, void** arguments) {
    const KernelEntry& kernel = *function.entry;
    Launch launch{&kernel, grid, block, dynamic_bytes, is_dependent, {}};
    if (kernel.parameter_count == 0) return launch;
    const Parameter& last = kernel.parameters[kernel.parameter_count - 1];
    launch.bytes.resize(last.offset + last.size + 16);           // the caller's values may be gone when the work runs
    for (unsigned i = 0; i < kernel.parameter_count; ++i) {
        const Parameter& parameter = kernel.parameters[i];
        memcpy(launch.bytes.data() + parameter.offset, arguments[i], parameter.size);
    }
    return launch;
}

int launch(void* handle, dim3 grid, dim3 block, unsigned dynamic_bytes, bool is_dependent, void* stream_handle, void** arguments,
           void** extra) {
    Lock lock;
    if (int code = context_code()) return code;
    Function* function = function_of(handle);
    const StreamPointer stream = driver().stream(stream_handle);
    if (!function || !stream) return CUDA_INVALID_HANDLE;
    if (extra || (function->entry->parameter_count > 0 && !arguments)) return CUDA_INVALID_VALUE;
    auto work = std::make_shared<Launch>(launch_of(*function, grid, block, dynamic_bytes, is_dependent, arguments));
    const Problem refused = check_launch(*function, *work);
    if (refused.code) {
        report(refused.text);
        return refused.code;
    }
    return driver().issue(stream, [=] { return run_grid(*function, *work); }, function->entry->name);
}

// CUlaunchConfig of the driver interface.
struct LaunchConfig {
    unsigned grid[3], block[3];
    unsigned dynamic_bytes;
    void* stream;
    struct Attribute { int number; char padding[4]; unsigned value[16]; }* attributes;
    unsigned attribute_count;
};
static_assert(sizeof(LaunchConfig::Attribute) == 72, "CUlaunchAttribute has 72 bytes");

enum { COOPERATIVE = 2, CLUSTER = 4, PROGRAMMATIC_STREAM_SERIALIZATION = 6 };

// The newest version of PTX that a driver compiles, from that of CUDA that it supports (PTX ISA, release notes): 11.x has 7.x; 12.0 to
// 12.6 have 8.0 to 8.5, in which 12.6 has none of its own; 13.x has 9.x.
int newest_ptx(int driver_version) {
    const int major = driver_version / 1000, minor = driver_version % 1000 / 10;
    if (major == 12) return 80 + minor - (minor >= 6 ? 1 : 0);
    return (major - 4) * 10 + minor;
}

// Version of PTX text, as 70 for 7.0; 0 for machine code.
int version_of_ptx(const char* image) {
    if (*image != '/' && *image != '.') return 0;
    const char* at = strstr(image, ".version ");
    int major = 0, minor = 0;
    return at && sscanf(at, ".version %d.%d", &major, &minor) == 2 ? major * 10 + minor : 0;
}

}  // namespace

// Any image has all kernels: those of the libraries that stand beside this one. Only its form is looked at.
DRIVER_CALL cuModuleLoadData(void** module, const void* image) {
    Lock lock;
    if (int code = context_code()) return code;
    if (!image) return CUDA_INVALID_VALUE;
    if (settings().capability_major < 8) return CUDA_NO_BINARY_FOR_GPU;
    const int ptx = version_of_ptx(static_cast<const char*>(image));
    if (ptx ? ptx > newest_ptx(settings().driver_version) : settings().driver_version < 12000) return CUDA_UNSUPPORTED_PTX_VERSION;
    if (settings().report_launches) report(ptx ? text("compiles PTX %d.%d", ptx / 10, ptx % 10) : std::string("loads machine code"));
    *module = driver().modules.add(std::make_shared<Module>());
    return CUDA_OK;
}

DRIVER_CALL cuModuleLoadDataEx(void** module, const void* image, unsigned, int*, void**) { return cuModuleLoadData(module, image); }
DRIVER_CALL cuModuleLoadFatBinary(void** module, const void* image) { return cuModuleLoadData(module, image); }
DRIVER_CALL cuModuleLoad(void** module, const char* path) { return cuModuleLoadData(module, path); }

DRIVER_CALL cuModuleUnload(void* module) {
    Lock lock;
    driver().run_all();
    const bool known = driver().modules.remove(module);
    if (int code = context_code()) return code;
    return known ? CUDA_OK : CUDA_INVALID_HANDLE;
}

DRIVER_CALL cuModuleGetFunction(void** handle, void* module, const char* name) {
    Lock lock;
    if (int code = context_code()) return code;
    if (!driver().modules.find(module)) return CUDA_INVALID_HANDLE;
    *handle = find_function(name);
    return *handle ? CUDA_OK : CUDA_NOT_FOUND;
}

DRIVER_CALL cuModuleGetGlobal_v2(uint64_t*, size_t*, void*, const char*) { return CUDA_NOT_FOUND; }

DRIVER_CALL cuFuncGetAttribute(int* value, int number, void* handle) {
    Lock lock;
    if (int code = context_code()) return code;
    const Function* function = function_of(handle);
    if (!function) return CUDA_INVALID_HANDLE;
    switch (number) {
        case MAX_THREADS: *value = static_cast<int>(function->entry->block); break;
        case STATIC_BYTES: *value = static_cast<int>(function->static_bytes); break;
        case REGISTERS: *value = static_cast<int>(function->registers()); break;
        case PTX_VERSION:
            if (function->entry->compiled_for) {
                *value = static_cast<int>(function->entry->compiled_for);
                break;
            }
            [[fallthrough]];
        case BINARY_VERSION: *value = settings().capability_major * 10 + settings().capability_minor; break;
        case DYNAMIC_LIMIT:
            *value = static_cast<int>(std::max<size_t>(function->dynamic_limit, SHARED_WITHOUT_OPT_IN - std::min<size_t>(function->static_bytes, SHARED_WITHOUT_OPT_IN)));
            break;
        default: *value = 0;
    }
    return CUDA_OK;
}

DRIVER_CALL cuFuncSetAttribute(void* handle, int number, int value) {
    Lock lock;
    if (int code = context_code()) return code;
    Function* function = function_of(handle);
    if (!function) return CUDA_INVALID_HANDLE;
    if (number == CARVEOUT) return CUDA_OK;
    if (number != DYNAMIC_LIMIT || value < 0) return CUDA_INVALID_VALUE;
    if (static_cast<size_t>(value) + function->static_bytes > SHARED_LIMIT) {
        report(text("%s: %d bytes of dynamic shared memory, and a block has at most %zu", function->entry->name, value, SHARED_LIMIT));
        return CUDA_INVALID_VALUE;
    }
    function->dynamic_limit = static_cast<unsigned>(value);
    return CUDA_OK;
}

DRIVER_CALL cuFuncSetCacheConfig(void* handle, int) {
    Lock lock;
    if (int code = context_code()) return code;
    return handle ? CUDA_OK : CUDA_INVALID_HANDLE;
}

DRIVER_CALL cuFuncGetName(const char** name, void* handle) {
    Lock lock;
    if (!handle) return CUDA_INVALID_HANDLE;
    *name = function_of(handle)->entry->name;
    return CUDA_OK;
}

DRIVER_CALL cuFuncGetParamInfo(void* handle, size_t index, size_t* offset, size_t* size) {
    if (settings().driver_version < 12040) {
        report("cuFuncGetParamInfo is called, which drivers before CUDA 12.4 do not have");
        abort();
    }
    Lock lock;
    const Function* function = function_of(handle);
    if (!function) return CUDA_INVALID_HANDLE;
    if (index >= function->entry->parameter_count) return CUDA_INVALID_VALUE;
    *offset = function->entry->parameters[index].offset;
    if (size) *size = function->entry->parameters[index].size;
    return CUDA_OK;
}

DRIVER_CALL cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned dynamic_bytes,
                           void* stream, void** arguments, void** extra) {
    return launch(function, {gx, gy, gz}, {bx, by, bz}, dynamic_bytes, false, stream, arguments, extra);
}

DRIVER_CALL cuLaunchKernelEx(const LaunchConfig* config, void* function, void** arguments, void** extra) {
    bool is_dependent = false;
    for (unsigned i = 0; i < config->attribute_count; ++i) {
        const LaunchConfig::Attribute& attribute = config->attributes[i];
        const bool cluster = attribute.number == CLUSTER && attribute.value[0] * attribute.value[1] * attribute.value[2] > 1;
        if (cluster || (attribute.number == COOPERATIVE && attribute.value[0])) {
            report("cuLaunchKernelEx: clusters and cooperative launches are not modelled");
            return CUDA_NOT_SUPPORTED;
        }
        is_dependent |= attribute.number == PROGRAMMATIC_STREAM_SERIALIZATION && attribute.value[0];
    }
    if (is_dependent && settings().capability_major < 9) {
        report("cuLaunchKernelEx: no programmatic dependent launch before compute capability 9.0");
        return CUDA_NOT_SUPPORTED;
    }
    return launch(function, {config->grid[0], config->grid[1], config->grid[2]}, {config->block[0], config->block[1], config->block[2]},
                  config->dynamic_bytes, is_dependent, config->stream, arguments, extra);
}

DRIVER_CALL cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void* handle, int threads, size_t dynamic_bytes) {
    Lock lock;
    if (int code = context_code()) return code;
    if (!handle || threads <= 0) return CUDA_INVALID_VALUE;
    *blocks = static_cast<int>(blocks_per_multiprocessor(*function_of(handle), static_cast<unsigned>(threads), dynamic_bytes));
    return CUDA_OK;
}

DRIVER_CALL cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, void* handle, int threads, size_t dynamic_bytes, unsigned) {
    return cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks, handle, threads, dynamic_bytes);
}

DRIVER_CALL cuOccupancyAvailableDynamicSMemPerBlock(size_t* bytes, void* handle, int blocks, int) {
    Lock lock;
    if (int code = context_code()) return code;
    if (!handle || blocks <= 0) return CUDA_INVALID_VALUE;
    const size_t share = 164 * 1024 / static_cast<size_t>(blocks), kept = 1024 + function_of(handle)->static_bytes;
    *bytes = std::min(share > kept ? share - kept : 0, SHARED_LIMIT);
    return CUDA_OK;
}

DRIVER_CALL cuOccupancyMaxPotentialBlockSize(int* grid, int* block, void* handle, void*, size_t dynamic_bytes, int limit) {
    Lock lock;
    if (int code = context_code()) return code;
    if (!handle) return CUDA_INVALID_HANDLE;
    const Function& function = *function_of(handle);
    *block = static_cast<int>(function.entry->block);
    if (limit > 0) *block = std::min(*block, limit);
    *grid = settings().multiprocessors * static_cast<int>(blocks_per_multiprocessor(function, static_cast<unsigned>(*block), dynamic_bytes));
    return CUDA_OK;
}

DRIVER_CALL cuOccupancyMaxPotentialBlockSizeWithFlags(int* grid, int* block, void* handle, void* bytes_of, size_t dynamic_bytes, int limit, unsigned) {
    return cuOccupancyMaxPotentialBlockSize(grid, block, handle, bytes_of, dynamic_bytes, limit);
}
