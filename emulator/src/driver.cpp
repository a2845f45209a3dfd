// driver.cpp: queues of streams, captures, and leaks.
#include "driver.h"

#include <cstdio>
#include <cstdlib>
#include <unistd.h>

#include "cuda_codes.h"
#include "memory.h"

namespace standin {

namespace {

thread_local bool has_current_context = false;

}  // namespace

Driver& driver() {
    static Driver* const state = new Driver();       // never freed: calls may come while the process ends
    return *state;
}

bool context_is_current() { return has_current_context; }
void set_current_context(bool current) { has_current_context = current; }

int context_code() {
    Driver& d = driver();
    if (!d.initialized) return CUDA_NOT_INITIALIZED;
    if (d.context.references == 0 || !has_current_context) return CUDA_INVALID_CONTEXT;
    return d.context.problem.code;
}

StreamPointer Driver::stream(void* handle) {
    const auto number = reinterpret_cast<uintptr_t>(handle);
    if (number <= 2) return default_stream;          // null, "legacy", and "per thread"
    return streams.find(handle);
}

int Driver::issue(const StreamPointer& stream, Action action) {
    if (stream->capture) {
        Capture& capture = *stream->capture;
        if (capture.invalid) return CUDA_CAPTURE_INVALIDATED;
        capture.graph.nodes.push_back(std::move(action));
        stream->seen[stream.get()] = ++capture.added[stream.get()];
        return CUDA_OK;
    }
    Work work{std::move(action), std::move(stream->waits_for)};
    stream->waits_for.clear();
    if (stream == default_stream) {
        for (const auto& [handle, other] : streams.all()) {
            if (other->blocking && other->issued > other->done) work.after.push_back({other, other->issued});
        }
    } else if (stream->blocking && default_stream->issued > default_stream->done) {
        work.after.push_back({default_stream, default_stream->issued});
    }
    stream->queue.push_back(std::move(work));
    ++stream->issued;
    return settings().streams_at_once ? run_all() : CUDA_OK;
}

int Driver::run_until(const Point& point) {
    Stream& stream = *point.stream;
    while (stream.done < point.count && !stream.queue.empty()) {
        Work work = std::move(stream.queue.front());
        stream.queue.pop_front();
        for (const Point& before : work.after) run_until(before);
        if (!context.problem.code) {
            Problem problem = work.action();
            if (problem.code) {
                report(problem.text);
                context.problem = problem;           // as on a device: every later call of the context returns it
            }
        }
        ++stream.done;
    }
    return context.problem.code;
}

int Driver::run_stream(const StreamPointer& stream) {
    const std::vector<Point> waits = stream->waits_for;
    run_until({stream, stream->issued});
    for (const Point& point : waits) run_until(point);
    if (stream == default_stream) {
        for (const auto& [handle, other] : streams.all()) {
            if (other->blocking) run_until({other, other->issued});
        }
    }
    return context.problem.code;
}

int Driver::run_all() {
    run_until({default_stream, default_stream->issued});
    for (const auto& [handle, stream] : streams.all()) run_until({stream, stream->issued});
    return context.problem.code;
}

CapturePointer Driver::forbidding_capture() {
    for (const auto& [handle, stream] : streams.all()) {
        const CapturePointer& capture = stream->capture;
        if (!capture || capture->mode == 2) continue;
        if (capture->mode == 0 || capture->os_thread == std::this_thread::get_id()) return capture;
    }
    return nullptr;
}

int Driver::spoil(const CapturePointer& capture, const char* call) {
    report(text("%s is not allowed while a stream captures; the capture is spoilt", call));
    capture->invalid = true;
    return CUDA_CAPTURE_UNSUPPORTED;
}

int Driver::refuse_in_capture(const char* call) {
    const CapturePointer capture = forbidding_capture();
    return capture ? spoil(capture, call) : CUDA_OK;
}

void Driver::report_leaks(const char* when) {
    const size_t blocks = device_memory().count(), pinned = pinned_memory().count();
    const size_t objects = streams.count() + events.count() + modules.count() + graphs.count() + executables.count();
    if (leaked || blocks + pinned + objects == 0) return;
    leaked = true;
    report(text("leaks %s: %zu allocations, %zu page-locked blocks, %zu streams, %zu events, %zu modules, %zu graphs, %zu executable graphs",
                when, blocks, pinned, streams.count(), events.count(), modules.count(), graphs.count(), executables.count()) + device_memory().list());
}

// The last reference to the context is gone, and all that lived in it.
void Driver::end_context() {
    run_all();
    if (settings().report_leaks) report_leaks("when the context ends");
    device_memory().release_all();
    streams.clear();
    events.clear();
    modules.clear();
    graphs.clear();
    executables.clear();
    default_stream = std::make_shared<Stream>();
    context.problem = {};
}

}  // namespace standin
