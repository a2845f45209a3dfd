// work.cpp: what a collective does: each rank lays its values into its slot, all meet, each takes what it needs, all meet again.
#include "work.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace nccl {

namespace {

const char* const TYPE_NAMES[] = {"i8", "u8", "i32", "u32", "i64", "u64", "f16", "f32", "f64", "bf16"};
const char* const KIND_NAMES[] = {"AllReduce", "AllGather", "Broadcast", "Send/Recv"};

struct Range { const void* at; size_t bytes; };      // of api_collective.cpp
using Issue = int (*)(void*, const char*, const Range*, size_t, int (*)(void*), void (*)(void*), void*);
using IsCapturing = int (*)(void*, int*);

template <typename F>
F driver_call(const char* name) {
    static void* const library = dlopen("libcuda.so.1", RTLD_NOW);
    return library ? reinterpret_cast<F>(dlsym(library, name)) : nullptr;
}

template <typename T>
void add(char* into, const char* from, size_t count, uint64_t op) {
    for (size_t i = 0; i < count; ++i) {
        T a, b;
        memcpy(&a, into + i * sizeof(T), sizeof a);
        memcpy(&b, from + i * sizeof(T), sizeof b);
        a = op == MAX ? (a < b ? b : a) : op == MIN ? (b < a ? b : a) : static_cast<T>(a + b);
        memcpy(into + i * sizeof(T), &a, sizeof a);
    }
}

void add(uint64_t type, char* into, const char* from, size_t count, uint64_t op) {
    switch (type) {
        case UINT8: return add<uint8_t>(into, from, count, op);
        case INT32: case UINT32: return op == SUM || type == UINT32 ? add<uint32_t>(into, from, count, op) : add<int32_t>(into, from, count, op);
        case INT64: case UINT64: return op == SUM || type == UINT64 ? add<uint64_t>(into, from, count, op) : add<int64_t>(into, from, count, op);
        case FLOAT32: return add<float>(into, from, count, op);
        case FLOAT64: return add<double>(into, from, count, op);
    }
}

std::string described(const Call& call) {
    if (call.kind == MESSAGES) return KIND_NAMES[call.kind];
    const std::string root = call.kind == BROADCAST ? text(" from rank %d", static_cast<int>(call.root)) : "";
    return text("%s of %llu %s%s", KIND_NAMES[call.kind % 4], static_cast<unsigned long long>(call.count), TYPE_NAMES[call.type % TYPES], root.c_str());
}

}  // namespace

size_t bytes_of(uint64_t type) {
    static const size_t sizes[TYPES] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2};
    return type < TYPES ? sizes[type] : 0;
}

bool Work::add(const Message& message) {
    for (const Message& other : messages_) {
        if (other.is_sent == message.is_sent && other.peer == message.peer) return false;
    }
    messages_.push_back(message);
    return true;
}

Status Work::put_on(void* stream) && {
    static const auto issue = driver_call<Issue>("dsr_standin_collective");
    static const auto is_capturing = driver_call<IsCapturing>("cuStreamIsCapturing");
    if (!issue || !is_capturing) {
        report("this NCCL works with the driver stand-in only");
        return SYSTEM_ERROR;
    }
    int capturing = 0;
    if (is_capturing(stream, &capturing) != 0) return CUDA_ERROR;
    std::vector<Range> ranges;
    for (const Message& m : messages_) ranges.push_back({m.is_sent ? m.from : m.to, m.bytes});
    if (messages_.empty()) {
        const size_t bytes = call_.count * bytes_of(call_.type);
        if (call_.kind != BROADCAST || static_cast<int>(call_.root) == c_->rank) ranges.push_back({from_, bytes});
        ranges.push_back({to_, call_.kind == ALL_GATHER ? bytes * static_cast<size_t>(c_->size) : bytes});
    }
    is_recorded_ = capturing != 0;
    if (is_recorded_) ++c_->recorded;
    const std::string what = name();
    const auto attempt = [](void* work) { return static_cast<int>(static_cast<Work*>(work)->attempt()); };
    const auto release = [](void* work) {
        Work* own = static_cast<Work*>(work);
        if (own->is_recorded_) --own->c_->recorded;
        if (own->is_at_work_) --own->c_->at_work;
        delete own;
    };
    return issue(stream, what.c_str(), ranges.data(), ranges.size(), attempt, release, new Work(std::move(*this))) == 0 ? OK : CUDA_ERROR;
}

std::string Work::name() const { return described(call_) + text(" of rank %d", c_->rank); }

// Done, or not yet. What was given up is done, without a result.
bool Work::attempt() {
    bool done = true;
    if (!c_->is_aborted.load() && c_->shared) {
        const int failed = c_->shared->failed.load();
        if (failed > 0) c_->fail(static_cast<Status>(failed), c_->shared->why);
        if (c_->status.load() == OK) done = messages_.empty() ? collective() : messages();
    }
    if (done) phase_ = 0;
    if (is_recorded_ && is_at_work_ == done) {
        is_at_work_ = !done;
        c_->at_work += done ? -1 : 1;
    }
    return done;
}

// The calls of the ranks do not fit each other: all ranks are told.
bool Work::fail(Status code, const std::string& why) {
    int nobody = 0;
    if (c_->shared->failed.compare_exchange_strong(nobody, -1)) {
        snprintf(c_->shared->why, sizeof c_->shared->why, "%s", why.c_str());
        c_->shared->failed = code;
        report(why);
    }
    c_->fail(code, why);
    return true;
}

// Comes to the next meeting, or looks whether all have come to it.
bool Work::meet(uint64_t* meeting) {
    if (*meeting == 0) *meeting = ++c_->shared->meetings[c_->rank];
    for (int r = 0; r < c_->size; ++r) {
        if (c_->shared->meetings[r].load() < *meeting) return false;
    }
    *meeting = 0;
    return true;
}

