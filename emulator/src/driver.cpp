// driver.cpp: queues of streams, captures, and leaks.
#include "driver.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <unistd.h>

#include "counts.h"
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

int Driver::issue(const StreamPointer& stream, Action action, const std::string& name, bool is_copy) {
    if (stream->capture) {
        Capture& capture = *stream->capture;
        if (capture.invalid) return CUDA_CAPTURE_INVALIDATED;
        capture.graph.nodes.push_back({std::move(action), name, stream.get(), stream->seen});
        stream->seen[stream.get()] = ++capture.added[stream.get()];
        return CUDA_OK;
    }
    Work work{std::move(action), is_copy, std::move(stream->waits_for)};
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
    if (settings().streams != Streams::Now) return CUDA_OK;
    run_all(false);                                  // what waits for other processes goes on later
    return context.problem.code;
}

bool Driver::run_next(Stream& stream, bool waits) {
    Work& work = stream.queue.front();               // stays there: what runs before it is work of other streams
    while (!work.after.empty()) {
        if (run_until(work.after.back(), waits) == CUDA_NOT_READY) return false;
        work.after.pop_back();
    }
    if (!context.problem.code) {
        Problem problem = work.action();
        if (problem.code == CUDA_NOT_READY) return false;
        if (problem.code) {
            report(problem.text);
            context.problem = problem;               // as on a device: every later call of the context returns it
        }
    }
    stream.queue.pop_front();
    ++stream.done;
    return true;
}

StreamPointer Driver::ready() {
    std::vector<StreamPointer> able;
    auto look_at = [&](const StreamPointer& stream) {
        if (stream->queue.empty()) return;
        for (const Point& before : stream->queue.front().after) {
            if (before.stream->done < before.count) return;
        }
        able.push_back(stream);
    };
    look_at(default_stream);
    for (const auto& [handle, stream] : streams.all()) look_at(stream);
    if (able.empty()) return nullptr;
    if (settings().streams == Streams::CopiesFirst) {
        for (const StreamPointer& stream : able) {
            if (stream->queue.front().is_copy) return stream;
        }
        return able.front();
    }
    return able[draw(able.size())];
}

size_t Driver::draw(size_t below) {
    if (drawn_ == 0 || seed_ != settings().seed) {
        seed_ = settings().seed;
        drawn_ = seed_ * 0x9e3779b97f4a7c15ull + 1;
    }
    drawn_ ^= drawn_ << 13;
    drawn_ ^= drawn_ >> 7;
    drawn_ ^= drawn_ << 17;
    return drawn_ % below;
}

Problem Driver::run_graph(const Graph& graph, Replay& replay) {
    if (!replay.is_begun) {
        replay.is_begun = true;
        for (size_t i = 0; i < graph.nodes.size(); ++i) replay.nodes[graph.nodes[i].stream].push_back(i);
    }
    const bool in_order = settings().streams == Streams::Later || settings().streams == Streams::Now;
    auto may_run = [&](const Node& node) {
        for (const auto& [stream, count] : node.after) {
            if (replay.done_of[stream] < count) return false;
        }
        return true;
    };
    while (replay.done < graph.nodes.size()) {
        std::vector<size_t> able;                    // of each stream the next one, if it may run
        for (const auto& [stream, nodes] : replay.nodes) {
            const size_t next = replay.done_of[stream];
            if (next < nodes.size() && may_run(graph.nodes[nodes[next]])) able.push_back(nodes[next]);
        }
        bool has_run = false;
        while (!has_run && !able.empty()) {
            const auto chosen = in_order ? std::min_element(able.begin(), able.end()) : able.begin() + static_cast<std::ptrdiff_t>(draw(able.size()));
            const Node& node = graph.nodes[*chosen];
            const Problem problem = node.action();
            if (problem.code == CUDA_NOT_READY && in_order) return problem;
            able.erase(chosen);                      // another stream may not wait for other processes
            if (problem.code == CUDA_NOT_READY) continue;
            if (problem.code) return problem;
            ++replay.done;
            ++replay.done_of[node.stream];
            has_run = true;
        }
        if (!has_run) return {CUDA_NOT_READY, ""};
    }
    replay = {};
    return {};
}

std::string Graph::description() const {
    std::vector<const Stream*> streams;
    for (const Node& node : nodes) {
        if (std::find(streams.begin(), streams.end(), node.stream) == streams.end()) streams.push_back(node.stream);
    }
    std::string all;
    for (const Node& node : nodes) {
        const auto number = std::find(streams.begin(), streams.end(), node.stream) - streams.begin();
        all += text("%d\t%s", static_cast<int>(number), node.name.c_str());
        for (const Stream* stream : streams) {
            const auto before = node.after.find(stream);
            all += text("\t%zu", before == node.after.end() ? size_t{0} : before->second);
        }
        all += "\n";
    }
    return all;
}

int Driver::run_until(const Point& point, bool waits) {
    Stream& stream = *point.stream;
    const bool greedy = settings().streams == Streams::CopiesFirst || settings().streams == Streams::Random;
    while (stream.done < point.count && !stream.queue.empty()) {
        const StreamPointer other = greedy ? ready() : nullptr;
        if (run_next(other ? *other : stream, waits)) continue;
        // Another stream waits for other processes; what is wanted may not.
        if (other && other != point.stream && run_next(stream, waits)) continue;
        if (!waits) return context.problem.code ? context.problem.code : CUDA_NOT_READY;
        usleep(20);
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

int Driver::run_all(bool waits) {
    run_until({default_stream, default_stream->issued}, waits);
    for (const auto& [handle, stream] : streams.all()) run_until({stream, stream->issued}, waits);
    return context.problem.code;
}

int Driver::wait_until(const Point& point) {
    if (point.stream->done < point.count) ++counts().waits;
    return run_until(point);
}

int Driver::wait_for_all() {
    bool busy = !default_stream->queue.empty();
    for (const auto& [handle, stream] : streams.all()) busy |= !stream->queue.empty();
    if (busy) ++counts().waits;
    return run_all();
}

int Driver::wait_for_stream(const StreamPointer& stream) {
    if (!stream->queue.empty()) ++counts().waits;
    return run_stream(stream);
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
