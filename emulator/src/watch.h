// watch.h: global memory within one launch, where nothing orders the blocks.
#pragma once
#include "host/accesses.h"

namespace standin {

// A launch begins: what earlier ones did is ordered; of one that may begin early, what the one before has written is remembered.
void watch_launch(bool is_dependent);

}  // namespace standin
