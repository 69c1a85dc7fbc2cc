// Loops worth wider vectors than every processor of an architecture has. One text, compiled twice:
// for the baseline and, on x86, for AVX2. Builds never contract products and sums, so both give the
// same bits.
#pragma once

#include <cstdint>

#include "base/processor.h"
#include "base/thread_pool.h"

namespace subbit {

/// task(), with AVX2 where there is one. `task` and what it calls must be inline: what is not keeps
/// the baseline's instructions.
template <typename Task>
void run_wide(const Task& task) {
#if defined(__x86_64__)
  if (has_avx2()) {
    const auto wide = [&task]() __attribute__((target("avx2"), flatten)) { task(); };
    return wide();
  }
#endif
  task();
}

/// pool.parallel_for(), each piece as in run_wide().
template <typename Task>
void wide_parallel_for(ThreadPool& pool, int64_t count, int64_t grain, const Task& task) {
#if defined(__x86_64__)
  if (has_avx2()) {
    const auto wide = [&task](Range range)
                          __attribute__((target("avx2"), flatten)) { task(range); };
    return pool.parallel_for(count, grain, wide);
  }
#endif
  pool.parallel_for(count, grain, task);
}

}  // namespace subbit
