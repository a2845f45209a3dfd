// api.cpp: the calls of libnccl.so.2, as programs find them by name.
//
// Collectives are work of a stream of the driver stand-in: queued, captured and replayed, in stream order. A rank that does not come is
// waited for until somebody calls ncclCommAbort, as in NCCL; calls that do not fit each other are told, where NCCL would hang or give
// wrong data. A communicator that does not block answers ncclInProgress to every call, until it is asked how that went.
#include <dlfcn.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include "work.h"

using namespace nccl;

#define NCCL_CALL extern "C" __attribute__((visibility("default"))) int

namespace nccl {

void report(const std::string& line) {
    const std::string whole = "dsr stand-in: nccl: " + line + "\n";
    fwrite(whole.data(), 1, whole.size(), stderr);
    fflush(stderr);
}

std::string text(const char* format, ...) {
    char buffer[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(buffer, sizeof buffer, format, arguments);
    va_end(arguments);
    return buffer;
}

uint64_t number(const char* name, uint64_t otherwise) {
    const char* value = getenv(name);
    return value && *value ? strtoull(value, nullptr, 10) : otherwise;
}

}  // namespace nccl

namespace {

struct Config { size_t size; unsigned magic, version; int blocking; };

struct Pending { void* stream; Work work; };
thread_local int depth = 0;                          // of groups
thread_local std::vector<Pending> pending;
thread_local std::string last_problem;

std::string meeting_address() {
    const char* address = getenv("NCCL_COMM_ID");
    return address ? address : "";
}

// What a call on this communicator can be answered at once: OK to go on.
Status usable(Communicator* c) {
    if (!c || c->is_gone.load()) {
        report("a call on a communicator that is gone");
        return INVALID_ARGUMENT;
    }
    const int status = c->status.load();
    if (status == OK && c->is_settling.load() && depth == 0) {
        report("a call before the last one was done: ncclCommGetAsyncError says when");
        return INVALID_USAGE;
    }
    if (status != OK) last_problem = c->problem;
    return static_cast<Status>(status);
}

Status issue(Communicator* c, void* stream, Work&& work) {
    if (depth > 0) {
        pending.push_back({stream, std::move(work)});
        return OK;
    }
    const Status status = std::move(work).put_on(stream);
    if (status != OK) return status;
    c->is_settling = true;
    return IN_PROGRESS;
}

Status collective(Communicator* c, void* stream, const Call& call, const void* from, void* to) {
    if (const Status status = usable(c)) return status;
    if (!bytes_of(call.type) || call.root >= static_cast<uint64_t>(c->size) || call.op > MIN) return INVALID_ARGUMENT;
    if (call.kind == ALL_REDUCE && (call.op == PROD || call.type == INT8 || call.type == FLOAT16 || call.type == BFLOAT16)) {
        report("an all-reduce that is not modelled");
        return INVALID_ARGUMENT;
    }
    if (call.count == 0) return OK;                  // as NCCL: nobody waits for nothing
    return issue(c, stream, Work(c, call, from, to));
}

Status message(Communicator* c, void* stream, const Message& m) {
    if (const Status status = usable(c)) return status;
    if (m.peer < 0 || m.peer >= c->size) return INVALID_ARGUMENT;
    for (Pending& other : pending) {
        if (other.stream != stream || !other.work.concerns(c)) continue;
        if (other.work.add(m)) return OK;
        report(text("two messages between ranks %d and %d in one group are not modelled", c->rank, m.peer));
        return INVALID_ARGUMENT;
    }
    Work work(c, {MESSAGES, 0, UINT8, SUM, 0}, nullptr, nullptr);
    work.add(m);
    return issue(c, stream, std::move(work));
}

// NCCL would wait for the graphs, without an end. One that is at work when it is destroyed is gone once the abort has ended its work, and
// the stand-in cannot tell it from one that was not destroyed.
Status gone(Communicator* c, const char* call) {
    if (!c || c->is_gone.exchange(true)) {
        report(text("%s of a communicator that is gone", call));
        return INVALID_ARGUMENT;
    }
    if (c->recorded.load() > 0 && (c->at_work.load() == 0 || !strcmp(call, "ncclCommDestroy"))) {
        report(text("%s while a graph that recorded collectives lives: NCCL would wait for its end", call));
        if (!strcmp(call, "ncclCommDestroy")) return INVALID_USAGE;
    }
    return OK;
}

}  // namespace

NCCL_CALL ncclGetVersion(int* version) {
    *version = static_cast<int>(number("DSR_STANDIN_NCCL_VERSION", 22703));
    return OK;
}

extern "C" __attribute__((visibility("default"))) const char* ncclGetErrorString(int code) {
    static const char* const words[] = {"no error", "unhandled cuda error", "unhandled system error", "internal error", "invalid argument", "invalid usage",
                                        "remote process exited or there was a network error", "NCCL operation in progress"};
    return code >= 0 && code < 8 ? words[code] : "unknown result code";
}

extern "C" __attribute__((visibility("default"))) const char* ncclGetLastError(Communicator* c) {
    if (c && !c->is_gone.load()) last_problem = c->problem;
    return last_problem.c_str();
}

NCCL_CALL ncclGetUniqueId(Id* id) {
    const std::string address = meeting_address();
    const Status status = make_id(address, id);
    if (status == INVALID_ARGUMENT) last_problem = "Invalid NCCL_COMM_ID, please use format: <ipv4>:<port> or [<ipv6>]:<port> or <hostname>:<port>";
    return status;
}

NCCL_CALL ncclCommInitRankConfig(Communicator** out, int size, Id id, int rank, Config* config) {
    if (!config || config->magic != 0xcafebeef || config->size < 20 || config->version < 21400 || config->blocking != 0) {
        report("a configuration that is not modelled: magic, size, version of 2.14 or newer, blocking = 0");
        return INVALID_ARGUMENT;
    }
    if (size < 1 || size > MOST || rank < 0 || rank >= size) return INVALID_ARGUMENT;
    using Device = int (*)(int*);
    void* const driver = dlopen("libcuda.so.1", RTLD_NOW);
    const auto device = driver ? reinterpret_cast<Device>(dlsym(driver, "cuCtxGetDevice")) : nullptr;
    Communicator* c = new Communicator;
    c->rank = rank, c->size = size;
    if (!device || device(&c->device) != 0) return CUDA_ERROR;
    std::thread([=] { join(c, id, !meeting_address().empty()); }).detach();
    *out = c;
    return IN_PROGRESS;
}

NCCL_CALL ncclCommGetAsyncError(Communicator* c, int* status) {
    if (!c || c->is_gone.load()) return usable(c);
    *status = c->status.load();
    if (c->is_settling.exchange(false) && *status == OK) *status = IN_PROGRESS;
    return OK;
}

NCCL_CALL ncclCommFinalize(Communicator* c) {
    if (const Status status = usable(c)) return status;
    c->is_settling = true;
    return IN_PROGRESS;
}

NCCL_CALL ncclCommDestroy(Communicator* c) { return gone(c, "ncclCommDestroy"); }

NCCL_CALL ncclCommAbort(Communicator* c) {
    if (const Status status = gone(c, "ncclCommAbort")) return status;
    c->is_aborted = true;                            // work in flight ends when it is asked next
    return OK;
}

NCCL_CALL ncclAllReduce(const void* from, void* to, size_t n, int type, int op, Communicator* c, void* stream) {
    return collective(c, stream, {ALL_REDUCE, n, static_cast<uint64_t>(type), static_cast<uint64_t>(op), 0}, from, to);
}

NCCL_CALL ncclAllGather(const void* from, void* to, size_t n, int type, Communicator* c, void* stream) {
    return collective(c, stream, {ALL_GATHER, n, static_cast<uint64_t>(type), 0, 0}, from, to);
}

NCCL_CALL ncclBroadcast(const void* from, void* to, size_t n, int type, int root, Communicator* c, void* stream) {
    return collective(c, stream, {BROADCAST, n, static_cast<uint64_t>(type), 0, static_cast<uint64_t>(root)}, from, to);
}

NCCL_CALL ncclSend(const void* from, size_t n, int type, int peer, Communicator* c, void* stream) {
    return message(c, stream, {true, peer, from, nullptr, n * bytes_of(static_cast<uint64_t>(type))});
}

NCCL_CALL ncclRecv(void* to, size_t n, int type, int peer, Communicator* c, void* stream) {
    return message(c, stream, {false, peer, nullptr, to, n * bytes_of(static_cast<uint64_t>(type))});
}

NCCL_CALL ncclGroupStart() {
    ++depth;
    return OK;
}

NCCL_CALL ncclGroupEnd() {
    if (depth == 0) return INVALID_USAGE;
    if (--depth > 0) return OK;
    std::vector<Pending> works = std::move(pending);
    pending.clear();
    Status status = OK;
    for (Pending& next : works) {
        Communicator* const c = next.work.of();
        if (status == OK) status = std::move(next.work).put_on(next.stream);
        if (status == OK) c->is_settling = true;
    }
    return status != OK ? status : works.empty() ? OK : IN_PROGRESS;
}