bool Work::collective() {
    const size_t bytes = call_.count * bytes_of(call_.type);
    if (phase_ == 0) {
        if (bytes > c_->slot) return fail(INTERNAL_ERROR, name() + text(": more bytes than DSR_STANDIN_NCCL_SLOT=%zu", c_->slot));
        c_->shared->call[c_->rank] = call_;
        if (call_.kind != BROADCAST || static_cast<int>(call_.root) == c_->rank) memcpy(slot(c_->rank), from_, bytes);
        phase_ = 1;
    }
    if (phase_ == 1) {
        if (!meet(&meeting_)) return false;
        if (!calls_fit()) return true;
        char* const to = static_cast<char*>(to_);
        if (call_.kind == BROADCAST) memcpy(to, slot(static_cast<int>(call_.root)), bytes);
        if (call_.kind == ALL_REDUCE) combine(to);
        if (call_.kind == ALL_GATHER) {
            for (int r = 0; r < c_->size; ++r) memcpy(to + static_cast<size_t>(r) * bytes, slot(r), bytes);
        }
        spoil(to);
        phase_ = 2;
    }
    return meet(&meeting_);
}

// A fault for tests: the last rank's result of one kind of collective has a wrong bit.
void Work::spoil(char* result) const {
    static const char* const kind = getenv("DSR_STANDIN_NCCL_WRONG");
    if (kind && c_->rank == c_->size - 1 && strcmp(kind, KIND_NAMES[call_.kind]) == 0) result[0] = static_cast<char>(result[0] ^ 1);
}

bool Work::calls_fit() {
    for (int r = 0; r < c_->size; ++r) {
        const Call& other = c_->shared->call[r];
        if (memcmp(&other, &call_, sizeof call_) == 0) continue;
        const Call &first = c_->rank < r ? call_ : other, &second = c_->rank < r ? other : call_;
        const int low = c_->rank < r ? c_->rank : r, high = c_->rank < r ? r : c_->rank;
        fail(INVALID_USAGE, text("rank %d calls ", low) + described(first) + text(", rank %d ", high) + described(second));
        return false;
    }
    return true;
}

int Work::order(int part, int k) const {
    static const char* const how = getenv("DSR_STANDIN_NCCL_ORDER");
    if (how && strcmp(how, "rank") == 0) return k;
    if (how && strcmp(how, "reverse") == 0) return c_->size - 1 - k;
    return (part + 1 + k) % c_->size;                // as in a ring: elsewhere for each part
}

void Work::combine(char* own_sum) {
    const size_t size = bytes_of(call_.type), count = call_.count, per = (count + static_cast<size_t>(c_->size) - 1) / static_cast<size_t>(c_->size);
    for (int part = 0; part < c_->size; ++part) {
        const size_t first = std::min(static_cast<size_t>(part) * per, count), n = std::min(per, count - first);
        for (int k = 0; k < c_->size; ++k) {
            const char* const values = slot(order(part, k)) + first * size;
            if (k == 0) memcpy(own_sum + first * size, values, n * size);
            else nccl::add(call_.type, own_sum + first * size, values, n, call_.op);
        }
    }
}

bool Work::place_messages() {
    size_t at = 0;
    for (const Message& m : messages_) {
        if (!m.is_sent) continue;
        if (at + m.bytes > c_->slot) return !fail(INTERNAL_ERROR, name() + text(": more bytes than DSR_STANDIN_NCCL_SLOT=%zu", c_->slot));
        Mail& mail = c_->shared->mail[c_->rank][m.peer];
        if (m.bytes > 0) memcpy(slot(c_->rank) + at, m.from, m.bytes);
        mail.place = at;
        mail.bytes = m.bytes;
        mail.is_full = 1;
        at += (m.bytes + 15) / 16 * 16;
    }
    return true;
}

// Ends when all that is received has come, and all that was sent is taken.
bool Work::messages() {
    if (phase_ == 0) {
        if (!place_messages()) return true;
        ended_.assign(messages_.size(), false);
        phase_ = 1;
    }
    bool all_ended = true;
    for (size_t i = 0; i < messages_.size(); ++i) {
        const Message& m = messages_[i];
        if (ended_[i]) continue;
        Mail& mail = m.is_sent ? c_->shared->mail[c_->rank][m.peer] : c_->shared->mail[m.peer][c_->rank];
        // Asked first: a peer that waits for this rank in a collective has ended its messages before.
        const bool is_elsewhere = c_->shared->meetings[m.peer].load() > c_->shared->meetings[c_->rank].load();
        if (m.is_sent ? mail.is_full.load() == 0 : mail.is_full.load() == 1) {
            ended_[i] = true;
            if (m.is_sent) continue;
            if (mail.bytes != m.bytes) {
                return fail(INVALID_USAGE, text("rank %d sends %llu bytes to rank %d, which receives %zu", m.peer, static_cast<unsigned long long>(mail.bytes), c_->rank, m.bytes));
            }
            if (m.bytes > 0) {
                memcpy(m.to, slot(m.peer) + mail.place, m.bytes);
                spoil(static_cast<char*>(m.to));
            }
            mail.is_full = 0;
        } else if (is_elsewhere) {
            const char* const doing = m.is_sent ? "sends to" : "receives from";
            return fail(INVALID_USAGE, text("rank %d %s rank %d, which is in ", c_->rank, doing, m.peer) + described(c_->shared->call[m.peer]));
        } else {
            all_ended = false;
        }
    }
    return all_ended;
}

}  // namespace nccl
