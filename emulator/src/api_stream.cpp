// api_stream.cpp: driver calls about streams and events.
#include <chrono>

#include "counts.h"
#include "cuda_codes.h"
#include "driver.h"

using namespace standin;

namespace {

enum { NON_BLOCKING = 1, DISABLE_TIMING = 2 };

double now() { return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

int create_stream(void** handle, unsigned flags) {
    Lock lock;
    if (int code = context_code()) return code;
    auto stream = std::make_shared<Stream>();
    stream->blocking = !(flags & NON_BLOCKING);
    *handle = driver().streams.add(stream);
    return CUDA_OK;
}

// A stream that waits for an event of a capture joins that capture.
int wait_in_capture(Stream& stream, const Event& event) {
    if (stream.capture && stream.capture != event.capture) {
        report("cuStreamWaitEvent: an event from outside of the capture");
        stream.capture->invalid = true;
        return CUDA_CAPTURE_ISOLATION;
    }
    if (!stream.capture) {
        stream.capture = event.capture;
        stream.seen.clear();
    }
    for (const auto& [other, count] : event.seen) {
        size_t& seen = stream.seen[other];
        if (seen < count) seen = count;
    }
    return CUDA_OK;
}

int elapsed(float* milliseconds, void* start_handle, void* end_handle) {
    Lock lock;
    if (int code = context_code()) return code;
    const auto start = driver().events.find(start_handle), end = driver().events.find(end_handle);
    if (!start || !end || !start->timing || !end->timing || !start->recorded.stream || !end->recorded.stream) return CUDA_INVALID_HANDLE;
    for (const auto& event : {start, end}) {
        if (event->recorded.stream->done < event->recorded.count) return CUDA_NOT_READY;
    }
    *milliseconds = static_cast<float>(end->milliseconds - start->milliseconds);
    return CUDA_OK;
}

}  // namespace

DRIVER_CALL cuStreamCreate(void** stream, unsigned flags) { return create_stream(stream, flags); }
DRIVER_CALL cuStreamCreateWithPriority(void** stream, unsigned flags, int) { return create_stream(stream, flags); }

DRIVER_CALL cuStreamGetPriority(void*, int* priority) {
    *priority = 0;
    return CUDA_OK;
}

DRIVER_CALL cuStreamDestroy_v2(void* handle) {
    Lock lock;
    const StreamPointer stream = driver().streams.find(handle);
    if (!stream) return CUDA_INVALID_HANDLE;
    if (!stream->capture) driver().run_stream(stream);
    driver().streams.remove(handle);
    return driver().context.problem.code;
}

DRIVER_CALL cuStreamSynchronize(void* handle) {
    Lock lock;
    if (int code = context_code()) return code;
    const StreamPointer stream = driver().stream(handle);
    if (!stream) return CUDA_INVALID_HANDLE;
    if (stream->capture) return driver().spoil(stream->capture, "cuStreamSynchronize");
    return driver().wait_for_stream(stream);
}

// Runs the work: a program that asks until it is done should come to an end. Only what waits for other processes is not waited for.
DRIVER_CALL cuStreamQuery(void* handle) {
    Lock lock;
    const StreamPointer stream = driver().stream(handle);
    if (stream && !stream->capture && !context_code() && driver().run_until({stream, stream->issued}, false) == CUDA_NOT_READY) return CUDA_NOT_READY;
    return cuStreamSynchronize(handle);
}

DRIVER_CALL cuStreamWaitEvent(void* stream_handle, void* event_handle, unsigned) {
    Lock lock;
    if (int code = context_code()) return code;
    const StreamPointer stream = driver().stream(stream_handle);
    const auto event = driver().events.find(event_handle);
    if (!stream || !event) return CUDA_INVALID_HANDLE;
    if (event->capture || stream->capture) return wait_in_capture(*stream, *event);
    if (event->recorded.stream) stream->waits_for.push_back(event->recorded);
    return CUDA_OK;
}

DRIVER_CALL cuLaunchHostFunc(void* handle, void (*function)(void*), void* data) {
    Lock lock;
    if (int code = context_code()) return code;
    const StreamPointer stream = driver().stream(handle);
    if (!stream || !function) return CUDA_INVALID_VALUE;
    return driver().issue(stream, [=] {
        function(data);
        return Problem{};
    }, "cuLaunchHostFunc");
}

DRIVER_CALL cuEventCreate(void** handle, unsigned flags) {
    Lock lock;
    if (int code = context_code()) return code;
    auto event = std::make_shared<Event>();
    event->timing = !(flags & DISABLE_TIMING);
    *handle = driver().events.add(event);
    return CUDA_OK;
}

DRIVER_CALL cuEventDestroy_v2(void* handle) {
    Lock lock;
    if (!driver().events.remove(handle)) return CUDA_INVALID_HANDLE;
    return driver().context.problem.code;
}

DRIVER_CALL cuEventRecord(void* event_handle, void* stream_handle) {
    Lock lock;
    if (int code = context_code()) return code;
    const StreamPointer stream = driver().stream(stream_handle);
    const auto event = driver().events.find(event_handle);
    if (!stream || !event) return CUDA_INVALID_HANDLE;
    event->capture = stream->capture;
    if (stream->capture) {
        event->seen = stream->seen;
        return stream->capture->invalid ? CUDA_CAPTURE_INVALIDATED : CUDA_OK;
    }
    const int code = driver().issue(stream, [=] {
        event->milliseconds = now();
        return Problem{};
    }, "cuEventRecord");
    event->recorded = {stream, stream->issued};
    return code;
}

DRIVER_CALL cuEventRecordWithFlags(void* event, void* stream, unsigned) { return cuEventRecord(event, stream); }

DRIVER_CALL cuEventSynchronize(void* handle) {
    Lock lock;
    if (int code = context_code()) return code;
    const auto event = driver().events.find(handle);
    if (!event) return CUDA_INVALID_HANDLE;
    if (event->capture) return CUDA_CAPTURED_EVENT;
    if (!event->recorded.stream) return CUDA_OK;
    return driver().wait_until(event->recorded);
}

DRIVER_CALL cuEventQuery(void* handle) {
    Lock lock;
    const auto event = driver().events.find(handle);
    if (event && !event->capture && event->recorded.stream && !context_code()) {
        const Point& point = event->recorded;
        if (point.stream->done < point.count) ++counts().waits;
        if (driver().run_until(point, false) == CUDA_NOT_READY) return CUDA_NOT_READY;
    }
    return cuEventSynchronize(handle);
}

DRIVER_CALL cuEventElapsedTime(float* milliseconds, void* start, void* end) { return elapsed(milliseconds, start, end); }
DRIVER_CALL cuEventElapsedTime_v2(float* milliseconds, void* start, void* end) { return elapsed(milliseconds, start, end); }
