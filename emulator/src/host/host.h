// host.h: the names of kernels/include/device.cuh for g++. A kernel file includes this through device.cuh and needs nothing else.
#pragma once
#include "host/types.h"
#include "host/numbers.h"
#include "host/threads.h"
#include "host/memory.h"
#include "host/matrix.h"
#include "host/kernel.h"
#include "host/dependent.h"
