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

namespace {

// Asked of the processor itself: not every compiler's __builtin_cpu_supports knows every name, nor
// has every one's runtime library what it reads.
struct Features {
  unsigned leaf1_ecx = 0;
  unsigned leaf7_ebx = 0;
  unsigned leaf7_ecx = 0;
  unsigned leaf7_1_eax = 0;
  unsigned enabled = 0;  // XCR0: what state the system saves
};

Features ask() {
  Features f;
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0) f.leaf1_ecx = ecx;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0) {
    f.leaf7_ebx = ebx;
    f.leaf7_ecx = ecx;
    const unsigned last = eax;
    if (last >= 1 && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0) f.leaf7_1_eax = eax;
  }
  constexpr unsigned kOsxsave = 1u << 27;
  if ((f.leaf1_ecx & kOsxsave) != 0) {
    unsigned high = 0;
    asm volatile("xgetbv" : "=a"(f.enabled), "=d"(high) : "c"(0));
  }
  return f;
}

const Features& features() {
  static const Features answer = ask();
  return answer;
}

bool all(unsigned word, unsigned bits) { return (word & bits) == bits; }

}  // namespace

bool has_avx2() {
  constexpr unsigned kXmmAndYmm = 0x6;
  constexpr unsigned kFma = 1u << 12, kAvx = 1u << 28, kF16c = 1u << 29, kAvx2 = 1u << 5;
  const Features& f = features();
  return all(f.enabled, kXmmAndYmm) && all(f.leaf1_ecx, kFma | kAvx | kF16c) &&
         all(f.leaf7_ebx, kAvx2);
}

bool has_avx512() {
  constexpr unsigned kMasksAndZmm = 0xE0;
  constexpr unsigned kF = 1u << 16, kDq = 1u << 17, kBw = 1u << 30, kVl = 1u << 31;
  const Features& f = features();
  return has_avx2() && all(f.enabled, kMasksAndZmm) && all(f.leaf7_ebx, kF | kDq | kBw | kVl);
}

bool has_avx512_bf16() {
  constexpr unsigned kBf16 = 1u << 5;
  return has_avx512() && all(features().leaf7_1_eax, kBf16);
}

bool has_avx512_vnni() {
  constexpr unsigned kVbmi = 1u << 1, kVnni = 1u << 11;
  return has_avx512() && all(features().leaf7_ecx, kVbmi | kVnni);
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

#if defined(__ARM_FEATURE_MATMUL_INT8)
bool has_arm_i8mm() { return true; }
#elif defined(__aarch64__) && defined(__linux__)
bool has_arm_i8mm() {
  constexpr unsigned long kI8mm = 1ul << 13;  // HWCAP2_I8MM, which old headers lack
  return (getauxval(AT_HWCAP2) & kI8mm) != 0;
}
#elif defined(__aarch64__) && defined(__APPLE__)
bool has_arm_i8mm() {
  int32_t value = 0;
  size_t size = sizeof(value);
  return sysctlbyname("hw.optional.arm.FEAT_I8MM", &value, &size, nullptr, 0) == 0 && value == 1;
}
#else
bool has_arm_i8mm() { return false; }
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

std::optional<int64_t> read_integer(const std::string& path) {
  std::ifstream file(path);
  int64_t value = 0;
  if (file >> value) return value;
  return std::nullopt;
}

/// Hyperthreads share a (package, core) pair and count once.
int physical_cores(const ProcessorSet& processors) {
  std::set<std::pair<int64_t, int64_t> > cores;
  for (int cpu = 0; cpu < static_cast<int>(processors.size()); ++cpu) {
    if (!processors[cpu]) continue;
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
  const ProcessorSet allowed = allowed_processors();
  int cores = allowed.none() ? static_cast<int>(std::thread::hardware_concurrency())
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

#if defined(__linux__)

ProcessorSet allowed_processors() {
  static_assert(CPU_SETSIZE == ProcessorSet().size());
  ProcessorSet allowed;
  cpu_set_t mask;
  CPU_ZERO(&mask);
  if (sched_getaffinity(0, sizeof(mask), &mask) != 0) return allowed;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) allowed[cpu] = CPU_ISSET(cpu, &mask);
  return allowed;
}

int current_processor() { return sched_getcpu(); }

void allow_processors(std::thread& thread, const ProcessorSet& processors) {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
    if (processors[cpu]) CPU_SET(cpu, &mask);
  pthread_setaffinity_np(thread.native_handle(), sizeof(mask), &mask);
}

#else

ProcessorSet allowed_processors() { return {}; }
int current_processor() { return -1; }
void allow_processors(std::thread&, const ProcessorSet&) {}

#endif

}  // namespace subbit
