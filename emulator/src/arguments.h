// arguments.h: pointers among the arguments of a launch.
#pragma once
#include "block.h"

namespace standin {

Problem check_arguments(const Launch& launch);

}  // namespace standin
