// What memory the machine has, what it lets this process have, and what the process holds. Asked of
// the system at every call, never assumed. Parsing is separate from asking, so that tests can show
// it machines that are not there.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "engine.h"

namespace subbit {

/// Bytes of a `name:   1234 kB` line of /proc/meminfo or /proc/self/status.
std::optional<uint64_t> proc_field(const std::string& text, const std::string& name);

/// A control group's limit and how full it is.
struct GroupMemory {
  uint64_t limit = 0;  // 0: none
  uint64_t usage = 0;
  uint64_t reclaimable = 0;  // of usage: page cache the kernel gives up before it refuses memory
};

/// The group that binds, of those on the way from ours to the root: the one with the least left.
/// `self` is the text of /proc/self/cgroup, `root` where control groups are mounted; version 1 and
/// 2 interfaces.
GroupMemory group_memory(const std::string& self, const std::string& root);

/// How many bytes this process may hold in all, and who says so. A budget of 0 is none.
MemoryLimit memory_limit(uint64_t budget, const SystemMemory& system, const ProcessMemory& process);

}  // namespace subbit
