// What the operating system says this process has used.
#pragma once

#include <cstdint>

namespace subbit {

/// Processor time of all threads so far, seconds.
double process_cpu_seconds();

/// The most memory that was ever resident at once, mapped files included.
uint64_t peak_resident_bytes();

}  // namespace subbit
