// What the operating system says this process has used, and what it may have back.
#pragma once

#include <cstdint>

namespace subbit {

/// Processor time of all threads so far, seconds.
double process_cpu_seconds();

/// The most memory that was ever resident at once, mapped files included.
uint64_t peak_resident_bytes();

/// Gives pages of the heap that nobody holds back to the system, where the C library can: what is
/// freed stays with the process otherwise, in an arena of each thread that ever allocated.
void release_free_heap();

}  // namespace subbit
