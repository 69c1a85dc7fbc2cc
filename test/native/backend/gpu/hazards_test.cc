// A missing barrier is a race that shows up on some Macs on some days.
#include "backend/gpu/hazards.h"

#include "support/plain_device.h"
#include "support/test.h"

namespace subbit {
namespace {

class Hazards {
 public:
  bool next(std::initializer_list<GpuUse> uses) {
    return hazards_.next({uses.begin(), uses.size()});
  }
  GpuUse read(uint64_t offset, uint64_t bytes) const {
    return {{memory_.get(), offset, bytes}, GpuAccess::kRead};
  }
  GpuUse write(uint64_t offset, uint64_t bytes) const {
    return {{memory_.get(), offset, bytes}, GpuAccess::kWrite};
  }

 private:
  test::PlainDevice device_;
  std::unique_ptr<GpuMemory> memory_ = device_.allocate(4096);
  GpuHazards hazards_;
};

TEST(a_read_after_a_write_waits_and_so_does_a_write_after_a_read) {
  Hazards h;
  EXPECT(!h.next({h.read(0, 64), h.write(64, 64)}));
  EXPECT(h.next({h.read(64, 4)}));
  EXPECT(h.next({h.write(64, 4)}));
  EXPECT(h.next({h.write(66, 1)}));
}

TEST(reads_of_one_place_and_writes_of_neighbours_do_not_wait) {
  Hazards h;
  EXPECT(!h.next({h.read(0, 64), h.write(64, 64)}));
  EXPECT(!h.next({h.read(0, 64), h.write(128, 64)}));
  EXPECT(!h.next({h.write(192, 64)}));
}

TEST(a_barrier_settles_what_came_before_it_and_nothing_after) {
  Hazards h;
  EXPECT(!h.next({h.write(0, 64)}));
  EXPECT(h.next({h.read(0, 64), h.write(64, 64)}));
  EXPECT(!h.next({h.read(0, 64)}));
  EXPECT(h.next({h.read(100, 1)}));
}

TEST(two_windows_over_one_file_are_the_same_memory) {
  test::PlainDevice device;
  std::vector<std::byte> bytes(4096);
  const auto whole = device.map(bytes);
  const auto half = device.map(std::span(bytes).subspan(2048));
  GpuHazards hazards;
  const GpuUse write[] = {{{whole.get(), 2048, 16}, GpuAccess::kWrite}};
  const GpuUse read[] = {{{half.get(), 0, 16}, GpuAccess::kRead}};
  EXPECT(!hazards.next(write));
  EXPECT(hazards.next(read));
}

}  // namespace
}  // namespace subbit
