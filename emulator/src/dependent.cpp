// dependent.cpp: what kernels call, and the memory that they must not touch before they have waited.
#include "dependent.h"

#include "counts.h"
#include "host/dependent.h"
#include "memory.h"

namespace standin {

namespace {

bool has_let_next = false;

}  // namespace

UntouchableMemory::UntouchableMemory() { device_memory().protect(false); }
UntouchableMemory::~UntouchableMemory() { device_memory().protect(true); }

void note_end_of_grid(bool lets_next) { has_let_next = lets_next; }

void count_dependent() {
    ++counts().dependent;
    if (has_let_next) ++counts().early;
}

void wait_for_previous() { runner->wait_for_previous(); }
void let_next_begin() { runner->lets_next = true; }

}  // namespace standin
