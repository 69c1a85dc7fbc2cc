// The scheduler. A simdgroup's lanes run until each waits at a simd operation, at a barrier or is
// done; then they must all wait at the same place, or the kernel has diverged.
#include "support/metal_on_cpu/threadgroup.h"

#include <algorithm>
#include <cstring>
#include <numeric>

namespace subbit::metal_on_cpu {
namespace {

thread_local Threadgroup* current_threadgroup = nullptr;

struct MakeCurrent {
  explicit MakeCurrent(Threadgroup* threadgroup) : before(current_threadgroup) {
    current_threadgroup = threadgroup;
  }
  ~MakeCurrent() { current_threadgroup = before; }
  Threadgroup* before;
};

}  // namespace

uint32_t atomic_or(uint32_t* word, uint32_t bits) {
  const uint32_t before = *word;
  *word |= bits;
  return before;
}

Threadgroup* Threadgroup::current() { return current_threadgroup; }

Threadgroup::Threadgroup(const Kernel& kernel, uint32_t threads, ThreadOrder order, uint64_t seed)
    : kernel_(kernel), order_(order), random_(seed), simdgroups_(threads / kLanes) {
  for (uint32_t i = 0; i < threads; ++i) {
    threads_.push_back(std::make_unique<Thread>());
    threads_.back()->owner = this;
  }
  for (uint32_t i = 0; i < simdgroups_.size(); ++i) simdgroups_[i].first = i * kLanes;
}

void Threadgroup::enter(void* thread) {
  auto* self = static_cast<Thread*>(thread);
  self->owner->kernel_.invoke(self->values);
  self->state = State::kDone;
}

void Threadgroup::run(uint32_t number, const std::vector<void* const*>& values) {
  const MakeCurrent scope(this);
  number_ = number;
  for (size_t i = 0; i < threads_.size(); ++i) {
    Thread& thread = *threads_[i];
    thread.values = values[i];
    thread.state = State::kReady;
    thread.exchanges = 0;
    thread.simdgroup_barriers = 0;
    thread.fiber.start(enter, &thread);
  }
  device_interval_ = 0;
  threadgroup_interval_ = 0;
  for (Simdgroup& group : simdgroups_) group.barriers = 0;
  events_.threads += threads_.size();
  std::vector<size_t> turns(simdgroups_.size());
  std::iota(turns.begin(), turns.end(), size_t{0});
  if (order_ == ThreadOrder::kReversed) std::reverse(turns.begin(), turns.end());
  for (;;) {
    bool progress = false;
    if (order_ == ThreadOrder::kRandom) std::shuffle(turns.begin(), turns.end(), random_);
    for (const size_t turn : turns) {
      Simdgroup& group = simdgroups_[turn];
      // In order, a simdgroup runs as far as it can; at random, the next one may overtake it.
      while (runnable(group)) {
        run_lanes(group);
        settle(group);
        progress = true;
        if (order_ == ThreadOrder::kRandom) break;
      }
    }
    if (!progress && !release_barrier()) return;
  }
}

bool Threadgroup::runnable(const Simdgroup& group) const {
  return threads_[group.first]->state == State::kReady;
}

void Threadgroup::run_lanes(Simdgroup& group) {
  uint32_t lanes[kLanes];
  std::iota(lanes, lanes + kLanes, 0u);
  if (order_ == ThreadOrder::kReversed) std::reverse(lanes, lanes + kLanes);
  if (order_ == ThreadOrder::kRandom) std::shuffle(lanes, lanes + kLanes, random_);
  for (const uint32_t lane : lanes) {
    running_ = group.first + lane;
    threads_[running_]->fiber.resume();
  }
}

void Threadgroup::settle(Simdgroup& group) {
  const Thread& first = *threads_[group.first];
  for (uint32_t lane = 1; lane < kLanes; ++lane) {
    const Thread& other = *threads_[group.first + lane];
    const bool together =
        other.state == first.state && (first.state == State::kDone || other.site == first.site);
    if (!together) diverged(group.first, kLanes);
  }
  if (first.state != State::kSimd) return;
  ++events_.simd_operations;
  for (uint32_t lane = 0; lane < kLanes; ++lane) {
    threads_[group.first + lane]->state = State::kReady;
  }
}

/// False when every thread is done.
bool Threadgroup::release_barrier() {
  const Thread& first = *threads_[0];
  for (const auto& thread : threads_) {
    const bool together =
        thread->state == first.state && (first.state == State::kDone || thread->site == first.site);
    if (!together) diverged(0, static_cast<uint32_t>(threads_.size()));
  }
  if (first.state == State::kDone) return false;
  for (const auto& thread : threads_) thread->state = State::kReady;
  if (first.orders.device) ++device_interval_;
  if (first.orders.threadgroup) ++threadgroup_interval_;
  ++events_.barriers;
  return true;
}

std::string Threadgroup::where(uint32_t thread) const {
  const Thread& t = *threads_[thread];
  std::string text = "thread " + std::to_string(thread);
  if (t.state == State::kDone) return text + " has returned";
  const std::string file = t.site.file;
  return text + " waits at " + t.site.operation + " (" + file.substr(file.rfind('/') + 1) + ":" +
         std::to_string(t.site.line) + ")";
}

void Threadgroup::diverged(uint32_t first, uint32_t count) const {
  for (uint32_t i = first + 1; i < first + count; ++i) {
    const Thread& a = *threads_[first];
    const Thread& b = *threads_[i];
    if (a.state == b.state && (a.state == State::kDone || a.site == b.site)) continue;
    throw MetalError(kernel_.name + ": threads diverge: " + where(first) + ", " + where(i));
  }
  throw MetalError(kernel_.name + ": threads diverge");
}

void Threadgroup::wait(State state, const Site& site) {
  Thread& self = *threads_[running_];
  self.state = state;
  self.site = site;
  self.fiber.yield();
}

const std::byte* Threadgroup::exchange(const void* value, size_t bytes, const Site& site) {
  Thread& self = *threads_[running_];
  Simdgroup& group = simdgroups_[running_ / kLanes];
  auto& slots = group.slots[self.exchanges++ % 2];
  std::memcpy(slots[running_ % kLanes], value, bytes);
  wait(State::kSimd, site);
  return &slots[0][0];
}

void Threadgroup::simdgroup_barrier(const Site& site) {
  wait(State::kSimd, site);
  // All lanes are past it now; the first to run again says so.
  Simdgroup& group = simdgroups_[running_ / kLanes];
  Thread& self = *threads_[running_];
  group.barriers = std::max(group.barriers, ++self.simdgroup_barriers);
}

void Threadgroup::barrier(Orders orders, const Site& site) {
  threads_[running_]->orders = orders;
  wait(State::kBarrier, site);
}

Accessor Threadgroup::accessor(Memory memory) const {
  const bool device = memory == Memory::kDevice;
  return {number_, running_, device ? device_interval_ : threadgroup_interval_,
          simdgroups_[running_ / kLanes].barriers};
}

}  // namespace subbit::metal_on_cpu
