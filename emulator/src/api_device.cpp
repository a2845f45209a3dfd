// api_device.cpp: driver calls about the pretended device and its context.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <unistd.h>

#include "cuda_codes.h"
#include "driver.h"
#include "memory.h"

using namespace standin;

namespace {

char context_handle;                                 // its address is the handle

// At the end of the process; status 3 instead of 0 tells a test of leaks.
void check_leaks_at_exit(int status, void*) {
    driver().report_leaks("at exit");
    if (!driver().leaked || status != 0) return;
    fflush(nullptr);
    _exit(3);
}

int device_code(int device) {
    if (!driver().initialized) return CUDA_NOT_INITIALIZED;
    return device >= 0 && device < settings().devices ? CUDA_OK : CUDA_INVALID_DEVICE;
}

// Attributes by CUDA's number; those of an A100 where they matter for a launch.
int attribute(int number) {
    switch (number) {
        case 1: return 1024;                         // threads of a block
        case 2: case 3: return 1024;                 // block x, y
        case 4: return 64;                           // block z
        case 5: return 2147483647;                   // grid x
        case 6: case 7: return 65535;                // grid y, z
        case 8: return SHARED_WITHOUT_OPT_IN;
        case 9: return 65536;                        // constant memory
        case 10: return 32;                          // warp
        case 11: return 2147483647;                  // pitch
        case 12: case 82: return 65536;              // registers of a block, of a multiprocessor
        case 13: return 1410000;                     // clock, kHz
        case 16: return settings().multiprocessors;
        case 19: case 31: case 41: return 1;         // maps host memory, concurrent kernels, unified addresses
        case 36: return 1215000;                     // memory clock, kHz
        case 37: return 5120;                        // memory bus, bits
        case 38: return 40 * 1024 * 1024;            // second cache
        case 39: return 2048;                        // threads of a multiprocessor
        case 40: return 3;                           // copy engines
        case 75: return settings().capability_major;
        case 76: return settings().capability_minor;
        case 81: return 164 * 1024;                  // shared memory of a multiprocessor
        case 97: return SHARED_LIMIT;
        case 106: return 32;                         // blocks of a multiprocessor
        case 111: return 1024;                       // shared memory reserved by the system
        case 115: return 1;                          // memory pools
        default: return 0;
    }
}

}  // namespace

DRIVER_CALL cuInit(unsigned) {
    Lock lock;
    if (settings().devices == 0) return CUDA_NO_DEVICE;
    if (driver().initialized) return CUDA_OK;
    if (!load_kernel_libraries()) return CUDA_INVALID_IMAGE;
    driver().initialized = true;
    if (settings().report_leaks) on_exit(check_leaks_at_exit, nullptr);
    return CUDA_OK;
}

DRIVER_CALL cuDriverGetVersion(int* version) {
    *version = settings().driver_version;
    return CUDA_OK;
}

DRIVER_CALL cuDeviceGetCount(int* count) {
    Lock lock;
    if (!driver().initialized) return CUDA_NOT_INITIALIZED;
    *count = settings().devices;
    return CUDA_OK;
}

DRIVER_CALL cuDeviceGet(int* device, int ordinal) {
    Lock lock;
    *device = ordinal;
    return device_code(ordinal);
}

DRIVER_CALL cuDeviceGetName(char* name, int length, int device) {
    Lock lock;
    const std::string architecture = settings().ptx_architecture, of_engine = architecture.empty() ? "" : ", PTX of sm_" + architecture;
    if (length > 0) snprintf(name, static_cast<size_t>(length), "dsr host stand-in%s", of_engine.c_str());
    return device_code(device);
}

DRIVER_CALL cuDeviceGetUuid_v2(char* uuid, int device) {
    Lock lock;
    memcpy(uuid, "dsr host standin", 16);
    uuid[15] = static_cast<char>('0' + device);
    return device_code(device);
}

DRIVER_CALL cuDeviceGetUuid(char* uuid, int device) { return cuDeviceGetUuid_v2(uuid, device); }

DRIVER_CALL cuDeviceGetAttribute(int* value, int number, int device) {
    Lock lock;
    *value = attribute(number);
    return device_code(device);
}

DRIVER_CALL cuDeviceTotalMem_v2(size_t* bytes, int device) {
    Lock lock;
    *bytes = device_memory().total();
    return device_code(device);
}

DRIVER_CALL cuDevicePrimaryCtxRetain(void** context, int device) {
    Lock lock;
    if (int code = device_code(device)) return code;
    ++driver().context.references;
    driver().context.device = device;
    *context = &context_handle;
    return CUDA_OK;
}

DRIVER_CALL cuDevicePrimaryCtxRelease_v2(int device) {
    Lock lock;
    if (int code = device_code(device)) return code;
    if (driver().context.references == 0) return CUDA_INVALID_CONTEXT;
    if (--driver().context.references == 0) driver().end_context();
    return CUDA_OK;
}

DRIVER_CALL cuDevicePrimaryCtxGetState(int device, unsigned* flags, int* active) {
    Lock lock;
    *flags = 0;
    *active = driver().context.references > 0;
    return device_code(device);
}

DRIVER_CALL cuDevicePrimaryCtxSetFlags_v2(int device, unsigned) {
    Lock lock;
    return device_code(device);
}

DRIVER_CALL cuCtxSetCurrent(void* context) {
    Lock lock;
    if (!driver().initialized) return CUDA_NOT_INITIALIZED;
    if (context && (context != &context_handle || driver().context.references == 0)) return CUDA_INVALID_CONTEXT;
    set_current_context(context != nullptr);
    return CUDA_OK;
}

DRIVER_CALL cuCtxGetCurrent(void** context) {
    Lock lock;
    if (!driver().initialized) return CUDA_NOT_INITIALIZED;
    *context = context_is_current() ? &context_handle : nullptr;
    return CUDA_OK;
}

DRIVER_CALL cuCtxGetDevice(int* device) {
    Lock lock;
    *device = driver().context.device;
    return context_code();
}

DRIVER_CALL cuCtxSynchronize() {
    Lock lock;
    if (int code = context_code()) return code;
    if (int code = driver().refuse_in_capture("cuCtxSynchronize")) return code;
    return driver().wait_for_all();
}

DRIVER_CALL cuCtxGetStreamPriorityRange(int* least, int* greatest) {
    Lock lock;
    *least = 0;
    *greatest = -5;
    return context_code();
}

DRIVER_CALL cuCtxSetFlags(unsigned) {
    Lock lock;
    return context_code();
}

DRIVER_CALL cuCtxSetCacheConfig(int) {
    Lock lock;
    return context_code();
}

DRIVER_CALL cuCtxGetCacheConfig(int* config) {
    Lock lock;
    *config = 0;
    return context_code();
}

DRIVER_CALL cuCtxSetLimit(int, size_t) {
    Lock lock;
    return context_code();
}

DRIVER_CALL cuCtxGetLimit(size_t* value, int) {
    Lock lock;
    *value = 0;
    return context_code();
}
