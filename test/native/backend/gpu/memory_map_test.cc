// Where things lie: a wrong offset here is a kernel reading someone else's weights.
#include "backend/gpu/memory_map.h"

#include <cstring>

#include "base/reserved_memory.h"
#include "support/plain_device.h"
#include "support/test.h"

namespace subbit {
namespace {

const std::byte* host(const GpuSlice& slice) { return slice.memory->bytes().data() + slice.offset; }

std::span<const std::byte> all_of(const ReservedMemory& memory) {
  return {memory.data(), memory.size()};
}

TEST(shared_memory_is_found_where_it_lies) {
  test::PlainDevice device;
  GpuMemoryMap map(device);
  const ReservedMemory storage(3 * 16384);
  map.share(all_of(storage));
  const GpuSlice slice = map.shared(storage.data() + 20000, 100);
  EXPECT(host(slice) == storage.data() + 20000);
  EXPECT(slice.bytes == 100);
  EXPECT_ERROR(ErrorCode::kInternal, "", map.shared(storage.data() + 3 * 16384 - 50, 100));
  map.unshare(all_of(storage));
  EXPECT_ERROR(ErrorCode::kInternal, "", map.shared(storage.data(), 1));
}

TEST(a_file_that_begins_inside_a_page_is_mapped_from_the_page_on) {
  test::PlainDevice device;
  GpuMemoryMap map(device);
  const ReservedMemory storage(2 * 16384);
  map.share({storage.data() + 1000, 5000});
  const GpuSlice slice = map.constant(storage.data() + 1008, 64);
  EXPECT(host(slice) == storage.data() + 1008);
  EXPECT(slice.memory->bytes().size() == 8192);
  EXPECT(map.copied_bytes() == 0);
}

// maxBufferLength may be smaller than a model. Every piece up to half a window must lie in one.
// A constant found there would be lost with the region that its page belonged to.
TEST(a_neighbour_in_a_shared_page_is_not_shared) {
  test::PlainDevice device;
  GpuMemoryMap map(device);
  const ReservedMemory storage(16384);
  map.share({storage.data(), 100});
  const GpuSlice slice = map.constant(storage.data() + 112, 64);
  EXPECT(host(slice) != storage.data() + 112);
  EXPECT(map.copied_bytes() == 64);
}

TEST(what_no_buffer_can_hold_is_cut_into_windows_that_overlap) {
  constexpr int64_t kWindow = 4 * 4096;
  test::PlainDevice device(kWindow);
  GpuMemoryMap map(device);
  const ReservedMemory storage(20 * 4096);
  map.share({storage.data(), 20 * 4096});
  EXPECT(device.maps == 9);
  for (int64_t at = 0; at + kWindow / 2 <= 20 * 4096; at += 1000) {
    const GpuSlice slice = map.shared(storage.data() + at, kWindow / 2);
    EXPECT(host(slice) == storage.data() + at);
    EXPECT(slice.offset + slice.bytes <= slice.memory->bytes().size());
  }
}

TEST(constants_outside_shared_memory_are_copied_once_and_aligned) {
  test::PlainDevice device;
  GpuMemoryMap map(device);
  const std::vector<float> norm = {1, 2, 3};
  const std::vector<float> other = {4, 5};
  const GpuSlice first = map.constant(std::span(norm));
  const GpuSlice second = map.constant(std::span(other));
  EXPECT(first.offset % 16 == 0 && second.offset % 16 == 0 && first.offset != second.offset);
  EXPECT(std::memcmp(host(first), norm.data(), 12) == 0);
  EXPECT(std::memcmp(host(second), other.data(), 8) == 0);
  EXPECT(map.constant(std::span(norm)).offset == first.offset);
  EXPECT(device.allocations == 1);
  EXPECT(map.copied_bytes() == 32);
}

TEST(a_weight_that_lies_askew_is_copied) {
  test::PlainDevice device;
  GpuMemoryMap map(device);
  const ReservedMemory storage(16384);
  map.share(all_of(storage));
  const GpuSlice slice = map.constant(storage.data() + 8, 64);
  EXPECT(slice.offset % 16 == 0);
  EXPECT(map.copied_bytes() == 64);
}

}  // namespace
}  // namespace subbit
