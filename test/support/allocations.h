// The test program's operator new: counts blocks, and fails one when asked. What a machine without
// memory would do, at a place of the test's choosing.
#pragma once

#include <cstdint>

namespace subbit::test {

/// The `nth` allocation from now on, on any thread, throws std::bad_alloc; so do address space and
/// mappings. 0: none does.
void fail_allocation(int64_t nth);
/// Whether that allocation has come and failed.
bool allocation_failed();
/// Blocks of operator new that are out.
int64_t live_blocks();

}  // namespace subbit::test
