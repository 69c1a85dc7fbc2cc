// CPUID for features; sysctl (Macs) or the affinity mask, sysfs and cgroups (Linux) for cores.
#include "base/processor.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif
#if defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(__linux__)
#include <sched.h>
#endif

namespace subbit {

#if defined(__x86_64__)

// F16C is asked through CPUID because clang 14's __builtin_cpu_supports does not know the name.
bool has_avx2() {
  static const bool answer = [] {
    __builtin_cpu_init();
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    const bool f16c = __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
    return f16c && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  }();
  return answer;
}

bool has_avx512() {
  static const bool answer = [] {
    __builtin_cpu_init();
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  }();
  return answer;
}

// Asked through CPUID because not every compiler's __builtin_cpu_supports knows the name.
bool has_avx512_bf16() {
  static const bool answer = [] {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    constexpr unsigned kBf16 = 1u << 5;
    return has_avx512() && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 &&
           (eax & kBf16) != 0;
  }();
  return answer;
}

bool has_avx512_vnni() {
  static const bool answer = [] {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    constexpr unsigned kVbmi = 1u << 1, kVnni = 1u << 11;
    return has_avx512() && __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 &&
           (ecx & kVbmi) != 0 && (ecx & kVnni) != 0;
  }();
  return answer;
}

#else

bool has_avx2() { return false; }
bool has_avx512() { return false; }
bool has_avx512_bf16() { return false; }
bool has_avx512_vnni() { return false; }

#endif

#if defined(__ARM_FEATURE_DOTPROD)
bool has_arm_dot() { return true; }
#elif defined(__aarch64__) && defined(__linux__)
bool has_arm_dot() {
  constexpr unsigned long kAsimdDp = 1ul << 20;  // HWCAP_ASIMDDP, which old headers lack
  return (getauxval(AT_HWCAP) & kAsimdDp) != 0;
}
#else
bool has_arm_dot() { return false; }
#endif

namespace {

#if defined(__APPLE__)

int count_cores() {
  // perflevel0 is the fastest kind; efficiency cores would hold up every barrier. Intel Macs have
  // no levels.
  for (const char* name : {"hw.perflevel0.physicalcpu", "hw.physicalcpu"}) {
    int32_t value = 0;
    size_t size = sizeof(value);
    if (sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value > 0) return value;
  }
  return 1;
}

#elif defined(__linux__)

/// The processors the scheduler may give us; empty if the kernel will not say.
std::set<int> allowed_processors() {
  std::set<int> allowed;
  cpu_set_t mask;
  CPU_ZERO(&mask);
  if (sched_getaffinity(0, sizeof(mask), &mask) != 0) return allowed;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
    if (CPU_ISSET(cpu, &mask)) allowed.insert(cpu);
  return allowed;
}

std::optional<int64_t> read_integer(const std::string& path) {
  std::ifstream file(path);
  int64_t value = 0;
  if (file >> value) return value;
  return std::nullopt;
}

/// Hyperthreads share a (package, core) pair and count once.
int physical_cores(const std::set<int>& processors) {
  std::set<std::pair<int64_t, int64_t> > cores;
  for (const int cpu : processors) {
    const std::string topology = "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/";
    const auto core = read_integer(topology + "core_id");
    const auto package = read_integer(topology + "physical_package_id");
    // Without topology every processor counts as a core of its own.
    cores.insert({package.value_or(-1), core.value_or(-1 - int64_t{cpu})});
  }
  return static_cast<int>(cores.size());
}

/// The tightest CPU quota on the way from our cgroup to the root, in processors; none if unlimited.
/// Both versions of the interface: "cpu.max" holds "quota period", v1 splits them in two files.
std::optional<double> cgroup_processors() {
  std::optional<double> tightest;
  const auto consider = [&](double quota, double period) {
    if (!(quota > 0) || !(period > 0)) return;
    tightest = std::min(tightest.value_or(quota / period), quota / period);
  };
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const auto first = line.find(':');
    const auto second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const bool unified = controllers == ",,";
    if (!unified && controllers.find(",cpu,") == std::string::npos) continue;
    const std::string root = unified ? "/sys/fs/cgroup" : "/sys/fs/cgroup/cpu";
    std::string group = line.substr(second + 1);
    while (true) {
      if (unified) {
        std::ifstream file(root + group + "/cpu.max");
        double quota = 0, period = 0;  // an unlimited quota reads "max" and fails to parse
        if (file >> quota >> period) consider(quota, period);
      } else {
        const auto quota = read_integer(root + group + "/cpu.cfs_quota_us");
        const auto period = read_integer(root + group + "/cpu.cfs_period_us");
        if (quota && period) consider(static_cast<double>(*quota), static_cast<double>(*period));
      }
      const auto slash = group.rfind('/');
      if (slash == std::string::npos) break;
      group.resize(slash);
    }
  }
  return tightest;
}

int count_cores() {
  const std::set<int> allowed = allowed_processors();
  int cores = allowed.empty() ? static_cast<int>(std::thread::hardware_concurrency())
                              : physical_cores(allowed);
  if (const auto quota = cgroup_processors())
    cores = std::min(cores, static_cast<int>(std::ceil(std::min(*quota, 1e6))));
  return cores;
}

#else

int count_cores() { return static_cast<int>(std::thread::hardware_concurrency()); }

#endif

}  // namespace

int performance_cores() {
  static const int answer = [] {
    int cores = count_cores();
    const auto concurrency = static_cast<int>(std::thread::hardware_concurrency());
    if (concurrency > 0) cores = std::min(cores, concurrency);
    return std::max(cores, 1);
  }();
  return answer;
}

}  // namespace subbit
