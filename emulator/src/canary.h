// canary.h: bytes beside an array that nobody may write, for what no page can guard.
#pragma once
#include <cstddef>

namespace standin {

// Each two bytes are a NaN in bf16, each four one in f32, so that reading them shows, too; no kernel writes them by chance.
void fill_canary(void* from, void* to);
bool canary_is_whole(const void* from, const void* to);

}  // namespace standin
