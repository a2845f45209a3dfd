// api_errors.cpp: names of error codes, and the calls that this driver knows of but does not model.
#include "cuda_codes.h"
#include "driver.h"

using namespace standin;

namespace {

struct Name { int code; const char *name, *text; };

const Name NAMES[] = {
    {CUDA_OK, "CUDA_SUCCESS", "no error"},
    {CUDA_INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {CUDA_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {CUDA_NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {CUDA_NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {CUDA_INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {CUDA_INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {CUDA_INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {CUDA_NO_BINARY_FOR_GPU, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
    {CUDA_UNSUPPORTED_PTX_VERSION, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "the provided PTX was compiled with an unsupported toolchain."},
    {CUDA_INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {CUDA_ILLEGAL_STATE, "CUDA_ERROR_ILLEGAL_STATE", "the operation cannot be performed in the present state"},
    {CUDA_NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {CUDA_NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready"},
    {CUDA_ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {CUDA_LAUNCH_OUT_OF_RESOURCES, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch"},
    {CUDA_MISALIGNED_ADDRESS, "CUDA_ERROR_MISALIGNED_ADDRESS", "misaligned address"},
    {CUDA_LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {CUDA_NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {CUDA_CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {CUDA_CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"},
    {CUDA_CAPTURE_UNMATCHED, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", "capture was not initiated in this stream"},
    {CUDA_CAPTURE_UNJOINED, "CUDA_ERROR_STREAM_CAPTURE_UNJOINED", "capturing stream has unjoined work"},
    {CUDA_CAPTURE_ISOLATION, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION", "dependency created on uncaptured work in another stream"},
    {CUDA_CAPTURED_EVENT, "CUDA_ERROR_CAPTURED_EVENT", "operation not permitted on an event last recorded in a capturing stream"},
    {CUDA_CAPTURE_WRONG_THREAD, "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD", "attempt to terminate a thread-local capture sequence from another thread"},
};

const Name* name_of(int code) {
    for (const Name& name : NAMES) {
        if (name.code == code) return &name;
    }
    return nullptr;
}

int not_modelled(const char* call) {
    report(std::string(call) + " is not modelled");
    return CUDA_NOT_SUPPORTED;
}

}  // namespace

DRIVER_CALL cuGetErrorName(int code, const char** name) {
    const Name* found = name_of(code);
    *name = found ? found->name : nullptr;
    return found ? CUDA_OK : CUDA_INVALID_VALUE;
}

DRIVER_CALL cuGetErrorString(int code, const char** text) {
    const Name* found = name_of(code);
    *text = found ? found->text : nullptr;
    return found ? CUDA_OK : CUDA_INVALID_VALUE;
}

DRIVER_CALL cuProfilerStart() { return CUDA_OK; }
DRIVER_CALL cuProfilerStop() { return CUDA_OK; }

// A program that looks these up must find them; what they return says the rest.
DRIVER_CALL cuCtxCreate_v2() { return not_modelled("cuCtxCreate_v2"); }
DRIVER_CALL cuCtxCreate_v3() { return not_modelled("cuCtxCreate_v3"); }
DRIVER_CALL cuCtxCreate_v4() { return not_modelled("cuCtxCreate_v4"); }
DRIVER_CALL cuCtxDestroy_v2() { return not_modelled("cuCtxDestroy_v2"); }
DRIVER_CALL cuDestroyExternalMemory() { return not_modelled("cuDestroyExternalMemory"); }
DRIVER_CALL cuDeviceGetDefaultMemPool() { return not_modelled("cuDeviceGetDefaultMemPool"); }
DRIVER_CALL cuDeviceGetMemPool() { return not_modelled("cuDeviceGetMemPool"); }
DRIVER_CALL cuDeviceSetMemPool() { return not_modelled("cuDeviceSetMemPool"); }
DRIVER_CALL cuExternalMemoryGetMappedBuffer() { return not_modelled("cuExternalMemoryGetMappedBuffer"); }
DRIVER_CALL cuImportExternalMemory() { return not_modelled("cuImportExternalMemory"); }
DRIVER_CALL cuLaunchCooperativeKernel() { return not_modelled("cuLaunchCooperativeKernel"); }
DRIVER_CALL cuMemAdvise_v2() { return not_modelled("cuMemAdvise_v2"); }
DRIVER_CALL cuMemAllocFromPoolAsync() { return not_modelled("cuMemAllocFromPoolAsync"); }
DRIVER_CALL cuMemAllocManaged() { return not_modelled("cuMemAllocManaged"); }
DRIVER_CALL cuMemPoolCreate() { return not_modelled("cuMemPoolCreate"); }
DRIVER_CALL cuMemPoolDestroy() { return not_modelled("cuMemPoolDestroy"); }
DRIVER_CALL cuMemPoolGetAttribute() { return not_modelled("cuMemPoolGetAttribute"); }
DRIVER_CALL cuMemPoolSetAttribute() { return not_modelled("cuMemPoolSetAttribute"); }
DRIVER_CALL cuMemPoolTrimTo() { return not_modelled("cuMemPoolTrimTo"); }
DRIVER_CALL cuMemPrefetchAsync_v2() { return not_modelled("cuMemPrefetchAsync_v2"); }
DRIVER_CALL cuMemcpyPeerAsync() { return not_modelled("cuMemcpyPeerAsync"); }
DRIVER_CALL cuOccupancyMaxActiveClusters() { return not_modelled("cuOccupancyMaxActiveClusters"); }
DRIVER_CALL cuOccupancyMaxPotentialClusterSize() { return not_modelled("cuOccupancyMaxPotentialClusterSize"); }
DRIVER_CALL cuStreamAttachMemAsync() { return not_modelled("cuStreamAttachMemAsync"); }
DRIVER_CALL cuStreamGetCaptureInfo_v2() { return not_modelled("cuStreamGetCaptureInfo_v2"); }
DRIVER_CALL cuMulticastGetGranularity() { return not_modelled("cuMulticastGetGranularity"); }
DRIVER_CALL cuTensorMapEncodeTiled() { return not_modelled("cuTensorMapEncodeTiled"); }
