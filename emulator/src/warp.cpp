// warp.cpp: what lanes of a warp do together: meetings, shuffles, ballots.
#include "block.h"
#include "cuda_codes.h"

namespace standin {

namespace {

struct Shuffled { uint64_t value, result; int source; const char *what, *file; int line; };
struct Vote { uint32_t result; bool yes; };

void exchange_shuffle(void* const* records, uint32_t mask) {
    for (uint32_t rest = mask; rest; rest &= rest - 1) {
        const int lane = __builtin_ctz(rest);
        Shuffled& own = *static_cast<Shuffled*>(records[lane]);
        if (!(mask >> own.source & 1)) {
            runner->fail(CUDA_LAUNCH_FAILED, text("%s at %s:%d: lane %d reads lane %d, which does not take part (mask %08x)",
                                                  own.what, own.file, own.line, lane, own.source, mask));
        }
        own.result = static_cast<Shuffled*>(records[own.source])->value;
    }
}

void exchange_ballot(void* const* records, uint32_t mask) {
    uint32_t votes = 0;
    for (uint32_t rest = mask; rest; rest &= rest - 1) {
        const int lane = __builtin_ctz(rest);
        if (static_cast<Vote*>(records[lane])->yes) votes |= 1u << lane;
    }
    for (uint32_t rest = mask; rest; rest &= rest - 1) static_cast<Vote*>(records[__builtin_ctz(rest)])->result = votes;
}

}  // namespace

// The meeting of these lanes, begun or not.
Meeting* BlockRunner::find_meeting(Warp& warp, uint32_t mask, uint32_t bit, const char* what, const char* file, int line) {
    Meeting* empty = nullptr;
    for (Meeting& meeting : warp.meetings) {
        if (!meeting.arrived) {
            if (!empty) empty = &meeting;
        } else if (meeting.mask == mask) {
            return &meeting;
        } else if (meeting.arrived & mask && meeting.mask & bit) {     // they wait for this lane, and it for them, elsewhere
            fail(CUDA_LAUNCH_FAILED, text("%s in divergent code: at %s:%d with mask %08x, while lanes %08x wait in %s at %s:%d with mask %08x",
                                          what, file, line, mask, meeting.arrived, meeting.what, meeting.file, meeting.line, meeting.mask));
        }
    }
    if (!empty) fail(CUDA_LAUNCH_FAILED, text("%s at %s:%d: more than four parts of a warp wait apart", what, file, line));
    return empty;
}

void BlockRunner::meet(uint32_t mask, Exchange exchange, void* record, const char* what, const char* file, int line) {
    BlockThread& self = running();
    Warp& warp = warps_[self.number / 32];
    const uint32_t bit = 1u << self.lane;
    if (!(mask & bit)) fail(CUDA_LAUNCH_FAILED, text("%s at %s:%d: the calling lane is not in the mask %08x", what, file, line, mask));
    mask &= warp.exist;
    if (mask & warp.left) {
        fail(CUDA_LAUNCH_FAILED, text("%s in divergent code at %s:%d: lanes %08x have left the kernel", what, file, line, mask & warp.left));
    }

    Meeting* own = warp.waiting ? find_meeting(warp, mask, bit, what, file, line) : &warp.meetings[0];
    if (!own->arrived) {
        ++warp.waiting;
        own->mask = mask;
        own->exchange = exchange;
        own->what = what;
        own->file = file;
        own->line = line;
    } else if (own->exchange != exchange || own->line != line || own->file != file) {
        fail(CUDA_LAUNCH_FAILED, text("%s in divergent code: at %s:%d, while lanes %08x wait in %s at %s:%d",
                                      what, file, line, own->arrived, own->what, own->file, own->line));
    }

    own->records[self.lane] = record;
    own->arrived |= bit;
    if (own->arrived == mask) {
        exchange(own->records, mask);
        own->arrived = 0;
        --warp.waiting;
        ++warp.met;
        make_runnable(self.number / 32, mask);
    }
    suspend();
}

void meet(uint32_t mask, Exchange exchange, void* record, const char* what, const char* file, int line) {
    runner->meet(mask, exchange, record, what, file, line);
}

uint64_t shuffle(uint32_t mask, uint64_t value, int source_lane, const char* what, const char* file, int line) {
    Shuffled record{value, 0, source_lane & 31, what, file, line};
    runner->meet(mask, exchange_shuffle, &record, what, file, line);
    return record.result;
}

uint32_t ballot(uint32_t mask, bool vote, const char* what, const char* file, int line) {
    Vote record{0, vote};
    runner->meet(mask, exchange_ballot, &record, what, file, line);
    return record.result;
}

}  // namespace standin
