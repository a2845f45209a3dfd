// counts.cpp: the counters, and the function by which a test in this process reads them.
#include "counts.h"

#include <initializer_list>

#include "host/types.h"

namespace standin {

Counts& counts() {
    static Counts* const all = new Counts();         // never freed: calls may come while the process ends
    return *all;
}

void count_copy(bool from_device, bool to_device, size_t bytes) {
    Counts& c = counts();
    if (from_device && to_device) {
        ++c.copies_on_device;
        c.bytes_on_device += bytes;
    } else if (to_device) {
        ++c.copies_to_device;
        c.bytes_to_device += bytes;
    } else {
        ++c.copies_to_host;
        c.bytes_to_host += bytes;
    }
}

}  // namespace standin

extern "C" STANDIN_API void dsr_standin_counts(uint64_t* to) {
    const standin::Counts& c = standin::counts();
    for (const auto* count : {&c.launches, &c.graphs, &c.fills, &c.copies_to_device, &c.bytes_to_device, &c.copies_to_host, &c.bytes_to_host,
                              &c.copies_on_device, &c.bytes_on_device, &c.dependent, &c.early, &c.waits}) {
        *to++ = *count;
    }
}
