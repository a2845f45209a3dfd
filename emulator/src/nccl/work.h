// work.h: a collective of one rank, or a group of messages, as work of a stream.
#pragma once
#include <memory>
#include <vector>

#include "communicator.h"

namespace nccl {

struct Message { bool is_sent; int peer; const void* from; void* to; size_t bytes; };

size_t bytes_of(uint64_t type);

// Moves on when it is asked, and then looks whether the other ranks have come.
class Work {
public:
    Work(Communicator* communicator, Call call, const void* from, void* to) : c_(communicator), call_(call), from_(from), to_(to) {}

    // For `MESSAGES` only: all of a group go together. False for a second one between the same ranks.
    bool add(const Message& message);
    // A call of the driver stand-in; a status.
    Status put_on(void* stream) &&;

    Communicator* of() const { return c_; }
    bool concerns(const Communicator* communicator) const { return c_ == communicator && call_.kind == MESSAGES; }

private:
    bool attempt();
    bool meet(uint64_t* meeting);
    bool collective();
    bool messages();
    bool place_messages();
    bool calls_fit();
    void spoil(char* result) const;
    void combine(char* own_sum);
    std::string name() const;
    bool fail(Status code, const std::string& why);
    char* slot(int rank) const { return c_->slots + static_cast<size_t>(rank) * c_->slot; }
    // The rank whose values are added as number `k` to part `part` of as many parts as ranks.
    int order(int part, int k) const;

    Communicator* c_;
    Call call_;
    const void* from_;
    void* to_;
    std::vector<Message> messages_;
    // Where it is; back at the start when it is done, for the next replay.
    int phase_ = 0;
    uint64_t meeting_ = 0;
    std::vector<bool> ended_;
    bool is_recorded_ = false;
    bool is_at_work_ = false;
};

}  // namespace nccl
