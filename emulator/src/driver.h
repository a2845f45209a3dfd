// driver.h: the state behind the driver calls: streams and their work, events, captures, the one context.
//
// Work of a stream waits in its queue until somebody waits for it: no call that only issues work has done any of it when it
// returns. So a program that reads a result too early shows it here, and so does one that lacks an event between two streams, in the
// usual order or in another one (`Streams`).
#pragma once
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "block.h"
#include "grid.h"

namespace standin {

// CUDA_NOT_READY says that the work cannot end yet, because other processes have to do their part: it is asked again.
using Action = std::function<Problem()>;

struct Stream;
using StreamPointer = std::shared_ptr<Stream>;

// "When this stream has done its first `count` pieces of work."
struct Point {
    StreamPointer stream;
    uint64_t count = 0;
};

struct Work {
    Action action;
    bool is_copy = false;                            // between host and device
    std::vector<Point> after;
};

// How many nodes of each stream come before something in a capture.
using Seen = std::map<const Stream*, size_t>;

struct Node {
    Action action;
    std::string name;                                // of a kernel or a collective, or what else it does
    const Stream* stream;                            // that has captured it; may be gone when the graph runs
    Seen after;
};

struct Graph {
    std::vector<Node> nodes;                         // in the order of capture, which respects every dependency
    // A line a node: number of its stream, name, and how many nodes of each stream come before it.
    std::string description() const;
};

// A launch of a graph at work: a node that waits for other processes is asked again, those that are done are not.
struct Replay {
    bool is_begun = false;
    size_t done = 0;
    std::map<const Stream*, std::vector<size_t>> nodes;              // of each stream, in its order
    Seen done_of;
};

// A capture under way. Every stream in it knows how many nodes of each stream come before its next one.
struct Capture {
    Graph graph;
    Stream* origin;
    int mode;                                        // 0 global, 1 this OS thread, 2 relaxed
    std::thread::id os_thread;
    bool invalid = false;
    std::map<const Stream*, size_t> added;           // nodes of each stream
};
using CapturePointer = std::shared_ptr<Capture>;

struct Stream {
    bool blocking = true;                            // orders itself with the default stream
    std::deque<Work> queue;
    uint64_t issued = 0, done = 0;
    std::vector<Point> waits_for;                    // events that the next work comes after
    CapturePointer capture;
    Seen seen;                                       // in the capture
};

struct Event {
    Point recorded;
    double milliseconds = 0;                         // on the host's clock, once it has happened
    bool timing = true;
    CapturePointer capture;                          // recorded in a capture: what that stream had seen
    Seen seen;
};

struct Module { int unused; };
struct GraphExec { Graph graph; };
struct PrimaryContext { int references = 0, device = 0; Problem problem; };

// Live objects by their handle.
template <typename T>
class Handles {
public:
    T* add(std::shared_ptr<T> object) { return (all_[object.get()] = object).get(); }
    std::shared_ptr<T> find(void* handle) const {
        const auto found = all_.find(static_cast<T*>(handle));
        return found == all_.end() ? nullptr : found->second;
    }
    bool remove(void* handle) { return all_.erase(static_cast<T*>(handle)) > 0; }
    size_t count() const { return all_.size(); }
    void clear() { all_.clear(); }
    const std::map<T*, std::shared_ptr<T>>& all() const { return all_; }

private:
    std::map<T*, std::shared_ptr<T>> all_;
};

struct Driver {
    std::recursive_mutex lock;
    bool initialized = false;
    PrimaryContext context;
    StreamPointer default_stream = std::make_shared<Stream>();
    Handles<Stream> streams;
    Handles<Event> events;
    Handles<Module> modules;
    Handles<Graph> graphs;
    Handles<GraphExec> executables;
    bool leaked = false;
    std::string recorded;                            // description of the last graph that was captured

    // The stream of a handle, the default one for null; null for a handle that is not live.
    StreamPointer stream(void* handle);
    // Queues it, or makes it a node of the stream's capture.
    int issue(const StreamPointer& stream, Action action, const std::string& name, bool is_copy = false);
    // Runs what has to run; a code of the context's problem, if there is one then. Where work has to wait for other processes, it is
    // waited for, or the code is CUDA_NOT_READY.
    int run_until(const Point& point, bool waits = true);
    int run_all(bool waits = true);
    int run_stream(const StreamPointer& stream);
    // The same for a call in which the host waits: counted if there is something to wait for.
    int wait_until(const Point& point);
    int wait_for_all();
    int wait_for_stream(const StreamPointer& stream);

    // The capture that forbids a call like an allocation to this OS thread, or null.
    CapturePointer forbidding_capture();
    // CUDA_OK, or 900 after a line on stderr; the capture is then spoilt.
    int refuse_in_capture(const char* call);
    int spoil(const CapturePointer& capture, const char* call);

    // A stream whose next work may run now, in the order of the settings; null if there is none.
    StreamPointer ready();
    // Goes on with a graph: in the order of capture, or in one that its dependencies leave free; CUDA_NOT_READY as above.
    Problem run_graph(const Graph& graph, Replay& replay);
    // False if it has to wait for other processes.
    bool run_next(Stream& stream, bool waits);

    void report_leaks(const char* when);
    void end_context();

private:
    size_t draw(size_t below);
    uint64_t seed_ = 0, drawn_ = 0;                  // of the order of streams
};

Driver& driver();

// Held by every driver call.
struct Lock {
    Lock() : guard(driver().lock) {}
    std::lock_guard<std::recursive_mutex> guard;
};

// What every call needs that works in a context: CUDA_OK, or why not.
int context_code();
bool context_is_current();
void set_current_context(bool current);

}  // namespace standin

#define DRIVER_CALL extern "C" STANDIN_API int
