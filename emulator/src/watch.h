// watch.h: global memory within one launch, where nothing orders the blocks.
#pragma once
#include "host/accesses.h"

namespace standin {

// A launch begins: what earlier ones did is ordered.
void watch_launch();

}  // namespace standin
