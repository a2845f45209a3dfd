// api_graph.cpp: driver calls about captures and graphs.
#include "counts.h"
#include "cuda_codes.h"
#include "driver.h"

using namespace standin;

namespace {

enum { NONE = 0, ACTIVE = 1, INVALIDATED = 2 };

// Ends the capture in every stream that takes part in it.
void release_streams(const CapturePointer& capture) {
    for (const auto& [handle, stream] : driver().streams.all()) {
        if (stream->capture != capture) continue;
        stream->capture = nullptr;
        stream->seen.clear();
    }
}

// Whether the origin has waited, by events, for all that other streams have added.
bool all_joined(const Capture& capture) {
    for (const auto& [stream, added] : capture.added) {
        const auto seen = capture.origin->seen.find(stream);
        if (seen == capture.origin->seen.end() || seen->second < added) return false;
    }
    return true;
}

}  // namespace

DRIVER_CALL cuStreamBeginCapture_v2(void* handle, int mode) {
    Lock lock;
    if (int code = context_code()) return code;
    const StreamPointer stream = driver().stream(handle);
    if (!stream) return CUDA_INVALID_HANDLE;
    if (stream == driver().default_stream) {
        report("cuStreamBeginCapture: the default stream cannot be captured");
        return CUDA_CAPTURE_UNSUPPORTED;
    }
    if (stream->capture || mode < 0 || mode > 2) return CUDA_ILLEGAL_STATE;
    auto capture = std::make_shared<Capture>();
    capture->origin = stream.get();
    capture->mode = mode;
    capture->os_thread = std::this_thread::get_id();
    stream->capture = capture;
    stream->seen.clear();
    return CUDA_OK;
}

DRIVER_CALL cuStreamEndCapture(void* handle, void** graph) {
    Lock lock;
    if (int code = context_code()) return code;
    *graph = nullptr;
    const StreamPointer stream = driver().stream(handle);
    if (!stream) return CUDA_INVALID_HANDLE;
    const CapturePointer capture = stream->capture;
    if (!capture) return CUDA_ILLEGAL_STATE;
    if (capture->origin != stream.get()) return CUDA_CAPTURE_UNMATCHED;
    if (capture->mode != 2 && capture->os_thread != std::this_thread::get_id()) return CUDA_CAPTURE_WRONG_THREAD;
    const bool joined = all_joined(*capture);
    release_streams(capture);
    if (capture->invalid) return CUDA_CAPTURE_INVALIDATED;
    if (!joined) {
        report("cuStreamEndCapture: another stream has work in this capture that the first stream does not wait for");
        return CUDA_CAPTURE_UNJOINED;
    }
    // Moved: events that were recorded in the capture keep it, and not its work.
    driver().recorded = capture->graph.description();
    *graph = driver().graphs.add(std::make_shared<Graph>(std::move(capture->graph)));
    return CUDA_OK;
}

DRIVER_CALL cuStreamIsCapturing(void* handle, int* status) {
    Lock lock;
    if (int code = context_code()) return code;
    const StreamPointer stream = driver().stream(handle);
    if (!stream) return CUDA_INVALID_HANDLE;
    *status = !stream->capture ? NONE : stream->capture->invalid ? INVALIDATED : ACTIVE;
    return CUDA_OK;
}

DRIVER_CALL cuThreadExchangeStreamCaptureMode(int*) { return CUDA_OK; }

DRIVER_CALL cuGraphGetNodes(void* handle, void**, size_t* count) {
    Lock lock;
    const auto graph = driver().graphs.find(handle);
    if (!graph) return CUDA_INVALID_HANDLE;
    *count = graph->nodes.size();
    return CUDA_OK;
}

DRIVER_CALL cuGraphInstantiateWithFlags(void** executable, void* handle, unsigned long long) {
    Lock lock;
    if (int code = context_code()) return code;
    const auto graph = driver().graphs.find(handle);
    if (!graph) return CUDA_INVALID_HANDLE;
    *executable = driver().executables.add(std::make_shared<GraphExec>(GraphExec{*graph}));
    return CUDA_OK;
}

DRIVER_CALL cuGraphUpload(void* executable, void* stream) {
    Lock lock;
    if (int code = context_code()) return code;
    return driver().executables.find(executable) && driver().stream(stream) ? CUDA_OK : CUDA_INVALID_HANDLE;
}

DRIVER_CALL cuGraphLaunch(void* handle, void* stream_handle) {
    Lock lock;
    if (int code = context_code()) return code;
    const auto executable = driver().executables.find(handle);
    const StreamPointer stream = driver().stream(stream_handle);
    if (!executable || !stream) return CUDA_INVALID_HANDLE;
    auto replay = std::make_shared<Replay>();
    return driver().issue(stream, [=]() -> Problem {
        if (!replay->is_begun) ++counts().graphs;
        return driver().run_graph(executable->graph, *replay);
    }, "graph");
}

DRIVER_CALL cuGraphExecDestroy(void* handle) {
    Lock lock;
    if (!driver().executables.remove(handle)) return CUDA_INVALID_HANDLE;
    return driver().context.problem.code;
}

DRIVER_CALL cuGraphDestroy(void* handle) {
    Lock lock;
    if (!driver().graphs.remove(handle)) return CUDA_INVALID_HANDLE;
    return driver().context.problem.code;
}

// For a test in this process: the last graph that it has captured, as `Graph::description` has it; valid until the next.
extern "C" STANDIN_API const char* dsr_standin_recorded() {
    Lock lock;
    return driver().recorded.c_str();
}
