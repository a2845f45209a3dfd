// communicator.h: a rank of the stand-in of NCCL, and what all ranks share.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>

namespace nccl {

enum Status { OK = 0, CUDA_ERROR = 1, SYSTEM_ERROR = 2, INTERNAL_ERROR = 3, INVALID_ARGUMENT = 4, INVALID_USAGE = 5, REMOTE_ERROR = 6, IN_PROGRESS = 7 };
enum Type { INT8, UINT8, INT32, UINT32, INT64, UINT64, FLOAT16, FLOAT32, FLOAT64, BFLOAT16, TYPES };
enum Op { SUM, PROD, MAX, MIN };
enum Kind { ALL_REDUCE, ALL_GATHER, BROADCAST, MESSAGES };

constexpr int MOST = 16;                             // ranks

struct Id { char bytes[128]; };

// What a rank has called; all ranks must have called the same.
struct Call { uint64_t kind, count, type, op, root; };

// A message from one rank to another; it is taken before the next may come.
struct Mail { std::atomic<uint32_t> is_full; uint64_t place, bytes; };

// In memory of all processes, zero at first.
struct Shared {
    std::atomic<int> failed;                         // a status, once any rank has seen calls that do not fit each other; -1 on the way
    char why[256];
    std::atomic<uint64_t> meetings[MOST];            // that each rank has come to
    Call call[MOST];
    Mail mail[MOST][MOST];                           // from, to
};

// Never freed, so that a call on one that is gone can be told.
struct Communicator {
    int rank = 0, size = 0, device = 0;
    Shared* shared = nullptr;
    char* slots = nullptr;                           // one for each rank, behind `shared`
    size_t slot = 0;                                 // bytes
    std::atomic<int> status{IN_PROGRESS};
    std::atomic<bool> is_settling{false};            // a call was taken, and nobody has asked yet how it went
    std::atomic<bool> is_aborted{false}, is_gone{false};
    std::atomic<int> recorded{0};                    // collectives that graphs have
    std::atomic<int> at_work{0};                     // of those, the ones that wait for other ranks
    std::string problem;                             // of the status, written before it

    void fail(Status code, const std::string& why) {
        int before = status.load();
        if (before != OK && before != IN_PROGRESS) return;
        problem = why;
        status = code;
    }
};

// A line on stderr, marked as the stand-in's.
void report(const std::string& line);

std::string text(const char* format, ...) __attribute__((format(printf, 1, 2)));

// DSR_STANDIN_NCCL_* of the environment.
uint64_t number(const char* name, uint64_t otherwise);

// The address of the ranks' meeting as an id; with an empty address, one of this process, which then listens there.
Status make_id(const std::string& address, Id* id);

// Meets the other ranks at the address of the id; ends with a status, or when the communicator is aborted. Rank 0 listens if `listens`.
void join(Communicator* communicator, const Id& id, bool listens);

}  // namespace nccl
