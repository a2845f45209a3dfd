// kernel.h: KERNEL(name, block) makes the kernel known to the driver, with the size and kind of each parameter.
#pragma once
#include <type_traits>
#include <utility>
#include "host/types.h"

namespace standin {

struct Parameter { uint32_t offset, size; bool is_pointer, may_hold_pointers; };

struct KernelEntry {
    const char* name;
    const char* file;
    unsigned block;                        // threads, as in __launch_bounds__
    void (*run)(void* const* arguments);   // one thread
    const Parameter* parameters;
    unsigned parameter_count;
    unsigned compiled_for;                 // architecture of its PTX, as 90; 0 for text, which is made for any
};
STANDIN_API void register_kernel(const KernelEntry& entry);

template <auto KERNEL_FUNCTION>
struct Trampoline;

template <typename... Arguments, void (*KERNEL_FUNCTION)(Arguments...)>
struct Trampoline<KERNEL_FUNCTION> {
    static constexpr unsigned COUNT = sizeof...(Arguments);
    struct Table { Parameter at[COUNT + 1]; };

    // Each parameter follows the one before, at its own alignment.
    static constexpr Table parameters() {
        const uint32_t sizes[] = {(uint32_t)sizeof(Arguments)..., 0};
        const uint32_t alignments[] = {(uint32_t)alignof(Arguments)..., 1};
        const bool pointers[] = {std::is_pointer<Arguments>::value..., false};
        const bool structs[] = {(std::is_class<Arguments>::value && alignof(Arguments) >= alignof(void*))..., false};
        Table table{};
        uint32_t offset = 0;
        for (unsigned i = 0; i < COUNT; ++i) {
            offset = (offset + alignments[i] - 1) / alignments[i] * alignments[i];
            table.at[i] = {offset, sizes[i], pointers[i], structs[i]};
            offset += sizes[i];
        }
        return table;
    }
    static constexpr Table TABLE = parameters();

    template <size_t... I>
    static void call(void* const* arguments, std::index_sequence<I...>) {
        KERNEL_FUNCTION(*static_cast<std::remove_reference_t<Arguments>*>(arguments[I])...);
    }
    static void run(void* const* arguments) { call(arguments, std::index_sequence_for<Arguments...>{}); }
};

struct Registration {
    explicit Registration(const KernelEntry& entry) { register_kernel(entry); }
};

}  // namespace standin

#define KERNEL(name, block)                                                                                                  \
    static const standin::Registration standin_registration_##name(standin::KernelEntry{                                     \
        #name, __FILE__, block, &standin::Trampoline<&name>::run, standin::Trampoline<&name>::TABLE.at, standin::Trampoline<&name>::COUNT, 0});
