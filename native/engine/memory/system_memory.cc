// /proc and control groups on Linux, sysctl and task_info on macOS.
#include "memory/system_memory.h"

#include <algorithm>
#include <fstream>
#include <sstream>
#include <string_view>
#include <unistd.h>

#if defined(__APPLE__)
#include <mach/mach.h>
#include <sys/sysctl.h>
#endif
#include <sys/resource.h>

namespace subbit {
namespace {

// A version 1 group without a limit reports the largest multiple of a page below 2^63.
constexpr uint64_t kNoLimit = uint64_t{1} << 60;

std::string read_text(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::optional<uint64_t> read_number(const std::string& path) {
  std::ifstream file(path);
  uint64_t value = 0;
  if (file >> value) return value;  // "max" fails to parse, and is no limit
  return std::nullopt;
}

/// `name 1234` of a memory.stat.
uint64_t stat_field(const std::string& text, const std::string& name) {
  std::istringstream lines(text);
  std::string key;
  uint64_t value = 0;
  while (lines >> key >> value) {
    if (key == name) return value;
  }
  return 0;
}

GroupMemory read_group(const std::string& folder, bool unified) {
  GroupMemory group;
  const auto limit = read_number(folder + (unified ? "/memory.max" : "/memory.limit_in_bytes"));
  if (!limit || *limit >= kNoLimit) return group;
  group.limit = *limit;
  group.usage =
      read_number(folder + (unified ? "/memory.current" : "/memory.usage_in_bytes")).value_or(0);
  const std::string stat = read_text(folder + "/memory.stat");
  const std::string prefix = unified ? "" : "total_";
  group.reclaimable =
      stat_field(stat, prefix + "inactive_file") + stat_field(stat, prefix + "active_file");
  return group;
}

uint64_t left_in(const GroupMemory& group) {
  const uint64_t held = group.usage - std::min(group.usage, group.reclaimable);
  return group.limit - std::min(group.limit, held);
}

#if defined(__APPLE__)

uint64_t sysctl_number(const char* name) {
  uint64_t value = 0;
  size_t size = sizeof(value);
  if (sysctlbyname(name, &value, &size, nullptr, 0) != 0) return 0;
  if (size == sizeof(uint32_t)) return static_cast<uint32_t>(value);
  return value;
}

#endif

}  // namespace

std::optional<uint64_t> proc_field(const std::string& text, const std::string& name) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with(name + ":")) continue;
    std::istringstream rest(line.substr(name.size() + 1));
    uint64_t kilobytes = 0;
    if (rest >> kilobytes) return kilobytes * 1024;
  }
  return std::nullopt;
}

GroupMemory group_memory(const std::string& self, const std::string& root) {
  GroupMemory tightest;
  std::istringstream groups(self);
  for (std::string line; std::getline(groups, line);) {
    const auto first = line.find(':');
    const auto second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const bool unified = controllers == ",,";
    if (!unified && controllers.find(",memory,") == std::string::npos) continue;
    const std::string base = unified ? root : root + "/memory";
    std::string path = line.substr(second + 1);
    if (path == "/") path.clear();
    while (true) {
      const GroupMemory group = read_group(base + path, unified);
      const bool binds = tightest.limit == 0 || left_in(group) < left_in(tightest);
      if (group.limit != 0 && binds) tightest = group;
      const auto slash = path.rfind('/');
      if (slash == std::string::npos) break;
      path.resize(slash);
    }
  }
  return tightest;
}

MemoryLimit memory_limit(uint64_t budget, const SystemMemory& system,
                         const ProcessMemory& process) {
  if (budget != 0) return {budget, "budget"};
  MemoryLimit limit{system.physical, "physical"};
  const auto consider = [&](uint64_t bytes, const char* source) {
    if (bytes != 0 && (limit.bytes == 0 || bytes < limit.bytes)) limit = {bytes, source};
  };
  if (system.available != 0) consider(system.available + process.resident, "available");
  if (system.group_limit != 0) consider(system.group_left + process.anonymous, "cgroup");
  consider(system.working_set_limit, "recommendedMaxWorkingSetSize");
  return limit;
}

#if defined(__APPLE__)

SystemMemory system_memory() {
  SystemMemory out;
  out.physical = sysctl_number("hw.memsize");
  vm_statistics64_data_t pages = {};
  mach_msg_type_number_t count = HOST_VM_INFO64_COUNT;
  const auto info = reinterpret_cast<host_info64_t>(&pages);
  if (host_statistics64(mach_host_self(), HOST_VM_INFO64, info, &count) == KERN_SUCCESS) {
    // Clean file pages and purgeable ones go when somebody asks; compressed ones do not.
    out.available = (uint64_t{pages.free_count} + pages.inactive_count + pages.purgeable_count) *
                    static_cast<uint64_t>(getpagesize());
  }
  xsw_usage swap = {};
  size_t size = sizeof(swap);
  if (sysctlbyname("vm.swapusage", &swap, &size, nullptr, 0) == 0) out.swap_used = swap.xsu_used;
  out.wired_limit = sysctl_number("iogpu.wired_limit_mb") << 20;
  switch (sysctl_number("kern.memorystatus_vm_pressure_level")) {
    case 2:
      out.pressure = "warning";
      break;
    case 4:
      out.pressure = "critical";
      break;
    default:
      out.pressure = "normal";
  }
  return out;
}

ProcessMemory process_memory() {
  ProcessMemory out;
  task_vm_info_data_t info = {};
  mach_msg_type_number_t count = TASK_VM_INFO_COUNT;
  const auto data = reinterpret_cast<task_info_t>(&info);
  if (task_info(mach_task_self(), TASK_VM_INFO, data, &count) == KERN_SUCCESS) {
    out.resident = info.resident_size;
    out.anonymous = info.internal + info.compressed;
    out.file = info.external;
    out.footprint = info.phys_footprint;
    out.peak = info.resident_size_peak;
  }
  return out;
}

#else

SystemMemory system_memory() {
  SystemMemory out;
  const std::string info = read_text("/proc/meminfo");
  out.physical = proc_field(info, "MemTotal").value_or(0);
  out.available = proc_field(info, "MemAvailable").value_or(0);
  const uint64_t swap = proc_field(info, "SwapTotal").value_or(0);
  out.swap_used = swap - std::min(swap, proc_field(info, "SwapFree").value_or(0));
  const GroupMemory group = group_memory(read_text("/proc/self/cgroup"), "/sys/fs/cgroup");
  out.group_limit = group.limit;
  out.group_left = group.limit == 0 ? 0 : left_in(group);
  // The kernel's own pressure file speaks of time lost; a share of memory left says enough here.
  if (out.physical != 0 && out.available != 0) {
    const bool low = out.available < out.physical / 10;
    out.pressure = out.available < out.physical / 33 ? "critical" : low ? "warning" : "normal";
  }
  return out;
}

ProcessMemory process_memory() {
  ProcessMemory out;
  const std::string status = read_text("/proc/self/status");
  out.resident = proc_field(status, "VmRSS").value_or(0);
  out.peak = proc_field(status, "VmHWM").value_or(0);
  out.anonymous = proc_field(status, "RssAnon").value_or(0);
  out.file = proc_field(status, "RssFile").value_or(0) + proc_field(status, "RssShmem").value_or(0);
  out.footprint = out.anonymous;
  return out;
}

#endif

}  // namespace subbit
