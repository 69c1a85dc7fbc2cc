// Shadow memory for races, a byte at a time, and the functions that instrumented code calls.
#include "support/metal_on_cpu/access_tracer.h"

#include "support/metal_on_cpu/threadgroup.h"

namespace subbit::metal_on_cpu {
namespace {

/// Nothing orders b after a.
bool unordered(const Accessor& a, const Accessor& b) {
  if (a.threadgroup != b.threadgroup) return true;
  if (a.thread == b.thread || a.interval != b.interval) return false;
  const bool same_simdgroup = a.thread / kLanes == b.thread / kLanes;
  return !same_simdgroup || a.simdgroup_interval == b.simdgroup_interval;
}

}  // namespace

bool accesses_are_traced() {
#if defined(SUBBIT_TRACE_ACCESSES)
  return true;
#else
  return false;
#endif
}

AccessTracer*& AccessTracer::current() {
  thread_local AccessTracer* tracer = nullptr;
  return tracer;
}

AccessTracer::AccessTracer(std::vector<TracedRegion> regions) {
  for (TracedRegion& region : regions) {
    Traffic traffic{region.name, 0, 0};
    std::vector<Byte> bytes(region.bytes);
    shadows_.push_back({std::move(region), std::move(bytes), std::move(traffic)});
  }
}

void AccessTracer::start_threadgroup() {
  for (Shadow& shadow : shadows_) {
    if (shadow.region.memory == Memory::kDevice) continue;
    shadow.bytes.assign(shadow.region.bytes, Byte());
  }
}

void AccessTracer::report(const Shadow& shadow, size_t at, const Accessor& a, const Accessor& b) {
  if (!race_.empty()) return;
  const auto who = [](const Accessor& x) {
    return "thread " + std::to_string(x.thread) + " of threadgroup " +
           std::to_string(x.threadgroup);
  };
  race_ =
      who(a) + " and " + who(b) + " race on " + shadow.region.name + ", byte " + std::to_string(at);
}

void AccessTracer::access_byte(Shadow& shadow, size_t at, const Accessor& who, bool store) {
  Byte& byte = shadow.bytes[at];
  if (byte.written && unordered(byte.writer, who)) report(shadow, at, byte.writer, who);
  if (store) {
    if (byte.read && (unordered(byte.reader, who) ||
                      (byte.many_readers && byte.reader.interval == who.interval))) {
      report(shadow, at, byte.reader, who);
    }
    byte.written = true;
    byte.writer = who;
    return;
  }
  const bool other =
      byte.read && byte.reader.interval == who.interval && byte.reader.thread != who.thread;
  // A reader of another threadgroup stays remembered: no barrier ever orders it.
  if (byte.read && byte.reader.threadgroup != who.threadgroup) {
    byte.many_readers = true;
    return;
  }
  byte.many_readers = other || (byte.many_readers && byte.reader.interval == who.interval);
  byte.read = true;
  byte.reader = who;
}

void AccessTracer::access(const void* address, size_t bytes, bool store) {
  const Threadgroup* group = Threadgroup::current();
  if (group == nullptr) return;
  const auto* first = static_cast<const std::byte*>(address);
  for (Shadow& shadow : shadows_) {
    if (first < shadow.region.data || first >= shadow.region.data + shadow.region.bytes) continue;
    const auto at = static_cast<size_t>(first - shadow.region.data);
    if (at + bytes > shadow.region.bytes) race_ = "an access past the end of " + shadow.region.name;
    const Accessor who = group->accessor(shadow.region.memory);
    for (size_t i = at; i < at + bytes && i < shadow.bytes.size(); ++i) {
      access_byte(shadow, i, who, store);
    }
    (store ? shadow.traffic.bytes_stored : shadow.traffic.bytes_loaded) += bytes;
    return;
  }
}

std::vector<Traffic> AccessTracer::traffic() const {
  std::vector<Traffic> all;
  for (const Shadow& shadow : shadows_) all.push_back(shadow.traffic);
  return all;
}

}  // namespace subbit::metal_on_cpu

#if defined(SUBBIT_TRACE_ACCESSES)

namespace {

template <size_t kBytes>
void report_access(const void* address, bool store) {
  using subbit::metal_on_cpu::AccessTracer;
  if (AccessTracer* const tracer = AccessTracer::current()) tracer->access(address, kBytes, store);
}

}  // namespace

extern "C" {
void __sanitizer_cov_load1(uint8_t* p) { report_access<1>(p, false); }
void __sanitizer_cov_load2(uint16_t* p) { report_access<2>(p, false); }
void __sanitizer_cov_load4(uint32_t* p) { report_access<4>(p, false); }
void __sanitizer_cov_load8(uint64_t* p) { report_access<8>(p, false); }
void __sanitizer_cov_load16(__uint128_t* p) { report_access<16>(p, false); }
void __sanitizer_cov_store1(uint8_t* p) { report_access<1>(p, true); }
void __sanitizer_cov_store2(uint16_t* p) { report_access<2>(p, true); }
void __sanitizer_cov_store4(uint32_t* p) { report_access<4>(p, true); }
void __sanitizer_cov_store8(uint64_t* p) { report_access<8>(p, true); }
void __sanitizer_cov_store16(__uint128_t* p) { report_access<16>(p, true); }
}

#endif
